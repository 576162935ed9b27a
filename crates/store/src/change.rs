//! One revision in the making: the puts, deletes and reads that one log entry does.

use bytes::Bytes;
use rusqlite::Connection;

use crate::command::{DeleteRange, Put};
use crate::event::{Event, EventKind, KeyValue, Previous};
use crate::interval::Interval;
use crate::range::At;
use crate::record::{Chain, CurrentRow, Records, current_row};
use crate::sql::{failed, first_id, history_id, last_id, prepare, revision_of};
use crate::store::{Interest, StoreError};

/// What a row costs beside its name and value, bytes; only for [`crate::store::Writer::uncommitted_bytes`].
const ROW_OVERHEAD_BYTES: usize = 200;

/// The changes of one entry. All have one revision and are numbered from 0 within it; without a change there is no
/// revision.
pub(crate) struct Change<'a> {
    connection: &'a Connection,
    interest: &'a dyn Interest,
    before: At,
    /// What changed so far; its length numbers the next change.
    pub events: Vec<Event>,
    /// Bytes written, roughly.
    pub bytes: usize,
}

impl<'a> Change<'a> {
    pub fn new(connection: &'a Connection, interest: &'a dyn Interest, before: At) -> Change<'a> {
        Change { connection, interest, before, events: Vec::new(), bytes: 0 }
    }

    /// The revision after what was done so far.
    pub fn revision(&self) -> i64 {
        self.before.revision + i64::from(!self.events.is_empty())
    }

    /// The state that the next operation sees.
    pub fn at(&self) -> At {
        At { revision: self.revision(), compact_revision: self.before.compact_revision }
    }

    fn next_id(&self) -> i64 {
        history_id(self.before.revision + 1, self.events.len() as i64)
    }

    /// Writes a key. The lease and the key that `ignore_*` needs have been checked. Answers the record before if asked.
    pub fn put(&mut self, put: &Put) -> Result<Option<KeyValue>, StoreError> {
        let row = current_row(self.connection, &put.key)?;
        let live = row.filter(|row| !row.deleted);
        let before = match live {
            Some(row) if put.prev_kv || put.ignore_value => Records::new(self.connection)?.owned(row.id)?,
            _ => None,
        };
        let value = match &before {
            Some(before) if put.ignore_value => before.value.clone(),
            _ => put.value.clone(),
        };
        let lease = if put.ignore_lease { live.map_or(0, |row| row.lease) } else { put.lease };
        let id = self.next_id();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: live.map_or(revision_of(id), |row| row.create_revision),
            mod_revision: revision_of(id),
            version: live.map_or(1, |row| row.version + 1),
            value,
            lease,
        };
        let previous = self.previous(&put.key, row, before.as_ref())?;
        self.insert_history(id, &kv, false, self.prev_id(row))?;
        self.upsert_current(id, &kv, false, row)?;
        self.events.push(Event { kind: EventKind::Put, kv, previous });
        Ok(if put.prev_kv { before } else { None })
    }

    /// Deletes an interval. Answers how many keys, and their records if asked.
    pub fn delete_range(&mut self, delete: &DeleteRange) -> Result<(i64, Vec<KeyValue>), StoreError> {
        let interval = Interval::new(&delete.key, &delete.range_end);
        let rows = if interval.is_single {
            let row = current_row(self.connection, &delete.key)?.filter(|row| !row.deleted);
            row.map(|row| (delete.key.clone(), row)).into_iter().collect()
        } else {
            self.live_rows(&interval)?
        };
        let deleted = rows.len() as i64;
        let mut previous = Vec::new();
        for (name, row) in rows {
            let before = self.delete(name, row, delete.prev_kv)?;
            previous.extend(before);
        }
        Ok((deleted, previous))
    }

    /// Deletes the keys attached to a lease, in key order.
    pub fn delete_lease_keys(&mut self, lease: i64) -> Result<(), StoreError> {
        for name in lease_keys(self.connection, lease)? {
            if let Some(row) = current_row(self.connection, &name)? {
                self.delete(name, row, false)?;
            }
        }
        Ok(())
    }

    fn delete(
        &mut self,
        name: Bytes,
        row: CurrentRow,
        wants_before: bool,
    ) -> Result<Option<KeyValue>, StoreError> {
        let before = if wants_before { Records::new(self.connection)?.owned(row.id)? } else { None };
        let previous = self.previous(&name, Some(row), before.as_ref())?;
        let id = self.next_id();
        let kv = KeyValue { key: name, mod_revision: revision_of(id), ..KeyValue::default() };
        self.insert_history(id, &kv, true, row.id)?;
        self.upsert_current(id, &kv, true, Some(row))?;
        self.events.push(Event { kind: EventKind::Delete, kv, previous });
        Ok(before)
    }

    /// The record that a watcher gets as the one before: the state before this revision, not before this change.
    fn previous(
        &self,
        name: &[u8],
        row: Option<CurrentRow>,
        before: Option<&KeyValue>,
    ) -> Result<Previous, StoreError> {
        let Some(row) = row else { return Ok(Previous::None) };
        let (id, deleted) = if row.id >= first_id(self.before.revision + 1) {
            let found =
                Chain::new(self.connection)?.at(row.id, row.deleted, last_id(self.before.revision))?;
            let Some(found) = found else { return Ok(Previous::None) };
            found
        } else {
            (row.id, row.deleted)
        };
        if deleted {
            return Ok(Previous::None);
        }
        if !self.interest.wants_previous(name) {
            return Ok(Previous::NotRead);
        }
        if let Some(before) = before.filter(|_| id == row.id) {
            return Ok(Previous::Known(before.clone()));
        }
        let read = Records::new(self.connection)?.owned(id)?;
        Ok(read.map_or(Previous::None, Previous::Known))
    }

    /// What a new record names as the one before it. A tombstone below the compact revision counts as gone whether or
    /// not this member has deleted it yet, so that all members write the same row.
    fn prev_id(&self, row: Option<CurrentRow>) -> i64 {
        match row {
            Some(row) if !row.deleted || row.id >= first_id(self.before.compact_revision) => row.id,
            _ => 0,
        }
    }

    fn insert_history(
        &mut self,
        id: i64,
        kv: &KeyValue,
        deleted: bool,
        prev_id: i64,
    ) -> Result<(), StoreError> {
        const CONTEXT: &str = "write a history record";
        prepare(self.connection, "INSERT INTO history VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)", CONTEXT)?
            .execute((
                id,
                &kv.key[..],
                kv.create_revision,
                kv.version,
                kv.lease,
                deleted,
                prev_id,
                &kv.value[..],
            ))
            .map_err(failed(CONTEXT))?;
        self.bytes += 2 * kv.key.len() + kv.value.len() + ROW_OVERHEAD_BYTES;
        Ok(())
    }

    fn upsert_current(
        &mut self,
        id: i64,
        kv: &KeyValue,
        deleted: bool,
        row: Option<CurrentRow>,
    ) -> Result<(), StoreError> {
        const CONTEXT: &str = "write a key";
        let changed = match row {
            // The common update touches neither the lease, so its index stays as it is, nor the creation.
            Some(row) if !deleted && row.lease == kv.lease && row.create_revision == kv.create_revision => {
                prepare(
                    self.connection,
                    "UPDATE current SET id = ?2, version = ?3, deleted = 0 WHERE name = ?1",
                    CONTEXT,
                )?
                .execute((&kv.key[..], id, kv.version))
            }
            Some(_) => prepare(
                self.connection,
                "UPDATE current SET id = ?2, create_revision = ?3, version = ?4, lease = ?5, deleted = ?6
                 WHERE name = ?1",
                CONTEXT,
            )?
            .execute((&kv.key[..], id, kv.create_revision, kv.version, kv.lease, deleted)),
            None => prepare(self.connection, "INSERT INTO current VALUES(?1, ?2, ?3, ?4, ?5, ?6)", CONTEXT)?
                .execute((&kv.key[..], id, kv.create_revision, kv.version, kv.lease, deleted)),
        }
        .map_err(failed(CONTEXT))?;
        debug_assert_eq!(changed, 1, "a key has one row");
        Ok(())
    }

    fn live_rows(&self, interval: &Interval<'_>) -> Result<Vec<(Bytes, CurrentRow)>, StoreError> {
        const CONTEXT: &str = "look for keys to delete";
        const UNTIL: &str = "SELECT name, id, create_revision, version, lease FROM current
            WHERE name >= ?1 AND name < ?2 AND deleted = 0 ORDER BY name";
        const OPEN: &str = "SELECT name, id, create_revision, version, lease FROM current
            WHERE name >= ?1 AND ?2 IS NULL AND deleted = 0 ORDER BY name";
        let sql = if interval.end.is_some() { UNTIL } else { OPEN };
        let mut statement = prepare(self.connection, sql, CONTEXT)?;
        let rows = statement
            .query_map((interval.start, interval.end()), |row| {
                let name = Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?);
                let row = CurrentRow {
                    id: row.get(1)?,
                    create_revision: row.get(2)?,
                    version: row.get(3)?,
                    lease: row.get(4)?,
                    deleted: false,
                };
                Ok((name, row))
            })
            .map_err(failed(CONTEXT))?;
        rows.collect::<Result<_, _>>().map_err(failed(CONTEXT))
    }
}

/// The keys attached to a lease, in key order.
pub(crate) fn lease_keys(connection: &Connection, lease: i64) -> Result<Vec<Bytes>, StoreError> {
    const CONTEXT: &str = "look for the keys of a lease";
    let mut statement = prepare(
        connection,
        // The second condition is what lets SQLite use the partial index.
        "SELECT name FROM current WHERE lease = ?1 AND lease <> 0 ORDER BY name",
        CONTEXT,
    )?;
    let rows = statement
        .query_map([lease], |row| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?)))
        .map_err(failed(CONTEXT))?;
    rows.collect::<Result<_, _>>().map_err(failed(CONTEXT))
}

/// The granted seconds of a lease.
pub(crate) fn lease_ttl(connection: &Connection, lease: i64) -> Result<Option<i64>, StoreError> {
    use rusqlite::OptionalExtension;
    const CONTEXT: &str = "look a lease up";
    prepare(connection, "SELECT ttl FROM lease WHERE id = ?1", CONTEXT)?
        .query_row([lease], |row| row.get(0))
        .optional()
        .map_err(failed(CONTEXT))
}
