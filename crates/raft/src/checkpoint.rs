//! Moves SQLite's WAL into the database file and says what is durable there.
//!
//! Partial checkpoints run beside the writer. They never let the WAL begin anew under load, since SQLite starts it over
//! only when a write begins on a WAL that is moved whole; so when it passes its bound the apply loop holds still for one
//! that moves everything (`docs/consistency.md`, rule D3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dqlited_store::LogId;
use dqlited_store::store::{Checkpoint, CheckpointMode, Checkpointer, StoreError};
use tokio::sync::Notify;

use crate::apply_control::ApplyControl;
use crate::durable_state::DurableState;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::planted::Bug;
use crate::readers::KeptReaders;
use crate::visible::Progress;
use crate::worker::{Next, Worker};

/// A checkpoint is due after so many bytes of keys and values: a page that is changed again before costs nothing more.
pub(crate) const CHECKPOINT_BYTES: u64 = 8 << 20;
/// Bytes of pages in the WAL for a byte of keys and values, roughly: puts of 1 KiB write whole pages of two tables.
const WAL_BYTES_A_BYTE: u64 = 4;
/// Or after this time, if something was committed.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(2);
/// How often an idle member looks for commits that it was not signalled for.
const IDLE_LOOK: Duration = Duration::from_secs(1);
/// Beyond this size the WAL begins anew.
const WAL_BYTES_MAX: u64 = 64 << 20;
/// The same while the disk is nearly full.
const WAL_BYTES_MAX_WHEN_SHORT: u64 = 8 << 20;
/// How long the next attempt is put off when some reader kept the WAL from beginning anew: a backup may take minutes,
/// and each attempt holds up all writes for as long as the store waits for readers.
const RESTART_PAUSE: Duration = Duration::from_secs(2);
/// How long the apply loop may take to hold still before it is looked at again.
const HOLD_PATIENCE: Duration = Duration::from_millis(50);

/// What the checkpointer shares with the rest of the member.
#[derive(Clone)]
pub(crate) struct CheckpointShared {
    pub control: Arc<ApplyControl>,
    pub progress: Arc<Progress>,
    pub durable: Arc<DurableState>,
    pub kept: Arc<KeptReaders>,
    pub failure: Failure,
    pub environment: Environment,
    /// Checkpoints run so far.
    pub count: Arc<AtomicU64>,
    /// Notified when more is durable: the log behind it may be purged.
    pub is_more_durable: Arc<Notify>,
}

/// The checkpointer.
pub(crate) struct CheckpointLoop {
    checkpointer: Checkpointer,
    shared: CheckpointShared,
    ended_at: Instant,
    wal_bytes: u64,
    restart_after: Instant,
    /// The apply loop has been asked to hold still and must be let go again.
    is_restarting: bool,
    is_stopping: Arc<AtomicBool>,
}

impl CheckpointLoop {
    pub(crate) fn new(
        checkpointer: Checkpointer,
        shared: CheckpointShared,
        is_stopping: Arc<AtomicBool>,
    ) -> CheckpointLoop {
        let ended_at = shared.environment.clock.now();
        CheckpointLoop {
            checkpointer,
            shared,
            ended_at,
            wal_bytes: 0,
            restart_after: ended_at,
            is_restarting: false,
            is_stopping,
        }
    }

    fn now(&self) -> Instant {
        self.shared.environment.clock.now()
    }

    fn try_turn(&mut self) -> Result<Next, StoreError> {
        let marks = self.shared.progress.marks();
        let has_work = marks.visible > marks.durable;
        if self.is_stopping.load(Ordering::Acquire) {
            // The apply loop has ended: everything is committed and nobody writes.
            self.shared.kept.release_all();
            self.checkpoint(CheckpointMode::Truncate)?;
            return Ok(Next::End);
        }
        let wal_bytes = self.wal_bytes + self.shared.control.committed_bytes() * WAL_BYTES_A_BYTE;
        let control = &self.shared.control;
        let bytes_max = if control.is_short_of_space() { WAL_BYTES_MAX_WHEN_SHORT } else { WAL_BYTES_MAX };
        let is_restart_due = wal_bytes > bytes_max || control.is_cut_due() || control.is_wal_to_be_emptied();
        if self.is_restarting || (is_restart_due && self.now() >= self.restart_after) {
            return self.restart();
        }
        let due = self.ended_at + CHECKPOINT_INTERVAL;
        if has_work && (self.now() >= due || self.shared.control.committed_bytes() >= CHECKPOINT_BYTES) {
            self.checkpoint(CheckpointMode::Passive)?;
            return Ok(Next::At(self.ended_at + CHECKPOINT_INTERVAL));
        }
        let now = self.now();
        // The next commit signals, unless it crosses this look.
        Ok(Next::At(if has_work { due.max(now + CHECKPOINT_INTERVAL / 4) } else { now + IDLE_LOOK }))
    }

    fn checkpoint(&mut self, mode: CheckpointMode) -> Result<Checkpoint, StoreError> {
        let started = self.now();
        self.shared.control.take_committed_bytes();
        let done = self.checkpointer.checkpoint(mode)?;
        self.ended_at = self.now();
        self.shared.count.fetch_add(1, Ordering::Relaxed);
        self.wal_bytes = match (mode, done.durable) {
            // The next commit writes from the WAL's beginning again, whatever size the file has.
            (CheckpointMode::Restart | CheckpointMode::Truncate, Some(_)) => 0,
            _ => done.wal_bytes,
        };
        let took = self.ended_at.saturating_duration_since(started);
        self.shared.environment.observer.checkpointed(&done, took);
        if let Some(durable) = done.durable {
            self.set_durable(durable);
        } else if self.shared.environment.has(Bug::PurgeAheadOfDurable) {
            self.set_durable(self.shared.progress.marks().applied);
        }
        Ok(done)
    }

    fn set_durable(&self, durable: LogId) {
        self.shared.progress.set_durable(durable);
        self.shared.durable.set_durable(durable);
        self.shared.is_more_durable.notify_one();
    }

    /// Everybody holds still while the whole WAL is moved, so that it begins anew.
    fn restart(&mut self) -> Result<Next, StoreError> {
        if !self.is_restarting {
            // Most of it is moved beside the writer first: writes wait for the rest only.
            self.checkpoint(CheckpointMode::Passive)?;
            self.is_restarting = true;
        }
        if !self.shared.control.hold() {
            return Ok(Next::At(self.now() + HOLD_PATIENCE));
        }
        self.shared.kept.release_all();
        let control = &self.shared.control;
        // A WAL that begins anew keeps its file: where space is short the file gives it back.
        let is_emptying = control.is_short_of_space() || control.is_wal_to_be_emptied();
        let mode = if is_emptying { CheckpointMode::Truncate } else { CheckpointMode::Restart };
        let outcome = self.checkpoint(mode);
        let control = &self.shared.control;
        if outcome.as_ref().is_ok_and(|done| done.durable.is_some()) {
            control.is_cut();
            if is_emptying {
                control.wal_is_emptied();
            }
        }
        control.release();
        self.is_restarting = false;
        self.restart_after = match outcome?.durable {
            Some(_) => self.ended_at,
            None => self.ended_at + RESTART_PAUSE,
        };
        Ok(Next::At(self.ended_at + CHECKPOINT_INTERVAL / 4))
    }
}

impl Worker for CheckpointLoop {
    fn turn(&mut self) -> Next {
        if self.shared.failure.has_happened() {
            return Next::End;
        }
        self.try_turn().unwrap_or_else(|error| {
            self.shared.failure.report(format!("checkpoint of the store: {error}"));
            Next::End
        })
    }
}
