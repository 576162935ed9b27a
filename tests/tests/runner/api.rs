//! A member of its own for a test, and short words for what is asked of it.

use bytes::Bytes;
use dqlited_proto::etcdserverpb::kv_client::KvClient;
use dqlited_proto::etcdserverpb::*;
use dqlited_proto::mvccpb::KeyValue;
use dqlited_tests::cluster::{Member, MemberOptions};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A running member with a fresh store, and a client of it.
pub struct Api {
    pub member: Member,
    pub channel: Channel,
}

pub const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
pub const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

impl Api {
    pub async fn start() -> Api {
        Api::start_with(MemberOptions::dqlited()).await
    }

    pub async fn start_with(options: MemberOptions) -> Api {
        let member = Member::start(options).await.expect("a member");
        let channel = member.connect().await.expect("a connection");
        Api { member, channel }
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.kv().range(request).await?.into_inner())
    }

    pub async fn get(&self, key: &'static str) -> Option<KeyValue> {
        self.range(one(key)).await.expect("a get").kvs.pop()
    }

    /// Keys of an answer, in its order.
    pub async fn keys(&self, request: RangeRequest) -> Vec<String> {
        self.range(request).await.expect("a range").kvs.iter().map(|kv| text(&kv.key)).collect()
    }

    /// The current revision, as the header of an empty read says it.
    pub async fn revision(&self) -> i64 {
        revision(self.range(one("no such key")).await.expect("a range").header)
    }

    /// Puts and answers the revision.
    pub async fn put(&self, key: &'static str, value: &'static str) -> i64 {
        let request = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        revision(self.try_put(request).await.expect("a put").header)
    }

    pub async fn try_put(&self, request: PutRequest) -> Result<PutResponse, Status> {
        Ok(self.kv().put(request).await?.into_inner())
    }

    pub async fn delete(&self, key: &'static str, range_end: &'static str) -> DeleteRangeResponse {
        let request =
            DeleteRangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
        self.kv().delete_range(request).await.expect("a delete").into_inner()
    }

    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        Ok(self.kv().txn(request).await?.into_inner())
    }

    pub async fn compact(&self, at: i64) -> Result<CompactionResponse, Status> {
        Ok(self.kv().compact(CompactionRequest { revision: at, physical: false }).await?.into_inner())
    }

    /// All messages of a RangeStream, and how it ended.
    pub async fn range_stream(&self, request: RangeRequest) -> (Vec<RangeResponse>, Result<(), Status>) {
        let mut chunks = Vec::new();
        let mut stream = match self.kv().range_stream(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return (chunks, Err(status)),
        };
        loop {
            match stream.message().await {
                Ok(Some(chunk)) => chunks.push(chunk.range_response.expect("each chunk has a response")),
                Ok(None) => return (chunks, Ok(())),
                Err(status) => return (chunks, Err(status)),
            }
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

pub fn revision(header: Option<ResponseHeader>) -> i64 {
    header.expect("a header").revision
}

/// A get of one key.
pub fn one(key: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), ..Default::default() }
}

/// A range of keys.
pub fn between(key: &'static str, range_end: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() }
}

/// All keys.
pub fn all() -> RangeRequest {
    between("\0", "\0")
}

#[track_caller]
pub fn assert_fails<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    match result {
        Ok(answer) => panic!("expected {code:?} {text:?}, got {answer:?}"),
        Err(status) => assert_eq!((status.code(), status.message()), (code, text)),
    }
}

pub fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

pub fn get_op(request: RangeRequest) -> RequestOp {
    op(request_op::Request::RequestRange(request))
}

pub fn put_op(key: &'static str, value: &'static str) -> RequestOp {
    put_request_op(PutRequest { key: key.into(), value: value.into(), ..Default::default() })
}

pub fn put_request_op(request: PutRequest) -> RequestOp {
    op(request_op::Request::RequestPut(request))
}

pub fn delete_op(key: &'static str, range_end: &'static str) -> RequestOp {
    let request = DeleteRangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
    op(request_op::Request::RequestDeleteRange(request))
}

pub fn txn_op(request: TxnRequest) -> RequestOp {
    op(request_op::Request::RequestTxn(request))
}

pub fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare, success, failure }
}

/// A compare; `result` 0 equal, 1 greater, 2 less, 3 not equal.
pub fn compare(key: &'static str, result: i32, union: compare::TargetUnion) -> Compare {
    use compare::TargetUnion::*;
    let target = match union {
        Version(_) => 0,
        CreateRevision(_) => 1,
        ModRevision(_) => 2,
        Value(_) => 3,
        Lease(_) => 4,
    };
    Compare { result, target, key: key.into(), target_union: Some(union), range_end: Bytes::new() }
}
