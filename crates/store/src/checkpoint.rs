//! Moves SQLite's WAL into the database file and says what is durable there (rule D3, `docs/consistency.md`).

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::ids::LogId;
use crate::meta::Snapshot;
use crate::schema::open_other;
use crate::sql::failed;
use crate::store::StoreError;

/// Page cache of the checkpointing connection, bytes: it reads one row.
const CACHE_BYTES: usize = 64 << 10;

/// What stands before each page in the WAL (SQLite file format, section 4).
const FRAME_HEADER_BYTES: u64 = 24;

/// How long a RESTART checkpoint waits for readers whose snapshots are about to end.
const RESTART_WAIT: Duration = Duration::from_millis(50);

/// The connection that moves SQLite's WAL into the database file.
#[derive(Debug)]
pub struct Checkpointer {
    connection: Connection,
    /// Bytes of one frame in the WAL.
    frame_bytes: u64,
}

/// How much a checkpoint must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointMode {
    /// As much as readers and the writer allow.
    Passive,
    /// Everything, and the WAL begins anew; needs that no transaction is open (the apply thread holds still).
    Restart,
    /// The same, and the WAL's file is emptied: the next start has nothing to read.
    Truncate,
}

/// A checkpoint's outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// What is now surely in the synced database file: read before the checkpoint, valid because every frame was moved.
    /// `None` when it was partial (or when nothing has ever been applied).
    pub durable: Option<LogId>,
    /// Frames left in the WAL.
    pub frames_left: u32,
    /// Bytes of the WAL that are in use: the file keeps its size when the WAL begins anew.
    pub wal_bytes: u64,
}

impl Checkpointer {
    pub(crate) fn open(folder: &Path) -> Result<Checkpointer, StoreError> {
        let connection = open_other(folder, CACHE_BYTES)?;
        connection.busy_timeout(RESTART_WAIT).map_err(failed("set the checkpoint's patience"))?;
        let page_bytes = connection
            .query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0))
            .map_err(failed("read the page size"))?;
        Ok(Checkpointer { connection, frame_bytes: u64::from(page_bytes) + FRAME_HEADER_BYTES })
    }

    /// Runs one checkpoint. A partial one is no error: `frames_left` says so.
    pub fn checkpoint(&mut self, mode: CheckpointMode) -> Result<Checkpoint, StoreError> {
        // Read first, and in a SQLite transaction of its own that has ended: what it says is in the frames that the
        // checkpoint is about to move.
        let candidate = Snapshot::load(&self.connection)?.applied;
        let sql = match mode {
            CheckpointMode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
            CheckpointMode::Restart => "PRAGMA wal_checkpoint(RESTART)",
            CheckpointMode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
        };
        let (busy, frames, moved) = self
            .connection
            .query_row(sql, [], |row| {
                Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })
            .map_err(failed("checkpoint"))?;
        let is_whole = !busy && frames >= 0 && moved == frames;
        Ok(Checkpoint {
            durable: if is_whole { candidate } else { None },
            frames_left: u32::try_from((frames - moved).max(0)).unwrap_or(u32::MAX),
            wal_bytes: frames.max(0) as u64 * self.frame_bytes,
        })
    }
}
