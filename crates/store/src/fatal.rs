//! Damage and a failing disk are told when a reader meets them, whatever the caller of that read makes of its error.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::command::{RangeQuery, Txn};
use crate::ids::{LeaseId, LogId, MemberId, Revision};
use crate::read::{
    DatabaseSize, EventBatch, EventsQuery, HistoryRecord, Keep, KeyValueRef, KvHash, LeaseRecord,
    MemberRecord, RangeSummary, ReadError, ReadView,
};
use crate::response::{AlarmRecord, RangeResponse, TxnResponse};
use crate::store::StoreError;

/// Told of each fatal error of a reader, before whoever reads is.
type Report = Arc<dyn Fn(&StoreError) + Send + Sync>;

/// Whoever wants to know. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct OnFatal(Option<Report>);

impl fmt::Debug for OnFatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnFatal({})", self.0.is_some())
    }
}

impl OnFatal {
    pub fn new(report: impl Fn(&StoreError) + Send + Sync + 'static) -> OnFatal {
        OnFatal(Some(Arc::new(report)))
    }

    /// Hands a result on, and tells if it is a fatal error.
    pub fn seen<T, E: MayBeFatal>(&self, result: Result<T, E>) -> Result<T, E> {
        if let Err(error) = &result
            && let Some(fatal) = error.fatal()
            && let Some(report) = &self.0
        {
            report(fatal);
        }
        result
    }
}

/// An error that a fatal one of the store can be in.
pub(crate) trait MayBeFatal {
    fn fatal(&self) -> Option<&StoreError>;
}

impl MayBeFatal for StoreError {
    fn fatal(&self) -> Option<&StoreError> {
        self.is_fatal().then_some(self)
    }
}

impl MayBeFatal for ReadError {
    fn fatal(&self) -> Option<&StoreError> {
        match self {
            ReadError::Store(error) => error.fatal(),
            ReadError::Compacted | ReadError::FutureRevision => None,
        }
    }
}

/// A view whose fatal errors are told. Readers hand out no other.
pub(crate) struct Watched<'a, V> {
    pub view: V,
    pub on_fatal: &'a OnFatal,
}

impl<V: ReadView> ReadView for Watched<'_, V> {
    fn log_id(&self) -> LogId {
        self.view.log_id()
    }

    fn revision(&self) -> Revision {
        self.view.revision()
    }

    fn compact_revision(&self) -> Revision {
        self.view.compact_revision()
    }

    fn range(
        &self,
        query: &RangeQuery,
        sink: &mut dyn FnMut(KeyValueRef<'_>) -> ControlFlow<()>,
    ) -> Result<RangeSummary, ReadError> {
        self.on_fatal.seen(self.view.range(query, sink))
    }

    fn range_collected(&self, query: &RangeQuery) -> Result<RangeResponse, ReadError> {
        self.on_fatal.seen(self.view.range_collected(query))
    }

    fn read_only_txn(&self, txn: &Txn, keep: &mut Keep<'_>) -> Result<TxnResponse, ReadError> {
        self.on_fatal.seen(self.view.read_only_txn(txn, keep))
    }

    fn events(&self, request: &EventsQuery<'_>) -> Result<EventBatch, ReadError> {
        self.on_fatal.seen(self.view.events(request))
    }

    fn hash_kv(&self, revision: Revision) -> Result<KvHash, ReadError> {
        self.on_fatal.seen(self.view.hash_kv(revision))
    }

    fn leases(&self) -> Result<Vec<LeaseRecord>, ReadError> {
        self.on_fatal.seen(self.view.leases())
    }

    fn lease(&self, id: LeaseId) -> Result<Option<LeaseRecord>, ReadError> {
        self.on_fatal.seen(self.view.lease(id))
    }

    fn lease_keys(&self, id: LeaseId) -> Result<Vec<Bytes>, ReadError> {
        self.on_fatal.seen(self.view.lease_keys(id))
    }

    fn alarms(&self) -> Result<Vec<AlarmRecord>, ReadError> {
        self.on_fatal.seen(self.view.alarms())
    }

    fn members(&self) -> Result<Vec<MemberRecord>, ReadError> {
        self.on_fatal.seen(self.view.members())
    }

    fn removed_members(&self) -> Result<Vec<MemberId>, ReadError> {
        self.on_fatal.seen(self.view.removed_members())
    }

    fn history(
        &self,
        sink: &mut dyn FnMut(HistoryRecord) -> Result<(), StoreError>,
    ) -> Result<(), ReadError> {
        self.on_fatal.seen(self.view.history(sink))
    }

    fn database_size(&self) -> Result<DatabaseSize, ReadError> {
        self.on_fatal.seen(self.view.database_size())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use rusqlite::Connection;

    use super::*;
    use crate::command::Compare;
    use crate::meta::Snapshot;
    use crate::reader::View;

    /// Each answer of a view whose tables hold what they never can, or are not there.
    fn ask_for_everything(view: &dyn ReadView) -> [bool; 13] {
        let query = RangeQuery { key: Bytes::from_static(b"k"), ..Default::default() };
        let all = EventsQuery {
            key: b"\0",
            range_end: b"\0",
            from: Revision(2),
            to: Revision(2),
            with_previous: true,
            revisions_max: 9,
            bytes_max: 9999,
        };
        let compare = Compare { key: Bytes::from_static(b"k"), ..Default::default() };
        let txn = Txn { compare: vec![compare], ..Default::default() };
        [
            view.range(&query, &mut |_| ControlFlow::Continue(())).is_err(),
            view.range_collected(&query).is_err(),
            view.read_only_txn(&txn, &mut |_| true).is_err(),
            view.events(&all).is_err(),
            view.hash_kv(Revision(0)).is_err(),
            view.leases().is_err(),
            view.lease(LeaseId(1)).is_err(),
            view.lease_keys(LeaseId(1)).is_err(),
            view.alarms().is_err(),
            view.members().is_err(),
            view.removed_members().is_err(),
            view.history(&mut |_| Ok(())).is_err(),
            // Reads no table.
            view.database_size().is_ok(),
        ]
    }

    #[test]
    fn every_answer_that_meets_damage_tells_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, writer) = crate::store::Store::open(folder.path(), Default::default()).expect("a store");
        drop((store, writer));
        let connection = Connection::open(folder.path().join("store.db")).expect("a connection");
        connection
            .execute_batch(
                "INSERT INTO history VALUES((2 << 22), CAST('k' AS BLOB), 'x', 'x', 'x', 'x', 'x', 'x');
                 INSERT INTO current VALUES(CAST('k' AS BLOB), 'x', 'x', 'x', 1, 'x');
                 INSERT INTO current VALUES('text', 1, 1, 1, 1, 0);
                 INSERT INTO lease VALUES(1, 'x');
                 INSERT INTO alarm VALUES('x', 'x');
                 INSERT INTO member VALUES(1, 'x');
                 DROP TABLE removed;
                 CREATE TABLE removed(id TEXT);
                 INSERT INTO removed VALUES('x');",
            )
            .expect("nonsense");
        let told = Arc::new(AtomicU32::new(0));
        let on_fatal = OnFatal::new({
            let told = told.clone();
            move |error| {
                assert!(error.is_fatal(), "{error}");
                told.fetch_add(1, Ordering::Relaxed);
            }
        });
        let snapshot = Snapshot { applied: None, revision: 2, compact_revision: -1, compact_next_id: 0 };
        let view = Watched { view: View::of(&connection, snapshot), on_fatal: &on_fatal };
        assert_eq!(ask_for_everything(&view), [true; 13]);
        assert_eq!(told.load(Ordering::Relaxed), 12);
    }

    #[test]
    fn what_a_caller_may_ask_for_in_vain_is_not_told() {
        let on_fatal = OnFatal::new(|error| panic!("{error}"));
        let errors = [
            ReadError::Compacted,
            ReadError::FutureRevision,
            // Whoever writes a backup out ends it so.
            ReadError::Store(StoreError::Full),
        ];
        for error in errors {
            assert!(on_fatal.seen::<(), _>(Err(error)).is_err());
        }
    }
}
