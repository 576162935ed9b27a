//! The data directory: its lock, and the file that says whose it is and how often it was started.
//!
//! ```text
//! LOCK       held by flock while a process runs on the directory; its text is that process's id
//! identity   [version byte][prost IdentityMessage], replaced as a whole
//! log/       the Raft log
//! store/     the SQLite database
//! ```
//!
//! All of it goes through the disk that is handed in (`environment/disks.rs`).

use std::io;
use std::path::{Path, PathBuf};

use dqlited_log::{Disk, DiskFile};
use dqlited_store::MemberId;
use prost::Message;

use crate::environment::{DirectoryLock, Disks};

const VERSION: u8 = 1;
/// Formats of later versions are numbered up to here; a first byte beyond is damage.
const VERSIONS_AHEAD: u8 = 16;
const IDENTITY_FILE: &str = "identity";
const IDENTITY_FILE_NEW: &str = "identity.new";
const LOG_FOLDER: &str = "log";
const STORE_FOLDER: &str = "store";
/// An identity is some hundred bytes, and a token as long as the command line allows.
const IDENTITY_BYTES_MAX: u64 = 1 << 20;
const FOLDERS: [&str; 2] = [LOG_FOLDER, STORE_FOLDER];

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The path exists and is something else.
    #[error("data directory {0}: not a directory")]
    NotADirectory(PathBuf),
    /// It cannot be written to.
    #[error(
        "data directory {0}: not writable (no permission, or a file system mounted read-only), a member must write there; \
         give it a writable directory with --data-dir"
    )]
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
        "data directory {path}: a newer version wrote its {IDENTITY_FILE} file: format {found}, this one reads up to \
         {VERSION}; start the newer version"
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
    _lock: Option<DirectoryLock>,
}

impl DataDir {
    /// Locks the directory, creates it when missing, and raises its boot number. Ids that it was made with stay: flags
    /// of a later start do not change them, only the token must be the same.
    pub(crate) fn open(disks: &dyn Disks, path: &Path, founding: Founding) -> Result<DataDir, DataDirError> {
        let files = open_folder(disks, path, path)?;
        let lock = disks.lock(path)?;
        let mut identity = match read_identity(&*files, path)? {
            Some(identity) if identity.cluster_token != founding.cluster_token => {
                return Err(DataDirError::OtherCluster {
                    path: path.to_owned(),
                    found: identity.cluster_token,
                    expected: founding.cluster_token,
                });
            }
            Some(identity) => identity,
            None => {
                for folder in FOLDERS {
                    refuse_leftovers(disks, path, folder)?;
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
        for folder in FOLDERS {
            open_folder(disks, &path.join(folder), path)?;
        }
        identity.boot += 1;
        write_identity(&*files, path, &identity)?;
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
        self.path.join(LOG_FOLDER)
    }

    /// Where the database lies.
    pub(crate) fn store_folder(&self) -> PathBuf {
        self.path.join(STORE_FOLDER)
    }
}

fn open_folder(
    disks: &dyn Disks,
    path: &Path,
    data_dir: &Path,
) -> Result<std::sync::Arc<dyn Disk>, DataDirError> {
    disks.folder(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotADirectory => DataDirError::NotADirectory(path.to_owned()),
        _ => io_error(path, "open it", source, data_dir),
    })
}

/// What went wrong with a file of the data directory, in words.
pub(crate) fn io_error(
    path: &Path,
    action: &'static str,
    source: io::Error,
    data_dir: &Path,
) -> DataDirError {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            DataDirError::ReadOnly(data_dir.to_owned())
        }
        io::ErrorKind::NotADirectory => DataDirError::NotADirectory(data_dir.to_owned()),
        _ => DataDirError::Io { path: path.to_owned(), action, source },
    }
}

fn refuse_leftovers(disks: &dyn Disks, data_dir: &Path, folder: &str) -> Result<(), DataDirError> {
    let path = data_dir.join(folder);
    let found = open_folder(disks, &path, data_dir)?
        .list()
        .map_err(|source| io_error(&path, "list it", source, data_dir))?;
    if found.is_empty() {
        return Ok(());
    }
    Err(DataDirError::Damaged {
        path: data_dir.to_owned(),
        detail: format!("has files in {folder}/ but no {IDENTITY_FILE} file"),
    })
}

fn read_identity(files: &dyn Disk, data_dir: &Path) -> Result<Option<IdentityMessage>, DataDirError> {
    let bytes = match files.open(IDENTITY_FILE).and_then(|file| read_whole(&*file)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(&data_dir.join(IDENTITY_FILE), "read it", source, data_dir)),
    };
    let damaged = |detail: &str| DataDirError::Damaged {
        path: data_dir.to_owned(),
        detail: format!(
            "its {IDENTITY_FILE} file is damaged, it {detail}; put that file back from a backup of the directory, do not \
             start on the rest without it"
        ),
    };
    let (version, message) = bytes.split_first().ok_or_else(|| damaged("is empty"))?;
    match *version {
        VERSION => {}
        // A version counts by ones, and its message has the fields of this one: anything else is no newer version's.
        found if (VERSION + 1..=VERSIONS_AHEAD).contains(&found) && decode_identity(message).is_some() => {
            return Err(DataDirError::NewerVersion { path: data_dir.to_owned(), found });
        }
        found => return Err(damaged(&format!("begins with {found}, which is no version of its format"))),
    }
    decode_identity(message).map(Some).ok_or_else(|| damaged("does not decode to a whole identity"))
}

/// The message, if it is whole.
fn decode_identity(message: &[u8]) -> Option<IdentityMessage> {
    let identity = IdentityMessage::decode(message).ok()?;
    let is_whole = identity.boot != 0 && identity.member_id != 0 && !identity.incarnation.is_empty();
    is_whole.then_some(identity)
}

fn read_whole(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let size = file.size()?;
    if size > IDENTITY_BYTES_MAX {
        return Err(io::Error::other(format!("{size} bytes are too many")));
    }
    let mut bytes = vec![0; size as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Replaces the file so that a crash leaves the old or the new one, and returns once the new one is on disk.
fn write_identity(files: &dyn Disk, data_dir: &Path, identity: &IdentityMessage) -> Result<(), DataDirError> {
    let path = data_dir.join(IDENTITY_FILE_NEW);
    let fault = |action, source| io_error(&path, action, source, data_dir);
    let mut bytes = vec![VERSION];
    identity.encode(&mut bytes).expect("a Vec grows as it must");
    match files.remove(IDENTITY_FILE_NEW) {
        // Left by a start that was killed while it wrote.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(fault("remove it", source)),
    }
    let file = files.create(IDENTITY_FILE_NEW).map_err(|source| fault("create it", source))?;
    file.write_at(0, &bytes).map_err(|source| fault("write it", source))?;
    file.sync_data().map_err(|source| fault("sync it", source))?;
    files.rename(IDENTITY_FILE_NEW, IDENTITY_FILE).map_err(|source| fault("rename it", source))?;
    files.sync_dir().map_err(|source| fault("sync its folder", source))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use dqlited_log::testing::{Chance, CrashDisk};

    use super::*;
    use crate::environment::SystemDisks;

    /// The data directory's own files on a disk that crashes; its folders are empty.
    struct CrashingDisks(CrashDisk);

    impl Disks for CrashingDisks {
        fn folder(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
            let is_below = FOLDERS.iter().any(|folder| path.ends_with(folder));
            Ok(Arc::new(if is_below { CrashDisk::new() } else { self.0.clone() }))
        }
        fn lock(&self, _data_dir: &Path) -> Result<Option<DirectoryLock>, DataDirError> {
            Ok(None)
        }
    }

    /// Starts once more. Answers boot number and incarnation.
    fn start_on(disk: &CrashDisk, start: u64) -> Result<(u64, String), DataDirError> {
        let incarnation = format!("made at start {start}");
        let founding = Founding { incarnation, ..founding() };
        let opened = DataDir::open(&CrashingDisks(disk.clone()), Path::new("data"), founding)?;
        Ok((opened.boot(), opened.incarnation().to_string()))
    }

    #[test]
    fn a_power_cut_at_any_call_never_gives_a_boot_number_out_twice() {
        let (mut cuts, mut lost) = (0, 0);
        for seed in 0..300 {
            let mut chance = Chance::new(seed);
            let mut disk = CrashDisk::new();
            let mut last: Option<(u64, String)> = None;
            for start in 1..=12 {
                disk.crash_at(chance.below(12));
                match start_on(&disk, start) {
                    Ok((boot, incarnation)) => {
                        if let Some((last_boot, last_incarnation)) = &last {
                            assert!(boot > *last_boot, "seed {seed}: boot {boot} after {last_boot}");
                            assert_eq!(&incarnation, last_incarnation, "seed {seed}");
                        }
                        last = Some((boot, incarnation));
                    }
                    Err(error) => {
                        assert!(disk.has_crashed(), "seed {seed}, start {start}: {error}");
                        lost += 1;
                    }
                }
                disk = disk.power_cut(&mut chance);
                cuts += 1;
            }
            let (boot, _) = start_on(&disk, 13).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert!(boot > last.map_or(0, |last| last.0), "seed {seed}");
        }
        println!("{cuts} power cuts, {lost} of them within a start");
        assert!(lost > cuts / 4 && lost < cuts * 3 / 4);
    }

    #[test]
    fn a_killed_start_leaves_nothing_that_hinders_the_next_one() {
        for call in 0..6 {
            let disk = CrashDisk::new();
            disk.crash_at(call);
            let first = start_on(&disk, 1);
            let boot = start_on(&disk.kill(), 2).unwrap().0;
            assert!(boot > first.map_or(0, |first| first.0));
        }
    }

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
        let first = DataDir::open(&SystemDisks, &path, founding()).unwrap();
        assert_eq!((first.boot(), first.member_id(), first.cluster_id()), (1, MemberId(22), 11));
        drop(first);
        let other = Founding { member_id: MemberId(99), incarnation: "other".into(), ..founding() };
        let second = DataDir::open(&SystemDisks, &path, other).unwrap();
        assert_eq!((second.boot(), second.member_id(), second.incarnation()), (2, MemberId(22), "abc"));
    }

    #[test]
    fn a_directory_in_use_is_refused_with_the_process_that_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let _running = DataDir::open(&SystemDisks, folder.path(), founding()).unwrap();
        let error = DataDir::open(&SystemDisks, folder.path(), founding()).unwrap_err();
        assert!(error.to_string().ends_with(&format!("in use by process {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_directory_of_another_cluster_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDir::open(&SystemDisks, folder.path(), founding()).unwrap());
        let other = Founding { cluster_token: "other".into(), ..founding() };
        let error = DataDir::open(&SystemDisks, folder.path(), other).unwrap_err();
        assert!(matches!(error, DataDirError::OtherCluster { .. }), "{error}");
        assert_eq!(
            DataDir::open(&SystemDisks, folder.path(), founding()).unwrap().boot(),
            2,
            "a refused start counts nothing"
        );
    }

    #[test]
    fn a_damaged_identity_is_told_from_a_newer_versions() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDir::open(&SystemDisks, folder.path(), founding()).unwrap());
        let path = folder.path().join(IDENTITY_FILE);
        let whole = fs::read(&path).unwrap();
        let attempt = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            DataDir::open(&SystemDisks, folder.path(), founding()).unwrap_err()
        };
        let with_first = |first: u8| [&[first], &whole[1..]].concat();
        let newer = attempt(&with_first(VERSION + 1));
        assert!(matches!(newer, DataDirError::NewerVersion { found: 2, .. }), "{newer}");
        let damaged: [Vec<u8>; 7] = [
            Vec::new(),
            vec![VERSION],
            vec![VERSION, 0xff],
            vec![VERSION + 1, 0],
            with_first(0),
            with_first(0xd5),
            whole[..whole.len() - 3].to_vec(),
        ];
        for bytes in damaged {
            let error = attempt(&bytes);
            assert!(matches!(error, DataDirError::Damaged { .. }), "{bytes:?}: {error}");
            let said = error.to_string();
            for part in [folder.path().to_str().unwrap(), "its identity file is damaged", "from a backup"] {
                assert!(said.contains(part), "{bytes:?}: {said}");
            }
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "nothing was added");
        fs::write(&path, whole).unwrap();
        assert_eq!(DataDir::open(&SystemDisks, folder.path(), founding()).unwrap().boot(), 2);
    }

    #[test]
    fn a_log_without_an_identity_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("log")).unwrap();
        fs::write(folder.path().join("log/1.seg"), b"x").unwrap();
        assert!(matches!(
            DataDir::open(&SystemDisks, folder.path(), founding()),
            Err(DataDirError::Damaged { .. })
        ));
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"x").unwrap();
        assert!(matches!(
            DataDir::open(&SystemDisks, &path, founding()),
            Err(DataDirError::NotADirectory(_))
        ));
        assert!(matches!(
            DataDir::open(&SystemDisks, &path.join("below"), founding()),
            Err(DataDirError::NotADirectory(_))
        ));
    }
}
