//! The words of the log: entries, their ids, votes, and what can be asked.

use bytes::Bytes;

use crate::error::LogError;

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
    /// Its bytes, at most 1 GiB.
    pub payload: Bytes,
}

/// What can be asked of the log, in order.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Add entries behind the last one; indexes in a row. A log that never held anything takes any first index.
    Append(Vec<Entry>),
    /// Drop everything after this entry, which the log holds (`None`: everything).
    TruncateAfter(Option<LogId>),
    /// Remember the vote.
    SaveVote(Vote),
    /// Entries up to this one are no longer needed; may lie beyond the end.
    Purge(LogId),
}

/// Called once when an operation and all before it are durable, or with the error that ended the log. It runs on the
/// writer's thread (on the caller's when the log has already ended) and must not block.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;
