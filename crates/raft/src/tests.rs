//! The member as a whole, over the real log and store.

mod apply_double;
mod damage;
mod defragment;
mod member;
mod planted;
mod restart;
mod speed;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dqlited_store::command::{Compact, Kind, Noop, Put, RangeQuery};
use dqlited_store::store::Interest;
use dqlited_store::{Applied, Command, LogId, Response, Revision};

use crate::environment::{Clock, Environment};
use crate::{ApplyListener, Barrier, Node, NodeOptions, Proposed};

/// Time passes when a test says so.
pub(crate) struct HandClock(Mutex<Instant>);

impl HandClock {
    pub(crate) fn new() -> Arc<HandClock> {
        Arc::new(HandClock(Mutex::new(Instant::now())))
    }

    /// Answers what it shows then.
    pub(crate) fn pass(&self, time: Duration) -> Instant {
        let mut now = self.0.lock().unwrap();
        *now += time;
        *now
    }
}

impl Clock for HandClock {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap()
    }
}

/// Writes down all that it is told.
#[derive(Default)]
pub(super) struct Recorder {
    applied: Mutex<Vec<Applied>>,
    started: Mutex<Vec<(LogId, Revision)>>,
}

impl Interest for Recorder {
    fn wants_previous(&self, _key: &[u8]) -> bool {
        false
    }
}

impl ApplyListener for Recorder {
    fn started(&self, log_id: LogId, revision: Revision, _compact_revision: Revision) {
        self.started.lock().unwrap().push((log_id, revision));
    }
    fn applied(&self, batch: &Arc<Vec<Applied>>) {
        self.applied.lock().unwrap().extend(batch.iter().cloned());
    }
}

impl Recorder {
    fn indexes(&self) -> Vec<u64> {
        self.applied.lock().unwrap().iter().map(|applied| applied.log_id.index).collect()
    }
}

pub(super) fn options(folder: &Path) -> NodeOptions {
    NodeOptions { data_dir: folder.to_owned(), ..NodeOptions::default() }
}

/// With commits as rare as the tests of laziness need them.
pub(super) fn lazy_options(folder: &Path) -> NodeOptions {
    NodeOptions { commit_interval: Duration::from_secs(3600), ..options(folder) }
}

pub(super) async fn start(options: NodeOptions) -> Node {
    Node::start(options, Arc::new(Recorder::default())).await.unwrap()
}

pub(super) async fn start_in(environment: Environment, options: NodeOptions) -> (Node, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    (Node::start_in(environment, options, recorder.clone()).await.unwrap(), recorder)
}

/// No test waits longer for anything.
pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub(super) fn put_command(key: &str, value: &str) -> Command {
    let put = Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    };
    Command { kind: Some(Kind::Put(put)) }
}

pub(super) fn compact_command(revision: i64) -> Command {
    Command { kind: Some(Kind::Compact(Compact { revision })) }
}

pub(super) fn noop() -> Command {
    Command { kind: Some(Kind::Noop(Noop {})) }
}

pub(super) async fn put(node: &Node, key: &str, value: &str) -> Proposed {
    let proposed = node.propose(put_command(key, value), soon()).await.unwrap();
    assert_eq!(proposed.result, Ok(Response::Put { previous: None }));
    proposed
}

pub(super) async fn get_at(node: &Node, barrier: Barrier, key: &str) -> Option<Bytes> {
    let query = RangeQuery { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
    let range = node.point_read(barrier, soon(), |view| view.range_collected(&query)).await.unwrap().unwrap();
    range.kvs.into_iter().next().map(|record| record.value)
}

pub(super) async fn get(node: &Node, key: &str) -> Option<Bytes> {
    let barrier = node.linearizable_barrier(soon()).await.unwrap();
    get_at(node, barrier, key).await
}

/// Waits until a condition holds; the bound is far above what it takes.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = soon();
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
