//! etcd's compares: which branch each transaction of a tree takes, decided on the state before all of it.

use std::ops::ControlFlow;

use rusqlite::Connection;

use crate::command::{Compare, OpKind, RangeQuery, Txn};
use crate::range::{At, range};
use crate::read::{KeyValueRef, ReadError};

/// etcd's numbers for a compare's target.
const TARGET_VERSION: i32 = 0;
const TARGET_CREATE: i32 = 1;
const TARGET_MOD: i32 = 2;
const TARGET_VALUE: i32 = 3;
const TARGET_LEASE: i32 = 4;

/// The branches that a transaction and those inside of it take.
#[derive(Debug)]
pub(crate) struct Branch {
    /// The compares held.
    pub succeeded: bool,
    /// One for each nested transaction of the taken branch, in order.
    pub nested: Vec<Branch>,
}

/// Decides all branches.
pub(crate) fn decide(connection: &Connection, at: At, txn: &Txn) -> Result<Branch, ReadError> {
    let mut succeeded = true;
    for compare in &txn.compare {
        if !holds(connection, at, compare)? {
            succeeded = false;
            break;
        }
    }
    let ops = if succeeded { &txn.success } else { &txn.failure };
    let mut nested = Vec::new();
    for op in ops {
        if let Some(OpKind::Txn(inner)) = &op.kind {
            nested.push(decide(connection, at, inner)?);
        }
    }
    Ok(Branch { succeeded, nested })
}

/// Every key of the interval must hold. An interval without keys is compared as a missing key: all numbers are 0, and
/// no compare with its value holds.
fn holds(connection: &Connection, at: At, compare: &Compare) -> Result<bool, ReadError> {
    let query = RangeQuery {
        key: compare.key.clone(),
        range_end: compare.range_end.clone(),
        // The value is read only where it is compared; a lease is not in what keys_only answers.
        keys_only: compare.target != TARGET_VALUE && compare.target != TARGET_LEASE,
        ..RangeQuery::default()
    };
    let mut any = false;
    let mut all = true;
    range(connection, at, &query, &mut |record| {
        any = true;
        all &= record_holds(compare, record);
        if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if any {
        return Ok(all);
    }
    if compare.target == TARGET_VALUE {
        return Ok(false);
    }
    Ok(record_holds(
        compare,
        KeyValueRef { key: &[], create_revision: 0, mod_revision: 0, version: 0, value: &[], lease: 0 },
    ))
}

fn record_holds(compare: &Compare, record: KeyValueRef<'_>) -> bool {
    let ordering = match compare.target {
        TARGET_VERSION => record.version.cmp(&compare.number),
        TARGET_CREATE => record.create_revision.cmp(&compare.number),
        TARGET_MOD => record.mod_revision.cmp(&compare.number),
        TARGET_VALUE => record.value.cmp(&compare.value[..]),
        TARGET_LEASE => record.lease.cmp(&compare.number),
        _ => std::cmp::Ordering::Equal,
    };
    match compare.result {
        0 => ordering.is_eq(),
        1 => ordering.is_gt(),
        2 => ordering.is_lt(),
        3 => ordering.is_ne(),
        _ => true,
    }
}
