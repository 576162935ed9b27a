//! What a member keeps when it is stopped or killed.

use std::collections::BTreeMap;
use std::time::Duration;

use dqlited_store::read::ReadView;
use dqlited_store::store::EntryBody;
use dqlited_store::{CommandError, Identity, MemberId};

use super::*;
use crate::codec;
use crate::type_config::EncodedCommand;

fn all(view: &dyn ReadView) -> BTreeMap<Bytes, (Bytes, i64)> {
    let query = RangeQuery {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..Default::default()
    };
    let found = view.range_collected(&query).unwrap();
    found.kvs.into_iter().map(|record| (record.key, (record.value, record.mod_revision))).collect()
}

async fn contents(node: &Node) -> BTreeMap<Bytes, (Bytes, i64)> {
    let barrier = node.linearizable_barrier(soon()).await.unwrap();
    node.read(barrier, soon(), |view| all(view)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_member_loses_nothing_that_was_answered() {
    for options_of in [options, lazy_options] {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = BTreeMap::new();
        for round in 0..5 {
            let node = start(options_of(folder.path())).await;
            assert_eq!(contents(&node).await, expected, "round {round}");
            for number in 0..50 {
                let (key, value) = (format!("{}", number % 20), format!("{round}/{number}"));
                let revision = put(&node, &key, &value).await.revision.0;
                expected.insert(key.into(), (value.into(), revision));
            }
            if round % 2 == 0 {
                node.kill().await;
            } else {
                node.stop(Duration::from_secs(5)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_killed_under_load_keeps_every_answered_write() {
    let folder = tempfile::tempdir().unwrap();
    let options = NodeOptions { commit_interval: Duration::from_millis(5), ..options(folder.path()) };
    let mut answered: BTreeMap<String, i64> = BTreeMap::new();
    for round in 0..5 {
        let node = start(options.clone()).await;
        let writers: Vec<_> = (0..20)
            .map(|writer| {
                let node = node.clone();
                tokio::spawn(async move {
                    let mut done = Vec::new();
                    for number in 0.. {
                        let key = format!("{round}/{writer}/{number}");
                        match node.propose(put_command(&key, "v"), soon()).await {
                            Ok(proposed) => done.push((key, proposed.revision.0)),
                            Err(_) => return done,
                        }
                    }
                    done
                })
            })
            .collect();
        until("some hundred writes are answered", || node.status().revision.0 > 300 * (round + 1)).await;
        node.kill().await;
        for writer in writers {
            answered.extend(writer.await.unwrap());
        }
    }
    let node = start(options).await;
    let found = contents(&node).await;
    for (key, revision) in &answered {
        let record = found.get(key.as_bytes()).unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!(record.1, *revision, "{key}");
    }
    assert!(answered.len() > 1000, "{} writes were answered", answered.len());
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_start_registers_its_boot_before_anything_else() {
    let folder = tempfile::tempdir().unwrap();
    for boot in 1..=3 {
        let (node, recorder) = start_in(Environment::default(), options(folder.path())).await;
        put(&node, "k", "v").await;
        assert_eq!(node.members().await.unwrap()[0].boot, boot);
        let mine: Vec<Identity> = recorder
            .applied
            .lock()
            .unwrap()
            .iter()
            .filter_map(|applied| applied.identity)
            .filter(|identity| identity.boot == boot)
            .collect();
        let sequences: Vec<u64> = mine.iter().map(|identity| identity.sequence).collect();
        assert_eq!(sequences, [1, 2], "the registering entry is the first of the start");
        if boot == 1 {
            node.kill().await;
        } else {
            node.stop(Duration::from_secs(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_copy_of_a_proposal_applies_as_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for restarts in [false, true] {
        let (mut node, mut recorder) = start_in(Environment::default(), lazy_options(folder.path())).await;
        let proposed = put(&node, "k", "first").await;
        let copied = node.inner().log.read(proposed.log_id.index, proposed.log_id.index + 1, 1).unwrap();
        let entry = copied[0].payload.clone();
        assert!(matches!(codec::decode_body(entry.clone()), Ok(EntryBody::Command(..))));
        put(&node, "k", "second").await;
        let expected = if restarts {
            node.kill().await;
            (node, recorder) = start_in(Environment::default(), lazy_options(folder.path())).await;
            CommandError::UnregisteredBoot
        } else {
            CommandError::AlreadyApplied
        };
        let before = node.revision();
        node.inner().raft.client_write_ff(EncodedCommand(entry), None).await.unwrap();
        put(&node, "other", "v").await;
        let applied = recorder.applied.lock().unwrap().clone();
        let copies = applied.iter().filter(|applied| applied.result == Err(expected)).count();
        assert_eq!(copies, 1, "restarts: {restarts}");
        assert_eq!(node.revision().0, before.0 + 1, "only the other put has counted");
        assert_eq!(get(&node, "k").await.as_deref(), Some(&b"second"[..]));
        node.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_of_an_unknown_boot_applies_as_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (node, recorder) = start_in(Environment::default(), options(folder.path())).await;
    let mut entry = codec::encode_command(&put_command("k", "v")).unwrap();
    let stranger = Identity { member: MemberId(5), boot: 1, sequence: 9, lowest_unsettled: 9 };
    codec::stamp(&mut entry, stranger);
    node.inner().raft.client_write_ff(EncodedCommand(entry.freeze()), None).await.unwrap();
    put(&node, "other", "v").await;
    let applied = recorder.applied.lock().unwrap().clone();
    assert!(applied.iter().any(|applied| applied.result == Err(CommandError::UnregisteredBoot)));
    assert_eq!(get(&node, "k").await, None);
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_behind_what_is_durable_and_the_member_still_starts() {
    let folder = tempfile::tempdir().unwrap();
    let value = "v".repeat(4096);
    for round in 0..3 {
        let node = start(options(folder.path())).await;
        for number in 0..2000 {
            put(&node, &format!("{}", number % 50), &value).await;
            if number % 100 == 0 {
                let status = node.status();
                let purged = node.inner().log.purged().map_or(0, |id| id.index);
                assert!(
                    purged <= status.durable_index,
                    "{purged} is purged, {} durable",
                    status.durable_index
                );
            }
        }
        if round == 1 {
            // Segments double from 1 MiB: of some 16 MiB the first ones are no longer among the last two.
            until("the log is purged", || node.inner().log.purged().is_some_and(|id| id.index > 1000)).await;
        }
        if round == 1 {
            node.kill().await;
        } else {
            node.stop(Duration::from_secs(5)).await;
        }
    }
    let node = start(options(folder.path())).await;
    assert_eq!(contents(&node).await.len(), 50);
    assert_eq!(node.revision().0, 6001);
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_log_has_lost_what_the_store_holds_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(options(folder.path())).await;
    put(&node, "key", "value").await;
    node.stop(Duration::from_secs(5)).await;
    // The handle holds the folder's lock.
    drop(node);
    // As after an operator's "cleaning up": the store is there, the log begins anew.
    std::fs::remove_dir_all(folder.path().join("log")).unwrap();
    let listener = std::sync::Arc::new(Recorder::default());
    match Node::start(options(folder.path()), listener).await {
        Err(crate::StartError::LogBehind { last: 0, applied }) => assert!(applied >= 3, "{applied}"),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("the member started"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_store_is_gone_beside_a_purged_log_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(options(folder.path())).await;
    let value = "v".repeat(65_536);
    // Segments double from 1 MiB: of some 25 MiB the first three are given up.
    for number in 0..400 {
        put(&node, &format!("{}", number % 10), &value).await;
    }
    until("the log is purged", || node.inner().log.purged().is_some()).await;
    let purged = node.inner().log.purged().unwrap().index;
    node.stop(Duration::from_secs(5)).await;
    drop(node);
    let store = folder.path().join("store");
    std::fs::remove_dir_all(&store).unwrap();
    // Twice: the first attempt leaves an empty store.
    for _ in 0..2 {
        let listener = std::sync::Arc::new(Recorder::default());
        let started = Node::start(options(folder.path()), listener);
        let started = tokio::time::timeout(Duration::from_secs(20), started).await.expect("it hangs");
        let error = started.err().expect("the member started");
        let crate::StartError::Hole { store: named, needed: 0, first } = &error else { panic!("{error}") };
        assert!(*first > purged, "{first}, {purged} was purged");
        assert_eq!(named, &store);
        assert!(error.to_string().contains("restore the data directory from a backup"), "{error}");
    }
}
