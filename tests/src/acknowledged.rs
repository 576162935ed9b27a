//! A load that remembers what was acknowledged, and the check that all of it is there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::{PutRequest, RangeRequest};
use tonic::transport::Channel;

use crate::cluster::Member;

/// Writers of a load, each on keys of its own.
const WRITERS: usize = 16;
/// How long a load may take to reach what a test waits for.
const PROGRESS_MAX: Duration = Duration::from_secs(60);
/// A page of the check.
const PAGE: i64 = 1000;

/// Key to (value, revision) of the last write that was acknowledged, and of the one after it, whose fate is unknown.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    acknowledged: BTreeMap<String, Written>,
    /// Value of the write that was in flight when its writer stopped.
    in_flight: BTreeMap<String, String>,
    /// Acknowledged writes in all.
    pub writes: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Written {
    value: String,
    revision: i64,
}

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    ledger: Arc<Mutex<Ledger>>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// Begins to write; keys are named after `round`, so that rounds on one data folder do not meet.
    pub async fn start(member: &Member, round: usize) -> Result<Load> {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let client = KvClient::new(member.connect().await?);
            let (stop, count, ledger) = (stop.clone(), count.clone(), ledger.clone());
            writers.push(tokio::spawn(write(client, round, writer, stop, count, ledger)));
        }
        Ok(Load { stop, count, ledger, writers })
    }

    /// Waits until so many writes are acknowledged.
    pub async fn acknowledged(&self, writes: u64) -> Result<()> {
        let begun = Instant::now();
        while self.count.load(Ordering::Relaxed) < writes {
            if begun.elapsed() > PROGRESS_MAX {
                bail!("{} of {writes} writes after {PROGRESS_MAX:?}", self.count.load(Ordering::Relaxed));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Ends the load and gives what it knows.
    pub async fn finish(self) -> Result<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await?;
        }
        let ledger = self.ledger.lock().expect("a writer does not panic").clone();
        Ok(ledger)
    }
}

/// Puts one key after the other over 8 keys until it is told to stop or the member is gone. Never tries again: a write
/// whose answer did not come has an unknown fate.
async fn write(
    mut client: KvClient<Channel>,
    round: usize,
    writer: usize,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    ledger: Arc<Mutex<Ledger>>,
) {
    for number in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("round-{round}/writer-{writer}/key-{}", number % 8);
        // Some hundred bytes, so that pages and log blocks fill.
        let value = format!("{number}-{}", "v".repeat((number * 37 % 700) as usize));
        let request =
            PutRequest { key: key.clone().into(), value: value.clone().into(), ..Default::default() };
        let answer = client.put(request).await;
        let mut ledger = ledger.lock().expect("a writer does not panic");
        match answer {
            Ok(answer) => {
                let revision = answer.into_inner().header.map_or(0, |header| header.revision);
                ledger.acknowledged.insert(key, Written { value, revision });
                ledger.writes += 1;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                ledger.in_flight.insert(key, value);
                return;
            }
        }
    }
}

impl Ledger {
    /// Every acknowledged write is there, or was overwritten by the one write of its key that was in flight.
    pub async fn check(&self, member: &Member) -> Result<()> {
        let mut client = KvClient::new(member.connect().await?).max_decoding_message_size(64 << 20);
        let mut found = BTreeMap::new();
        let mut key: bytes::Bytes = "round-".into();
        loop {
            let request = RangeRequest {
                key: key.clone(),
                range_end: "round.".into(),
                limit: PAGE,
                ..Default::default()
            };
            let page = client.range(request).await?.into_inner();
            for kv in &page.kvs {
                let value = String::from_utf8(kv.value.to_vec())?;
                found.insert(
                    String::from_utf8(kv.key.to_vec())?,
                    Written { value, revision: kv.mod_revision },
                );
            }
            match page.kvs.last() {
                Some(last) if page.more => key = [&last.key[..], b"\0"].concat().into(),
                _ => break,
            }
        }
        for (key, written) in &self.acknowledged {
            let present = found.get(key).with_context(|| {
                format!("{key} is gone, its write at revision {} was acknowledged", written.revision)
            })?;
            let overwritten = self.in_flight.get(key).is_some_and(|value| *value == present.value)
                && present.revision > written.revision;
            ensure!(
                present == written || overwritten,
                "{key}: revision {} was acknowledged, found is revision {}",
                written.revision,
                present.revision
            );
        }
        Ok(())
    }
}
