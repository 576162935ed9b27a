//! Random command sequences on two stores and on the model, with restarts, second copies, commits and compaction slices
//! at random places: every answer, event, read and hash must be the model's, and both stores must hold the same rows.
//!
//! `DQLITED_STORE_SEQUENCES` sets how many sequences (100,000 steps take some minutes), `DQLITED_SEED` replays a run.

mod steps;

use std::hash::{BuildHasher, RandomState};

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use tempfile::TempDir;

use self::steps::{Read, Step, Template};
use super::{Model, Unreadable};
use crate::command::{Command, RangeQuery};
use crate::ids::{Identity, LeaderId, LeaseId, LogId, MemberId, Revision};
use crate::read::{EventsQuery, ReadError, ReadView};
use crate::response::Applied;
use crate::store::{Entry, EntryBody, Interest, Reader, Store, StoreOptions, Writer};

const MEMBER: MemberId = MemberId(0xfeed_0000_0000_0001);

struct AllPrevious;

impl Interest for AllPrevious {
    fn wants_previous(&self, _key: &[u8]) -> bool {
        true
    }
}

/// A store and where its log stands.
struct Subject {
    folder: TempDir,
    store: Store,
    writer: Writer,
    reader: Reader,
}

impl Subject {
    fn new() -> Subject {
        // In memory where there is such a place: what a disk keeps is not the question here.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Subject::open(folder.expect("a temporary folder"))
    }

    fn open(folder: TempDir) -> Subject {
        let (store, writer) = Store::open(folder.path(), StoreOptions::default()).expect("a store");
        let reader = store.reader().expect("a reader");
        Subject { folder, store, writer, reader }
    }

    /// A kill: what was not committed is gone.
    fn reopened(self) -> Subject {
        let Subject { folder, store, writer, reader } = self;
        drop((store, writer, reader));
        Subject::open(folder)
    }

    fn finish(&mut self) {
        while !self.writer.compact_step(1000).expect("a slice").finished {}
        self.writer.commit().expect("committed");
    }

    /// Every row of every replicated table.
    fn dump(&mut self) -> Vec<String> {
        let path = self.folder.path().join(crate::sql::DATABASE_FILE);
        let connection = rusqlite::Connection::open(path).expect("a connection");
        let mut rows = Vec::new();
        for table in ["history", "current", "lease", "alarm", "member", "removed", "identity", "meta"] {
            let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).expect("a table");
            let columns = statement.column_count();
            let mut found = statement.query([]).expect("rows");
            while let Some(row) = found.next().expect("a row") {
                let values: Vec<_> =
                    (0..columns).map(|at| format!("{:?}", row.get_ref(at).expect("a value"))).collect();
                rows.push(format!("{table}: {}", values.join(", ")));
            }
        }
        rows
    }
}

/// The log, the model and both stores.
struct World {
    log: Vec<Entry>,
    /// The model's answers, by index in `log`.
    expected: Vec<Applied>,
    model: Model,
    /// The model as of the last commit of `first`.
    committed: Model,
    first: Subject,
    second: Subject,
    boot: u64,
    sequence: u64,
    term: u64,
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), TestCaseError> {
    if found == expected {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("{what}\n   found: {found:?}\nexpected: {expected:?}")))
}

fn same_applied(found: &Applied, expected: &Applied) -> Result<(), TestCaseError> {
    let parts = |applied: &Applied| {
        (applied.log_id, applied.identity, applied.result.clone(), applied.revision, applied.compact_revision)
    };
    same("answer", parts(found), parts(expected))?;
    same("events", &found.events, &expected.events)
}

impl World {
    fn new() -> Result<World, TestCaseError> {
        let mut world = World {
            log: Vec::new(),
            expected: Vec::new(),
            model: Model::default(),
            committed: Model::default(),
            first: Subject::new(),
            second: Subject::new(),
            boot: 0,
            sequence: 0,
            term: 1,
        };
        world.commands(&[(Template::Register, 0)])?;
        Ok(world)
    }

    fn push(&mut self, body: EntryBody) -> Entry {
        let leader = LeaderId { term: self.term, node: MEMBER };
        let entry = Entry { log_id: LogId { leader, index: self.log.len() as u64 }, body };
        self.expected.push(self.model.apply(&entry));
        self.log.push(entry.clone());
        entry
    }

    fn commands(&mut self, templates: &[(Template, u64)]) -> Result<(), TestCaseError> {
        let from = self.log.len();
        for (template, lag) in templates {
            if matches!(template, Template::Register) {
                self.boot += 1;
                self.sequence = 0;
            }
            if let Template::NewLeader = template {
                self.term += 1;
                self.push(EntryBody::Blank);
                continue;
            }
            self.sequence += 1;
            let identity = Identity {
                member: MEMBER,
                boot: self.boot,
                sequence: self.sequence,
                lowest_unsettled: self.sequence.saturating_sub(*lag),
            };
            let kind = template.kind(&self.model, MEMBER, self.boot, self.term);
            self.push(EntryBody::Command(identity, Command { kind: Some(kind) }));
        }
        self.feed(from)
    }

    /// Hands the log from an index on to the first store, and what is new to the second.
    fn feed(&mut self, from: usize) -> Result<(), TestCaseError> {
        let applied = self.first.writer.apply(&self.log[from..], &AllPrevious).expect("applied");
        for (found, expected) in applied.iter().zip(&self.expected[from..]) {
            same_applied(found, expected)?;
        }
        let next = self.second.writer.state().log_id.map_or(0, |log_id| log_id.index as usize + 1);
        for (entry, expected) in self.log[next..].iter().zip(&self.expected[next..]) {
            let found = self.second.writer.apply(std::slice::from_ref(entry), &AllPrevious).expect("applied");
            same_applied(&found[0], expected)?;
            if entry.log_id.index % 7 == 0 {
                self.second.writer.compact_step(2).expect("a slice");
                self.second.writer.commit().expect("committed");
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Commands(templates) => self.commands(templates),
            Step::Commit => self.commit(),
            Step::CompactSlice(records) => {
                self.first.writer.compact_step(*records).expect("a slice");
                Ok(())
            }
            Step::Restart => {
                let world = std::mem::replace(&mut self.first, Subject::new());
                self.first = world.reopened();
                let applied = self.first.writer.state().log_id;
                same("applied after a kill", applied, self.committed.applied())?;
                self.feed(applied.map_or(0, |log_id| log_id.index as usize + 1))
            }
            Step::SecondCopy(back) => {
                let commands: Vec<_> =
                    self.log.iter().filter(|entry| matches!(entry.body, EntryBody::Command(..))).collect();
                let body = commands[commands.len() - 1 - back % commands.len()].body.clone();
                self.push(body);
                self.feed(self.log.len() - 1)
            }
            Step::Read(read) => {
                self.first.reader.with_view(|view| check_read(view, &self.committed, read)).expect("a view")
            }
        }
    }

    fn commit(&mut self) -> Result<(), TestCaseError> {
        self.first.writer.commit().expect("committed");
        self.committed = self.model.clone();
        Ok(())
    }

    fn finish(mut self) -> Result<(), TestCaseError> {
        self.commit()?;
        self.first.reader.with_view(|view| check_all(view, &self.model)).expect("a view")?;
        self.first.finish();
        self.second.finish();
        self.first.reader.with_view(|view| check_all(view, &self.model)).expect("a view")?;
        same("rows of the two stores", self.first.dump(), self.second.dump())
    }
}

fn readable<T>(found: Result<T, ReadError>) -> Result<T, Unreadable> {
    found.map_err(|error| match error {
        ReadError::Compacted => Unreadable::Compacted,
        ReadError::FutureRevision => Unreadable::Future,
        ReadError::Store(error) => panic!("{error}"),
    })
}

fn check_read(view: &dyn ReadView, model: &Model, read: &Read) -> Result<(), TestCaseError> {
    same("log id of the view", view.log_id(), model.applied().unwrap_or_default())?;
    same("revision of the view", view.revision().0, model.revision())?;
    same("compact revision", view.compact_revision().0, model.compact_revision())?;
    match read {
        Read::Range(query) => {
            let query = query.query(model);
            same("range", readable(view.range_collected(&query)), model.range(&query))
        }
        Read::Txn(txn) => {
            let txn = txn.txn(model);
            let found = readable(view.read_only_txn(&txn, &mut |_| true));
            let expected = model.read_only_txn(&txn);
            same("read-only txn", found.map_err(|_| ()), expected.map_err(|_| ()))
        }
        Read::Hash(at) => check_hash(view, model, at.of(model)),
        Read::Events { key, range_end, from, revisions } => {
            let from = from.of(model);
            let mut found = Vec::new();
            let mut next = from;
            while next <= model.revision() {
                let batch = readable(view.events(&EventsQuery {
                    key,
                    range_end,
                    from: Revision(next),
                    to: Revision(model.revision()),
                    with_previous: true,
                    revisions_max: *revisions,
                    bytes_max: 4000,
                }));
                match batch {
                    Ok(batch) => {
                        found.extend(batch.events);
                        next = batch.through.0 + 1;
                    }
                    Err(refused) => {
                        return same("events", Err(refused), model.events(key, range_end, from).map(|_| ()));
                    }
                }
            }
            let expected = model.events(key, range_end, from);
            same("events", Ok(found), if from <= model.revision() { expected } else { Ok(vec![]) })
        }
    }
}

fn check_hash(view: &dyn ReadView, model: &Model, at: i64) -> Result<(), TestCaseError> {
    let query = RangeQuery { revision: at, ..RangeQuery::default() };
    let expected = model.readable(&query).map(|revision| (model.hash_kv(revision), revision));
    let found = readable(view.hash_kv(Revision(at)));
    same("hash", found.map(|found| (found.hash, found.hash_revision.0)), expected)
}

/// All that a view can be asked, at every readable revision.
fn check_all(view: &dyn ReadView, model: &Model) -> Result<(), TestCaseError> {
    for revision in model.compact_revision().max(1)..=model.revision() {
        check_hash(view, model, revision)?;
        let everything = RangeQuery {
            key: bytes::Bytes::from_static(b"\0"),
            range_end: bytes::Bytes::from_static(b"\0"),
            revision,
            ..RangeQuery::default()
        };
        same("all keys", readable(view.range_collected(&everything)), model.range(&everything))?;
    }
    let mut history = Vec::new();
    view.history(&mut |record| {
        history.push(((record.revision.0, record.sub), record.tombstone, record.kv));
        Ok(())
    })
    .expect("history");
    same("history", history, model.history())?;
    let leases = view.leases().expect("leases");
    let expected: Vec<_> = model.leases().iter().map(|(id, ttl)| (*id, *ttl)).collect();
    same("leases", leases.iter().map(|lease| (lease.id.0, lease.ttl)).collect(), expected)?;
    for lease in &leases {
        let keys = view.lease_keys(LeaseId(lease.id.0)).expect("keys");
        same("keys of a lease", keys, model.lease_keys(lease.id.0))?;
    }
    let alarms: Vec<_> = model.alarms().iter().copied().collect();
    same("alarms", view.alarms().expect("alarms"), alarms)
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new()?;
    for step in steps {
        world.step(step)?;
    }
    world.finish()
}

#[test]
#[expect(clippy::print_stderr, reason = "a failing run must say how to replay it")]
fn random_sequences_give_what_the_model_gives() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("DQLITED_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let cases = number("DQLITED_STORE_SEQUENCES").unwrap_or(200);
    eprintln!("DQLITED_SEED={seed} DQLITED_STORE_SEQUENCES={cases}");
    let config = Config {
        cases: u32::try_from(cases).expect("a sensible number of sequences"),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 3000,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&steps::sequence(), |steps| run(&steps));
    if let Err(error) = outcome {
        panic!("DQLITED_SEED={seed}: {error}");
    }
}
