//! What a member says of itself, read without waiting for anything.

use dqlited_store::{MemberId, Revision};

/// Who leads, as this member sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaderState {
    /// Raft term.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<MemberId>,
    /// This member leads and may serve (its first entry is applied).
    pub is_ready_leader: bool,
}

/// A moment of this member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its id.
    pub member_id: MemberId,
    /// The cluster's id.
    pub cluster_id: u64,
    /// Raft term.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<MemberId>,
    /// Index that a majority holds.
    pub committed_index: u64,
    /// Index executed here.
    pub applied_index: u64,
    /// Index that readers here can see.
    pub visible_index: u64,
    /// Index that is synced in SQLite's file, behind which the log may be purged.
    pub durable_index: u64,
    /// Store revision as published.
    pub revision: Revision,
    /// Compact revision.
    pub compact_revision: Revision,
    /// It does not vote.
    pub is_learner: bool,
}

/// What a member has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Entries that the consensus has committed, as etcd's `proposals_committed_total` an index.
    pub proposals_committed: u64,
    /// Entries applied here since the start.
    pub proposals_applied: u64,
    /// Proposals of this member that are not settled.
    pub proposals_pending: u64,
    /// Proposals of this member that ended without an answer.
    pub proposals_failed: u64,
    /// Checkpoints of SQLite's WAL.
    pub checkpoints: u64,
    /// Snapshots of SQLite that reads hold at this moment.
    pub open_reads: usize,
    /// Calls of fdatasync for the log.
    pub log_syncs: u64,
    /// Bytes written to the log.
    pub log_bytes_written: u64,
}
