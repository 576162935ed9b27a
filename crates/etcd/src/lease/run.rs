//! The loop that loads the leases, notes who leads and proposes the revokes of those whose time is over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dqlited_raft::{Barrier, LeaderState, ProposeError, Proposed};
use dqlited_store::command::{Kind, Leader, LeaseRevoke};
use dqlited_store::{Command, CommandError, LeaseId};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tracing::{debug, info, warn};

use super::expiry::RETRY_AFTER;
use super::table::{LeaseTable, LoadOrder};
use crate::context::Context;

/// How often deadlines are looked at, as in etcd.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Leases taken at one look, as in etcd: 1000 a second.
const LOOK_MAX: usize = 500;
/// Revokes under way at once, as in etcd.
const IN_FLIGHT_MAX: usize = 16;
/// Pause after a load that failed.
const LOAD_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Runs until the member stops.
pub async fn run(context: Context, table: Arc<LeaseTable>) {
    let stopped = table.wait(LeaseTable::is_stopped);
    tokio::select! {
        _ = stopped => {}
        () = expire(&context, &table) => {}
    }
}

async fn expire(context: &Context, table: &LeaseTable) {
    let mut leadership = context.node.leadership();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut waiting: VecDeque<(Leader, LeaseId)> = VecDeque::new();
    let mut in_flight = FuturesUnordered::new();
    loop {
        while let Some(order) = table.load_order() {
            load(context, table, order).await;
        }
        let state = *leadership.borrow_and_update();
        note_leader(context, table, state);
        tokio::select! {
            changed = leadership.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            _ = looks.tick() => {
                if let Some((leader, due)) = table.take_due(Instant::now(), LOOK_MAX.saturating_sub(waiting.len())) {
                    waiting.extend(due.into_iter().map(|id| (leader, id)));
                }
            }
        }
        while in_flight.len() < IN_FLIGHT_MAX
            && let Some((leader, id)) = waiting.pop_front()
        {
            if table.leads_as(leader) {
                in_flight.push(revoke(context, table, leader, id));
            }
        }
    }
}

fn note_leader(context: &Context, table: &LeaseTable, state: LeaderState) {
    if !state.is_ready_leader {
        return table.follow();
    }
    let leader = Leader { term: state.term, node: context.node.member_id().0 };
    table.lead(leader, Instant::now(), context.options.election_timeout);
}

async fn load(context: &Context, table: &LeaseTable, order: LoadOrder) {
    let read = context.node.read(Barrier(order.log_id), context.deadline(), |view| {
        view.leases().map(|leases| (view.log_id(), leases))
    });
    match read.await {
        Ok(Ok((viewed, leases))) => {
            info!(leases = leases.len(), "leases loaded");
            table.load(order, viewed, &leases, Instant::now());
        }
        Ok(Err(error)) => {
            warn!(%error, "load the leases");
            tokio::time::sleep(LOAD_RETRY_PAUSE).await;
        }
        Err(error) => {
            debug!(%error, "load the leases");
            tokio::time::sleep(LOAD_RETRY_PAUSE).await;
        }
    }
}

/// Proposes the revoke of a lease whose time is over. It names its leader and is refused under another (rule W3).
async fn revoke(context: &Context, table: &LeaseTable, leader: Leader, id: LeaseId) {
    let begun = Instant::now();
    let command =
        Command { kind: Some(Kind::LeaseRevoke(LeaseRevoke { id: id.0, expired_under: Some(leader) })) };
    match context.node.propose(command, context.deadline()).await {
        Ok(Proposed { result: Ok(_), .. }) => {
            table.count_expired();
            debug!(lease = %id, "lease expired");
        }
        // Refused as another leader's (W3), or somebody has revoked it meanwhile: never proposed again.
        Ok(Proposed { result: Err(CommandError::StaleExpiry | CommandError::LeaseNotFound), .. }) => {}
        Ok(Proposed { result: Err(error), .. }) => {
            debug!(lease = %id, %error, "expiry refused");
            table.lost(leader, id, begun + RETRY_AFTER);
        }
        Err(ProposeError::Stopped) => {}
        Err(error) => {
            debug!(lease = %id, %error, "expiry lost");
            table.lost(leader, id, begun + RETRY_AFTER);
        }
    }
}
