//! What exists before the member starts, because the member tells it of everything that it applies.

use std::sync::Arc;

use dqlited_raft::ApplyListener;

use crate::listeners::Listeners;
use crate::options::EtcdOptions;
use crate::quota::{QuotaGate, Unlimited};
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
    pub quota: Arc<dyn QuotaGate>,
    /// All watches.
    pub hub: Arc<Hub>,
}

impl Parts {
    /// The parts of a member that has not started.
    pub fn new(options: EtcdOptions) -> Parts {
        Parts {
            options: Arc::new(options),
            rpc_counters: Arc::new(RpcCounters::new()),
            quota: Arc::new(Unlimited),
            hub: Hub::new(WatchLimits::default()),
        }
    }

    /// Everybody who follows the log, as the one listener that a member takes.
    pub fn listener(&self) -> Arc<dyn ApplyListener> {
        let all: Vec<Arc<dyn ApplyListener>> = vec![
            // One line a listener: watch hub, lease table, alarms, metrics.
            self.hub.clone(),
        ];
        Arc::new(Listeners::new(all))
    }
}
