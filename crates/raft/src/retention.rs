//! Which entries the log keeps, and giving the others back: only behind what SQLite holds durably (rule D3).

use std::sync::Arc;
use std::time::Duration;

use dqlited_log::Log;
use dqlited_store::LogId;
use tokio::sync::Notify;

use crate::durable_state::DurableState;
use crate::type_config::Raft;

/// Entries kept behind the durable one when others may have to catch up from them.
const ENTRIES_KEPT: u64 = 100_000;
/// Log segments that a lone member keeps.
const SEGMENTS_KEPT: usize = 2;
/// Purges of fewer entries are put off: each costs two messages to the consensus.
const ENTRIES_PURGED_MIN: u64 = 100;

/// How long openraft may take to learn of a snapshot.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(1);

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    /// So many entries behind the durable one.
    Entries(u64),
    /// The last log segments.
    Segments(usize),
}

impl Retention {
    /// `--snapshot-count`, or the default of a cluster of this kind.
    pub(crate) fn new(snapshot_count: Option<u64>, is_lone_member: bool) -> Retention {
        match (is_lone_member, snapshot_count) {
            (true, _) => Retention::Segments(SEGMENTS_KEPT),
            (false, count) => Retention::Entries(count.unwrap_or(ENTRIES_KEPT)),
        }
    }

    /// The last index that may go now, if any.
    fn purge_point(self, durable: LogId, log: &Log) -> Option<u64> {
        let by_rule = match self {
            Retention::Entries(kept) => durable.index.checked_sub(kept)?,
            Retention::Segments(kept) => log.first_of_last_segments(kept)?.index.checked_sub(1)?,
        };
        let point = by_rule.min(durable.index);
        let purged = log.purged().map_or(0, |id| id.index);
        (point >= purged + ENTRIES_PURGED_MIN).then_some(point)
    }
}

/// Purges whenever more has become durable. Runs until the member ends.
pub(crate) async fn run(
    raft: Raft,
    log: Log,
    durable: Arc<DurableState>,
    is_more_durable: Arc<Notify>,
    retention: Retention,
) {
    loop {
        is_more_durable.notified().await;
        let Some((Some(snapshot), _)) = durable.snapshot() else { continue };
        let Some(point) = retention.purge_point(crate::type_config::log_id(&snapshot), &log) else {
            continue;
        };
        // openraft purges only what it knows a snapshot to cover. This one names what is durable and copies nothing.
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
        let is_known = raft
            .wait(Some(SNAPSHOT_PATIENCE))
            .metrics(|metrics| metrics.snapshot >= Some(snapshot), "the snapshot is known")
            .await;
        // Without it the purge goes as far as the snapshot before, and on with the next checkpoint.
        if let Err(error) = is_known {
            tracing::debug!(%error, "purge less than is durable");
        }
        if raft.trigger().purge_log(point).await.is_err() {
            return;
        }
    }
}
