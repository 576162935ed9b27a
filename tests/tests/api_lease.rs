//! The Lease, Lock and Election services over real gRPC, one promise a test. `API_TESTS_ON=etcd` runs them on etcd.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dqlited_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use dqlited_proto::etcdserverpb::request_op::Request as OpRequest;
use dqlited_proto::etcdserverpb::{
    AlarmRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use dqlited_proto::v3electionpb::election_client::ElectionClient;
use dqlited_proto::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest,
};
use dqlited_proto::v3lockpb::lock_client::LockClient;
use dqlited_proto::v3lockpb::{LockRequest, UnlockRequest};
use dqlited_tests::api::{ANSWER_MAX, Api, SILENCE, brief, prefix, program};
use dqlited_tests::cluster::Kind;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

async fn grant(api: &mut Api, id: i64, ttl: i64) -> Result<i64, Status> {
    Ok(api.lease.lease_grant(LeaseGrantRequest { id, ttl }).await?.into_inner().ttl)
}

async fn time_to_live(api: &mut Api, id: i64) -> Result<LeaseTimeToLiveResponse> {
    Ok(api.lease.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true }).await?.into_inner())
}

async fn exists(api: &mut Api, key: &str) -> Result<bool> {
    let range = RangeRequest { key: key.to_owned().into(), ..Default::default() };
    Ok(api.kv.range(range).await?.into_inner().count == 1)
}

fn assert_status<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err("it is refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

/// Trap 17.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_without_lease_detaches_and_ignore_lease_keeps() -> Result<()> {
    let mut api = Api::start().await?;
    grant(&mut api, 7, 100).await?;
    api.put_leased("a", "1", 7).await?;
    api.put_leased("b", "1", 7).await?;
    let keep = PutRequest { key: "a".into(), value: "2".into(), ignore_lease: true, ..Default::default() };
    api.kv.put(keep).await?;
    let mut keys = time_to_live(&mut api, 7).await?.keys;
    keys.sort();
    ensure!(keys == ["a", "b"]);
    let same_value = PutRequest { key: "a".into(), ignore_value: true, ..Default::default() };
    api.kv.put(same_value).await?;
    ensure!(time_to_live(&mut api, 7).await?.keys == ["b"]);
    api.put("b", "2").await?;
    ensure!(time_to_live(&mut api, 7).await?.keys.is_empty());
    Ok(())
}

/// Trap 18.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_lease_is_told_before_a_missing_key() -> Result<()> {
    let mut api = Api::start().await?;
    let both = PutRequest { key: "m".into(), lease: 99, ignore_value: true, ..Default::default() };
    assert_status(api.kv.put(both.clone()).await, Code::NotFound, "etcdserver: requested lease not found");
    // In the branch of a transaction that is not taken it does not matter (trap 13).
    let failure = vec![RequestOp { request: Some(OpRequest::RequestPut(both)) }];
    ensure!(api.kv.txn(TxnRequest { failure, ..Default::default() }).await?.into_inner().succeeded);
    Ok(())
}

/// Traps 19 and 20, and the order of a grant's checks.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_answers_the_real_ttl_and_refuses_in_etcds_order() -> Result<()> {
    let mut api = Api::start().await?;
    for (id, asked, granted) in
        [(1, 0, 2), (2, -5, 2), (3, 1, 2), (4, 60, 60), (-5, 9_000_000_000, 9_000_000_000)]
    {
        ensure!(grant(&mut api, id, asked).await? == granted, "asked {asked}");
    }
    assert_status(
        grant(&mut api, 4, 9_000_000_001).await,
        Code::OutOfRange,
        "etcdserver: too large lease TTL",
    );
    assert_status(grant(&mut api, 4, 60).await, Code::FailedPrecondition, "etcdserver: lease already exists");
    let chosen = api.lease.lease_grant(LeaseGrantRequest { id: 0, ttl: 60 }).await?.into_inner();
    ensure!(chosen.id > 0 && chosen.error.is_empty());
    let unknown = time_to_live(&mut api, 12345).await?;
    ensure!((unknown.id, unknown.ttl, unknown.granted_ttl) == (12345, -1, 0));
    let known = time_to_live(&mut api, 4).await?;
    ensure!((known.id, known.granted_ttl) == (4, 60) && (58..=60).contains(&known.ttl), "{known:?}");
    Ok(())
}

/// Trap 19.
#[tokio::test(flavor = "multi_thread")]
async fn a_keepalive_of_an_unknown_lease_answers_zero_and_the_stream_goes_on() -> Result<()> {
    let mut api = Api::start().await?;
    grant(&mut api, 4, 60).await?;
    let (send, receive) = mpsc::channel(8);
    let ids = [(99, 0), (0, 0), (4, 60), (99, 0), (4, 60)];
    for (id, _) in ids {
        send.send(LeaseKeepAliveRequest { id }).await?;
    }
    let mut answers = api.lease.lease_keep_alive(ReceiverStream::new(receive)).await?.into_inner();
    for (id, ttl) in ids {
        let answer = tokio::time::timeout(ANSWER_MAX, answers.next()).await?.context("an answer")??;
        ensure!((answer.id, answer.ttl) == (id, ttl), "{answer:?}");
        ensure!(answer.header.is_some_and(|header| header.revision > 0));
    }
    drop(send);
    ensure!(tokio::time::timeout(ANSWER_MAX, answers.next()).await?.is_none(), "half-closed, it ends");
    Ok(())
}

/// Trap 21.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_deletes_its_keys_in_order_in_one_revision() -> Result<()> {
    let mut api = Api::start().await?;
    grant(&mut api, 7, 100).await?;
    for key in ["r/c", "r/a", "r/b", "r/d"] {
        api.put_leased(key, "1", 7).await?;
    }
    // Deleted and put again without a lease: not touched.
    api.delete("r/d").await?;
    let before = api.put("r/d", "2").await?;
    let mut stream = api.watch().await?;
    stream.created(prefix("r/", 0)).await?;
    let revoked = api.lease.lease_revoke(LeaseRevokeRequest { id: 7 }).await?.into_inner();
    let revision = revoked.header.context("header")?.revision;
    ensure!(revision == before + 1);
    let answer = stream.next().await?;
    let expected = ["-r/a", "-r/b", "-r/c"].map(|key| (key.to_owned(), revision));
    ensure!(brief(&answer.events) == expected, "{:?}", brief(&answer.events));
    ensure!(exists(&mut api, "r/d").await?);
    let again = api.lease.lease_revoke(LeaseRevokeRequest { id: 7 }).await;
    assert_status(again, Code::NotFound, "etcdserver: requested lease not found");
    // Without keys there is no revision.
    grant(&mut api, 8, 100).await?;
    let revoked = api.lease.lease_revoke(LeaseRevokeRequest { id: 8 }).await?.into_inner();
    ensure!(revoked.header.context("header")?.revision == revision);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_listed_in_the_order_of_their_ends() -> Result<()> {
    let mut api = Api::start().await?;
    for (id, ttl) in [(1, 300), (2, 100), (3, 200)] {
        grant(&mut api, id, ttl).await?;
    }
    let leases = api.lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases;
    ensure!(leases.iter().map(|lease| lease.id).eq([2, 3, 1]), "{leases:?}");
    Ok(())
}

/// Trap 22, the part of one member.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_soon_after_its_ttl_and_never_before() -> Result<()> {
    let mut api = Api::start().await?;
    let mut stream = api.watch().await?;
    stream.created(prefix("e/", 0)).await?;
    let mut begun = Vec::new();
    for (id, ttl) in [(1, 2), (2, 3), (3, 4)] {
        grant(&mut api, id, ttl).await?;
        begun.push((format!("e/{id}"), Instant::now(), Duration::from_secs(ttl as u64)));
        api.put_leased(&format!("e/{id}"), "1", id).await?;
        stream.events(1).await?;
    }
    for (key, since, ttl) in begun {
        let events = stream.events(1).await?;
        let (lived, deleted) = (since.elapsed(), brief(&events)[0].0.clone());
        ensure!(deleted == format!("-{key}"));
        // The clock here starts after the grant was answered: that it began earlier is the bound's 100 ms.
        ensure!(lived + Duration::from_millis(100) >= ttl, "{key} lived {lived:?} of {ttl:?}");
        ensure!(lived < ttl + Duration::from_secs(3), "{key} lived {lived:?} of {ttl:?}");
    }
    ensure!(time_to_live(&mut api, 1).await?.ttl == -1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keepalives_hold_a_lease() -> Result<()> {
    let mut api = Api::start().await?;
    grant(&mut api, 1, 2).await?;
    api.put_leased("alive", "1", 1).await?;
    let (send, receive) = mpsc::channel(8);
    send.send(LeaseKeepAliveRequest { id: 1 }).await?;
    let mut answers = api.lease.lease_keep_alive(ReceiverStream::new(receive)).await?.into_inner();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        send.send(LeaseKeepAliveRequest { id: 1 }).await?;
        let answer = tokio::time::timeout(ANSWER_MAX, answers.next()).await?.context("an answer")??;
        ensure!(answer.ttl == 2, "after {:?}", begun.elapsed());
        tokio::time::sleep(SILENCE).await;
    }
    ensure!(exists(&mut api, "alive").await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_and_their_keys_survive_a_crash_with_their_full_ttl() -> Result<()> {
    let mut api = Api::start().await?;
    grant(&mut api, 1, 20).await?;
    grant(&mut api, 2, 2).await?;
    grant(&mut api, 3, 500).await?;
    api.put_leased("long", "1", 1).await?;
    api.put_leased("short", "1", 2).await?;
    api.lease.lease_revoke(LeaseRevokeRequest { id: 3 }).await?;
    let mut api = api.crash_and_restart().await?;
    let left = time_to_live(&mut api, 1).await?;
    ensure!((left.granted_ttl, &left.keys[..]) == (20, &["long".into()][..]));
    ensure!((18..=20).contains(&left.ttl), "{left:?}");
    ensure!(time_to_live(&mut api, 3).await?.ttl == -1);
    let begun = Instant::now();
    while exists(&mut api, "short").await? {
        ensure!(begun.elapsed() < ANSWER_MAX, "the lease of 2 s does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(exists(&mut api, "long").await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_handed_to_the_next_in_line() -> Result<()> {
    let mut api = Api::start().await?;
    let mut lock = LockClient::new(api.channel.clone());
    for id in [10, 11, 12] {
        grant(&mut api, id, 100).await?;
    }
    let ask = |lease| LockRequest { name: "l".into(), lease };
    let first = lock.lock(ask(10)).await?.into_inner();
    ensure!(first.key == "l/a");
    ensure!(lock.lock(ask(10)).await?.into_inner().key == "l/a", "the same lease holds it already");
    let mut waiting = Vec::new();
    for lease in [11, 12] {
        let mut lock = lock.clone();
        waiting.push(tokio::spawn(async move { lock.lock(ask(lease)).await }));
        // In line before the next one comes.
        let key = format!("l/{lease:x}");
        let begun = Instant::now();
        while !exists(&mut api, &key).await? {
            ensure!(begun.elapsed() < ANSWER_MAX, "{key} does not come into the line");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tokio::time::sleep(SILENCE).await;
    ensure!(waiting.iter().all(|waiter| !waiter.is_finished()));
    lock.unlock(UnlockRequest { key: first.key }).await?;
    let mut waiting = waiting.into_iter();
    let (second, third) = (waiting.next().context("2nd")?, waiting.next().context("3rd")?);
    let second = tokio::time::timeout(ANSWER_MAX, second).await???.into_inner();
    ensure!(second.key == "l/b" && !third.is_finished());
    api.lease.lease_revoke(LeaseRevokeRequest { id: 11 }).await?;
    let third = tokio::time::timeout(ANSWER_MAX, third).await???.into_inner();
    ensure!(third.key == "l/c" && third.header.is_some_and(|header| header.revision > 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_waiting_for_a_lock_leaves_no_key() -> Result<()> {
    let mut api = Api::start().await?;
    let mut lock = LockClient::new(api.channel.clone());
    let held = lock.lock(LockRequest { name: "l".into(), lease: 0 }).await?.into_inner();
    ensure!(exists(&mut api, std::str::from_utf8(&held.key)?).await?);
    grant(&mut api, 11, 100).await?;
    let mut request = Request::new(LockRequest { name: "l".into(), lease: 11 });
    request.set_timeout(Duration::from_millis(500));
    ensure!(lock.lock(request).await.is_err());
    let begun = Instant::now();
    while exists(&mut api, "l/b").await? {
        ensure!(begun.elapsed() < ANSWER_MAX, "its key stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(exists(&mut api, std::str::from_utf8(&held.key)?).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_and_election_lose_their_codes_as_in_etcd() -> Result<()> {
    let api = Api::start().await?;
    let mut lock = LockClient::new(api.channel.clone());
    let mut election = ElectionClient::new(api.channel.clone());
    let text = "etcdserver: requested lease not found";
    assert_status(lock.lock(LockRequest { name: "l".into(), lease: 99 }).await, Code::Unknown, text);
    let campaign = CampaignRequest { name: "n".into(), lease: 99, value: "v".into() };
    assert_status(election.campaign(campaign).await, Code::Unknown, text);
    let text = "etcdserver: key is not provided";
    assert_status(lock.unlock(UnlockRequest { key: "".into() }).await, Code::Unknown, text);
    lock.unlock(UnlockRequest { key: "nothing".into() }).await?;
    let leader = election.leader(LeaderRequest { name: "n".into() }).await;
    assert_status(leader, Code::Unknown, "election: no leader");
    let missing = "\"leader\" field must be provided";
    assert_status(election.proclaim(ProclaimRequest::default()).await, Code::Unknown, missing);
    assert_status(election.resign(ResignRequest::default()).await, Code::Unknown, missing);
    Ok(())
}

/// Every key of the store.
async fn keys(api: &mut Api) -> Result<Vec<Bytes>> {
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    Ok(api.kv.range(all).await?.into_inner().kvs.into_iter().map(|kv| kv.key).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_and_election_write_no_key_without_a_name_and_none_over_the_size_limit() -> Result<()> {
    let mut api = Api::start().await?;
    let mut lock = LockClient::new(api.channel.clone());
    let mut election = ElectionClient::new(api.channel.clone());
    grant(&mut api, 10, 100).await?;
    let before = api.put("k", "v").await?;
    let text = "etcdserver: key is not provided";
    for rev in [0, 5] {
        let leader = Some(LeaderKey { rev, ..Default::default() });
        let proclaim = ProclaimRequest { leader: leader.clone(), value: "v".into() };
        assert_status(election.proclaim(proclaim).await, Code::Unknown, text);
        assert_status(election.resign(ResignRequest { leader }).await, Code::Unknown, text);
    }
    let text = "etcdserver: request is too large";
    let bytes = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
    for size in [1_572_838, 2_000_000] {
        let campaign = CampaignRequest { name: "n".into(), lease: 10, value: bytes(size) };
        assert_status(election.campaign(campaign).await, Code::Unknown, text);
    }
    for size in [700_000, 1_000_000] {
        assert_status(lock.lock(LockRequest { name: bytes(size), lease: 10 }).await, Code::Unknown, text);
    }
    assert_status(lock.unlock(UnlockRequest { key: bytes(1_700_000) }).await, Code::Unknown, text);
    ensure!(keys(&mut api).await? == ["k"]);
    ensure!(api.put("k", "v").await? == before + 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_and_election_stop_at_the_quota_and_raise_its_alarm() -> Result<()> {
    let mut api = Api::start_with(program().flag("--quota-backend-bytes", "3000000")).await?;
    let mut lock = LockClient::new(api.channel.clone());
    let mut election = ElectionClient::new(api.channel.clone());
    // etcd's size lags behind: it commits every 100 ms, and how much it takes meanwhile is chance. Ours counts at once.
    let (asked, taken_max) = match program().kind {
        Kind::Etcd => (200, 199),
        Kind::Dqlited => (12, 5),
    };
    for id in 10..10 + asked {
        grant(&mut api, id, 100).await?;
    }
    let mut taken = 0;
    for lease in 10..10 + asked {
        let value = vec![b'x'; 500_000].into();
        let campaign = CampaignRequest { name: format!("n{lease}").into(), lease, value };
        match election.campaign(campaign).await {
            Ok(_) => taken += 1,
            refused => {
                assert_status(refused, Code::Unknown, "etcdserver: mvcc: database space exceeded");
                break;
            }
        }
    }
    ensure!((3..=taken_max).contains(&taken), "{taken} campaigns of 500 kB fit into 3 MB");
    let locked = lock.lock(LockRequest { name: "l".into(), lease: 10 }).await;
    assert_status(locked, Code::Unknown, "etcdserver: mvcc: database space exceeded");
    let alarms = MaintenanceClient::new(api.channel.clone()).alarm(AlarmRequest::default()).await?;
    ensure!(alarms.into_inner().alarms.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_is_won_in_turn_and_observed() -> Result<()> {
    let mut api = Api::start().await?;
    let mut election = ElectionClient::new(api.channel.clone());
    grant(&mut api, 10, 100).await?;
    grant(&mut api, 11, 100).await?;
    let mut observer = election.clone();
    let (send, mut observed) = mpsc::channel(8);
    tokio::spawn(async move {
        let mut answers = observer.observe(LeaderRequest { name: "n".into() }).await?.into_inner();
        while let Some(answer) = answers.next().await {
            send.send(answer?.kv.context("kv")?.value).await?;
        }
        anyhow::Ok(())
    });
    let stand = |lease, value: &'static str| CampaignRequest { name: "n".into(), lease, value: value.into() };
    let first = election.campaign(stand(10, "one")).await?.into_inner().leader.context("leader")?;
    ensure!((&first.key[..], first.lease, &first.name[..]) == (&b"n/a"[..], 10, &b"n"[..]));
    ensure!(tokio::time::timeout(ANSWER_MAX, observed.recv()).await?.is_some_and(|value| value == "one"));
    let mut second = election.clone();
    let second = tokio::spawn(async move { second.campaign(stand(11, "two")).await });
    let begun = Instant::now();
    while !exists(&mut api, "n/b").await? {
        ensure!(begun.elapsed() < ANSWER_MAX, "the second candidate does not come into the line");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let proclaim = |value: &'static str| ProclaimRequest { leader: Some(first.clone()), value: value.into() };
    election.proclaim(proclaim("one again")).await?;
    let leader = election.leader(LeaderRequest { name: "n".into() }).await?.into_inner().kv.context("kv")?;
    ensure!((&leader.key[..], &leader.value[..]) == (&b"n/a"[..], &b"one again"[..]));
    ensure!(!second.is_finished());
    election.resign(ResignRequest { leader: Some(first.clone()) }).await?;
    election.resign(ResignRequest { leader: Some(first.clone()) }).await?;
    let won = tokio::time::timeout(ANSWER_MAX, second).await???.into_inner();
    ensure!(won.leader.context("leader")?.key == "n/b");
    assert_status(election.proclaim(proclaim("late")).await, Code::Unknown, "election: not leader");
    for value in ["one again", "two"] {
        let seen = tokio::time::timeout(ANSWER_MAX, observed.recv()).await?.context("observed")?;
        ensure!(seen == value, "{seen:?} instead of {value}");
    }
    Ok(())
}
