//! Requests from a seed: few keys and leases, so that they meet; bad input among the good.

use bytes::Bytes;
use dqlited_proto::etcdserverpb as pb;
use dqlited_proto::etcdserverpb::compare::TargetUnion;
use dqlited_proto::etcdserverpb::request_op::Request;
use dqlited_proto::{v3electionpb as election, v3lockpb as lock};
use fastrand::Rng;

use super::call::Call;
use super::listed::Past;
use super::watch_script::{Step, WatchScript};

/// The keys: neighbours, prefixes of each other, the lowest and a high one.
const KEYS: [&[u8]; 12] =
    [b"\0", b"a", b"a\0", b"a/1", b"a/2", b"ab", b"b", b"b/1", b"c", b"d", b"e", b"\xfe"];
/// Ends of intervals: empty, from-key, an ordinary end that looks like it, and keys.
const ENDS: [&[u8]; 9] = [b"", b"", b"\0", b"\0\0", b"a0", b"b", b"c", b"\xff", b"a"];
/// Lease ids; the last is never granted.
const LEASES: [i64; 6] = [11, 12, 13, -14, 15, 99];
/// Far above the length of a run: nothing expires by itself.
const LEASE_TTL_SECONDS: i64 = 100_000;

/// The generator.
pub struct Generator {
    rng: Rng,
    values: u64,
    /// What ends the alarms that are up, the last first.
    clears: Vec<Call>,
}

impl Generator {
    /// The same seed gives the same requests as long as the answers are the same.
    pub fn new(seed: u64) -> Generator {
        Generator { rng: Rng::with_seed(seed), values: 0, clears: Vec::new() }
    }

    /// The next request.
    pub fn next(&mut self, known: &Past) -> Call {
        if known.alarm && self.clears.is_empty() {
            // Refusals under an alarm are worth some calls, not the rest of the run.
            self.clears = vec![
                Call::Alarm(pb::AlarmRequest::default()),
                Call::Alarm(pb::AlarmRequest { action: 2, member_id: 77, alarm: 1 }),
                Call::AlarmOfSelf(2, 1),
                Call::AlarmOfSelf(2, 2),
            ];
        }
        if self.rng.u32(..5) == 0
            && let Some(clear) = self.clears.pop()
        {
            return clear;
        }
        match self.rng.u32(..1000) {
            0..=219 => Call::Put(self.put()),
            220..=309 => Call::DeleteRange(self.delete()),
            310..=539 => Call::Range(self.range(known)),
            540..=589 => Call::RangeStream(self.range_stream(known)),
            590..=799 => {
                let depth = self.rng.u32(..3);
                Call::Txn(self.txn(known, depth))
            }
            800..=819 => Call::Compact(self.compact(known)),
            820..=859 => Call::LeaseGrant(self.grant()),
            860..=879 => Call::LeaseRevoke(pb::LeaseRevokeRequest { id: self.lease() }),
            880..=899 => {
                let keys = self.rng.bool();
                Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id: self.lease(), keys })
            }
            900..=909 => Call::LeaseLeases,
            910..=919 => Call::LeaseKeepAlive((0..1 + self.rng.usize(..3)).map(|_| self.lease()).collect()),
            920..=944 => Call::HashKv(self.hash_revision(known)),
            945..=949 => Call::Status,
            950..=952 => Call::MemberList(self.rng.bool()),
            953..=954 => Call::AuthStatus,
            955 => Call::Defragment,
            956..=958 => self.alarm(),
            959..=961 => self.downgrade(),
            962 => Call::MoveLeader(self.rng.u64(1..100)),
            963 => Call::MoveLeaderToSelf,
            964..=979 => self.lock_or_election(),
            _ => Call::Watch(self.watch(known)),
        }
    }

    fn key(&mut self) -> Bytes {
        Bytes::from_static(KEYS[self.rng.usize(..KEYS.len())])
    }

    /// Rarely empty: a fault.
    fn key_or_none(&mut self) -> Bytes {
        if self.rng.u32(..60) == 0 { Bytes::new() } else { self.key() }
    }

    fn end(&mut self) -> Bytes {
        Bytes::from_static(ENDS[self.rng.usize(..ENDS.len())])
    }

    /// Never the same value twice (but empty): sorting by value has no ties.
    fn value(&mut self) -> Bytes {
        self.values += 1;
        match self.rng.u32(..40) {
            0 => Bytes::new(),
            1 => format!("{}-{}", self.values, "x".repeat(self.rng.usize(..20_000))).into(),
            _ => format!("{}-{}", self.rng.u8(..), self.values).into(),
        }
    }

    fn lease(&mut self) -> i64 {
        LEASES[self.rng.usize(..LEASES.len())]
    }

    fn put(&mut self) -> pb::PutRequest {
        let ignore_value = self.rng.u32(..10) == 0;
        let ignore_lease = self.rng.u32(..10) == 0;
        let with_value = !ignore_value || self.rng.u32(..8) == 0;
        let with_lease = if ignore_lease { self.rng.u32(..8) == 0 } else { self.rng.u32(..4) == 0 };
        pb::PutRequest {
            key: self.key_or_none(),
            value: if with_value { self.value() } else { Bytes::new() },
            lease: if with_lease { self.lease() } else { 0 },
            prev_kv: self.rng.bool(),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let range_end = if self.rng.u32(..3) == 0 { self.end() } else { Bytes::new() };
        pb::DeleteRangeRequest { key: self.key_or_none(), range_end, prev_kv: self.rng.bool() }
    }

    fn revision(&mut self, known: &Past) -> i64 {
        match self.rng.u32(..20) {
            0..=10 => 0,
            11..=15 => self.rng.i64(known.compacted.max(1)..=known.revision),
            16 => known.revision,
            17 => known.compacted,
            18 => known.compacted - 1,
            _ => known.revision + 1,
        }
    }

    fn range(&mut self, known: &Past) -> pb::RangeRequest {
        let mut request = pb::RangeRequest {
            key: self.key_or_none(),
            range_end: self.end(),
            revision: self.revision(known),
            serializable: self.rng.bool(),
            keys_only: self.rng.u32(..5) == 0,
            count_only: self.rng.u32(..10) == 0,
            ..Default::default()
        };
        if self.rng.u32(..40) == 0 {
            request.revision = -self.rng.i64(1..9);
        }
        if self.rng.u32(..3) == 0 {
            request.sort_order = self.rng.i32(0..3);
            request.sort_target = self.rng.i32(0..5);
        }
        request.limit = match self.rng.u32(..6) {
            0..=2 => 0,
            3 => -1,
            _ => self.rng.i64(1..5),
        };
        if self.rng.u32(..4) == 0 {
            let mut bound = || if self.rng.bool() { 0 } else { self.rng.i64(-1..known.revision + 2) };
            request.min_mod_revision = bound();
            request.max_mod_revision = bound();
            request.min_create_revision = bound();
            request.max_create_revision = bound();
        }
        if self.rng.u32(..80) == 0 {
            request.sort_order = 9;
        }
        if self.rng.u32(..80) == 0 {
            request.sort_target = 9;
        }
        request
    }

    fn range_stream(&mut self, known: &Past) -> pb::RangeRequest {
        let mut request = self.range(known);
        if self.rng.u32(..4) != 0 {
            request.sort_order = 0;
            request.sort_target = 0;
            request.min_mod_revision = 0;
            request.max_mod_revision = 0;
            request.min_create_revision = 0;
            request.max_create_revision = 0;
        }
        request
    }

    fn compare(&mut self, known: &Past) -> pb::Compare {
        let number = match self.rng.u32(..3) {
            0 => 0,
            1 => self.rng.i64(0..6),
            _ => self.rng.i64(0..=known.revision),
        };
        let target = self.rng.i32(0..5);
        let matching = match target {
            0 => TargetUnion::Version(number),
            1 => TargetUnion::CreateRevision(number),
            2 => TargetUnion::ModRevision(number),
            3 => TargetUnion::Value(self.value()),
            _ => TargetUnion::Lease(self.lease()),
        };
        let target_union = match self.rng.u32(..12) {
            0 => None,
            1 => Some(TargetUnion::Version(number)),
            _ => Some(matching),
        };
        pb::Compare {
            result: if self.rng.u32(..50) == 0 { 9 } else { self.rng.i32(0..4) },
            target: if self.rng.u32(..50) == 0 { 9 } else { target },
            key: self.key_or_none(),
            range_end: if self.rng.u32(..5) == 0 { self.end() } else { Bytes::new() },
            target_union,
        }
    }

    fn txn(&mut self, known: &Past, depth: u32) -> pb::TxnRequest {
        let compares = self.rng.usize(..3);
        let read_only = depth == 0 && self.rng.u32(..4) == 0;
        let compare = (0..compares).map(|_| self.compare(known)).collect();
        let success = self.ops(known, depth, read_only);
        let failure = self.ops(known, depth, read_only);
        pb::TxnRequest { compare, success, failure }
    }

    fn ops(&mut self, known: &Past, depth: u32, read_only: bool) -> Vec<pb::RequestOp> {
        let count = if self.rng.u32(..150) == 0 { 129 } else { self.rng.usize(..4) };
        (0..count)
            .map(|_| {
                let kind = if read_only { 0 } else { self.rng.u32(..4 + u32::from(depth > 0)) };
                let request = match kind {
                    0 => Some(Request::RequestRange(self.range(known))),
                    1 | 2 => Some(Request::RequestPut(self.put())),
                    3 => Some(Request::RequestDeleteRange(self.delete())),
                    _ => Some(Request::RequestTxn(self.txn(known, depth - 1))),
                };
                let absent = self.rng.u32(..100) == 0;
                pb::RequestOp { request: if absent { None } else { request } }
            })
            .collect()
    }

    fn compact(&mut self, known: &Past) -> pb::CompactionRequest {
        let revision = match self.rng.u32(..10) {
            0 => known.revision + 1 + self.rng.i64(0..3),
            1 => known.compacted.max(1) - i64::from(known.compacted > 1),
            2 => -3,
            3 => known.revision,
            4 => known.remade.last().copied().unwrap_or(known.revision),
            _ => (known.revision - self.rng.i64(0..30)).max(1),
        };
        pb::CompactionRequest { revision, physical: self.rng.u32(..3) == 0 }
    }

    fn grant(&mut self) -> pb::LeaseGrantRequest {
        let ttl = match self.rng.u32(..12) {
            0 => 9_000_000_001,
            _ => LEASE_TTL_SECONDS + self.rng.i64(0..100),
        };
        let id = if self.rng.u32(..12) == 0 { 0 } else { LEASES[self.rng.usize(..LEASES.len() - 1)] };
        pb::LeaseGrantRequest { ttl, id }
    }

    fn hash_revision(&mut self, known: &Past) -> i64 {
        match self.rng.u32(..8) {
            0 => known.revision + 2,
            1 if known.compacted > 1 => known.compacted - 1,
            2 | 3 => self.rng.i64(known.compacted.max(1)..=known.revision),
            4 => known.remade.last().copied().unwrap_or_default(),
            5 if !known.compacted_at.is_empty() => {
                known.compacted_at[self.rng.usize(..known.compacted_at.len())]
            }
            _ => 0,
        }
    }

    fn alarm(&mut self) -> Call {
        match self.rng.u32(..7) {
            0 => Call::AlarmOfSelf(1, 1),
            1 => Call::Alarm(pb::AlarmRequest { action: 1, member_id: 77, alarm: 1 }),
            2 => Call::Alarm(pb::AlarmRequest { action: 2, member_id: 77, alarm: 1 }),
            3 => Call::Alarm(pb::AlarmRequest { action: 1, member_id: 77, alarm: 0 }),
            4 => Call::AlarmOfSelf(1, 2),
            5 => Call::Alarm(pb::AlarmRequest { action: self.rng.i32(1..5), member_id: 77, alarm: 9 }),
            _ => Call::Alarm(pb::AlarmRequest { action: 0, member_id: 0, alarm: self.rng.i32(0..3) }),
        }
    }

    fn downgrade(&mut self) -> Call {
        let (action, version) = match self.rng.u32(..5) {
            0 => (0, "not a version"),
            1 => (0, "3.4.0"),
            2 => (0, "3.6.1"),
            3 => (1, "3.6.0"),
            _ => (9, "3.6.0"),
        };
        Call::Downgrade(pb::DowngradeRequest { action, version: version.into() })
    }

    fn lock_or_election(&mut self) -> Call {
        // A name for each lease: a call that waits for another's key would change the store when it gives up, at a time
        // that nobody can compare. Waiting is tested elsewhere.
        let lease = LEASES[self.rng.usize(..LEASES.len())];
        let name: Bytes = format!("lock{lease}").into();
        let leader = || election::LeaderKey {
            name: name.clone(),
            key: format!("{}/{:x}", String::from_utf8_lossy(&name), lease).into(),
            rev: 5,
            lease,
        };
        match self.rng.u32(..8) {
            0 | 1 => Call::Lock(lock::LockRequest { name, lease }),
            2 => Call::Unlock(lock::UnlockRequest { key: leader().key }),
            3 | 4 => Call::Campaign(election::CampaignRequest { name, lease, value: self.value() }),
            5 => Call::Leader(election::LeaderRequest { name }),
            6 => {
                let leader = self.leader_key(leader());
                Call::Proclaim(election::ProclaimRequest { leader, value: self.value() })
            }
            _ => Call::Resign(election::ResignRequest { leader: self.leader_key(leader()) }),
        }
    }

    /// Also none, and one without a key.
    fn leader_key(&mut self, leader: election::LeaderKey) -> Option<election::LeaderKey> {
        match self.rng.u32(..8) {
            0..4 => Some(leader),
            4 => Some(election::LeaderKey { rev: self.rng.i64(..2), ..Default::default() }),
            _ => None,
        }
    }

    fn watch(&mut self, known: &Past) -> WatchScript {
        let mut steps = Vec::new();
        let mut created = 0;
        for _ in 0..3 + self.rng.usize(..6) {
            match self.rng.u32(..10) {
                0..=3 => {
                    steps.push(Step::Create(self.watch_create(known)));
                    created += 1;
                }
                4..=6 => steps.push(Step::Write(self.watched_write())),
                7 => steps.push(Step::Cancel(self.rng.i64(-1..4))),
                8 if created > 0 => {
                    steps.push(Step::Settle);
                    steps.push(Step::Progress);
                }
                _ => steps.push(Step::Empty),
            }
            // A watch from now sees a write or not by time; so writes wait until creations are answered.
            if matches!(steps.last(), Some(Step::Create(_) | Step::Cancel(_))) {
                steps.push(Step::Settle);
            }
        }
        steps.insert(0, Step::Create(self.watch_create(known)));
        steps.insert(1, Step::Settle);
        WatchScript { steps }
    }

    fn watched_write(&mut self) -> pb::TxnRequest {
        let mut keys: Vec<Bytes> = (0..1 + self.rng.usize(..3)).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        let success = keys
            .into_iter()
            .map(|key| {
                let request = if self.rng.u32(..3) == 0 {
                    Request::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() })
                } else {
                    Request::RequestPut(pb::PutRequest { key, value: self.value(), ..Default::default() })
                };
                pb::RequestOp { request: Some(request) }
            })
            .collect();
        pb::TxnRequest { success, ..Default::default() }
    }

    fn watch_create(&mut self, known: &Past) -> pb::WatchCreateRequest {
        let start_revision = match self.rng.u32(..10) {
            0..=3 => 0,
            4..=6 => self.rng.i64(known.compacted.max(1)..=known.revision + 1),
            7 => known.compacted,
            8 => known.compacted - 1,
            _ => known.revision + 3,
        };
        pb::WatchCreateRequest {
            key: self.key_or_none(),
            range_end: self.end(),
            start_revision,
            progress_notify: false,
            filters: (0..2).filter(|_| self.rng.u32(..8) == 0).collect(),
            prev_kv: self.rng.bool(),
            watch_id: if self.rng.u32(..4) == 0 { self.rng.i64(-1..4) } else { 0 },
            fragment: self.rng.u32(..4) == 0,
        }
    }
}
