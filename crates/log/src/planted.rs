//! Bugs that can be switched on, so that the crash tests show that they would find them.

use crate::options::LogOptions;

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("the feature planted-bugs is for tests and never part of a release build");

/// A bug to carry.
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code, reason = "asked for, never made"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedBug {
    /// Operations are completed before the fdatasync.
    AcknowledgeBeforeSync,
    /// Opening does not sync what it read (M9, rule D1).
    OpenWithoutSync,
    /// A cut tail is left as it is (M15, rule D1).
    CutWithoutZeroing,
    /// Segments are given up before the purge is durable (M16, rule D3).
    RecycleBeforePurge,
    /// Votes are completed by their own file, before the entries in front of them are durable (M23).
    VoteOvertakesAppends,
}

/// Whether this log carries the bug.
#[cfg(feature = "planted-bugs")]
pub(crate) fn has(options: &LogOptions, bug: PlantedBug) -> bool {
    options.planted == Some(bug)
}

/// Whether this log carries the bug: never.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) fn has(_options: &LogOptions, _bug: PlantedBug) -> bool {
    false
}
