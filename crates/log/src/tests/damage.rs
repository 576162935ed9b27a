//! Damage to what was durable is refused in words; what was cut short is not.

use std::sync::Arc;

use super::{entry, id, open, run, small};
use crate::format::{BATCH_HEADER_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, Salt, SegmentHeader};
use crate::testing::{Chance, CrashDisk};
use crate::{Disk, Log, LogError, LogOptions, Operation, Vote};

const ENTRIES: u64 = 40;

/// A log of several segments that was ended cleanly.
fn written() -> CrashDisk {
    let disk = CrashDisk::new();
    let (log, mut writer) = open(&disk, small()).unwrap();
    for index in 0..ENTRIES {
        run(&log, &mut writer, Operation::Append(vec![entry(1, index, (index * 7) as usize)])).unwrap();
        if index % 10 == 3 {
            let vote = Vote { term: index, node: 1, committed: false };
            run(&log, &mut writer, Operation::SaveVote(vote)).unwrap();
        }
    }
    writer.finish().unwrap();
    disk.kill()
}

fn segments(disk: &CrashDisk) -> Vec<String> {
    let mut names: Vec<_> =
        disk.list().unwrap().into_iter().filter(|name| name.starts_with("segment-")).collect();
    names.sort();
    assert!(names.len() > 3, "{names:?}");
    names
}

/// Where each batch of a segment begins and what its records take.
fn batches(bytes: &[u8]) -> Vec<(usize, usize)> {
    let header = SegmentHeader::decode(bytes[..SEGMENT_HEADER_BYTES].try_into().unwrap()).unwrap();
    let mut found = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(batch) = bytes.get(at..).and_then(|rest| BatchHeader::decode(Salt::new(header.salt), rest))
    {
        found.push((at, BATCH_HEADER_BYTES + batch.body_bytes as usize));
        at += batch.extent() as usize;
    }
    found
}

fn open_error(disk: &CrashDisk) -> LogError {
    open(disk, small()).err().expect("the damage is refused")
}

#[test]
fn any_flipped_bit_in_what_was_durable_is_refused_with_its_file_and_index() {
    let disk = written();
    let mut flips = 0;
    for name in segments(&disk) {
        let bytes = disk.bytes(&name).unwrap();
        let head = (0, 124);
        for (at, (start, length)) in std::iter::once(head).chain(batches(&bytes)).enumerate() {
            for offset in start..start + length {
                let damaged = disk.kill();
                damaged.flip(&name, offset as u64, 1 << (offset % 8));
                let error = open_error(&damaged);
                match &error {
                    LogError::Corrupt { file, offset: place, index, .. } => {
                        assert_eq!(*file, name);
                        assert!(*place as usize <= offset && *index <= ENTRIES, "{error}");
                        assert!(at == 0 || *place as usize == start, "{error}");
                    }
                    LogError::NewerFormat { file, .. } => assert_eq!((file, offset), (&name, 8)),
                    other => panic!("byte {offset} of {name}: {other}"),
                }
                let text = error.to_string();
                assert!(text.contains(&name) && text.contains("hint: "), "{text}");
                flips += 1;
            }
        }
    }
    assert!(flips > 5000, "{flips}");
}

/// Without any mark a later batch still says how far the log was durable when it was written (rule D2).
#[test]
fn a_flipped_bit_in_front_of_a_whole_batch_is_refused() {
    let disk = CrashDisk::new();
    let options = || LogOptions { segment_bytes_first: 16384, ..small() };
    let (log, mut writer) = open(&disk, options()).unwrap();
    for index in 0..6 {
        run(&log, &mut writer, Operation::Append(vec![entry(1, index, 50)])).unwrap();
    }
    drop(writer);
    let name = "segment-0000000000000001";
    let batches = batches(&disk.bytes(name).unwrap());
    for (index, (start, length)) in batches[..5].iter().enumerate() {
        for offset in *start..start + length {
            let damaged = disk.kill();
            damaged.flip(name, offset as u64, 0x20);
            let error = open(&damaged, options()).err().expect("the damage is refused");
            let LogError::Corrupt { file, offset, index: found, .. } = &error else { panic!("{error}") };
            assert_eq!((file.as_str(), *offset, *found), (name, *start as u64, index as u64));
        }
    }
}

/// Whoever reads the documentation knows: damage to the last batch looks like a torn write, unless the log was ended
/// cleanly or a vote was saved behind it.
#[test]
fn damage_to_a_last_batch_that_no_mark_covers_is_cut() {
    let disk = CrashDisk::new();
    let (log, mut writer) = open(&disk, small()).unwrap();
    for index in 0..3 {
        run(&log, &mut writer, Operation::Append(vec![entry(1, index, 50)])).unwrap();
    }
    drop(writer);
    let name = "segment-0000000000000001";
    let last = *batches(&disk.bytes(name).unwrap()).last().unwrap();
    let damaged = disk.kill();
    damaged.flip(name, last.0 as u64 + 60, 1);
    let (log, _writer) = open(&damaged, small()).unwrap();
    assert_eq!(log.last(), Some(id(1, 1)));
}

#[test]
fn a_segment_that_is_missing_is_refused_with_its_name() {
    let disk = written();
    for name in segments(&disk) {
        let damaged = disk.kill();
        damaged.remove(&name).unwrap();
        let error = open_error(&damaged);
        assert!(matches!(&error, LogError::Missing { file, .. } if *file == name), "{name}: {error}");
    }
}

#[test]
fn a_newer_format_is_refused_in_words() {
    let disk = written();
    let name = segments(&disk).remove(0);
    // Version 1 becomes version 3.
    disk.flip(&name, 8, 2);
    assert_eq!(
        open_error(&disk).to_string(),
        format!(
            "log: {name} has format 3, this release reads formats up to 1\n\
             hint: start the release that wrote it, or a later one"
        )
    );
}

#[test]
fn a_damaged_entry_is_refused_when_it_is_read() {
    let disk = written();
    let (log, _writer) = open(&disk, small()).unwrap();
    let name = segments(&disk).remove(1);
    let (start, length) = batches(&disk.bytes(&name).unwrap()).remove(1);
    disk.flip(&name, (start + length - 1) as u64, 4);
    let error = log.read(0, ENTRIES, usize::MAX).unwrap_err();
    let LogError::Corrupt { file, index, .. } = &error else { panic!("{error}") };
    assert_eq!(*file, name);
    assert!(log.read(0, *index, usize::MAX).is_ok(), "what lies before it is read");
}

#[test]
fn the_vote_survives_the_loss_of_either_copy() {
    let vote = |disk: &CrashDisk| open(disk, small()).map(|(log, _writer): (Log, _)| log.vote());
    let disk = written();
    let expected = vote(&disk).unwrap();
    assert_eq!(expected.map(|vote| vote.term), Some(33));
    let without = disk.kill();
    without.remove("vote").unwrap();
    assert_eq!(vote(&without).unwrap(), expected);
    for offset in [0, 4096] {
        let damaged = disk.kill();
        damaged.flip("vote", offset + 20, 1);
        assert_eq!(vote(&damaged).unwrap(), expected, "slot at {offset}");
    }
    let damaged = disk.kill();
    damaged.flip("vote", 20, 1);
    damaged.flip("vote", 4096 + 20, 1);
    let error = vote(&damaged).unwrap_err();
    assert!(matches!(&error, LogError::Corrupt { file, .. } if file == "vote"), "{error}");
}

/// The head of a new batch may land alone, in front of the records of one that was cut and had lost its head: they are
/// whole and have the right size, and must not be taken for the new ones.
#[test]
fn a_new_head_does_not_adopt_the_records_of_a_batch_that_was_cut() {
    let name = "segment-0000000000000001";
    let with = |term| {
        let disk = CrashDisk::new();
        let options = LogOptions { salt_source: Some(Arc::new(|| 7)), ..small() };
        let (log, mut writer) = open(&disk, options).unwrap();
        for index in 0..2 {
            run(&log, &mut writer, Operation::Append(vec![entry(term * index, index, 300)])).unwrap();
        }
        disk
    };
    let (cut, new) = (with(5), with(6));
    let batch = batches(&new.bytes(name).unwrap())[1];
    let head = batch.0..batch.0 + BATCH_HEADER_BYTES;
    assert_eq!(batches(&cut.bytes(name).unwrap())[1], batch);
    let file = cut.open(name).unwrap();
    file.write_at(head.start as u64, &new.bytes(name).unwrap()[head]).unwrap();
    let (log, _writer) = open(&cut.kill(), small()).unwrap();
    assert_eq!(log.last(), Some(id(0, 0)));
}

/// A disk may have removed the second of two segments and not the first when the power went.
#[test]
fn a_purged_segment_in_front_of_a_gap_is_removed() {
    let disk = CrashDisk::new();
    let (log, mut writer) = open(&disk, small()).unwrap();
    for index in 0..20 {
        run(&log, &mut writer, Operation::Append(vec![entry(1, index, 900)])).unwrap();
    }
    let name = "segment-0000000000000001";
    let bytes = disk.bytes(name).unwrap();
    run(&log, &mut writer, Operation::Purge(id(1, 18))).unwrap();
    assert!(disk.bytes("segment-0000000000000002").is_none());
    disk.create(name).unwrap().write_at(0, &bytes).unwrap();
    let disk = disk.kill();
    let (log, _writer) = open(&disk, small()).unwrap();
    assert_eq!((log.purged(), log.last()), (Some(id(1, 18)), Some(id(1, 19))));
    assert!(disk.bytes(name).is_none());
}

#[test]
fn a_vote_whose_segment_is_gone_survives_the_loss_of_its_file() {
    let disk = CrashDisk::new();
    let (log, mut writer) = open(&disk, small()).unwrap();
    let vote = Vote { term: 3, node: 4, committed: true };
    run(&log, &mut writer, Operation::SaveVote(vote)).unwrap();
    for index in 0..20 {
        run(&log, &mut writer, Operation::Append(vec![entry(1, index, 900)])).unwrap();
    }
    run(&log, &mut writer, Operation::Purge(id(1, 18))).unwrap();
    assert!(disk.bytes("segment-0000000000000001").is_none());
    disk.remove("vote").unwrap();
    let (log, _writer) = open(&disk.kill(), small()).unwrap();
    assert_eq!(log.vote(), Some(vote));
}

#[test]
fn a_torn_first_vote_is_as_if_it_was_never_written() {
    for seed in 0..40 {
        let disk = CrashDisk::new();
        let (log, mut writer) = open(&disk, small()).unwrap();
        run(&log, &mut writer, Operation::Append(vec![entry(1, 0, 10)])).unwrap();
        let vote = Vote { term: 2, node: 1, committed: true };
        // Batch, its sync, slot, then the sync that does not happen.
        disk.crash_at(disk.calls() + 3);
        assert!(run(&log, &mut writer, Operation::SaveVote(vote)).is_err());
        let (log, _writer) = open(&disk.power_cut(&mut Chance::new(seed)), small()).unwrap();
        assert_eq!(log.vote(), Some(vote), "the stream has it");
    }
}
