//! A store that is damaged under a member ends it, whoever meets the damage and whatever they make of it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use dqlited_store::read::{EventsQuery, ReadView};

use super::*;
use crate::{ProposeError, ReadFailure};

const PAGE_BYTES: usize = 4096;
/// So many keys take far more pages than a start reads.
const KEYS: usize = 1500;

/// A stopped member's folder whose store has lost the middle of its file.
async fn damaged() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let node = start(options(folder.path())).await;
    let puts = (0..KEYS).map(|number| {
        let node = node.clone();
        async move { put(&node, &format!("k/{number:05}"), &"v".repeat(500)).await }
    });
    futures::future::join_all(puts).await;
    node.stop(Duration::from_secs(10)).await;
    drop(node);
    let path = folder.path().join("store/store.db");
    let whole = std::fs::read(&path).unwrap();
    // Those that are full of values: no start looks a key up there.
    let is_of_values = |page: &[u8]| page.iter().filter(|byte| **byte == b'v').count() > PAGE_BYTES / 2;
    let pages: Vec<usize> = (0..whole.len() / PAGE_BYTES)
        .filter(|page| is_of_values(&whole[page * PAGE_BYTES..(page + 1) * PAGE_BYTES]))
        .collect();
    assert!(pages.len() > 150, "{} pages of values", pages.len());
    let store = File::options().write(true).open(&path).unwrap();
    for page in &pages[pages.len() / 3..pages.len() / 2] {
        store.write_all_at(&[0xa5; PAGE_BYTES], (page * PAGE_BYTES) as u64).unwrap();
    }
    folder
}

fn list(view: &dyn ReadView) -> bool {
    let query = RangeQuery {
        key: Bytes::from_static(b"k/"),
        range_end: Bytes::from_static(b"k0"),
        ..Default::default()
    };
    view.range_collected(&query).is_err()
}

fn catch_up(view: &dyn ReadView) -> bool {
    let query = EventsQuery {
        key: b"k/",
        range_end: b"k0",
        from: Revision(2),
        to: view.revision(),
        with_previous: false,
        revisions_max: 10 * KEYS,
        bytes_max: 100 << 20,
    };
    view.events(&query).is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_a_read_meets_ends_the_member_before_it_is_answered() {
    for (what, read) in [("list", list as fn(&dyn ReadView) -> bool), ("events", catch_up)] {
        for is_point in [false, true] {
            let folder = damaged().await;
            let node = start(options(folder.path())).await;
            let barrier = node.linearizable_barrier(soon()).await.unwrap();
            let has_failed = match is_point {
                false => node.read(barrier, soon(), read).await,
                true => node.point_read(barrier, soon(), read).await,
            };
            assert!(has_failed.unwrap(), "{what} of a damaged store");
            assert!(
                node.inner().failure.has_happened(),
                "{what}, point {is_point}: answered, and the member goes on"
            );
            let words = node.failed().await;
            let store = folder.path().join("store");
            assert!(words.contains(store.to_str().unwrap()) && words.contains("store.db: "), "{words}");
            assert!(words.ends_with("restore the data directory from a backup"), "{words}");
            let proposed = node.propose(put_command("k", "v"), soon()).await;
            assert_eq!(proposed.unwrap_err(), ProposeError::Stopped);
            let again = node.read(node.local_barrier(), soon(), read).await;
            assert!(matches!(again, Err(ReadFailure::Stopped)), "{again:?}");
            node.stop(Duration::from_secs(1)).await;
        }
    }
}
