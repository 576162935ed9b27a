//! The replicated state in SQLite: applies commands in order and answers reads at a revision.

pub mod command;
pub mod event;
pub mod ids;
pub mod read;
pub mod response;
pub mod store;

pub use command::Command;
pub use event::{Event, EventKind, KeyValue};
pub use ids::{Identity, LeaderId, LeaseId, LogId, MemberId, Revision};
pub use response::{Applied, CommandError, Response};
