//! Range, RangeStream, Put, DeleteRange and Compact.

use bytes::Bytes;
use dqlited_proto::etcdserverpb::*;
use tonic::Code;

use crate::api::*;

#[tokio::test]
async fn a_fresh_store_is_at_revision_1_and_the_first_put_answers_2() {
    let api = Api::start().await;
    assert_eq!(api.revision().await, 1);
    assert_eq!(api.put("a", "1").await, 2);
    let header = api.range(one("a")).await.unwrap().header.unwrap();
    assert_eq!((header.cluster_id != 0, header.member_id != 0, header.raft_term > 0), (true, true, true));
}

#[tokio::test]
async fn header_revision_is_current_for_old_and_for_empty_reads() {
    let api = Api::start().await;
    for _ in 0..8 {
        api.put("a", "x").await;
    }
    let old = api.range(RangeRequest { revision: 2, ..one("a") }).await.unwrap();
    assert_eq!((revision(old.header), old.kvs[0].mod_revision), (9, 2));
    let missing = api.range(one("missing")).await.unwrap();
    assert_eq!((revision(missing.header), missing.count), (9, 0));
    let before_all = api.range(RangeRequest { revision: 1, ..one("a") }).await.unwrap();
    assert_eq!((revision(before_all.header), before_all.count), (9, 0));
    let future = api.range(RangeRequest { revision: 10, ..one("a") }).await;
    assert_fails(future, Code::OutOfRange, FUTURE);
    let future = api.range(RangeRequest { revision: 10, serializable: true, ..one("a") }).await;
    assert_fails(future, Code::OutOfRange, FUTURE);
}

#[tokio::test]
async fn count_ignores_limit_filters_and_count_only() {
    let api = Api::start().await;
    for key in ["a", "b", "c", "d", "e"] {
        api.put(key, "x").await;
    }
    let limited = api.range(RangeRequest { limit: 1, ..all() }).await.unwrap();
    assert_eq!((limited.kvs.len(), limited.count, limited.more), (1, 5, true));
    let filtered = api.range(RangeRequest { min_mod_revision: 6, ..all() }).await.unwrap();
    assert_eq!((filtered.kvs.len(), filtered.count, filtered.more), (1, 5, false));
    let counted =
        api.range(RangeRequest { count_only: true, limit: 2, max_mod_revision: 3, ..all() }).await.unwrap();
    assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 5, false));
    let nothing = api.range(RangeRequest { max_mod_revision: -1, ..all() }).await.unwrap();
    assert_eq!((nothing.kvs.len(), nothing.count), (0, 5));
    let unlimited = api.range(RangeRequest { limit: -7, ..all() }).await.unwrap();
    assert_eq!((unlimited.kvs.len(), unlimited.more), (5, false));
}

#[tokio::test]
async fn more_with_a_filter_counts_only_keys_that_pass() {
    let api = Api::start().await;
    for key in ["a", "b", "c", "d", "e"] {
        api.put(key, "x").await;
    }
    let passing = |limit| RangeRequest { limit, min_mod_revision: 5, ..all() };
    let one = api.range(passing(1)).await.unwrap();
    assert_eq!((one.kvs.len(), one.more), (1, true));
    let two = api.range(passing(2)).await.unwrap();
    assert_eq!((two.kvs.len(), two.more), (2, false));
}

#[tokio::test]
async fn range_end_zero_is_from_key_on_and_two_zeros_are_an_ordinary_end() {
    let api = Api::start().await;
    for key in ["\0", "a", "b"] {
        api.put(key, "x").await;
    }
    assert_eq!(api.keys(between("a", "\0")).await, ["a", "b"]);
    assert_eq!(api.keys(between("\0", "\0")).await, ["\\x00", "a", "b"]);
    assert_eq!(api.keys(between("\0", "\0\0")).await, ["\\x00"]);
    assert_eq!(api.keys(one("a")).await, ["a"]);
    assert!(api.keys(between("b", "a")).await.is_empty());
    assert!(api.keys(between("a", "a")).await.is_empty());
    assert_eq!(api.keys(between("a", "b")).await, ["a"]);
}

#[tokio::test]
async fn keys_only_drops_value_and_lease_and_keeps_the_versions() {
    let api = Api::start().await;
    let mut leases = lease_client::LeaseClient::new(api.channel.clone());
    leases.lease_grant(LeaseGrantRequest { id: 7, ttl: 600 }).await.unwrap();
    let leased = PutRequest { key: "a".into(), value: "x".into(), lease: 7, ..Default::default() };
    api.try_put(leased.clone()).await.unwrap();
    api.try_put(leased).await.unwrap();
    assert_eq!(api.get("a").await.unwrap().lease, 7);
    for request in [RangeRequest { keys_only: true, ..one("a") }, RangeRequest { keys_only: true, ..all() }] {
        let kv = api.range(request).await.unwrap().kvs.remove(0);
        assert_eq!((kv.value.len(), kv.lease), (0, 0));
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    }
}

#[tokio::test]
async fn a_negative_revision_is_now_for_range_and_a_revision_like_any_for_a_txn() {
    let api = Api::start().await;
    api.put("a", "1").await;
    api.put("a", "2").await;
    let now = api.range(one("a")).await.unwrap();
    assert_eq!(api.range(RangeRequest { revision: -1, ..one("a") }).await.unwrap(), now);
    let in_txn = |revision| txn(vec![], vec![get_op(RangeRequest { revision, ..one("a") })], vec![]);
    // The compact revision begins at -1: -1 is not below it, -7 is.
    assert!(api.txn(in_txn(-1)).await.is_ok());
    assert_fails(api.txn(in_txn(-7)).await, Code::OutOfRange, COMPACTED);
    api.compact(2).await.unwrap();
    assert_eq!(api.range(RangeRequest { revision: -1, ..one("a") }).await.unwrap().kvs, now.kvs);
    assert_fails(api.txn(in_txn(-1)).await, Code::OutOfRange, COMPACTED);
}

#[tokio::test]
async fn order_none_by_value_with_a_limit_sorts_only_the_first_keys() {
    let api = Api::start().await;
    for (key, value) in [("a", "9"), ("b", "8"), ("c", "7"), ("d", "1"), ("e", "2")] {
        api.put(key, value).await;
    }
    let by_value = |sort_order, limit| RangeRequest { sort_order, sort_target: 4, limit, ..all() };
    // etcd cuts at limit + 1 keys before it sorts, unless an order is named.
    assert_eq!(api.keys(by_value(0, 2)).await, ["c", "b"]);
    assert_eq!(api.keys(by_value(1, 2)).await, ["d", "e"]);
    assert_eq!(api.keys(by_value(2, 2)).await, ["a", "b"]);
    assert_eq!(api.keys(by_value(0, 0)).await, ["d", "e", "c", "b", "a"]);
}

#[tokio::test]
async fn put_answers_the_record_before_and_may_keep_the_value() {
    let api = Api::start().await;
    let put = |value: &'static str| PutRequest {
        key: "a".into(),
        value: value.into(),
        prev_kv: true,
        ..Default::default()
    };
    assert_eq!(api.try_put(put("1")).await.unwrap().prev_kv, None);
    assert_eq!(api.try_put(put("2")).await.unwrap().prev_kv.unwrap().value, "1");
    let kept = api.try_put(PutRequest { ignore_value: true, ..put("") }).await.unwrap();
    assert_eq!((revision(kept.header), kept.prev_kv.unwrap().value), (4, "2".into()));
    let kv = api.get("a").await.unwrap();
    assert_eq!((kv.value, kv.version, kv.create_revision, kv.mod_revision), ("2".into(), 3, 2, 4));
    let missing = PutRequest { key: "b".into(), ignore_value: true, ..Default::default() };
    assert_fails(api.try_put(missing).await, Code::InvalidArgument, "etcdserver: key not found");
    assert_fails(
        api.try_put(PutRequest { ignore_value: true, ..put("x") }).await,
        Code::InvalidArgument,
        "etcdserver: value is provided",
    );
    assert_fails(
        api.try_put(PutRequest { ignore_lease: true, lease: 5, ..put("x") }).await,
        Code::InvalidArgument,
        "etcdserver: lease is provided",
    );
    assert_fails(
        api.try_put(PutRequest::default()).await,
        Code::InvalidArgument,
        "etcdserver: key is not provided",
    );
}

#[tokio::test]
async fn an_unknown_lease_is_seen_before_a_missing_key() {
    let api = Api::start().await;
    let both = PutRequest { key: "a".into(), lease: 99, ignore_value: true, ..Default::default() };
    assert_fails(api.try_put(both).await, Code::NotFound, "etcdserver: requested lease not found");
    assert_eq!(api.revision().await, 1);
}

#[tokio::test]
async fn deletes_take_one_revision_and_a_delete_of_nothing_takes_none() {
    let api = Api::start().await;
    for key in ["a", "b", "c"] {
        api.put(key, key).await;
    }
    let request = DeleteRangeRequest { key: "a".into(), range_end: "c".into(), prev_kv: true };
    let answer = api.kv().delete_range(request).await.unwrap().into_inner();
    assert_eq!((revision(answer.header), answer.deleted), (5, 2));
    let previous: Vec<_> = answer.prev_kvs.iter().map(|kv| text(&kv.value)).collect();
    assert_eq!(previous, ["a", "b"]);
    let nothing = api.delete("a", "c").await;
    assert_eq!((revision(nothing.header), nothing.deleted), (5, 0));
    assert_eq!(api.revision().await, 5);
    // A key born again counts anew.
    api.put("a", "again").await;
    let kv = api.get("a").await.unwrap();
    assert_eq!((kv.version, kv.create_revision, kv.mod_revision), (1, 6, 6));
}

#[tokio::test]
async fn compact_at_the_current_revision_succeeds_once_and_its_revision_stays_readable() {
    let api = Api::start().await;
    for value in ["1", "2", "3"] {
        api.put("a", value).await;
    }
    assert_eq!(revision(api.compact(4).await.unwrap().header), 4);
    assert_fails(api.compact(4).await, Code::OutOfRange, COMPACTED);
    assert_fails(api.compact(-1).await, Code::OutOfRange, COMPACTED);
    assert_fails(api.compact(5).await, Code::OutOfRange, FUTURE);
    let at = |revision| RangeRequest { revision, ..one("a") };
    assert_eq!(api.range(at(4)).await.unwrap().kvs[0].value, "3");
    assert_fails(api.range(at(3)).await, Code::OutOfRange, COMPACTED);
    let physical = CompactionRequest { revision: 5, physical: true };
    api.put("a", "4").await;
    api.kv().compact(physical).await.unwrap();
    assert_fails(api.range(at(4)).await, Code::OutOfRange, COMPACTED);
    assert_eq!(api.get("a").await.unwrap().value, "4");
}

#[tokio::test]
async fn compact_zero_succeeds_once_on_a_store_that_was_never_compacted() {
    let api = Api::start().await;
    api.compact(0).await.unwrap();
    assert_fails(api.compact(0).await, Code::OutOfRange, COMPACTED);
}

#[tokio::test]
async fn range_stream_has_header_and_count_in_its_last_message_alone() {
    let api = Api::start().await;
    // Some 12 MB, so that there are several chunks.
    let value = Bytes::from(vec![b'v'; 300_000]);
    for i in 0..47 {
        let request =
            PutRequest { key: format!("k{i:02}").into(), value: value.clone(), ..Default::default() };
        api.try_put(request).await.unwrap();
    }
    let (chunks, end) = api.range_stream(all()).await;
    assert!(end.is_ok(), "{end:?}");
    assert!(chunks.len() > 5, "{}", chunks.len());
    let (last, front) = chunks.split_last().unwrap();
    for chunk in front {
        assert_eq!((&chunk.header, chunk.count, chunk.more), (&None, 0, false));
        assert!(!chunk.kvs.is_empty());
    }
    assert_eq!((revision(last.header), last.count, last.more), (48, 47, false));
    let streamed: Vec<_> = chunks.iter().flat_map(|chunk| &chunk.kvs).cloned().collect();
    assert_eq!(streamed, api.range(all()).await.unwrap().kvs);
}

#[tokio::test]
async fn range_stream_counts_from_the_original_key_and_says_more_when_cut() {
    let api = Api::start().await;
    for i in 0..47 {
        let request = PutRequest { key: format!("k{i:02}").into(), value: "v".into(), ..Default::default() };
        api.try_put(request).await.unwrap();
    }
    let (chunks, end) = api.range_stream(RangeRequest { limit: 12, ..all() }).await;
    assert!(end.is_ok(), "{end:?}");
    let last = chunks.last().unwrap();
    assert_eq!((last.count, last.more, revision(last.header)), (47, true, 48));
    assert_eq!(chunks.iter().map(|chunk| chunk.kvs.len()).sum::<usize>(), 12);
    let (chunks, _) = api.range_stream(RangeRequest { revision: 20, keys_only: true, ..all() }).await;
    let last = chunks.last().unwrap();
    assert_eq!((last.count, last.more, revision(last.header)), (19, false, 48));
    assert!(chunks.iter().flat_map(|chunk| &chunk.kvs).all(|kv| kv.value.is_empty()));
}

#[tokio::test]
async fn range_stream_sends_one_message_for_an_empty_range_one_key_and_a_count() {
    let api = Api::start().await;
    api.put("a", "1").await;
    api.put("b", "2").await;
    let (chunks, _) = api.range_stream(between("x", "z")).await;
    assert_eq!((chunks.len(), chunks[0].count, revision(chunks[0].header)), (1, 0, 3));
    let (chunks, _) = api.range_stream(one("a")).await;
    assert_eq!((chunks.len(), chunks[0].count, chunks[0].kvs.len()), (1, 1, 1));
    let (chunks, _) = api.range_stream(RangeRequest { count_only: true, ..all() }).await;
    assert_eq!((chunks.len(), chunks[0].count, chunks[0].kvs.len()), (1, 2, 0));
    assert_eq!(revision(chunks[0].header), 3);
}

#[tokio::test]
async fn range_stream_refuses_sorts_and_filters_as_unimplemented() {
    let api = Api::start().await;
    let ended = |request| async { api.range_stream(request).await.1 };
    let sorted = RangeRequest { sort_order: 2, ..all() };
    assert_fails(ended(sorted).await, Code::Unimplemented, "RangeStream does not support custom sort orders");
    let filtered = RangeRequest { max_create_revision: 5, ..all() };
    assert_fails(ended(filtered).await, Code::Unimplemented, "RangeStream does not support revision filters");
    assert_fails(ended(one("")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    assert_fails(ended(RangeRequest { revision: 9, ..all() }).await, Code::OutOfRange, FUTURE);
}

#[tokio::test]
async fn a_range_stream_goes_on_at_its_revision_while_keys_change() {
    let api = Api::start().await;
    let value = Bytes::from(vec![b'v'; 1_000_000]);
    for i in 0..40 {
        let request =
            PutRequest { key: format!("k{i:02}").into(), value: value.clone(), ..Default::default() };
        api.try_put(request).await.unwrap();
    }
    let mut stream = api.kv().range_stream(all()).await.unwrap().into_inner();
    let mut kvs = Vec::new();
    // 40 MB do not fit into windows and the chunks ahead: the rest is read after these writes.
    kvs.extend(stream.message().await.unwrap().unwrap().range_response.unwrap().kvs);
    for i in 0..40 {
        let request =
            PutRequest { key: format!("k{i:02}").into(), value: "new".into(), ..Default::default() };
        api.try_put(request).await.unwrap();
    }
    api.delete("k39", "").await;
    let mut last = RangeResponse::default();
    while let Some(chunk) = stream.message().await.unwrap() {
        last = chunk.range_response.unwrap();
        kvs.extend(last.kvs.clone());
    }
    assert_eq!((kvs.len(), last.count, revision(last.header)), (40, 40, 41));
    assert!(kvs.iter().all(|kv| kv.value == value && kv.version == 1));
}

#[tokio::test]
async fn bad_enums_are_refused_and_the_member_lives_on() {
    let api = Api::start().await;
    let bad_sort = "etcdserver: invalid sort option";
    assert_fails(api.range(RangeRequest { sort_order: 9, ..all() }).await, Code::InvalidArgument, bad_sort);
    assert_fails(api.range(RangeRequest { sort_target: 9, ..all() }).await, Code::InvalidArgument, bad_sort);
    // An unknown result holds; an unknown target compares as equal.
    let unknown_result = Compare { result: 9, ..compare("a", 0, compare::TargetUnion::Version(5)) };
    assert!(api.txn(txn(vec![unknown_result], vec![], vec![])).await.unwrap().succeeded);
    let unknown_target = Compare { target: 9, ..compare("a", 0, compare::TargetUnion::Version(5)) };
    assert!(api.txn(txn(vec![unknown_target.clone()], vec![], vec![])).await.unwrap().succeeded);
    let unknown_target = Compare { result: 1, ..unknown_target };
    assert!(!api.txn(txn(vec![unknown_target], vec![], vec![])).await.unwrap().succeeded);
    api.put("a", "1").await;
}

#[tokio::test]
async fn the_largest_request_is_etcds_to_the_byte_and_beyond_the_limit_the_texts_change() {
    let api = Api::start().await;
    let put = |bytes: usize| PutRequest {
        key: "abc".into(),
        value: vec![b'x'; bytes].into(),
        ..Default::default()
    };
    api.try_put(put(1_572_838)).await.unwrap();
    assert_fails(
        api.try_put(put(1_572_839)).await,
        Code::InvalidArgument,
        "etcdserver: request is too large",
    );
    let status = api.try_put(put(2_097_152)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "grpc: received message larger than max (2097162 vs. 2097152)");
    // A read is not measured.
    let key = Bytes::from(vec![b'k'; 1_800_000]);
    let answer = api.range(RangeRequest { key, ..Default::default() }).await.unwrap();
    assert_eq!(answer.count, 0);
    assert_eq!(api.get("abc").await.unwrap().value.len(), 1_572_838);
}

#[tokio::test]
async fn a_killed_member_comes_back_with_every_acknowledged_write_and_its_revision() {
    let mut api = Api::start().await;
    for value in ["1", "2", "3"] {
        api.put("a", value).await;
    }
    api.put("b", "1").await;
    api.compact(3).await.unwrap();
    api.delete("b", "").await;
    let before = api.range(all()).await.unwrap();
    api.member.kill().unwrap();
    api.member.start_again().await.unwrap();
    api.channel = api.member.connect().await.unwrap();
    let after = api.range(all()).await.unwrap();
    assert_eq!((after.kvs, revision(after.header)), (before.kvs, revision(before.header)));
    assert_fails(api.range(RangeRequest { revision: 2, ..all() }).await, Code::OutOfRange, COMPACTED);
    assert_eq!(api.put("a", "4").await, 7);
}
