//! How a log is laid out and run.

use std::fmt;
use std::sync::Arc;

/// Told of each fdatasync of the log, once it has returned. Whoever wants to know how long it took has a clock; the log
/// has none.
pub type SyncObserver = Arc<dyn Fn() + Send + Sync>;

/// Gives the salt of a new segment; no two may be equal in the life of a folder, restarts included.
pub type SaltSource = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How the log is laid out.
#[derive(Clone)]
pub struct LogOptions {
    /// First segment, doubled up to the maximum; in bytes.
    pub segment_bytes_first: u64,
    /// Largest segment, in bytes; a larger entry gets a segment of its own size.
    pub segment_bytes_max: u64,
    /// One write is ended when it has this many bytes, so that its buffer stays small; the sync comes after all writes.
    pub batch_bytes_max: usize,
    /// Tail cache, in bytes. Entries that are not durable are held besides.
    pub cache_bytes: usize,
    /// False leaves fdatasync out (`--unsafe-no-fsync`).
    pub sync: bool,
    /// True prepares and removes segments on a thread of the log's own, false at the end of [`drain`].
    ///
    /// [`drain`]: crate::LogWriter::drain
    pub background: bool,
    /// Told of each fdatasync.
    pub sync_observer: Option<SyncObserver>,
    /// Where salts come from; `None` takes the system's randomness. A simulation hands in its own.
    pub salt_source: Option<SaltSource>,
    /// The bug to carry, for the tests that must find it.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<crate::PlantedBug>,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes_first: 1 << 20,
            segment_bytes_max: 16 << 20,
            batch_bytes_max: 4 << 20,
            cache_bytes: 2 << 20,
            sync: true,
            background: true,
            sync_observer: None,
            salt_source: None,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOptions")
            .field("segment_bytes_first", &self.segment_bytes_first)
            .field("segment_bytes_max", &self.segment_bytes_max)
            .field("batch_bytes_max", &self.batch_bytes_max)
            .field("cache_bytes", &self.cache_bytes)
            .field("sync", &self.sync)
            .field("background", &self.background)
            .finish_non_exhaustive()
    }
}

/// A record's place is kept in 32 bits.
const SEGMENT_BYTES_MAX: u64 = 2 << 30;

impl LogOptions {
    /// The options with segment sizes that are possible.
    pub(crate) fn checked(mut self) -> LogOptions {
        self.segment_bytes_first = self.segment_bytes_first.clamp(1024, SEGMENT_BYTES_MAX);
        self.segment_bytes_max = self.segment_bytes_max.clamp(self.segment_bytes_first, SEGMENT_BYTES_MAX);
        self
    }

    /// A salt that no segment before had.
    pub(crate) fn salt(&self) -> u64 {
        match &self.salt_source {
            Some(source) => source(),
            None => {
                use std::hash::{BuildHasher, RandomState};
                RandomState::new().hash_one(0_u64)
            }
        }
    }
}
