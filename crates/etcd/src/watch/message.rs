//! What goes out on a watch stream, before it is encoded.

use dqlited_proto::etcdserverpb::ResponseHeader;

use super::encode::{Part, SharedEvent, WireResponse};

/// The watch id of answers that are for no watch or for all of a stream.
pub const NO_WATCH: i64 = -1;
/// Memory that a message without events takes, roughly.
const MESSAGE_BYTES: usize = 128;

/// One answer.
#[derive(Clone, Debug)]
pub enum Message {
    /// A watch was made.
    Created {
        /// Its id.
        watch_id: i64,
        /// Revision at that moment.
        revision: i64,
    },
    /// A watch could not be made.
    Refused {
        /// Why, in etcd's words.
        reason: &'static str,
        /// Revision at that moment.
        revision: i64,
    },
    /// A watch is over because its client said so.
    Canceled {
        /// Its id.
        watch_id: i64,
        /// Revision at that moment.
        revision: i64,
    },
    /// A watch is over because what it needs was compacted. Its id stays taken until the client cancels it.
    Compacted {
        /// Its id.
        watch_id: i64,
        /// The compact revision.
        compact_revision: i64,
    },
    /// No event up to the revision will come any more.
    Progress {
        /// A watch, or [`NO_WATCH`] for all of the stream.
        watch_id: i64,
        /// Up to here.
        revision: i64,
    },
    /// Events of one watch, whole revisions.
    Events {
        /// Its id.
        watch_id: i64,
        /// For the header: that of the event, or the current one while catching up.
        revision: i64,
        /// In order.
        parts: Vec<Part>,
        /// Records before the events are sent along.
        with_previous: bool,
        /// The watch takes fragments.
        may_split: bool,
    },
}

impl Message {
    /// What it costs in memory, roughly; shared events count in full for each stream.
    pub fn cost_bytes(&self) -> usize {
        match self {
            Message::Events { parts, .. } => {
                MESSAGE_BYTES
                    + parts.iter().flat_map(Part::events).map(SharedEvent::cost_bytes).sum::<usize>()
            }
            _ => MESSAGE_BYTES,
        }
    }

    /// How many events it carries.
    pub fn event_count(&self) -> usize {
        match self {
            Message::Events { parts, .. } => parts.iter().map(Part::len).sum(),
            _ => 0,
        }
    }

    /// The responses on the wire: more than one if it is split into fragments.
    pub fn into_wire(
        self,
        header: impl Fn(i64) -> ResponseHeader,
        fragment_bytes: usize,
    ) -> Vec<WireResponse> {
        vec![match self {
            Message::Created { watch_id, revision } => {
                WireResponse { header: header(revision), watch_id, created: true, ..Default::default() }
            }
            Message::Refused { reason, revision } => WireResponse {
                header: header(revision),
                watch_id: NO_WATCH,
                created: true,
                canceled: true,
                cancel_reason: reason,
                ..Default::default()
            },
            Message::Canceled { watch_id, revision } => {
                WireResponse { header: header(revision), watch_id, canceled: true, ..Default::default() }
            }
            Message::Compacted { watch_id, compact_revision } => WireResponse {
                header: header(0),
                watch_id,
                canceled: true,
                compact_revision,
                ..Default::default()
            },
            Message::Progress { watch_id, revision } => {
                WireResponse { header: header(revision), watch_id, ..Default::default() }
            }
            Message::Events { watch_id, revision, parts, with_previous, may_split } => {
                let events = parts.iter().flat_map(Part::events);
                let events = events.map(|event| event.encoded(with_previous).clone()).collect();
                let response =
                    WireResponse { header: header(revision), watch_id, events, ..Default::default() };
                if may_split {
                    return response.split(fragment_bytes);
                }
                response
            }
        }]
    }
}
