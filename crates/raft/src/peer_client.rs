//! openraft's way to other members, over the connector that is handed in (`environment/peers.rs`).
//!
//! Today it only finds out whether a member can be reached: what members say to one another comes with clusters of
//! several. The program's connector reaches nobody, and a lone member is never asked to.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dqlited_store::MemberId;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};

use crate::environment::PeerConnector;
use crate::state_machine::LazySnapshot;
use crate::type_config::{Incarnation, TypeConfig};

/// How long a connection may take. openraft's own limits are far too long on purpose (`pacemaker.rs`).
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// Makes the clients that openraft asks for. Makes no connection by itself: openraft's core waits for it.
pub(crate) struct PeerClients {
    connector: Arc<dyn PeerConnector>,
}

impl PeerClients {
    pub(crate) fn new(connector: Arc<dyn PeerConnector>) -> PeerClients {
        PeerClients { connector }
    }
}

/// openraft's way to one member.
pub(crate) struct PeerClient {
    member: MemberId,
    connector: Arc<dyn PeerConnector>,
}

impl PeerClient {
    /// Why a request has no answer. All faults are told as `Unreachable`: only then does openraft wait before it tries
    /// again.
    async fn fault(&self) -> Unreachable<TypeConfig> {
        match self.connector.connect(self.member, CONNECT_PATIENCE).await {
            Err(error) => Unreachable::new(&error),
            Ok(_) => {
                let words = format!("member {}: this version has nothing to say to it", self.member);
                Unreachable::new(&AnyError::error(words))
            }
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerClients {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, _node: &Incarnation) -> PeerClient {
        PeerClient { member: MemberId(target), connector: self.connector.clone() }
    }
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = LazySnapshot;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(self.fault().await))
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(self.fault().await))
    }

    async fn pre_vote(
        &mut self,
        _request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        // openraft's default would grant.
        Err(RPCError::Unreachable(self.fault().await))
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<TypeConfig>,
        _snapshot: SnapshotOf<TypeConfig, LazySnapshot>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(StreamingError::Unreachable(self.fault().await))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::future::BoxFuture;

    use super::*;
    use crate::environment::{NoPeers, PeerError, PeerStream};
    use crate::type_config::RaftVote;

    /// Notes who was asked for and lets everybody wait.
    #[derive(Default)]
    struct Silence(Mutex<Vec<MemberId>>);

    impl PeerConnector for Silence {
        fn connect(
            &self,
            to: MemberId,
            within: Duration,
        ) -> BoxFuture<'static, Result<Box<dyn PeerStream>, PeerError>> {
            self.0.lock().unwrap().push(to);
            Box::pin(async move {
                tokio::time::sleep(within).await;
                Err(PeerError::TimedOut { member: to, within })
            })
        }
    }

    async fn vote_over(connector: Arc<dyn PeerConnector>) -> String {
        let mut client = PeerClients::new(connector).new_client(7, &Incarnation::default()).await;
        let request = VoteRequest::new(RaftVote::new(1, 1), None);
        let option = RPCOption::new(Duration::from_secs(36));
        match client.vote(request, option).await {
            Err(RPCError::Unreachable(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn openraft_reaches_members_by_what_was_handed_in_and_hears_why_not() {
        let words = vote_over(Arc::new(NoPeers)).await;
        assert!(words.contains("this version serves clusters of one member"), "{words}");
        let silence = Arc::new(Silence::default());
        let words = vote_over(silence.clone()).await;
        assert!(words.contains("member 7 did not answer within 1s"), "{words}");
        assert_eq!(*silence.0.lock().unwrap(), [MemberId(7)]);
    }
}
