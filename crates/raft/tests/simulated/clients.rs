//! Clients of a simulated member that never send a write twice, and the check of all that they were told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dqlited_log::testing::Chance;
use dqlited_raft::{Node, Proposed};
use dqlited_store::command::{Kind, Put, RangeQuery};
use dqlited_store::{Command, Response};

use crate::world::Trace;

/// One write: no two have the same value.
#[derive(Clone, Debug)]
struct Write {
    key: String,
    value: Bytes,
    /// Its revision, once it was acknowledged.
    acknowledged: Option<i64>,
}

/// All writes of all lives, and what a client saw that must not be.
#[derive(Clone, Default)]
pub struct Book {
    writes: Arc<Mutex<BTreeMap<u64, Write>>>,
    fault: Arc<Mutex<Option<String>>>,
}

/// How much was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub acknowledged: u64,
    pub unknown: u64,
    /// Writes without an answer that are there all the same.
    pub unknown_found: u64,
}

/// A time limit that only a member which hangs can reach.
pub fn soon() -> Instant {
    tokio::time::Instant::now().into_std() + Duration::from_secs(60)
}

impl Book {
    fn open(&self, key: &str, bytes: usize) -> (u64, Bytes) {
        let mut book = self.writes.lock().unwrap();
        let number = book.len() as u64;
        let mut value = format!("{number}/").into_bytes();
        value.resize(value.len().max(bytes), b'v');
        let value = Bytes::from(value);
        let write = Write { key: key.to_string(), value: value.clone(), acknowledged: None };
        book.insert(number, write);
        (number, value)
    }

    fn acknowledge(&self, number: u64, revision: i64) {
        self.writes.lock().unwrap().get_mut(&number).unwrap().acknowledged = Some(revision);
    }

    fn complain(&self, words: String) {
        self.fault.lock().unwrap().get_or_insert(words);
    }

    /// What a client saw that must not be.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap().clone()
    }

    pub fn acknowledged(&self) -> usize {
        self.writes.lock().unwrap().values().filter(|write| write.acknowledged.is_some()).count()
    }

    /// Everything acknowledged is there, at the revision that was told; nothing is there twice or out of nowhere.
    pub async fn check(&self, node: &Node) -> Result<Counted, String> {
        let barrier = node.linearizable_barrier(soon()).await.map_err(|error| format!("barrier: {error}"))?;
        let found = node
            .read(barrier, soon(), |view| {
                let mut found = BTreeMap::new();
                let mut twice = None;
                let read = view.history(&mut |record| {
                    let place = (record.kv.key.clone(), record.revision.0);
                    if found.insert(record.kv.value.clone(), place).is_some() {
                        twice = Some(record.kv.key);
                    }
                    Ok(())
                });
                read.map(|()| (found, twice)).map_err(|error| error.to_string())
            })
            .await
            .map_err(|error| format!("read: {error}"))?;
        let (mut found, twice) = found?;
        if let Some(key) = twice {
            return Err(format!("a write to {key:?} was carried out twice"));
        }
        let mut counted = Counted::default();
        for (number, write) in self.writes.lock().unwrap().iter() {
            let place = found.remove(&write.value);
            match (write.acknowledged, place) {
                (Some(revision), Some((key, at))) if key == write.key && at == revision => {
                    counted.acknowledged += 1;
                }
                (Some(revision), place) => {
                    return Err(format!(
                        "write {number} to {} was acknowledged at revision {revision}, found: {place:?}",
                        write.key
                    ));
                }
                (None, Some(_)) => {
                    counted.unknown += 1;
                    counted.unknown_found += 1;
                }
                (None, None) => counted.unknown += 1,
            }
        }
        match found.pop_first() {
            Some((value, place)) => Err(format!("nobody wrote {place:?}: {:?}", value.slice(..8))),
            None => Ok(counted),
        }
    }
}

/// Writes, and now and then reads what it wrote, until the member answers no more.
pub async fn client(node: Node, book: Book, number: u64, mut chance: Chance, bytes_max: u64, trace: Trace) {
    loop {
        // Often several at once: their writes share a batch, and wait together when the power goes.
        tokio::time::sleep(Duration::from_millis(40 * chance.below(10))).await;
        let key = format!("{number}/{}", chance.below(5));
        let (write, value) = book.open(&key, chance.below(bytes_max) as usize);
        let put = Put { key: Bytes::from(key.clone()), value: value.clone(), ..Default::default() };
        let command = Command { kind: Some(Kind::Put(put)) };
        let Ok(Proposed { log_id, revision, result, .. }) = node.propose(command, soon()).await else {
            return;
        };
        if result != Ok(Response::Put { previous: None }) {
            return book.complain(format!("write {write} was answered with {result:?}"));
        }
        book.acknowledge(write, revision.0);
        trace.note(format!("write {write} to {key}: entry {}, revision {}", log_id.index, revision.0));
        if chance.one_in(4) {
            let Ok(barrier) = node.linearizable_barrier(soon()).await else { return };
            let query = RangeQuery { key: Bytes::from(key.clone()), ..Default::default() };
            let read = node.point_read(barrier, soon(), |view| view.range_collected(&query)).await;
            let Ok(Ok(range)) = read else { return };
            // Only this client writes to the key.
            if range.kvs.first().is_none_or(|found| found.value != value) {
                return book
                    .complain(format!("a read of {key} misses write {write}, which was acknowledged"));
            }
        }
    }
}
