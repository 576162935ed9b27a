//! The Cluster service: lists the members; changes of membership are not served yet.

use dqlited_proto::etcdserverpb::cluster_server::Cluster;
use dqlited_proto::etcdserverpb::*;
use dqlited_store::Revision;
use dqlited_store::read::MemberRecord;
use tonic::{Request, Response, Status};

use crate::call::Deadline;
use crate::context::Context;
use crate::status::{from_read_error, from_read_failure};

/// The service.
#[derive(Clone)]
pub struct ClusterService {
    context: Context,
}

impl ClusterService {
    /// The service of a member.
    pub fn new(context: Context) -> ClusterService {
        ClusterService { context }
    }

    fn header(&self) -> ResponseHeader {
        // As etcd: answers of this service say nothing of the store's revision.
        self.context.header(Revision(0))
    }

    fn member(&self, record: MemberRecord) -> Member {
        Member {
            id: record.id.0,
            name: record.name,
            peer_ur_ls: record.peer_urls,
            client_ur_ls: record.client_urls,
            is_learner: record.id == self.context.node.member_id() && self.context.node.status().is_learner,
        }
    }
}

fn not_served<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("etcdserver: this version of dqlited serves clusters of one member only"))
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let deadline = Deadline::of(&self.context, request.metadata().as_ref());
        let node = &self.context.node;
        let barrier = if request.get_ref().linearizable {
            node.linearizable_barrier(deadline.at)
                .await
                .map_err(|error| deadline.judge(from_read_failure(error)))?
        } else {
            node.local_barrier()
        };
        let records = node
            .read(barrier, deadline.at, |view| view.members())
            .await
            .map_err(|error| deadline.judge(from_read_failure(error)))?
            .map_err(from_read_error)?;
        let members = records.into_iter().map(|record| self.member(record)).collect();
        Ok(Response::new(MemberListResponse { header: Some(self.header()), members }))
    }

    async fn member_add(
        &self,
        _request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        not_served()
    }

    async fn member_remove(
        &self,
        _request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        not_served()
    }

    async fn member_update(
        &self,
        _request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        not_served()
    }

    async fn member_promote(
        &self,
        _request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        not_served()
    }
}
