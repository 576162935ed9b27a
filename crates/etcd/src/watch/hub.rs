//! The one place where watches meet what is applied: publishing and joining take one lock, so that a watch joins at an
//! exact log id and neither misses nor repeats an event (rule D5, docs/consistency.md).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use dqlited_raft::ApplyListener;
use dqlited_store::store::Interest;
use dqlited_store::{Applied, LogId, Revision};
use tokio::sync::Semaphore;
use tonic::Status;

use super::interval::IntervalIndex;
use super::message::{Message, NO_WATCH};
use super::queue::{Budget, StreamQueue, WatchLimits};
use super::recent::Recent;
use super::slots::Slots;
use super::watcher::{Place, WatchSpec, Watcher};

/// etcd's words for a creation that fails.
const REASON_NEGATIVE: &str = "etcdserver: mvcc: required revision has been compacted";
const REASON_EMPTY: &str = "mvcc: watcher range is empty";
const REASON_DUPLICATE: &str = "mvcc: duplicate watch ID provided on the WatchStream";
/// etcd accepts -1, but then its answers cannot be told from those for the whole stream.
const REASON_RESERVED: &str = "mvcc: watch ID -1 is reserved";

/// All watches of a member.
pub struct Hub {
    state: Mutex<State>,
    limits: WatchLimits,
    budget: Arc<Budget>,
    reads: Semaphore,
}

/// Numbers for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Open watches.
    pub watchers: usize,
    /// Open streams.
    pub streams: usize,
    /// Watches that are behind.
    pub slow_watchers: usize,
    /// Events sent to watchers since the start.
    pub events: u64,
    /// Events that wait for clients to read.
    pub pending_events: usize,
    /// Their bytes; shared ones count once a stream.
    pub pending_bytes: usize,
}

/// What the lock guards.
pub(super) struct State {
    /// Last published entry: a view that holds it holds everything that watchers were told.
    pub(super) log_id: LogId,
    pub(super) revision: i64,
    pub(super) compact_revision: i64,
    pub(super) watchers: Slots<Watcher>,
    pub(super) streams: Slots<StreamState>,
    /// Watches in [`Place::Synced`].
    pub(super) synced: IntervalIndex,
    /// Watches with `prev_kv` that are synced or behind: what is published for them soon must carry records before.
    wanting: IntervalIndex,
    pub(super) recent: Recent,
    pub(super) events: u64,
    slow: usize,
    serials: u64,
    is_stopped: bool,
    /// Takers to wake once the lock is let go.
    pub(super) wakers: Vec<Waker>,
}

/// One stream.
pub(super) struct StreamState {
    pub(super) queue: Arc<StreamQueue>,
    /// Its watches by id.
    watchers: HashMap<i64, u32>,
    next_id: i64,
    /// Number and serial of watches that are behind; some may have gone since.
    pub(super) behind: VecDeque<(u32, u64)>,
}

impl Hub {
    /// Without watches, before the member has started.
    pub fn new(limits: WatchLimits) -> Arc<Hub> {
        Arc::new(Hub {
            state: Mutex::new(State {
                log_id: LogId::default(),
                revision: 0,
                compact_revision: -1,
                watchers: Slots::default(),
                streams: Slots::default(),
                synced: IntervalIndex::default(),
                wanting: IntervalIndex::default(),
                recent: Recent::new(limits.recent_revisions_max, limits.recent_bytes_max),
                events: 0,
                slow: 0,
                serials: 0,
                is_stopped: false,
                wakers: Vec::new(),
            }),
            limits,
            budget: Arc::default(),
            reads: Semaphore::new(limits.reads_max),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under the hub's lock")
    }

    /// Runs under the lock and wakes takers after it.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = act(&mut state);
        let mut wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.drain(..).for_each(Waker::wake);
        result
    }

    pub(super) fn limits(&self) -> &WatchLimits {
        &self.limits
    }

    pub(super) fn reads(&self) -> &Semaphore {
        &self.reads
    }

    /// Opens a stream.
    pub fn open(self: &Arc<Self>) -> WatchStream {
        let queue = Arc::new(StreamQueue::new(self.limits, self.budget.clone()));
        let number = self.with(|state| {
            if state.is_stopped {
                queue.end(stopped());
            }
            state.streams.insert(StreamState {
                queue: queue.clone(),
                watchers: HashMap::new(),
                next_id: 0,
                behind: VecDeque::new(),
            })
        });
        WatchStream { hub: self.clone(), number, queue }
    }

    /// Ends all streams, now and from now on: the member stops.
    pub fn stop(&self) {
        self.with(|state| {
            state.is_stopped = true;
            for (_, stream) in state.streams.iter_mut() {
                stream.queue.end(stopped());
            }
        });
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> WatchStats {
        let state = self.lock();
        WatchStats {
            watchers: state.watchers.len(),
            streams: state.streams.len(),
            slow_watchers: state.slow,
            events: state.events,
            pending_events: self.budget.events(),
            pending_bytes: self.budget.used(),
        }
    }
}

fn stopped() -> Status {
    crate::status::EtcdError::Stopped.into()
}

/// A stream's end at the hub; closes its watches when dropped.
pub struct WatchStream {
    pub(super) hub: Arc<Hub>,
    pub(super) number: u32,
    queue: Arc<StreamQueue>,
}

impl WatchStream {
    /// Its answers.
    pub fn queue(&self) -> &Arc<StreamQueue> {
        &self.queue
    }

    /// Makes a watch, or answers why not.
    pub fn create(&self, spec: WatchSpec) {
        self.hub.with(|state| state.create(self.number, spec));
    }

    /// Ends a watch; an unknown id has no answer.
    pub fn cancel(&self, watch_id: i64) {
        self.hub.with(|state| {
            let stream = state.streams.get_mut(self.number).expect("an open stream has a state");
            let Some(number) = stream.watchers.remove(&watch_id) else { return };
            state.forget(number);
            state.push(self.number, Message::Canceled { watch_id, revision: state.revision });
        });
    }

    /// Answers a progress request: once for all, if every watch of the stream is told everything; otherwise not at all.
    /// A watch that a compaction has ended counts until its client cancels it, as in etcd.
    pub fn request_progress(&self) {
        self.hub.with(|state| {
            let stream = state.streams.get(self.number).expect("an open stream has a state");
            let mut watchers = stream.watchers.values().filter_map(|number| state.watchers.get(*number));
            if !stream.watchers.is_empty() && watchers.all(|watcher| watcher.is_caught_up(state.revision)) {
                state.push(self.number, Message::Progress { watch_id: NO_WATCH, revision: state.revision });
            }
        });
    }

    /// The periodic report: each watch that asked for it, has nothing outstanding and got no event since the last one.
    pub fn report_progress(&self) {
        if self.queue.is_full() {
            return;
        }
        self.hub.with(|state| {
            let revision = state.revision;
            let stream = state.streams.get(self.number).expect("an open stream has a state");
            let mut due = Vec::new();
            for number in stream.watchers.values() {
                let Some(watcher) = state.watchers.get_mut(*number) else { continue };
                let had_events = std::mem::replace(&mut watcher.had_events, false);
                if watcher.spec.progress_notify && !had_events && watcher.is_caught_up(revision) {
                    due.push(watcher.watch_id);
                }
            }
            for watch_id in due {
                state.push(self.number, Message::Progress { watch_id, revision });
            }
        });
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.hub.with(|state| {
            if let Some(stream) = state.streams.remove(self.number) {
                stream.watchers.into_values().for_each(|number| state.forget(number));
            }
        });
    }
}

impl State {
    /// Adds an answer to a stream, whatever its bounds.
    pub(super) fn push(&mut self, stream: u32, message: Message) {
        let stream = self.streams.get(stream).expect("a watch is of an open stream");
        self.wakers.extend(stream.queue.push(message));
    }

    fn create(&mut self, number: u32, spec: WatchSpec) {
        let revision = self.revision;
        let stream = self.streams.get_mut(number).expect("an open stream has a state");
        let refusal = if spec.start_revision < 0 {
            Some(REASON_NEGATIVE)
        } else if spec.interval.is_empty() {
            Some(REASON_EMPTY)
        } else if spec.watch_id == NO_WATCH {
            Some(REASON_RESERVED)
        } else if stream.watchers.contains_key(&spec.watch_id) && spec.watch_id != 0 {
            Some(REASON_DUPLICATE)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return self.push(number, Message::Refused { reason, revision });
        }
        let watch_id = match spec.watch_id {
            0 => stream.draw_id(),
            id => id,
        };
        self.serials += 1;
        let next = if spec.start_revision == 0 { revision + 1 } else { spec.start_revision };
        let watcher = Watcher {
            serial: self.serials,
            stream: number,
            watch_id,
            spec,
            place: Place::Ended,
            next,
            had_events: false,
        };
        let at = self.watchers.insert(watcher);
        stream.watchers.insert(watch_id, at);
        self.push(number, Message::Created { watch_id, revision });
        self.set_place(at, if next > revision { Place::Synced } else { Place::Behind });
    }

    /// Moves a watch from one place to another, with everything that hangs on it.
    pub(super) fn set_place(&mut self, at: u32, place: Place) {
        let watcher = self.watchers.get_mut(at).expect("a watch that is moved is there");
        let before = std::mem::replace(&mut watcher.place, place);
        if before == place {
            return;
        }
        let spec = &watcher.spec;
        match before {
            Place::Synced => self.synced.remove(&spec.interval, at),
            Place::Behind => self.slow -= 1,
            Place::Ended if spec.prev_kv => self.wanting.insert(&spec.interval, at),
            Place::Ended => {}
        }
        match place {
            Place::Synced => self.synced.insert(&spec.interval, at),
            Place::Behind => {
                self.slow += 1;
                let stream = self.streams.get_mut(watcher.stream).expect("a watch is of an open stream");
                stream.behind.push_back((at, watcher.serial));
                stream.queue.tell_behind();
            }
            Place::Ended if spec.prev_kv => self.wanting.remove(&spec.interval, at),
            Place::Ended => {}
        }
    }

    /// Takes a watch out of everything but its stream.
    fn forget(&mut self, at: u32) {
        if self.watchers.get(at).is_some() {
            // Its stream may be gone already; Ended touches no stream.
            self.set_place(at, Place::Ended);
            self.watchers.remove(at);
        }
    }
}

impl StreamState {
    /// The next id that is not in use, counting up as etcd does.
    fn draw_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }
}

impl Interest for Hub {
    fn wants_previous(&self, key: &[u8]) -> bool {
        self.lock().wanting.covers(key)
    }
}

impl ApplyListener for Hub {
    fn started(&self, log_id: LogId, revision: Revision, compact_revision: Revision) {
        self.with(|state| state.restart(log_id, revision.0, compact_revision.0));
    }

    fn applied(&self, batch: &Arc<Vec<Applied>>) {
        self.with(|state| batch.iter().for_each(|applied| state.publish(applied)));
    }
}
