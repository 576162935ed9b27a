//! The history records that etcd holds at a compact revision, whether or not this member has deleted the others yet.

use rusqlite::Connection;

use crate::compact::is_finished;
use crate::meta::Snapshot;
use crate::record::Chain;
use crate::sql::{failed, first_id, last_id, prepare};
use crate::store::StoreError;

/// The newest record at or below a revision of each key that has one, as ids in order.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    /// Live ones.
    pub live: Vec<i64>,
    /// Tombstones.
    pub dead: Vec<i64>,
}

impl Newest {
    /// Looks at every key. Only records at or below `at_most` are kept in the answer, `any_live` counts all.
    pub fn load(connection: &Connection, revision: i64, at_most: i64) -> Result<(Newest, bool), StoreError> {
        const CONTEXT: &str = "look for each key's newest record";
        let mut newest = Newest::default();
        let mut any_live = false;
        let mut chain = Chain::new(connection)?;
        let mut statement = prepare(connection, "SELECT id, deleted FROM current", CONTEXT)?;
        let mut rows = statement.query([]).map_err(failed(CONTEXT))?;
        while let Some(row) = rows.next().map_err(failed(CONTEXT))? {
            let read = || rusqlite::Result::Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?));
            let (id, deleted) = read().map_err(failed(CONTEXT))?;
            let Some((id, deleted)) = chain.at(id, deleted, last_id(revision))? else { continue };
            any_live |= !deleted;
            if id <= last_id(at_most) {
                if deleted { newest.dead.push(id) } else { newest.live.push(id) }
            }
        }
        newest.live.sort_unstable();
        newest.dead.sort_unstable();
        Ok((newest, any_live))
    }
}

/// Answers, for ids that are asked in rising order, whether etcd holds the record.
pub(crate) struct Retained {
    compact_revision: i64,
    /// `None`: everything in the table is retained.
    newest: Option<Newest>,
}

impl Retained {
    pub fn load(connection: &Connection, snapshot: &Snapshot) -> Result<Retained, StoreError> {
        let compact_revision = snapshot.compact_revision;
        let newest = if is_finished(compact_revision, snapshot.compact_next_id) {
            None
        } else {
            Some(Newest::load(connection, compact_revision, compact_revision)?.0)
        };
        Ok(Retained { compact_revision, newest })
    }

    /// etcd holds the record `id`.
    pub fn contains(&self, id: i64) -> bool {
        let Some(newest) = &self.newest else { return true };
        id > last_id(self.compact_revision)
            || newest.live.binary_search(&id).is_ok()
            || (id >= first_id(self.compact_revision) && newest.dead.binary_search(&id).is_ok())
    }
}
