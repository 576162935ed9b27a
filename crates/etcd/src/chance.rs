//! The one door through which chance comes into this crate: lease ids and the jitter of progress reports.

use std::hash::{BuildHasher, RandomState};

/// A random number, unlike those of other processes: SipHash of nothing under keys that the system's chance seeds and
/// that differ from call to call.
pub fn random_u64() -> u64 {
    RandomState::new().hash_one(0u8)
}
