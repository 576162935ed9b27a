//! Maintenance, Cluster and Auth over real gRPC. The numbers of traps are those of docs/regressions.md.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use dqlited_proto::etcdserverpb::auth_client::AuthClient;
use dqlited_proto::etcdserverpb::cluster_client::ClusterClient;
use dqlited_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::lease_client::LeaseClient;
use dqlited_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use dqlited_proto::etcdserverpb::request_op::Request;
use dqlited_proto::etcdserverpb::*;
use dqlited_tests::cluster::{Member, MemberOptions};
use tonic::transport::Channel;
use tonic::{Code, Status};

const GET: i32 = 0;
const ACTIVATE: i32 = 1;
const DEACTIVATE: i32 = 2;
const NOSPACE: i32 = 1;
const CORRUPT: i32 = 2;
const MEMBER: u64 = 5;

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    }
}

fn op_put(key: &str) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(put(key, "v"))) }
}

fn op_delete(key: &str) -> RequestOp {
    let delete = DeleteRangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
    RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
}

fn op_range(key: &str) -> RequestOp {
    let range = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
    RequestOp { request: Some(Request::RequestRange(range)) }
}

fn op_txn(success: Vec<RequestOp>) -> RequestOp {
    RequestOp { request: Some(Request::RequestTxn(TxnRequest { success, ..Default::default() })) }
}

/// Never true.
fn never() -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Version as i32,
        key: "no such key".into(),
        target_union: Some(TargetUnion::Version(7)),
        ..Default::default()
    }
}

fn alarm(action: i32, alarm: i32) -> AlarmRequest {
    AlarmRequest { action, member_id: MEMBER, alarm }
}

struct Clients {
    member: Member,
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    cluster: ClusterClient<Channel>,
    auth: AuthClient<Channel>,
}

impl Clients {
    async fn of(options: MemberOptions) -> Result<Clients> {
        let member = Member::start(options).await?;
        let channel = member.connect().await?;
        Ok(Clients {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            lease: LeaseClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            auth: AuthClient::new(channel),
            member,
        })
    }

    async fn reconnect(&mut self) -> Result<()> {
        let channel = self.member.connect().await?;
        self.kv = KvClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        self.maintenance = MaintenanceClient::new(channel);
        Ok(())
    }

    async fn alarms(&mut self) -> Result<Vec<(u64, i32)>> {
        let answer = self.maintenance.alarm(alarm(GET, 0)).await?.into_inner();
        Ok(answer.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect())
    }

    async fn revision(&mut self) -> Result<i64> {
        let range = RangeRequest { key: "x".into(), ..Default::default() };
        Ok(self.kv.range(range).await?.into_inner().header.context("a header")?.revision)
    }
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err("refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

const FULL: (Code, &str) = (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
const BROKEN: (Code, &str) = (Code::DataLoss, "etcdserver: corrupt cluster");

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_raised_listed_and_cleared_as_in_etcd() -> Result<()> {
    let mut clients = Clients::of(MemberOptions::dqlited()).await?;
    ensure!(clients.alarms().await?.is_empty());
    // NONE raises and clears nothing.
    ensure!(clients.maintenance.alarm(alarm(ACTIVATE, 0)).await?.into_inner().alarms.is_empty());
    ensure!(clients.maintenance.alarm(alarm(DEACTIVATE, 0)).await?.into_inner().alarms.is_empty());
    // A repeat answers the alarm again.
    for _ in 0..2 {
        let raised = clients.maintenance.alarm(alarm(ACTIVATE, NOSPACE)).await?.into_inner();
        ensure!(raised.alarms.len() == 1 && raised.alarms[0].member_id == MEMBER, "{raised:?}");
        ensure!(raised.header.context("a header")?.revision == 1, "an alarm is no revision");
    }
    clients.maintenance.alarm(alarm(ACTIVATE, CORRUPT)).await?;
    ensure!(clients.alarms().await?.len() == 2);
    let of_kind = clients.maintenance.alarm(alarm(GET, CORRUPT)).await?.into_inner().alarms;
    ensure!(of_kind.len() == 1 && of_kind[0].alarm == CORRUPT, "{of_kind:?}");
    let errors = clients.maintenance.status(StatusRequest {}).await?.into_inner().errors;
    ensure!(errors.iter().any(|text| text == "memberID:5 alarm:NOSPACE"), "{errors:?}");
    ensure!(errors.iter().any(|text| text == "memberID:5 alarm:CORRUPT"), "{errors:?}");
    // They outlive the process.
    clients.member.kill()?;
    clients.member.start_again().await?;
    clients.reconnect().await?;
    ensure!(clients.alarms().await?.len() == 2);
    let cleared = clients.maintenance.alarm(alarm(DEACTIVATE, CORRUPT)).await?.into_inner().alarms;
    ensure!(cleared.len() == 1 && cleared[0].alarm == CORRUPT, "{cleared:?}");
    ensure!(clients.maintenance.alarm(alarm(DEACTIVATE, CORRUPT)).await?.into_inner().alarms.is_empty());
    ensure!(clients.alarms().await? == [(MEMBER, NOSPACE)]);
    Ok(())
}

/// Trap 37: a put in a branch that is not taken counts; what needs no space works.
#[tokio::test(flavor = "multi_thread")]
async fn nospace_refuses_whatever_could_put_and_nothing_else() -> Result<()> {
    let mut clients = Clients::of(MemberOptions::dqlited()).await?;
    clients.kv.put(put("a", "1")).await?;
    clients.kv.put(put("b", "1")).await?;
    let lease = clients.lease.lease_grant(LeaseGrantRequest { id: 9, ttl: 600 }).await?.into_inner().id;
    clients.maintenance.alarm(alarm(ACTIVATE, NOSPACE)).await?;
    assert_refused(clients.kv.put(put("a", "2")).await, FULL.0, FULL.1);
    let grant = LeaseGrantRequest { id: 10, ttl: 600 };
    assert_refused(clients.lease.lease_grant(grant).await, FULL.0, FULL.1);
    let of_branches = |success, failure| TxnRequest { compare: vec![never()], success, failure };
    for refused in [
        of_branches(vec![op_put("a")], vec![op_delete("zzz")]),
        of_branches(vec![op_delete("zzz")], vec![op_put("a")]),
        of_branches(vec![op_txn(vec![op_put("a")])], vec![]),
    ] {
        assert_refused(clients.kv.txn(refused).await, FULL.0, FULL.1);
    }
    clients.kv.txn(of_branches(vec![], vec![op_delete("a")])).await?;
    clients.kv.txn(of_branches(vec![], vec![op_range("a")])).await?;
    clients.kv.delete_range(DeleteRangeRequest { key: "b".into(), ..Default::default() }).await?;
    clients.lease.lease_revoke(LeaseRevokeRequest { id: lease }).await?;
    let revision = clients.revision().await?;
    clients.kv.compact(CompactionRequest { revision, physical: true }).await?;
    clients.maintenance.defragment(DefragmentRequest {}).await?;
    let count = RangeRequest { key: "a".into(), count_only: true, ..Default::default() };
    ensure!(clients.kv.range(count).await?.into_inner().count == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_refuses_changes_and_lets_reads_through() -> Result<()> {
    let mut clients = Clients::of(MemberOptions::dqlited()).await?;
    clients.kv.put(put("a", "1")).await?;
    clients.maintenance.alarm(alarm(ACTIVATE, CORRUPT)).await?;
    assert_refused(clients.kv.put(put("a", "2")).await, BROKEN.0, BROKEN.1);
    let delete = DeleteRangeRequest { key: "a".into(), ..Default::default() };
    assert_refused(clients.kv.delete_range(delete).await, BROKEN.0, BROKEN.1);
    let writing = TxnRequest { success: vec![op_put("a")], ..Default::default() };
    assert_refused(clients.kv.txn(writing).await, BROKEN.0, BROKEN.1);
    let nested = TxnRequest { success: vec![op_txn(vec![op_range("a")])], ..Default::default() };
    assert_refused(clients.kv.txn(nested).await, BROKEN.0, BROKEN.1);
    let compact = CompactionRequest { revision: 2, physical: false };
    assert_refused(clients.kv.compact(compact).await, BROKEN.0, BROKEN.1);
    let grant = LeaseGrantRequest { id: 10, ttl: 600 };
    assert_refused(clients.lease.lease_grant(grant).await, BROKEN.0, BROKEN.1);
    assert_refused(clients.lease.lease_revoke(LeaseRevokeRequest { id: 10 }).await, BROKEN.0, BROKEN.1);

    let reading = TxnRequest { success: vec![op_range("a")], ..Default::default() };
    ensure!(clients.kv.txn(reading).await?.into_inner().succeeded);
    let range = RangeRequest { key: "a".into(), ..Default::default() };
    ensure!(clients.kv.range(range).await?.into_inner().kvs[0].value == "1");
    clients.maintenance.hash_kv(HashKvRequest::default()).await?;
    Ok(())
}

/// Trap 38, and the quota itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_raises_nospace_which_outlives_space_and_restart_until_disarmed() -> Result<()> {
    let quota = 2_000_000;
    let options = MemberOptions::dqlited().flag("--quota-backend-bytes", &quota.to_string());
    let mut clients = Clients::of(options).await?;
    let value = "x".repeat(20_000);
    let mut written = 0;
    let refused = loop {
        match clients.kv.put(put(&format!("key/{written}"), &value)).await {
            Ok(_) => written += 1,
            Err(status) => break status,
        }
        ensure!(written < 200, "4 MB within a quota of 2 MB");
    };
    ensure!((refused.code(), refused.message()) == FULL, "{refused:?}");
    // The file is the bound, and a file of 2 MB holds most of 2 MB.
    ensure!(written > 20, "full after {written} values of 20 kB");
    let status = clients.maintenance.status(StatusRequest {}).await?.into_inner();
    // The last write was counted as etcd counts it, and then took whole pages.
    let size_max = quota + value.len() as i64;
    ensure!(status.db_size <= size_max && status.db_size_quota == quota, "{status:?}");
    let own = status.header.context("a header")?.member_id;
    ensure!(clients.alarms().await? == [(own, NOSPACE)]);
    // What fits into the quota is refused too now, since the alarm is up.
    assert_refused(clients.kv.put(put("a", "1")).await, FULL.0, FULL.1);

    let all = DeleteRangeRequest { key: "key/".into(), range_end: "key0".into(), ..Default::default() };
    ensure!(clients.kv.delete_range(all).await?.into_inner().deleted == written);
    let revision = clients.revision().await?;
    clients.kv.compact(CompactionRequest { revision, physical: true }).await?;
    clients.maintenance.defragment(DefragmentRequest {}).await?;
    let after = clients.maintenance.status(StatusRequest {}).await?.into_inner();
    ensure!(after.db_size < quota / 2, "{} of {} bytes are left", after.db_size, status.db_size);
    assert_refused(clients.kv.put(put("a", "1")).await, FULL.0, FULL.1);
    clients.member.kill()?;
    clients.member.start_again().await?;
    clients.reconnect().await?;
    assert_refused(clients.kv.put(put("a", "1")).await, FULL.0, FULL.1);
    let disarm = AlarmRequest { action: DEACTIVATE, member_id: own, alarm: NOSPACE };
    clients.maintenance.alarm(disarm).await?;
    clients.kv.put(put("a", "1")).await?;
    Ok(())
}

/// An overwritten key needs no room once what was overwritten is compacted: no alarm by counting alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_compared_with_the_file_and_not_with_what_was_written() -> Result<()> {
    let options = MemberOptions::dqlited().flag("--quota-backend-bytes", "3000000");
    let mut clients = Clients::of(options).await?;
    let value = "x".repeat(20_000);
    for round in 0..300 {
        clients.kv.put(put("key", &value)).await.with_context(|| format!("round {round}"))?;
        if round % 20 == 19 {
            let revision = clients.revision().await?;
            clients.kv.compact(CompactionRequest { revision, physical: true }).await?;
        }
    }
    ensure!(clients.alarms().await?.is_empty());
    Ok(())
}

/// Trap 46 for this service: etcd's process ends on the first of them.
#[tokio::test(flavor = "multi_thread")]
async fn bad_enums_are_refused_and_the_member_lives() -> Result<()> {
    let mut clients = Clients::of(MemberOptions::dqlited()).await?;
    for request in [alarm(9, 0), alarm(9, 9), alarm(-1, 1), alarm(ACTIVATE, 9), alarm(DEACTIVATE, -4)] {
        let refused = clients.maintenance.alarm(request).await;
        ensure!(refused.is_err_and(|status| status.code() == Code::InvalidArgument), "{request:?}");
    }
    ensure!(clients.maintenance.alarm(alarm(GET, 9)).await?.into_inner().alarms.is_empty());
    let refused = clients.maintenance.downgrade(DowngradeRequest { action: 9, version: "3.6".into() }).await;
    assert_refused(refused, Code::Unknown, "etcdserver: unknown method");
    clients.kv.put(put("a", "1")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_is_never_valid_and_never_under_way() -> Result<()> {
    let clients = Clients::of(MemberOptions::dqlited()).await?;
    let mut maintenance = clients.maintenance.clone();
    let mut ask = async |action, version: &str| {
        maintenance.downgrade(DowngradeRequest { action, version: version.to_owned() }).await
    };
    for action in [0, 1] {
        for version in ["3.6", "3.6.1", "3.7", "4.0.0"] {
            let text = "etcdserver: invalid downgrade target version";
            assert_refused(ask(action, version).await, Code::InvalidArgument, text);
        }
        let text = "etcdserver: wrong downgrade target version format";
        assert_refused(ask(action, "three").await, Code::InvalidArgument, text);
    }
    ensure!(ask(2, "").await?.into_inner().version == "3.7");
    Ok(())
}

/// Trap 45: headers of members carry no revision, and two answers no header at all.
#[tokio::test(flavor = "multi_thread")]
async fn member_headers_have_revision_0_and_defragment_and_move_leader_none() -> Result<()> {
    let mut clients = Clients::of(MemberOptions::dqlited()).await?;
    clients.kv.put(put("a", "1")).await?;
    for linearizable in [false, true] {
        let list = clients.cluster.member_list(MemberListRequest { linearizable }).await?.into_inner();
        let header = list.header.context("a header")?;
        ensure!(header.revision == 0 && header.cluster_id != 0 && header.raft_term > 0, "{header:?}");
        ensure!(list.members.len() == 1 && list.members[0].id == header.member_id, "{:?}", list.members);
        ensure!(!list.members[0].is_learner && list.members[0].name == "default");
        ensure!(list.members[0].client_ur_ls == [clients.member.url.clone()]);
    }
    ensure!(clients.maintenance.defragment(DefragmentRequest {}).await?.into_inner().header.is_none());
    let own = clients.maintenance.status(StatusRequest {}).await?.into_inner().leader;
    let moved = clients.maintenance.move_leader(MoveLeaderRequest { target_id: own }).await?.into_inner();
    ensure!(moved.header.is_none());
    let refused = clients.maintenance.move_leader(MoveLeaderRequest { target_id: own + 1 }).await;
    assert_refused(refused, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_says_so() -> Result<()> {
    let mut clients = Clients::of(MemberOptions::dqlited()).await?;
    let status = clients.auth.auth_status(AuthStatusRequest {}).await?.into_inner();
    ensure!(!status.enabled && status.auth_revision == 1 && status.header.is_some(), "{status:?}");
    let mut codes = Vec::new();
    codes.push(clients.auth.auth_enable(AuthEnableRequest {}).await.map(|_| ()));
    codes.push(clients.auth.user_list(AuthUserListRequest {}).await.map(|_| ()));
    codes.push(clients.auth.authenticate(AuthenticateRequest::default()).await.map(|_| ()));
    codes.push(clients.cluster.member_add(MemberAddRequest::default()).await.map(|_| ()));
    codes.push(clients.cluster.member_remove(MemberRemoveRequest::default()).await.map(|_| ()));
    codes.push(clients.cluster.member_update(MemberUpdateRequest::default()).await.map(|_| ()));
    codes.push(clients.cluster.member_promote(MemberPromoteRequest::default()).await.map(|_| ()));
    for code in codes {
        let status = code.expect_err("not served");
        ensure!(status.code() == Code::Unimplemented && status.message().contains("dqlited"), "{status:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_are_of_a_revision_that_exists() -> Result<()> {
    let mut clients = Clients::of(MemberOptions::dqlited()).await?;
    for number in 0..9 {
        clients.kv.put(put("a", &number.to_string())).await?;
    }
    let mut maintenance = clients.maintenance.clone();
    let mut hash = async |revision| {
        maintenance.hash_kv(HashKvRequest { revision }).await.map(|answer| answer.into_inner())
    };
    let now = hash(0).await?;
    ensure!(now.hash_revision == 10 && now.compact_revision == -1 && now == hash(10).await?, "{now:?}");
    ensure!(now.header.context("a header")?.revision == 10);
    ensure!(hash(5).await?.hash != now.hash);
    let future = "etcdserver: mvcc: required revision is a future revision";
    assert_refused(hash(11).await, Code::OutOfRange, future);
    clients.kv.compact(CompactionRequest { revision: 6, physical: false }).await?;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_refused(hash(5).await, Code::OutOfRange, compacted);
    ensure!(hash(0).await?.compact_revision == 6);
    ensure!(clients.maintenance.hash(HashRequest {}).await?.into_inner().header.is_some());
    Ok(())
}

/// Trap 39, on the wire; `etcdctl.rs` and `backup.rs` give the file to etcd's tools.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_counts_down_and_ends_with_its_sha256() -> Result<()> {
    let mut clients = Clients::of(MemberOptions::dqlited()).await?;
    for number in 0..40 {
        clients.kv.put(put(&format!("key/{number}"), &"v".repeat(50_000))).await?;
    }
    let mut stream = clients.maintenance.snapshot(SnapshotRequest {}).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message);
    }
    let (last, body) = messages.split_last().context("messages")?;
    let bytes: u64 = body.iter().map(|message| message.blob.len() as u64).sum();
    ensure!(bytes.is_multiple_of(512) && bytes > 40 * 50_000, "{bytes} bytes");
    ensure!(last.blob.len() == 32 && last.remaining_bytes == 0);
    let mut remaining = bytes;
    for message in body {
        ensure!(message.blob.len() <= 32 << 10);
        remaining -= message.blob.len() as u64;
        ensure!(message.remaining_bytes == remaining);
    }
    ensure!(messages.iter().all(|message| message.header.is_none() && message.version == "3.7.0"));
    Ok(())
}

/// Files of a process that have no name any more.
fn nameless_files(pid: u32, folder: &Path) -> Result<usize> {
    let mut found = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor may be closed between the listing and the look.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy();
        found +=
            usize::from(target.starts_with(&*folder.to_string_lossy()) && target.ends_with(" (deleted)"));
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_no_backup_behind() -> Result<()> {
    let mut clients = Clients::of(MemberOptions::dqlited()).await?;
    for number in 0..200 {
        clients.kv.put(put(&format!("key/{number}"), &"v".repeat(100_000))).await?;
    }
    let pid = clients.member.pid()?;
    let folder = clients.member.data_dir.canonicalize()?;
    let before = nameless_files(pid, &folder)?;
    let mut stream = clients.maintenance.snapshot(SnapshotRequest {}).await?.into_inner();
    ensure!(stream.message().await?.is_some());
    ensure!(nameless_files(pid, &folder)? == before + 1, "the backup is a file without a name");
    drop(stream);
    let begun = Instant::now();
    while nameless_files(pid, &folder)? != before {
        if begun.elapsed() > Duration::from_secs(10) {
            bail!("the backup's file is still open");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_kube_apiserver_and_etcdctl_read() -> Result<()> {
    let mut clients = Clients::of(MemberOptions::dqlited()).await?;
    clients.kv.put(put("a", "1")).await?;
    let status = clients.maintenance.status(StatusRequest {}).await?.into_inner();
    let header = status.header.context("a header")?;
    ensure!(status.version == "3.7.3" && status.storage_version == "3.7.0", "{status:?}");
    ensure!(header.revision == 2 && status.leader == header.member_id, "{status:?}");
    ensure!(status.raft_applied_index <= status.raft_index && status.raft_applied_index > 0, "{status:?}");
    ensure!(status.raft_term == header.raft_term && status.raft_term > 0, "{status:?}");
    ensure!(0 < status.db_size_in_use && status.db_size_in_use <= status.db_size, "{status:?}");
    ensure!(status.db_size_quota == 2 << 30 && status.errors.is_empty() && !status.is_learner, "{status:?}");
    ensure!(status.downgrade_info.is_some_and(|info| !info.enabled && info.target_version.is_empty()));
    Ok(())
}
