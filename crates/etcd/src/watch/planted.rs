//! The bug M21 (rule D5), switched on by its test alone, to show that the tests of the hub would find it.

use super::catch_up::{History, HistoryBatch, HistoryError, ReadPlan};

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("the feature planted-bugs is for tests and never part of a release build");

// M21: a watch that catches up takes whatever view is visible for one that holds the last published entry. Of one thread,
// so that other tests do not carry it.
#[cfg(feature = "planted-bugs")]
std::thread_local! {
    pub static JOIN_BETWEEN_VISIBLE_AND_APPLIED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Reads what the plan says.
#[cfg(not(feature = "planted-bugs"))]
pub async fn read(history: &dyn History, plan: &ReadPlan) -> Result<HistoryBatch, HistoryError> {
    history.events(plan.clone()).await
}

/// Reads what the plan says, or with the bug.
#[cfg(feature = "planted-bugs")]
pub async fn read(history: &dyn History, plan: &ReadPlan) -> Result<HistoryBatch, HistoryError> {
    if !JOIN_BETWEEN_VISIBLE_AND_APPLIED.get() {
        return history.events(plan.clone()).await;
    }
    let mut blind = plan.clone();
    blind.barrier = Default::default();
    history.events(blind).await.map(|batch| HistoryBatch { through: plan.to, ..batch })
}
