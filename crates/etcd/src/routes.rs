//! Which made service answers which gRPC service name; the KV service is answered by `kv.rs` without one.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use dqlited_proto::DESCRIPTORS;
use dqlited_proto::etcdserverpb::auth_server::AuthServer;
use dqlited_proto::etcdserverpb::cluster_server::ClusterServer;
use dqlited_proto::etcdserverpb::lease_server::LeaseServer;
use dqlited_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use dqlited_proto::v3electionpb::election_server::ElectionServer;
use dqlited_proto::v3lockpb::lock_server::LockServer;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service;

use crate::auth::AuthService;
use crate::body;
use crate::call;
use crate::cluster::ClusterService;
use crate::context::Context;
use crate::election::ElectionService;
use crate::health::HealthService;
use crate::lease::LeaseService;
use crate::lock::LockService;
use crate::maintenance::MaintenanceService;
use crate::parts::Parts;
use crate::queue_of_keys::KeyQueues;
use crate::rpc_counters::{Method, MethodKind};
use crate::watch::{WatchServer, WatchService};

type MadeFuture =
    Pin<Box<dyn Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send + 'static>>;
type MadeService = Box<dyn Fn(Request<Incoming>) -> MadeFuture + Send + Sync>;

/// The made services of a member, by gRPC name.
pub struct Routes {
    services: HashMap<&'static str, MadeService>,
    received_bytes_max: usize,
}

impl Routes {
    /// All services of a member except KV.
    pub fn new(context: &Context, parts: &Parts) -> Routes {
        let received_bytes_max = parts.options.received_bytes_max();
        let mut routes = Routes { services: HashMap::new(), received_bytes_max };
        // One line a service; each takes messages up to `received_bytes_max`.
        routes.add(HealthServer::new(HealthService));
        routes.add(
            AuthServer::new(AuthService::new(context.clone())).max_decoding_message_size(received_bytes_max),
        );
        routes.add(
            ClusterServer::new(ClusterService::new(context.clone()))
                .max_decoding_message_size(received_bytes_max),
        );
        routes.add(
            MaintenanceServer::new(MaintenanceService::new(context.clone(), parts))
                .max_decoding_message_size(received_bytes_max),
        );
        let watch = WatchService::new(context.clone(), parts.hub.clone(), parts.metrics.clone());
        routes.add(WatchServer::new(watch, received_bytes_max));
        let lease = LeaseService::new(context.clone(), parts);
        let queues = KeyQueues::new(context.clone(), parts, lease.clone());
        routes.add(
            LockServer::new(LockService::new(queues.clone())).max_decoding_message_size(received_bytes_max),
        );
        routes.add(
            ElectionServer::new(ElectionService::new(queues)).max_decoding_message_size(received_bytes_max),
        );
        routes.add(LeaseServer::new(lease).max_decoding_message_size(received_bytes_max));
        routes.add_reflection();
        routes
    }

    fn add<S>(&mut self, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<tonic::body::Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        // Made services are always ready: their `poll_ready` does nothing.
        self.services.insert(S::NAME, Box::new(move |request| Box::pin(service.clone().call(request))));
    }

    fn add_reflection(&mut self) {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // Descriptors that this very build has made can be read.
        if let Ok(service) = builder().build_v1() {
            self.add(service);
        }
        if let Ok(service) = builder().build_v1alpha() {
            self.add(service);
        }
    }

    /// Whether a service of this name is served.
    pub fn has(&self, service: &str) -> bool {
        self.services.contains_key(service)
    }

    /// Calls a method; `None` when there is no such service.
    pub async fn call(
        &self,
        method: Method,
        request: Request<Incoming>,
    ) -> Option<Response<tonic::body::Body>> {
        let made = self.services.get(method.service)?;
        let Ok(mut response) = made(request).await;
        self.use_grpc_gos_words(method.kind, response.headers_mut());
        Some(response)
    }

    /// tonic refuses a large message as OUT_OF_RANGE, and a request without one as INTERNAL, with words of its own;
    /// clients know grpc-go's.
    fn use_grpc_gos_words(&self, kind: MethodKind, headers: &mut HeaderMap) {
        let is_of_tonic = headers.contains_key("grpc-status")
            && matches!(body::code_of(headers), Code::OutOfRange | Code::Internal);
        if !is_of_tonic {
            return;
        }
        let Some(status) = Status::from_header_map(headers) else { return };
        if let Some(status) =
            size_refusal(&status, self.received_bytes_max).or_else(|| no_message_refusal(&status, kind))
        {
            headers.extend(body::trailers(&status));
        }
    }
}

/// grpc-go's refusal in place of tonic's, if the status is tonic's refusal of a message over the receive limit.
/// Services that read a stream of messages hand their read errors through here.
pub fn size_refusal(status: &Status, bytes_max: usize) -> Option<Status> {
    let words = status.message().strip_prefix("Error, decoded message length too large: found ")?;
    let length = words.split(' ').next()?.parse().ok()?;
    Some(Status::resource_exhausted(call::too_large_text(length, bytes_max)))
}

/// The same for a request that ends before its message.
fn no_message_refusal(status: &Status, kind: MethodKind) -> Option<Status> {
    let is_tonics = status.code() == Code::Internal && status.message() == "Missing request message.";
    is_tonics.then(|| call::no_message(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_is_refused_in_grpc_gos_words_whichever_layer_sees_it() {
        let tonics = Status::out_of_range(
            "Error, decoded message length too large: found 2097153 bytes, the limit is: 2097152 bytes",
        );
        let ours = size_refusal(&tonics, 2_097_152).expect("it is tonic's refusal");
        assert_eq!(ours.code(), Code::ResourceExhausted);
        assert_eq!(ours.message(), "grpc: received message larger than max (2097153 vs. 2097152)");
        assert!(size_refusal(&Status::out_of_range("etcdserver: mvcc: required"), 5).is_none());
        let without = no_message_refusal(&Status::internal("Missing request message."), MethodKind::Unary);
        let without = without.expect("it is tonic's");
        assert_eq!((without.code(), without.message()), (Code::Unknown, "EOF"));
        let of_stream =
            no_message_refusal(&Status::internal("Missing request message."), MethodKind::ServerStream);
        assert!(of_stream.is_some_and(
            |status| status.code() == Code::Internal && status.message().starts_with("cardinality")
        ));
        assert!(no_message_refusal(&Status::internal("etcdserver: disk"), MethodKind::Unary).is_none());
    }
}
