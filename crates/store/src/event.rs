//! A stored key with its revisions, and the events that watchers see.

use bytes::Bytes;

/// A key as etcd stores and hashes it. The prost tags are those of `mvccpb.KeyValue`: HashKV and backups encode it.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct KeyValue {
    /// The key; never empty.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The revision that created the key (since its last deletion).
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// The revision of the last change.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// Changes since creation, from 1.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// The value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    /// The lease it is attached to, 0 for none.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted; only `key` and `mod_revision` of the record are set.
    Delete,
}

/// The value before an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Previous {
    /// The key did not exist before the event's revision.
    None,
    /// The record at `mod_revision - 1`.
    Known(KeyValue),
    /// Not here. Either nobody asked for it when the event was made ([`crate::store::Interest`]), then it can be read at
    /// `mod_revision - 1`; or the answer to a catch-up that did ask says so where compaction has taken it.
    NotRead,
}

/// One change of one key, in the order (revision, sub).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// The record after the event.
    pub kv: KeyValue,
    /// The record before the event's revision.
    pub previous: Previous,
}
