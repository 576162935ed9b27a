//! An entry of the two lists of what the run does not hold against dqlited: what it is, why, and how the run does it.

use std::collections::BTreeMap;

use super::call::{Answer, Call};
use super::normalise;

/// An entry of `masked.rs` or of `wanted.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// What differs, or what is not asked.
    pub what: &'static str,
    /// Why that must not turn a run red.
    pub reason: &'static str,
    /// Who asks for it.
    pub asked_for_by: AskedForBy,
    /// How its line begins in `docs/etcd-api.md` under "Differences that are wanted".
    pub documented: Option<&'static str>,
    /// What the run does.
    pub how: How,
}

/// Where a wanted difference comes from.
#[derive(Clone, Copy, Debug)]
pub enum AskedForBy {
    /// Two servers cannot agree on it, whatever they are.
    Nature,
    /// The line of the notes on etcd's API, that this project was made from, which asks for it.
    Note(&'static str),
    /// No line of the notes: a run has found what etcd does there.
    Run,
}

/// What the run does for an entry.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// Takes it out of both answers.
    TakenOut(fn(&Seeing<'_>, &mut Answer)),
    /// Asks something else in its place, of both: true when it has changed the call.
    NotAsked(fn(&Past, &mut Call) -> bool),
    /// The same, since etcd's process would end.
    EndsEtcd(fn(&Past, &mut Call) -> bool),
    /// No call of a run meets it; this test holds what dqlited does.
    Elsewhere(&'static str),
}

/// What a mask may look at besides the answer.
#[derive(Clone, Copy, Debug)]
pub struct Seeing<'a> {
    /// The call that was answered.
    pub call: &'a Call,
    /// The member id of the server that answers.
    pub self_id: u64,
}

/// What both servers have gone through, from etcd's answers.
#[derive(Clone, Debug)]
pub struct Past {
    /// Revision of the last answer.
    pub revision: i64,
    /// The last compaction that succeeded, -1 for none.
    pub compacted: i64,
    /// All of them.
    pub compacted_at: Vec<i64>,
    /// Revisions of transactions that may have taken a key by a delete-from-key and made it again.
    pub remade: Vec<i64>,
    /// An alarm is up.
    pub alarm: bool,
}

impl Past {
    /// Of a fresh store.
    pub fn fresh() -> Past {
        Past { revision: 1, compacted: -1, compacted_at: Vec::new(), remade: Vec::new(), alarm: false }
    }
}

/// How often each entry had something to do.
#[derive(Clone, Debug, Default)]
pub struct Uses(BTreeMap<String, u64>);

impl Uses {
    fn note(&mut self, entry: &Listed) {
        *self.0.entry(entry.row()).or_default() += 1;
    }

    /// The rows, with how often.
    pub fn rows(&self) -> impl Iterator<Item = (&String, u64)> {
        self.0.iter().map(|(row, times)| (row, *times))
    }
}

impl Listed {
    /// The row of the coverage.
    pub fn row(&self) -> String {
        let how = match self.how {
            How::TakenOut(_) => "taken out of the answers",
            How::NotAsked(_) => "not asked",
            How::EndsEtcd(_) => "not asked, it would end etcd",
            How::Elsewhere(_) => "no call meets it",
        };
        format!("listed, {how}: {}", self.what)
    }

    /// Whether a run must come across it.
    pub fn is_met(&self) -> bool {
        !matches!(self.how, How::Elsewhere(_))
    }
}

/// The entries of both lists, in the order in which they are applied.
pub fn entries() -> impl Iterator<Item = &'static Listed> {
    super::masked::MASKED.iter().chain(super::wanted::WANTED)
}

/// The call in the form in which it may be sent to both.
pub fn askable(mut call: Call, past: &Past, uses: &mut Uses) -> Call {
    for entry in entries() {
        if let How::NotAsked(change) | How::EndsEtcd(change) = entry.how
            && change(past, &mut call)
        {
            uses.note(entry);
        }
    }
    call
}

/// The comparable text of an answer: nothing but the entries changes it before it is text.
pub fn text(seeing: &Seeing<'_>, answer: &Result<Answer, tonic::Status>, uses: &mut Uses) -> String {
    let mut answer = match answer {
        Ok(answer) => answer.clone(),
        Err(status) => return format!("{:?}: {}", status.code(), status.message()),
    };
    for entry in entries() {
        if let How::TakenOut(take) = entry.how {
            let before = answer.clone();
            take(seeing, &mut answer);
            if answer != before {
                uses.note(entry);
            }
        }
    }
    normalise::written(&answer)
}
