//! Txn: compares, order, revisions, nesting, limits.

use compare::TargetUnion::*;
use dqlited_proto::etcdserverpb::response_op::Response;
use dqlited_proto::etcdserverpb::*;
use tonic::Code;

use crate::api::*;

const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";

#[tokio::test]
async fn kube_apiservers_three_transactions_answer_as_it_expects() {
    let api = Api::start().await;
    let create = |value| txn(vec![compare("a", 0, ModRevision(0))], vec![put_op("a", value)], vec![]);
    let created = api.txn(create("1")).await.unwrap();
    assert_eq!((created.succeeded, revision(created.header)), (true, 2));
    let again = api.txn(create("1")).await.unwrap();
    assert_eq!((again.succeeded, revision(again.header), again.responses.len()), (false, 2, 0));
    let update = |at, value| {
        txn(vec![compare("a", 0, ModRevision(at))], vec![put_op("a", value)], vec![get_op(one("a"))])
    };
    let updated = api.txn(update(2, "2")).await.unwrap();
    assert_eq!((updated.succeeded, revision(updated.header)), (true, 3));
    let stale = api.txn(update(2, "3")).await.unwrap();
    assert!(!stale.succeeded);
    let Some(Response::ResponseRange(present)) = &stale.responses[0].response else { panic!("{stale:?}") };
    assert_eq!((&present.kvs[0].value[..], present.kvs[0].mod_revision), (&b"2"[..], 3));
    let delete =
        |at| txn(vec![compare("a", 0, ModRevision(at))], vec![delete_op("a", "")], vec![get_op(one("a"))]);
    assert!(!api.txn(delete(2)).await.unwrap().succeeded);
    assert_eq!(revision(api.txn(delete(3)).await.unwrap().header), 4);
    assert_eq!(api.get("a").await, None);
}

#[tokio::test]
async fn a_value_compare_on_a_missing_key_is_false_for_every_result() {
    let api = Api::start().await;
    for result in 0..4 {
        for value in ["", "x"] {
            let compared =
                api.txn(txn(vec![compare("no", result, Value(value.into()))], vec![], vec![])).await;
            assert!(!compared.unwrap().succeeded, "result {result}");
        }
    }
    // The other targets compare as 0.
    assert!(api.txn(txn(vec![compare("no", 2, Version(5))], vec![], vec![])).await.unwrap().succeeded);
    assert!(api.txn(txn(vec![compare("no", 0, Lease(0))], vec![], vec![])).await.unwrap().succeeded);
    assert!(
        !api.txn(txn(vec![compare("no", 1, CreateRevision(0))], vec![], vec![])).await.unwrap().succeeded
    );
}

#[tokio::test]
async fn a_compare_over_no_keys_behaves_as_one_missing_key() {
    let api = Api::start().await;
    let over = |result, union| Compare { range_end: "z".into(), ..compare("a", result, union) };
    let holds = |compare| async { api.txn(txn(vec![compare], vec![], vec![])).await.unwrap().succeeded };
    assert!(holds(over(0, CreateRevision(0))).await);
    assert!(!holds(over(1, CreateRevision(0))).await);
    api.put("b", "1").await;
    api.put("c", "2").await;
    assert!(holds(over(1, CreateRevision(0))).await);
    assert!(!holds(over(0, ModRevision(2))).await, "every key must hold");
    let from_key = Compare { range_end: "\0".into(), ..compare("b", 1, ModRevision(1)) };
    assert!(holds(from_key).await);
}

#[tokio::test]
async fn nested_compares_see_the_state_before_the_transaction() {
    let api = Api::start().await;
    let nested =
        txn(vec![compare("a", 0, Version(0))], vec![put_op("b", "unseen")], vec![put_op("b", "seen")]);
    let answer = api.txn(txn(vec![], vec![put_op("a", "1"), txn_op(nested)], vec![])).await.unwrap();
    assert_eq!(revision(answer.header), 2);
    let Some(Response::ResponseTxn(inner)) = &answer.responses[1].response else { panic!("{answer:?}") };
    assert!(inner.succeeded);
    assert_eq!(api.get("b").await.unwrap().value, "unseen");
}

#[tokio::test]
async fn what_changes_nothing_takes_no_revision() {
    let api = Api::start().await;
    api.put("a", "1").await;
    let failed = txn(vec![compare("a", 0, Version(9))], vec![put_op("a", "2")], vec![]);
    let read = txn(vec![], vec![get_op(one("a"))], vec![]);
    let delete_nothing = txn(vec![], vec![delete_op("x", "z")], vec![]);
    let nested_read = txn(vec![], vec![txn_op(read.clone())], vec![]);
    for request in [failed, read, delete_nothing, nested_read, txn(vec![], vec![], vec![])] {
        let answer = api.txn(request.clone()).await.unwrap();
        assert_eq!(revision(answer.header), 2, "{request:?}");
        assert_eq!(api.revision().await, 2);
    }
}

#[tokio::test]
async fn a_range_above_the_revision_before_the_transaction_is_future_and_nothing_is_written() {
    let api = Api::start().await;
    api.put("a", "old").await;
    let at_its_own = get_op(RangeRequest { revision: 3, ..one("a") });
    let request = txn(vec![], vec![put_op("a", "new"), at_its_own], vec![]);
    assert_fails(api.txn(request).await, Code::OutOfRange, FUTURE);
    let kv = api.get("a").await.unwrap();
    assert_eq!((&kv.value[..], kv.mod_revision, api.revision().await), (&b"old"[..], 2, 2));
}

#[tokio::test]
async fn in_the_branch_not_taken_shape_and_duplicates_count_and_state_does_not() {
    let api = Api::start().await;
    let twice = || vec![put_op("b", "1"), put_op("b", "2")];
    assert_fails(
        api.txn(txn(vec![], vec![put_op("a", "1")], twice())).await,
        Code::InvalidArgument,
        DUPLICATE,
    );
    let empty_key = vec![get_op(one(""))];
    assert_fails(
        api.txn(txn(vec![], vec![], empty_key)).await,
        Code::InvalidArgument,
        "etcdserver: key is not provided",
    );
    assert_fails(
        api.txn(txn(vec![], vec![], vec![RequestOp { request: None }])).await,
        Code::InvalidArgument,
        "etcdserver: key not found",
    );
    let unknown_lease = || PutRequest { key: "b".into(), lease: 99, ..Default::default() };
    let future = get_op(RangeRequest { revision: 50, ..one("a") });
    let request = txn(vec![], vec![put_op("a", "1")], vec![put_request_op(unknown_lease()), future]);
    assert!(api.txn(request).await.unwrap().succeeded);
    let request = txn(vec![], vec![put_op("c", "1"), put_request_op(unknown_lease())], vec![]);
    assert_fails(api.txn(request).await, Code::NotFound, "etcdserver: requested lease not found");
    assert_eq!(api.get("c").await, None);
}

#[tokio::test]
async fn a_put_is_checked_on_the_state_before_the_transaction() {
    let api = Api::start().await;
    let keep = PutRequest { key: "a".into(), ignore_value: true, ..Default::default() };
    let nested = txn_op(txn(vec![], vec![put_op("b", "1")], vec![]));
    let request = txn(vec![], vec![nested, put_request_op(keep)], vec![]);
    assert_fails(api.txn(request).await, Code::InvalidArgument, "etcdserver: key not found");
    assert_eq!(api.revision().await, 1);
}

#[tokio::test]
async fn a_nested_txn_may_have_as_many_operations_as_its_parent_leaves() {
    let api = Api::start().await;
    let gets = |count| vec![get_op(one("a")); count];
    let with = |outer: usize, inner: Vec<usize>| {
        let mut ops = gets(outer);
        ops.extend(inner.into_iter().map(|count| txn_op(txn(vec![], gets(count), vec![]))));
        txn(vec![], ops, vec![])
    };
    let too_many = "etcdserver: too many operations in txn request";
    assert_fails(api.txn(with(127, vec![1])).await, Code::InvalidArgument, too_many);
    api.txn(with(127, vec![0])).await.unwrap();
    api.txn(with(62, vec![2, 2])).await.unwrap();
    api.txn(txn(vec![], gets(128), gets(128))).await.unwrap();
    assert_fails(api.txn(txn(vec![], gets(129), vec![])).await, Code::InvalidArgument, too_many);
}

#[tokio::test]
async fn one_key_can_be_put_and_then_deleted_in_one_revision() {
    let api = Api::start().await;
    let put = txn_op(txn(vec![], vec![put_op("a", "1"), put_op("b", "2")], vec![]));
    let delete = txn_op(txn(vec![], vec![delete_op("a", "")], vec![]));
    let answer = api.txn(txn(vec![], vec![put, delete], vec![])).await.unwrap();
    assert_eq!(revision(answer.header), 2);
    let Some(Response::ResponseTxn(inner)) = &answer.responses[1].response else { panic!("{answer:?}") };
    let Some(Response::ResponseDeleteRange(deleted)) = &inner.responses[0].response else {
        panic!("{inner:?}")
    };
    assert_eq!(deleted.deleted, 1);
    assert_eq!(api.keys(all()).await, ["b"]);
    assert_eq!(api.keys(RangeRequest { revision: 2, ..all() }).await, ["b"]);
}

#[tokio::test]
async fn headers_inside_say_which_side_of_the_first_change_they_are_on_and_name_no_ids() {
    let api = Api::start().await;
    api.put("a", "1").await;
    let nested = txn_op(txn(vec![], vec![get_op(one("b"))], vec![]));
    let ops = vec![get_op(one("a")), delete_op("no", ""), put_op("b", "2"), get_op(one("b")), nested];
    let answer = api.txn(txn(vec![], ops, vec![])).await.unwrap();
    let header = answer.header.unwrap();
    assert_eq!((header.revision, header.cluster_id != 0, header.raft_term != 0), (3, true, true));
    let only = |revision| Some(ResponseHeader { revision, ..Default::default() });
    let headers: Vec<_> = answer
        .responses
        .iter()
        .map(|response| match response.response.as_ref().unwrap() {
            Response::ResponseRange(range) => range.header,
            Response::ResponsePut(put) => put.header,
            Response::ResponseDeleteRange(delete) => delete.header,
            Response::ResponseTxn(txn) => txn.header,
        })
        .collect();
    assert_eq!(headers, [only(2), only(2), only(3), only(3), only(0)]);
    let Some(Response::ResponseRange(own)) = &answer.responses[3].response else { panic!("{answer:?}") };
    assert_eq!((own.kvs[0].mod_revision, &own.kvs[0].value[..]), (3, &b"2"[..]));
}

#[tokio::test]
async fn a_delete_from_key_on_beside_a_put_slips_through_the_duplicate_check() {
    let api = Api::start().await;
    api.put("b", "0").await;
    let overlapping = txn(vec![], vec![put_op("b", "1"), delete_op("a", "c")], vec![]);
    assert_fails(api.txn(overlapping).await, Code::InvalidArgument, DUPLICATE);
    let from_key = txn(vec![], vec![put_op("b", "1"), delete_op("a", "\0")], vec![]);
    assert_eq!(revision(api.txn(from_key).await.unwrap().header), 3);
    assert_eq!(api.get("b").await, None);
}
