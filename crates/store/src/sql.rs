//! Bridges between rusqlite and the store's own errors, and the numbering of history records.

use std::path::PathBuf;

use rusqlite::{CachedStatement, Connection, ErrorCode};

use crate::store::{CHANGES_PER_REVISION_MAX, StoreError};

/// The database's name in the store's folder.
pub(crate) const DATABASE_FILE: &str = "store.db";

/// Bits of a history id that number the changes within one revision.
const SUB_BITS: u32 = CHANGES_PER_REVISION_MAX.trailing_zeros();

/// The id of a change: its revision in the high bits, its place within the revision in the low ones.
pub(crate) fn history_id(revision: i64, sub: i64) -> i64 {
    debug_assert!((0..CHANGES_PER_REVISION_MAX).contains(&sub), "sub revision {sub} out of range");
    (revision << SUB_BITS) | sub
}

/// The first id that a revision can have.
pub(crate) fn first_id(revision: i64) -> i64 {
    revision << SUB_BITS
}

/// The last id that a revision can have.
pub(crate) fn last_id(revision: i64) -> i64 {
    (revision << SUB_BITS) | (CHANGES_PER_REVISION_MAX - 1)
}

/// The revision of a change.
pub(crate) fn revision_of(id: i64) -> i64 {
    id >> SUB_BITS
}

/// The place of a change within its revision.
pub(crate) fn sub_of(id: i64) -> i64 {
    id & (CHANGES_PER_REVISION_MAX - 1)
}

/// Names the act that failed. A full disk and a damaged file are errors of their own: callers act on them.
pub(crate) fn failed(context: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { path: PathBuf::from(DATABASE_FILE), detail: format!("{context}: {source}") }
        }
        _ => StoreError::Sqlite { context, source },
    }
}

/// A prepared statement out of the connection's cache.
pub(crate) fn prepare<'c>(
    connection: &'c Connection,
    sql: &str,
    context: &'static str,
) -> Result<CachedStatement<'c>, StoreError> {
    connection.prepare_cached(sql).map_err(failed(context))
}
