//! The shared handle: submit and read from any thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::disk::Disk;
use crate::error::LogError;
use crate::format::{PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES};
use crate::index::{Line, Placed, Written};
use crate::operation::{Done, Entry, LogId, Operation, Vote};
use crate::options::LogOptions;
use crate::planned_read::PlannedRead;
use crate::segment::Segment;
use crate::spare::{Keeper, Pool};
use crate::writer::LogWriter;

/// What an entry in the tail cache costs besides its payload, in bytes.
const CACHE_ENTRY_BYTES: usize = 64;

/// The shared handle: submit and read from any thread.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Calls of fdatasync for segments and vote.
    pub syncs: u64,
    /// Bytes written to segments and vote, without the zeros of preparation.
    pub bytes_written: u64,
    /// Writes to segments.
    pub batches: u64,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    submitted: Condvar,
    pool: Arc<Pool>,
    cache_bytes: usize,
    pub(crate) syncs: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) batches: AtomicU64,
}

/// An operation on its way to the disk.
pub(crate) struct Queued {
    /// The operation, or why it is refused; either is answered in order.
    pub(crate) operation: Result<Operation, LogError>,
    pub(crate) done: Done,
    /// Which vote it is, if it is one.
    pub(crate) vote_number: u64,
    bytes: usize,
}

pub(crate) struct State {
    /// The log as submitted.
    line: Line,
    vote: Option<Vote>,
    votes: u64,
    /// The last entries as submitted. Whatever is not in `written` as it stands in `line` is here.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// Entries of `line` from here on are not in `written`. (A truncation alone does not lower it: what it took back is no
    /// longer in `line`, and the entries that come in its place do.)
    unwritten_from: u64,
    /// The log as written and synced.
    written: Written,
    durable: Option<LogId>,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    queue: Vec<Queued>,
    pending_bytes: usize,
    writer_waits: bool,
    closed: bool,
    pub(crate) failed: Option<LogError>,
}

impl Log {
    /// Opens (and syncs, rule D1) the log in the disk's folder.
    ///
    /// # Errors
    /// The disk's, a log that is damaged in a place that was durable, and one of a newer format.
    pub fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(Log, LogWriter), LogError> {
        let options = options.checked();
        let recovered = crate::recovery::recover(&disk, &options)?;
        let pool = Arc::new(Pool::new(
            disk.clone(),
            options.sync,
            options.segment_bytes_first,
            recovered.spares,
            recovered.spare_numbers_used,
        ));
        let keeper = Keeper::start(pool.clone(), options.background)?;
        let line = recovered.written.line.clone();
        let state = State {
            durable: line.ends.last,
            unwritten_from: line.ends.end(),
            line,
            vote: recovered.vote.map(|numbered| numbered.vote),
            votes: recovered.vote.map_or(0, |numbered| numbered.number),
            cache: VecDeque::new(),
            cache_bytes: 0,
            written: recovered.written,
            segments: recovered.segments.iter().map(|segment| (segment.sequence, segment.clone())).collect(),
            queue: Vec::new(),
            pending_bytes: 0,
            writer_waits: false,
            closed: false,
            failed: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            submitted: Condvar::new(),
            pool,
            cache_bytes: options.cache_bytes,
            syncs: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        });
        let writer = LogWriter::new(
            shared.clone(),
            disk,
            options,
            keeper,
            recovered.segments.last().cloned(),
            recovered.end,
            recovered.vote_file,
        );
        Ok((Log { shared }, writer))
    }

    /// Queues an operation. It is readable at once; `done` is called in order once it is durable. Never blocks.
    pub fn submit(&self, operation: Operation, done: Done) {
        let mut state = self.shared.lock();
        let ended = match (&state.failed, state.closed) {
            (Some(failed), _) => Some(failed.clone()),
            (None, true) => Some(LogError::Closed),
            (None, false) => None,
        };
        if let Some(error) = ended {
            drop(state);
            return done(Err(error));
        }
        state.submit(operation, done);
        state.evict(self.shared.cache_bytes);
        if state.writer_waits {
            state.writer_waits = false;
            self.shared.submitted.notify_one();
        }
    }

    /// Entries `from..to` that exist, at least one if there is any, then as many as fit into `bytes_max`.
    ///
    /// # Errors
    /// The disk's, and a damaged record.
    pub fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let (planned, cached) = self.shared.lock().plan(from, to, bytes_max);
        if planned.is_empty() {
            return Ok(cached);
        }
        let count = planned.iter().map(|read| read.entries.len()).sum::<usize>() + cached.len();
        let mut entries = Vec::with_capacity(count);
        for read in planned {
            read.run(&mut entries)?;
        }
        entries.extend(cached);
        Ok(entries)
    }

    /// The id at an index, if the log holds it, submitted entries and the purge point included.
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        self.shared.lock().line.id_at(index)
    }

    /// First entry, submitted ones included; none when the log is empty.
    pub fn first(&self) -> Option<LogId> {
        let state = self.shared.lock();
        state.line.first().and_then(|index| state.line.id_at(index))
    }

    /// Last entry, submitted ones included; the purge point when empty.
    pub fn last(&self) -> Option<LogId> {
        self.shared.lock().line.ends.last
    }

    /// Last durable entry.
    pub fn durable(&self) -> Option<LogId> {
        self.shared.lock().durable
    }

    /// Up to where it is purged, submitted purges included.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.lock().line.ends.purged
    }

    /// The last vote submitted.
    pub fn vote(&self) -> Option<Vote> {
        self.shared.lock().vote
    }

    /// Bytes submitted and not yet durable.
    pub fn pending_bytes(&self) -> usize {
        self.shared.lock().pending_bytes
    }

    /// The first entry of the last `segments` segment files that hold any: a purge up to just in front of it frees
    /// everything older. None if fewer hold entries.
    pub fn first_of_last_segments(&self, segments: usize) -> Option<LogId> {
        let state = self.shared.lock();
        let (first, _) = state.written.segment_starts().rev().nth(segments.checked_sub(1)?)?;
        state.line.id_at(first)
    }

    /// Whether a prepared segment is in reserve; without one a full disk ends the log at the segment's end.
    pub fn has_spare(&self) -> bool {
        self.shared.pool.has_spare()
    }

    /// While space is short one spare segment is kept instead of two. Removes a file: not for a thread that may not wait.
    pub fn set_short_of_space(&self, is_short: bool) {
        self.shared.pool.set_short_of_space(is_short);
    }

    /// What it has done since it was opened.
    pub fn counters(&self) -> LogCounters {
        LogCounters {
            syncs: self.shared.syncs.load(Ordering::Relaxed),
            bytes_written: self.shared.bytes_written.load(Ordering::Relaxed),
            batches: self.shared.batches.load(Ordering::Relaxed),
        }
    }

    /// The error that ended the log, if one did.
    pub fn failure(&self) -> Option<LogError> {
        self.shared.lock().failed.clone()
    }

    /// True once [`Log::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }

    /// No more submissions; the writer's wait ends.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.submitted.notify_all();
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Waits until there is something to write; false when the log is closed and empty, has failed, or nothing came.
    pub(crate) fn wait(&self, timeout: std::time::Duration) -> bool {
        let mut state = self.lock();
        state.writer_waits = true;
        let nothing = |state: &mut State| state.queue.is_empty() && !state.closed && state.failed.is_none();
        let (mut state, _) = self
            .submitted
            .wait_timeout_while(state, timeout, nothing)
            .expect("nothing panics under this lock");
        state.writer_waits = false;
        !state.queue.is_empty()
    }
}

impl State {
    fn submit(&mut self, operation: Operation, done: Done) {
        let mut bytes = RECORD_HEADER_BYTES;
        let mut vote_number = 0;
        let refused = self.refusal(&operation);
        if refused.is_none() {
            match &operation {
                Operation::Append(entries) => {
                    bytes = 0;
                    if let Some(first) = entries.first() {
                        self.unwritten_from = self.unwritten_from.min(first.id.index);
                    }
                    for entry in entries {
                        bytes += RECORD_HEADER_BYTES + entry.payload.len();
                        self.line.append(entry.id);
                        self.cache_bytes += CACHE_ENTRY_BYTES + entry.payload.len();
                        self.cache.push_back(entry.clone());
                    }
                }
                Operation::TruncateAfter(id) => {
                    self.line.truncate_after(*id);
                    let end = self.line.ends.end();
                    while self.cache.back().is_some_and(|entry| entry.id.index >= end) {
                        let entry = self.cache.pop_back().expect("there is a last one");
                        self.cache_bytes -= CACHE_ENTRY_BYTES + entry.payload.len();
                    }
                    self.lower_durable(*id);
                }
                Operation::SaveVote(vote) => {
                    self.vote = Some(*vote);
                    self.votes += 1;
                    vote_number = self.votes;
                }
                Operation::Purge(id) => {
                    if self.line.purge(*id) {
                        while self.cache.front().is_some_and(|entry| entry.id.index <= id.index) {
                            self.pop_cached();
                        }
                    }
                }
            }
        }
        self.pending_bytes += bytes;
        let operation = refused.map_or(Ok(operation), Err);
        self.queue.push(Queued { operation, done, vote_number, bytes });
    }

    /// Why an operation cannot follow what was submitted before.
    fn refusal(&self, operation: &Operation) -> Option<LogError> {
        let last = self.line.ends.last;
        match operation {
            Operation::Append(entries) => {
                let mut next = self.line.ends.next();
                for entry in entries {
                    if next.is_some_and(|next| next != entry.id.index) {
                        return Some(LogError::OutOfOrder { last, found: entry.id });
                    }
                    if entry.payload.len() > PAYLOAD_BYTES_MAX {
                        return Some(LogError::TooLarge {
                            index: entry.id.index,
                            bytes: entry.payload.len(),
                            bytes_max: PAYLOAD_BYTES_MAX,
                        });
                    }
                    next = Some(entry.id.index + 1);
                }
                None
            }
            Operation::TruncateAfter(Some(id)) => {
                let is_purged = self.line.ends.purged.is_some_and(|purged| id.index <= purged.index);
                (!is_purged && self.line.id_at(id.index) != Some(*id))
                    .then_some(LogError::OutOfOrder { last, found: *id })
            }
            Operation::TruncateAfter(None) | Operation::SaveVote(_) | Operation::Purge(_) => None,
        }
    }

    fn lower_durable(&mut self, id: Option<LogId>) {
        let keeps = |id: &LogId| self.line.ends.purged.is_none_or(|purged| id.index > purged.index);
        let end = id.filter(keeps).or(self.line.ends.purged);
        if self.durable.map(|durable| durable.index) > end.map(|end| end.index) {
            self.durable = end;
        }
    }

    fn pop_cached(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= CACHE_ENTRY_BYTES + entry.payload.len();
        }
    }

    /// Keeps the cache below its bound; what is not written stays.
    fn evict(&mut self, bytes_max: usize) {
        while self.cache_bytes > bytes_max
            && self.cache.front().is_some_and(|entry| entry.id.index < self.unwritten_from)
        {
            self.pop_cached();
        }
    }

    /// The reads that give the entries asked for, and those of them that are cached.
    fn plan(&self, from: u64, to: u64, bytes_max: usize) -> (Vec<PlannedRead>, Vec<Entry>) {
        let mut planned: Vec<PlannedRead> = Vec::new();
        let mut cached = Vec::new();
        let Some(first) = self.line.first() else { return (planned, cached) };
        let end = self.line.ends.end();
        let mut index = from.max(first);
        let to = to.min(end);
        let cache_first = end - self.cache.len() as u64;
        let mut bytes = 0_usize;
        while index < to {
            if index >= cache_first {
                let entry = &self.cache[(index - cache_first) as usize];
                bytes += entry.payload.len();
                if bytes > bytes_max && !(planned.is_empty() && cached.is_empty()) {
                    break;
                }
                cached.push(entry.clone());
            } else {
                debug_assert!(index < self.unwritten_from);
                let id = self.line.id_at(index);
                let (Some(id), Some((sequence, slot))) = (id, self.written.find(index)) else { break };
                bytes += slot.bytes as usize - RECORD_HEADER_BYTES;
                if bytes > bytes_max && !planned.is_empty() {
                    break;
                }
                match planned.last_mut() {
                    Some(read) if read.reaches(sequence, slot) => read.add(id, slot),
                    _ => planned.push(PlannedRead::new(self.segments[&sequence].clone(), id, slot)),
                }
            }
            index += 1;
        }
        (planned, cached)
    }

    /// Both ends as submitted.
    pub(crate) fn ends(&self) -> crate::index::Ends {
        self.line.ends
    }

    /// Takes all that waits.
    pub(crate) fn take_queue(&mut self) -> Vec<Queued> {
        std::mem::take(&mut self.queue)
    }

    /// What the writer has written and synced becomes known; answers the segments that nothing needs any more.
    pub(crate) fn finish(
        &mut self,
        placed: &mut Vec<Placed>,
        operations: &[Queued],
        begun: &mut Vec<Arc<Segment>>,
        cache_bytes: usize,
    ) {
        self.segments.extend(begun.drain(..).map(|segment| (segment.sequence, segment)));
        for change in placed.drain(..) {
            self.written.apply(change);
        }
        self.pending_bytes -= operations.iter().map(|queued| queued.bytes).sum::<usize>();
        self.unwritten_from = self.written.line.ends.end();
        self.durable = self.written.line.ends.last;
        // What was submitted meanwhile may already have taken some of it back.
        let queue = std::mem::take(&mut self.queue);
        for queued in &queue {
            match &queued.operation {
                Ok(Operation::Append(entries)) => {
                    if let Some(first) = entries.first() {
                        self.unwritten_from = self.unwritten_from.min(first.id.index);
                    }
                }
                Ok(Operation::TruncateAfter(id)) => {
                    self.lower_durable(*id);
                }
                _ => {}
            }
        }
        self.queue = queue;
        self.evict(cache_bytes);
    }

    /// The planted bug M16: takes what these purges would make unneeded.
    pub(crate) fn take_purged(
        &mut self,
        purges: impl Iterator<Item = LogId>,
        active: u64,
    ) -> Vec<Arc<Segment>> {
        let last = self.written.line.ends.last;
        for id in purges.filter(|id| last.is_some_and(|last| id.index <= last.index)) {
            self.written.apply(Placed::Purge(id));
        }
        self.take_unneeded(active)
    }

    /// Takes the segments in front of the one that is written to which hold no entry any more.
    pub(crate) fn take_unneeded(&mut self, active: u64) -> Vec<Arc<Segment>> {
        let first = self.written.first_segment().unwrap_or(active).min(active);
        let kept = self.segments.split_off(&first);
        std::mem::replace(&mut self.segments, kept).into_values().collect()
    }
}
