//! Keys that one transaction would write twice, by etcd's rule (`checkIntervals` in its `v3rpc/key.go`).
//!
//! Of one branch, the same key must not be put twice, nor be put and deleted. Deletes of one level are known before its
//! nested transactions are looked at, and these in their order; so a put of a nested one is held against the deletes
//! of the level above and of *earlier* siblings only. The two branches of a nested transaction exclude each other, and
//! so may put the same key.

use std::collections::{BTreeMap, HashSet};

use dqlited_proto::etcdserverpb as pb;
use pb::request_op::Request;

use crate::status::EtcdError;

/// Checks one branch with all that is nested in it.
pub fn check(ops: &[pb::RequestOp]) -> Result<(), EtcdError> {
    // One operation that is no transaction cannot collide: most of kube-apiserver's are so.
    if let [] | [pb::RequestOp { request: Some(Request::RequestPut(_) | Request::RequestRange(_)) }] = ops {
        return Ok(());
    }
    writes(ops).map(|_| ())
}

#[derive(Default)]
struct Writes<'a> {
    puts: HashSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

/// A set of keys, as single ones and as intervals that do not touch each other: begin to end (exclusive).
#[derive(Default)]
struct Deletes<'a> {
    keys: HashSet<&'a [u8]>,
    ranges: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Deletes<'a> {
    fn add(&mut self, key: &'a [u8], range_end: &'a [u8]) {
        if range_end.is_empty() {
            self.keys.insert(key);
        } else {
            self.add_range(key, range_end);
        }
    }

    /// An end of `\0` ("from key on") is taken as it stands and so holds nothing: etcd lets it slip through, too.
    fn add_range(&mut self, mut begin: &'a [u8], mut end: &'a [u8]) {
        if begin >= end {
            return;
        }
        // Swallow every interval that begins at or before our end and ends at or behind our begin.
        while let Some((&other_begin, &other_end)) = self.ranges.range(..=end).next_back() {
            if other_end < begin {
                break;
            }
            self.ranges.remove(other_begin);
            begin = begin.min(other_begin);
            end = end.max(other_end);
        }
        self.ranges.insert(begin, end);
    }

    fn holds(&self, key: &[u8]) -> bool {
        self.keys.contains(key) || self.ranges.range(..=key).next_back().is_some_and(|(_, end)| key < *end)
    }

    fn merge(&mut self, other: Deletes<'a>) {
        self.keys.extend(other.keys);
        for (begin, end) in other.ranges {
            self.add_range(begin, end);
        }
    }
}

fn writes(ops: &[pb::RequestOp]) -> Result<Writes<'_>, EtcdError> {
    let mut deletes = Deletes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            deletes.add(&request.key, &request.range_end);
        }
    }
    let mut puts: HashSet<&[u8]> = HashSet::new();
    for op in ops {
        let Some(Request::RequestTxn(request)) = &op.request else { continue };
        let then = writes(&request.success)?;
        let otherwise = writes(&request.failure)?;
        for key in &then.puts {
            if deletes.holds(key) || !puts.insert(key) {
                return Err(EtcdError::DuplicateKey);
            }
        }
        for key in &otherwise.puts {
            let is_new = puts.insert(key);
            if deletes.holds(key) || (!is_new && !then.puts.contains(key)) {
                return Err(EtcdError::DuplicateKey);
            }
        }
        deletes.merge(then.deletes);
        deletes.merge(otherwise.deletes);
    }
    for op in ops {
        let Some(Request::RequestPut(request)) = &op.request else { continue };
        if deletes.holds(&request.key) || !puts.insert(&request.key) {
            return Err(EtcdError::DuplicateKey);
        }
    }
    Ok(Writes { puts, deletes })
}
