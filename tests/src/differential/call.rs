//! One request of any kind, and how it is sent.

use std::time::Duration;

use dqlited_proto::etcdserverpb as pb;
use dqlited_proto::etcdserverpb::auth_client::AuthClient;
use dqlited_proto::etcdserverpb::cluster_client::ClusterClient;
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::lease_client::LeaseClient;
use dqlited_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use dqlited_proto::v3electionpb as election;
use dqlited_proto::v3electionpb::election_client::ElectionClient;
use dqlited_proto::v3lockpb as lock;
use dqlited_proto::v3lockpb::lock_client::LockClient;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::watch_script::{self, WatchScript};

/// Answers of the largest lists stay far below it.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// No lock or campaign of a run has to wait; one that does is a difference, not a hang.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A request.
#[derive(Clone, Debug)]
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum Call {
    Range(pb::RangeRequest),
    RangeStream(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    LeaseKeepAlive(Vec<i64>),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases,
    HashKv(i64),
    Alarm(pb::AlarmRequest),
    /// The alarm of this server's own member, whose id differs between the two.
    AlarmOfSelf(i32, i32),
    Status,
    Defragment,
    Downgrade(pb::DowngradeRequest),
    MoveLeader(u64),
    MoveLeaderToSelf,
    MemberList(bool),
    AuthStatus,
    Lock(lock::LockRequest),
    Unlock(lock::UnlockRequest),
    Campaign(election::CampaignRequest),
    Proclaim(election::ProclaimRequest),
    Leader(election::LeaderRequest),
    Resign(election::ResignRequest),
    Watch(WatchScript),
}

/// An answer as it came.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum Answer {
    Range(pb::RangeResponse),
    RangeStream(Vec<pb::RangeResponse>),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    LeaseKeepAlive(Vec<pb::LeaseKeepAliveResponse>),
    LeaseTimeToLive(pb::LeaseTimeToLiveResponse),
    LeaseLeases(pb::LeaseLeasesResponse),
    HashKv(pb::HashKvResponse),
    Alarm(pb::AlarmResponse),
    Status(pb::StatusResponse),
    Defragment(pb::DefragmentResponse),
    Downgrade(pb::DowngradeResponse),
    MoveLeader(pb::MoveLeaderResponse),
    MemberList(pb::MemberListResponse),
    AuthStatus(pb::AuthStatusResponse),
    Lock(lock::LockResponse),
    Unlock(lock::UnlockResponse),
    Campaign(election::CampaignResponse),
    Proclaim(election::ProclaimResponse),
    Leader(election::LeaderResponse),
    Resign(election::ResignResponse),
    Watch(watch_script::Seen),
}

impl Call {
    /// The method's name, as coverage prints it.
    pub fn method(&self) -> &'static str {
        match self {
            Call::Range(_) => "Range",
            Call::RangeStream(_) => "RangeStream",
            Call::Put(_) => "Put",
            Call::DeleteRange(_) => "DeleteRange",
            Call::Txn(_) => "Txn",
            Call::Compact(_) => "Compact",
            Call::LeaseGrant(_) => "LeaseGrant",
            Call::LeaseRevoke(_) => "LeaseRevoke",
            Call::LeaseKeepAlive(_) => "LeaseKeepAlive",
            Call::LeaseTimeToLive(_) => "LeaseTimeToLive",
            Call::LeaseLeases => "LeaseLeases",
            Call::HashKv(_) => "HashKV",
            Call::Alarm(_) | Call::AlarmOfSelf(..) => "Alarm",
            Call::Status => "Status",
            Call::Defragment => "Defragment",
            Call::Downgrade(_) => "Downgrade",
            Call::MoveLeader(_) | Call::MoveLeaderToSelf => "MoveLeader",
            Call::MemberList(_) => "MemberList",
            Call::AuthStatus => "AuthStatus",
            Call::Lock(_) => "Lock",
            Call::Unlock(_) => "Unlock",
            Call::Campaign(_) => "Campaign",
            Call::Proclaim(_) => "Proclaim",
            Call::Leader(_) => "Leader",
            Call::Resign(_) => "Resign",
            Call::Watch(_) => "Watch",
        }
    }
}

/// One server's clients.
#[derive(Clone)]
pub struct Target {
    channel: Channel,
    /// This server's own member id.
    pub member_id: u64,
}

impl Target {
    /// Asks the server for its id once.
    pub async fn new(channel: Channel) -> Result<Target, Status> {
        let status = MaintenanceClient::new(channel.clone()).status(pb::StatusRequest {}).await?.into_inner();
        Ok(Target { channel, member_id: status.header.unwrap_or_default().member_id })
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    fn election(&self) -> ElectionClient<Channel> {
        ElectionClient::new(self.channel.clone())
    }

    /// Sends the call and waits for its answer.
    pub async fn send(&self, call: &Call) -> Result<Answer, Status> {
        match call.clone() {
            Call::Range(request) => Ok(Answer::Range(self.kv().range(request).await?.into_inner())),
            Call::RangeStream(request) => {
                let mut stream = self.kv().range_stream(request).await?.into_inner();
                let mut chunks = Vec::new();
                while let Some(chunk) = stream.message().await? {
                    chunks.push(chunk.range_response.unwrap_or_default());
                }
                Ok(Answer::RangeStream(chunks))
            }
            Call::Put(request) => Ok(Answer::Put(self.kv().put(request).await?.into_inner())),
            Call::DeleteRange(request) => {
                Ok(Answer::DeleteRange(self.kv().delete_range(request).await?.into_inner()))
            }
            Call::Txn(request) => Ok(Answer::Txn(self.kv().txn(request).await?.into_inner())),
            Call::Compact(request) => Ok(Answer::Compact(self.kv().compact(request).await?.into_inner())),
            Call::LeaseGrant(request) => {
                Ok(Answer::LeaseGrant(self.lease().lease_grant(request).await?.into_inner()))
            }
            Call::LeaseRevoke(request) => {
                Ok(Answer::LeaseRevoke(self.lease().lease_revoke(request).await?.into_inner()))
            }
            Call::LeaseKeepAlive(ids) => self.keep_alive(ids).await,
            Call::LeaseTimeToLive(request) => {
                Ok(Answer::LeaseTimeToLive(self.lease().lease_time_to_live(request).await?.into_inner()))
            }
            Call::LeaseLeases => {
                let answer = self.lease().lease_leases(pb::LeaseLeasesRequest {}).await?;
                Ok(Answer::LeaseLeases(answer.into_inner()))
            }
            Call::HashKv(revision) => {
                let answer = self.maintenance().hash_kv(pb::HashKvRequest { revision }).await?;
                Ok(Answer::HashKv(answer.into_inner()))
            }
            Call::Alarm(request) => Ok(Answer::Alarm(self.maintenance().alarm(request).await?.into_inner())),
            Call::AlarmOfSelf(action, alarm) => {
                let request = pb::AlarmRequest { action, member_id: self.member_id, alarm };
                Ok(Answer::Alarm(self.maintenance().alarm(request).await?.into_inner()))
            }
            Call::Status => {
                Ok(Answer::Status(self.maintenance().status(pb::StatusRequest {}).await?.into_inner()))
            }
            Call::Defragment => {
                let answer = self.maintenance().defragment(pb::DefragmentRequest {}).await?;
                Ok(Answer::Defragment(answer.into_inner()))
            }
            Call::Downgrade(request) => {
                Ok(Answer::Downgrade(self.maintenance().downgrade(request).await?.into_inner()))
            }
            Call::MoveLeader(target_id) => self.move_leader(target_id).await,
            Call::MoveLeaderToSelf => self.move_leader(self.member_id).await,
            Call::MemberList(linearizable) => {
                let request = pb::MemberListRequest { linearizable };
                let answer = ClusterClient::new(self.channel.clone()).member_list(request).await?;
                Ok(Answer::MemberList(answer.into_inner()))
            }
            Call::AuthStatus => {
                let answer =
                    AuthClient::new(self.channel.clone()).auth_status(pb::AuthStatusRequest {}).await?;
                Ok(Answer::AuthStatus(answer.into_inner()))
            }
            Call::Lock(request) => Ok(Answer::Lock(self.lock().lock(waiting(request)).await?.into_inner())),
            Call::Unlock(request) => Ok(Answer::Unlock(self.lock().unlock(request).await?.into_inner())),
            Call::Campaign(request) => {
                Ok(Answer::Campaign(self.election().campaign(waiting(request)).await?.into_inner()))
            }
            Call::Proclaim(request) => {
                Ok(Answer::Proclaim(self.election().proclaim(request).await?.into_inner()))
            }
            Call::Leader(request) => Ok(Answer::Leader(self.election().leader(request).await?.into_inner())),
            Call::Resign(request) => Ok(Answer::Resign(self.election().resign(request).await?.into_inner())),
            Call::Watch(script) => {
                Ok(Answer::Watch(watch_script::play(self.channel.clone(), &script).await?))
            }
        }
    }

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    fn lock(&self) -> LockClient<Channel> {
        LockClient::new(self.channel.clone())
    }

    async fn move_leader(&self, target_id: u64) -> Result<Answer, Status> {
        let answer = self.maintenance().move_leader(pb::MoveLeaderRequest { target_id }).await?;
        Ok(Answer::MoveLeader(answer.into_inner()))
    }

    async fn keep_alive(&self, ids: Vec<i64>) -> Result<Answer, Status> {
        let expected = ids.len();
        let requests = ids.into_iter().map(|id| pb::LeaseKeepAliveRequest { id });
        let mut stream = self
            .lease()
            .lease_keep_alive(tokio_stream::iter(requests.collect::<Vec<_>>()))
            .await?
            .into_inner();
        let mut answers = Vec::new();
        while answers.len() < expected {
            match stream.message().await? {
                Some(answer) => answers.push(answer),
                None => break,
            }
        }
        Ok(Answer::LeaseKeepAlive(answers))
    }
}

fn waiting<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(WAIT_MAX);
    request
}
