//! The disk under a member: the folders that it writes itself, and the lock on the data directory.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use dqlited_log::{Disk, RealDisk};

use crate::data_dir::{DataDirError, io_error};

const LOCK_FILE: &str = "LOCK";

/// Opens folders. Everything that the member itself writes in its data directory goes through them.
///
/// Asked for three: the data directory, `log` and `store` in it. In the last one only the names are looked at: SQLite
/// opens its files by their path, so it must be a folder of this machine.
pub trait Disks: Send + Sync + 'static {
    /// The files of a folder, which is made with all above it, durably, when it is missing.
    ///
    /// # Errors
    /// Those of the operating system; [`io::ErrorKind::NotADirectory`] when something else has its name.
    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Disk>>;

    /// Keeps other processes off the data directory, which exists, until the answer is dropped. `None` where no other
    /// process can be: in a simulation.
    ///
    /// # Errors
    /// [`DataDirError::Locked`] when another process has it.
    fn lock(&self, data_dir: &Path) -> Result<Option<DirectoryLock>, DataDirError>;
}

/// The lock of a data directory. It ends with the value, and with the process.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisks;

impl Disks for SystemDisks {
    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
        make_folder(path)?;
        Ok(Arc::new(RealDisk::open(path)?))
    }

    fn lock(&self, data_dir: &Path) -> Result<Option<DirectoryLock>, DataDirError> {
        take_lock(data_dir).map(|file| Some(DirectoryLock { _file: file }))
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for folder in path.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
        match fs::metadata(folder) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(folder),
            Err(error) => return Err(error),
        }
    }
    for folder in missing.into_iter().rev() {
        // As etcd: nobody else may read the data. Recursive only so that it is no error if somebody makes it meanwhile.
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
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
