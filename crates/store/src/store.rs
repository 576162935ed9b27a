//! The store's face: one writer, any number of readers, one checkpointer, each with a connection of its own.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::command::Command;
use crate::ids::{Identity, LogId, Revision};
use crate::read::ReadView;
use crate::response::Applied;

/// Changes that one revision can number: `id = revision << 22 | sub` is a SQLite rowid.
pub const CHANGES_PER_REVISION_MAX: i64 = 1 << 22;

/// Why the store cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite says so; `context` names the act.
    #[error("{context}: {source}")]
    Sqlite {
        /// What was done.
        context: &'static str,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// The disk is full (SQLITE_FULL): the open SQLite transaction may be lost, see [`Writer::is_transaction_lost`].
    #[error("the disk is full")]
    Full,
    /// The file is not a store of this version.
    #[error("{path}: format {found} is not readable here, this version reads {expected}")]
    Format {
        /// The database file.
        path: PathBuf,
        /// Found.
        found: u32,
        /// Expected.
        expected: u32,
    },
    /// Entries do not follow on one another.
    #[error("entry {found} does not follow applied {applied}")]
    Gap {
        /// Last applied.
        applied: LogId,
        /// Offered.
        found: LogId,
    },
    /// A command kind that this version does not know.
    #[error("entry {0} holds a command that this version does not know: start a newer version")]
    UnknownCommand(LogId),
    /// The database is damaged.
    #[error("{path}: {detail}")]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What does not hold.
        detail: String,
    },
}

/// How the store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The member it belongs to: NOSPACE and CORRUPT alarms are looked up for the whole cluster, this one is for logs.
    pub page_size_bytes: u32,
    /// SQLite page cache of the writer, bytes.
    pub writer_cache_bytes: usize,
    /// SQLite page cache of each reader, bytes.
    pub reader_cache_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions { page_size_bytes: 4096, writer_cache_bytes: 16 << 20, reader_cache_bytes: 8 << 20 }
    }
}

/// An entry as the log hands it to the store.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place.
    pub log_id: LogId,
    /// What it says.
    pub body: EntryBody,
}

/// What an entry says.
#[derive(Clone, Debug)]
pub enum EntryBody {
    /// A new leader's first entry.
    Blank,
    /// A membership of the consensus, opaque here; the last one is kept in `meta`.
    Membership(Bytes),
    /// A command and who proposed it.
    Command(Identity, Command),
}

/// Tells the writer which records-before somebody will want, so that others are not read from disk.
pub trait Interest {
    /// A watcher that asks for `prev_kv` covers this key.
    fn wants_previous(&self, key: &[u8]) -> bool;
}

/// Nobody wants a record before.
#[derive(Clone, Copy, Debug)]
pub struct NoInterest;

impl Interest for NoInterest {
    fn wants_previous(&self, _key: &[u8]) -> bool {
        false
    }
}

/// What the store remembers of the log at its last SQLite commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedState {
    /// Last applied entry, `None` when fresh.
    pub log_id: Option<LogId>,
    /// The last membership entry's id and bytes.
    pub membership: Option<(LogId, Bytes)>,
    /// Revision.
    pub revision: Revision,
    /// Compact revision.
    pub compact_revision: Revision,
}

/// An open store: a folder with one SQLite database.
#[derive(Debug)]
pub struct Store {
    _path: PathBuf,
}

impl Store {
    /// Opens or creates the database in `folder` and makes its one writer.
    pub fn open(_folder: &Path, _options: StoreOptions) -> Result<(Store, Writer), StoreError> {
        unimplemented!()
    }
    /// A new reader with a connection of its own.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        unimplemented!()
    }
    /// The connection that checkpoints.
    pub fn checkpointer(&self) -> Result<Checkpointer, StoreError> {
        unimplemented!()
    }
}

/// The one connection that changes the database. It belongs to the apply thread.
#[derive(Debug)]
pub struct Writer {
    _private: (),
}

impl Writer {
    /// The state at this moment, the open SQLite transaction included.
    pub fn state(&self) -> AppliedState {
        unimplemented!()
    }
    /// Executes entries in the open SQLite transaction (begins one if there is none). Nothing is visible to readers
    /// before [`Writer::commit`]. Entries at or below the applied one are an error (Gap), as is a hole.
    ///
    /// On an error nothing of the batch counts: the writer has rolled back to its last commit, and `state()` says where
    /// that is, so that the caller can hand in the entries after it again (rule D5, "loss of the transaction").
    pub fn apply(
        &mut self,
        _entries: &[Entry],
        _interest: &dyn Interest,
    ) -> Result<Vec<Applied>, StoreError> {
        unimplemented!()
    }
    /// Commits the open SQLite transaction; after it readers see everything applied. No-op without one.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        unimplemented!()
    }
    /// Bytes that wait in the open SQLite transaction, roughly.
    pub fn uncommitted_bytes(&self) -> usize {
        unimplemented!()
    }
    /// Deletes up to `records_max` history records that the compact revision has made invisible, in the open SQLite
    /// transaction. Answers whether some are left. Progress survives restarts; reads and HashKV never see a difference.
    pub fn compact_step(&mut self, _records_max: usize) -> Result<CompactProgress, StoreError> {
        unimplemented!()
    }
    /// Gives free pages back to the file system, up to `pages_max`. Answers whether some are left.
    pub fn vacuum_step(&mut self, _pages_max: usize) -> Result<bool, StoreError> {
        unimplemented!()
    }
}

/// Where deleting behind the compact revision stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactProgress {
    /// Records deleted in this step.
    pub deleted: usize,
    /// Deletion has reached the compact revision.
    pub finished: bool,
}

/// One reading connection.
#[derive(Debug)]
pub struct Reader {
    _private: (),
}

impl Reader {
    /// Begins a read transaction and hands the view to `read`. Ends it on the way out.
    pub fn with_view<T>(&mut self, _read: impl FnOnce(&dyn ReadView) -> T) -> Result<T, StoreError> {
        unimplemented!()
    }
    /// Like [`Reader::with_view`], but on the snapshot kept since an earlier call if it holds `at_least`; otherwise a new
    /// one is begun and kept. The owner must end it by [`Reader::release`] within 100 ms even if no read comes (D3).
    pub fn with_kept_view<T>(
        &mut self,
        _at_least: LogId,
        _read: impl FnOnce(&dyn ReadView) -> T,
    ) -> Result<T, StoreError> {
        unimplemented!()
    }
    /// Ends the kept snapshot, if any.
    pub fn release(&mut self) {
        unimplemented!()
    }
}

/// The connection that moves SQLite's WAL into the database file.
#[derive(Debug)]
pub struct Checkpointer {
    _private: (),
}

/// How much a checkpoint must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointMode {
    /// As much as readers and the writer allow.
    Passive,
    /// Everything, and the WAL begins anew; needs that no transaction is open (the apply thread holds still).
    Restart,
}

/// A checkpoint's outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// What is now surely in the synced database file: read before the checkpoint, valid because every frame was moved.
    /// `None` when it was partial.
    pub durable: Option<LogId>,
    /// Frames left in the WAL.
    pub frames_left: u32,
    /// Size of the WAL file, bytes.
    pub wal_bytes: u64,
}

impl Checkpointer {
    /// Runs one checkpoint.
    pub fn checkpoint(&mut self, _mode: CheckpointMode) -> Result<Checkpoint, StoreError> {
        unimplemented!()
    }
}
