//! Range answers, encoded straight from the rows: the bytes on the wire are the only copy of a list.

use dqlited_proto::etcdserverpb::ResponseHeader;
use dqlited_store::read::{KeyValueRef, RangeSummary};
use prost::encoding::{encode_varint, encoded_len_varint};

use super::budget::{BudgetBuffer, Filled};
use crate::body::FRAME_HEADER_BYTES;

/// Answers up to this size can be received by grpc-go.
const ANSWER_BYTES_MAX: usize = i32::MAX as usize;

/// Field tags of `RangeResponse` and `KeyValue`: number and wire type in one byte.
mod tag {
    pub const HEADER: u8 = 1 << 3 | 2;
    pub const KVS: u8 = 2 << 3 | 2;
    pub const MORE: u8 = 3 << 3;
    pub const COUNT: u8 = 4 << 3;
    pub const KEY: u8 = 1 << 3 | 2;
    pub const CREATE_REVISION: u8 = 2 << 3;
    pub const MOD_REVISION: u8 = 3 << 3;
    pub const VERSION: u8 = 4 << 3;
    pub const VALUE: u8 = 5 << 3 | 2;
    pub const LEASE: u8 = 6 << 3;
    /// `RangeStreamResponse.range_response`.
    pub const RANGE_RESPONSE: u8 = 1 << 3 | 2;
}

/// A message longer than that has a length of at most this many bytes as a padded varint.
const PADDED_LENGTH_BYTES: usize = 5;

/// One `RangeResponse` being written.
#[derive(Debug)]
pub struct RangeAnswer {
    buffer: BudgetBuffer,
    /// What stands in front of the first record and is written with it: one allocation serves a point get.
    front: Option<Front>,
    is_chunk: bool,
}

#[derive(Debug)]
enum Front {
    /// A unary answer begins with its header.
    Header(ResponseHeader),
    /// A chunk stands inside of a `RangeStreamResponse`.
    Chunk,
}

impl RangeAnswer {
    /// A unary answer.
    pub fn unary(buffer: BudgetBuffer, header: ResponseHeader) -> Self {
        RangeAnswer { buffer, front: Some(Front::Header(header)), is_chunk: false }
    }

    /// A chunk of a stream: records only, unless [`RangeAnswer::finish_last`] makes it the last one.
    pub fn chunk(buffer: BudgetBuffer) -> Self {
        RangeAnswer { buffer, front: Some(Front::Chunk), is_chunk: true }
    }

    #[cold]
    fn write_front(&mut self, record_bytes: usize) {
        let Some(front) = self.front.take() else { return };
        let front_bytes = FRAME_HEADER_BYTES
            + match &front {
                Front::Header(header) => 2 + header_bytes(header),
                Front::Chunk => 1 + PADDED_LENGTH_BYTES,
            };
        self.buffer.make_room(front_bytes + record_bytes + COUNT_AND_MORE_BYTES_MAX);
        if let Some(out) = self.buffer.reserve(front_bytes) {
            out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
            match front {
                Front::Header(header) => write_header(out, &header),
                Front::Chunk => {
                    out.push(tag::RANGE_RESPONSE);
                    out.extend_from_slice(&[0; PADDED_LENGTH_BYTES]);
                }
            }
        }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// One record more.
    #[inline]
    pub fn push(&mut self, kv: &KeyValueRef<'_>) {
        let bytes = kv_bytes(kv);
        if self.front.is_some() {
            self.write_front(record_bytes(bytes));
        }
        if let Some(out) = self.buffer.reserve(record_bytes(bytes)) {
            out.push(tag::KVS);
            encode_varint(bytes as u64, out);
            write_kv(out, kv);
        }
    }

    /// The end of a unary answer.
    pub fn finish(mut self, summary: RangeSummary) -> Filled {
        self.write_front(0);
        self.write_summary(summary);
        self.close()
    }

    /// The end of a chunk that others follow.
    pub fn finish_chunk(mut self) -> Filled {
        self.write_front(0);
        self.close()
    }

    /// The end of a stream's last chunk: header, count and more stand here alone.
    pub fn finish_last(mut self, header: &ResponseHeader, summary: RangeSummary) -> Filled {
        self.write_front(0);
        if let Some(out) = self.buffer.reserve(2 + header_bytes(header)) {
            write_header(out, header);
        }
        self.write_summary(summary);
        self.close()
    }

    fn write_summary(&mut self, summary: RangeSummary) {
        if let Some(out) = self.buffer.reserve(COUNT_AND_MORE_BYTES_MAX) {
            if summary.more {
                out.extend_from_slice(&[tag::MORE, 1]);
            }
            write_number(out, tag::COUNT, summary.count as u64);
        }
    }

    fn close(mut self) -> Filled {
        let is_chunk = self.is_chunk;
        let bytes = self.buffer.written();
        let length = bytes.len().saturating_sub(FRAME_HEADER_BYTES);
        // What was refused for want of room is empty here, and asks again.
        if bytes.len() >= FRAME_HEADER_BYTES && length <= ANSWER_BYTES_MAX {
            bytes[1..FRAME_HEADER_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
            if is_chunk {
                let inner = length - 1 - PADDED_LENGTH_BYTES;
                let place = FRAME_HEADER_BYTES + 1;
                write_padded_length(&mut bytes[place..place + PADDED_LENGTH_BYTES], inner);
            }
        }
        self.buffer.finish()
    }
}

/// grpc-go's refusal of an answer that it could not receive.
pub fn check_size(answer: &[u8]) -> Result<(), tonic::Status> {
    let length = answer.len().saturating_sub(FRAME_HEADER_BYTES);
    if length > ANSWER_BYTES_MAX {
        return Err(tonic::Status::resource_exhausted(format!(
            "grpc: trying to send message larger than max ({length} vs. {ANSWER_BYTES_MAX})"
        )));
    }
    Ok(())
}

const COUNT_AND_MORE_BYTES_MAX: usize = 2 + 1 + 10;

/// A varint of fixed length: legal protobuf, and the length is known only at the end.
fn write_padded_length(place: &mut [u8], mut length: usize) {
    let (last, front) = place.split_last_mut().expect("the place has five bytes");
    for byte in front {
        *byte = (length as u8 & 0x7f) | 0x80;
        length >>= 7;
    }
    *last = length as u8;
}

fn number_bytes(number: u64) -> usize {
    if number == 0 { 0 } else { 1 + encoded_len_varint(number) }
}

fn write_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    if number != 0 {
        out.push(tag);
        encode_varint(number, out);
    }
}

fn blob_bytes(blob: &[u8]) -> usize {
    if blob.is_empty() { 0 } else { 1 + encoded_len_varint(blob.len() as u64) + blob.len() }
}

fn write_blob(out: &mut Vec<u8>, tag: u8, blob: &[u8]) {
    if !blob.is_empty() {
        out.push(tag);
        encode_varint(blob.len() as u64, out);
        out.extend_from_slice(blob);
    }
}

/// Length of an encoded `KeyValue`.
pub fn kv_bytes(kv: &KeyValueRef<'_>) -> usize {
    blob_bytes(kv.key)
        + number_bytes(kv.create_revision as u64)
        + number_bytes(kv.mod_revision as u64)
        + number_bytes(kv.version as u64)
        + blob_bytes(kv.value)
        + number_bytes(kv.lease as u64)
}

fn record_bytes(kv_bytes: usize) -> usize {
    1 + encoded_len_varint(kv_bytes as u64) + kv_bytes
}

fn write_kv(out: &mut Vec<u8>, kv: &KeyValueRef<'_>) {
    write_blob(out, tag::KEY, kv.key);
    write_number(out, tag::CREATE_REVISION, kv.create_revision as u64);
    write_number(out, tag::MOD_REVISION, kv.mod_revision as u64);
    write_number(out, tag::VERSION, kv.version as u64);
    write_blob(out, tag::VALUE, kv.value);
    write_number(out, tag::LEASE, kv.lease as u64);
}

fn header_bytes(header: &ResponseHeader) -> usize {
    number_bytes(header.cluster_id)
        + number_bytes(header.member_id)
        + number_bytes(header.revision as u64)
        + number_bytes(header.raft_term)
}

fn write_header(out: &mut Vec<u8>, header: &ResponseHeader) {
    out.push(tag::HEADER);
    // Four numbers: at most 44 bytes, so the length is one byte.
    out.push(header_bytes(header) as u8);
    write_number(out, 1 << 3, header.cluster_id);
    write_number(out, 2 << 3, header.member_id);
    write_number(out, 3 << 3, header.revision as u64);
    write_number(out, 4 << 3, header.raft_term);
}

#[cfg(test)]
mod tests {
    use dqlited_proto::etcdserverpb as pb;
    use dqlited_proto::mvccpb;
    use prost::Message;

    use super::super::budget::AnswerBudget;
    use super::*;

    fn buffer() -> BudgetBuffer {
        BudgetBuffer::new(AnswerBudget::for_test(1 << 20), None)
    }

    fn records() -> Vec<mvccpb::KeyValue> {
        let record = |key: &'static str, value: Vec<u8>, lease| mvccpb::KeyValue {
            key: key.into(),
            create_revision: 2,
            mod_revision: 300,
            version: 1,
            value: value.into(),
            lease,
        };
        vec![
            record("a", vec![], 0),
            record("b", vec![7; 100], -5),
            record("c", vec![1; 70_000], i64::MAX),
            mvccpb::KeyValue { key: "d".into(), ..Default::default() },
        ]
    }

    fn borrowed(kv: &mvccpb::KeyValue) -> KeyValueRef<'_> {
        KeyValueRef {
            key: &kv.key,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: &kv.value,
            lease: kv.lease,
        }
    }

    fn header() -> pb::ResponseHeader {
        pb::ResponseHeader { cluster_id: u64::MAX, member_id: 7, revision: 300, raft_term: 2 }
    }

    fn message(filled: Filled) -> bytes::Bytes {
        let Filled::Ready(bytes) = filled else { panic!("there is room: {filled:?}") };
        assert_eq!(bytes[0], 0);
        assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 5);
        bytes.slice(5..)
    }

    #[test]
    fn a_unary_answer_is_byte_for_byte_what_prost_writes() {
        for count in 0..=4 {
            let kvs: Vec<_> = records().into_iter().take(count).collect();
            let mut answer = RangeAnswer::unary(buffer(), header());
            kvs.iter().for_each(|kv| answer.push(&borrowed(kv)));
            let summary = RangeSummary { count: count as i64, more: count == 3 };
            let expected =
                pb::RangeResponse { header: Some(header()), kvs, more: count == 3, count: count as i64 };
            assert_eq!(message(answer.finish(summary)), expected.encode_to_vec());
        }
    }

    #[test]
    fn chunks_have_no_header_but_the_last_and_decode() {
        let mut answer = RangeAnswer::chunk(buffer());
        records().iter().for_each(|kv| answer.push(&borrowed(kv)));
        let chunk = pb::RangeStreamResponse::decode(message(answer.finish_chunk())).unwrap();
        let expected = pb::RangeResponse { kvs: records(), ..Default::default() };
        assert_eq!(chunk.range_response, Some(expected));

        let last = RangeAnswer::chunk(buffer());
        let filled = last.finish_last(&header(), RangeSummary { count: 47, more: true });
        let last = pb::RangeStreamResponse::decode(message(filled)).unwrap();
        let expected = pb::RangeResponse { header: Some(header()), kvs: vec![], more: true, count: 47 };
        assert_eq!(last.range_response, Some(expected));
    }

    #[test]
    fn an_answer_without_room_says_how_much_it_needs() {
        let budget = AnswerBudget::for_test(1 << 10);
        let _all = budget.try_take(1 << 10);
        let mut answer = RangeAnswer::unary(BudgetBuffer::new(budget, None), header());
        records().iter().for_each(|kv| answer.push(&borrowed(kv)));
        let Filled::NeedsRoom(bytes) = answer.finish(RangeSummary::default()) else {
            panic!("there is no room")
        };
        assert!((70_100..70_300).contains(&bytes), "{bytes}");
    }
}
