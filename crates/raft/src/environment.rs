//! What a member is given from outside, so that a simulation runs this very code: clock, chance, disk, threads, and who
//! is told how long things take.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dqlited_log::{Disk, RealDisk};

/// Tells the time. Waiting goes through tokio's timers.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Instant;
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// Gives random numbers.
pub trait Chance: Send + Sync + 'static {
    /// The next one.
    fn next(&self) -> u64;
}

/// The kernel's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemChance;

impl Chance for SystemChance {
    fn next(&self) -> u64 {
        let mut bytes = [0; 8];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut bytes))
            .expect("a Unix system has /dev/urandom");
        u64::from_le_bytes(bytes)
    }
}

/// Opens the disk under the log.
pub trait Disks: Send + Sync + 'static {
    /// The disk for this folder.
    fn log_disk(&self, folder: &Path) -> io::Result<Arc<dyn Disk>>;
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisks;

impl Disks for SystemDisks {
    fn log_disk(&self, folder: &Path) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(RealDisk::open(folder)?))
    }
}

/// How the log writer, the apply loop, the checkpointer and the readers run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// A thread for each.
    #[default]
    Own,
    /// Inside of the async runtime, one turn after the other.
    Inline,
}

/// Is told how long things took. Called on the threads that do them: must not block.
pub trait Observer: Send + Sync + 'static {
    /// One write and sync of the log.
    fn log_synced(&self, _operations: usize, _took: Duration) {}
    /// One commit of SQLite.
    fn store_committed(&self, _took: Duration) {}
    /// One batch of entries executed.
    fn batch_applied(&self, _entries: usize, _took: Duration) {}
    /// One checkpoint of SQLite's WAL.
    fn checkpointed(&self, _took: Duration) {}
}

/// Nobody is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

/// All of it.
#[derive(Clone)]
pub struct Environment {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Disk of the log.
    pub disks: Arc<dyn Disks>,
    /// Threads.
    pub threads: Threads,
    /// Durations.
    pub observer: Arc<dyn Observer>,
    /// Bugs that a test has switched on.
    #[cfg(feature = "planted-bugs")]
    pub bugs: Vec<crate::planted::Bug>,
}

impl Default for Environment {
    fn default() -> Self {
        Environment {
            clock: Arc::new(SystemClock),
            chance: Arc::new(SystemChance),
            disks: Arc::new(SystemDisks),
            threads: Threads::Own,
            observer: Arc::new(NoObserver),
            #[cfg(feature = "planted-bugs")]
            bugs: Vec::new(),
        }
    }
}

impl Environment {
    /// Whether a planted bug is on. Without the feature none can be.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has(&self, bug: crate::planted::Bug) -> bool {
        self.bugs.contains(&bug)
    }

    /// Whether a planted bug is on. Without the feature none can be.
    #[cfg(not(feature = "planted-bugs"))]
    pub(crate) fn has(&self, _bug: crate::planted::Bug) -> bool {
        false
    }
}
