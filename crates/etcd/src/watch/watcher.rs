//! One watch: what its client asked for and where it stands.

use dqlited_store::event::Previous;
use dqlited_store::{Event, EventKind};

use super::interval::KeyInterval;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// The keys.
    pub interval: KeyInterval,
    /// First revision; 0 = from now on.
    pub start_revision: i64,
    /// Its id; 0 = the server chooses.
    pub watch_id: i64,
    /// Reports of progress from time to time.
    pub progress_notify: bool,
    /// No puts.
    pub no_put: bool,
    /// No deletes.
    pub no_delete: bool,
    /// With the records before.
    pub prev_kv: bool,
    /// Large answers may be split.
    pub fragment: bool,
}

/// Where a watch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Everything published is in its stream's queue, as far as it is concerned; it is in the index.
    Synced,
    /// It needs revisions from `next` on that are not in the queue.
    Behind,
    /// The server has ended it; only its id is still taken.
    Ended,
}

/// One watch.
#[derive(Debug)]
pub struct Watcher {
    /// Tells it from an earlier one with the same number.
    pub serial: u64,
    /// Number of its stream.
    pub stream: u32,
    /// Id on the stream.
    pub watch_id: i64,
    /// What was asked for.
    pub spec: WatchSpec,
    /// Where it stands.
    pub place: Place,
    /// First revision that it has not got; events below are not for it.
    pub next: i64,
    /// It got an event since the last periodic report.
    pub had_events: bool,
}

impl Watcher {
    /// Its filters let the event through.
    pub fn takes(&self, event: &Event) -> bool {
        match event.kind {
            EventKind::Put => !self.spec.no_put,
            EventKind::Delete => !self.spec.no_delete,
        }
    }

    /// It is told everything up to the revision.
    pub fn is_caught_up(&self, revision: i64) -> bool {
        self.place == Place::Synced && revision >= self.spec.start_revision
    }
}

/// The record before the event was wanted but has gone with a compaction: it is no creation and has none. (A creation
/// within a revision may be followed by a deletion there; both have none.)
pub fn lacks_previous(event: &Event, compact_revision: i64) -> bool {
    match event.previous {
        Previous::Known(_) => false,
        Previous::NotRead => true,
        Previous::None => {
            let is_creation =
                event.kind == EventKind::Put && event.kv.create_revision == event.kv.mod_revision;
            !is_creation && event.kv.mod_revision <= compact_revision
        }
    }
}
