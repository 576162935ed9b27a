//! What the tests share: processes under test, generators, checkers.

pub mod acknowledged;
pub mod api;
pub mod cluster;
pub mod differential;
pub mod not_run;
pub mod power;
