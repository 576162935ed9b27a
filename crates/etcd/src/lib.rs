//! The etcd v3 API: gRPC services, watch fan-out, lease expiry, and the HTTP endpoints beside them.

pub mod context;
pub mod options;

pub use context::Context;
pub use options::EtcdOptions;
