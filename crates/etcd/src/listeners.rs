//! Hands each applied batch to all who follow the log: watches, leases, alarms, metrics.

use std::sync::Arc;

use dqlited_raft::ApplyListener;
use dqlited_store::store::Interest;
use dqlited_store::{Applied, LogId, Revision};

/// One listener made of many; they are called in the order in which they stand here.
#[derive(Default)]
pub struct Listeners {
    all: Vec<Arc<dyn ApplyListener>>,
}

impl Listeners {
    /// All of them, in order.
    pub fn new(all: Vec<Arc<dyn ApplyListener>>) -> Listeners {
        Listeners { all }
    }
}

impl Interest for Listeners {
    fn wants_previous(&self, key: &[u8]) -> bool {
        self.all.iter().any(|listener| listener.wants_previous(key))
    }
}

impl ApplyListener for Listeners {
    fn started(&self, log_id: LogId, revision: Revision, compact_revision: Revision) {
        for listener in &self.all {
            listener.started(log_id, revision, compact_revision);
        }
    }

    fn applied(&self, batch: &Arc<Vec<Applied>>) {
        for listener in &self.all {
            listener.applied(batch);
        }
    }
}
