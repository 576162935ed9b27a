//! The replicated state in SQLite: applies commands in order and answers reads at a revision.

mod change;
mod checkpoint;
pub mod command;
mod compact;
mod compare;
mod deep;
pub mod event;
mod events;
mod fatal;
mod hash;
mod identity;
pub mod ids;
mod interval;
mod meta;
#[cfg(any(test, feature = "testing"))]
pub mod model;
mod planted;
mod range;
pub mod read;
mod reader;
mod record;
pub mod reserve;
pub mod response;
mod retained;
mod schema;
mod sql;
pub mod store;
mod txn;
mod writer;

pub use command::Command;
pub use deep::decode_command;
pub use event::{Event, EventKind, KeyValue};
pub use ids::{Identity, LeaderId, LeaseId, LogId, MemberId, Revision};
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
pub use response::{Applied, CommandError, Response};
