//! Mistakes of kine and k8s-dqlite, each with the promise that rules it out here (docs/regressions.md). What another
//! file shows already is not repeated.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dqlited_proto::etcdserverpb as pb;
use dqlited_proto::etcdserverpb::cluster_client::ClusterClient;
use dqlited_proto::etcdserverpb::compare::TargetUnion;
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::response_op::Response as OpResponse;
use dqlited_tests::api::{Api, brief, prefix, program, single};
use dqlited_tests::cluster::MemberOptions;
use tonic::transport::{Channel, Endpoint};

use crate::api::{compare, delete_op, get_op, one, put_op, txn, txn_op};

async fn run(api: &mut Api, request: pb::TxnRequest) -> Result<pb::TxnResponse> {
    Ok(api.kv.txn(request).await?.into_inner())
}

async fn get(api: &mut Api, key: &'static str) -> Result<Option<pb::RangeResponse>> {
    let answer = api.kv.range(one(key)).await?.into_inner();
    Ok(Some(answer).filter(|answer| answer.count == 1))
}

async fn revision(api: &mut Api) -> Result<i64> {
    let answer = api.kv.range(one("no such key")).await?.into_inner();
    Ok(answer.header.context("header")?.revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_of_a_key_that_was_not_the_last_one_changed_is_written() -> Result<()> {
    let mut api = Api::start_with(program()).await?;
    api.put("a", "1").await?;
    for _ in 0..3 {
        api.put("b", "1").await?;
    }
    let revision = api.put("a", "2").await?;
    let found = get(&mut api, "a").await?.context("a")?.kvs.remove(0);
    ensure!((found.value, found.mod_revision, found.version) == ("2".into(), revision, 2));
    ensure!(found.create_revision == revision - 4);
    Ok(())
}

/// A transaction's answer as far as it can be read however deep it nests, without the header that names the member.
#[derive(Clone, PartialEq, prost::Message)]
struct RawTxnResponse {
    #[prost(bool, tag = "2")]
    succeeded: bool,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    responses: Vec<bytes::Bytes>,
}

async fn raw_txn(
    channel: &Channel,
    request: pb::TxnRequest,
) -> Result<Result<RawTxnResponse, (tonic::Code, String)>> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await?;
    let codec = tonic_prost::ProstCodec::<pb::TxnRequest, RawTxnResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Txn");
    let answer = grpc.unary(tonic::Request::new(request), path, codec).await;
    Ok(answer.map(tonic::Response::into_inner).map_err(|s| (s.code(), s.message().to_owned())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_can_read_every_transaction_that_it_took_however_deep() -> Result<()> {
    // An empty transaction at the bottom is one level more than etcd's bound on operations leaves for others.
    let levels = |count: usize, leaf| {
        (1..count).fold(txn(vec![], leaf, vec![]), |inner, _| txn(vec![], vec![txn_op(inner)], vec![]))
    };
    let api = Api::start_with(program()).await?;
    let etcd = Api::start_with(MemberOptions::etcd()).await?;
    for (count, leaf, is_taken) in [
        (40, vec![put_op("deep", "1")], true),
        (60, vec![put_op("deep", "1")], true),
        (128, vec![put_op("deep", "1")], true),
        (128, vec![get_op(one("deep"))], true),
        (129, vec![], true),
        (129, vec![put_op("deep", "1")], false),
        (130, vec![], false),
        (1_000, vec![], false),
    ] {
        let request = levels(count, leaf);
        let ours = raw_txn(&api.channel, request.clone()).await?;
        let theirs = raw_txn(&etcd.channel, request).await?;
        ensure!(ours == theirs, "{count} levels: {ours:?}, etcd {theirs:?}");
        ensure!(ours.is_ok() == is_taken, "{count} levels: {ours:?}");
    }
    let mut api = api.crash_and_restart().await?;
    ensure!(get(&mut api, "deep").await?.context("deep")?.kvs[0].version == 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_may_compare_one_key_and_change_others() -> Result<()> {
    let mut api = Api::start_with(program()).await?;
    let at = api.put("lock", "mine").await?;
    let data_at = api.put("data", "1").await?;
    let guarded =
        |at| txn(vec![compare("lock", 0, TargetUnion::ModRevision(at))], vec![put_op("data", "2")], vec![]);
    // The revision of the key that is changed says nothing about the key that is compared.
    ensure!(!run(&mut api, guarded(data_at)).await?.succeeded);
    ensure!(get(&mut api, "data").await?.context("data")?.kvs[0].value == "1");
    ensure!(run(&mut api, guarded(at)).await?.succeeded);
    ensure!(get(&mut api, "data").await?.context("data")?.kvs[0].value == "2");
    ensure!(get(&mut api, "lock").await?.context("lock")?.kvs[0].mod_revision == at);
    // A deletion in a transaction takes its whole interval, under a compare or without.
    for key in ["d/1", "d/2", "d/3"] {
        api.put(key, "1").await?;
    }
    let compares = vec![compare("lock", 0, TargetUnion::ModRevision(at))];
    let answer = run(&mut api, txn(compares, vec![delete_op("d/", "d/3")], vec![])).await?;
    let Some(OpResponse::ResponseDeleteRange(deleted)) = &answer.responses[0].response else {
        anyhow::bail!("{answer:?}")
    };
    ensure!(deleted.deleted == 2);
    ensure!(get(&mut api, "d/2").await?.is_none() && get(&mut api, "d/3").await?.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_compare_the_same_revision_exactly_one_writes_and_the_others_see_it() -> Result<()> {
    const WRITERS: usize = 12;
    let mut api = Api::start_with(program()).await?;
    let mut clients = Vec::new();
    for _ in 0..WRITERS {
        clients.push(KvClient::new(api.member.connect().await?));
    }
    let mut at = 0;
    for round in 0..15 {
        let tries = clients.iter().enumerate().map(|(number, client)| {
            let mut client = client.clone();
            let value = format!("{round}/{number}");
            let put = pb::PutRequest { key: "k".into(), value: value.clone().into(), ..Default::default() };
            let put = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
            let compares = vec![compare("k", 0, TargetUnion::ModRevision(at))];
            let request = txn(compares, vec![put], vec![get_op(one("k"))]);
            async move { anyhow::Ok((value, client.txn(request).await?.into_inner())) }
        });
        let answers = futures::future::try_join_all(tries).await?;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, answer)| answer.succeeded);
        ensure!(won.len() == 1, "round {round}: {} have won", won.len());
        let (value, answer) = &won[0];
        at = answer.header.context("header")?.revision;
        let now = get(&mut api, "k").await?.context("k")?.kvs.remove(0);
        ensure!(now.mod_revision == at && now.value == value.as_bytes());
        for (_, answer) in lost {
            let Some(OpResponse::ResponseRange(seen)) = &answer.responses[0].response else {
                anyhow::bail!("{answer:?}")
            };
            ensure!(
                seen.kvs[0].mod_revision == at,
                "a loser has seen something else than the winner's record"
            );
        }
    }
    Ok(())
}

/// kube-apiserver's: several of them agree through this key who compacts.
#[tokio::test(flavor = "multi_thread")]
async fn the_compaction_key_of_kube_apiserver_is_a_key_like_any() -> Result<()> {
    let mut api = Api::start_with(program()).await?;
    let request = |version, value| {
        let compares = vec![compare("compact_rev_key", 0, TargetUnion::Version(version))];
        txn(compares, vec![put_op("compact_rev_key", value)], vec![get_op(one("compact_rev_key"))])
    };
    ensure!(run(&mut api, request(0, "0")).await?.succeeded);
    ensure!(run(&mut api, request(1, "5")).await?.succeeded);
    // The next one, who has not seen that, hears what is there.
    let late = run(&mut api, request(1, "6")).await?;
    ensure!(!late.succeeded);
    let Some(OpResponse::ResponseRange(found)) = &late.responses[0].response else {
        anyhow::bail!("{late:?}")
    };
    ensure!((&found.kvs[0].value[..], found.kvs[0].version) == (&b"5"[..], 2));
    ensure!(run(&mut api, request(2, "6")).await?.succeeded, "also from the second round on");
    // And it is watched as any other.
    let mut stream = api.watch().await?;
    stream.created(single("compact_rev_key", 0)).await?;
    ensure!(run(&mut api, request(3, "7")).await?.succeeded);
    ensure!(stream.events(1).await?[0].kv.as_ref().is_some_and(|kv| kv.value == "7"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_are_given_up_fail_no_other() -> Result<()> {
    const ROUNDS: usize = 10;
    const TOGETHER: usize = 40;
    let mut api = Api::start_with(program()).await?;
    let channel = api.member.connect().await?;
    let mut cancelled = 0;
    for round in 0..ROUNDS {
        let mut kept = Vec::new();
        let mut given_up = Vec::new();
        for number in 0..TOGETHER {
            let mut client = KvClient::new(channel.clone());
            let key = format!("{round}/{number}");
            let put = pb::PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
            let task = tokio::spawn(async move { client.put(put).await });
            if number % 2 == 0 { kept.push(task) } else { given_up.push(task) }
        }
        // Some before they are sent, some while they wait for the disk.
        for _ in 0..50 * round {
            tokio::task::yield_now().await;
        }
        given_up.iter().for_each(tokio::task::JoinHandle::abort);
        for task in given_up {
            cancelled += usize::from(task.await.is_err());
        }
        for task in kept {
            task.await?.context("a write whose neighbours were given up")?;
        }
    }
    ensure!(cancelled > ROUNDS, "only {cancelled} were given up in time");
    for round in 0..ROUNDS {
        for number in (0..TOGETHER).step_by(2) {
            let key = format!("{round}/{number}");
            let request = pb::RangeRequest { key: key.clone().into(), ..Default::default() };
            ensure!(api.kv.range(request).await?.into_inner().count == 1, "{key} was answered");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_the_same_ttl_are_two() -> Result<()> {
    let mut api = Api::start_with(program()).await?;
    let mut ids = Vec::new();
    for key in ["a", "b"] {
        let lease = api.lease.lease_grant(pb::LeaseGrantRequest { id: 0, ttl: 60 }).await?.into_inner();
        ensure!((lease.ttl, lease.id > 0) == (60, true));
        api.put_leased(key, "1", lease.id).await?;
        ids.push(lease.id);
    }
    ensure!(ids[0] != ids[1]);
    api.lease.lease_revoke(pb::LeaseRevokeRequest { id: ids[0] }).await?;
    ensure!(get(&mut api, "a").await?.is_none() && get(&mut api, "b").await?.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_an_expired_lease_go_once_and_in_one_revision() -> Result<()> {
    const KEYS: usize = 30;
    let mut api = Api::start_with(program()).await?;
    api.lease.lease_grant(pb::LeaseGrantRequest { id: 5, ttl: 3 }).await?;
    let mut stream = api.watch().await?;
    stream.created(prefix("l/", 0)).await?;
    for number in 0..KEYS {
        api.put_leased(&format!("l/{number:02}"), "1", 5).await?;
    }
    stream.events(KEYS).await?;
    let before = revision(&mut api).await?;
    let deleted = brief(&stream.events(KEYS).await?);
    let expected: Vec<_> = (0..KEYS).map(|number| (format!("-l/{number:02}"), before + 1)).collect();
    ensure!(deleted == expected, "{deleted:?}");
    stream.silent().await?;
    ensure!(revision(&mut api).await? == before + 1);
    Ok(())
}

/// Whoever polls for events adds its interval to each of them.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_follows_its_write_without_waiting_for_a_tick() -> Result<()> {
    const ROUNDS: usize = 100;
    let api = Api::start_with(program()).await?;
    let mut other = KvClient::new(api.member.connect().await?);
    let mut stream = api.watch().await?;
    stream.created(single("k", 0)).await?;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let begun = Instant::now();
        other.put(put).await?;
        stream.events(1).await?;
        took.push(begun.elapsed());
    }
    took.sort();
    println!("write and event: p50 {:?}, longest {:?}", took[ROUNDS / 2], took[ROUNDS - 1]);
    // A tick of a second would give 500 ms; a busy machine stays far below this.
    ensure!(took[ROUNDS / 2] < Duration::from_millis(200), "{:?}", took[ROUNDS / 2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_without_prev_kv_gets_none() -> Result<()> {
    let mut api = Api::start_with(program()).await?;
    let first = api.put("k", "1").await?;
    let mut live = api.watch().await?;
    live.created(single("k", 0)).await?;
    api.put("k", "2").await?;
    api.delete("k").await?;
    let mut past = api.watch().await?;
    past.created(single("k", first)).await?;
    for events in [live.events(2).await?, past.events(3).await?] {
        ensure!(events.iter().all(|event| event.prev_kv.is_none()), "{events:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_go_on_behind_an_event_and_are_not_behind_it() -> Result<()> {
    let options = program().flag("--watch-progress-notify-interval", "300ms");
    let mut api = Api::start_with(options).await?;
    let mut stream = api.watch().await?;
    stream.created(pb::WatchCreateRequest { progress_notify: true, ..single("k", 0) }).await?;
    for _ in 0..2 {
        let revision = api.put("k", "1").await?;
        // A report may be under way.
        let mut answer = stream.next().await?;
        while answer.events.is_empty() {
            answer = stream.next().await?;
        }
        ensure!(brief(&answer.events) == [("k".to_owned(), revision)]);
        for _ in 0..2 {
            let report = stream.next().await?;
            ensure!(report.events.is_empty() && report.header.context("header")?.revision == revision);
        }
    }
    Ok(())
}

/// The address by which a client has come says nothing about the members.
#[tokio::test(flavor = "multi_thread")]
async fn members_are_told_as_they_are_whatever_name_the_client_called() -> Result<()> {
    let api = Api::start_with(program()).await?;
    let called = Endpoint::from_shared(api.member.url.clone())?
        .origin("http://other.example:7777".parse()?)
        .connect()
        .await?;
    let list = |channel: Channel| async move {
        let request = pb::MemberListRequest { linearizable: true };
        anyhow::Ok(ClusterClient::new(channel).member_list(request).await?.into_inner().members)
    };
    let members = list(called).await?;
    ensure!(members == list(api.channel.clone()).await?);
    ensure!(members.len() == 1 && members[0].client_ur_ls == [api.member.url.clone()], "{members:?}");
    Ok(())
}
