//! Compaction: what it refuses, keeps and hides, whether or not the deleting behind it has run.

use dqlited_store::CommandError;
use dqlited_store::command::{Kind, OpKind, Put, Txn};
use dqlited_store::event::Previous;
use dqlited_store::read::ReadError;

use crate::bed::*;

/// Runs the check before and after the records are deleted.
fn both(bed: &mut Bed, check: impl Fn(&mut Bed)) {
    check(bed);
    bed.writer.compact_step(1).expect("a step");
    bed.writer.commit().expect("committed");
    check(bed);
    bed.delete_compacted();
    check(bed);
}

#[test]
fn compact_takes_what_lies_between_the_last_one_and_now() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.put("a", "2");
    assert_eq!(bed.compact(4), Err(CommandError::FutureRevision));
    assert_eq!(bed.compact(-1), Err(CommandError::Compacted));
    bed.compact(0).expect("Compact(0) on a store never compacted");
    assert_eq!(bed.compact(0), Err(CommandError::Compacted));
    bed.compact(3).expect("at the current revision");
    assert_eq!(bed.compact(3), Err(CommandError::Compacted), "trap 24");
    both(&mut bed, |bed| {
        assert!(bed.get_at("a", 3).expect("readable").is_some());
        assert!(matches!(bed.get_at("a", 2), Err(ReadError::Compacted)));
        assert!(matches!(bed.events(2), Err(ReadError::Compacted)));
    });
}

#[test]
fn at_the_compact_revision_everything_reads_as_before() {
    let mut bed = Bed::new();
    for round in 0..4 {
        for key in ["a", "b", "c"] {
            bed.put(key, &round.to_string());
        }
    }
    bed.delete("b", "");
    bed.put("c", "last");
    let revision = 10;
    let query = || dqlited_store::command::RangeQuery { revision, ..all() };
    let before = bed.range(query()).expect("readable");
    bed.compact(revision).expect("compacted");
    both(&mut bed, |bed| assert_eq!(bed.range(query()).expect("readable"), before));
}

#[test]
fn a_tombstone_at_the_compact_revision_stays_for_watchers_until_the_next_compaction() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.put("b", "1");
    bed.delete("a", "");
    let count = |bed: &mut Bed| {
        let mut count = 0;
        bed.view(|view| {
            view.history(&mut |_| {
                count += 1;
                Ok(())
            })
        })
        .expect("history");
        count
    };
    assert_eq!(count(&mut bed), 3);
    bed.compact(4).expect("compacted");
    both(&mut bed, |bed| {
        assert_eq!(kinds(&bed.events(4).expect("events").events).len(), 1, "trap 23");
        assert_eq!(count(bed), 2);
    });
    bed.put("b", "2");
    bed.compact(5).expect("compacted");
    both(&mut bed, |bed| {
        assert_eq!(count(bed), 1);
        assert!(bed.get("a").is_none());
    });
    bed.put("a", "born again");
    assert_eq!(bed.get("a").expect("a").version, 1);
}

#[test]
fn a_key_born_again_has_no_record_before_once_its_tombstone_is_compacted() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.delete("a", "");
    bed.put("b", "1");
    bed.put("a", "2");
    bed.put("a", "3");
    bed.compact(4).expect("compacted");
    both(&mut bed, |bed| {
        let events = bed.events(5).expect("events").events;
        assert_eq!(events[0].previous, Previous::None);
        assert!(matches!(&events[1].previous, Previous::Known(kv) if kv.mod_revision == 5), "{events:?}");
    });
}

#[test]
fn at_the_compact_revision_the_record_before_cannot_be_said() {
    let mut bed = Bed::new();
    bed.put("a", "1");
    bed.put("a", "2");
    bed.put("b", "1");
    for (revision, expected) in [(3, Previous::NotRead), (4, Previous::None)] {
        bed.compact(revision).expect("compacted");
        both(&mut bed, |bed| assert_eq!(bed.events(revision).expect("events").events[0].previous, expected));
    }
}

#[test]
fn hash_is_the_same_before_while_and_after_deleting() {
    let mut bed = Bed::new();
    for key in ["a", "b", "c"] {
        bed.put(key, "1");
        bed.put(key, "2");
    }
    bed.delete("b", "");
    bed.put("c", "3");
    for revision in [5, 8] {
        bed.compact(revision).expect("compacted");
        let hashes = |bed: &mut Bed| -> Vec<u32> { (revision..=9).map(|at| bed.hash(at)).collect() };
        let before = hashes(&mut bed);
        both(&mut bed, |bed| assert_eq!(hashes(bed), before));
    }
}

#[test]
fn hash_of_known_stores_is_the_one_that_etcd_gives() {
    // An empty etcd answers crc32c("key").
    let mut bed = Bed::new();
    assert_eq!(bed.hash(0), crc32c_of(b"key"));
    // One put, encoded by hand: 17-byte key, then the proto3 record.
    bed.put("a", "v");
    let mut bytes = b"key".to_vec();
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 2, b'_', 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[0x0a, 1, b'a', 0x10, 2, 0x18, 2, 0x20, 1, 0x2a, 1, b'v']);
    assert_eq!(bed.hash(0), crc32c_of(&bytes));
    bed.delete("a", "");
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3, b'_', 0, 0, 0, 0, 0, 0, 0, 0, b't', 0x0a, 1, b'a']);
    assert_eq!(bed.hash(0), crc32c_of(&bytes));
}

/// The values are those of etcd 3.7, given the same requests by etcdctl.
#[test]
fn hash_over_leases_tombstones_and_compactions_is_the_one_that_etcd_gives() {
    let mut bed = Bed::new();
    let lease = 0x3e01_a20d_554d_bd06;
    assert_eq!(bed.hash(0), 1_084_519_789);
    bed.put("a", "1");
    bed.put("b", "2");
    bed.put("a", "3");
    bed.run(grant(lease, 10_000)).expect("granted");
    bed.run(Kind::Put(Put { lease, ..put_of("l", "v") })).expect("put");
    assert_eq!(bed.hash(0), 3_308_493_785);
    let txn = Txn {
        success: vec![op(OpKind::Put(put_of("c", "5"))), op(OpKind::DeleteRange(delete_of("b", "")))],
        ..Txn::default()
    };
    bed.txn(txn).expect("a txn");
    assert_eq!(bed.hash(0), 3_728_204_234);
    bed.delete("a", "");
    bed.put("a", "new");
    let hashes =
        |bed: &mut Bed, revisions: &[i64]| revisions.iter().map(|at| bed.hash(*at)).collect::<Vec<_>>();
    assert_eq!(hashes(&mut bed, &[0, 3, 5]), [536_825_125, 1_827_592_406, 3_308_493_785]);
    // At the compact revision itself etcd answers from a cache of its own; above it the values can be compared.
    bed.compact(6).expect("compacted");
    both(&mut bed, |bed| assert_eq!(hashes(bed, &[7, 8]), [3_873_935_470, 3_331_386_052]));
    bed.compact(7).expect("compacted");
    both(&mut bed, |bed| assert_eq!(hashes(bed, &[8]), [430_263_142]));
    assert_eq!(bed.delete("\0", "\0"), (3, 9));
    both(&mut bed, |bed| assert_eq!(hashes(bed, &[9]), [582_173_604], "no key is left"));
    bed.compact(9).expect("compacted");
    bed.put("q", "1");
    bed.compact(10).expect("compacted");
    both(&mut bed, |bed| assert_eq!(hashes(bed, &[10]), [3_737_534_284]));
}

/// Castagnoli, bit by bit: independent of the crate that the store uses.
fn crc32c_of(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
