//! Range: a point get right here, everything else on a reader thread; encoded while the rows are read.

use std::ops::ControlFlow;

use bytes::Bytes;
use dqlited_proto::etcdserverpb as pb;
use dqlited_store::command::RangeQuery;
use dqlited_store::read::{ReadError, ReadView};
use tonic::Status;

use super::Kv;
use super::answer::{self, RangeAnswer};
use super::budget::{BudgetBuffer, Filled};
use super::collected::with_slack;
use crate::call::{self, Deadline};
use crate::{checks, convert, status};

impl Kv {
    pub(super) async fn range(&self, message: Bytes, deadline: Deadline) -> Result<Bytes, Status> {
        let mut slow = self.slow.begin("Range");
        let request: pb::RangeRequest = call::decode(message)?;
        checks::check_range(&request)?;
        let is_serializable = request.serializable;
        let query = convert::range(request);
        slow.asks_for(&query.key, &query.range_end);
        let barrier = self.barrier(is_serializable, deadline.at).await?;
        slow.barrier_stands();

        let (mut room, mut deadline) = self.room_to_sort([&query], deadline).await?;
        if room.is_some() {
            slow.has_room();
        }
        let node = &self.context.node;
        // Each turn but the last ends with "needs room", and the room grows: it ends at the latest when an answer has
        // all the room there is.
        let answer = loop {
            let header = self.context.header(dqlited_store::Revision(0));
            let buffer = BudgetBuffer::new(self.budget.clone(), room.take());
            let filled = if query.range_end.is_empty() {
                let read = |view: &dyn ReadView| read_range(view, &query, header, buffer);
                node.point_read_timed(barrier, deadline.at, read).await
            } else {
                let query = query.clone();
                let read = move |view: &dyn ReadView| read_range(view, &query, header, buffer);
                node.read_timed(barrier, deadline.at, read).await
            };
            let filled = filled.map_err(status::from_read_failure)?;
            slow.was_read(filled.moments);
            match filled.answer.map_err(status::from_read_error)? {
                Filled::Ready(answer) => break answer,
                Filled::NeedsRoom(bytes) => {
                    slow.goes_on();
                    room = Some(self.room(with_slack(bytes), deadline).await?);
                    slow.has_room();
                    deadline = deadline.renewed(&self.context);
                }
            }
        };
        answer::check_size(&answer)?;
        Ok(answer)
    }
}

/// The header's revision is the view's own: current for the answer, whatever revision was asked for.
fn read_range(
    view: &dyn ReadView,
    query: &RangeQuery,
    mut header: pb::ResponseHeader,
    buffer: BudgetBuffer,
) -> Result<Filled, ReadError> {
    header.revision = view.revision().0;
    let mut answer = RangeAnswer::unary(buffer, header);
    let summary = view.range(query, &mut |kv| {
        answer.push(&kv);
        // Without room the rest is still looked at: how much is needed must be known.
        ControlFlow::Continue(())
    })?;
    Ok(answer.finish(summary))
}
