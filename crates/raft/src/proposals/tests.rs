//! Proposals by themselves: what is offered when, and who is answered.

use std::time::Duration;

use dqlited_store::command::{Kind, Noop};
use dqlited_store::store::EntryBody;
use dqlited_store::{LogId, Response, Revision};
use openraft::error::ForwardToLeader;

use super::*;
use crate::environment::SystemClock;
use crate::tests::HandClock;

const MEMBER: MemberId = MemberId(7);

fn command() -> Command {
    Command { kind: Some(Kind::Noop(Noop {})) }
}

fn proposals(limits: Limits) -> Proposals {
    let proposals = Proposals::new(MEMBER, 3, limits, Arc::new(SystemClock));
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

fn tell(proposals: &Proposals, batch: &[Applied]) {
    let now = Instant::now();
    proposals.applied(batch, &vec![now; batch.len()], now);
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
    tell(&proposals, &[other_boot, applied(2, Err(CommandError::AlreadyApplied))]);
    assert_eq!(proposals.pending(), 2);
    tell(&proposals, &[applied(1, Ok(Response::Done)), applied(1, Err(CommandError::AlreadyApplied))]);
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
    tell(&proposals, &[applied(2, Ok(Response::Done))]);
    assert_eq!(admit().lowest_unsettled, 1, "number 1 is still unsettled");
    tell(&proposals, &[applied(1, Ok(Response::Done))]);
    let fourth = admit();
    assert_eq!((fourth.sequence, fourth.lowest_unsettled), (4, 3));
}

#[tokio::test]
async fn full_queues_refuse_by_count_and_by_bytes() {
    let by_count = proposals(Limits { proposals_max: 2, ..Limits::default() });
    let admit = |proposals: &Proposals| proposals.admit(&command(), later()).map(|_| ());
    assert_eq!([admit(&by_count), admit(&by_count)], [Ok(()), Ok(())]);
    assert_eq!(admit(&by_count), Err(ProposeError::TooManyRequests));
    tell(&by_count, &[applied(1, Ok(Response::Done))]);
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

#[tokio::test]
async fn a_proposal_that_waited_for_a_leader_was_in_the_queue_until_it_went_out() {
    let clock = HandClock::new();
    let proposals = Proposals::new(MEMBER, 3, Limits::default(), clock.clone());
    let waits = proposals.admit(&command(), later()).unwrap();
    clock.pass(Duration::from_secs(3));
    proposals.set_gate(Gate::Open);
    let goes_out = proposals.admit(&command(), later()).unwrap();
    clock.pass(Duration::from_secs(4));
    assert_eq!(proposals.next_offer().map(|offer| offer.0), Some(waits.sequence));
    let (logged, executed) = (clock.pass(Duration::from_secs(5)), clock.pass(Duration::from_secs(6)));
    let batch = [waits.sequence, goes_out.sequence].map(|sequence| applied(sequence, Ok(Response::Done)));
    proposals.applied(&batch, &[logged, logged], executed);
    let before = |seconds| logged - Duration::from_secs(seconds);
    let moments = |offered| WriteMoments { offered, logged, executed };
    assert_eq!(waits.answer.await.unwrap().unwrap().moments, moments(before(5)));
    assert_eq!(goes_out.answer.await.unwrap().unwrap().moments, moments(before(9)));
}
