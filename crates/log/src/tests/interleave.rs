//! What is submitted or read in the middle of a drain, placed there exactly.

use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use super::{entry, id, open, run, small};
use crate::testing::CrashDisk;
use crate::{Disk, DiskFile, Entry, Log, LogOptions, Operation};

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

fn fire(hook: &Hook) {
    let armed = hook.lock().unwrap().take();
    if let Some(armed) = armed {
        armed();
    }
}

/// Entries are taken back after they were written and before the writer could say so.
#[test]
fn what_is_truncated_during_its_sync_is_neither_durable_nor_read() {
    let disk = CrashDisk::new();
    let hook: Hook = Arc::default();
    let armed = hook.clone();
    let options = LogOptions {
        segment_bytes_first: 1 << 16,
        segment_bytes_max: 1 << 16,
        cache_bytes: 0,
        sync_observer: Some(Arc::new(move || fire(&armed))),
        ..small()
    };
    let (log, mut writer) = open(&disk, options).unwrap();
    let old: Vec<Entry> = (0..10).map(|index| entry(1, index, 20)).collect();
    let new: Vec<Entry> = (6..8).map(|index| entry(2, index, 20)).collect();
    run(&log, &mut writer, Operation::Append(old[..9].to_vec())).unwrap();
    let expected: Vec<Entry> = old[..6].iter().chain(&new).cloned().collect();
    let inside = log.clone();
    let appended = new.clone();
    *hook.lock().unwrap() = Some(Box::new(move || {
        inside.submit(Operation::TruncateAfter(Some(id(1, 5))), Box::new(|answer| answer.unwrap()));
        inside.submit(Operation::Append(appended), Box::new(|answer| answer.unwrap()));
    }));
    run(&log, &mut writer, Operation::Append(vec![old[9].clone()])).unwrap();
    assert_eq!(log.durable(), Some(id(1, 5)), "the entries behind it are taken back");
    assert_eq!(log.read(0, 100, usize::MAX).unwrap(), expected);
    writer.drain().unwrap();
    assert_eq!(log.durable(), Some(id(2, 7)));
    assert_eq!(log.read(0, 100, usize::MAX).unwrap(), expected);
}

#[test]
fn truncating_lowers_the_durable_entry_at_once() {
    let disk = CrashDisk::new();
    let (log, mut writer) = open(&disk, small()).unwrap();
    let entries = (0..5).map(|index| entry(1, index, 20)).collect();
    run(&log, &mut writer, Operation::Append(entries)).unwrap();
    log.submit(Operation::TruncateAfter(Some(id(1, 2))), Box::new(|_| ()));
    assert_eq!(log.durable(), Some(id(1, 2)));
    log.submit(Operation::Append(vec![entry(2, 3, 20)]), Box::new(|_| ()));
    assert_eq!(log.durable(), Some(id(1, 2)));
    log.submit(Operation::TruncateAfter(None), Box::new(|_| ()));
    assert_eq!((log.durable(), log.last()), (None, None));
}

/// A disk whose next read of a file first runs something.
struct HookedDisk {
    disk: CrashDisk,
    hook: Hook,
}

struct HookedFile {
    file: Arc<dyn DiskFile>,
    hook: Hook,
}

impl HookedDisk {
    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(HookedFile { file, hook: self.hook.clone() })
    }
}

impl Disk for HookedDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name).map(|file| self.wrap(file))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

impl DiskFile for HookedFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.file.set_size(bytes)
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        fire(&self.hook);
        self.file.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// A reader has found where its entries lie; before it reads them they are purged, and their segment's file would be
/// used again.
#[test]
fn a_segment_that_is_being_read_is_not_written_over() {
    let hook: Hook = Arc::default();
    let disk = HookedDisk { disk: CrashDisk::new(), hook: hook.clone() };
    let options =
        LogOptions { segment_bytes_first: 4096, segment_bytes_max: 4096, cache_bytes: 0, ..small() };
    let (log, mut writer) = Log::open(Arc::new(disk), options).unwrap();
    for index in 0..9 {
        run(&log, &mut writer, Operation::Append(vec![entry(1, index, 1000)])).unwrap();
    }
    let (sender, ended) = channel();
    let inside = log.clone();
    *hook.lock().unwrap() = Some(Box::new(move || {
        run(&inside, &mut writer, Operation::Purge(id(1, 6))).unwrap();
        for index in 9..30 {
            run(&inside, &mut writer, Operation::Append(vec![entry(1, index, 1000)])).unwrap();
        }
        sender.send(()).unwrap();
    }));
    let read = log.read(0, 3, usize::MAX).unwrap();
    assert_eq!(read, (0..3).map(|index| entry(1, index, 1000)).collect::<Vec<_>>());
    assert_eq!(ended.try_recv(), Ok(()), "the read met the purge");
}
