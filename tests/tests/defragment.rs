//! What a defragmentation costs those who write meanwhile: the longest put, and the space that it takes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dqlited_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use dqlited_proto::etcdserverpb::request_op::Request;
use dqlited_proto::etcdserverpb::{
    CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest, RequestOp, StatusRequest,
    StatusResponse, TxnRequest,
};
use dqlited_tests::api::Api;
use dqlited_tests::cluster::MemberOptions;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tonic::transport::Channel;

/// Size of the database before anything is deleted.
const FILLED_BYTES: i64 = 1 << 30;
/// Of each value: one to a page of SQLite's, as most objects of Kubernetes are.
const VALUE_BYTES: usize = 3000;
/// Keys of one transaction.
const KEYS_A_TXN: usize = 120;
/// No put may take longer while pages are moved.
const PUT_MAX: Duration = Duration::from_millis(250);
/// From one put to the next of the client that is watched.
const PUT_PAUSE: Duration = Duration::from_millis(3);
/// What the puts themselves may add to database and WAL in the meantime.
const PUTS_BYTES_MAX: u64 = 8 << 20;
/// What a defragmentation says that it may need, and checks (`docs/operations.md`).
const MOVED_BYTES_MAX: u64 = 8 << 20;
/// Puts without a defragmentation, to compare with.
const QUIET_PUTS: usize = 400;
/// A defragmentation of a gibibyte takes some seconds.
const DEFRAGMENT_MAX: Duration = Duration::from_secs(300);

fn key(number: usize) -> Bytes {
    format!("fill/{number:08}").into()
}

async fn status(maintenance: &mut MaintenanceClient<Channel>) -> Result<StatusResponse> {
    Ok(maintenance.status(StatusRequest {}).await?.into_inner())
}

async fn run(api: &mut Api, requests: impl Iterator<Item = Request>) -> Result<i64> {
    let success = requests.map(|request| RequestOp { request: Some(request) }).collect();
    let txn = TxnRequest { success, ..Default::default() };
    Ok(api.kv.txn(txn).await?.into_inner().header.context("header")?.revision)
}

/// Fills the database, then deletes and compacts every second key: free pages all over the file. Answers the keys left.
async fn fill_with_gaps(api: &mut Api, maintenance: &mut MaintenanceClient<Channel>) -> Result<usize> {
    let mut keys = 0;
    while status(maintenance).await?.db_size < FILLED_BYTES {
        for _ in 0..20 {
            // Not alike, so that nothing that compresses could flatter the numbers.
            let puts = (keys..keys + KEYS_A_TXN).map(|number| {
                let value: Vec<u8> = (0..VALUE_BYTES).map(|i| (i * 31 + number * 7) as u8).collect();
                Request::RequestPut(PutRequest {
                    key: key(number),
                    value: value.into(),
                    ..Default::default()
                })
            });
            run(api, puts).await?;
            keys += KEYS_A_TXN;
        }
    }
    let mut revision = 0;
    for begin in (0..keys).step_by(2 * KEYS_A_TXN) {
        let deletes = (begin..(begin + 2 * KEYS_A_TXN).min(keys)).step_by(2).map(|number| {
            Request::RequestDeleteRange(DeleteRangeRequest { key: key(number), ..Default::default() })
        });
        revision = run(api, deletes).await?;
    }
    api.kv.compact(CompactionRequest { revision, physical: true }).await?;
    Ok(keys - keys.div_ceil(2))
}

/// Bytes of the database and of SQLite's WAL.
fn sqlite_bytes(data_dir: &Path) -> u64 {
    ["store.db", "store.db-wal"]
        .into_iter()
        .map(|name| std::fs::metadata(data_dir.join("store").join(name)).map_or(0, |metadata| metadata.len()))
        .sum()
}

/// Puts one after another as long as `goes_on` says so of the puts done; answers how long each took and when it began,
/// the longest last.
async fn put_steadily(
    mut api: Api,
    goes_on: impl Fn(usize) -> bool,
) -> Result<(Api, Vec<(Duration, Duration)>)> {
    let mut took = Vec::new();
    let start = Instant::now();
    let mut pace = tokio::time::interval(PUT_PAUSE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while goes_on(took.len()) {
        pace.tick().await;
        let begun = Instant::now();
        api.put("steady", vec![took.len() as u8; 1000]).await?;
        took.push((begun.elapsed(), begun - start));
    }
    took.sort();
    Ok((api, took))
}

fn words(took: &[(Duration, Duration)]) -> String {
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or_default().0;
    let mut text = format!("{} puts, p50 {:.1?}, p99 {:.1?}, longest", took.len(), at(0.5), at(0.99));
    for (put, begun) in took.iter().rev().take(5) {
        text += &format!(" {put:.1?} (at {begun:.1?})");
    }
    text
}

/// Asserts for the build that it is run on; the bound is meant for a release build (`tests/nightly defragment`).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "fills 1 GiB: tests/nightly runs it"]
async fn no_put_waits_long_for_a_defragmentation_of_a_gibibyte() -> Result<()> {
    let mut api =
        Api::start_with(MemberOptions::dqlited().flag("--quota-backend-bytes", "8589934592")).await?;
    let mut maintenance = MaintenanceClient::new(api.channel.clone());
    let keys = fill_with_gaps(&mut api, &mut maintenance).await?;
    // A fresh process has an empty WAL: what grows from here on was not there before.
    ensure!(api.member.stop().await?.success());
    api.member.start_again().await?;
    let api = Api::of(api.member).await?;
    let mut maintenance = MaintenanceClient::new(api.channel.clone());
    let before = status(&mut maintenance).await?;
    println!("{} MiB, in use {} MiB, {keys} keys", before.db_size >> 20, before.db_size_in_use >> 20);
    ensure!(before.db_size >= FILLED_BYTES && before.db_size_in_use < before.db_size * 2 / 3, "{before:?}");

    let data_dir = api.member.data_dir.clone();
    let bytes_before = sqlite_bytes(&data_dir);
    ensure!(bytes_before >= FILLED_BYTES as u64, "the files are not where this test looks for them");
    let (api, quiet) = put_steadily(api, |done| done < QUIET_PUTS).await?;
    println!("alone:           {}", words(&quiet));

    let (stop, stopped) = watch::channel(false);
    let puts = tokio::spawn(put_steadily(api, move |_| !*stopped.borrow()));
    let begun = Instant::now();
    let mut client = maintenance.clone();
    let defragment = client.defragment(DefragmentRequest {});
    tokio::pin!(defragment);
    let mut most = 0;
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            done = &mut defragment => {
                done?;
                break;
            }
            _ = look.tick() => most = most.max(sqlite_bytes(&data_dir)),
        };
        ensure!(begun.elapsed() < DEFRAGMENT_MAX, "no end of it after {DEFRAGMENT_MAX:?}");
    }
    let seconds = begun.elapsed();
    stop.send(true)?;
    let (api, took) = puts.await??;
    println!("defragmentation: {} over {seconds:.1?}", words(&took));
    let grown = most.saturating_sub(bytes_before);
    println!("database and WAL together grew by at most {} MiB", grown >> 20);
    let left = std::fs::metadata(data_dir.join("store/store.db"))?.len();
    let after = status(&mut maintenance).await?;
    println!("{} MiB, in use {} MiB", after.db_size >> 20, after.db_size_in_use >> 20);
    ensure!(after.db_size - after.db_size_in_use < before.db_size / 100, "{after:?}");
    ensure!(left < before.db_size as u64 * 2 / 3, "the file has still {left} bytes");
    ensure!(took.len() > 100, "too few puts to say anything");
    ensure!(took[took.len() - 1].0 <= PUT_MAX, "the longest put took {:?}", took[took.len() - 1].0);
    ensure!(grown <= MOVED_BYTES_MAX + PUTS_BYTES_MAX, "{grown} bytes beside the database");
    drop(api);
    Ok(())
}
