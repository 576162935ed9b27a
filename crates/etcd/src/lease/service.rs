//! The Lease service on gRPC.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use dqlited_proto::etcdserverpb as pb;
use dqlited_raft::Proposed;
use dqlited_store::command::{Kind, LeaseGrant, LeaseRevoke};
use dqlited_store::{Command, CommandError, LeaseId};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::expiry::Renewal;
use super::table::LeaseTable;
use crate::call::Deadline;
use crate::chance::random_u64;
use crate::context::Context;
use crate::metrics::Metrics;
use crate::parts::Parts;
use crate::quota::{LEASE_BYTES, NOSPACE, QuotaGate};
use crate::routes::size_refusal;
use crate::status::{EtcdError, from_command_error, from_propose_error, from_read_error, from_read_failure};
use crate::watch::leader;

/// Largest TTL, seconds, as etcd has it.
const TTL_MAX: i64 = 9_000_000_000;
/// etcd's number of the CORRUPT alarm.
const ALARM_CORRUPT: i32 = 2;
/// Renewals answered and not yet taken by the connection.
const ANSWERS_MAX: usize = 16;
/// Random ids tried before a grant without id gives up: 63 bits do not collide so often.
const ID_TRIES: usize = 3;

/// The service.
#[derive(Clone)]
pub struct LeaseService {
    context: Context,
    table: Arc<LeaseTable>,
    quota: Arc<dyn QuotaGate>,
    metrics: Arc<Metrics>,
}

impl LeaseService {
    /// Over the table that follows the log.
    pub fn new(context: Context, parts: &Parts) -> Self {
        LeaseService {
            context,
            table: parts.leases.clone(),
            quota: parts.quota.clone(),
            metrics: parts.metrics.clone(),
        }
    }

    /// Grants a lease: id 0 is replaced, short TTLs are raised.
    pub(crate) async fn grant(
        &self,
        id: i64,
        ttl: i64,
        deadline: Instant,
    ) -> Result<pb::LeaseGrantResponse, Status> {
        if !self.quota.admits(LEASE_BYTES) && self.quota.refuses(&self.context, LEASE_BYTES).await {
            return Err(EtcdError::NoSpace.into());
        }
        if ttl > TTL_MAX {
            return Err(self.refuse_long_ttl(deadline).await);
        }
        let ttl = ttl.max(self.context.options.lease_ttl_min());
        let mut tries = 0;
        loop {
            tries += 1;
            let chosen = if id == 0 { random_id() } else { id };
            let proposed = self.propose(Kind::LeaseGrant(LeaseGrant { id: chosen, ttl }), deadline).await?;
            match proposed.result {
                Ok(_) => {
                    let header = Some(self.context.header(proposed.revision));
                    return Ok(pb::LeaseGrantResponse { header, id: chosen, ttl, error: String::new() });
                }
                Err(CommandError::LeaseExists) if id == 0 && tries < ID_TRIES => {}
                Err(error) => return Err(from_command_error(error)),
            }
        }
    }

    /// etcd looks at the alarms first: under CORRUPT or NOSPACE it says so, whatever the TTL.
    async fn refuse_long_ttl(&self, deadline: Instant) -> Status {
        let barrier = self.context.node.local_barrier();
        match self.context.node.point_read(barrier, deadline, |view| view.alarms()).await {
            Ok(Ok(alarms)) if alarms.iter().any(|alarm| alarm.alarm == ALARM_CORRUPT) => {
                from_command_error(CommandError::Corrupt)
            }
            Ok(Ok(alarms)) if alarms.iter().any(|alarm| alarm.alarm == NOSPACE) => EtcdError::NoSpace.into(),
            Ok(_) => EtcdError::LeaseTtlTooLarge.into(),
            Err(failure) => from_read_failure(failure),
        }
    }

    async fn propose(&self, kind: Kind, deadline: Instant) -> Result<Proposed, Status> {
        let command = Command { kind: Some(kind) };
        self.context.node.propose(command, deadline).await.map_err(from_propose_error)
    }

    /// Proves leadership by a round that begins now (rule L6) and waits until the table holds what that proof covers.
    async fn prove(&self, deadline: Instant) -> Result<dqlited_raft::Barrier, Status> {
        let barrier = self.context.node.linearizable_barrier(deadline).await.map_err(from_read_failure)?;
        self.wait_table(|table| table.holds(barrier.0), deadline).await?;
        Ok(barrier)
    }

    async fn wait_table<T>(
        &self,
        ask: impl FnMut(&LeaseTable) -> super::table::Answer<T>,
        deadline: Instant,
    ) -> Result<T, Status> {
        match tokio::time::timeout_at(deadline.into(), self.table.wait(ask)).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(EtcdError::Stopped.into()),
            Err(_elapsed) => Err(EtcdError::TimedOut.into()),
        }
    }

    /// Renews a lease and answers its TTL, 0 if there is none.
    async fn renew(&self, id: LeaseId) -> Result<i64, Status> {
        let deadline = self.context.deadline();
        self.prove(deadline).await?;
        let renewal = self.wait_table(|table| table.renew_when_leading(id, Instant::now()), deadline).await?;
        match renewal {
            Renewal::Renewed(ttl) => Ok(ttl),
            Renewal::Unknown => Ok(0),
            Renewal::NotLeading => Err(EtcdError::NotPrimaryLessor.into()),
            // It cannot be saved any more; etcd answers once it is gone, so that nobody takes its keys for alive.
            Renewal::Expired => {
                self.wait_table(|table| table.is_gone(id), deadline).await?;
                Ok(0)
            }
        }
    }

    async fn keep_alive(
        &self,
        mut requests: Streaming<pb::LeaseKeepAliveRequest>,
        answers: &mpsc::Sender<Result<pb::LeaseKeepAliveResponse, Status>>,
    ) -> Result<(), Status> {
        while let Some(request) = requests.next().await {
            let id = request
                .map_err(|status| {
                    let status =
                        size_refusal(&status, self.context.options.received_bytes_max()).unwrap_or(status);
                    self.metrics.stream_failed("lease-keepalive", &status);
                    status
                })?
                .id;
            // Made before the renewal, so that its revision is not above the moment of renewal.
            let header = Some(self.context.header(self.context.node.revision()));
            let ttl = self.renew(LeaseId(id)).await?;
            if answers.send(Ok(pb::LeaseKeepAliveResponse { header, id, ttl })).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn random_id() -> i64 {
    // Positive and not 0.
    (random_u64() >> 1).max(1) as i64
}

#[tonic::async_trait]
impl pb::lease_server::Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let deadline = Deadline::of(&self.context, request.metadata().as_ref());
        let request = request.into_inner();
        let result = self.grant(request.id, request.ttl, deadline.at).await;
        result.map(Response::new).map_err(|status| deadline.judge(status))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let deadline = Deadline::of(&self.context, request.metadata().as_ref());
        let revoke = LeaseRevoke { id: request.into_inner().id, expired_under: None };
        let proposed = self
            .propose(Kind::LeaseRevoke(revoke), deadline.at)
            .await
            .map_err(|status| deadline.judge(status))?;
        proposed.result.map_err(from_command_error)?;
        let header = Some(self.context.header(proposed.revision));
        Ok(Response::new(pb::LeaseRevokeResponse { header }))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let needs_leader = leader::is_required(request.metadata().as_ref());
        let (send, receive) = mpsc::channel(ANSWERS_MAX);
        let service = self.clone();
        tokio::spawn(async move {
            let (node, options) = (&service.context.node, &service.context.options);
            let result = tokio::select! {
                () = send.closed() => return,
                result = service.keep_alive(request.into_inner(), &send) => result,
                _ = service.table.wait(LeaseTable::is_stopped) => Err(EtcdError::Stopped.into()),
                () = leader::lost(node.leadership(), options.election_timeout), if needs_leader => {
                    Err(EtcdError::NoLeader.into())
                }
            };
            if let Err(status) = result {
                // The connection may be gone: then nobody is to be told.
                let _ = send.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let deadline = Deadline::of(&self.context, request.metadata().as_ref());
        let request = request.into_inner();
        let id = LeaseId(request.id);
        let barrier = self.prove(deadline.at).await.map_err(|status| deadline.judge(status))?;
        self.wait_table(LeaseTable::is_leading, deadline.at)
            .await
            .map_err(|status| deadline.judge(status))?;
        let keys = if request.keys {
            let read = self.context.node.read(barrier, deadline.at, move |view| view.lease_keys(id));
            let keys = read.await.map_err(|error| deadline.judge(from_read_failure(error)))?;
            keys.map_err(from_read_error)?
        } else {
            Vec::new()
        };
        let header = Some(self.context.header(self.context.node.revision()));
        Ok(Response::new(match self.table.remaining(id, Instant::now()) {
            Some(left) => pb::LeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl: left.seconds,
                granted_ttl: left.granted,
                keys,
            },
            None => pb::LeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl: -1,
                granted_ttl: 0,
                keys: Vec::new(),
            },
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let deadline = Deadline::of(&self.context, request.metadata().as_ref());
        // Local, as in etcd; after a start the table is being read for a moment.
        let now = self.context.node.local_barrier();
        self.wait_table(|table| table.holds(now.0), deadline.at)
            .await
            .map_err(|status| deadline.judge(status))?;
        let header = Some(self.context.header(self.context.node.revision()));
        let leases = self.table.ids().into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header, leases }))
    }
}
