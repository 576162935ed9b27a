//! Large answers on their way to clients: one that its client has stopped taking gives up its room when others wait.
//!
//! HTTP/2 lets a client hold a stream open without reading it, and what is sent then stays in memory here. Such a
//! connection is closed, and all of its answers go, once nothing of the answer has moved for a while and somebody else
//! waits for room. The stream alone cannot be reset: the HTTP/2 library keeps what it was given to send until then.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tracing::warn;

/// A large answer goes to the HTTP/2 library in pieces of so many bytes, so that its progress can be seen.
pub const PIECE_BYTES: usize = 256 << 10;

/// Less patience than that would take a busy machine for a client that does not read.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// The clients are looked at so often at least while somebody waits.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// How a connection is told to close, from outside of it.
#[derive(Clone, Debug, Default)]
pub struct Closer(Arc<Notify>);

impl Closer {
    /// Waits until the connection must close.
    pub async fn closed(&self) {
        self.0.notified().await;
    }
}

/// All large answers under way.
#[derive(Debug)]
pub struct Transfers {
    under_way: Mutex<Vec<Weak<Transfer>>>,
    patience: Duration,
    epoch: Instant,
}

/// One answer: a unary one, or a stream with all of its messages.
#[derive(Debug)]
pub struct Transfer {
    closer: Closer,
    /// Messages of it in memory.
    messages: AtomicUsize,
    /// When something of it moved last, ms after `epoch`.
    moved_at: AtomicU64,
    epoch: Instant,
}

impl Transfers {
    /// Clients may leave their answers for so long while others wait.
    pub fn new(patience: Duration) -> Transfers {
        Transfers { under_way: Mutex::default(), patience: patience.max(PATIENCE_MIN), epoch: Instant::now() }
    }

    /// An answer begins to go out on the connection of `closer`.
    pub fn begin(&self, closer: &Closer) -> Arc<Transfer> {
        let transfer = Arc::new(Transfer {
            closer: closer.clone(),
            messages: AtomicUsize::new(0),
            moved_at: AtomicU64::new(0),
            epoch: self.epoch,
        });
        transfer.has_moved();
        let mut under_way = self.under_way.lock().expect("no holder of this lock panics");
        if under_way.len() == under_way.capacity() {
            under_way.retain(|transfer| transfer.strong_count() > 0);
        }
        under_way.push(Arc::downgrade(&transfer));
        transfer
    }

    /// How often those who wait should call [`Transfers::close_stalled`].
    pub fn look_interval(&self) -> Duration {
        (self.patience / 4).min(LOOK_INTERVAL_MAX)
    }

    /// Closes the connections of those who have taken nothing for too long. Answers how many answers that concerned.
    pub fn close_stalled(&self) -> usize {
        let now = millis_since(self.epoch);
        let patience = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
        let mut count = 0;
        let mut under_way = self.under_way.lock().expect("no holder of this lock panics");
        under_way.retain(|transfer| {
            let Some(transfer) = transfer.upgrade() else { return false };
            let is_stalled = transfer.messages.load(Ordering::Acquire) > 0
                && now.saturating_sub(transfer.moved_at.load(Ordering::Relaxed)) >= patience;
            if is_stalled {
                count += 1;
                transfer.closer.0.notify_one();
            }
            !is_stalled
        });
        if count > 0 {
            warn!(
                answers = count,
                patience_ms = patience,
                "clients take nothing of their answers while others wait for room: their connections are closed"
            );
        }
        count
    }
}

impl Transfer {
    /// The same bytes, counted as this answer's until the last reference to them is gone.
    pub fn carry(self: &Arc<Self>, message: Bytes) -> Bytes {
        self.messages.fetch_add(1, Ordering::AcqRel);
        Bytes::from_owner(Carried { message, transfer: self.clone() })
    }

    /// The connection has taken a piece.
    pub fn has_moved(&self) {
        self.moved_at.store(millis_since(self.epoch), Ordering::Relaxed);
    }
}

struct Carried {
    message: Bytes,
    transfer: Arc<Transfer>,
}

impl AsRef<[u8]> for Carried {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.transfer.has_moved();
        self.transfer.messages.fetch_sub(1, Ordering::AcqRel);
    }
}

fn millis_since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Patience of 1 s is the least; what is older than that was begun earlier.
    fn transfers_begun_ago(ago: Duration) -> Transfers {
        Transfers { epoch: Instant::now() - ago, ..Transfers::new(Duration::ZERO) }
    }

    fn age(transfer: &Transfer) {
        transfer.moved_at.store(0, Ordering::Relaxed);
    }

    #[tokio::test]
    async fn who_takes_nothing_is_closed_and_who_moves_is_not() {
        let transfers = transfers_begun_ago(Duration::from_secs(5));
        let (still, moving) = (Closer::default(), Closer::default());
        let transfer = transfers.begin(&still);
        let _held = transfer.carry(Bytes::from_static(b"x"));
        age(&transfer);
        let other = transfers.begin(&moving);
        let _held_too = other.carry(Bytes::from_static(b"x"));
        assert_eq!(transfers.close_stalled(), 1);
        tokio::time::timeout(Duration::from_secs(5), still.closed()).await.unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(20), moving.closed()).await;
        assert!(waits.is_err(), "it has moved");
        // Told once.
        assert_eq!(transfers.close_stalled(), 0);
    }

    #[test]
    fn an_answer_of_which_nothing_is_left_in_memory_is_nobodys_fault() {
        let transfers = transfers_begun_ago(Duration::from_secs(5));
        let stream = transfers.begin(&Closer::default());
        drop(stream.carry(Bytes::from_static(b"x")));
        age(&stream);
        assert_eq!(transfers.close_stalled(), 0, "the stream waits for its next message");
        let next = stream.carry(Bytes::from_static(b"x"));
        let slice = next.slice(..1);
        drop(next);
        age(&stream);
        assert_eq!(transfers.close_stalled(), 1, "a part of it is still on its way");
        drop(slice);
    }

    #[test]
    fn answers_that_have_ended_are_forgotten() {
        let transfers = Transfers::new(Duration::from_secs(20));
        for _ in 0..1000 {
            transfers.begin(&Closer::default());
        }
        assert!(transfers.under_way.lock().unwrap().len() < 100);
    }
}
