//! What a simulated member is given: time, chance, disks that lose what was not synced, and nobody to talk to.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dqlited_log::testing::{Chance, CrashDisk};
use dqlited_log::{Disk, RealDisk};
use dqlited_raft::environment::{
    self, Clock, DirectoryLock, Disks, NoPeers, Observer, PeerConnector, PeerError, PeerStream, Threads,
};
use dqlited_raft::{DataDirError, Environment};
use dqlited_store::MemberId;
use dqlited_store::store::Checkpoint;
use futures::future::BoxFuture;

/// What happened, line by line: the same seed gives the same lines.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    pub fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// The time of tokio's paused timers.
struct PausedClock;

impl Clock for PausedClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

struct SeededChance(Mutex<Chance>);

impl environment::Chance for SeededChance {
    fn next(&self) -> u64 {
        self.0.lock().unwrap().number()
    }
}

/// Counts who is asked for.
#[derive(Default)]
struct CountedPeers(AtomicU64);

impl PeerConnector for CountedPeers {
    fn connect(
        &self,
        to: MemberId,
        within: Duration,
    ) -> BoxFuture<'static, Result<Box<dyn PeerStream>, PeerError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        NoPeers.connect(to, within)
    }
}

/// The disks of one life of the process.
struct LifeDisks {
    data_dir: PathBuf,
    own: CrashDisk,
    log: CrashDisk,
}

impl Disks for LifeDisks {
    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Disk>> {
        let below = path.strip_prefix(&self.data_dir).map_err(io::Error::other)?;
        match below.to_str() {
            Some("") => Ok(Arc::new(self.own.clone())),
            Some("log") => Ok(Arc::new(self.log.clone())),
            Some("store") => Ok(Arc::new(RealDisk::open(path)?)),
            _ => Err(io::Error::other(format!("no member writes in {}", path.display()))),
        }
    }

    fn lock(&self, _data_dir: &Path) -> Result<Option<DirectoryLock>, DataDirError> {
        Ok(None)
    }
}

/// Copies the store's folder at each checkpoint: what a crash leaves of it.
struct CheckpointKeeper {
    store: PathBuf,
    kept: PathBuf,
    count: Arc<AtomicU64>,
    trace: Trace,
}

impl Observer for CheckpointKeeper {
    fn checkpointed(&self, checkpoint: &Checkpoint, _took: Duration) {
        copy_store(&self.store, &self.kept);
        self.count.fetch_add(1, Ordering::Relaxed);
        let durable = checkpoint.durable.map_or(0, |id| id.index);
        let database = hash(&fs::read(self.store.join("store.db")).unwrap());
        let left = checkpoint.frames_left;
        self.trace.note(format!("checkpoint: durable {durable}, {left} frames left, file {database:016x}"));
    }
}

/// Copies database and WAL. The index of the WAL is not worth it: SQLite makes it anew.
fn copy_store(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir_all(to).unwrap();
    for name in ["store.db", "store.db-wal"] {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

pub fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// One machine: its disks outlive the lives of the process on it.
pub struct World {
    /// Holds the store's files, in memory where the system has such a folder.
    folder: tempfile::TempDir,
    own: CrashDisk,
    log: CrashDisk,
    /// Chance of the machine: what a power cut leaves.
    chance: Chance,
    given_chance: Arc<SeededChance>,
    peers: Arc<CountedPeers>,
    pub checkpoints: Arc<AtomicU64>,
    pub trace: Trace,
}

impl World {
    pub fn new(seed: u64) -> World {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        World {
            folder: folder.unwrap(),
            own: CrashDisk::new(),
            log: CrashDisk::new(),
            chance: Chance::new(seed),
            given_chance: Arc::new(SeededChance(Mutex::new(Chance::new(!seed)))),
            peers: Arc::default(),
            checkpoints: Arc::default(),
            trace: Trace::default(),
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn store(&self) -> PathBuf {
        self.data_dir().join("store")
    }

    fn kept(&self) -> PathBuf {
        self.folder.path().join("kept")
    }

    /// For one life of the process.
    pub fn environment(&self) -> Environment {
        let keeper = CheckpointKeeper {
            store: self.store(),
            kept: self.kept(),
            count: self.checkpoints.clone(),
            trace: self.trace.clone(),
        };
        Environment {
            clock: Arc::new(PausedClock),
            chance: self.given_chance.clone(),
            disks: Arc::new(LifeDisks {
                data_dir: self.data_dir(),
                own: self.own.clone(),
                log: self.log.clone(),
            }),
            peers: self.peers.clone(),
            threads: Threads::Inline,
            observer: Arc::new(keeper),
            #[cfg(feature = "planted-bugs")]
            bugs: Vec::new(),
        }
    }

    /// The machine stops in this call to the log's disk, or in this one to the data directory's own.
    pub fn crash_at(&self, log_call: Option<u64>, own_call: Option<u64>) {
        if let Some(call) = log_call {
            self.log.crash_at(call);
        }
        if let Some(call) = own_call {
            self.own.crash_at(call);
        }
    }

    pub fn has_crashed(&self) -> bool {
        self.log.has_crashed() || self.own.has_crashed()
    }

    /// The power goes. From here on the process that runs can change nothing. Answers what must be done once it is gone.
    pub fn cut_power(&mut self) -> CutPower {
        self.own = self.own.power_cut(&mut self.chance);
        self.log = self.log.power_cut(&mut self.chance);
        self.note_disks("after the power cut");
        CutPower { store_goes_back: !self.chance.one_in(3) }
    }

    /// After the process is gone: what the power cut leaves of the store.
    ///
    /// Usually what the last checkpoint synced. Now and then what had been committed besides: the operating system may
    /// have written it by itself.
    pub fn settle_store(&self, cut: CutPower) {
        let lands = self.folder.path().join("lands");
        if !cut.store_goes_back {
            copy_store(&self.store(), &lands);
        } else if self.kept().exists() {
            copy_store(&self.kept(), &lands);
        } else {
            fs::create_dir_all(&lands).unwrap();
        }
        if self.store().exists() {
            fs::remove_dir_all(self.store()).unwrap();
        }
        fs::create_dir_all(self.data_dir()).unwrap();
        fs::rename(lands, self.store()).unwrap();
        // What a later crash goes back to, if it comes before the next checkpoint.
        copy_store(&self.store(), &self.kept());
    }

    pub fn peers_asked_for(&self) -> u64 {
        self.peers.0.load(Ordering::Relaxed)
    }

    /// The log has begun to forget its first entries.
    pub fn has_purged(&self) -> bool {
        let first = self.log.list().unwrap().into_iter().filter(|name| name.starts_with("segment-")).min();
        first.is_some_and(|name| !name.ends_with("-0000000000000001"))
    }

    /// Flips a bit of the last byte that the log has written.
    pub fn damage_end_of_log(&self) {
        let segments = self.log.list().unwrap().into_iter().filter(|name| name.starts_with("segment-"));
        let last = segments.max().unwrap();
        let bytes = self.log.bytes(&last).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        self.log.flip(&last, end as u64, 1);
    }

    /// All bytes on the disks of the member's own files.
    pub fn note_disks(&self, when: &str) {
        for (place, disk) in [("own", &self.own), ("log", &self.log)] {
            let mut names = disk.list().unwrap();
            names.sort();
            for name in names {
                let bytes = disk.bytes(&name).unwrap();
                self.trace.note(format!(
                    "{when}: {place}/{name}: {} bytes, {:016x}",
                    bytes.len(),
                    hash(&bytes)
                ));
            }
        }
    }

    /// All bytes of the database file, whose WAL is empty.
    pub fn note_database(&self) {
        let wal = self.store().join("store.db-wal");
        assert!(!wal.exists() || fs::metadata(wal).unwrap().len() == 0, "a clean stop empties the WAL");
        let bytes = fs::read(self.store().join("store.db")).unwrap();
        self.trace.note(format!("store.db: {} bytes, {:016x}", bytes.len(), hash(&bytes)));
    }
}

/// A power cut that the store has still to feel.
#[must_use]
pub struct CutPower {
    /// To what the last checkpoint told.
    pub store_goes_back: bool,
}
