//! RangeStream: a list in chunks of about one MiB, read at one pinned revision as fast as the client takes them.
//!
//! One pass over the rows fills chunks until the list ends, the client is behind by some chunks, or there is no room in
//! the budget; then the reader thread is given back and a later pass goes on from the next key. So a slow client holds
//! neither a thread nor a snapshot, and a compaction past the pinned revision ends its stream, as in etcd.

use std::ops::ControlFlow;

use bytes::Bytes;
use dqlited_proto::etcdserverpb as pb;
use dqlited_raft::{Barrier, Timed};
use dqlited_store::Revision;
use dqlited_store::command::RangeQuery;
use dqlited_store::read::{KeyValueRef, RangeSummary, ReadError, ReadView};
use tokio::sync::mpsc;
use tonic::Status;

use super::Kv;
use super::answer::RangeAnswer;
use super::budget::{BudgetBuffer, Filled, Room};
use crate::call::{self, Deadline};
use crate::{checks, convert, status};

/// A chunk is closed by the record after this many bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks that wait for the client.
const CHUNKS_AHEAD_MAX: usize = 8;

/// Chunks as they become ready.
pub type Chunks = mpsc::Receiver<Result<Bytes, Status>>;

impl Kv {
    /// Begins a stream: what is wrong with its shape is said at once, all else in the stream.
    pub fn range_stream(&self, message: Bytes, deadline: Deadline) -> Result<Chunks, Status> {
        let request: pb::RangeRequest = call::decode(message)?;
        checks::check_range_stream(&request)?;
        let is_serializable = request.serializable;
        let mut query = convert::range(request);
        // Key order, whatever target was named with NONE.
        (query.sort_order, query.sort_target) = (0, 0);
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD_MAX);
        let kv = self.clone();
        tokio::spawn(async move {
            if let Err(status) = kv.stream(query, is_serializable, deadline, &sender).await {
                // A client that has gone needs no status.
                let _ = sender.send(Err(deadline.judge(status))).await;
            }
        });
        Ok(chunks)
    }

    async fn stream(
        &self,
        query: RangeQuery,
        is_serializable: bool,
        mut deadline: Deadline,
        sender: &mpsc::Sender<Result<Bytes, Status>>,
    ) -> Result<(), Status> {
        let mut slow = self.slow.begin("RangeStream");
        slow.asks_for(&query.key, &query.range_end);
        let barrier = self.barrier(is_serializable, deadline.at).await?;
        slow.barrier_stands();
        let mut pass = Pass {
            query,
            header: self.context.header(Revision(0)),
            total: None,
            sender: sender.clone(),
            room: None,
        };
        // Each turn sends at least one chunk or comes back with the room for one.
        loop {
            let ran = self.run(pass, barrier, deadline).await?;
            slow.was_read(ran.moments);
            match ran.answer.map_err(status::from_read_error)? {
                PassEnd::Last(chunk) => {
                    let _ = sender.send(Ok(chunk)).await;
                    slow.was_taken();
                    return Ok(());
                }
                PassEnd::ClientBehind(rest, chunk) => {
                    let sent = sender.send(Ok(chunk)).await;
                    slow.was_taken();
                    if sent.is_err() {
                        return Ok(());
                    }
                    pass = rest;
                }
                PassEnd::NeedsRoom(rest, bytes) => {
                    // Twice as much: the same chunk may find another record in its way.
                    let room = tokio::select! {
                        room = self.room(2 * bytes, deadline) => room?,
                        _ = sender.closed() => return Ok(()),
                    };
                    slow.has_room();
                    pass = Pass { room: Some(room), ..rest };
                }
            }
            slow.goes_on();
            deadline = deadline.renewed(&self.context);
        }
    }

    async fn run(
        &self,
        pass: Pass,
        barrier: Barrier,
        deadline: Deadline,
    ) -> Result<Timed<Result<PassEnd, ReadError>>, Status> {
        let budget = self.budget.clone();
        let buffer = move |room| BudgetBuffer::new(budget.clone(), room);
        self.context
            .node
            .read_timed(barrier, deadline.at, move |view: &dyn ReadView| pass.run(view, &buffer))
            .await
            .map_err(status::from_read_failure)
    }
}

/// What is left of a stream.
struct Pass {
    query: RangeQuery,
    header: pb::ResponseHeader,
    /// All keys of the original interval, known from the first pass.
    total: Option<i64>,
    sender: mpsc::Sender<Result<Bytes, Status>>,
    room: Option<Room>,
}

enum PassEnd {
    /// The list has ended with this chunk.
    Last(Bytes),
    /// This chunk found no place in the channel.
    ClientBehind(Pass, Bytes),
    /// A chunk of so many bytes found no room in the budget.
    NeedsRoom(Pass, usize),
}

/// Why a pass ends before the list.
enum Stop {
    ClientBehind { chunk: Bytes, next_key: Bytes },
    NeedsRoom { bytes: usize, next_key: Bytes },
}

impl Pass {
    fn run(
        mut self,
        view: &dyn ReadView,
        buffer: &dyn Fn(Option<Room>) -> BudgetBuffer,
    ) -> Result<PassEnd, ReadError> {
        if self.total.is_none() {
            // The stream's revision is that of its first view; its header says so to the end.
            self.header.revision = view.revision().0;
            if self.query.revision <= 0 {
                self.query.revision = view.revision().0;
            }
        }
        let mut chunks = ChunkWriter {
            chunk: RangeAnswer::chunk(buffer(self.room.take())),
            first_key: Vec::new(),
            records: 0,
            records_closed: 0,
            stop: None,
            sender: &self.sender,
            buffer,
        };
        let summary = view.range(&self.query, &mut |kv| chunks.push(&kv))?;
        let ChunkWriter { chunk, first_key, records_closed, stop, .. } = chunks;
        let total = *self.total.get_or_insert(summary.count);
        let end = match stop {
            Some(stop) => Err(stop),
            None => {
                match chunk.finish_last(&self.header, RangeSummary { count: total, more: summary.more }) {
                    Filled::Ready(chunk) => Ok(chunk),
                    Filled::NeedsRoom(bytes) => {
                        Err(Stop::NeedsRoom { bytes, next_key: Bytes::from(first_key) })
                    }
                }
            }
        };
        let stop = match end {
            Ok(chunk) => return Ok(PassEnd::Last(chunk)),
            Err(stop) => stop,
        };
        if self.query.limit > 0 {
            self.query.limit -= records_closed;
        }
        Ok(match stop {
            Stop::ClientBehind { chunk, next_key } => {
                self.query.key = next_key;
                PassEnd::ClientBehind(self, chunk)
            }
            Stop::NeedsRoom { bytes, next_key } => {
                self.query.key = next_key;
                PassEnd::NeedsRoom(self, bytes)
            }
        })
    }
}

struct ChunkWriter<'a> {
    chunk: RangeAnswer,
    first_key: Vec<u8>,
    /// Records in `chunk`.
    records: i64,
    /// Records in chunks before it.
    records_closed: i64,
    stop: Option<Stop>,
    sender: &'a mpsc::Sender<Result<Bytes, Status>>,
    buffer: &'a dyn Fn(Option<Room>) -> BudgetBuffer,
}

impl ChunkWriter<'_> {
    fn push(&mut self, kv: &KeyValueRef<'_>) -> ControlFlow<()> {
        if self.chunk.len() >= CHUNK_BYTES {
            self.close(kv.key);
            if self.stop.is_some() {
                return ControlFlow::Break(());
            }
        }
        if self.records == 0 {
            self.first_key.clear();
            self.first_key.extend_from_slice(kv.key);
        }
        self.chunk.push(kv);
        self.records += 1;
        ControlFlow::Continue(())
    }

    /// Sends the chunk, which others follow: at least the record of `next_key`.
    fn close(&mut self, next_key: &[u8]) {
        let chunk = std::mem::replace(&mut self.chunk, RangeAnswer::chunk((self.buffer)(None)));
        let records = std::mem::take(&mut self.records);
        match chunk.finish_chunk() {
            Filled::NeedsRoom(bytes) => {
                let next_key = Bytes::copy_from_slice(&self.first_key);
                self.stop = Some(Stop::NeedsRoom { bytes, next_key });
            }
            Filled::Ready(chunk) => {
                self.records_closed += records;
                if let Err(
                    mpsc::error::TrySendError::Full(Ok(chunk)) | mpsc::error::TrySendError::Closed(Ok(chunk)),
                ) = self.sender.try_send(Ok(chunk))
                {
                    let next_key = Bytes::copy_from_slice(next_key);
                    self.stop = Some(Stop::ClientBehind { chunk, next_key });
                }
            }
        }
    }
}
