//! The one row of `meta`: where the log and the revisions stand, changed in the same SQLite transaction as the rows.

use bytes::Bytes;
use rusqlite::{Connection, Row};

use crate::ids::{LeaderId, LogId, MemberId};
use crate::sql::{failed, prepare};
use crate::store::StoreError;

/// The row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub applied: Option<LogId>,
    pub revision: i64,
    pub compact_revision: i64,
    /// The first history id that deleting behind the compact revision has not looked at.
    pub compact_next_id: i64,
    pub membership: Option<(LogId, Bytes)>,
}

/// The part that each read needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot {
    pub applied: Option<LogId>,
    pub revision: i64,
    pub compact_revision: i64,
    pub compact_next_id: i64,
}

fn log_id(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<LogId>> {
    let Some(term) = row.get::<_, Option<i64>>(first)? else { return Ok(None) };
    let node = row.get::<_, i64>(first + 1)?;
    let index = row.get::<_, i64>(first + 2)?;
    let leader = LeaderId { term: term as u64, node: MemberId(node as u64) };
    Ok(Some(LogId { leader, index: index as u64 }))
}

impl Snapshot {
    /// Reads it; in a SQLite transaction that has not read yet this is what fixes the snapshot.
    pub fn load(connection: &Connection) -> Result<Snapshot, StoreError> {
        const CONTEXT: &str = "read where the store stands";
        prepare(
            connection,
            "SELECT revision, compact_revision, compact_next_id, applied_term, applied_node, applied_index
             FROM meta WHERE one = 1",
            CONTEXT,
        )?
        .query_row([], |row| {
            Ok(Snapshot {
                revision: row.get(0)?,
                compact_revision: row.get(1)?,
                compact_next_id: row.get(2)?,
                applied: log_id(row, 3)?,
            })
        })
        .map_err(failed(CONTEXT))
    }
}

impl Meta {
    pub fn load(connection: &Connection) -> Result<Meta, StoreError> {
        const CONTEXT: &str = "read where the store stands";
        let snapshot = Snapshot::load(connection)?;
        let membership = prepare(
            connection,
            "SELECT membership_term, membership_node, membership_index, membership FROM meta WHERE one = 1",
            CONTEXT,
        )?
        .query_row([], |row| {
            let Some(log_id) = log_id(row, 0)? else { return Ok(None) };
            Ok(Some((log_id, Bytes::from(row.get::<_, Vec<u8>>(3)?))))
        })
        .map_err(failed(CONTEXT))?;
        Ok(Meta {
            applied: snapshot.applied,
            revision: snapshot.revision,
            compact_revision: snapshot.compact_revision,
            compact_next_id: snapshot.compact_next_id,
            membership,
        })
    }

    pub fn write(&self, connection: &Connection) -> Result<(), StoreError> {
        const CONTEXT: &str = "write where the store stands";
        let part = |log_id: Option<LogId>| {
            (
                log_id.map(|log_id| log_id.leader.term as i64),
                log_id.map(|log_id| log_id.leader.node.0 as i64),
                log_id.map(|log_id| log_id.index as i64),
            )
        };
        let applied = part(self.applied);
        let membership = part(self.membership.as_ref().map(|(log_id, _)| *log_id));
        prepare(
            connection,
            "UPDATE meta SET revision = ?1, compact_revision = ?2, compact_next_id = ?3, applied_term = ?4,
             applied_node = ?5, applied_index = ?6, membership_term = ?7, membership_node = ?8,
             membership_index = ?9, membership = ?10 WHERE one = 1",
            CONTEXT,
        )?
        .execute((
            self.revision,
            self.compact_revision,
            self.compact_next_id,
            applied.0,
            applied.1,
            applied.2,
            membership.0,
            membership.1,
            membership.2,
            self.membership.as_ref().map(|(_, bytes)| &bytes[..]),
        ))
        .map_err(failed(CONTEXT))?;
        Ok(())
    }
}
