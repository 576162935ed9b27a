//! Wire messages to commands and answers of the store to wire messages; nothing is checked here (`checks.rs`).

use dqlited_proto::etcdserverpb as pb;
use dqlited_proto::mvccpb;
use dqlited_store::command as store;
use dqlited_store::response::{self, OpResponse};
use dqlited_store::{KeyValue, Revision};

/// A Put.
pub fn put(request: pb::PutRequest) -> store::Put {
    store::Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

/// A DeleteRange.
pub fn delete_range(request: pb::DeleteRangeRequest) -> store::DeleteRange {
    store::DeleteRange { key: request.key, range_end: request.range_end, prev_kv: request.prev_kv }
}

/// A Range; `serializable` is not the store's business.
pub fn range(request: pb::RangeRequest) -> store::RangeQuery {
    store::RangeQuery {
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort_order: request.sort_order,
        sort_target: request.sort_target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    }
}

/// A Txn, with all that is nested in it.
pub fn txn(request: pb::TxnRequest) -> store::Txn {
    store::Txn {
        compare: request.compare.into_iter().map(compare).collect(),
        success: request.success.into_iter().map(op).collect(),
        failure: request.failure.into_iter().map(op).collect(),
    }
}

fn op(request: pb::RequestOp) -> store::Op {
    use pb::request_op::Request;
    store::Op {
        kind: request.request.map(|request| match request {
            Request::RequestRange(request) => store::OpKind::Range(range(request)),
            Request::RequestPut(request) => store::OpKind::Put(put(request)),
            Request::RequestDeleteRange(request) => store::OpKind::DeleteRange(delete_range(request)),
            Request::RequestTxn(request) => store::OpKind::Txn(txn(request)),
        }),
    }
}

/// A union that is absent or of another kind than the target counts as 0 or as the empty value, as in etcd.
fn compare(request: pb::Compare) -> store::Compare {
    use pb::compare::{CompareTarget, TargetUnion};
    let mut compare = store::Compare {
        result: request.result,
        target: request.target,
        key: request.key,
        range_end: request.range_end,
        ..Default::default()
    };
    match (CompareTarget::try_from(request.target), request.target_union) {
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(number)))
        | (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(number)))
        | (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(number)))
        | (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(number))) => compare.number = number,
        (Ok(CompareTarget::Value), Some(TargetUnion::Value(value))) => compare.value = value,
        _ => {}
    }
    compare
}

/// A record.
pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// The answer to a transaction; the header of a nested one says revision 0, the outermost gets its own from the
/// caller.
pub fn txn_response(response: response::TxnResponse, header: pb::ResponseHeader) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(header),
        succeeded: response.succeeded,
        responses: response.responses.into_iter().map(op_response).collect(),
    }
}

fn op_response(response: OpResponse) -> pb::ResponseOp {
    use pb::response_op::Response;
    let response = match response {
        OpResponse::Range { revision, range } => {
            Response::ResponseRange(range_response(range, op_header(revision)))
        }
        OpResponse::Put { revision, previous } => Response::ResponsePut(pb::PutResponse {
            header: Some(op_header(revision)),
            prev_kv: previous.map(key_value),
        }),
        OpResponse::DeleteRange { revision, deleted, previous } => {
            Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                header: Some(op_header(revision)),
                deleted,
                prev_kvs: previous.into_iter().map(key_value).collect(),
            })
        }
        OpResponse::Txn(response) => Response::ResponseTxn(txn_response(response, op_header(Revision(0)))),
    };
    pb::ResponseOp { response: Some(response) }
}

/// The answer to a Range.
pub fn range_response(response: response::RangeResponse, header: pb::ResponseHeader) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: response.kvs.into_iter().map(key_value).collect(),
        more: response.more,
        count: response.count,
    }
}

/// Headers inside of a transaction name no cluster, member or term.
fn op_header(revision: Revision) -> pb::ResponseHeader {
    pb::ResponseHeader { revision: revision.0, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pb::compare::TargetUnion;

    use super::*;

    #[test]
    fn a_compare_with_a_union_of_another_kind_compares_with_zero() {
        let with = |target, target_union| compare(pb::Compare { target, target_union, ..Default::default() });
        assert_eq!(with(0, Some(TargetUnion::Version(7))).number, 7);
        assert_eq!(with(1, Some(TargetUnion::CreateRevision(7))).number, 7);
        assert_eq!(with(2, Some(TargetUnion::ModRevision(7))).number, 7);
        assert_eq!(with(4, Some(TargetUnion::Lease(7))).number, 7);
        assert_eq!(with(3, Some(TargetUnion::Value("x".into()))).value, "x");
        assert_eq!(with(0, Some(TargetUnion::ModRevision(7))).number, 0);
        assert_eq!(
            with(2, Some(TargetUnion::Value("x".into()))),
            store::Compare { target: 2, ..Default::default() }
        );
        assert_eq!(with(3, Some(TargetUnion::Version(7))).value, "");
        assert_eq!(with(9, Some(TargetUnion::Version(7))).number, 0);
        assert_eq!(with(2, None).number, 0);
    }

    #[test]
    fn headers_inside_a_transaction_have_no_ids_and_a_nested_one_says_revision_zero() {
        let header = pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 9, raft_term: 3 };
        let nested = response::TxnResponse {
            succeeded: true,
            responses: vec![OpResponse::Put { revision: Revision(9), previous: None }],
        };
        let answer = txn_response(
            response::TxnResponse {
                succeeded: true,
                responses: vec![
                    OpResponse::Range { revision: Revision(8), range: Default::default() },
                    OpResponse::Txn(nested),
                ],
            },
            header,
        );
        assert_eq!(answer.header, Some(header));
        let Some(pb::response_op::Response::ResponseRange(range)) = &answer.responses[0].response else {
            panic!("{answer:?}");
        };
        assert_eq!(range.header, Some(pb::ResponseHeader { revision: 8, ..Default::default() }));
        let Some(pb::response_op::Response::ResponseTxn(txn)) = &answer.responses[1].response else {
            panic!("{answer:?}");
        };
        assert_eq!(txn.header, Some(pb::ResponseHeader::default()));
        let Some(pb::response_op::Response::ResponsePut(put)) = &txn.responses[0].response else {
            panic!("{answer:?}");
        };
        assert_eq!(put.header, Some(pb::ResponseHeader { revision: 9, ..Default::default() }));
    }

    #[test]
    fn every_range_option_reaches_the_store() {
        let request = pb::RangeRequest {
            key: Bytes::from_static(b"a"),
            range_end: Bytes::from_static(b"b"),
            limit: 1,
            revision: 2,
            sort_order: 1,
            sort_target: 4,
            serializable: true,
            keys_only: true,
            count_only: true,
            min_mod_revision: 3,
            max_mod_revision: 4,
            min_create_revision: 5,
            max_create_revision: 6,
        };
        let query = range(request);
        assert_eq!(
            query,
            store::RangeQuery {
                key: Bytes::from_static(b"a"),
                range_end: Bytes::from_static(b"b"),
                limit: 1,
                revision: 2,
                sort_order: 1,
                sort_target: 4,
                keys_only: true,
                count_only: true,
                min_mod_revision: 3,
                max_mod_revision: 4,
                min_create_revision: 5,
                max_create_revision: 6,
            }
        );
    }
}
