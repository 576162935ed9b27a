//! How far this member is: applied, visible, durable; and whoever waits for one of them.
//!
//! *Applied* is executed in SQLite's open transaction, *visible* is committed there so that readers see it, *durable*
//! is synced in the database file so that the log behind it may go.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use dqlited_store::{LogId, Revision};
use tokio::sync::oneshot;

use crate::worker::Signal;

/// Waiters beyond this number are refused: a bound on memory, never reached by the requests that are let in.
const WAITERS_MAX: usize = 100_000;

/// Why a wait ended without what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitError {
    /// Its deadline passed.
    TimedOut,
    /// Too many wait.
    TooMany,
    /// The member stops.
    Stopped,
}

/// A moment of the member's progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Executed, and told to listeners and proposers, or about to be.
    pub applied: LogId,
    /// Committed in SQLite.
    pub visible: LogId,
    /// Synced in the database file.
    pub durable: LogId,
    /// Compact revision behind which everything is deleted.
    pub deleted: Revision,
}

/// Shared progress of one member.
pub(crate) struct Progress {
    inner: Mutex<Inner>,
    revision: AtomicI64,
    compact_revision: AtomicI64,
    /// A reader waits: the apply loop looks whether a commit serves it.
    is_commit_wanted: AtomicBool,
    apply_signal: Arc<Signal>,
    /// Planted bug M14: waits are over as soon as the barrier is applied.
    ends_waits_at_applied: bool,
}

#[derive(Default)]
struct Inner {
    marks: Marks,
    visible_waiters: Vec<Waiter<LogId>>,
    deleted_waiters: Vec<Waiter<Revision>>,
    is_stopped: bool,
}

struct Waiter<T> {
    target: T,
    deadline: Instant,
    done: oneshot::Sender<Result<(), WaitError>>,
}

impl Progress {
    /// Starts with what the store holds.
    pub(crate) fn new(
        applied: LogId,
        revision: Revision,
        compact_revision: Revision,
        apply_signal: Arc<Signal>,
        ends_waits_at_applied: bool,
    ) -> Progress {
        let marks = Marks { applied, visible: applied, ..Marks::default() };
        Progress {
            inner: Mutex::new(Inner { marks, ..Inner::default() }),
            revision: AtomicI64::new(revision.0),
            compact_revision: AtomicI64::new(compact_revision.0),
            is_commit_wanted: AtomicBool::new(false),
            apply_signal,
            ends_waits_at_applied,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// All marks of one moment.
    pub(crate) fn marks(&self) -> Marks {
        self.lock().marks
    }

    /// Revision of the last published entry.
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }

    /// Compact revision of the last published entry.
    pub(crate) fn compact_revision(&self) -> Revision {
        Revision(self.compact_revision.load(Ordering::Acquire))
    }

    /// Entries were executed. Comes before anybody is told of them and before they are committed, so that a reader's
    /// barrier is never behind what somebody else has seen.
    pub(crate) fn set_applied(&self, applied: LogId) {
        let mut inner = self.lock();
        inner.marks.applied = applied;
        if self.ends_waits_at_applied {
            release(&mut inner.visible_waiters, |target| *target <= applied);
        }
    }

    /// Entries were published.
    pub(crate) fn set_revision(&self, revision: Revision, compact_revision: Revision) {
        self.revision.store(revision.0, Ordering::Release);
        self.compact_revision.store(compact_revision.0, Ordering::Release);
    }

    /// SQLite has committed everything up to here.
    pub(crate) fn set_visible(&self, visible: LogId) {
        let mut inner = self.lock();
        inner.marks.visible = visible;
        release(&mut inner.visible_waiters, |target| *target <= visible);
        let anybody_waits = !inner.visible_waiters.is_empty();
        self.is_commit_wanted.store(anybody_waits, Ordering::Release);
    }

    /// A checkpoint has synced everything up to here.
    pub(crate) fn set_durable(&self, durable: LogId) {
        let mut inner = self.lock();
        inner.marks.durable = inner.marks.durable.max(durable);
    }

    /// Everything behind this compact revision is deleted.
    pub(crate) fn set_deleted(&self, deleted: Revision) {
        let mut inner = self.lock();
        inner.marks.deleted = deleted;
        release(&mut inner.deleted_waiters, |target| *target <= deleted);
    }

    /// Whether a commit now would serve a reader that waits. The apply loop asks once a batch.
    pub(crate) fn is_commit_wanted(&self) -> bool {
        if !self.is_commit_wanted.load(Ordering::Acquire) {
            return false;
        }
        let inner = self.lock();
        let applied = inner.marks.applied;
        inner.visible_waiters.iter().any(|waiter| waiter.target <= applied && !waiter.done.is_closed())
    }

    /// Waits until readers can see this place in the log. Asks for the commit that makes it so; readers that wait
    /// together share one.
    pub(crate) async fn wait_visible(&self, target: LogId, deadline: Instant) -> Result<(), WaitError> {
        let done = {
            let mut inner = self.lock();
            let reached = if self.ends_waits_at_applied { inner.marks.applied } else { inner.marks.visible };
            if target <= reached {
                return Ok(());
            }
            if inner.is_stopped {
                return Err(WaitError::Stopped);
            }
            let done = push(&mut inner.visible_waiters, target, deadline)?;
            self.is_commit_wanted.store(true, Ordering::Release);
            done
        };
        self.apply_signal.raise();
        done.await.unwrap_or(Err(WaitError::Stopped))
    }

    /// Waits until the records behind this compact revision are deleted.
    pub(crate) async fn wait_deleted(&self, target: Revision, deadline: Instant) -> Result<(), WaitError> {
        let done = {
            let mut inner = self.lock();
            if target <= inner.marks.deleted {
                return Ok(());
            }
            if inner.is_stopped {
                return Err(WaitError::Stopped);
            }
            push(&mut inner.deleted_waiters, target, deadline)?
        };
        done.await.unwrap_or(Err(WaitError::Stopped))
    }

    /// Ends the waits whose deadline has passed and forgets those that nobody waits for any more.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut inner = self.lock();
        expire(&mut inner.visible_waiters, now);
        expire(&mut inner.deleted_waiters, now);
    }

    /// Ends all waits: nothing will come any more.
    pub(crate) fn stop(&self) {
        let mut inner = self.lock();
        inner.is_stopped = true;
        inner.visible_waiters.clear();
        inner.deleted_waiters.clear();
    }
}

fn push<T>(
    waiters: &mut Vec<Waiter<T>>,
    target: T,
    deadline: Instant,
) -> Result<oneshot::Receiver<Result<(), WaitError>>, WaitError> {
    if waiters.len() >= WAITERS_MAX {
        return Err(WaitError::TooMany);
    }
    let (done, wait) = oneshot::channel();
    waiters.push(Waiter { target, deadline, done });
    Ok(wait)
}

fn release<T>(waiters: &mut Vec<Waiter<T>>, is_reached: impl Fn(&T) -> bool) {
    if waiters.is_empty() {
        return;
    }
    for waiter in waiters.extract_if(.., |waiter| is_reached(&waiter.target)) {
        // Whoever waited may have gone.
        let _ = waiter.done.send(Ok(()));
    }
}

fn expire<T>(waiters: &mut Vec<Waiter<T>>, now: Instant) {
    for waiter in waiters.extract_if(.., |waiter| waiter.deadline <= now || waiter.done.is_closed()) {
        let _ = waiter.done.send(Err(WaitError::TimedOut));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dqlited_store::{LeaderId, MemberId};

    use super::*;

    fn at(index: u64) -> LogId {
        LogId { leader: LeaderId { term: 1, node: MemberId(1) }, index }
    }

    fn progress() -> Arc<Progress> {
        Arc::new(Progress::new(at(5), Revision(1), Revision(-1), Signal::new(), false))
    }

    #[tokio::test]
    async fn readers_that_wait_together_share_one_commit() {
        let progress = progress();
        let deadline = Instant::now() + Duration::from_secs(20);
        let waits: Vec<_> = (0..10)
            .map(|_| {
                let progress = progress.clone();
                tokio::spawn(async move { progress.wait_visible(at(7), deadline).await })
            })
            .collect();
        while progress.lock().visible_waiters.len() < 10 {
            tokio::task::yield_now().await;
        }
        assert!(!progress.is_commit_wanted(), "no commit serves them before 7 is applied");
        progress.set_applied(at(7));
        assert!(progress.is_commit_wanted());
        progress.set_visible(at(7));
        assert!(!progress.is_commit_wanted());
        for wait in waits {
            assert_eq!(wait.await.unwrap(), Ok(()));
        }
    }

    #[tokio::test]
    async fn a_barrier_of_an_old_leader_is_met_by_any_entry_of_a_later_one() {
        let progress = progress();
        let later = LogId { leader: LeaderId { term: 2, node: MemberId(1) }, index: 6 };
        progress.set_applied(later);
        progress.set_visible(later);
        assert_eq!(progress.wait_visible(at(9), Instant::now()).await, Ok(()));
    }

    #[tokio::test]
    async fn a_wait_ends_at_its_deadline_and_with_the_member() {
        let progress = progress();
        let now = Instant::now();
        let wait = tokio::spawn({
            let progress = progress.clone();
            async move { progress.wait_visible(at(9), now).await }
        });
        while progress.lock().visible_waiters.is_empty() {
            tokio::task::yield_now().await;
        }
        progress.sweep(now);
        assert_eq!(wait.await.unwrap(), Err(WaitError::TimedOut));
        progress.stop();
        assert_eq!(progress.wait_visible(at(9), now).await, Err(WaitError::Stopped));
        assert_eq!(progress.wait_visible(at(5), now).await, Ok(()), "what is there can still be read");
    }
}
