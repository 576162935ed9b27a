//! Deletes what the compact revision has made invisible, in slices; each member by itself, nothing reads a difference.

use rusqlite::Connection;

use crate::meta::Meta;
use crate::sql::{failed, first_id, last_id, prepare, revision_of};
use crate::store::{CompactProgress, StoreError};

/// One slice: looks at up to `records_max` records at or below the compact revision.
///
/// A record that has a successor at or below the compact revision is invisible, and so is a tombstone below it (one at
/// exactly that revision stays for watchers, until the next compaction looks at it again).
pub(crate) fn step(
    connection: &Connection,
    meta: &mut Meta,
    records_max: usize,
) -> Result<CompactProgress, StoreError> {
    const CONTEXT: &str = "delete compacted records";
    if meta.compact_revision <= 0 || meta.compact_next_id > last_id(meta.compact_revision) {
        return Ok(CompactProgress { deleted: 0, finished: true });
    }
    struct Seen {
        id: i64,
        prev_id: i64,
        dead_name: Option<Vec<u8>>,
    }
    let dead_below = first_id(meta.compact_revision);
    let mut select = prepare(
        connection,
        "SELECT id, prev_id, CASE WHEN deleted AND id < ?4 THEN name END FROM history
         WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
        CONTEXT,
    )?;
    let limit = i64::try_from(records_max.max(1)).unwrap_or(i64::MAX);
    let seen = select
        .query_map((meta.compact_next_id, last_id(meta.compact_revision), limit, dead_below), |row| {
            Ok(Seen { id: row.get(0)?, prev_id: row.get(1)?, dead_name: row.get(2)? })
        })
        .and_then(|rows| rows.collect::<Result<Vec<_>, _>>())
        .map_err(failed(CONTEXT))?;
    let mut delete = prepare(connection, "DELETE FROM history WHERE id = ?1", CONTEXT)?;
    let mut forget = prepare(connection, "DELETE FROM current WHERE name = ?1 AND id = ?2", CONTEXT)?;
    let mut deleted = 0;
    for record in &seen {
        if record.prev_id != 0 {
            deleted += delete.execute([record.prev_id]).map_err(failed(CONTEXT))?;
        }
        if let Some(name) = &record.dead_name {
            deleted += delete.execute([record.id]).map_err(failed(CONTEXT))?;
            forget.execute((&name[..], record.id)).map_err(failed(CONTEXT))?;
        }
    }
    let finished = (seen.len() as i64) < limit;
    meta.compact_next_id = match seen.last() {
        Some(last) if !finished => last.id + 1,
        _ => last_id(meta.compact_revision) + 1,
    };
    Ok(CompactProgress { deleted, finished })
}

/// Where deleting goes on once the compact revision rises: at the old one again, whose tombstones have stayed.
pub(crate) fn next_id_after_raise(meta: &Meta) -> i64 {
    meta.compact_next_id.min(first_id(meta.compact_revision.max(0)))
}

/// All that the compact revision has made invisible is deleted.
pub(crate) fn is_finished(compact_revision: i64, compact_next_id: i64) -> bool {
    compact_revision <= 0 || revision_of(compact_next_id) > compact_revision
}
