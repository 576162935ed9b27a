//! How a member is started.

use std::path::PathBuf;
use std::time::Duration;

/// Bounds on what may wait (each refuses with `too many requests` when reached).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Proposals that wait or are in flight.
    pub proposals_max: usize,
    /// Their bytes.
    pub proposal_bytes_max: usize,
    /// Reads that wait for a reader thread.
    pub reads_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { proposals_max: 5000, proposal_bytes_max: 256 << 20, reads_max: 20_000 }
    }
}

/// Everything that a member needs to know at its start.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its folder; created when missing.
    pub data_dir: PathBuf,
    /// Human name.
    pub name: String,
    /// Peer URLs it advertises; with the token they give member and cluster id, as in etcd.
    pub peer_urls: Vec<String>,
    /// Client URLs it advertises.
    pub client_urls: Vec<String>,
    /// `--initial-cluster-token`.
    pub cluster_token: String,
    /// Site, may be empty.
    pub site: String,
    /// Entries kept in the log behind the durable applied index; `None` = the default for the cluster's size.
    pub snapshot_count: Option<u64>,
    /// Leave fdatasync out (`--unsafe-no-fsync`).
    pub unsafe_no_fsync: bool,
    /// How long executed writes may wait for SQLite's commit when no reader needs it; zero commits each batch.
    pub commit_interval: Duration,
    /// Batches that take longer to execute are logged.
    pub warning_apply_duration: Duration,
    /// Reader threads for lists and other long reads.
    pub reader_threads: usize,
    /// Queue bounds.
    pub limits: Limits,
}

impl Default for NodeOptions {
    /// A lone member with etcd's default flags.
    fn default() -> Self {
        NodeOptions {
            data_dir: PathBuf::from("dqlited.data"),
            name: "default".to_string(),
            peer_urls: vec!["http://localhost:2380".to_string()],
            client_urls: vec!["http://localhost:2379".to_string()],
            cluster_token: "etcd-cluster".to_string(),
            site: String::new(),
            snapshot_count: None,
            unsafe_no_fsync: false,
            commit_interval: Duration::ZERO,
            warning_apply_duration: Duration::from_millis(100),
            reader_threads: 2,
            limits: Limits::default(),
        }
    }
}
