//! `hasleader`: streams that asked for it end when there has been no leader for a while.

use std::time::Duration;

use dqlited_raft::LeaderState;
use http::HeaderMap;
use tokio::sync::watch;

/// Election timeouts without a leader before streams end, as in etcd.
const TIMEOUTS: u32 = 3;

/// The caller asks for it; only the exact value counts.
pub fn is_required(metadata: &HeaderMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value == "true")
}

/// Ends when there was no leader for three election timeouts in a row.
pub async fn lost(mut leadership: watch::Receiver<LeaderState>, election_timeout: Duration) {
    loop {
        // The guards that wait_for answers must not live over the next wait.
        let is_open = leadership.wait_for(|state| state.leader.is_none()).await.is_ok();
        if !is_open {
            return std::future::pending().await;
        }
        let found = async { leadership.wait_for(|state| state.leader.is_some()).await.is_ok() };
        match tokio::time::timeout(TIMEOUTS * election_timeout, found).await {
            Err(_elapsed) => return,
            Ok(true) => {}
            Ok(false) => return std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use dqlited_store::MemberId;

    use super::*;

    fn state(leader: Option<u64>) -> LeaderState {
        LeaderState { term: 1, leader: leader.map(MemberId), is_ready_leader: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_after_three_election_timeouts_without_leader_and_not_before() {
        let (send, receive) = watch::channel(state(Some(1)));
        let lost = lost(receive, Duration::from_secs(1));
        tokio::pin!(lost);
        for _ in 0..2 {
            send.send_replace(state(None));
            assert!(tokio::time::timeout(Duration::from_millis(2900), lost.as_mut()).await.is_err());
            send.send_replace(state(Some(2)));
            assert!(tokio::time::timeout(Duration::from_secs(60), lost.as_mut()).await.is_err());
        }
        send.send_replace(state(None));
        let begun = tokio::time::Instant::now();
        lost.await;
        assert_eq!(begun.elapsed().as_secs(), 3);
    }
}
