//! Snapshots of readers and checkpoints.

use dqlited_store::LeaseId;
use dqlited_store::store::{CheckpointMode, Store, StoreError, StoreOptions};

use crate::bed::*;

#[test]
fn readers_see_commits_only() {
    let mut bed = Bed::new();
    let applied = bed.apply(put("a", "1"));
    assert_eq!(applied.revision.0, 2);
    assert_eq!(bed.view(|view| view.revision().0), 1);
    bed.writer.commit().expect("committed");
    assert_eq!(bed.view(|view| (view.revision().0, view.log_id())), (2, applied.log_id));
}

#[test]
pub fn a_kept_view_is_known_by_its_log_id_and_not_by_its_revision() {
    let mut bed = Bed::new();
    let put = bed.run_applied(put("a", "1")).log_id;
    let lease = |bed: &mut Bed, at| {
        bed.reader
            .with_kept_view(at, |view| view.lease(LeaseId(1)).expect("a read").is_some())
            .expect("a view")
    };
    assert!(!lease(&mut bed, put));
    // A grant moves no revision.
    let granted = bed.run_applied(grant(1, 60)).log_id;
    assert!(!lease(&mut bed, put), "the old snapshot serves whoever needs no more");
    assert!(lease(&mut bed, granted));
    bed.reader.release();
    assert!(lease(&mut bed, put));
}

#[test]
fn a_checkpoint_says_what_is_durable_only_when_it_moved_everything() {
    let mut bed = Bed::new();
    let mut checkpointer = bed.store.checkpointer().expect("a checkpointer");
    let first = bed.run_applied(put("a", "1")).log_id;
    let whole = checkpointer.checkpoint(CheckpointMode::Passive).expect("a checkpoint");
    assert_eq!((whole.durable, whole.frames_left), (Some(first), 0));
    // A reader that holds an old snapshot keeps the frames behind it from being moved.
    bed.reader.with_kept_view(first, |_| ()).expect("a view");
    let second = bed.run_applied(put("a", "2")).log_id;
    let partial = checkpointer.checkpoint(CheckpointMode::Passive).expect("a checkpoint");
    assert_eq!(partial.durable, None);
    assert!(partial.frames_left > 0);
    let restart = checkpointer.checkpoint(CheckpointMode::Restart).expect("a checkpoint");
    assert_eq!(restart.durable, None, "busy");
    bed.reader.release();
    let whole = checkpointer.checkpoint(CheckpointMode::Restart).expect("a checkpoint");
    assert_eq!((whole.durable, whole.frames_left), (Some(second), 0));
    assert!(whole.wal_bytes > 0);
}

/// SQLite would checkpoint by itself after 1000 pages and when the last connection closes. Then a simulated crash could
/// not go back to the last checkpoint that was told.
#[test]
fn only_a_checkpoint_that_is_told_changes_the_database_file() {
    let mut bed = Bed::new();
    let mut checkpointer = bed.store.checkpointer().expect("a checkpointer");
    let path = bed.folder.path().join("store.db");
    let file = || std::fs::read(&path).expect("the database file");
    let fresh = file();
    for key in 0..300 {
        bed.put(&format!("key{key}"), &"v".repeat(30_000));
    }
    let wal_bytes = std::fs::metadata(bed.folder.path().join("store.db-wal")).expect("a WAL").len();
    assert!(wal_bytes > 2000 * 4096, "more than SQLite would leave: {wal_bytes}");
    assert!(file() == fresh, "commits");
    assert!(checkpointer.checkpoint(CheckpointMode::Passive).expect("a checkpoint").durable.is_some());
    let told = file();
    assert!(told.len() > 300 * 30_000);
    bed.delete("\0", "\0");
    let last = bed.run_applied(put("last", "v")).log_id;
    let revision = bed.view(|view| view.revision().0);
    bed.compact(revision).expect("compacted");
    bed.delete_compacted();
    while bed.writer.vacuum_step(1000).expect("a step") {}
    bed.writer.commit().expect("committed");
    assert!(file() == told, "deleting and giving pages back");
    let Bed { store, writer, reader, folder, .. } = bed;
    drop((store, reader, checkpointer, writer));
    assert!(file() == told, "closing");
    let (store, writer) = Store::open(folder.path(), StoreOptions::default()).expect("a store");
    assert!(writer.state().log_id >= Some(last), "the WAL is read");
    drop(store.reader().expect("a reader").with_view(|view| view.revision()));
    assert!(file() == told, "opening");
    let mut checkpointer = store.checkpointer().expect("a checkpointer");
    let end = checkpointer.checkpoint(CheckpointMode::Truncate).expect("a checkpoint");
    assert_eq!((end.durable, end.frames_left), (writer.state().log_id, 0));
    let wal_bytes = std::fs::metadata(folder.path().join("store.db-wal")).expect("a WAL").len();
    assert_eq!((wal_bytes, file() == told), (0, false));
}

#[test]
fn the_wal_begins_anew_after_a_restart_checkpoint() {
    let mut bed = Bed::new();
    let mut checkpointer = bed.store.checkpointer().expect("a checkpointer");
    let mut sizes = Vec::new();
    for _ in 0..20 {
        for key in 0..50 {
            bed.put(&format!("key{key}"), &"v".repeat(500));
        }
        sizes.push(checkpointer.checkpoint(CheckpointMode::Restart).expect("a checkpoint").wal_bytes);
    }
    assert!(sizes[19] <= sizes[0] * 2, "the WAL stays bounded: {sizes:?}");
}

#[test]
fn other_files_and_newer_formats_are_refused_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    std::fs::write(&path, "this is not a database, and long enough to be looked at as one ".repeat(20))
        .expect("written");
    let error = Store::open(folder.path(), StoreOptions::default()).expect_err("refused");
    assert!(matches!(&error, StoreError::Corrupt { path: found, .. } if *found == path), "{error}");

    let folder = tempfile::tempdir().expect("a folder");
    drop(Store::open(folder.path(), StoreOptions::default()).expect("a store"));
    let path = folder.path().join("store.db");
    rusqlite::Connection::open(&path).expect("open").execute_batch("PRAGMA user_version=2").expect("newer");
    let error = Store::open(folder.path(), StoreOptions::default()).expect_err("refused");
    assert!(matches!(error, StoreError::Format { found: 2, expected: 1, .. }), "{error}");
    let words = "a newer version wrote it: format 2, this one reads up to 1; start the newer version";
    assert!(error.to_string().ends_with(words), "{error}");
}

#[test]
fn free_pages_go_back_to_the_file_system() {
    let mut bed = Bed::new();
    for key in 0..200 {
        bed.put(&format!("key{key}"), &"v".repeat(2000));
    }
    bed.delete("\0", "\0");
    bed.put("last", "v");
    let revision = bed.view(|view| view.revision().0);
    bed.compact(revision).expect("compacted");
    bed.delete_compacted();
    let before = bed.view(|view| view.database_size()).expect("a size");
    assert!(before.in_use_bytes < before.total_bytes / 2, "{before:?}");
    for _ in 0..10_000 {
        if !bed.writer.vacuum_step(7).expect("a step") {
            break;
        }
    }
    bed.writer.commit().expect("committed");
    let after = bed.view(|view| view.database_size()).expect("a size");
    assert_eq!(after.total_bytes, after.in_use_bytes);
    assert!(after.total_bytes < before.total_bytes / 2, "{after:?}");
    assert!(bed.get("last").is_some());
}
