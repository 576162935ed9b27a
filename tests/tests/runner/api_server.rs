//! The listener: what is no gRPC call of ours, metadata, health, reflection.

use dqlited_proto::etcdserverpb::*;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use crate::api::*;

async fn call_raw(api: &Api, path: &'static str) -> Result<RangeResponse, tonic::Status> {
    let mut client = tonic::client::Grpc::new(api.channel.clone());
    client.ready().await.expect("a connection");
    let codec = tonic_prost::ProstCodec::<RangeRequest, RangeResponse>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    Ok(client.unary(Request::new(one("a")), path, codec).await?.into_inner())
}

#[tokio::test]
async fn unknown_methods_and_services_are_unimplemented_in_grpc_gos_words() {
    let api = Api::start().await;
    assert_fails(
        call_raw(&api, "/etcdserverpb.KV/Frobnicate").await,
        Code::Unimplemented,
        "unknown method Frobnicate for service etcdserverpb.KV",
    );
    assert_fails(
        call_raw(&api, "/no.such.Service/Range").await,
        Code::Unimplemented,
        "unknown service no.such.Service",
    );
}

#[tokio::test]
async fn hasleader_and_client_api_version_are_read_from_the_metadata() {
    let api = Api::start().await;
    let mut request = Request::new(one("a"));
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request.metadata_mut().insert("client-api-version", MetadataValue::from_static("3.7"));
    api.kv().range(request).await.unwrap();

    let mut request = Request::new(one("a"));
    let no_text = MetadataValue::try_from(&b"\xff"[..]).unwrap();
    request.metadata_mut().insert("client-api-version", no_text);
    let status = api.kv().range(request).await.unwrap_err();
    let expected = (Code::InvalidArgument, "etcdserver: invalid client api version");
    assert_eq!((status.code(), status.message()), expected);
}

#[tokio::test]
async fn a_client_deadline_shorter_than_the_servers_limit_is_honoured() {
    let api = Api::start().await;
    let mut request = Request::new(one("a"));
    request.set_timeout(std::time::Duration::from_nanos(1));
    let status = api.kv().range(request).await.unwrap_err();
    // The client's own timer may be first: it says CANCELLED.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    api.put("a", "1").await;
}
