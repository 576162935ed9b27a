//! A store in a temporary folder and short ways to hand it commands and to ask it.

use bytes::Bytes;
use dqlited_store::command::{
    Alarm, Compact, DeleteRange, Kind, LeaseGrant, LeaseRevoke, Op, OpKind, Put, RangeQuery, RegisterMember,
    Txn,
};
use dqlited_store::event::{Event, KeyValue};
use dqlited_store::read::{EventBatch, EventsQuery, ReadError, ReadView};
use dqlited_store::response::{RangeResponse, TxnResponse};
use dqlited_store::store::{Entry, EntryBody, Interest, NoInterest, Reader, Store, StoreOptions, Writer};
use dqlited_store::{
    Applied, Command, CommandError, Identity, LeaderId, LogId, MemberId, Response, Revision,
};

pub const MEMBER: MemberId = MemberId(7);
pub const LEADER: LeaderId = LeaderId { term: 3, node: MEMBER };

/// Every record before is wanted.
pub struct AllPrevious;

impl Interest for AllPrevious {
    fn wants_previous(&self, _key: &[u8]) -> bool {
        true
    }
}

/// The default, with the bug that this thread's test has planted.
fn options() -> StoreOptions {
    StoreOptions {
        #[cfg(feature = "planted-bugs")]
        planted: crate::planted::of_this_thread(),
        ..StoreOptions::default()
    }
}

pub struct Bed {
    pub store: Store,
    pub writer: Writer,
    pub reader: Reader,
    pub next_index: u64,
    pub next_sequence: u64,
    pub folder: tempfile::TempDir,
}

impl Bed {
    /// A fresh store in which [`MEMBER`] is registered with boot 1.
    pub fn new() -> Bed {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (store, writer) = Store::open(folder.path(), options()).expect("a store");
        let reader = store.reader().expect("a reader");
        let mut bed = Bed { store, writer, reader, next_index: 1, next_sequence: 1, folder };
        bed.run(Kind::RegisterMember(RegisterMember { member: MEMBER.0, boot: 1, ..Default::default() }))
            .expect("registered");
        bed
    }

    pub fn log_id(index: u64) -> LogId {
        LogId { leader: LEADER, index }
    }

    pub fn identity(sequence: u64) -> Identity {
        Identity { member: MEMBER, boot: 1, sequence, lowest_unsettled: sequence }
    }

    /// The next entry of the log.
    pub fn entry(&mut self, kind: Kind) -> Entry {
        let identity = Bed::identity(self.next_sequence);
        let log_id = Bed::log_id(self.next_index);
        self.next_index += 1;
        self.next_sequence += 1;
        Entry { log_id, body: EntryBody::Command(identity, Command { kind: Some(kind) }) }
    }

    /// Applies and does not commit.
    pub fn apply(&mut self, kind: Kind) -> Applied {
        let entry = self.entry(kind);
        let mut applied = self.writer.apply(&[entry], &AllPrevious).expect("applied");
        applied.pop().expect("one answer an entry")
    }

    /// Applies and commits.
    pub fn run_applied(&mut self, kind: Kind) -> Applied {
        let applied = self.apply(kind);
        self.writer.commit().expect("committed");
        applied
    }

    pub fn run(&mut self, kind: Kind) -> Result<Response, CommandError> {
        self.run_applied(kind).result
    }

    pub fn put(&mut self, key: &str, value: &str) -> i64 {
        let applied = self.run_applied(put(key, value));
        applied.result.expect("put");
        applied.revision.0
    }

    pub fn delete(&mut self, key: &str, range_end: &str) -> (i64, i64) {
        let applied = self.run_applied(delete(key, range_end));
        match applied.result.expect("delete") {
            Response::DeleteRange { deleted, .. } => (deleted, applied.revision.0),
            other => panic!("{other:?}"),
        }
    }

    pub fn txn(&mut self, txn: Txn) -> Result<TxnResponse, CommandError> {
        match self.run(Kind::Txn(txn))? {
            Response::Txn(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    pub fn compact(&mut self, revision: i64) -> Result<Response, CommandError> {
        self.run(Kind::Compact(Compact { revision }))
    }

    /// Deletes all that compaction has made invisible.
    pub fn delete_compacted(&mut self) {
        for _ in 0..10_000 {
            if self.writer.compact_step(3).expect("a step").finished {
                self.writer.commit().expect("committed");
                return;
            }
        }
        panic!("deleting behind the compact revision never ends");
    }

    pub fn view<T>(&mut self, read: impl FnOnce(&dyn ReadView) -> T) -> T {
        self.reader.with_view(read).expect("a view")
    }

    pub fn range(&mut self, query: RangeQuery) -> Result<RangeResponse, ReadError> {
        self.view(|view| view.range_collected(&query))
    }

    /// Keys in the order of the answer.
    pub fn keys(&mut self, query: RangeQuery) -> Vec<String> {
        let kvs = self.range(query).expect("a range").kvs;
        kvs.iter().map(|kv| text(&kv.key)).collect()
    }

    pub fn get(&mut self, key: &str) -> Option<KeyValue> {
        self.get_at(key, 0).expect("a get")
    }

    pub fn get_at(&mut self, key: &str, revision: i64) -> Result<Option<KeyValue>, ReadError> {
        Ok(self.range(RangeQuery { revision, ..range(key, "") })?.kvs.pop())
    }

    pub fn events(&mut self, from: i64) -> Result<EventBatch, ReadError> {
        self.view(|view| {
            view.events(&EventsQuery {
                key: b"\0",
                range_end: b"\0",
                from: Revision(from),
                to: view.revision(),
                with_previous: true,
                revisions_max: 1000,
                bytes_max: 1 << 20,
            })
        })
    }

    pub fn hash(&mut self, revision: i64) -> u32 {
        self.view(|view| view.hash_kv(Revision(revision))).expect("a hash").hash
    }

    /// Closes without a commit and opens again, as a kill would.
    pub fn reopen(self) -> Bed {
        let Bed { store, writer, reader, next_sequence, folder, .. } = self;
        drop((store, writer, reader));
        let (store, writer) = Store::open(folder.path(), options()).expect("a store");
        let reader = store.reader().expect("a reader");
        let next_index = writer.state().log_id.map_or(1, |log_id| log_id.index + 1);
        Bed { store, writer, reader, next_index, next_sequence, folder }
    }

    /// Applies one entry that this bed has not made.
    pub fn apply_entry(&mut self, entry: Entry) -> Applied {
        let mut applied = self.writer.apply(&[entry], &NoInterest).expect("applied");
        self.next_index += 1;
        applied.pop().expect("one answer an entry")
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn put_of(key: &str, value: &str) -> Put {
    Put { key: bytes(key), value: bytes(value), ..Put::default() }
}

pub fn put(key: &str, value: &str) -> Kind {
    Kind::Put(put_of(key, value))
}

pub fn delete_of(key: &str, range_end: &str) -> DeleteRange {
    DeleteRange { key: bytes(key), range_end: bytes(range_end), prev_kv: false }
}

pub fn delete(key: &str, range_end: &str) -> Kind {
    Kind::DeleteRange(delete_of(key, range_end))
}

pub fn range(key: &str, range_end: &str) -> RangeQuery {
    RangeQuery { key: bytes(key), range_end: bytes(range_end), ..RangeQuery::default() }
}

/// Everything.
pub fn all() -> RangeQuery {
    range("\0", "\0")
}

pub fn grant(id: i64, ttl: i64) -> Kind {
    Kind::LeaseGrant(LeaseGrant { id, ttl })
}

pub fn revoke(id: i64) -> Kind {
    Kind::LeaseRevoke(LeaseRevoke { id, expired_under: None })
}

pub fn alarm(activate: bool, alarm: i32) -> Kind {
    Kind::Alarm(Alarm { activate, member: 5, alarm })
}

pub fn op(kind: OpKind) -> Op {
    Op { kind: Some(kind) }
}

pub fn kinds(events: &[Event]) -> Vec<(String, dqlited_store::EventKind, i64)> {
    events.iter().map(|event| (text(&event.kv.key), event.kind, event.kv.mod_revision)).collect()
}
