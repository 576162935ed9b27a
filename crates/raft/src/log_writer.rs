//! Runs the log's writer: on a thread that waits in the log itself, or turn by turn inside of the async runtime.

use std::sync::Arc;
use std::time::Duration;

use dqlited_log::{Log, LogWriter};

use crate::environment::{Clock, Environment, Threads};
use crate::failure::Failure;
use crate::worker::{self, Next, Running, Signal, Worker};

/// How long the writer waits before it looks whether the member has failed.
const WAIT: Duration = Duration::from_millis(500);

struct LogWriterLoop {
    log: Log,
    writer: LogWriter,
    environment: Environment,
    failure: Failure,
}

impl LogWriterLoop {
    /// Writes what waits. False when the log has ended.
    fn drain(&mut self) -> bool {
        if self.failure.has_happened() {
            return false;
        }
        let clock: &dyn Clock = &*self.environment.clock;
        let started = clock.now();
        match self.writer.drain() {
            Ok(0) => {}
            Ok(operations) => {
                let took = clock.now().saturating_duration_since(started);
                self.environment.observer.log_synced(operations, took);
            }
            Err(error) => {
                self.failure.report(error.to_string());
                return false;
            }
        }
        true
    }

    /// Writes what may have come last and marks the end as synced, so that damage to the last batch is told from a torn
    /// write at the next start.
    fn finish(self) {
        if let Err(error) = self.writer.finish() {
            self.failure.report(error.to_string());
        }
    }
}

/// The same turn by turn.
struct InlineLogWriter {
    /// `None` once it has ended.
    body: Option<LogWriterLoop>,
}

impl Worker for InlineLogWriter {
    fn turn(&mut self) -> Next {
        let Some(body) = &mut self.body else { return Next::End };
        // Looked at first: what was submitted before it was closed is still written.
        let is_closed = body.log.is_closed();
        let goes_on = body.drain();
        if goes_on && !is_closed {
            return Next::Signal;
        }
        if let Some(body) = self.body.take().filter(|_| goes_on) {
            body.finish();
        }
        Next::End
    }
}

/// Starts it. `signal` is raised after each submission, for an inline writer.
pub(crate) fn start(
    log: Log,
    writer: LogWriter,
    signal: Arc<Signal>,
    environment: Environment,
    failure: Failure,
) -> Running {
    let threads = environment.threads;
    let clock = environment.clock.clone();
    let mut body = LogWriterLoop { log, writer, environment, failure: failure.clone() };
    match threads {
        Threads::Own => worker::run_in_thread("log", failure, move || {
            loop {
                let is_work = body.writer.wait(WAIT);
                let is_over = !is_work && body.log.is_closed();
                if !body.drain() {
                    return;
                }
                if is_over {
                    return body.finish();
                }
            }
        }),
        Threads::Inline => {
            let body = InlineLogWriter { body: Some(body) };
            worker::start(threads, "log", signal, clock, failure, body)
        }
    }
}
