//! Watch answers on the wire: each event is encoded once and its bytes are shared by all watchers that get it.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use dqlited_proto::etcdserverpb::{ResponseHeader, WatchRequest};
use dqlited_store::event::Previous;
use dqlited_store::{Event, EventKind};
use prost::encoding::{encode_varint, encoded_len_varint, int64, message, string};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstCodec;

/// Tag 11 (`events`), length-delimited.
const EVENTS_TAG: u8 = (11 << 3) | 2;
/// Bytes that a stream buffers when idle: there may be ten thousands of streams.
const IDLE_BUFFER_BYTES: usize = 1 << 10;
/// Ready messages are gathered up to so many bytes before they go to HTTP/2.
const GATHER_BYTES: usize = 32 << 10;
/// What one event costs in memory beside its keys and values, roughly.
const EVENT_OVERHEAD_BYTES: usize = 200;

/// An event and its encodings, made when first needed.
#[derive(Debug)]
pub struct SharedEvent {
    event: Event,
    plain: OnceLock<Bytes>,
    with_previous: OnceLock<Bytes>,
}

impl SharedEvent {
    /// Wraps an event.
    pub fn new(event: Event) -> Self {
        SharedEvent { event, plain: OnceLock::new(), with_previous: OnceLock::new() }
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// It as a field of a WatchResponse, tag and length included.
    pub fn encoded(&self, with_previous: bool) -> &Bytes {
        // A key that is deleted and made again in one revision had a record before; etcd shows none for a creation.
        let is_creation =
            self.event.kind == EventKind::Put && self.event.kv.create_revision == self.event.kv.mod_revision;
        match (with_previous && !is_creation, &self.event.previous) {
            (true, Previous::Known(_)) => self.with_previous.get_or_init(|| encode_event(&self.event, true)),
            _ => self.plain.get_or_init(|| encode_event(&self.event, false)),
        }
    }

    /// What holding it costs, roughly.
    pub fn cost_bytes(&self) -> usize {
        let previous = match &self.event.previous {
            Previous::Known(kv) => kv.key.len() + kv.value.len(),
            Previous::None | Previous::NotRead => 0,
        };
        EVENT_OVERHEAD_BYTES + self.event.kv.key.len() + self.event.kv.value.len() + previous
    }
}

fn encode_event(event: &Event, with_previous: bool) -> Bytes {
    let previous = match &event.previous {
        Previous::Known(kv) if with_previous => Some(kv),
        _ => None,
    };
    let kind_len = match event.kind {
        EventKind::Put => 0,
        EventKind::Delete => 2,
    };
    let body_len = kind_len
        + message::encoded_len(2, &event.kv)
        + previous.map_or(0, |previous| message::encoded_len(3, previous));
    let mut out = BytesMut::with_capacity(1 + encoded_len_varint(body_len as u64) + body_len);
    out.put_u8(EVENTS_TAG);
    encode_varint(body_len as u64, &mut out);
    if event.kind == EventKind::Delete {
        out.put_slice(&[1 << 3, 1]);
    }
    message::encode(2, &event.kv, &mut out);
    if let Some(previous) = previous {
        message::encode(3, previous, &mut out);
    }
    out.freeze()
}

/// Events that were made together: one revision, or a batch read for a watch that catches up.
#[derive(Debug)]
pub struct EventBlock {
    /// In the order (revision, sub).
    pub events: Vec<SharedEvent>,
}

/// The events of a block that one watcher gets.
#[derive(Clone, Debug)]
pub enum Selection {
    /// All.
    All,
    /// Those at these places, ascending.
    Some(Box<[u32]>),
}

/// A watcher's share of a block.
#[derive(Clone, Debug)]
pub struct Part {
    /// The block.
    pub block: Arc<EventBlock>,
    /// Which of its events.
    pub selection: Selection,
}

impl Part {
    /// How many events.
    pub fn len(&self) -> usize {
        match &self.selection {
            Selection::All => self.block.events.len(),
            Selection::Some(places) => places.len(),
        }
    }

    /// Its events in order.
    pub fn events(&self) -> impl Iterator<Item = &SharedEvent> {
        let (all, some) = match &self.selection {
            Selection::All => (&self.block.events[..], &[][..]),
            Selection::Some(places) => (&[][..], &places[..]),
        };
        all.iter().chain(some.iter().map(|place| &self.block.events[*place as usize]))
    }
}

/// One WatchResponse, not yet encoded.
#[derive(Clone, Debug, Default)]
pub struct WireResponse {
    /// Header; its revision is told apart.
    pub header: ResponseHeader,
    /// Watch id, -1 for all or for a creation that failed.
    pub watch_id: i64,
    /// Answers a create request.
    pub created: bool,
    /// The watch is over.
    pub canceled: bool,
    /// It is over because of a compaction at this revision.
    pub compact_revision: i64,
    /// Why it is over.
    pub cancel_reason: &'static str,
    /// More of the same response follows.
    pub fragment: bool,
    /// Events as encoded fields.
    pub events: Vec<Bytes>,
}

impl WireResponse {
    /// Size on the wire.
    pub fn encoded_len(&self) -> usize {
        self.head_len() + self.events.iter().map(Bytes::len).sum::<usize>()
    }

    fn head_len(&self) -> usize {
        let flags = [self.created, self.canceled, self.fragment].iter().filter(|set| **set).count();
        message::encoded_len(1, &self.header)
            + if self.watch_id == 0 { 0 } else { int64::encoded_len(2, &self.watch_id) }
            + if self.compact_revision == 0 { 0 } else { int64::encoded_len(5, &self.compact_revision) }
            + match self.cancel_reason.len() {
                0 => 0,
                len => 1 + encoded_len_varint(len as u64) + len,
            }
            + 2 * flags
    }

    /// Writes it.
    pub fn encode(&self, out: &mut impl BufMut) {
        message::encode(1, &self.header, out);
        if self.watch_id != 0 {
            int64::encode(2, &self.watch_id, out);
        }
        for (tag, set) in [(3u8, self.created), (4, self.canceled)] {
            if set {
                out.put_slice(&[tag << 3, 1]);
            }
        }
        if self.compact_revision != 0 {
            int64::encode(5, &self.compact_revision, out);
        }
        if !self.cancel_reason.is_empty() {
            string::encode(6, &self.cancel_reason.to_owned(), out);
        }
        if self.fragment {
            out.put_slice(&[7 << 3, 1]);
        }
        for event in &self.events {
            out.put_slice(event);
        }
    }

    /// Splits it as etcd does for a watch that asked for fragments: between events, at least one each, every one but the
    /// last marked. One that stays below the bound or has a single event is not touched.
    pub fn split(self, fragment_bytes: usize) -> Vec<WireResponse> {
        if self.events.len() < 2 || self.encoded_len() < fragment_bytes {
            return vec![self];
        }
        let head = WireResponse { events: Vec::new(), fragment: true, ..self.clone() };
        let head_len = head.encoded_len();
        let mut fragments = Vec::new();
        let mut current = head.clone();
        let mut current_len = head_len;
        for event in self.events {
            if !current.events.is_empty() && current_len + event.len() >= fragment_bytes {
                fragments.push(std::mem::replace(&mut current, head.clone()));
                current_len = head_len;
            }
            current_len += event.len();
            current.events.push(event);
        }
        current.fragment = false;
        fragments.push(current);
        fragments
    }
}

/// gRPC codec of the Watch service: prost's for requests, shared bytes for answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = WireResponse;
    type Decode = WatchRequest;
    type Encoder = WatchEncoder;
    type Decoder = <ProstCodec<WatchRequest, WatchRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        WatchEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<WatchRequest, WatchRequest>::raw_decoder(buffers())
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(IDLE_BUFFER_BYTES, GATHER_BYTES)
}

/// Encodes answers.
#[derive(Clone, Copy, Debug)]
pub struct WatchEncoder;

impl Encoder for WatchEncoder {
    type Item = WireResponse;
    type Error = Status;

    fn encode(&mut self, item: WireResponse, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.encoded_len());
        item.encode(out);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

#[cfg(test)]
mod tests;
