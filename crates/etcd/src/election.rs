//! The Election service: the leader is the key under the election's name that was created first, its value the
//! proclamation.

use std::pin::Pin;

use bytes::Bytes;
use dqlited_proto::mvccpb;
use dqlited_proto::v3electionpb as pb;
use dqlited_store::{EventKind, KeyValue, Revision};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::call::Deadline;
use crate::queue_of_keys::{
    KeyQueues, Withdrawal, delete_op, get_op, prefix_and_key, prefix_end, put_op, records,
    within_clients_time,
};
use crate::status::EtcdError;

/// Proclamations observed and not yet taken by the connection.
const OBSERVED_MAX: usize = 16;

/// The service.
#[derive(Clone)]
pub struct ElectionService {
    queues: KeyQueues,
}

impl ElectionService {
    /// Over the member's keys and leases.
    pub fn new(queues: KeyQueues) -> Self {
        ElectionService { queues }
    }

    async fn stand(&self, request: pb::CampaignRequest) -> Result<pb::CampaignResponse, Status> {
        let queues = &self.queues;
        let lease = queues.lease_of(request.lease).await?;
        let (prefix, key) = prefix_and_key(&request.name, lease);
        let put = put_op(&key, request.value.clone(), lease);
        let done = queues.if_created_at(&key, 0, vec![put], vec![get_op(&key)]).await?;
        let present = records(&done.txn, 0).first().filter(|_| !done.txn.succeeded);
        let rev = present.map_or(done.revision.0, |kv| kv.create_revision);
        let withdrawal = Withdrawal::of(queues, &key, rev);
        let leader = pb::LeaderKey { name: request.name, key, rev, lease };
        if present.is_some_and(|kv| kv.value != request.value) {
            self.put_value(&leader, request.value).await?;
        }
        queues.wait_for_older(&prefix, rev - 1).await?;
        withdrawal.keep();
        let header = Some(queues.context.header(done.revision));
        Ok(pb::CampaignResponse { header, leader: Some(leader) })
    }

    /// What a caller says it won; without a lease it gets one of the server's, as in etcd.
    async fn resumed(&self, leader: Option<pb::LeaderKey>) -> Result<pb::LeaderKey, Status> {
        let mut leader = leader.ok_or(EtcdError::LeaderFieldMissing)?;
        leader.lease = self.queues.lease_of(leader.lease).await?;
        Ok(leader)
    }

    async fn put_value(&self, leader: &pb::LeaderKey, value: Bytes) -> Result<Revision, Status> {
        let put = put_op(&leader.key, value, leader.lease);
        let done = self.queues.if_created_at(&leader.key, leader.rev, vec![put], Vec::new()).await?;
        if done.txn.succeeded { Ok(done.revision) } else { Err(EtcdError::ElectionNotLeader.into()) }
    }

    /// Sends each leader and each of its proclamations until the caller goes away.
    async fn follow(&self, name: Bytes, send: &mpsc::Sender<Answer>) -> Result<(), Status> {
        let (queues, (prefix, _)) = (&self.queues, prefix_and_key(&name, 0));
        loop {
            let read = queues.first(&prefix).await?;
            let (mut revision, kv) = match read.kvs.into_iter().next() {
                Some(kv) => (read.revision.0, kv),
                None => self.first_put(&prefix, read.revision.0).await?,
            };
            let mut watch = queues.watch(kv.key.clone(), Bytes::new(), revision + 1);
            let mut observed = vec![kv];
            let mut is_deleted = false;
            loop {
                for kv in observed.drain(..) {
                    if send.send(Ok(self.answer(revision, kv))).await.is_err() {
                        return Ok(());
                    }
                }
                if is_deleted {
                    break;
                }
                let news = watch.next().await?;
                revision = news.revision;
                for event in news.events {
                    if event.kind == EventKind::Delete {
                        is_deleted = true;
                        break;
                    }
                    observed.push(event.kv);
                }
            }
        }
    }

    /// Waits for the first key of an election without candidates.
    async fn first_put(&self, prefix: &Bytes, revision: i64) -> Result<(i64, KeyValue), Status> {
        // From the revision after the empty read: etcd begins at it and may meet the put of a key deleted there.
        let mut watch = self.queues.watch(prefix.clone(), prefix_end(prefix), revision + 1);
        loop {
            let news = watch.next().await?;
            if let Some(event) = news.events.into_iter().find(|event| event.kind == EventKind::Put) {
                return Ok((event.kv.mod_revision, event.kv));
            }
        }
    }

    fn answer(&self, revision: i64, kv: KeyValue) -> pb::LeaderResponse {
        let kv = mvccpb::KeyValue {
            key: kv.key,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: kv.value,
            lease: kv.lease,
        };
        pb::LeaderResponse { header: Some(self.queues.context.header(Revision(revision))), kv: Some(kv) }
    }
}

type Answer = Result<pb::LeaderResponse, Status>;

#[tonic::async_trait]
impl pb::election_server::Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        let deadline = Deadline::of(&self.queues.context, request.metadata().as_ref());
        within_clients_time(deadline, self.stand(request.into_inner())).await.map(Response::new)
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        let request = request.into_inner();
        let leader = self.resumed(request.leader).await?;
        let revision = self.put_value(&leader, request.value).await?;
        Ok(Response::new(pb::ProclaimResponse { header: Some(self.queues.context.header(revision)) }))
    }

    async fn leader(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        let (prefix, _) = prefix_and_key(&request.into_inner().name, 0);
        let read = self.queues.first(&prefix).await?;
        let kv = read.kvs.into_iter().next().ok_or(EtcdError::ElectionNoLeader)?;
        Ok(Response::new(self.answer(read.revision.0, kv)))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn observe(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let (send, receive) = mpsc::channel(OBSERVED_MAX);
        let service = self.clone();
        tokio::spawn(async move {
            let result = tokio::select! {
                () = send.closed() => return,
                result = service.follow(request.into_inner().name, &send) => result,
            };
            if let Err(status) = result {
                // The connection may be gone: then nobody is to be told.
                let _ = send.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn resign(
        &self,
        request: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        let leader = self.resumed(request.into_inner().leader).await?;
        let delete = delete_op(&leader.key);
        let done = self.queues.if_created_at(&leader.key, leader.rev, vec![delete], Vec::new()).await?;
        Ok(Response::new(pb::ResignResponse { header: Some(self.queues.context.header(done.revision)) }))
    }
}
