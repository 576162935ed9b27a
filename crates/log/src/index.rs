//! Which entries the log holds, and where each lies.

use std::collections::VecDeque;

use crate::operation::LogId;

/// A value for each index, kept as runs of equal values.
#[derive(Clone, Debug)]
pub(crate) struct Runs<T> {
    /// First index and value of each run, in rising order; the last run is open.
    runs: VecDeque<(u64, T)>,
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Runs { runs: VecDeque::new() }
    }
}

impl<T: Copy + PartialEq> Runs<T> {
    /// From this index on, which follows all before, the value is this.
    fn push(&mut self, index: u64, value: T) {
        if self.runs.back().is_none_or(|(_, last)| *last != value) {
            self.runs.push_back((index, value));
        }
    }

    fn get(&self, index: u64) -> Option<T> {
        let behind = self.runs.partition_point(|(first, _)| *first <= index);
        behind.checked_sub(1).map(|at| self.runs[at].1)
    }

    fn first_value(&self) -> Option<T> {
        self.runs.front().map(|(_, value)| *value)
    }

    /// Forgets this index and all behind it.
    fn cut(&mut self, index: u64) {
        while self.runs.back().is_some_and(|(first, _)| *first >= index) {
            self.runs.pop_back();
        }
    }

    /// Forgets all in front of this index.
    fn drop_before(&mut self, index: u64) {
        while self.runs.get(1).is_some_and(|(first, _)| *first <= index) {
            self.runs.pop_front();
        }
        if let Some(front) = self.runs.front_mut() {
            front.0 = front.0.max(index);
        }
    }
}

/// The two ends of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Up to where it is purged.
    pub(crate) purged: Option<LogId>,
    /// The last entry; the purge point when there is none.
    pub(crate) last: Option<LogId>,
}

impl Ends {
    /// The only index that can be appended next; `None` when any can.
    pub(crate) fn next(&self) -> Option<u64> {
        self.last.map(|last| last.index + 1)
    }

    pub(crate) fn append(&mut self, id: LogId) {
        debug_assert!(self.next().is_none_or(|next| next == id.index));
        self.last = Some(id);
    }

    pub(crate) fn truncate_after(&mut self, id: Option<LogId>) {
        let keeps = |id: &LogId| self.purged.is_none_or(|purged| id.index > purged.index);
        match id {
            Some(id) if self.last.is_none_or(|last| id.index >= last.index) => {}
            id => self.last = id.filter(keeps).or(self.purged),
        }
    }

    /// False if it was purged so far already.
    pub(crate) fn purge(&mut self, id: LogId) -> bool {
        if self.purged.is_some_and(|purged| id.index <= purged.index) {
            return false;
        }
        self.purged = Some(id);
        if self.last.is_none_or(|last| id.index >= last.index) {
            self.last = Some(id);
        }
        true
    }

    /// Index behind the last one, for cutting what is kept by index.
    pub(crate) fn end(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }
}

/// The ids of the entries that the log holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub(crate) ends: Ends,
    /// (term, node) of each entry.
    leaders: Runs<(u64, u64)>,
}

impl Line {
    /// A log that begins with these ends, its entries unknown.
    pub(crate) fn from_ends(ends: Ends) -> Line {
        Line { ends, leaders: Runs::default() }
    }

    pub(crate) fn append(&mut self, id: LogId) {
        self.ends.append(id);
        self.leaders.push(id.index, (id.term, id.node));
    }

    pub(crate) fn truncate_after(&mut self, id: Option<LogId>) {
        self.ends.truncate_after(id);
        self.leaders.cut(self.ends.end());
    }

    pub(crate) fn purge(&mut self, id: LogId) -> bool {
        let has_moved = self.ends.purge(id);
        if has_moved {
            self.leaders.cut(self.ends.end());
            self.leaders.drop_before(id.index + 1);
            if self.is_empty() {
                self.leaders = Runs::default();
            }
        }
        has_moved
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.last == self.ends.purged
    }

    /// The first index held, if any is.
    pub(crate) fn first(&self) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        self.leaders.runs.front().map(|(first, _)| *first)
    }

    /// The id at an index: of an entry, or of the purge point.
    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        if let Some(purged) = self.ends.purged
            && index <= purged.index
        {
            return (index == purged.index).then_some(purged);
        }
        if self.is_empty() || index >= self.ends.end() {
            return None;
        }
        self.leaders.get(index).map(|(term, node)| LogId { term, node, index })
    }
}

/// Where the record of an entry lies in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Of the record, in the segment's file. Segments are smaller than 4 GiB.
    pub(crate) offset: u32,
    /// Of the whole record.
    pub(crate) bytes: u32,
}

/// A change of what is written, in the order of the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Placed {
    Entry { id: LogId, sequence: u64, slot: Slot },
    TruncateAfter(Option<LogId>),
    Purge(LogId),
}

/// What the segments hold: the ids, and the place of each entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    pub(crate) line: Line,
    /// Index of the first slot.
    slots_first: u64,
    slots: VecDeque<Slot>,
    /// The segment of each slot; rises with the index.
    segments: Runs<u64>,
}

impl Written {
    /// A log that begins with these ends and whose entries lie nowhere.
    pub(crate) fn from_ends(ends: Ends) -> Written {
        Written { line: Line::from_ends(ends), ..Written::default() }
    }

    pub(crate) fn apply(&mut self, placed: Placed) {
        match placed {
            Placed::Entry { id, sequence, slot } => {
                self.line.append(id);
                if self.slots.is_empty() {
                    self.slots_first = id.index;
                }
                self.slots.push_back(slot);
                self.segments.push(id.index, sequence);
            }
            Placed::TruncateAfter(id) => {
                self.line.truncate_after(id);
                self.cut_to_ends();
            }
            Placed::Purge(id) => {
                if self.line.purge(id) {
                    self.cut_to_ends();
                    self.drop_before(id.index + 1);
                }
            }
        }
    }

    fn cut_to_ends(&mut self) {
        let end = self.line.ends.end();
        self.slots.truncate(end.saturating_sub(self.slots_first) as usize);
        self.segments.cut(end);
        self.forget_runs_of_nothing();
    }

    fn drop_before(&mut self, index: u64) {
        let count = index.saturating_sub(self.slots_first).min(self.slots.len() as u64);
        self.slots.drain(..count as usize);
        self.slots_first += count;
        self.segments.drop_before(index);
        self.forget_runs_of_nothing();
        if self.slots.is_empty() {
            self.slots.shrink_to(1024);
        }
    }

    fn forget_runs_of_nothing(&mut self) {
        if self.slots.is_empty() {
            self.segments = Runs::default();
        }
    }

    /// Segment and place of an entry.
    pub(crate) fn find(&self, index: u64) -> Option<(u64, Slot)> {
        let at = index.checked_sub(self.slots_first)?;
        let slot = *self.slots.get(usize::try_from(at).ok()?)?;
        Some((self.segments.get(index)?, slot))
    }

    /// The first segment that holds an entry.
    pub(crate) fn first_segment(&self) -> Option<u64> {
        self.segments.first_value()
    }

    /// First index of each segment that holds entries, in rising order.
    pub(crate) fn segment_starts(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.segments.runs.iter().copied()
    }
}
