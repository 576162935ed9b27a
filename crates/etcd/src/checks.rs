//! The shape of KV requests: what is refused before anything is proposed or read, in etcd's order.

use dqlited_proto::etcdserverpb as pb;
use dqlited_store::command::TXN_LEVELS_MAX;
use pb::request_op::Request;

use crate::status::EtcdError;

mod duplicates;

/// A Range (and the part of RangeStream that is the same).
pub fn check_range(request: &pb::RangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    if pb::range_request::SortOrder::try_from(request.sort_order).is_err()
        || pb::range_request::SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(EtcdError::InvalidSortOption);
    }
    Ok(())
}

/// What RangeStream refuses beside: it answers in key order and without filters.
pub fn check_range_stream(request: &pb::RangeRequest) -> Result<(), EtcdError> {
    use pb::range_request::{SortOrder, SortTarget};
    check_range(request)?;
    let is_key_order = request.sort_order == SortOrder::None as i32
        || (request.sort_order == SortOrder::Ascend as i32 && request.sort_target == SortTarget::Key as i32);
    if !is_key_order {
        return Err(EtcdError::StreamSortUnsupported);
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filters.iter().any(|filter| *filter != 0) {
        return Err(EtcdError::StreamFilterUnsupported);
    }
    Ok(())
}

/// A Put.
pub fn check_put(request: &pb::PutRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(EtcdError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(EtcdError::LeaseProvided);
    }
    Ok(())
}

/// A DeleteRange.
pub fn check_delete_range(request: &pb::DeleteRangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() { Err(EtcdError::EmptyKey) } else { Ok(()) }
}

/// A Txn: numbers of operations, keys and shapes of both branches, then keys that are written twice.
pub fn check_txn(request: &pb::TxnRequest, ops_max: usize) -> Result<(), EtcdError> {
    check_txn_shape(request, ops_max, TXN_LEVELS_MAX)?;
    duplicates::check(&request.success)?;
    duplicates::check(&request.failure)
}

fn check_txn_shape(request: &pb::TxnRequest, ops_max: usize, levels_max: usize) -> Result<(), EtcdError> {
    let levels_below = levels_max.checked_sub(1).ok_or(EtcdError::TooManyOps)?;
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    // What is left is for each nested transaction; siblings do not add up.
    let nested_max = ops_max.checked_sub(ops).ok_or(EtcdError::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(EtcdError::EmptyKey);
    }
    request.success.iter().chain(&request.failure).try_for_each(|op| check_op(op, nested_max, levels_below))
}

fn check_op(op: &pb::RequestOp, nested_max: usize, levels_max: usize) -> Result<(), EtcdError> {
    match &op.request {
        Some(Request::RequestRange(request)) => check_range(request),
        Some(Request::RequestPut(request)) => check_put(request),
        Some(Request::RequestDeleteRange(request)) => check_delete_range(request),
        Some(Request::RequestTxn(request)) => check_txn_shape(request, nested_max, levels_max),
        None => Err(EtcdError::KeyNotFound),
    }
}

/// All operations of both branches are Ranges at this level: such a Txn is read, not proposed.
pub fn is_read_only(request: &pb::TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// A read-only Txn needs no proof of leadership when each of its Ranges says so; an empty one neither.
pub fn is_serializable(request: &pb::TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

/// Bytes that etcd's log record has around a request: field and length of the request, and a header with an id.
const RECORD_HEADER_BYTES: usize = 13;

/// Whether the log record of a write would be over `--max-request-bytes`. Measured as etcd's own record is, so that
/// the same request is the largest one on both.
pub fn is_too_large(message_bytes: usize, request_bytes_max: usize) -> bool {
    let length_bytes = prost::encoding::encoded_len_varint(message_bytes as u64);
    1 + length_bytes + message_bytes + RECORD_HEADER_BYTES > request_bytes_max
}

/// Refuses a write whose log record would be over `--max-request-bytes`.
pub fn check_size(message_bytes: usize, request_bytes_max: usize) -> Result<(), EtcdError> {
    if is_too_large(message_bytes, request_bytes_max) { Err(EtcdError::RequestTooLarge) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
