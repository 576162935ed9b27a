//! Transactions that only read: compares and Ranges of one snapshot behind one barrier; nothing is proposed.

use bytes::Bytes;
use dqlited_proto::etcdserverpb as pb;
use dqlited_store::Revision;
use dqlited_store::command::{self, OpKind};
use dqlited_store::read::ReadView;
use tonic::Status;

use super::Kv;
use super::collected::{Collection, with_slack};
use super::write::first_key;
use crate::call::{self, Deadline};
use crate::slow::SlowRequest;
use crate::{convert, status};

/// Operations and compares of a transaction that is short enough to run on the spot.
const SHORT_TXN_READS_MAX: usize = 4;

impl Kv {
    pub(super) async fn read_only_txn(
        &self,
        txn: command::Txn,
        is_serializable: bool,
        mut slow: SlowRequest<'_>,
        mut deadline: Deadline,
    ) -> Result<Bytes, Status> {
        slow.asks_for(&first_key(&txn), &Bytes::new());
        let barrier = self.barrier(is_serializable, deadline.at).await?;
        slow.barrier_stands();
        let ranges = txn.success.iter().chain(&txn.failure).filter_map(|op| match &op.kind {
            Some(OpKind::Range(query)) => Some(query),
            _ => None,
        });
        let mut room;
        (room, deadline) = self.room_to_sort(ranges, deadline).await?;
        if room.is_some() {
            slow.has_room();
        }
        let node = &self.context.node;
        let is_short = is_short(&txn);
        loop {
            let header = self.context.header(Revision(0));
            let collection = Collection::new(self.budget.clone(), room.take());
            let read = {
                let txn = txn.clone();
                move |view: &dyn ReadView| {
                    let mut collection = collection;
                    let response = view.read_only_txn(&txn, &mut |kv| collection.keep(&kv))?;
                    let header = pb::ResponseHeader { revision: view.revision().0, ..header };
                    Ok(collection
                        .finish()
                        .map(|held| (call::frame(&convert::txn_response(response, header)), held)))
                }
            };
            let answer = if is_short {
                node.point_read_timed(barrier, deadline.at, read).await
            } else {
                node.read_timed(barrier, deadline.at, read).await
            };
            let answer = answer.map_err(status::from_read_failure)?;
            slow.was_read(answer.moments);
            match answer.answer.map_err(status::from_read_error)? {
                Ok((frame, held)) => {
                    return Ok(self.counted(frame, held));
                }
                Err(needed) => {
                    slow.goes_on();
                    room = Some(self.room(with_slack(needed.bytes), deadline).await?);
                    slow.has_room();
                    deadline = deadline.renewed(&self.context);
                }
            }
        }
    }
}

fn is_short(txn: &command::Txn) -> bool {
    let is_point =
        |op: &command::Op| matches!(&op.kind, Some(OpKind::Range(query)) if query.range_end.is_empty());
    txn.compare.len() + txn.success.len().max(txn.failure.len()) <= SHORT_TXN_READS_MAX
        && txn.compare.iter().all(|compare| compare.range_end.is_empty())
        && txn.success.iter().chain(&txn.failure).all(is_point)
}
