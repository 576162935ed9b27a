//! Reads of single rows: a key's newest row, a history record, and the way back along `prev_id`.

use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row};

use crate::event::KeyValue;
use crate::read::KeyValueRef;
use crate::sql::{failed, prepare, revision_of};
use crate::store::StoreError;

/// A key's newest record without its value; a tombstone stays until compaction takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CurrentRow {
    /// Its history record.
    pub id: i64,
    pub create_revision: i64,
    pub version: i64,
    pub lease: i64,
    pub deleted: bool,
}

/// A key's newest row.
pub(crate) fn current_row(connection: &Connection, name: &[u8]) -> Result<Option<CurrentRow>, StoreError> {
    prepare(
        connection,
        "SELECT id, create_revision, version, lease, deleted FROM current WHERE name = ?1",
        "look a key up",
    )?
    .query_row([name], |row| {
        Ok(CurrentRow {
            id: row.get(0)?,
            create_revision: row.get(1)?,
            version: row.get(2)?,
            lease: row.get(3)?,
            deleted: row.get(4)?,
        })
    })
    .optional()
    .map_err(failed("look a key up"))
}

/// Columns of [`HISTORY_COLUMNS`] as a record that borrows from the row.
pub(crate) fn borrowed<'r>(row: &'r Row<'_>) -> rusqlite::Result<KeyValueRef<'r>> {
    Ok(KeyValueRef {
        key: row.get_ref(1)?.as_blob()?,
        create_revision: row.get(2)?,
        mod_revision: revision_of(row.get(0)?),
        version: row.get(3)?,
        lease: row.get(4)?,
        value: row.get_ref(7)?.as_blob()?,
    })
}

/// The columns of `history` in the order that [`borrowed`] and its callers expect.
pub(crate) const HISTORY_COLUMNS: &str = "id, name, create_revision, version, lease, deleted, prev_id, value";

/// Where a history record stands in its key's chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// The record before it, 0 for none.
    pub prev_id: i64,
    pub deleted: bool,
}

/// Walks back along `prev_id`. A record that is missing has been compacted away: whatever asks at or above the compact
/// revision takes it for a key that did not exist.
pub(crate) struct Chain<'c> {
    link: CachedStatement<'c>,
}

impl<'c> Chain<'c> {
    pub fn new(connection: &'c Connection) -> Result<Chain<'c>, StoreError> {
        let link = prepare(connection, "SELECT prev_id, deleted FROM history WHERE id = ?1", "walk back")?;
        Ok(Chain { link })
    }

    /// The record's place in the chain.
    pub fn link(&mut self, id: i64) -> Result<Option<Link>, StoreError> {
        self.link
            .query_row([id], |row| Ok(Link { prev_id: row.get(0)?, deleted: row.get(1)? }))
            .optional()
            .map_err(failed("walk back"))
    }

    /// The newest record at or below `limit` of the key whose newest record is `id`: its id and whether it is a tombstone.
    pub fn at(&mut self, id: i64, deleted: bool, limit: i64) -> Result<Option<(i64, bool)>, StoreError> {
        if id <= limit {
            return Ok(Some((id, deleted)));
        }
        let Some(mut link) = self.link(id)? else { return Ok(None) };
        loop {
            let prev_id = link.prev_id;
            if prev_id == 0 {
                return Ok(None);
            }
            let Some(before) = self.link(prev_id)? else { return Ok(None) };
            if prev_id <= limit {
                return Ok(Some((prev_id, before.deleted)));
            }
            link = before;
        }
    }
}

/// Reads history records by id.
pub(crate) struct Records<'c> {
    statement: CachedStatement<'c>,
}

impl<'c> Records<'c> {
    pub fn new(connection: &'c Connection) -> Result<Records<'c>, StoreError> {
        let statement = prepare(
            connection,
            "SELECT id, name, create_revision, version, lease, deleted, prev_id, value FROM history WHERE id = ?1",
            "read a record",
        )?;
        Ok(Records { statement })
    }

    /// Hands the record to `take`, borrowed from SQLite's page.
    pub fn with<T>(
        &mut self,
        id: i64,
        take: impl FnOnce(KeyValueRef<'_>) -> T,
    ) -> Result<Option<T>, StoreError> {
        self.statement
            .query_row([id], |row| Ok(take(borrowed(row)?)))
            .optional()
            .map_err(failed("read a record"))
    }

    /// The record, copied.
    pub fn owned(&mut self, id: i64) -> Result<Option<KeyValue>, StoreError> {
        self.with(id, |record| record.to_owned())
    }
}

impl KeyValueRef<'_> {
    /// A copy that owns its bytes.
    pub fn to_owned(&self) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(self.key),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            value: Bytes::copy_from_slice(self.value),
            lease: self.lease,
        }
    }
}
