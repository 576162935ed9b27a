//! Proposals of this member: each gets an identity, is offered to the log until a leader takes it, and is answered when
//! the apply loop meets its identity (`docs/consistency.md`, rules W1 and W2).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use dqlited_store::{Applied, Command, CommandError, Identity, MemberId};
use openraft::error::ClientWriteError;
use tokio::sync::{Notify, oneshot};

use crate::codec;
use crate::environment::Clock;
use crate::moments::WriteMoments;
use crate::node::{ProposeError, Proposed};
use crate::options::Limits;
use crate::type_config::TypeConfig;

/// How far the newest proposal may be ahead of the oldest unsettled one: bounds the table of settled identities that
/// every member keeps, should one proposal stay without an answer for long.
const UNSETTLED_SPAN_MAX: usize = 100_000;

/// The number of the proposal that registers a boot.
const FIRST_SEQUENCE: u64 = 1;

type Answer = Result<Proposed, ProposeError>;

/// Counts what became of proposals.
#[derive(Debug, Default)]
pub(crate) struct ProposalCounters {
    /// Applied here, whoever proposed them.
    pub applied: AtomicU64,
    /// Ended without an answer.
    pub failed: AtomicU64,
}

/// The member's proposals.
pub(crate) struct Proposals {
    member: MemberId,
    boot: u64,
    limits: Limits,
    clock: Arc<dyn Clock>,
    table: Mutex<Table>,
    /// Raised when something waits to be offered again.
    offers: Notify,
    pub(crate) counters: ProposalCounters,
}

#[derive(Default)]
struct Table {
    /// Sequence of the first slot; everything below is settled.
    lowest_unsettled: u64,
    slots: VecDeque<Slot>,
    /// Sequences that wait to be offered to a leader, oldest first.
    to_offer: VecDeque<u64>,
    /// Unsettled slots and their bytes.
    unsettled: usize,
    unsettled_bytes: usize,
    gate: Gate,
    is_stopped: bool,
}

/// What may be offered to the log now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Nothing: this member does not lead.
    #[default]
    Closed,
    /// Only the entry that registers this boot.
    FirstOnly,
    /// Everything.
    Open,
}

impl Gate {
    fn lets_through(self, sequence: u64) -> bool {
        match self {
            Gate::Closed => false,
            Gate::FirstOnly => sequence == FIRST_SEQUENCE,
            Gate::Open => true,
        }
    }
}

enum Slot {
    Unsettled(Unsettled),
    Settled,
}

struct Unsettled {
    entry: Bytes,
    deadline: Instant,
    waiter: Option<oneshot::Sender<Answer>>,
    /// A copy is on its way to the log of this member.
    is_out: bool,
    /// When the last copy went out.
    offered_at: Option<Instant>,
    /// An earlier copy was taken and its fate is unknown: from here on only applying the entry settles it.
    may_be_in_a_log: bool,
}

impl Unsettled {
    fn is_surely_not_proposed(&self) -> bool {
        !self.is_out && !self.may_be_in_a_log
    }
}

/// What `admit` says about a new proposal.
pub(crate) struct Admitted {
    /// Its sequence.
    pub sequence: u64,
    /// Its entry, to be offered now; `None` when it waits for a leader.
    pub entry: Option<Bytes>,
    /// Its answer.
    pub answer: oneshot::Receiver<Answer>,
}

impl Proposals {
    pub(crate) fn new(member: MemberId, boot: u64, limits: Limits, clock: Arc<dyn Clock>) -> Proposals {
        Proposals {
            member,
            boot,
            limits,
            clock,
            table: Mutex::new(Table { lowest_unsettled: FIRST_SEQUENCE, ..Table::default() }),
            offers: Notify::new(),
            counters: ProposalCounters::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder of this lock panics")
    }

    /// Takes a command in, gives it its identity and a place among the unsettled ones.
    pub(crate) fn admit(&self, command: &Command, deadline: Instant) -> Result<Admitted, ProposeError> {
        let mut entry = codec::encode_command(command).map_err(|codec::TooDeep| ProposeError::TooDeep)?;
        let (waiter, answer) = oneshot::channel();
        let mut table = self.lock();
        if table.is_stopped {
            return Err(ProposeError::Stopped);
        }
        if table.unsettled >= self.limits.proposals_max
            || table.unsettled_bytes + entry.len() > self.limits.proposal_bytes_max
            || table.slots.len() >= UNSETTLED_SPAN_MAX
        {
            return Err(ProposeError::TooManyRequests);
        }
        let sequence = table.lowest_unsettled + table.slots.len() as u64;
        codec::stamp(
            &mut entry,
            Identity {
                member: self.member,
                boot: self.boot,
                sequence,
                lowest_unsettled: table.lowest_unsettled,
            },
        );
        let entry = entry.freeze();
        let goes_out = table.gate.lets_through(sequence);
        table.unsettled += 1;
        table.unsettled_bytes += entry.len();
        table.slots.push_back(Slot::Unsettled(Unsettled {
            entry: entry.clone(),
            deadline,
            waiter: Some(waiter),
            is_out: goes_out,
            offered_at: goes_out.then(|| self.clock.now()),
            may_be_in_a_log: false,
        }));
        if !goes_out {
            table.to_offer.push_back(sequence);
        }
        Ok(Admitted { sequence, entry: goes_out.then_some(entry), answer })
    }

    /// The proposal never left this member: whoever proposed it went away before it was handed to the consensus.
    pub(crate) fn withdraw(&self, sequence: u64) {
        self.lock().settle(sequence);
    }

    /// openraft refused a copy, which is offered again under the same identity. Only `ForwardToLeader` says that this
    /// copy was surely not appended.
    pub(crate) fn refused(&self, sequence: u64, error: &ClientWriteError<TypeConfig>) {
        let surely_not_appended = matches!(error, ClientWriteError::ForwardToLeader(_));
        let mut table = self.lock();
        if let Some(proposal) = table.unsettled_mut(sequence) {
            proposal.is_out = false;
            proposal.may_be_in_a_log |= !surely_not_appended;
            table.to_offer.push_back(sequence);
            drop(table);
            self.offers.notify_one();
        }
    }

    /// This member lost its leadership between taking the proposal in and offering it.
    pub(crate) fn not_offered(&self, sequence: u64) {
        let mut table = self.lock();
        if let Some(proposal) = table.unsettled_mut(sequence) {
            proposal.is_out = false;
            table.to_offer.push_front(sequence);
        }
    }

    /// What may be offered from now on; what waits for it is offered.
    pub(crate) fn set_gate(&self, gate: Gate) {
        self.lock().gate = gate;
        if gate != Gate::Closed {
            self.offers.notify_one();
        }
    }

    /// Waits until something is to be offered again.
    pub(crate) async fn offers_wait(&self) {
        self.offers.notified().await;
    }

    /// The next proposal to be offered again, if this member may do so.
    pub(crate) fn next_offer(&self) -> Option<(u64, Bytes)> {
        let mut table = self.lock();
        while let Some(&sequence) = table.to_offer.front() {
            if !table.gate.lets_through(sequence) {
                return None;
            }
            table.to_offer.pop_front();
            if let Some(proposal) = table.unsettled_mut(sequence) {
                proposal.is_out = true;
                proposal.offered_at = Some(self.clock.now());
                return Some((sequence, proposal.entry.clone()));
            }
        }
        None
    }

    /// The apply loop has executed and published these entries: whoever waits for one of them is answered. Called once
    /// a batch, with the moment of each entry's commit and that of the batch's execution.
    pub(crate) fn applied(&self, batch: &[Applied], logged: &[Instant], executed: Instant) {
        self.counters.applied.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let mut answers = Vec::with_capacity(batch.len());
        {
            let mut table = self.lock();
            for (place, applied) in batch.iter().enumerate() {
                let Some(identity) = applied.identity else { continue };
                if identity.member != self.member || identity.boot != self.boot {
                    continue;
                }
                if applied.result == Err(CommandError::AlreadyApplied) {
                    // The first copy has answered.
                    continue;
                }
                if let Some(proposal) = table.settle(identity.sequence)
                    && let Some(waiter) = proposal.waiter
                {
                    answers.push((place, proposal.offered_at, waiter));
                }
            }
        }
        for (place, offered_at, waiter) in answers {
            let (applied, logged) = (&batch[place], logged[place]);
            let offered = offered_at.unwrap_or(logged);
            // Whoever waited may have gone.
            let _ = waiter.send(Ok(Proposed {
                log_id: applied.log_id,
                revision: applied.revision,
                result: applied.result.clone(),
                moments: WriteMoments { offered, logged, executed },
            }));
        }
    }

    /// Ends the waits whose deadline has passed. What may stand in a log stays unsettled until it is met.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut answers = Vec::new();
        {
            let mut table = self.lock();
            let first = table.lowest_unsettled;
            let late: Vec<u64> = table
                .slots
                .iter()
                .enumerate()
                .filter_map(|(place, slot)| match slot {
                    Slot::Unsettled(proposal) if proposal.deadline <= now && proposal.waiter.is_some() => {
                        Some(first + place as u64)
                    }
                    _ => None,
                })
                .collect();
            for sequence in late {
                let Some(proposal) = table.unsettled_mut(sequence) else { continue };
                if proposal.is_surely_not_proposed() {
                    answers.push((
                        table.settle(sequence).and_then(|proposal| proposal.waiter),
                        ProposeError::NoLeader,
                    ));
                } else {
                    answers.push((proposal.waiter.take(), ProposeError::TimedOut));
                }
            }
        }
        for (waiter, error) in answers {
            self.counters.failed.fetch_add(1, Ordering::Relaxed);
            if let Some(waiter) = waiter {
                let _ = waiter.send(Err(error));
            }
        }
    }

    /// Takes nothing more in.
    pub(crate) fn refuse_new(&self) {
        self.lock().is_stopped = true;
    }

    /// Takes nothing more in and ends all waits: what is in flight stays unknown.
    pub(crate) fn stop(&self) {
        let waiters: Vec<_> = {
            let mut table = self.lock();
            table.is_stopped = true;
            let waiter = |slot: &mut Slot| match slot {
                Slot::Unsettled(proposal) => proposal.waiter.take(),
                Slot::Settled => None,
            };
            table.slots.iter_mut().filter_map(waiter).collect()
        };
        for waiter in waiters {
            let _ = waiter.send(Err(ProposeError::Stopped));
        }
    }

    /// Proposals that somebody waits for or that may still be carried out.
    pub(crate) fn pending(&self) -> usize {
        self.lock().unsettled
    }
}

impl Table {
    fn unsettled_mut(&mut self, sequence: u64) -> Option<&mut Unsettled> {
        let place = sequence.checked_sub(self.lowest_unsettled)?;
        match self.slots.get_mut(place as usize)? {
            Slot::Unsettled(proposal) => Some(proposal),
            Slot::Settled => None,
        }
    }

    /// Nobody will send this number again. Answers what it was, if it was unsettled.
    fn settle(&mut self, sequence: u64) -> Option<Unsettled> {
        let place = sequence.checked_sub(self.lowest_unsettled)?;
        let slot = self.slots.get_mut(place as usize)?;
        let Slot::Unsettled(proposal) = std::mem::replace(slot, Slot::Settled) else { return None };
        self.unsettled -= 1;
        self.unsettled_bytes -= proposal.entry.len();
        while let Some(Slot::Settled) = self.slots.front() {
            self.slots.pop_front();
            self.lowest_unsettled += 1;
        }
        Some(proposal)
    }
}

#[cfg(test)]
mod tests;
