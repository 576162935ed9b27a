//! The lease table as it follows a log of grants and revokes.

use super::*;

fn log_id(index: u64) -> LogId {
    LogId { index, ..LogId::default() }
}

fn batch(first: u64, responses: Vec<Response>) -> Arc<Vec<Applied>> {
    let applied = |(index, response)| Applied {
        log_id: log_id(index),
        identity: None,
        result: Ok(response),
        revision: Revision(1),
        compact_revision: Revision(-1),
        events: Vec::new(),
    };
    Arc::new((first..).zip(responses).map(applied).collect())
}

fn grant(id: i64) -> Response {
    Response::LeaseGrant { id, ttl: 10 }
}

fn revoke(id: i64) -> Response {
    Response::LeaseRevoke { id }
}

fn record(id: i64) -> LeaseRecord {
    LeaseRecord { id: LeaseId(id), ttl: 10 }
}

const LEADER: Leader = Leader { term: 3, node: 7 };

#[test]
fn what_is_applied_while_the_leases_are_read_is_neither_lost_nor_done_twice() {
    let table = LeaseTable::new();
    table.started(log_id(5), Revision(1), Revision(-1));
    let order = table.load_order().expect("it must be loaded");
    assert_eq!(order.log_id, log_id(5));
    table.applied(&batch(6, vec![grant(1), revoke(2), grant(3), revoke(3)]));
    assert_eq!(table.holds(log_id(5)), Answer::Later, "not before it is loaded");
    // The view holds entry 7 already: 1 is in it and 2 is gone.
    table.load(order, log_id(7), &[record(1), record(4)], Instant::now());
    assert_eq!(table.holds(log_id(9)), Answer::Now(()));
    assert_eq!(table.ids(), [LeaseId(1), LeaseId(4)]);
    table.applied(&batch(10, vec![revoke(4), grant(5)]));
    assert_eq!(table.ids(), [LeaseId(1), LeaseId(5)]);
    assert_eq!(table.holds(log_id(12)), Answer::Later);
}

#[test]
fn a_read_that_a_later_start_has_overtaken_is_not_taken_in() {
    let table = LeaseTable::new();
    table.started(log_id(5), Revision(1), Revision(-1));
    let overtaken = table.load_order().unwrap();
    table.started(log_id(50), Revision(1), Revision(-1));
    table.load(overtaken, log_id(5), &[record(1)], Instant::now());
    let order = table.load_order().expect("still to be loaded");
    table.load(order, log_id(50), &[record(2)], Instant::now());
    assert_eq!(table.ids(), [LeaseId(2)]);
}

#[test]
fn a_revoke_lost_under_an_earlier_leader_is_not_proposed_under_a_later_one() {
    let now = Instant::now();
    let table = LeaseTable::new();
    table.applied(&batch(1, vec![grant(1)]));
    table.lead(LEADER, now, Duration::ZERO);
    let over = now + Duration::from_secs(10);
    assert_eq!(table.take_due(over, 10), Some((LEADER, vec![LeaseId(1)])));
    table.follow();
    assert_eq!(table.take_due(over, 10), None);
    let next = Leader { term: 5, ..LEADER };
    table.lead(next, over, Duration::ZERO);
    table.lost(LEADER, LeaseId(1), over);
    assert!(!table.leads_as(LEADER));
    assert_eq!(table.take_due(over, 10), Some((next, vec![])), "it has its full TTL again");
    assert_eq!(table.take_due(over + Duration::from_secs(10), 10), Some((next, vec![LeaseId(1)])));
}

#[test]
fn hearing_again_of_the_same_leadership_gives_no_lease_more_time() {
    let now = Instant::now();
    let table = LeaseTable::new();
    table.applied(&batch(1, vec![grant(1)]));
    table.lead(LEADER, now, Duration::ZERO);
    table.lead(LEADER, now + Duration::from_secs(5), Duration::ZERO);
    assert_eq!(table.take_due(now + Duration::from_secs(10), 10), Some((LEADER, vec![LeaseId(1)])));
}

#[tokio::test]
async fn who_waits_for_a_lease_to_be_gone_is_woken_by_its_revoke() {
    let table = LeaseTable::new();
    table.applied(&batch(1, vec![grant(1)]));
    let waiting = tokio::spawn({
        let table = table.clone();
        async move { table.wait(|table| table.is_gone(LeaseId(1))).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    table.applied(&batch(2, vec![revoke(1)]));
    assert_eq!(waiting.await.unwrap(), Some(()));
}
