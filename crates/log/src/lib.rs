//! The Raft log on disk: append, read, truncate, purge, vote; bytes in, bytes out.
//!
//! Everything goes through one ordered queue: [`Log::submit`] makes an operation readable at once, [`LogWriter::drain`]
//! writes all that waits with one write and one fdatasync and then completes it in order. The bytes on disk are
//! described in `docs/log-format.md`.

mod disk;
mod error;
mod format;
mod index;
mod log;
mod operation;
mod options;
mod planned_read;
mod planted;
mod recovery;
mod segment;
mod spare;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod vote;
mod writer;

pub use disk::{Disk, DiskFile, RealDisk};
pub use error::LogError;
pub use log::{Log, LogCounters};
pub use operation::{Done, Entry, LogId, Operation, Vote};
pub use options::{LogOptions, SaltSource, SyncObserver};
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
pub use writer::LogWriter;
