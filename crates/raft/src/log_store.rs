//! openraft's log storage over `dqlited_log`: entries, truncations and votes in one ordered queue.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::sync::Arc;

use dqlited_log::{Log, LogError, Operation, Vote};
use futures::Stream;
use openraft::OptionalSend;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use crate::apply_queue::ApplyQueue;
use crate::codec;
use crate::failure::Failure;
use crate::type_config::{
    RaftEntry, RaftLogId, RaftVote, TypeConfig, from_stored_log_id, log_id, raft_log_id, stored_log_id,
};
use crate::worker::Signal;

/// Bytes of one request to a follower, at least one entry (openraft limits by count alone).
const REQUEST_BYTES_MAX: usize = 256 << 10;
/// Bytes read at once on the way to the apply loop.
const APPLY_READ_BYTES_MAX: usize = 1 << 20;

/// The log as openraft sees it. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Log,
    /// Raised when something was submitted: an inline writer waits for it.
    writer_signal: Arc<Signal>,
    /// Told when something became durable: the apply loop may wait for it.
    apply_queue: Arc<ApplyQueue>,
    failure: Failure,
}

impl LogStore {
    pub(crate) fn new(
        log: Log,
        writer_signal: Arc<Signal>,
        apply_queue: Arc<ApplyQueue>,
        failure: Failure,
    ) -> LogStore {
        LogStore { log, writer_signal, apply_queue, failure }
    }

    fn submit(&self, operation: Operation, completion: Completion) {
        let apply_queue = self.apply_queue.clone();
        let failure = self.failure.clone();
        self.log.submit(
            operation,
            Box::new(move |result| {
                // Before openraft hears of it and dies: these are the words that an operator needs.
                if let Err(error) = &result
                    && !matches!(error, LogError::Closed)
                {
                    failure.report(error.to_string());
                }
                completion.complete(result);
                apply_queue.log_flushed();
            }),
        );
        self.writer_signal.raise();
    }

    /// Submits and waits until it, and all before it, is synced.
    async fn submit_and_wait(&self, operation: Operation) -> Result<(), io::Error> {
        let (done, wait) = oneshot::channel();
        self.submit(operation, Completion::Waiter(done));
        wait.await.map_err(|_| io::Error::other("the log has ended"))?
    }
}

/// Who hears that an operation is durable.
enum Completion {
    Flushed(Flushed),
    Waiter(oneshot::Sender<Result<(), io::Error>>),
    Unheard,
}

impl Completion {
    fn complete(self, result: Result<(), LogError>) {
        match self {
            Completion::Flushed(flushed) => flushed.complete(result),
            // Whoever waits learns from a dropped sender as well.
            Completion::Waiter(waiter) => drop(waiter.send(result.map_err(io::Error::other))),
            // An error here ended the log: the next append and the log's writer report it.
            Completion::Unheard => {}
        }
    }
}

/// openraft's callback. One that is dropped counts as an error: openraft would wait for it for ever.
struct Flushed(Option<IOFlushed<TypeConfig>>);

impl Flushed {
    fn complete(mut self, result: Result<(), LogError>) {
        if let Some(callback) = self.0.take() {
            callback.io_completed(result.map_err(io::Error::other));
        }
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback.io_completed(Err(io::Error::other("the log dropped a write")));
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        // Opening the log has synced what it names (rule D1).
        let id = |id| raft_log_id(from_stored_log_id(id));
        Ok(LogState { last_purged_log_id: self.log.purged().map(id), last_log_id: self.log.last().map(id) })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { log: self.log.clone() }
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let vote =
            Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.is_committed() };
        self.submit_and_wait(Operation::SaveVote(vote)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries
            .into_iter()
            .map(|entry| dqlited_log::Entry {
                id: stored_log_id(log_id(&entry.log_id)),
                payload: codec::encode_payload(entry.payload),
            })
            .collect();
        self.submit(Operation::Append(entries), Completion::Flushed(Flushed(Some(callback))));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> Result<(), io::Error> {
        let last = last_log_id.map(|id| stored_log_id(log_id(&id)));
        self.submit(Operation::TruncateAfter(last), Completion::Unheard);
        Ok(())
    }

    async fn purge(&mut self, id: RaftLogId) -> Result<(), io::Error> {
        self.submit(Operation::Purge(stored_log_id(log_id(&id))), Completion::Unheard);
        Ok(())
    }
}

/// Reads the log for openraft: from the tail cache, or from disk.
pub(crate) struct LogReader {
    log: Log,
}

impl LogReader {
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<RaftEntry>, io::Error> {
        let found = self.log.read(from, to, bytes_max).map_err(io::Error::other)?;
        found.into_iter().map(from_log).collect()
    }
}

fn from_log(entry: dqlited_log::Entry) -> Result<RaftEntry, io::Error> {
    let payload = codec::decode_payload(entry.payload).map_err(io::Error::other)?;
    Ok(RaftEntry::new(raft_log_id(from_stored_log_id(entry.id)), payload))
}

fn bounds(range: &impl RangeBounds<u64>, last: Option<dqlited_log::LogId>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => last.map_or(0, |id| id.index + 1),
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogReader {
    /// All entries of the range that the log holds: a range purged or truncated meanwhile gives what is left of it.
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let (mut from, to) = bounds(&range, self.log.last());
        let mut entries: Vec<RaftEntry> = Vec::new();
        while from < to {
            let piece = self.read(from, to, APPLY_READ_BYTES_MAX)?;
            let Some(last) = piece.last() else { break };
            from = last.index() + 1;
            entries.extend(piece);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end, REQUEST_BYTES_MAX)
    }

    /// Reads piece by piece as the apply side takes them: after a restart the range may be long.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<RaftEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range, self.log.last());
        let state = (self, from, VecDeque::<RaftEntry>::new());
        futures::stream::try_unfold(state, move |(reader, mut next, mut piece)| async move {
            if piece.is_empty() && next < to {
                piece.extend(reader.read(next, to, APPLY_READ_BYTES_MAX)?);
                if piece.is_empty() {
                    return Err(io::Error::other(format!("the log has no entry {next}, which is committed")));
                }
            }
            let Some(entry) = piece.pop_front() else { return Ok(None) };
            next = entry.index() + 1;
            Ok(Some((entry, (reader, next, piece))))
        })
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.log.vote().map(|vote| {
            if vote.committed {
                RaftVote::new_committed(vote.term, vote.node)
            } else {
                RaftVote::new(vote.term, vote.node)
            }
        }))
    }

    /// The last entry of each leader. From the log's index in memory; openraft's own way reads an entry a step.
    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<RaftLogId>,
    ) -> Result<Vec<RaftLogId>, io::Error> {
        let (first, last) = range.into_inner();
        let id_at = |index: u64| {
            if index == first.index {
                return Ok(first);
            }
            let found = self.log.id_at(index).map(|id| raft_log_id(from_stored_log_id(id)));
            found.ok_or_else(|| io::Error::other(format!("the log has no entry {index}")))
        };
        let mut ids = Vec::new();
        let mut leader_first = first;
        while leader_first.leader_id != last.leader_id {
            // The last index whose leader is still this one: leaders never fall, so halving finds it.
            let (mut same, mut other) = (leader_first.index, last.index);
            while other - same > 1 {
                let middle = same + (other - same) / 2;
                if id_at(middle)?.leader_id == leader_first.leader_id {
                    same = middle;
                } else {
                    other = middle;
                }
            }
            ids.push(id_at(same)?);
            leader_first = id_at(same + 1)?;
        }
        ids.push(last);
        Ok(ids)
    }
}
