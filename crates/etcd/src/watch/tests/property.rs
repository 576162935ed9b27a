//! Watches against the model: every watch sees exactly its share of the history, in order, once, whole revisions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use dqlited_store::event::Previous;
use dqlited_store::{Event, EventKind};
use futures::FutureExt;

use super::model::{Member, ModelHistory};
use super::{Chance, poll_message};
use crate::watch::catch_up;
use crate::watch::hub::{Hub, WatchStream};
use crate::watch::interval::KeyInterval;
use crate::watch::message::{Message, NO_WATCH};
use crate::watch::queue::WatchLimits;
use crate::watch::watcher::WatchSpec;

/// Bounds so small that every one of them is met.
fn small_limits() -> WatchLimits {
    WatchLimits {
        stream_messages_max: 4,
        stream_bytes_max: 4000,
        all_bytes_max: 12_000,
        batch_revisions_max: 3,
        batch_bytes_max: 2000,
        reads_max: 2,
        recent_revisions_max: 6,
        recent_bytes_max: 1 << 20,
    }
}

/// What a client knows of one watch.
struct Seen {
    spec: WatchSpec,
    /// First revision that may come; known with the `created` answer.
    first: i64,
    events: Vec<Event>,
    compacted: Option<i64>,
    canceled: bool,
}

struct Client {
    stream: Arc<WatchStream>,
    /// Asked for and not yet answered, in order.
    asked: Vec<WatchSpec>,
    seen: HashMap<i64, Seen>,
    /// Ended ones.
    past: Vec<Seen>,
    slow: bool,
}

impl Client {
    fn ask(&mut self, spec: WatchSpec) {
        self.asked.insert(0, spec.clone());
        self.stream.create(spec);
    }

    /// Takes one answer, if there is one, and checks it.
    fn take(&mut self, context: &str) -> bool {
        let Some(message) = poll_message(self.stream.queue()) else { return false };
        match message.expect("the stream does not end") {
            Message::Created { watch_id, revision } => {
                let spec = self.asked.pop().expect("created only after a request");
                let first = if spec.start_revision == 0 { revision + 1 } else { spec.start_revision };
                let seen = Seen { spec, first, events: Vec::new(), compacted: None, canceled: false };
                assert!(self.seen.insert(watch_id, seen).is_none(), "{context}: id {watch_id} is taken");
            }
            Message::Refused { reason, .. } => panic!("{context}: refused: {reason}"),
            Message::Canceled { watch_id, .. } => {
                let mut seen = self.seen.remove(&watch_id).expect("canceled was there");
                seen.canceled = true;
                self.past.push(seen);
            }
            Message::Compacted { watch_id, compact_revision } => {
                let seen = self.seen.get_mut(&watch_id).expect("compacted was there");
                assert!(seen.compacted.replace(compact_revision).is_none(), "{context}: compacted twice");
            }
            Message::Progress { watch_id, revision } => {
                assert_eq!(watch_id, NO_WATCH);
                for (id, seen) in &mut self.seen {
                    if seen.compacted.is_none() {
                        assert!(revision >= seen.spec.start_revision, "{context}: progress before the start");
                        seen.events.push(marker(*id, revision));
                    }
                }
            }
            Message::Events { watch_id, revision, parts, with_previous, .. } => {
                let seen = self.seen.get_mut(&watch_id).expect("events of a watch that was created");
                assert!(seen.compacted.is_none(), "{context}: events after the end");
                assert_eq!(with_previous, seen.spec.prev_kv);
                let events: Vec<Event> =
                    parts.iter().flat_map(|part| part.events()).map(|event| event.event().clone()).collect();
                assert!(!events.is_empty(), "{context}: an empty answer reads as progress");
                assert!(events.last().unwrap().kv.mod_revision <= revision);
                let last = seen.events.last().map_or(0, |event| event.kv.mod_revision);
                assert!(events[0].kv.mod_revision > last, "{context}: a revision was split or repeated");
                seen.events.extend(events);
            }
        }
        true
    }
}

/// Stands between events for a progress answer.
fn marker(_watch: i64, revision: i64) -> Event {
    Event {
        kind: EventKind::Delete,
        kv: dqlited_store::KeyValue { mod_revision: revision, ..Default::default() },
        previous: Previous::None,
    }
}

fn is_marker(event: &Event) -> bool {
    event.kv.key.is_empty()
}

/// Checks what a client saw against the history.
fn check(seen: &Seen, history: &[Event], compactions: &[i64], context: &str) {
    let spec = &seen.spec;
    let expected: Vec<&Event> = history
        .iter()
        .filter(|event| event.kv.mod_revision >= seen.first && spec.interval.contains(&event.kv.key))
        .filter(|event| match event.kind {
            EventKind::Put => !spec.no_put,
            EventKind::Delete => !spec.no_delete,
        })
        .collect();
    let may_be_hidden = |put: &Event| {
        compactions.contains(&put.kv.mod_revision)
            && put.kind == EventKind::Put
            && history.iter().any(|other| {
                other.kind == EventKind::Delete
                    && (&other.kv.key, other.kv.mod_revision) == (&put.kv.key, put.kv.mod_revision)
            })
    };
    let mut at = 0;
    for event in &seen.events {
        if is_marker(event) {
            let promised = event.kv.mod_revision;
            while expected
                .get(at)
                .is_some_and(|wanted| wanted.kv.mod_revision <= promised && may_be_hidden(wanted))
            {
                at += 1;
            }
            if let Some(missing) = expected.get(at) {
                assert!(
                    missing.kv.mod_revision > event.kv.mod_revision,
                    "{context}: progress {} overtook {missing:?}",
                    event.kv.mod_revision
                );
            }
            continue;
        }
        // At the compact revision what was overwritten within that revision may be hidden.
        while expected.get(at).is_some_and(|wanted| wanted.kv != event.kv && may_be_hidden(wanted)) {
            at += 1;
        }
        let wanted = expected.get(at).unwrap_or_else(|| panic!("{context}: unexpected {event:?}"));
        assert_eq!((&wanted.kv, wanted.kind), (&event.kv, event.kind), "{context}: wrong event");
        if spec.prev_kv {
            assert_eq!(wanted.previous, event.previous, "{context}: record before of {:?}", event.kv);
        }
        at += 1;
    }
    let is_live = seen.compacted.is_none() && !seen.canceled;
    if is_live {
        while expected.get(at).is_some_and(|wanted| may_be_hidden(wanted)) {
            at += 1;
        }
        assert_eq!(at, expected.len(), "{context}: missing {:?} of {:?}", expected.get(at), spec);
    } else if let Some(compact_revision) = seen.compacted {
        // Ended for a reason: what it needs next is out of reach, or its record before is.
        let last = seen.events.last().map_or(0, |event| event.kv.mod_revision);
        let next = seen.first.max(last + 1);
        assert!(next <= compact_revision, "{context}: ended at {compact_revision} before {next}");
    }
}

fn random_spec(chance: &mut Chance, current: i64, compacted: i64) -> WatchSpec {
    let key = chance.key();
    let end = match chance.below(4) {
        0 => bytes::Bytes::new(),
        1 => bytes::Bytes::from_static(&[0]),
        _ => {
            let mut end = key.to_vec();
            *end.last_mut().unwrap() += 1;
            end.into()
        }
    };
    let start_revision = match chance.below(4) {
        0 => 0,
        1 => current + 1 + chance.below(4) as i64,
        _ => compacted.max(1) + chance.below((current - compacted.max(1) + 1).max(1) as u64) as i64,
    };
    WatchSpec {
        interval: KeyInterval::from_request(key, end),
        start_revision,
        watch_id: 0,
        progress_notify: false,
        no_put: chance.below(8) == 0,
        no_delete: chance.below(8) == 0,
        prev_kv: chance.below(2) == 0,
        fragment: chance.below(4) == 0,
    }
}

/// One random history with random watches.
async fn run(seed: u64) {
    let context = format!("seed {seed}");
    let hub = Hub::new(small_limits());
    let member = Member::new(hub.clone(), seed);
    let mut chance = Chance::new(seed ^ 0xabcd);
    let mut clients: Vec<Client> = Vec::new();
    let mut tasks = Vec::new();
    for _ in 0..400 {
        match chance.below(24) {
            0 | 1 if clients.len() < 8 => {
                let stream = Arc::new(hub.open());
                let history = ModelHistory {
                    log: member.log.clone(),
                    chance: Mutex::new(Chance::new(seed ^ (clients.len() as u64) << 32)),
                };
                let driven = stream.clone();
                tasks.push(tokio::task::spawn_local(async move { catch_up::run(&driven, &history).await }));
                let slow = chance.below(2) == 0;
                clients.push(Client { stream, asked: vec![], seen: HashMap::new(), past: vec![], slow });
            }
            2..=4 if !clients.is_empty() => {
                let spec = random_spec(&mut chance, member.published_revision(), member.compact_revision());
                let at = chance.below(clients.len() as u64) as usize;
                clients[at].ask(spec);
            }
            5 if !clients.is_empty() => {
                let at = chance.below(clients.len() as u64) as usize;
                let client = &clients[at];
                let id = client.seen.iter().filter(|(_, seen)| !seen.canceled).map(|(id, _)| *id).min();
                if let Some(id) = id
                    && chance.below(3) == 0
                {
                    // What was queued before the answer still comes: it is checked as a prefix.
                    client.stream.cancel(id);
                }
            }
            6 | 7 if !clients.is_empty() => {
                let at = chance.below(clients.len() as u64) as usize;
                clients[at].stream.request_progress();
            }
            8 => member.commit(),
            9 if chance.below(30) == 0 => member.install(),
            10..=15 => member.execute(),
            16..=19 => member.publish(),
            _ => {
                for client in &mut clients {
                    if !client.slow || chance.below(4) == 0 {
                        for _ in 0..chance.below(4) {
                            client.take(&context);
                        }
                    }
                }
            }
        }
        for _ in 0..chance.below(3) {
            tokio::task::yield_now().await;
        }
    }
    member.publish();
    let mut quiet = 0;
    while quiet < 20 {
        let mut took = false;
        for client in &mut clients {
            while client.take(&context) {
                took = true;
            }
        }
        // Time stands still in the runtime: a retry's pause is over at once.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        quiet = if took { 0 } else { quiet + 1 };
    }
    assert_eq!(hub.stats().slow_watchers, 0, "{context}: somebody is left behind");
    assert_eq!((hub.stats().pending_bytes, hub.stats().pending_events), (0, 0), "{context}: all was taken");
    let (history, compactions) = (member.all_events(), member.compactions());
    for client in &clients {
        assert!(client.asked.is_empty());
        client
            .seen
            .values()
            .chain(&client.past)
            .for_each(|seen| check(seen, &history, &compactions, &context));
    }
    for task in tasks {
        task.abort();
        assert!(task.await.is_err_and(|error| error.is_cancelled()), "{context}: a stream's task failed");
    }
    drop(clients);
    let stats = hub.stats();
    assert_eq!((stats.watchers, stats.streams), (0, 0), "{context}: closed streams leave nothing");
}

fn run_seed(seed: u64) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, run(seed));
}

/// `WATCH_SEED` runs one seed again, `WATCH_SEEDS` so many.
#[test]
fn every_watch_sees_its_share_of_the_history_in_order_and_once() {
    if let Some(seed) = std::env::var("WATCH_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return run_seed(seed);
    }
    let seeds = std::env::var("WATCH_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300);
    for seed in 0..seeds {
        run_seed(seed);
    }
}

/// The planted bug M21 must turn the property red.
#[cfg(feature = "planted-bugs")]
#[test]
fn a_watch_that_joins_between_visible_and_applied_is_found() {
    crate::watch::planted::JOIN_BETWEEN_VISIBLE_AND_APPLIED.set(true);
    let found = (0..300).find(|seed| std::panic::catch_unwind(|| run_seed(*seed)).is_err());
    assert!(found.is_some(), "300 histories did not show the bug");
}

#[test]
fn a_queue_is_polled_without_waiting() {
    let hub = Hub::new(small_limits());
    let stream = hub.open();
    assert!(poll_message(stream.queue()).is_none());
    assert!(stream.queue().batch_room().now_or_never().is_some());
}
