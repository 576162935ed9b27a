//! Who is told what was applied: watches and the lease expiry of the etcd crate.

use std::sync::Arc;

use dqlited_store::store::Interest;
use dqlited_store::{Applied, LogId, Revision};

/// Called on the apply thread, in log order, before any proposer of the batch is answered. Must not block.
pub trait ApplyListener: Interest + Send + Sync + 'static {
    /// The member starts with this state (or goes on from an installed snapshot): nothing up to here is published.
    fn started(&self, log_id: LogId, revision: Revision, compact_revision: Revision);
    /// A batch was executed; each entry once, never again after a re-apply.
    fn applied(&self, batch: &Arc<Vec<Applied>>);
}
