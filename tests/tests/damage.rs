//! A store that is damaged or cut under a member ends the process with a message: never a zombie that serves reads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use dqlited_proto::etcdserverpb::{PutRequest, RangeRequest};
use dqlited_tests::api::{Api, prefix};
use dqlited_tests::cluster::MemberOptions;
use futures::future::try_join_all;

const PAGE_BYTES: usize = 4096;
const KEYS: usize = 3000;
/// How long the process may take to end, on a busy machine.
const END_MAX: Duration = Duration::from_secs(20);

fn key(number: usize) -> Bytes {
    format!("k/{number:05}").into()
}

fn list() -> RangeRequest {
    RangeRequest { key: "k/".into(), range_end: "k0".into(), ..Default::default() }
}

fn put() -> PutRequest {
    PutRequest { key: "later".into(), value: "v".into(), ..Default::default() }
}

/// A member that holds many keys, stopped cleanly: all of them are in the database file.
async fn stopped() -> Result<Api> {
    let mut api = Api::start_with(MemberOptions::dqlited()).await?;
    for first in (0..KEYS).step_by(500) {
        let puts = (first..first + 500).map(|number| {
            let mut kv = api.kv.clone();
            let value = vec![b'v'; 500].into();
            async move { kv.put(PutRequest { key: key(number), value, ..Default::default() }).await }
        });
        try_join_all(puts).await?;
    }
    ensure!(api.member.stop().await?.success(), "a clean stop");
    Ok(api)
}

fn store_path(api: &Api) -> std::path::PathBuf {
    api.member.data_dir.join("store").join("store.db")
}

/// The same, with pages overwritten that a start does not read, and started again.
async fn damaged() -> Result<Api> {
    let mut api = stopped().await?;
    let whole = std::fs::read(store_path(&api))?;
    // Those that are full of values: no start looks a key up there.
    let is_of_values = |page: &[u8]| page.iter().filter(|byte| **byte == b'v').count() > PAGE_BYTES / 2;
    let pages: Vec<usize> = (0..whole.len() / PAGE_BYTES)
        .filter(|page| is_of_values(&whole[page * PAGE_BYTES..(page + 1) * PAGE_BYTES]))
        .collect();
    ensure!(pages.len() > 300, "{} pages of values", pages.len());
    let store = File::options().write(true).open(store_path(&api))?;
    for page in &pages[pages.len() / 3..pages.len() / 2] {
        store.write_all_at(&[0xa5; PAGE_BYTES], (page * PAGE_BYTES) as u64)?;
    }
    api.member.start_again().await?;
    Api::of(api.member).await
}

/// It ends by itself, with a status that says so and a message that says what is wrong where and what to do.
async fn has_ended_for_damage(mut api: Api) -> Result<()> {
    let status = api.member.wait_for_end(END_MAX).await?;
    ensure!(status.code() == Some(1), "{status}");
    let log = api.member.log();
    let folder = api.member.data_dir.join("store");
    let said = format!(
        "error: the member can no longer work: the store in {} cannot be read any more: store.db: ",
        folder.display()
    );
    let line = log.lines().find(|line| line.starts_with(&said));
    ensure!(
        line.is_some_and(|line| line.ends_with("restore the data directory from a backup")),
        "no such message: {said}\n{log}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_that_a_list_meets_ends_the_process_and_no_later_put_is_acknowledged() -> Result<()> {
    let mut api = damaged().await?;
    api.kv.put(put()).await?;
    let list = api.kv.range(list()).await;
    ensure!(list.is_err(), "a list over damaged pages was answered");
    let later = api.kv.put(put()).await;
    ensure!(later.is_err(), "acknowledged after the damage was met: {later:?}");
    has_ended_for_damage(api).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_that_a_get_meets_ends_the_process_and_no_later_put_is_acknowledged() -> Result<()> {
    let mut api = damaged().await?;
    let mut is_met = false;
    for number in 0..KEYS {
        let get = RangeRequest { key: key(number), ..Default::default() };
        if api.kv.range(get).await.is_err() {
            is_met = true;
            break;
        }
    }
    ensure!(is_met, "no key was on a damaged page");
    let later = api.kv.put(put()).await;
    ensure!(later.is_err(), "acknowledged after the damage was met: {later:?}");
    has_ended_for_damage(api).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_that_a_watch_meets_ends_the_process() -> Result<()> {
    let api = damaged().await?;
    let mut watch = api.watch().await?;
    watch.created(prefix("k/", 2)).await?;
    has_ended_for_damage(api).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_cut_under_a_member_ends_the_process_with_a_line() -> Result<()> {
    let mut api = stopped().await?;
    api.member.start_again().await?;
    let mut api = Api::of(api.member).await?;
    // Its readers have the file mapped now.
    let keys = api.kv.range(list()).await?.into_inner().kvs.len();
    ensure!(keys == KEYS, "{keys} keys");
    File::options().write(true).open(store_path(&api))?.set_len(0)?;
    let list = api.kv.range(list()).await;
    ensure!(list.is_err(), "a list out of a file that is gone");
    let status = api.member.wait_for_end(END_MAX).await?;
    let log = api.member.log();
    ensure!(status.signal() == Some(libc::SIGBUS), "{status}\n{log}");
    ensure!(log.contains("dqlited: SIGBUS: a mapped file of the data directory was cut"), "{log}");
    Ok(())
}
