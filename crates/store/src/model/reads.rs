//! What the model answers to reads: Range, events, HashKV, leases and the records of a backup.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use super::{Model, Unreadable, covers};
use crate::command::RangeQuery;
use crate::event::{Event, EventKind, KeyValue, Previous};
use crate::response::RangeResponse;

impl Model {
    /// etcd's Range.
    pub fn range(&self, query: &RangeQuery) -> Result<RangeResponse, Unreadable> {
        let revision = self.readable(query)?;
        let mut kvs: Vec<_> = self.state_at(revision).into_values().collect();
        kvs.retain(|kv| covers(&query.key, &query.range_end, &kv.key));
        let count = kvs.len() as i64;
        if query.count_only {
            return Ok(RangeResponse { kvs: vec![], more: false, count });
        }
        let is_filtered = [
            query.min_mod_revision,
            query.max_mod_revision,
            query.min_create_revision,
            query.max_create_revision,
        ] != [0; 4];
        let is_default_order = query.sort_order == 0 || (query.sort_order == 1 && query.sort_target == 0);
        if is_default_order && !is_filtered && query.limit > 0 {
            kvs.truncate(query.limit as usize + 1);
        }
        kvs.retain(|kv| {
            (query.min_mod_revision == 0 || kv.mod_revision >= query.min_mod_revision)
                && (query.max_mod_revision == 0 || kv.mod_revision <= query.max_mod_revision)
                && (query.min_create_revision == 0 || kv.create_revision >= query.min_create_revision)
                && (query.max_create_revision == 0 || kv.create_revision <= query.max_create_revision)
        });
        let by = |a: &KeyValue, b: &KeyValue| match query.sort_target {
            1 => a.version.cmp(&b.version),
            2 => a.create_revision.cmp(&b.create_revision),
            3 => a.mod_revision.cmp(&b.mod_revision),
            4 => a.value.cmp(&b.value),
            _ => a.key.cmp(&b.key),
        };
        match query.sort_order {
            2 => kvs.sort_by(|a, b| by(b, a)),
            _ => kvs.sort_by(by),
        }
        let more = query.limit > 0 && kvs.len() as i64 > query.limit;
        if more {
            kvs.truncate(query.limit as usize);
        }
        if query.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if query.sort_target != 4 {
                    kv.lease = 0;
                }
            }
        }
        Ok(RangeResponse { kvs, more, count })
    }

    /// The keys attached to a lease, in key order.
    pub fn lease_keys(&self, lease: i64) -> Vec<Bytes> {
        let state = self.state_at(self.revision);
        state.into_values().filter(|kv| lease != 0 && kv.lease == lease).map(|kv| kv.key).collect()
    }

    /// Events of an interval from a revision on. At the compact revision the records before are below it and cannot be
    /// said, except that a creation has none.
    pub fn events(&self, key: &[u8], range_end: &[u8], from: i64) -> Result<Vec<Event>, Unreadable> {
        if from < self.compact_revision {
            return Err(Unreadable::Compacted);
        }
        let mut events = Vec::new();
        for ((main, _), (name, record)) in self.records.range((from, 0)..) {
            if !covers(key, range_end, name) {
                continue;
            }
            let is_creation = record.as_ref().is_some_and(|kv| kv.create_revision == *main);
            let previous = if *main == self.compact_revision {
                if is_creation { Previous::None } else { Previous::NotRead }
            } else {
                self.state_at(*main - 1).remove(name).map_or(Previous::None, Previous::Known)
            };
            events.push(Event {
                kind: if record.is_some() { EventKind::Put } else { EventKind::Delete },
                kv: record.clone().unwrap_or_else(|| KeyValue {
                    key: name.clone(),
                    mod_revision: *main,
                    ..KeyValue::default()
                }),
                previous,
            });
        }
        Ok(events)
    }

    /// What etcd's `key` bucket holds: (main, sub), tombstone, record.
    pub fn history(&self) -> Vec<((i64, i64), bool, KeyValue)> {
        self.records
            .iter()
            .map(|(id, (name, record))| {
                let tombstone = KeyValue { key: name.clone(), ..KeyValue::default() };
                (*id, record.is_none(), record.clone().unwrap_or(tombstone))
            })
            .collect()
    }

    /// etcd's HashKV at a readable revision.
    pub fn hash_kv(&self, revision: i64) -> u32 {
        let mut newest = BTreeMap::new();
        for (id, (name, record)) in self.records.range(..(revision + 1, 0)) {
            newest.insert(name.clone(), (*id, record.is_some()));
        }
        let keep: BTreeSet<_> = newest.values().filter(|(_, live)| *live).map(|(id, _)| *id).collect();
        let mut bytes = b"key".to_vec();
        for (id, tombstone, kv) in self.history() {
            let (main, sub) = id;
            let is_skipped = main > revision
                || (main <= self.compact_revision && !keep.is_empty() && !keep.contains(&id))
                || (main == self.compact_revision && tombstone);
            if is_skipped {
                continue;
            }
            bytes.extend_from_slice(&main.to_be_bytes());
            bytes.push(b'_');
            bytes.extend_from_slice(&sub.to_be_bytes());
            if tombstone {
                bytes.push(b't');
            }
            kv.encode(&mut bytes).expect("a Vec has room");
        }
        crc32c::crc32c(&bytes)
    }
}
