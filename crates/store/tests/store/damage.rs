//! A damaged file is told of: no list ends early as if that were all.

use std::fs::File;
use std::os::unix::fs::FileExt;

use dqlited_store::read::ReadError;
use dqlited_store::store::{CheckpointMode, Store, StoreError, StoreOptions};

use crate::bed::*;

const KEYS: usize = 2000;
const PAGE_BYTES: usize = 4096;

#[test]
fn a_list_that_meets_a_damaged_page_fails_and_never_ends_early() {
    let mut bed = Bed::new();
    for number in 0..KEYS {
        bed.apply(put(&format!("k/{number:05}"), &"v".repeat(500)));
    }
    bed.writer.commit().expect("committed");
    let mut checkpointer = bed.store.checkpointer().expect("a checkpointer");
    assert!(checkpointer.checkpoint(CheckpointMode::Restart).expect("a checkpoint").durable.is_some());
    let Bed { store, writer, reader, folder, .. } = bed;
    drop((checkpointer, store, writer, reader));
    let path = folder.path().join("store.db");
    let whole = std::fs::read(&path).expect("the database");
    let pages = whole.len() / PAGE_BYTES;
    assert!(pages > 200, "{pages} pages");
    let (mut failed, mut complete) = (0, 0);
    // The first page is the file's header; opening refuses what is wrong there.
    for page in (1..pages).step_by(pages / 60) {
        let file = File::options().write(true).open(&path).expect("the database");
        file.write_all_at(&[0xa5; PAGE_BYTES], (page * PAGE_BYTES) as u64).expect("damaged");
        drop(file);
        let opened = Store::open(folder.path(), StoreOptions::default());
        // Few pages are read to open it; this test is about the others.
        if let Ok((store, _writer)) = &opened {
            let mut reader = store.reader().expect("a reader");
            match reader.with_view(|view| view.range_collected(&range("k/", "k0"))).expect("a view") {
                Err(ReadError::Store(StoreError::Corrupt { .. })) => failed += 1,
                Err(other) => panic!("page {page}: {other:?}"),
                Ok(list) => {
                    assert_eq!(
                        (list.kvs.len(), list.count),
                        (KEYS, KEYS as i64),
                        "page {page}: a short list"
                    );
                    complete += 1;
                }
            }
        }
        drop(opened);
        let _ = std::fs::remove_file(folder.path().join("store.db-wal"));
        let _ = std::fs::remove_file(folder.path().join("store.db-shm"));
        std::fs::write(&path, &whole).expect("mended");
    }
    println!("{failed} lists failed, {complete} did not need the damaged page");
    assert!(failed > 10, "{failed} of them failed, {complete} did not");
}
