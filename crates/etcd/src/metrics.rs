//! What Prometheus reads: etcd's names, labels and types, so that its dashboards and alerts work unchanged.
//!
//! Counters are kept where things happen (the gRPC layer, the apply listener); gauges are filled in at each scrape.

pub mod grpc;
mod maker;
mod scraped;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dqlited_raft::environment::Observer;
use dqlited_raft::status::NodeCounters;
use dqlited_raft::{ApplyListener, Node, NodeStatus};
use dqlited_store::command::RangeQuery;
use dqlited_store::response::{OpResponse, TxnResponse};
use dqlited_store::store::Interest;
use dqlited_store::{Applied, EventKind, LogId, Response, Revision};
use prometheus::{
    Encoder, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use self::maker::{Maker, durations, handling};
use self::scraped::{Scraped, open_files};
use crate::options::EtcdOptions;
use crate::quota::Quota;
use crate::rpc_counters::RpcCounters;
use crate::version;

/// The text format's content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long counting the keys at the start may take.
const COUNT_TIMEOUT: Duration = Duration::from_secs(600);

/// All metrics of one member.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests over gRPC.
    pub grpc: grpc::GrpcMetrics,
    /// `etcd_server_health_success`.
    pub health_success: IntCounter,
    /// `etcd_server_health_failures`.
    pub health_failures: IntCounter,
    /// `etcd_server_healthchecks_total {type, name, status}`.
    pub health_checks: IntCounterVec,
    /// `etcd_server_healthcheck {type, name}`.
    pub health_check: GaugeVec,
    /// `etcd_mvcc_hash_duration_seconds`.
    pub hash_seconds: Histogram,
    /// `etcd_mvcc_hash_rev_duration_seconds`.
    pub hash_revision_seconds: Histogram,
    /// `etcd_disk_backend_snapshot_duration_seconds`.
    pub backup_seconds: Histogram,
    /// `etcd_disk_backend_defrag_duration_seconds`.
    pub defragment_seconds: Histogram,
    /// `etcd_disk_defrag_inflight`.
    pub defragment_in_flight: IntGauge,
    /// `etcd_debugging_mvcc_watch_stream_total`: open watch streams.
    pub watch_streams: IntGauge,
    /// `etcd_debugging_mvcc_watcher_total`: watches on them.
    pub watchers: IntGauge,
    /// `etcd_debugging_mvcc_slow_watcher_total`: watches that read from the store to catch up.
    pub slow_watchers: IntGauge,
    /// `etcd_debugging_mvcc_pending_events_total`: events queued to watch streams.
    pub pending_events: IntGauge,
    /// `etcd_debugging_mvcc_events_total`: events handed to watch streams.
    pub events_sent: IntCounter,
    /// `etcd_network_server_stream_failures_total {Type, API}`.
    pub stream_failures: IntCounterVec,
    /// `etcd_debugging_lease_renewed_total`.
    pub leases_renewed: IntCounter,
    /// `etcd_debugging_server_lease_expired_total`.
    pub leases_expired: IntCounter,
    records_deleted: IntCounter,
    last_deletion: IntGauge,
    log_sync_seconds: Histogram,
    commit_seconds: Histogram,
    apply_seconds: Histogram,
    slow_applies: IntCounter,
    slow_apply: Duration,
    leases_granted: IntCounter,
    leases_revoked: IntCounter,
    leader_changes: IntCounter,
    puts: IntCounter,
    deletes: IntCounter,
    txns: IntCounter,
    ranges_in_txns: IntCounter,
    put_bytes: IntGauge,
    /// Keys at the start of the process, `i64::MIN` until counted.
    keys_at_start: AtomicI64,
    keys_since_start: AtomicI64,
    /// The revision after which [`ApplyListener::applied`] is told everything.
    started_revision: AtomicI64,
    scraped: Scraped,
}

impl Metrics {
    /// All metrics, at zero, and the counters of calls that they read.
    pub fn new(options: &EtcdOptions, mut calls: RpcCounters) -> (Metrics, Arc<RpcCounters>) {
        let make = Maker(Registry::new());
        let quota =
            make.gauge("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.");
        quota.set(options.quota_bytes().unwrap_or(options.quota_backend_bytes));
        for (name, help, label, value) in [
            (
                "etcd_server_version",
                "Which version of etcd's API is served.",
                "server_version",
                version::ETCD,
            ),
            ("etcd_cluster_version", "Which version the cluster speaks.", "cluster_version", "3.7"),
            ("dqlited_version", "Which version of dqlited is running.", "version", version::OWN),
        ] {
            make.gauges(name, help, &[label]).with_label_values(&[value]).set(1.0);
        }
        // A lone member has no peer to fail to reach and proves its leadership without a round.
        make.counter(
            "etcd_server_heartbeat_send_failures_total",
            "Leader heartbeats that could not be sent.",
        );
        make.counter(
            "etcd_server_slow_read_indexes_total",
            "Pending read indexes not in sync with the leader.",
        );
        make.counter(
            "etcd_server_read_indexes_failed_total",
            "The total number of failed read indexes seen.",
        );
        #[cfg(target_os = "linux")]
        make.0
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("each metric is registered once");
        durations(&make, &mut calls);
        if options.extensive_metrics {
            handling(&make, &mut calls);
        }
        let calls = Arc::new(calls);
        let health =
            |name: &str, what: &str| make.counter(name, &format!("The total number of {what} health checks"));
        let metrics = Metrics {
            grpc: grpc::GrpcMetrics::new(&make, calls.clone()),
            health_success: health("etcd_server_health_success", "successful"),
            health_failures: health("etcd_server_health_failures", "failed"),
            health_checks: make.counters(
                "etcd_server_healthchecks_total",
                "The total number of each kind of healthcheck.",
                &["type", "name", "status"],
            ),
            health_check: make.gauges(
                "etcd_server_healthcheck",
                "The result of each kind of healthcheck.",
                &["type", "name"],
            ),
            hash_seconds: make.histogram(
                "etcd_mvcc_hash_duration_seconds",
                "The latency distribution of storage hash operation.",
                0.01,
                15,
            ),
            hash_revision_seconds: make.histogram(
                "etcd_mvcc_hash_rev_duration_seconds",
                "The latency distribution of storage hash by revision operation.",
                0.01,
                15,
            ),
            backup_seconds: make.histogram(
                "etcd_disk_backend_snapshot_duration_seconds",
                "The latency distribution of backend snapshots.",
                0.01,
                17,
            ),
            defragment_seconds: make.histogram(
                "etcd_disk_backend_defrag_duration_seconds",
                "The latency distribution of backend defragmentation.",
                0.1,
                13,
            ),
            defragment_in_flight: make.gauge(
                "etcd_disk_defrag_inflight",
                "Whether or not defrag is active on the member. 1 means active, 0 means not.",
            ),
            log_sync_seconds: make.histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "The latency distributions of fsync called by the log.",
                0.001,
                14,
            ),
            commit_seconds: make.histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "The latency distributions of commits of the database.",
                0.001,
                14,
            ),
            // etcd has a row for each kind of request; here entries are executed in batches.
            apply_seconds: make
                .histograms(
                    "etcd_server_apply_duration_seconds",
                    "The latency distributions of apply, here of a batch of entries.",
                    &["version", "op", "success"],
                    0.0001,
                    20,
                )
                .with_label_values(&["v3", "Batch", "true"]),
            slow_applies: make.counter(
                "etcd_server_slow_apply_total",
                "The total number of slow apply requests (likely overloaded from slow disk).",
            ),
            slow_apply: options.warning_apply_duration,
            watch_streams: make
                .gauge("etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams."),
            watchers: make.gauge("etcd_debugging_mvcc_watcher_total", "Total number of watchers."),
            slow_watchers: make
                .gauge("etcd_debugging_mvcc_slow_watcher_total", "Total number of unsynced slow watchers."),
            pending_events: make.gauge(
                "etcd_debugging_mvcc_pending_events_total",
                "Total number of pending events to be sent.",
            ),
            events_sent: make
                .counter("etcd_debugging_mvcc_events_total", "Total number of events sent by this member."),
            stream_failures: make.counters(
                "etcd_network_server_stream_failures_total",
                "The total number of stream failures from the local server.",
                &["Type", "API"],
            ),
            records_deleted: make.counter(
                "etcd_debugging_mvcc_db_compaction_keys_total",
                "Total number of db keys compacted.",
            ),
            last_deletion: make.gauge(
                "etcd_debugging_mvcc_db_compaction_last",
                "The unix time of the last db compaction. Resets to 0 on start.",
            ),
            leases_granted: make
                .counter("etcd_debugging_lease_granted_total", "The total number of granted leases."),
            leases_revoked: make
                .counter("etcd_debugging_lease_revoked_total", "The total number of revoked leases."),
            leases_renewed: make.counter(
                "etcd_debugging_lease_renewed_total",
                "The number of renewed leases seen by the leader.",
            ),
            leases_expired: make
                .counter("etcd_debugging_server_lease_expired_total", "The total number of expired leases."),
            leader_changes: make
                .counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen."),
            puts: make.counter("etcd_mvcc_put_total", "Total number of puts seen by this member."),
            deletes: make.counter("etcd_mvcc_delete_total", "Total number of deletes seen by this member."),
            txns: make.counter("etcd_mvcc_txn_total", "Total number of txns seen by this member."),
            ranges_in_txns: IntCounter::new("ranges_in_txns", "unregistered part of a sum")
                .expect("the name is well-formed"),
            put_bytes: make.gauge(
                "etcd_debugging_mvcc_total_put_size_in_bytes",
                "The total size of put kv pairs seen by this member.",
            ),
            keys_at_start: AtomicI64::new(i64::MIN),
            keys_since_start: AtomicI64::new(0),
            started_revision: AtomicI64::new(0),
            scraped: Scraped::new(&make),
            registry: make.0,
        };
        (metrics, calls)
    }

    /// A client's stream has failed: not that the client left it, but that it could not be read.
    pub fn stream_failed(&self, api: &str, status: &tonic::Status) {
        use tonic::Code::{Cancelled, Unavailable, Unknown};
        // A connection that is gone shows as one of these.
        if !matches!(status.code(), Cancelled | Unavailable | Unknown) {
            self.stream_failures.with_label_values(&["receive", api]).inc();
        }
    }

    fn count(&self, batch: &[Applied]) {
        let (mut keys, mut bytes) = (0, 0);
        for entry in batch {
            for event in &entry.events {
                match event.kind {
                    EventKind::Delete => keys -= 1,
                    EventKind::Put => {
                        keys += i64::from(event.kv.version == 1);
                        bytes += (event.kv.key.len() + event.kv.value.len()) as i64;
                    }
                }
            }
            match &entry.result {
                Ok(Response::Put { .. }) => self.puts.inc(),
                Ok(Response::DeleteRange { .. }) => self.deletes.inc(),
                Ok(Response::Txn(txn)) => {
                    self.txns.inc();
                    self.count_operations(txn);
                }
                Ok(Response::LeaseGrant { .. }) => self.leases_granted.inc(),
                Ok(Response::LeaseRevoke { .. }) => self.leases_revoked.inc(),
                _ => {}
            }
        }
        self.keys_since_start.fetch_add(keys, Ordering::Relaxed);
        self.put_bytes.add(bytes);
    }

    fn count_operations(&self, txn: &TxnResponse) {
        for response in &txn.responses {
            match response {
                OpResponse::Range { .. } => self.ranges_in_txns.inc(),
                OpResponse::Put { .. } => self.puts.inc(),
                OpResponse::DeleteRange { .. } => self.deletes.inc(),
                OpResponse::Txn(nested) => self.count_operations(nested),
            }
        }
    }

    /// Counts what has to be waited for: the keys at the start, and changes of leader. Spawned once by the server.
    pub async fn run(&self, node: &Node) {
        self.set_server_id(node.member_id().0);
        let deadline = Instant::now() + COUNT_TIMEOUT;
        let query = RangeQuery {
            key: bytes::Bytes::from_static(b"\0"),
            range_end: bytes::Bytes::from_static(b"\0"),
            revision: self.started_revision.load(Ordering::Acquire),
            count_only: true,
            ..Default::default()
        };
        let counted = node
            .read(node.local_barrier(), deadline, move |view| {
                view.range(&query, &mut |_| ControlFlow::Continue(()))
            })
            .await;
        match counted {
            Ok(Ok(summary)) => self.keys_at_start.store(summary.count, Ordering::Relaxed),
            Ok(Err(error)) => tracing::debug!(%error, "keys were not counted"),
            Err(error) => tracing::debug!(%error, "keys were not counted"),
        }
        let mut leadership = node.leadership();
        let mut last = None;
        loop {
            let leader = leadership.borrow_and_update().leader;
            if leader.is_some() && leader != last {
                self.leader_changes.inc();
                last = leader;
            }
            if leadership.changed().await.is_err() {
                return;
            }
        }
    }

    /// The text of one scrape.
    pub fn render(&self, status: &NodeStatus, counters: &NodeCounters, quota: &Quota) -> Vec<u8> {
        self.fill_in(status, counters, quota);
        let mut text = Vec::with_capacity(256 << 10);
        // Writing to memory fails only for a metric without a name or of mixed types, which `Maker` rules out.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }

    fn fill_in(&self, status: &NodeStatus, counters: &NodeCounters, quota: &Quota) {
        let gauges = &self.scraped;
        gauges.has_leader.set(status.leader.is_some().into());
        gauges.is_leader.set((status.leader == Some(status.member_id)).into());
        gauges.is_learner.set(status.is_learner.into());
        gauges.proposals_committed.set(status.committed_index as i64);
        gauges.proposals_applied.set(status.applied_index as i64);
        gauges.proposals_pending.set(counters.proposals_pending as i64);
        gauges.log_bytes.set(counters.log_bytes_written as i64);
        gauges.open_reads.set(counters.open_reads as i64);
        gauges.visible_index.set(status.visible_index as i64);
        gauges.durable_index.set(status.durable_index as i64);
        gauges.current_revision.set(status.revision.0);
        gauges.compact_revision.set(status.compact_revision.0);
        let failed = counters.proposals_failed;
        gauges.proposals_failed.inc_by(failed.saturating_sub(gauges.proposals_failed.get()));
        let ranges = self.grpc.ranges_started() + self.ranges_in_txns.get();
        gauges.ranges.inc_by(ranges.saturating_sub(gauges.ranges.get()));
        let size = quota.size();
        gauges.total_bytes.set(size.total_bytes);
        gauges.in_use_bytes.set(size.in_use_bytes);
        let keys_at_start = self.keys_at_start.load(Ordering::Relaxed);
        if keys_at_start != i64::MIN {
            gauges.keys.set(keys_at_start + self.keys_since_start.load(Ordering::Relaxed));
        }
        if let Some((used, limit)) = open_files() {
            gauges.fd_used.set(used);
            gauges.fd_limit.set(limit);
        }
    }

    /// Says which member this is.
    fn set_server_id(&self, member_id: u64) {
        let id = GaugeVec::new(
            Opts::new("etcd_server_id", "Server or member ID in hexadecimal format."),
            &["server_id"],
        )
        .expect("the name is well-formed");
        id.with_label_values(&[&format!("{member_id:x}")]).set(1.0);
        // A second call finds the name taken and changes nothing.
        let _ = self.registry.register(Box::new(id));
    }
}

impl Interest for Metrics {
    fn wants_previous(&self, _key: &[u8]) -> bool {
        false
    }
}

impl ApplyListener for Metrics {
    fn started(&self, _log_id: LogId, revision: Revision, _compact_revision: Revision) {
        self.started_revision.store(revision.0, Ordering::Release);
    }

    fn applied(&self, batch: &Arc<Vec<Applied>>) {
        self.count(batch);
    }
}

impl Observer for Metrics {
    fn log_synced(&self, _operations: usize, took: Duration) {
        self.log_sync_seconds.observe(took.as_secs_f64());
    }

    // The machine's clock is what the metric's readers compare with; nothing is decided by it.
    #[allow(clippy::disallowed_methods)]
    fn records_deleted(&self, records: usize) {
        self.records_deleted.inc_by(records as u64);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_deletion.set(now.as_secs() as i64);
    }

    fn store_committed(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    fn batch_applied(&self, _entries: usize, took: Duration) {
        self.apply_seconds.observe(took.as_secs_f64());
        if took > self.slow_apply {
            self.slow_applies.inc();
        }
    }
}

/// Observes the time from its making to its end.
#[derive(Debug)]
pub struct Timing<'a> {
    histogram: &'a Histogram,
    begun: Instant,
}

impl Timing<'_> {
    /// Begins now.
    pub fn new(histogram: &Histogram) -> Timing<'_> {
        Timing { histogram, begun: Instant::now() }
    }
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        self.histogram.observe(self.begun.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
