//! The etcd v3 API: gRPC services, watch fan-out, lease expiry, and the HTTP endpoints beside them.

pub mod auth;
pub mod backup;
pub mod body;
pub mod call;
pub mod chance;
pub mod checks;
pub mod cluster;
pub mod compactor;
pub mod context;
pub mod convert;
pub mod disk;
pub mod election;
pub mod health;
pub mod http;
pub mod kv;
pub mod lease;
pub mod listeners;
pub mod lock;
pub mod maintenance;
pub mod metrics;
pub mod options;
pub mod parts;
pub mod queue_of_keys;
pub mod quota;
pub mod routes;
pub mod rpc_counters;
pub mod scrape;
pub mod server;
pub mod slow;
pub mod status;
pub mod version;
pub mod watch;

pub use context::Context;
pub use options::EtcdOptions;
pub use parts::Parts;
