//! A plain in-memory etcd that the store is compared with: slow, small, and written from etcd's rules alone.
//!
//! It holds exactly the records that etcd would hold, with compaction done at once, and shares no code with the store
//! but the types of its face.

mod reads;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::command::{Compare, DeleteRange, Kind, Op, OpKind, Put, RangeQuery, Txn};
use crate::event::{Event, EventKind, KeyValue, Previous};
use crate::ids::{Identity, LogId, Revision};
use crate::response::{AlarmRecord, Applied, CommandError, OpResponse, Response, TxnResponse};
use crate::store::{Entry, EntryBody};

/// A change that etcd holds; `None` is a tombstone.
type Change = (Bytes, Option<KeyValue>);

/// The state of the plain etcd.
#[derive(Clone, Debug)]
pub struct Model {
    /// By (main, sub).
    records: BTreeMap<(i64, i64), Change>,
    revision: i64,
    compact_revision: i64,
    leases: BTreeMap<i64, i64>,
    alarms: BTreeSet<AlarmRecord>,
    /// Member to registered boot and what it has settled: everything below the mark, and the numbers in the set.
    boots: BTreeMap<u64, (u64, u64, BTreeSet<u64>)>,
    applied: Option<LogId>,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            records: BTreeMap::new(),
            revision: 1,
            compact_revision: -1,
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            boots: BTreeMap::new(),
            applied: None,
        }
    }
}

/// The interval of etcd's `key` and `range_end`.
pub(crate) fn covers(key: &[u8], range_end: &[u8], name: &[u8]) -> bool {
    if range_end.is_empty() { name == key } else { name >= key && (range_end == [0] || name < range_end) }
}

impl Model {
    /// The current revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The compact revision, -1 before the first compaction.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// The last entry applied.
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// Leases and their granted seconds.
    pub fn leases(&self) -> &BTreeMap<i64, i64> {
        &self.leases
    }

    /// Raised alarms.
    pub fn alarms(&self) -> &BTreeSet<AlarmRecord> {
        &self.alarms
    }

    /// Live keys at a revision; the caller keeps to readable ones.
    pub fn state_at(&self, revision: i64) -> BTreeMap<Bytes, KeyValue> {
        let mut state = BTreeMap::new();
        for ((main, _), (name, record)) in &self.records {
            if *main > revision {
                break;
            }
            match record {
                Some(kv) => state.insert(name.clone(), kv.clone()),
                None => state.remove(name),
            };
        }
        state
    }

    /// Applies an entry and answers what the store must answer, with every record before.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        let mut events = Vec::new();
        let (identity, result) = match &entry.body {
            EntryBody::Blank | EntryBody::Membership(_) => (None, Ok(Response::Done)),
            EntryBody::Command(identity, command) => {
                let kind = command.kind.as_ref().expect("the model is given known commands");
                (Some(*identity), self.carry_out(entry.log_id, identity, kind, &mut events))
            }
        };
        self.applied = Some(entry.log_id);
        Applied {
            log_id: entry.log_id,
            identity,
            result,
            revision: Revision(self.revision),
            compact_revision: Revision(self.compact_revision),
            events,
        }
    }

    fn carry_out(
        &mut self,
        log_id: LogId,
        identity: &Identity,
        kind: &Kind,
        events: &mut Vec<Event>,
    ) -> Result<Response, CommandError> {
        self.note(identity, kind)?;
        let raised = |alarm| self.alarms.iter().any(|record| record.alarm == alarm);
        let changes_keys_or_leases =
            !matches!(kind, Kind::Alarm(_) | Kind::RegisterMember(_) | Kind::Noop(_));
        if changes_keys_or_leases && raised(2) {
            return Err(CommandError::Corrupt);
        }
        let needs_space = match kind {
            Kind::Put(_) | Kind::LeaseGrant(_) => true,
            Kind::Txn(txn) => puts_somewhere(txn),
            _ => false,
        };
        if needs_space && raised(1) {
            return Err(CommandError::NoSpace);
        }
        let mut writing = Writing { model: self.clone(), before: self, sub: 0 };
        let response = match kind {
            Kind::Put(put) => {
                writing.check_put(put)?;
                Response::Put { previous: writing.put(put) }
            }
            Kind::DeleteRange(delete) => {
                let (deleted, previous) = writing.delete(delete);
                Response::DeleteRange { deleted, previous }
            }
            Kind::Txn(txn) => {
                writing.check_txn(txn)?;
                Response::Txn(writing.run(txn))
            }
            Kind::Compact(compact) => {
                if compact.revision <= self.compact_revision {
                    return Err(CommandError::Compacted);
                }
                if compact.revision > self.revision {
                    return Err(CommandError::FutureRevision);
                }
                writing.model.compact(compact.revision);
                Response::Compact
            }
            Kind::LeaseGrant(grant) => {
                if self.leases.contains_key(&grant.id) {
                    return Err(CommandError::LeaseExists);
                }
                writing.model.leases.insert(grant.id, grant.ttl);
                Response::LeaseGrant { id: grant.id, ttl: grant.ttl }
            }
            Kind::LeaseRevoke(revoke) => {
                if let Some(leader) = &revoke.expired_under
                    && (leader.term != log_id.leader.term || leader.node != log_id.leader.node.0)
                {
                    return Err(CommandError::StaleExpiry);
                }
                if !self.leases.contains_key(&revoke.id) {
                    return Err(CommandError::LeaseNotFound);
                }
                for key in self.lease_keys(revoke.id) {
                    writing.delete(&DeleteRange { key, ..DeleteRange::default() });
                }
                writing.model.leases.remove(&revoke.id);
                Response::LeaseRevoke { id: revoke.id }
            }
            Kind::Alarm(alarm) => {
                let record = AlarmRecord { member: alarm.member, alarm: alarm.alarm };
                let answered = if alarm.alarm == 0 {
                    false
                } else if alarm.activate {
                    writing.model.alarms.insert(record);
                    true
                } else {
                    writing.model.alarms.remove(&record)
                };
                Response::Alarm(if answered { vec![record] } else { vec![] })
            }
            Kind::RegisterMember(_) | Kind::Noop(_) => Response::Done,
        };
        let after = writing.model;
        *events = self.events_between(&after);
        *self = after;
        Ok(response)
    }

    /// Rule W1: only the registered boot's proposals count, each once.
    fn note(&mut self, identity: &Identity, kind: &Kind) -> Result<(), CommandError> {
        if let Kind::RegisterMember(register) = kind
            && register.boot > self.boots.get(&register.member).map_or(0, |(boot, ..)| *boot)
        {
            self.boots.insert(register.member, (register.boot, 0, BTreeSet::new()));
        }
        let Some((boot, low, settled)) = self.boots.get_mut(&identity.member.0) else {
            return Err(CommandError::UnregisteredBoot);
        };
        if *boot != identity.boot {
            return Err(CommandError::UnregisteredBoot);
        }
        if identity.sequence < *low || !settled.insert(identity.sequence) {
            return Err(CommandError::AlreadyApplied);
        }
        *low = (*low).max(identity.lowest_unsettled);
        Ok(())
    }

    /// What changed between this state and a later one of one entry.
    fn events_between(&self, after: &Model) -> Vec<Event> {
        let state = self.state_at(self.revision);
        after
            .records
            .range((self.revision + 1, 0)..)
            .map(|((main, _), (name, record))| Event {
                kind: if record.is_some() { EventKind::Put } else { EventKind::Delete },
                kv: record.clone().unwrap_or_else(|| KeyValue {
                    key: name.clone(),
                    mod_revision: *main,
                    ..KeyValue::default()
                }),
                previous: state.get(name).map_or(Previous::None, |kv| Previous::Known(kv.clone())),
            })
            .collect()
    }

    /// etcd keeps per key the newest record at or below the revision, a tombstone only at exactly that revision.
    fn compact(&mut self, revision: i64) {
        self.compact_revision = revision;
        let mut newest = BTreeMap::new();
        for (id, (name, _)) in self.records.range(..(revision + 1, 0)) {
            newest.insert(name.clone(), *id);
        }
        self.records.retain(|id, (name, record)| {
            id.0 > revision || (newest[name] == *id && (record.is_some() || id.0 == revision))
        });
    }
}

fn puts_somewhere(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.kind {
        Some(OpKind::Put(_)) => true,
        Some(OpKind::Txn(inner)) => puts_somewhere(inner),
        _ => false,
    })
}

/// One entry's changes in the making.
struct Writing<'m> {
    before: &'m Model,
    model: Model,
    sub: i64,
}

impl Writing<'_> {
    fn main(&self) -> i64 {
        self.before.revision + 1
    }

    fn state(&self) -> BTreeMap<Bytes, KeyValue> {
        self.model.state_at(self.main())
    }

    fn write(&mut self, name: Bytes, record: Option<KeyValue>) {
        self.model.records.insert((self.main(), self.sub), (name, record));
        self.model.revision = self.main();
        self.sub += 1;
    }

    fn put(&mut self, put: &Put) -> Option<KeyValue> {
        let before = self.state().remove(&put.key);
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: before.as_ref().map_or(self.main(), |kv| kv.create_revision),
            mod_revision: self.main(),
            version: before.as_ref().map_or(0, |kv| kv.version) + 1,
            value: match &before {
                Some(kv) if put.ignore_value => kv.value.clone(),
                _ => put.value.clone(),
            },
            lease: match &before {
                _ if !put.ignore_lease => put.lease,
                Some(kv) => kv.lease,
                None => 0,
            },
        };
        self.write(put.key.clone(), Some(kv));
        before.filter(|_| put.prev_kv)
    }

    fn delete(&mut self, delete: &DeleteRange) -> (i64, Vec<KeyValue>) {
        let mut doomed: Vec<_> = self.state().into_values().collect();
        doomed.retain(|kv| covers(&delete.key, &delete.range_end, &kv.key));
        for kv in &doomed {
            self.write(kv.key.clone(), None);
        }
        (doomed.len() as i64, if delete.prev_kv { doomed } else { vec![] })
    }

    fn check_put(&self, put: &Put) -> Result<(), CommandError> {
        if put.lease != 0 && !self.before.leases.contains_key(&put.lease) {
            return Err(CommandError::LeaseNotFound);
        }
        let exists = self.before.state_at(self.before.revision).contains_key(&put.key);
        if (put.ignore_value || put.ignore_lease) && !exists {
            return Err(CommandError::KeyNotFound);
        }
        Ok(())
    }

    fn ops<'t>(&self, txn: &'t Txn) -> (bool, &'t [Op]) {
        let succeeded = txn.compare.iter().all(|compare| self.before.holds(compare));
        (succeeded, if succeeded { &txn.success } else { &txn.failure })
    }

    fn check_txn(&self, txn: &Txn) -> Result<(), CommandError> {
        for op in self.ops(txn).1 {
            match op.kind.as_ref().expect("the model is given whole operations") {
                OpKind::Range(query) if query.revision > self.before.revision => {
                    return Err(CommandError::FutureRevision);
                }
                OpKind::Range(query)
                    if query.revision != 0 && query.revision < self.before.compact_revision =>
                {
                    return Err(CommandError::Compacted);
                }
                OpKind::Put(put) => self.check_put(put)?,
                OpKind::Txn(inner) => self.check_txn(inner)?,
                OpKind::Range(_) | OpKind::DeleteRange(_) => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, txn: &Txn) -> TxnResponse {
        let (succeeded, ops) = self.ops(txn);
        let mut responses = Vec::new();
        for op in ops {
            responses.push(match op.kind.as_ref().expect("the model is given whole operations") {
                OpKind::Range(query) => OpResponse::Range {
                    revision: Revision(self.model.revision),
                    range: self.model.range(query).expect("checked before"),
                },
                OpKind::Put(put) => {
                    let previous = self.put(put);
                    OpResponse::Put { revision: Revision(self.model.revision), previous }
                }
                OpKind::DeleteRange(delete) => {
                    let (deleted, previous) = self.delete(delete);
                    OpResponse::DeleteRange { revision: Revision(self.model.revision), deleted, previous }
                }
                OpKind::Txn(inner) => OpResponse::Txn(self.run(inner)),
            });
        }
        TxnResponse { succeeded, responses }
    }
}

impl Model {
    fn holds(&self, compare: &Compare) -> bool {
        let mut found: Vec<_> = self.state_at(self.revision).into_values().collect();
        found.retain(|kv| covers(&compare.key, &compare.range_end, &kv.key));
        if found.is_empty() {
            if compare.target == 3 {
                return false;
            }
            found.push(KeyValue::default());
        }
        found.iter().all(|kv| {
            let ordering = match compare.target {
                0 => kv.version.cmp(&compare.number),
                1 => kv.create_revision.cmp(&compare.number),
                2 => kv.mod_revision.cmp(&compare.number),
                3 => kv.value.cmp(&compare.value),
                4 => kv.lease.cmp(&compare.number),
                _ => std::cmp::Ordering::Equal,
            };
            match compare.result {
                0 => ordering.is_eq(),
                1 => ordering.is_gt(),
                2 => ordering.is_lt(),
                3 => ordering.is_ne(),
                _ => true,
            }
        })
    }

    /// Runs a transaction whose operations are all Ranges, as a reader does.
    pub fn read_only_txn(&self, txn: &Txn) -> Result<TxnResponse, CommandError> {
        let mut writing = Writing { model: self.clone(), before: self, sub: 0 };
        writing.check_txn(txn)?;
        Ok(writing.run(txn))
    }
}

/// Why the model refuses a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Below the compact revision.
    Compacted,
    /// Above the current one.
    Future,
}

impl Model {
    /// The revision that a query asks for, if it is readable.
    pub(crate) fn readable(&self, query: &RangeQuery) -> Result<i64, Unreadable> {
        let revision = if query.revision <= 0 { self.revision } else { query.revision };
        if revision > self.revision {
            Err(Unreadable::Future)
        } else if revision < self.compact_revision {
            Err(Unreadable::Compacted)
        } else {
            Ok(revision)
        }
    }
}
