//! Bounds that hold under load: memory of slow readers, a full disk, log and WAL without a pause.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use dqlited_proto::etcdserverpb::request_op::Request;
use dqlited_proto::etcdserverpb::response_op::Response;
use dqlited_proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest, RangeRequest,
    RangeResponse, RequestOp, TxnRequest, TxnResponse,
};
use dqlited_tests::cluster::{Member, MemberOptions, folder_bytes};
use dqlited_tests::power::{self, Disk};
use tonic::Streaming;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

/// A value of which 500 make a list of 50 MB.
const VALUE_BYTES: usize = 100_000;
/// Keys of the large list.
const LIST_KEYS: usize = 500;
/// Readers that begin the list and do not read on.
const READERS: usize = 20;
/// What their answers may cost beside what the member needs anyway.
const EXTRA_BYTES_MAX: u64 = 300 << 20;

fn list() -> RangeRequest {
    RangeRequest { key: "list/".into(), range_end: "list0".into(), ..Default::default() }
}

async fn fill(member: &Member, keys: usize) -> Result<()> {
    let mut client = KvClient::new(member.connect().await?);
    for number in 0..keys {
        let key = format!("list/{number:05}").into();
        let value: Bytes = vec![number as u8; VALUE_BYTES].into();
        client.put(PutRequest { key, value, ..Default::default() }).await?;
    }
    Ok(())
}

/// A connection with small windows: the server can send no more than these until the reader reads.
async fn narrow_channel(member: &Member) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(member.url.clone())?
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535);
    Ok(endpoint.connect().await?)
}

/// An answer of which nothing is read before somebody asks for its message.
async fn unread<Q, A>(channel: Channel, path: &'static str, request: Q) -> Result<Streaming<A>>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel).max_decoding_message_size(256 << 20);
    grpc.ready().await?;
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    Ok(grpc.server_streaming(tonic::Request::new(request), path, codec).await?.into_inner())
}

/// The large list, unread.
async fn unread_list(channel: Channel) -> Result<Streaming<RangeResponse>> {
    unread(channel, "/etcdserverpb.KV/Range", list()).await
}

/// The large list out of a transaction, unread; the transaction also puts a key if it is one that writes.
async fn unread_txn(channel: Channel, writes: bool) -> Result<Streaming<TxnResponse>> {
    let op = |request| RequestOp { request: Some(request) };
    let mut success = vec![op(Request::RequestRange(list()))];
    if writes {
        let put = PutRequest { key: "beside".into(), value: "1".into(), ..Default::default() };
        success.push(op(Request::RequestPut(put)));
    }
    unread(channel, "/etcdserverpb.KV/Txn", TxnRequest { success, ..Default::default() }).await
}

/// A member with the large list, and what it holds in memory once its caches and buffers have their usual size.
async fn member_with_list() -> Result<(Member, u64)> {
    let member = Member::start(MemberOptions::dqlited()).await?;
    fill(&member, LIST_KEYS).await?;
    // One reader that reads.
    let mut client = KvClient::new(member.connect().await?).max_decoding_message_size(256 << 20);
    ensure!(client.range(list()).await?.into_inner().kvs.len() == LIST_KEYS);
    let base = member.resident_bytes()?;
    Ok((member, base))
}

/// The slow readers have begun: for some seconds the member stays within its bound.
async fn stays_bounded(member: &Member, base: u64) -> Result<()> {
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        most = most.max(member.resident_bytes()?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("base {} MiB, most {} MiB", base >> 20, most >> 20);
    ensure!(most < base + EXTRA_BYTES_MAX, "{} MiB over the base", (most - base) >> 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_large_lists_share_a_bounded_budget() -> Result<()> {
    let (member, base) = member_with_list().await?;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let channel = narrow_channel(&member).await?;
        readers.push(tokio::spawn(unread_list(channel)));
    }
    stays_bounded(&member, base).await?;
    // Those who read on get everything, and make room for those who wait.
    // All at once: the first to ask need not be the first that got room.
    let reads = readers.into_iter().map(|reader| async {
        let mut answer = reader.await??;
        let answer = answer.message().await?.context("an answer without a message")?;
        ensure!(answer.kvs.len() == LIST_KEYS);
        anyhow::Ok(())
    });
    let reads = futures::future::try_join_all(reads);
    let complete = tokio::time::timeout(Duration::from_secs(60), reads).await??;
    ensure!(complete.len() == READERS);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_large_transactions_share_the_same_budget() -> Result<()> {
    let (member, base) = member_with_list().await?;
    let mut readers = Vec::new();
    for number in 0..READERS {
        let channel = narrow_channel(&member).await?;
        readers.push(tokio::spawn(unread_txn(channel, number % 2 == 0)));
    }
    stays_bounded(&member, base).await?;
    let reads = readers.into_iter().map(|reader| async {
        let mut answer = reader.await??;
        let answer = answer.message().await?.context("an answer without a message")?;
        let first = answer.responses.into_iter().next().and_then(|op| op.response);
        let Some(Response::ResponseRange(range)) = first else { bail!("not a range first") };
        ensure!(range.kvs.len() == LIST_KEYS);
        Ok(())
    });
    let complete =
        tokio::time::timeout(Duration::from_secs(60), futures::future::try_join_all(reads)).await??;
    ensure!(complete.len() == READERS);
    // A put in the midst of it was neither lost nor made twice.
    let mut client = KvClient::new(member.connect().await?);
    let beside = RangeRequest { key: "beside".into(), ..Default::default() };
    let beside = client.range(beside).await?.into_inner().kvs;
    ensure!(beside.len() == 1 && beside[0].version == READERS as i64 / 2, "{beside:?}");
    // A delete that answers what it deleted is no different.
    let delete = DeleteRangeRequest { key: "list/".into(), range_end: "list0".into(), prev_kv: true };
    let mut client = client.max_decoding_message_size(256 << 20);
    let deleted = client.delete_range(delete).await?.into_inner();
    ensure!(deleted.deleted == LIST_KEYS as i64 && deleted.prev_kvs.len() == LIST_KEYS);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_reading_gives_up_its_room_to_those_who_wait_and_not_before() -> Result<()> {
    /// What the member says when it closes.
    const TOLD: &str = "clients take nothing of their answers";
    /// Five such lists fill the budget.
    const HOLDERS: usize = 5;
    let member = Member::start(MemberOptions::dqlited().flag("--grpc-keepalive-timeout", "2s")).await?;
    fill(&member, LIST_KEYS).await?;
    let mut holders = Vec::new();
    for _ in 0..HOLDERS {
        holders.push(unread_list(narrow_channel(&member).await?).await?);
    }
    // Far beyond their time: while nobody waits, nobody is closed. The first of them may read on.
    let beyond = Instant::now() + Duration::from_secs(4);
    let mut look = tokio::time::interval(Duration::from_millis(50));
    while Instant::now() < beyond {
        look.tick().await;
        ensure!(!member.log().contains(TOLD), "closed while nobody waits: {}", member.log());
    }
    let first = holders.remove(0).message().await?.context("an answer without a message")?;
    ensure!(first.kvs.len() == LIST_KEYS);
    // The room that is now free goes to one more that does not read, and the next has to wait.
    holders.push(unread_list(narrow_channel(&member).await?).await?);
    let begun = Instant::now();
    let mut client = KvClient::new(member.connect().await?).max_decoding_message_size(256 << 20);
    let read = tokio::time::timeout(Duration::from_secs(60), client.range(list())).await?;
    ensure!(read?.into_inner().kvs.len() == LIST_KEYS);
    println!("room after {:?}", begun.elapsed());
    // Those who held the room hear that their answers do not come.
    let mut failed = 0;
    for mut holder in holders {
        failed += usize::from(holder.message().await.is_err());
    }
    ensure!(failed >= HOLDERS - 1, "only {failed} have heard of it");
    ensure!(member.log().contains(TOLD), "{}", member.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_raises_nospace_and_the_way_out_works() -> Result<()> {
    if !power::may_cut() {
        return Ok(());
    }
    let disk = Disk::new(160)?;
    let mut options = MemberOptions::dqlited();
    options.data_dir = Some(disk.path().join("data"));
    let mut member = Member::start(options).await?;
    let mut client = KvClient::new(member.connect().await?).max_decoding_message_size(256 << 20);
    let written = fill_the_disk(&mut client, VALUE_BYTES).await.with_context(|| member.log())?;

    let mut maintenance = MaintenanceClient::new(member.connect().await?);
    let alarms = maintenance.alarm(AlarmRequest::default()).await?.into_inner().alarms;
    ensure!(alarms.len() == 1 && alarms[0].alarm == 1, "{alarms:?}");
    let count = RangeRequest { count_only: true, ..list() };
    ensure!(client.range(count.clone()).await?.into_inner().count == written as i64);
    let delete = DeleteRangeRequest { key: "list/".into(), range_end: "list0".into(), prev_kv: false };
    let deleted = client.delete_range(delete).await?.into_inner();
    ensure!(deleted.deleted == written as i64);
    let revision = deleted.header.context("header")?.revision;
    client.compact(CompactionRequest { revision, physical: true }).await?;
    maintenance.defragment(DefragmentRequest {}).await?;
    // Still refused: the alarm outlives the space.
    let put = PutRequest { key: "after".into(), value: "v".into(), ..Default::default() };
    ensure!(client.put(put.clone()).await.is_err(), "a put under the alarm");
    let disarm = AlarmRequest { action: 2, member_id: alarms[0].member_id, alarm: 1 };
    maintenance.alarm(disarm).await?;
    client.put(put).await?;
    // And nothing of it is lost by a restart.
    member.kill()?;
    member.start_again().await?;
    let mut client = KvClient::new(member.connect().await?);
    let after = client.range(RangeRequest { key: "after".into(), ..Default::default() }).await?.into_inner();
    ensure!(after.count == 1);
    ensure!(client.range(count).await?.into_inner().count == 0);
    Ok(())
}

/// Puts until NOSPACE refuses one, on a disk of 160 MB; answers how many were written.
async fn fill_the_disk(client: &mut KvClient<Channel>, value_bytes: usize) -> Result<usize> {
    let mut written = 0usize;
    let refused = loop {
        let value: Bytes = vec![written as u8; value_bytes].into();
        let put = PutRequest { key: format!("list/{written:05}").into(), value, ..Default::default() };
        match client.put(put).await {
            Ok(_) => written += 1,
            Err(status) => break status,
        }
        ensure!(written * value_bytes < 300 << 20, "300 MiB on a disk of 160 MB");
    };
    ensure!(refused.code() == tonic::Code::ResourceExhausted, "{refused:?}");
    ensure!(refused.message() == "etcdserver: mvcc: database space exceeded", "{refused:?}");
    println!("{written} values of {value_bytes} bytes until the disk was full");
    Ok(written)
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_half_of_what_has_filled_the_disk_is_enough_for_the_way_out() -> Result<()> {
    if !power::may_cut() {
        return Ok(());
    }
    let disk = Disk::new(160)?;
    let mut options = MemberOptions::dqlited();
    options.data_dir = Some(disk.path().join("data"));
    let member = Member::start(options).await?;
    let mut client = KvClient::new(member.connect().await?).max_decoding_message_size(256 << 20);
    let written = fill_the_disk(&mut client, 50_000).await.with_context(|| member.log())?;
    // The first half: what is left has to be moved.
    let range_end = format!("list/{:05}", written / 2).into();
    let delete = DeleteRangeRequest { key: "list/".into(), range_end, prev_kv: false };
    let deleted = client.delete_range(delete).await?.into_inner();
    ensure!(deleted.deleted == (written / 2) as i64);
    let revision = deleted.header.context("header")?.revision;
    client.compact(CompactionRequest { revision, physical: true }).await?;
    let mut maintenance = MaintenanceClient::new(member.connect().await?);
    maintenance.defragment(DefragmentRequest {}).await.with_context(|| files(&member.data_dir))?;
    let alarms = maintenance.alarm(AlarmRequest::default()).await?.into_inner().alarms;
    ensure!(alarms.len() == 1, "{alarms:?}");
    maintenance.alarm(AlarmRequest { action: 2, member_id: alarms[0].member_id, alarm: 1 }).await?;
    // For longer than the disk is looked at: the alarm does not come back.
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for number in 0..20 {
        pace.tick().await;
        let value: Bytes = vec![7u8; 50_000].into();
        let put = PutRequest { key: format!("after/{number}").into(), value, ..Default::default() };
        client.put(put).await.with_context(|| files(&member.data_dir))?;
    }
    let alarms = maintenance.alarm(AlarmRequest::default()).await?.into_inner().alarms;
    ensure!(alarms.is_empty(), "{alarms:?}\n{}", files(&member.data_dir));
    let kept = RangeRequest { count_only: true, ..list() };
    ensure!(client.range(kept).await?.into_inner().count == (written - written / 2) as i64);
    println!("afterwards: {}", files(&member.data_dir));
    Ok(())
}

/// What holds space in a data directory, in words.
fn files(folder: &std::path::Path) -> String {
    let Ok(entries) = std::fs::read_dir(folder) else { return String::new() };
    let words = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => files(&entry.path()),
        Ok(metadata) => format!("{}: {} KiB; ", entry.file_name().to_string_lossy(), metadata.len() >> 10),
        Err(error) => format!("{error}; "),
    });
    words.collect()
}

/// Five minutes by default in the nightly run; `SOAK_SECONDS` sets it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "five minutes: tests/nightly runs it"]
async fn lists_and_puts_without_a_pause_leave_log_and_wal_bounded() -> Result<()> {
    /// The log of a lone member keeps two segments of 16 MiB, the one in use among them, and two spare ones; as much again
    /// for what is written until a checkpoint has moved the whole WAL.
    const LOG_BYTES_MAX: u64 = 128 << 20;
    /// SQLite's WAL begins anew near 64 MiB; as much again for what is written while a checkpoint waits for readers.
    const WAL_BYTES_MAX: u64 = 128 << 20;
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    let member = Member::start(MemberOptions::dqlited()).await?;
    fill(&member, 100).await?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut tasks = Vec::new();
    for writer in 0..8 {
        let mut client = KvClient::new(member.connect().await?);
        tasks.push(tokio::spawn(async move {
            for number in 0u64.. {
                let key = format!("list/{:05}", (number * 8 + writer) % 100).into();
                let put = PutRequest { key, value: vec![1u8; 2000].into(), ..Default::default() };
                let revision = client.put(put).await?.into_inner().header.context("header")?.revision;
                if writer == 0 && number % 2000 == 1999 {
                    let compact = CompactionRequest { revision: revision - 1000, physical: false };
                    client.compact(compact).await?;
                }
                if Instant::now() > end {
                    return anyhow::Ok(());
                }
            }
            Ok(())
        }));
    }
    for _ in 0..4 {
        let mut client = KvClient::new(member.connect().await?).max_decoding_message_size(256 << 20);
        tasks.push(tokio::spawn(async move {
            while Instant::now() < end {
                client.range(list()).await?;
            }
            anyhow::Ok(())
        }));
    }
    let (mut log_most, mut wal_most) = (0, 0);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let wal = wal_bytes(&member.data_dir);
        wal_most = wal_most.max(wal);
        log_most = log_most.max(folder_bytes(&member.data_dir.join("log")));
        if wal > WAL_BYTES_MAX || log_most > LOG_BYTES_MAX {
            bail!("WAL {} MiB, log {} MiB", wal >> 20, log_most >> 20);
        }
    }
    for task in tasks {
        task.await??;
    }
    println!("most: WAL {} MiB, log {} MiB over {seconds} s", wal_most >> 20, log_most >> 20);
    ensure!(log_most > 0 && wal_most > 0, "the files are not where this test looks for them");
    Ok(())
}

fn wal_bytes(folder: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => wal_bytes(&entry.path()),
            Ok(metadata) if entry.path().to_string_lossy().ends_with("-wal") => metadata.len(),
            _ => 0,
        })
        .sum()
}
