//! Requests that took longer than `--warning-apply-duration` are logged with what they asked for and where the time
//! went, a bounded number of lines a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::warn;

/// Lines a second at most: a member that is slow for all of its clients must not be slower for its log.
const LINES_PER_SECOND: u64 = 10;
/// Bytes of a key that are shown.
const KEY_BYTES_SHOWN: usize = 128;

/// Where the time of a request went.
#[derive(Clone, Copy, Debug)]
pub struct Stages {
    begun: Instant,
    /// Until its barrier stood; the proof of leadership of a linearizable read.
    pub barrier: Duration,
}

impl Stages {
    /// Now is the beginning.
    pub fn begin(now: Instant) -> Stages {
        Stages { begun: now, barrier: Duration::ZERO }
    }

    /// The barrier stands.
    pub fn barrier_stands(&mut self) {
        self.barrier = self.begun.elapsed();
    }
}

/// The log of slow requests.
#[derive(Debug)]
pub struct SlowLog {
    limit: Duration,
    origin: Instant,
    /// The second since `origin` that `lines` counts for, and the lines in it, in one word.
    second_and_lines: AtomicU64,
    suppressed: AtomicU64,
    /// Slow requests since the start.
    count: AtomicU64,
}

impl SlowLog {
    /// Logs what takes longer than `limit`; zero logs nothing.
    pub fn new(limit: Duration) -> SlowLog {
        SlowLog {
            limit,
            origin: Instant::now(),
            second_and_lines: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }

    /// Slow requests since the start.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// A request has ended.
    #[inline]
    pub fn note(&self, stages: Stages, request: &'static str, key: &[u8], range_end: &[u8]) {
        let took = stages.begun.elapsed();
        if took > self.limit && self.limit > Duration::ZERO {
            self.log(stages, took, request, key, range_end);
        }
    }

    #[cold]
    fn log(&self, stages: Stages, took: Duration, request: &'static str, key: &[u8], range_end: &[u8]) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if !self.may_write(self.origin.elapsed().as_secs()) {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        warn!(
            request,
            key = %shown(key),
            range_end = %shown(range_end),
            took_ms = took.as_millis() as u64,
            barrier_ms = stages.barrier.as_millis() as u64,
            rest_ms = took.saturating_sub(stages.barrier).as_millis() as u64,
            lines_left_out = self.suppressed.swap(0, Ordering::Relaxed),
            "slow request"
        );
    }

    fn may_write(&self, second: u64) -> bool {
        let held = self.second_and_lines.load(Ordering::Relaxed);
        let lines = if held >> 8 == second { held & 0xff } else { 0 };
        lines < LINES_PER_SECOND
            && self
                .second_and_lines
                .compare_exchange(held, second << 8 | (lines + 1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

fn shown(key: &[u8]) -> String {
    key[..key.len().min(KEY_BYTES_SHOWN)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_requests_write_a_bounded_number_of_lines_a_second() {
        let log = SlowLog::new(Duration::from_millis(100));
        let lines = (0..100).filter(|_| log.may_write(3)).count();
        assert_eq!(lines as u64, LINES_PER_SECOND);
        assert!(log.may_write(4));
    }

    #[test]
    fn only_requests_over_the_limit_are_slow() {
        let log = SlowLog::new(Duration::from_secs(3600));
        log.note(Stages::begin(Instant::now()), "Range", b"a", b"");
        assert_eq!(log.count(), 0);
        let log = SlowLog::new(Duration::from_nanos(1));
        log.note(Stages::begin(Instant::now() - Duration::from_millis(5)), "Range", b"a\0", b"");
        assert_eq!(log.count(), 1);
    }
}
