//! Changes a call that is not asked as it is. Each function is the deed of one entry of `masked.rs` or `wanted.rs`, where
//! its reason stands, and says whether there was something to change.

use dqlited_proto::etcdserverpb as pb;
use dqlited_proto::etcdserverpb::request_op::Request;

use super::call::Call;
use super::listed::Past;
use super::watch_script::Step;

pub fn limit_among_equals(_: &Past, call: &mut Call) -> bool {
    // By version and revisions there are equal ones, and by value two that are empty.
    let unlimit = |range: &mut pb::RangeRequest| {
        let is_cut = range.limit > 0 && (1..=4).contains(&range.sort_target) && !range.range_end.is_empty();
        if is_cut {
            range.limit = 0;
        }
        is_cut
    };
    match call {
        Call::Range(range) | Call::RangeStream(range) => unlimit(range),
        Call::Txn(txn) => {
            let mut changed = false;
            each_op(txn, &mut |request| {
                if let Request::RequestRange(range) = request {
                    changed |= unlimit(range);
                }
            });
            changed
        }
        _ => false,
    }
}

pub fn unordered_sort_of_chunks(_: &Past, call: &mut Call) -> bool {
    // Of the generator's keys five lie between these: fewer than etcd asks for in its first chunk.
    const FEW: [&[u8]; 2] = [b"a", b"b"];
    match call {
        Call::RangeStream(range)
            if range.sort_target != 0 && !range.range_end.is_empty() && range.range_end[..] != *FEW[1] =>
        {
            (range.key, range.range_end) = (FEW[0].into(), FEW[1].into());
            true
        }
        _ => false,
    }
}

pub fn alarm_beyond(_: &Past, call: &mut Call) -> bool {
    match call {
        Call::Alarm(request) if !(0..=2).contains(&request.action) || !(0..=2).contains(&request.alarm) => {
            *request = pb::AlarmRequest::default();
            true
        }
        _ => false,
    }
}

pub fn ignore_behind_delete(_: &Past, call: &mut Call) -> bool {
    let Call::Txn(txn) = call else { return false };
    if !has_delete_from_key(txn) {
        return false;
    }
    let mut changed = false;
    each_op(txn, &mut |request| {
        if let Request::RequestPut(put) = request {
            changed |= put.ignore_value || put.ignore_lease;
            (put.ignore_value, put.ignore_lease) = (false, false);
        }
    });
    changed
}

pub fn compact_zero(past: &Past, call: &mut Call) -> bool {
    match call {
        Call::Compact(request) if past.compacted < 0 && request.revision <= 0 => {
            request.revision = past.revision;
            true
        }
        _ => false,
    }
}

pub fn compact_at_remade(past: &Past, call: &mut Call) -> bool {
    let Call::Compact(request) = call else { return false };
    let asked = request.revision;
    while past.remade.contains(&request.revision) {
        request.revision -= 1;
    }
    request.revision != asked
}

pub fn hash_at_remade(past: &Past, call: &mut Call) -> bool {
    let Call::HashKv(revision) = call else { return false };
    let hashed = if *revision > 0 { *revision } else { past.revision };
    let is_remade = past.remade.contains(&hashed);
    if is_remade {
        *call = Call::Status;
    }
    is_remade
}

pub fn hash_of_compacted(past: &Past, call: &mut Call) -> bool {
    match call {
        Call::HashKv(revision) if past.compacted_at.contains(revision) => {
            *call = Call::HashKv(0);
            true
        }
        _ => false,
    }
}

pub fn watch_id_of_broadcast(_: &Past, call: &mut Call) -> bool {
    each_create(call, |create| {
        let is_broadcast = create.watch_id == -1;
        if is_broadcast {
            create.watch_id = 0;
        }
        is_broadcast
    })
}

pub fn prev_kv_from_compacted(past: &Past, call: &mut Call) -> bool {
    each_create(call, |create| {
        let lacks = create.prev_kv && create.start_revision == past.compacted;
        create.prev_kv &= !lacks;
        lacks
    })
}

pub fn downgrade(_: &Past, call: &mut Call) -> bool {
    const NONE: &str = "3.4.0";
    match call {
        Call::Downgrade(request)
            if request.action == 1 || request.action == 0 && request.version.starts_with("3.6") =>
        {
            *request = pb::DowngradeRequest { action: 0, version: NONE.into() };
            true
        }
        _ => false,
    }
}

/// Whether a key may be taken by a delete-from-key, which escapes the check for duplicates, and made again.
pub fn has_delete_from_key(txn: &pb::TxnRequest) -> bool {
    ops(txn).any(|request| match request {
        Request::RequestDeleteRange(delete) => &delete.range_end[..] == b"\0",
        Request::RequestTxn(nested) => has_delete_from_key(nested),
        Request::RequestPut(_) | Request::RequestRange(_) => false,
    })
}

fn ops(txn: &pb::TxnRequest) -> impl Iterator<Item = &Request> {
    txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref())
}

fn each_op(txn: &mut pb::TxnRequest, change: &mut impl FnMut(&mut Request)) {
    for request in txn.success.iter_mut().chain(&mut txn.failure).filter_map(|op| op.request.as_mut()) {
        match request {
            Request::RequestTxn(nested) => each_op(nested, change),
            other => change(other),
        }
    }
}

fn each_create(call: &mut Call, mut change: impl FnMut(&mut pb::WatchCreateRequest) -> bool) -> bool {
    let Call::Watch(script) = call else { return false };
    let mut changed = false;
    for step in &mut script.steps {
        if let Step::Create(create) = step {
            changed |= change(create);
        }
    }
    changed
}
