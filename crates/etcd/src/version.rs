//! The versions that a member names.

/// The version of etcd whose API is served, as Status and /version say it. kube-apiserver parses it and turns
/// consistent reads from its cache and streaming lists on from 3.5.13.
pub const ETCD: &str = "3.7.3";
/// etcd's cluster version.
pub const ETCD_CLUSTER: &str = "3.7.0";
/// etcd's storage version: the format of backups.
pub const ETCD_STORAGE: &str = "3.7.0";
/// This program's own version.
pub const OWN: &str = env!("CARGO_PKG_VERSION");
