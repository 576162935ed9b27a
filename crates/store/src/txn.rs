//! etcd's Put, DeleteRange and Txn as log entries: all checks first, then changes that cannot fail any more.

use rusqlite::Connection;

use crate::Revision;
use crate::change::{Change, lease_ttl};
use crate::command::{DeleteRange, Op, OpKind, Put, Txn};
use crate::compare::{Branch, decide};
use crate::interval::Interval;
use crate::range::{At, check_in_txn, count_now, range_collected, range_kept};
use crate::read::{Keep, ReadError};
use crate::record::current_row;
use crate::response::{CommandError, OpResponse, TxnResponse};
use crate::store::{CHANGES_PER_REVISION_MAX, StoreError};

/// Why an entry is not carried out: a refusal that every member decides alike, or a failure of this member.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Part of the replicated behaviour; nothing has been changed.
    Refused(CommandError),
    /// The transaction is rolled back.
    Failed(StoreError),
}

impl From<CommandError> for Stop {
    fn from(error: CommandError) -> Stop {
        Stop::Refused(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Failed(error)
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Stop {
        match error {
            ReadError::Compacted => Stop::Refused(CommandError::Compacted),
            ReadError::FutureRevision => Stop::Refused(CommandError::FutureRevision),
            ReadError::Store(error) => Stop::Failed(error),
        }
    }
}

/// Checks a put on the state before its entry: the lease first, then the key that `ignore_*` needs.
pub(crate) fn check_put(connection: &Connection, put: &Put) -> Result<(), Stop> {
    if put.lease != 0 && lease_ttl(connection, put.lease)?.is_none() {
        return Err(CommandError::LeaseNotFound.into());
    }
    if put.ignore_value || put.ignore_lease {
        let row = current_row(connection, &put.key)?;
        if row.is_none_or(|row| row.deleted) {
            return Err(CommandError::KeyNotFound.into());
        }
    }
    Ok(())
}

/// How many changes a delete makes at the most: a bound that is cheap for a single key.
pub(crate) fn count_delete(connection: &Connection, delete: &DeleteRange) -> Result<i64, StoreError> {
    let interval = Interval::new(&delete.key, &delete.range_end);
    if interval.is_single { Ok(1) } else { count_now(connection, &interval) }
}

/// Runs a transaction.
pub(crate) fn run_txn(
    connection: &Connection,
    at: At,
    txn: &Txn,
    change: &mut Change<'_>,
) -> Result<TxnResponse, Stop> {
    let branch = decide(connection, at, txn)?;
    let mut changes = 0;
    check(connection, at, txn, &branch, &mut changes)?;
    if changes > CHANGES_PER_REVISION_MAX {
        return Err(CommandError::TooManyChanges.into());
    }
    execute(connection, txn, &branch, change)
}

fn taken<'t>(txn: &'t Txn, branch: &Branch) -> &'t [Op] {
    if branch.succeeded { &txn.success } else { &txn.failure }
}

/// etcd's checks of the taken branches, in the order of the operations, on the state before the first of them.
fn check(connection: &Connection, at: At, txn: &Txn, branch: &Branch, changes: &mut i64) -> Result<(), Stop> {
    let mut nested = branch.nested.iter();
    for op in taken(txn, branch) {
        match &op.kind {
            Some(OpKind::Range(query)) => check_in_txn(at, query)?,
            Some(OpKind::Put(put)) => {
                check_put(connection, put)?;
                *changes += 1;
            }
            Some(OpKind::DeleteRange(delete)) => *changes += count_delete(connection, delete)?,
            Some(OpKind::Txn(inner)) => {
                let branch = nested.next().expect("decide() answers a branch for each nested transaction");
                check(connection, at, inner, branch, changes)?;
            }
            // Refused before it is proposed; an entry that has one all the same answers etcd's error for it.
            None => return Err(CommandError::KeyNotFound.into()),
        }
    }
    Ok(())
}

fn execute(
    connection: &Connection,
    txn: &Txn,
    branch: &Branch,
    change: &mut Change<'_>,
) -> Result<TxnResponse, Stop> {
    let mut nested = branch.nested.iter();
    let ops = taken(txn, branch);
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        responses.push(match &op.kind {
            Some(OpKind::Range(query)) => {
                let revision = Revision(change.revision());
                OpResponse::Range { revision, range: range_collected(connection, change.at(), query)? }
            }
            Some(OpKind::Put(put)) => {
                let previous = change.put(put)?;
                OpResponse::Put { revision: Revision(change.revision()), previous }
            }
            Some(OpKind::DeleteRange(delete)) => {
                let (deleted, previous) = change.delete_range(delete)?;
                OpResponse::DeleteRange { revision: Revision(change.revision()), deleted, previous }
            }
            Some(OpKind::Txn(inner)) => {
                let branch = nested.next().expect("decide() answers a branch for each nested transaction");
                OpResponse::Txn(execute(connection, inner, branch, change)?)
            }
            None => unreachable!("check() has refused it"),
        });
    }
    Ok(TxnResponse { succeeded: branch.succeeded, responses })
}

/// Runs a transaction of Ranges alone on a reader's connection; see [`crate::read::ReadView::read_only_txn`].
pub(crate) fn read_only_txn(
    connection: &Connection,
    at: At,
    txn: &Txn,
    keep: &mut Keep<'_>,
) -> Result<TxnResponse, ReadError> {
    let branch = decide(connection, at, txn)?;
    let queries = taken(txn, &branch).iter().filter_map(|op| match &op.kind {
        Some(OpKind::Range(query)) => Some(query),
        _ => None,
    });
    for query in queries.clone() {
        check_in_txn(at, query)?;
    }
    let mut responses = Vec::new();
    for query in queries {
        let range = range_kept(connection, at, query, keep)?;
        responses.push(OpResponse::Range { revision: Revision(at.revision), range });
    }
    Ok(TxnResponse { succeeded: branch.succeeded, responses })
}

/// The transaction puts in one of its branches, or one inside of it does.
pub(crate) fn has_put(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.kind {
        Some(OpKind::Put(_)) => true,
        Some(OpKind::Txn(inner)) => has_put(inner),
        _ => false,
    })
}
