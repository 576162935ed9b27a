//! The leases of this member as the log has them: loaded once from a view, then kept by following what is applied.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dqlited_raft::ApplyListener;
use dqlited_store::command::Leader;
use dqlited_store::read::LeaseRecord;
use dqlited_store::store::Interest;
use dqlited_store::{Applied, LeaseId, LogId, Response, Revision};
use tokio::sync::Notify;

use super::expiry::{ExpiryQueue, Remaining, Renewal};

/// The table. Every change of it wakes those who wait.
pub struct LeaseTable {
    state: Mutex<State>,
    changed: Notify,
    expired: AtomicU64,
}

/// Counts since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseStats {
    /// Leases now.
    pub leases: usize,
    /// Renewals.
    pub renewed: u64,
    /// Expiries that this member proposed and that were carried out.
    pub expired: u64,
}

struct State {
    queue: ExpiryQueue,
    load: Load,
    /// Counts calls of `started`.
    epoch: u64,
    /// Last entry that the table follows.
    log_id: LogId,
    /// The leader that this member is, if it is one and may expire leases.
    leader: Option<Leader>,
    stats: LeaseStats,
    is_stopped: bool,
}

/// How far the table is.
enum Load {
    /// It must be read from a view that holds `log_id`; what is applied meanwhile is noted with its index.
    Needed { changes: Vec<(u64, Change)> },
    /// It follows the log.
    Done,
}

#[derive(Clone, Copy)]
enum Change {
    Granted(LeaseId, i64),
    Revoked(LeaseId),
}

/// The table is to be read from a view that holds this entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOrder {
    /// Tells it from later orders.
    pub epoch: u64,
    /// The view must hold it.
    pub log_id: LogId,
}

/// What a question to the table met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// The answer.
    Now(T),
    /// The table is not that far yet: ask again after a change.
    Later,
    /// The member stops.
    Stopped,
}

impl LeaseTable {
    /// Empty, before the member has started.
    pub fn new() -> Arc<LeaseTable> {
        let state = State {
            queue: ExpiryQueue::default(),
            load: Load::Done,
            epoch: 0,
            log_id: LogId::default(),
            leader: None,
            stats: LeaseStats::default(),
            is_stopped: false,
        };
        Arc::new(LeaseTable { state: Mutex::new(state), changed: Notify::new(), expired: AtomicU64::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under the table's lock")
    }

    /// Asks again and again, after each change, until there is an answer; `None` when the member stops.
    pub async fn wait<T>(&self, mut ask: impl FnMut(&Self) -> Answer<T>) -> Option<T> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the question, so that no change in between is missed.
            changed.as_mut().enable();
            match ask(self) {
                Answer::Now(answer) => return Some(answer),
                Answer::Stopped => return None,
                Answer::Later => changed.await,
            }
        }
    }

    /// The table holds the entry.
    pub fn holds(&self, log_id: LogId) -> Answer<()> {
        let state = self.lock();
        match state.load {
            _ if state.is_stopped => Answer::Stopped,
            Load::Done if state.log_id >= log_id => Answer::Now(()),
            _ => Answer::Later,
        }
    }

    /// The member stops.
    pub fn is_stopped(&self) -> Answer<()> {
        if self.lock().is_stopped { Answer::Now(()) } else { Answer::Later }
    }

    /// Says that the member stops.
    pub fn stop(&self) {
        self.lock().is_stopped = true;
        self.changed.notify_waiters();
    }

    /// What to read before the table can be used, if anything.
    pub fn load_order(&self) -> Option<LoadOrder> {
        let state = self.lock();
        match state.load {
            Load::Needed { .. } => Some(LoadOrder { epoch: state.epoch, log_id: state.log_id }),
            Load::Done => None,
        }
    }

    /// Takes in what was read from a view at `viewed`, and what was applied after it.
    pub fn load(&self, order: LoadOrder, viewed: LogId, records: &[LeaseRecord], now: Instant) {
        let mut state = self.lock();
        if state.epoch != order.epoch {
            return;
        }
        let Load::Needed { changes } = std::mem::replace(&mut state.load, Load::Done) else { return };
        state.queue.clear();
        for record in records {
            state.queue.insert(record.id, record.ttl, now);
        }
        for (_, change) in changes.into_iter().filter(|(index, _)| *index > viewed.index) {
            state.change(change, now);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// This member leads, as that leader: every lease gets its full TTL and `extension`.
    pub fn lead(&self, leader: Leader, now: Instant, extension: Duration) {
        let mut state = self.lock();
        if state.leader != Some(leader) {
            state.leader = Some(leader);
            state.queue.lead(now, extension);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// This member does not lead: nothing expires here.
    pub fn follow(&self) {
        let mut state = self.lock();
        if state.leader.take().is_some() {
            state.queue.follow();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes up to `count_max` leases whose time is over, and the leader that their revokes must name.
    pub fn take_due(&self, now: Instant, count_max: usize) -> Option<(Leader, Vec<LeaseId>)> {
        let mut state = self.lock();
        let leader = state.leader?;
        Some((leader, state.queue.take_due(now, count_max)))
    }

    /// The revoke proposed under this leader has no known outcome.
    pub fn lost(&self, leader: Leader, id: LeaseId, again_at: Instant) {
        let mut state = self.lock();
        if state.leader == Some(leader) {
            state.queue.lost(id, again_at);
        }
    }

    /// A lease that this member found over is gone.
    pub fn count_expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    /// Renews a lease. The caller has proven leadership (rule L6).
    pub fn renew(&self, id: LeaseId, now: Instant) -> Renewal {
        let mut state = self.lock();
        let renewal = state.queue.renew(id, now);
        if matches!(renewal, Renewal::Renewed(_)) {
            state.stats.renewed += 1;
        }
        renewal
    }

    /// What is left of a lease.
    pub fn remaining(&self, id: LeaseId, now: Instant) -> Option<Remaining> {
        self.lock().queue.remaining(id, now)
    }

    /// It is not there, or the member stops.
    pub fn is_gone(&self, id: LeaseId) -> Answer<()> {
        let state = self.lock();
        match state.queue.contains(id) {
            _ if state.is_stopped => Answer::Stopped,
            true => Answer::Later,
            false => Answer::Now(()),
        }
    }

    /// This member is still that leader: under another one its leases have got their full TTL.
    pub fn leads_as(&self, leader: Leader) -> bool {
        self.lock().leader == Some(leader)
    }

    /// This member leads and its leases have deadlines: a moment after a start or an election.
    pub fn is_leading(&self) -> Answer<()> {
        let state = self.lock();
        match state.leader {
            _ if state.is_stopped => Answer::Stopped,
            Some(_) => Answer::Now(()),
            None => Answer::Later,
        }
    }

    /// [`LeaseTable::renew`], as soon as this member leads.
    pub fn renew_when_leading(&self, id: LeaseId, now: Instant) -> Answer<Renewal> {
        match self.is_leading() {
            Answer::Now(()) => Answer::Now(self.renew(id, now)),
            Answer::Later => Answer::Later,
            Answer::Stopped => Answer::Stopped,
        }
    }

    /// All ids, those that end first in front.
    pub fn ids(&self) -> Vec<LeaseId> {
        self.lock().queue.ids()
    }

    /// Counts for metrics.
    pub fn stats(&self) -> LeaseStats {
        let state = self.lock();
        let expired = self.expired.load(Ordering::Relaxed);
        LeaseStats { leases: state.queue.len(), expired, ..state.stats }
    }
}

impl State {
    fn change(&mut self, change: Change, now: Instant) {
        match change {
            Change::Granted(id, ttl) => self.queue.insert(id, ttl, now),
            Change::Revoked(id) => self.queue.remove(id),
        }
    }
}

impl Interest for LeaseTable {
    fn wants_previous(&self, _key: &[u8]) -> bool {
        false
    }
}

impl ApplyListener for LeaseTable {
    fn started(&self, log_id: LogId, _revision: Revision, _compact_revision: Revision) {
        let mut state = self.lock();
        state.epoch += 1;
        state.log_id = log_id;
        state.load = Load::Needed { changes: Vec::new() };
        drop(state);
        self.changed.notify_waiters();
    }

    fn applied(&self, batch: &Arc<Vec<Applied>>) {
        let Some(last) = batch.last() else { return };
        let now = Instant::now();
        let mut state = self.lock();
        for applied in batch.iter() {
            let change = match &applied.result {
                Ok(Response::LeaseGrant { id, ttl }) => Change::Granted(LeaseId(*id), *ttl),
                Ok(Response::LeaseRevoke { id }) => Change::Revoked(LeaseId(*id)),
                _ => continue,
            };
            match &mut state.load {
                Load::Needed { changes } => changes.push((applied.log_id.index, change)),
                Load::Done => state.change(change, now),
            }
        }
        state.log_id = last.log_id;
        drop(state);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
