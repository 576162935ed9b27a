//! Giving pages back: the file is cut when it is answered, and SQLite's WAL stays small whatever reads meanwhile.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use dqlited_store::Revision;

use super::*;

const VALUE_BYTES: usize = 500_000;
const ROUNDS: usize = 100;
/// What is moved between two of its beginnings, and what was in the WAL before.
const WAL_BYTES_MAX: u64 = 24 << 20;

fn length(folder: &Path, name: &str) -> u64 {
    std::fs::metadata(folder.join("store").join(name)).unwrap().len()
}

/// 50 MB of values, of which all but one are free pages afterwards. Restarted, so that the WAL is a new one.
async fn with_free_pages(folder: &Path) -> Node {
    let node = start(options(folder)).await;
    for round in 0..ROUNDS {
        let digit = ((round % 10) as u8 + b'0') as char;
        put(&node, "k", &digit.to_string().repeat(VALUE_BYTES)).await;
    }
    // At the end of the file, so that there is something to move.
    for number in 0..200 {
        put(&node, &format!("end/{number}"), &"e".repeat(3000)).await;
    }
    let revision = node.revision();
    node.propose(compact_command(revision.0), soon()).await.unwrap().result.unwrap();
    node.compaction_finished(revision, soon()).await.unwrap();
    node.stop(Duration::from_secs(5)).await;
    drop(node);
    let node = start(options(folder)).await;
    assert!(length(folder, "store.db") > (VALUE_BYTES * ROUNDS) as u64);
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_defragmentation_is_answered_when_the_file_is_cut_and_keeps_every_record() {
    let folder = tempfile::tempdir().unwrap();
    let node = with_free_pages(folder.path()).await;
    node.defragment().await.unwrap();
    let left = length(folder.path(), "store.db");
    assert!(left < 4 << 20, "{left} bytes are left");
    assert!(length(folder.path(), "store.db-wal") < WAL_BYTES_MAX);
    assert_eq!(get(&node, "k").await.map(|value| value.len()), Some(VALUE_BYTES));
    for number in 0..200 {
        assert!(get(&node, &format!("end/{number}")).await.is_some(), "end/{number}");
    }
    // With nothing to give back it is answered too.
    node.defragment().await.unwrap();
    assert_eq!(node.status().compact_revision, Revision(1 + ROUNDS as i64 + 200));
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_long_read_keeps_the_wal_a_defragmentation_waits_and_writes_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let node = with_free_pages(folder.path()).await;
    let (begun, has_begun) = mpsc::channel();
    let (end, may_end) = mpsc::channel::<()>();
    let reader = {
        let node = node.clone();
        tokio::spawn(async move {
            let read = move |view: &dyn dqlited_store::read::ReadView| {
                let revision = view.revision();
                begun.send(()).unwrap();
                may_end.recv().unwrap();
                revision
            };
            node.read(node.local_barrier(), soon(), read).await.unwrap()
        })
    };
    tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
    put(&node, "while", "1").await;
    let defragment = {
        let node = node.clone();
        tokio::spawn(async move { node.defragment().await })
    };
    // Long enough for all of it, were it not for the reader.
    let bound = Instant::now() + Duration::from_secs(2);
    let mut puts = 0;
    // Spaced: each put commits some pages, and on a fast machine those of the puts alone would pass the bound.
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    while Instant::now() < bound {
        pace.tick().await;
        put(&node, "while", "2").await;
        puts += 1;
        let wal = length(folder.path(), "store.db-wal");
        assert!(wal < WAL_BYTES_MAX, "{wal} bytes of WAL after {puts} puts");
    }
    assert!(puts > 10, "{puts} puts only");
    assert!(!defragment.is_finished(), "the file cannot have been cut under the reader");
    end.send(()).unwrap();
    reader.await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), defragment).await.unwrap().unwrap().unwrap();
    let left = length(folder.path(), "store.db");
    assert!(left < 4 << 20, "{left} bytes are left");
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_space_is_short_the_wal_gives_its_space_back_and_stays_small() {
    /// The bound of 8 MiB, and what is written until the writer holds still.
    const SHORT_WAL_BYTES_MAX: u64 = 16 << 20;
    let folder = tempfile::tempdir().unwrap();
    let node = with_free_pages(folder.path()).await;
    let wal_bytes = || length(folder.path(), "store.db-wal");
    // However much of it a checkpoint has moved, the file keeps its size.
    for number in 0..30 {
        put(&node, &format!("wal/{number}"), &"w".repeat(VALUE_BYTES)).await;
    }
    assert!(wal_bytes() > 4 << 20, "{} bytes of WAL: nothing to give back", wal_bytes());
    node.set_short_of_space(true);
    until("the WAL is emptied", || wal_bytes() < 1 << 20).await;
    // What is free was used again in part: the rest is given back.
    let mut longest = 0;
    let defragment = node.defragment();
    tokio::pin!(defragment);
    loop {
        tokio::select! {
            done = &mut defragment => break done.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(1)) => longest = wal_bytes().max(longest),
        }
    }
    println!("{longest} bytes of WAL in the defragmentation");
    assert!(longest <= 8 << 20, "{longest} bytes of WAL: more than a defragmentation asks for");
    for number in 0..60 {
        put(&node, &format!("wal/{number}"), &"x".repeat(VALUE_BYTES)).await;
        assert!(wal_bytes() < SHORT_WAL_BYTES_MAX, "{} bytes of WAL after {number} puts", wal_bytes());
    }
    assert_eq!(get(&node, "wal/0").await.map(|value| value.len()), Some(VALUE_BYTES));
    node.stop(Duration::from_secs(5)).await;
}
