//! From the settings to what the rooms below take.

use std::time::Duration;

use dqlited_etcd::EtcdOptions;
use dqlited_raft::{Limits, NodeOptions};

use crate::config::Config;

/// How long executed writes may wait for SQLite's commit when no reader needs it; zero commits each batch. They are
/// durable in the log before they are answered, so a crash only replays that much more of it. Fewer commits write fewer
/// bytes (docs/decisions/0004-bytes-and-memory.md).
const COMMIT_INTERVAL: Duration = Duration::from_millis(400);
/// Threads for lists and other long reads, at least and at most: one a core, since they are busy with SQLite's pages and
/// not waiting; each holds a page cache.
const READER_THREADS_MIN: usize = 2;
const READER_THREADS_MAX: usize = 4;
/// Where etcd says "0 disables": a time that no process lives to see.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What the member takes.
pub fn node(config: &Config) -> NodeOptions {
    NodeOptions {
        data_dir: config.data_dir.clone(),
        name: config.name.clone(),
        peer_urls: config.advertise_peer.clone(),
        client_urls: config.advertise_client.clone(),
        cluster_token: config.cluster_token.clone(),
        site: String::new(),
        snapshot_count: config.snapshot_count,
        unsafe_no_fsync: config.unsafe_no_fsync,
        commit_interval: COMMIT_INTERVAL,
        warning_apply_duration: config.warning_apply_duration,
        reader_threads: std::thread::available_parallelism()
            .map_or(READER_THREADS_MIN, |cores| cores.get().clamp(READER_THREADS_MIN, READER_THREADS_MAX)),
        limits: Limits::default(),
    }
}

/// What the services take.
pub fn etcd(config: &Config) -> EtcdOptions {
    let or_never = |time: Duration| if time.is_zero() { NEVER } else { time };
    EtcdOptions {
        max_request_bytes: config.max_request_bytes as usize,
        max_txn_ops: config.max_txn_ops as usize,
        max_concurrent_streams: config.max_concurrent_streams,
        quota_backend_bytes: config.quota_bytes,
        watch_progress_notify_interval: config.progress_notify_interval,
        warning_apply_duration: config.warning_apply_duration,
        election_timeout: config.election_timeout,
        auto_compaction: config.auto_compaction,
        grpc_keepalive_interval: or_never(config.keepalive_interval),
        extensive_metrics: config.extensive_metrics,
        grpc_keepalive_timeout: or_never(config.keepalive_timeout),
        ..EtcdOptions::default()
    }
}
