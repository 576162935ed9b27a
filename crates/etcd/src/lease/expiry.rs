//! When leases end: a pure queue of deadlines that takes the time as an argument.
//!
//! Deadlines exist only at the leader and only in memory. A new leader gives every lease its full TTL again, so that a
//! lease never ends early.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use dqlited_store::LeaseId;

/// A revoke that got lost is proposed again after this time, as in etcd.
pub const RETRY_AFTER: Duration = Duration::from_secs(3);
/// With at least so many leases at a change of leaders they are spread, so that the revokes do not come all at once.
const SPREAD_FROM_LEASES: usize = 1000;
/// Leases that may end within a second after a change of leaders: three quarters of the rate of revokes.
const SPREAD_PER_SECOND: u32 = 750;

/// All leases and, at the leader, their deadlines.
#[derive(Debug, Default)]
pub struct ExpiryQueue {
    leases: HashMap<LeaseId, Lease>,
    /// When to look at which lease: at its deadline, or when its revoke is to be tried again. One entry a lease at most;
    /// none while its revoke is under way, and none at followers.
    looks: BTreeSet<(Instant, LeaseId)>,
    is_leading: bool,
}

#[derive(Debug)]
struct Lease {
    /// Granted seconds.
    ttl: i64,
    /// End; `None` at followers.
    deadline: Option<Instant>,
    /// Its entry in `looks`.
    look: Option<Instant>,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It lives for so many seconds more.
    Renewed(i64),
    /// There is none.
    Unknown,
    /// Its time is over; it is about to be revoked.
    Expired,
    /// Only a leader renews.
    NotLeading,
}

/// What is left of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Whole seconds, rounded towards zero; zero or negative if it is over. The granted ones at followers.
    pub seconds: i64,
    /// Granted seconds.
    pub granted: i64,
}

impl ExpiryQueue {
    /// Adds a granted lease; one that is there already gets its full TTL.
    pub fn insert(&mut self, id: LeaseId, ttl: i64, now: Instant) {
        self.remove(id);
        self.leases.insert(id, Lease { ttl, deadline: None, look: None });
        if self.is_leading {
            self.set_deadline(id, now + seconds(ttl));
        }
    }

    /// Takes a revoked lease out.
    pub fn remove(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id)
            && let Some(look) = lease.look
        {
            self.looks.remove(&(look, id));
        }
    }

    /// Forgets all leases.
    pub fn clear(&mut self) {
        self.leases.clear();
        self.looks.clear();
    }

    /// Leads from now on: every lease gets its full TTL and `extension`.
    pub fn lead(&mut self, now: Instant, extension: Duration) {
        self.follow();
        self.is_leading = true;
        let mut order: Vec<(i64, LeaseId)> = self.leases.iter().map(|(id, lease)| (lease.ttl, *id)).collect();
        order.sort_unstable();
        let delays = if order.len() < SPREAD_FROM_LEASES {
            vec![Duration::ZERO; order.len()]
        } else {
            spread(order.iter().map(|(ttl, _)| seconds(*ttl)))
        };
        for ((ttl, id), delay) in order.into_iter().zip(delays) {
            self.set_deadline(id, now + seconds(ttl) + extension + delay);
        }
    }

    /// Follows from now on: nothing expires here.
    pub fn follow(&mut self) {
        self.is_leading = false;
        self.looks.clear();
        for lease in self.leases.values_mut() {
            (lease.deadline, lease.look) = (None, None);
        }
    }

    /// Gives a lease its full TTL again, unless it is over.
    pub fn renew(&mut self, id: LeaseId, now: Instant) -> Renewal {
        if !self.is_leading {
            return Renewal::NotLeading;
        }
        match self.leases.get(&id) {
            None => Renewal::Unknown,
            Some(lease) if lease.deadline.is_none_or(|deadline| deadline <= now) => Renewal::Expired,
            Some(lease) => {
                let ttl = lease.ttl;
                self.set_deadline(id, now + seconds(ttl));
                Renewal::Renewed(ttl)
            }
        }
    }

    /// Takes up to `count_max` leases whose time is over. Each is taken once; [`ExpiryQueue::lost`] brings it back.
    pub fn take_due(&mut self, now: Instant, count_max: usize) -> Vec<LeaseId> {
        let mut due = Vec::new();
        while due.len() < count_max
            && let Some((look, id)) = self.looks.first().copied()
            && look <= now
        {
            self.looks.pop_first();
            self.leases.get_mut(&id).expect("a look is at a lease that is there").look = None;
            due.push(id);
        }
        due
    }

    /// The revoke of a taken lease has no known outcome: look again later. No-op if it is gone or was given time anew.
    pub fn lost(&mut self, id: LeaseId, again_at: Instant) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if lease.look.is_none() && lease.deadline.is_some() {
            lease.look = Some(again_at);
            self.looks.insert((again_at, id));
        }
    }

    /// What is left of a lease.
    pub fn remaining(&self, id: LeaseId, now: Instant) -> Option<Remaining> {
        let lease = self.leases.get(&id)?;
        let seconds = match lease.deadline {
            None => lease.ttl,
            Some(deadline) if deadline >= now => (deadline - now).as_secs() as i64,
            Some(deadline) => -((now - deadline).as_secs() as i64),
        };
        Some(Remaining { seconds, granted: lease.ttl })
    }

    /// It is known.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// All ids: at the leader those that end first come first, else by id.
    pub fn ids(&self) -> Vec<LeaseId> {
        let mut order: Vec<(Option<Instant>, LeaseId)> =
            self.leases.iter().map(|(id, lease)| (lease.deadline, *id)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect()
    }

    fn set_deadline(&mut self, id: LeaseId, deadline: Instant) {
        let lease = self.leases.get_mut(&id).expect("the caller has found it");
        if let Some(look) = lease.look {
            self.looks.remove(&(look, id));
        }
        (lease.deadline, lease.look) = (Some(deadline), Some(deadline));
        self.looks.insert((deadline, id));
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.max(0) as u64)
}

/// Delays for leases in the order of what is left of them, so that no second sees more than its share end (etcd's
/// lessor, `Promote`).
fn spread(remaining: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let second = Duration::from_secs(1);
    let mut base = Duration::ZERO;
    let mut next = Duration::ZERO;
    let mut ending = 0u32;
    let mut delays = Vec::new();
    for (place, left) in remaining.enumerate() {
        if place == 0 || left > next {
            (base, next, ending) = (left, left + second, u32::from(place > 0));
            if place > 0 {
                delays.push(Duration::ZERO);
                continue;
            }
        }
        ending += 1;
        if ending <= SPREAD_PER_SECOND {
            delays.push(Duration::ZERO);
            continue;
        }
        let delay = (second * ending / SPREAD_PER_SECOND).saturating_sub(left.saturating_sub(base));
        next = base + delay;
        delays.push(delay);
    }
    delays
}

#[cfg(test)]
mod tests;
