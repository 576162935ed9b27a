//! What the tests of the watches share, and their properties against a model.

use bytes::Bytes;

/// Repeatable chance (splitmix64).
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of few short keys.
    pub fn key(&mut self) -> Bytes {
        let length = 1 + self.below(3) as usize;
        (0..length).map(|_| b'a' + self.below(4) as u8).collect()
    }
}

mod bounds;
mod model;
mod property;

/// The next message of a stream, if there is one now.
pub fn poll_message(
    queue: &super::queue::StreamQueue,
) -> Option<Result<super::message::Message, tonic::Status>> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match queue.poll_next(&mut context) {
        std::task::Poll::Ready(message) => message,
        std::task::Poll::Pending => None,
    }
}
