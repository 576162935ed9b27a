//! The loads of the table in `docs/performance.md`, one function a row or group of rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dqlited_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::request_op::Request;
use dqlited_proto::etcdserverpb::watch_client::WatchClient;
use dqlited_proto::etcdserverpb::watch_request::RequestUnion;
use dqlited_proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
};
use tonic::transport::Channel;

use crate::report::Report;
use crate::server::Server;

/// Callers of the loaded rows, spread over [`CONNECTIONS`].
const CLIENTS: usize = 100;
/// Connections of the loaded rows: kube-apiserver keeps one a resource, the busy ones are few.
const CONNECTIONS: usize = 10;
/// Keys that puts and gets are spread over.
const KEYS: u64 = 10_000;
/// Bytes of a value.
const VALUE_BYTES: usize = 1024;
/// Puts before the measured ones: more log than dqlited keeps by itself and prepares ahead.
const WARM_PUTS: u64 = 150_000;
/// Both servers write part of what a put costs later, dqlited up to two seconds: it is charged to the load that it is of.
const SETTLE: Duration = Duration::from_secs(3);
/// Keys of the list rows and of the memory row.
const LIST_KEYS: u64 = 10_000;
const FILL_KEYS: u64 = 100_000;
/// Watchers of the watch row.
const WATCHERS: usize = 100;
/// How long the last events may take to their watchers.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);
/// A list answer of 10,000 keys is some 11 MB.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// What one load did.
struct Done {
    operations: u64,
    elapsed: Duration,
    /// Sorted.
    latencies: Vec<Duration>,
}

impl Done {
    fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    fn quantile_ms(&self, part: f64) -> f64 {
        let last = self.latencies.len() - 1;
        self.latencies[(last as f64 * part) as usize].as_secs_f64() * 1e3
    }
}

/// Runs `call` in `clients` callers for a time; each call gets a number that no other call gets.
async fn drive<F, Fut>(channels: &[Channel], clients: usize, time: Duration, call: F) -> Result<Done>
where
    F: Fn(KvClient<Channel>, u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let stop = Arc::new(AtomicBool::new(false));
    let numbers = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let callers: Vec<_> = (0..clients)
        .map(|caller| {
            let client = KvClient::new(channels[caller % channels.len()].clone())
                .max_decoding_message_size(ANSWER_BYTES_MAX);
            let (stop, numbers, call) = (stop.clone(), numbers.clone(), call.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    let sent = Instant::now();
                    call(client.clone(), number).await?;
                    latencies.push(sent.elapsed());
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for caller in callers {
        latencies.extend(caller.await??);
    }
    let elapsed = begun.elapsed();
    latencies.sort();
    ensure!(!latencies.is_empty(), "no call was answered");
    Ok(Done { operations: latencies.len() as u64, elapsed, latencies })
}

fn key(number: u64) -> Bytes {
    // Spread: neighbours in time are not neighbours in the tree.
    format!("/registry/pods/default/pod-{:08}", number.wrapping_mul(0x9E37_79B9) % KEYS).into()
}

fn value(number: u64) -> Bytes {
    let mut bytes = vec![0u8; VALUE_BYTES];
    let mut state = number.wrapping_add(1);
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    bytes.into()
}

async fn put(mut client: KvClient<Channel>, number: u64) -> Result<()> {
    client.put(PutRequest { key: key(number), value: value(number), ..Default::default() }).await?;
    Ok(())
}

/// Puts until the log has been purged and dqlited uses its segments again, instead of preparing new ones.
async fn warm(channels: &[Channel]) -> Result<()> {
    let numbers = AtomicU64::new(0);
    let callers = (0..CLIENTS).map(|caller| {
        let client = KvClient::new(channels[caller % channels.len()].clone());
        let numbers = &numbers;
        async move {
            loop {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if number >= WARM_PUTS {
                    return anyhow::Ok(());
                }
                put(client.clone(), number).await?;
            }
        }
    });
    futures::future::try_join_all(callers).await?;
    Ok(())
}

/// Puts of 1 KiB by 100 clients and by one: rate, CPU, bytes on the device, latency.
pub async fn puts(server: &Server, time: Duration, report: &mut Report) -> Result<()> {
    let channels = server.channels(CONNECTIONS).await?;
    warm(&channels).await?;
    tokio::time::sleep(SETTLE).await;
    let before = server.usage()?;
    let many = drive(&channels, CLIENTS, time, put).await?;
    tokio::time::sleep(SETTLE).await;
    let between = server.usage()?;
    let one = drive(&channels[..1], 1, time, put).await?;
    tokio::time::sleep(SETTLE).await;
    let after = server.usage()?;
    let kind = server.kind;
    let (many_puts, one_puts) = (many.operations as f64, one.operations as f64);
    report.add("put 1 KiB, 100 clients", "1/s", kind, many.rate());
    report.add(
        "server CPU a put, 100 clients",
        "µs",
        kind,
        (between.cpu_seconds - before.cpu_seconds) * 1e6 / many_puts,
    );
    report.add("put, 100 clients, p99", "ms", kind, many.quantile_ms(0.99));
    report.add("put, 1 client, p50", "ms", kind, one.quantile_ms(0.5));
    report.add(
        "device bytes a put, 100 clients",
        "B",
        kind,
        (between.device_bytes - before.device_bytes) / many_puts,
    );
    report.add(
        "device bytes a put, 1 client",
        "B",
        kind,
        (after.device_bytes - between.device_bytes) / one_puts,
    );
    Ok(())
}

/// kube-apiserver's update: if mod(k) = r then put k else get k. Each caller has keys of its own, so every compare
/// holds and every transaction writes.
pub async fn txns(server: &Server, time: Duration, report: &mut Report) -> Result<()> {
    let channels = server.channels(CONNECTIONS).await?;
    let revisions: Arc<Vec<AtomicU64>> = Arc::new((0..CLIENTS).map(|_| AtomicU64::new(0)).collect());
    let free: Arc<std::sync::Mutex<Vec<usize>>> = Arc::new(std::sync::Mutex::new((0..CLIENTS).collect()));
    let call = move |mut client: KvClient<Channel>, number: u64| {
        let (revisions, free) = (revisions.clone(), free.clone());
        async move {
            let slot = free.lock().expect("no caller panics").pop().context("a slot a caller")?;
            let name: Bytes = format!("/registry/leases/kube-node-lease/node-{slot:04}").into();
            let known = revisions[slot].load(Ordering::Relaxed) as i64;
            let compare = Compare {
                result: CompareResult::Equal as i32,
                target: CompareTarget::Mod as i32,
                key: name.clone(),
                target_union: Some(TargetUnion::ModRevision(known)),
                ..Default::default()
            };
            let put = PutRequest { key: name.clone(), value: value(number), ..Default::default() };
            let get = RangeRequest { key: name, limit: 1, ..Default::default() };
            let answer = client
                .txn(TxnRequest {
                    compare: vec![compare],
                    success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
                    failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
                })
                .await?
                .into_inner();
            ensure!(answer.succeeded, "a compare on the caller's own key does not hold");
            let revision = answer.header.context("header")?.revision;
            revisions[slot].store(revision as u64, Ordering::Relaxed);
            free.lock().expect("no caller panics").push(slot);
            Ok(())
        }
    };
    let before = server.usage()?;
    let done = drive(&channels, CLIENTS, time, call).await?;
    let after = server.usage()?;
    report.add("kube-apiserver's txn, 100 clients", "1/s", server.kind, done.rate());
    report.add(
        "server CPU a txn",
        "µs",
        server.kind,
        (after.cpu_seconds - before.cpu_seconds) * 1e6 / done.operations as f64,
    );
    Ok(())
}

async fn get(mut client: KvClient<Channel>, number: u64) -> Result<()> {
    let answer = client.range(RangeRequest { key: key(number), ..Default::default() }).await?.into_inner();
    ensure!(answer.header.is_some(), "a get without a header");
    Ok(())
}

/// Linearizable gets of one key by 100 clients and by one.
pub async fn gets(server: &Server, time: Duration, report: &mut Report) -> Result<()> {
    let channels = server.channels(CONNECTIONS).await?;
    for number in 0..KEYS {
        // Filled by one pass of concurrent puts, not one after the other.
        if number % 1000 == 0 {
            let client = KvClient::new(channels[0].clone());
            let puts = (number..number + 1000).map(|n| put(client.clone(), n));
            futures::future::try_join_all(puts).await?;
        }
    }
    let before = server.usage()?;
    let many = drive(&channels, CLIENTS, time, get).await?;
    let after = server.usage()?;
    let one = drive(&channels[..1], 1, time, get).await?;
    report.add("point get, 100 clients", "1/s", server.kind, many.rate());
    report.add(
        "server CPU a get",
        "µs",
        server.kind,
        (after.cpu_seconds - before.cpu_seconds) * 1e6 / many.operations as f64,
    );
    report.add("point get, 1 client, p50", "ms", server.kind, one.quantile_ms(0.5));
    Ok(())
}

async fn fill_keys(server: &Server, prefix: &'static str, count: u64) -> Result<()> {
    let channels = server.channels(4).await?;
    for begin in (0..count).step_by(500) {
        let client = KvClient::new(channels[(begin / 500) as usize % channels.len()].clone());
        let puts = (begin..(begin + 500).min(count)).map(|number| {
            let mut client = client.clone();
            async move {
                let key: Bytes = format!("{prefix}{number:08}").into();
                client.put(PutRequest { key, value: value(number), ..Default::default() }).await
            }
        });
        futures::future::try_join_all(puts).await?;
    }
    Ok(())
}

/// A page of 500 and the full list of 10,000 keys of 1 KiB.
pub async fn lists(server: &Server, time: Duration, report: &mut Report) -> Result<()> {
    fill_keys(server, "/registry/pods/", LIST_KEYS).await?;
    let channels = server.channels(4).await?;
    let page = |mut client: KvClient<Channel>, number: u64| async move {
        let key: Bytes = format!("/registry/pods/{:08}", number * 500 % (LIST_KEYS - 500)).into();
        let request =
            RangeRequest { key, range_end: "/registry/pods0".into(), limit: 500, ..Default::default() };
        let answer = client.range(request).await?.into_inner();
        ensure!(answer.kvs.len() == 500, "a page of {} keys", answer.kvs.len());
        Ok(())
    };
    let full = |mut client: KvClient<Channel>, _number: u64| async move {
        let key: Bytes = "/registry/pods/".into();
        let request = RangeRequest { key, range_end: "/registry/pods0".into(), ..Default::default() };
        let answer = client.range(request).await?.into_inner();
        ensure!(answer.kvs.len() as u64 == LIST_KEYS, "a list of {} keys", answer.kvs.len());
        Ok(())
    };
    let pages = drive(&channels, 4, time, page).await?;
    report.add("page of 500 of 10,000", "1/s", server.kind, pages.rate());
    let before = server.usage()?;
    let lists = drive(&channels, 4, time, full).await?;
    let after = server.usage()?;
    report.add("full list of 10,000", "1/s", server.kind, lists.rate());
    report.add(
        "server CPU a full list",
        "ms",
        server.kind,
        (after.cpu_seconds - before.cpu_seconds) * 1e3 / lists.operations as f64,
    );
    Ok(())
}

/// From the send of a put to its arrival at each of 100 watchers, at a steady 200 puts a second.
pub async fn watches(server: &Server, time: Duration, report: &mut Report) -> Result<()> {
    let channels = server.channels(CONNECTIONS).await?;
    let begun = Instant::now();
    let mut watchers = Vec::new();
    let stop = Arc::new(tokio::sync::Notify::new());
    let received = Arc::new(AtomicU64::new(0));
    for number in 0..WATCHERS {
        let mut client = WatchClient::new(channels[number % channels.len()].clone());
        let create = WatchCreateRequest {
            key: "/watched/".into(),
            range_end: "/watched0".into(),
            ..Default::default()
        };
        let first = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = futures::StreamExt::chain(tokio_stream::iter([first]), tokio_stream::pending());
        let mut answers = client.watch(requests).await?.into_inner();
        let created = answers.message().await?.context("created")?;
        ensure!(created.created, "the first answer of a watch is not `created`");
        let (stop, received) = (stop.clone(), received.clone());
        watchers.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let answer = tokio::select! {
                    answer = answers.message() => answer?.context("the watch ended")?,
                    () = stop.notified() => return anyhow::Ok(latencies),
                };
                let now = begun.elapsed();
                for event in answer.events {
                    let value = event.kv.context("kv")?.value;
                    let sent = u64::from_le_bytes(value[..8].try_into()?);
                    latencies.push(now.saturating_sub(Duration::from_nanos(sent)));
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    let mut client = KvClient::new(channels[0].clone());
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut puts = 0u64;
    while begun.elapsed() < time {
        ticks.tick().await;
        let mut bytes = vec![0u8; VALUE_BYTES];
        bytes[..8].copy_from_slice(&(begun.elapsed().as_nanos() as u64).to_le_bytes());
        let key: Bytes = format!("/watched/{}", puts % 100).into();
        client.put(PutRequest { key, value: bytes.into(), ..Default::default() }).await?;
        puts += 1;
    }
    let sent = Instant::now();
    while received.load(Ordering::Relaxed) < puts * WATCHERS as u64 {
        ensure!(
            sent.elapsed() < ARRIVAL_MAX,
            "{} of {} events",
            received.load(Ordering::Relaxed),
            puts * 100
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stop.notify_waiters();
    let mut latencies = Vec::new();
    for watcher in watchers {
        latencies.extend(watcher.await??);
    }
    ensure!(latencies.len() as u64 == puts * WATCHERS as u64, "{} of {} events", latencies.len(), puts * 100);
    latencies.sort();
    let done = Done { operations: puts, elapsed: time, latencies };
    report.add("watch latency, 100 watchers, p50", "ms", server.kind, done.quantile_ms(0.5));
    report.add("watch latency, 100 watchers, p99", "ms", server.kind, done.quantile_ms(0.99));
    Ok(())
}

/// Memory with 100,000 keys of 1 KiB.
pub async fn fill(server: &Server, report: &mut Report) -> Result<()> {
    fill_keys(server, "/registry/fill/", FILL_KEYS).await?;
    report.add("RSS with 100,000 keys of 1 KiB", "MiB", server.kind, server.resident_bytes()? / 1048576.0);
    Ok(())
}
