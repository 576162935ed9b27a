//! What the database file surely holds, in the form in which openraft allows the log before it to be purged.

use std::sync::{Mutex, MutexGuard};

use dqlited_store::LogId;

use crate::type_config::{RaftLogId, StoredMembership, raft_log_id};

/// The durable place in the log and the membership that was in force there.
#[derive(Default)]
pub(crate) struct DurableState {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    durable: Option<LogId>,
    membership: StoredMembership,
}

impl DurableState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// The membership of the last membership entry that was executed.
    pub(crate) fn set_membership(&self, membership: StoredMembership) {
        self.lock().membership = membership;
    }

    /// A checkpoint has synced everything up to here.
    pub(crate) fn set_durable(&self, durable: LogId) {
        let mut inner = self.lock();
        inner.durable = inner.durable.max(Some(durable));
    }

    /// The durable place with its membership; `None` while the last membership is later than it.
    pub(crate) fn snapshot(&self) -> Option<(Option<RaftLogId>, StoredMembership)> {
        let inner = self.lock();
        let durable = raft_log_id(inner.durable?);
        let is_settled = inner.membership.log_id().is_none_or(|changed| changed <= durable);
        is_settled.then(|| (Some(durable), inner.membership.clone()))
    }
}
