//! Reading connections: one SQLite read transaction is one view, and every answer of it is of the same log id.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use rusqlite::Connection;

use crate::change::{lease_keys, lease_ttl};
use crate::command::{RangeQuery, RegisterMember, Txn};
use crate::event::KeyValue;
use crate::events::events;
use crate::fatal::{OnFatal, Watched};
use crate::hash::hash_kv;
use crate::ids::{LeaseId, LogId, MemberId, Revision};
use crate::meta::Snapshot;
use crate::planted::{Planted, PlantedBug};
use crate::range::{At, range, range_collected};
use crate::read::{
    DatabaseSize, EventBatch, EventsQuery, HistoryRecord, Keep, KeyValueRef, KvHash, LeaseRecord,
    MemberRecord, RangeSummary, ReadError, ReadView,
};
use crate::record::{HISTORY_COLUMNS, borrowed};
use crate::response::{AlarmRecord, RangeResponse, TxnResponse};
use crate::retained::Retained;
use crate::schema::open_other;
use crate::sql::{DATABASE_FILE, failed, last_id, prepare, revision_of, sub_of};
use crate::store::{StoreError, StoreOptions};
use crate::txn::read_only_txn;
use crate::writer::load_alarms;

/// One reading connection. It reads the database file that it was opened on, for as long as it lives.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    /// The snapshot that is held open between calls.
    kept: Option<Snapshot>,
    on_fatal: OnFatal,
    planted: Planted,
}

impl Reader {
    pub(crate) fn open(
        folder: &Path,
        options: &StoreOptions,
        on_fatal: OnFatal,
    ) -> Result<Reader, StoreError> {
        let connection = open_other(folder, options.reader_cache_bytes)?;
        connection
            .execute_batch(&format!("PRAGMA query_only=1; PRAGMA mmap_size={}", options.reader_mapped_bytes))
            .map_err(failed("set a reader up"))?;
        Ok(Reader { connection, kept: None, on_fatal, planted: Planted::of(options) })
    }

    /// Begins a read transaction and hands the view to `read`. Ends it on the way out, and before it a kept one.
    pub fn with_view<T>(&mut self, read: impl FnOnce(&dyn ReadView) -> T) -> Result<T, StoreError> {
        self.release();
        let snapshot = self.begin()?;
        let answer = read(&self.view(snapshot));
        self.end();
        Ok(answer)
    }

    /// Like [`Reader::with_view`], but on the snapshot kept since an earlier call if it holds `at_least`; otherwise a new
    /// one is begun and kept. The owner must end it by [`Reader::release`] within 100 ms even if no read comes (rule D3,
    /// `docs/consistency.md`): a kept snapshot holds checkpoints back.
    ///
    /// A snapshot is known by its log id and never by its revision, since commands that move no revision change what
    /// is read too (rule D5).
    pub fn with_kept_view<T>(
        &mut self,
        at_least: LogId,
        read: impl FnOnce(&dyn ReadView) -> T,
    ) -> Result<T, StoreError> {
        let snapshot = match self.kept {
            Some(kept) if kept.applied.is_some_and(|held| held >= at_least) => kept,
            Some(kept) if self.is_kept_by_planted_bug(&kept)? => kept,
            _ => {
                self.release();
                self.begin()?
            }
        };
        self.kept = Some(snapshot);
        Ok(read(&self.view(snapshot)))
    }

    /// Ends the kept snapshot, if any.
    pub fn release(&mut self) {
        if self.kept.take().is_some() {
            self.end();
        }
    }

    /// The planted bug M29 asks whether the revision stands still.
    fn is_kept_by_planted_bug(&self, kept: &Snapshot) -> Result<bool, StoreError> {
        if !self.planted.has(PlantedBug::SnapshotKeptByRevision) {
            return Ok(false);
        }
        let path = self.connection.path().unwrap_or_default();
        let newest = Connection::open(path).map_err(failed("look for the newest revision"))?;
        Ok(Snapshot::load(&newest)?.revision == kept.revision)
    }

    fn begin(&self) -> Result<Snapshot, StoreError> {
        self.on_fatal.seen(self.try_begin())
    }

    fn try_begin(&self) -> Result<Snapshot, StoreError> {
        if !self.connection.is_autocommit() {
            // Left over by a view whose closure panicked.
            self.end();
        }
        prepare(&self.connection, "BEGIN", "begin a read")?.execute([]).map_err(failed("begin a read"))?;
        Snapshot::load(&self.connection).inspect_err(|_| self.end())
    }

    fn view(&self, snapshot: Snapshot) -> Watched<'_, View<'_>> {
        Watched { view: View::of(&self.connection, snapshot), on_fatal: &self.on_fatal }
    }

    fn end(&self) {
        // Ending a read transaction writes nothing; if it fails all the same, the next begin() tries again.
        if let Ok(mut statement) = prepare(&self.connection, "COMMIT", "end a read") {
            let _ended = statement.execute([]);
        }
    }
}

/// What a reader shows, fatal errors untold.
pub(crate) struct View<'c> {
    connection: &'c Connection,
    snapshot: Snapshot,
}

impl<'c> View<'c> {
    pub fn of(connection: &'c Connection, snapshot: Snapshot) -> View<'c> {
        View { connection, snapshot }
    }

    fn at(&self) -> At {
        At { revision: self.snapshot.revision, compact_revision: self.snapshot.compact_revision }
    }
}

impl ReadView for View<'_> {
    fn log_id(&self) -> LogId {
        self.snapshot.applied.unwrap_or_default()
    }

    fn revision(&self) -> Revision {
        Revision(self.snapshot.revision)
    }

    fn compact_revision(&self) -> Revision {
        Revision(self.snapshot.compact_revision)
    }

    fn range(
        &self,
        query: &RangeQuery,
        sink: &mut dyn FnMut(KeyValueRef<'_>) -> ControlFlow<()>,
    ) -> Result<RangeSummary, ReadError> {
        range(self.connection, self.at(), query, sink)
    }

    fn range_collected(&self, query: &RangeQuery) -> Result<RangeResponse, ReadError> {
        range_collected(self.connection, self.at(), query)
    }

    fn read_only_txn(&self, txn: &Txn, keep: &mut Keep<'_>) -> Result<TxnResponse, ReadError> {
        read_only_txn(self.connection, self.at(), txn, keep)
    }

    fn events(&self, request: &EventsQuery<'_>) -> Result<EventBatch, ReadError> {
        events(self.connection, &self.snapshot, request)
    }

    fn hash_kv(&self, revision: Revision) -> Result<KvHash, ReadError> {
        hash_kv(self.connection, &self.snapshot, revision)
    }

    fn leases(&self) -> Result<Vec<LeaseRecord>, ReadError> {
        const CONTEXT: &str = "read the leases";
        Ok(prepare(self.connection, "SELECT id, ttl FROM lease ORDER BY id", CONTEXT)?
            .query_map([], |row| Ok(LeaseRecord { id: LeaseId(row.get(0)?), ttl: row.get(1)? }))
            .and_then(|rows| rows.collect())
            .map_err(failed(CONTEXT))?)
    }

    fn lease(&self, id: LeaseId) -> Result<Option<LeaseRecord>, ReadError> {
        Ok(lease_ttl(self.connection, id.0)?.map(|ttl| LeaseRecord { id, ttl }))
    }

    fn lease_keys(&self, id: LeaseId) -> Result<Vec<Bytes>, ReadError> {
        Ok(lease_keys(self.connection, id.0)?)
    }

    fn alarms(&self) -> Result<Vec<AlarmRecord>, ReadError> {
        let mut alarms = load_alarms(self.connection)?;
        alarms.sort_unstable();
        Ok(alarms)
    }

    fn members(&self) -> Result<Vec<MemberRecord>, ReadError> {
        const CONTEXT: &str = "read the members";
        let records = prepare(self.connection, "SELECT record FROM member", CONTEXT)?
            .query_map([], |row| row.get::<_, Vec<u8>>(0))
            .and_then(|rows| rows.collect::<Result<Vec<_>, _>>())
            .map_err(failed(CONTEXT))?;
        let mut members = records.iter().map(|bytes| member(bytes)).collect::<Result<Vec<_>, _>>()?;
        members.sort_unstable_by_key(|member| member.id);
        Ok(members)
    }

    fn removed_members(&self) -> Result<Vec<MemberId>, ReadError> {
        const CONTEXT: &str = "read the removed members";
        let mut removed = prepare(self.connection, "SELECT id FROM removed", CONTEXT)?
            .query_map([], |row| Ok(MemberId(row.get::<_, i64>(0)? as u64)))
            .and_then(|rows| rows.collect::<Result<Vec<_>, _>>())
            .map_err(failed(CONTEXT))?;
        removed.sort_unstable();
        Ok(removed)
    }

    fn history(
        &self,
        sink: &mut dyn FnMut(HistoryRecord) -> Result<(), StoreError>,
    ) -> Result<(), ReadError> {
        const CONTEXT: &str = "read the history";
        let retained = Retained::load(self.connection, &self.snapshot)?;
        let mut statement = prepare(
            self.connection,
            &format!("SELECT {HISTORY_COLUMNS} FROM history WHERE id <= ?1 ORDER BY id"),
            CONTEXT,
        )?;
        let mut rows = statement.query([last_id(self.snapshot.revision)]).map_err(failed(CONTEXT))?;
        while let Some(row) = rows.next().map_err(failed(CONTEXT))? {
            let id: i64 = row.get(0).map_err(failed(CONTEXT))?;
            if !retained.contains(id) {
                continue;
            }
            let record = borrowed(row).map_err(failed(CONTEXT))?;
            let tombstone: bool = row.get(5).map_err(failed(CONTEXT))?;
            let kv = if tombstone {
                KeyValue { key: Bytes::copy_from_slice(record.key), ..KeyValue::default() }
            } else {
                record.to_owned()
            };
            sink(HistoryRecord { revision: Revision(revision_of(id)), sub: sub_of(id), tombstone, kv })?;
        }
        Ok(())
    }

    fn database_size(&self) -> Result<DatabaseSize, ReadError> {
        let read = |sql: &str| {
            prepare(self.connection, sql, "measure the database")?
                .query_row([], |row| row.get::<_, i64>(0))
                .map_err(failed("measure the database"))
        };
        let page_bytes = read("PRAGMA page_size")?;
        let pages = read("PRAGMA page_count")?;
        let free = read("PRAGMA freelist_count")?;
        Ok(DatabaseSize { total_bytes: pages * page_bytes, in_use_bytes: (pages - free) * page_bytes })
    }
}

fn member(bytes: &[u8]) -> Result<MemberRecord, StoreError> {
    use prost::Message;
    let record = RegisterMember::decode(bytes).map_err(|error| StoreError::Corrupt {
        path: DATABASE_FILE.into(),
        detail: format!("a member's record is not readable: {error}"),
    })?;
    Ok(MemberRecord {
        id: MemberId(record.member),
        name: record.name,
        peer_urls: record.peer_urls,
        client_urls: record.client_urls,
        site: record.site,
        protocol_min: record.protocol_min,
        protocol_max: record.protocol_max,
        boot: record.boot,
        boot_nonce: record.boot_nonce,
        incarnation: record.incarnation,
    })
}
