//! Segments prepared before they are needed: zero-filled or recycled, always one in reserve.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::segment::{Segment, segment_name};

const PREFIX: &str = "spare-";

/// A second one is held when a segment is given up while one waits: the next is then begun without preparing another, and
/// zeros are written once only.
const SPARES_MAX: usize = 2;
/// While space is short.
const SPARES_MAX_WHEN_SHORT: usize = 1;

/// Zeros are synced in slices of this size, so that the log's own fdatasync never waits behind much more.
const ZERO_SLICE_BYTES: u64 = 4 << 20;

/// Zeros are written page by page: larger writes make large folios, which Linux counts as wholly dirty whenever an append
/// touches them (256 KiB an append of 1 KiB in /proc/PID/io and in the dirty limits, though the device gets one page).
const ZERO_WRITE_BYTES: usize = 4 << 10;

/// File name of a spare.
fn spare_name(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

/// The number in a spare's file name.
pub(crate) fn spare_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// A file that waits to become a segment.
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) bytes: u64,
}

/// What is to be done beside the writes.
pub(crate) struct Task {
    /// Segments that nothing needs, durably purged.
    pub(crate) given_up: Vec<Arc<Segment>>,
    /// Size of the segment that will be begun next.
    pub(crate) bytes_wanted: u64,
}

/// The spares, shared by the writer and who prepares them.
pub(crate) struct Pool {
    disk: Arc<dyn Disk>,
    sync: bool,
    bytes_min: u64,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    spares: VecDeque<Spare>,
    numbers_used: u64,
    is_short_of_space: bool,
    failed: Option<LogError>,
}

impl PoolState {
    fn spares_max(&self) -> usize {
        if self.is_short_of_space { SPARES_MAX_WHEN_SHORT } else { SPARES_MAX }
    }
}

impl Pool {
    /// A pool with the spares found at opening.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        sync: bool,
        bytes_min: u64,
        spares: Vec<Spare>,
        numbers_used: u64,
    ) -> Pool {
        let state = PoolState { spares: spares.into(), numbers_used, ..PoolState::default() };
        Pool { disk, sync, bytes_min, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Whether a segment waits in reserve.
    pub(crate) fn has_spare(&self) -> bool {
        !self.lock().spares.is_empty()
    }

    /// While space is short only one spare is kept; the others are removed.
    pub(crate) fn set_short_of_space(&self, is_short: bool) {
        self.lock().is_short_of_space = is_short;
        self.remove_beyond_bound();
    }

    fn remove_beyond_bound(&self) {
        loop {
            let spare = {
                let mut state = self.lock();
                if state.spares.len() <= state.spares_max() {
                    return;
                }
                state.spares.pop_back()
            };
            // One that stays is removed at the next opening; a failing disk shows itself to the writer.
            let _ = spare.map(|spare| self.disk.remove(&spare.name));
        }
    }

    /// A spare of at least this size, prepared or made now.
    pub(crate) fn take(&self, bytes_min: u64, bytes_wanted: u64) -> Result<Spare, LogError> {
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        if let Some(at) = state.spares.iter().position(|spare| spare.bytes >= bytes_min) {
            return Ok(state.spares.remove(at).expect("the position was just found"));
        }
        drop(state);
        // A small one is zero-filled here. A large one is not: the writer would stand still, while the price of a
        // file with holes is only a journal commit with each fdatasync.
        let bytes = bytes_wanted.max(bytes_min);
        let filled = if bytes <= 2 * self.bytes_min { bytes } else { 0 };
        self.create(bytes, filled)
    }

    /// Makes a file of this size whose first bytes are written with zeros.
    fn create(&self, bytes: u64, filled: u64) -> Result<Spare, LogError> {
        let name = {
            let mut state = self.lock();
            state.numbers_used += 1;
            spare_name(state.numbers_used)
        };
        let file = self.disk.create(&name).map_err(|source| LogError::disk("create", &name, source))?;
        let made = self.fill(file.as_ref(), bytes, filled);
        if let Err(source) = made {
            // What could not be made must not take the space that is short.
            let _ = self.disk.remove(&name);
            return Err(LogError::disk("prepare", &name, source));
        }
        Ok(Spare { name, file, bytes })
    }

    fn fill(&self, file: &dyn DiskFile, bytes: u64, filled: u64) -> io::Result<()> {
        let zeros = vec![0; ZERO_WRITE_BYTES.min(filled as usize)];
        let mut at = 0;
        while at < filled {
            let piece = zeros.len().min((filled - at) as usize);
            file.write_at(at, &zeros[..piece])?;
            at += piece as u64;
            if self.sync && at.is_multiple_of(ZERO_SLICE_BYTES) {
                file.sync_data()?;
            }
        }
        if bytes > filled {
            file.set_size(bytes)?;
        }
        Ok(())
    }

    /// Recycles or removes what was given up, then sees to it that a spare is ready.
    fn tidy(&self, task: Task) -> Result<(), LogError> {
        self.give_up(task.given_up, task.bytes_wanted)?;
        let mut bytes = task.bytes_wanted;
        while !self.has_spare() {
            match self.prepare(bytes) {
                Ok(()) => {}
                // A full disk is no fault yet: a smaller spare may fit, and what is written goes on without one.
                Err(error) if is_full(&error) && bytes > self.bytes_min => {
                    bytes = (bytes / 2).max(self.bytes_min);
                }
                Err(error) if is_full(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn prepare(&self, bytes: u64) -> Result<(), LogError> {
        let spare = self.create(bytes, bytes)?;
        if self.sync {
            let synced = spare.file.sync_data().and_then(|()| self.disk.sync_dir());
            if let Err(source) = synced {
                let _ = self.disk.remove(&spare.name);
                return Err(LogError::disk("sync", &spare.name, source));
            }
        }
        self.lock().spares.push_back(spare);
        Ok(())
    }

    fn give_up(&self, segments: Vec<Arc<Segment>>, bytes_wanted: u64) -> Result<(), LogError> {
        if segments.is_empty() {
            return Ok(());
        }
        let mut recycled = Vec::new();
        for segment in segments {
            let from = segment_name(segment.sequence);
            // A reader may still hold the file: then its bytes must stay as they are.
            let segment = Arc::try_unwrap(segment).ok();
            let room = {
                let state = self.lock();
                state.spares.len() + recycled.len() < state.spares_max()
            };
            match segment {
                Some(segment) if room && segment.bytes >= bytes_wanted => {
                    let name = {
                        let mut state = self.lock();
                        state.numbers_used += 1;
                        spare_name(state.numbers_used)
                    };
                    self.disk
                        .rename(&from, &name)
                        .map_err(|source| LogError::disk("rename", &from, source))?;
                    recycled.push(Spare { name, bytes: segment.bytes, file: segment.file });
                }
                _ => {
                    self.disk.remove(&from).map_err(|source| LogError::disk("remove", &from, source))?;
                }
            }
        }
        // Before a recycled file is written to, its old name must be gone for good.
        if self.sync {
            self.disk
                .sync_dir()
                .map_err(|source| LogError::disk("sync the folder of", "segments", source))?;
        }
        self.lock().spares.extend(recycled);
        // Space may have become short meanwhile.
        self.remove_beyond_bound();
        Ok(())
    }

    fn run(&self, task: Task) {
        if let Err(error) = self.tidy(task) {
            self.lock().failed = Some(error);
        }
    }

    /// The error that ends the log, if preparing met one.
    pub(crate) fn failed(&self) -> Option<LogError> {
        self.lock().failed.clone()
    }
}

fn is_full(error: &LogError) -> bool {
    match error {
        LogError::Disk { source, .. } => {
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        }
        _ => false,
    }
}

/// Does the tasks: on a thread of its own, or at once.
pub(crate) struct Keeper {
    pool: Arc<Pool>,
    /// At most one task a segment begun or given up waits here.
    thread: Option<(Sender<Task>, JoinHandle<()>)>,
}

impl Keeper {
    pub(crate) fn start(pool: Arc<Pool>, background: bool) -> Result<Keeper, LogError> {
        if !background {
            return Ok(Keeper { pool, thread: None });
        }
        let (sender, tasks) = mpsc::channel::<Task>();
        let worker = pool.clone();
        let thread = thread::Builder::new()
            .name("log-spare".to_string())
            .spawn(move || tasks.iter().for_each(|task| worker.run(task)))
            .map_err(|source| LogError::disk("start the thread for", "spare segments", source))?;
        Ok(Keeper { pool, thread: Some((sender, thread)) })
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn run(&self, task: Task) {
        match &self.thread {
            // Its thread ends with the keeper only.
            Some((sender, _)) => drop(sender.send(task)),
            None => self.pool.run(task),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.thread.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}
