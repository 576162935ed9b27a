//! Sends the calls to both servers and stops at the first difference that nobody wants.

use anyhow::{Result, bail};

use super::avoid;
use super::call::{Answer, Call, Target};
use super::coverage::Coverage;
use super::fixed;
use super::generate::Generator;
use super::listed::{self, Past, Seeing, Uses};

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
        past: Past::fresh(),
        uses: Uses::default(),
        outcome: Outcome { calls: 0, differences: Vec::new(), coverage: Coverage::default() },
    };
    let mut fixed = fixed::calls().into_iter();
    let mut generator = Generator::new(seed);
    let mut left = extent.requests;
    while state.outcome.differences.len() < extent.differences_max {
        let call = match fixed.next() {
            Some(call) => call,
            None if left == 0 => break,
            None => {
                left -= 1;
                generator.next(&state.past)
            }
        };
        state.compare(etcd, dqlited, call).await?;
    }
    state.outcome.coverage.note_uses(&state.uses);
    Ok(state.outcome)
}

/// What is different in two answers to one call and stands in no list.
pub fn difference(
    etcd: (&Seeing<'_>, &Reply),
    dqlited: (&Seeing<'_>, &Reply),
    uses: &mut Uses,
) -> Option<String> {
    let expected = listed::text(etcd.0, etcd.1, uses);
    let found = listed::text(dqlited.0, dqlited.1, uses);
    let call = etcd.0.call;
    (expected != found).then(|| {
        format!(
            "{}\n  request: {}\n  etcd:    {}\n  dqlited: {}",
            call.method(),
            shortened(&format!("{call:?}")),
            shortened(&only_in(&expected, &found)),
            shortened(&only_in(&found, &expected)),
        )
    })
}

/// What a call came back with.
pub type Reply = Result<Answer, tonic::Status>;

struct State {
    past: Past,
    uses: Uses,
    outcome: Outcome,
}

impl State {
    async fn compare(&mut self, etcd: &Target, dqlited: &Target, call: Call) -> Result<()> {
        let call = &listed::askable(call, &self.past, &mut self.uses);
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
        let seeing = |target: &Target| Seeing { call, self_id: target.member_id };
        let found = difference((&seeing(etcd), &theirs), (&seeing(dqlited), &ours), &mut self.uses);
        if let Some(found) = found {
            self.outcome.differences.push(format!("call {}: {found}", self.outcome.calls));
        }
        Ok(())
    }

    /// The state after the call, from etcd's answer.
    fn learn(&mut self, call: &Call, answer: &Reply) {
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
            self.past.revision = self.past.revision.max(header.revision);
        }
        match (call, answer) {
            (Call::Compact(request), Answer::Compact(_)) => {
                self.past.compacted = request.revision;
                self.past.compacted_at.push(request.revision);
            }
            (Call::Txn(txn), Answer::Txn(_)) if avoid::has_delete_from_key(txn) => {
                self.past.remade.push(self.past.revision);
            }
            (Call::AlarmOfSelf(1, _), _) => self.past.alarm = true,
            (Call::Alarm(request), _) if request.action == 1 => self.past.alarm = true,
            (Call::Alarm(request), Answer::Alarm(a)) if request.action == 0 && request.alarm == 0 => {
                self.past.alarm = !a.alarms.is_empty();
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
