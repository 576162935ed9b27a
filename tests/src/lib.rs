//! What the tests share: processes under test, generators, checkers.

pub mod differential;
