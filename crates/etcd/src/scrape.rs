//! Copies what watches and leases count by themselves into the metrics, before each scrape.

use prometheus::IntCounter;

use crate::parts::Parts;

/// Brings the metrics up to date.
pub fn refresh(parts: &Parts) {
    let (metrics, watches, leases) = (&parts.metrics, parts.hub.stats(), parts.leases.stats());
    metrics.watch_streams.set(watches.streams as i64);
    metrics.watchers.set(watches.watchers as i64);
    metrics.slow_watchers.set(watches.slow_watchers as i64);
    metrics.pending_events.set(watches.pending_events as i64);
    raise(&metrics.events_sent, watches.events);
    raise(&metrics.leases_renewed, leases.renewed);
    raise(&metrics.leases_expired, leases.expired);
}

/// Scrapes at the same time may both raise it by a little too much; none is ever lost.
fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}
