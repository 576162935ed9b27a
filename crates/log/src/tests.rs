//! Tests of the whole log over a real folder.

use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;

use crate::{Entry, Log, LogId, LogOptions, LogWriter, Operation, RealDisk, Vote};

fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: 1, index }
}

fn entry(term: u64, index: u64, payload: &'static [u8]) -> Entry {
    Entry { id: id(term, index), payload: Bytes::from_static(payload) }
}

fn open(folder: &std::path::Path) -> (Log, LogWriter) {
    let options = LogOptions { segment_bytes_first: 4096, segment_bytes_max: 16384, ..LogOptions::default() };
    Log::open(Arc::new(RealDisk::open(folder).unwrap()), options).unwrap()
}

fn run(log: &Log, writer: &mut LogWriter, operation: Operation) {
    let (sender, receiver) = channel();
    log.submit(operation, Box::new(move |result| sender.send(result).unwrap()));
    writer.drain().unwrap();
    receiver.try_recv().unwrap().unwrap();
}

#[test]
fn what_was_completed_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let vote = Vote { term: 3, node: 1, committed: true };
    {
        let (log, mut writer) = open(folder.path());
        assert_eq!(log.last(), None);
        run(&log, &mut writer, Operation::SaveVote(vote));
        for index in 0..300 {
            run(&log, &mut writer, Operation::Append(vec![entry(1, index, b"some payload of a length")]));
        }
        run(&log, &mut writer, Operation::TruncateAfter(Some(id(1, 250))));
        run(&log, &mut writer, Operation::Append(vec![entry(2, 251, b"x"), entry(2, 252, b"y")]));
        run(&log, &mut writer, Operation::Purge(id(1, 200)));
        assert_eq!(log.last(), Some(id(2, 252)));
    }
    let (log, mut writer) = open(folder.path());
    assert_eq!(log.vote(), Some(vote));
    assert_eq!(log.purged(), Some(id(1, 200)));
    assert_eq!((log.last(), log.durable()), (Some(id(2, 252)), Some(id(2, 252))));
    assert_eq!((log.id_at(200), log.id_at(199), log.id_at(251)), (Some(id(1, 200)), None, Some(id(2, 251))));
    let entries = log.read(0, 1000, usize::MAX).unwrap();
    assert_eq!(entries.len(), 52);
    assert_eq!(entries[0], entry(1, 201, b"some payload of a length"));
    assert_eq!(entries[51], entry(2, 252, b"y"));
    run(&log, &mut writer, Operation::Append(vec![entry(2, 253, b"z")]));
    assert_eq!(log.read(252, 254, usize::MAX).unwrap(), vec![entry(2, 252, b"y"), entry(2, 253, b"z")]);
}
