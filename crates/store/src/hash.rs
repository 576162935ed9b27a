//! etcd's HashKV, byte for byte: crc32c over the records that etcd would hash, in its own encoding.

use bytes::Bytes;
use prost::Message;
use rusqlite::Connection;

use crate::Revision;
use crate::event::KeyValue;
use crate::meta::Snapshot;
use crate::read::{KvHash, ReadError};
use crate::record::{HISTORY_COLUMNS, borrowed};
use crate::retained::Newest;
use crate::sql::{failed, first_id, last_id, prepare, revision_of, sub_of};

/// The bucket's name, with which etcd begins the hash.
const BUCKET: &[u8] = b"key";

/// Hashes all records up to `revision`, 0 or less for now.
pub(crate) fn hash_kv(
    connection: &Connection,
    snapshot: &Snapshot,
    revision: Revision,
) -> Result<KvHash, ReadError> {
    const CONTEXT: &str = "hash the records";
    let compact_revision = snapshot.compact_revision;
    let revision = if revision.0 <= 0 { snapshot.revision } else { revision.0 };
    if revision > snapshot.revision {
        return Err(ReadError::FutureRevision);
    }
    if revision < compact_revision {
        return Err(ReadError::Compacted);
    }
    // etcd leaves out what compaction will delete and what is no longer the newest at `revision`; unless no key lives
    // at `revision`, when it leaves out nothing that compaction keeps.
    let kept = if compact_revision > 0 {
        let (newest, any_live) = Newest::load(connection, revision, compact_revision)?;
        if any_live {
            newest.live
        } else {
            Newest::load(connection, compact_revision, compact_revision)?.0.live
        }
    } else {
        Vec::new()
    };
    let mut hash = crc32c::crc32c(BUCKET);
    let mut encoded = Vec::new();
    let mut statement = prepare(
        connection,
        &format!("SELECT {HISTORY_COLUMNS} FROM history WHERE id <= ?1 ORDER BY id"),
        CONTEXT,
    )?;
    let mut rows = statement.query([last_id(revision)]).map_err(failed(CONTEXT))?;
    let mut kept = kept.into_iter().peekable();
    while let Some(row) = rows.next().map_err(failed(CONTEXT))? {
        let read = || rusqlite::Result::Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(5)?));
        let (id, tombstone) = read().map_err(failed(CONTEXT))?;
        if id < first_id(compact_revision + 1) {
            while kept.next_if(|&next| next < id).is_some() {}
            if kept.peek() != Some(&id) {
                continue;
            }
        }
        let record = borrowed(row).map_err(failed(CONTEXT))?;
        encoded.clear();
        encoded.extend_from_slice(&history_key(id, tombstone));
        let kv = if tombstone {
            KeyValue { key: Bytes::copy_from_slice(record.key), ..KeyValue::default() }
        } else {
            record.to_owned()
        };
        kv.encode(&mut encoded).expect("a Vec has room");
        hash = crc32c::crc32c_append(hash, &encoded);
    }
    Ok(KvHash {
        hash,
        hash_revision: Revision(revision),
        compact_revision: Revision(compact_revision),
        current_revision: Revision(snapshot.revision),
    })
}

/// etcd's key of a history record: main, `_`, sub, and `t` for a tombstone.
fn history_key(id: i64, tombstone: bool) -> Vec<u8> {
    let mut key = Vec::with_capacity(18);
    key.extend_from_slice(&revision_of(id).to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&sub_of(id).to_be_bytes());
    if tombstone {
        key.push(b't');
    }
    key
}
