//! A member without disk: executes random entries, publishes them later, shows them to readers at yet another time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dqlited_raft::ApplyListener;
use dqlited_store::event::Previous;
use dqlited_store::store::Interest;
use dqlited_store::{Applied, Event, EventKind, KeyValue, LogId, Response, Revision};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Chance;
use crate::watch::catch_up::{History, HistoryBatch, HistoryError, ReadPlan};
use crate::watch::hub::Hub;

/// State after one entry.
#[derive(Clone, Debug)]
pub struct Entry {
    pub applied: Applied,
    /// The same events with every record before.
    pub complete: Vec<Event>,
}

/// The log, executed.
#[derive(Debug, Default)]
pub struct Log {
    pub entries: Vec<Entry>,
    current: BTreeMap<Bytes, KeyValue>,
    revision: i64,
    compact_revision: i64,
    /// Entries that readers see unless they ask for more.
    pub visible: usize,
    /// Entries handed to the hub.
    pub published: usize,
}

/// A member: the log and who follows it.
pub struct Member {
    pub log: Arc<Mutex<Log>>,
    pub hub: Arc<Hub>,
    pub chance: RefCell<Chance>,
}

impl Member {
    pub fn new(hub: Arc<Hub>, seed: u64) -> Member {
        let log = Log { revision: 1, compact_revision: -1, ..Log::default() };
        hub.started(LogId::default(), Revision(1), Revision(-1));
        Member { log: Arc::new(Mutex::new(log)), hub, chance: RefCell::new(Chance::new(seed)) }
    }

    pub fn published_revision(&self) -> i64 {
        let log = self.log.lock().unwrap();
        log.published.checked_sub(1).map_or(1, |last| log.entries[last].applied.revision.0)
    }

    pub fn compact_revision(&self) -> i64 {
        self.log.lock().unwrap().compact_revision
    }

    /// Executes one random entry in the open transaction.
    pub fn execute(&self) {
        let mut log = self.log.lock().unwrap();
        let mut chance = self.chance.borrow_mut();
        let mut changes = Vec::new();
        match chance.below(20) {
            0 => {}
            1 if log.revision > log.compact_revision.max(1) => {
                let span = (log.revision - log.compact_revision.max(1)) as u64;
                log.compact_revision = log.revision - chance.below(span.min(8)) as i64;
            }
            2 => {
                // Born and dead, or overwritten and dead, in one revision.
                let key = chance.key();
                changes = vec![(key.clone(), true), (key, false)];
            }
            n if n < 6 => {
                let mut keys: Vec<Bytes> = (0..3).map(|_| chance.key()).collect();
                keys.sort();
                keys.dedup();
                changes = keys.into_iter().map(|key| (key, chance.below(2) == 0)).collect();
            }
            _ => changes = vec![(chance.key(), chance.below(4) > 0)],
        }
        log.execute(&*self.hub, changes, &mut chance);
    }

    /// Commits: readers see everything executed.
    pub fn commit(&self) {
        let mut log = self.log.lock().unwrap();
        log.visible = log.entries.len();
    }

    /// Publishes what was executed, as one batch.
    pub fn publish(&self) {
        let mut log = self.log.lock().unwrap();
        let batch: Vec<Applied> =
            log.entries[log.published..].iter().map(|entry| entry.applied.clone()).collect();
        log.published = log.entries.len();
        drop(log);
        if !batch.is_empty() {
            self.hub.applied(&Arc::new(batch));
        }
    }

    /// A snapshot is installed: what was not published never will be.
    pub fn install(&self) {
        let mut log = self.log.lock().unwrap();
        log.published = log.entries.len();
        log.visible = log.entries.len();
        let Some(last) = log.entries.last() else { return };
        let (log_id, revision, compact_revision) =
            (last.applied.log_id, last.applied.revision, last.applied.compact_revision);
        drop(log);
        self.hub.started(log_id, revision, compact_revision);
    }

    /// All compact revisions there were.
    pub fn compactions(&self) -> Vec<i64> {
        self.log.lock().unwrap().entries.iter().map(|entry| entry.applied.compact_revision.0).collect()
    }

    /// Everything that happened, with records before.
    pub fn all_events(&self) -> Vec<Event> {
        self.log.lock().unwrap().entries.iter().flat_map(|entry| entry.complete.clone()).collect()
    }
}

impl Log {
    fn execute(&mut self, interest: &dyn Interest, changes: Vec<(Bytes, bool)>, chance: &mut Chance) {
        let before = self.current.clone();
        let revision = self.revision + 1;
        let mut complete = Vec::new();
        for (key, is_put) in changes {
            let previous = before.get(&key).cloned().map_or(Previous::None, Previous::Known);
            let old = self.current.remove(&key);
            let kv = if is_put {
                KeyValue {
                    key: key.clone(),
                    create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
                    mod_revision: revision,
                    version: old.map_or(0, |old| old.version) + 1,
                    value: Bytes::from(vec![b'v'; chance.below(300) as usize]),
                    lease: 0,
                }
            } else if old.is_some() {
                KeyValue { key: key.clone(), mod_revision: revision, ..KeyValue::default() }
            } else {
                continue;
            };
            if is_put {
                self.current.insert(key, kv.clone());
            }
            let kind = if is_put { EventKind::Put } else { EventKind::Delete };
            complete.push(Event { kind, kv, previous });
        }
        if !complete.is_empty() {
            self.revision = revision;
        }
        let events = complete.iter().cloned().map(|event| Event {
            previous: match event.previous {
                Previous::Known(_) if !interest.wants_previous(&event.kv.key) => Previous::NotRead,
                previous => previous,
            },
            ..event
        });
        let applied = Applied {
            log_id: LogId { index: self.entries.len() as u64 + 1, ..LogId::default() },
            identity: None,
            result: Ok(Response::Done),
            revision: Revision(self.revision),
            compact_revision: Revision(self.compact_revision),
            events: events.collect(),
        };
        self.entries.push(Entry { applied, complete });
    }

    fn read(&mut self, plan: &ReadPlan) -> Result<HistoryBatch, HistoryError> {
        if self.visible < plan.barrier.index as usize {
            // The reader waits for a commit.
            self.visible = self.entries.len();
        }
        let view = &self.entries[..self.visible];
        let (revision, compact_revision) =
            view.last().map_or((1, -1), |last| (last.applied.revision.0, last.applied.compact_revision.0));
        if plan.from.0 < compact_revision {
            return Err(HistoryError::Compacted(Revision(compact_revision)));
        }
        let to = plan.to.0.min(revision);
        let mut batch = HistoryBatch {
            events: Vec::new(),
            through: Revision(to),
            compact_revision: Revision(compact_revision),
        };
        let mut revisions = 0;
        for entry in view {
            let at = entry.applied.revision.0;
            if entry.complete.is_empty() || at < plan.from.0 || at > to {
                continue;
            }
            let hidden = |event: &Event| {
                at == compact_revision
                    && entry.complete.iter().rfind(|last| last.kv.key == event.kv.key) != Some(event)
            };
            let found: Vec<Event> = entry
                .complete
                .iter()
                .filter(|event| plan.interval.contains(&event.kv.key) && !hidden(event))
                .cloned()
                .map(|event| match event.previous {
                    Previous::Known(_) if at <= compact_revision => {
                        Event { previous: Previous::None, ..event }
                    }
                    Previous::Known(_) if !plan.with_previous => {
                        Event { previous: Previous::NotRead, ..event }
                    }
                    _ => event,
                })
                .collect();
            if found.is_empty() {
                continue;
            }
            if revisions == plan.revisions_max {
                batch.through = Revision(at - 1);
                break;
            }
            revisions += 1;
            batch.events.extend(found);
        }
        Ok(batch)
    }
}

/// Reads the model's log, at some moment between the question and the answer.
pub struct ModelHistory {
    pub log: Arc<Mutex<Log>>,
    pub chance: Mutex<Chance>,
}

impl History for ModelHistory {
    fn events(&self, plan: ReadPlan) -> BoxFuture<'static, Result<HistoryBatch, HistoryError>> {
        let (before, after, fails) = {
            let mut chance = self.chance.lock().unwrap();
            (chance.below(4), chance.below(4), chance.below(50) == 0)
        };
        let log = self.log.clone();
        async move {
            for _ in 0..before {
                tokio::task::yield_now().await;
            }
            if fails {
                return Err(HistoryError::Unavailable("by chance".into()));
            }
            let result = log.lock().unwrap().read(&plan);
            for _ in 0..after {
                tokio::task::yield_now().await;
            }
            result
        }
        .boxed()
    }
}
