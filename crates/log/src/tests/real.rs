//! The log over a real folder: opening again, large entries, readers beside the writer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::{entry, id, run};
use crate::{Log, LogOptions, LogWriter, Operation, RealDisk, Vote};

fn open(folder: &Path, options: LogOptions) -> (Log, LogWriter) {
    Log::open(Arc::new(RealDisk::open(folder).unwrap()), options).unwrap()
}

fn small() -> LogOptions {
    LogOptions { segment_bytes_first: 4096, segment_bytes_max: 65536, ..LogOptions::default() }
}

#[test]
fn what_was_completed_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let vote = Vote { term: 3, node: 1, committed: true };
    {
        let (log, mut writer) = open(folder.path(), small());
        assert_eq!((log.first(), log.last(), log.durable()), (None, None, None));
        run(&log, &mut writer, Operation::SaveVote(vote)).unwrap();
        for index in 0..300 {
            run(&log, &mut writer, Operation::Append(vec![entry(1, index, 40)])).unwrap();
        }
        run(&log, &mut writer, Operation::TruncateAfter(Some(id(1, 250)))).unwrap();
        run(&log, &mut writer, Operation::Append(vec![entry(2, 251, 1), entry(2, 252, 0)])).unwrap();
        run(&log, &mut writer, Operation::Purge(id(1, 200))).unwrap();
        assert_eq!(log.last(), Some(id(2, 252)));
    }
    let (log, mut writer) = open(folder.path(), small());
    assert_eq!(log.vote(), Some(vote));
    assert_eq!(log.purged(), Some(id(1, 200)));
    assert_eq!((log.last(), log.durable()), (Some(id(2, 252)), Some(id(2, 252))));
    assert_eq!((log.id_at(200), log.id_at(199), log.id_at(251)), (Some(id(1, 200)), None, Some(id(2, 251))));
    let entries = log.read(0, 1000, usize::MAX).unwrap();
    assert_eq!(entries.len(), 52);
    assert_eq!(entries[0], entry(1, 201, 40));
    assert_eq!(entries[51], entry(2, 252, 0));
    run(&log, &mut writer, Operation::Append(vec![entry(2, 253, 9)])).unwrap();
    assert_eq!(log.read(252, 254, usize::MAX).unwrap(), vec![entry(2, 252, 0), entry(2, 253, 9)]);
}

#[test]
fn entries_larger_than_a_segment_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = [10 << 20, 3, 300_000, 5 << 20];
    let entries: Vec<_> =
        sizes.iter().enumerate().map(|(index, bytes)| entry(1, index as u64, *bytes)).collect();
    {
        let (log, mut writer) = open(folder.path(), small());
        run(&log, &mut writer, Operation::Append(entries.clone())).unwrap();
        assert_eq!(log.read(0, 9, usize::MAX).unwrap(), entries);
    }
    let (log, _writer) = open(folder.path(), small());
    assert_eq!(log.read(0, 9, usize::MAX).unwrap(), entries);
    assert_eq!(log.read(0, 9, 1).unwrap(), entries[..1], "at least one");
    assert_eq!(log.read(1, 9, 300_003).unwrap(), entries[1..3], "as many as fit");
}

/// One thread submits, one writes, one reads what is there while segments are begun, recycled and removed.
#[test]
fn readers_beside_the_writer_see_only_what_was_appended() {
    const ENTRIES: u64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let options = LogOptions { cache_bytes: 10_000, sync: false, ..small() };
    let (log, mut writer) = open(folder.path(), options);
    let completed = Arc::new(AtomicU64::new(0));
    let writing = thread::spawn({
        let log = log.clone();
        move || {
            while writer.wait(Duration::from_secs(5)) || !log.is_closed() {
                writer.drain().unwrap();
            }
            log.counters()
        }
    });
    let reading = thread::spawn({
        let log = log.clone();
        move || {
            let mut chance = crate::testing::Chance::new(1);
            let mut read = 0;
            while !log.is_closed() || read < 1000 {
                let Some((first, last)) = log.first().zip(log.last()) else { continue };
                let from = first.index + chance.below(last.index - first.index + 1);
                let entries = log.read(from, from + 50, 4000).unwrap();
                for (at, found) in entries.iter().enumerate() {
                    let index = entries[0].id.index + at as u64;
                    assert_eq!(*found, entry(1 + index / 1000, index, (index % 97) as usize));
                }
                read += entries.len();
            }
            read
        }
    });
    for index in 0..ENTRIES {
        let appended = entry(1 + index / 1000, index, (index % 97) as usize);
        let completed = completed.clone();
        let done = move |answer: Result<(), _>| {
            answer.unwrap();
            let before = completed.swap(index + 1, Ordering::SeqCst);
            assert_eq!(before, index, "completed in order");
        };
        log.submit(Operation::Append(vec![appended]), Box::new(done));
        if index % 500 == 499 {
            let purged = id(1 + (index - 400) / 1000, index - 400);
            log.submit(Operation::Purge(purged), Box::new(|answer| answer.unwrap()));
        }
    }
    log.close();
    let counters = writing.join().unwrap();
    assert_eq!(completed.load(Ordering::SeqCst), ENTRIES);
    assert!(counters.batches < ENTRIES, "what waits is written together");
    assert!(reading.join().unwrap() > 0);
    let segments = std::fs::read_dir(folder.path()).unwrap().count();
    assert!(segments < 12, "{segments} files are left");
}
