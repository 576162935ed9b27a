//! Commands from their bytes, also transactions that nest deeper than prost reads: it gives up at 100 messages within
//! each other, which are 49 transactions.

use bytes::Bytes;
use prost::{DecodeError, Message};

use crate::command::{Command, Compare, DeleteRange, Kind, Op, OpKind, Put, RangeQuery, TXN_LEVELS_MAX, Txn};

/// A command of the transaction kind, with what is nested left as bytes.
#[derive(Clone, PartialEq, ::prost::Message)]
struct FlatCommand {
    #[prost(message, optional, tag = "3")]
    txn: Option<FlatTxn>,
}

/// The fields of [`Txn`].
#[derive(Clone, PartialEq, ::prost::Message)]
struct FlatTxn {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    success: Vec<FlatOp>,
    #[prost(message, repeated, tag = "3")]
    failure: Vec<FlatOp>,
}

/// The fields of [`Op`].
#[derive(Clone, PartialEq, ::prost::Message)]
struct FlatOp {
    #[prost(oneof = "FlatKind", tags = "1, 2, 3, 4")]
    kind: Option<FlatKind>,
}

/// The cases of [`OpKind`]; a message and its bytes look the same on the wire.
#[derive(Clone, PartialEq, ::prost::Oneof)]
enum FlatKind {
    #[prost(message, tag = "1")]
    Range(RangeQuery),
    #[prost(message, tag = "2")]
    Put(Put),
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRange),
    #[prost(bytes = "bytes", tag = "4")]
    Txn(Bytes),
}

/// Reads a command back.
///
/// # Errors
/// prost's, when the bytes are no command or nest deeper than [`TXN_LEVELS_MAX`].
pub fn decode_command(bytes: Bytes) -> Result<Command, DecodeError> {
    Command::decode(bytes.clone()).or_else(|error| deep_txn(bytes).ok_or(error))
}

fn deep_txn(bytes: Bytes) -> Option<Command> {
    let txn = unfold(FlatCommand::decode(bytes).ok()?.txn?, TXN_LEVELS_MAX)?;
    Some(Command { kind: Some(Kind::Txn(txn)) })
}

fn unfold(flat: FlatTxn, levels_max: usize) -> Option<Txn> {
    let levels_below = levels_max.checked_sub(1)?;
    let ops =
        |ops: Vec<FlatOp>| ops.into_iter().map(|op| unfold_op(op, levels_below)).collect::<Option<Vec<Op>>>();
    Some(Txn { compare: flat.compare, success: ops(flat.success)?, failure: ops(flat.failure)? })
}

fn unfold_op(flat: FlatOp, levels_max: usize) -> Option<Op> {
    let kind = match flat.kind {
        None => None,
        Some(FlatKind::Range(query)) => Some(OpKind::Range(query)),
        Some(FlatKind::Put(put)) => Some(OpKind::Put(put)),
        Some(FlatKind::DeleteRange(delete)) => Some(OpKind::DeleteRange(delete)),
        Some(FlatKind::Txn(bytes)) => {
            // A limit before the bytes are looked at: they may nest without end.
            levels_max.checked_sub(1)?;
            Some(OpKind::Txn(unfold(FlatTxn::decode(bytes).ok()?, levels_max)?))
        }
    };
    Some(Op { kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(kind: OpKind) -> Op {
        Op { kind: Some(kind) }
    }

    /// So many transactions within each other, with every kind of operation on each level.
    fn levels(count: usize) -> Command {
        let bytes = |text: String| Bytes::from(text);
        let level = |number: usize, inner: Option<Txn>| Txn {
            compare: vec![Compare { key: bytes(format!("c{number}")), result: 2, ..Default::default() }],
            success: vec![
                op(OpKind::Put(Put { key: bytes(format!("p{number}")), lease: -7, ..Default::default() })),
                op(OpKind::Range(RangeQuery { limit: number as i64, ..Default::default() })),
            ],
            failure: [
                Some(op(OpKind::DeleteRange(DeleteRange { prev_kv: true, ..Default::default() }))),
                inner.map(|inner| op(OpKind::Txn(inner))),
                Some(Op { kind: None }),
            ]
            .into_iter()
            .flatten()
            .collect(),
        };
        let txn = (1..count).fold(level(0, None), |inner, number| level(number, Some(inner)));
        Command { kind: Some(Kind::Txn(txn)) }
    }

    #[test]
    fn a_command_comes_back_however_deep_it_nests_up_to_the_limit() {
        for count in 1..=TXN_LEVELS_MAX {
            let command = levels(count);
            let found = decode_command(command.encode_to_vec().into());
            assert!(found.as_ref() == Ok(&command), "{count} levels: {:?}", found.err());
        }
        assert!(decode_command(levels(TXN_LEVELS_MAX + 1).encode_to_vec().into()).is_err());
    }

    #[test]
    fn bytes_that_nest_without_end_are_refused_and_use_up_no_stack() {
        // Each level wraps the one before in a success operation: field 2 of a Txn, field 4 of an Op.
        let wrapped = |inner: Vec<u8>| {
            let op = FlatOp { kind: Some(FlatKind::Txn(inner.into())) };
            FlatTxn { success: vec![op], ..Default::default() }.encode_to_vec()
        };
        let deep = (0..5_000).fold(Vec::new(), |inner, _| wrapped(inner));
        let command = FlatCommand { txn: Some(FlatTxn::decode(&deep[..]).unwrap()) }.encode_to_vec();
        assert!(decode_command(command.into()).is_err());
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let whole = levels(80).encode_to_vec();
        for end in [1, 10, whole.len() / 2, whole.len() - 1] {
            assert!(decode_command(Bytes::copy_from_slice(&whole[..end])).is_err(), "cut at {end}");
        }
    }
}
