//! The barrier of linearizable reads (`docs/consistency.md`, rule R1): a round of our own, begun after the read arrived.
//!
//! openraft's own linearizable reads are not used: with elections that we drive they can be stale.

use std::sync::Arc;
use std::time::Instant;

use dqlited_store::LogId;

use crate::environment::Clock;
use crate::leadership::Leadership;
use crate::visible::Progress;

/// Leadership could not be proven before the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoProof;

/// Finds the barrier of a read that begins now.
///
/// A member that votes alone is its own majority: the round is a look at its own state. Every write that anybody was
/// answered for was applied here first, so what is applied now is the barrier. With more voters the round asks them,
/// and the barrier is the committed index noted before it.
pub(crate) async fn barrier(
    leadership: &Leadership,
    progress: &Arc<Progress>,
    clock: &dyn Clock,
    deadline: Instant,
) -> Result<LogId, NoProof> {
    if leadership.is_ready_alone() {
        return Ok(progress.marks().applied);
    }
    let mut changes = leadership.subscribe();
    let wait = async {
        loop {
            // What came before the look is seen by it, what comes after it ends the wait.
            changes.borrow_and_update();
            if leadership.is_ready_alone() {
                return;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let left = deadline.saturating_duration_since(clock.now());
    tokio::time::timeout(left, wait).await.map_err(|_| NoProof)?;
    Ok(progress.marks().applied)
}
