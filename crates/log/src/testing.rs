//! Doubles for tests: a disk that crashes, and chance that can be repeated.

mod chance;
mod crash_disk;

pub use chance::Chance;
pub use crash_disk::CrashDisk;
