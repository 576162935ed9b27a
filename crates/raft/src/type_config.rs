//! The types that openraft is instantiated with, named once.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use dqlited_store::{LeaderId, LogId, MemberId};
use openraft::RaftTypeConfig;
use openraft::alias::{CommittedLeaderIdOf, DefaultEntryOf, LogIdOf, VoteOf};
use openraft::impls::leader_id_adv;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;

use crate::proposals::Proposals;
use crate::state_machine::StateMachine;

/// openraft's types as this crate uses them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = EncodedCommand;
    type R = ();
    type NodeId = u64;
    type Node = Incarnation;
    type Term = u64;
    type LeaderId = leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = DefaultEntryOf<Self>;
    type Responder<T>
        = RefusalReport<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type AsyncRuntime = openraft_runtime::TokioRuntime;
    type ErrorSource = openraft::AnyError;
}

/// openraft re-exports its tokio runtime under a path that it calls deprecated without naming another in itself.
mod openraft_runtime {
    #[allow(deprecated)]
    pub(crate) use openraft::impls::TokioRuntime;
}

/// The consensus.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
/// A log entry as openraft holds it.
pub(crate) type RaftEntry = DefaultEntryOf<TypeConfig>;
/// Its place.
pub(crate) type RaftLogId = LogIdOf<TypeConfig>;
/// Its leader.
pub(crate) type RaftLeaderId = CommittedLeaderIdOf<TypeConfig>;
/// openraft's vote.
pub(crate) type RaftVote = VoteOf<TypeConfig>;
/// Who votes and who learns.
pub(crate) type Membership = openraft::Membership<u64, Incarnation>;
/// The same with the entry that set it.
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;

/// A command entry's bytes as `codec` makes them, header included: opaque to openraft.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EncodedCommand(pub(crate) Bytes);

impl fmt::Debug for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What openraft's membership says of a member: the random number of its data directory, empty for one that was added
/// and has not joined (such a one counts in no quorum). Everything else about members is a row in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Incarnation(pub(crate) String);

/// Hears from openraft that a proposal was refused. Success is not told here: waiters are completed by the identity of
/// the applied entry, which also works for copies and for entries proposed through other members.
pub(crate) struct RefusalReport<T> {
    proposals: Arc<Proposals>,
    sequence: u64,
    _result: PhantomData<fn(T)>,
}

impl<T> RefusalReport<T> {
    pub(crate) fn new(proposals: Arc<Proposals>, sequence: u64) -> Self {
        RefusalReport { proposals, sequence, _result: PhantomData }
    }
}

impl<T: Send + 'static> Responder<TypeConfig, T> for RefusalReport<T> {
    fn on_complete(self, result: T) {
        let result: &dyn Any = &result;
        if let Some(Err(error)) = result.downcast_ref::<ClientWriteResult<TypeConfig>>() {
            self.proposals.refused(self.sequence, error);
        }
    }
}

/// openraft's log id in our words.
pub(crate) fn log_id(id: &RaftLogId) -> LogId {
    LogId { leader: leader_id(&id.leader_id), index: id.index }
}

/// openraft's leader id in our words.
pub(crate) fn leader_id(id: &RaftLeaderId) -> LeaderId {
    LeaderId { term: id.term, node: MemberId(id.node_id) }
}

/// Our log id in openraft's words.
pub(crate) fn raft_log_id(id: LogId) -> RaftLogId {
    RaftLogId::new(raft_leader_id(id.leader), id.index)
}

/// Our leader id in openraft's words.
pub(crate) fn raft_leader_id(id: LeaderId) -> RaftLeaderId {
    RaftLeaderId { term: id.term, node_id: id.node.0 }
}

/// The log's own id of a place in it.
pub(crate) fn stored_log_id(id: LogId) -> dqlited_log::LogId {
    dqlited_log::LogId { term: id.leader.term, node: id.leader.node.0, index: id.index }
}

/// A log id as the log stores it, in our words.
pub(crate) fn from_stored_log_id(id: dqlited_log::LogId) -> LogId {
    LogId { leader: LeaderId { term: id.term, node: MemberId(id.node) }, index: id.index }
}
