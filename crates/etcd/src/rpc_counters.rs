//! Every method that the member serves, and how often each was called and how it ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus::Histogram;

/// How messages flow, in the words of go-grpc-prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// One request, one answer.
    Unary,
    /// One request, many answers.
    ServerStream,
    /// Many both ways.
    BidiStream,
}

impl MethodKind {
    /// Label of the metrics.
    pub fn label(self) -> &'static str {
        match self {
            MethodKind::Unary => "unary",
            MethodKind::ServerStream => "server_stream",
            MethodKind::BidiStream => "bidi_stream",
        }
    }
}

/// A method: full service name, method name, kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// For example `etcdserverpb.KV`.
    pub service: &'static str,
    /// For example `Range`.
    pub name: &'static str,
    /// How messages flow.
    pub kind: MethodKind,
}

const fn unary(service: &'static str, name: &'static str) -> Method {
    Method { service, name, kind: MethodKind::Unary }
}

const fn server_stream(service: &'static str, name: &'static str) -> Method {
    Method { service, name, kind: MethodKind::ServerStream }
}

const fn bidi_stream(service: &'static str, name: &'static str) -> Method {
    Method { service, name, kind: MethodKind::BidiStream }
}

const KV: &str = "etcdserverpb.KV";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const LOCK: &str = "v3lockpb.Lock";
const ELECTION: &str = "v3electionpb.Election";
const HEALTH: &str = "grpc.health.v1.Health";

/// All methods that are counted. The KV ones stand first: `server.rs` knows their places.
pub const METHODS: &[Method] = &[
    unary(KV, "Range"),
    unary(KV, "Put"),
    unary(KV, "Txn"),
    unary(KV, "DeleteRange"),
    unary(KV, "Compact"),
    server_stream(KV, "RangeStream"),
    bidi_stream("etcdserverpb.Watch", "Watch"),
    unary(LEASE, "LeaseGrant"),
    unary(LEASE, "LeaseRevoke"),
    bidi_stream(LEASE, "LeaseKeepAlive"),
    unary(LEASE, "LeaseTimeToLive"),
    unary(LEASE, "LeaseLeases"),
    unary(CLUSTER, "MemberAdd"),
    unary(CLUSTER, "MemberRemove"),
    unary(CLUSTER, "MemberUpdate"),
    unary(CLUSTER, "MemberList"),
    unary(CLUSTER, "MemberPromote"),
    unary(MAINTENANCE, "Alarm"),
    unary(MAINTENANCE, "Status"),
    unary(MAINTENANCE, "Defragment"),
    unary(MAINTENANCE, "Hash"),
    unary(MAINTENANCE, "HashKV"),
    server_stream(MAINTENANCE, "Snapshot"),
    unary(MAINTENANCE, "MoveLeader"),
    unary(MAINTENANCE, "Downgrade"),
    unary(AUTH, "AuthEnable"),
    unary(AUTH, "AuthDisable"),
    unary(AUTH, "AuthStatus"),
    unary(AUTH, "Authenticate"),
    unary(AUTH, "UserAdd"),
    unary(AUTH, "UserGet"),
    unary(AUTH, "UserList"),
    unary(AUTH, "UserDelete"),
    unary(AUTH, "UserChangePassword"),
    unary(AUTH, "UserGrantRole"),
    unary(AUTH, "UserRevokeRole"),
    unary(AUTH, "RoleAdd"),
    unary(AUTH, "RoleGet"),
    unary(AUTH, "RoleList"),
    unary(AUTH, "RoleDelete"),
    unary(AUTH, "RoleGrantPermission"),
    unary(AUTH, "RoleRevokePermission"),
    unary(LOCK, "Lock"),
    unary(LOCK, "Unlock"),
    unary(ELECTION, "Campaign"),
    unary(ELECTION, "Proclaim"),
    unary(ELECTION, "Leader"),
    server_stream(ELECTION, "Observe"),
    unary(ELECTION, "Resign"),
    unary(HEALTH, "Check"),
    server_stream(HEALTH, "Watch"),
    bidi_stream("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo"),
    bidi_stream("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"),
];

/// Place of a method in [`METHODS`].
pub fn method_index(service: &str, name: &str) -> Option<usize> {
    METHODS.iter().position(|method| method.service == service && method.name == name)
}

/// Number of gRPC codes, 0 to 16.
pub const CODES: usize = 17;

/// gRPC codes by number, in Go's spelling, as the metrics label `grpc_code` carries them.
pub const CODE_NAMES: [&str; CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

#[derive(Debug, Default)]
struct MethodCounters {
    started: AtomicU64,
    handled: [AtomicU64; CODES],
    /// Where the durations of its calls go: those that failed, those that ended OK.
    durations: [Vec<Histogram>; 2],
}

/// Counts of one method, by code number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodCounts {
    /// Calls begun.
    pub started: u64,
    /// Calls ended, by code.
    pub handled: [u64; CODES],
}

/// The counters of all methods; all exist from the start, at 0.
#[derive(Debug)]
pub struct RpcCounters {
    methods: Vec<MethodCounters>,
    /// Message bytes received from clients.
    pub received_bytes: AtomicU64,
    /// Message bytes sent to clients.
    pub sent_bytes: AtomicU64,
}

impl Default for RpcCounters {
    fn default() -> Self {
        RpcCounters::new()
    }
}

impl RpcCounters {
    /// All at 0.
    pub fn new() -> RpcCounters {
        RpcCounters {
            methods: METHODS.iter().map(|_| MethodCounters::default()).collect(),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        }
    }

    /// Counts of the method at a place of [`METHODS`].
    pub fn counts(&self, method: usize) -> MethodCounts {
        let counters = &self.methods[method];
        let mut counts =
            MethodCounts { started: counters.started.load(Ordering::Relaxed), ..Default::default() };
        for (count, counter) in counts.handled.iter_mut().zip(&counters.handled) {
            *count = counter.load(Ordering::Relaxed);
        }
        counts
    }

    /// From here on the durations of a method's calls that succeed (or do not) go into a histogram. To be called
    /// before the first call.
    pub fn measure(&mut self, method: &str, success: bool, histogram: Histogram) {
        for (counters, method_at) in self.methods.iter_mut().zip(METHODS) {
            if method_at.name == method {
                counters.durations[usize::from(success)].push(histogram.clone());
            }
        }
    }

    /// As [`RpcCounters::measure`], for the method at a place of [`METHODS`] and however its calls end.
    pub fn measure_all(&mut self, method: usize, histogram: &Histogram) {
        for durations in &mut self.methods[method].durations {
            durations.push(histogram.clone());
        }
    }

    /// A call begins; the guard counts its end.
    pub fn begin(self: &Arc<Self>, method: usize) -> CallGuard {
        self.methods[method].started.fetch_add(1, Ordering::Relaxed);
        CallGuard { counters: self.clone(), method, begun: Instant::now(), ended: false }
    }
}

/// A call under way. Dropped without [`CallGuard::end`], it was cancelled by its client.
#[derive(Debug)]
pub struct CallGuard {
    counters: Arc<RpcCounters>,
    method: usize,
    begun: Instant,
    ended: bool,
}

impl CallGuard {
    /// The call ends with this code; only the first end counts.
    pub fn end(&mut self, code: tonic::Code) {
        if !std::mem::replace(&mut self.ended, true) {
            let counters = &self.counters.methods[self.method];
            counters.handled[code as usize].fetch_add(1, Ordering::Relaxed);
            for histogram in &counters.durations[usize::from(code == tonic::Code::Ok)] {
                histogram.observe(self.begun.elapsed().as_secs_f64());
            }
        }
    }

    /// Message bytes that go out with this call.
    pub fn sent(&self, bytes: usize) {
        self.counters.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Message bytes that came in with this call.
    pub fn received(&self, bytes: usize) {
        self.counters.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.end(tonic::Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kv_methods_stand_where_the_server_looks_for_them() {
        let names: Vec<_> = METHODS[..6].iter().map(|method| method.name).collect();
        assert_eq!(names, ["Range", "Put", "Txn", "DeleteRange", "Compact", "RangeStream"]);
        assert!(METHODS[..6].iter().all(|method| method.service == KV));
    }

    #[test]
    fn a_call_is_counted_once_with_its_code_and_as_canceled_when_dropped() {
        let counters = Arc::new(RpcCounters::new());
        let mut guard = counters.begin(1);
        guard.end(tonic::Code::OutOfRange);
        drop(guard);
        drop(counters.begin(1));
        let counts = counters.counts(1);
        assert_eq!(counts.started, 2);
        assert_eq!(counts.handled[11], 1);
        assert_eq!(counts.handled[1], 1);
        assert_eq!(counts.handled.iter().sum::<u64>(), 2);
    }
}
