//! The KV service: bytes of a request in, bytes of its answer out.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dqlited_raft::{Barrier, Proposed};
use dqlited_store::Command;
use dqlited_store::command::Kind;
use tonic::Status;

use crate::call::Deadline;
use crate::context::Context;
use crate::parts::Parts;
use crate::quota::QuotaGate;
use crate::slow::SlowLog;
use crate::status::{self, EtcdError};
use crate::transfer::Transfers;

mod answer;
mod budget;
mod collected;
mod deep;
mod range;
mod read_only_txn;
mod stream;
mod write;

use budget::AnswerBudget;
pub use budget::FREE_BYTES;
pub use write::txn_cost;

/// The KV service of a member.
#[derive(Clone)]
pub struct Kv {
    context: Context,
    quota: Arc<dyn QuotaGate>,
    budget: Arc<AnswerBudget>,
    slow: Arc<SlowLog>,
}

/// The unary calls of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryCall {
    /// Range.
    Range,
    /// Put.
    Put,
    /// Txn.
    Txn,
    /// DeleteRange.
    DeleteRange,
    /// Compact.
    Compact,
}

impl Kv {
    /// The service of a running member.
    pub fn new(context: Context, parts: &Parts) -> Kv {
        let options = &context.options;
        Kv {
            quota: parts.quota.clone(),
            budget: Arc::new(AnswerBudget::new(
                options.answer_budget_bytes,
                Transfers::new(options.grpc_keepalive_timeout),
            )),
            slow: Arc::new(SlowLog::new(options.warning_apply_duration)),
            context,
        }
    }

    /// Answers one unary call: from an encoded request to an answer behind its frame header.
    pub async fn unary(&self, call: UnaryCall, message: Bytes, deadline: Deadline) -> Result<Bytes, Status> {
        // Nobody waits for the answer any more: a write that is not proposed leaves no doubt behind.
        if deadline.is_clients && Instant::now() >= deadline.at {
            return Err(EtcdError::DeadlineExceeded.into());
        }
        let result = match call {
            UnaryCall::Range => self.range(message, deadline).await,
            UnaryCall::Put => self.put(message, deadline).await,
            UnaryCall::Txn => self.txn(message, deadline).await,
            UnaryCall::DeleteRange => self.delete_range(message, deadline).await,
            UnaryCall::Compact => self.compact(message, deadline).await,
        };
        result.map_err(|status| deadline.judge(status))
    }

    /// Large answers under way.
    pub fn transfers(&self) -> &Transfers {
        &self.budget.transfers
    }

    /// What a read must see.
    async fn barrier(&self, is_serializable: bool, at: Instant) -> Result<Barrier, Status> {
        if is_serializable {
            return Ok(self.context.node.local_barrier());
        }
        self.context.node.linearizable_barrier(at).await.map_err(status::from_read_failure)
    }

    async fn propose(&self, kind: Kind, deadline: Deadline) -> Result<Proposed, Status> {
        let command = Command { kind: Some(kind) };
        self.context.node.propose(command, deadline.at).await.map_err(status::from_propose_error)
    }

    /// A write whose log record is over `--max-request-bytes` is refused; measured as etcd does.
    fn check_size(&self, message_bytes: usize) -> Result<(), EtcdError> {
        crate::checks::check_size(message_bytes, self.context.options.max_request_bytes)
    }

    /// Room for an answer; waits as long as the client does, since its own slow readers may hold the room.
    async fn room(&self, bytes: usize, deadline: Deadline) -> Result<budget::Room, Status> {
        let taken = self.budget.take(bytes);
        match deadline.client {
            Some(at) => tokio::time::timeout_at(at.into(), taken)
                .await
                .map_err(|_| EtcdError::DeadlineExceeded.into()),
            None => Ok(taken.await),
        }
    }
}
