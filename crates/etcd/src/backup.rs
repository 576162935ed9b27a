//! Backups in the format that etcd's own tools read.

pub mod bbolt;
pub mod export;
pub mod stream;
