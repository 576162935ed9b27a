//! What a running member promises.

use std::time::{Duration, Instant};

use dqlited_store::{CommandError, MemberId, Revision};

use super::*;
use crate::{Limits, ProposeError, ReadFailure, StartError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_start_answers_at_once() {
    let mut took = Vec::new();
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let node = start(options(folder.path())).await;
        took.push(started.elapsed());
        assert!(node.leadership().borrow().is_ready_leader);
        node.stop(Duration::from_secs(5)).await;
    }
    took.sort();
    println!(
        "Node::start on a fresh directory, ms: {:?}",
        took.iter().map(|t| t.as_secs_f64() * 1e3).collect::<Vec<_>>()
    );
    // The promise is 100 ms for the program in a release build; this bound only finds what waits for a timer.
    assert!(took[0] < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_is_seen_by_the_reads_that_follow_it() {
    for options_of in [options, lazy_options] {
        let folder = tempfile::tempdir().unwrap();
        let node = start(options_of(folder.path())).await;
        let first = put(&node, "k", "1").await;
        assert_eq!(first.revision, Revision(2));
        assert_eq!(get(&node, "k").await.as_deref(), Some(&b"1"[..]));
        put(&node, "k", "2").await;
        assert_eq!(get_at(&node, node.local_barrier(), "k").await.as_deref(), Some(&b"2"[..]));
        put(&node, "k", "3").await;
        let barrier = node.linearizable_barrier(soon()).await.unwrap();
        let (revision, log_id) =
            node.read(barrier, soon(), |view| (view.revision(), view.log_id())).await.unwrap();
        assert_eq!((revision, node.revision()), (Revision(4), Revision(4)));
        assert!(log_id >= barrier.0);
        node.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_proposers_get_a_hundred_revisions_and_one_order() {
    let folder = tempfile::tempdir().unwrap();
    let (node, recorder) = start_in(Environment::default(), lazy_options(folder.path())).await;
    let proposers: Vec<_> = (0..100)
        .map(|number| {
            let node = node.clone();
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for round in 0..10 {
                    revisions.push(put(&node, &format!("{number}"), &format!("{round}")).await.revision.0);
                }
                revisions
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for proposer in proposers {
        let own = proposer.await.unwrap();
        assert!(own.is_sorted(), "one proposer's writes keep their order");
        revisions.extend(own);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..=1001).collect::<Vec<_>>());
    let indexes = recorder.indexes();
    let last = indexes.last().copied().unwrap();
    assert_eq!(indexes, (indexes[0]..=last).collect::<Vec<_>>(), "listeners hear each entry once, in order");
    let status = node.status();
    assert_eq!((status.applied_index, status.committed_index), (last, last));
    let counters = node.counters();
    assert_eq!((counters.proposals_pending, counters.proposals_failed), (0, 0));
    assert!(counters.log_syncs < 1000, "writes that wait together share a sync: {counters:?}");
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executed_writes_wait_for_a_reader_to_be_committed() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(lazy_options(folder.path())).await;
    let before = node.status().visible_index;
    let index = put(&node, "k", "v").await.log_id.index;
    assert_eq!(node.status().applied_index, index);
    assert_eq!(node.status().visible_index, before, "nobody needs it yet");
    get(&node, "k").await;
    assert_eq!(node.status().visible_index, index);
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executed_writes_are_committed_by_time() {
    let folder = tempfile::tempdir().unwrap();
    let options = NodeOptions { commit_interval: Duration::from_millis(20), ..options(folder.path()) };
    let node = start(options).await;
    let index = put(&node, "k", "v").await.log_id.index;
    until("it is visible without a reader", || node.status().visible_index >= index).await;
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_becomes_durable_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(options(folder.path())).await;
    let index = put(&node, "k", "v").await.log_id.index;
    until("it is durable", || node.status().durable_index >= index).await;
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { proposals_max: 0, ..Limits::default() };
    let refused =
        Node::start(NodeOptions { limits, ..options(folder.path()) }, Arc::new(Recorder::default()))
            .await
            .err()
            .unwrap();
    assert!(matches!(refused, StartError::FirstEntry(ProposeError::TooManyRequests)), "{refused}");
    let small = Limits { proposal_bytes_max: 1000, ..Limits::default() };
    let node = start(NodeOptions { limits: small, ..options(folder.path()) }).await;
    let large = node.propose(put_command("k", &"v".repeat(1000)), soon()).await;
    assert_eq!(large.unwrap_err(), ProposeError::TooManyRequests);
    put(&node, "k", "v").await;
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_command_changes_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(options(folder.path())).await;
    let refused = node.propose(compact_command(77), soon()).await.unwrap();
    assert_eq!(refused.result, Err(CommandError::FutureRevision));
    assert_eq!(node.revision(), Revision(1));
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_is_finished_once_old_records_are_deleted() {
    for options_of in [options, lazy_options] {
        let folder = tempfile::tempdir().unwrap();
        let node = start(options_of(folder.path())).await;
        for round in 0..600 {
            put(&node, "k", &round.to_string()).await;
        }
        node.propose(compact_command(590), soon()).await.unwrap().result.unwrap();
        node.compaction_finished(Revision(590), soon()).await.unwrap();
        let count = node
            .read(node.local_barrier(), soon(), |view| {
                let mut count = 0;
                view.history(&mut |_| {
                    count += 1;
                    Ok(())
                })
                .unwrap();
                count
            })
            .await
            .unwrap();
        assert_eq!(count, 601 - 590 + 1);
        assert_eq!(node.status().compact_revision, Revision(590));
        let late = node.compaction_finished(Revision(600), Instant::now()).await;
        assert!(matches!(late, Err(ReadFailure::TimedOut)), "{late:?}");
        node.defragment().await.unwrap();
        assert_eq!(get(&node, "k").await.as_deref(), Some(&b"599"[..]));
        node.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_publishes_its_record() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(options(folder.path())).await;
    assert_eq!(format!("{}", node.member_id()), "8e9e05c52164694d");
    assert_eq!(format!("{:x}", node.cluster_id()), "cdf818194e3a8c32");
    let members = node.members().await.unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].id, node.member_id());
    assert_eq!((members[0].name.as_str(), members[0].boot), ("default", 1));
    assert_eq!(members[0].client_urls, ["http://localhost:2379"]);
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_to_this_member_only() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(options(folder.path())).await;
    assert_eq!(node.move_leader(node.member_id(), soon()).await, Ok(()));
    assert!(node.move_leader(MemberId(1), soon()).await.is_err());
    let status = node.status();
    assert_eq!((status.leader, status.term), (Some(node.member_id()), node.term()));
    assert!(status.term > 0 && !status.is_learner);
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_member_refuses_and_leaves_its_directory() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(options(folder.path())).await;
    put(&node, "k", "v").await;
    node.stop(Duration::from_secs(5)).await;
    node.stop(Duration::from_secs(5)).await;
    assert_eq!(node.propose(noop(), soon()).await.unwrap_err(), ProposeError::Stopped);
    let read = node.read(node.local_barrier(), soon(), |view| view.revision()).await;
    assert!(matches!(read, Err(ReadFailure::Stopped)), "{read:?}");
    assert_eq!(
        node.status().durable_index,
        node.status().applied_index,
        "a clean stop leaves nothing to replay"
    );
    let other = Node::start(options(folder.path()), Arc::new(Recorder::default())).await.err().unwrap();
    assert!(other.to_string().contains("in use by process"), "{other}");
    drop(node);
    start(options(folder.path())).await.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_member_says_so_and_serves_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(options(folder.path())).await;
    put(&node, "k", "v").await;
    node.inner().failure.report("the disk is gone".to_string());
    assert_eq!(node.failed().await, "the disk is gone");
    assert_eq!(node.propose(noop(), soon()).await.unwrap_err(), ProposeError::Stopped);
    let barrier = node.linearizable_barrier(soon()).await;
    assert!(matches!(barrier, Err(ReadFailure::Stopped)), "{barrier:?}");
    let read = node.point_read(node.local_barrier(), soon(), |view| view.revision()).await;
    assert!(matches!(read, Err(ReadFailure::Stopped)), "{read:?}");
    node.stop(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_consensus_ends_the_member() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(options(folder.path())).await;
    node.inner().raft.shutdown().await.unwrap();
    let words = tokio::time::timeout(Duration::from_secs(10), node.failed()).await.unwrap();
    assert!(words.starts_with("the consensus has ended"), "{words}");
    node.stop(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_proposal_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(options(folder.path())).await;
    for _ in 0..100 {
        let proposal = node.propose(put_command("k", "v"), soon());
        // The client goes away at once.
        let _ = tokio::time::timeout(Duration::ZERO, proposal).await;
    }
    put(&node, "last", "v").await;
    until("all are settled", || node.counters().proposals_pending == 0).await;
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_member_runs_without_threads_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment { threads: crate::environment::Threads::Inline, ..Environment::default() };
    let (node, recorder) = start_in(environment, lazy_options(folder.path())).await;
    for round in 0..20 {
        put(&node, "k", &round.to_string()).await;
    }
    assert_eq!(get(&node, "k").await.as_deref(), Some(&b"19"[..]));
    assert_eq!(recorder.started.lock().unwrap().as_slice(), &[(LogId::default(), Revision(1))]);
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_and_a_read_tell_when_they_passed_from_stage_to_stage() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(NodeOptions { reader_threads: 1, ..options(folder.path()) }).await;
    let begun = Instant::now();
    let write = put(&node, "k", "1").await.moments;
    let answered = Instant::now();
    let moments = [begun, write.offered, write.logged, write.executed, answered];
    assert!(moments.is_sorted(), "{moments:?}");
    // The log's part has a sync of the disk in it.
    assert!(write.offered < write.logged && write.logged < write.executed, "{write:?}");

    let barrier = node.local_barrier();
    let point = node.point_read_timed(barrier, soon(), |view| view.revision()).await.unwrap();
    assert_eq!(point.answer, Revision(2));
    let moments = [answered, point.moments.visible, point.moments.begun, point.moments.ended, Instant::now()];
    assert!(moments.is_sorted(), "{moments:?}");

    // The one reader thread is held: a second read waits for it.
    let (begins, has_begun) = std::sync::mpsc::channel();
    let (go_on, may_end) = std::sync::mpsc::channel::<()>();
    let hold = move |_: &dyn dqlited_store::read::ReadView| {
        begins.send(()).unwrap();
        may_end.recv_timeout(Duration::from_secs(30)).unwrap();
    };
    let first = {
        let node = node.clone();
        tokio::spawn(async move { node.read_timed(barrier, soon(), hold).await.unwrap().moments })
    };
    tokio::task::spawn_blocking(move || has_begun.recv_timeout(Duration::from_secs(30)).unwrap())
        .await
        .unwrap();
    let second = node.read_timed(barrier, soon(), |_| ());
    tokio::pin!(second);
    assert!(futures::poll!(second.as_mut()).is_pending(), "it waits for the thread");
    let released = Instant::now();
    go_on.send(()).unwrap();
    let (first, second) = (first.await.unwrap(), second.await.unwrap().moments);
    assert!(first.begun <= released && released <= first.ended, "{first:?}");
    assert!(second.visible <= released && first.ended <= second.begun, "{first:?} {second:?}");
    node.stop(Duration::from_secs(5)).await;
}
