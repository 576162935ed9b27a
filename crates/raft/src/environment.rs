//! What a member is given from outside, so that a simulation runs this very code: clock, chance, disk, the way to other
//! members, threads, and who is told how long things take.
//!
//! Not handed in, and why a simulation can live with it:
//! - tokio's timers and scheduler. A runtime of one thread whose time is paused runs tasks in one order and moves time on
//!   only when nothing is left to do; the clock given here must then be tokio's ([`Clock`]).
//! - SQLite's files, since SQLite makes its own calls to the operating system. The store's folder is a real one; each
//!   checkpoint is told ([`Observer::checkpointed`]), so that a simulated crash can set the folder back to it.
//! - openraft's chance: it draws only the lengths of its own time-outs, which are off (`pacemaker.rs`).

mod disks;
mod peers;

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dqlited_store::store::Checkpoint;

pub use disks::{DirectoryLock, Disks, SystemDisks};
pub use peers::{NoPeers, PeerConnector, PeerError, PeerStream};

/// Tells the time. Waiting goes through tokio's timers: where those are paused, this must be the same time
/// (`tokio::time::Instant::now().into_std()`).
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

/// How the log writer, the apply loop, the checkpointer and the readers run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// A thread for each.
    #[default]
    Own,
    /// Inside of the async runtime, one turn after the other: no thread is made. Disk calls then hold the runtime up.
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
    /// So many records below the compact revision deleted.
    fn records_deleted(&self, _records: usize) {}
    /// One checkpoint of SQLite's WAL, a partial one too. Told before anything acts on it. With [`Threads::Inline`] the
    /// store's folder holds at this moment exactly what is synced: SQLite syncs the WAL before it moves it, and nothing
    /// else changes the database file.
    fn checkpointed(&self, _checkpoint: &Checkpoint, _took: Duration) {}
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
    /// Disk of the log and of the data directory's own file.
    pub disks: Arc<dyn Disks>,
    /// The way to other members.
    pub peers: Arc<dyn PeerConnector>,
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
            peers: Arc::new(NoPeers),
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
