//! When a request passed from one stage to the next, by the member's clock: what a slow request is told apart by.

use std::time::Instant;

/// The moments of a carried-out write, in their order unless it was offered more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteMoments {
    /// Handed to the consensus, the last time if it was offered again.
    pub offered: Instant,
    /// Said to be committed by the consensus, and durable in this member's own log.
    pub logged: Instant,
    /// Executed, with all of its batch, and committed to SQLite where each batch is.
    pub executed: Instant,
}

/// The moments of a read that was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadMoments {
    /// What its barrier names could be read.
    pub visible: Instant,
    /// A reader was free.
    pub begun: Instant,
    /// All was read.
    pub ended: Instant,
}

/// A read's answer with its moments.
#[derive(Clone, Copy, Debug)]
pub struct Timed<T> {
    /// The answer.
    pub answer: T,
    /// The moments.
    pub moments: ReadMoments,
}
