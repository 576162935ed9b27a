//! What exists before the member starts, because the member tells it of everything that it applies.

use std::sync::Arc;
use std::time::Instant;

use dqlited_raft::ApplyListener;

use crate::lease::LeaseTable;
use crate::listeners::Listeners;
use crate::metrics::Metrics;
use crate::options::EtcdOptions;
use crate::quota::Quota;
use crate::rpc_counters::RpcCounters;
use crate::watch::{Hub, WatchLimits};

/// Made first; [`Parts::listener`] goes into `Node::start`, the rest into `Services::new`.
#[derive(Clone)]
pub struct Parts {
    /// The member's options.
    pub options: Arc<EtcdOptions>,
    /// Counts calls by method and code.
    pub rpc_counters: Arc<RpcCounters>,
    /// Says whether a write fits into the quota.
    pub quota: Arc<Quota>,
    /// What Prometheus reads.
    pub metrics: Arc<Metrics>,
    /// When the process made them, for its uptime.
    pub started: Instant,
    /// All watches.
    pub hub: Arc<Hub>,
    /// All leases.
    pub leases: Arc<LeaseTable>,
}

impl Parts {
    /// The parts of a member that has not started.
    pub fn new(options: EtcdOptions) -> Parts {
        let (metrics, rpc_counters) = Metrics::new(&options, RpcCounters::new());
        Parts {
            quota: Arc::new(Quota::new(options.quota_bytes())),
            metrics: Arc::new(metrics),
            started: Instant::now(),
            rpc_counters,
            options: Arc::new(options),
            hub: Hub::new(WatchLimits::default()),
            leases: LeaseTable::new(),
        }
    }

    /// Everybody who follows the log, as the one listener that a member takes.
    pub fn listener(&self) -> Arc<dyn ApplyListener> {
        let all: Vec<Arc<dyn ApplyListener>> = vec![
            // One line a listener: watch hub, lease table, quota, metrics.
            self.hub.clone(),
            self.leases.clone(),
            self.quota.clone(),
            self.metrics.clone(),
        ];
        Arc::new(Listeners::new(all))
    }
}
