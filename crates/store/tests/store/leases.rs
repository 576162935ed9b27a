//! Leases and the keys attached to them.

use dqlited_store::command::{Kind, Leader, LeaseRevoke, Put};
use dqlited_store::read::LeaseRecord;
use dqlited_store::{CommandError, EventKind, LeaseId, Response};

use crate::bed::*;

fn lease_keys(bed: &mut Bed, id: i64) -> Vec<String> {
    let keys = bed.view(|view| view.lease_keys(LeaseId(id))).expect("keys");
    keys.iter().map(|key| text(key)).collect()
}

#[test]
fn a_grant_is_there_once_and_survives_a_restart() {
    let mut bed = Bed::new();
    assert_eq!(bed.run(grant(-3, 60)), Ok(Response::LeaseGrant { id: -3, ttl: 60 }));
    assert_eq!(bed.run(grant(-3, 10)), Err(CommandError::LeaseExists));
    let mut bed = bed.reopen();
    let record = LeaseRecord { id: LeaseId(-3), ttl: 60 };
    assert_eq!(bed.view(|view| view.leases()).expect("leases"), [record]);
    assert_eq!(bed.view(|view| view.lease(LeaseId(-3))).expect("a lease"), Some(record));
    assert_eq!(bed.view(|view| view.lease(LeaseId(4))).expect("no lease"), None);
    assert_eq!(bed.run(revoke(4)), Err(CommandError::LeaseNotFound));
}

#[test]
fn keys_move_between_leases_and_lease_0_detaches() {
    let mut bed = Bed::new();
    bed.run(grant(1, 60)).expect("granted");
    bed.run(grant(2, 60)).expect("granted");
    for key in ["b", "a"] {
        bed.run(Kind::Put(Put { lease: 1, ..put_of(key, "v") })).expect("put");
    }
    assert_eq!(lease_keys(&mut bed, 1), ["a", "b"]);
    bed.run(Kind::Put(Put { lease: 2, ..put_of("a", "v") })).expect("put");
    assert_eq!((lease_keys(&mut bed, 1), lease_keys(&mut bed, 2)), (vec!["b".into()], vec!["a".into()]));
    bed.run(Kind::Put(Put { ignore_lease: true, ..put_of("a", "w") })).expect("put");
    assert_eq!(lease_keys(&mut bed, 2), ["a"], "trap 17");
    bed.put("a", "w");
    assert!(lease_keys(&mut bed, 2).is_empty(), "trap 17");
    bed.delete("b", "");
    assert!(lease_keys(&mut bed, 1).is_empty());
    bed.put("b", "again");
    assert_eq!(bed.run_applied(revoke(1)).events, []);
    assert!(bed.get("b").is_some(), "put again without the lease");
}

#[test]
fn revoke_deletes_in_key_order_in_one_revision() {
    let mut bed = Bed::new();
    bed.run(grant(1, 60)).expect("granted");
    for key in ["c", "a", "b"] {
        bed.run(Kind::Put(Put { lease: 1, ..put_of(key, "v") })).expect("put");
    }
    let applied = bed.run_applied(revoke(1));
    let expected: Vec<_> = ["a", "b", "c"].map(|key| (key.to_owned(), EventKind::Delete, 5)).into();
    assert_eq!(kinds(&applied.events), expected, "trap 21");
    assert_eq!(bed.run(put_with_lease("a", 1)), Err(CommandError::LeaseNotFound));
}

fn put_with_lease(key: &str, lease: i64) -> Kind {
    Kind::Put(Put { lease, ..put_of(key, "v") })
}

#[test]
pub fn an_expiry_counts_only_under_the_leader_that_proposed_it() {
    let mut bed = Bed::new();
    bed.run(grant(1, 60)).expect("granted");
    bed.run(put_with_lease("a", 1)).expect("put");
    let expiry =
        |term, node| Kind::LeaseRevoke(LeaseRevoke { id: 1, expired_under: Some(Leader { term, node }) });
    assert_eq!(bed.run(expiry(LEADER.term - 1, LEADER.node.0)), Err(CommandError::StaleExpiry));
    assert_eq!(bed.run(expiry(LEADER.term, LEADER.node.0 + 1)), Err(CommandError::StaleExpiry));
    assert!(bed.get("a").is_some());
    assert_eq!(bed.run(expiry(LEADER.term, LEADER.node.0)), Ok(Response::LeaseRevoke { id: 1 }));
    assert!(bed.get("a").is_none());
}
