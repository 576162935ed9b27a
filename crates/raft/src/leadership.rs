//! Who leads, as this member sees it, and whether it may serve as the leader itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use dqlited_store::{LeaderId, MemberId};
use tokio::sync::watch;

use crate::proposals::{Gate, Proposals};
use crate::status::LeaderState;

/// The member's view of the leader.
pub(crate) struct Leadership {
    member: MemberId,
    inner: Mutex<Inner>,
    term: AtomicU64,
    /// The last applied entry is of the present leader: nothing to look at for the next one of the same.
    is_applied_leader_current: AtomicBool,
    state: watch::Sender<LeaderState>,
    proposals: Arc<Proposals>,
}

#[derive(Default)]
struct Inner {
    leader: Option<LeaderId>,
    /// Leader of the last applied entry.
    applied_leader: LeaderId,
    /// This boot is registered: entries of others than the registering one may be proposed.
    is_registered: bool,
    /// No other member has a vote.
    is_lone_voter: bool,
    is_learner: bool,
}

impl Leadership {
    pub(crate) fn new(member: MemberId, applied_leader: LeaderId, proposals: Arc<Proposals>) -> Leadership {
        Leadership {
            member,
            inner: Mutex::new(Inner { applied_leader, ..Inner::default() }),
            term: AtomicU64::new(0),
            is_applied_leader_current: AtomicBool::new(false),
            state: watch::Sender::new(LeaderState::default()),
            proposals,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// The consensus has a new view.
    pub(crate) fn consensus_says(
        &self,
        term: u64,
        leader: Option<LeaderId>,
        is_lone_voter: bool,
        is_learner: bool,
    ) {
        let mut inner = self.lock();
        self.term.store(term, Ordering::Release);
        inner.leader = leader;
        inner.is_lone_voter = is_lone_voter;
        inner.is_learner = is_learner;
        self.conclude(&inner);
    }

    /// An entry of this leader was applied and published. Called once a batch.
    pub(crate) fn entry_applied(&self, leader: LeaderId) {
        if self.is_applied_leader_current.load(Ordering::Acquire) {
            return;
        }
        let mut inner = self.lock();
        inner.applied_leader = leader;
        self.conclude(&inner);
    }

    /// The entry that registers this boot was applied.
    pub(crate) fn registered(&self) {
        let mut inner = self.lock();
        inner.is_registered = true;
        self.conclude(&inner);
    }

    fn conclude(&self, inner: &Inner) {
        let leads = inner.leader.is_some_and(|leader| leader.node == self.member);
        let is_current = inner.leader == Some(inner.applied_leader);
        self.is_applied_leader_current.store(is_current, Ordering::Release);
        self.proposals.set_gate(match (leads, inner.is_registered) {
            (false, _) => Gate::Closed,
            (true, false) => Gate::FirstOnly,
            (true, true) => Gate::Open,
        });
        let state = LeaderState {
            term: self.term.load(Ordering::Acquire),
            leader: inner.leader.map(|leader| leader.node),
            is_ready_leader: leads && inner.is_registered && is_current,
        };
        self.state.send_if_modified(|known| {
            let is_news = *known != state;
            *known = state;
            is_news
        });
    }

    /// The term.
    pub(crate) fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// The leader under which a proposal of this member goes out, if it leads.
    pub(crate) fn own_leader_id(&self) -> Option<LeaderId> {
        self.lock().leader.filter(|leader| leader.node == self.member)
    }

    /// This member leads, may serve, and needs nobody's word for that.
    pub(crate) fn is_ready_alone(&self) -> bool {
        self.lock().is_lone_voter && self.state.borrow().is_ready_leader
    }

    /// It does not vote.
    pub(crate) fn is_learner(&self) -> bool {
        self.lock().is_learner
    }

    /// A moment.
    pub(crate) fn state(&self) -> LeaderState {
        *self.state.borrow()
    }

    /// Changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<LeaderState> {
        self.state.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::SystemClock;
    use crate::options::Limits;

    const ME: MemberId = MemberId(1);

    fn led_by(term: u64) -> LeaderId {
        LeaderId { term, node: ME }
    }

    fn leadership() -> Leadership {
        let proposals = Arc::new(Proposals::new(ME, 1, Limits::default(), Arc::new(SystemClock)));
        Leadership::new(ME, LeaderId::default(), proposals)
    }

    #[test]
    fn a_leader_serves_once_an_entry_of_its_own_term_is_applied_and_its_boot_registered() {
        let leadership = leadership();
        leadership.consensus_says(3, Some(led_by(3)), true, false);
        assert!(!leadership.state().is_ready_leader);
        leadership.registered();
        assert!(!leadership.state().is_ready_leader);
        leadership.entry_applied(led_by(2));
        assert!(!leadership.is_ready_alone(), "an entry of an older term proves nothing");
        leadership.entry_applied(led_by(3));
        assert_eq!(leadership.state(), LeaderState { term: 3, leader: Some(ME), is_ready_leader: true });
        assert!(leadership.is_ready_alone());
        leadership.consensus_says(4, Some(led_by(4)), true, false);
        assert!(!leadership.state().is_ready_leader, "a new term begins anew");
    }

    #[test]
    fn a_leader_with_other_voters_does_not_serve_alone() {
        let leadership = leadership();
        leadership.registered();
        leadership.entry_applied(led_by(3));
        leadership.consensus_says(3, Some(led_by(3)), false, false);
        assert!(leadership.state().is_ready_leader);
        assert!(!leadership.is_ready_alone());
    }
}
