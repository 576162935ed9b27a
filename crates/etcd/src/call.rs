//! One gRPC call at the level of bytes: its message, its deadline, its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use prost::Message;
use tonic::Status;

use crate::body::{self, AnswerBody, Chunks, FRAME_HEADER_BYTES};
use crate::context::Context;
use crate::kv::FREE_BYTES;
use crate::rpc_counters::{CallGuard, MethodKind};
use crate::status::EtcdError;
use crate::transfer::Transfer;

/// Bound on work that grows with the database (a hash, a backup, a physical compaction), when the client gives none.
pub const LONG_WORK_TIMEOUT: Duration = Duration::from_secs(600);

/// When a call's time is over, and whose limit that is.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// The moment.
    pub at: Instant,
    /// It is the client's (`grpc-timeout`), not the server's own limit.
    pub is_clients: bool,
    /// The client's, when it gave one, also when it is later than `at`.
    pub client: Option<Instant>,
}

impl Deadline {
    /// The earlier of the server's limit and what the client asked for.
    pub fn of(context: &Context, headers: &HeaderMap) -> Deadline {
        let now = Instant::now();
        let server = now + context.options.request_timeout();
        // A far client deadline may lie beyond what an Instant holds: then it is none.
        let client = headers.get("grpc-timeout").and_then(parse_timeout).and_then(|t| now.checked_add(t));
        match client {
            Some(at) if at < server => Deadline { at, is_clients: true, client },
            _ => Deadline { at: server, is_clients: false, client },
        }
    }

    /// The same call's next step with the server's limit counted from now: after a wait that is not the member's work.
    pub fn renewed(self, context: &Context) -> Deadline {
        let server = context.deadline();
        match self.client {
            Some(at) if at < server => Deadline { at, is_clients: true, ..self },
            _ => Deadline { at: server, is_clients: false, ..self },
        }
    }

    /// The client's limit alone, or a long one of ours: the work is as long as the database is large.
    pub fn for_long_work(self) -> Deadline {
        let ours = Instant::now() + LONG_WORK_TIMEOUT;
        match self.client {
            Some(at) if at < ours => Deadline { at, is_clients: true, ..self },
            _ => Deadline { at: ours, is_clients: false, ..self },
        }
    }

    /// The client's own deadline is over: what it hears is that, whatever the member says.
    pub fn judge(self, status: Status) -> Status {
        if self.is_clients && Instant::now() >= self.at { EtcdError::DeadlineExceeded.into() } else { status }
    }
}

/// `grpc-timeout`: up to 8 digits and a unit.
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'n' => Duration::from_nanos(amount),
        b'u' => Duration::from_micros(amount),
        b'm' => Duration::from_millis(amount),
        b'S' => Duration::from_secs(amount),
        b'M' => Duration::from_secs(amount * 60),
        b'H' => Duration::from_secs(amount * 3600),
        _ => return None,
    })
}

/// Reads the one message of a unary call (or of a server stream), without its frame header.
pub async fn read_message(mut body: Incoming, bytes_max: usize, kind: MethodKind) -> Result<Bytes, Status> {
    let mut read = Bytes::new();
    let mut joined = BytesMut::new();
    // Mostly the whole message is the first frame: it is then sliced, not copied.
    let length = loop {
        let Some(frame) = next_data(&mut body).await? else {
            return Err(no_message(kind));
        };
        if joined.is_empty() && read.is_empty() {
            read = frame;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&std::mem::take(&mut read));
            }
            joined.extend_from_slice(&frame);
        }
        let so_far: &[u8] = if joined.is_empty() { &read } else { &joined };
        if let Some((header, _)) = so_far.split_first_chunk::<FRAME_HEADER_BYTES>() {
            break frame_length(header, bytes_max)?;
        }
    };
    let whole = FRAME_HEADER_BYTES + length;
    let held = if joined.is_empty() { read.len() } else { joined.len() };
    if held < whole {
        if joined.is_empty() {
            joined.reserve(whole);
            joined.extend_from_slice(&std::mem::take(&mut read));
        } else {
            joined.reserve(whole - joined.len());
        }
        while joined.len() < whole {
            match next_data(&mut body).await? {
                Some(frame) => joined.extend_from_slice(&frame),
                None => return Err(Status::unknown("unexpected EOF")),
            }
        }
    }
    let mut message = if joined.is_empty() { read } else { joined.freeze() };
    let mut has_more = message.len() > whole;
    message.truncate(whole);
    message.advance(FRAME_HEADER_BYTES);
    // The client half-closes; waiting for it keeps the stream from being reset behind the answer.
    if !has_more && !body.is_end_stream() {
        has_more = next_data(&mut body).await?.is_some_and(|more| !more.is_empty());
    }
    // As in etcd: of a unary call the first message counts, whatever comes behind it.
    if has_more && kind != MethodKind::Unary {
        return Err(Status::internal(
            "cardinality violation: received multiple request messages for non-client-streaming RPC",
        ));
    }
    Ok(message)
}

fn frame_length(header: &[u8; FRAME_HEADER_BYTES], bytes_max: usize) -> Result<usize, Status> {
    if header[0] != 0 {
        return Err(Status::unimplemented(
            "grpc: Decompressor is not installed for the request's grpc-encoding",
        ));
    }
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if length > bytes_max {
        return Err(Status::resource_exhausted(too_large_text(length, bytes_max)));
    }
    Ok(length)
}

/// grpc-go's answer to a request that ends before its message.
pub fn no_message(kind: MethodKind) -> Status {
    match kind {
        MethodKind::Unary => Status::unknown("EOF"),
        MethodKind::ServerStream | MethodKind::BidiStream => Status::internal(
            "cardinality violation: received no request message from non-client-streaming RPC",
        ),
    }
}

/// grpc-go's text for a message over the receive limit.
pub fn too_large_text(length: usize, bytes_max: usize) -> String {
    format!("grpc: received message larger than max ({length} vs. {bytes_max})")
}

async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, Status> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                // Trailers of a request say nothing to us.
                Err(_trailers) => continue,
            },
            Some(Err(error)) => return Err(Status::cancelled(error.to_string())),
        }
    }
}

/// Decodes a message with grpc-go's outline of text for one that is not protobuf.
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| undecodable(&error))
}

/// The refusal of a message that is not protobuf.
pub fn undecodable(error: &prost::DecodeError) -> Status {
    Status::internal(format!("grpc: error unmarshalling request: {error}"))
}

/// Encodes an answer behind its frame header.
pub fn frame<M: Message>(message: &M) -> Bytes {
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + length);
    frame.push(0);
    frame.extend_from_slice(&(length as u32).to_be_bytes());
    message.encode_raw(&mut frame);
    Bytes::from(frame)
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

fn grpc_response(body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
    response
}

/// The answer to a unary call; a large one is `begin`'s to follow.
pub fn respond(
    result: Result<Bytes, Status>,
    guard: CallGuard,
    begin: impl FnOnce() -> Arc<Transfer>,
) -> Response<AnswerBody> {
    match result {
        Ok(message) => {
            guard.sent(message.len() - FRAME_HEADER_BYTES);
            let transfer = (message.len() > FREE_BYTES).then(begin);
            let message = match &transfer {
                Some(transfer) => transfer.carry(message),
                None => message,
            };
            grpc_response(AnswerBody::Unary(message, transfer, guard))
        }
        Err(status) => refuse(&status, Some(guard)),
    }
}

/// The answer that comes in chunks.
pub fn respond_chunks(
    chunks: tokio::sync::mpsc::Receiver<Result<Bytes, Status>>,
    guard: CallGuard,
    transfer: Arc<Transfer>,
) -> Response<AnswerBody> {
    grpc_response(AnswerBody::Chunks(Chunks::new(chunks, transfer), guard))
}

/// A call that ends with its headers.
pub fn refuse(status: &Status, guard: Option<CallGuard>) -> Response<AnswerBody> {
    if let Some(mut guard) = guard {
        guard.end(status.code());
    }
    let mut response = grpc_response(AnswerBody::Plain(Full::default()));
    response.headers_mut().extend(body::trailers(status));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_in_every_unit_and_nonsense_is_none() {
        let of = |text: &'static str| parse_timeout(&HeaderValue::from_static(text));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("3S"), Some(Duration::from_secs(3)));
        assert_eq!(of("2M"), Some(Duration::from_secs(120)));
        assert_eq!(of("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(of("7u"), Some(Duration::from_micros(7)));
        assert_eq!(of("9n"), Some(Duration::from_nanos(9)));
        for nonsense in ["", "m", "5", "5x", "123456789S", "-1S", "1.5S"] {
            assert_eq!(of(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_compressed_message_is_refused_as_unimplemented() {
        let status = frame_length(&[1, 0, 0, 0, 5], 2_097_152).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unimplemented);
    }

    #[test]
    fn a_message_over_the_receive_limit_is_refused_in_grpc_gos_words() {
        let mut header = [0; FRAME_HEADER_BYTES];
        header[1..].copy_from_slice(&2_097_153u32.to_be_bytes());
        let status = frame_length(&header, 2_097_152).unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status.message(), "grpc: received message larger than max (2097153 vs. 2097152)");
        header[1..].copy_from_slice(&2_097_152u32.to_be_bytes());
        assert_eq!(frame_length(&header, 2_097_152).unwrap(), 2_097_152);
    }
}
