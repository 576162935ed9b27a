//! Opening: reads the segments, tells a torn tail from damage (rule D2), syncs what it read (rule D1).

use std::sync::Arc;

use crate::disk::Disk;
use crate::error::LogError;
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, NumberedVote, Position, RECORD_HEADER_BYTES, Record, RecordFault,
    SEGMENT_HEADER_BYTES, Salt, SegmentHeader, VERSION,
};
use crate::index::{Ends, Placed, Slot, Written};
use crate::options::LogOptions;
use crate::planted::{self, PlantedBug};
use crate::segment::{Segment, SegmentReader, read_header, segment_name, segment_sequence};
use crate::spare::{Spare, spare_number};
use crate::vote::{VOTE_FILE, VoteFile};

/// Spares beyond this many are removed at opening.
const SPARES_KEPT: usize = 2;

/// What opening found.
pub(crate) struct Recovered {
    pub(crate) written: Written,
    pub(crate) vote: Option<NumberedVote>,
    /// In rising order; the last one is written to.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// Where the stream ends.
    pub(crate) end: Position,
    pub(crate) spares: Vec<Spare>,
    pub(crate) spare_numbers_used: u64,
    pub(crate) vote_file: VoteFile,
}

/// Reads the log in the disk's folder and brings it into order.
pub(crate) fn recover(disk: &Arc<dyn Disk>, options: &LogOptions) -> Result<Recovered, LogError> {
    let names = disk.list().map_err(|source| LogError::disk("list", "the folder", source))?;
    let mut vote_file = VoteFile::open(disk.clone(), names.iter().any(|name| name == VOTE_FILE))?;
    let sequences = last_run(&names);
    let mut replay = Replay::new(vote_file.mark().synced);
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    let mut headers = Vec::new();
    for sequence in &sequences.kept {
        let name = segment_name(*sequence);
        let file = disk.open(&name).map_err(|source| LogError::disk("open", &name, source))?;
        let header = read_header(file.as_ref(), &name)?;
        if header.sequence != *sequence {
            return Err(replay.corrupt(&name, 16, format!("its head names segment {}", header.sequence)));
        }
        let bytes = file.size().map_err(|source| LogError::disk("read", &name, source))?;
        segments.push(Arc::new(Segment { sequence: *sequence, salt: Salt::new(header.salt), bytes, file }));
        headers.push(header);
    }
    for (at, segment) in segments.iter().enumerate() {
        let next = headers.get(at + 1);
        replay.segment(segment, &headers[at], next.map(|header| header.previous_end))?;
    }
    replay.check_nothing_is_missing(sequences.kept.first().copied())?;
    let mark = vote_file.mark();
    let end = Position { sequence: sequences.kept.last().copied().unwrap_or(0), offset: replay.offset };
    if mark.synced > end {
        // The segment that the mark lies in is gone.
        let index = replay.next_index();
        return Err(LogError::Missing { file: segment_name(mark.synced.sequence), index });
    }

    // D1: nothing that was read is taken for durable before it is. The tail is cut first, so that both are durable
    // before the first append.
    if let Some(cut) = replay.cut
        && let Some(segment) = segments.last()
        && !planted::has(options, PlantedBug::CutWithoutZeroing)
    {
        zero(segment, replay.offset, cut)?;
    }
    if options.sync && !planted::has(options, PlantedBug::OpenWithoutSync) {
        for segment in &segments {
            segment.file.sync_data().map_err(|source| LogError::disk("sync", &segment.name(), source))?;
        }
        vote_file.sync()?;
    }
    for sequence in sequences.left_over {
        let name = segment_name(sequence);
        disk.remove(&name).map_err(|source| LogError::disk("remove", &name, source))?;
    }
    let (spares, spare_numbers_used) = find_spares(disk, &names, options)?;
    if options.sync && !names.is_empty() && !planted::has(options, PlantedBug::OpenWithoutSync) {
        disk.sync_dir().map_err(|source| LogError::disk("sync", "the folder", source))?;
    }
    let vote = settle_vote(&mut vote_file, replay.vote, end, options)?;
    Ok(Recovered { written: replay.written, vote, segments, end, spares, spare_numbers_used, vote_file })
}

/// Which vote it is; 0 for none.
fn number(vote: Option<NumberedVote>) -> u64 {
    vote.map_or(0, |vote| vote.number)
}

/// The vote is in the stream before it is in its file; whichever fell behind is brought level.
fn settle_vote(
    vote_file: &mut VoteFile,
    streamed: Option<NumberedVote>,
    end: Position,
    options: &LogOptions,
) -> Result<Option<NumberedVote>, LogError> {
    let filed = vote_file.mark().vote;
    if number(filed) == number(streamed) && filed != streamed {
        return Err(LogError::Corrupt {
            file: VOTE_FILE.to_string(),
            offset: 0,
            index: 0,
            reason: format!("it says {filed:?}, the segments say {streamed:?}"),
        });
    }
    if number(filed) < number(streamed) {
        let synced = if options.sync { end } else { vote_file.mark().synced };
        vote_file.write(streamed, synced, options.sync)?;
        return Ok(streamed);
    }
    Ok(filed)
}

struct Sequences {
    /// The last segments, without a gap.
    kept: Vec<u64>,
    /// Segments in front of a gap: their removal was cut short by a crash.
    left_over: Vec<u64>,
}

fn last_run(names: &[String]) -> Sequences {
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| segment_sequence(name)).collect();
    sequences.sort_unstable();
    let gap = (1..sequences.len()).rev().find(|at| sequences[*at] != sequences[at - 1] + 1).unwrap_or(0);
    let kept = sequences.split_off(gap);
    Sequences { kept, left_over: sequences }
}

fn find_spares(
    disk: &Arc<dyn Disk>,
    names: &[String],
    options: &LogOptions,
) -> Result<(Vec<Spare>, u64), LogError> {
    let mut spares = Vec::new();
    let mut numbers_used = 0;
    for name in names {
        let Some(number) = spare_number(name) else { continue };
        numbers_used = numbers_used.max(number);
        let file = disk.open(name).map_err(|source| LogError::disk("open", name, source))?;
        let bytes = file.size().map_err(|source| LogError::disk("read", name, source))?;
        spares.push(Spare { name: name.clone(), file, bytes });
    }
    spares.sort_unstable_by(|one, other| (other.bytes, &one.name).cmp(&(one.bytes, &other.name)));
    let is_kept = |at: usize, spare: &Spare| at < SPARES_KEPT && spare.bytes >= options.segment_bytes_first;
    let mut kept = Vec::new();
    for (at, spare) in spares.into_iter().enumerate() {
        if is_kept(at, &spare) {
            kept.push(spare);
        } else {
            disk.remove(&spare.name).map_err(|source| LogError::disk("remove", &spare.name, source))?;
        }
    }
    Ok((kept, numbers_used))
}

fn zero(segment: &Segment, from: u64, to: u64) -> Result<(), LogError> {
    let zeros = vec![0; (to - from) as usize];
    segment
        .file
        .write_at(from, &zeros)
        .map_err(|source| LogError::disk("cut the tail of", &segment.name(), source))
}

/// Walks the stream from batch to batch.
struct Replay {
    written: Written,
    vote: Option<NumberedVote>,
    /// The stream was durable up to here, says the vote file.
    mark: Position,
    /// Entries below this index lay in segments that are gone.
    missing_below: u64,
    is_begun: bool,
    /// Where the stream ends in the last segment read.
    offset: u64,
    /// Up to where the last segment holds a torn tail.
    cut: Option<u64>,
}

impl Replay {
    fn new(mark: Position) -> Replay {
        Replay {
            written: Written::default(),
            vote: None,
            mark,
            missing_below: 0,
            is_begun: false,
            offset: 0,
            cut: None,
        }
    }

    fn next_index(&self) -> u64 {
        self.written.line.ends.end()
    }

    fn corrupt(&self, file: &str, offset: u64, reason: String) -> LogError {
        LogError::Corrupt { file: file.to_string(), offset, index: self.next_index(), reason }
    }

    /// Reads one segment; `end` is where it ends if another follows.
    fn segment(
        &mut self,
        segment: &Segment,
        header: &SegmentHeader,
        end: Option<u64>,
    ) -> Result<(), LogError> {
        let name = segment.name();
        let ends = Ends { purged: header.purged, last: header.last };
        if !self.is_begun {
            self.is_begun = true;
            self.written = Written::from_ends(ends);
            self.missing_below = ends.end();
            self.vote = header.vote;
        } else if self.written.line.ends != ends {
            let before = self.written.line.ends;
            let reason = format!("its head goes on from {ends:?}, the segment before ends at {before:?}");
            return Err(self.corrupt(&name, 0, reason));
        }
        // Without syncs the vote's own file may have outlived the stream, and was gone on with.
        if number(header.vote) >= number(self.vote) {
            self.vote = header.vote;
        }
        let mut reader = SegmentReader::new(segment.file.as_ref(), &name)?;
        self.offset = SEGMENT_HEADER_BYTES as u64;
        while end.is_none_or(|end| self.offset < end) {
            match self.batch(segment, &name, &mut reader)? {
                None => {}
                Some(_) if end.is_none() => return self.tail(segment, &name, &mut reader),
                Some(reason) => return Err(self.corrupt(&name, self.offset, reason.to_string())),
            }
        }
        if end.is_some_and(|end| self.offset != end) {
            let reason = "a batch reaches over the segment's end".to_string();
            return Err(self.corrupt(&name, self.offset, reason));
        }
        Ok(())
    }

    /// Takes the next batch, or says why there is none.
    fn batch(
        &mut self,
        segment: &Segment,
        name: &str,
        reader: &mut SegmentReader<'_>,
    ) -> Result<Option<&'static str>, LogError> {
        let start = self.offset;
        let head = reader.bytes(start, BATCH_HEADER_BYTES as u64)?;
        let Some(header) = BatchHeader::decode(segment.salt, head) else {
            return Ok(Some("no batch begins here, or its head is damaged"));
        };
        let body_start = start + BATCH_HEADER_BYTES as u64;
        let body = reader.bytes(body_start, u64::from(header.body_bytes))?;
        if body.len() != header.body_bytes as usize {
            return Ok(Some("the batch reaches over the file's end"));
        }
        let mut at = 0;
        let mut folded = segment.salt.fold_start();
        let mut records = Vec::with_capacity((header.records as usize).min(body.len() / RECORD_HEADER_BYTES));
        while at < body.len() {
            match Record::decode(segment.salt, &body[at..]) {
                Ok(found) => {
                    folded = Salt::fold(folded, found.checksum);
                    records.push((at, found));
                    at += found.bytes;
                }
                Err(RecordFault::Kind(found)) => {
                    let file = format!("{name} (record kind {found})");
                    return Err(LogError::NewerFormat { file, found: VERSION + 1, known: VERSION });
                }
                Err(RecordFault::Short | RecordFault::Checksum) => return Ok(Some("a record is damaged")),
            }
        }
        if records.len() != header.records as usize || folded != header.folded {
            return Ok(Some("the records are not those that the batch was written with"));
        }
        for (at, found) in records {
            let offset = body_start + at as u64;
            self.record(segment.sequence, name, offset, found.record, found.bytes)?;
        }
        self.offset = start + header.extent();
        Ok(None)
    }

    fn record(
        &mut self,
        sequence: u64,
        name: &str,
        offset: u64,
        record: Record,
        bytes: usize,
    ) -> Result<(), LogError> {
        match record {
            Record::Entry(id) => {
                if self.written.line.ends.next().is_some_and(|next| next != id.index) {
                    return Err(self.corrupt(name, offset, format!("entry {} lies there", id.index)));
                }
                let too_far = |_| self.corrupt(name, offset, "the segment is too large".to_string());
                let offset = u32::try_from(offset).map_err(too_far)?;
                let bytes = u32::try_from(bytes).map_err(too_far)?;
                self.written.apply(Placed::Entry { id, sequence, slot: Slot { offset, bytes } });
            }
            Record::Vote(vote) => self.vote = Some(vote),
            Record::TruncateAfter(id) => {
                self.written.apply(Placed::TruncateAfter(id));
                self.missing_below = self.missing_below.min(self.next_index());
            }
            Record::Purge(id) => self.written.apply(Placed::Purge(id)),
        }
        Ok(())
    }

    /// The stream ends here. A batch further on that says that it was durable up to behind this place makes it damage
    /// (rule D2); else what lies here was cut short before its sync, and nobody was told of it.
    fn tail(
        &mut self,
        segment: &Segment,
        name: &str,
        reader: &mut SegmentReader<'_>,
    ) -> Result<(), LogError> {
        let here = Position { sequence: segment.sequence, offset: self.offset };
        let damaged = "it was durable and cannot be read";
        if self.mark > here && self.mark.sequence == segment.sequence {
            return Err(self.corrupt(name, self.offset, damaged.to_string()));
        }
        let mut from = self.offset;
        while let Some((offset, header)) = reader.find_batch(segment.salt, from)? {
            if header.synced > here {
                return Err(self.corrupt(name, self.offset, damaged.to_string()));
            }
            let end = (offset + header.extent()).min(reader.size());
            self.cut = Some(self.cut.unwrap_or(0).max(end));
            from = offset + crate::format::BATCH_ALIGNMENT as u64;
        }
        Ok(())
    }

    /// Entries of segments that are gone must all be purged.
    fn check_nothing_is_missing(&self, first: Option<u64>) -> Result<(), LogError> {
        let kept_from = self.written.line.ends.purged.map_or(0, |purged| purged.index + 1);
        match first {
            Some(first) if self.missing_below > kept_from => Err(LogError::Missing {
                file: segment_name(first.saturating_sub(1)),
                index: self.missing_below - 1,
            }),
            _ => Ok(()),
        }
    }
}
