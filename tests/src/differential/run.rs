//! Sends the calls to both servers and stops at the first difference that nobody wants.

use anyhow::{Result, bail};

use super::call::{Answer, Call, Target};
use super::coverage::Coverage;
use super::fixed;
use super::generate::{Generator, Known};
use super::normalise::{self, Past};

/// What a run did.
#[derive(Debug)]
pub struct Outcome {
    /// Calls sent to each server.
    pub calls: u64,
    /// Differences, each with the call and both answers.
    pub differences: Vec<String>,
    /// What was hit.
    pub coverage: Coverage,
}

/// How long and how far a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Calls after the fixed ones.
    pub requests: u64,
    /// Differences that are shown before a run gives up: after the first the stores may have parted.
    pub differences_max: usize,
}

/// Runs the fixed calls and then those of the seed.
pub async fn run(etcd: &Target, dqlited: &Target, seed: u64, extent: Extent) -> Result<Outcome> {
    let mut state = State {
        known: Known { revision: 1, compacted: -1, alarm: false },
        past: Past::default(),
        outcome: Outcome { calls: 0, differences: Vec::new(), coverage: Coverage::default() },
    };
    for call in fixed::calls() {
        state.compare(etcd, dqlited, &call).await?;
        if state.outcome.differences.len() >= extent.differences_max {
            return Ok(state.outcome);
        }
    }
    let mut generator = Generator::new(seed);
    for _ in 0..extent.requests {
        let call = generator.next(state.known);
        state.compare(etcd, dqlited, &call).await?;
        if state.outcome.differences.len() >= extent.differences_max {
            break;
        }
    }
    Ok(state.outcome)
}

struct State {
    known: Known,
    past: Past,
    outcome: Outcome,
}

impl State {
    async fn compare(&mut self, etcd: &Target, dqlited: &Target, call: &Call) -> Result<()> {
        let (theirs, ours) = tokio::join!(etcd.send(call), dqlited.send(call));
        // An answer from a server has no source; a broken connection has.
        if let Err(status) = &theirs
            && std::error::Error::source(status).is_some()
        {
            bail!("call {}: etcd is gone: {status:?} after {call:?}", self.outcome.calls);
        }
        self.outcome.calls += 1;
        self.outcome.coverage.note(call, &theirs);
        self.learn(call, &theirs);
        let expected = normalise::text(call, &theirs, &self.past, etcd.member_id);
        let found = normalise::text(call, &ours, &self.past, dqlited.member_id);
        if expected != found {
            self.outcome.differences.push(format!(
                "call {}: {}\n  request: {}\n  etcd:    {}\n  dqlited: {}",
                self.outcome.calls,
                call.method(),
                shortened(&format!("{call:?}")),
                shortened(&only_in(&expected, &found)),
                shortened(&only_in(&found, &expected)),
            ));
        }
        Ok(())
    }

    /// The state after the call, from etcd's answer.
    fn learn(&mut self, call: &Call, answer: &Result<Answer, tonic::Status>) {
        let Ok(answer) = answer else { return };
        let header = match answer {
            Answer::Range(a) => &a.header,
            Answer::Put(a) => &a.header,
            Answer::DeleteRange(a) => &a.header,
            Answer::Txn(a) => &a.header,
            Answer::Compact(a) => &a.header,
            Answer::LeaseRevoke(a) => &a.header,
            Answer::Status(a) => &a.header,
            Answer::Lock(a) => &a.header,
            Answer::Campaign(a) => &a.header,
            _ => &None,
        };
        if let Some(header) = header {
            self.known.revision = self.known.revision.max(header.revision);
        }
        match (call, answer) {
            (Call::Compact(request), Answer::Compact(_)) => {
                self.known.compacted = request.revision;
                self.past.compacted_at.push(request.revision);
            }
            (Call::AlarmOfSelf(1, _), _) => self.known.alarm = true,
            (Call::Alarm(request), _) if request.action == 1 => self.known.alarm = true,
            (Call::Alarm(request), Answer::Alarm(a)) if request.action == 0 && request.alarm == 0 => {
                self.known.alarm = !a.alarms.is_empty();
            }
            _ => {}
        }
    }
}

/// The lines of the first text that the second lacks; of one line the whole.
fn only_in(text: &str, other: &str) -> String {
    if !text.contains('\n') {
        return text.into();
    }
    let others: std::collections::BTreeSet<&str> = other.lines().collect();
    let lines: Vec<_> = text.lines().filter(|line| !others.contains(line)).collect();
    if lines.is_empty() { "the same lines in another order, or fewer".into() } else { lines.join("\n") }
}

/// Long values say nothing to a reader.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 1200;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{} … ({} bytes)", &text[..end], text.len()),
        None => text.into(),
    }
}
