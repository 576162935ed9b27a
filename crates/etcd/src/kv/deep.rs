//! A transaction from its bytes, also one that nests deeper than prost reads: it gives up at 100 messages within each
//! other, etcd takes what `--max-txn-ops` lets through.

use bytes::Bytes;
use dqlited_proto::etcdserverpb as pb;
use dqlited_store::command::TXN_LEVELS_MAX;
use pb::request_op::Request;
use prost::{DecodeError, Message};
use tonic::Status;

use crate::call;
use crate::status::EtcdError;

/// The fields of `TxnRequest`.
#[derive(Clone, PartialEq, ::prost::Message)]
struct FlatTxn {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<pb::Compare>,
    #[prost(message, repeated, tag = "2")]
    success: Vec<FlatOp>,
    #[prost(message, repeated, tag = "3")]
    failure: Vec<FlatOp>,
}

/// The fields of `RequestOp`.
#[derive(Clone, PartialEq, ::prost::Message)]
struct FlatOp {
    #[prost(oneof = "FlatRequest", tags = "1, 2, 3, 4")]
    request: Option<FlatRequest>,
}

/// The cases of a `RequestOp`; what is nested stays bytes, which look the same on the wire.
#[derive(Clone, PartialEq, ::prost::Oneof)]
enum FlatRequest {
    #[prost(message, tag = "1")]
    Range(pb::RangeRequest),
    #[prost(message, tag = "2")]
    Put(pb::PutRequest),
    #[prost(message, tag = "3")]
    DeleteRange(pb::DeleteRangeRequest),
    #[prost(bytes = "bytes", tag = "4")]
    Txn(Bytes),
}

/// Why bytes are no transaction.
enum Unreadable {
    TooDeep,
    Malformed(DecodeError),
}

/// Decodes a transaction; one that nests too deeply is refused as etcd refuses too many operations.
pub fn decode_txn(message: Bytes) -> Result<pb::TxnRequest, Status> {
    // Hardly any nests so deeply, so the straight way comes first.
    if let Ok(request) = pb::TxnRequest::decode(message.clone()) {
        return Ok(request);
    }
    unfold(message, TXN_LEVELS_MAX).map_err(|error| match error {
        Unreadable::TooDeep => EtcdError::TooManyOps.into(),
        Unreadable::Malformed(error) => call::undecodable(&error),
    })
}

fn unfold(message: Bytes, levels_max: usize) -> Result<pb::TxnRequest, Unreadable> {
    let levels_below = levels_max.checked_sub(1).ok_or(Unreadable::TooDeep)?;
    let flat = FlatTxn::decode(message).map_err(Unreadable::Malformed)?;
    let ops =
        |ops: Vec<FlatOp>| ops.into_iter().map(|op| unfold_op(op, levels_below)).collect::<Result<_, _>>();
    Ok(pb::TxnRequest { compare: flat.compare, success: ops(flat.success)?, failure: ops(flat.failure)? })
}

fn unfold_op(flat: FlatOp, levels_max: usize) -> Result<pb::RequestOp, Unreadable> {
    let request = flat.request.map(|request| {
        Ok(match request {
            FlatRequest::Range(range) => Request::RequestRange(range),
            FlatRequest::Put(put) => Request::RequestPut(put),
            FlatRequest::DeleteRange(delete) => Request::RequestDeleteRange(delete),
            FlatRequest::Txn(bytes) => Request::RequestTxn(unfold(bytes, levels_max)?),
        })
    });
    Ok(pb::RequestOp { request: request.transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(request: Request) -> pb::RequestOp {
        pb::RequestOp { request: Some(request) }
    }

    /// So many transactions within each other, with every kind of operation on each level.
    fn levels(count: usize) -> pb::TxnRequest {
        let level = |number: usize, inner: Option<pb::TxnRequest>| {
            let key = Bytes::from(format!("k{number}"));
            pb::TxnRequest {
                compare: vec![pb::Compare { key: key.clone(), target: 3, ..Default::default() }],
                success: inner.into_iter().map(|inner| op(Request::RequestTxn(inner))).collect(),
                failure: vec![
                    op(Request::RequestPut(pb::PutRequest {
                        key: key.clone(),
                        lease: -1,
                        ..Default::default()
                    })),
                    op(Request::RequestRange(pb::RangeRequest { limit: 7, ..Default::default() })),
                    op(Request::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() })),
                    pb::RequestOp { request: None },
                ],
            }
        };
        (1..count).fold(level(0, None), |inner, number| level(number, Some(inner)))
    }

    fn status(message: Vec<u8>) -> (tonic::Code, String) {
        let status = decode_txn(message.into()).expect_err("it is no transaction");
        (status.code(), status.message().to_owned())
    }

    #[test]
    fn a_transaction_comes_back_however_deep_it_nests_up_to_the_limit() {
        for count in 1..=TXN_LEVELS_MAX {
            let request = levels(count);
            assert!(decode_txn(request.encode_to_vec().into()).unwrap() == request, "{count} levels");
        }
        let too_many =
            (tonic::Code::InvalidArgument, "etcdserver: too many operations in txn request".to_owned());
        assert_eq!(status(levels(TXN_LEVELS_MAX + 1).encode_to_vec()), too_many);
        // What nests without end uses up no stack.
        let wrapped = |inner: Vec<u8>| {
            let op = FlatOp { request: Some(FlatRequest::Txn(inner.into())) };
            FlatTxn { success: vec![op], ..Default::default() }.encode_to_vec()
        };
        assert_eq!(status((0..5_000).fold(Vec::new(), |inner, _| wrapped(inner))), too_many);
    }

    #[test]
    fn damaged_bytes_are_internal_as_in_grpc_go() {
        let whole = levels(80).encode_to_vec();
        for end in [1, 10, whole.len() / 2, whole.len() - 1] {
            let (code, text) = status(whole[..end].to_vec());
            assert_eq!(code, tonic::Code::Internal, "{text}");
            assert!(text.starts_with("grpc: error unmarshalling request: "), "{text}");
        }
    }
}
