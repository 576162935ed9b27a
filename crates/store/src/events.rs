//! The events of an interval between two revisions, for a watch that catches up.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use rusqlite::{Connection, Row};

use crate::Revision;
use crate::event::{Event, EventKind, KeyValue, Previous};
use crate::interval::Interval;
use crate::meta::Snapshot;
use crate::read::{EventBatch, EventsQuery, ReadError};
use crate::record::{Chain, HISTORY_COLUMNS, Records, borrowed};
use crate::sql::{failed, first_id, last_id, prepare, revision_of};
use crate::store::StoreError;

/// What an event costs beside its bytes.
const EVENT_OVERHEAD_BYTES: usize = 64;

/// From so many revisions on it is worth looking whether the interval's own keys are the shorter way. (Few in unit tests,
/// so that the random sequences take both ways.)
const BY_KEY_REVISIONS_MIN: i64 = if cfg!(test) { 4 } else { 2000 };

/// So many changes are collected key by key before that way is given up.
const BY_KEY_CHANGES_MAX: usize = if cfg!(test) { 6 } else { 4000 };

const CONTEXT: &str = "read events";

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
    if from > to {
        return Ok(EventBatch { events: Vec::new(), through: Revision(to) });
    }
    let interval = Interval::new(query.key, query.range_end);
    let mut gathering = Gathering {
        query,
        compact_revision: snapshot.compact_revision,
        hidden: hidden_at_compact_revision(connection, snapshot, &interval, from)?,
        before: Before::new(connection)?,
        revisions: 0,
        bytes: 0,
        last_revision: 0,
        batch: EventBatch { events: Vec::new(), through: Revision(to) },
    };
    let by_key = if to - from >= BY_KEY_REVISIONS_MIN {
        changes_by_key(connection, &interval, from, to)?
    } else {
        None
    };
    match by_key {
        Some(ids) => gathering.read_each(connection, &ids)?,
        None => gathering.scan(connection, &interval, from, to)?,
    }
    Ok(gathering.batch)
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

/// The changes of the interval's keys, found from each key's newest one backwards, in order: what a watch of few keys
/// needs is far less than all that was written since. `None` when they are many.
fn changes_by_key(
    connection: &Connection,
    interval: &Interval<'_>,
    from: i64,
    to: i64,
) -> Result<Option<Vec<i64>>, StoreError> {
    const UNTIL: &str = "SELECT id FROM current WHERE name >= ?1 AND name < ?2 AND id >= ?3";
    const OPEN: &str = "SELECT id FROM current WHERE name >= ?1 AND ?2 IS NULL AND id >= ?3";
    let sql = if interval.end.is_some() { UNTIL } else { OPEN };
    let mut statement = prepare(connection, sql, CONTEXT)?;
    let mut chain = Chain::new(connection)?;
    let (first, last) = (first_id(from), last_id(to));
    let mut ids = Vec::new();
    let mut looked_at = 0;
    let mut rows = statement.query((interval.start, interval.end(), first)).map_err(failed(CONTEXT))?;
    while let Some(row) = rows.next().map_err(failed(CONTEXT))? {
        let mut id: i64 = row.get(0).map_err(failed(CONTEXT))?;
        while id >= first {
            looked_at += 1;
            if looked_at > BY_KEY_CHANGES_MAX {
                return Ok(None);
            }
            if id <= last {
                ids.push(id);
            }
            id = chain.link(id)?.map_or(0, |link| link.prev_id);
        }
    }
    ids.sort_unstable();
    Ok(Some(ids))
}

/// A batch in the making.
struct Gathering<'c, 'q> {
    query: &'q EventsQuery<'q>,
    compact_revision: i64,
    hidden: BTreeSet<i64>,
    before: Before<'c>,
    revisions: usize,
    bytes: usize,
    last_revision: i64,
    batch: EventBatch,
}

impl Gathering<'_, '_> {
    /// Reads all that was written between the revisions and takes what is of the interval.
    fn scan(
        &mut self,
        connection: &Connection,
        interval: &Interval<'_>,
        from: i64,
        to: i64,
    ) -> Result<(), StoreError> {
        let mut statement = prepare(
            connection,
            &format!(
                "SELECT {HISTORY_COLUMNS} FROM history
                 WHERE id BETWEEN ?3 AND ?4 AND name >= ?1 AND (?2 IS NULL OR name < ?2) ORDER BY id"
            ),
            CONTEXT,
        )?;
        let mut rows = statement
            .query((interval.start, interval.end(), first_id(from), last_id(to)))
            .map_err(failed(CONTEXT))?;
        while let Some(row) = rows.next().map_err(failed(CONTEXT))? {
            if self.take(row)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Reads the changes of these ids, which are in order.
    fn read_each(&mut self, connection: &Connection, ids: &[i64]) -> Result<(), StoreError> {
        let sql = format!("SELECT {HISTORY_COLUMNS} FROM history WHERE id = ?1");
        let mut statement = prepare(connection, &sql, CONTEXT)?;
        for id in ids {
            let mut rows = statement.query([id]).map_err(failed(CONTEXT))?;
            if let Some(row) = rows.next().map_err(failed(CONTEXT))?
                && self.take(row)?.is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// Adds a change; Break when the batch ends before it.
    fn take(&mut self, row: &Row<'_>) -> Result<ControlFlow<()>, StoreError> {
        let id: i64 = row.get(0).map_err(failed(CONTEXT))?;
        if self.hidden.contains(&id) {
            return Ok(ControlFlow::Continue(()));
        }
        let revision = revision_of(id);
        if revision != self.last_revision {
            let is_full = self.revisions >= self.query.revisions_max || self.bytes >= self.query.bytes_max;
            if self.revisions > 0 && is_full {
                self.batch.through = Revision(revision - 1);
                return Ok(ControlFlow::Break(()));
            }
            self.revisions += 1;
            self.last_revision = revision;
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
        let previous = if revision == self.compact_revision {
            // The record before is below the compact revision; it must not matter whether it is still there.
            let is_creation = !deleted && kv.create_revision == revision;
            if is_creation { Previous::None } else { Previous::NotRead }
        } else {
            self.before.of(revision, prev_id, self.query.with_previous)?
        };
        self.bytes += kv.key.len() + kv.value.len() + EVENT_OVERHEAD_BYTES;
        if let Previous::Known(before) = &previous {
            self.bytes += before.key.len() + before.value.len();
        }
        self.batch.events.push(Event { kind, kv, previous });
        Ok(ControlFlow::Continue(()))
    }
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
