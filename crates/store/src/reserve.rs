//! Disk space kept back: given up when the disk is full, so that deletes, compaction and commits still find room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Written at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// A file that only takes up room.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    size_bytes: u64,
}

impl Reserve {
    /// The file's name in its folder.
    pub const FILE: &str = "reserve";

    /// A reserve of `size_bytes` in `folder`. Nothing is written before [`Reserve::hold`].
    pub fn new(folder: &Path, size_bytes: u64) -> Reserve {
        Reserve { path: folder.join(Self::FILE), size_bytes }
    }

    /// Takes up the room, if it is not taken up yet: written out, since a sparse file keeps nothing back, and synced. If
    /// there is no room for it nothing is left behind.
    pub fn hold(&self) -> io::Result<()> {
        if self.is_held() {
            return Ok(());
        }
        self.write().inspect_err(|_| {
            // What was written of it is wanted back; the error that matters is the one being answered.
            let _gone = fs::remove_file(&self.path);
        })
    }

    fn write(&self) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&self.path)?;
        // Not zeros: a file system that leaves those out would keep nothing back.
        let block = vec![0xa5; BLOCK_BYTES];
        let mut left = self.size_bytes;
        while left > 0 {
            let now = left.min(BLOCK_BYTES as u64);
            file.write_all(&block[..now as usize])?;
            left -= now;
        }
        file.sync_all()
    }

    /// The room is taken up.
    pub fn is_held(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|file| file.len() == self.size_bytes)
    }

    /// Gives the room up. No error if it was not held.
    pub fn release(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_folder(&self.path),
        }
    }
}

/// The room is free once the folder has forgotten the file durably.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_takes_up_real_room_and_gives_it_back() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().expect("a folder");
        let reserve = Reserve::new(folder.path(), 3 * BLOCK_BYTES as u64 / 2);
        assert!(!reserve.is_held());
        reserve.release().expect("nothing to give up");
        reserve.hold().expect("room");
        reserve.hold().expect("held already");
        assert!(reserve.is_held());
        let file = fs::metadata(folder.path().join(Reserve::FILE)).expect("a file");
        assert!(file.blocks() * 512 >= file.len(), "not sparse");
        reserve.release().expect("given up");
        assert!(!reserve.is_held());
    }

    #[test]
    fn a_reserve_that_finds_no_room_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let gone = folder.path().join("gone");
        assert!(Reserve::new(&gone, 10).hold().is_err());
        assert!(!gone.exists());
    }
}
