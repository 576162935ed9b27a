//! Random steps. What depends on the state (revisions, leaders) is drawn as an offset and resolved when it is its turn.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::command::{
    Alarm, Compact, Compare, DeleteRange, Kind, Leader, LeaseGrant, LeaseRevoke, Noop, Op, OpKind, Put,
    RangeQuery, RegisterMember, Txn,
};
use crate::ids::MemberId;
use crate::model::Model;

/// A step of a sequence.
#[derive(Clone, Debug)]
pub enum Step {
    /// One batch; beside each command how far its lowest unsettled number lags behind.
    Commands(Vec<(Template, u64)>),
    Commit,
    CompactSlice(usize),
    Restart,
    /// Proposes again what was proposed so many commands ago.
    SecondCopy(usize),
    Read(Read),
}

#[derive(Clone, Debug)]
pub enum Template {
    Put(Put),
    Delete(DeleteRange),
    Txn(TxnTemplate),
    Compact(At),
    Grant(i64),
    Revoke(i64),
    /// An expiry of the present leader, or of the one before.
    Expire(i64, bool),
    Alarm(Alarm),
    Register,
    NewLeader,
    Noop,
}

/// A revision: as it stands, or seen from the current one.
#[derive(Clone, Copy, Debug)]
pub enum At {
    Exact(i64),
    Offset(i64),
}

#[derive(Clone, Debug)]
pub struct QueryTemplate {
    query: RangeQuery,
    at: At,
}

#[derive(Clone, Debug)]
pub struct TxnTemplate {
    /// With their numbers still as offsets.
    compare: Vec<(Compare, At)>,
    success: Vec<OpTemplate>,
    failure: Vec<OpTemplate>,
}

#[derive(Clone, Debug)]
enum OpTemplate {
    Range(QueryTemplate),
    Put(Put),
    Delete(DeleteRange),
    Txn(TxnTemplate),
}

#[derive(Clone, Debug)]
pub enum Read {
    Range(QueryTemplate),
    Txn(TxnTemplate),
    Hash(At),
    Events { key: Bytes, range_end: Bytes, from: At, revisions: usize },
}

impl At {
    pub fn of(self, model: &Model) -> i64 {
        match self {
            At::Exact(revision) => revision,
            At::Offset(offset) => model.revision() + offset,
        }
    }
}

impl QueryTemplate {
    pub fn query(&self, model: &Model) -> RangeQuery {
        RangeQuery { revision: self.at.of(model), ..self.query.clone() }
    }
}

impl TxnTemplate {
    pub fn txn(&self, model: &Model) -> Txn {
        let ops = |ops: &[OpTemplate]| -> Vec<Op> {
            let kind = |op: &OpTemplate| match op {
                OpTemplate::Range(query) => OpKind::Range(query.query(model)),
                OpTemplate::Put(put) => OpKind::Put(put.clone()),
                OpTemplate::Delete(delete) => OpKind::DeleteRange(delete.clone()),
                OpTemplate::Txn(txn) => OpKind::Txn(txn.txn(model)),
            };
            ops.iter().map(|op| Op { kind: Some(kind(op)) }).collect()
        };
        let compare = |(compare, at): &(Compare, At)| Compare { number: at.of(model), ..compare.clone() };
        Txn {
            compare: self.compare.iter().map(compare).collect(),
            success: ops(&self.success),
            failure: ops(&self.failure),
        }
    }
}

impl Template {
    pub fn kind(&self, model: &Model, member: MemberId, boot: u64, term: u64) -> Kind {
        match self {
            Template::Put(put) => Kind::Put(put.clone()),
            Template::Delete(delete) => Kind::DeleteRange(delete.clone()),
            Template::Txn(txn) => Kind::Txn(txn.txn(model)),
            Template::Compact(at) => Kind::Compact(Compact { revision: at.of(model) }),
            Template::Grant(id) => Kind::LeaseGrant(LeaseGrant { id: *id, ttl: 60 + id % 10 }),
            Template::Revoke(id) => Kind::LeaseRevoke(LeaseRevoke { id: *id, expired_under: None }),
            Template::Expire(id, is_stale) => {
                let leader = Leader { term: term - u64::from(*is_stale), node: member.0 };
                Kind::LeaseRevoke(LeaseRevoke { id: *id, expired_under: Some(leader) })
            }
            Template::Alarm(alarm) => Kind::Alarm(alarm.clone()),
            Template::Register => Kind::RegisterMember(RegisterMember {
                member: member.0,
                boot,
                name: format!("boot {boot}"),
                ..RegisterMember::default()
            }),
            Template::NewLeader => unreachable!("a blank entry, not a command"),
            Template::Noop => Kind::Noop(Noop {}),
        }
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["\0", "a", "aa", "b", "c", "d", "e\u{ff}"])
        .prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(b"\0")),
        1 => Just(Bytes::from_static(b"\0\0")),
        3 => key(),
        1 => Just(Bytes::from_static(b"\xff")),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => prop::sample::select(vec!["", "1", "2", "22", "3"]).prop_map(|value| Bytes::from_static(value.as_bytes())),
        // Longer than a page, so that SQLite spills it.
        1 => (1..9000usize).prop_map(|len| Bytes::from(vec![b'x'; len])),
    ]
}

fn lease() -> impl Strategy<Value = i64> {
    prop::sample::select(vec![1, 2, -3, i64::MAX])
}

fn at() -> impl Strategy<Value = At> {
    prop_oneof![
        4 => prop::sample::select(vec![0, 0, 0, 1, -1, -7]).prop_map(At::Exact),
        4 => (-12i64..=1).prop_map(At::Offset),
    ]
}

fn put() -> impl Strategy<Value = Put> {
    let lease = prop_oneof![3 => Just(0), 2 => lease(), 1 => Just(99)];
    let rarely = || prop::bool::weighted(0.15);
    (key(), value(), lease, any::<bool>(), rarely(), rarely()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| Put {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRange {
        key,
        range_end,
        prev_kv,
    })
}

fn query() -> impl Strategy<Value = QueryTemplate> {
    let filter = || prop_oneof![12 => Just(0i64), 1 => -1..20i64];
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let order = (prop_oneof![2 => Just(0), 1 => 0..3i32], prop_oneof![2 => Just(0), 1 => 0..5i32]);
    let limit = prop_oneof![2 => Just(0), 2 => 1..5i64, 1 => Just(-1)];
    (key(), range_end(), limit, at(), order, flags, [filter(), filter(), filter(), filter()]).prop_map(
        |(key, range_end, limit, at, (sort_order, sort_target), (keys_only, count_only), filters)| {
            QueryTemplate {
                query: RangeQuery {
                    key,
                    range_end,
                    limit,
                    revision: 0,
                    sort_order,
                    sort_target,
                    keys_only,
                    count_only,
                    min_mod_revision: filters[0],
                    max_mod_revision: filters[1],
                    min_create_revision: filters[2],
                    max_create_revision: filters[3],
                },
                at,
            }
        },
    )
}

fn compare() -> impl Strategy<Value = (Compare, At)> {
    let numbers = (0..5i32, 0..6i32);
    (numbers, key(), range_end(), at(), value()).prop_map(|((result, target), key, range_end, at, value)| {
        (Compare { result, target, key, range_end, number: 0, value }, at)
    })
}

fn txn() -> impl Strategy<Value = TxnTemplate> {
    let flat = ops_of(prop_oneof![
        2 => query().prop_map(OpTemplate::Range),
        3 => put().prop_map(OpTemplate::Put),
        2 => delete().prop_map(OpTemplate::Delete),
    ]);
    flat.prop_recursive(2, 12, 3, |inner| {
        ops_of(prop_oneof![
            1 => query().prop_map(OpTemplate::Range),
            3 => put().prop_map(OpTemplate::Put),
            2 => delete().prop_map(OpTemplate::Delete),
            3 => inner.prop_map(OpTemplate::Txn),
        ])
    })
}

fn ops_of(op: impl Strategy<Value = OpTemplate> + Clone + 'static) -> BoxedStrategy<TxnTemplate> {
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4))
        .prop_map(|(compare, success, failure)| TxnTemplate { compare, success, failure })
        .boxed()
}

fn read_only_txn() -> impl Strategy<Value = TxnTemplate> {
    ops_of(query().prop_map(OpTemplate::Range).boxed())
}

fn alarm() -> impl Strategy<Value = Alarm> {
    // Cleared far more often than raised, so that most commands are carried out.
    (prop::bool::weighted(0.3), 1..3u64, 0..3i32).prop_map(|(activate, member, alarm)| Alarm {
        activate,
        member,
        alarm,
    })
}

fn template() -> impl Strategy<Value = Template> {
    prop_oneof![
        30 => put().prop_map(Template::Put),
        12 => delete().prop_map(Template::Delete),
        16 => txn().prop_map(Template::Txn),
        6 => at().prop_map(Template::Compact),
        6 => lease().prop_map(Template::Grant),
        2 => prop_oneof![lease(), Just(99)].prop_map(Template::Revoke),
        2 => (lease(), any::<bool>()).prop_map(|(id, is_stale)| Template::Expire(id, is_stale)),
        3 => alarm().prop_map(Template::Alarm),
        1 => Just(Template::Register),
        1 => Just(Template::NewLeader),
        1 => Just(Template::Noop),
    ]
}

fn read() -> impl Strategy<Value = Read> {
    prop_oneof![
        6 => query().prop_map(Read::Range),
        1 => read_only_txn().prop_map(Read::Txn),
        2 => at().prop_map(Read::Hash),
        3 => (key(), range_end(), at(), 1..5usize).prop_map(|(key, range_end, from, revisions)| {
            Read::Events { key, range_end, from, revisions }
        }),
    ]
}

/// Some 100 commands with everything else between them.
pub fn sequence() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        40 => vec((template(), 0..4u64), 1..4).prop_map(Step::Commands),
        12 => Just(Step::Commit),
        5 => (1..8usize).prop_map(Step::CompactSlice),
        3 => Just(Step::Restart),
        4 => (0..12usize).prop_map(Step::SecondCopy),
        25 => read().prop_map(Step::Read),
    ];
    vec(step, 1..200)
}
