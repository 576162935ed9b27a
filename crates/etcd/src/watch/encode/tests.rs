//! A WatchResponse that is put together from shared parts equals what prost would encode.

use bytes::BytesMut;
use dqlited_proto::{etcdserverpb as pb, mvccpb};
use dqlited_store::KeyValue;
use prost::Message as _;

use super::*;

fn kv(key: &str, value_len: usize) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        create_revision: 3,
        mod_revision: 300,
        version: 2,
        value: Bytes::from(vec![b'v'; value_len]),
        lease: -5,
    }
}

fn put(value_len: usize, previous: Previous) -> SharedEvent {
    SharedEvent::new(Event { kind: EventKind::Put, kv: kv("key", value_len), previous })
}

fn encoded(response: &WireResponse) -> pb::WatchResponse {
    let mut out = BytesMut::new();
    response.encode(&mut out);
    assert_eq!(out.len(), response.encoded_len(), "the length is told before the bytes");
    pb::WatchResponse::decode(out.freeze()).expect("it is a WatchResponse")
}

fn wire(kv: &KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue::decode(Bytes::from(kv.encode_to_vec())).unwrap()
}

fn header() -> ResponseHeader {
    ResponseHeader { cluster_id: 1, member_id: u64::MAX, revision: 300, raft_term: 2 }
}

#[test]
fn every_field_arrives_as_etcds_messages_have_it() {
    let before = KeyValue { mod_revision: 200, version: 1, ..kv("key", 40) };
    let put = put(3, Previous::Known(before.clone()));
    let dead = KeyValue { key: Bytes::from_static(b"gone"), mod_revision: 300, ..KeyValue::default() };
    let delete =
        SharedEvent::new(Event { kind: EventKind::Delete, kv: dead.clone(), previous: Previous::None });
    let response = WireResponse {
        header: header(),
        watch_id: -1,
        created: true,
        canceled: true,
        compact_revision: 77,
        cancel_reason: "because",
        fragment: true,
        events: vec![put.encoded(true).clone(), put.encoded(false).clone(), delete.encoded(true).clone()],
    };
    let answer = encoded(&response);
    assert_eq!(answer.header, Some(header()));
    assert_eq!((answer.watch_id, answer.compact_revision), (-1, 77));
    assert_eq!((answer.created, answer.canceled, answer.fragment), (true, true, true));
    assert_eq!(answer.cancel_reason, "because");
    let expected = [
        (0, wire(&kv("key", 3)), Some(wire(&before))),
        (0, wire(&kv("key", 3)), None),
        (1, wire(&dead), None),
    ];
    assert_eq!(answer.events.len(), 3);
    for (event, (kind, kv, previous)) in answer.events.into_iter().zip(expected) {
        assert_eq!((event.r#type, event.kv, event.prev_kv), (kind, Some(kv), previous));
    }
}

#[test]
fn an_answer_without_anything_is_a_header() {
    let response = WireResponse { header: header(), ..Default::default() };
    let plain = pb::WatchResponse { header: Some(header()), ..Default::default() };
    assert_eq!(encoded(&response), plain);
    assert_eq!(response.encoded_len(), plain.encoded_len());
}

#[test]
fn an_event_is_encoded_once_and_shared() {
    let event = put(100, Previous::Known(kv("key", 7)));
    assert_eq!(event.encoded(false).as_ptr(), event.encoded(false).clone().as_ptr());
    assert!(event.encoded(true).len() > event.encoded(false).len());
    let unread = put(100, Previous::NotRead);
    assert_eq!(unread.encoded(true).as_ptr(), unread.encoded(false).as_ptr());
}

/// Three events of 0.5 MB stay together below etcd's bound; with the records before they do not (trap 29).
#[test]
fn an_answer_is_split_at_etcds_bound_and_records_before_count() {
    let bound = 2_097_152;
    let response = |with_previous| {
        let event = put(500_000, Previous::Known(kv("key", 500_000)));
        WireResponse {
            header: header(),
            watch_id: 4,
            events: vec![event.encoded(with_previous).clone(); 3],
            ..Default::default()
        }
    };
    assert_eq!(response(false).split(bound).len(), 1);
    let fragments = response(true).split(bound);
    assert_eq!(fragments.iter().map(|part| part.events.len()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(fragments.iter().map(|part| part.fragment).collect::<Vec<_>>(), [true, false]);
    assert!(fragments.iter().all(|part| part.header == header() && part.watch_id == 4));
}

#[test]
fn the_bound_is_exact_and_each_fragment_has_an_event() {
    let event = put(1000, Previous::None);
    let two = WireResponse {
        header: header(),
        events: vec![event.encoded(false).clone(); 2],
        ..Default::default()
    };
    let size = two.encoded_len();
    assert_eq!(two.clone().split(size + 1).len(), 1);
    assert_eq!(two.clone().split(size).len(), 2);
    let split = two.split(10);
    assert_eq!(split.iter().map(|part| part.events.len()).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn a_key_made_again_in_one_revision_shows_no_record_before() {
    let before = KeyValue { mod_revision: 200, version: 1, ..kv("key", 40) };
    let again = KeyValue { create_revision: 300, version: 1, ..kv("key", 3) };
    let event =
        SharedEvent::new(Event { kind: EventKind::Put, kv: again, previous: Previous::Known(before) });
    assert_eq!(event.encoded(true), event.encoded(false));
}
