//! The Raft log on disk: append, read, truncate, purge, vote; bytes in, bytes out.
//!
//! Everything goes through one ordered queue: [`Log::submit`] makes an operation readable at once, [`LogWriter::drain`]
//! writes all that waits with one write and one fdatasync and then completes it in order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// A place in the log: the leader (term, node) that proposed and the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader.
    pub term: u64,
    /// Node of the leader.
    pub node: u64,
    /// Index.
    pub index: u64,
}

/// A vote as the consensus stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vote {
    /// Term voted in.
    pub term: u64,
    /// Node voted for.
    pub node: u64,
    /// A quorum is known to have granted it.
    pub committed: bool,
}

/// One entry; the payload is opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub id: LogId,
    /// Its bytes.
    pub payload: Bytes,
}

/// What can be asked of the log, in order.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Add entries behind the last one; indexes in a row.
    Append(Vec<Entry>),
    /// Drop everything after this index (`None`: everything).
    TruncateAfter(Option<LogId>),
    /// Remember the vote.
    SaveVote(Vote),
    /// Entries up to this one are no longer needed; may lie beyond the end.
    Purge(LogId),
}

/// Why the log cannot go on, or cannot be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// Placeholder until the crate is written.
    #[error("not written yet")]
    Unwritten,
}

/// Called once when an operation and all before it are durable, or with the error that ended the log.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// The disk under the log; a crash double stands in for it in tests and in the simulation.
pub trait Disk: Send + Sync + 'static {}

/// How the log is laid out.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// First segment, doubled up to the maximum.
    pub segment_bytes_first: u64,
    /// Largest segment.
    pub segment_bytes_max: u64,
    /// Tail cache.
    pub cache_bytes: usize,
    /// False leaves fdatasync out (`--unsafe-no-fsync`).
    pub sync: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes_first: 1 << 20,
            segment_bytes_max: 64 << 20,
            cache_bytes: 8 << 20,
            sync: true,
        }
    }
}

/// The shared handle: submit and read from any thread.
#[derive(Clone)]
pub struct Log {
    _private: (),
}

/// The one writer; own thread or inline, as the caller likes.
pub struct LogWriter {
    _private: (),
}

impl Log {
    /// Opens (and syncs, rule D1) the log in the disk's folder.
    pub fn open(_disk: Arc<dyn Disk>, _options: LogOptions) -> Result<(Log, LogWriter), LogError> {
        unimplemented!()
    }
    /// Queues an operation. It is readable at once; `done` is called in order once it is durable. Never blocks.
    pub fn submit(&self, _operation: Operation, _done: Done) {
        unimplemented!()
    }
    /// Entries `from..to` that exist, at least one if there is any, then as many as fit into `bytes_max`.
    pub fn read(&self, _from: u64, _to: u64, _bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        unimplemented!()
    }
    /// The id at an index, if the log holds it.
    pub fn id_at(&self, _index: u64) -> Option<LogId> {
        unimplemented!()
    }
    /// Last entry, submitted ones included; the purge point when empty.
    pub fn last(&self) -> Option<LogId> {
        unimplemented!()
    }
    /// Last durable entry.
    pub fn durable(&self) -> Option<LogId> {
        unimplemented!()
    }
    /// Up to where it is purged.
    pub fn purged(&self) -> Option<LogId> {
        unimplemented!()
    }
    /// The last vote submitted.
    pub fn vote(&self) -> Option<Vote> {
        unimplemented!()
    }
    /// Bytes submitted and not yet durable.
    pub fn pending_bytes(&self) -> usize {
        unimplemented!()
    }
    /// No more submissions; the writer's wait ends.
    pub fn close(&self) {
        unimplemented!()
    }
}

impl LogWriter {
    /// Waits until something was submitted. False when the log is closed and empty, or nothing came in time.
    pub fn wait(&self, _timeout: Duration) -> bool {
        unimplemented!()
    }
    /// Writes and syncs everything submitted, then completes it. Answers the number of operations. After an error the
    /// log takes nothing more (fail-stop: a failed fsync is never tried again).
    pub fn drain(&mut self) -> Result<usize, LogError> {
        unimplemented!()
    }
}
