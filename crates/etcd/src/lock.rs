//! The Lock service: a lock is held by the key under its name that was created first.

use dqlited_proto::etcdserverpb::request_op::Request as Op;
use dqlited_proto::v3lockpb as pb;
use tonic::{Request, Response, Status};

use crate::call::Deadline;
use crate::queue_of_keys::{
    KeyQueues, Withdrawal, first_created, get_op, prefix_and_key, put_op, records, within_clients_time,
};

/// The service.
#[derive(Clone)]
pub struct LockService {
    queues: KeyQueues,
}

impl LockService {
    /// Over the member's keys and leases.
    pub fn new(queues: KeyQueues) -> Self {
        LockService { queues }
    }

    async fn acquire(&self, request: pb::LockRequest) -> Result<pb::LockResponse, Status> {
        let queues = &self.queues;
        let lease = queues.lease_of(request.lease).await?;
        let (prefix, key) = prefix_and_key(&request.name, lease);
        let first = || Op::RequestRange(first_created(&prefix));
        let success = vec![put_op(&key, Default::default(), lease), first()];
        let done = queues.if_created_at(&key, 0, success, vec![get_op(&key), first()]).await?;
        let own = if done.txn.succeeded {
            done.revision.0
        } else {
            records(&done.txn, 0).first().map_or(done.revision.0, |kv| kv.create_revision)
        };
        let owner = records(&done.txn, 1).first().map(|kv| kv.create_revision);
        let mut revision = done.revision;
        if owner.is_some_and(|owner| owner != own) {
            let withdrawal = Withdrawal::of(queues, &key, own);
            queues.wait_for_older(&prefix, own - 1).await?;
            let read = queues.get(&key).await?;
            if read.kvs.is_empty() {
                return Err(Status::unknown("mutex: session is expired"));
            }
            revision = read.revision;
            withdrawal.keep();
        }
        Ok(pb::LockResponse { header: Some(queues.context.header(revision)), key })
    }
}

#[tonic::async_trait]
impl pb::lock_server::Lock for LockService {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        let deadline = Deadline::of(&self.queues.context, request.metadata().as_ref());
        within_clients_time(deadline, self.acquire(request.into_inner())).await.map(Response::new)
    }

    async fn unlock(
        &self,
        request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        let revision = self.queues.delete(request.into_inner().key).await?;
        Ok(Response::new(pb::UnlockResponse { header: Some(self.queues.context.header(revision)) }))
    }
}
