//! What the tests share: processes under test, generators, checkers.

pub mod cluster;
pub mod differential;
