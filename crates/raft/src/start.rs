//! Starts a member: the list of steps from its data directory to the moment when it may be asked.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dqlited_log::{Log, LogError, LogOptions, LogWriter};
use dqlited_store::Command;
use dqlited_store::command::{Kind, RegisterMember};
use dqlited_store::store::{Store, StoreError, StoreOptions, Writer};
use tokio::sync::Notify;

use crate::apply_control::ApplyControl;
use crate::apply_loop::{ApplyLoop, ApplyShared};
use crate::apply_queue::ApplyQueue;
use crate::checkpoint::{CheckpointLoop, CheckpointShared};
use crate::data_dir::{DataDir, DataDirError, Founding};
use crate::durable_state::DurableState;
use crate::environment::{Environment, Threads};
use crate::failure::Failure;
use crate::ids;
use crate::leadership::Leadership;
use crate::listener::ApplyListener;
use crate::log_store::LogStore;
use crate::node::{Inner, Node, ProposeError};
use crate::options::NodeOptions;
use crate::peer_client::PeerClients;
use crate::planted::Bug;
use crate::proposals::Proposals;
use crate::readers::{KeptReaders, ReaderThreads};
use crate::retention::{self, Retention};
use crate::state_machine::{self, StateMachine};
use crate::type_config::{Incarnation, Raft, from_stored_log_id};
use crate::visible::Progress;
use crate::worker::{self, Signal};
use crate::{background, log_writer, pacemaker};

/// Connections with kept snapshots: as many as point reads run at once on a small machine.
const KEPT_READERS: usize = 2;
/// How often waits past their deadline and old snapshots are ended.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);
/// How long a start waits for its first entry to be applied.
const FIRST_ENTRY_PATIENCE: Duration = Duration::from_secs(60);
/// Peer protocol of this version.
const PROTOCOL: u32 = 1;

/// Why a member cannot start. Each text names the thing, the fault and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// SQLite or its file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Raft log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The folder of the Raft log.
    #[error("folder of the log: {0}")]
    LogFolder(io::Error),
    /// The store is behind what the log still has: entries between them are gone.
    #[error(
        "the store in {} needs entry {needed} next, the log begins at entry {first}: the entries between them were \
         purged, since the store had held them durably; do not start this member on it, put its store back or restore \
         the data directory from a backup", store.display()
    )]
    Hole {
        /// Folder of the store.
        store: PathBuf,
        /// First entry that the store does not hold; 0 when it is empty.
        needed: u64,
        /// First entry that the log can still give.
        first: u64,
    },
    /// The log has lost entries that the store was told were durable.
    #[error(
        "the log ends at entry {last}, the store already holds entry {applied}: the log has lost durable entries; \
         do not start this member on it, restore the data directory from a backup"
    )]
    LogBehind {
        /// Last entry of the log.
        last: u64,
        /// Last entry of the store.
        applied: u64,
    },
    /// The store's membership was written by a newer version, or is damaged.
    #[error("membership in the store: {0}")]
    Membership(String),
    /// The consensus did not start.
    #[error("consensus: {0}")]
    Consensus(String),
    /// The first entry was not applied.
    #[error("the first entry of this start was not applied: {0}")]
    FirstEntry(ProposeError),
    /// The member failed while it started.
    #[error("{0}")]
    Failed(String),
}

/// Opens the data directory, starts everything, and returns once the member may be asked.
pub(crate) async fn start(
    environment: Environment,
    options: NodeOptions,
    listener: Arc<dyn ApplyListener>,
) -> Result<Node, StartError> {
    let opened = open(environment.clone(), options.clone()).await?;
    let inner = build(environment, options, listener, opened).await?;
    let node = Node::from_inner(inner);
    match first_entry(&node).await {
        Ok(()) => Ok(node),
        Err(error) => {
            node.stop(Duration::ZERO).await;
            Err(error)
        }
    }
}

/// What lies on disk, opened.
struct Opened {
    data_dir: DataDir,
    log: Log,
    log_writer: LogWriter,
    store: Store,
    store_writer: Writer,
}

async fn open(environment: Environment, options: NodeOptions) -> Result<Opened, StartError> {
    if environment.threads == Threads::Inline {
        return open_blocking(&environment, &options);
    }
    tokio::task::spawn_blocking(move || open_blocking(&environment, &options))
        .await
        .unwrap_or_else(|error| Err(StartError::Failed(format!("opening the data directory: {error}"))))
}

fn open_blocking(environment: &Environment, options: &NodeOptions) -> Result<Opened, StartError> {
    let member_id = ids::member_id(&options.peer_urls, &options.cluster_token);
    let founding = Founding {
        cluster_id: ids::cluster_id(&[member_id]),
        member_id,
        cluster_token: options.cluster_token.clone(),
        incarnation: format!("{:016x}{:016x}", environment.chance.next(), environment.chance.next()),
    };
    let data_dir = DataDir::open(&*environment.disks, &options.data_dir, founding)?;
    let open_log = || -> Result<(Log, LogWriter), StartError> {
        let disk = environment.disks.folder(&data_dir.log_folder()).map_err(StartError::LogFolder)?;
        Ok(Log::open(disk, log_options(environment, options))?)
    };
    let store_folder = data_dir.store_folder();
    let open_store = || Store::open(&store_folder, StoreOptions::default());
    // Both wait for the disk: beside one another they take half as long.
    let (log, store) = match environment.threads {
        Threads::Inline => (open_log(), open_store()),
        Threads::Own => std::thread::scope(|scope| {
            let store = scope.spawn(open_store);
            let log = open_log();
            (log, store.join().expect("opening the store does not panic"))
        }),
    };
    let (log, log_writer) = log?;
    let (store, store_writer) = store?;
    Ok(Opened { data_dir, log, log_writer, store, store_writer })
}

fn log_options(environment: &Environment, options: &NodeOptions) -> LogOptions {
    let chance = environment.chance.clone();
    LogOptions {
        sync: !options.unsafe_no_fsync,
        background: environment.threads == Threads::Own,
        salt_source: Some(Arc::new(move || chance.next())),
        #[cfg(feature = "planted-bugs")]
        planted: environment
            .has(crate::planted::Bug::AcknowledgeBeforeSync)
            .then_some(dqlited_log::PlantedBug::AcknowledgeBeforeSync),
        ..LogOptions::default()
    }
}

async fn build(
    environment: Environment,
    options: NodeOptions,
    listener: Arc<dyn ApplyListener>,
    opened: Opened,
) -> Result<Inner, StartError> {
    let Opened { data_dir, log, log_writer, mut store, store_writer } = opened;
    let member = data_dir.member_id();
    let state = store_writer.state();
    let applied = state.log_id.unwrap_or_default();
    // The first entry of a cluster has the index 0. An empty store beside a purged log is a hole too: nothing could ever
    // be applied to it.
    let needed = state.log_id.map_or(0, |applied| applied.index + 1);
    let first = log.purged().map_or(0, |purged| purged.index + 1);
    if first > needed {
        return Err(StartError::Hole { store: data_dir.store_folder(), needed, first });
    }
    // SQLite commits nothing that this log does not hold durably (rule C4), so this is no torn tail.
    let last = log.last().map_or(0, |last| last.index);
    if last < applied.index {
        return Err(StartError::LogBehind { last, applied: applied.index });
    }
    let failure = Failure::default();
    store.on_fatal(read_failed(failure.clone(), data_dir.store_folder()));
    let clock = environment.clock.clone();

    let apply_signal = Signal::new();
    let checkpoint_signal = Signal::new();
    let writer_signal = Signal::new();
    let control = Arc::new(ApplyControl::new(apply_signal.clone(), checkpoint_signal.clone()));
    let queue = Arc::new(ApplyQueue::new(applied, apply_signal.clone()));
    let progress = Arc::new(Progress::new(
        applied,
        state.revision,
        state.compact_revision,
        apply_signal.clone(),
        environment.has(Bug::ReadAtApplied),
    ));
    // What is purged was durable before; the first checkpoint says more.
    progress.set_durable(log.purged().map(from_stored_log_id).unwrap_or_default());
    let durable = Arc::new(DurableState::default());
    let membership = state_machine::stored_membership(state.membership.as_ref())
        .map_err(|error| StartError::Membership(error.to_string()))?;
    durable.set_membership(membership);
    let proposals = Arc::new(Proposals::new(member, data_dir.boot(), options.limits, clock.clone()));
    let leadership = Arc::new(Leadership::new(member, applied.leader, proposals.clone()));
    listener.started(applied, state.revision, state.compact_revision);

    let mut running = Vec::new();
    let (readers, reader_threads) = ReaderThreads::start(
        &store,
        environment.threads,
        options.reader_threads,
        options.limits.reads_max,
        &failure,
    )?;
    running.extend(reader_threads);
    let kept = Arc::new(KeptReaders::new(&store, KEPT_READERS, clock.clone())?);
    let is_more_durable = Arc::new(Notify::new());
    let checkpoints = Arc::new(AtomicU64::new(0));
    let is_checkpointer_stopping = Arc::new(AtomicBool::new(false));
    let checkpoint_loop = CheckpointLoop::new(
        store.checkpointer()?,
        CheckpointShared {
            control: control.clone(),
            progress: progress.clone(),
            durable: durable.clone(),
            kept: kept.clone(),
            failure: failure.clone(),
            environment: environment.clone(),
            count: checkpoints.clone(),
            is_more_durable: is_more_durable.clone(),
        },
        is_checkpointer_stopping.clone(),
    );
    let state_machine =
        StateMachine::new(&state, queue.clone(), durable.clone(), clock.clone(), failure.clone())
            .map_err(|error| StartError::Membership(error.to_string()))?;
    let apply_loop = ApplyLoop::new(
        store_writer,
        log.clone(),
        ApplyShared {
            queue: queue.clone(),
            control: control.clone(),
            progress: progress.clone(),
            durable: durable.clone(),
            proposals: proposals.clone(),
            leadership: leadership.clone(),
            listener,
            failure: failure.clone(),
            environment: environment.clone(),
        },
        options.commit_interval,
        options.warning_apply_duration,
    );

    let log_store = LogStore::new(log.clone(), writer_signal.clone(), queue.clone(), failure.clone());
    let log_running = log_writer::start(
        log.clone(),
        log_writer,
        writer_signal.clone(),
        environment.clone(),
        failure.clone(),
    );
    let threads = environment.threads;
    let apply_running =
        worker::start(threads, "apply", apply_signal.clone(), clock.clone(), failure.clone(), apply_loop);
    let checkpoint_running = worker::start(
        threads,
        "checkpoint",
        checkpoint_signal.clone(),
        clock.clone(),
        failure.clone(),
        checkpoint_loop,
    );

    let peers = PeerClients::new(environment.peers.clone());
    let raft = consensus(&data_dir, peers, log_store, state_machine).await?;
    let tasks = vec![
        tokio::spawn(pacemaker::run(raft.clone(), member, leadership.clone(), failure.clone())),
        tokio::spawn(retention::run(
            raft.clone(),
            log.clone(),
            durable.clone(),
            is_more_durable,
            Retention::new(options.snapshot_count, true),
        )),
    ];
    let inner = Inner {
        raft,
        data_dir,
        options,
        environment,
        failure,
        log,
        queue,
        control,
        progress,
        proposals,
        leadership,
        readers,
        kept,
        checkpoint_signal,
        checkpoints,
        writer_signal,
        is_checkpointer_stopping,
        running: Mutex::new(Some(crate::node::RunningParts {
            log: log_running,
            apply: apply_running,
            checkpoint: checkpoint_running,
            readers: running,
        })),
        tasks: Mutex::new(tasks),
    };
    Ok(inner)
}

/// What is told of damage, or of a failing disk, that a read has met: the member ends (rule D5).
fn read_failed(failure: Failure, folder: PathBuf) -> impl Fn(&StoreError) + Send + Sync + 'static {
    move |error| {
        let remedy = match error {
            StoreError::Corrupt { .. } => "restore the data directory from a backup",
            _ => "look at its disk before this member is started again",
        };
        failure
            .report(format!("the store in {} cannot be read any more: {error}; {remedy}", folder.display()));
    }
}

/// Starts openraft, and on a fresh directory founds the cluster with this member as its only voter.
async fn consensus(
    data_dir: &DataDir,
    peers: PeerClients,
    log_store: LogStore,
    state_machine: StateMachine,
) -> Result<Raft, StartError> {
    let fault = |error: &dyn std::fmt::Display| StartError::Consensus(error.to_string());
    let config = pacemaker::consensus_config().validate().map_err(|error| fault(&error))?;
    let member = data_dir.member_id().0;
    let raft = Raft::new(member, Arc::new(config), peers, log_store, state_machine)
        .await
        .map_err(|error| fault(&error))?;
    // Asked of the log, not of the directory: the start that made the directory may have been killed before this.
    if !raft.is_initialized().await.map_err(|error| fault(&error))? {
        let founder = BTreeMap::from([(member, Incarnation(data_dir.incarnation().to_string()))]);
        raft.initialize(founder).await.map_err(|error| fault(&error))?;
    }
    Ok(raft)
}

/// Registers this boot and publishes the member's record: the first entry of each start, before which nothing else is
/// proposed (rule W1).
async fn first_entry(node: &Node) -> Result<(), StartError> {
    let inner = node.inner();
    let (data_dir, options) = (&inner.data_dir, &inner.options);
    let register = RegisterMember {
        member: data_dir.member_id().0,
        boot: data_dir.boot(),
        boot_nonce: inner.environment.chance.next(),
        incarnation: data_dir.incarnation().to_string(),
        name: options.name.clone(),
        peer_urls: options.peer_urls.clone(),
        client_urls: options.client_urls.clone(),
        site: options.site.clone(),
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
    };
    let command = Command { kind: Some(Kind::RegisterMember(register)) };
    let deadline = inner.environment.clock.now() + FIRST_ENTRY_PATIENCE;
    inner.spawn(background::sweep(Arc::downgrade(inner), SWEEP_INTERVAL));
    inner.spawn(background::offer_again(Arc::downgrade(inner)));
    inner.spawn(background::spread_failure(Arc::downgrade(inner)));
    let proposed = tokio::select! {
        // Without it tokio's own chance says which is looked at first.
        biased;
        proposed = node.propose_first(command, deadline) => proposed,
        words = inner.failure.happened() => return Err(StartError::Failed(words)),
    };
    match proposed {
        Ok(proposed) if proposed.result.is_ok() => {
            inner.leadership.registered();
            Ok(())
        }
        Ok(proposed) => {
            Err(StartError::Failed(format!("the store refused this start: {:?}", proposed.result)))
        }
        Err(error) => Err(StartError::FirstEntry(error)),
    }
}
