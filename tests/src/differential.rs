//! The same requests to etcd and to dqlited, every answer compared.
//!
//! Requests come from a seed, one after the other, so that both servers pass through the same states. What may differ
//! stands, with its reasons, in two lists: `masked.rs` (ids, terms, sizes, times) and `wanted.rs` (the wanted differences
//! of `docs/etcd-api.md`, and what would end etcd's process). Their entries do all there is of it, and a run must come
//! across each of them. Any other difference is red.

mod avoid;
pub mod call;
pub mod coverage;
pub mod fixed;
pub mod generate;
pub mod listed;
pub mod masked;
mod normalise;
pub mod run;
#[cfg(test)]
mod tests;
pub mod wanted;
pub mod watch_script;
