//! Reads from one snapshot: what etcd's Range, Watch catch-up, HashKV, leases and backups need.

use std::ops::ControlFlow;

use crate::command::{RangeQuery, Txn};
use crate::event::{Event, KeyValue};
use crate::ids::{LeaseId, LogId, MemberId, Revision};
use crate::response::{AlarmRecord, RangeResponse, TxnResponse};
use crate::store::StoreError;

/// Why a read cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Below the compact revision.
    #[error("required revision has been compacted")]
    Compacted,
    /// Above the snapshot's revision.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// SQLite failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A record borrowed from SQLite's page, so that a list is copied once: into the encoded answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyValueRef<'a> {
    /// Key.
    pub key: &'a [u8],
    /// Revision that created it.
    pub create_revision: i64,
    /// Revision of the last change.
    pub mod_revision: i64,
    /// Changes since creation.
    pub version: i64,
    /// Value; empty for keys_only.
    pub value: &'a [u8],
    /// Lease; 0 for keys_only.
    pub lease: i64,
}

/// What a Range says beside its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeSummary {
    /// All keys of the interval at that revision.
    pub count: i64,
    /// Something was cut by the limit.
    pub more: bool,
}

/// Events read for a watch that catches up.
#[derive(Clone, Debug, Default)]
pub struct EventBatch {
    /// Whole revisions, in order.
    pub events: Vec<Event>,
    /// The batch holds everything of the interval up to and including this revision.
    pub through: Revision,
}

/// HashKV's answer, all out of one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// etcd's crc32c.
    pub hash: u32,
    /// The revision hashed.
    pub hash_revision: Revision,
    /// The compact revision it was hashed under.
    pub compact_revision: Revision,
    /// The snapshot's revision.
    pub current_revision: Revision,
}

/// A granted lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Its id.
    pub id: LeaseId,
    /// Granted seconds.
    pub ttl: i64,
}

/// A member's published record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its id.
    pub id: MemberId,
    /// Name, empty until it has started once.
    pub name: String,
    /// Peer URLs.
    pub peer_urls: Vec<String>,
    /// Client URLs, empty until it has started once.
    pub client_urls: Vec<String>,
    /// Site, may be empty.
    pub site: String,
    /// Lowest peer protocol.
    pub protocol_min: u32,
    /// Highest peer protocol.
    pub protocol_max: u32,
    /// Registered boot number, 0 before the first start.
    pub boot: u64,
    /// Nonce of the registered boot.
    pub boot_nonce: u64,
    /// Incarnation of its data directory.
    pub incarnation: String,
}

/// One history record, as HashKV and an etcd backup see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRecord {
    /// Main revision.
    pub revision: Revision,
    /// Place within the revision.
    pub sub: i64,
    /// A deletion; only the key is set then.
    pub tombstone: bool,
    /// The record.
    pub kv: KeyValue,
}

/// Sizes of the database file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseSize {
    /// Pages times page size, bytes (SQLite's WAL apart).
    pub total_bytes: i64,
    /// The same without free pages.
    pub in_use_bytes: i64,
}

/// Says of each record whether the collected answer has it.
pub type Keep<'a> = dyn FnMut(KeyValueRef<'_>) -> bool + 'a;

/// A consistent view: one SQLite read transaction of one connection. Every answer is of the same log id.
pub trait ReadView {
    /// The last applied entry it holds.
    fn log_id(&self) -> LogId;
    /// Its revision.
    fn revision(&self) -> Revision;
    /// Its compact revision, -1 before the first compaction.
    fn compact_revision(&self) -> Revision;
    /// Runs a Range and hands the records to `sink` in the order of the answer, after limit, filters and sort. After a
    /// Break of the sink no more records are read; count and more still speak of the whole interval. Count
    /// and more come back, so a caller that encodes on the fly writes them last.
    fn range(
        &self,
        query: &RangeQuery,
        sink: &mut dyn FnMut(KeyValueRef<'_>) -> ControlFlow<()>,
    ) -> Result<RangeSummary, ReadError>;
    /// The same, collected.
    fn range_collected(&self, query: &RangeQuery) -> Result<RangeResponse, ReadError>;
    /// Runs a transaction whose operations are all Ranges at top level: compares and reads of this one snapshot. Records
    /// that `keep` does not want are left out of the answer, and reading goes on: who has no room for all learns how much
    /// it takes.
    fn read_only_txn(&self, txn: &Txn, keep: &mut Keep<'_>) -> Result<TxnResponse, ReadError>;
    /// Events of the interval (etcd's range end rules) with `from <= revision <= to`, whole revisions, ending after
    /// `revisions_max` revisions or about `bytes_max` bytes. `with_previous` fills [`crate::event::Previous`].
    fn events(&self, request: &EventsQuery<'_>) -> Result<EventBatch, ReadError>;
    /// etcd's HashKV at a revision, 0 = now.
    fn hash_kv(&self, revision: Revision) -> Result<KvHash, ReadError>;
    /// All leases by id.
    fn leases(&self) -> Result<Vec<LeaseRecord>, ReadError>;
    /// One lease.
    fn lease(&self, id: LeaseId) -> Result<Option<LeaseRecord>, ReadError>;
    /// Keys attached to a lease, in key order.
    fn lease_keys(&self, id: LeaseId) -> Result<Vec<bytes::Bytes>, ReadError>;
    /// Raised alarms.
    fn alarms(&self) -> Result<Vec<AlarmRecord>, ReadError>;
    /// Published members, by id.
    fn members(&self) -> Result<Vec<MemberRecord>, ReadError>;
    /// Ids of removed members.
    fn removed_members(&self) -> Result<Vec<MemberId>, ReadError>;
    /// Every history record that etcd would still hold, in order (revision, sub): for backups.
    fn history(&self, sink: &mut dyn FnMut(HistoryRecord) -> Result<(), StoreError>)
    -> Result<(), ReadError>;
    /// Size of the database file.
    fn database_size(&self) -> Result<DatabaseSize, ReadError>;
}

/// Arguments of [`ReadView::events`].
#[derive(Clone, Copy, Debug)]
pub struct EventsQuery<'a> {
    /// First key.
    pub key: &'a [u8],
    /// etcd's range end.
    pub range_end: &'a [u8],
    /// First revision.
    pub from: Revision,
    /// Last revision.
    pub to: Revision,
    /// Fill in the records before.
    pub with_previous: bool,
    /// Bound on revisions in one batch (etcd: 1000).
    pub revisions_max: usize,
    /// Bound on bytes in one batch; one revision is never split.
    pub bytes_max: usize,
}
