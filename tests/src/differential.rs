//! The same requests to etcd and to dqlited, every answer compared.
//!
//! Requests come from a seed, one after the other, so that both servers pass through the same states. What may differ
//! is masked in `normalise.rs`, each mask with its reason (the wanted differences stand in `docs/etcd-api.md`); requests
//! that would run into another wanted difference are not made. Anything else is red.

pub mod call;
pub mod coverage;
pub mod fixed;
pub mod generate;
pub mod normalise;
pub mod run;
pub mod watch_script;
