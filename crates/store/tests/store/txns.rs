//! Transactions: compares, branches, order and the revisions in their answers.

use dqlited_store::command::{Compare, Kind, OpKind, Put, RangeQuery, Txn};
use dqlited_store::event::Previous;
use dqlited_store::response::OpResponse;
use dqlited_store::{CommandError, EventKind, Revision};

use crate::bed::*;

fn compare(key: &str, range_end: &str, result: i32, target: i32, number: i64) -> Compare {
    Compare { result, target, key: bytes(key), range_end: bytes(range_end), number, ..Compare::default() }
}

fn holds(bed: &mut Bed, compare: Compare) -> bool {
    bed.txn(Txn { compare: vec![compare], ..Txn::default() }).expect("a txn").succeeded
}

fn put_op(key: &str, value: &str) -> dqlited_store::command::Op {
    op(OpKind::Put(put_of(key, value)))
}

#[test]
fn a_missing_key_compares_as_zero_and_never_by_value() {
    let mut bed = Bed::new();
    for target in [0, 1, 2, 4] {
        assert!(holds(&mut bed, compare("a", "", 0, target, 0)));
        assert!(holds(&mut bed, compare("a", "", 2, target, 5)));
        assert!(!holds(&mut bed, compare("a", "", 1, target, 0)));
    }
    for result in 0..4 {
        assert!(!holds(&mut bed, compare("a", "", result, 3, 0)), "result {result}");
    }
    // Trap 9: an interval without keys is a missing key, not a vacuous truth.
    assert!(holds(&mut bed, compare("a", "\0", 0, 1, 0)));
    assert!(!holds(&mut bed, compare("a", "\0", 1, 1, 0)));
    // Trap 46: what etcd does with numbers that it does not know.
    assert!(holds(&mut bed, compare("a", "", 9, 0, 5)));
    assert!(holds(&mut bed, compare("a", "", 0, 9, 5)));
}

#[test]
fn every_key_of_an_interval_must_hold() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.put("b", "1");
    bed.put("b", "2");
    assert!(holds(&mut bed, compare("a", "c", 1, 0, 0)));
    assert!(!holds(&mut bed, compare("a", "c", 0, 0, 1)));
    let value = Compare { value: bytes("1"), ..compare("a", "", 0, 3, 0) };
    assert!(holds(&mut bed, value));
    bed.run(grant(9, 60)).expect("granted");
    bed.run(Kind::Put(Put { lease: 9, ..put_of("a", "1") })).expect("put");
    assert!(holds(&mut bed, compare("a", "", 0, 4, 9)));
}

#[test]
fn nested_compares_see_the_state_before_and_operations_see_each_other() {
    let mut bed = Bed::new();
    let inner = Txn {
        compare: vec![compare("a", "", 0, 0, 0)],
        success: vec![put_op("b", "then")],
        failure: vec![put_op("b", "else")],
    };
    let txn = Txn {
        success: vec![
            op(OpKind::Range(range("a", ""))),
            put_op("a", "1"),
            op(OpKind::Txn(inner)),
            op(OpKind::Range(all())),
        ],
        ..Txn::default()
    };
    let response = bed.txn(txn).expect("a txn");
    let [before, put, OpResponse::Txn(nested), after] = &response.responses[..] else {
        panic!("{response:?}")
    };
    assert!(matches!(before, OpResponse::Range { revision: Revision(1), range } if range.count == 0));
    assert!(matches!(put, OpResponse::Put { revision: Revision(2), .. }));
    assert!(nested.succeeded, "trap 10");
    let OpResponse::Range { revision: Revision(2), range } = after else { panic!("{after:?}") };
    assert_eq!(range.kvs.iter().map(|kv| kv.mod_revision).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(text(&range.kvs[1].value), "then");
}

#[test]
fn what_changes_nothing_is_no_revision() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    for txn in [
        Txn::default(),
        Txn { success: vec![op(OpKind::DeleteRange(delete_of("z", "")))], ..Txn::default() },
        Txn { success: vec![op(OpKind::Txn(Txn::default())), op(OpKind::Range(all()))], ..Txn::default() },
        Txn { compare: vec![compare("a", "", 0, 0, 9)], success: vec![put_op("a", "2")], failure: vec![] },
    ] {
        let applied = bed.run_applied(Kind::Txn(txn));
        assert!(applied.result.is_ok());
        assert_eq!((applied.revision.0, applied.events.len()), (2, 0), "trap 11");
    }
}

#[test]
fn a_failing_check_in_the_taken_branch_writes_nothing() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    let future = op(OpKind::Range(RangeQuery { revision: 3, ..range("a", "") }));
    let txn = |ops: Vec<_>| Txn { success: ops, ..Txn::default() };
    let ignoring = op(OpKind::Put(Put { ignore_value: true, ..put_of("new", "") }));
    let unleased = op(OpKind::Put(Put { lease: 99, ..put_of("a", "2") }));
    for (last, expected) in [
        (future.clone(), CommandError::FutureRevision),
        (ignoring, CommandError::KeyNotFound),
        (unleased.clone(), CommandError::LeaseNotFound),
    ] {
        let refused = bed.txn(txn(vec![put_op("new", "x"), last]));
        assert_eq!(refused, Err(expected), "trap 12");
        assert_eq!(bed.get("new"), None);
        assert_eq!(bed.view(|view| view.revision().0), 2);
    }
    // Trap 13: what stands in the other branch does not matter.
    let other = Txn { failure: vec![unleased, future], ..Txn::default() };
    assert!(bed.txn(other).expect("a txn").succeeded);
}

#[test]
fn a_negative_revision_is_now_in_a_range_and_compacted_in_a_transaction() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    let at = |revision| Txn {
        success: vec![op(OpKind::Range(RangeQuery { revision, ..range("a", "") }))],
        ..Txn::default()
    };
    let read_only =
        |bed: &mut Bed, txn: &Txn| bed.view(|view| view.read_only_txn(txn, &mut |_| true).is_ok());
    assert_eq!(bed.txn(at(-7)), Err(CommandError::Compacted));
    assert!(!read_only(&mut bed, &at(-7)));
    assert!(bed.txn(at(-1)).is_ok());
    assert!(read_only(&mut bed, &at(-1)));
    bed.compact(2).expect("compacted");
    assert_eq!(bed.txn(at(-1)), Err(CommandError::Compacted), "trap 49");
    assert!(!read_only(&mut bed, &at(-1)));
    assert!(bed.get_at("a", -1).expect("now").is_some());
}

#[test]
fn a_read_only_transaction_leaves_out_what_is_not_kept_and_shows_all_of_it() {
    let mut bed = Bed::new();
    for i in 0..5 {
        bed.put(&format!("a{i}"), "1");
    }
    let txn = Txn { success: vec![op(OpKind::Range(range("a", "b")))], ..Txn::default() };
    let mut seen = 0;
    let answer = bed.view(|view| {
        view.read_only_txn(&txn, &mut |_| {
            seen += 1;
            seen <= 2
        })
    });
    let OpResponse::Range { range, .. } = &answer.expect("a txn").responses[0] else { panic!("not a range") };
    assert_eq!((seen, range.kvs.len(), range.count), (5, 2, 5));
}

#[test]
fn a_key_put_and_deleted_in_one_revision_gives_two_events() {
    let mut bed = Bed::new();
    bed.put("old", "1");
    let nested = |kind| op(OpKind::Txn(Txn { success: vec![op(kind)], ..Txn::default() }));
    for key in ["old", "new"] {
        let txn = Txn {
            success: vec![
                nested(OpKind::Put(put_of(key, "2"))),
                nested(OpKind::DeleteRange(delete_of(key, ""))),
            ],
            ..Txn::default()
        };
        let applied = bed.run_applied(Kind::Txn(txn));
        let revision = applied.revision.0;
        assert_eq!(
            kinds(&applied.events),
            [(key.to_owned(), EventKind::Put, revision), (key.to_owned(), EventKind::Delete, revision)]
        );
        for event in &applied.events {
            match (&event.previous, key) {
                (Previous::Known(kv), "old") => assert_eq!(kv.mod_revision, 2, "before the txn"),
                (Previous::None, "new") => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(bed.get_at(key, revision).expect("readable"), None);
        assert_eq!(bed.events(revision).expect("events").events, applied.events);
    }
}

#[test]
fn nospace_refuses_a_transaction_with_a_put_in_either_branch() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.run(alarm(true, 1)).expect("raised");
    let nested = Txn { failure: vec![put_op("a", "2")], ..Txn::default() };
    let hidden = Txn { success: vec![op(OpKind::Txn(nested))], ..Txn::default() };
    assert_eq!(bed.txn(hidden), Err(CommandError::NoSpace));
    let deleting = Txn { success: vec![op(OpKind::DeleteRange(delete_of("a", "")))], ..Txn::default() };
    assert!(bed.txn(deleting).is_ok());
}

#[test]
fn put_behind_delete_from_key_in_one_revision_is_a_new_life() {
    let mut bed = Bed::new();
    bed.put("k", "1");
    let txn = Txn {
        success: vec![op(OpKind::DeleteRange(delete_of("a", "\0"))), put_op("k", "2")],
        ..Txn::default()
    };
    let applied = bed.run_applied(Kind::Txn(txn));
    assert!(matches!(&applied.events[1].previous, Previous::Known(kv) if kv.mod_revision == 2));
    let kv = bed.get("k").expect("k");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (3, 3, 1));
    assert_eq!(bed.events(3).expect("events").events, applied.events);
}

/// etcd's process ends on this one; here the whole transaction is carried out.
#[test]
fn put_that_keeps_what_a_delete_from_key_took_begins_anew() {
    let mut bed = Bed::new();
    bed.put("k", "1");
    let keep = Put { key: "k".into(), ignore_value: true, ignore_lease: true, ..Put::default() };
    let success =
        vec![op(OpKind::DeleteRange(delete_of("a", "\0"))), op(OpKind::Put(keep)), put_op("z", "last")];
    let applied = bed.run_applied(Kind::Txn(Txn { success, ..Txn::default() }));
    assert!(applied.result.is_ok(), "{:?}", applied.result);
    let kv = bed.get("k").expect("k");
    assert_eq!((kv.create_revision, kv.version, &kv.value[..], kv.lease), (3, 1, &b""[..], 0));
    assert!(bed.get("z").is_some(), "nothing behind it is left out");
}

#[test]
fn a_key_that_one_revision_took_and_made_again_outlives_a_compaction_at_it() {
    let mut bed = Bed::new();
    bed.put("k", "1");
    let success = vec![op(OpKind::DeleteRange(delete_of("a", "\0"))), put_op("k", "2")];
    assert!(bed.txn(Txn { success, ..Txn::default() }).is_ok());
    bed.put("z", "1");
    bed.compact(3).expect("compacted");
    bed.delete_compacted();
    let kv = bed.get("k").expect("k");
    assert_eq!((kv.create_revision, kv.version, &kv.value[..]), (3, 1, &b"2"[..]));
}
