//! Leases: who holds them, when their time is over, and the service that grants and renews them.

mod expiry;
mod run;
mod service;
mod table;

pub use run::run;
pub use service::LeaseService;
pub use table::{LeaseStats, LeaseTable};
