//! Put, DeleteRange, Txn and Compact: shape, size and quota here, everything else where the log is applied.

use bytes::Bytes;
use dqlited_proto::etcdserverpb as pb;
use dqlited_store::command::{self, Kind, OpKind};
use dqlited_store::{CommandError, Response, Revision};
use tonic::Status;

use super::Kv;
use super::deep::decode_txn;
use crate::call::{self, Deadline};
use crate::quota::{self, PUT_OVERHEAD_BYTES};
use crate::status::{self, EtcdError};
use crate::{checks, convert};

impl Kv {
    pub(super) async fn put(&self, message: Bytes, deadline: Deadline) -> Result<Bytes, Status> {
        let mut slow = self.slow.begin("Put");
        let message_bytes = message.len();
        let request: pb::PutRequest = call::decode(message)?;
        slow.asks_for(&request.key, &Bytes::new());
        self.admit(put_cost(&request.key, &request.value)).await?;
        checks::check_put(&request)?;
        self.check_size(message_bytes)?;
        let proposed = self.propose(Kind::Put(convert::put(request)), deadline).await?;
        slow.was_written(proposed.moments);
        let Response::Put { previous } = proposed.result.map_err(status::from_command_error)? else {
            return Err(unexpected_answer());
        };
        Ok(call::frame(&pb::PutResponse {
            header: Some(self.context.header(proposed.revision)),
            prev_kv: previous.map(convert::key_value),
        }))
    }

    pub(super) async fn delete_range(&self, message: Bytes, deadline: Deadline) -> Result<Bytes, Status> {
        let mut slow = self.slow.begin("DeleteRange");
        let message_bytes = message.len();
        let request: pb::DeleteRangeRequest = call::decode(message)?;
        slow.asks_for(&request.key, &request.range_end);
        checks::check_delete_range(&request)?;
        self.check_size(message_bytes)?;
        let kind = Kind::DeleteRange(convert::delete_range(request));
        let (room, deadline) = self.foreseen_room(&kind, deadline).await?;
        let proposed = self.propose(kind, deadline).await?;
        slow.was_written(proposed.moments);
        let Response::DeleteRange { deleted, previous } =
            proposed.result.map_err(status::from_command_error)?
        else {
            return Err(unexpected_answer());
        };
        let answer = pb::DeleteRangeResponse {
            header: Some(self.context.header(proposed.revision)),
            deleted,
            prev_kvs: previous.into_iter().map(convert::key_value).collect(),
        };
        Ok(self.counted(call::frame(&answer), room))
    }

    pub(super) async fn txn(&self, message: Bytes, deadline: Deadline) -> Result<Bytes, Status> {
        let mut slow = self.slow.begin("Txn");
        let message_bytes = message.len();
        let request = decode_txn(message)?;
        self.admit(txn_cost(&request)).await?;
        checks::check_txn(&request, self.context.options.max_txn_ops)?;
        if checks::is_read_only(&request) {
            let is_serializable = checks::is_serializable(&request);
            return self.read_only_txn(convert::txn(request), is_serializable, slow, deadline).await;
        }
        self.check_size(message_bytes)?;
        let txn = convert::txn(request);
        slow.asks_for(&first_key(&txn), &Bytes::new());
        let kind = Kind::Txn(txn);
        let (room, deadline) = self.foreseen_room(&kind, deadline).await?;
        let proposed = self.propose(kind, deadline).await?;
        slow.was_written(proposed.moments);
        let Response::Txn(response) = proposed.result.map_err(status::from_command_error)? else {
            return Err(unexpected_answer());
        };
        let answer = convert::txn_response(response, self.context.header(proposed.revision));
        Ok(self.counted(call::frame(&answer), room))
    }

    pub(super) async fn compact(&self, message: Bytes, deadline: Deadline) -> Result<Bytes, Status> {
        let mut slow = self.slow.begin("Compact");
        let request: pb::CompactionRequest = call::decode(message)?;
        let compact = command::Compact { revision: request.revision };
        let proposed = self.propose(Kind::Compact(compact), deadline).await?;
        slow.was_written(proposed.moments);
        if request.physical && matches!(proposed.result, Ok(_) | Err(CommandError::Compacted)) {
            slow.goes_on();
            // As etcd: the answer "compacted" waits for a deletion that is still under way, too, and as long as the client
            // does.
            let long = deadline.for_long_work();
            let finished = self.context.node.compaction_finished(Revision(request.revision), long.at).await;
            finished.map_err(|failure| long.judge(status::from_read_failure(failure)))?;
            slow.was_deleted();
        }
        proposed.result.map_err(status::from_command_error)?;
        Ok(call::frame(&pb::CompactionResponse { header: Some(self.context.header(proposed.revision)) }))
    }

    /// The quota is asked before the shape is looked at, as in etcd.
    async fn admit(&self, cost_bytes: i64) -> Result<(), EtcdError> {
        quota::admit(&*self.quota, &self.context, cost_bytes).await
    }
}

fn put_cost(key: &[u8], value: &[u8]) -> i64 {
    PUT_OVERHEAD_BYTES + key.len() as i64 + value.len() as i64
}

/// What the larger branch would add; nested transactions count too (etcd forgets them).
pub fn txn_cost(request: &pb::TxnRequest) -> i64 {
    use pb::request_op::Request;
    let cost = |ops: &[pb::RequestOp]| {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost(&put.key, &put.value),
                Some(Request::RequestTxn(txn)) => txn_cost(txn),
                _ => 0,
            })
            .sum::<i64>()
    };
    cost(&request.success).max(cost(&request.failure))
}

/// A key to name a transaction by in the log.
pub(super) fn first_key(txn: &command::Txn) -> Bytes {
    if let Some(compare) = txn.compare.first() {
        return compare.key.clone();
    }
    match txn.success.first().and_then(|op| op.kind.as_ref()) {
        Some(OpKind::Put(put)) => put.key.clone(),
        Some(OpKind::Range(query)) => query.key.clone(),
        Some(OpKind::DeleteRange(delete)) => delete.key.clone(),
        Some(OpKind::Txn(_)) | None => Bytes::new(),
    }
}

/// The store answered another command than was proposed.
fn unexpected_answer() -> Status {
    Status::internal("etcdserver: the answer belongs to another kind of request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_txn_costs_its_larger_branch_with_what_is_nested() {
        use pb::request_op::Request;
        let put = |value: usize| pb::RequestOp {
            request: Some(Request::RequestPut(pb::PutRequest {
                key: "abc".into(),
                value: vec![0; value].into(),
                ..Default::default()
            })),
        };
        let nested = pb::TxnRequest { success: vec![put(100)], failure: vec![put(9)], ..Default::default() };
        let nested = pb::RequestOp { request: Some(Request::RequestTxn(nested)) };
        let txn =
            pb::TxnRequest { success: vec![put(1), nested], failure: vec![put(7)], ..Default::default() };
        assert_eq!(txn_cost(&txn), 2 * (PUT_OVERHEAD_BYTES + 3) + 1 + 100);
        assert_eq!(txn_cost(&pb::TxnRequest::default()), 0);
    }
}
