//! Requests that took longer than `--warning-apply-duration` are logged with what they asked for and where the time
//! went, a bounded number of lines a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dqlited_raft::{ReadMoments, WriteMoments};
use tracing::warn;

/// Lines a second at most: a member that is slow for all of its clients must not be slower for its log.
const LINES_PER_SECOND: u64 = 10;
/// Bytes of a key that are shown.
const KEY_BYTES_SHOWN: usize = 128;

/// Where the time of a request went. What it had no part in stays `None`. The stages follow one another and never
/// overlap: together they are the time from the beginning to the last moment that was reached.
#[derive(Clone, Copy, Debug)]
struct Stages {
    begun: Instant,
    reached: Instant,
    barrier: Option<Duration>,
    queue: Option<Duration>,
    log: Option<Duration>,
    apply: Option<Duration>,
    delete: Option<Duration>,
    read: Option<Duration>,
    /// Until the client had taken what was ready of a stream: time of its own, not of this member.
    send: Option<Duration>,
    /// Nothing is left but to make the answer.
    is_carried_out: bool,
}

impl Stages {
    fn begin(now: Instant) -> Stages {
        Stages {
            begun: now,
            reached: now,
            barrier: None,
            queue: None,
            log: None,
            apply: None,
            delete: None,
            read: None,
            send: None,
            is_carried_out: false,
        }
    }

    /// The time since the last moment, which is this one from now on. One out of order takes no time.
    fn until(&mut self, moment: Instant) -> Duration {
        let time = moment.saturating_duration_since(self.reached);
        self.reached = self.reached.max(moment);
        time
    }
}

fn add(stage: &mut Option<Duration>, time: Duration) {
    *stage = Some(stage.unwrap_or_default() + time);
}

/// A request under way. Its end, with an answer, with an error or because its client has gone, is when this is dropped.
#[derive(Debug)]
pub struct SlowRequest<'a> {
    log: &'a SlowLog,
    request: &'static str,
    key: Bytes,
    range_end: Bytes,
    stages: Stages,
}

impl SlowRequest<'_> {
    /// What it asks for.
    pub fn asks_for(&mut self, key: &Bytes, range_end: &Bytes) {
        (self.key, self.range_end) = (key.clone(), range_end.clone());
    }

    /// Its barrier is proven.
    pub fn barrier_stands(&mut self) {
        let time = self.stages.until(Instant::now());
        add(&mut self.stages.barrier, time);
    }

    /// There is more to do for it than to make the answer.
    pub fn goes_on(&mut self) {
        self.stages.is_carried_out = false;
    }

    /// It has waited for room in the memory of all answers, to be read again.
    pub fn has_room(&mut self) {
        let time = self.stages.until(Instant::now());
        add(&mut self.stages.queue, time);
    }

    /// It was read.
    pub fn was_read(&mut self, moments: ReadMoments) {
        let stages = &mut self.stages;
        let (visible, begun, ended) =
            (stages.until(moments.visible), stages.until(moments.begun), stages.until(moments.ended));
        add(&mut stages.barrier, visible);
        add(&mut stages.queue, begun);
        add(&mut stages.read, ended);
        stages.is_carried_out = true;
    }

    /// The client has taken what was ready of a stream.
    pub fn was_taken(&mut self) {
        let time = self.stages.until(Instant::now());
        add(&mut self.stages.send, time);
    }

    /// It was executed.
    pub fn was_written(&mut self, moments: WriteMoments) {
        let stages = &mut self.stages;
        let (offered, logged, executed) =
            (stages.until(moments.offered), stages.until(moments.logged), stages.until(moments.executed));
        add(&mut stages.queue, offered);
        add(&mut stages.log, logged);
        add(&mut stages.apply, executed);
        stages.is_carried_out = true;
    }

    /// What it compacted is deleted here.
    pub fn was_deleted(&mut self) {
        let time = self.stages.until(Instant::now());
        add(&mut self.stages.delete, time);
        self.stages.is_carried_out = true;
    }
}

impl Drop for SlowRequest<'_> {
    fn drop(&mut self) {
        let took = self.stages.begun.elapsed();
        let own = took.saturating_sub(self.stages.send.unwrap_or_default());
        if own > self.log.limit && self.log.limit > Duration::ZERO {
            self.log.log(self, took);
        }
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

    /// A request begins now.
    pub fn begin(&self, request: &'static str) -> SlowRequest<'_> {
        let stages = Stages::begin(Instant::now());
        SlowRequest { log: self, request, key: Bytes::new(), range_end: Bytes::new(), stages }
    }

    #[cold]
    fn log(&self, slow: &SlowRequest<'_>, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if !self.may_write(self.origin.elapsed().as_secs()) {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let stages = &slow.stages;
        let rest = took.saturating_sub(stages.reached.saturating_duration_since(stages.begun));
        let (answer, unanswered) =
            if stages.is_carried_out { (Some(rest), None) } else { (None, Some(rest)) };
        warn!(
            request = slow.request,
            key = %shown(&slow.key),
            range_end = %shown(&slow.range_end),
            took_ms = ms(took),
            barrier_ms = stages.barrier.map(ms),
            queue_ms = stages.queue.map(ms),
            log_ms = stages.log.map(ms),
            apply_ms = stages.apply.map(ms),
            delete_ms = stages.delete.map(ms),
            read_ms = stages.read.map(ms),
            send_ms = stages.send.map(ms),
            answer_ms = answer.map(ms),
            unanswered_ms = unanswered.map(ms),
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

/// Milliseconds down to the microsecond, so that the stages of a request never add up to more than it took.
fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
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
        drop(log.begin("Range"));
        assert_eq!(log.count(), 0);
        let log = SlowLog::new(Duration::ZERO);
        let mut never = log.begin("Range");
        never.stages.begun -= Duration::from_secs(7200);
        drop(never);
        assert_eq!(log.count(), 0);
        let log = SlowLog::new(Duration::from_secs(3600));
        let mut slow = log.begin("Range");
        slow.stages.begun -= Duration::from_secs(7200);
        drop(slow);
        assert_eq!(log.count(), 1);
    }

    #[test]
    fn a_client_that_takes_its_stream_slowly_makes_no_slow_request() {
        let log = SlowLog::new(Duration::from_secs(60));
        let begun = |seconds| {
            let mut stream = log.begin("RangeStream");
            stream.stages = Stages::begin(Instant::now() - Duration::from_secs(seconds));
            stream
        };
        let mut stream = begun(3600);
        stream.was_taken();
        drop(stream);
        assert_eq!(log.count(), 0);
        drop(begun(3600));
        assert_eq!(log.count(), 1);
    }

    fn request_at(log: &SlowLog, begun: Instant) -> SlowRequest<'_> {
        let mut request = log.begin("Test");
        request.stages = Stages::begin(begun);
        request
    }

    #[test]
    fn the_stages_of_a_write_are_the_times_between_its_moments() {
        let log = SlowLog::new(Duration::ZERO);
        let begun = Instant::now();
        let after = |ms| begun + Duration::from_millis(ms);
        let of = |ms| Some(Duration::from_millis(ms));
        let mut write = request_at(&log, begun);
        assert!(!write.stages.is_carried_out);
        write.was_written(WriteMoments { offered: after(2), logged: after(5), executed: after(12) });
        let stages = write.stages;
        assert_eq!((stages.queue, stages.log, stages.apply), (of(2), of(3), of(7)));
        assert_eq!((stages.barrier, stages.read, stages.delete), (None, None, None));
        assert!(stages.is_carried_out && stages.reached == after(12));

        // An earlier copy was carried out after a later one had been offered.
        let mut again = request_at(&log, begun);
        again.was_written(WriteMoments { offered: after(9), logged: after(5), executed: after(12) });
        let stages = again.stages;
        assert_eq!((stages.queue, stages.log, stages.apply), (of(9), of(0), of(3)));
    }

    #[test]
    fn a_read_that_found_no_room_waited_in_the_queue_and_was_read_twice() {
        let log = SlowLog::new(Duration::ZERO);
        let begun = Instant::now() - Duration::from_secs(3600);
        let after = |ms| begun + Duration::from_millis(ms);
        let mut read = request_at(&log, begun);
        read.was_read(ReadMoments { visible: after(1), begun: after(3), ended: after(7) });
        read.goes_on();
        assert!(!read.stages.is_carried_out, "what comes now is no making of the answer");
        read.has_room();
        let waited = read.stages.reached - after(7);
        let has_room = read.stages.reached;
        let later = |ms| has_room + Duration::from_millis(ms);
        read.was_read(ReadMoments { visible: has_room, begun: later(1), ended: later(9) });
        let stages = read.stages;
        let of = |ms| Some(Duration::from_millis(ms));
        assert_eq!((stages.barrier, stages.read, stages.log), (of(1), of(4 + 8), None));
        assert_eq!(stages.queue, Some(Duration::from_millis(2 + 1) + waited));
        assert!(stages.is_carried_out);
    }
}
