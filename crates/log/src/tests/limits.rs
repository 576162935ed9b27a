//! What the log costs, and what it does when the disk is full or fails or the caller is wrong.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{entry, id, open, run, small};
use crate::disk::Disk;
use crate::testing::CrashDisk;
use crate::{LogError, LogOptions, Operation, Vote};

fn pages(segment_pages: u64) -> LogOptions {
    let bytes = segment_pages * 4096;
    LogOptions { segment_bytes_first: bytes, segment_bytes_max: bytes, batch_bytes_max: 1 << 20, ..small() }
}

#[test]
fn a_hundred_appends_cost_one_write_and_one_sync() {
    let disk = CrashDisk::new();
    let synced = Arc::new(AtomicUsize::new(0));
    let observed = synced.clone();
    let observer = move || {
        observed.fetch_add(1, Ordering::SeqCst);
    };
    let options = LogOptions { sync_observer: Some(Arc::new(observer)), ..pages(100) };
    let (log, mut writer) = open(&disk, options).unwrap();
    run(&log, &mut writer, Operation::Append(vec![entry(1, 0, 10)])).unwrap();
    let (before, calls) = (log.counters(), disk.calls());
    let (sender, answers) = channel();
    for index in 1..=100 {
        let sender = sender.clone();
        let done = move |answer: Result<(), LogError>| sender.send((index, answer.is_ok())).unwrap();
        log.submit(Operation::Append(vec![entry(1, index, 1024)]), Box::new(done));
    }
    assert_eq!(log.pending_bytes(), 100 * (1024 + 36));
    assert_eq!(log.durable(), Some(id(1, 0)));
    assert_eq!(writer.drain().unwrap(), 100);
    assert_eq!(
        answers.try_iter().collect::<Vec<_>>(),
        (1..=100).map(|index| (index, true)).collect::<Vec<_>>()
    );
    assert_eq!(disk.calls() - calls, 2);
    let after = log.counters();
    assert_eq!((after.batches - before.batches, after.syncs - before.syncs), (1, 1));
    assert_eq!(after.bytes_written - before.bytes_written, 100 * (1024 + 36) + 56);
    assert_eq!((log.pending_bytes(), log.durable()), (0, Some(id(1, 100))));
    assert_eq!(synced.load(Ordering::SeqCst), 2);
}

#[test]
fn without_sync_nothing_is_synced() {
    let disk = CrashDisk::new();
    let (log, mut writer) = open(&disk, LogOptions { sync: false, ..pages(100) }).unwrap();
    run(&log, &mut writer, Operation::Append(vec![entry(1, 0, 10)])).unwrap();
    let calls = disk.calls();
    run(&log, &mut writer, Operation::Append(vec![entry(1, 1, 10)])).unwrap();
    assert_eq!(disk.calls() - calls, 1);
    assert_eq!(log.counters().syncs, 0);
}

#[test]
fn purged_segments_are_used_again() {
    let disk = CrashDisk::new();
    let (log, mut writer) = open(&disk, pages(1)).unwrap();
    let mut used = 0;
    for index in 0..300 {
        run(&log, &mut writer, Operation::Append(vec![entry(1, index, 1000)])).unwrap();
        if index % 10 == 9 {
            run(&log, &mut writer, Operation::Purge(id(1, index - 5))).unwrap();
        }
        if index == 100 {
            used = disk.pages_used();
        }
    }
    assert!(disk.pages_used() <= used, "{} pages, {used} earlier", disk.pages_used());
    let kept = log.first_of_last_segments(1).unwrap();
    assert!(kept.index > 290, "{kept:?}");
    assert!(log.first_of_last_segments(2).unwrap() < kept);
    assert_eq!(log.first_of_last_segments(50), None);
}

#[test]
fn while_space_is_short_one_spare_is_kept_and_the_second_is_removed() {
    let disk = CrashDisk::new();
    let spares = || disk.list().unwrap().iter().filter(|name| name.starts_with("spare-")).count();
    let (log, mut writer) = open(&disk, pages(1)).unwrap();
    let mut index = 0;
    let mut fill_and_purge = || {
        for _ in 0..20 {
            index += 1;
            run(&log, &mut writer, Operation::Append(vec![entry(1, index, 1000)])).unwrap();
        }
        run(&log, &mut writer, Operation::Purge(id(1, index - 3))).unwrap();
    };
    fill_and_purge();
    assert_eq!(spares(), 2, "the test has none to remove");
    log.set_short_of_space(true);
    assert_eq!((spares(), log.has_spare()), (1, true));
    fill_and_purge();
    assert_eq!((spares(), log.has_spare()), (1, true));
    log.set_short_of_space(false);
    fill_and_purge();
    assert_eq!(spares(), 2);
}

#[test]
fn a_full_disk_leaves_one_segment_in_reserve_and_a_purge_makes_room() {
    let disk = CrashDisk::new();
    disk.set_room(Some(5));
    let (log, mut writer) = open(&disk, pages(1)).unwrap();
    let mut index = 0;
    let mut append = |log: &_, writer: &mut _| {
        index += 1;
        run(log, writer, Operation::Append(vec![entry(1, index, 1000)])).map(|()| index)
    };
    let mut full_at = append(&log, &mut writer).unwrap();
    while log.has_spare() {
        full_at = append(&log, &mut writer).unwrap();
    }
    assert_eq!(full_at, 13, "four segments were full, the fifth was the reserve");
    // Who asks before each write stops here; a segment's room is left for what is in flight and for the purge.
    append(&log, &mut writer).unwrap();
    run(&log, &mut writer, Operation::Purge(id(1, 8))).unwrap();
    assert!(log.has_spare());
    // Who does not stop ends the log, and loses nothing that was completed.
    let (last, error) = loop {
        let last = log.durable().unwrap();
        if let Err(error) = append(&log, &mut writer) {
            break (last, error);
        }
    };
    let LogError::Disk { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), ErrorKind::StorageFull);
    assert!(run(&log, &mut writer, Operation::Purge(id(1, 9))).is_err(), "it has ended");
    drop(writer);
    let (log, _writer) = open(&disk.kill(), pages(1)).unwrap();
    assert!(log.last() >= Some(last));
}

#[test]
fn a_failing_disk_ends_the_log_and_answers_everybody_once() {
    for call in 0..60 {
        let disk = CrashDisk::new();
        disk.fail_at(call, ErrorKind::Other);
        let Ok((log, mut writer)) = open(&disk, small()) else { continue };
        let answers: Arc<Mutex<Vec<(u64, bool)>>> = Arc::default();
        let mut number = 0;
        let mut submit = |operation| {
            let answers = answers.clone();
            let this = number;
            number += 1;
            log.submit(
                operation,
                Box::new(move |answer| answers.lock().unwrap().push((this, answer.is_ok()))),
            );
        };
        for index in 0..20 {
            submit(Operation::Append(vec![entry(1, index, 300)]));
            if index % 4 == 0 {
                submit(Operation::SaveVote(Vote { term: index, node: 1, committed: false }));
            }
            if index % 3 == 0 {
                let _ = writer.drain();
            }
        }
        let ended = writer.drain();
        let answers = answers.lock().unwrap().clone();
        assert_eq!(answers.iter().map(|(at, _)| *at).collect::<Vec<_>>(), (0..25).collect::<Vec<_>>());
        let good = answers.iter().take_while(|(_, good)| *good).count();
        assert!(
            answers[good..].iter().all(|(_, good)| !good),
            "call {call}: nothing succeeds after a failure"
        );
        assert_eq!(ended.is_err(), log.failure().is_some());
        assert_eq!(good < 25, ended.is_err(), "call {call}");
        drop(writer);
        let (again, _writer) = open(&disk.kill(), small()).unwrap();
        let entries = again.read(0, 100, usize::MAX).unwrap().len();
        let votes = again.vote().map_or(0, |vote| vote.term / 4 + 1) as usize;
        assert!(entries + votes >= good, "call {call}: {entries} entries, {votes} votes, {good} completed");
    }
}

#[test]
fn what_does_not_follow_is_refused_and_the_log_goes_on() {
    let disk = CrashDisk::new();
    let (log, mut writer) = open(&disk, small()).unwrap();
    run(&log, &mut writer, Operation::Append(vec![entry(1, 7, 1)])).unwrap();
    for wrong in [
        Operation::Append(vec![entry(1, 9, 1)]),
        Operation::Append(vec![entry(1, 7, 1)]),
        Operation::Append(vec![entry(1, 8, 1), entry(1, 10, 1)]),
        Operation::TruncateAfter(Some(id(2, 7))),
        Operation::TruncateAfter(Some(id(1, 8))),
    ] {
        let refused = run(&log, &mut writer, wrong.clone());
        assert!(matches!(refused, Err(LogError::OutOfOrder { .. })), "{wrong:?}: {refused:?}");
    }
    run(&log, &mut writer, Operation::Append(vec![])).unwrap();
    run(&log, &mut writer, Operation::Append(vec![entry(2, 8, 1)])).unwrap();
    run(&log, &mut writer, Operation::TruncateAfter(Some(id(2, 8)))).unwrap();
    run(&log, &mut writer, Operation::Purge(id(1, 3))).unwrap();
    assert_eq!((log.first(), log.last()), (Some(id(1, 7)), Some(id(2, 8))));
    // A purge point beyond the end, then the next entry behind it.
    run(&log, &mut writer, Operation::Purge(id(3, 50))).unwrap();
    assert_eq!((log.first(), log.last(), log.purged()), (None, Some(id(3, 50)), Some(id(3, 50))));
    assert_eq!(log.read(0, 100, 1000).unwrap(), vec![]);
    run(&log, &mut writer, Operation::Append(vec![entry(4, 51, 1)])).unwrap();
    drop(writer);
    let (log, _writer) = open(&disk.kill(), small()).unwrap();
    assert_eq!((log.first(), log.last(), log.purged()), (Some(id(4, 51)), Some(id(4, 51)), Some(id(3, 50))));
}

#[test]
fn closing_refuses_what_comes_later_and_writes_what_came_before() {
    let disk = CrashDisk::new();
    let (log, mut writer) = open(&disk, small()).unwrap();
    assert!(!writer.wait(Duration::ZERO));
    let (sender, answers) = channel();
    let submit = |index| {
        let sender = sender.clone();
        let done = move |answer: Result<(), LogError>| sender.send((index, answer.is_ok())).unwrap();
        log.submit(Operation::Append(vec![entry(1, index, 1)]), Box::new(done));
    };
    submit(0);
    log.close();
    submit(1);
    assert!(writer.wait(Duration::from_secs(60)));
    writer.drain().unwrap();
    assert!(!writer.wait(Duration::from_secs(60)), "closed and empty");
    assert_eq!(answers.try_iter().collect::<Vec<_>>(), vec![(1, false), (0, true)]);
}

#[test]
fn a_writer_that_goes_away_answers_what_waits() {
    let disk = CrashDisk::new();
    let (log, writer) = open(&disk, small()).unwrap();
    let (sender, answers) = channel();
    log.submit(
        Operation::Append(vec![entry(1, 0, 1)]),
        Box::new(move |answer| sender.send(answer.is_err()).unwrap()),
    );
    drop(writer);
    assert_eq!(answers.try_recv(), Ok(true));
}
