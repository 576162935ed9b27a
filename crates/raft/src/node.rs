//! The handle on one running member: start, propose, read, watch what is applied, stop.

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dqlited_log::Log;
use dqlited_store::read::{MemberRecord, ReadError, ReadView};
use dqlited_store::store::StoreError;
use dqlited_store::{Command, CommandError, LogId, MemberId, Response, Revision};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::apply_control::{ApplyControl, End};
use crate::apply_queue::ApplyQueue;
use crate::data_dir::DataDir;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::leadership::Leadership;
use crate::listener::ApplyListener;
use crate::moments::{ReadMoments, Timed, WriteMoments};
use crate::options::NodeOptions;
use crate::planted::Bug;
use crate::proposals::{Admitted, Proposals};
use crate::read_index;
use crate::readers::{KeptReaders, Ran, ReaderThreads, Refused};
use crate::start::{self, StartError};
use crate::status::{LeaderState, NodeCounters, NodeStatus};
use crate::type_config::{EncodedCommand, Raft, RefusalReport, raft_leader_id};
use crate::visible::{Progress, WaitError};
use crate::worker::{Running, Signal};

/// How often a stop looks whether the proposals in flight are answered.
const STOP_POLL: Duration = Duration::from_millis(2);

/// A carried-out proposal.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// Its place in the log.
    pub log_id: LogId,
    /// The store's revision after it.
    pub revision: Revision,
    /// The answer, or why nothing was changed.
    pub result: Result<Response, CommandError>,
    /// Where its time went.
    pub moments: WriteMoments,
}

/// Why a proposal has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// A queue is full; surely not proposed.
    #[error("too many requests")]
    TooManyRequests,
    /// It nests so deeply that no member could read it from its log; surely not proposed.
    #[error("the command nests too deeply")]
    TooDeep,
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
    inner: Arc<Inner>,
}

/// The parts of a running member.
pub(crate) struct Inner {
    pub raft: Raft,
    pub data_dir: DataDir,
    pub options: NodeOptions,
    pub environment: Environment,
    pub failure: Failure,
    pub log: Log,
    pub queue: Arc<ApplyQueue>,
    pub control: Arc<ApplyControl>,
    pub progress: Arc<Progress>,
    pub proposals: Arc<Proposals>,
    pub leadership: Arc<Leadership>,
    pub readers: ReaderThreads,
    pub kept: Arc<KeptReaders>,
    pub checkpoint_signal: Arc<Signal>,
    pub checkpoints: Arc<AtomicU64>,
    pub writer_signal: Arc<Signal>,
    pub is_checkpointer_stopping: Arc<AtomicBool>,
    /// Threads, to be waited for at the end; `None` once somebody does.
    pub running: Mutex<Option<RunningParts>>,
    /// Background tasks, ended with the member.
    pub tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// The threads of a member.
pub(crate) struct RunningParts {
    pub log: Running,
    pub apply: Running,
    pub checkpoint: Running,
    pub readers: Vec<Running>,
}

impl Node {
    /// Opens the data directory, starts the threads and the consensus, and returns once the member may be asked. A
    /// lone voter leads at once.
    pub async fn start(options: NodeOptions, listener: Arc<dyn ApplyListener>) -> Result<Node, StartError> {
        Node::start_in(Environment::default(), options, listener).await
    }
    /// The same with clock, chance, disk and threads handed in.
    pub async fn start_in(
        environment: Environment,
        options: NodeOptions,
        listener: Arc<dyn ApplyListener>,
    ) -> Result<Node, StartError> {
        start::start(environment, options, listener).await
    }
    pub(crate) fn from_inner(inner: Inner) -> Node {
        Node { inner: Arc::new(inner) }
    }
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
    /// This member's id.
    pub fn member_id(&self) -> MemberId {
        self.inner.data_dir.member_id()
    }
    /// The cluster's id.
    pub fn cluster_id(&self) -> u64 {
        self.inner.data_dir.cluster_id()
    }
    /// Its data directory: backups and the reserve against a full disk are written there too.
    pub fn data_dir(&self) -> &Path {
        self.inner.data_dir.path()
    }
    /// Term as etcd's headers carry it. Cheap.
    pub fn term(&self) -> u64 {
        self.inner.leadership.term()
    }
    /// Revision of the last published entry. Cheap. Whoever puts it into an answer of a read takes it from the view.
    pub fn revision(&self) -> Revision {
        self.inner.progress.revision()
    }
    /// Proposes a command and waits until it has been applied here. It is never applied twice.
    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<Proposed, ProposeError> {
        self.inner.propose(command, deadline).await
    }
    pub(crate) async fn propose_first(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Proposed, ProposeError> {
        self.inner.propose(command, deadline).await
    }
    /// The barrier of a linearizable read: proves leadership by a round sent after this call (R1).
    pub async fn linearizable_barrier(&self, deadline: Instant) -> Result<Barrier, ReadFailure> {
        let inner = &self.inner;
        if inner.failure.has_happened() {
            return Err(ReadFailure::Stopped);
        }
        let clock = &*inner.environment.clock;
        match read_index::barrier(&inner.leadership, &inner.progress, clock, deadline).await {
            Ok(barrier) => Ok(Barrier(barrier)),
            Err(read_index::NoProof) => Err(ReadFailure::NoLeader),
        }
    }
    /// The barrier of every other read: what this process has told anyone (D5).
    pub fn local_barrier(&self) -> Barrier {
        if self.inner.environment.has(Bug::LocalReadGoesBack) {
            return Barrier::default();
        }
        Barrier(self.inner.progress.marks().applied)
    }
    /// Runs `read` on a reader thread, on a view that holds the barrier.
    pub async fn read<T: Send + 'static>(
        &self,
        barrier: Barrier,
        deadline: Instant,
        read: impl FnOnce(&dyn ReadView) -> T + Send + 'static,
    ) -> Result<T, ReadFailure> {
        Ok(self.read_timed(barrier, deadline, read).await?.answer)
    }
    /// The same, and tells where its time went.
    pub async fn read_timed<T: Send + 'static>(
        &self,
        barrier: Barrier,
        deadline: Instant,
        read: impl FnOnce(&dyn ReadView) -> T + Send + 'static,
    ) -> Result<Timed<T>, ReadFailure> {
        let inner = &self.inner;
        inner.wait_visible(barrier, deadline).await?;
        let clock = inner.environment.clock.clone();
        let visible = clock.now();
        let left = deadline.saturating_duration_since(visible);
        match tokio::time::timeout(left, inner.readers.run(clock, deadline, read)).await {
            Ok(Ok(ran)) => Ok(timed(visible, ran?)),
            Ok(Err(Refused::Late)) | Err(_) => Err(ReadFailure::TimedOut),
            Ok(Err(Refused::TooMany)) => Err(ReadFailure::TooManyRequests),
            Ok(Err(Refused::Stopped)) => Err(ReadFailure::Stopped),
        }
    }
    /// Runs a short `read` (one key, some 15 us) right here, on a kept snapshot that holds the barrier.
    pub async fn point_read<T: Send>(
        &self,
        barrier: Barrier,
        deadline: Instant,
        read: impl FnOnce(&dyn ReadView) -> T + Send,
    ) -> Result<T, ReadFailure> {
        Ok(self.point_read_timed(barrier, deadline, read).await?.answer)
    }
    /// The same, and tells where its time went.
    pub async fn point_read_timed<T: Send>(
        &self,
        barrier: Barrier,
        deadline: Instant,
        read: impl FnOnce(&dyn ReadView) -> T + Send,
    ) -> Result<Timed<T>, ReadFailure> {
        self.inner.wait_visible(barrier, deadline).await?;
        let visible = self.inner.environment.clock.now();
        Ok(timed(visible, self.inner.kept.run(barrier.0, read)?))
    }
    /// Waits until the records below a compact revision are deleted here (etcd's physical compaction).
    pub async fn compaction_finished(
        &self,
        revision: Revision,
        deadline: Instant,
    ) -> Result<(), ReadFailure> {
        Ok(self.inner.progress.wait_deleted(revision, deadline).await?)
    }
    /// Gives free pages back, in slices that hold up no write for more than 250 ms.
    pub async fn defragment(&self) -> Result<(), ReadFailure> {
        self.inner.control.vacuum().await.map_err(|_| ReadFailure::Stopped)
    }
    /// Tells the member whether the disk of its data directory is nearly full. While it is, what only saves work is given
    /// up: the second spare segment of the log and the space of SQLite's WAL. Removes a file: not for an async thread.
    pub fn set_short_of_space(&self, is_short: bool) {
        self.inner.log.set_short_of_space(is_short);
        self.inner.control.set_short_of_space(is_short);
    }
    /// Who leads; changes wake the receiver.
    pub fn leadership(&self) -> watch::Receiver<LeaderState> {
        self.inner.leadership.subscribe()
    }
    /// A moment of this member.
    pub fn status(&self) -> NodeStatus {
        let inner = &self.inner;
        let marks = inner.progress.marks();
        let leader = inner.leadership.state();
        NodeStatus {
            member_id: self.member_id(),
            cluster_id: self.cluster_id(),
            term: leader.term,
            leader: leader.leader,
            committed_index: inner.queue.committed_index().max(marks.applied.index),
            applied_index: marks.applied.index,
            visible_index: marks.visible.index,
            durable_index: marks.durable.index,
            revision: inner.progress.revision(),
            compact_revision: inner.progress.compact_revision(),
            is_learner: inner.leadership.is_learner(),
        }
    }
    /// What this member has counted.
    pub fn counters(&self) -> NodeCounters {
        let inner = &self.inner;
        let proposals = &inner.proposals;
        let log = inner.log.counters();
        NodeCounters {
            proposals_committed: inner.queue.committed_index(),
            proposals_applied: proposals.counters.applied.load(Ordering::Relaxed),
            proposals_pending: proposals.pending() as u64,
            proposals_failed: proposals.counters.failed.load(Ordering::Relaxed),
            checkpoints: inner.checkpoints.load(Ordering::Relaxed),
            open_reads: inner.readers.open() + inner.kept.open(),
            log_syncs: log.syncs,
            log_bytes_written: log.bytes_written,
        }
    }
    /// The cluster's members as published (a view read at the local barrier).
    pub async fn members(&self) -> Result<Vec<MemberRecord>, ReadFailure> {
        let deadline = self.inner.environment.clock.now() + MEMBERS_PATIENCE;
        match self.read(self.local_barrier(), deadline, |view| view.members()).await? {
            Ok(members) => Ok(members),
            Err(ReadError::Store(error)) => Err(ReadFailure::Store(error)),
            Err(ReadError::Compacted | ReadError::FutureRevision) => {
                unreachable!("members are read at no revision")
            }
        }
    }
    /// Hands leadership to a member; to itself is fine. There is no other to hand it to yet.
    pub async fn move_leader(&self, to: MemberId, _deadline: Instant) -> Result<(), ProposeError> {
        if to == self.member_id() && self.inner.leadership.own_leader_id().is_some() {
            return Ok(());
        }
        Err(ProposeError::NoLeader)
    }
    /// Ends with words when the member can no longer work (disk error, dead consensus): the process must end.
    pub async fn failed(&self) -> String {
        self.inner.failure.happened().await
    }
    /// Stops cleanly: refuses new work, commits, joins its threads.
    pub async fn stop(&self, grace: Duration) {
        self.inner.stop(grace).await;
    }
    /// Ends the member where it stands, as SIGKILL would, apart from closing its files.
    #[cfg(test)]
    pub(crate) async fn kill(self) {
        let inner = &self.inner;
        let Some(running) = inner.running.lock().expect("no holder panics").take() else { return };
        inner.failure.report("killed by a test".to_string());
        inner.control.end(End::Abrupt);
        running.apply.ended().await;
        inner.is_checkpointer_stopping.store(true, Ordering::Release);
        inner.checkpoint_signal.raise();
        running.checkpoint.ended().await;
        inner.log.close();
        inner.writer_signal.raise();
        running.log.ended().await;
        inner.end_readers(running.readers).await;
        // openraft's tasks hold the log and the lock of the directory through nothing of ours.
        let _ = inner.raft.shutdown().await;
    }
}

fn timed<T>(visible: Instant, ran: Ran<T>) -> Timed<T> {
    Timed { answer: ran.answer, moments: ReadMoments { visible, begun: ran.begun, ended: ran.ended } }
}

/// How long the list of members may take.
const MEMBERS_PATIENCE: Duration = Duration::from_secs(10);

impl Inner {
    /// Runs a background task that ends with the member.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().expect("no holder of this lock panics").push(tokio::spawn(task));
    }

    async fn propose(&self, command: Command, deadline: Instant) -> Result<Proposed, ProposeError> {
        if self.failure.has_happened() {
            return Err(ProposeError::Stopped);
        }
        let Admitted { sequence, entry, answer } = self.proposals.admit(&command, deadline)?;
        drop(command);
        if let Some(entry) = entry {
            self.offer(sequence, entry).await?;
        }
        answer.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Hands a copy of a proposal to the consensus, for the present leader only.
    pub(crate) async fn offer(&self, sequence: u64, entry: Bytes) -> Result<(), ProposeError> {
        let Some(leader) = self.leadership.own_leader_id() else {
            self.proposals.not_offered(sequence);
            return Ok(());
        };
        let withdrawal = Withdrawal { proposals: &self.proposals, sequence, is_armed: true };
        let report = RefusalReport::new(self.proposals.clone(), sequence);
        let write = self
            .raft
            .write(EncodedCommand(entry))
            .responder(report)
            .with_leader(raft_leader_id(leader))
            .await;
        withdrawal.disarm();
        // The consensus is dead: whether it took the copy before is unknown.
        write.map_err(|_| ProposeError::Stopped)
    }

    async fn wait_visible(&self, barrier: Barrier, deadline: Instant) -> Result<(), ReadFailure> {
        if self.failure.has_happened() {
            return Err(ReadFailure::Stopped);
        }
        Ok(self.progress.wait_visible(barrier.0, deadline).await?)
    }

    async fn stop(&self, grace: Duration) {
        self.proposals.refuse_new();
        let Some(running) = self.running.lock().expect("no holder of this lock panics").take() else {
            return;
        };
        let in_flight = async {
            while self.proposals.pending() > 0 && !self.failure.has_happened() {
                tokio::time::sleep(STOP_POLL).await;
            }
        };
        if tokio::time::timeout(grace, in_flight).await.is_err() {
            tracing::warn!(pending = self.proposals.pending(), "stopped with proposals in flight");
        }
        for task in self.tasks.lock().expect("no holder of this lock panics").drain(..) {
            task.abort();
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the consensus did not end cleanly");
        }
        self.control.end(End::Clean);
        running.apply.ended().await;
        self.proposals.stop();
        self.progress.stop();
        self.end_readers(running.readers).await;
        self.is_checkpointer_stopping.store(true, Ordering::Release);
        self.checkpoint_signal.raise();
        running.checkpoint.ended().await;
        self.log.close();
        self.writer_signal.raise();
        running.log.ended().await;
    }

    async fn end_readers(&self, readers: Vec<Running>) {
        self.kept.release_all();
        self.readers.stop();
        for reader in readers {
            reader.ended().await;
        }
    }
}

impl Drop for Inner {
    /// A member that is dropped without a stop ends as if it were killed: its threads must not outlive it.
    fn drop(&mut self) {
        for task in self.tasks.lock().expect("no holder of this lock panics").drain(..) {
            task.abort();
        }
        self.control.end(End::Abrupt);
        self.readers.stop();
        self.is_checkpointer_stopping.store(true, Ordering::Release);
        self.checkpoint_signal.raise();
        self.log.close();
        self.writer_signal.raise();
    }
}

/// Takes a proposal back whose future was dropped before the consensus had it.
struct Withdrawal<'a> {
    proposals: &'a Proposals,
    sequence: u64,
    is_armed: bool,
}

impl Withdrawal<'_> {
    fn disarm(mut self) {
        self.is_armed = false;
    }
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.proposals.withdraw(self.sequence);
        }
    }
}

impl From<WaitError> for ReadFailure {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::TimedOut => ReadFailure::TimedOut,
            WaitError::TooMany => ReadFailure::TooManyRequests,
            WaitError::Stopped => ReadFailure::Stopped,
        }
    }
}
