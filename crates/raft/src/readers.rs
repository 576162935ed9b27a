//! Reads of the store: long ones on threads of their own, short ones right where they are asked, on kept snapshots.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use dqlited_store::LogId;
use dqlited_store::read::ReadView;
use dqlited_store::store::{Reader, Store, StoreError};
use tokio::sync::oneshot;

use crate::environment::{Clock, Threads};
use crate::failure::Failure;
use crate::worker::{self, Running};

/// A kept snapshot older than this is ended, also when no read comes: it would keep SQLite's WAL from beginning anew.
const KEPT_MAX: Duration = Duration::from_millis(40);

type Job = Box<dyn FnOnce(&mut Reader) + Send>;

/// The threads for long reads.
pub(crate) struct ReaderThreads {
    jobs: Mutex<Option<Sender<Job>>>,
    /// Inline there are no threads: a read runs where it is asked for. `None` with threads and after the end.
    inline: Mutex<Option<Reader>>,
    threads: Threads,
    /// Reads under way.
    open: Arc<AtomicUsize>,
}

/// A read that was run.
pub(crate) struct Ran<T> {
    pub answer: T,
    /// A reader was free.
    pub begun: Instant,
    /// All was read.
    pub ended: Instant,
}

/// A read was not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many wait.
    TooMany,
    /// Its deadline passed while it waited.
    Late,
    /// The member stops.
    Stopped,
}

impl ReaderThreads {
    /// Starts them; `waiting_max` reads may wait for one.
    pub(crate) fn start(
        store: &Store,
        threads: Threads,
        count: usize,
        waiting_max: usize,
        failure: &Failure,
    ) -> Result<(ReaderThreads, Vec<Running>), StoreError> {
        if threads == Threads::Inline {
            let inline = Mutex::new(Some(store.reader()?));
            let readers = ReaderThreads { jobs: Mutex::new(None), inline, threads, open: Arc::default() };
            return Ok((readers, Vec::new()));
        }
        let (sender, receiver) = crossbeam_channel::bounded::<Job>(waiting_max.max(1));
        let mut running = Vec::new();
        for _ in 0..count.max(1) {
            let reader = store.reader()?;
            let receiver = receiver.clone();
            running
                .push(worker::run_in_thread("reader", failure.clone(), move || run_jobs(reader, receiver)));
        }
        let readers = ReaderThreads {
            jobs: Mutex::new(Some(sender)),
            inline: Mutex::new(None),
            threads,
            open: Arc::default(),
        };
        Ok((readers, running))
    }

    /// Runs `read` on a new snapshot.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        clock: Arc<dyn Clock>,
        deadline: Instant,
        read: impl FnOnce(&dyn ReadView) -> T + Send + 'static,
    ) -> Result<Result<Ran<T>, StoreError>, Refused> {
        if self.threads == Threads::Inline {
            let begun = clock.now();
            if begun >= deadline {
                return Err(Refused::Late);
            }
            let mut reader = self.inline.lock().expect("no holder of this lock panics");
            let answer = reader.as_mut().ok_or(Refused::Stopped)?.with_view(read);
            return Ok(answer.map(|answer| Ran { answer, begun, ended: clock.now() }));
        }
        let (done, wait) = oneshot::channel();
        let open = self.open.clone();
        let job: Job = Box::new(move |reader| {
            let begun = clock.now();
            // Nobody waits any more for what is late.
            if !done.is_closed() && begun < deadline {
                open.fetch_add(1, Ordering::Relaxed);
                let answer = reader.with_view(read);
                open.fetch_sub(1, Ordering::Relaxed);
                let _ = done.send(Ok(answer.map(|answer| Ran { answer, begun, ended: clock.now() })));
            } else {
                let _ = done.send(Err(Refused::Late));
            }
        });
        let jobs = self.jobs.lock().expect("no holder of this lock panics").clone();
        match jobs.ok_or(Refused::Stopped)?.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(Refused::TooMany),
            Err(TrySendError::Disconnected(_)) => return Err(Refused::Stopped),
        }
        wait.await.unwrap_or(Err(Refused::Stopped))
    }

    /// Reads on the threads at this moment.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The threads end once they have run what waits; inline nothing waits.
    pub(crate) fn stop(&self) {
        self.inline.lock().expect("no holder of this lock panics").take();
        self.jobs.lock().expect("no holder of this lock panics").take();
    }
}

fn run_jobs(mut reader: Reader, jobs: Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        job(&mut reader);
    }
}

/// Connections that keep their snapshot between reads: a read of one key costs no SQLite transaction of its own.
pub(crate) struct KeptReaders {
    slots: Vec<Slot>,
    next: AtomicUsize,
    is_any_kept: AtomicBool,
    clock: Arc<dyn Clock>,
}

struct Slot {
    reader: Mutex<Kept>,
}

struct Kept {
    reader: Reader,
    since: Option<Instant>,
}

impl KeptReaders {
    pub(crate) fn new(store: &Store, count: usize, clock: Arc<dyn Clock>) -> Result<KeptReaders, StoreError> {
        let mut slots = Vec::new();
        for _ in 0..count.max(1) {
            slots.push(Slot { reader: Mutex::new(Kept { reader: store.reader()?, since: None }) });
        }
        Ok(KeptReaders { slots, next: AtomicUsize::new(0), is_any_kept: AtomicBool::new(false), clock })
    }

    /// Runs a short read on a snapshot that holds at least this entry.
    pub(crate) fn run<T>(
        &self,
        at_least: LogId,
        read: impl FnOnce(&dyn ReadView) -> T,
    ) -> Result<Ran<T>, StoreError> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.slots.len();
        let free = (0..count).find_map(|step| self.slots[(first + step) % count].reader.try_lock().ok());
        // A read takes microseconds: waiting for one beats going round.
        let mut kept = match free {
            Some(kept) => kept,
            None => self.slots[first % count].reader.lock().expect("no holder of this lock panics"),
        };
        let begun = self.clock.now();
        if kept.since.is_none() {
            kept.since = Some(begun);
            self.is_any_kept.store(true, Ordering::Release);
        }
        let answer = kept.reader.with_kept_view(at_least, read)?;
        Ok(Ran { answer, begun, ended: self.clock.now() })
    }

    /// Snapshots that are held at this moment.
    pub(crate) fn open(&self) -> usize {
        // One that is in use right now is held.
        let is_held = |slot: &&Slot| slot.reader.try_lock().map_or(true, |kept| kept.since.is_some());
        self.slots.iter().filter(is_held).count()
    }

    /// Ends the snapshots that are kept for too long.
    pub(crate) fn release_old(&self, now: Instant) {
        if !self.is_any_kept.load(Ordering::Acquire) {
            return;
        }
        self.release_if(|since| now.saturating_duration_since(since) >= KEPT_MAX);
    }

    /// Ends all of them.
    pub(crate) fn release_all(&self) {
        self.release_if(|_| true);
    }

    fn release_if(&self, is_over: impl Fn(Instant) -> bool) {
        self.is_any_kept.store(false, Ordering::Release);
        for slot in &self.slots {
            let mut kept = slot.reader.lock().expect("no holder of this lock panics");
            match kept.since {
                Some(since) if is_over(since) => {
                    kept.reader.release();
                    kept.since = None;
                }
                Some(_) => self.is_any_kept.store(true, Ordering::Release),
                None => {}
            }
        }
    }
}
