//! Whether a write still fits into `--quota-backend-bytes`: asked before its shape is checked, as in etcd.

use futures::future::BoxFuture;

use crate::context::Context;

/// Bytes that etcd counts for a put beside key and value.
pub const PUT_OVERHEAD_BYTES: i64 = 256;
/// Bytes that etcd counts for a lease.
pub const LEASE_BYTES: i64 = 64;

/// Guards the database's size.
pub trait QuotaGate: Send + Sync + 'static {
    /// Whether `cost_bytes` more fit. Must be cheap: every Put, Txn and LeaseGrant asks.
    fn admits(&self, cost_bytes: i64) -> bool;

    /// Raises NOSPACE for this member; called when a write was not admitted, and waited for before the refusal is
    /// answered (as etcd does), so it must end by itself.
    fn raise<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, ()>;
}

/// No quota.
#[derive(Clone, Copy, Debug)]
pub struct Unlimited;

impl QuotaGate for Unlimited {
    fn admits(&self, _cost_bytes: i64) -> bool {
        true
    }

    fn raise<'a>(&'a self, _context: &'a Context) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}
