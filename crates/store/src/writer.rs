//! The one connection that changes the database: it applies log entries in an open SQLite transaction.

use std::collections::BTreeSet;

use rusqlite::Connection;

use crate::change::{Change, lease_ttl};
use crate::command::{Alarm, Command, Compact, Kind, LeaseGrant, LeaseRevoke, RegisterMember};
use crate::compact;
use crate::event::Event;
use crate::identity::Identities;
use crate::ids::{Identity, LogId, Revision};
use crate::meta::Meta;
use crate::planted::{Planted, PlantedBug};
use crate::range::At;
use crate::response::{AlarmRecord, Applied, CommandError, Response};
use crate::sql::{failed, prepare};
use crate::store::{
    AppliedState, CHANGES_PER_REVISION_MAX, CompactProgress, Entry, EntryBody, Interest, StoreError,
};
use crate::txn::{Stop, check_put, count_delete, has_put, run_txn};

/// etcd's numbers of the alarms.
const NOSPACE: i32 = 1;
const CORRUPT: i32 = 2;

/// What memory mirrors of the tables, as the open SQLite transaction will leave them. All of it is read again when that
/// transaction is lost (rule D5, `docs/consistency.md`).
#[derive(Debug)]
struct Memory {
    meta: Meta,
    alarms: BTreeSet<AlarmRecord>,
    identities: Identities,
}

impl Memory {
    fn load(connection: &Connection) -> Result<Memory, StoreError> {
        Ok(Memory {
            meta: Meta::load(connection)?,
            alarms: load_alarms(connection)?.into_iter().collect(),
            identities: Identities::load(connection)?,
        })
    }

    fn has_alarm(&self, alarm: i32) -> bool {
        self.alarms.iter().any(|record| record.alarm == alarm)
    }

    fn at(&self) -> At {
        At { revision: self.meta.revision, compact_revision: self.meta.compact_revision }
    }
}

/// Raised alarms, by member and kind.
pub(crate) fn load_alarms(connection: &Connection) -> Result<Vec<AlarmRecord>, StoreError> {
    const CONTEXT: &str = "read the alarms";
    prepare(connection, "SELECT member, alarm FROM alarm", CONTEXT)?
        .query_map([], |row| Ok(AlarmRecord { member: row.get::<_, i64>(0)? as u64, alarm: row.get(1)? }))
        .and_then(|rows| rows.collect())
        .map_err(failed(CONTEXT))
}

/// The one connection that changes the database. It belongs to the apply thread.
#[derive(Debug)]
pub struct Writer {
    connection: Connection,
    memory: Memory,
    uncommitted_bytes: usize,
    planted: Planted,
}

impl Writer {
    pub(crate) fn new(connection: Connection, planted: Planted) -> Result<Writer, StoreError> {
        let memory = Memory::load(&connection)?;
        Ok(Writer { connection, memory, uncommitted_bytes: 0, planted })
    }

    /// From here on the database cannot grow beyond so many pages, as on a full disk; 0 asks for the present size.
    #[cfg(any(test, feature = "testing"))]
    pub fn limit_pages(&mut self, pages: u32) -> Result<(), StoreError> {
        self.connection
            .query_row(&format!("PRAGMA max_page_count={}", pages.max(1)), [], |row| row.get::<_, i64>(0))
            .map_err(failed("limit the pages"))?;
        Ok(())
    }

    /// The state at this moment, the open SQLite transaction included.
    pub fn state(&self) -> AppliedState {
        let meta = &self.memory.meta;
        AppliedState {
            log_id: meta.applied,
            membership: meta.membership.clone(),
            revision: Revision(meta.revision),
            compact_revision: Revision(meta.compact_revision),
        }
    }

    /// Executes entries in the open SQLite transaction (begins one if there is none). Nothing is visible to readers
    /// before [`Writer::commit`]. Entries at or below the applied one are an error (Gap), as is a hole.
    ///
    /// On an error nothing since the last commit counts: the writer has rolled back to it, and `state()` says where that
    /// is, so that the caller can hand in the entries after it again (rule D5, "loss of the transaction").
    pub fn apply(&mut self, entries: &[Entry], interest: &dyn Interest) -> Result<Vec<Applied>, StoreError> {
        let mut applied = Vec::with_capacity(entries.len());
        if self.planted.has(PlantedBug::IdentitiesAfterCommit) {
            self.begin()?;
            self.memory.identities.write(&self.connection)?;
        }
        for entry in entries {
            match self.begin().and_then(|()| self.apply_one(entry, interest)) {
                Ok(one) => applied.push(one),
                Err(error) => return Err(self.roll_back(error)),
            }
        }
        Ok(applied)
    }

    /// Commits the open SQLite transaction; after it readers see everything applied. No-op without one. On an error the
    /// transaction is lost, as in [`Writer::apply`].
    pub fn commit(&mut self) -> Result<(), StoreError> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        match self.write_memory().and_then(|()| {
            prepare(&self.connection, "COMMIT", "commit")?.execute([]).map_err(failed("commit"))
        }) {
            Ok(_) => {
                self.uncommitted_bytes = 0;
                Ok(())
            }
            Err(error) => Err(self.roll_back(error)),
        }
    }

    /// Bytes that wait in the open SQLite transaction, roughly.
    pub fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    /// Deletes behind the compact revision, in the open SQLite transaction: looks at up to `records_max` history records
    /// and deletes those that it has made invisible. Progress survives restarts; reads and HashKV never see a
    /// difference. On an error the transaction is lost, as in [`Writer::apply`].
    pub fn compact_step(&mut self, records_max: usize) -> Result<CompactProgress, StoreError> {
        let meta = &self.memory.meta;
        if compact::is_finished(meta.compact_revision, meta.compact_next_id) {
            return Ok(CompactProgress { deleted: 0, finished: true });
        }
        match self.begin().and_then(|()| compact::step(&self.connection, &mut self.memory.meta, records_max))
        {
            Ok(progress) => Ok(progress),
            Err(error) => Err(self.roll_back(error)),
        }
    }

    /// Gives free pages back to the file system, up to `pages_max`, in the open SQLite transaction. Answers whether some
    /// are left. On an error the transaction is lost, as in [`Writer::apply`].
    pub fn vacuum_step(&mut self, pages_max: usize) -> Result<bool, StoreError> {
        match self.begin().and_then(|()| self.vacuum(pages_max)) {
            Ok(left) => Ok(left),
            Err(error) => Err(self.roll_back(error)),
        }
    }

    fn vacuum(&self, pages_max: usize) -> Result<bool, StoreError> {
        const CONTEXT: &str = "give free pages back";
        // It frees one page a row, so it must be read to its end.
        let mut statement = self
            .connection
            .prepare(&format!("PRAGMA incremental_vacuum({})", pages_max.max(1)))
            .map_err(failed(CONTEXT))?;
        let mut rows = statement.query([]).map_err(failed(CONTEXT))?;
        while rows.next().map_err(failed(CONTEXT))?.is_some() {}
        let left: i64 = self
            .connection
            .query_row("PRAGMA freelist_count", [], |row| row.get(0))
            .map_err(failed(CONTEXT))?;
        Ok(left > 0)
    }

    fn begin(&self) -> Result<(), StoreError> {
        if self.connection.is_autocommit() {
            prepare(&self.connection, "BEGIN IMMEDIATE", "begin")?.execute([]).map_err(failed("begin"))?;
        }
        Ok(())
    }

    fn write_memory(&mut self) -> Result<(), StoreError> {
        if !self.planted.has(PlantedBug::IdentitiesAfterCommit) {
            self.memory.identities.write(&self.connection)?;
        }
        self.memory.meta.write(&self.connection)
    }

    /// Goes back to the last commit with rows and memory. Answers the error that led here, or the worse one that it met.
    fn roll_back(&mut self, error: StoreError) -> StoreError {
        match self.go_back() {
            Err(worse) if !error.is_fatal() => worse,
            _ => error,
        }
    }

    fn go_back(&mut self) -> Result<(), StoreError> {
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK").map_err(failed("roll back"))?;
        }
        self.uncommitted_bytes = 0;
        let memory = Memory::load(&self.connection)?;
        if self.planted.has(PlantedBug::MemoryOutlivesTransaction) {
            self.memory.meta = memory.meta;
        } else {
            self.memory = memory;
        }
        Ok(())
    }

    fn apply_one(&mut self, entry: &Entry, interest: &dyn Interest) -> Result<Applied, StoreError> {
        check_order(self.memory.meta.applied, entry.log_id)?;
        let mut events = Vec::new();
        let mut identity = None;
        let result = match &entry.body {
            EntryBody::Blank => Ok(Response::Done),
            EntryBody::Membership(bytes) => {
                self.memory.meta.membership = Some((entry.log_id, bytes.clone()));
                Ok(Response::Done)
            }
            EntryBody::Command(from, command) => {
                identity = Some(*from);
                match self.apply_command(entry.log_id, from, command, interest, &mut events) {
                    Ok(response) => Ok(response),
                    Err(Stop::Refused(refusal)) => Err(refusal),
                    Err(Stop::Failed(error)) => return Err(error),
                }
            }
        };
        self.memory.meta.applied = Some(entry.log_id);
        Ok(Applied {
            log_id: entry.log_id,
            identity,
            result,
            revision: Revision(self.memory.meta.revision),
            compact_revision: Revision(self.memory.meta.compact_revision),
            events,
        })
    }

    fn apply_command(
        &mut self,
        log_id: LogId,
        identity: &Identity,
        command: &Command,
        interest: &dyn Interest,
        events: &mut Vec<Event>,
    ) -> Result<Response, Stop> {
        let kind = command.kind.as_ref().ok_or(StoreError::UnknownCommand(log_id))?;
        if let Kind::RegisterMember(register) = kind {
            self.memory.identities.register(register.member, register.boot);
        }
        self.memory.identities.settle(identity)?;
        self.check_alarms(kind)?;
        let at = self.memory.at();
        let mut change = Change::new(&self.connection, interest, at);
        let response = match kind {
            Kind::Put(put) => {
                check_put(&self.connection, put)?;
                Response::Put { previous: change.put(put)? }
            }
            Kind::DeleteRange(delete) => {
                if count_delete(&self.connection, delete)? > CHANGES_PER_REVISION_MAX {
                    return Err(CommandError::TooManyChanges.into());
                }
                let (deleted, previous) = change.delete_range(delete)?;
                Response::DeleteRange { deleted, previous }
            }
            Kind::Txn(txn) => Response::Txn(run_txn(&self.connection, at, txn, &mut change)?),
            Kind::LeaseRevoke(revoke) => {
                self.check_revoke(log_id, revoke)?;
                change.delete_lease_keys(revoke.id)?;
                forget_lease(&self.connection, revoke.id)?;
                Response::LeaseRevoke { id: revoke.id }
            }
            Kind::LeaseGrant(grant) => grant_lease(&self.connection, grant)?,
            Kind::Compact(compact) => {
                raise_compact_revision(&mut self.memory.meta, compact)?;
                Response::Compact
            }
            Kind::Alarm(alarm) => {
                Response::Alarm(set_alarm(&self.connection, &mut self.memory.alarms, alarm)?)
            }
            Kind::RegisterMember(register) => {
                write_member(&self.connection, register)?;
                Response::Done
            }
            Kind::Noop(_) => Response::Done,
        };
        self.memory.meta.revision = change.revision();
        self.uncommitted_bytes += change.bytes;
        *events = change.events;
        Ok(response)
    }

    /// What a raised alarm refuses: CORRUPT all that changes keys or leases, NOSPACE what would need space, which is
    /// every transaction that has a put, taken or not.
    fn check_alarms(&self, kind: &Kind) -> Result<(), CommandError> {
        if self.memory.alarms.is_empty() {
            return Ok(());
        }
        let is_refused_when_corrupt = match kind {
            Kind::Put(_)
            | Kind::DeleteRange(_)
            | Kind::Txn(_)
            | Kind::Compact(_)
            | Kind::LeaseGrant(_)
            | Kind::LeaseRevoke(_) => true,
            Kind::Alarm(_) | Kind::RegisterMember(_) | Kind::Noop(_) => false,
        };
        if is_refused_when_corrupt && self.memory.has_alarm(CORRUPT) {
            return Err(CommandError::Corrupt);
        }
        let needs_space = match kind {
            Kind::Put(_) | Kind::LeaseGrant(_) => true,
            Kind::Txn(txn) => has_put(txn),
            _ => false,
        };
        if needs_space && self.memory.has_alarm(NOSPACE) {
            return Err(CommandError::NoSpace);
        }
        Ok(())
    }

    /// An expiry counts only under the leader that proposed it: a new one has just granted the full time (rule W3).
    fn check_revoke(&self, log_id: LogId, revoke: &LeaseRevoke) -> Result<(), Stop> {
        if let Some(under) = &revoke.expired_under
            && (under.term, under.node) != (log_id.leader.term, log_id.leader.node.0)
            && !self.planted.has(PlantedBug::ExpiryUnderAnyLeader)
        {
            return Err(CommandError::StaleExpiry.into());
        }
        if lease_ttl(&self.connection, revoke.id)?.is_none() {
            return Err(CommandError::LeaseNotFound.into());
        }
        Ok(())
    }
}

/// A log begins at index 0 or 1; from there each entry follows on the one before, under the same leader or a later one.
fn check_order(applied: Option<LogId>, found: LogId) -> Result<(), StoreError> {
    let follows = match applied {
        Some(applied) => found.index == applied.index + 1 && found.leader >= applied.leader,
        None => found.index <= 1,
    };
    if follows { Ok(()) } else { Err(StoreError::Gap { applied: applied.unwrap_or_default(), found }) }
}

fn grant_lease(connection: &Connection, grant: &LeaseGrant) -> Result<Response, Stop> {
    const CONTEXT: &str = "grant a lease";
    if lease_ttl(connection, grant.id)?.is_some() {
        return Err(CommandError::LeaseExists.into());
    }
    prepare(connection, "INSERT INTO lease VALUES(?1, ?2)", CONTEXT)?
        .execute([grant.id, grant.ttl])
        .map_err(failed(CONTEXT))?;
    Ok(Response::LeaseGrant { id: grant.id, ttl: grant.ttl })
}

fn forget_lease(connection: &Connection, id: i64) -> Result<(), StoreError> {
    const CONTEXT: &str = "forget a lease";
    prepare(connection, "DELETE FROM lease WHERE id = ?1", CONTEXT)?
        .execute([id])
        .map_err(failed(CONTEXT))?;
    Ok(())
}

fn raise_compact_revision(meta: &mut Meta, compact: &Compact) -> Result<(), CommandError> {
    if compact.revision <= meta.compact_revision {
        return Err(CommandError::Compacted);
    }
    if compact.revision > meta.revision {
        return Err(CommandError::FutureRevision);
    }
    meta.compact_next_id = compact::next_id_after_raise(meta);
    meta.compact_revision = compact.revision;
    Ok(())
}

/// etcd answers the alarm raised, also when it was up before, and the one cleared if it was up. Kind 0 does nothing.
fn set_alarm(
    connection: &Connection,
    alarms: &mut BTreeSet<AlarmRecord>,
    command: &Alarm,
) -> Result<Vec<AlarmRecord>, StoreError> {
    const CONTEXT: &str = "set an alarm";
    if command.alarm == 0 {
        return Ok(Vec::new());
    }
    let record = AlarmRecord { member: command.member, alarm: command.alarm };
    let row = (record.member as i64, record.alarm);
    if command.activate {
        if alarms.insert(record) {
            prepare(connection, "INSERT INTO alarm VALUES(?1, ?2)", CONTEXT)?
                .execute(row)
                .map_err(failed(CONTEXT))?;
        }
        return Ok(vec![record]);
    }
    if !alarms.remove(&record) {
        return Ok(Vec::new());
    }
    prepare(connection, "DELETE FROM alarm WHERE member = ?1 AND alarm = ?2", CONTEXT)?
        .execute(row)
        .map_err(failed(CONTEXT))?;
    Ok(vec![record])
}

fn write_member(connection: &Connection, register: &RegisterMember) -> Result<(), StoreError> {
    use prost::Message;
    const CONTEXT: &str = "write a member's record";
    prepare(connection, "INSERT OR REPLACE INTO member VALUES(?1, ?2)", CONTEXT)?
        .execute((register.member as i64, register.encode_to_vec()))
        .map_err(failed(CONTEXT))?;
    Ok(())
}

#[cfg(test)]
mod tests;
