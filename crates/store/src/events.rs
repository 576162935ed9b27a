//! The events of an interval between two revisions, for a watch that catches up.

use std::collections::BTreeSet;

use bytes::Bytes;
use rusqlite::Connection;

use crate::Revision;
use crate::event::{Event, EventKind, KeyValue, Previous};
use crate::interval::Interval;
use crate::meta::Snapshot;
use crate::read::{EventBatch, EventsQuery, ReadError};
use crate::record::{Chain, Records, borrowed};
use crate::sql::{failed, first_id, last_id, prepare, revision_of};
use crate::store::StoreError;

/// What an event costs beside its bytes.
const EVENT_OVERHEAD_BYTES: usize = 64;

/// See [`crate::read::ReadView::events`].
pub(crate) fn events(
    connection: &Connection,
    snapshot: &Snapshot,
    query: &EventsQuery<'_>,
) -> Result<EventBatch, ReadError> {
    let from = query.from.0.max(1);
    let to = query.to.0.min(snapshot.revision);
    if query.from.0 < snapshot.compact_revision {
        return Err(ReadError::Compacted);
    }
    let mut batch = EventBatch { events: Vec::new(), through: Revision(to) };
    if from > to {
        return Ok(batch);
    }
    let interval = Interval::new(query.key, query.range_end);
    let hidden = hidden_at_compact_revision(connection, snapshot, &interval, from)?;
    let mut previous = Before::new(connection)?;
    let bounds = Bounds { from, to, compact_revision: snapshot.compact_revision };
    scan(connection, &interval, bounds, &hidden, query, &mut previous, &mut batch)?;
    Ok(batch)
}

/// What was overwritten or deleted within the compact revision itself: compaction deletes it, so it is left out even
/// while it is still there.
fn hidden_at_compact_revision(
    connection: &Connection,
    snapshot: &Snapshot,
    interval: &Interval<'_>,
    from: i64,
) -> Result<BTreeSet<i64>, StoreError> {
    const CONTEXT: &str = "look for what the compact revision hides";
    let compact_revision = snapshot.compact_revision;
    if from != compact_revision {
        return Ok(BTreeSet::new());
    }
    let mut statement = prepare(
        connection,
        "SELECT prev_id FROM history WHERE id BETWEEN ?3 AND ?4 AND prev_id >= ?3
         AND name >= ?1 AND (?2 IS NULL OR name < ?2)",
        CONTEXT,
    )?;
    statement
        .query_map(
            (interval.start, interval.end(), first_id(compact_revision), last_id(compact_revision)),
            |row| row.get(0),
        )
        .and_then(|rows| rows.collect())
        .map_err(failed(CONTEXT))
}

/// The revisions that are read.
#[derive(Clone, Copy)]
struct Bounds {
    from: i64,
    to: i64,
    compact_revision: i64,
}

fn scan(
    connection: &Connection,
    interval: &Interval<'_>,
    Bounds { from, to, compact_revision }: Bounds,
    hidden: &BTreeSet<i64>,
    query: &EventsQuery<'_>,
    previous: &mut Before<'_>,
    batch: &mut EventBatch,
) -> Result<(), ReadError> {
    const CONTEXT: &str = "read events";
    let mut statement = prepare(
        connection,
        "SELECT id, name, create_revision, version, lease, deleted, prev_id, value FROM history
         WHERE id BETWEEN ?3 AND ?4 AND name >= ?1 AND (?2 IS NULL OR name < ?2) ORDER BY id",
        CONTEXT,
    )?;
    let mut rows = statement
        .query((interval.start, interval.end(), first_id(from), last_id(to)))
        .map_err(failed(CONTEXT))?;
    let mut revisions = 0;
    let mut bytes = 0;
    let mut last_revision = 0;
    while let Some(row) = rows.next().map_err(failed(CONTEXT))? {
        let id: i64 = row.get(0).map_err(failed(CONTEXT))?;
        if hidden.contains(&id) {
            continue;
        }
        let revision = revision_of(id);
        if revision != last_revision {
            if revisions > 0 && (revisions >= query.revisions_max || bytes >= query.bytes_max) {
                batch.through = Revision(revision - 1);
                return Ok(());
            }
            revisions += 1;
            last_revision = revision;
        }
        let record = borrowed(row).map_err(failed(CONTEXT))?;
        let deleted: bool = row.get(5).map_err(failed(CONTEXT))?;
        let prev_id: i64 = row.get(6).map_err(failed(CONTEXT))?;
        let (kind, kv) = if deleted {
            let key = Bytes::copy_from_slice(record.key);
            (EventKind::Delete, KeyValue { key, mod_revision: revision, ..KeyValue::default() })
        } else {
            (EventKind::Put, record.to_owned())
        };
        let previous = if revision == compact_revision {
            // The record before is below the compact revision; it must not matter whether it is still there.
            let is_creation = !deleted && kv.create_revision == revision;
            if is_creation { Previous::None } else { Previous::NotRead }
        } else {
            previous.of(revision, prev_id, query.with_previous)?
        };
        bytes += kv.key.len() + kv.value.len() + EVENT_OVERHEAD_BYTES;
        if let Previous::Known(before) = &previous {
            bytes += before.key.len() + before.value.len();
        }
        batch.events.push(Event { kind, kv, previous });
    }
    Ok(())
}

/// Finds the record before an event above the compact revision: the key's state at the revision before.
struct Before<'c> {
    chain: Chain<'c>,
    records: Records<'c>,
}

impl<'c> Before<'c> {
    fn new(connection: &'c Connection) -> Result<Before<'c>, StoreError> {
        Ok(Before { chain: Chain::new(connection)?, records: Records::new(connection)? })
    }

    fn of(&mut self, revision: i64, prev_id: i64, is_wanted: bool) -> Result<Previous, StoreError> {
        let limit = last_id(revision - 1);
        let mut id = prev_id;
        loop {
            if id == 0 {
                return Ok(Previous::None);
            }
            // Above the compact revision a live predecessor is never deleted, so one that is gone was a tombstone.
            let Some(link) = self.chain.link(id)? else { return Ok(Previous::None) };
            if id <= limit {
                if link.deleted {
                    return Ok(Previous::None);
                }
                break;
            }
            id = link.prev_id;
        }
        if !is_wanted {
            return Ok(Previous::NotRead);
        }
        Ok(self.records.owned(id)?.map_or(Previous::None, Previous::Known))
    }
}
