//! The one thread that changes the store: executes committed entries, tells listeners and proposers, commits lazily.
//!
//! Rules (`docs/consistency.md`): nothing is executed before this member's own log holds it durably (C4); a write is
//! answered when it is executed and committed to SQLite when a reader needs it, by time or by bytes; what a lost SQLite
//! transaction had executed is read from the log and executed again, and told to nobody a second time (D5).

use std::sync::Arc;
use std::time::{Duration, Instant};

use dqlited_log::{Log, LogError};
use dqlited_store::store::{AppliedState, CompactProgress, Entry, EntryBody, Interest, StoreError, Writer};
use dqlited_store::{Applied, LogId, Revision};
use tokio::sync::oneshot;

use crate::apply_control::{ApplyControl, End};
use crate::apply_queue::{ApplyQueue, Committed};
use crate::checkpoint::CHECKPOINT_BYTES;
use crate::codec;
use crate::durable_state::DurableState;
use crate::environment::{Environment, Observer};
use crate::failure::Failure;
use crate::leadership::Leadership;
use crate::listener::ApplyListener;
use crate::planted::Bug;
use crate::proposals::Proposals;
use crate::state_machine;
use crate::type_config::from_stored_log_id;
use crate::visible::Progress;
use crate::worker::{Next, Worker};

/// Entries and bytes of one batch: their proposers are answered together.
const BATCH_ENTRIES_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// An open SQLite transaction of so many bytes is committed: beyond it SQLite would spill its cache (8 MiB).
const UNCOMMITTED_BYTES_MAX: usize = 4 << 20;
/// History records deleted, and free pages given back, in one slice between two batches: some milliseconds.
const COMPACT_RECORDS: usize = 250;
const VACUUM_PAGES: usize = 500;
/// Bytes of such pages.
const VACUUM_BYTES: u64 = VACUUM_PAGES as u64 * 4096;
/// While entries wait, slices may take one part in so many of the thread's time.
const SLICE_SHARE: u32 = 8;
/// Lost transactions in a row, without a commit between them, that end the member.
const LOSSES_MAX: u32 = 3;
const REAPPLY_READ_BYTES: usize = 1 << 20;

/// What executes entries: the store's writer, or a double.
pub(crate) trait Executor: Send + 'static {
    fn state(&self) -> AppliedState;
    fn apply(&mut self, entries: &[Entry], interest: &dyn Interest) -> Result<Vec<Applied>, StoreError>;
    fn commit(&mut self) -> Result<(), StoreError>;
    fn uncommitted_bytes(&self) -> usize;
    fn compact_step(&mut self, records_max: usize) -> Result<CompactProgress, StoreError>;
    fn vacuum_step(&mut self, pages_max: usize) -> Result<bool, StoreError>;
}

impl Executor for Writer {
    fn state(&self) -> AppliedState {
        Writer::state(self)
    }
    fn apply(&mut self, entries: &[Entry], interest: &dyn Interest) -> Result<Vec<Applied>, StoreError> {
        Writer::apply(self, entries, interest)
    }
    fn commit(&mut self) -> Result<(), StoreError> {
        Writer::commit(self)
    }
    fn uncommitted_bytes(&self) -> usize {
        Writer::uncommitted_bytes(self)
    }
    fn compact_step(&mut self, records_max: usize) -> Result<CompactProgress, StoreError> {
        Writer::compact_step(self, records_max)
    }
    fn vacuum_step(&mut self, pages_max: usize) -> Result<bool, StoreError> {
        Writer::vacuum_step(self, pages_max)
    }
}

/// The member's own log, as the apply loop uses it.
pub(crate) trait OwnLog: Send + 'static {
    /// The last durable entry.
    fn durable(&self) -> Option<LogId>;
    /// Entries `from..to`, at least one, about `bytes_max`.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Committed>, LogError>;
}

impl OwnLog for Log {
    fn durable(&self) -> Option<LogId> {
        Log::durable(self).map(from_stored_log_id)
    }
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Committed>, LogError> {
        let found = Log::read(self, from, to, bytes_max)?;
        let committed = |entry: dqlited_log::Entry| Committed {
            log_id: from_stored_log_id(entry.id),
            entry: entry.payload,
            committed_at: None,
        };
        Ok(found.into_iter().map(committed).collect())
    }
}

/// What the apply loop shares with the rest of the member.
#[derive(Clone)]
pub(crate) struct ApplyShared {
    pub queue: Arc<ApplyQueue>,
    pub control: Arc<ApplyControl>,
    pub progress: Arc<Progress>,
    pub durable: Arc<DurableState>,
    pub proposals: Arc<Proposals>,
    pub leadership: Arc<Leadership>,
    pub listener: Arc<dyn ApplyListener>,
    pub failure: Failure,
    pub environment: Environment,
}

/// The apply loop.
pub(crate) struct ApplyLoop<E, L> {
    executor: E,
    log: L,
    shared: ApplyShared,
    commit_interval: Duration,
    warning_apply_duration: Duration,
    batch: Vec<Committed>,
    /// When each entry of the batch was committed and durable here.
    logged: Vec<Instant>,
    /// What stands at the front of the queue is not durable here yet.
    waits_for_log: bool,
    /// The last entry executed: never falls, also when a lost transaction has taken the executor back behind it.
    executed: Option<LogId>,
    uncommitted_since: Option<Instant>,
    losses: u32,
    compact_revision: Revision,
    is_compacting: bool,
    vacuums: Vec<oneshot::Sender<()>>,
    /// Those whose pages are all given back, until the file has been cut.
    vacuums_to_cut: Vec<oneshot::Sender<()>>,
    next_slice: Option<Instant>,
}

impl<E: Executor, L: OwnLog> ApplyLoop<E, L> {
    pub(crate) fn new(
        executor: E,
        log: L,
        shared: ApplyShared,
        commit_interval: Duration,
        warning_apply_duration: Duration,
    ) -> Self {
        let state = executor.state();
        ApplyLoop {
            executor,
            log,
            shared,
            commit_interval,
            warning_apply_duration,
            batch: Vec::new(),
            logged: Vec::new(),
            waits_for_log: false,
            executed: state.log_id,
            uncommitted_since: None,
            losses: 0,
            compact_revision: state.compact_revision,
            // A start goes on where the one before was interrupted.
            is_compacting: true,
            vacuums: Vec::new(),
            vacuums_to_cut: Vec::new(),
            next_slice: None,
        }
    }

    fn now(&self) -> Instant {
        self.shared.environment.clock.now()
    }

    fn observer(&self) -> &dyn Observer {
        &*self.shared.environment.observer
    }

    fn try_turn(&mut self) -> Result<Next, String> {
        let ending = self.shared.control.ending();
        if ending == Some(End::Abrupt) {
            return Ok(Next::End);
        }
        if self.shared.control.is_hold_asked() {
            self.commit()?;
            self.shared.control.holds_still();
            return Ok(Next::Signal);
        }
        let has_entries = self.take_batch();
        if has_entries {
            self.execute_batch()?;
        }
        if self.is_commit_due() {
            self.commit()?;
        }
        if has_entries {
            self.slice_in_turn()?;
            return Ok(Next::Now);
        }
        if ending == Some(End::Clean) {
            self.commit()?;
            return Ok(Next::End);
        }
        if self.slice()? {
            return Ok(Next::Now);
        }
        Ok(match self.uncommitted_since {
            Some(since) => Next::At(since + self.commit_interval),
            None => Next::Signal,
        })
    }

    /// Takes what is handed over and durable here. Answers whether there is something.
    fn take_batch(&mut self) -> bool {
        self.batch.clear();
        let queue = &self.shared.queue;
        if self.shared.environment.has(Bug::ApplyBeforeFlush) {
            queue.take(&mut self.batch, BATCH_ENTRIES_MAX, BATCH_BYTES_MAX, |_| true);
            return !self.batch.is_empty();
        }
        // Twice, so that an entry that becomes durable between the look and the announcement is not missed.
        for announces in [false, true] {
            if announces {
                queue.announce_wait_for_flush();
            }
            let durable = self.log.durable();
            queue.take(&mut self.batch, BATCH_ENTRIES_MAX, BATCH_BYTES_MAX, |id| Some(id) <= durable);
            if !self.batch.is_empty() || queue.is_empty() {
                break;
            }
        }
        if self.batch.is_empty() {
            self.waits_for_log = !queue.is_empty();
        }
        !self.batch.is_empty()
    }

    fn execute_batch(&mut self) -> Result<(), String> {
        let started = self.now();
        self.note_logged(started);
        let entries = decode(self.batch.drain(..))?;
        let applied = loop {
            match self.executor.apply(&entries, &*self.shared.listener) {
                Ok(applied) => break applied,
                Err(error) => self.recover(error)?,
            }
        };
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return Ok(()) };
        assert_eq!(applied.len(), entries.len(), "each entry has one outcome");
        self.note_membership(&entries)?;
        self.executed = Some(last);
        self.uncommitted_since.get_or_insert(started);
        // From here on readers wait for these entries: before anybody is told and before anybody can see them.
        self.shared.progress.set_applied(last);
        if self.commit_interval.is_zero() {
            self.commit()?;
        }
        let executed = self.now();
        self.publish(applied, last, executed);
        let took = self.now().saturating_duration_since(started);
        self.observer().batch_applied(entries.len(), took);
        if took > self.warning_apply_duration {
            tracing::warn!(entries = entries.len(), took_ms = took.as_millis() as u64, "apply took too long");
        }
        Ok(())
    }

    /// Without a call of the clock for each entry. If the loop has stood still for the log, that time was the log's.
    fn note_logged(&mut self, started: Instant) {
        let has_waited = std::mem::take(&mut self.waits_for_log);
        let logged = |committed: &Committed| match committed.committed_at {
            Some(at) if !has_waited => at,
            _ => started,
        };
        self.logged.clear();
        self.logged.extend(self.batch.iter().map(logged));
    }

    fn publish(&mut self, applied: Vec<Applied>, last: LogId, executed: Instant) {
        if let Some(newest) = applied.last() {
            let (revision, compact_revision) = (newest.revision, newest.compact_revision);
            if compact_revision != self.compact_revision {
                self.compact_revision = compact_revision;
                self.is_compacting = true;
            }
            let applied = Arc::new(applied);
            self.shared.listener.applied(&applied);
            self.shared.progress.set_revision(revision, compact_revision);
            self.shared.leadership.entry_applied(last.leader);
            self.shared.proposals.applied(&applied, &self.logged, executed);
        }
    }

    fn note_membership(&self, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            if let EntryBody::Membership(bytes) = &entry.body {
                let membership = state_machine::stored_membership(Some(&(entry.log_id, bytes.clone())))
                    .map_err(|error| format!("entry {}: {error}", entry.log_id))?;
                self.shared.durable.set_membership(membership);
            }
        }
        Ok(())
    }

    fn is_commit_due(&self) -> bool {
        let Some(since) = self.uncommitted_since else { return false };
        self.shared.progress.is_commit_wanted()
            || self.executor.uncommitted_bytes() >= UNCOMMITTED_BYTES_MAX
            || self.now().saturating_duration_since(since) >= self.commit_interval
    }

    fn commit(&mut self) -> Result<(), String> {
        if self.uncommitted_since.is_none() {
            return Ok(());
        }
        let started = self.now();
        let bytes = self.executor.uncommitted_bytes();
        while let Err(error) = self.executor.commit() {
            self.recover(error)?;
        }
        self.losses = 0;
        self.uncommitted_since = None;
        self.shared.progress.set_visible(self.executed.unwrap_or_default());
        self.observer().store_committed(self.now().saturating_duration_since(started));
        self.shared.control.add_committed_bytes(bytes as u64, CHECKPOINT_BYTES);
        Ok(())
    }

    /// The executor has rolled back to its last commit. Brings it to where it was, or says why that cannot be.
    fn recover(&mut self, error: StoreError) -> Result<(), String> {
        self.count_loss(error)?;
        if self.shared.environment.has(Bug::NoReapply) {
            return Ok(());
        }
        while self.executor.state().log_id < self.executed {
            let from = self.executor.state().log_id.map_or(0, |id| id.index + 1);
            let to = self.executed.map_or(0, |id| id.index + 1);
            let found = self
                .log
                .read(from, to, REAPPLY_READ_BYTES)
                .map_err(|error| format!("cannot read the log to execute entry {from} again: {error}"))?;
            if found.is_empty() {
                return Err(format!("the log lacks entry {from}, which must be executed again"));
            }
            let entries = decode(found.into_iter())?;
            // The outcomes were told when the entries were executed for the first time.
            if let Err(error) = self.executor.apply(&entries, &dqlited_store::store::NoInterest) {
                self.count_loss(error)?;
            }
        }
        Ok(())
    }

    fn count_loss(&mut self, error: StoreError) -> Result<(), String> {
        // A failing disk and damage are errors of their own: nothing is tried again on them.
        let may_heal = matches!(error, StoreError::Full | StoreError::Sqlite { .. });
        self.losses += 1;
        if !may_heal || self.losses > LOSSES_MAX {
            return Err(format!("the store cannot go on: {error}"));
        }
        tracing::warn!(%error, losses = self.losses, "the open SQLite transaction is lost, its entries are executed again");
        Ok(())
    }

    /// While entries wait: a slice of background work if its share of the time allows it.
    fn slice_in_turn(&mut self) -> Result<(), String> {
        let started = self.now();
        if self.next_slice.is_none_or(|next| next <= started) && self.slice()? {
            let ended = self.now();
            self.next_slice = Some(ended + ended.saturating_duration_since(started) * SLICE_SHARE);
        }
        Ok(())
    }

    /// One slice of background work. Answers whether there was any.
    fn slice(&mut self) -> Result<bool, String> {
        if self.is_compacting {
            self.compact()?;
            return Ok(true);
        }
        if self.shared.control.is_cut_due() {
            // The checkpointer is at it, and signals when it is done.
            return Ok(false);
        }
        for done in self.vacuums_to_cut.drain(..) {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
        self.vacuums.extend(self.shared.control.take_vacuums());
        if self.vacuums.is_empty() {
            return Ok(false);
        }
        self.vacuum()?;
        Ok(true)
    }

    fn compact(&mut self) -> Result<(), String> {
        match self.executor.compact_step(COMPACT_RECORDS) {
            Ok(progress) => {
                if progress.deleted > 0 {
                    self.observer().records_deleted(progress.deleted);
                    let now = self.now();
                    self.uncommitted_since.get_or_insert(now);
                }
                if progress.finished {
                    self.is_compacting = false;
                    self.shared.progress.set_deleted(self.compact_revision);
                }
                if self.commit_interval.is_zero() {
                    self.commit()?;
                }
                Ok(())
            }
            Err(error) => self.recover(error),
        }
    }

    fn vacuum(&mut self) -> Result<(), String> {
        match self.executor.vacuum_step(VACUUM_PAGES) {
            Ok(is_more_left) => {
                let now = self.now();
                self.uncommitted_since.get_or_insert(now);
                // Each slice by itself: one SQLite transaction over all of them would take as long to commit.
                self.commit()?;
                self.shared.control.add_given_back(VACUUM_BYTES, !is_more_left);
                if !is_more_left {
                    self.vacuums_to_cut.append(&mut self.vacuums);
                }
                Ok(())
            }
            Err(error) => self.recover(error),
        }
    }
}

impl<E: Executor, L: OwnLog> Worker for ApplyLoop<E, L> {
    fn turn(&mut self) -> Next {
        if self.shared.failure.has_happened() {
            return Next::End;
        }
        self.try_turn().unwrap_or_else(|words| {
            self.shared.failure.report(words);
            Next::End
        })
    }
}

fn decode(committed: impl Iterator<Item = Committed>) -> Result<Vec<Entry>, String> {
    committed
        .map(|committed| {
            let body = codec::decode_body(committed.entry)
                .map_err(|error| format!("entry {}: {error}", committed.log_id))?;
            Ok(Entry { log_id: committed.log_id, body })
        })
        .collect()
}
