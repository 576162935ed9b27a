//! Rows that chance would seldom hit: sizes at the limits and sequences whose order matters.

use bytes::Bytes;
use dqlited_proto::etcdserverpb as pb;
use dqlited_proto::etcdserverpb::request_op::Request;
use dqlited_proto::v3electionpb as election;
use dqlited_proto::v3lockpb as lock;

use super::call::Call;

/// About the largest value that etcd takes with a key of 3 bytes and default limits. The exact bound moves by some bytes
/// with the random id that etcd puts into the record, so the rows stay clear of it.
const VALUE_BYTES_MAX: usize = 1_572_800;
const VALUE_BYTES_OVER: usize = 1_572_900;

fn put(key: &'static str, value: impl Into<Bytes>) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn txn(success: Vec<pb::RequestOp>) -> Call {
    Call::Txn(pb::TxnRequest { success, ..Default::default() })
}

fn delete(key: &'static str, range_end: &'static str) -> pb::RequestOp {
    op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        prev_kv: true,
    }))
}

fn nested(success: Vec<pb::RequestOp>) -> pb::RequestOp {
    op(Request::RequestTxn(pb::TxnRequest { success, ..Default::default() }))
}

fn puts(count: usize) -> Vec<pb::RequestOp> {
    (0..count)
        .map(|n| {
            let key = format!("many/{n}").into();
            op(Request::RequestPut(pb::PutRequest { key, value: "v".into(), ..Default::default() }))
        })
        .collect()
}

/// What Lock and Election refuse is what KV refuses of the transactions that they are made of.
fn locks_and_elections() -> Vec<Call> {
    const LEASE: i64 = 506;
    let campaign = |bytes: usize| {
        let value = vec![b'x'; bytes].into();
        Call::Campaign(election::CampaignRequest { name: "e".into(), lease: LEASE, value })
    };
    let lock = |bytes: usize| Call::Lock(lock::LockRequest { name: vec![b'l'; bytes].into(), lease: LEASE });
    let proclaim = |leader: election::LeaderKey, bytes: usize| {
        let value = vec![b'y'; bytes].into();
        Call::Proclaim(election::ProclaimRequest { leader: Some(leader), value })
    };
    let leader = |key: &'static str| election::LeaderKey { key: key.into(), ..Default::default() };
    let resign = |leader| Call::Resign(election::ResignRequest { leader: Some(leader) });
    vec![
        // Without a key, and of a key that does not exist: its revision is 0.
        proclaim(leader(""), 1),
        proclaim(election::LeaderKey { rev: 5, ..leader("") }, 1),
        resign(leader("")),
        resign(election::LeaderKey { rev: 5, ..leader("") }),
        proclaim(election::LeaderKey { lease: 77, ..leader("self-made") }, 1),
        resign(leader("self-made")),
        Call::Leader(Default::default()),
        Call::LeaseGrant(pb::LeaseGrantRequest { ttl: 1000, id: LEASE }),
        // The key stands in such a transaction twice beside the value, a lock's name seven times.
        campaign(VALUE_BYTES_OVER),
        campaign(2_000_000),
        campaign(VALUE_BYTES_MAX - 100),
        proclaim(election::LeaderKey { lease: LEASE, rev: 1, ..leader("e/1fa") }, VALUE_BYTES_OVER),
        lock(224_600),
        lock(224_800),
        lock(700_000),
        lock(1_000_000),
        Call::Unlock(lock::UnlockRequest { key: vec![b'k'; 1_700_000].into() }),
        Call::LeaseRevoke(pb::LeaseRevokeRequest { id: LEASE }),
        Call::HashKv(0),
    ]
}

/// The calls, in order; the store is fresh before the first.
pub fn calls() -> Vec<Call> {
    let mut calls = vec![
        Call::Range(pb::RangeRequest { key: "nothing".into(), ..Default::default() }),
        Call::HashKv(0),
        Call::Range(pb::RangeRequest { key: "nothing".into(), revision: 1, ..Default::default() }),
        Call::Range(pb::RangeRequest { key: "nothing".into(), revision: 2, ..Default::default() }),
        Call::Compact(pb::CompactionRequest::default()),
        Call::Put(put("big", vec![b'x'; VALUE_BYTES_MAX])),
        Call::Put(put("big", vec![b'x'; VALUE_BYTES_OVER])),
        Call::Put(put("big", vec![b'x'; 2_097_152])),
        Call::Put(put("big", "small again")),
        // Operations: nested ones get what is left, siblings do not add up.
        txn(puts(128)),
        txn(puts(129)),
        txn(puts(64).into_iter().chain([nested(puts(0)), nested(puts(0))]).collect()),
        txn(puts(126).into_iter().chain([nested(vec![delete("x", "")])]).collect()),
        txn(puts(127).into_iter().chain([nested(vec![delete("x", "")])]).collect()),
        // Duplicates, each row of etcd's rules.
        txn(vec![op(Request::RequestPut(put("k", "1"))), op(Request::RequestPut(put("k", "2")))]),
        txn(vec![op(Request::RequestPut(put("k", "1"))), delete("k", "")]),
        txn(vec![delete("j", "l"), op(Request::RequestPut(put("k", "1")))]),
        txn(vec![delete("j", "\0"), op(Request::RequestPut(put("k", "1")))]),
        txn(vec![delete("a", "z"), delete("b", "y")]),
        txn(vec![op(Request::RequestPut(put("k", "1"))), nested(vec![delete("k", "")])]),
        txn(vec![
            op(Request::RequestPut(put("k", "1"))),
            nested(vec![op(Request::RequestPut(put("k", "2")))]),
        ]),
        txn(vec![nested(vec![op(Request::RequestPut(put("k", "1")))]), delete("k", "")]),
        txn(vec![
            nested(vec![op(Request::RequestPut(put("k", "1")))]),
            nested(vec![op(Request::RequestPut(put("k", "2")))]),
        ]),
        txn(vec![nested(vec![delete("k", "")]), nested(vec![op(Request::RequestPut(put("k", "2")))])]),
        // A key put and then deleted at one revision.
        txn(vec![nested(vec![op(Request::RequestPut(put("k", "1")))]), nested(vec![delete("k", "")])]),
        Call::Range(pb::RangeRequest { key: "k".into(), ..Default::default() }),
        Call::HashKv(0),
        Call::LeaseGrant(pb::LeaseGrantRequest { ttl: 0, id: 501 }),
        Call::LeaseGrant(pb::LeaseGrantRequest { ttl: -5, id: 502 }),
        Call::LeaseRevoke(pb::LeaseRevokeRequest { id: 501 }),
        Call::LeaseRevoke(pb::LeaseRevokeRequest { id: 502 }),
        Call::LeaseRevoke(pb::LeaseRevokeRequest { id: 503 }),
        Call::LeaseKeepAlive(vec![503, 0]),
        Call::Proclaim(Default::default()),
        Call::Leader(dqlited_proto::v3electionpb::LeaderRequest { name: "nobody".into() }),
        Call::Resign(Default::default()),
        Call::Unlock(Default::default()),
        Call::MoveLeaderToSelf,
        Call::MoveLeader(4),
        Call::Downgrade(pb::DowngradeRequest { action: 2, version: String::new() }),
        Call::Alarm(pb::AlarmRequest::default()),
    ];
    // What is not asked as it stands.
    calls.push(Call::Alarm(pb::AlarmRequest { action: 9, ..Default::default() }));
    calls.push(txn(vec![
        delete("k", "\0"),
        op(Request::RequestPut(pb::PutRequest { ignore_value: true, ..put("k", "") })),
    ]));
    calls.push(txn((0..45).fold(Vec::new(), |ops, _| vec![nested(ops)])));
    calls.push(Call::Downgrade(pb::DowngradeRequest { action: 1, version: "3.6.0".into() }));
    calls.push(Call::Downgrade(pb::DowngradeRequest { action: 0, version: "not a version".into() }));
    // The keys of a lease, and the alarms of two members.
    calls.push(Call::LeaseGrant(pb::LeaseGrantRequest { ttl: 1000, id: 505 }));
    for key in ["l1", "l2", "l3", "l4", "l5", "l6", "l7"] {
        calls.push(Call::Put(pb::PutRequest { lease: 505, ..put(key, "v") }));
    }
    calls.push(Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id: 505, keys: true }));
    calls.push(Call::LeaseRevoke(pb::LeaseRevokeRequest { id: 505 }));
    calls.push(Call::Alarm(pb::AlarmRequest { action: 1, member_id: 77, alarm: 1 }));
    calls.push(Call::AlarmOfSelf(1, 1));
    calls.push(Call::Alarm(pb::AlarmRequest::default()));
    calls.push(Call::AlarmOfSelf(2, 1));
    calls.push(Call::Alarm(pb::AlarmRequest { action: 2, member_id: 77, alarm: 1 }));
    calls.extend(locks_and_elections());
    // Many keys that a sort finds equal.
    calls.push(txn(puts(128)));
    for limit in [0, 5] {
        calls.push(Call::Range(pb::RangeRequest {
            key: "many/".into(),
            range_end: "many0".into(),
            sort_order: 2,
            sort_target: 1,
            limit,
            ..Default::default()
        }));
    }
    // A long list in chunks.
    calls.push(Call::RangeStream(pb::RangeRequest {
        key: "many/".into(),
        range_end: "many0".into(),
        ..Default::default()
    }));
    calls.push(Call::RangeStream(pb::RangeRequest {
        key: "many/".into(),
        range_end: "many0".into(),
        limit: 47,
        ..Default::default()
    }));
    // By value the other way round than by key, in an interval that fits into a chunk and in a larger one.
    for (key, value) in [("a", "3"), ("a/1", "2"), ("ab", "1")] {
        calls.push(Call::Put(put(key, value)));
    }
    for end in ["b", "z"] {
        calls.push(Call::RangeStream(pb::RangeRequest {
            key: "a".into(),
            range_end: end.into(),
            sort_target: 4,
            ..Default::default()
        }));
    }
    // NOSPACE blocks a transaction with a put only in the other branch; deletes pass.
    calls.push(Call::AlarmOfSelf(1, 1));
    calls.push(Call::Put(put("k", "1")));
    calls.push(Call::Txn(pb::TxnRequest {
        failure: vec![op(Request::RequestPut(put("k", "1")))],
        ..Default::default()
    }));
    calls.push(txn(vec![delete("many/1", "")]));
    calls.push(Call::LeaseGrant(pb::LeaseGrantRequest { ttl: 1000, id: 504 }));
    calls.push(Call::LeaseGrant(pb::LeaseGrantRequest { ttl: 9_000_000_001, id: 504 }));
    calls.push(Call::Status);
    calls.push(Call::AlarmOfSelf(2, 1));
    calls.push(Call::AlarmOfSelf(1, 2));
    calls.push(Call::Put(put("k", "1")));
    calls.push(txn(vec![delete("many/1", "")]));
    calls.push(Call::Compact(pb::CompactionRequest { revision: 2, physical: false }));
    calls.push(Call::Range(pb::RangeRequest { key: "k".into(), ..Default::default() }));
    calls.push(Call::HashKv(0));
    calls.push(Call::AlarmOfSelf(2, 2));
    calls.push(Call::Alarm(pb::AlarmRequest::default()));
    calls
}
