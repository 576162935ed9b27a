//! The API suite: real gRPC against the real program, one module a service. A test is named as the promise it holds.

mod api;
mod api_kv;
mod api_maintenance;
mod api_server;
mod api_txn;
mod backup;
mod etcdctl;
mod http;
mod peers;
mod slow;
