//! The store through its face: each test is one promise of `dqlited-store`.

mod bed;
mod checkpoints;
mod compaction;
mod damage;
mod identities;
mod keys;
mod leases;
#[cfg(feature = "planted-bugs")]
mod planted;
mod txns;
