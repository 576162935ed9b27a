//! One member of the cluster: openraft tied to log, store and (later) the wire between members.

mod apply_control;
mod apply_loop;
mod apply_queue;
mod background;
mod checkpoint;
mod codec;
mod data_dir;
mod durable_state;
pub mod environment;
mod failure;
mod ids;
mod leadership;
pub mod listener;
mod log_store;
mod log_writer;
pub mod moments;
pub mod node;
pub mod options;
mod pacemaker;
mod peer_client;
mod planted;
mod proposals;
mod read_index;
mod readers;
mod retention;
mod start;
mod state_machine;
pub mod status;
#[cfg(test)]
mod tests;
mod type_config;
mod visible;
mod worker;

pub use data_dir::DataDirError;
pub use environment::Environment;
pub use ids::{cluster_id, member_id};
pub use listener::ApplyListener;
pub use moments::{ReadMoments, Timed, WriteMoments};
pub use node::{Barrier, Node, ProposeError, Proposed, ReadFailure};
pub use options::{Limits, NodeOptions};
#[cfg(feature = "planted-bugs")]
pub use planted::Bug;
pub use start::StartError;
pub use status::{LeaderState, NodeCounters, NodeStatus};
