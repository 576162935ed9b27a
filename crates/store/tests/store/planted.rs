//! Each planted bug turns the test of its rule red: `cargo test -p dqlited-store --features planted-bugs`.

use std::cell::Cell;
use std::panic::catch_unwind;

use dqlited_store::PlantedBug;

thread_local! {
    static PLANTED: Cell<Option<PlantedBug>> = const { Cell::new(None) };
}

/// The bug that beds made by this thread carry.
pub fn of_this_thread() -> Option<PlantedBug> {
    PLANTED.get()
}

fn turns_red(bug: PlantedBug, test: fn()) {
    test();
    PLANTED.set(Some(bug));
    let outcome = catch_unwind(test);
    PLANTED.set(None);
    assert!(outcome.is_err(), "{bug:?} is not seen");
}

#[test]
fn m19_an_expiry_under_another_leader_is_seen() {
    turns_red(
        PlantedBug::ExpiryUnderAnyLeader,
        crate::leases::an_expiry_counts_only_under_the_leader_that_proposed_it,
    );
}

#[test]
fn m27_memory_that_outlives_the_lost_transaction_is_seen() {
    turns_red(
        PlantedBug::MemoryOutlivesTransaction,
        crate::identities::a_gap_and_an_unknown_command_are_errors_that_change_nothing,
    );
}

#[test]
fn m28_identities_that_miss_a_commit_are_seen() {
    turns_red(
        PlantedBug::IdentitiesAfterCommit,
        crate::identities::a_second_copy_changes_nothing_also_after_a_kill,
    );
}

#[test]
fn m29_a_snapshot_kept_by_revision_is_seen() {
    turns_red(
        PlantedBug::SnapshotKeptByRevision,
        crate::checkpoints::a_kept_view_is_known_by_its_log_id_and_not_by_its_revision,
    );
}
