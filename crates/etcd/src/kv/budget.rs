//! What answers under way may hold in memory together; who finds no room waits.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::transfer::Transfers;

/// Answers up to this size are not counted: a get of a few KiB never waits for somebody's list.
pub const FREE_BYTES: usize = 64 << 10;

/// Unit of the count.
const UNIT_BYTES: usize = 1 << 10;

/// Room for the encoded answers of a member, from their first byte until the connection has taken the last one.
/// First come, first served: a large answer that waits is not overtaken by smaller ones.
#[derive(Debug)]
pub struct AnswerBudget {
    free: Arc<Semaphore>,
    units: u32,
    /// The answers that hold the room.
    pub transfers: Transfers,
}

/// Room that an answer holds.
#[derive(Debug)]
pub struct Room {
    permit: OwnedSemaphorePermit,
}

impl AnswerBudget {
    /// So many bytes for all answers together.
    pub fn new(bytes: usize, transfers: Transfers) -> AnswerBudget {
        let units = u32::try_from((bytes / UNIT_BYTES).max(1)).unwrap_or(u32::MAX);
        AnswerBudget { free: Arc::new(Semaphore::new(units as usize)), units, transfers }
    }

    #[cfg(test)]
    pub fn for_test(bytes: usize) -> Arc<AnswerBudget> {
        Arc::new(AnswerBudget::new(bytes, Transfers::new(std::time::Duration::from_secs(20))))
    }

    /// An answer larger than all the room takes all of it, and so runs alone.
    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units)
    }

    /// Room for so many bytes now, or none.
    pub fn try_take(&self, bytes: usize) -> Option<Room> {
        let permit = self.free.clone().try_acquire_many_owned(self.units(bytes)).ok()?;
        Some(Room { permit })
    }

    /// Room for so many bytes, as soon as there is. Who waits also looks for clients that have stopped reading.
    pub async fn take(&self, bytes: usize) -> Room {
        let taken = self.free.clone().acquire_many_owned(self.units(bytes));
        tokio::pin!(taken);
        loop {
            match tokio::time::timeout(self.transfers.look_interval(), taken.as_mut()).await {
                Ok(permit) => return Room { permit: permit.expect("nobody closes this semaphore") },
                Err(_elapsed) => self.transfers.close_stalled(),
            };
        }
    }

    /// Whether `room` is enough for so many bytes.
    pub(super) fn covers(&self, room: Option<&Room>, bytes: usize) -> bool {
        self.units(bytes) as usize <= room.map_or(0, |room| room.permit.num_permits())
    }

    /// Makes `room` enough for so many bytes, or says that it cannot be done now.
    pub(super) fn try_widen(&self, room: &mut Option<Room>, bytes: usize) -> bool {
        let wanted = self.units(bytes) as usize;
        let held = room.as_ref().map_or(0, |room| room.permit.num_permits());
        if wanted <= held {
            return true;
        }
        // It cannot overflow: both are at most `units`.
        let Ok(more) = self.free.clone().try_acquire_many_owned((wanted - held) as u32) else {
            return false;
        };
        match room {
            Some(room) => room.permit.merge(more),
            None => *room = Some(Room { permit: more }),
        }
        true
    }
}

impl Room {
    /// Bytes that hold all of this room until the last reference to them is gone, also where it is more than they need:
    /// what was collected beside them is free, but the allocator does not give it back at once.
    pub fn hold_for(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(CountedBytes { bytes, _room: self })
    }

    fn shrink(&mut self, bytes: usize) {
        let keep = bytes.div_ceil(UNIT_BYTES);
        let surplus = self.permit.num_permits().saturating_sub(keep);
        drop(self.permit.split(surplus));
    }
}

/// A buffer that grows within the budget.
#[derive(Debug)]
pub struct BudgetBuffer {
    bytes: Vec<u8>,
    budget: Arc<AnswerBudget>,
    room: Option<Room>,
    /// Bytes that did not fit; from the first of them on nothing is kept.
    refused_bytes: usize,
}

/// What came of a buffer.
#[derive(Debug)]
pub enum Filled {
    /// All of it; its room is given back when the last reference is gone.
    Ready(Bytes),
    /// There was no room: so many bytes are needed in all.
    NeedsRoom(usize),
}

struct CountedBytes<B> {
    bytes: B,
    _room: Room,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for CountedBytes<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl BudgetBuffer {
    /// An empty buffer with the room that its owner has waited for, if any.
    pub fn new(budget: Arc<AnswerBudget>, room: Option<Room>) -> BudgetBuffer {
        BudgetBuffer { bytes: Vec::new(), budget, room, refused_bytes: 0 }
    }

    /// The bytes so far, if `more` bytes fit behind them. Callers write exactly `more` bytes then.
    #[inline]
    pub fn reserve(&mut self, more: usize) -> Option<&mut Vec<u8>> {
        if self.refused_bytes > 0 || (self.bytes.capacity() - self.bytes.len() < more && !self.grow(more)) {
            self.refused_bytes += more;
            return None;
        }
        Some(&mut self.bytes)
    }

    /// Makes room for what is about to be reserved in pieces, if there is any.
    pub fn make_room(&mut self, more: usize) {
        if self.refused_bytes == 0 && self.bytes.capacity() - self.bytes.len() < more {
            let capacity = self.bytes.len() + more;
            if capacity <= FREE_BYTES || self.budget.try_widen(&mut self.room, capacity) {
                self.bytes.reserve_exact(more);
            }
        }
    }

    /// Bytes written and refused.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.refused_bytes
    }

    /// The bytes written, to patch what has been reserved before.
    pub fn written(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn grow(&mut self, more: usize) -> bool {
        let length = self.bytes.len() + more;
        // The first growth is exact, for a point get; a list's buffer grows by halves.
        let roomy = length.max(self.bytes.capacity() + self.bytes.capacity() / 2);
        let capacity = [roomy, length]
            .into_iter()
            .find(|capacity| *capacity <= FREE_BYTES || self.budget.try_widen(&mut self.room, *capacity));
        match capacity {
            Some(capacity) => {
                self.bytes.reserve_exact(capacity - self.bytes.len());
                true
            }
            None => {
                self.refused_bytes = self.bytes.len();
                self.bytes = Vec::new();
                self.room = None;
                false
            }
        }
    }

    /// The end of writing.
    pub fn finish(mut self) -> Filled {
        if self.refused_bytes > 0 {
            return Filled::NeedsRoom(self.refused_bytes);
        }
        match self.room {
            None => Filled::Ready(Bytes::from(self.bytes)),
            Some(mut room) => {
                self.bytes.shrink_to_fit();
                room.shrink(self.bytes.len());
                Filled::Ready(Bytes::from_owner(CountedBytes { bytes: self.bytes, _room: room }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(budget: &Arc<AnswerBudget>, room: Option<Room>, pieces: usize, piece_bytes: usize) -> Filled {
        let mut buffer = BudgetBuffer::new(budget.clone(), room);
        for i in 0..pieces {
            if let Some(bytes) = buffer.reserve(piece_bytes) {
                bytes.resize(bytes.len() + piece_bytes, i as u8);
            }
        }
        buffer.finish()
    }

    #[test]
    fn small_answers_need_no_room_and_large_ones_hold_theirs_until_they_are_gone() {
        let budget = AnswerBudget::for_test(1 << 20);
        let all = budget.try_take(1 << 20).expect("all is free");
        assert!(matches!(fill(&budget, None, 60, 1024), Filled::Ready(_)));
        assert!(matches!(fill(&budget, None, 600, 1024), Filled::NeedsRoom(614_400)));
        drop(all);
        let Filled::Ready(answer) = fill(&budget, None, 600, 1024) else { panic!("there is room") };
        assert_eq!(answer.len(), 614_400);
        assert_eq!(answer[614_399], 599usize as u8);
        assert!(budget.try_take(500 << 10).is_none());
        let slice = answer.slice(5..10);
        drop(answer);
        assert!(budget.try_take(500 << 10).is_none(), "a slice is still on its way");
        drop(slice);
        assert!(budget.try_take(1 << 20).is_some());
    }

    #[tokio::test]
    async fn who_waited_for_what_was_missing_gets_through() {
        let budget = AnswerBudget::for_test(1 << 20);
        let held = budget.try_take(700 << 10).expect("all is free");
        let Filled::NeedsRoom(bytes) = fill(&budget, None, 600, 1024) else { panic!("there is no room") };
        assert!(budget.try_take(300 << 10).is_some(), "a refused buffer holds nothing");
        drop(held);
        let room = budget.take(bytes).await;
        assert!(matches!(fill(&budget, Some(room), 600, 1024), Filled::Ready(_)));
    }

    #[tokio::test]
    async fn an_answer_larger_than_the_budget_runs_alone() {
        let budget = AnswerBudget::for_test(1 << 20);
        let room = budget.take(5 << 20).await;
        let Filled::Ready(answer) = fill(&budget, Some(room), 5 << 10, 1024) else {
            panic!("it has all the room there is")
        };
        assert_eq!(answer.len(), 5 << 20);
        assert!(budget.try_take(FREE_BYTES).is_none());
    }
}
