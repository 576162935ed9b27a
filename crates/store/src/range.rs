//! etcd's Range over one connection: the same code serves readers and the operations inside of a transaction.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use rusqlite::Connection;

use crate::command::RangeQuery;
use crate::interval::Interval;
use crate::read::{Keep, KeyValueRef, RangeSummary, ReadError};
use crate::record::{Chain, Records, current_row};
use crate::response::RangeResponse;
use crate::sql::{failed, last_id, prepare, revision_of};
use crate::store::StoreError;

/// The state that a read sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    /// The newest revision; a transaction's own once it has changed something.
    pub revision: i64,
    /// Below it nothing is readable.
    pub compact_revision: i64,
}

/// etcd's numbers for `sort_order`.
const ORDER_NONE: i32 = 0;
const ORDER_ASCEND: i32 = 1;
const ORDER_DESCEND: i32 = 2;

/// etcd's numbers for `sort_target`.
const TARGET_KEY: i32 = 0;
const TARGET_VERSION: i32 = 1;
const TARGET_CREATE: i32 = 2;
const TARGET_MOD: i32 = 3;
const TARGET_VALUE: i32 = 4;

const LIST_NOW: &str = "SELECT h.name, h.create_revision, h.id, h.version, h.lease, h.value
    FROM current c CROSS JOIN history h ON h.id = c.id
    WHERE c.name >= ?1 AND c.name < ?2 AND c.deleted = 0 ORDER BY c.name LIMIT ?3";
const LIST_NOW_OPEN: &str = "SELECT h.name, h.create_revision, h.id, h.version, h.lease, h.value
    FROM current c CROSS JOIN history h ON h.id = c.id
    WHERE c.name >= ?1 AND ?2 IS NULL AND c.deleted = 0 ORDER BY c.name LIMIT ?3";
const KEYS: &str = "SELECT name, create_revision, id, version, lease, deleted FROM current
    WHERE name >= ?1 AND name < ?2 ORDER BY name";
const KEYS_OPEN: &str = "SELECT name, create_revision, id, version, lease, deleted FROM current
    WHERE name >= ?1 AND ?2 IS NULL ORDER BY name";
const COUNT_NOW: &str = "SELECT count(*) FROM current WHERE name >= ?1 AND name < ?2 AND deleted = 0";
const COUNT_NOW_OPEN: &str = "SELECT count(*) FROM current WHERE name >= ?1 AND ?2 IS NULL AND deleted = 0";

/// Takes the records of a Range; Break ends the reading.
pub(crate) type Sink<'a> = dyn FnMut(KeyValueRef<'_>) -> ControlFlow<()> + 'a;

/// Runs a Range; see [`crate::read::ReadView::range`].
pub(crate) fn range(
    connection: &Connection,
    at: At,
    query: &RangeQuery,
    sink: &mut Sink<'_>,
) -> Result<RangeSummary, ReadError> {
    let revision = readable_revision(at, query.revision)?;
    let interval = Interval::new(&query.key, &query.range_end);
    let is_now = revision == at.revision;
    if query.count_only {
        return Ok(RangeSummary { count: count(connection, &interval, revision, is_now)?, more: false });
    }
    let plan = Plan::of(query);
    if !plan.is_plain {
        return sorted(connection, &interval, revision, query, plan, sink);
    }
    if interval.is_single {
        return single(connection, &interval, revision, query.keys_only, sink);
    }
    if is_now && !query.keys_only {
        return list_now(connection, &interval, query.limit, sink);
    }
    list_walking(connection, &interval, revision, query, sink)
}

/// [`range`], collected.
pub(crate) fn range_collected(
    connection: &Connection,
    at: At,
    query: &RangeQuery,
) -> Result<RangeResponse, ReadError> {
    range_kept(connection, at, query, &mut |_| true)
}

/// [`range`], collected without the records that `keep` does not want.
pub(crate) fn range_kept(
    connection: &Connection,
    at: At,
    query: &RangeQuery,
    keep: &mut Keep<'_>,
) -> Result<RangeResponse, ReadError> {
    let mut kvs = Vec::new();
    let summary = range(connection, at, query, &mut |record| {
        if keep(record) {
            kvs.push(record.to_owned());
        }
        ControlFlow::Continue(())
    })?;
    Ok(RangeResponse { kvs, more: summary.more, count: summary.count })
}

/// The check that etcd makes for a Range inside of a transaction, before it starts. Unlike a plain Range's, it takes a
/// negative revision literally.
pub(crate) fn check_in_txn(at: At, query: &RangeQuery) -> Result<(), ReadError> {
    match query.revision {
        0 => Ok(()),
        revision if revision > at.revision => Err(ReadError::FutureRevision),
        revision if revision < at.compact_revision => Err(ReadError::Compacted),
        _ => Ok(()),
    }
}

fn readable_revision(at: At, asked: i64) -> Result<i64, ReadError> {
    let revision = if asked <= 0 { at.revision } else { asked };
    if revision > at.revision {
        return Err(ReadError::FutureRevision);
    }
    if revision < at.compact_revision {
        return Err(ReadError::Compacted);
    }
    Ok(revision)
}

/// What a query asks beyond "in key order, up to a limit".
#[derive(Clone, Copy)]
struct Plan {
    /// etcd cuts at the limit before it filters and sorts.
    is_cut_early: bool,
    /// Key order, no filters.
    is_plain: bool,
}

impl Plan {
    fn of(query: &RangeQuery) -> Plan {
        let has_filters = query.min_mod_revision != 0
            || query.max_mod_revision != 0
            || query.min_create_revision != 0
            || query.max_create_revision != 0;
        let is_default_order = query.sort_order == ORDER_NONE
            || (query.sort_order == ORDER_ASCEND && query.sort_target == TARGET_KEY);
        let is_cut_early = is_default_order && !has_filters;
        Plan { is_cut_early, is_plain: is_cut_early && query.sort_target == TARGET_KEY }
    }
}

fn single(
    connection: &Connection,
    interval: &Interval<'_>,
    revision: i64,
    keys_only: bool,
    sink: &mut Sink<'_>,
) -> Result<RangeSummary, ReadError> {
    let Some(row) = current_row(connection, interval.start)? else { return Ok(RangeSummary::default()) };
    let limit = last_id(revision);
    let found = if row.id <= limit {
        Some((row.id, row.deleted))
    } else {
        Chain::new(connection)?.at(row.id, row.deleted, limit)?
    };
    let Some((id, false)) = found else { return Ok(RangeSummary::default()) };
    // It is the last record anyway, so a Break means nothing here.
    let _ = Records::new(connection)?
        .with(id, |record| sink(if keys_only { without_value_and_lease(record) } else { record }))?
        .ok_or_else(|| missing(id))?;
    Ok(RangeSummary { count: 1, more: false })
}

fn without_value_and_lease(record: KeyValueRef<'_>) -> KeyValueRef<'_> {
    KeyValueRef { value: &[], lease: 0, ..record }
}

fn missing(id: i64) -> StoreError {
    StoreError::Corrupt {
        path: crate::sql::DATABASE_FILE.into(),
        detail: format!(
            "history record {}.{} is missing though a key names it",
            revision_of(id),
            crate::sql::sub_of(id)
        ),
    }
}

fn list_now(
    connection: &Connection,
    interval: &Interval<'_>,
    limit: i64,
    sink: &mut Sink<'_>,
) -> Result<RangeSummary, ReadError> {
    const CONTEXT: &str = "list keys";
    let sql = if interval.end.is_some() { LIST_NOW } else { LIST_NOW_OPEN };
    let mut statement = prepare(connection, sql, CONTEXT)?;
    let sql_limit = if limit > 0 { limit } else { -1 };
    let mut rows = statement.query((interval.start, interval.end(), sql_limit)).map_err(failed(CONTEXT))?;
    let mut count = 0;
    let mut last = None;
    while let Some(row) = rows.next().map_err(failed(CONTEXT))? {
        let record = (|| {
            rusqlite::Result::Ok(KeyValueRef {
                key: row.get_ref(0)?.as_blob()?,
                create_revision: row.get(1)?,
                mod_revision: revision_of(row.get(2)?),
                version: row.get(3)?,
                lease: row.get(4)?,
                value: row.get_ref(5)?.as_blob()?,
            })
        })()
        .map_err(failed(CONTEXT))?;
        count += 1;
        if sink(record).is_break() || count == limit {
            last = Some([record.key, &[0]].concat());
            break;
        }
    }
    // What lies behind is only counted.
    if let Some(start) = &last {
        let rest = Interval { start, end: interval.end.clone(), is_single: false };
        count += count_now(connection, &rest)?;
    }
    Ok(RangeSummary { count, more: limit > 0 && count > limit })
}

fn count(
    connection: &Connection,
    interval: &Interval<'_>,
    revision: i64,
    is_now: bool,
) -> Result<i64, ReadError> {
    if is_now {
        return Ok(count_now(connection, interval)?);
    }
    let mut count = 0;
    walk(connection, interval, revision, &mut |_| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// Live keys of the interval.
pub(crate) fn count_now(connection: &Connection, interval: &Interval<'_>) -> Result<i64, StoreError> {
    let sql = if interval.end.is_some() { COUNT_NOW } else { COUNT_NOW_OPEN };
    prepare(connection, sql, "count keys")?
        .query_row((interval.start, interval.end()), |row| row.get(0))
        .map_err(failed("count keys"))
}

/// A key as `current` names it, at the revision of a read.
struct Found<'a> {
    name: &'a [u8],
    id: i64,
    /// What the newest row says; only right for the record `id` if `is_newest`.
    create_revision: i64,
    version: i64,
    lease: i64,
    is_newest: bool,
}

/// Calls `take` for each key that lives at the revision, in key order.
fn walk(
    connection: &Connection,
    interval: &Interval<'_>,
    revision: i64,
    take: &mut dyn FnMut(Found<'_>) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    const CONTEXT: &str = "walk over keys";
    let sql = if interval.end.is_some() { KEYS } else { KEYS_OPEN };
    let mut statement = prepare(connection, sql, CONTEXT)?;
    let mut chain = Chain::new(connection)?;
    let limit = last_id(revision);
    let mut rows = statement.query((interval.start, interval.end())).map_err(failed(CONTEXT))?;
    while let Some(row) = rows.next().map_err(failed(CONTEXT))? {
        let read = || {
            rusqlite::Result::Ok((
                Found {
                    name: row.get_ref(0)?.as_blob()?,
                    create_revision: row.get(1)?,
                    id: row.get(2)?,
                    version: row.get(3)?,
                    lease: row.get(4)?,
                    is_newest: true,
                },
                row.get::<_, bool>(5)?,
            ))
        };
        let (mut found, deleted) = read().map_err(failed(CONTEXT))?;
        let newest = found.id;
        if let Some((id, false)) = chain.at(newest, deleted, limit)? {
            found.id = id;
            found.is_newest = id == newest;
            take(found)?;
        }
    }
    Ok(())
}

/// Key order at any revision, with or without values.
fn list_walking(
    connection: &Connection,
    interval: &Interval<'_>,
    revision: i64,
    query: &RangeQuery,
    sink: &mut Sink<'_>,
) -> Result<RangeSummary, ReadError> {
    let mut records = Records::new(connection)?;
    let mut count = 0;
    let mut flow = ControlFlow::Continue(());
    walk(connection, interval, revision, &mut |found| {
        count += 1;
        if flow.is_break() || (query.limit > 0 && count > query.limit) {
            return Ok(());
        }
        if query.keys_only && found.is_newest {
            flow = sink(KeyValueRef {
                key: found.name,
                create_revision: found.create_revision,
                mod_revision: revision_of(found.id),
                version: found.version,
                value: &[],
                lease: 0,
            });
            return Ok(());
        }
        flow = records
            .with(found.id, |record| {
                sink(if query.keys_only { without_value_and_lease(record) } else { record })
            })?
            .ok_or_else(|| missing(found.id))?;
        Ok(())
    })?;
    Ok(RangeSummary { count, more: query.limit > 0 && count > query.limit })
}

/// A key that a sort or filter looks at. The value is there only when it is what the sort compares.
struct Candidate {
    name: Vec<u8>,
    id: i64,
    create_revision: i64,
    version: i64,
    lease: i64,
    value: Vec<u8>,
}

/// Filters and sorts as etcd does: fetch (cut early or not), filter, sort, cut.
fn sorted(
    connection: &Connection,
    interval: &Interval<'_>,
    revision: i64,
    query: &RangeQuery,
    plan: Plan,
    sink: &mut Sink<'_>,
) -> Result<RangeSummary, ReadError> {
    let mut candidates = Vec::new();
    let mut records = Records::new(connection)?;
    let by_value = query.sort_target == TARGET_VALUE;
    let mut count = 0;
    walk(connection, interval, revision, &mut |found| {
        count += 1;
        // One more than the limit, as etcd fetches to know whether there is more.
        if plan.is_cut_early && query.limit > 0 && count > query.limit.saturating_add(1) {
            return Ok(());
        }
        let candidate = if found.is_newest && !by_value {
            Candidate {
                name: found.name.to_vec(),
                id: found.id,
                create_revision: found.create_revision,
                version: found.version,
                lease: found.lease,
                value: Vec::new(),
            }
        } else {
            records
                .with(found.id, |record| Candidate {
                    name: record.key.to_vec(),
                    id: found.id,
                    create_revision: record.create_revision,
                    version: record.version,
                    lease: record.lease,
                    value: if by_value { record.value.to_vec() } else { Vec::new() },
                })?
                .ok_or_else(|| missing(found.id))?
        };
        if passes(query, &candidate) {
            candidates.push(candidate);
        }
        Ok(())
    })?;
    sort(&mut candidates, query);
    let more = query.limit > 0 && candidates.len() as i64 > query.limit;
    if more {
        candidates.truncate(query.limit as usize);
    }
    for candidate in &candidates {
        let flow = if query.keys_only {
            sink(KeyValueRef {
                key: &candidate.name,
                create_revision: candidate.create_revision,
                mod_revision: revision_of(candidate.id),
                version: candidate.version,
                value: &[],
                // etcd answers keys_only from its index, which knows no leases; a sort by value reads the records.
                lease: if by_value { candidate.lease } else { 0 },
            })
        } else {
            records.with(candidate.id, &mut *sink)?.ok_or_else(|| missing(candidate.id))?
        };
        if flow.is_break() {
            break;
        }
    }
    Ok(RangeSummary { count, more })
}

fn passes(query: &RangeQuery, candidate: &Candidate) -> bool {
    let mod_revision = revision_of(candidate.id);
    (query.max_mod_revision == 0 || mod_revision <= query.max_mod_revision)
        && (query.min_mod_revision == 0 || mod_revision >= query.min_mod_revision)
        && (query.max_create_revision == 0 || candidate.create_revision <= query.max_create_revision)
        && (query.min_create_revision == 0 || candidate.create_revision >= query.min_create_revision)
}

/// Equal ones stay in key order, also when descending.
fn sort(candidates: &mut [Candidate], query: &RangeQuery) {
    let compare = |a: &Candidate, b: &Candidate| -> Ordering {
        match query.sort_target {
            TARGET_VERSION => a.version.cmp(&b.version),
            TARGET_CREATE => a.create_revision.cmp(&b.create_revision),
            TARGET_MOD => revision_of(a.id).cmp(&revision_of(b.id)),
            TARGET_VALUE => a.value.cmp(&b.value),
            _ => a.name.cmp(&b.name),
        }
    };
    if query.sort_order == ORDER_DESCEND {
        candidates.sort_by(|a, b| compare(b, a));
    } else {
        candidates.sort_by(compare);
    }
}
