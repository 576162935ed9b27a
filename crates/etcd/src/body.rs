//! The bodies of our answers: one gRPC message, a stream of messages, a tonic body, or plain HTTP.
//!
//! A large message is handed over in pieces, each once the connection asks for it (`transfer.rs`).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::rpc_counters::CallGuard;
use crate::transfer::{PIECE_BYTES, Transfer};

/// Bytes in front of each gRPC message: a compression flag and the length.
pub const FRAME_HEADER_BYTES: usize = 5;

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// What is left of one encoded message behind its frame header, then status OK.
    Unary(Bytes, Option<Arc<Transfer>>, CallGuard),
    /// Encoded messages as they become ready, then the status: OK at the channel's end.
    Chunks(Chunks, CallGuard),
    /// What a made service answers.
    Tonic(tonic::body::Body, CallGuard),
    /// Not gRPC, or a gRPC refusal that has only headers.
    Plain(Full<Bytes>),
    /// Everything has been sent.
    Ended,
}

/// A stream of messages and what is left of the one under way.
#[derive(Debug)]
pub struct Chunks {
    messages: mpsc::Receiver<Result<Bytes, Status>>,
    rest: Bytes,
    transfer: Arc<Transfer>,
}

impl Chunks {
    /// The messages of a channel.
    pub fn new(messages: mpsc::Receiver<Result<Bytes, Status>>, transfer: Arc<Transfer>) -> Chunks {
        Chunks { messages, rest: Bytes::new(), transfer }
    }
}

/// Takes the next piece off a message.
fn next_piece(rest: &mut Bytes, transfer: Option<&Arc<Transfer>>) -> Bytes {
    if let Some(transfer) = transfer {
        transfer.has_moved();
    }
    // An empty rest behind the last piece would keep the whole message in memory.
    if rest.len() <= PIECE_BYTES { std::mem::take(rest) } else { rest.split_to(PIECE_BYTES) }
}

fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

/// Trailers of a call that ends with a failure.
pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    if status.add_header(&mut trailers).is_err() {
        // Only a text that is no header value comes here, and none of ours is.
        trailers.insert("grpc-status", HeaderValue::from_static("2"));
    }
    trailers
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match &mut *self {
            AnswerBody::Unary(rest, transfer, _) if !rest.is_empty() => {
                return Poll::Ready(Some(Ok(Frame::data(next_piece(rest, transfer.as_ref())))));
            }
            AnswerBody::Unary(_, _, guard) => {
                guard.end(Code::Ok);
                Some(Ok(Frame::trailers(ok_trailers())))
            }
            AnswerBody::Chunks(chunks, guard) => {
                let ended = if chunks.rest.is_empty() {
                    match ready!(chunks.messages.poll_recv(cx)) {
                        Some(Ok(message)) => {
                            guard.sent(message.len() - FRAME_HEADER_BYTES);
                            chunks.rest = chunks.transfer.carry(message);
                            None
                        }
                        Some(Err(status)) => Some((status.code(), trailers(&status))),
                        None => Some((Code::Ok, ok_trailers())),
                    }
                } else {
                    None
                };
                match ended {
                    None => {
                        let piece = next_piece(&mut chunks.rest, Some(&chunks.transfer));
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                    Some((code, trailers)) => {
                        guard.end(code);
                        Some(Ok(Frame::trailers(trailers)))
                    }
                }
            }
            AnswerBody::Tonic(body, guard) => match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.trailers_ref() {
                    Some(trailers) => {
                        guard.end(code_of(trailers));
                        Some(Ok(frame))
                    }
                    None => {
                        let bytes = frame.data_ref().map_or(0, Bytes::len);
                        guard.sent(bytes.saturating_sub(FRAME_HEADER_BYTES));
                        return Poll::Ready(Some(Ok(frame)));
                    }
                },
                Some(Err(status)) => {
                    guard.end(status.code());
                    Some(Err(status))
                }
                None => None,
            },
            AnswerBody::Plain(body) => {
                return Pin::new(body).poll_frame(cx).map_err(|never: Infallible| match never {});
            }
            AnswerBody::Ended => None,
        };
        *self = AnswerBody::Ended;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Tonic(body, _) => body.is_end_stream(),
            AnswerBody::Plain(body) => body.is_end_stream(),
            AnswerBody::Ended => true,
            AnswerBody::Unary(..) | AnswerBody::Chunks(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Tonic(body, _) => body.size_hint(),
            AnswerBody::Plain(body) => body.size_hint(),
            AnswerBody::Ended => SizeHint::with_exact(0),
            // The trailers are no bytes, but a length known in advance would add a header to each answer.
            AnswerBody::Unary(..) | AnswerBody::Chunks(..) => SizeHint::default(),
        }
    }
}

/// The code that a made service put into headers or trailers.
pub fn code_of(headers: &HeaderMap) -> Code {
    headers.get("grpc-status").map_or(Code::Unknown, |value| Code::from_bytes(value.as_bytes()))
}
