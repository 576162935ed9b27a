//! How a watch that is behind gets what it needs, whole revisions at a time, and joins those that are told at apply.

use std::sync::Arc;
use std::time::Duration;

use dqlited_store::{Event, LogId, Revision};
use futures::future::BoxFuture;
use tracing::debug;

use super::encode::{EventBlock, Part, Selection, SharedEvent};
use super::hub::{State, WatchStream};
use super::interval::KeyInterval;
use super::message::Message;
use super::planted;
use super::publish::{has_unread, select};
use super::queue::WatchLimits;
use super::watcher::{Place, lacks_previous};

/// Pause after a read that failed, so that a member in trouble is not asked in a loop.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Where events that were published earlier are read.
pub trait History: Send + Sync + 'static {
    /// Reads events from a view that holds the plan's barrier.
    fn events(&self, plan: ReadPlan) -> BoxFuture<'static, Result<HistoryBatch, HistoryError>>;
}

/// What to read.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    watcher: u32,
    serial: u64,
    /// The view must hold this entry: the last one published when the watch was looked at.
    pub barrier: LogId,
    /// The keys.
    pub interval: KeyInterval,
    /// First revision.
    pub from: Revision,
    /// Last revision: that of the barrier.
    pub to: Revision,
    /// With the records before.
    pub with_previous: bool,
    /// Bound on revisions.
    pub revisions_max: usize,
    /// Bound on bytes.
    pub bytes_max: usize,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct HistoryBatch {
    /// Whole revisions, in order.
    pub events: Vec<Event>,
    /// Everything up to here is in it.
    pub through: Revision,
    /// The view's compact revision.
    pub compact_revision: Revision,
}

/// Why events cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryError {
    /// They are compacted, up to this revision.
    Compacted(Revision),
    /// Not now; it is tried again.
    Unavailable(String),
    /// The member stops.
    Stopped,
}

/// What a stream has to do.
enum Step {
    /// Nobody is behind.
    Idle,
    /// Something was done.
    Done,
    /// Read this first.
    Read(ReadPlan),
}

/// Serves the watches of a stream that are behind, one batch each in turn, whenever the stream's queue has room.
pub async fn run(stream: &WatchStream, history: &dyn History) {
    let queue = stream.queue();
    loop {
        queue.batch_room().await;
        match stream.hub.with(|state| state.step(stream)) {
            Step::Idle => queue.wait_behind().await,
            Step::Done => tokio::task::consume_budget().await,
            Step::Read(plan) => {
                let Ok(permit) = stream.hub.reads().acquire().await else { return };
                let result = planted::read(history, &plan).await;
                let failure = match &result {
                    Err(failure @ (HistoryError::Unavailable(_) | HistoryError::Stopped)) => {
                        Some(failure.clone())
                    }
                    _ => None,
                };
                stream.hub.with(|state| state.finish(&plan, result));
                drop(permit);
                match failure {
                    None => {}
                    Some(HistoryError::Stopped) => return,
                    Some(error) => {
                        debug!(?error, "events for a watch that is behind");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
            }
        }
    }
}

impl State {
    /// Looks at the next watch of the stream that is behind, and does what needs no read.
    fn step(&mut self, stream: &WatchStream) -> Step {
        let behind = &mut self.streams.get_mut(stream.number).expect("an open stream has a state").behind;
        let Some((at, serial)) = behind.pop_front() else { return Step::Idle };
        let Some(watcher) = self.watchers.get(at) else { return Step::Done };
        if watcher.serial != serial || watcher.place != Place::Behind {
            return Step::Done;
        }
        if watcher.next < self.compact_revision {
            self.end_compacted(at, self.compact_revision);
            return Step::Done;
        }
        if watcher.next > self.revision {
            self.set_place(at, Place::Synced);
            return Step::Done;
        }
        if self.take_recent(at, stream.hub.limits()) {
            return Step::Done;
        }
        let watcher = self.watchers.get(at).expect("it was there");
        Step::Read(ReadPlan {
            watcher: at,
            serial,
            barrier: self.log_id,
            interval: watcher.spec.interval.clone(),
            from: Revision(watcher.next),
            to: Revision(self.revision),
            with_previous: watcher.spec.prev_kv,
            revisions_max: stream.hub.limits().batch_revisions_max,
            bytes_max: stream.hub.limits().batch_bytes_max,
        })
    }

    /// Serves the watch from the revisions in memory, if all that it needs are there.
    fn take_recent(&mut self, at: u32, limits: &WatchLimits) -> bool {
        let watcher = self.watchers.get(at).expect("a watch that is behind is there");
        // At the compact revision itself some events are hidden; the store knows which.
        if watcher.next <= self.compact_revision {
            return false;
        }
        let Some(revisions) = self.recent.since(watcher.next) else { return false };
        let (mut parts, mut bytes, mut next) = (Vec::new(), 0, self.revision + 1);
        for (revision, block) in revisions {
            if parts.len() >= limits.batch_revisions_max || bytes >= limits.batch_bytes_max {
                next = revision;
                break;
            }
            let wanted = (0u32..).zip(&block.events).filter(|(_, event)| {
                watcher.spec.interval.contains(&event.event().kv.key) && watcher.takes(event.event())
            });
            let places: Vec<u32> = wanted.map(|(place, _)| place).collect();
            if places.is_empty() {
                continue;
            }
            let part = Part { block: block.clone(), selection: select(block, places) };
            if watcher.spec.prev_kv && has_unread(&part) {
                return false;
            }
            bytes += part.events().map(SharedEvent::cost_bytes).sum::<usize>();
            parts.push(part);
        }
        self.send_batch(at, parts);
        self.go_on(at, next);
        true
    }

    /// Takes in what was read for a watch.
    fn finish(&mut self, plan: &ReadPlan, result: Result<HistoryBatch, HistoryError>) {
        let at = plan.watcher;
        let Some(watcher) = self.watchers.get(at) else { return };
        if watcher.serial != plan.serial || watcher.place != Place::Behind {
            return;
        }
        match result {
            Err(HistoryError::Compacted(compact_revision)) => self.end_compacted(at, compact_revision.0),
            Err(_) => self.go_on(at, plan.from.0),
            Ok(batch) => {
                let compact_revision = batch.compact_revision.0;
                let taken: Vec<Event> =
                    batch.events.into_iter().filter(|event| watcher.takes(event)).collect();
                // kube-apiserver gives its watch up for an event without the record before; "compacted" it can handle.
                if watcher.spec.prev_kv && taken.iter().any(|event| lacks_previous(event, compact_revision)) {
                    return self.end_compacted(at, compact_revision);
                }
                let events: Vec<SharedEvent> = taken.into_iter().map(SharedEvent::new).collect();
                let parts = if events.is_empty() {
                    Vec::new()
                } else {
                    vec![Part { block: Arc::new(EventBlock { events }), selection: Selection::All }]
                };
                self.send_batch(at, parts);
                self.go_on(at, batch.through.0 + 1);
            }
        }
    }

    /// Queues a batch. Its header is ahead of its events, as in etcd.
    fn send_batch(&mut self, at: u32, parts: Vec<Part>) {
        if parts.is_empty() {
            return;
        }
        let watcher = self.watchers.get_mut(at).expect("a watch that is served is there");
        watcher.had_events = true;
        self.events += parts.iter().map(|part| part.events().count() as u64).sum::<u64>();
        let message = Message::Events {
            watch_id: watcher.watch_id,
            revision: self.revision,
            parts,
            with_previous: watcher.spec.prev_kv,
            may_split: watcher.spec.fragment,
        };
        let stream = watcher.stream;
        self.push(stream, message);
    }

    /// The watch has everything below `next`: it joins, or waits for its next turn.
    fn go_on(&mut self, at: u32, next: i64) {
        let is_level = next > self.revision;
        let watcher = self.watchers.get_mut(at).expect("a watch that is served is there");
        watcher.next = next;
        if is_level {
            self.set_place(at, Place::Synced);
        } else {
            let turn = (at, watcher.serial);
            let stream = self.streams.get_mut(watcher.stream).expect("a watch is of an open stream");
            stream.behind.push_back(turn);
        }
    }

    fn end_compacted(&mut self, at: u32, compact_revision: i64) {
        let watcher = self.watchers.get(at).expect("a watch that is ended is there");
        let (stream, watch_id) = (watcher.stream, watcher.watch_id);
        self.push(stream, Message::Compacted { watch_id, compact_revision });
        self.set_place(at, Place::Ended);
    }
}
