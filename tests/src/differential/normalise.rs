//! Turns an answer into text in which only what must be equal is left. Each mask stands with its reason.

use dqlited_proto::etcdserverpb as pb;
use dqlited_proto::etcdserverpb::response_op::Response;
use tonic::Status;

use super::call::{Answer, Call};

/// What both servers have gone through, as far as a mask needs it.
#[derive(Debug, Default)]
pub struct Past {
    /// Revisions that were compacted to: etcd answers HashKV at these from a cache under the compact revision before.
    pub compacted_at: Vec<i64>,
}

/// The comparable text of an answer.
pub fn text(call: &Call, answer: &Result<Answer, Status>, past: &Past, self_id: u64) -> String {
    match answer {
        Ok(answer) => answer_text(call, answer.clone(), past, self_id),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// Ids and terms of two clusters differ, whether they are filled in must not.
fn header(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        header.cluster_id = u64::from(header.cluster_id != 0);
        header.member_id = u64::from(header.member_id != 0);
        header.raft_term = u64::from(header.raft_term != 0);
    }
}

fn range(request: &pb::RangeRequest, answer: &mut pb::RangeResponse) {
    header(&mut answer.header);
    // Equal sort values: etcd's sort is not stable.
    let target = request.sort_target;
    if request.limit <= 0 && (1..=4).contains(&target) {
        let mut begin = 0;
        while begin < answer.kvs.len() {
            let value = |kv: &dqlited_proto::mvccpb::KeyValue| match target {
                1 => (kv.version, Default::default()),
                2 => (kv.create_revision, Default::default()),
                3 => (kv.mod_revision, Default::default()),
                _ => (0, kv.value.clone()),
            };
            let same =
                answer.kvs[begin..].iter().take_while(|kv| value(kv) == value(&answer.kvs[begin])).count();
            answer.kvs[begin..begin + same].sort_by(|a, b| a.key.cmp(&b.key));
            begin += same;
        }
    }
}

fn txn(answer: &mut pb::TxnResponse) {
    header(&mut answer.header);
    for response in &mut answer.responses {
        match &mut response.response {
            Some(Response::ResponseRange(range)) => header(&mut range.header),
            Some(Response::ResponsePut(put)) => header(&mut put.header),
            Some(Response::ResponseDeleteRange(delete)) => header(&mut delete.header),
            Some(Response::ResponseTxn(nested)) => txn(nested),
            None => {}
        }
    }
}

fn answer_text(call: &Call, answer: Answer, past: &Past, self_id: u64) -> String {
    match answer {
        Answer::Range(mut a) => {
            if let Call::Range(request) = call {
                range(request, &mut a);
            }
            format!("{a:?}")
        }
        Answer::RangeStream(chunks) => {
            let sorted = matches!(call, Call::RangeStream(request) if request.sort_target != 0);
            stream_text(chunks, sorted)
        }
        Answer::Put(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::DeleteRange(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::Txn(mut a) => {
            txn(&mut a);
            format!("{a:?}")
        }
        Answer::Compact(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::LeaseGrant(mut a) => {
            header(&mut a.header);
            // Chosen by chance when the request leaves it open.
            if matches!(call, Call::LeaseGrant(request) if request.id == 0) {
                a.id = i64::from(a.id > 0);
            }
            format!("{a:?}")
        }
        Answer::LeaseRevoke(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::LeaseKeepAlive(mut answers) => {
            answers.iter_mut().for_each(|a| header(&mut a.header));
            format!("{answers:?}")
        }
        Answer::LeaseTimeToLive(mut a) => {
            header(&mut a.header);
            // Time left depends on the clock; keys have no order in etcd.
            a.ttl = a.ttl.signum();
            a.keys.sort();
            format!("{a:?}")
        }
        Answer::LeaseLeases(mut a) => {
            header(&mut a.header);
            // Sorted by expiry, which depends on the clock; ids chosen by chance (above 2^32) only count.
            let chosen = a.leases.iter().filter(|lease| lease.id > 1 << 32).count();
            a.leases.retain(|lease| lease.id <= 1 << 32);
            a.leases.sort_by_key(|lease| lease.id);
            format!("{a:?} and {chosen} chosen by the server")
        }
        Answer::HashKv(mut a) => {
            header(&mut a.header);
            if past.compacted_at.contains(&a.hash_revision) {
                a.compact_revision = 0;
            }
            format!("{a:?}")
        }
        Answer::Alarm(mut a) => {
            header(&mut a.header);
            for alarm in &mut a.alarms {
                if alarm.member_id == self_id {
                    alarm.member_id = 1;
                }
            }
            a.alarms.sort_by_key(|alarm| (alarm.member_id, alarm.alarm));
            format!("{a:?}")
        }
        Answer::Status(mut a) => {
            header(&mut a.header);
            // Sizes, indexes and terms are the engine's own.
            a.db_size = i64::from(a.db_size > 0);
            a.db_size_in_use = i64::from(a.db_size_in_use > 0);
            a.raft_applied_index =
                u64::from(a.raft_applied_index <= a.raft_index && a.raft_applied_index > 0);
            a.raft_index = u64::from(a.raft_index > 0);
            a.raft_term = u64::from(a.raft_term > 0);
            a.leader = u64::from(a.leader == self_id);
            for error in &mut a.errors {
                // The number of spaces between the fields is not stable in etcd.
                *error = error.replace(&self_id.to_string(), "self");
                *error = error.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            // By member id in etcd, which differs.
            a.errors.sort();
            format!("{a:?}")
        }
        Answer::Defragment(a) => format!("{a:?}"),
        Answer::Downgrade(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::MoveLeader(a) => format!("{a:?}"),
        Answer::MemberList(mut a) => {
            header(&mut a.header);
            for member in &mut a.members {
                member.id = u64::from(member.id == self_id);
                // Ports differ.
                member.peer_ur_ls = vec![format!("{} peer URLs", member.peer_ur_ls.len())];
                member.client_ur_ls = vec![format!("{} client URLs", member.client_ur_ls.len())];
            }
            format!("{a:?}")
        }
        Answer::AuthStatus(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::Lock(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::Unlock(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::Campaign(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::Proclaim(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::Leader(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::Resign(mut a) => {
            header(&mut a.header);
            format!("{a:?}")
        }
        Answer::Watch(seen) => watch_text(&seen),
    }
}

/// Another chunking is legal: what counts is the order, that only the last chunk has header, count and more, and that
/// there is a last one. `sorted`: the request has a sort target without an order; etcd sorts within each of its chunks,
/// which is no order of the whole, and dqlited keeps key order.
fn stream_text(mut chunks: Vec<pb::RangeResponse>, sorted: bool) -> String {
    let Some(mut last) = chunks.pop() else { return "no chunk at all".into() };
    let early = chunks.iter().any(|chunk| chunk.header.is_some() || chunk.count != 0 || chunk.more);
    let mut kvs: Vec<_> = chunks.into_iter().flat_map(|chunk| chunk.kvs).collect();
    kvs.append(&mut last.kvs);
    if sorted {
        kvs.sort_by(|a, b| a.key.cmp(&b.key));
    }
    header(&mut last.header);
    format!("early header {early}, last {last:?}, kvs {kvs:?}")
}

/// A line for each message and event, so that two can be compared line by line.
fn watch_text(seen: &super::watch_script::Seen) -> String {
    let mut lines = seen.control.clone();
    for (watch, events) in &seen.events {
        lines.extend(events.iter().map(|event| format!("watch {watch}: {event:?}")));
    }
    lines.extend(seen.broken.iter().map(|promise| format!("broken: {promise}")));
    lines.extend(seen.writes.iter().map(|write| format!("write: {write}")));
    lines.join("\n")
}
