//! The store's face: one writer, any number of readers, one checkpointer, each with a connection of its own.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::command::Command;
use crate::fatal::OnFatal;
use crate::ids::{Identity, LogId, Revision};
use crate::planted::Planted;
use crate::schema;

pub use crate::checkpoint::{Checkpoint, CheckpointMode, Checkpointer};
pub use crate::reader::Reader;
pub use crate::writer::Writer;

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
    /// The disk is full (SQLITE_FULL): the open SQLite transaction is lost, the writer is back at its last commit.
    #[error("the disk is full")]
    Full,
    /// The store's folder cannot be made or synced.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a store of this version.
    #[error("{path}: {}", other_format(*found, *expected))]
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
    /// The disk does not give or take the database's bytes (SQLITE_IOERR).
    #[error("{path}: {detail}")]
    Disk {
        /// The database file.
        path: PathBuf,
        /// What failed.
        detail: String,
    },
}

fn other_format(found: u32, expected: u32) -> String {
    if found > expected {
        format!(
            "a newer version wrote it: format {found}, this one reads up to {expected}; start the newer version"
        )
    } else {
        format!("its format is {found}, which this version does not read: it reads {expected}")
    }
}

impl StoreError {
    /// The database is damaged or its disk fails: nothing that is tried again makes it good, and whoever goes on would
    /// serve what it can no longer vouch for. The process must end (rule D5, `docs/consistency.md`). Not so a full disk,
    /// a lock that somebody holds, memory or file descriptors that have run out.
    pub fn is_fatal(&self) -> bool {
        match self {
            StoreError::Corrupt { .. } | StoreError::Disk { .. } => true,
            StoreError::Sqlite { .. }
            | StoreError::Full
            | StoreError::Folder { .. }
            | StoreError::Format { .. }
            | StoreError::Gap { .. }
            | StoreError::UnknownCommand(_) => false,
        }
    }
}

/// How the store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// SQLite's page size; only a new database takes it.
    pub page_size_bytes: u32,
    /// SQLite page cache of the writer, bytes.
    pub writer_cache_bytes: usize,
    /// SQLite page cache of each reader, bytes.
    pub reader_cache_bytes: usize,
    /// The front part of the database file that each reader maps into memory, bytes; 0 for none. What is mapped needs no
    /// page cache and stays warm over commits; resident pages of it count for each reader.
    pub reader_mapped_bytes: usize,
    /// A bug to carry.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<crate::PlantedBug>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            page_size_bytes: 4096,
            writer_cache_bytes: 8 << 20,
            reader_cache_bytes: 8 << 20,
            reader_mapped_bytes: 32 << 20,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
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
    folder: PathBuf,
    options: StoreOptions,
    on_fatal: OnFatal,
}

impl Store {
    /// Opens or creates the database in `folder`, which is made if it is not there, and makes its one writer.
    pub fn open(folder: &Path, options: StoreOptions) -> Result<(Store, Writer), StoreError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| StoreError::Folder { path: folder.to_path_buf(), source })?;
        let writer = Writer::new(schema::open_writer(folder, &options)?, Planted::of(&options))?;
        Ok((Store { folder: folder.to_path_buf(), options, on_fatal: OnFatal::default() }, writer))
    }

    /// Has each fatal error ([`StoreError::is_fatal`]) that a reader made from here on meets told to `report`: before it
    /// is answered, and also if whoever reads drops it. The writer and the checkpointer answer theirs to their owner.
    pub fn on_fatal(&mut self, report: impl Fn(&StoreError) + Send + Sync + 'static) {
        self.on_fatal = OnFatal::new(report);
    }

    /// A new reader with a connection of its own.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.folder, &self.options, self.on_fatal.clone())
    }

    /// The connection that checkpoints.
    pub fn checkpointer(&self) -> Result<Checkpointer, StoreError> {
        Checkpointer::open(&self.folder)
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
