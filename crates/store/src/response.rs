//! What applying a command gave: the answer for whoever proposed it and the events for whoever watches.

use crate::event::{Event, KeyValue};
use crate::ids::{Identity, LogId, Revision};

/// One applied log entry.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Where it stands in the log.
    pub log_id: LogId,
    /// Who proposed it; `None` for blank and membership entries.
    pub identity: Option<Identity>,
    /// The answer, or why nothing was changed.
    pub result: Result<Response, CommandError>,
    /// The store's revision after it.
    pub revision: Revision,
    /// The compact revision after it, -1 before the first compaction.
    pub compact_revision: Revision,
    /// What it changed, in the order (revision, sub); all events of one entry have one revision.
    pub events: Vec<Event>,
}

/// The answer to a command that was carried out.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To Put.
    Put {
        /// The record before, when asked for and there was one.
        previous: Option<KeyValue>,
    },
    /// To DeleteRange.
    DeleteRange {
        /// How many keys.
        deleted: i64,
        /// The records before, in key order, when asked for.
        previous: Vec<KeyValue>,
    },
    /// To Txn.
    Txn(TxnResponse),
    /// To Compact.
    Compact,
    /// To LeaseGrant.
    LeaseGrant {
        /// The id.
        id: i64,
        /// Seconds.
        ttl: i64,
    },
    /// To LeaseRevoke: the lease is gone, by request or by expiry.
    LeaseRevoke {
        /// The id.
        id: i64,
    },
    /// To Alarm: the alarms raised or cleared.
    Alarm(Vec<AlarmRecord>),
    /// To RegisterMember, Noop, blank and membership entries.
    Done,
}

/// The answer to a Range inside of a transaction, or to a whole small Range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeResponse {
    /// The records.
    pub kvs: Vec<KeyValue>,
    /// Something was cut by the limit.
    pub more: bool,
    /// All keys of the interval at that revision.
    pub count: i64,
}

/// The answer to a transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TxnResponse {
    /// Which branch ran.
    pub succeeded: bool,
    /// One answer an operation.
    pub responses: Vec<OpResponse>,
}

/// The answer to one operation, with the revision that etcd puts into its header.
#[derive(Clone, Debug, PartialEq)]
pub enum OpResponse {
    /// To a Range.
    Range {
        /// Header revision: the old one before the first change of the transaction, the new one after it.
        revision: Revision,
        /// The answer.
        range: RangeResponse,
    },
    /// To a Put.
    Put {
        /// Header revision.
        revision: Revision,
        /// The record before, when asked for.
        previous: Option<KeyValue>,
    },
    /// To a DeleteRange.
    DeleteRange {
        /// Header revision.
        revision: Revision,
        /// How many keys.
        deleted: i64,
        /// The records before, when asked for.
        previous: Vec<KeyValue>,
    },
    /// To a nested transaction; its header revision is 0 on the wire.
    Txn(TxnResponse),
}

/// A raised alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlarmRecord {
    /// The member it is about.
    pub member: u64,
    /// 1 NOSPACE, 2 CORRUPT.
    pub alarm: i32,
}

/// Why a command changed nothing. Part of the replicated behaviour: every member decides the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A put or revoke names a lease that does not exist.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A grant uses an id that exists.
    #[error("lease already exists")]
    LeaseExists,
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("key not found")]
    KeyNotFound,
    /// A revision below the compact revision (for Compact: at or below).
    #[error("required revision has been compacted")]
    Compacted,
    /// A revision above the current one.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// The NOSPACE alarm is up and the command would need space.
    #[error("database space exceeded")]
    NoSpace,
    /// The CORRUPT alarm is up.
    #[error("corrupt cluster")]
    Corrupt,
    /// An expiry proposed by a leader that no longer leads (rule W3).
    #[error("the lease's expiry was proposed by another leader")]
    StaleExpiry,
    /// A second copy of a proposal that has been applied (rule W1).
    #[error("applied before under the same identity")]
    AlreadyApplied,
    /// A proposal of a boot that is not the registered one (rule W1).
    #[error("proposed by a boot that is not registered")]
    UnregisteredBoot,
    /// A delete of more keys than one revision can number.
    #[error("more than {max} changes in one revision", max = crate::store::CHANGES_PER_REVISION_MAX)]
    TooManyChanges,
}
