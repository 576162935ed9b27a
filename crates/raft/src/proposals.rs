//! Proposals of this member: each gets an identity, is offered to the log until a leader takes it, and is answered when
//! the apply loop meets its identity (`docs/consistency.md`, rules W1 and W2).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use dqlited_store::{Applied, Command, CommandError, Identity, MemberId};
use openraft::error::ClientWriteError;
use tokio::sync::{Notify, oneshot};

use crate::codec;
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
    pub(crate) fn new(member: MemberId, boot: u64, limits: Limits) -> Proposals {
        Proposals {
            member,
            boot,
            limits,
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
                return Some((sequence, proposal.entry.clone()));
            }
        }
        None
    }

    /// The apply loop has executed and published these entries: whoever waits for one of them is answered. Called once
    /// a batch.
    pub(crate) fn applied(&self, batch: &[Applied]) {
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
                if let Some(waiter) = table.settle(identity.sequence) {
                    answers.push((place, waiter));
                }
            }
        }
        for (place, waiter) in answers {
            let applied = &batch[place];
            // Whoever waited may have gone.
            let _ = waiter.send(Ok(Proposed {
                log_id: applied.log_id,
                revision: applied.revision,
                result: applied.result.clone(),
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
                    answers.push((table.settle(sequence), ProposeError::NoLeader));
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

    /// Nobody will send this number again. Answers who waits for it, if it was unsettled.
    fn settle(&mut self, sequence: u64) -> Option<oneshot::Sender<Answer>> {
        let place = sequence.checked_sub(self.lowest_unsettled)?;
        let slot = self.slots.get_mut(place as usize)?;
        let Slot::Unsettled(proposal) = std::mem::replace(slot, Slot::Settled) else { return None };
        self.unsettled -= 1;
        self.unsettled_bytes -= proposal.entry.len();
        while let Some(Slot::Settled) = self.slots.front() {
            self.slots.pop_front();
            self.lowest_unsettled += 1;
        }
        proposal.waiter
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dqlited_store::command::{Kind, Noop};
    use dqlited_store::store::EntryBody;
    use dqlited_store::{LogId, Response, Revision};
    use openraft::error::ForwardToLeader;

    use super::*;

    const MEMBER: MemberId = MemberId(7);

    fn command() -> Command {
        Command { kind: Some(Kind::Noop(Noop {})) }
    }

    fn proposals(limits: Limits) -> Proposals {
        let proposals = Proposals::new(MEMBER, 3, limits);
        proposals.set_gate(Gate::Open);
        proposals
    }

    fn applied(sequence: u64, result: Result<Response, CommandError>) -> Applied {
        Applied {
            log_id: LogId { index: 100 + sequence, ..LogId::default() },
            identity: Some(Identity { member: MEMBER, boot: 3, sequence, lowest_unsettled: 1 }),
            result,
            revision: Revision(5),
            compact_revision: Revision(-1),
            events: Vec::new(),
        }
    }

    fn forward() -> ClientWriteError<TypeConfig> {
        ClientWriteError::ForwardToLeader(ForwardToLeader::empty())
    }

    fn discarded() -> ClientWriteError<TypeConfig> {
        ClientWriteError::LogEntryDiscarded(ForwardToLeader::empty())
    }

    fn identity_of(entry: Bytes) -> Identity {
        match codec::decode_body(entry).unwrap() {
            EntryBody::Command(identity, _) => identity,
            other => panic!("{other:?}"),
        }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn a_waiter_is_answered_by_the_first_copy_of_its_identity_and_by_no_other() {
        let proposals = proposals(Limits::default());
        let first = proposals.admit(&command(), later()).unwrap();
        let second = proposals.admit(&command(), later()).unwrap();
        assert_eq!((first.sequence, second.sequence), (1, 2));
        let mut other_boot = applied(2, Ok(Response::Done));
        other_boot.identity.as_mut().unwrap().boot = 2;
        proposals.applied(&[other_boot, applied(2, Err(CommandError::AlreadyApplied))]);
        assert_eq!(proposals.pending(), 2);
        proposals.applied(&[applied(1, Ok(Response::Done)), applied(1, Err(CommandError::AlreadyApplied))]);
        let answer = first.answer.await.unwrap().unwrap();
        assert_eq!((answer.log_id.index, answer.result), (101, Ok(Response::Done)));
        assert_eq!(proposals.pending(), 1);
    }

    #[tokio::test]
    async fn the_lowest_unsettled_number_goes_out_with_each_proposal() {
        let proposals = proposals(Limits::default());
        let admit = || {
            let admitted = proposals.admit(&command(), later()).unwrap();
            identity_of(admitted.entry.unwrap())
        };
        assert_eq!((admit().lowest_unsettled, admit().lowest_unsettled), (1, 1));
        proposals.applied(&[applied(2, Ok(Response::Done))]);
        assert_eq!(admit().lowest_unsettled, 1, "number 1 is still unsettled");
        proposals.applied(&[applied(1, Ok(Response::Done))]);
        let fourth = admit();
        assert_eq!((fourth.sequence, fourth.lowest_unsettled), (4, 3));
    }

    #[tokio::test]
    async fn full_queues_refuse_by_count_and_by_bytes() {
        let by_count = proposals(Limits { proposals_max: 2, ..Limits::default() });
        let admit = |proposals: &Proposals| proposals.admit(&command(), later()).map(|_| ());
        assert_eq!([admit(&by_count), admit(&by_count)], [Ok(()), Ok(())]);
        assert_eq!(admit(&by_count), Err(ProposeError::TooManyRequests));
        by_count.applied(&[applied(1, Ok(Response::Done))]);
        assert_eq!(admit(&by_count), Ok(()));
        let by_bytes = proposals(Limits { proposal_bytes_max: 50, ..Limits::default() });
        assert_eq!(admit(&by_bytes), Ok(()));
        assert_eq!(admit(&by_bytes), Err(ProposeError::TooManyRequests));
    }

    #[tokio::test]
    async fn a_refused_copy_is_offered_again_under_the_same_identity() {
        let proposals = proposals(Limits::default());
        let admitted = proposals.admit(&command(), later()).unwrap();
        let sent = admitted.entry.unwrap();
        proposals.set_gate(Gate::Closed);
        proposals.refused(admitted.sequence, &forward());
        assert_eq!(proposals.next_offer(), None, "it is held while nobody leads");
        proposals.set_gate(Gate::Open);
        assert_eq!(proposals.next_offer(), Some((1, sent)));
        assert_eq!(proposals.next_offer(), None);
    }

    #[tokio::test]
    async fn only_what_was_surely_not_appended_is_refused_as_not_proposed() {
        let proposals = proposals(Limits::default());
        let soon = Instant::now();
        let admit = || proposals.admit(&command(), soon).unwrap();
        let (refused, discarded_once, out) = (admit(), admit(), admit());
        proposals.refused(refused.sequence, &forward());
        proposals.refused(discarded_once.sequence, &discarded());
        proposals.next_offer().unwrap();
        proposals.refused(refused.sequence, &forward());
        proposals.next_offer().unwrap();
        proposals.refused(discarded_once.sequence, &forward());
        proposals.sweep(soon);
        assert_eq!(refused.answer.await.unwrap().unwrap_err(), ProposeError::NoLeader);
        assert_eq!(discarded_once.answer.await.unwrap().unwrap_err(), ProposeError::TimedOut);
        assert_eq!(out.answer.await.unwrap().unwrap_err(), ProposeError::TimedOut);
        assert_eq!(proposals.pending(), 2, "what may be in a log stays unsettled");
    }

    #[tokio::test]
    async fn a_stop_ends_all_waits_and_takes_nothing_more() {
        let proposals = proposals(Limits::default());
        let admitted = proposals.admit(&command(), later()).unwrap();
        proposals.stop();
        assert_eq!(admitted.answer.await.unwrap().unwrap_err(), ProposeError::Stopped);
        assert_eq!(proposals.admit(&command(), later()).err(), Some(ProposeError::Stopped));
    }
}
