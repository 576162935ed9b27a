//! The versions that the program reports.

/// Its own.
pub const OWN: &str = env!("CARGO_PKG_VERSION");

/// What `dqlited version` prints.
pub fn text() -> String {
    format!("dqlited {OWN}\netcd API {}\n", etcd())
}

/// The version of etcd whose API is served, as it stands in Status.
pub fn etcd() -> &'static str {
    dqlited_etcd::version::ETCD
}
