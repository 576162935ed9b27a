//! The data directory: its lock, and the file that says whose it is and how often it was started.
//!
//! ```text
//! LOCK       held by flock while a process runs on the directory; its text is that process's id
//! identity   [version byte][prost IdentityMessage], replaced as a whole
//! log/       the Raft log
//! store/     the SQLite database
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use dqlited_store::MemberId;
use prost::Message;

const VERSION: u8 = 1;
const LOCK_FILE: &str = "LOCK";
const IDENTITY_FILE: &str = "identity";
const IDENTITY_FILE_NEW: &str = "identity.new";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The path exists and is something else.
    #[error("data directory {0}: not a directory")]
    NotADirectory(PathBuf),
    /// It cannot be written to.
    #[error("data directory {0}: not writable, a member must write there")]
    ReadOnly(PathBuf),
    /// Another process runs on it.
    #[error("data directory {path}: in use by {}", owner(*.pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who says that it runs there.
        pid: Option<u32>,
    },
    /// A newer version wrote it.
    #[error(
        "data directory {path}: written in format {found} by a newer version, this one reads up to {VERSION}"
    )]
    NewerVersion {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u8,
    },
    /// It belongs to another cluster.
    #[error(
        "data directory {path}: belongs to a cluster with token {found:?}, this start names {expected:?}; use another \
         directory or the token it was made with"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Token it was made with.
        found: String,
        /// Token of this start.
        expected: String,
    },
    /// What stands there is not what this program wrote.
    #[error("data directory {path}: {detail}")]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The file system says so.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was done.
        action: &'static str,
        /// Its error.
        source: io::Error,
    },
}

fn owner(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_string(),
    }
}

/// Whose directory it is.
#[derive(Clone, PartialEq, ::prost::Message)]
struct IdentityMessage {
    /// Random number made with the directory: tells a wiped member from its old self.
    #[prost(string, tag = "1")]
    incarnation: String,
    #[prost(uint64, tag = "2")]
    cluster_id: u64,
    #[prost(uint64, tag = "3")]
    member_id: u64,
    /// Counts starts, from 1; raised and synced before a start proposes anything.
    #[prost(uint64, tag = "4")]
    boot: u64,
    #[prost(string, tag = "5")]
    cluster_token: String,
}

/// Who a fresh directory is made for.
#[derive(Clone, Debug)]
pub(crate) struct Founding {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The member's id.
    pub member_id: MemberId,
    /// `--initial-cluster-token`.
    pub cluster_token: String,
    /// Random.
    pub incarnation: String,
}

/// A locked data directory of this member. The lock ends with the value.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    identity: IdentityMessage,
    _lock: File,
}

impl DataDir {
    /// Locks the directory, creates it when missing, and raises its boot number. Ids that it was made with stay: flags
    /// of a later start do not change them, only the token must be the same.
    pub(crate) fn open(path: &Path, founding: Founding) -> Result<DataDir, DataDirError> {
        create_directory(path, path)?;
        let lock = take_lock(path)?;
        let found = read_identity(path)?;
        let mut identity = match found {
            Some(identity) if identity.cluster_token != founding.cluster_token => {
                return Err(DataDirError::OtherCluster {
                    path: path.to_owned(),
                    found: identity.cluster_token,
                    expected: founding.cluster_token,
                });
            }
            Some(identity) => identity,
            None => {
                for folder in ["log", "store"] {
                    refuse_leftovers(path, folder)?;
                }
                IdentityMessage {
                    incarnation: founding.incarnation,
                    cluster_id: founding.cluster_id,
                    member_id: founding.member_id.0,
                    boot: 0,
                    cluster_token: founding.cluster_token,
                }
            }
        };
        for folder in ["log", "store"] {
            create_directory(&path.join(folder), path)?;
        }
        identity.boot += 1;
        write_identity(path, &identity)?;
        Ok(DataDir { path: path.to_owned(), identity, _lock: lock })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The member's id.
    pub(crate) fn member_id(&self) -> MemberId {
        MemberId(self.identity.member_id)
    }

    /// The cluster's id.
    pub(crate) fn cluster_id(&self) -> u64 {
        self.identity.cluster_id
    }

    /// Counts starts, from 1.
    pub(crate) fn boot(&self) -> u64 {
        self.identity.boot
    }

    /// The directory's random number.
    pub(crate) fn incarnation(&self) -> &str {
        &self.identity.incarnation
    }

    /// Where the Raft log lies.
    pub(crate) fn log_folder(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the database lies.
    pub(crate) fn store_folder(&self) -> PathBuf {
        self.path.join("store")
    }
}

fn create_directory(path: &Path, data_dir: &Path) -> Result<(), DataDirError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(DataDirError::NotADirectory(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(DataDirError::NotADirectory(path.to_owned()));
        }
        Err(source) => return Err(io_error(path, "look at it", source, data_dir)),
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    // As etcd: nobody else may read the data.
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|source| io_error(path, "create it", source, data_dir))
}

fn io_error(path: &Path, action: &'static str, source: io::Error, data_dir: &Path) -> DataDirError {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            DataDirError::ReadOnly(data_dir.to_owned())
        }
        io::ErrorKind::NotADirectory => DataDirError::NotADirectory(data_dir.to_owned()),
        _ => DataDirError::Io { path: path.to_owned(), action, source },
    }
}

fn take_lock(data_dir: &Path) -> Result<File, DataDirError> {
    let path = data_dir.join(LOCK_FILE);
    let fault = |action, source| io_error(&path, action, source, data_dir);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| fault("open it", source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // The text is a courtesy of the other process: without it the message says less.
            let _ = file.read_to_string(&mut text);
            return Err(DataDirError::Locked { path: data_dir.to_owned(), pid: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(source)) => return Err(fault("lock it", source)),
    }
    file.set_len(0).map_err(|source| fault("write it", source))?;
    file.rewind().map_err(|source| fault("write it", source))?;
    writeln!(file, "{}", std::process::id()).map_err(|source| fault("write it", source))?;
    Ok(file)
}

fn refuse_leftovers(data_dir: &Path, folder: &str) -> Result<(), DataDirError> {
    let Ok(mut entries) = fs::read_dir(data_dir.join(folder)) else { return Ok(()) };
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(DataDirError::Damaged {
            path: data_dir.to_owned(),
            detail: format!("has files in {folder}/ but no {IDENTITY_FILE} file"),
        }),
    }
}

fn read_identity(data_dir: &Path) -> Result<Option<IdentityMessage>, DataDirError> {
    let path = data_dir.join(IDENTITY_FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(&path, "read it", source, data_dir)),
    };
    let damaged = |detail: &str| DataDirError::Damaged {
        path: data_dir.to_owned(),
        detail: format!("its {IDENTITY_FILE} file {detail}"),
    };
    let (version, message) = bytes.split_first().ok_or_else(|| damaged("is empty"))?;
    match *version {
        VERSION => {}
        found if found > VERSION => {
            return Err(DataDirError::NewerVersion { path: data_dir.to_owned(), found });
        }
        _ => return Err(damaged("does not begin with a version")),
    }
    let identity = IdentityMessage::decode(message).map_err(|_| damaged("does not decode"))?;
    if identity.boot == 0 || identity.member_id == 0 || identity.incarnation.is_empty() {
        return Err(damaged("is incomplete"));
    }
    Ok(Some(identity))
}

/// Replaces the file so that a crash leaves the old or the new one, and returns once the new one is on disk.
fn write_identity(data_dir: &Path, identity: &IdentityMessage) -> Result<(), DataDirError> {
    let path = data_dir.join(IDENTITY_FILE_NEW);
    let fault = |action, source| io_error(&path, action, source, data_dir);
    let mut bytes = vec![VERSION];
    identity.encode(&mut bytes).expect("a Vec grows as it must");
    let mut file = File::create(&path).map_err(|source| fault("create it", source))?;
    file.write_all(&bytes).map_err(|source| fault("write it", source))?;
    file.sync_all().map_err(|source| fault("sync it", source))?;
    fs::rename(&path, data_dir.join(IDENTITY_FILE)).map_err(|source| fault("rename it", source))?;
    let folder = File::open(data_dir).map_err(|source| fault("open its folder", source))?;
    folder.sync_all().map_err(|source| fault("sync its folder", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founding() -> Founding {
        Founding {
            cluster_id: 11,
            member_id: MemberId(22),
            cluster_token: "token".into(),
            incarnation: "abc".into(),
        }
    }

    #[test]
    fn each_start_raises_the_boot_number_and_keeps_the_ids() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataDir::open(&path, founding()).unwrap();
        assert_eq!((first.boot(), first.member_id(), first.cluster_id()), (1, MemberId(22), 11));
        drop(first);
        let other = Founding { member_id: MemberId(99), incarnation: "other".into(), ..founding() };
        let second = DataDir::open(&path, other).unwrap();
        assert_eq!((second.boot(), second.member_id(), second.incarnation()), (2, MemberId(22), "abc"));
    }

    #[test]
    fn a_directory_in_use_is_refused_with_the_process_that_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let _running = DataDir::open(folder.path(), founding()).unwrap();
        let error = DataDir::open(folder.path(), founding()).unwrap_err();
        assert!(error.to_string().ends_with(&format!("in use by process {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_directory_of_another_cluster_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDir::open(folder.path(), founding()).unwrap());
        let other = Founding { cluster_token: "other".into(), ..founding() };
        let error = DataDir::open(folder.path(), other).unwrap_err();
        assert!(matches!(error, DataDirError::OtherCluster { .. }), "{error}");
        assert_eq!(
            DataDir::open(folder.path(), founding()).unwrap().boot(),
            2,
            "a refused start counts nothing"
        );
    }

    #[test]
    fn a_newer_format_and_a_damaged_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let attempt = |bytes: &[u8]| {
            fs::write(folder.path().join(IDENTITY_FILE), bytes).unwrap();
            DataDir::open(folder.path(), founding()).unwrap_err()
        };
        assert!(matches!(attempt(&[VERSION + 1, 0]), DataDirError::NewerVersion { found: 2, .. }));
        assert!(matches!(attempt(&[]), DataDirError::Damaged { .. }));
        assert!(matches!(attempt(&[VERSION, 0xff]), DataDirError::Damaged { .. }));
        assert!(matches!(attempt(&[VERSION]), DataDirError::Damaged { .. }));
    }

    #[test]
    fn a_log_without_an_identity_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("log")).unwrap();
        fs::write(folder.path().join("log/1.seg"), b"x").unwrap();
        assert!(matches!(DataDir::open(folder.path(), founding()), Err(DataDirError::Damaged { .. })));
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"x").unwrap();
        assert!(matches!(DataDir::open(&path, founding()), Err(DataDirError::NotADirectory(_))));
        assert!(matches!(
            DataDir::open(&path.join("below"), founding()),
            Err(DataDirError::NotADirectory(_))
        ));
    }
}
