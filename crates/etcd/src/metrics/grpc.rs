//! Calls over gRPC, in the names of go-grpc-prometheus: counted by `rpc_counters.rs`, collected at each scrape.

use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{IntCounter, IntCounterVec, Opts};

use super::maker::Maker;
use crate::rpc_counters::{CODE_NAMES, METHODS, MethodKind, RpcCounters};

/// Different client versions that are told apart; clients choose the text, so there must be a bound.
const CLIENT_VERSIONS_MAX: usize = 32;
/// Length of a version that is told apart.
const CLIENT_VERSION_BYTES_MAX: usize = 16;

/// What is known of calls.
#[derive(Debug)]
pub struct GrpcMetrics {
    calls: Arc<RpcCounters>,
    client_requests: IntCounterVec,
    /// The versions that are told apart, with their counters: unary and stream.
    client_versions: RwLock<Vec<(String, [IntCounter; 2])>>,
}

impl GrpcMetrics {
    pub(super) fn new(make: &Maker, calls: Arc<RpcCounters>) -> GrpcMetrics {
        make.0.register(Box::new(Calls::new(calls.clone()))).expect("each metric is registered once");
        GrpcMetrics {
            calls,
            client_requests: make.counters(
                "etcd_server_client_requests_total",
                "The total number of client requests per client version.",
                &["type", "client_api_version"],
            ),
            client_versions: Default::default(),
        }
    }

    /// Counts a call by the version that the client named.
    pub fn client_request(&self, kind: MethodKind, version: &str) {
        let is_stream = usize::from(kind != MethodKind::Unary);
        let count = || {
            let versions = self.client_versions.read().ok()?;
            let (_, counters) = versions.iter().find(|(known, _)| known == version)?;
            counters[is_stream].inc();
            Some(())
        };
        if count().is_none() {
            self.first_request(version)[is_stream].inc();
        }
    }

    /// The counters of a version that is not known yet: its own, or those of the unknown ones.
    fn first_request(&self, version: &str) -> [IntCounter; 2] {
        let is_plain = !version.is_empty()
            && version.len() <= CLIENT_VERSION_BYTES_MAX
            && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-');
        let of = |version| {
            ["unary", "stream"].map(|kind| self.client_requests.with_label_values(&[kind, version]))
        };
        match self.client_versions.write() {
            Ok(mut known) if is_plain && known.len() < CLIENT_VERSIONS_MAX => {
                let counters = of(version);
                known.push((version.to_owned(), counters.clone()));
                counters
            }
            _ => of("unknown"),
        }
    }

    /// Range and RangeStream calls so far.
    pub fn ranges_started(&self) -> u64 {
        let is_range = |index: &usize| matches!(METHODS[*index].name, "Range" | "RangeStream");
        (0..METHODS.len()).filter(is_range).map(|index| self.calls.counts(index).started).sum()
    }
}

/// The counters of [`RpcCounters`] as Prometheus families.
struct Calls {
    calls: Arc<RpcCounters>,
    descriptions: Vec<Desc>,
}

const STARTED: (&str, &str) = ("grpc_server_started_total", "Total number of RPCs started on the server.");
const HANDLED: (&str, &str) = (
    "grpc_server_handled_total",
    "Total number of RPCs completed on the server, regardless of success or failure.",
);
const RECEIVED: (&str, &str) = (
    "etcd_network_client_grpc_received_bytes_total",
    "The total number of bytes received from grpc clients.",
);
const SENT: (&str, &str) =
    ("etcd_network_client_grpc_sent_bytes_total", "The total number of bytes sent to grpc clients.");

impl Calls {
    fn new(calls: Arc<RpcCounters>) -> Calls {
        let labels = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let description = |(name, help): (&str, &str), names: &[&str]| {
            let options = Opts::new(name, help);
            Desc::new(options.name, options.help, labels(names), Default::default())
                .expect("names and labels are well-formed constants")
        };
        let method = ["grpc_method", "grpc_service", "grpc_type"];
        let with_code = ["grpc_code", "grpc_method", "grpc_service", "grpc_type"];
        let descriptions = vec![
            description(STARTED, &method),
            description(HANDLED, &with_code),
            description(RECEIVED, &[]),
            description(SENT, &[]),
        ];
        Calls { calls, descriptions }
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn counter(value: u64, labels: Vec<LabelPair>) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::default();
    metric.set_counter(counter);
    metric.set_label(labels);
    metric
}

fn family((name, help): (&str, &str), metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::COUNTER);
    family.set_metric(metrics);
    family
}

impl Collector for Calls {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (mut started, mut handled) = (Vec::new(), Vec::new());
        for (index, method) in METHODS.iter().enumerate() {
            let counts = self.calls.counts(index);
            let labels = || {
                vec![
                    label("grpc_method", method.name),
                    label("grpc_service", method.service),
                    label("grpc_type", method.kind.label()),
                ]
            };
            started.push(counter(counts.started, labels()));
            for (code, count) in CODE_NAMES.iter().zip(counts.handled) {
                let mut labels = labels();
                labels.insert(0, label("grpc_code", code));
                handled.push(counter(count, labels));
            }
        }
        let total =
            |bytes: &std::sync::atomic::AtomicU64| vec![counter(bytes.load(Ordering::Relaxed), vec![])];
        vec![
            family(STARTED, started),
            family(HANDLED, handled),
            family(RECEIVED, total(&self.calls.received_bytes)),
            family(SENT, total(&self.calls.sent_bytes)),
        ]
    }
}
