//! How metrics are made and registered, and the histograms that the gRPC layer fills by itself.

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};

use crate::rpc_counters::{METHODS, RpcCounters};

/// Makes and registers; a name given twice is a mistake in this file, shown by any test that makes [`Metrics`].
pub(super) struct Maker(pub(super) Registry);

impl Maker {
    pub(super) fn register<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<C>,
    ) -> C {
        let collector = made.expect("a metric's name and labels are well-formed constants");
        self.0.register(Box::new(collector.clone())).expect("each metric is registered once");
        collector
    }
    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }
    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }
    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }
    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Opts::new(name, help), labels))
    }
    /// A histogram of seconds with `count` buckets from `start` on, each twice the one before.
    pub(super) fn histogram(&self, name: &str, help: &str, start: f64, count: usize) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(doubling(start, count))))
    }
    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        start: f64,
        count: usize,
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(doubling(start, count));
        self.register(HistogramVec::new(options, labels))
    }
}

/// Lets the end of each call be measured under the names that etcd gives to its kinds of request.
pub(super) fn durations(make: &Maker, calls: &mut RpcCounters) {
    let requests = make.histograms(
        "etcd_server_request_duration_seconds",
        "Response latency distribution in seconds for each type.",
        &["type", "success"],
        0.001,
        14,
    );
    let ranges = make.histograms(
        "etcd_server_range_duration_seconds",
        "The latency distributions of txn->Range in seconds.",
        &["success"],
        0.0001,
        20,
    );
    for (method, kind) in [
        ("Range", "Range"),
        ("Put", "Put"),
        ("DeleteRange", "DeleteRange"),
        ("Txn", "Txn"),
        ("Compact", "Compaction"),
        ("LeaseGrant", "LeaseGrant"),
        ("LeaseRevoke", "LeaseRevoke"),
        ("Alarm", "Alarm"),
    ] {
        for success in [true, false] {
            let text = if success { "true" } else { "false" };
            calls.measure(method, success, requests.with_label_values(&[kind, text]));
            if method == "Range" {
                calls.measure(method, success, ranges.with_label_values(&[text]));
            }
        }
    }
}

/// Lets the end of each call be measured under the name that go-grpc-prometheus gives it.
pub(super) fn handling(make: &Maker, calls: &mut RpcCounters) {
    let options = HistogramOpts::new(
        "grpc_server_handling_seconds",
        "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
    );
    let labels = ["grpc_type", "grpc_service", "grpc_method"];
    // The library's default buckets, as there.
    let seconds = make.register(HistogramVec::new(options, &labels));
    for (place, method) in METHODS.iter().enumerate() {
        let labels = [method.kind.label(), method.service, method.name];
        calls.measure_all(place, &seconds.with_label_values(&labels));
    }
}

pub(super) fn doubling(start: f64, count: usize) -> Vec<f64> {
    exponential_buckets(start, 2.0, count).expect("start and count are positive constants")
}
