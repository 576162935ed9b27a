//! The backup that `etcdctl snapshot save` takes: all that etcd itself would have in its database.

use std::io::{self, BufWriter, Seek, Write};

use dqlited_store::read::{ReadError, ReadView};
use dqlited_store::store::StoreError;
use prost::Message;

use crate::backup::bbolt::FileWriter;
use crate::version;

/// Why no backup was made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file could not be written.
    #[error("the backup could not be written: {0}")]
    Write(#[from] io::Error),
}

/// What a backup says of the consensus beside the view.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    /// Members that vote.
    pub voters: Vec<u64>,
    /// Members that do not.
    pub learners: Vec<u64>,
}

/// etcd's `leasepb.Lease`.
#[derive(Clone, PartialEq, ::prost::Message)]
struct Lease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining_ttl: i64,
}

/// Writes a view as an etcd database and answers its size in bytes.
pub fn export<W: Write + Seek>(
    view: &dyn ReadView,
    membership: &Membership,
    out: W,
) -> Result<u64, ExportError> {
    // Page writes are small pieces; the file sees them in larger ones.
    let mut file = FileWriter::new(BufWriter::with_capacity(256 << 10, out))?;
    alarms(view, &mut file)?;
    auth(&mut file)?;
    cluster(&mut file)?;
    keys(view, &mut file)?;
    leases(view, &mut file)?;
    members(view, &mut file)?;
    meta(view, membership, &mut file)?;
    let (_, bytes) = file.finish()?;
    Ok(bytes)
}

/// etcd's key of a revision: main and sub big-endian with `_` between, `t` behind it for a deletion.
fn revision_key(revision: i64, sub: i64, tombstone: bool) -> ([u8; 18], usize) {
    let mut key = [0; 18];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key[8] = b'_';
    key[9..17].copy_from_slice(&sub.to_be_bytes());
    key[17] = b't';
    (key, if tombstone { 18 } else { 17 })
}

fn keys<W: Write + Seek>(view: &dyn ReadView, file: &mut FileWriter<W>) -> Result<(), ExportError> {
    let mut bucket = file.bucket("key");
    let mut value = Vec::new();
    // The view's iterator carries only its own errors, so a write error waits here.
    let mut written = Ok(());
    view.history(&mut |record| {
        if written.is_ok() {
            let (key, length) = revision_key(record.revision.0, record.sub, record.tombstone);
            value.clear();
            record.kv.encode_raw(&mut value);
            written = bucket.put(&key[..length], &value);
        }
        if written.is_err() { Err(StoreError::Full) } else { Ok(()) }
    })
    .or_else(|error| written.map_err(ExportError::Write).and(Err(error.into())))?;
    Ok(bucket.finish()?)
}

fn leases<W: Write + Seek>(view: &dyn ReadView, file: &mut FileWriter<W>) -> Result<(), ExportError> {
    // etcd's key is the id's bits as an unsigned number, so negative ids stand last.
    let mut leases = view.leases()?;
    leases.sort_by_key(|lease| lease.id.0 as u64);
    let mut bucket = file.bucket("lease");
    for lease in leases {
        let record = Lease { id: lease.id.0, ttl: lease.ttl, remaining_ttl: 0 };
        bucket.put(&lease.id.0.to_be_bytes(), &record.encode_to_vec())?;
    }
    Ok(bucket.finish()?)
}

fn alarms<W: Write + Seek>(view: &dyn ReadView, file: &mut FileWriter<W>) -> Result<(), ExportError> {
    let mut keys: Vec<Vec<u8>> = view
        .alarms()?
        .iter()
        .map(|alarm| {
            dqlited_proto::etcdserverpb::AlarmMember { member_id: alarm.member, alarm: alarm.alarm }
                .encode_to_vec()
        })
        .collect();
    keys.sort();
    let mut bucket = file.bucket("alarm");
    for key in keys {
        bucket.put(&key, &[])?;
    }
    Ok(bucket.finish()?)
}

/// Authentication is not served yet: off, at etcd's first revision.
fn auth<W: Write + Seek>(file: &mut FileWriter<W>) -> Result<(), ExportError> {
    let mut bucket = file.bucket("auth");
    bucket.put(b"authRevision", &1u64.to_be_bytes())?;
    bucket.finish()?;
    for empty in ["authRoles", "authUsers"] {
        file.bucket(empty).finish()?;
    }
    Ok(())
}

fn cluster<W: Write + Seek>(file: &mut FileWriter<W>) -> Result<(), ExportError> {
    let mut bucket = file.bucket("cluster");
    bucket.put(b"clusterVersion", version::ETCD_CLUSTER.as_bytes())?;
    Ok(bucket.finish()?)
}

fn members<W: Write + Seek>(view: &dyn ReadView, file: &mut FileWriter<W>) -> Result<(), ExportError> {
    let mut members: Vec<(String, String)> = view
        .members()?
        .iter()
        .map(|member| {
            let value = serde_json::json!({
                "id": member.id.0,
                "peerURLs": member.peer_urls,
                "name": member.name,
                "clientURLs": member.client_urls,
            });
            (member.id.to_string(), value.to_string())
        })
        .collect();
    members.sort();
    let mut bucket = file.bucket("members");
    for (id, value) in members {
        bucket.put(id.as_bytes(), value.as_bytes())?;
    }
    bucket.finish()?;
    let mut removed: Vec<String> = view.removed_members()?.iter().map(ToString::to_string).collect();
    removed.sort();
    let mut bucket = file.bucket("members_removed");
    for id in removed {
        bucket.put(id.as_bytes(), b"removed")?;
    }
    Ok(bucket.finish()?)
}

fn meta<W: Write + Seek>(
    view: &dyn ReadView,
    membership: &Membership,
    file: &mut FileWriter<W>,
) -> Result<(), ExportError> {
    let log_id = view.log_id();
    let mut conf_state = serde_json::json!({ "voters": membership.voters, "auto_leave": false });
    if !membership.learners.is_empty() {
        conf_state["learners"] = membership.learners.clone().into();
    }
    let compacted = view.compact_revision().0;
    let (compacted_key, length) = revision_key(compacted, 0, false);
    let mut bucket = file.bucket("meta");
    bucket.put(b"confState", conf_state.to_string().as_bytes())?;
    bucket.put(b"consistent_index", &log_id.index.to_be_bytes())?;
    if compacted >= 0 {
        bucket.put(b"finishedCompactRev", &compacted_key[..length])?;
        bucket.put(b"scheduledCompactRev", &compacted_key[..length])?;
    }
    bucket.put(b"storageVersion", version::ETCD_STORAGE.as_bytes())?;
    bucket.put(b"term", &log_id.leader.term.to_be_bytes())?;
    Ok(bucket.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revisions_key_is_etcds() {
        let (key, length) = revision_key(0x0102, 3, false);
        assert_eq!(&key[..length], b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03");
        let (key, length) = revision_key(1, 0, true);
        assert_eq!(&key[..length], b"\0\0\0\0\0\0\0\x01_\0\0\0\0\0\0\0\0t");
    }
}
