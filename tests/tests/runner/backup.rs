//! A backup is read by etcd's own tools, and an etcd restored from it answers as the member did.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dqlited_etcd::backup::export::{Membership, export};
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::lease_client::LeaseClient;
use dqlited_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use dqlited_proto::etcdserverpb::{
    AlarmRequest, HashKvRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
};
use dqlited_store::command::{self, Kind, OpKind};
use dqlited_store::read::ReadView;
use dqlited_store::store::{Entry, EntryBody, NoInterest, Reader, Store, StoreOptions, Writer};
use dqlited_store::{Identity, LeaderId, LogId, MemberId, Revision};
use dqlited_tests::cluster::{Member, MemberOptions, tool, tool_is_there};

const MEMBER: MemberId = MemberId(0x8e9e05c52164694d);

/// A store that commands go into as the log would bring them.
struct Fed {
    _folder: tempfile::TempDir,
    reader: Reader,
    writer: Writer,
    index: u64,
}

impl Fed {
    fn new() -> Result<Fed> {
        let folder = tempfile::tempdir()?;
        let (store, writer) = Store::open(folder.path(), StoreOptions::default())?;
        let mut fed = Fed { reader: store.reader()?, _folder: folder, writer, index: 0 };
        fed.apply(Kind::RegisterMember(command::RegisterMember {
            member: MEMBER.0,
            boot: 1,
            boot_nonce: 1,
            incarnation: "a".to_owned(),
            name: "default".to_owned(),
            peer_urls: vec!["http://localhost:2380".to_owned()],
            client_urls: vec!["http://localhost:2379".to_owned()],
            ..Default::default()
        }))?;
        Ok(fed)
    }

    fn apply(&mut self, kind: Kind) -> Result<()> {
        self.index += 1;
        let log_id = LogId { leader: LeaderId { term: 1, node: MEMBER }, index: self.index };
        let identity =
            Identity { member: MEMBER, boot: 1, sequence: self.index, lowest_unsettled: self.index };
        let body = EntryBody::Command(identity, dqlited_store::Command { kind: Some(kind) });
        for applied in self.writer.apply(&[Entry { log_id, body }], &NoInterest)? {
            applied.result?;
        }
        Ok(())
    }

    fn put(&mut self, key: &str, value: impl Into<Bytes>, lease: i64) -> Result<()> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.apply(Kind::Put(command::Put { key, value: value.into(), lease, ..Default::default() }))
    }

    fn delete(&mut self, key: &str, end: &str) -> Result<()> {
        let (key, range_end) =
            (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(end.as_bytes()));
        self.apply(Kind::DeleteRange(command::DeleteRange { key, range_end, prev_kv: false }))
    }

    /// Everything that a backup must carry: leases, alarms, tombstones, several changes in one revision, values that
    /// need pages of their own, a compaction whose deletion is not finished.
    fn fill(&mut self, keys: usize) -> Result<()> {
        for (id, ttl) in [(7, 3600), (-3, 7200), (i64::MAX, 100_000)] {
            self.apply(Kind::LeaseGrant(command::LeaseGrant { id, ttl }))?;
        }
        for number in 0..keys {
            self.put(&format!("key/{number:06}"), vec![number as u8; number % 400], 0)?;
        }
        for size in [4000, 5000, 1_500_000] {
            self.put("large", vec![b'x'; size], 0)?;
        }
        self.put("leased/a", "a", 7)?;
        self.put("leased/b", "b", 7)?;
        self.put("leased/c", "c", -3)?;
        self.delete("key/000003", "")?;
        let put = |key: &str| command::Op {
            kind: Some(OpKind::Put(command::Put {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: "in one revision".into(),
                ..Default::default()
            })),
        };
        self.apply(Kind::Txn(command::Txn {
            success: ["t1", "t2", "t3"].map(put).to_vec(),
            ..Default::default()
        }))?;
        self.put("key/000001", "again", 0)?;
        self.writer.commit()?;
        let middle = self.writer.state().revision.0 - 5;
        self.apply(Kind::Compact(command::Compact { revision: middle }))?;
        self.put("after the compaction", "1", 0)?;
        self.delete("key/000005", "key/000009")?;
        self.apply(Kind::Alarm(command::Alarm { activate: true, member: MEMBER.0, alarm: 2 }))?;
        Ok(self.writer.commit()?)
    }

    fn read<T>(&mut self, read: impl FnOnce(&dyn ReadView) -> T) -> Result<T> {
        Ok(self.reader.with_view(read)?)
    }

    fn back_up(&mut self, path: &Path) -> Result<()> {
        let membership = Membership { voters: vec![MEMBER.0], learners: Vec::new() };
        let file = std::fs::File::create(path)?;
        let bytes = self.read(|view| export(view, &membership, &file))??;
        ensure!(bytes == file.metadata()?.len() && bytes % 512 == 0);
        Ok(())
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(tool(program)).args(arguments).output()?;
    let (out, err) =
        (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
    ensure!(output.status.success(), "{program} {arguments:?} ended with {}:\n{err}\n{out}", output.status);
    Ok(out)
}

/// Restores a backup and starts etcd on it.
async fn restored(backup: &Path, data_dir: &Path) -> Result<Member> {
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    run(
        "etcdutl",
        &["snapshot", "restore", &text(backup)?, "--skip-hash-check", "--data-dir", &text(data_dir)?],
    )?;
    let mut options = MemberOptions::etcd();
    options.data_dir = Some(data_dir.to_path_buf());
    Member::start(options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdutl_accepts_a_backup_and_an_etcd_restored_from_it_answers_the_same() -> Result<()> {
    if !tool_is_there("etcdutl") || !tool_is_there("etcd") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut fed = Fed::new()?;
    fed.fill(5000)?;
    let backup = folder.path().join("backup.db");
    fed.back_up(&backup)?;

    let path = backup.to_str().context("a path in UTF-8")?;
    let status: serde_json::Value =
        serde_json::from_str(&run("etcdutl", &["snapshot", "status", path, "-w", "json"])?)?;
    let (revision, compacted) = fed.read(|view| (view.revision(), view.compact_revision()))?;
    ensure!(status["revision"] == revision.0, "{status}");
    ensure!(status["version"] == "3.7.0", "{status}");

    let member = restored(&backup, &folder.path().join("restored")).await?;
    let mut kv = KvClient::new(member.connect().await?).max_decoding_message_size(256 << 20);
    for at in [0, compacted.0, compacted.0 + 2, revision.0 - 1, revision.0] {
        let all =
            RangeRequest { key: "\0".into(), range_end: "\0".into(), revision: at, ..Default::default() };
        let theirs = kv.range(all).await?.into_inner();
        let query = command::RangeQuery {
            key: "\0".into(),
            range_end: "\0".into(),
            revision: at,
            ..Default::default()
        };
        let ours = fed.read(|view| view.range_collected(&query))??;
        let header = theirs.header.context("a header")?;
        ensure!(header.revision == revision.0, "revision {} at {at}, expected {revision}", header.revision);
        ensure!(theirs.count == ours.count && theirs.count > 4000, "count {} at {at}", theirs.count);
        for (theirs, ours) in theirs.kvs.iter().zip(&ours.kvs) {
            let theirs = (
                &theirs.key,
                &theirs.value,
                theirs.create_revision,
                theirs.mod_revision,
                theirs.version,
                theirs.lease,
            );
            let ours =
                (&ours.key, &ours.value, ours.create_revision, ours.mod_revision, ours.version, ours.lease);
            ensure!(theirs == ours, "at {at}: {theirs:?} for {ours:?}");
        }
    }
    let below = RangeRequest { key: "large".into(), revision: compacted.0 - 1, ..Default::default() };
    ensure!(kv.range(below).await.is_err_and(|status| status.message().contains("compacted")));

    let mut maintenance = MaintenanceClient::new(member.connect().await?);
    for at in [0, compacted.0 + 1, revision.0] {
        let theirs = maintenance.hash_kv(HashKvRequest { revision: at }).await?.into_inner();
        let ours = fed.read(|view| view.hash_kv(Revision(at)))??;
        let theirs = (theirs.hash, theirs.compact_revision, theirs.hash_revision);
        let ours = (ours.hash, ours.compact_revision.0, ours.hash_revision.0);
        ensure!(theirs == ours, "HashKV at {at}: {theirs:?} for {ours:?}");
    }
    let alarms = maintenance.alarm(AlarmRequest::default()).await?.into_inner().alarms;
    ensure!(alarms.len() == 1 && alarms[0].alarm == 2 && alarms[0].member_id == MEMBER.0, "{alarms:?}");
    let put = PutRequest { key: "a".into(), value: "b".into(), ..Default::default() };
    ensure!(
        kv.put(put).await.is_err_and(|status| status.code() == tonic::Code::DataLoss),
        "the alarm is in force"
    );

    let mut leases = LeaseClient::new(member.connect().await?);
    let expected: BTreeMap<i64, (i64, Vec<&str>)> = BTreeMap::from([
        (7, (3600, vec!["leased/a", "leased/b"])),
        (-3, (7200, vec!["leased/c"])),
        (i64::MAX, (100_000, vec![])),
    ]);
    for (id, (ttl, keys)) in expected {
        let answer = leases.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true }).await?.into_inner();
        let mut found: Vec<_> =
            answer.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        found.sort();
        ensure!(answer.granted_ttl == ttl && found == keys, "lease {id}: {answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_an_empty_member_and_of_an_uncompacted_one_are_restored() -> Result<()> {
    if !tool_is_there("etcdutl") || !tool_is_there("etcd") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    for keys in [0, 3] {
        let mut fed = Fed::new()?;
        for number in 0..keys {
            fed.put(&format!("key/{number}"), "v", 0)?;
        }
        fed.writer.commit()?;
        let backup = folder.path().join(format!("backup-{keys}.db"));
        fed.back_up(&backup)?;
        let member = restored(&backup, &folder.path().join(format!("restored-{keys}"))).await?;
        let mut maintenance = MaintenanceClient::new(member.connect().await?);
        let theirs = maintenance.hash_kv(HashKvRequest { revision: 0 }).await?.into_inner();
        let ours = fed.read(|view| view.hash_kv(Revision(0)))??;
        let theirs = (theirs.hash, theirs.compact_revision, theirs.hash_revision);
        ensure!(theirs == (ours.hash, -1, ours.hash_revision.0), "{theirs:?} for {ours:?}");
    }
    Ok(())
}
