//! The queue of answers of one watch stream: bounded for events, in order for everything.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tonic::Status;

use super::message::Message;

/// How much may wait for clients that do not read.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// Answers of one stream (etcd: 128). A watch whose stream is full reads its events from the store later.
    pub stream_messages_max: usize,
    /// Bytes of one stream.
    pub stream_bytes_max: usize,
    /// Bytes of all streams together.
    pub all_bytes_max: usize,
    /// Revisions that one batch of a watch that catches up holds (etcd: 1000).
    pub batch_revisions_max: usize,
    /// Bytes of one such batch; a single revision may be larger.
    pub batch_bytes_max: usize,
    /// Such batches that are read at once: bounds their memory over all streams.
    pub reads_max: usize,
    /// Newest revisions that are kept in memory for watches that are a little behind.
    pub recent_revisions_max: usize,
    /// Bytes of them.
    pub recent_bytes_max: usize,
}

impl Default for WatchLimits {
    fn default() -> Self {
        WatchLimits {
            stream_messages_max: 128,
            stream_bytes_max: 4 << 20,
            all_bytes_max: 128 << 20,
            batch_revisions_max: 1000,
            batch_bytes_max: 2 << 20,
            reads_max: 4,
            recent_revisions_max: 1024,
            recent_bytes_max: 4 << 20,
        }
    }
}

/// What waits in the queues of all streams.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicUsize,
    events: AtomicUsize,
}

impl Budget {
    /// Bytes that wait now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Events that wait now.
    pub fn events(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }
}

/// The queue is full: nothing was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One stream's queue. The hub pushes under its own lock, the connection's task takes out.
#[derive(Debug)]
pub struct StreamQueue {
    limits: WatchLimits,
    budget: Arc<Budget>,
    inner: Mutex<Inner>,
    /// Told when there is room again.
    room: Notify,
    /// Told when a watch of the stream has fallen behind.
    behind: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    messages: VecDeque<(Message, usize)>,
    bytes: usize,
    waker: Option<Waker>,
    ended: Option<End>,
}

/// How the stream ends.
#[derive(Debug)]
enum End {
    /// The client is to hear this.
    With(Status),
    /// It has heard.
    Told,
}

impl StreamQueue {
    /// An empty queue.
    pub fn new(limits: WatchLimits, budget: Arc<Budget>) -> Self {
        StreamQueue { limits, budget, inner: Mutex::default(), room: Notify::new(), behind: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under the queue's lock")
    }

    /// Adds events unless a bound is reached. An empty queue takes anything, so that each stream makes progress.
    pub fn try_push(&self, message: Message) -> Result<Option<Waker>, Full> {
        let cost = message.cost_bytes();
        let mut inner = self.lock();
        let is_full = inner.messages.len() >= self.limits.stream_messages_max
            || inner.bytes + cost > self.limits.stream_bytes_max
            || self.budget.used() + cost > self.limits.all_bytes_max;
        if is_full && !inner.messages.is_empty() {
            return Err(Full);
        }
        Ok(self.add(&mut inner, message, cost))
    }

    /// Adds a message whatever the bounds say: for answers to requests, whose number [`StreamQueue::request_room`] bounds,
    /// and for batches, which are read only when there is [`StreamQueue::batch_room`].
    pub fn push(&self, message: Message) -> Option<Waker> {
        let cost = message.cost_bytes();
        self.add(&mut self.lock(), message, cost)
    }

    /// The caller wakes the taker once it has let its own locks go.
    fn add(&self, inner: &mut Inner, message: Message, cost: usize) -> Option<Waker> {
        if inner.ended.is_some() {
            return None;
        }
        self.budget.used.fetch_add(cost, Ordering::Relaxed);
        self.budget.events.fetch_add(message.event_count(), Ordering::Relaxed);
        inner.bytes += cost;
        inner.messages.push_back((message, cost));
        inner.waker.take()
    }

    /// Ends the stream with a status at once; what waits is dropped.
    pub fn end(&self, status: Status) {
        let mut inner = self.lock();
        if inner.ended.is_none() {
            inner.ended = Some(End::With(status));
            self.clear(&mut inner);
        }
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.room.notify_waiters();
    }

    fn clear(&self, inner: &mut Inner) {
        self.budget.used.fetch_sub(inner.bytes, Ordering::Relaxed);
        let events = inner.messages.iter().map(|(message, _)| message.event_count()).sum();
        self.budget.events.fetch_sub(events, Ordering::Relaxed);
        inner.bytes = 0;
        inner.messages.clear();
    }

    /// Takes the next message. One taker only.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Result<Message, Status>>> {
        let mut inner = self.lock();
        if let Some(end) = inner.ended.replace(End::Told) {
            return Poll::Ready(match end {
                End::With(status) => Some(Err(status)),
                End::Told => None,
            });
        }
        inner.ended = None;
        let Some((message, cost)) = inner.messages.pop_front() else {
            inner.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        inner.bytes -= cost;
        self.budget.used.fetch_sub(cost, Ordering::Relaxed);
        self.budget.events.fetch_sub(message.event_count(), Ordering::Relaxed);
        let has_room = self.has_batch_room(&inner);
        drop(inner);
        if has_room {
            self.room.notify_waiters();
        }
        Poll::Ready(Some(Ok(message)))
    }

    fn has_batch_room(&self, inner: &Inner) -> bool {
        inner.messages.is_empty()
            || inner.messages.len() <= self.limits.stream_messages_max / 2
                && inner.bytes <= self.limits.stream_bytes_max / 2
                && self.budget.used() <= self.limits.all_bytes_max / 2
    }

    /// Waits until the queue is at most half full.
    pub async fn batch_room(&self) {
        self.wait_room(|inner| self.has_batch_room(inner)).await;
    }

    /// Waits until a further request of the client may be answered: a client that does not read its answers is not
    /// read either.
    pub async fn request_room(&self) {
        self.wait_room(|inner| inner.messages.len() < 2 * self.limits.stream_messages_max).await;
    }

    async fn wait_room(&self, is_enough: impl Fn(&Inner) -> bool) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Registered before the look, so that no news in between is missed.
            room.as_mut().enable();
            if is_enough(&self.lock()) {
                return;
            }
            room.await;
        }
    }

    /// A periodic report finds no place: etcd leaves it out too.
    pub fn is_full(&self) -> bool {
        self.lock().messages.len() >= self.limits.stream_messages_max
    }

    /// Says that a watch has fallen behind.
    pub fn tell_behind(&self) {
        self.behind.notify_one();
    }

    /// Waits until a watch has fallen behind since the last call.
    pub async fn wait_behind(&self) {
        self.behind.notified().await;
    }
}

impl Drop for StreamQueue {
    fn drop(&mut self) {
        let mut inner = std::mem::take(self.inner.get_mut().expect("no panic under the queue's lock"));
        self.clear(&mut inner);
    }
}
