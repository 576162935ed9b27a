//! All that the log may ask of the store, in one place.
//!
//! These are durable: a field is added with a new tag, a meaning never changes. The encoding is prost's; the version
//! byte and the identity stand in the entry around it (`dqlited-raft`, `codec.rs`).

use bytes::Bytes;

/// One replicated command.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Command {
    /// What to do. `None` means a kind that this version does not know: the member must stop, never skip it.
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub kind: Option<Kind>,
}

/// The kinds of command.
#[derive(Clone, PartialEq, ::prost::Oneof)]
pub enum Kind {
    /// etcd Put.
    #[prost(message, tag = "1")]
    Put(Put),
    /// etcd DeleteRange.
    #[prost(message, tag = "2")]
    DeleteRange(DeleteRange),
    /// etcd Txn.
    #[prost(message, tag = "3")]
    Txn(Txn),
    /// etcd Compact; members delete by themselves afterwards.
    #[prost(message, tag = "4")]
    Compact(Compact),
    /// etcd LeaseGrant; the id is chosen before it is proposed.
    #[prost(message, tag = "5")]
    LeaseGrant(LeaseGrant),
    /// etcd LeaseRevoke, or an expiry.
    #[prost(message, tag = "6")]
    LeaseRevoke(LeaseRevoke),
    /// etcd Alarm, ACTIVATE or DEACTIVATE.
    #[prost(message, tag = "7")]
    Alarm(Alarm),
    /// The first entry of each start of a member: registers its boot number and publishes its record.
    #[prost(message, tag = "8")]
    RegisterMember(RegisterMember),
    /// A read-only transaction that must go through the log (nested ones do in etcd).
    #[prost(message, tag = "9")]
    Noop(Noop),
}

/// Put a key.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Put {
    /// Key, never empty.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// Lease to attach to, 0 detaches.
    #[prost(int64, tag = "3")]
    pub lease: i64,
    /// Answer the record before.
    #[prost(bool, tag = "4")]
    pub prev_kv: bool,
    /// Keep the present value.
    #[prost(bool, tag = "5")]
    pub ignore_value: bool,
    /// Keep the present lease.
    #[prost(bool, tag = "6")]
    pub ignore_lease: bool,
}

/// Delete the keys of an interval.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct DeleteRange {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// etcd's range end: empty = one key, `\0` = from key on.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// Answer the records before.
    #[prost(bool, tag = "3")]
    pub prev_kv: bool,
}

/// Read the keys of an interval; fields and defaults are those of etcd's RangeRequest.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RangeQuery {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// etcd's range end.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// At most so many, 0 or less = all.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// At this revision, 0 or less = now.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    /// 0 none, 1 ascending, 2 descending.
    #[prost(int32, tag = "5")]
    pub sort_order: i32,
    /// 0 key, 1 version, 2 create, 3 mod, 4 value.
    #[prost(int32, tag = "6")]
    pub sort_target: i32,
    /// Leave values out (and, as etcd 3.7 does, leases).
    #[prost(bool, tag = "8")]
    pub keys_only: bool,
    /// Only count.
    #[prost(bool, tag = "9")]
    pub count_only: bool,
    /// Filters, 0 = off.
    #[prost(int64, tag = "10")]
    pub min_mod_revision: i64,
    /// Filter, 0 = off.
    #[prost(int64, tag = "11")]
    pub max_mod_revision: i64,
    /// Filter, 0 = off.
    #[prost(int64, tag = "12")]
    pub min_create_revision: i64,
    /// Filter, 0 = off.
    #[prost(int64, tag = "13")]
    pub max_create_revision: i64,
}

/// Transactions within each other: what etcd's default of `--max-txn-ops` lets through, 128 with an operation each and an
/// empty one. A bound of its own, so that every thread's stack holds whatever the flag says.
pub const TXN_LEVELS_MAX: usize = 129;

/// etcd's transaction.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Txn {
    /// All must hold; an empty list holds.
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// Run when all hold.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<Op>,
    /// Run otherwise.
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<Op>,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Op {
    /// The operation; `None` is etcd's "key not found" (checked before it is proposed).
    #[prost(oneof = "OpKind", tags = "1, 2, 3, 4")]
    pub kind: Option<OpKind>,
}

/// The kinds of operation.
#[derive(Clone, PartialEq, ::prost::Oneof)]
pub enum OpKind {
    /// Read.
    #[prost(message, tag = "1")]
    Range(RangeQuery),
    /// Put.
    #[prost(message, tag = "2")]
    Put(Put),
    /// Delete.
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRange),
    /// A transaction inside; its compares see the state before the outermost one.
    #[prost(message, tag = "4")]
    Txn(Txn),
}

/// One compare; numbers as in etcd's proto.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Compare {
    /// 0 equal, 1 greater, 2 less, 3 not equal; anything else holds.
    #[prost(int32, tag = "1")]
    pub result: i32,
    /// 0 version, 1 create, 2 mod, 3 value, 4 lease; anything else compares as equal.
    #[prost(int32, tag = "2")]
    pub target: i32,
    /// Key.
    #[prost(bytes = "bytes", tag = "3")]
    pub key: Bytes,
    /// Every key of the interval must hold.
    #[prost(bytes = "bytes", tag = "4")]
    pub range_end: Bytes,
    /// The number that the target is compared with; 0 when the request's union was absent or of another kind.
    #[prost(int64, tag = "5")]
    pub number: i64,
    /// The value that the target VALUE is compared with.
    #[prost(bytes = "bytes", tag = "6")]
    pub value: Bytes,
}

/// Raise the compact revision.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Compact {
    /// Keep what is visible at this revision and after.
    #[prost(int64, tag = "1")]
    pub revision: i64,
}

/// Grant a lease.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct LeaseGrant {
    /// Never 0.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Seconds, already raised to the minimum.
    #[prost(int64, tag = "2")]
    pub ttl: i64,
}

/// Revoke a lease and delete its keys.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct LeaseRevoke {
    /// Which.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Set when a leader proposes it because the time is over: refused under another leader (rule W3).
    #[prost(message, optional, tag = "2")]
    pub expired_under: Option<Leader>,
}

/// A leader, as a command names it.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
pub struct Leader {
    /// Its term.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// Its member id.
    #[prost(uint64, tag = "2")]
    pub node: u64,
}

/// Raise or clear an alarm.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Alarm {
    /// True raises, false clears.
    #[prost(bool, tag = "1")]
    pub activate: bool,
    /// The member it is about.
    #[prost(uint64, tag = "2")]
    pub member: u64,
    /// 1 NOSPACE, 2 CORRUPT.
    #[prost(int32, tag = "3")]
    pub alarm: i32,
}

/// A member's record and the registration of its present boot.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RegisterMember {
    /// Member id.
    #[prost(uint64, tag = "1")]
    pub member: u64,
    /// Boot number; proposals of older boots apply as nothing from here on.
    #[prost(uint64, tag = "2")]
    pub boot: u64,
    /// Random number of this boot: tells a copied data directory from a reconnect (rule D4).
    #[prost(uint64, tag = "3")]
    pub boot_nonce: u64,
    /// Random number of the data directory.
    #[prost(string, tag = "4")]
    pub incarnation: String,
    /// Name as `--name` gives it.
    #[prost(string, tag = "5")]
    pub name: String,
    /// Peer URLs.
    #[prost(string, repeated, tag = "6")]
    pub peer_urls: Vec<String>,
    /// Client URLs.
    #[prost(string, repeated, tag = "7")]
    pub client_urls: Vec<String>,
    /// Site, empty when none was given.
    #[prost(string, tag = "8")]
    pub site: String,
    /// Lowest peer protocol it speaks.
    #[prost(uint32, tag = "9")]
    pub protocol_min: u32,
    /// Highest peer protocol it speaks.
    #[prost(uint32, tag = "10")]
    pub protocol_max: u32,
}

/// Changes nothing.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Noop {}
