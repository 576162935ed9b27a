//! The newest revisions in memory: a watch that is a little behind takes them from here and joins, however fast others
//! write; only older ones are read from the store.

use std::collections::VecDeque;
use std::sync::Arc;

use super::encode::{EventBlock, SharedEvent};

/// What one kept revision costs at least: values may be slices of a receive buffer.
const REVISION_BYTES: usize = 4 << 10;

/// Kept revisions, without a hole.
#[derive(Debug)]
pub struct Recent {
    revisions_max: usize,
    bytes_max: usize,
    kept: VecDeque<Kept>,
    bytes: usize,
    /// Everything from this revision on is here.
    from: i64,
}

#[derive(Debug)]
struct Kept {
    revision: i64,
    block: Arc<EventBlock>,
    cost: usize,
}

impl Recent {
    /// Keeps nothing yet.
    pub fn new(revisions_max: usize, bytes_max: usize) -> Self {
        Recent { revisions_max, bytes_max, kept: VecDeque::new(), bytes: 0, from: i64::MAX }
    }

    /// Forgets everything; the next revision that comes is above `revision`.
    pub fn restart(&mut self, revision: i64) {
        self.kept.clear();
        self.bytes = 0;
        self.from = revision + 1;
    }

    /// Keeps a revision, the highest so far.
    pub fn push(&mut self, revision: i64, block: Arc<EventBlock>) {
        let cost = REVISION_BYTES + block.events.iter().map(SharedEvent::cost_bytes).sum::<usize>();
        self.bytes += cost;
        self.kept.push_back(Kept { revision, block, cost });
        while self.kept.len() > self.revisions_max || self.bytes > self.bytes_max {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.cost;
            self.from = oldest.revision + 1;
        }
    }

    /// All revisions from `revision` on, if they are all here.
    pub fn since(&self, revision: i64) -> Option<impl Iterator<Item = (i64, &Arc<EventBlock>)>> {
        if revision < self.from {
            return None;
        }
        let first = self.kept.partition_point(|kept| kept.revision < revision);
        Some(self.kept.range(first..).map(|kept| (kept.revision, &kept.block)))
    }
}
