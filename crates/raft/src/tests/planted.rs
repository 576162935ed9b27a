//! Promises as questions, and the planted bugs that must answer no.

use std::sync::mpsc;
use std::time::Duration;

use super::*;

/// Rule D5: a read holds what was answered before it (M14).
async fn a_read_holds_what_was_answered(environment: Environment) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let (node, _) = start_in(environment, lazy_options(folder.path())).await;
    put(&node, "k", "v").await;
    let found = get(&node, "k").await;
    node.stop(Duration::from_secs(5)).await;
    found.is_some()
}

/// Rule D5: a serializable read does not go back behind what this member has told (M20).
async fn a_local_read_never_goes_back(environment: Environment) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let (node, _) = start_in(environment, lazy_options(folder.path())).await;
    // Its snapshot is kept and offered to the next read.
    get_at(&node, node.local_barrier(), "k").await;
    let told = put(&node, "k", "v").await.revision;
    let seen = node.point_read(node.local_barrier(), soon(), |view| view.revision()).await.unwrap();
    node.stop(Duration::from_secs(5)).await;
    seen >= told
}

/// Rule D3: nothing counts as durable that a checkpoint has not moved whole (M16).
async fn what_a_reader_pins_does_not_count_as_durable(environment: Environment) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let (node, _) = start_in(environment, options(folder.path())).await;
    let (go_on, wait) = mpsc::channel::<()>();
    let (begun_sender, begun) = tokio::sync::oneshot::channel();
    let reading = tokio::spawn({
        let node = node.clone();
        async move {
            let barrier = node.local_barrier();
            node.read(barrier, soon(), move |view| {
                begun_sender.send(view.log_id().index).unwrap();
                // The test goes on or is over.
                let _ = wait.recv_timeout(Duration::from_secs(30));
            })
            .await
        }
    });
    let pinned = begun.await.unwrap();
    let checkpoints = node.counters().checkpoints;
    put(&node, "k", "v").await;
    // The second one began after the put; or the first one already claims to have moved it.
    until("a checkpoint was tried", || {
        let tried = node.counters().checkpoints - checkpoints;
        tried >= 2 || node.status().durable_index > pinned
    })
    .await;
    let holds = node.status().durable_index <= pinned;
    go_on.send(()).unwrap();
    reading.await.unwrap().unwrap();
    if holds {
        until("it is durable once the reader has gone", || {
            node.status().durable_index == node.status().applied_index
        })
        .await;
    }
    node.stop(Duration::from_secs(5)).await;
    holds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_hold_what_was_answered() {
    assert!(a_read_holds_what_was_answered(Environment::default()).await);
    assert!(a_local_read_never_goes_back(Environment::default()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_whole_checkpoint_makes_durable() {
    assert!(what_a_reader_pins_does_not_count_as_durable(Environment::default()).await);
}

#[cfg(feature = "planted-bugs")]
mod red {
    use super::super::apply_double;
    use super::*;
    use crate::planted::Bug;

    fn with(bug: Bug) -> Environment {
        Environment { bugs: vec![bug], ..Environment::default() }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn m11_apply_before_the_own_flush_is_seen() {
        assert!(!apply_double::nothing_is_executed_before_it_is_durable(with(Bug::ApplyBeforeFlush)).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn m14_a_read_that_waits_for_applied_is_seen() {
        assert!(!a_read_holds_what_was_answered(with(Bug::ReadAtApplied)).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn m16_a_purge_ahead_of_durable_is_seen() {
        assert!(!what_a_reader_pins_does_not_count_as_durable(with(Bug::PurgeAheadOfDurable)).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn m20_a_serializable_read_that_goes_back_is_seen() {
        assert!(!a_local_read_never_goes_back(with(Bug::LocalReadGoesBack)).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn m27_a_lost_transaction_that_is_not_executed_again_is_seen() {
        assert!(!apply_double::a_lost_transaction_is_executed_again(with(Bug::NoReapply)).await);
    }
}
