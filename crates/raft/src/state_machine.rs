//! openraft's door to the state machine: takes committed entries, hands them to the apply loop and returns.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use dqlited_store::LogId;
use dqlited_store::store::AppliedState;
use futures::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use crate::apply_queue::{ApplyQueue, Committed};
use crate::codec;
use crate::durable_state::DurableState;
use crate::environment::Clock;
use crate::failure::Failure;
use crate::type_config::{RaftLogId, StoredMembership, TypeConfig, log_id, raft_log_id};

/// Entries are handed over in pieces of about so many bytes.
const HAND_OVER_BYTES: usize = 1 << 20;

/// A snapshot that is made only when somebody fetches it: what openraft keeps is its place in the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct LazySnapshot {}

/// openraft's state machine.
pub(crate) struct StateMachine {
    queue: Arc<ApplyQueue>,
    durable: Arc<DurableState>,
    clock: Arc<dyn Clock>,
    failure: Failure,
    /// What the store held when the member started.
    at_start: (Option<RaftLogId>, StoredMembership),
    last_index: Option<u64>,
}

impl StateMachine {
    /// Goes on behind what the store holds.
    pub(crate) fn new(
        state: &AppliedState,
        queue: Arc<ApplyQueue>,
        durable: Arc<DurableState>,
        clock: Arc<dyn Clock>,
        failure: Failure,
    ) -> Result<StateMachine, codec::DecodeError> {
        let membership = stored_membership(state.membership.as_ref())?;
        Ok(StateMachine {
            queue,
            durable,
            clock,
            failure,
            at_start: (state.log_id.map(raft_log_id), membership),
            last_index: state.log_id.map(|id| id.index),
        })
    }

    /// An error from here would only stop openraft and leave the rest running: the member ends as a whole instead, and
    /// openraft hears nothing more.
    async fn fail(&self, words: String) -> io::Error {
        self.failure.report(words);
        std::future::pending().await
    }
}

/// The store's membership in openraft's form.
pub(crate) fn stored_membership(
    stored: Option<&(LogId, Bytes)>,
) -> Result<StoredMembership, codec::DecodeError> {
    match stored {
        None => Ok(StoredMembership::default()),
        Some((id, entry)) => {
            Ok(StoredMembership::new(Some(raft_log_id(*id)), codec::decode_membership(entry)?))
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = LazySnapshot;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), io::Error> {
        Ok(self.at_start.clone())
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        // All of them were committed before this call: waiting for room in the queue comes after it.
        let committed_at = Some(self.clock.now());
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) = match item {
                Ok(item) => item,
                Err(error) => {
                    return Err(self.fail(format!("committed entries cannot be read: {error}")).await);
                }
            };
            let id = log_id(&entry.log_id);
            // openraft checks this in debug builds only: a short read would skip entries in silence.
            if self.last_index.is_some_and(|last| id.index != last + 1) {
                let last = self.last_index.unwrap_or_default();
                return Err(self
                    .fail(format!("entry {id} does not follow the committed index {last}"))
                    .await);
            }
            self.last_index = Some(id.index);
            // Waiters of commands are answered by the apply loop; a membership change waits for this answer.
            if let (EntryPayload::Membership(_), Some(responder)) = (&entry.payload, responder) {
                responder.send(());
            }
            let entry = codec::encode_payload(entry.payload);
            bytes += entry.len();
            batch.push(Committed { log_id: id, entry, committed_at });
            if bytes >= HAND_OVER_BYTES {
                self.queue.push(std::mem::take(&mut batch)).await;
                bytes = 0;
            }
        }
        self.queue.push(batch).await;
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        if !force {
            return self.durable.snapshot().map(SnapshotBuilder);
        }
        // openraft forces one at a start with a purged log. What the store held then is behind the purge point and
        // later than it; nothing is purged by it, since purging asks for what is durable.
        Some(SnapshotBuilder(self.at_start.clone()))
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder(self.at_start.clone())
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        _snapshot: LazySnapshot,
    ) -> Result<(), io::Error> {
        Err(self.fail("a snapshot was sent to a member that has no peers".to_string()).await)
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, LazySnapshot>>, io::Error> {
        Ok(None)
    }
}

/// Names a place that the store holds; copies nothing.
pub(crate) struct SnapshotBuilder((Option<RaftLogId>, StoredMembership));

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = LazySnapshot;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, LazySnapshot>, io::Error> {
        let (last_log_id, last_membership) = self.0.clone();
        Ok(SnapshotOf::<TypeConfig, LazySnapshot> {
            meta: SnapshotMetaOf::<TypeConfig> { last_log_id, last_membership },
            snapshot: LazySnapshot {},
        })
    }
}
