//! Events of the past, read from the member's store.

use std::time::{Duration, Instant};

use dqlited_raft::{Barrier, Node, ReadFailure};
use dqlited_store::read::{EventsQuery, ReadError};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::catch_up::{History, HistoryBatch, HistoryError, ReadPlan};

/// Limit of one read; a longer one is asked again.
const READ_MAX: Duration = Duration::from_secs(30);

impl History for Node {
    fn events(&self, plan: ReadPlan) -> BoxFuture<'static, Result<HistoryBatch, HistoryError>> {
        let node = self.clone();
        async move {
            let barrier = Barrier(plan.barrier);
            let result = node.read(barrier, Instant::now() + READ_MAX, move |view| {
                let range_end = plan.interval.range_end();
                let query = EventsQuery {
                    key: &plan.interval.start,
                    range_end: &range_end,
                    from: plan.from,
                    to: plan.to,
                    with_previous: plan.with_previous,
                    revisions_max: plan.revisions_max,
                    bytes_max: plan.bytes_max,
                };
                let compact_revision = view.compact_revision();
                match view.events(&query) {
                    Ok(batch) => {
                        Ok(HistoryBatch { events: batch.events, through: batch.through, compact_revision })
                    }
                    Err(ReadError::Compacted) => Err(HistoryError::Compacted(compact_revision)),
                    Err(error) => Err(HistoryError::Unavailable(error.to_string())),
                }
            });
            match result.await {
                Ok(result) => result,
                Err(ReadFailure::Stopped) => Err(HistoryError::Stopped),
                Err(error) => Err(HistoryError::Unavailable(error.to_string())),
            }
        }
        .boxed()
    }
}
