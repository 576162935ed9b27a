//! Drives elections and heartbeats, and is the only file that knows openraft's times.
//!
//! openraft's own ticks, heartbeats and elections are off. Its time-outs are fixed far above ours and decide nothing:
//! they can not be changed in a running node, ours can.

use std::sync::Arc;
use std::time::Duration;

use dqlited_store::{LeaderId, MemberId};
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::{Config, ServerState, SnapshotPolicy};

use crate::failure::Failure;
use crate::leadership::Leadership;
use crate::type_config::{Raft, TypeConfig};

/// How often a leader with other voters shows that it lives.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// How long a lone voter that has no leader waits before it tries again.
const ELECTION_RETRY: Duration = Duration::from_millis(50);

/// openraft's configuration: everything that acts by itself is off, its bounds are far above ours.
pub(crate) fn consensus_config() -> Config {
    Config {
        cluster_name: "dqlited".to_string(),
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        enable_pre_vote: Some(false),
        quorum_loss_probe_interval: None,
        heartbeat_interval: 36_000,
        election_timeout_min: 50_000,
        election_timeout_max: 60_000,
        snapshot_policy: SnapshotPolicy::Never,
        // Purging is ours, behind what SQLite holds durably.
        max_in_snapshot_log_to_keep: u64::MAX,
        // openraft's core stands still when this channel is full; its worker may wait for room in the apply queue.
        state_machine_channel_size: Some(1 << 20),
        notification_channel_size: Some(65_536),
        api_batch_linger_ms: 0,
        removed_leader_step_down: openraft::StepDownPolicy::Never,
        allow_log_reversion: Some(true),
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}

/// Follows the consensus, elects, and reports its death. Runs until the member ends.
pub(crate) async fn run(raft: Raft, member: MemberId, leadership: Arc<Leadership>, failure: Failure) {
    let mut metrics = raft.server_metrics();
    let mut elected_at: Option<tokio::time::Instant> = None;
    loop {
        let seen = metrics.borrow_watched().clone();
        let is_lone_voter = tell(&seen, member, &leadership);
        let leads = seen.state == ServerState::Leader;
        let now = tokio::time::Instant::now();
        let may_elect = elected_at.is_none_or(|then| now.saturating_duration_since(then) >= ELECTION_RETRY);
        let result = if leads && !is_lone_voter {
            raft.trigger().heartbeat().await
        } else if !leads && is_lone_voter && may_elect {
            elected_at = Some(now);
            raft.trigger().elect(false).await
        } else {
            Ok(())
        };
        if let Err(error) = result {
            failure.report(format!("the consensus has ended: {error}"));
            return;
        }
        let wait = match (leads, is_lone_voter) {
            (true, true) => None,
            (true, false) => Some(HEARTBEAT_INTERVAL),
            (false, _) => Some(ELECTION_RETRY),
        };
        let changed = metrics.changed();
        let ended = match wait {
            None => changed.await.is_err(),
            Some(wait) => matches!(tokio::time::timeout(wait, changed).await, Ok(Err(_))),
        };
        if ended {
            failure.report("the consensus has ended".to_string());
            return;
        }
    }
}

/// Tells what openraft says. Answers whether this member is the only voter.
fn tell(metrics: &RaftServerMetrics<TypeConfig>, member: MemberId, leadership: &Leadership) -> bool {
    let membership = metrics.membership_config.membership();
    let is_voter = membership.voter_ids().any(|id| id == member.0);
    let is_lone_voter = is_voter && membership.voter_ids().all(|id| id == member.0);
    let leader_id = metrics.vote.leader_id();
    // After a restart the vote on disk still names this member as the leader that it was.
    let leader = metrics
        .current_leader
        .filter(|node| {
            metrics.vote.is_committed() && (*node != member.0 || metrics.state == ServerState::Leader)
        })
        .map(|node| LeaderId { term: leader_id.term, node: MemberId(node) });
    leadership.consensus_says(leader_id.term, leader, is_lone_voter, !is_voter);
    is_lone_voter
}
