//! The two lists are what the run goes by: each entry has its reason and is used, and nothing else is let pass.

use std::collections::BTreeSet;
use std::path::Path;

use dqlited_proto::etcdserverpb as pb;
use dqlited_proto::mvccpb;
use tonic::Status;

use super::call::{Answer, Call};
use super::fixed;
use super::generate::Generator;
use super::listed::{self, AskedForBy, How, Listed, Past, Seeing, Uses};
use super::run::{Reply, difference};
use super::watch_script::{Seen, WatchScript};

const ETCD: u64 = 0xe7cd;
const DQLITED: u64 = 0xd911;

/// What the run says of two replies to a call.
fn said(call: &Call, etcd: Reply, dqlited: Reply, uses: &mut Uses) -> Option<String> {
    let seeing = |self_id| Seeing { call, self_id };
    difference((&seeing(ETCD), &etcd), (&seeing(DQLITED), &dqlited), uses)
}

fn used(uses: &Uses) -> BTreeSet<String> {
    uses.rows().map(|(row, _)| row.clone()).collect()
}

fn header(id: u64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: id, member_id: id + 1, revision: 7, raft_term: id / 1000 })
}

fn kv(key: &'static str, mod_revision: i64) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: key.into(),
        value: "v".into(),
        create_revision: 2,
        mod_revision,
        version: 3,
        lease: 0,
    }
}

/// An answer as the server with this id may give it. Between the two servers everything differs that the lists name.
fn answers(id: u64) -> Vec<(Call, Answer)> {
    let is_etcd = id == ETCD;
    let own_first = |mut both: Vec<pb::AlarmMember>| {
        if is_etcd {
            both.reverse();
        }
        both
    };
    let swapped = |mut kvs: Vec<mvccpb::KeyValue>| {
        if is_etcd {
            kvs.reverse();
        }
        kvs
    };
    let alarm = |member_id| pb::AlarmMember { member_id, alarm: 1 };
    let chunk = |kvs| pb::RangeResponse { kvs, ..Default::default() };
    let last = pb::RangeResponse { header: header(id), count: 2, ..Default::default() };
    let chunks = match is_etcd {
        true => vec![chunk(vec![kv("a", 5)]), chunk(vec![kv("b", 6)]), last],
        false => vec![pb::RangeResponse { kvs: vec![kv("a", 5), kv("b", 6)], ..last }],
    };
    let event = |revision| mvccpb::Event { kv: Some(kv("a", revision)), ..Default::default() };
    let response = |events| pb::WatchResponse { header: header(id), events, ..Default::default() };
    let created = pb::WatchResponse { created: true, ..response(Vec::new()) };
    let events = match is_etcd {
        true => vec![created, response(vec![event(5)]), response(vec![event(6)])],
        false => vec![created, response(vec![event(5), event(6)])],
    };
    let sorted = pb::RangeRequest { sort_target: 1, ..Default::default() };
    let leases = if is_etcd { vec![13, 12, 1 << 40] } else { vec![12, 1 << 41, 13] };
    vec![
        (
            Call::Range(sorted.clone()),
            Answer::Range(pb::RangeResponse {
                header: header(id),
                kvs: swapped(vec![kv("a", 5), kv("b", 6)]),
                ..Default::default()
            }),
        ),
        (Call::RangeStream(Default::default()), Answer::RangeStream(chunks)),
        (
            Call::RangeStream(sorted),
            Answer::RangeStream(vec![pb::RangeResponse {
                header: header(id),
                kvs: swapped(vec![kv("a", 5), kv("b", 6)]),
                ..Default::default()
            }]),
        ),
        (
            Call::LeaseGrant(Default::default()),
            Answer::LeaseGrant(pb::LeaseGrantResponse {
                header: header(id),
                id: id as i64,
                ..Default::default()
            }),
        ),
        (
            Call::LeaseLeases,
            Answer::LeaseLeases(pb::LeaseLeasesResponse {
                header: header(id),
                leases: leases.into_iter().map(|id| pb::LeaseStatus { id }).collect(),
            }),
        ),
        (
            Call::LeaseTimeToLive(Default::default()),
            Answer::LeaseTimeToLive(pb::LeaseTimeToLiveResponse {
                header: header(id),
                ttl: id as i64,
                keys: swapped(vec![kv("a", 5), kv("b", 6)]).into_iter().map(|kv| kv.key).collect(),
                ..Default::default()
            }),
        ),
        (
            Call::HashKv(6),
            Answer::HashKv(pb::HashKvResponse {
                header: header(id),
                hash: 1,
                hash_revision: 6,
                compact_revision: 4,
            }),
        ),
        (
            Call::Alarm(Default::default()),
            Answer::Alarm(pb::AlarmResponse {
                header: header(id),
                alarms: own_first(vec![alarm(77), alarm(id)]),
            }),
        ),
        (
            Call::Status,
            Answer::Status(pb::StatusResponse {
                header: header(id),
                version: "3.7.3".into(),
                db_size: id as i64,
                db_size_in_use: id as i64 - 1,
                leader: id,
                raft_index: id,
                raft_applied_index: id - 1,
                raft_term: id / 1000,
                errors: vec![format!("memberID:{id} {} alarm:NOSPACE", if is_etcd { " " } else { "" })],
                ..Default::default()
            }),
        ),
        (
            Call::MemberList(true),
            Answer::MemberList(pb::MemberListResponse {
                header: header(id),
                members: vec![pb::Member {
                    id,
                    peer_ur_ls: vec![format!("http://127.0.0.1:{id}")],
                    ..Default::default()
                }],
            }),
        ),
        (
            Call::Watch(WatchScript::default()),
            Answer::Watch(Seen { responses: events, ..Default::default() }),
        ),
    ]
}

fn compacted_at_5() -> Past {
    Past { revision: 9, compacted: 5, compacted_at: vec![5], ..Past::fresh() }
}

#[test]
fn each_entry_has_a_reason_a_name_of_its_own_and_who_asks_for_it() {
    let mut names = BTreeSet::new();
    for entry in listed::entries() {
        assert!(names.insert(entry.what), "twice: {}", entry.what);
        assert!(entry.what.len() > 5 && entry.reason.len() > 10, "{entry:?}");
        if let AskedForBy::Note(line) = entry.asked_for_by {
            assert!(line.len() > 20, "{entry:?}");
        }
    }
    assert!(super::masked::MASKED.iter().all(|entry| !matches!(entry.how, How::EndsEtcd(_))));
}

#[test]
fn the_wanted_differences_are_those_of_the_document_and_no_others() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/etcd-api.md");
    let text = std::fs::read_to_string(document).unwrap();
    let text = text.split("## Differences that are wanted").nth(1).unwrap().replace("\n  ", " ");
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    assert!(lines.len() > 10, "{lines:?}");
    let begins = |line: &str, entry: &Listed| {
        entry.documented.is_some_and(|name| line.replace("**", "").starts_with(name))
    };
    for line in &lines {
        assert!(listed::entries().any(|entry| begins(line, entry)), "no entry for: {line}");
    }
    for entry in super::wanted::WANTED {
        assert!(lines.iter().any(|line| begins(line, entry)), "not in the document: {}", entry.what);
    }
}

#[test]
fn what_no_call_meets_is_held_by_a_test_that_exists() {
    fn has(folder: &Path, start: &str) -> bool {
        std::fs::read_dir(folder).unwrap().any(|entry| {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => has(&path, start),
                false => std::fs::read_to_string(&path).is_ok_and(|text| text.contains(start)),
            }
        })
    }
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    for entry in listed::entries() {
        if let How::Elsewhere(test) = entry.how {
            assert!(has(&crates, &format!("fn {test}()")), "{}: no test {test}", entry.what);
        }
    }
}

#[test]
fn each_entry_is_used_and_hides_what_it_names() {
    let mut uses = Uses::default();
    for ((call, etcd), (_, dqlited)) in answers(ETCD).into_iter().zip(answers(DQLITED)) {
        assert_ne!(etcd, dqlited, "{call:?}");
        let said = said(&call, Ok(etcd), Ok(dqlited), &mut uses);
        assert_eq!(said, None);
    }
    // What is not asked: the fixed calls and those of a seed come across all of it, on a store that goes on and is compacted.
    let mut past = Past::fresh();
    let mut generator = Generator::new(1);
    let mut fixed = fixed::calls().into_iter();
    for turn in 0..5000 {
        let call = fixed.next().unwrap_or_else(|| generator.next(&past));
        let asked = listed::askable(call, &past, &mut uses);
        past.revision += 1;
        match asked {
            Call::Compact(request)
                if request.revision > past.compacted && request.revision < past.revision =>
            {
                past.compacted = request.revision;
                past.compacted_at.push(request.revision);
            }
            Call::Txn(_) if turn % 7 == 0 => past.remade.push(past.revision),
            _ => {}
        }
    }
    let met: BTreeSet<String> = listed::entries().filter(|entry| entry.is_met()).map(Listed::row).collect();
    assert_eq!(used(&uses), met);
}

#[test]
fn what_would_end_etcd_is_asked_in_another_form() {
    let end_etcd = |entry: &&Listed| matches!(entry.how, How::EndsEtcd(_));
    let past = Past { remade: vec![8], ..compacted_at_5() };
    let put = pb::PutRequest { key: "k".into(), ignore_value: true, ..Default::default() };
    let delete = pb::DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), prev_kv: false };
    let op = |request| pb::RequestOp { request: Some(request) };
    use pb::request_op::Request;
    let nested = pb::TxnRequest { failure: vec![op(Request::RequestPut(put))], ..Default::default() };
    let success = vec![op(Request::RequestDeleteRange(delete)), op(Request::RequestTxn(nested))];
    let deadly = [
        Call::Alarm(pb::AlarmRequest { action: 3, ..Default::default() }),
        Call::Txn(pb::TxnRequest { success, ..Default::default() }),
        Call::Compact(pb::CompactionRequest { revision: 8, physical: false }),
    ];
    let mut uses = Uses::default();
    for call in &deadly {
        let asked = listed::askable(call.clone(), &past, &mut uses);
        assert_ne!(format!("{asked:?}"), format!("{call:?}"));
        let again = listed::askable(asked.clone(), &past, &mut Uses::default());
        assert_eq!(format!("{asked:?}"), format!("{again:?}"));
    }
    assert_eq!(used(&uses), listed::entries().filter(end_etcd).map(Listed::row).collect());
}

#[test]
fn a_difference_that_stands_in_no_list_is_red() {
    type Change = fn(&mut Answer);
    let changes: &[(&str, Change)] = &[
        ("a value", |answer| {
            if let Answer::Range(a) = answer {
                a.kvs[0].value = "other".into()
            }
        }),
        ("a key is missing", |answer| {
            if let Answer::Range(a) = answer {
                a.kvs.truncate(1)
            }
        }),
        ("a header's revision", |answer| match answer {
            Answer::Range(a) => a.header.iter_mut().for_each(|header| header.revision += 1),
            Answer::Watch(seen) => {
                seen.responses[0].header.iter_mut().for_each(|header| header.revision += 1);
            }
            _ => {}
        }),
        ("no header", |answer| {
            if let Answer::LeaseGrant(a) = answer {
                a.header = None
            }
        }),
        ("an empty id", |answer| match answer {
            Answer::HashKv(a) => a.header.iter_mut().for_each(|header| header.member_id = 0),
            Answer::LeaseGrant(a) => a.id = 0,
            _ => {}
        }),
        ("an early header", |answer| {
            if let Answer::RangeStream(chunks) = answer {
                let early = pb::RangeResponse { header: header(1), ..Default::default() };
                chunks.insert(0, early);
            }
        }),
        ("the order of a stream", |answer| {
            if let Answer::RangeStream(chunks) = answer {
                chunks.last_mut().unwrap().kvs.truncate(1);
            }
        }),
        ("a lease too many", |answer| {
            if let Answer::LeaseLeases(a) = answer {
                a.leases.push(pb::LeaseStatus { id: 1 << 50 });
            }
        }),
        ("a lease that has ended", |answer| {
            if let Answer::LeaseTimeToLive(a) = answer {
                a.ttl = -1
            }
        }),
        ("a hash", |answer| {
            if let Answer::HashKv(a) = answer {
                a.hash += 1
            }
        }),
        ("another's alarm", |answer| {
            if let Answer::Alarm(a) = answer {
                a.alarms[0].member_id = 78
            }
        }),
        ("applied before it is in the log", |answer| {
            if let Answer::Status(a) = answer {
                a.raft_applied_index = a.raft_index + 1;
            }
        }),
        ("another's lead", |answer| {
            if let Answer::Status(a) = answer {
                a.leader = 78
            }
        }),
        ("a version", |answer| {
            if let Answer::Status(a) = answer {
                a.version = "3.7.2".into()
            }
        }),
        ("a URL too few", |answer| {
            if let Answer::MemberList(a) = answer {
                a.members[0].peer_ur_ls.clear()
            }
        }),
        ("an event missing", |answer| {
            if let Answer::Watch(seen) = answer {
                seen.responses.last_mut().unwrap().events.pop();
            }
        }),
        ("a revision in two responses", |answer| {
            if let Answer::Watch(seen) = answer {
                let again = seen.responses.last().unwrap().clone();
                seen.responses.push(again);
            }
        }),
        ("an answer to a cancel", |answer| {
            if let Answer::Watch(seen) = answer {
                seen.responses.push(pb::WatchResponse { canceled: true, ..Default::default() });
            }
        }),
    ];
    for (name, change) in changes {
        let mut planted = 0;
        for ((call, etcd), (_, mut dqlited)) in answers(ETCD).into_iter().zip(answers(DQLITED)) {
            let before = dqlited.clone();
            change(&mut dqlited);
            let is_planted = dqlited != before;
            planted += u32::from(is_planted);
            let said = said(&call, Ok(etcd), Ok(dqlited), &mut Uses::default());
            assert_eq!(said.is_some(), is_planted, "{name}: {said:?}");
        }
        assert!(planted > 0, "{name}");
    }
}

#[test]
fn an_error_with_another_code_or_text_is_red() {
    let call = Call::Put(Default::default());
    let reply = |status: Status| -> Reply { Err(status) };
    let said = |ours| {
        let etcd = reply(Status::invalid_argument("etcdserver: key is not provided"));
        said(&call, etcd, ours, &mut Uses::default())
    };
    assert_eq!(said(reply(Status::invalid_argument("etcdserver: key is not provided"))), None);
    assert!(said(reply(Status::internal("etcdserver: key is not provided"))).is_some());
    let found = said(reply(Status::invalid_argument("key is not provided"))).unwrap();
    assert!(found.contains("etcd:    InvalidArgument: etcdserver: key is not provided"), "{found}");
    assert!(said(Ok(Answer::Put(Default::default()))).is_some());
}
