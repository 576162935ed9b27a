//! What the log must look like, in memory, and a run of a case against it.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::{entry, open};
use crate::segment::segment_sequence;
use crate::testing::{Chance, CrashDisk};
use crate::{Disk, Entry, Log, LogId, LogOptions, LogWriter, Operation, Vote};

/// A step of one life of the process.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Append entries with payloads of these sizes.
    Append(Vec<usize>),
    /// Drop so many thousandths of the entries from the end.
    Truncate(u64),
    /// Save a vote.
    Vote,
    /// Purge so many thousandths of the entries; above 1000 a purge point beyond the end.
    Purge(u64),
    /// Write what was submitted.
    Drain,
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// The process is killed after the steps, or in this call to the disk.
    Kill(Option<u64>),
    /// The power is cut after the steps, or in this call to the disk.
    PowerCut(Option<u64>),
    /// It ends cleanly, then the power is cut; or in this call to the disk.
    Finish(Option<u64>),
}

/// One life: the log is opened, carries out the steps, ends.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) steps: Vec<Step>,
    pub(super) end: End,
}

/// Lives on one disk, and the seed of what lands at a power cut.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) lives: Vec<Life>,
    pub(super) segment_bytes_first: u64,
    pub(super) seed: u64,
}

/// All that can be seen of a log.
#[derive(Clone, Default, PartialEq, Eq)]
struct Picture {
    purged: Option<LogId>,
    entries: Vec<Entry>,
    vote: Option<Vote>,
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "purged {:?} vote {:?} entries", self.purged, self.vote)?;
        self.entries
            .iter()
            .try_for_each(|entry| write!(f, " {}@{}:{}B", entry.id.term, entry.id.index, entry.payload.len()))
    }
}

impl Picture {
    fn of(log: &Log) -> Result<Picture, String> {
        let entries = log.read(0, u64::MAX, usize::MAX).map_err(|error| error.to_string())?;
        let picture = Picture { purged: log.purged(), entries, vote: log.vote() };
        for entry in &picture.entries {
            if log.id_at(entry.id.index) != Some(entry.id) {
                return Err(format!("id_at({}) is {:?}", entry.id.index, log.id_at(entry.id.index)));
            }
        }
        if log.last() != picture.last() {
            return Err(format!("last() is {:?}, expected {:?}", log.last(), picture.last()));
        }
        Ok(picture)
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.id).or(self.purged)
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Append(entries) => self.entries.extend(entries.iter().cloned()),
            Operation::TruncateAfter(id) => {
                self.entries.retain(|entry| id.is_some_and(|id| entry.id.index <= id.index));
            }
            Operation::SaveVote(vote) => self.vote = Some(*vote),
            Operation::Purge(id) => {
                if self.purged.is_none_or(|purged| purged.index < id.index) {
                    self.purged = Some(*id);
                    self.entries.retain(|entry| entry.id.index > id.index);
                }
            }
        }
    }

    /// The operation that a step means here.
    fn operation(&self, step: &Step, term: u64) -> Option<Operation> {
        let count = self.entries.len() as u64;
        match step {
            Step::Append(sizes) => {
                let next = self.last().map_or(1, |last| last.index + 1);
                let indexes = next..;
                let entries = indexes.zip(sizes).map(|(index, bytes)| entry(term, index, *bytes));
                Some(Operation::Append(entries.collect()))
            }
            Step::Truncate(thousandths) => {
                let kept = count - count * thousandths / 1000;
                let last = kept.checked_sub(1).map(|at| self.entries[at as usize].id);
                Some(Operation::TruncateAfter(last.or(self.purged)))
            }
            Step::Vote => {
                Some(Operation::SaveVote(Vote { term, node: 2, committed: term.is_multiple_of(2) }))
            }
            Step::Purge(thousandths) if *thousandths > 1000 => {
                Some(Operation::Purge(super::id(term, self.last().map_or(5, |last| last.index + 7))))
            }
            Step::Purge(thousandths) => {
                let at = (count * thousandths / 1000).checked_sub(1)?;
                Some(Operation::Purge(self.entries[at as usize].id))
            }
            Step::Drain => None,
        }
    }
}

/// What must be there and what may be: the pictures after each operation from the last one known to be durable on.
struct Expected {
    pictures: Vec<Picture>,
    /// The first pictures of the list are out of date: this many operations have been completed.
    completed: Arc<Mutex<usize>>,
    /// Each operation raises it, so that no two entries or votes are equal.
    term: u64,
}

impl Expected {
    fn now(&self) -> &Picture {
        self.pictures.last().expect("the list is never empty")
    }

    /// The log was opened: it must show one of the pictures, and that one is durable now (rule D1).
    fn opened(&mut self, log: &Log) -> Result<(), String> {
        let found = Picture::of(log)?;
        let completed = *self.completed.lock().unwrap();
        let Some(at) = (completed..self.pictures.len()).find(|at| self.pictures[*at] == found) else {
            let older = (0..completed).rev().find(|at| self.pictures[*at] == found);
            return Err(match older {
                Some(at) => format!("{completed} operations were completed, {at} are there"),
                None => format!("{found:?} never was, nor is it among {:?}", &self.pictures[completed..]),
            });
        };
        self.pictures = vec![self.pictures.swap_remove(at)];
        self.completed = Arc::default();
        if log.durable() != self.now().last() {
            return Err(format!("durable() is {:?} after opening {:?}", log.durable(), self.now().last()));
        }
        Ok(())
    }

    /// No file is forgotten: segments follow each other, and no more than two spares wait.
    fn check_files(disk: &CrashDisk) -> Result<(), String> {
        let names = disk.list().map_err(|error| error.to_string())?;
        let mut sequences: Vec<_> = names.iter().filter_map(|name| segment_sequence(name)).collect();
        sequences.sort_unstable();
        let has_gap = sequences.windows(2).any(|pair| pair[0] + 1 != pair[1]);
        if has_gap || names.len() - sequences.len() > 3 {
            return Err(format!("files left over: {names:?}"));
        }
        Ok(())
    }

    fn submit(&mut self, log: &Log, operation: Operation) -> Result<(), String> {
        // An append need not be taken whole: its entries may have come into two segments.
        let parts = match &operation {
            Operation::Append(entries) => {
                entries.iter().map(|entry| Operation::Append(vec![entry.clone()])).collect()
            }
            other => vec![other.clone()],
        };
        for part in parts {
            let mut next = self.now().clone();
            next.apply(&part);
            self.pictures.push(next);
        }
        let completed = self.completed.clone();
        // Completing an operation says that all before it are durable too.
        let number = self.pictures.len() - 1;
        let done = move |answer: Result<(), _>| {
            if answer.is_ok() {
                let mut completed = completed.lock().unwrap();
                *completed = number.max(*completed);
            }
        };
        log.submit(operation, Box::new(done));
        self.check_view(log)
    }

    /// What was submitted is readable at once, and nothing is called durable that is not completed.
    fn check_view(&self, log: &Log) -> Result<(), String> {
        let found = Picture::of(log)?;
        if found != *self.now() {
            return Err(format!("the log shows {found:?}, submitted is {:?}", self.now()));
        }
        let completed = *self.completed.lock().unwrap();
        let durable = log.durable();
        let known = self.pictures[completed].clone();
        let is_known = durable == known.purged
            || known.entries.iter().any(|entry| Some(entry.id) == durable)
            || durable.is_none();
        let is_submitted = durable.is_none_or(|durable| {
            found.purged.is_some_and(|purged| durable.index <= purged.index)
                || log.id_at(durable.index) == Some(durable)
        });
        if !is_known || !is_submitted {
            return Err(format!("durable() is {durable:?}, completed is {known:?}"));
        }
        Ok(())
    }
}

/// Runs a case. An error says what was promised and not kept.
pub(super) fn run_case(case: &Case, options: &LogOptions) -> Result<(), String> {
    let options = &LogOptions {
        segment_bytes_first: case.segment_bytes_first,
        segment_bytes_max: case.segment_bytes_first * 4,
        ..options.clone()
    };
    let mut chance = Chance::new(case.seed);
    let mut disk = CrashDisk::new();
    let mut expected = Expected { pictures: vec![Picture::default()], completed: Arc::default(), term: 0 };
    for (number, life) in case.lives.iter().enumerate() {
        live(life, &disk, &mut expected, options).map_err(|broken| format!("life {number}: {broken}"))?;
        disk = match life.end {
            End::Kill(_) => disk.kill(),
            End::PowerCut(_) | End::Finish(_) => disk.power_cut(&mut chance),
        };
    }
    let (log, _writer) = open(&disk, options.clone()).map_err(|error| format!("at the end: {error}"))?;
    expected.opened(&log).map_err(|broken| format!("at the end: {broken}"))
}

fn live(life: &Life, disk: &CrashDisk, expected: &mut Expected, options: &LogOptions) -> Result<(), String> {
    if let End::Kill(Some(call)) | End::PowerCut(Some(call)) | End::Finish(Some(call)) = life.end {
        disk.crash_at(call);
    }
    let (log, mut writer): (Log, LogWriter) = match open(disk, options.clone()) {
        Ok(opened) => opened,
        Err(_) if disk.has_crashed() => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !disk.has_crashed() {
        expected.opened(&log)?;
        Expected::check_files(disk)?;
    }
    for step in &life.steps {
        expected.term += 1;
        match expected.now().operation(step, expected.term) {
            Some(operation) => {
                if disk.has_crashed() {
                    return Ok(());
                }
                expected.submit(&log, operation)?;
            }
            None => match writer.drain() {
                Ok(_) if disk.has_crashed() => return Ok(()),
                Ok(_) => expected.check_view(&log)?,
                Err(_) if disk.has_crashed() => return Ok(()),
                Err(error) => return Err(error.to_string()),
            },
        }
    }
    if let End::Finish(_) = life.end {
        match writer.finish() {
            _ if disk.has_crashed() => {}
            Ok(()) => expected.check_view(&log)?,
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}
