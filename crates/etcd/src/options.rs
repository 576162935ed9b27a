//! What the services need to know of the member's configuration.

use std::time::Duration;

/// Limits and intervals, with etcd's meaning and defaults.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--max-concurrent-streams` of one connection.
    pub max_concurrent_streams: u32,
    /// `--quota-backend-bytes`: 0 = 2 GiB, negative = none.
    pub quota_backend_bytes: i64,
    /// `--watch-progress-notify-interval`.
    pub watch_progress_notify_interval: Duration,
    /// `--warning-apply-duration`, for reads too.
    pub warning_apply_duration: Duration,
    /// Election timeout as etcd's API promises depend on it (request limit, least lease, `hasleader`).
    pub election_timeout: Duration,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// `--grpc-keepalive-interval`.
    pub grpc_keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`.
    pub grpc_keepalive_timeout: Duration,
    /// `--metrics=extensive`: durations of calls by method too.
    pub extensive_metrics: bool,
    /// Bytes of unary Range answers under way at once; others wait.
    pub answer_budget_bytes: usize,
}

/// Automatic compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// None.
    Off,
    /// Keep what is younger.
    Periodic(Duration),
    /// Keep so many revisions.
    Revisions(i64),
}

impl Default for EtcdOptions {
    fn default() -> Self {
        EtcdOptions {
            max_request_bytes: 1_572_864,
            max_txn_ops: 128,
            max_concurrent_streams: u32::MAX,
            quota_backend_bytes: 0,
            watch_progress_notify_interval: Duration::from_secs(600),
            warning_apply_duration: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            auto_compaction: AutoCompaction::Off,
            grpc_keepalive_interval: Duration::from_secs(7200),
            grpc_keepalive_timeout: Duration::from_secs(20),
            extensive_metrics: false,
            answer_budget_bytes: 256 << 20,
        }
    }
}

impl EtcdOptions {
    /// How long the server works on one proposal or linearizable read: 5 s and two election timeouts, as etcd.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// Largest message that is received: `--max-request-bytes` and etcd's 512 KiB for what stands around it.
    pub fn received_bytes_max(&self) -> usize {
        self.max_request_bytes + (512 << 10)
    }

    /// Least TTL of a lease, seconds: one and a half election timeouts, rounded up, as etcd.
    pub fn lease_ttl_min(&self) -> i64 {
        (self.election_timeout.as_millis() as u64 * 3).div_ceil(2).div_ceil(1000) as i64
    }

    /// The quota in bytes, `None` when there is none.
    pub fn quota_bytes(&self) -> Option<i64> {
        match self.quota_backend_bytes {
            0 => Some(2 << 30),
            n if n < 0 => None,
            n => Some(n),
        }
    }
}
