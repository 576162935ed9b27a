//! Gauges that a scrape fills in from the member's status, and what the system says of this process.

use prometheus::{Gauge, IntCounter, IntGauge};

use super::maker::Maker;

/// Gauges that a scrape fills in.
#[derive(Debug)]
pub(super) struct Scraped {
    pub(super) has_leader: IntGauge,
    pub(super) is_leader: IntGauge,
    pub(super) is_learner: IntGauge,
    pub(super) proposals_committed: IntGauge,
    pub(super) proposals_applied: IntGauge,
    pub(super) proposals_pending: IntGauge,
    pub(super) proposals_failed: IntCounter,
    pub(super) log_bytes: IntGauge,
    pub(super) ranges: IntCounter,
    pub(super) open_reads: IntGauge,
    pub(super) total_bytes: IntGauge,
    pub(super) in_use_bytes: IntGauge,
    pub(super) keys: IntGauge,
    pub(super) current_revision: IntGauge,
    pub(super) compact_revision: IntGauge,
    pub(super) visible_index: IntGauge,
    pub(super) durable_index: IntGauge,
    pub(super) fd_used: Gauge,
    pub(super) fd_limit: Gauge,
}

impl Scraped {
    pub(super) fn new(make: &Maker) -> Scraped {
        let fd = |name: &str, help: &str| make.register(Gauge::new(name, help));
        Scraped {
            has_leader: make
                .gauge("etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not."),
            is_leader: make.gauge(
                "etcd_server_is_leader",
                "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            ),
            is_learner: make.gauge(
                "etcd_server_is_learner",
                "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            ),
            proposals_committed: make.gauge(
                "etcd_server_proposals_committed_total",
                "The total number of consensus proposals committed.",
            ),
            proposals_applied: make.gauge(
                "etcd_server_proposals_applied_total",
                "The total number of consensus proposals applied.",
            ),
            proposals_pending: make
                .gauge("etcd_server_proposals_pending", "The current number of pending proposals to commit."),
            proposals_failed: make
                .counter("etcd_server_proposals_failed_total", "The total number of failed proposals seen."),
            log_bytes: make
                .gauge("etcd_disk_wal_write_bytes_total", "Total number of bytes written to the log."),
            ranges: make.counter("etcd_mvcc_range_total", "Total number of ranges seen by this member."),
            open_reads: make.gauge(
                "etcd_mvcc_db_open_read_transactions",
                "The number of currently open read transactions.",
            ),
            total_bytes: make.gauge(
                "etcd_mvcc_db_total_size_in_bytes",
                "Total size of the underlying database physically allocated in bytes.",
            ),
            in_use_bytes: make.gauge(
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Total size of the underlying database logically in use in bytes.",
            ),
            keys: make.gauge("etcd_debugging_mvcc_keys_total", "Total number of keys."),
            current_revision: make
                .gauge("etcd_debugging_mvcc_current_revision", "The current revision of store."),
            compact_revision: make.gauge(
                "etcd_debugging_mvcc_compact_revision",
                "The revision of the last compaction in store.",
            ),
            visible_index: make.gauge("dqlited_visible_index", "Log index that reads here can see."),
            durable_index: make.gauge(
                "dqlited_durable_index",
                "Log index that is synced in the database file; the log is purged behind it.",
            ),
            fd_used: fd("os_fd_used", "The number of used file descriptors."),
            fd_limit: fd("os_fd_limit", "The file descriptor limit."),
        }
    }
}

/// Open files and their limit.
pub(super) fn open_files() -> Option<(f64, f64)> {
    let used = std::fs::read_dir("/proc/self/fd").ok()?.count() as f64;
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    let limit = line.split_whitespace().nth(3)?.parse().unwrap_or(f64::INFINITY);
    Some((used, limit))
}
