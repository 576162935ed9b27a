//! Bugs that a test can switch on under the feature `planted-bugs`, to prove that another test would see them.
//! Numbered as in `docs/consistency.md`.

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!(
    "the feature planted-bugs is for tests: it breaks promises on purpose and has no place in a release build"
);

/// A planted bug. Each has a test that turns red with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code))]
pub enum Bug {
    /// M11: entries are executed before this member's own log holds them durably (rule C4).
    ApplyBeforeFlush,
    /// M14: a read waits until its barrier is applied, not until it is visible (rule D5).
    ReadAtApplied,
    /// M16: the log is purged behind what is applied, not behind what is durable (rule D3).
    PurgeAheadOfDurable,
    /// M20: a serializable read has no barrier, so it can go back behind what was told before (rule D5).
    LocalReadGoesBack,
    /// A write is acknowledged before its entry is synced (rule D1).
    AcknowledgeBeforeSync,
    /// M27: what was answered before a lost SQLite transaction is not executed again (rule D5).
    NoReapply,
}
