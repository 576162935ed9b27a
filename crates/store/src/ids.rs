//! Ids and counters as types of their own, so that an index is never taken for a revision.

use std::fmt;

/// etcd's counter of changes: an empty store is at revision 1, the first write makes 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

/// An etcd lease. Negative ids are ordinary; 0 means "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A member of the cluster, as etcd derives it (the first 8 bytes of a sha1); also openraft's node id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// The leader under which a log entry was proposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderId {
    /// Raft term.
    pub term: u64,
    /// The member that led it.
    pub node: MemberId,
}

/// A place in the Raft log: who led and which index. Ordered as Raft compares logs, by leader and then by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The leader that proposed the entry.
    pub leader: LeaderId,
    /// The entry's index.
    pub index: u64,
}

/// Who made a proposal and which of its proposals it is (`docs/consistency.md`, rule W1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The member whose client asked.
    pub member: MemberId,
    /// The counter in that member's data directory, raised at each start.
    pub boot: u64,
    /// Counts that boot's proposals from 1.
    pub sequence: u64,
    /// All proposals of that boot below this number are settled: nobody will send them again.
    pub lowest_unsettled: u64,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.{}", self.leader.term, self.leader.node, self.index)
    }
}
