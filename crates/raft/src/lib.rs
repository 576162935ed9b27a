//! One member of the cluster: openraft tied to log, store and (later) the wire between members.

pub mod listener;
pub mod node;
pub mod options;
pub mod status;

pub use listener::ApplyListener;
pub use node::{Barrier, Node, ProposeError, Proposed, ReadFailure, StartError};
pub use options::{Limits, NodeOptions};
pub use status::{LeaderState, NodeStatus};
