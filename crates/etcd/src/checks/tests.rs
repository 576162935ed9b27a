//! Each row of etcd's shape checks: operation counts, duplicates, empty keys, sort options.

use bytes::Bytes;

use super::*;

fn put(key: &'static str) -> pb::RequestOp {
    op(Request::RequestPut(pb::PutRequest { key: key.into(), ..Default::default() }))
}

fn delete(key: &'static str, end: &'static str) -> pb::RequestOp {
    op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
        key: key.into(),
        range_end: end.into(),
        prev_kv: false,
    }))
}

fn get(key: &'static str) -> pb::RequestOp {
    op(Request::RequestRange(pb::RangeRequest { key: key.into(), ..Default::default() }))
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn txn(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { compare: vec![], success, failure }
}

fn nested(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
    op(Request::RequestTxn(txn(success, failure)))
}

fn gets(count: usize) -> Vec<pb::RequestOp> {
    vec![get("a"); count]
}

const OPS_MAX: usize = 128;

#[track_caller]
fn passes(request: pb::TxnRequest) {
    assert_eq!(check_txn(&request, OPS_MAX), Ok(()));
}

#[track_caller]
fn fails(error: EtcdError, request: pb::TxnRequest) {
    assert_eq!(check_txn(&request, OPS_MAX), Err(error));
}

#[test]
fn each_branch_may_have_as_many_operations_as_the_limit() {
    passes(txn(gets(128), gets(128)));
    fails(EtcdError::TooManyOps, txn(gets(129), vec![]));
    fails(EtcdError::TooManyOps, txn(vec![], gets(129)));
    let compare = pb::Compare { key: "a".into(), ..Default::default() };
    passes(pb::TxnRequest { compare: vec![compare.clone(); 128], ..Default::default() });
    fails(EtcdError::TooManyOps, pb::TxnRequest { compare: vec![compare; 129], ..Default::default() });
}

#[test]
fn a_nested_txn_gets_what_its_parent_leaves_and_siblings_do_not_add_up() {
    let with = |outer: usize, inner: Vec<usize>| {
        let mut ops = gets(outer - inner.len());
        ops.extend(inner.into_iter().map(|count| nested(gets(count), vec![])));
        txn(ops, vec![])
    };
    passes(with(64, vec![2, 2]));
    passes(with(64, vec![64, 64]));
    fails(EtcdError::TooManyOps, with(64, vec![65]));
    fails(EtcdError::TooManyOps, with(128, vec![1]));
    passes(with(128, vec![0]));
    passes(with(127, vec![1]));
}

#[test]
fn transactions_nest_to_a_bound_of_their_own_whatever_the_bound_on_operations() {
    let levels = |count: usize, leaf: pb::RequestOp| {
        let inner = (2..count).fold(nested(vec![leaf], vec![]), |inner, _| nested(vec![], vec![inner]));
        txn(vec![inner], vec![])
    };
    for leaf in [put("a"), get("a")] {
        let check = |count| check_txn(&levels(count, leaf.clone()), 100 * OPS_MAX);
        assert_eq!(check(TXN_LEVELS_MAX), Ok(()));
        assert_eq!(check(TXN_LEVELS_MAX + 1), Err(EtcdError::TooManyOps));
        passes(levels(OPS_MAX, leaf.clone()));
        fails(EtcdError::TooManyOps, levels(OPS_MAX + 1, leaf));
    }
}

#[test]
fn shapes_of_both_branches_count_in_order_before_duplicates() {
    fails(EtcdError::EmptyKey, txn(vec![put("")], vec![]));
    fails(EtcdError::EmptyKey, txn(vec![], vec![get("")]));
    fails(EtcdError::KeyNotFound, txn(vec![pb::RequestOp { request: None }], vec![put("")]));
    fails(EtcdError::EmptyKey, txn(vec![put("a"), put("a")], vec![delete("", "")]));
    fails(EtcdError::DuplicateKey, txn(vec![], vec![put("a"), put("a")]));
    let empty_compare = pb::Compare::default();
    fails(
        EtcdError::EmptyKey,
        pb::TxnRequest {
            compare: vec![empty_compare],
            success: vec![pb::RequestOp { request: None }],
            failure: vec![],
        },
    );
    let bad_sort =
        op(Request::RequestRange(pb::RangeRequest { key: "a".into(), sort_order: 9, ..Default::default() }));
    fails(EtcdError::InvalidSortOption, txn(vec![nested(vec![], vec![bad_sort])], vec![]));
}

#[test]
fn the_same_key_put_twice_is_refused_in_one_branch_and_allowed_in_two() {
    fails(EtcdError::DuplicateKey, txn(vec![put("a"), put("b"), put("a")], vec![]));
    passes(txn(vec![put("a")], vec![put("a")]));
    passes(txn(vec![put("a"), put("b")], vec![put("b"), put("a")]));
}

#[test]
fn a_put_inside_a_delete_of_its_level_is_refused_whichever_is_first() {
    fails(EtcdError::DuplicateKey, txn(vec![put("b"), delete("a", "c")], vec![]));
    fails(EtcdError::DuplicateKey, txn(vec![delete("a", "c"), put("b")], vec![]));
    fails(EtcdError::DuplicateKey, txn(vec![delete("b", ""), put("b")], vec![]));
    fails(EtcdError::DuplicateKey, txn(vec![delete("a", "c"), put("a")], vec![]));
    passes(txn(vec![delete("a", "c"), put("c")], vec![]));
    passes(txn(vec![delete("b", ""), put("b\0")], vec![]));
    passes(txn(vec![delete("c", "a"), put("b")], vec![]));
}

#[test]
fn deletes_may_overlap() {
    passes(txn(vec![delete("a", "c"), delete("b", "d"), delete("b", ""), delete("a", "c")], vec![]));
}

#[test]
fn a_put_is_held_against_puts_and_deletes_nested_below_it() {
    fails(EtcdError::DuplicateKey, txn(vec![put("a"), nested(vec![put("a")], vec![])], vec![]));
    fails(EtcdError::DuplicateKey, txn(vec![nested(vec![], vec![put("a")]), put("a")], vec![]));
    fails(EtcdError::DuplicateKey, txn(vec![put("a"), nested(vec![delete("a", "")], vec![])], vec![]));
    fails(EtcdError::DuplicateKey, txn(vec![put("b"), nested(vec![], vec![delete("a", "c")])], vec![]));
    let deep = nested(vec![nested(vec![delete("a", "c")], vec![])], vec![]);
    fails(EtcdError::DuplicateKey, txn(vec![put("b"), deep], vec![]));
}

#[test]
fn a_nested_put_is_held_against_deletes_of_the_level_above() {
    fails(EtcdError::DuplicateKey, txn(vec![nested(vec![put("b")], vec![]), delete("a", "c")], vec![]));
    fails(EtcdError::DuplicateKey, txn(vec![delete("a", "c"), nested(vec![], vec![put("b")])], vec![]));
}

#[test]
fn nested_siblings_may_not_put_the_same_key_but_the_branches_of_one_may() {
    fails(
        EtcdError::DuplicateKey,
        txn(vec![nested(vec![put("a")], vec![]), nested(vec![put("a")], vec![])], vec![]),
    );
    fails(
        EtcdError::DuplicateKey,
        txn(vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])], vec![]),
    );
    passes(txn(vec![nested(vec![put("a")], vec![put("a")])], vec![]));
    fails(EtcdError::DuplicateKey, txn(vec![nested(vec![put("a")], vec![put("a"), put("a")])], vec![]));
}

#[test]
fn a_nested_put_is_held_against_deletes_of_earlier_siblings_only() {
    fails(
        EtcdError::DuplicateKey,
        txn(vec![nested(vec![delete("a", "c")], vec![]), nested(vec![put("b")], vec![])], vec![]),
    );
    passes(txn(vec![nested(vec![put("b")], vec![]), nested(vec![delete("a", "c")], vec![])], vec![]));
    passes(txn(vec![nested(vec![delete("b", "")], vec![put("b")])], vec![]));
}

#[test]
fn a_delete_from_key_on_slips_through() {
    passes(txn(vec![put("b"), delete("a", "\0")], vec![]));
    passes(txn(vec![nested(vec![delete("a", "\0")], vec![]), put("b")], vec![]));
}

#[test]
fn many_overlapping_deletes_keep_the_check_fast() {
    let key = |i: u32| Bytes::from(format!("{i:06}"));
    let mut ops = vec![];
    for i in 0..20_000 {
        ops.push(op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: key(2 * i),
            range_end: key(2 * i + 1),
            prev_kv: false,
        })));
        ops.push(op(Request::RequestPut(pb::PutRequest { key: key(2 * i + 1), ..Default::default() })));
    }
    assert_eq!(check_txn(&txn(ops.clone(), vec![]), usize::MAX), Ok(()));
    ops.push(delete("000000", "9"));
    assert_eq!(check_txn(&txn(ops, vec![]), usize::MAX), Err(EtcdError::DuplicateKey));
}

#[test]
fn range_shape_is_checked_key_first_then_order_then_target() {
    let range = |key: &'static str, sort_order, sort_target| pb::RangeRequest {
        key: key.into(),
        sort_order,
        sort_target,
        ..Default::default()
    };
    assert_eq!(check_range(&range("", 9, 9)), Err(EtcdError::EmptyKey));
    assert_eq!(check_range(&range("a", 3, 0)), Err(EtcdError::InvalidSortOption));
    assert_eq!(check_range(&range("a", 0, 5)), Err(EtcdError::InvalidSortOption));
    assert_eq!(check_range(&range("a", -1, 0)), Err(EtcdError::InvalidSortOption));
    assert_eq!(check_range(&range("a", 2, 4)), Ok(()));
}

#[test]
fn range_stream_takes_key_order_only_and_no_filters() {
    let range = |sort_order, sort_target, min_create_revision| pb::RangeRequest {
        key: "a".into(),
        sort_order,
        sort_target,
        min_create_revision,
        ..Default::default()
    };
    assert_eq!(check_range_stream(&range(0, 0, 0)), Ok(()));
    assert_eq!(check_range_stream(&range(1, 0, 0)), Ok(()));
    assert_eq!(check_range_stream(&range(0, 4, 0)), Ok(()));
    assert_eq!(check_range_stream(&range(2, 0, 0)), Err(EtcdError::StreamSortUnsupported));
    assert_eq!(check_range_stream(&range(1, 1, -1)), Err(EtcdError::StreamSortUnsupported));
    assert_eq!(check_range_stream(&range(0, 0, -1)), Err(EtcdError::StreamFilterUnsupported));
    assert_eq!(check_range_stream(&range(7, 0, 1)), Err(EtcdError::InvalidSortOption));
}

#[test]
fn put_shape_is_checked_in_etcds_order() {
    let request = pb::PutRequest {
        key: Bytes::new(),
        value: "v".into(),
        lease: 1,
        prev_kv: false,
        ignore_value: true,
        ignore_lease: true,
    };
    assert_eq!(check_put(&request), Err(EtcdError::EmptyKey));
    let request = pb::PutRequest { key: "a".into(), ..request };
    assert_eq!(check_put(&request), Err(EtcdError::ValueProvided));
    let request = pb::PutRequest { value: Bytes::new(), ..request };
    assert_eq!(check_put(&request), Err(EtcdError::LeaseProvided));
    assert_eq!(check_put(&pb::PutRequest { lease: 0, ..request }), Ok(()));
}

#[test]
fn the_largest_value_behind_a_key_of_three_bytes_is_etcds() {
    use prost::Message;
    let length = |value: usize| {
        pb::PutRequest { key: "abc".into(), value: vec![0; value].into(), ..Default::default() }.encoded_len()
    };
    assert!(!is_too_large(length(1_572_838), 1_572_864));
    assert!(is_too_large(length(1_572_839), 1_572_864));
}

#[test]
fn a_txn_is_read_only_when_all_operations_of_both_branches_are_flat_ranges() {
    assert!(is_read_only(&txn(vec![], vec![])));
    assert!(is_read_only(&txn(vec![get("a")], vec![get("b")])));
    assert!(!is_read_only(&txn(vec![get("a")], vec![put("b")])));
    assert!(!is_read_only(&txn(vec![nested(vec![], vec![])], vec![])));
    assert!(is_serializable(&txn(vec![], vec![])));
    assert!(!is_serializable(&txn(vec![get("a")], vec![])));
}
