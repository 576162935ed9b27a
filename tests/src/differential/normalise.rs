//! Takes out of an answer what need not be equal. Each function is the deed of one entry of `masked.rs` or `wanted.rs`,
//! where its reason stands; nothing else changes an answer before it is compared.

use dqlited_proto::etcdserverpb as pb;
use dqlited_proto::etcdserverpb::request_op::Request;
use dqlited_proto::etcdserverpb::response_op::Response;
use dqlited_proto::mvccpb;

use super::call::{Answer, Call};
use super::listed::Seeing;
use super::watch_script::{Seen, is_control};

/// Ids that the server chooses are above.
const OWN_LEASES_MAX: i64 = 1 << 32;

/// The answer as text: whole, and a watch's line by line, so that two can be compared so.
pub fn written(answer: &Answer) -> String {
    let Answer::Watch(seen) = answer else { return format!("{answer:?}") };
    let mut lines: Vec<_> = seen.responses.iter().map(|response| format!("response: {response:?}")).collect();
    for (watch, events) in &seen.events {
        lines.extend(events.iter().map(|event| format!("watch {watch}: {event:?}")));
    }
    lines.extend(seen.ended.iter().map(|end| format!("the stream ended{end}")));
    lines.extend(seen.broken.iter().map(|promise| format!("broken: {promise}")));
    lines.extend(seen.writes.iter().map(|write| format!("write: {write}")));
    lines.join("\n")
}

pub fn header_ids(_: &Seeing<'_>, answer: &mut Answer) {
    for header in headers(answer) {
        header.cluster_id = u64::from(header.cluster_id != 0);
        header.member_id = u64::from(header.member_id != 0);
    }
}

pub fn terms(_: &Seeing<'_>, answer: &mut Answer) {
    for header in headers(answer) {
        header.raft_term = u64::from(header.raft_term != 0);
    }
    if let Answer::Status(status) = answer {
        status.raft_term = u64::from(status.raft_term > 0);
    }
}

pub fn own_id(seeing: &Seeing<'_>, answer: &mut Answer) {
    const OWN: u64 = 1;
    let masked = |id: &mut u64| {
        if *id == seeing.self_id {
            *id = OWN;
        }
    };
    match answer {
        Answer::Alarm(answer) => answer.alarms.iter_mut().for_each(|alarm| masked(&mut alarm.member_id)),
        Answer::MemberList(answer) => answer.members.iter_mut().for_each(|member| masked(&mut member.id)),
        Answer::Status(status) => {
            masked(&mut status.leader);
            for error in &mut status.errors {
                *error = error.replace(&seeing.self_id.to_string(), "self");
            }
        }
        _ => {}
    }
}

pub fn chosen_leases(seeing: &Seeing<'_>, answer: &mut Answer) {
    const CHOSEN: i64 = i64::MAX;
    match (seeing.call, answer) {
        (Call::LeaseGrant(request), Answer::LeaseGrant(answer)) if request.id == 0 && answer.id > 0 => {
            answer.id = CHOSEN;
        }
        (_, Answer::LeaseLeases(answer)) => {
            for lease in answer.leases.iter_mut().filter(|lease| lease.id > OWN_LEASES_MAX) {
                lease.id = CHOSEN;
            }
        }
        _ => {}
    }
}

pub fn urls(_: &Seeing<'_>, answer: &mut Answer) {
    if let Answer::MemberList(answer) = answer {
        for url in answer
            .members
            .iter_mut()
            .flat_map(|member| member.peer_ur_ls.iter_mut().chain(&mut member.client_ur_ls))
        {
            *url = "URL".into();
        }
    }
}

pub fn indexes(_: &Seeing<'_>, answer: &mut Answer) {
    if let Answer::Status(status) = answer {
        status.raft_applied_index =
            u64::from(status.raft_applied_index <= status.raft_index && status.raft_applied_index > 0);
        status.raft_index = u64::from(status.raft_index > 0);
    }
}

pub fn sizes(_: &Seeing<'_>, answer: &mut Answer) {
    if let Answer::Status(status) = answer {
        status.db_size = i64::from(status.db_size > 0);
        status.db_size_in_use = i64::from(status.db_size_in_use > 0);
    }
}

pub fn time_left(_: &Seeing<'_>, answer: &mut Answer) {
    if let Answer::LeaseTimeToLive(answer) = answer {
        answer.ttl = answer.ttl.signum();
    }
}

pub fn order_of_leases(_: &Seeing<'_>, answer: &mut Answer) {
    if let Answer::LeaseLeases(answer) = answer {
        answer.leases.sort_by_key(|lease| lease.id);
    }
}

pub fn order_of_lease_keys(_: &Seeing<'_>, answer: &mut Answer) {
    if let Answer::LeaseTimeToLive(answer) = answer {
        answer.keys.sort();
    }
}

pub fn order_of_alarms(_: &Seeing<'_>, answer: &mut Answer) {
    match answer {
        Answer::Alarm(answer) => answer.alarms.sort_by_key(|alarm| (alarm.member_id, alarm.alarm)),
        Answer::Status(status) => status.errors.sort(),
        _ => {}
    }
}

pub fn spaces(_: &Seeing<'_>, answer: &mut Answer) {
    if let Answer::Status(status) = answer {
        for error in &mut status.errors {
            *error = error.split_whitespace().collect::<Vec<_>>().join(" ");
        }
    }
}

/// Keys with an equal sort value, in key order.
pub fn ties(seeing: &Seeing<'_>, answer: &mut Answer) {
    match (seeing.call, answer) {
        (Call::Range(request), Answer::Range(answer)) => ties_of_range(request, answer),
        (Call::Txn(request), Answer::Txn(answer)) => ties_of_txn(request, answer),
        _ => {}
    }
}

fn ties_of_txn(request: &pb::TxnRequest, answer: &mut pb::TxnResponse) {
    let ops = if answer.succeeded { &request.success } else { &request.failure };
    for (op, answer) in ops.iter().zip(&mut answer.responses) {
        match (&op.request, &mut answer.response) {
            (Some(Request::RequestRange(request)), Some(Response::ResponseRange(answer))) => {
                ties_of_range(request, answer);
            }
            (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(answer))) => {
                ties_of_txn(request, answer);
            }
            _ => {}
        }
    }
}

fn ties_of_range(request: &pb::RangeRequest, answer: &mut pb::RangeResponse) {
    let target = request.sort_target;
    let value = |kv: &mvccpb::KeyValue| match target {
        1 => (kv.version, Default::default()),
        2 => (kv.create_revision, Default::default()),
        3 => (kv.mod_revision, Default::default()),
        _ => (0, kv.value.clone()),
    };
    if request.limit <= 0 && (1..=4).contains(&target) {
        answer
            .kvs
            .chunk_by_mut(|a, b| value(a) == value(b))
            .for_each(|equal| equal.sort_by(|a, b| a.key.cmp(&b.key)));
    }
}

/// One chunk of all, if the early ones carry nothing that only the last one may.
pub fn chunks(_: &Seeing<'_>, answer: &mut Answer) {
    let Answer::RangeStream(chunks) = answer else { return };
    if chunks.iter().rev().skip(1).any(|chunk| chunk.header.is_some() || chunk.count != 0 || chunk.more) {
        return;
    }
    let Some(mut last) = chunks.pop() else { return };
    last.kvs = chunks.drain(..).flat_map(|chunk| chunk.kvs).chain(last.kvs).collect();
    chunks.push(last);
}

pub fn stream_order(seeing: &Seeing<'_>, answer: &mut Answer) {
    if let (Call::RangeStream(request), Answer::RangeStream(chunks)) = (seeing.call, answer)
        && request.sort_target != 0
    {
        chunks.iter_mut().for_each(|chunk| chunk.kvs.sort_by(|a, b| a.key.cmp(&b.key)));
    }
}

/// The events of each watch in one list; what is promised of the responses that brought them is looked at first.
pub fn watch_batches(_: &Seeing<'_>, answer: &mut Answer) {
    let Answer::Watch(seen) = answer else { return };
    let (control, with_events) = std::mem::take(&mut seen.responses).into_iter().partition(is_control);
    seen.responses = control;
    for response in with_events {
        take_events(seen, response);
    }
}

fn take_events(seen: &mut Seen, response: pb::WatchResponse) {
    let watch = response.watch_id;
    let current = response.header.unwrap_or_default().revision;
    let revision_of = |event: &mvccpb::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
    let events = seen.events.entry(watch).or_default();
    let first = response.events.first().map_or(0, revision_of);
    let last = response.events.last().map_or(0, revision_of);
    if events.last().is_some_and(|event| revision_of(event) == first) && !response.fragment {
        seen.broken.push(format!("watch {watch}: revision {first} came in two responses"));
    }
    if current < last {
        seen.broken.push(format!("watch {watch}: header {current} below event {last}"));
    }
    events.extend(response.events);
}

/// All headers of an answer.
fn headers(answer: &mut Answer) -> Vec<&mut pb::ResponseHeader> {
    let mut found = Vec::new();
    match answer {
        Answer::Range(a) => found.extend(&mut a.header),
        Answer::RangeStream(chunks) => found.extend(chunks.iter_mut().flat_map(|chunk| &mut chunk.header)),
        Answer::Put(a) => found.extend(&mut a.header),
        Answer::DeleteRange(a) => found.extend(&mut a.header),
        Answer::Txn(a) => headers_of_txn(a, &mut found),
        Answer::Compact(a) => found.extend(&mut a.header),
        Answer::LeaseGrant(a) => found.extend(&mut a.header),
        Answer::LeaseRevoke(a) => found.extend(&mut a.header),
        Answer::LeaseKeepAlive(answers) => found.extend(answers.iter_mut().flat_map(|a| &mut a.header)),
        Answer::LeaseTimeToLive(a) => found.extend(&mut a.header),
        Answer::LeaseLeases(a) => found.extend(&mut a.header),
        Answer::HashKv(a) => found.extend(&mut a.header),
        Answer::Alarm(a) => found.extend(&mut a.header),
        Answer::Status(a) => found.extend(&mut a.header),
        Answer::Defragment(a) => found.extend(&mut a.header),
        Answer::Downgrade(a) => found.extend(&mut a.header),
        Answer::MoveLeader(a) => found.extend(&mut a.header),
        Answer::MemberList(a) => found.extend(&mut a.header),
        Answer::AuthStatus(a) => found.extend(&mut a.header),
        Answer::Lock(a) => found.extend(&mut a.header),
        Answer::Unlock(a) => found.extend(&mut a.header),
        Answer::Campaign(a) => found.extend(&mut a.header),
        Answer::Proclaim(a) => found.extend(&mut a.header),
        Answer::Leader(a) => found.extend(&mut a.header),
        Answer::Resign(a) => found.extend(&mut a.header),
        Answer::Watch(seen) => {
            found.extend(seen.responses.iter_mut().flat_map(|response| &mut response.header))
        }
    }
    found
}

fn headers_of_txn<'a>(txn: &'a mut pb::TxnResponse, found: &mut Vec<&'a mut pb::ResponseHeader>) {
    found.extend(&mut txn.header);
    for response in txn.responses.iter_mut().filter_map(|op| op.response.as_mut()) {
        match response {
            Response::ResponseRange(range) => found.extend(&mut range.header),
            Response::ResponsePut(put) => found.extend(&mut put.header),
            Response::ResponseDeleteRange(delete) => found.extend(&mut delete.header),
            Response::ResponseTxn(nested) => headers_of_txn(nested, found),
        }
    }
}
