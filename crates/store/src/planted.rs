//! Bugs that can be switched on, so that the tests show that they would find them.

use crate::store::StoreOptions;

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("the feature planted-bugs is for tests and never part of a release build");

/// A bug to carry.
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code, reason = "asked for, never made"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedBug {
    /// An expiry counts under any leader (M19, rule W3).
    ExpiryUnderAnyLeader,
    /// Identities and alarms in memory outlive the SQLite transaction that held them (M27, rule D5).
    MemoryOutlivesTransaction,
    /// Identities are written when the next batch begins, not before each COMMIT (M28, rule W1).
    IdentitiesAfterCommit,
    /// A kept snapshot serves for as long as the revision stands still (M29, rule D5).
    SnapshotKeptByRevision,
}

/// The bug that a store carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planted {
    #[cfg(feature = "planted-bugs")]
    bug: Option<PlantedBug>,
}

#[cfg(feature = "planted-bugs")]
impl Planted {
    pub fn of(options: &StoreOptions) -> Planted {
        Planted { bug: options.planted }
    }

    pub fn has(self, bug: PlantedBug) -> bool {
        self.bug == Some(bug)
    }
}

#[cfg(not(feature = "planted-bugs"))]
impl Planted {
    pub fn of(_options: &StoreOptions) -> Planted {
        Planted {}
    }

    /// Never.
    pub fn has(self, _bug: PlantedBug) -> bool {
        false
    }
}
