//! What runs beside a member's requests: late waits are ended, refused proposals offered again, a failure is spread.

use std::sync::Weak;
use std::time::Duration;

use crate::node::Inner;

/// How long a refused proposal is held before it is offered again.
const OFFER_PAUSE: Duration = Duration::from_millis(10);

/// Ends waits past their deadline and snapshots that are kept for too long.
pub(crate) async fn sweep(member: Weak<Inner>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = member.upgrade() else { return };
        let now = inner.environment.clock.now();
        inner.proposals.sweep(now);
        inner.progress.sweep(now);
        inner.kept.release_old(now);
    }
}

/// Offers proposals again that were refused or waited for a leader. They are held for a moment, not spun.
pub(crate) async fn offer_again(member: Weak<Inner>) {
    let Some(proposals) = member.upgrade().map(|inner| inner.proposals.clone()) else { return };
    loop {
        proposals.offers_wait().await;
        let Some(inner) = member.upgrade() else { return };
        while let Some((sequence, entry)) = inner.proposals.next_offer() {
            // An error is the end of the consensus: the waiters hear of it from the failure.
            if inner.offer(sequence, entry).await.is_err() {
                return;
            }
        }
        drop(inner);
        tokio::time::sleep(OFFER_PAUSE).await;
    }
}

/// Ends all waits once the member cannot go on.
pub(crate) async fn spread_failure(member: Weak<Inner>) {
    let Some(failure) = member.upgrade().map(|inner| inner.failure.clone()) else { return };
    failure.happened().await;
    let Some(inner) = member.upgrade() else { return };
    inner.proposals.stop();
    inner.progress.stop();
    inner.readers.stop();
}
