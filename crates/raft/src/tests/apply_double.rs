//! The apply loop over doubles of store and log, turn by turn.

use std::sync::Mutex;

use dqlited_log::LogError;
use dqlited_store::store::{AppliedState, CompactProgress, Entry, EntryBody, StoreError};
use dqlited_store::{Identity, LeaderId, MemberId};

use super::*;
use crate::Limits;
use crate::apply_control::{ApplyControl, End};
use crate::apply_loop::{ApplyLoop, ApplyShared, Executor, OwnLog};
use crate::apply_queue::{ApplyQueue, Committed};
use crate::codec;
use crate::durable_state::DurableState;
use crate::failure::Failure;
use crate::leadership::Leadership;
use crate::moments::WriteMoments;
use crate::proposals::{Gate, Proposals};
use crate::visible::Progress;
use crate::worker::{Next, Signal, Worker};

const ME: MemberId = MemberId(1);

fn at(index: u64) -> LogId {
    LogId { leader: LeaderId { term: 1, node: ME }, index }
}

/// Executes by writing down; loses its open transaction when a test says so.
#[derive(Clone, Default)]
struct StoreDouble(Arc<Mutex<StoreState>>);

#[derive(Default)]
struct StoreState {
    committed: Vec<LogId>,
    open: Vec<LogId>,
    apply_faults: u32,
    commit_faults: u32,
    /// The faults are of the disk.
    is_disk_failing: bool,
    /// How long a batch takes.
    slowness: Option<(Arc<HandClock>, Duration)>,
}

impl StoreState {
    fn last(&self) -> Option<LogId> {
        self.open.last().or(self.committed.last()).copied()
    }

    fn lose(&mut self) -> StoreError {
        self.open.clear();
        match self.is_disk_failing {
            true => StoreError::Disk { path: "store.db".into(), detail: "commit: disk I/O error".to_owned() },
            false => StoreError::Full,
        }
    }
}

impl Executor for StoreDouble {
    fn state(&self) -> AppliedState {
        let state = self.0.lock().unwrap();
        AppliedState { log_id: state.last(), ..AppliedState::default() }
    }
    fn apply(&mut self, entries: &[Entry], _interest: &dyn Interest) -> Result<Vec<Applied>, StoreError> {
        let mut state = self.0.lock().unwrap();
        if let Some((clock, time)) = &state.slowness {
            clock.pass(*time);
        }
        let mut applied = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            // In the middle of a batch: half of it is executed and lost again.
            if state.apply_faults > 0 && place == entries.len() / 2 {
                state.apply_faults -= 1;
                return Err(state.lose());
            }
            let expected = state.last().map_or(1, |last| last.index + 1);
            if entry.log_id.index != expected {
                let applied = state.last().unwrap_or_default();
                return Err(StoreError::Gap { applied, found: entry.log_id });
            }
            state.open.push(entry.log_id);
            applied.push(Applied {
                log_id: entry.log_id,
                identity: match &entry.body {
                    EntryBody::Command(identity, _) => Some(*identity),
                    _ => None,
                },
                result: Ok(Response::Done),
                revision: Revision(entry.log_id.index as i64),
                compact_revision: Revision(-1),
                events: Vec::new(),
            });
        }
        Ok(applied)
    }
    fn commit(&mut self) -> Result<(), StoreError> {
        let mut state = self.0.lock().unwrap();
        if state.commit_faults > 0 {
            state.commit_faults -= 1;
            return Err(state.lose());
        }
        let open = std::mem::take(&mut state.open);
        state.committed.extend(open);
        Ok(())
    }
    fn uncommitted_bytes(&self) -> usize {
        0
    }
    fn compact_step(&mut self, _records_max: usize) -> Result<CompactProgress, StoreError> {
        Ok(CompactProgress { deleted: 0, finished: true })
    }
    fn vacuum_step(&mut self, _pages_max: usize) -> Result<bool, StoreError> {
        Ok(false)
    }
}

#[derive(Clone, Default)]
struct LogDouble(Arc<Mutex<(Vec<Committed>, Option<LogId>)>>);

impl OwnLog for LogDouble {
    fn durable(&self) -> Option<LogId> {
        self.0.lock().unwrap().1
    }
    fn read(&self, from: u64, to: u64, _bytes_max: usize) -> Result<Vec<Committed>, LogError> {
        let log = self.0.lock().unwrap();
        // Never more than two: the caller must come back for the rest.
        Ok(log.0.iter().filter(|entry| (from..to).contains(&entry.log_id.index)).take(2).cloned().collect())
    }
}

pub(super) struct Bench {
    apply: ApplyLoop<StoreDouble, LogDouble>,
    store: StoreDouble,
    log: LogDouble,
    recorder: Arc<Recorder>,
    pub(super) shared: ApplyShared,
}

pub(super) fn bench(environment: Environment, commit_interval: Duration) -> Bench {
    let signal = Signal::new();
    let proposals = Arc::new(Proposals::new(ME, 1, Limits::default(), environment.clock.clone()));
    let recorder = Arc::new(Recorder::default());
    let progress = Progress::new(LogId::default(), Revision(1), Revision(-1), signal.clone(), false);
    let shared = ApplyShared {
        queue: Arc::new(ApplyQueue::new(LogId::default(), signal.clone())),
        control: Arc::new(ApplyControl::new(signal.clone(), Signal::new())),
        progress: Arc::new(progress),
        durable: Arc::new(DurableState::default()),
        leadership: Arc::new(Leadership::new(ME, LeaderId::default(), proposals.clone())),
        proposals,
        listener: recorder.clone(),
        failure: Failure::default(),
        environment,
    };
    let (store, log) = (StoreDouble::default(), LogDouble::default());
    let apply = ApplyLoop::new(
        store.clone(),
        log.clone(),
        shared.clone(),
        commit_interval,
        Duration::from_secs(3600),
    );
    Bench { apply, store, log, recorder, shared }
}

impl Bench {
    /// openraft hands entries over, which the log has.
    pub(super) async fn commit_entries(&mut self, indexes: std::ops::RangeInclusive<u64>) {
        let now = self.shared.environment.clock.now();
        let entries: Vec<Committed> = indexes
            .map(|index| {
                let mut entry = codec::encode_command(&noop()).unwrap();
                codec::stamp(
                    &mut entry,
                    Identity { member: ME, boot: 1, sequence: index, lowest_unsettled: 1 },
                );
                Committed { log_id: at(index), entry: entry.freeze(), committed_at: Some(now) }
            })
            .collect();
        self.log.0.lock().unwrap().0.extend(entries.iter().cloned());
        self.shared.queue.push(entries).await;
    }

    pub(super) fn flush(&mut self, index: u64) {
        self.log.0.lock().unwrap().1 = Some(at(index));
    }

    /// Turns until the loop wants to wait.
    pub(super) fn settle(&mut self) -> Next {
        for _ in 0..1000 {
            match self.apply.turn() {
                Next::Now => {}
                next => return next,
            }
        }
        panic!("the loop does not come to rest");
    }

    pub(super) fn executed(&self) -> Vec<u64> {
        let state = self.store.0.lock().unwrap();
        state.committed.iter().chain(&state.open).map(|id| id.index).collect()
    }

    fn lose_open_transaction_at(&mut self, apply_faults: u32, commit_faults: u32) {
        let mut state = self.store.0.lock().unwrap();
        (state.apply_faults, state.commit_faults) = (apply_faults, commit_faults);
    }
}

const LAZY: Duration = Duration::from_secs(3600);

/// Rule C4, as a question so that a planted bug can answer no.
pub(super) async fn nothing_is_executed_before_it_is_durable(environment: Environment) -> bool {
    let mut bench = bench(environment, LAZY);
    bench.flush(2);
    bench.commit_entries(1..=5).await;
    bench.settle();
    bench.executed() == [1, 2]
}

#[tokio::test]
async fn entries_wait_for_the_own_log_and_go_on_when_it_has_flushed() {
    assert!(nothing_is_executed_before_it_is_durable(Environment::default()).await);
    let mut bench = bench(Environment::default(), LAZY);
    bench.flush(2);
    bench.commit_entries(1..=5).await;
    bench.settle();
    bench.flush(5);
    bench.shared.queue.log_flushed();
    bench.settle();
    assert_eq!(bench.executed(), [1, 2, 3, 4, 5]);
    assert_eq!(bench.recorder.indexes(), [1, 2, 3, 4, 5]);
}

/// Rule D5, loss of the transaction, likewise.
pub(super) async fn a_lost_transaction_is_executed_again(environment: Environment) -> bool {
    let mut bench = bench(environment, LAZY);
    bench.flush(20);
    bench.commit_entries(1..=5).await;
    bench.settle();
    bench.lose_open_transaction_at(1, 0);
    bench.commit_entries(6..=9).await;
    bench.settle();
    bench.lose_open_transaction_at(0, 1);
    bench.shared.control.end(End::Clean);
    bench.settle();
    bench.executed() == (1..=9).collect::<Vec<_>>()
        && bench.store.0.lock().unwrap().open.is_empty()
        && bench.recorder.indexes() == (1..=9).collect::<Vec<_>>()
        && bench.shared.progress.marks().visible == at(9)
}

#[tokio::test]
async fn what_a_lost_transaction_had_executed_is_executed_again_and_told_once() {
    assert!(a_lost_transaction_is_executed_again(Environment::default()).await);
}

#[tokio::test]
async fn a_store_that_loses_again_and_again_ends_the_member() {
    let mut bench = bench(Environment::default(), LAZY);
    bench.flush(5);
    bench.lose_open_transaction_at(100, 0);
    bench.commit_entries(1..=5).await;
    assert_eq!(bench.settle(), Next::End);
    assert_eq!(bench.shared.failure.happened().await, "the store cannot go on: the disk is full");
    assert_eq!(bench.recorder.indexes(), [] as [u64; 0]);
}

#[tokio::test]
async fn one_error_of_the_disk_ends_the_member() {
    for (apply_faults, commit_faults) in [(1, 0), (0, 1)] {
        let mut bench = bench(Environment::default(), Duration::ZERO);
        bench.flush(9);
        bench.lose_open_transaction_at(apply_faults, commit_faults);
        bench.store.0.lock().unwrap().is_disk_failing = true;
        bench.commit_entries(1..=5).await;
        assert_eq!(bench.settle(), Next::End);
        let words = bench.shared.failure.happened().await;
        assert_eq!(words, "the store cannot go on: store.db: commit: disk I/O error");
        assert!(bench.executed().is_empty(), "nothing is executed again: {:?}", bench.executed());
    }
}

#[tokio::test]
async fn a_log_that_lacks_what_must_be_executed_again_ends_the_member() {
    let mut bench = bench(Environment::default(), LAZY);
    bench.flush(9);
    bench.commit_entries(1..=5).await;
    bench.settle();
    bench.log.0.lock().unwrap().0.retain(|entry| entry.log_id.index != 3);
    bench.lose_open_transaction_at(0, 1);
    bench.shared.control.end(End::Clean);
    assert_eq!(bench.settle(), Next::End);
    let words = bench.shared.failure.happened().await;
    assert!(words.contains("entry"), "{words}");
}

#[tokio::test]
async fn a_hole_in_what_is_handed_over_ends_the_member() {
    let mut bench = bench(Environment::default(), LAZY);
    bench.flush(9);
    bench.commit_entries(1..=2).await;
    bench.commit_entries(4..=5).await;
    assert_eq!(bench.settle(), Next::End);
    let words = bench.shared.failure.happened().await;
    assert!(words.contains("does not follow"), "{words}");
}

#[tokio::test]
async fn whoever_asks_for_stillness_finds_everything_committed() {
    let mut bench = bench(Environment::default(), LAZY);
    bench.flush(9);
    bench.commit_entries(1..=3).await;
    bench.settle();
    assert!(!bench.shared.control.hold());
    bench.commit_entries(4..=5).await;
    assert_eq!(bench.settle(), Next::Signal);
    assert!(bench.shared.control.hold());
    assert_eq!(bench.store.0.lock().unwrap().committed.len(), 3);
    assert_eq!(bench.executed(), [1, 2, 3], "nothing is begun meanwhile");
    bench.shared.control.release();
    bench.settle();
    assert_eq!(bench.executed(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_commit_serves_the_reader_that_waits_and_no_other_is_made() {
    let mut bench = bench(Environment::default(), LAZY);
    bench.flush(9);
    bench.commit_entries(1..=3).await;
    bench.settle();
    assert_eq!(bench.shared.progress.marks().visible, LogId::default());
    let progress = bench.shared.progress.clone();
    let wait = tokio::spawn(async move { progress.wait_visible(at(2), soon()).await });
    while !bench.shared.progress.is_commit_wanted() {
        tokio::task::yield_now().await;
    }
    bench.settle();
    assert_eq!(wait.await.unwrap(), Ok(()));
    assert_eq!(bench.shared.progress.marks().visible, at(3));
    bench.commit_entries(4..=5).await;
    bench.settle();
    assert_eq!(bench.shared.progress.marks().visible, at(3));
}

#[tokio::test]
async fn the_time_of_the_log_is_told_from_that_of_the_apply_loop() {
    let clock = HandClock::new();
    let mut bench = bench(Environment { clock: clock.clone(), ..Environment::default() }, LAZY);
    let apply_time = Duration::from_secs(7);
    bench.store.0.lock().unwrap().slowness = Some((clock.clone(), apply_time));
    let proposals = bench.shared.proposals.clone();
    proposals.set_gate(Gate::Open);
    let offered = clock.now();
    let propose = || proposals.admit(&noop(), soon() + Duration::from_secs(3600)).unwrap().answer;
    let (logged_late, executed_late) = (propose(), propose());

    // Committed, but the member's own log lags behind: the loop stands still for it.
    bench.commit_entries(1..=1).await;
    bench.settle();
    bench.flush(2);
    let logged = clock.pass(Duration::from_secs(5));
    bench.settle();
    let moments = WriteMoments { offered, logged, executed: logged + apply_time };
    assert_eq!(logged_late.await.unwrap().unwrap().moments, moments);

    // Committed and durable, but the loop is busy.
    let logged = clock.pass(Duration::from_secs(1));
    bench.commit_entries(2..=2).await;
    let taken = clock.pass(Duration::from_secs(3));
    bench.settle();
    let moments = WriteMoments { offered, logged, executed: taken + apply_time };
    assert_eq!(executed_late.await.unwrap().unwrap().moments, moments);
}
