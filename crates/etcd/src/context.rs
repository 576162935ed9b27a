//! What every service holds: the member, the options, and the header that goes into each answer.

use std::sync::Arc;
use std::time::Instant;

use dqlited_proto::etcdserverpb::ResponseHeader;
use dqlited_raft::Node;
use dqlited_store::Revision;

use crate::options::EtcdOptions;

/// Shared by all services of a member; clones are cheap.
#[derive(Clone)]
pub struct Context {
    /// The member.
    pub node: Node,
    /// Its options.
    pub options: Arc<EtcdOptions>,
}

impl Context {
    /// A full header at a revision.
    pub fn header(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.node.cluster_id(),
            member_id: self.node.member_id().0,
            revision: revision.0,
            raft_term: self.node.term(),
        }
    }

    /// When the server gives up on a proposal or linearizable read that arrives now.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.options.request_timeout()
    }
}
