//! Bridges between rusqlite and the store's own errors, and the numbering of history records.

use std::path::PathBuf;

use rusqlite::{CachedStatement, Connection, Error, ErrorCode, ffi};

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

/// Names the act that failed. A full disk, a failing one and a damaged file are errors of their own: callers act on them.
pub(crate) fn failed(context: &'static str) -> impl FnOnce(Error) -> StoreError {
    move |source| {
        let path = PathBuf::from(DATABASE_FILE);
        let detail = format!("{context}: {source}");
        match &source {
            // The schema and the statements allow neither another type nor a missing row: the bytes have changed.
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::QueryReturnedNoRows => return StoreError::Corrupt { path, detail },
            _ => {}
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Corrupt { path, detail }
            }
            Some(ErrorCode::SystemIoFailure) if !may_pass(&source) => StoreError::Disk { path, detail },
            _ => StoreError::Sqlite { context, source },
        }
    }
}

/// SQLITE_IOERR has kinds that say nothing of a failing disk: memory has run out, a lock was not had, or the index of the
/// WAL (`store.db-shm`) could not grow, as on a full disk.
fn may_pass(error: &Error) -> bool {
    matches!(
        error.sqlite_error().map(|error| error.extended_code),
        Some(
            ffi::SQLITE_IOERR_NOMEM
                | ffi::SQLITE_IOERR_BLOCKED
                | ffi::SQLITE_IOERR_SHMSIZE
                | ffi::SQLITE_IOERR_SHMMAP
        )
    )
}

/// A prepared statement out of the connection's cache.
pub(crate) fn prepare<'c>(
    connection: &'c Connection,
    sql: &str,
    context: &'static str,
) -> Result<CachedStatement<'c>, StoreError> {
    connection.prepare_cached(sql).map_err(failed(context))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_code(extended_code: i32) -> StoreError {
        failed("read")(Error::SqliteFailure(ffi::Error::new(extended_code), None))
    }

    #[test]
    fn damage_and_a_failing_disk_are_fatal_and_name_the_file() {
        for code in [
            ffi::SQLITE_CORRUPT,
            ffi::SQLITE_CORRUPT_INDEX,
            ffi::SQLITE_NOTADB,
            ffi::SQLITE_IOERR,
            ffi::SQLITE_IOERR_READ,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_IOERR_TRUNCATE,
            ffi::SQLITE_IOERR_LOCK,
        ] {
            let error = of_code(code);
            assert!(error.is_fatal(), "{code}: {error}");
            assert!(error.to_string().starts_with("store.db: read: "), "{error}");
        }
        for error in [Error::QueryReturnedNoRows, Error::IntegralValueOutOfRange(0, -1)] {
            assert!(failed("read")(error).is_fatal());
        }
    }

    #[test]
    fn what_passes_is_not_fatal() {
        for code in [
            ffi::SQLITE_BUSY,
            ffi::SQLITE_BUSY_SNAPSHOT,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_INTERRUPT,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_FULL,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_IOERR_NOMEM,
            ffi::SQLITE_IOERR_BLOCKED,
            ffi::SQLITE_IOERR_SHMSIZE,
            ffi::SQLITE_IOERR_SHMMAP,
        ] {
            let error = of_code(code);
            assert!(!error.is_fatal(), "{code}: {error}");
        }
        assert!(matches!(of_code(ffi::SQLITE_FULL), StoreError::Full));
    }
}
