//! The HTTP endpoints beside gRPC.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::server::{Serves, Services};

/// Answers one HTTP request.
pub async fn answer(
    _services: &Services,
    _serves: Serves,
    _request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"404 page not found\n")));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
