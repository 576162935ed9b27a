//! Committed entries on their way from openraft to the apply loop, bounded in bytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use dqlited_store::LogId;
use tokio::sync::Notify;

use crate::worker::Signal;

/// Bytes that may wait to be executed before openraft's own worker is held up. openraft's channel to that worker is
/// sized so that its core is not held up with it.
const QUEUED_BYTES_MAX: usize = 32 << 20;

/// A committed entry with its bytes as the log has them.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub log_id: LogId,
    pub entry: Bytes,
    /// When openraft handed it over; `None` if it was read from the log again.
    pub committed_at: Option<Instant>,
}

/// The queue; one producer, one consumer.
pub(crate) struct ApplyQueue {
    inner: Mutex<Inner>,
    has_room: Notify,
    signal: Arc<Signal>,
    committed_index: AtomicU64,
    /// The apply loop waits until the log has flushed what stands at the front.
    is_waiting_for_flush: AtomicBool,
}

#[derive(Default)]
struct Inner {
    entries: VecDeque<Committed>,
    bytes: usize,
}

impl ApplyQueue {
    /// An empty one behind the entry `applied`.
    pub(crate) fn new(applied: LogId, signal: Arc<Signal>) -> ApplyQueue {
        ApplyQueue {
            inner: Mutex::default(),
            has_room: Notify::new(),
            signal,
            committed_index: AtomicU64::new(applied.index),
            is_waiting_for_flush: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// Hands entries over. Waits while too many bytes are queued; a batch is always taken whole.
    pub(crate) async fn push(&self, batch: Vec<Committed>) {
        let Some(last) = batch.last().map(|committed| committed.log_id.index) else { return };
        self.committed_index.store(last, Ordering::Release);
        let bytes: usize = batch.iter().map(|committed| committed.entry.len()).sum();
        let mut batch = Some(batch);
        loop {
            let room = self.has_room.notified();
            {
                let mut inner = self.lock();
                if inner.entries.is_empty() || inner.bytes + bytes <= QUEUED_BYTES_MAX {
                    inner.bytes += bytes;
                    inner.entries.extend(batch.take().into_iter().flatten());
                }
            }
            if batch.is_none() {
                self.signal.raise();
                return;
            }
            room.await;
        }
    }

    /// Moves entries that `may_go` allows into `batch`, in order, until it has so many or so many bytes.
    pub(crate) fn take(
        &self,
        batch: &mut Vec<Committed>,
        entries_max: usize,
        bytes_max: usize,
        may_go: impl Fn(LogId) -> bool,
    ) {
        let mut inner = self.lock();
        let mut bytes = 0;
        while batch.len() < entries_max && bytes < bytes_max {
            match inner.entries.front() {
                Some(committed) if may_go(committed.log_id) => {}
                _ => break,
            }
            let Some(committed) = inner.entries.pop_front() else { break };
            bytes += committed.entry.len();
            batch.push(committed);
        }
        inner.bytes -= bytes;
        drop(inner);
        if bytes > 0 {
            self.has_room.notify_one();
        }
    }

    /// The apply loop is about to wait for the log: the next flush must wake it.
    pub(crate) fn announce_wait_for_flush(&self) {
        self.is_waiting_for_flush.store(true, Ordering::SeqCst);
    }

    /// The log has flushed something.
    pub(crate) fn log_flushed(&self) {
        if self.is_waiting_for_flush.swap(false, Ordering::SeqCst) {
            self.signal.raise();
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// Index of the last entry that openraft has said to be committed.
    pub(crate) fn committed_index(&self) -> u64 {
        self.committed_index.load(Ordering::Acquire)
    }
}
