//! The Watch service on gRPC: one task a stream reads requests, catches up and reports; the connection takes answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use dqlited_proto::etcdserverpb::watch_request::RequestUnion;
use dqlited_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_create_request::FilterType};
use dqlited_store::Revision;
use futures::{Stream, StreamExt};
use http::{Request as HttpRequest, Response as HttpResponse};
use hyper::body::Body;
use tokio::task::AbortHandle;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::catch_up;
use super::encode::{WatchCodec, WireResponse};
use super::hub::{Hub, WatchStream};
use super::interval::KeyInterval;
use super::leader;
use super::watcher::WatchSpec;
use crate::chance::random_u64;
use crate::context::Context;
use crate::metrics::Metrics;
use crate::routes::size_refusal;
use crate::status::EtcdError;

/// What etcd adds to the largest request: the bound of a fragment, too.
const OVERHEAD_BYTES: usize = 512 << 10;
/// Part of the interval that is added by chance to periodic reports, so that streams do not report all at once.
const JITTER_PERCENT: u32 = 10;

/// The service; answers carry events that are encoded once for all watchers.
#[derive(Clone)]
pub struct WatchService {
    context: Context,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
}

impl WatchService {
    /// Over the hub that the member tells what it applies.
    pub fn new(context: Context, hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        WatchService { context, hub, metrics }
    }

    fn open(&self, request: Request<Streaming<WatchRequest>>) -> Result<Answers, Status> {
        let needs_leader = leader::is_required(request.metadata().as_ref());
        if needs_leader && self.context.node.leadership().borrow().leader.is_none() {
            return Err(EtcdError::NoLeader.into());
        }
        let stream = Arc::new(self.hub.open());
        let driver = Driver {
            context: self.context.clone(),
            stream: stream.clone(),
            metrics: self.metrics.clone(),
            progress_interval: jittered(self.context.options.watch_progress_notify_interval, random_u64()),
        };
        let task = tokio::spawn(driver.run(request.into_inner(), needs_leader)).abort_handle();
        Ok(Answers { context: self.context.clone(), stream, ready: Vec::new(), task })
    }
}

/// The interval and up to a tenth of it.
fn jittered(interval: Duration, chance: u64) -> Duration {
    interval + interval * (chance % u64::from(JITTER_PERCENT * 100)) as u32 / 10_000
}

/// What one stream's task needs.
struct Driver {
    context: Context,
    stream: Arc<WatchStream>,
    metrics: Arc<Metrics>,
    progress_interval: Duration,
}

impl Driver {
    async fn run(self, requests: Streaming<WatchRequest>, needs_leader: bool) {
        let node = &self.context.node;
        let status = tokio::select! {
            () = catch_up::run(&self.stream, node) => EtcdError::Stopped.into(),
            status = self.serve(requests) => status,
            () = self.report() => return,
            () = leader::lost(node.leadership(), self.context.options.election_timeout), if needs_leader => {
                EtcdError::NoLeader.into()
            }
        };
        self.stream.queue().end(status);
    }

    /// Answers requests in order. A half-closed stream goes on delivering, so this ends only with a broken one.
    async fn serve(&self, mut requests: Streaming<WatchRequest>) -> Status {
        loop {
            self.stream.queue().request_room().await;
            match requests.next().await {
                None => return std::future::pending().await,
                Some(Err(status)) => {
                    let status =
                        size_refusal(&status, self.context.options.received_bytes_max()).unwrap_or(status);
                    self.metrics.stream_failed("watch", &status);
                    return status;
                }
                Some(Ok(request)) => self.answer(request),
            }
        }
    }

    fn answer(&self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.stream.create(spec(request)),
            Some(RequestUnion::CancelRequest(request)) => self.stream.cancel(request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.stream.request_progress(),
            None => {}
        }
    }

    async fn report(&self) {
        let first = tokio::time::Instant::now() + self.progress_interval;
        let mut ticks = tokio::time::interval_at(first, self.progress_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.stream.report_progress();
        }
    }
}

fn spec(request: WatchCreateRequest) -> WatchSpec {
    // Unknown values are ignored.
    let has = |filter: FilterType| request.filters.contains(&(filter as i32));
    WatchSpec {
        start_revision: request.start_revision,
        watch_id: request.watch_id,
        progress_notify: request.progress_notify,
        no_put: has(FilterType::Noput),
        no_delete: has(FilterType::Nodelete),
        prev_kv: request.prev_kv,
        fragment: request.fragment,
        interval: KeyInterval::from_request(request.key, request.range_end),
    }
}

/// A stream's answers, as the connection takes them. Dropped with the call: it then ends the stream's task and watches.
pub struct Answers {
    context: Context,
    stream: Arc<WatchStream>,
    /// Fragments that are left of the message in hand, last first: nothing may come between them.
    ready: Vec<WireResponse>,
    task: AbortHandle,
}

impl Stream for Answers {
    type Item = Result<WireResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        if let Some(response) = self.ready.pop() {
            return Poll::Ready(Some(Ok(response)));
        }
        let message = match self.stream.queue().poll_next(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
            Poll::Ready(Some(Ok(message))) => message,
        };
        let header = |revision| self.context.header(Revision(revision));
        let mut responses =
            message.into_wire(header, self.context.options.max_request_bytes + OVERHEAD_BYTES);
        responses.reverse();
        let first = responses.pop();
        self.ready = responses;
        Poll::Ready(first.map(Ok))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The made service's shape, with a codec of its own.
#[derive(Clone)]
pub struct WatchServer {
    service: WatchService,
    received_bytes_max: usize,
}

impl WatchServer {
    /// Takes messages up to so many bytes.
    pub fn new(service: WatchService, received_bytes_max: usize) -> Self {
        WatchServer { service, received_bytes_max }
    }
}

impl NamedService for WatchServer {
    const NAME: &'static str = "etcdserverpb.Watch";
}

type AnswerFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl<B> tower_service::Service<HttpRequest<B>> for WatchServer
where
    B: Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = HttpResponse<tonic::body::Body>;
    type Error = Infallible;
    type Future = AnswerFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/etcdserverpb.Watch/Watch" {
                return Ok(Status::unimplemented("unknown method for service etcdserverpb.Watch").into_http());
            }
            let mut grpc = Grpc::new(WatchCodec)
                .apply_max_message_size_config(Some(server.received_bytes_max), Some(usize::MAX));
            Ok(grpc.streaming(OpenWatch(server.service), request).await)
        })
    }
}

struct OpenWatch(WatchService);

impl StreamingService<WatchRequest> for OpenWatch {
    type Response = WireResponse;
    type ResponseStream = Answers;
    type Future = AnswerFuture<Response<Answers>, Status>;

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        let answers = self.0.open(request).map(Response::new);
        Box::pin(std::future::ready(answers))
    }
}
