//! grpc.health.v1 as etcd answers it: the member as a whole is SERVING, and no other name is known.

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The service.
#[derive(Clone, Copy, Debug)]
pub struct HealthService;

fn check(request: &HealthCheckRequest) -> Result<HealthCheckResponse, Status> {
    if request.service.is_empty() {
        Ok(HealthCheckResponse { status: ServingStatus::Serving as i32 })
    } else {
        Err(Status::not_found("unknown service"))
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        check(request.get_ref()).map(Response::new)
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// One answer, then silence: a member that no longer serves closes the connection.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let first = check(request.get_ref()).unwrap_or(HealthCheckResponse {
            // The protocol answers an unknown name so on this method.
            status: ServingStatus::ServiceUnknown as i32,
        });
        Ok(Response::new(stream::iter([Ok(first)]).chain(stream::pending()).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use crate::rpc_counters::method_index;

    #[test]
    fn health_is_checked_and_watched_and_not_listed() {
        assert!(method_index("grpc.health.v1.Health", "Check").is_some());
        assert!(method_index("grpc.health.v1.Health", "Watch").is_some());
        assert!(method_index("grpc.health.v1.Health", "List").is_none());
    }
}
