//! The Maintenance service: status, alarms, hashes, backups, and what an operator starts by hand.

use std::sync::Arc;

use dqlited_proto::etcdserverpb::alarm_request::AlarmAction;
use dqlited_proto::etcdserverpb::downgrade_request::DowngradeAction;
use dqlited_proto::etcdserverpb::maintenance_server::Maintenance;
use dqlited_proto::etcdserverpb::*;
use dqlited_raft::Barrier;
use dqlited_store::command::{self, Kind};
use dqlited_store::read::{DatabaseSize, KvHash, ReadError, ReadView};
use dqlited_store::response::AlarmRecord;
use dqlited_store::{Command, Revision};
use prometheus::IntGauge;
use tonic::{Request, Response, Status};

use crate::backup::stream::{self, BackupStream};
use crate::call::{Deadline, LONG_WORK_TIMEOUT};
use crate::context::Context;
use crate::disk;
use crate::metrics::{Metrics, Timing};
use crate::parts::Parts;
use crate::quota::Quota;
use crate::status::{self, EtcdError, from_read_error, from_read_failure};
use crate::version;

/// Pages that moving one page may change: its new place, the page that points to it, now and then one of SQLite's maps.
const PAGES_CHANGED_BY_A_MOVE: u64 = 3;
/// Bound on what a defragmentation adds to SQLite's WAL at once where space is short: a slice of 2 MB gives at most 6 MB
/// of changed pages, then the file is cut and the WAL emptied.
const MOVED_BYTES_MAX: u64 = 8 << 20;
/// What a Downgrade answers as the cluster's version.
const CLUSTER_VERSION: &str = "3.7";

/// The service.
#[derive(Clone)]
pub struct MaintenanceService {
    context: Context,
    metrics: Arc<Metrics>,
    quota: Arc<Quota>,
}

impl MaintenanceService {
    /// The service of a member.
    pub fn new(context: Context, parts: &Parts) -> MaintenanceService {
        MaintenanceService { context, metrics: parts.metrics.clone(), quota: parts.quota.clone() }
    }

    fn header(&self) -> ResponseHeader {
        self.context.header(self.context.node.revision())
    }

    async fn read<T: Send + 'static>(
        &self,
        barrier: Barrier,
        deadline: Deadline,
        read: impl FnOnce(&dyn ReadView) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Status> {
        self.context
            .node
            .read(barrier, deadline.at, read)
            .await
            .map_err(|error| deadline.judge(from_read_failure(error)))?
            .map_err(from_read_error)
    }

    async fn hash_at(&self, revision: Revision, deadline: Deadline) -> Result<KvHash, Status> {
        // Hash, revision and compact revision come out of one snapshot that holds what was told to anyone (rule D5).
        let barrier = self.context.node.local_barrier();
        self.read(barrier, deadline, move |view| view.hash_kv(revision)).await
    }

    async fn list_alarms(&self, wanted: i32, deadline: Deadline) -> Result<AlarmResponse, Status> {
        let barrier = self
            .context
            .node
            .linearizable_barrier(deadline.at)
            .await
            .map_err(|error| deadline.judge(from_read_failure(error)))?;
        let (alarms, revision) =
            self.read(barrier, deadline, |view| Ok((view.alarms()?, view.revision()))).await?;
        let of_all_types = wanted == AlarmType::None as i32;
        let alarms = alarms.into_iter().filter(|alarm| of_all_types || alarm.alarm == wanted).collect();
        Ok(self.alarm_response(alarms, revision))
    }

    async fn change_alarm(&self, alarm: command::Alarm, deadline: Deadline) -> Result<AlarmResponse, Status> {
        let proposed = self
            .context
            .node
            .propose(Command { kind: Some(Kind::Alarm(alarm)) }, deadline.at)
            .await
            .map_err(|error| deadline.judge(status::from_propose_error(error)))?;
        match proposed.result.map_err(status::from_command_error)? {
            dqlited_store::Response::Alarm(alarms) => Ok(self.alarm_response(alarms, proposed.revision)),
            other => Err(Status::internal(format!("etcdserver: an alarm was answered with {other:?}"))),
        }
    }

    /// Giving pages back moves used ones from the end of the file into free ones, through SQLite's WAL: no more than
    /// there are of either, and a checkpoint begins the WAL anew long before [`MOVED_BYTES_MAX`].
    async fn check_room_for_moving(&self) -> Result<(), Status> {
        let node = &self.context.node;
        let deadline = std::time::Instant::now() + LONG_WORK_TIMEOUT;
        let size = node
            .read(node.local_barrier(), deadline, |view| view.database_size())
            .await
            .map_err(from_read_failure)?
            .map_err(from_read_error)?;
        let needed = moved_bytes(size);
        let free = disk::free_bytes(node.data_dir())
            .map_err(|error| Status::internal(format!("etcdserver: the data directory: {error}")))?;
        if free < needed {
            return Err(Status::resource_exhausted(format!(
                "etcdserver: defragmentation needs {needed} bytes free in the data directory, {free} are"
            )));
        }
        Ok(())
    }

    fn alarm_response(&self, alarms: Vec<AlarmRecord>, revision: Revision) -> AlarmResponse {
        let alarms = alarms
            .into_iter()
            .map(|alarm| AlarmMember { member_id: alarm.member, alarm: alarm.alarm })
            .collect();
        AlarmResponse { header: Some(self.context.header(revision)), alarms }
    }
}

/// Counts itself while it lives.
struct InFlight<'a>(&'a IntGauge);

impl InFlight<'_> {
    fn new(gauge: &IntGauge) -> InFlight<'_> {
        gauge.inc();
        InFlight(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Bytes that a defragmentation may have to write beside the database.
fn moved_bytes(size: DatabaseSize) -> u64 {
    let free_pages = size.total_bytes.saturating_sub(size.in_use_bytes);
    let moved = u64::try_from(free_pages.min(size.in_use_bytes)).unwrap_or(0);
    moved.saturating_mul(PAGES_CHANGED_BY_A_MOVE).min(MOVED_BYTES_MAX)
}

/// An alarm in the words of Status, as etcd's `AlarmMember` prints (the number of spaces there is not stable).
fn alarm_text(alarm: &AlarmRecord) -> String {
    let kind = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
    format!("memberID:{} alarm:{kind}", alarm.member)
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let deadline = Deadline::of(&self.context, request.metadata().as_ref());
        let node = &self.context.node;
        let (size, alarms) = self
            .read(node.local_barrier(), deadline, |view| Ok((view.database_size()?, view.alarms()?)))
            .await?;
        let now = node.status();
        let mut errors = Vec::new();
        if now.leader.is_none() {
            errors.push(EtcdError::NoLeader.text().to_owned());
        }
        errors.extend(alarms.iter().map(alarm_text));
        Ok(Response::new(StatusResponse {
            header: Some(self.header()),
            version: version::ETCD.to_owned(),
            db_size: size.total_bytes,
            leader: now.leader.map_or(0, |leader| leader.0),
            raft_index: now.committed_index.max(now.applied_index),
            raft_term: now.term,
            raft_applied_index: now.applied_index,
            errors,
            db_size_in_use: size.in_use_bytes,
            is_learner: now.is_learner,
            storage_version: version::ETCD_STORAGE.to_owned(),
            db_size_quota: self
                .context
                .options
                .quota_bytes()
                .unwrap_or(self.context.options.quota_backend_bytes),
            downgrade_info: Some(DowngradeInfo { enabled: false, target_version: String::new() }),
        }))
    }

    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let deadline = Deadline::of(&self.context, request.metadata().as_ref());
        let request = request.into_inner();
        // etcd's process ends on an action that it does not know; ours says what is wrong.
        let Ok(action) = AlarmAction::try_from(request.action) else {
            return Err(Status::invalid_argument(format!(
                "etcdserver: alarm action {} is unknown, expected GET (0), ACTIVATE (1) or DEACTIVATE (2)",
                request.action
            )));
        };
        let activate = match action {
            AlarmAction::Get => {
                return self.list_alarms(request.alarm, deadline).await.map(Response::new);
            }
            AlarmAction::Activate => true,
            AlarmAction::Deactivate => false,
        };
        match AlarmType::try_from(request.alarm) {
            // Nothing to raise or clear.
            Ok(AlarmType::None) => {
                let revision = self.context.node.revision();
                Ok(Response::new(self.alarm_response(Vec::new(), revision)))
            }
            Ok(_) => {
                let alarm = command::Alarm { activate, member: request.member_id, alarm: request.alarm };
                self.change_alarm(alarm, deadline).await.map(Response::new)
            }
            Err(_) => Err(Status::invalid_argument(format!(
                "etcdserver: alarm type {} is unknown, expected NOSPACE (1) or CORRUPT (2)",
                request.alarm
            ))),
        }
    }

    async fn defragment(
        &self,
        _request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.check_room_for_moving().await?;
        let _in_flight = InFlight::new(&self.metrics.defragment_in_flight);
        let _timing = Timing::new(&self.metrics.defragment_seconds);
        self.context.node.defragment().await.map_err(from_read_failure)?;
        // A write that follows at once is compared with what is left, not with what was.
        self.quota.refresh(&self.context.node).await;
        // As etcd: no header.
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let deadline = Deadline::of(&self.context, request.metadata().as_ref()).for_long_work();
        let _timing = Timing::new(&self.metrics.hash_seconds);
        // etcd hashes its whole file; across engines that means nothing, so the keys' hash stands in.
        let hash = self.hash_at(Revision(0), deadline).await?;
        Ok(Response::new(HashResponse {
            header: Some(self.context.header(hash.current_revision)),
            hash: hash.hash,
        }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let deadline = Deadline::of(&self.context, request.metadata().as_ref()).for_long_work();
        let _timing = Timing::new(&self.metrics.hash_revision_seconds);
        let hash = self.hash_at(Revision(request.get_ref().revision), deadline).await?;
        Ok(Response::new(HashKvResponse {
            header: Some(self.context.header(hash.current_revision)),
            hash: hash.hash,
            compact_revision: hash.compact_revision.0,
            hash_revision: hash.hash_revision.0,
        }))
    }

    type SnapshotStream = BackupStream;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let deadline = Deadline::of(&self.context, request.metadata().as_ref()).for_long_work();
        let _timing = Timing::new(&self.metrics.backup_seconds);
        stream::begin(&self.context, deadline).await.map(Response::new)
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let deadline = Deadline::of(&self.context, request.metadata().as_ref());
        let node = &self.context.node;
        if node.leadership().borrow().leader != Some(node.member_id()) {
            return Err(EtcdError::NotLeader.into());
        }
        let target = dqlited_store::MemberId(request.get_ref().target_id);
        if target != node.member_id() {
            let barrier = node.local_barrier();
            let members = self.read(barrier, deadline, |view| view.members()).await?;
            if !members.iter().any(|member| member.id == target) {
                return Err(EtcdError::BadLeaderTransferee.into());
            }
        }
        node.move_leader(target, deadline.at)
            .await
            .map_err(|error| deadline.judge(status::from_propose_error(error)))?;
        // As etcd: no header.
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let request = request.into_inner();
        match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => {
                // Data of this version can be read by no older one.
                let error = if is_version(&request.version) {
                    EtcdError::DowngradeVersionInvalid
                } else {
                    EtcdError::DowngradeVersionFormat
                };
                Err(error.into())
            }
            // Nothing is under way, which etcd takes as done.
            Ok(DowngradeAction::Cancel) => Ok(Response::new(DowngradeResponse {
                header: Some(self.header()),
                version: CLUSTER_VERSION.to_owned(),
            })),
            Err(_) => Err(EtcdError::UnknownMethod.into()),
        }
    }
}

/// `3.6` or a semantic version.
fn is_version(text: &str) -> bool {
    let semantic = |text: &str| {
        let release = text.split_once('+').map_or(text, |(release, _)| release);
        let numbers = release.split_once('-').map_or(release, |(numbers, _)| numbers);
        let parts: Vec<_> = numbers.split('.').collect();
        parts.len() == 3 && parts.iter().all(|part| part.parse::<i64>().is_ok())
    };
    semantic(text) || semantic(&format!("{text}.0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_other_words() {
        for version in ["3.6", "3.6.1", "3.6.0-rc.1", "3.6.0+git", "10.0"] {
            assert!(is_version(version), "{version}");
        }
        for other in ["", "3", "3.6.", "three", "3.6.1.0", "v3.6", "3.x"] {
            assert!(!is_version(other), "{other}");
        }
    }

    #[test]
    fn a_defragmentation_needs_room_for_what_it_moves_and_not_for_a_copy() {
        let of = |total_bytes, in_use_bytes| moved_bytes(DatabaseSize { total_bytes, in_use_bytes });
        assert_eq!(of(100 << 20, 1 << 20), 3 << 20);
        assert_eq!(of(100 << 20, 99 << 20), 3 << 20);
        assert_eq!(of(4 << 30, 2 << 30), MOVED_BYTES_MAX);
        assert_eq!(of(4096, 4096), 0);
    }

    #[test]
    fn an_alarm_reads_in_status_as_in_etcd() {
        assert_eq!(alarm_text(&AlarmRecord { member: 5, alarm: 1 }), "memberID:5 alarm:NOSPACE");
        assert_eq!(alarm_text(&AlarmRecord { member: 5, alarm: 2 }), "memberID:5 alarm:CORRUPT");
    }
}
