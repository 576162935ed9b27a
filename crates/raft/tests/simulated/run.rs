//! One seed: lives of a member on one machine, each ended by a power cut, and a check after each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dqlited_log::testing::Chance;
use dqlited_raft::{ApplyListener, Environment, Node, NodeOptions};
use dqlited_store::store::Interest;
use dqlited_store::{Applied, LogId, Revision};

use crate::clients::{Book, client};
use crate::world::World;

const LIVES: u64 = 6;
const CLIENTS: u64 = 6;

/// What a seed did. A run counts only if its faults took effect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub acknowledged: u64,
    pub unknown: u64,
    pub unknown_found: u64,
    /// Lives that ended within a call to the disk, those of them that ended while the member started, and lives that
    /// were stopped cleanly before the power went.
    pub cut_in_a_call: u64,
    pub cut_in_a_start: u64,
    pub stopped_cleanly: u64,
    /// Entries that starts read from the log since the store had lost them.
    pub replayed: u64,
    pub checkpoints: u64,
    pub purged: u64,
    /// Threads that tokio was asked for.
    pub threads: u64,
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Report) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.unknown_found += other.unknown_found;
        self.cut_in_a_call += other.cut_in_a_call;
        self.cut_in_a_start += other.cut_in_a_start;
        self.stopped_cleanly += other.stopped_cleanly;
        self.replayed += other.replayed;
        self.checkpoints += other.checkpoints;
        self.purged += other.purged;
        self.threads += other.threads;
    }
}

/// What came out.
pub struct Outcome {
    pub report: Report,
    /// All that happened, in order.
    pub trace: Vec<String>,
    /// What does not hold, if something.
    pub fault: Option<String>,
}

/// Sees that entries are told in order and without a hole.
#[derive(Default)]
pub struct InOrder {
    last: AtomicU64,
    at_start: AtomicU64,
}

impl Interest for InOrder {
    fn wants_previous(&self, _key: &[u8]) -> bool {
        false
    }
}

impl ApplyListener for InOrder {
    fn started(&self, log_id: LogId, _revision: Revision, _compact_revision: Revision) {
        self.last.store(log_id.index, Ordering::Relaxed);
        self.at_start.store(log_id.index, Ordering::Relaxed);
    }

    fn applied(&self, batch: &Arc<Vec<Applied>>) {
        for applied in batch.iter() {
            let before = self.last.swap(applied.log_id.index, Ordering::Relaxed);
            // openraft's first entry has index 0.
            assert!(applied.log_id.index == before + 1 || before == 0, "{} after {before}", applied.log_id);
        }
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// In this call to the log's disk, if there are so many.
    LogCall(u64),
    /// In this call to the disk of the data directory's own file.
    OwnCall(u64),
    /// Once so many writes are acknowledged.
    Writes(u64),
    /// Likewise, stopped cleanly before the power goes.
    Clean(u64),
}

impl End {
    fn drawn(chance: &mut Chance) -> End {
        match chance.below(12) {
            0 => End::OwnCall(chance.below(6)),
            // Within the start, or soon after it.
            1 => End::LogCall(chance.below(30)),
            2..=5 => End::LogCall(chance.below(500)),
            6 | 7 => End::Clean(20 + chance.below(80)),
            // Before the first checkpoint.
            8 | 9 => End::Writes(1 + chance.below(10)),
            _ => End::Writes(20 + chance.below(80)),
        }
    }

    fn writes(self) -> u64 {
        match self {
            End::Writes(writes) | End::Clean(writes) => writes,
            // Far above what the calls before the crash allow.
            End::LogCall(_) | End::OwnCall(_) => 500,
        }
    }
}

/// What the seed decides once for all lives.
struct Plan {
    options: NodeOptions,
    value_bytes_max: u64,
}

struct Run {
    world: World,
    book: Book,
    plan: Plan,
    chance: Chance,
    report: Report,
    equip: fn(&mut Environment),
    threads: Arc<AtomicU64>,
    last_boot: u64,
    /// What the store must hold at the next start, since it was stopped cleanly.
    store_holds: Option<u64>,
}

/// Runs a seed. `equip` may change what the member is given.
pub fn run(seed: u64, equip: fn(&mut Environment)) -> Outcome {
    let mut chance = Chance::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let world = World::new(seed);
    let commit_interval = Duration::from_millis([0, 5, 150][chance.below(3) as usize]);
    let plan = Plan {
        options: NodeOptions { data_dir: world.data_dir(), commit_interval, ..NodeOptions::default() },
        value_bytes_max: [200, 5_000, 90_000][(seed % 3) as usize],
    };
    let mut run = Run {
        world,
        book: Book::default(),
        plan,
        chance,
        report: Report::default(),
        equip,
        threads: Arc::default(),
        last_boot: 0,
        store_holds: None,
    };
    let fault = run.all().err();
    run.report.checkpoints = run.world.checkpoints.load(Ordering::Relaxed);
    run.report.purged = u64::from(run.world.has_purged());
    run.report.threads = run.threads.load(Ordering::Relaxed);
    Outcome { report: run.report, trace: run.world.trace.lines(), fault }
}

/// One thread, paused time: it moves on only when nothing is left to do.
pub fn runtime(threads: &Arc<AtomicU64>) -> tokio::runtime::Runtime {
    let threads = threads.clone();
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_start(move || {
            threads.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap()
}

impl Run {
    fn all(&mut self) -> Result<(), String> {
        for life in 0..LIVES {
            let end = End::drawn(&mut self.chance);
            self.world.trace.note(format!("life {life} ends: {end:?}"));
            match end {
                End::LogCall(call) => self.world.crash_at(Some(call), None),
                End::OwnCall(call) => self.world.crash_at(None, Some(call)),
                End::Writes(_) | End::Clean(_) => {}
            }
            let runtime = runtime(&self.threads);
            let node = runtime.block_on(self.life(life, end))?;
            if self.world.has_crashed() {
                self.report.cut_in_a_call += 1;
                self.report.cut_in_a_start += u64::from(node.is_none());
            }
            let mut cut = self.world.cut_power();
            // The process is gone: what its parts do while they are dropped reaches no disk.
            drop(runtime);
            drop(node);
            // The checkpoint of a clean stop was told too, and everything is in it.
            cut.store_goes_back |= self.store_holds.is_some();
            self.world.settle_store(cut);
        }
        let runtime = runtime(&self.threads);
        let node = runtime.block_on(self.last_life())?;
        drop(runtime);
        drop(node);
        self.world.note_disks("at the end");
        self.world.note_database();
        match self.world.peers_asked_for() {
            0 => Ok(()),
            asked => Err(format!("a lone member looked for others {asked} times")),
        }
    }

    async fn start(&mut self) -> Result<Option<Node>, String> {
        let mut environment = self.world.environment();
        (self.equip)(&mut environment);
        let listener = Arc::new(InOrder::default());
        match Node::start_in(environment, self.plan.options.clone(), listener.clone()).await {
            Ok(node) => {
                let at_start = listener.at_start.load(Ordering::Relaxed);
                let last = listener.last.load(Ordering::Relaxed);
                self.world.trace.note(format!("started: entry {at_start}, then {last}"));
                // A start adds two: its leader's first entry and its registration; founding the cluster one more.
                self.report.replayed += last.saturating_sub(at_start + 2);
                if let Some(holds) = self.store_holds.take()
                    && at_start != holds
                {
                    return Err(format!("a clean stop left {holds}, the next start finds {at_start}"));
                }
                let members = node.members().await.map_err(|error| format!("members: {error}"))?;
                let boot = members.first().map_or(0, |member| member.boot);
                if boot <= self.last_boot {
                    return Err(format!("boot {boot} after boot {}", self.last_boot));
                }
                self.last_boot = boot;
                Ok(Some(node))
            }
            Err(error) if self.world.has_crashed() => {
                let words = error.to_string().replace(&*self.world.data_dir().to_string_lossy(), "DATA");
                self.world.trace.note(format!("the power goes while it starts: {words}"));
                Ok(None)
            }
            Err(error) => Err(format!("it does not start: {error}")),
        }
    }

    async fn life(&mut self, life: u64, end: End) -> Result<Option<Node>, String> {
        let Some(node) = self.start().await? else { return Ok(None) };
        if !self.world.has_crashed() {
            // A crash in the middle of the check is no fault.
            let checked = self.book.check(&node).await;
            if !self.world.has_crashed() {
                checked?;
            }
        }
        let target = self.book.acknowledged() as u64 + end.writes();
        for number in 0..CLIENTS {
            let chance = Chance::new(self.chance.number());
            let (node, book, trace) = (node.clone(), self.book.clone(), self.world.trace.clone());
            let number = life * CLIENTS + number;
            tokio::spawn(client(node, book, number, chance, self.plan.value_bytes_max, trace));
        }
        let book = self.book.clone();
        let wrote_enough = async {
            while (book.acknowledged() as u64) < target && book.fault().is_none() {
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
        };
        tokio::select! {
            biased;
            words = node.failed() => {
                if !self.world.has_crashed() {
                    return Err(format!("it failed by itself: {words}"));
                }
            }
            () = wrote_enough => {}
        }
        if let Some(fault) = self.book.fault() {
            return Err(fault);
        }
        if matches!(end, End::Clean(_)) && !self.world.has_crashed() {
            node.stop(Duration::from_secs(5)).await;
            let status = node.status();
            if status.durable_index != status.applied_index {
                return Err(format!("a clean stop leaves something to replay: {status:?}"));
            }
            self.report.stopped_cleanly += 1;
            self.store_holds = Some(status.applied_index);
        }
        Ok(Some(node))
    }

    async fn last_life(&mut self) -> Result<Option<Node>, String> {
        self.world.trace.note("the last life".to_string());
        let node = self.start().await?.ok_or("the power was not to go")?;
        let counted = self.book.check(&node).await?;
        self.report.acknowledged = counted.acknowledged;
        self.report.unknown = counted.unknown;
        self.report.unknown_found = counted.unknown_found;
        let hash =
            node.read(node.local_barrier(), crate::clients::soon(), |view| view.hash_kv(Revision(0))).await;
        self.world.trace.note(format!("{hash:?}"));
        node.stop(Duration::from_secs(5)).await;
        Ok(Some(node))
    }
}
