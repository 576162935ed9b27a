//! `--auto-compaction-mode`: the leader compacts by age or by number of revisions, at etcd's intervals.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use dqlited_store::command::{Compact, Kind};
use dqlited_store::{Command, CommandError, Revision};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::context::Context;
use crate::options::AutoCompaction;

/// Compactions by age are at most this far apart.
const PERIOD_MAX: Duration = Duration::from_secs(3600);
/// Revisions are noted so often in each such interval.
const NOTES_PER_PERIOD: u32 = 10;
/// Compactions by number are this far apart.
const REVISIONS_INTERVAL: Duration = Duration::from_secs(300);

/// What decides when and at which revision; time comes in as an argument.
#[derive(Debug)]
pub struct Compactor {
    mode: Mode,
    last: Revision,
}

#[derive(Debug)]
enum Mode {
    Age {
        /// Oldest first; the front one is as old as the retention once the window is full.
        notes: VecDeque<Revision>,
        notes_max: usize,
        /// Wait after a compaction; at first the whole retention.
        wait: Duration,
        wait_later: Duration,
        last_success: Instant,
    },
    Number {
        keep: i64,
    },
}

impl Compactor {
    /// `None` when nothing is to be compacted by itself.
    pub fn new(options: AutoCompaction, now: Instant) -> Option<Compactor> {
        let mode = match options {
            AutoCompaction::Off => return None,
            AutoCompaction::Periodic(retention) if retention.is_zero() => return None,
            AutoCompaction::Revisions(keep) if keep <= 0 => return None,
            AutoCompaction::Periodic(retention) => {
                let interval = note_interval(retention);
                Mode::Age {
                    notes: VecDeque::new(),
                    notes_max: (retention.as_nanos() / interval.as_nanos()) as usize + 1,
                    wait: retention,
                    wait_later: retention.min(PERIOD_MAX),
                    last_success: now,
                }
            }
            AutoCompaction::Revisions(keep) => Mode::Number { keep },
        };
        Some(Compactor { mode, last: Revision(0) })
    }

    /// The store's revision at the beginning of an interval.
    pub fn note(&mut self, revision: Revision) {
        if let Mode::Age { notes, notes_max, .. } = &mut self.mode {
            notes.push_back(revision);
            if notes.len() > *notes_max {
                notes.pop_front();
            }
        }
    }

    /// At the end of an interval: where to compact now, if at all.
    pub fn due(&mut self, now: Instant, revision: Revision) -> Option<Revision> {
        let target = match &self.mode {
            Mode::Age { notes, wait, last_success, .. } => {
                if now.duration_since(*last_success) < *wait {
                    return None;
                }
                *notes.front()?
            }
            Mode::Number { keep } => Revision(revision.0 - keep),
        };
        (target.0 > 0 && target != self.last).then_some(target)
    }

    /// It is compacted at `revision` (by us or by somebody else).
    pub fn succeeded(&mut self, now: Instant, revision: Revision) {
        self.last = revision;
        if let Mode::Age { wait, wait_later, last_success, .. } = &mut self.mode {
            *wait = *wait_later;
            *last_success = now;
        }
    }
}

fn note_interval(retention: Duration) -> Duration {
    (retention.min(PERIOD_MAX) / NOTES_PER_PERIOD).max(Duration::from_millis(1))
}

/// Compacts by itself until `stop` says so. Every member runs it, the leader acts.
pub async fn run(context: Context, mut stop: watch::Receiver<bool>) {
    let Some(mut compactor) = Compactor::new(context.options.auto_compaction, Instant::now()) else { return };
    let interval = match context.options.auto_compaction {
        AutoCompaction::Periodic(retention) => note_interval(retention),
        AutoCompaction::Off | AutoCompaction::Revisions(_) => REVISIONS_INTERVAL,
    };
    loop {
        compactor.note(context.node.revision());
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if !context.node.leadership().borrow().is_ready_leader {
            continue;
        }
        let Some(target) = compactor.due(Instant::now(), context.node.revision()) else { continue };
        let command = Command { kind: Some(Kind::Compact(Compact { revision: target.0 })) };
        match context.node.propose(command, context.deadline()).await.map(|proposed| proposed.result) {
            Ok(Ok(_)) => {
                info!(revision = target.0, "compacted by itself");
                compactor.succeeded(Instant::now(), target);
            }
            Ok(Err(CommandError::Compacted)) => compactor.succeeded(Instant::now(), target),
            // The next interval tries again.
            Ok(Err(error)) => warn!(revision = target.0, %error, "automatic compaction"),
            Err(error) => warn!(revision = target.0, %error, "automatic compaction"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes and asks at each interval; revision = minutes since the start. Answers (minute, target) pairs.
    fn compactions(mode: AutoCompaction, interval: Duration, minutes: u64) -> Vec<(u64, i64)> {
        let start = Instant::now();
        let mut compactor = Compactor::new(mode, start).expect("it is on");
        let mut done = Vec::new();
        let mut elapsed = Duration::ZERO;
        let minute = |elapsed: Duration| elapsed.as_secs() / 60;
        while minute(elapsed) < minutes {
            compactor.note(Revision(1 + minute(elapsed) as i64));
            elapsed += interval;
            let revision = Revision(1 + minute(elapsed) as i64);
            if let Some(target) = compactor.due(start + elapsed, revision) {
                done.push((minute(elapsed), target.0));
                compactor.succeeded(start + elapsed, target);
            }
        }
        done
    }

    #[test]
    fn by_age_it_waits_for_the_retention_then_compacts_every_hour_at_what_is_that_old() {
        let five_hours = Duration::from_secs(5 * 3600);
        let interval = note_interval(five_hours);
        assert_eq!(interval, Duration::from_secs(360));
        let done = compactions(AutoCompaction::Periodic(five_hours), interval, 8 * 60);
        assert_eq!(done, [(300, 1), (360, 55), (420, 115), (480, 175)]);
    }

    #[test]
    fn a_short_retention_is_also_the_interval() {
        let ten_minutes = Duration::from_secs(600);
        let interval = note_interval(ten_minutes);
        assert_eq!(interval, Duration::from_secs(60));
        let done = compactions(AutoCompaction::Periodic(ten_minutes), interval, 31);
        assert_eq!(done, [(10, 1), (20, 10), (30, 20)]);
    }

    #[test]
    fn by_number_so_many_revisions_are_kept() {
        let done = compactions(AutoCompaction::Revisions(7), REVISIONS_INTERVAL, 20);
        assert_eq!(done, [(10, 4), (15, 9), (20, 14)]);
    }

    #[test]
    fn nothing_is_compacted_when_it_is_off() {
        let now = Instant::now();
        assert!(Compactor::new(AutoCompaction::Off, now).is_none());
        assert!(Compactor::new(AutoCompaction::Periodic(Duration::ZERO), now).is_none());
        assert!(Compactor::new(AutoCompaction::Revisions(0), now).is_none());
    }
}
