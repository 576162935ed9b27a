//! Watches: who is told what was applied, how those who were away catch up, and the service that carries it.

mod catch_up;
mod encode;
mod hub;
mod interval;
pub(crate) mod leader;
mod local;
mod message;
mod node_history;
mod planted;
mod publish;
mod queue;
mod recent;
mod service;
mod slots;
#[cfg(test)]
pub(crate) mod tests;
mod watcher;

pub use hub::{Hub, WatchStats};
pub use interval::KeyInterval;
pub use local::{LocalEvents, LocalWatch};
pub use queue::WatchLimits;
pub use service::{WatchServer, WatchService};
