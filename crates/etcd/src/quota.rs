//! Whether a write still fits into `--quota-backend-bytes`: asked before its shape is checked, as in etcd; and the
//! NOSPACE alarm when it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use dqlited_raft::{ApplyListener, Barrier, Node, ReadFailure};
use dqlited_store::command::{self, Kind};
use dqlited_store::read::{DatabaseSize, ReadError};
use dqlited_store::response::AlarmRecord;
use dqlited_store::store::Interest;
use dqlited_store::{Applied, Command, LogId, Revision};
use futures::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::context::Context;
use crate::status::EtcdError;

/// The alarm type NOSPACE.
pub const NOSPACE: i32 = 1;
/// The alarm type CORRUPT.
pub const CORRUPT: i32 = 2;

/// Bytes that etcd counts for a put beside key and value.
pub const PUT_OVERHEAD_BYTES: i64 = 256;
/// Bytes that etcd counts for a lease.
pub const LEASE_BYTES: i64 = 64;
/// The size is read again after so many applied bytes, or after [`REFRESH_INTERVAL`] when anything was applied.
const REFRESH_BYTES: i64 = 8 << 20;
/// See [`REFRESH_BYTES`].
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);
/// How long one look at the size may wait.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(10);

/// A write lies on the disk up to so many times: in the Raft log, in SQLite's WAL and in the database, each with its page.
const DISK_COPIES: i64 = 4;

/// Guards the database's size.
pub trait QuotaGate: Send + Sync + 'static {
    /// Whether `cost_bytes` more fit, as far as is known. Cheap: every Put, Txn and LeaseGrant asks.
    fn admits(&self, cost_bytes: i64) -> bool;

    /// To be asked when a write was not admitted: looks at the true size, and if that is full raises NOSPACE for this
    /// member and waits for it (as etcd does). False: the write fits after all.
    fn refuses<'a>(&'a self, context: &'a Context, cost_bytes: i64) -> BoxFuture<'a, bool>;
}

/// Lets a write pass that costs so many bytes, or refuses it and raises the alarm. One that costs nothing always passes.
pub async fn admit(gate: &dyn QuotaGate, context: &Context, cost_bytes: i64) -> Result<(), EtcdError> {
    let fits = cost_bytes == 0 || gate.admits(cost_bytes);
    if fits || !gate.refuses(context, cost_bytes).await { Ok(()) } else { Err(EtcdError::NoSpace) }
}

/// The quota of one member, checked where a request enters as etcd does.
///
/// The size it compares with is remembered from the last look and raised by what was applied since, so that a check
/// is two loads. Only when that says "full" is the size read anew before anything is refused: an overwritten key does
/// not make the file larger.
#[derive(Debug)]
pub struct Quota {
    limit_bytes: Option<i64>,
    total_bytes: AtomicI64,
    in_use_bytes: AtomicI64,
    /// Applied since the last look.
    unseen_bytes: AtomicI64,
    look: Notify,
    is_raising: AtomicBool,
    /// Bytes that the disk surely takes until the next look at it: a burst of writes must not run into a full disk
    /// between two looks, however late the next one comes.
    disk_credit: AtomicI64,
    /// Wakes who looks at the disk.
    disk_look: Notify,
    /// Counts looks at the disk.
    disk_looks: watch::Sender<u64>,
}

impl Quota {
    /// A quota of `limit_bytes`; `None` refuses nothing.
    pub fn new(limit_bytes: Option<i64>) -> Quota {
        Quota {
            limit_bytes,
            total_bytes: AtomicI64::new(0),
            in_use_bytes: AtomicI64::new(0),
            unseen_bytes: AtomicI64::new(0),
            look: Notify::new(),
            is_raising: AtomicBool::new(false),
            disk_credit: AtomicI64::new(i64::MAX / 2),
            disk_look: Notify::new(),
            disk_looks: watch::Sender::new(0),
        }
    }

    /// Says what the disk takes until the next look.
    pub fn set_disk_credit(&self, bytes: u64) {
        self.disk_credit.store(i64::try_from(bytes).unwrap_or(i64::MAX / 2), Ordering::Relaxed);
        self.disk_looks.send_modify(|looks| *looks += 1);
    }

    /// Waits until a write wants to know of the disk.
    pub async fn disk_look_wanted(&self) {
        self.disk_look.notified().await;
    }

    /// Has the disk looked at now. True if it has no room: the alarm was raised by then.
    async fn is_disk_full(&self, deadline: Instant) -> bool {
        if self.disk_credit.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let mut looks = self.disk_looks.subscribe();
        looks.mark_unchanged();
        self.disk_look.notify_one();
        let looked = tokio::time::timeout_at(deadline.into(), looks.changed()).await;
        // Without a look in time the write is refused: it may be the one that ends the member.
        !matches!(looked, Ok(Ok(()))) || self.disk_credit.load(Ordering::Relaxed) <= 0
    }

    /// The size as last seen, for gauges.
    pub fn size(&self) -> DatabaseSize {
        DatabaseSize {
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
            in_use_bytes: self.in_use_bytes.load(Ordering::Relaxed),
        }
    }

    /// Counts what the database has grown by at most.
    fn count(&self, batch: &[Applied]) {
        let bytes: i64 = batch
            .iter()
            .flat_map(|entry| &entry.events)
            .map(|event| PUT_OVERHEAD_BYTES + (event.kv.key.len() + event.kv.value.len()) as i64)
            .sum();
        if bytes == 0 {
            return;
        }
        let before = self.unseen_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before < REFRESH_BYTES && before + bytes >= REFRESH_BYTES {
            self.look.notify_one();
        }
    }

    /// Keeps the remembered size near the truth until the member stops. Spawned once by the server.
    pub async fn run(&self, node: &Node) {
        loop {
            if let Err(ReadFailure::Stopped) = self.look(node, node.local_barrier()).await {
                return;
            }
            // Woken by bytes or by time; a look at an idle member is one page count, twice a second.
            let _ = tokio::time::timeout(REFRESH_INTERVAL, self.look.notified()).await;
        }
    }

    /// Looks at the size now.
    pub async fn refresh(&self, node: &Node) {
        if let Err(error) = self.look(node, node.local_barrier()).await {
            warn!(%error, "the database's size could not be read");
        }
    }

    async fn is_full(&self, node: &Node, cost_bytes: i64, deadline: Instant) -> bool {
        if self.is_disk_full(deadline).await {
            return true;
        }
        let Some(limit) = self.limit_bytes else { return false };
        match self.look(node, node.local_barrier()).await {
            Ok((size, _)) if size.total_bytes + cost_bytes < limit => false,
            Ok((_, alarms)) => {
                let own = AlarmRecord { member: node.member_id().0, alarm: NOSPACE };
                if !alarms.contains(&own) {
                    self.raise_alarm(node, deadline).await;
                }
                true
            }
            // Whether it fits is unknown; the proposal that follows meets the same fault and names it.
            Err(_) => false,
        }
    }

    /// Proposes this member's NOSPACE alarm, one proposal at a time.
    pub async fn raise_alarm(&self, node: &Node, deadline: Instant) {
        if self.is_raising.swap(true, Ordering::AcqRel) {
            return;
        }
        let alarm = command::Alarm { activate: true, member: node.member_id().0, alarm: NOSPACE };
        let raised = node.propose(Command { kind: Some(Kind::Alarm(alarm)) }, deadline).await;
        self.is_raising.store(false, Ordering::Release);
        match raised {
            Ok(_) => warn!(
                size_bytes = self.size().total_bytes,
                quota_bytes = self.limit_bytes,
                "NOSPACE alarm raised: compact, defragment, then `etcdctl alarm disarm`"
            ),
            Err(error) => warn!(%error, "the NOSPACE alarm could not be raised"),
        }
    }

    async fn look(
        &self,
        node: &Node,
        barrier: Barrier,
    ) -> Result<(DatabaseSize, Vec<AlarmRecord>), ReadFailure> {
        // What is applied during the look may or may not be in its answer; counting it twice is the safe side. The view
        // must hold what was counted: with lazy commits it would be in neither otherwise.
        let counted = self.unseen_bytes.load(Ordering::Relaxed);
        let deadline = Instant::now() + REFRESH_TIMEOUT;
        let read = node
            .read(barrier, deadline, |view| {
                Ok::<_, dqlited_store::read::ReadError>((view.database_size()?, view.alarms()?))
            })
            .await?;
        let (size, alarms) = match read {
            Ok(read) => read,
            Err(ReadError::Store(error)) => return Err(ReadFailure::Store(error)),
            Err(ReadError::Compacted | ReadError::FutureRevision) => {
                unreachable!("sizes and alarms are asked at no revision")
            }
        };
        self.total_bytes.store(size.total_bytes, Ordering::Relaxed);
        self.in_use_bytes.store(size.in_use_bytes, Ordering::Relaxed);
        self.unseen_bytes.fetch_sub(counted, Ordering::Relaxed);
        Ok((size, alarms))
    }
}

impl QuotaGate for Quota {
    fn admits(&self, cost_bytes: i64) -> bool {
        let disk_credit = self.disk_credit.fetch_sub(DISK_COPIES * cost_bytes, Ordering::Relaxed);
        if disk_credit <= 0 {
            return false;
        }
        let known = self.total_bytes.load(Ordering::Relaxed) + self.unseen_bytes.load(Ordering::Relaxed);
        self.limit_bytes.is_none_or(|limit| known + cost_bytes < limit)
    }

    fn refuses<'a>(&'a self, context: &'a Context, cost_bytes: i64) -> BoxFuture<'a, bool> {
        Box::pin(self.is_full(&context.node, cost_bytes, context.deadline()))
    }
}

impl Interest for Quota {
    fn wants_previous(&self, _key: &[u8]) -> bool {
        false
    }
}

impl ApplyListener for Quota {
    fn started(&self, _log_id: LogId, _revision: Revision, _compact_revision: Revision) {
        self.look.notify_one();
    }

    fn applied(&self, batch: &Arc<Vec<Applied>>) {
        self.count(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn puts_of(bytes: usize, count: usize) -> Vec<Applied> {
        let event = dqlited_store::Event {
            kind: dqlited_store::EventKind::Put,
            kv: dqlited_store::KeyValue {
                key: "k".into(),
                value: vec![0; bytes].into(),
                ..Default::default()
            },
            previous: dqlited_store::event::Previous::None,
        };
        let entry = Applied {
            log_id: Default::default(),
            identity: None,
            result: Ok(dqlited_store::Response::Put { previous: None }),
            revision: Default::default(),
            compact_revision: Default::default(),
            events: vec![event],
        };
        vec![entry; count]
    }

    #[test]
    fn what_was_applied_counts_until_the_size_is_read() {
        let quota = Quota::new(Some(10_000));
        assert!(quota.admits(9_999));
        assert!(!quota.admits(10_000));
        quota.count(&puts_of(1000, 2));
        assert!(quota.admits(10_000 - 2 * 1257 - 1));
        assert!(!quota.admits(10_000 - 2 * 1257));
    }

    #[tokio::test]
    async fn a_burst_that_the_disk_may_not_take_waits_for_a_look() {
        let quota = Quota::new(None);
        quota.set_disk_credit(1000);
        assert!(quota.admits(300));
        assert!(!quota.admits(300), "1200 of 1000 bytes");
        let deadline = Instant::now() + Duration::from_secs(10);
        let looks = async {
            quota.disk_look_wanted().await;
            quota.set_disk_credit(5000);
        };
        let (is_full, ()) = tokio::join!(quota.is_disk_full(deadline), looks);
        assert!(!is_full);
        quota.set_disk_credit(0);
        let looks = async {
            quota.disk_look_wanted().await;
            quota.set_disk_credit(0);
        };
        let (is_full, ()) = tokio::join!(quota.is_disk_full(deadline), looks);
        assert!(is_full);
    }

    #[test]
    fn without_a_limit_everything_fits() {
        assert!(Quota::new(None).admits(i64::MAX / 4));
    }
}
