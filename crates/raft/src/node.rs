//! The handle on one running member: start, propose, read, watch what is applied, stop.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dqlited_store::read::{MemberRecord, ReadView};
use dqlited_store::store::StoreError;
use dqlited_store::{Command, CommandError, LogId, MemberId, Response, Revision};
use tokio::sync::watch;

use crate::listener::ApplyListener;
use crate::options::NodeOptions;
use crate::status::{LeaderState, NodeStatus};

/// Why a member cannot start. Each text names the thing, the fault and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// SQLite or its file.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A carried-out proposal.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// Its place in the log.
    pub log_id: LogId,
    /// The store's revision after it.
    pub revision: Revision,
    /// The answer, or why nothing was changed.
    pub result: Result<Response, CommandError>,
}

/// Why a proposal has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// A queue is full; surely not proposed.
    #[error("too many requests")]
    TooManyRequests,
    /// No leader within the time limit; surely not proposed.
    #[error("no leader")]
    NoLeader,
    /// Its fate is unknown: it may be carried out later.
    #[error("timed out, the outcome is unknown")]
    TimedOut,
    /// Surely lost (rule W2): not applied, never will be.
    #[error("leader changed")]
    LeaderChanged,
    /// The member stops; unknown if it was in flight.
    #[error("the member is stopping")]
    Stopped,
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadFailure {
    /// Too many reads wait.
    #[error("too many requests")]
    TooManyRequests,
    /// Leadership could not be proven in time.
    #[error("timed out")]
    TimedOut,
    /// No leader.
    #[error("no leader")]
    NoLeader,
    /// The member stops.
    #[error("the member is stopping")]
    Stopped,
    /// SQLite failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a read must see: a place in the log that its view must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Barrier(pub LogId);

/// A running member. Clones share it.
#[derive(Clone)]
pub struct Node {
    _inner: Arc<()>,
}

impl Node {
    /// Opens the data directory, starts the threads and the consensus, and returns once the member may be asked. A
    /// lone voter leads at once.
    pub async fn start(_options: NodeOptions, _listener: Arc<dyn ApplyListener>) -> Result<Node, StartError> {
        unimplemented!()
    }
    /// This member's id.
    pub fn member_id(&self) -> MemberId {
        unimplemented!()
    }
    /// The cluster's id.
    pub fn cluster_id(&self) -> u64 {
        unimplemented!()
    }
    /// Its data directory: backups and the reserve against a full disk are written there too.
    pub fn data_dir(&self) -> &Path {
        unimplemented!()
    }
    /// Term as etcd's headers carry it. Cheap.
    pub fn term(&self) -> u64 {
        unimplemented!()
    }
    /// Revision of the last published entry. Cheap. Whoever puts it into an answer of a read takes it from the view.
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }
    /// Proposes a command and waits until it has been applied here. It is never applied twice.
    pub async fn propose(&self, _command: Command, _deadline: Instant) -> Result<Proposed, ProposeError> {
        unimplemented!()
    }
    /// The barrier of a linearizable read: proves leadership by a round sent after this call (R1).
    pub async fn linearizable_barrier(&self, _deadline: Instant) -> Result<Barrier, ReadFailure> {
        unimplemented!()
    }
    /// The barrier of every other read: what this process has told anyone (D5).
    pub fn local_barrier(&self) -> Barrier {
        unimplemented!()
    }
    /// Runs `read` on a reader thread, on a view that holds the barrier.
    pub async fn read<T: Send + 'static>(
        &self,
        _barrier: Barrier,
        _deadline: Instant,
        _read: impl FnOnce(&dyn ReadView) -> T + Send + 'static,
    ) -> Result<T, ReadFailure> {
        unimplemented!()
    }
    /// Runs a short `read` (one key, some 15 us) right here, on a kept snapshot that holds the barrier.
    pub async fn point_read<T: Send>(
        &self,
        _barrier: Barrier,
        _deadline: Instant,
        _read: impl FnOnce(&dyn ReadView) -> T + Send,
    ) -> Result<T, ReadFailure> {
        unimplemented!()
    }
    /// Waits until the records below a compact revision are deleted here (etcd's physical compaction).
    pub async fn compaction_finished(
        &self,
        _revision: Revision,
        _deadline: Instant,
    ) -> Result<(), ReadFailure> {
        unimplemented!()
    }
    /// Gives free pages back, in slices that hold up no write for more than 250 ms.
    pub async fn defragment(&self) -> Result<(), ReadFailure> {
        unimplemented!()
    }
    /// Who leads; changes wake the receiver.
    pub fn leadership(&self) -> watch::Receiver<LeaderState> {
        unimplemented!()
    }
    /// A moment of this member.
    pub fn status(&self) -> NodeStatus {
        unimplemented!()
    }
    /// The cluster's members as published (a view read at the local barrier).
    pub async fn members(&self) -> Result<Vec<MemberRecord>, ReadFailure> {
        unimplemented!()
    }
    /// Hands leadership to a member; to itself is fine.
    pub async fn move_leader(&self, _to: MemberId, _deadline: Instant) -> Result<(), ProposeError> {
        unimplemented!()
    }
    /// Ends with words when the member can no longer work (disk error, dead consensus): the process must end.
    pub async fn failed(&self) -> String {
        unimplemented!()
    }
    /// Stops cleanly: refuses new work, commits, joins its threads.
    pub async fn stop(&self, _grace: Duration) {
        unimplemented!()
    }
}
