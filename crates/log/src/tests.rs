//! Tests of the whole log, and what they share.

mod crash;
mod damage;
mod interleave;
mod layout;
mod limits;
mod model;
#[cfg(feature = "planted-bugs")]
mod planted;
mod real;

use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;

use crate::testing::CrashDisk;
use crate::{Entry, Log, LogError, LogId, LogOptions, LogWriter, Operation};

/// Small segments and a small cache, so that a short test meets the ends of both; everything inline.
fn small() -> LogOptions {
    LogOptions {
        segment_bytes_first: 1024,
        segment_bytes_max: 4096,
        batch_bytes_max: 700,
        cache_bytes: 600,
        background: false,
        ..LogOptions::default()
    }
}

fn open(disk: &CrashDisk, options: LogOptions) -> Result<(Log, LogWriter), LogError> {
    Log::open(Arc::new(disk.clone()), options)
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: 1, index }
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let byte = (term * 31 + index) as u8;
    Entry { id: id(term, index), payload: Bytes::from(vec![byte; bytes]) }
}

/// Submits one operation, writes it, and gives its answer.
fn run(log: &Log, writer: &mut LogWriter, operation: Operation) -> Result<(), LogError> {
    let (sender, answers) = channel();
    log.submit(operation, Box::new(move |answer| sender.send(answer).unwrap()));
    let _ = writer.drain();
    answers.try_recv().expect("a drain answers what was submitted before")
}
