//! What the apply thread does with an applied entry: its events go to the queues of the watches that they concern.

use std::sync::Arc;

use dqlited_store::event::Previous;
use dqlited_store::{Applied, LogId};

use super::encode::{EventBlock, Part, Selection, SharedEvent};
use super::hub::State;
use super::message::Message;
use super::watcher::Place;

impl State {
    /// The member starts from here, or goes on from an installed snapshot: what lies between was not published, so
    /// watches read it from the store.
    pub(super) fn restart(&mut self, log_id: LogId, revision: i64, compact_revision: i64) {
        let overtaken: Vec<u32> = self
            .watchers
            .iter_mut()
            .filter(|(_, watcher)| watcher.place == Place::Synced && watcher.next <= revision)
            .map(|(at, watcher)| {
                watcher.next = watcher.next.max(self.revision + 1);
                at
            })
            .collect();
        (self.log_id, self.revision, self.compact_revision) = (log_id, revision, compact_revision);
        self.recent.restart(revision);
        overtaken.into_iter().for_each(|at| self.set_place(at, Place::Behind));
    }

    /// Publishes one entry.
    pub(super) fn publish(&mut self, applied: &Applied) {
        if applied.log_id <= self.log_id {
            // Applied again after a lost SQLite transaction: its events have gone out (rule D5).
            return;
        }
        self.log_id = applied.log_id;
        self.compact_revision = applied.compact_revision.0;
        let revision = applied.revision.0;
        self.revision = revision;
        if applied.events.is_empty() {
            return;
        }
        let events = applied.events.iter().cloned().map(SharedEvent::new).collect();
        let block = Arc::new(EventBlock { events });
        self.recent.push(revision, block.clone());
        match &block.events[..] {
            [event] => {
                let mut found = Vec::new();
                self.synced.for_each(&event.event().kv.key, |at| found.push(at));
                for at in found {
                    self.deliver(at, revision, &block, &[0]);
                }
            }
            events => {
                let mut found: Vec<(u32, u32)> = Vec::new();
                for (place, event) in (0u32..).zip(events) {
                    self.synced.for_each(&event.event().kv.key, |at| found.push((at, place)));
                }
                found.sort_unstable();
                for of_one in found.chunk_by(|a, b| a.0 == b.0) {
                    let places: Vec<u32> = of_one.iter().map(|(_, place)| *place).collect();
                    self.deliver(of_one[0].0, revision, &block, &places);
                }
            }
        }
    }

    /// Hands events of the newest revision to a synced watch.
    fn deliver(&mut self, at: u32, revision: i64, block: &Arc<EventBlock>, places: &[u32]) {
        let watcher = self.watchers.get_mut(at).expect("the index holds watches that are there");
        if revision < watcher.next {
            return;
        }
        let taken: Vec<u32> = places
            .iter()
            .copied()
            .filter(|place| watcher.takes(block.events[*place as usize].event()))
            .collect();
        if taken.is_empty() {
            return;
        }
        let count = taken.len() as u64;
        let part = Part { block: block.clone(), selection: select(block, taken) };
        // A watch that joined while this entry was being executed: nobody knew that it wants the record before.
        let is_incomplete = watcher.spec.prev_kv && has_unread(&part);
        let message = Message::Events {
            watch_id: watcher.watch_id,
            revision,
            parts: vec![part],
            with_previous: watcher.spec.prev_kv,
            may_split: watcher.spec.fragment,
        };
        let stream = self.streams.get(watcher.stream).expect("a watch is of an open stream");
        match (!is_incomplete).then(|| stream.queue.try_push(message)) {
            Some(Ok(waker)) => {
                watcher.next = revision + 1;
                watcher.had_events = true;
                self.events += count;
                self.wakers.extend(waker);
            }
            Some(Err(_)) | None => {
                watcher.next = revision;
                self.set_place(at, Place::Behind);
            }
        }
    }
}

/// A selection of these places, ascending.
pub(super) fn select(block: &EventBlock, places: Vec<u32>) -> Selection {
    if places.len() == block.events.len() { Selection::All } else { Selection::Some(places.into()) }
}

/// Some event's record before was not read.
pub(super) fn has_unread(part: &Part) -> bool {
    part.events().any(|event| event.event().previous == Previous::NotRead)
}
