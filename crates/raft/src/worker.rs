//! Runs the member's blocking parts: each as a thread of its own, or turn by turn inside of the async runtime.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Instant;

use tokio::sync::Notify;

use crate::environment::{Clock, Threads};
use crate::failure::Failure;

/// When a worker wants its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At once.
    Now,
    /// When it is signalled, or at this time.
    At(Instant),
    /// When it is signalled.
    Signal,
    /// Never.
    End,
}

/// One blocking part of the member. A turn does a bounded piece of work.
pub(crate) trait Worker: Send + 'static {
    /// Does what there is to do.
    fn turn(&mut self) -> Next;
}

/// Wakes a worker. A signal that comes during a turn leads to another turn.
#[derive(Default)]
pub(crate) struct Signal {
    is_raised: AtomicBool,
    thread: OnceLock<Thread>,
    notify: Notify,
}

impl Signal {
    /// A new one that nobody waits for yet.
    pub(crate) fn new() -> Arc<Signal> {
        Arc::default()
    }

    /// Wakes the worker.
    pub(crate) fn raise(&self) {
        if self.is_raised.swap(true, Ordering::AcqRel) {
            return;
        }
        match self.thread.get() {
            Some(thread) => thread.unpark(),
            None => self.notify.notify_one(),
        }
    }

    fn take(&self) -> bool {
        self.is_raised.swap(false, Ordering::AcqRel)
    }
}

/// A running worker, to wait for its end.
pub(crate) enum Running {
    Thread(thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

impl Running {
    /// Waits until it has ended.
    pub(crate) async fn ended(self) {
        // A panic was reported by the worker's guard: here only the end matters.
        match self {
            Running::Thread(handle) => {
                let _ = tokio::task::spawn_blocking(move || handle.join()).await;
            }
            Running::Task(handle) => {
                let _ = handle.await;
            }
        }
    }
}

/// Starts a worker.
pub(crate) fn start(
    threads: Threads,
    name: &'static str,
    signal: Arc<Signal>,
    clock: Arc<dyn Clock>,
    failure: Failure,
    worker: impl Worker,
) -> Running {
    match threads {
        Threads::Own => run_in_thread(name, failure, move || {
            let _ = signal.thread.set(thread::current());
            park_between_turns(&signal, &*clock, worker);
        }),
        Threads::Inline => Running::Task(tokio::spawn(async move {
            let _guard = PanicGuard { name, failure };
            yield_between_turns(&signal, &*clock, worker).await;
        })),
    }
}

/// Starts a thread whose panic ends the member.
pub(crate) fn run_in_thread(
    name: &'static str,
    failure: Failure,
    body: impl FnOnce() + Send + 'static,
) -> Running {
    let handle = thread::Builder::new()
        .name(format!("dqlited-{name}"))
        .spawn(move || {
            let _guard = PanicGuard { name, failure };
            body();
        })
        .expect("the system gives a member its few threads");
    Running::Thread(handle)
}

fn park_between_turns(signal: &Signal, clock: &dyn Clock, mut worker: impl Worker) {
    // Somebody may have raised it before the thread had said which one it is.
    loop {
        signal.take();
        let deadline = match worker.turn() {
            Next::Now => continue,
            Next::End => return,
            Next::Signal => None,
            Next::At(deadline) => Some(deadline),
        };
        while !signal.is_raised.load(Ordering::Acquire) {
            match deadline {
                None => thread::park(),
                Some(deadline) => match deadline.checked_duration_since(clock.now()) {
                    Some(left) if !left.is_zero() => thread::park_timeout(left),
                    _ => break,
                },
            }
        }
    }
}

async fn yield_between_turns(signal: &Signal, clock: &dyn Clock, mut worker: impl Worker) {
    loop {
        signal.take();
        match worker.turn() {
            Next::Now => tokio::task::yield_now().await,
            Next::End => return,
            Next::Signal => signal.notify.notified().await,
            Next::At(deadline) => {
                let left = deadline.saturating_duration_since(clock.now());
                // Either is a reason for a turn.
                let _ = tokio::time::timeout(left, signal.notify.notified()).await;
            }
        }
    }
}

struct PanicGuard {
    name: &'static str,
    failure: Failure,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.failure.report(format!("the {} thread panicked", self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;
    use crate::environment::SystemClock;

    /// Counts down what was asked and ends at a limit.
    struct Counter {
        asked: Arc<AtomicUsize>,
        done: usize,
        limit: usize,
    }

    impl Worker for Counter {
        fn turn(&mut self) -> Next {
            self.done += self.asked.swap(0, Ordering::SeqCst);
            if self.done == self.limit { Next::End } else { Next::Signal }
        }
    }

    async fn no_signal_is_lost(threads: Threads) {
        let asked = Arc::new(AtomicUsize::new(0));
        let signal = Signal::new();
        let worker = Counter { asked: asked.clone(), done: 0, limit: 10_000 };
        let running =
            start(threads, "test", signal.clone(), Arc::new(SystemClock), Failure::default(), worker);
        for _ in 0..10_000 {
            asked.fetch_add(1, Ordering::SeqCst);
            signal.raise();
            if threads == Threads::Inline {
                tokio::task::yield_now().await;
            }
        }
        tokio::time::timeout(Duration::from_secs(20), running.ended()).await.expect("the worker saw all");
    }

    #[tokio::test]
    async fn a_thread_misses_no_signal() {
        no_signal_is_lost(Threads::Own).await;
    }

    #[tokio::test]
    async fn a_task_misses_no_signal() {
        no_signal_is_lost(Threads::Inline).await;
    }

    struct Panics;

    impl Worker for Panics {
        fn turn(&mut self) -> Next {
            panic!("on purpose");
        }
    }

    #[tokio::test]
    async fn a_panic_ends_the_member_in_words() {
        let failure = Failure::default();
        start(Threads::Own, "test", Signal::new(), Arc::new(SystemClock), failure.clone(), Panics)
            .ended()
            .await;
        assert_eq!(failure.happened().await, "the test thread panicked");
    }
}
