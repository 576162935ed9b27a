//! How much room a file system has left.

use std::io;
use std::path::Path;

/// Bytes that this process may still write on the file system of `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let state = rustix::fs::statvfs(path)?;
    Ok(state.f_bavail.saturating_mul(state.f_frsize))
}

/// Bytes of the whole file system of `path`.
pub fn total_bytes(path: &Path) -> io::Result<u64> {
    let state = rustix::fs::statvfs(path)?;
    Ok(state.f_blocks.saturating_mul(state.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_bytes_of_a_folder_are_known_and_of_no_folder_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let free = free_bytes(folder.path()).unwrap();
        assert!(free > 0 && free <= total_bytes(folder.path()).unwrap());
        assert!(free_bytes(&folder.path().join("missing")).is_err());
    }
}
