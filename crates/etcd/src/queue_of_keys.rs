//! Keys under one prefix, bound to leases, in the order of their creation: what locks and elections are made of (etcd's
//! `client/v3/concurrency`).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dqlited_proto::etcdserverpb as pb;
use dqlited_raft::Proposed;
use dqlited_store::command::Kind;
use dqlited_store::response::{OpResponse, RangeResponse, TxnResponse};
use dqlited_store::{Command, CommandError, EventKind, KeyValue, Response, Revision};
use pb::request_op::Request;
use prost::Message;
use tonic::{Code, Status};

use crate::call::Deadline;
use crate::context::Context;
use crate::kv::txn_cost;
use crate::lease::LeaseService;
use crate::parts::Parts;
use crate::quota::{self, QuotaGate};
use crate::status::{EtcdError, from_command_error, from_propose_error, from_read_error, from_read_failure};
use crate::watch::{Hub, KeyInterval, LocalWatch};
use crate::{checks, convert};

/// TTL of a lease that the server grants for a caller without one, seconds; nobody renews it.
const SERVER_LEASE_TTL: i64 = 60;

/// The member as these services use it.
#[derive(Clone)]
pub struct KeyQueues {
    /// The member.
    pub context: Context,
    hub: Arc<Hub>,
    leases: LeaseService,
    quota: Arc<dyn QuotaGate>,
}

/// A read with the revision that it was made at.
pub struct Read {
    /// Revision of the view.
    pub revision: Revision,
    /// Its records.
    pub kvs: Vec<KeyValue>,
}

/// A carried-out transaction.
pub struct Done {
    /// The store's revision after it.
    pub revision: Revision,
    /// Its answer.
    pub txn: TxnResponse,
}

/// Takes a key back when a caller goes away while it waits for its turn.
pub struct Withdrawal {
    queues: KeyQueues,
    key: Option<Bytes>,
    create_revision: i64,
}

impl Withdrawal {
    /// Of a key that was created at this revision.
    pub fn of(queues: &KeyQueues, key: &Bytes, create_revision: i64) -> Self {
        Withdrawal { queues: queues.clone(), key: Some(key.clone()), create_revision }
    }

    /// Its turn has come: the key stays.
    pub fn keep(mut self) {
        self.key = None;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let (queues, create_revision) = (self.queues.clone(), self.create_revision);
        tokio::spawn(async move {
            let delete = delete_op(&key);
            // If this fails the lease's end takes the key away.
            if let Err(error) = queues.if_created_at(&key, create_revision, vec![delete], Vec::new()).await {
                tracing::debug!(%error, "withdraw from a lock or an election");
            }
        });
    }
}

impl KeyQueues {
    /// Over the member's parts and leases.
    pub fn new(context: Context, parts: &Parts, leases: LeaseService) -> Self {
        KeyQueues { context, hub: parts.hub.clone(), leases, quota: parts.quota.clone() }
    }

    /// The caller's lease, or a new one when it has none.
    pub async fn lease_of(&self, asked: i64) -> Result<i64, Status> {
        match asked {
            0 => Ok(self.leases.grant(0, SERVER_LEASE_TTL, self.context.deadline()).await.map_err(odd)?.id),
            id => Ok(id),
        }
    }

    /// The first key under the prefix by creation.
    pub async fn first(&self, prefix: &Bytes) -> Result<Read, Status> {
        self.read(first_created(prefix)).await
    }

    /// One key.
    pub async fn get(&self, key: &Bytes) -> Result<Read, Status> {
        self.read(pb::RangeRequest { key: key.clone(), ..Default::default() }).await
    }

    async fn read(&self, request: pb::RangeRequest) -> Result<Read, Status> {
        let query = convert::range(request);
        let (node, deadline) = (&self.context.node, self.context.deadline());
        let barrier = node.linearizable_barrier(deadline).await.map_err(from_read_failure).map_err(odd)?;
        let read = node.read(barrier, deadline, move |view| (view.revision(), view.range_collected(&query)));
        let (revision, range) = read.await.map_err(from_read_failure).map_err(odd)?;
        Ok(Read { revision, kvs: range.map_err(from_read_error).map_err(odd)?.kvs })
    }

    /// Runs `success` if the key was created at that revision (0: does not exist), otherwise `failure`. What etcd's own
    /// transaction of this step would be refused for is refused here: a key that is empty, a size, a full quota.
    pub async fn if_created_at(
        &self,
        key: &Bytes,
        create_revision: i64,
        success: Vec<Request>,
        failure: Vec<Request>,
    ) -> Result<Done, Status> {
        let compare = pb::Compare {
            result: pb::compare::CompareResult::Equal.into(),
            target: pb::compare::CompareTarget::Create.into(),
            key: key.clone(),
            target_union: Some(pb::compare::TargetUnion::CreateRevision(create_revision)),
            ..Default::default()
        };
        let ops = |requests: Vec<Request>| {
            requests.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect()
        };
        let txn = pb::TxnRequest { compare: vec![compare], success: ops(success), failure: ops(failure) };
        quota::admit(&*self.quota, &self.context, txn_cost(&txn)).await.map_err(odd)?;
        checks::check_txn(&txn, self.context.options.max_txn_ops).map_err(odd)?;
        self.check_size(&txn)?;
        let proposed = self.propose(Kind::Txn(convert::txn(txn))).await?;
        match proposed.result {
            Ok(Response::Txn(txn)) => Ok(Done { revision: proposed.revision, txn }),
            Ok(_) => Err(Status::internal("a transaction was answered by something else")),
            Err(error) => Err(odd_command(error)),
        }
    }

    /// Deletes a key and answers the revision after it.
    pub async fn delete(&self, key: Bytes) -> Result<Revision, Status> {
        let delete = pb::DeleteRangeRequest { key, ..Default::default() };
        checks::check_delete_range(&delete).map_err(odd)?;
        self.check_size(&delete)?;
        let proposed = self.propose(Kind::DeleteRange(convert::delete_range(delete))).await?;
        proposed.result.map_err(odd_command)?;
        Ok(proposed.revision)
    }

    /// A write counts as large as the KV request that etcd makes of it.
    fn check_size(&self, request: &impl Message) -> Result<(), Status> {
        checks::check_size(request.encoded_len(), self.context.options.max_request_bytes).map_err(odd)
    }

    async fn propose(&self, kind: Kind) -> Result<Proposed, Status> {
        let command = Command { kind: Some(kind) };
        let deadline: Instant = self.context.deadline();
        self.context.node.propose(command, deadline).await.map_err(from_propose_error).map_err(odd)
    }

    /// Waits until no key under the prefix is older than the revision: always for the youngest of those, so that a
    /// release wakes one waiter only.
    pub async fn wait_for_older(&self, prefix: &Bytes, create_revision_max: i64) -> Result<(), Status> {
        loop {
            let older = pb::RangeRequest {
                sort_order: pb::range_request::SortOrder::Descend.into(),
                max_create_revision: create_revision_max,
                ..first_created(prefix)
            };
            let read = self.read(older).await?;
            let Some(youngest) = read.kvs.into_iter().next() else { return Ok(()) };
            let mut watch = self.watch(youngest.key, Bytes::new(), read.revision.0 + 1);
            loop {
                let events = watch.next().await.map_err(odd)?.events;
                if events.iter().any(|event| event.kind == EventKind::Delete) {
                    break;
                }
            }
        }
    }

    /// Watches a key or a range.
    pub fn watch(&self, key: Bytes, range_end: Bytes, start_revision: i64) -> LocalWatch {
        let interval = KeyInterval::from_request(key, range_end);
        LocalWatch::begin(&self.hub, &self.context.node, interval, start_revision)
    }
}

/// The one key under the prefix that was created first.
pub fn first_created(prefix: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: pb::range_request::SortOrder::Ascend.into(),
        sort_target: pb::range_request::SortTarget::Create.into(),
        ..Default::default()
    }
}

/// An operation that reads one key.
pub fn get_op(key: &Bytes) -> Request {
    Request::RequestRange(pb::RangeRequest { key: key.clone(), ..Default::default() })
}

/// An operation that puts a key under a lease.
pub fn put_op(key: &Bytes, value: Bytes, lease: i64) -> Request {
    Request::RequestPut(pb::PutRequest { key: key.clone(), value, lease, ..Default::default() })
}

/// An operation that deletes one key.
pub fn delete_op(key: &Bytes) -> Request {
    Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.clone(), ..Default::default() })
}

/// The records of a Range among the answers of a transaction.
pub fn records(txn: &TxnResponse, place: usize) -> &[KeyValue] {
    match txn.responses.get(place) {
        Some(OpResponse::Range { range: RangeResponse { kvs, .. }, .. }) => kvs,
        _ => &[],
    }
}

/// The key of a lease under a name: `name/<lease in hex>`, in Go's notation for negative ids.
pub fn prefix_and_key(name: &[u8], lease: i64) -> (Bytes, Bytes) {
    let prefix = [name, b"/"].concat();
    let sign = if lease < 0 { "-" } else { "" };
    let key = [&prefix[..], format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat();
    (prefix.into(), key.into())
}

/// The end of the range of keys with this prefix, which ends in `/` and so has one.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// Waits no longer than the client: what is dropped then takes its key back.
pub async fn within_clients_time<T>(
    deadline: Deadline,
    wait: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match deadline.client {
        None => wait.await,
        Some(at) => match tokio::time::timeout_at(at.into(), wait).await {
            Ok(result) => result,
            Err(_elapsed) => Err(EtcdError::DeadlineExceeded.into()),
        },
    }
}

/// etcd's Lock and Election lose the codes of what lies below them.
fn odd(status: impl Into<Status>) -> Status {
    let status = status.into();
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded => status,
        _ => Status::new(Code::Unknown, status.message()),
    }
}

fn odd_command(error: CommandError) -> Status {
    odd(from_command_error(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_name_a_slash_and_the_lease_in_hex() {
        let (prefix, key) = prefix_and_key(b"a", 0x1a2b);
        assert_eq!((&prefix[..], &key[..]), (&b"a/"[..], &b"a/1a2b"[..]));
        assert_eq!(&prefix_and_key(b"a", -2).1[..], b"a/-2");
        assert_eq!(&prefix_and_key(b"", i64::MIN).1[..], b"/-8000000000000000");
        assert_eq!(&prefix_end(b"a/")[..], b"a0");
    }
}
