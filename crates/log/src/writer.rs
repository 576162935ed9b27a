//! The one writer: takes what was submitted, writes it with one write and one fdatasync, completes it in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::disk::Disk;
use crate::error::LogError;
use crate::format::{
    BATCH_ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader, NumberedVote, Position, RECORD_HEADER_BYTES, Record,
    SEGMENT_HEADER_BYTES, Salt, SegmentHeader,
};
use crate::index::{Ends, Placed, Slot};
use crate::log::{Queued, Shared};
use crate::operation::Operation;
use crate::options::LogOptions;
use crate::planted::{self, PlantedBug};
use crate::segment::Segment;
use crate::spare::{Keeper, Task};
use crate::vote::VoteFile;

/// The one writer; own thread or inline, as the caller likes.
pub struct LogWriter {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    options: LogOptions,
    keeper: Keeper,
    /// The segment that is written to; none before the first operation.
    active: Option<Active>,
    /// Everything in front of this is durable.
    synced: Position,
    /// The ends and the vote as written, for the head of the next segment.
    ends: Ends,
    vote: Option<NumberedVote>,
    vote_file: VoteFile,
    batch: Batch,
    placed: Vec<Placed>,
    /// A segment was begun, so the next one is to be prepared.
    wants_spare: bool,
    /// Drains that the planted bug has acknowledged before their sync.
    late_drains: u32,
    /// Segments begun since the last completion.
    begun: Vec<Arc<Segment>>,
}

/// The planted bug syncs once in so many drains.
const LATE_DRAINS: u32 = 64;

struct Active {
    segment: Arc<Segment>,
    /// Where the next batch goes.
    offset: u64,
    /// Its file still has this name: it becomes a segment once its head is durable.
    spare_name: Option<String>,
    is_dirty: bool,
}

/// The batch that is being put together: at most one write's bytes.
#[derive(Default)]
struct Batch {
    /// The bytes, with the segment's head in front if the batch is the first of its segment.
    buffer: Vec<u8>,
    /// Where the batch header is in the buffer.
    start: usize,
    records: u32,
    folded: u32,
    first_index: u64,
}

impl LogWriter {
    pub(crate) fn new(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        options: LogOptions,
        keeper: Keeper,
        segment: Option<Arc<Segment>>,
        end: Position,
        vote_file: VoteFile,
    ) -> LogWriter {
        let (ends, vote) = (shared.lock().ends(), vote_file.mark().vote);
        // Without syncs nothing is ever known to be durable.
        let synced = if options.sync { end } else { vote_file.mark().synced };
        let active =
            segment.map(|segment| Active { segment, offset: end.offset, spare_name: None, is_dirty: false });
        if active.is_some() {
            let bytes_wanted = next_bytes(&options, active.as_ref());
            keeper.run(Task { given_up: Vec::new(), bytes_wanted });
        }
        LogWriter {
            shared,
            disk,
            options,
            keeper,
            active,
            synced,
            ends,
            vote,
            vote_file,
            batch: Batch::default(),
            placed: Vec::new(),
            wants_spare: false,
            late_drains: 0,
            begun: Vec::new(),
        }
    }

    /// Waits until something was submitted. False when the log is closed and empty or has failed, or nothing came in
    /// time.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.shared.wait(timeout)
    }

    /// Writes and syncs everything submitted, then completes it. Answers the number of operations. After an error the
    /// log takes nothing more (fail-stop: a failed fsync is never tried again).
    ///
    /// # Errors
    /// The disk's; all that waits and all that comes later is answered with it.
    pub fn drain(&mut self) -> Result<usize, LogError> {
        let mut operations = {
            let mut state = self.shared.lock();
            if let Some(failed) = &state.failed {
                return Err(failed.clone());
            }
            state.take_queue()
        };
        if operations.is_empty() {
            return Ok(0);
        }
        if planted::has(&self.options, PlantedBug::RecycleBeforePurge) {
            self.recycle_early(&operations);
        }
        let written = self.write_all(&mut operations);
        if let Err(error) = written {
            return Err(self.fail(error, operations));
        }
        let unneeded = {
            let mut state = self.shared.lock();
            state.finish(&mut self.placed, &operations, &mut self.begun, self.options.cache_bytes);
            match &self.active {
                Some(active) => state.take_unneeded(active.segment.sequence),
                None => Vec::new(),
            }
        };
        let count = operations.len();
        complete(operations);
        self.tidy(unneeded);
        Ok(count)
    }

    /// Ends cleanly: writes what waits and leaves a mark of how far the log is durable, so that the next opening can tell
    /// damage to its very end from a write that was cut short.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(mut self) -> Result<(), LogError> {
        self.drain()?;
        if self.options.sync && self.synced > self.vote_file.mark().synced {
            self.write_vote()?;
        }
        Ok(())
    }

    /// Ends the log: what waits and what comes later is answered with the error.
    fn fail(&mut self, error: LogError, operations: Vec<Queued>) -> LogError {
        let waiting = {
            let mut state = self.shared.lock();
            state.failed = Some(error.clone());
            state.take_queue()
        };
        for queued in operations.into_iter().chain(waiting) {
            (queued.done)(Err(error.clone()));
        }
        error
    }

    fn write_all(&mut self, operations: &mut [Queued]) -> Result<(), LogError> {
        if let Some(failed) = self.keeper.pool().failed() {
            return Err(failed);
        }
        let vote_before = self.vote;
        if planted::has(&self.options, PlantedBug::VoteOvertakesAppends) {
            self.overtake(operations)?;
        }
        for queued in operations.iter() {
            self.encode(queued)?;
        }
        self.write_batch()?;
        if planted::has(&self.options, PlantedBug::AcknowledgeBeforeSync) {
            acknowledge(operations);
            // Late, and not only for the length of a sync: a power cut must be able to fall in between.
            self.late_drains += 1;
            if !self.late_drains.is_multiple_of(LATE_DRAINS) {
                return Ok(());
            }
        }
        self.sync()?;
        if self.vote != vote_before { self.write_vote() } else { Ok(()) }
    }

    fn write_vote(&mut self) -> Result<(), LogError> {
        self.vote_file.write(self.vote, self.synced, self.options.sync)?;
        self.shared.bytes_written.fetch_add(crate::vote::SLOT_BYTES as u64, Ordering::Relaxed);
        if self.options.sync {
            self.count_sync();
        }
        Ok(())
    }

    fn count_sync(&self) {
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        if let Some(observe) = &self.options.sync_observer {
            observe();
        }
    }

    fn encode(&mut self, queued: &Queued) -> Result<(), LogError> {
        match &queued.operation {
            Ok(Operation::Append(entries)) => {
                for entry in entries {
                    let (sequence, slot) = self.put(Record::Entry(entry.id), &entry.payload)?;
                    self.ends.append(entry.id);
                    self.placed.push(Placed::Entry { id: entry.id, sequence, slot });
                }
            }
            Ok(Operation::TruncateAfter(id)) => {
                self.put(Record::TruncateAfter(*id), &[])?;
                self.ends.truncate_after(*id);
                self.placed.push(Placed::TruncateAfter(*id));
            }
            Ok(Operation::SaveVote(vote)) => {
                let vote = NumberedVote { number: queued.vote_number, vote: *vote };
                self.put(Record::Vote(vote), &[])?;
                self.vote = Some(vote);
            }
            Ok(Operation::Purge(id)) => {
                self.put(Record::Purge(*id), &[])?;
                self.ends.purge(*id);
                self.placed.push(Placed::Purge(*id));
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Adds a record to the batch; writes the batch and begins another, or another segment, where it does not fit.
    fn put(&mut self, record: Record, payload: &[u8]) -> Result<(u64, Slot), LogError> {
        let bytes = match record {
            Record::Vote(_) => RECORD_HEADER_BYTES + 1,
            _ => RECORD_HEADER_BYTES + payload.len(),
        };
        if self.batch.records > 0 {
            let size = self.batch.buffer.len() + bytes;
            let is_room = self.active.as_ref().is_some_and(|active| active.has_room(size));
            if size > self.options.batch_bytes_max || !is_room {
                self.write_batch()?;
            }
        }
        if self.batch.records == 0 {
            let size = BATCH_HEADER_BYTES + bytes;
            if !self.active.as_ref().is_some_and(|active| active.has_room(size)) {
                self.begin_segment(size)?;
            }
        }
        let active = self.active.as_ref().expect("a segment was begun if there was none");
        let salt = active.segment.salt;
        let batch = &mut self.batch;
        if batch.records == 0 {
            batch.start = batch.buffer.len();
            batch.buffer.resize(batch.start + BATCH_HEADER_BYTES, 0);
            batch.folded = salt.fold_start();
            batch.first_index = self.ends.end();
        }
        let at = active.offset + batch.buffer.len() as u64;
        let checksum = record.encode(payload, salt, &mut batch.buffer);
        batch.folded = Salt::fold(batch.folded, checksum);
        batch.records += 1;
        let slot = Slot {
            offset: u32::try_from(at).expect("segments are smaller than 4 GiB"),
            bytes: u32::try_from(bytes).expect("payloads are bounded when they are submitted"),
        };
        Ok((active.segment.sequence, slot))
    }

    /// Writes the batch, if there is one, with one write.
    fn write_batch(&mut self) -> Result<(), LogError> {
        let batch = &mut self.batch;
        let Some(active) = self.active.as_mut().filter(|_| batch.records > 0) else { return Ok(()) };
        let body_start = batch.start + BATCH_HEADER_BYTES;
        let header = BatchHeader {
            body_bytes: (batch.buffer.len() - body_start) as u32,
            records: batch.records,
            first_index: batch.first_index,
            synced: self.synced,
            folded: batch.folded,
        };
        header.encode(active.segment.salt, &mut batch.buffer[batch.start..body_start]);
        let padded = batch.buffer.len().next_multiple_of(BATCH_ALIGNMENT);
        batch.buffer.resize(padded, 0);
        active.is_dirty = true;
        active
            .segment
            .file
            .write_at(active.offset, &batch.buffer)
            .map_err(|source| LogError::disk("write", &active.segment.name(), source))?;
        active.offset += padded as u64;
        self.shared.batches.fetch_add(1, Ordering::Relaxed);
        self.shared.bytes_written.fetch_add(padded as u64, Ordering::Relaxed);
        batch.records = 0;
        batch.buffer.clear();
        batch.buffer.shrink_to(self.options.batch_bytes_max);
        Ok(())
    }

    /// Makes what was written durable, and a new segment's name with it.
    fn sync(&mut self) -> Result<(), LogError> {
        let Some(mut active) = self.active.take_if(|active| active.is_dirty) else { return Ok(()) };
        let name = active.segment.name();
        if self.options.sync {
            active.segment.file.sync_data().map_err(|source| LogError::disk("sync", &name, source))?;
            self.count_sync();
        }
        if let Some(spare_name) = active.spare_name.take() {
            self.disk
                .rename(&spare_name, &name)
                .map_err(|source| LogError::disk("rename to", &name, source))?;
            if self.options.sync {
                self.disk.sync_dir().map_err(|source| LogError::disk("sync the folder of", &name, source))?;
            }
        }
        active.is_dirty = false;
        if self.options.sync {
            self.synced = Position { sequence: active.segment.sequence, offset: active.offset };
        }
        self.active = Some(active);
        Ok(())
    }

    /// Ends the segment and begins the next one, with room for at least one batch of this size.
    fn begin_segment(&mut self, batch_bytes: usize) -> Result<(), LogError> {
        self.sync()?;
        let batch_bytes = batch_bytes.next_multiple_of(BATCH_ALIGNMENT);
        let bytes_min = (SEGMENT_HEADER_BYTES + batch_bytes) as u64;
        let bytes_wanted = next_bytes(&self.options, self.active.as_ref());
        if self.active.is_none() {
            // The sync of the folder for the first segment then does for the vote's file too.
            self.vote_file.create()?;
        }
        let spare = self.keeper.pool().take(bytes_min, bytes_wanted)?;
        let (sequence, previous_end) = match &self.active {
            Some(active) => (active.segment.sequence + 1, active.offset),
            None => (1, 0),
        };
        let salt = Salt::new(self.options.salt());
        let header = SegmentHeader {
            sequence,
            salt: salt.value,
            previous_end,
            purged: self.ends.purged,
            last: self.ends.last,
            vote: self.vote,
        };
        self.batch.buffer.clear();
        header.encode(&mut self.batch.buffer);
        let segment = Arc::new(Segment { sequence, salt, bytes: spare.bytes, file: spare.file });
        self.wants_spare = true;
        self.begun.push(segment.clone());
        self.active = Some(Active { segment, offset: 0, spare_name: Some(spare.name), is_dirty: true });
        Ok(())
    }

    /// Has segments that nothing needs recycled, and the next spare prepared.
    fn tidy(&mut self, given_up: Vec<Arc<Segment>>) {
        let bytes_wanted = next_bytes(&self.options, self.active.as_ref());
        // On a full disk it is not tried again before something changes.
        if !given_up.is_empty() || std::mem::take(&mut self.wants_spare) {
            self.keeper.run(Task { given_up, bytes_wanted });
        }
    }

    /// The planted bug M16: segments are given up because of purges that are not durable yet.
    fn recycle_early(&mut self, operations: &[Queued]) {
        let purges = operations.iter().filter_map(|queued| match &queued.operation {
            Ok(Operation::Purge(id)) => Some(*id),
            _ => None,
        });
        let Some(active) = self.active.as_ref().map(|active| active.segment.sequence) else { return };
        let unneeded = self.shared.lock().take_purged(purges, active);
        self.tidy(unneeded);
    }

    /// The planted bug M23: a vote is completed by its own file alone.
    fn overtake(&mut self, operations: &mut [Queued]) -> Result<(), LogError> {
        for queued in operations {
            if let Ok(Operation::SaveVote(vote)) = &queued.operation {
                let vote = NumberedVote { number: queued.vote_number, vote: *vote };
                self.vote_file.write(Some(vote), self.synced, self.options.sync)?;
                std::mem::replace(&mut queued.done, Box::new(|_| ()))(Ok(()));
            }
        }
        Ok(())
    }
}

impl Active {
    /// Whether a batch of this many bytes fits behind the last one.
    fn has_room(&self, bytes: usize) -> bool {
        self.offset + bytes.next_multiple_of(BATCH_ALIGNMENT) as u64 <= self.segment.bytes
    }
}

/// Size of the segment behind this one.
fn next_bytes(options: &LogOptions, active: Option<&Active>) -> u64 {
    match active {
        None => options.segment_bytes_first,
        Some(active) => {
            (active.segment.bytes * 2).clamp(options.segment_bytes_first, options.segment_bytes_max)
        }
    }
}

fn complete(operations: Vec<Queued>) {
    for queued in operations {
        (queued.done)(queued.operation.map(|_| ()));
    }
}

/// The planted bug: completes everything although nothing is synced.
fn acknowledge(operations: &mut [Queued]) {
    for queued in operations {
        std::mem::replace(&mut queued.done, Box::new(|_| ()))(Ok(()));
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.shared.lock();
            state.failed.get_or_insert(LogError::Closed);
            state.take_queue()
        };
        for queued in waiting {
            (queued.done)(Err(LogError::Closed));
        }
    }
}
