//! The listeners of a member and the way of a request from the socket to its service.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tracing::{debug, warn};

use crate::body::{self, AnswerBody};
use crate::call::{self, Deadline};
use crate::compactor;
use crate::context::Context;
use crate::http as http_routes;
use crate::kv::{Kv, UnaryCall};
use crate::parts::Parts;
use crate::room;
use crate::routes::Routes;
use crate::rpc_counters::{self, CallGuard, METHODS, MethodKind};
use crate::status::EtcdError;
use crate::transfer::Closer;

/// Receive window of one stream: a largest put arrives without waiting for a window update.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Receive window of one connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Larger frames than HTTP/2's default 16 KiB: fewer of them in a large message.
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// Bytes that wait in a stream's send buffer before its body is asked for more.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Streams that a client may reset before we have looked at them (kube-apiserver drops many watches at once).
const PENDING_RESETS_MAX: usize = 1024;
/// Pause after a failed accept (no file descriptors left), so that the loop does not burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Limit of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// All services of a running member.
pub struct Services {
    /// What they share.
    pub context: Context,
    /// What existed before the member.
    pub parts: Parts,
    /// The KV service.
    pub kv: Kv,
    routes: Routes,
    leadership: watch::Receiver<dqlited_raft::LeaderState>,
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// gRPC and HTTP on one port, as `--listen-client-urls`.
    Clients,
    /// gRPC alone, when `--listen-client-http-urls` takes the HTTP.
    Grpc,
    /// HTTP alone: `--listen-client-http-urls`.
    Http,
    /// `/metrics` and the health checks: `--listen-metrics-urls`.
    Metrics,
}

/// A bound socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// A bound socket, what it speaks and what it serves.
pub struct Endpoint {
    /// The socket.
    pub socket: Socket,
    /// TLS on it, `None` for plain text. Its ALPN offers h2 and http/1.1.
    pub tls: Option<TlsAcceptor>,
    /// What it serves.
    pub serves: Serves,
}

impl Services {
    /// The services of a member that has started with `parts.listener()`.
    pub fn new(node: dqlited_raft::Node, parts: Parts) -> Arc<Services> {
        let leadership = node.leadership();
        let context = Context { node, options: parts.options.clone() };
        let routes = Routes::new(&context, &parts);
        tokio::spawn(crate::lease::run(context.clone(), parts.leases.clone()));
        let kv = Kv::new(context.clone(), &parts);
        Arc::new(Services { context, parts, kv, routes, leadership })
    }

    /// Answers one HTTP request of either kind.
    async fn answer(
        &self,
        serves: Serves,
        is_tls: bool,
        closer: &Closer,
        request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let speaks_grpc = match serves {
            Serves::Http | Serves::Metrics => false,
            // On the plain port the protocol decides, under TLS the content type, as in etcd.
            Serves::Clients | Serves::Grpc => {
                request.version() == Version::HTTP_2 && (!is_tls || has_grpc_content(request.headers()))
            }
        };
        if speaks_grpc {
            self.answer_grpc(closer, request).await
        } else if serves == Serves::Grpc {
            let mut response = Response::new(AnswerBody::Plain(Full::from("404 page not found\n")));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        } else {
            http_routes::answer(self, serves, request).await.map(AnswerBody::Plain)
        }
    }

    async fn answer_grpc(&self, closer: &Closer, request: Request<Incoming>) -> Response<AnswerBody> {
        if request.method() != Method::POST {
            return refuse_http(StatusCode::METHOD_NOT_ALLOWED, "a gRPC call is a POST");
        }
        if !has_grpc_content(request.headers()) {
            return refuse_http(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid gRPC request content-type");
        }
        let path = request.uri().path();
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
            return call::refuse(&Status::unimplemented(format!("malformed method name: {path:?}")), None);
        };
        let index = rpc_counters::method_index(service, method);
        let is_served = service == METHODS[0].service || self.routes.has(service);
        let index = match index {
            Some(index) if is_served => index,
            _ => return call::refuse(&unknown(service, method, is_served), None),
        };
        let guard = self.parts.rpc_counters.begin(index);
        if let Err(error) = self.admit(index, request.headers()) {
            return call::refuse(&error.into(), Some(guard));
        }
        let deadline = Deadline::of(&self.context, request.headers());
        let call = match index {
            0 => UnaryCall::Range,
            1 => UnaryCall::Put,
            2 => UnaryCall::Txn,
            3 => UnaryCall::DeleteRange,
            4 => UnaryCall::Compact,
            5 => return self.answer_range_stream(closer, request, deadline, guard).await,
            _ => return self.answer_made(index, request, guard).await,
        };
        let result = match self.read_message(request, MethodKind::Unary, &guard).await {
            Ok(message) => self.kv.unary(call, message, deadline).await,
            Err(status) => Err(status),
        };
        call::respond(result, guard, || self.kv.transfers().begin(closer))
    }

    /// The checks that come before any other of a call, in etcd's order.
    fn admit(&self, method: usize, headers: &HeaderMap) -> Result<(), EtcdError> {
        let version = match headers.get("client-api-version") {
            None => "unknown",
            Some(version) => {
                std::str::from_utf8(version.as_bytes()).map_err(|_| EtcdError::InvalidClientApiVersion)?
            }
        };
        self.parts.metrics.grpc.client_request(METHODS[method].kind, version);
        if headers.get("hasleader").is_some_and(|value| value == "true")
            && self.leadership.borrow().leader.is_none()
        {
            return Err(EtcdError::NoLeader);
        }
        Ok(())
    }

    async fn read_message(
        &self,
        request: Request<Incoming>,
        kind: MethodKind,
        guard: &CallGuard,
    ) -> Result<Bytes, Status> {
        let bytes_max = self.context.options.received_bytes_max();
        let message = call::read_message(request.into_body(), bytes_max, kind).await?;
        guard.received(message.len());
        Ok(message)
    }

    async fn answer_range_stream(
        &self,
        closer: &Closer,
        request: Request<Incoming>,
        deadline: Deadline,
        guard: CallGuard,
    ) -> Response<AnswerBody> {
        let chunks = match self.read_message(request, MethodKind::ServerStream, &guard).await {
            Ok(message) => self.kv.range_stream(message, deadline),
            Err(status) => Err(status),
        };
        match chunks {
            Ok(chunks) => call::respond_chunks(chunks, guard, self.kv.transfers().begin(closer)),
            Err(status) => call::refuse(&status, Some(guard)),
        }
    }

    async fn answer_made(
        &self,
        index: usize,
        request: Request<Incoming>,
        mut guard: CallGuard,
    ) -> Response<AnswerBody> {
        // Boxed: the made services' future is far larger than that of a get or put.
        let Some(response) = Box::pin(self.routes.call(METHODS[index], request)).await else {
            return call::refuse(&Status::unimplemented("unknown service"), Some(guard));
        };
        if response.headers().contains_key("grpc-status") {
            guard.end(body::code_of(response.headers()));
        }
        response.map(|body| AnswerBody::Tonic(body, guard))
    }
}

fn has_grpc_content(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
    })
}

/// grpc-go's words for a call that nobody serves.
fn unknown(service: &str, method: &str, is_served: bool) -> Status {
    Status::unimplemented(if is_served {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    })
}

fn refuse_http(code: StatusCode, text: &'static str) -> Response<AnswerBody> {
    let mut response = call::refuse(&Status::invalid_argument(text), None);
    *response.status_mut() = code;
    response
}

/// Serves until `stop` says so, then lets calls end for `grace` and closes what is left.
pub async fn serve(
    services: Arc<Services>,
    endpoints: Vec<Endpoint>,
    stop: watch::Receiver<bool>,
    grace: Duration,
) {
    // Ends with this function: dropping the set ends its tasks.
    let mut background = JoinSet::new();
    let (quota, metrics) = (services.parts.quota.clone(), services.parts.metrics.clone());
    let (node, same_node) = (services.context.node.clone(), services.context.node.clone());
    let (same_quota, node_of_room) = (quota.clone(), node.clone());
    background.spawn(async move { quota.run(&node).await });
    background.spawn(async move { room::watch(&node_of_room, &same_quota).await });
    background.spawn(async move { metrics.run(&same_node).await });
    let mut acceptors = JoinSet::new();
    for endpoint in endpoints {
        acceptors.spawn(accept_loop(services.clone(), endpoint, stop.clone(), grace));
    }
    acceptors.spawn(compactor::run(services.context.clone(), stop.clone()));
    // Streams have no end of their own: they would use up the grace period.
    let mut stopping = stop;
    if stopping.wait_for(|stop| *stop).await.is_ok() {
        services.parts.hub.stop();
        services.parts.leases.stop();
    }
    while acceptors.join_next().await.is_some() {}
}

async fn accept_loop(
    services: Arc<Services>,
    endpoint: Endpoint,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
) {
    let builder = Arc::new(connection_builder(&services.context));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = endpoint.socket.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = Connection {
            services: services.clone(),
            builder: builder.clone(),
            serves: endpoint.serves,
            stop: stop.clone(),
        };
        let tls = endpoint.tls.clone();
        connections.spawn(async move {
            match stream {
                Stream::Tcp(stream) => connection.run_maybe_tls(stream, tls).await,
                Stream::Unix(stream) => connection.run_maybe_tls(stream, tls).await,
            }
        });
    }
    drop(endpoint);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, all_ended).await.is_err() {
        debug!(left = connections.len(), "connections closed at the end of the grace period");
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Socket {
    async fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are small and must not wait for the client's acknowledgement of the one before.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "TCP_NODELAY");
                }
                Ok(Stream::Tcp(stream))
            }
            Socket::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

type Builder = auto::Builder<TokioExecutor>;

fn connection_builder(context: &Context) -> Builder {
    let options = &context.options;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(options.grpc_keepalive_interval)
        .keep_alive_timeout(options.grpc_keepalive_timeout)
        .auto_date_header(false);
    builder.http1().timer(TokioTimer::new());
    builder
}

struct Connection {
    services: Arc<Services>,
    builder: Arc<Builder>,
    serves: Serves,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn run_maybe_tls<S>(self, stream: S, tls: Option<TlsAcceptor>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(tls) = tls else {
            return self.run(stream, false).await;
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.run(stream, true).await,
            Ok(Err(error)) => debug!(%error, "TLS handshake"),
            Err(_) => debug!("TLS handshake timed out"),
        }
    }

    async fn run<S>(mut self, stream: S, is_tls: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (services, serves) = (self.services, self.serves);
        let closer = Closer::default();
        let of_requests = closer.clone();
        let service = hyper::service::service_fn(move |request| {
            let (services, closer) = (services.clone(), of_requests.clone());
            async move { Ok::<_, Infallible>(services.answer(serves, is_tls, &closer, request).await) }
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let stopped = self.stop.wait_for(|stop| *stop);
        tokio::pin!(stopped);
        let mut is_stopping = false;
        loop {
            tokio::select! {
                biased;
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        debug!(%error, "connection");
                    }
                    return;
                }
                // Dropping the connection drops all that waits to be sent on it.
                () = closer.closed() => return,
                _ = stopped.as_mut(), if !is_stopping => {
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
