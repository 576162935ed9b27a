//! The tables and pragmas of the database (`docs/schema.md`), and how a connection to it is opened.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::sql::{DATABASE_FILE, failed};
use crate::store::{StoreError, StoreOptions};

/// The format that this version reads and writes, in SQLite's `user_version`.
pub(crate) const FORMAT: u32 = 1;

/// Marks the file as ours, in SQLite's `application_id` ("dqlt").
const APPLICATION_ID: u32 = 0x6471_6c74;

/// Statements that one connection keeps prepared.
const STATEMENTS_MAX: usize = 96;

/// SQLite's WAL file is cut to this size, bytes, when it begins anew.
const WAL_LIMIT_BYTES: i64 = 64 << 20;

/// How long the writer waits for a checkpoint that begins the WAL anew.
const WRITER_WAIT_MS: u64 = 10_000;

const TABLES: &str = "
CREATE TABLE history(
    id INTEGER PRIMARY KEY, name BLOB NOT NULL, create_revision INTEGER NOT NULL, version INTEGER NOT NULL,
    lease INTEGER NOT NULL, deleted INTEGER NOT NULL, prev_id INTEGER NOT NULL, value BLOB NOT NULL);
CREATE TABLE current(
    name BLOB NOT NULL PRIMARY KEY, id INTEGER NOT NULL, create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL, lease INTEGER NOT NULL, deleted INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX current_by_lease ON current(lease) WHERE lease <> 0;
CREATE TABLE lease(id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL);
CREATE TABLE alarm(
    member INTEGER NOT NULL, alarm INTEGER NOT NULL, PRIMARY KEY(member, alarm)) WITHOUT ROWID;
CREATE TABLE member(id INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE removed(id INTEGER PRIMARY KEY);
CREATE TABLE identity(
    member INTEGER PRIMARY KEY, boot INTEGER NOT NULL, low INTEGER NOT NULL, settled BLOB NOT NULL);
CREATE TABLE meta(
    one INTEGER PRIMARY KEY CHECK(one = 1),
    revision INTEGER NOT NULL, compact_revision INTEGER NOT NULL, compact_next_id INTEGER NOT NULL,
    applied_term INTEGER, applied_node INTEGER, applied_index INTEGER,
    membership_term INTEGER, membership_node INTEGER, membership_index INTEGER, membership BLOB);
INSERT INTO meta VALUES(1, 1, -1, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
";

/// The database file of a store's folder.
pub(crate) fn database_path(folder: &Path) -> PathBuf {
    folder.join(DATABASE_FILE)
}

/// Opens or creates the database and answers the connection that writes.
pub(crate) fn open_writer(folder: &Path, options: &StoreOptions) -> Result<Connection, StoreError> {
    let path = database_path(folder);
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(failed("open the database"))?;
    check_format(&connection, &path)?;
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={}; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL;",
            options.page_size_bytes
        ))
        .map_err(failed("choose the database's format"))?;
    set_up(&connection, options.writer_cache_bytes)?;
    create(&mut connection)?;
    // The folder's entries must be durable before the log may forget what a checkpoint has moved here.
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| StoreError::Folder { path: folder.to_path_buf(), source })?;
    Ok(connection)
}

/// Opens the database for reading or checkpointing.
pub(crate) fn open_other(folder: &Path, cache_bytes: usize) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database_path(folder), flags)
        .map_err(failed("open another connection"))?;
    set_up(&connection, cache_bytes)?;
    Ok(connection)
}

fn set_up(connection: &Connection, cache_bytes: usize) -> Result<(), StoreError> {
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; PRAGMA temp_store=MEMORY;
             PRAGMA secure_delete=OFF; PRAGMA journal_size_limit={WAL_LIMIT_BYTES}; PRAGMA cache_size=-{};",
            cache_bytes / 1024
        ))
        .map_err(failed("set the connection up"))?;
    connection
        .busy_timeout(std::time::Duration::from_millis(WRITER_WAIT_MS))
        .map_err(failed("set the connection's patience"))?;
    // SQLite would checkpoint when the last connection closes: every checkpoint is made, and told, by the checkpointer.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(failed("turn checkpoints on closing off"))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(())
}

/// A file that is not a store, or one of a newer version, is refused before anything is written to it.
fn check_format(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let read = |sql: &str| {
        connection.query_row(sql, [], |row| row.get::<_, u32>(0)).map_err(|source| {
            match failed("read the database's format")(source) {
                StoreError::Corrupt { detail, .. } => {
                    StoreError::Corrupt { path: path.to_path_buf(), detail }
                }
                other => other,
            }
        })
    };
    let found = read("PRAGMA user_version")?;
    if found > FORMAT {
        return Err(StoreError::Format { path: path.to_path_buf(), found, expected: FORMAT });
    }
    let application = read("PRAGMA application_id")?;
    let tables = read("SELECT count(*) FROM sqlite_schema")?;
    if tables > 0 && (application != APPLICATION_ID || found == 0) {
        return Err(StoreError::Corrupt {
            path: path.to_path_buf(),
            detail: "this SQLite database was not made by dqlited".to_owned(),
        });
    }
    Ok(())
}

fn create(connection: &mut Connection) -> Result<(), StoreError> {
    let exists = connection
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'meta'", [], |row| row.get::<_, i64>(0))
        .map_err(failed("look for the tables"))?;
    if exists > 0 {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(failed("create the tables"))?;
    transaction
        .execute_batch(&format!(
            "{TABLES} PRAGMA user_version={FORMAT}; PRAGMA application_id={APPLICATION_ID};"
        ))
        .map_err(failed("create the tables"))?;
    transaction.commit().map_err(failed("create the tables"))
}
