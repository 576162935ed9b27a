//! Put, DeleteRange and Range.

use std::ops::ControlFlow;

use dqlited_store::command::{Kind, Put, RangeQuery};
use dqlited_store::event::Previous;
use dqlited_store::read::ReadError;
use dqlited_store::{CommandError, EventKind, Response};

use crate::bed::*;

#[test]
fn the_first_put_of_a_fresh_store_is_revision_2() {
    let mut bed = Bed::new();
    assert_eq!(bed.view(|view| (view.revision().0, view.compact_revision().0)), (1, -1));
    assert_eq!(bed.put("a", "1"), 2);
    let kv = bed.get("a").expect("a");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (2, 2, 1, 0));
    assert_eq!(bed.put("a", "1"), 3, "an equal value is a change too");
    let kv = bed.get("a").expect("a");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    assert_eq!(bed.delete("a", ""), (1, 4));
    assert_eq!(bed.put("a", "2"), 5);
    let kv = bed.get("a").expect("a");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1), "born again");
}

#[test]
fn a_read_at_an_old_revision_sees_what_was_there() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.put("b", "1");
    bed.put("a", "2");
    bed.delete("b", "");
    bed.put("b", "3");
    let value =
        |bed: &mut Bed, key: &str, at: i64| bed.get_at(key, at).expect("readable").map(|kv| text(&kv.value));
    let b: Vec<_> = (1..=6).map(|at| value(&mut bed, "b", at)).collect();
    assert_eq!(b, [None, None, Some("1".into()), Some("1".into()), None, Some("3".into())]);
    let a: Vec<_> = (1..=6).map(|at| value(&mut bed, "a", at)).collect();
    assert_eq!(a[0], None);
    assert_eq!(a[1..3], [Some("1".into()), Some("1".into())]);
    assert_eq!(a[3..], [Some("2".into()), Some("2".into()), Some("2".into())]);
    assert!(matches!(bed.get_at("a", 7), Err(ReadError::FutureRevision)));
    assert_eq!(bed.range(RangeQuery { revision: 5, ..all() }).expect("a list").count, 1);
    // Trap 6: a negative revision is now.
    assert_eq!(value(&mut bed, "a", -1), Some("2".into()));
}

#[test]
fn count_ignores_limit_and_filters_and_more_counts_what_passes() {
    let mut bed = Bed::new();
    for key in ["a", "b", "c", "d", "e"] {
        bed.put(key, key);
    }
    let limited = bed.range(RangeQuery { limit: 1, ..all() }).expect("a range");
    assert_eq!((limited.kvs.len(), limited.count, limited.more), (1, 5, true));
    let exact = bed.range(RangeQuery { limit: 5, ..all() }).expect("a range");
    assert_eq!((exact.kvs.len(), exact.count, exact.more), (5, 5, false));
    let counted = bed.range(RangeQuery { limit: 1, count_only: true, min_mod_revision: 9, ..all() });
    let counted = counted.expect("a count");
    assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 5, false));
    for (limit, more) in [(1, true), (2, false)] {
        let passing = bed.range(RangeQuery { limit, min_mod_revision: 5, ..all() }).expect("a range");
        assert_eq!((passing.kvs.len() as i64, passing.count, passing.more), (limit, 5, more));
    }
    assert!(bed.keys(RangeQuery { max_mod_revision: -1, ..all() }).is_empty());
    assert_eq!(bed.keys(RangeQuery { limit: -1, ..all() }).len(), 5);
    assert_eq!(bed.keys(RangeQuery { revision: 4, limit: 2, ..all() }), ["a", "b"]);
}

#[test]
fn range_ends_follow_etcd() {
    let mut bed = Bed::new();
    for key in ["\0", "a", "b"] {
        bed.put(key, "v");
    }
    assert_eq!(bed.keys(range("\0", "\0")), ["\0", "a", "b"]);
    assert_eq!(bed.keys(range("\0", "\0\0")), ["\0"]);
    assert_eq!(bed.keys(range("a", "\0")), ["a", "b"]);
    assert_eq!(bed.keys(range("a", "")), ["a"]);
    assert!(bed.keys(range("b", "a")).is_empty());
    assert!(bed.keys(range("a", "a")).is_empty());
}

#[test]
fn an_empty_list_counts_nothing_although_keys_lie_outside_of_it() {
    let mut bed = Bed::new();
    bed.put("\0", "v");
    let empty = bed.range(range("a", "\0")).expect("a range");
    assert_eq!((empty.kvs.len(), empty.count, empty.more), (0, 0, false));
}

#[test]
fn sort_none_with_a_target_cuts_before_it_sorts() {
    let mut bed = Bed::new();
    for (key, value) in [("a", "5"), ("b", "9"), ("c", "4"), ("d", "1"), ("e", "0")] {
        bed.put(key, value);
    }
    // etcd fetches limit + 1 = a, b, c, sorts them by value and answers the first two.
    assert_eq!(bed.keys(RangeQuery { sort_target: 4, limit: 2, ..all() }), ["c", "a"]);
    assert_eq!(bed.keys(RangeQuery { sort_target: 4, sort_order: 1, limit: 2, ..all() }), ["e", "d"]);
    assert_eq!(bed.keys(RangeQuery { sort_target: 4, sort_order: 2, limit: 2, ..all() }), ["b", "a"]);
    assert_eq!(bed.keys(RangeQuery { sort_order: 2, limit: 2, ..all() }), ["e", "d"]);
    assert_eq!(bed.keys(RangeQuery { sort_order: 2, sort_target: 3, ..all() }), ["e", "d", "c", "b", "a"]);
}

#[test]
fn keys_only_leaves_out_value_and_lease_but_not_the_revisions() {
    let mut bed = Bed::new();
    bed.run(grant(4, 60)).expect("granted");
    bed.run(Kind::Put(Put { lease: 4, ..put_of("a", "v") })).expect("put");
    for revision in [0, 2] {
        let kv =
            bed.range(RangeQuery { keys_only: true, revision, ..range("a", "") }).expect("a").kvs.remove(0);
        assert_eq!(
            (kv.value.len(), kv.lease, kv.create_revision, kv.mod_revision, kv.version),
            (0, 0, 2, 2, 1)
        );
        bed.put("b", "moves the revision on");
    }
    let by_value = bed.range(RangeQuery { keys_only: true, sort_target: 4, ..range("a", "b") }).expect("a");
    assert_eq!((by_value.kvs[0].lease, by_value.kvs[0].value.len()), (4, 0));
}

#[test]
fn delete_numbers_tombstones_in_key_order_and_nothing_is_no_revision() {
    let mut bed = Bed::new();
    assert_eq!(bed.delete("a", "\0"), (0, 1));
    for key in ["c", "a", "b"] {
        bed.put(key, "v");
    }
    let mut all_keys = delete_of("a", "\0");
    all_keys.prev_kv = true;
    let applied = bed.run_applied(Kind::DeleteRange(all_keys));
    let Ok(Response::DeleteRange { deleted: 3, previous }) = applied.result else { panic!("{applied:?}") };
    assert_eq!(previous.iter().map(|kv| text(&kv.key)).collect::<Vec<_>>(), ["a", "b", "c"]);
    let expected: Vec<_> = ["a", "b", "c"].map(|key| (key.to_owned(), EventKind::Delete, 5)).into();
    assert_eq!(kinds(&applied.events), expected);
    assert!(matches!(&applied.events[0].previous, Previous::Known(kv) if kv.mod_revision == 3));
    assert_eq!((applied.events[0].kv.create_revision, applied.events[0].kv.version), (0, 0));
    assert_eq!(kinds(&bed.events(5).expect("events").events), expected);
}

#[test]
fn ignore_value_and_ignore_lease_keep_what_was_there() {
    let mut bed = Bed::new();
    bed.run(grant(4, 60)).expect("granted");
    bed.run(Kind::Put(Put { lease: 4, ..put_of("a", "v") })).expect("put");
    bed.run(Kind::Put(Put { ignore_lease: true, ..put_of("a", "w") })).expect("put");
    let kv = bed.get("a").expect("a");
    assert_eq!((text(&kv.value), kv.lease), ("w".to_owned(), 4));
    bed.run(Kind::Put(Put { ignore_value: true, ..put_of("a", "") })).expect("put");
    let kv = bed.get("a").expect("a");
    assert_eq!((text(&kv.value), kv.lease, kv.version), ("w".to_owned(), 0, 3), "lease 0 detaches");
    for refused in
        [Put { ignore_value: true, ..put_of("none", "") }, Put { ignore_lease: true, ..put_of("none", "v") }]
    {
        assert_eq!(bed.run(Kind::Put(refused)), Err(CommandError::KeyNotFound));
    }
    // Trap 18: the lease is looked at first.
    let both = Put { ignore_value: true, lease: 99, ..put_of("none", "") };
    assert_eq!(bed.run(Kind::Put(both)), Err(CommandError::LeaseNotFound));
}

#[test]
fn events_catch_up_in_whole_revisions_with_the_records_before() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.put("a", "2");
    bed.delete("a", "");
    bed.put("a", "3");
    let events = bed.events(2).expect("events").events;
    let before: Vec<_> = events
        .iter()
        .map(|event| match &event.previous {
            Previous::Known(kv) => Some(kv.mod_revision),
            Previous::None => None,
            Previous::NotRead => panic!("not read"),
        })
        .collect();
    assert_eq!(before, [None, Some(2), Some(3), None]);
    let batch = bed.view(|view| {
        view.events(&dqlited_store::read::EventsQuery {
            key: b"a",
            range_end: b"",
            from: dqlited_store::Revision(2),
            to: dqlited_store::Revision(5),
            with_previous: false,
            revisions_max: 2,
            bytes_max: 1 << 20,
        })
    });
    let batch = batch.expect("events");
    assert_eq!((batch.events.len(), batch.through.0), (2, 3));
}

#[test]
fn alarms_refuse_what_etcd_refuses() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.run(alarm(true, 1)).expect("raised");
    assert_eq!(bed.run(put("b", "1")), Err(CommandError::NoSpace));
    assert_eq!(bed.run(grant(1, 60)), Err(CommandError::NoSpace));
    assert_eq!(bed.delete("a", ""), (1, 3));
    let mut bed = bed.reopen();
    assert_eq!(bed.run(put("b", "1")), Err(CommandError::NoSpace), "an alarm outlives a restart");
    assert_eq!(bed.view(|view| view.alarms()).expect("alarms").len(), 1);
    bed.run(alarm(true, 2)).expect("raised");
    assert_eq!(bed.run(delete("a", "")), Err(CommandError::Corrupt));
    assert_eq!(bed.compact(2), Err(CommandError::Corrupt));
    bed.run(alarm(false, 2)).expect("cleared");
    bed.run(alarm(false, 1)).expect("cleared");
    assert_eq!(bed.run(alarm(false, 1)), Ok(Response::Alarm(vec![])));
    bed.put("b", "1");
}

/// A stream of chunks stops reading when its client is behind, and still says how many keys there are.
#[test]
fn a_break_of_the_sink_ends_the_reading_but_not_the_count() {
    let mut bed = Bed::new();
    for key in ["a", "b", "c", "d", "e"] {
        bed.put(key, key);
    }
    bed.put("a", "newer");
    for revision in [0, 6] {
        for limit in [0, 4] {
            let mut seen = Vec::new();
            let query = RangeQuery { revision, limit, ..all() };
            let summary = bed.view(|view| {
                view.range(&query, &mut |record| {
                    seen.push(text(record.key));
                    if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .expect("readable")
            });
            assert_eq!(seen, ["a", "b"], "at {revision}, limit {limit}");
            assert_eq!((summary.count, summary.more), (5, limit == 4));
        }
    }
}
