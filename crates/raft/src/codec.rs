//! The bytes of a log entry: `[format][kind]`, for a command the identity of its proposal, then prost.
//!
//! These are durable and go over the wire unchanged: an old format stays readable, a new kind is gated by the version
//! of all members. The identity has fixed width, so that it can be stamped in after the command was encoded.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use dqlited_store::command::{Kind, OpKind};
use dqlited_store::store::EntryBody;
use dqlited_store::{Command, Identity, MemberId, decode_command};
use openraft::EntryPayload;
use prost::Message;

use crate::type_config::{EncodedCommand, Incarnation, Membership, TypeConfig};

const FORMAT: u8 = 1;
const KIND_BLANK: u8 = 0;
const KIND_MEMBERSHIP: u8 = 1;
const KIND_COMMAND: u8 = 2;
const PREFIX_BYTES: usize = 2;
const IDENTITY_BYTES: usize = 32;
/// Bytes before the prost command of a command entry.
pub(crate) const COMMAND_HEADER_BYTES: usize = PREFIX_BYTES + IDENTITY_BYTES;

/// Why an entry's bytes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// Written by a newer version, or damaged.
    #[error("entry format {0} is not known to this version, which reads {FORMAT}")]
    Format(u8),
    /// Written by a newer version, or damaged.
    #[error("entry kind {0} is not known to this version")]
    Kind(u8),
    /// Cut short.
    #[error("entry of {0} bytes is too short")]
    Short(usize),
    /// The message inside does not parse.
    #[error("entry does not decode: {0}")]
    Message(#[from] prost::DecodeError),
    /// A membership that names voters without a record.
    #[error("membership entry names voters without a record")]
    Membership,
}

/// openraft's membership in a form of our own: its serde forms change between versions.
#[derive(Clone, PartialEq, ::prost::Message)]
struct MembershipMessage {
    /// One set of voters, or two while a change is under way.
    #[prost(message, repeated, tag = "1")]
    configs: Vec<VotersMessage>,
    /// Every member, learners too.
    #[prost(message, repeated, tag = "2")]
    nodes: Vec<NodeMessage>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct VotersMessage {
    #[prost(uint64, repeated, tag = "1")]
    ids: Vec<u64>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct NodeMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    incarnation: String,
}

/// A command that nests so deeply that it could not be decoded again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooDeep;

/// Encodes a command with room for its identity, which [`stamp`] fills in. What could not be decoded again is refused:
/// an entry that nobody can read would end every member that has it, at each start anew.
pub(crate) fn encode_command(command: &Command) -> Result<BytesMut, TooDeep> {
    let mut buffer = BytesMut::with_capacity(COMMAND_HEADER_BYTES + command.encoded_len());
    buffer.extend_from_slice(&[FORMAT, KIND_COMMAND]);
    buffer.extend_from_slice(&[0; IDENTITY_BYTES]);
    command.encode(&mut buffer).expect("a BytesMut grows as it must");
    if nests(command) && decode_command(Bytes::copy_from_slice(&buffer[COMMAND_HEADER_BYTES..])).is_err() {
        return Err(TooDeep);
    }
    Ok(buffer)
}

/// Whether it is a transaction that holds another: nothing else has more than a few levels.
fn nests(command: &Command) -> bool {
    let Some(Kind::Txn(txn)) = &command.kind else { return false };
    txn.success.iter().chain(&txn.failure).any(|op| matches!(op.kind, Some(OpKind::Txn(_))))
}

/// Writes the identity into an encoded command.
pub(crate) fn stamp(entry: &mut [u8], identity: Identity) {
    let fields = [identity.member.0, identity.boot, identity.sequence, identity.lowest_unsettled];
    for (place, field) in entry[PREFIX_BYTES..COMMAND_HEADER_BYTES].chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
}

/// The bytes that the log stores for an entry of openraft.
pub(crate) fn encode_payload(payload: EntryPayload<EncodedCommand, u64, Incarnation>) -> Bytes {
    match payload {
        EntryPayload::Blank => Bytes::from_static(&[FORMAT, KIND_BLANK]),
        EntryPayload::Normal(command) => command.0,
        EntryPayload::Membership(membership) => encode_membership(&membership),
    }
}

/// A membership as its log entry and the store hold it.
pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let message = MembershipMessage {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| VotersMessage { ids: voters.iter().copied().collect() })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| NodeMessage { id: *id, incarnation: node.0.clone() })
            .collect(),
    };
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    buffer.extend_from_slice(&[FORMAT, KIND_MEMBERSHIP]);
    message.encode(&mut buffer).expect("a BytesMut grows as it must");
    buffer.freeze()
}

/// Reads back [`encode_membership`].
pub(crate) fn decode_membership(entry: &Bytes) -> Result<Membership, DecodeError> {
    match prefix(entry)? {
        KIND_MEMBERSHIP => {}
        other => return Err(DecodeError::Kind(other)),
    }
    let message = MembershipMessage::decode(entry.slice(PREFIX_BYTES..))?;
    let configs =
        message.configs.into_iter().map(|voters| voters.ids.into_iter().collect::<BTreeSet<u64>>()).collect();
    let nodes: BTreeMap<u64, Incarnation> =
        message.nodes.into_iter().map(|node| (node.id, Incarnation(node.incarnation))).collect();
    Membership::new(configs, nodes).map_err(|_| DecodeError::Membership)
}

/// What openraft sees of a stored entry.
pub(crate) fn decode_payload(
    entry: Bytes,
) -> Result<<TypeConfig as openraft::RaftTypeConfig>::Payload, DecodeError> {
    Ok(match prefix(&entry)? {
        KIND_BLANK => EntryPayload::Blank,
        KIND_COMMAND => EntryPayload::Normal(EncodedCommand(entry)),
        KIND_MEMBERSHIP => EntryPayload::Membership(decode_membership(&entry)?),
        other => return Err(DecodeError::Kind(other)),
    })
}

/// What the store applies.
pub(crate) fn decode_body(entry: Bytes) -> Result<EntryBody, DecodeError> {
    match prefix(&entry)? {
        KIND_BLANK => Ok(EntryBody::Blank),
        KIND_MEMBERSHIP => Ok(EntryBody::Membership(entry)),
        KIND_COMMAND => {
            let identity = identity(&entry)?;
            Ok(EntryBody::Command(identity, decode_command(entry.slice(COMMAND_HEADER_BYTES..))?))
        }
        other => Err(DecodeError::Kind(other)),
    }
}

fn identity(entry: &[u8]) -> Result<Identity, DecodeError> {
    let header = entry.get(PREFIX_BYTES..COMMAND_HEADER_BYTES).ok_or(DecodeError::Short(entry.len()))?;
    let field = |place: usize| {
        let bytes = header[place * 8..place * 8 + 8].try_into().expect("eight bytes were sliced");
        u64::from_le_bytes(bytes)
    };
    Ok(Identity {
        member: MemberId(field(0)),
        boot: field(1),
        sequence: field(2),
        lowest_unsettled: field(3),
    })
}

fn prefix(entry: &[u8]) -> Result<u8, DecodeError> {
    match entry {
        [FORMAT, kind, ..] => Ok(*kind),
        [format, _, ..] => Err(DecodeError::Format(*format)),
        _ => Err(DecodeError::Short(entry.len())),
    }
}

#[cfg(test)]
mod tests {
    use dqlited_store::command::{Op, Put, TXN_LEVELS_MAX, Txn};

    use super::*;

    fn put() -> Command {
        let put =
            Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"value"), ..Default::default() };
        Command { kind: Some(Kind::Put(put)) }
    }

    /// So many transactions within each other around a put.
    fn levels(count: usize) -> Command {
        let Some(Kind::Put(leaf)) = put().kind else { unreachable!("it is a put") };
        let around = |kind| Txn { success: vec![Op { kind: Some(kind) }], ..Default::default() };
        let txn = (1..count).fold(around(OpKind::Put(leaf)), |inner, _| around(OpKind::Txn(inner)));
        Command { kind: Some(Kind::Txn(txn)) }
    }

    #[test]
    fn a_command_that_could_not_be_read_back_gets_no_entry() {
        let encoded = (1..=TXN_LEVELS_MAX + 5).map(|count| (count, encode_command(&levels(count))));
        let (taken, refused): (Vec<_>, Vec<_>) = encoded.partition(|(_, entry)| entry.is_ok());
        for (count, entry) in taken {
            let entry = entry.unwrap().freeze();
            let read = decode_body(entry).unwrap_or_else(|error| panic!("{count} levels: {error}"));
            assert!(matches!(read, EntryBody::Command(_, command) if command == levels(count)));
        }
        assert!(refused.iter().all(|(count, _)| *count > TXN_LEVELS_MAX), "{:?}", refused.first());
        assert_eq!(refused.len(), 5);
    }

    #[test]
    fn a_command_entry_comes_back_with_its_identity() {
        let identity =
            Identity { member: MemberId(u64::MAX - 1), boot: 7, sequence: 1 << 40, lowest_unsettled: 3 };
        let mut entry = encode_command(&put()).unwrap();
        stamp(&mut entry, identity);
        let entry = entry.freeze();
        match decode_body(entry.clone()).unwrap() {
            EntryBody::Command(found, command) => assert_eq!((found, command), (identity, put())),
            other => panic!("{other:?}"),
        }
        assert_eq!(encode_payload(decode_payload(entry.clone()).unwrap()), entry);
    }

    #[test]
    fn a_command_entry_has_the_bytes_that_are_written_down() {
        let identity = Identity { member: MemberId(1), boot: 2, sequence: 3, lowest_unsettled: 4 };
        let mut entry = encode_command(&put()).unwrap();
        stamp(&mut entry, identity);
        let header: [u8; 34] = [
            1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0,
            0, 0,
        ];
        assert_eq!(&entry[..34], &header);
        assert_eq!(&entry[34..], &[0x0a, 10, 0x0a, 1, b'k', 0x12, 5, b'v', b'a', b'l', b'u', b'e']);
    }

    #[test]
    fn a_joint_membership_with_a_learner_comes_back() {
        let nodes: BTreeMap<u64, Incarnation> =
            [(1, "one"), (2, "two"), (3, "")].map(|(id, name)| (id, Incarnation(name.into()))).into();
        let membership = Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([1, 2])], nodes).unwrap();
        let entry = encode_membership(&membership);
        assert_eq!(decode_membership(&entry).unwrap(), membership);
        assert_eq!(decode_payload(entry).unwrap(), EntryPayload::Membership(membership));
    }

    #[test]
    fn unknown_bytes_are_refused_in_words() {
        let error = |bytes: &'static [u8]| decode_body(Bytes::from_static(bytes)).unwrap_err();
        assert_eq!(error(&[9, 2, 0]), DecodeError::Format(9));
        assert_eq!(error(&[1, 77, 0]), DecodeError::Kind(77));
        assert_eq!(error(&[1, 2, 0, 0]), DecodeError::Short(4));
        assert_eq!(error(&[]), DecodeError::Short(0));
        assert!(matches!(decode_membership(&Bytes::from_static(&[1, 2])), Err(DecodeError::Kind(2))));
    }
}
