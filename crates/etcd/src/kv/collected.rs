//! Room for answers that are collected before they are encoded: those of transactions, and of deletes with the records
//! before. What a write answers is looked at before it is proposed, since afterwards it cannot wait for room.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use dqlited_proto::etcdserverpb::range_request::SortTarget;
use dqlited_store::command::{Kind, Op, OpKind, RangeQuery, Txn};
use dqlited_store::read::{KeyValueRef, ReadError, ReadView};
use tonic::Status;

use super::Kv;
use super::answer::kv_bytes;
use super::budget::{AnswerBudget, FREE_BYTES, Room};
use crate::call::Deadline;
use crate::status;

/// Point reads of a write that are not looked at beforehand: what Kubernetes sends. Their records may be as large as a
/// request each.
const POINTS_UNSEEN_MAX: usize = 4;

/// A record that is collected and then encoded stands twice in memory, ...
const COPIES: usize = 2;
/// ... and the collected one has a place in a list and two allocations besides, bytes.
const RECORD_OVERHEAD_BYTES: usize = 256;

/// Room that is asked for beyond what an answer needed, since more may have been written meanwhile: one part in so
/// many.
const SLACK_PART: usize = 8;

/// What to ask for when so many bytes were needed.
pub fn with_slack(bytes: usize) -> usize {
    bytes + bytes / SLACK_PART
}

fn collected_bytes(kv: &KeyValueRef<'_>) -> usize {
    COPIES * kv_bytes(kv) + RECORD_OVERHEAD_BYTES
}

/// An answer being collected within the budget.
#[derive(Debug)]
pub struct Collection {
    budget: Arc<AnswerBudget>,
    room: Option<Room>,
    bytes: usize,
    /// There was no room; from then on nothing is kept.
    is_refused: bool,
}

/// There was no room for an answer.
#[derive(Clone, Copy, Debug)]
pub struct NeedsRoom {
    /// What it takes in all.
    pub bytes: usize,
}

impl Collection {
    /// With the room that its owner has waited for, if any.
    pub fn new(budget: Arc<AnswerBudget>, room: Option<Room>) -> Collection {
        Collection { budget, room, bytes: 0, is_refused: false }
    }

    /// Counts a record; says whether it may be kept.
    pub fn keep(&mut self, kv: &KeyValueRef<'_>) -> bool {
        self.bytes += collected_bytes(kv);
        if self.is_refused {
            return false;
        }
        // By halves, so that a list of many records asks seldom; exactly, when that is too much.
        let roomy = self.bytes + self.bytes / 2;
        self.is_refused = self.bytes > FREE_BYTES
            && !self.budget.covers(self.room.as_ref(), self.bytes)
            && !self.budget.try_widen(&mut self.room, roomy)
            && !self.budget.try_widen(&mut self.room, self.bytes);
        if self.is_refused {
            // Who waits gets it; what was kept goes when the read has ended.
            self.room = None;
        }
        !self.is_refused
    }

    /// The room that the collected answer holds.
    pub fn finish(self) -> Result<Option<Room>, NeedsRoom> {
        if self.is_refused { Err(NeedsRoom { bytes: self.bytes }) } else { Ok(self.room) }
    }
}

impl Kv {
    /// Room for what a write reads, before it is proposed; waits for it like a read. A write that reads nothing or a few
    /// keys needs none.
    pub(super) async fn foreseen_room(
        &self,
        kind: &Kind,
        deadline: Deadline,
    ) -> Result<(Option<Room>, Deadline), Status> {
        if !reads_much(kind) {
            return Ok((None, deadline));
        }
        let kind = kind.clone();
        self.room_for(move |view| answer_bytes(view, &kind), deadline).await
    }

    /// Room for the values that a sort by value holds while it sorts, and for the answer; none for other Ranges. Both are
    /// asked for at once: who held the one while waiting for the other could wait for ever.
    pub(super) async fn room_to_sort(
        &self,
        queries: impl IntoIterator<Item = &RangeQuery>,
        deadline: Deadline,
    ) -> Result<(Option<Room>, Deadline), Status> {
        let sorts: Vec<RangeQuery> =
            queries.into_iter().filter(|query| holds_values(query)).cloned().collect();
        if sorts.is_empty() {
            return Ok((None, deadline));
        }
        let bytes = move |view: &dyn ReadView| sorts.iter().map(|query| query_bytes(view, query)).sum();
        self.room_for(bytes, deadline).await
    }

    async fn room_for(
        &self,
        bytes: impl FnOnce(&dyn ReadView) -> Result<usize, ReadError> + Send + 'static,
        deadline: Deadline,
    ) -> Result<(Option<Room>, Deadline), Status> {
        let node = &self.context.node;
        let bytes = node.read(node.local_barrier(), deadline.at, bytes).await;
        let bytes = bytes.map_err(status::from_read_failure)?.map_err(status::from_read_error)?;
        if bytes <= FREE_BYTES {
            return Ok((None, deadline));
        }
        let room = self.room(with_slack(bytes), deadline).await?;
        Ok((Some(room), deadline.renewed(&self.context)))
    }

    /// An answer with the room that it has held, or with what is free: a write that is made does not wait.
    pub(super) fn counted(&self, frame: Bytes, room: Option<Room>) -> Bytes {
        let room = room.or_else(|| (frame.len() > FREE_BYTES).then(|| self.budget.try_take(frame.len()))?);
        match room {
            Some(room) => room.hold_for(frame),
            None => frame,
        }
    }
}

fn reads_much(kind: &Kind) -> bool {
    match kind {
        Kind::DeleteRange(delete) => delete.prev_kv && !delete.range_end.is_empty(),
        Kind::Txn(txn) => points(txn) > POINTS_UNSEEN_MAX,
        _ => false,
    }
}

/// Keys that the operations of a transaction read, both branches; an interval counts as very many.
fn points(txn: &Txn) -> usize {
    const VERY_MANY: usize = POINTS_UNSEEN_MAX + 1;
    let of_interval = |range_end: &[u8]| if range_end.is_empty() { 1 } else { VERY_MANY };
    let of_op = |op: &Op| match &op.kind {
        Some(OpKind::Range(query)) if !query.count_only => of_interval(&query.range_end),
        Some(OpKind::DeleteRange(delete)) if delete.prev_kv => of_interval(&delete.range_end),
        Some(OpKind::Put(put)) if put.prev_kv => 1,
        Some(OpKind::Txn(inner)) => points(inner),
        _ => 0,
    };
    txn.success.iter().chain(&txn.failure).map(of_op).sum()
}

/// What the answer would hold now, the larger branch of each transaction.
fn answer_bytes(view: &dyn ReadView, kind: &Kind) -> Result<usize, ReadError> {
    match kind {
        Kind::DeleteRange(delete) => interval_bytes(view, &delete.key, &delete.range_end),
        Kind::Txn(txn) => txn_bytes(view, txn),
        _ => Ok(0),
    }
}

fn txn_bytes(view: &dyn ReadView, txn: &Txn) -> Result<usize, ReadError> {
    let branch = |ops: &[Op]| ops.iter().map(|op| op_bytes(view, op)).sum::<Result<usize, _>>();
    Ok(branch(&txn.success)?.max(branch(&txn.failure)?))
}

fn op_bytes(view: &dyn ReadView, op: &Op) -> Result<usize, ReadError> {
    match &op.kind {
        Some(OpKind::Range(query)) => query_bytes(view, query),
        Some(OpKind::DeleteRange(delete)) if delete.prev_kv => {
            interval_bytes(view, &delete.key, &delete.range_end)
        }
        Some(OpKind::Put(put)) if put.prev_kv => interval_bytes(view, &put.key, b""),
        Some(OpKind::Txn(inner)) => txn_bytes(view, inner),
        _ => Ok(0),
    }
}

fn interval_bytes(view: &dyn ReadView, key: &Bytes, range_end: &[u8]) -> Result<usize, ReadError> {
    let range_end = Bytes::copy_from_slice(range_end);
    query_bytes(view, &RangeQuery { key: key.clone(), range_end, ..RangeQuery::default() })
}

/// Whether the store holds all values of the interval to answer it, whatever the answer has of them.
fn holds_values(query: &RangeQuery) -> bool {
    query.sort_target == i32::from(SortTarget::Value) && !query.range_end.is_empty() && !query.count_only
}

fn query_bytes(view: &dyn ReadView, query: &RangeQuery) -> Result<usize, ReadError> {
    let whole = RangeQuery {
        key: query.key.clone(),
        range_end: query.range_end.clone(),
        revision: query.revision,
        ..RangeQuery::default()
    };
    let mut bytes = 0;
    let read = view.range(if holds_values(query) { &whole } else { query }, &mut |kv| {
        bytes += collected_bytes(&kv);
        ControlFlow::Continue(())
    });
    match read {
        Ok(_) => Ok(bytes),
        // The write will be refused for it where it is applied, or it has become readable by then.
        Err(ReadError::Compacted | ReadError::FutureRevision) => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use dqlited_store::command::{DeleteRange, Put};

    use super::*;

    fn kv(value: &[u8]) -> KeyValueRef<'_> {
        KeyValueRef { key: b"k", create_revision: 2, mod_revision: 2, version: 1, value, lease: 0 }
    }

    #[test]
    fn a_collection_without_room_keeps_nothing_more_and_says_what_it_takes() {
        let budget = AnswerBudget::for_test(1 << 20);
        let held = budget.try_take(800 << 10).expect("all is free");
        let value = vec![7; 10_000];
        let mut collection = Collection::new(budget.clone(), None);
        let kept = (0..30).filter(|_| collection.keep(&kv(&value))).count();
        assert!((4..30).contains(&kept), "{kept}");
        let needed = collection.finish().expect_err("there is no room").bytes;
        assert!((600_000..700_000).contains(&needed), "{needed}");
        assert!(budget.try_take(224 << 10).is_some(), "a refused collection holds nothing");
        drop(held);
        let room = budget.try_take(with_slack(needed));
        let mut collection = Collection::new(budget.clone(), room);
        assert!((0..30).all(|_| collection.keep(&kv(&value))));
        let _room = collection.finish().expect("there is room").expect("and it is held");
        assert!(budget.try_take(600 << 10).is_none());
    }

    #[test]
    fn small_collections_need_no_room() {
        let budget = AnswerBudget::for_test(1 << 20);
        let _all = budget.try_take(1 << 20);
        let mut collection = Collection::new(budget, None);
        assert!((0..100).all(|_| collection.keep(&kv(b"v"))));
        assert!(collection.finish().expect("it is small").is_none());
    }

    #[test]
    fn only_a_sort_of_an_interval_by_value_holds_values() {
        let sorted = |sort_target: i32, range_end: &'static str| RangeQuery {
            sort_target,
            range_end: range_end.into(),
            limit: 1,
            keys_only: true,
            ..Default::default()
        };
        let held: Vec<i32> = (0..5).filter(|target| holds_values(&sorted(*target, "z"))).collect();
        assert_eq!(held, [i32::from(SortTarget::Value)]);
        assert!(!holds_values(&sorted(4, "")));
        assert!(!holds_values(&RangeQuery { count_only: true, ..sorted(4, "z") }));
    }

    #[test]
    fn only_writes_that_read_more_than_a_few_keys_are_looked_at_beforehand() {
        let op = |kind| Op { kind: Some(kind) };
        let range =
            |range_end: &'static str| RangeQuery { range_end: range_end.into(), ..Default::default() };
        let point = || op(OpKind::Range(range("")));
        let list = op(OpKind::Range(range("z")));
        let counted = op(OpKind::Range(RangeQuery { count_only: true, ..range("z") }));
        let delete = |range_end: &'static str, prev_kv| DeleteRange {
            range_end: range_end.into(),
            prev_kv,
            ..Default::default()
        };
        let put = op(OpKind::Put(Put { prev_kv: true, ..Default::default() }));
        let txn = |success, failure| Txn { success, failure, ..Default::default() };
        let looked_at = |txn| reads_much(&Kind::Txn(txn));

        assert!(!looked_at(txn(vec![put.clone()], vec![point()])), "what Kubernetes sends");
        assert!(!looked_at(txn(vec![counted], vec![op(OpKind::DeleteRange(delete("z", false)))])));
        assert!(looked_at(txn(vec![put; 3], vec![point(), point()])));
        assert!(looked_at(txn(vec![], vec![list.clone()])));
        assert!(looked_at(txn(vec![op(OpKind::Txn(txn(vec![list], vec![])))], vec![])));
        assert!(looked_at(txn(vec![op(OpKind::DeleteRange(delete("z", true)))], vec![])));
        assert!(reads_much(&Kind::DeleteRange(delete("z", true))));
        assert!(!reads_much(&Kind::DeleteRange(delete("z", false))));
        assert!(!reads_much(&Kind::DeleteRange(delete("", true))));
    }
}
