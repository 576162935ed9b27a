//! The bytes on disk, as `docs/log-format.md` describes them: segment header, batch header, record.

use crate::operation::{LogId, Vote};

/// First bytes of a segment.
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"DQLOGSEG";
/// The format that is written, and the newest that is read.
pub(crate) const VERSION: u8 = 1;
/// Size of a segment header; batches follow at once.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 128;
/// Size of a batch header; records follow at once.
pub(crate) const BATCH_HEADER_BYTES: usize = 56;
/// Size of a record without its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 36;
/// Batches begin at multiples of this.
pub(crate) const BATCH_ALIGNMENT: usize = 8;
/// Largest payload of one entry.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1 << 30;
/// First bytes of a batch.
pub(crate) const BATCH_MAGIC: [u8; 4] = *b"DQLB";

const KIND_ENTRY: u8 = 1;
const KIND_VOTE: u8 = 2;
const KIND_TRUNCATE_AFTER: u8 = 3;
const KIND_TRUNCATE_ALL: u8 = 4;
const KIND_PURGE: u8 = 5;

const HAS_PURGED: u8 = 1;
const HAS_LAST: u8 = 2;
const HAS_VOTE: u8 = 4;
const VOTE_COMMITTED: u8 = 8;

/// A place in the stream of all segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Of the segment.
    pub(crate) sequence: u64,
    /// In the segment's file, in bytes.
    pub(crate) offset: u64,
}

/// A vote and which one it is: 1 for the first that this log was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NumberedVote {
    pub(crate) number: u64,
    pub(crate) vote: Vote,
}

/// What checksums of one segment begin with, so that bytes of a file's earlier life are never valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt {
    pub(crate) value: u64,
    seed: u32,
}

impl Salt {
    pub(crate) fn new(value: u64) -> Salt {
        Salt { value, seed: crc32c::crc32c(&value.to_le_bytes()) }
    }

    fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.seed, bytes)
    }

    /// Binds a batch header to its records: folds one more record's checksum in.
    pub(crate) fn fold(folded: u32, record: u32) -> u32 {
        crc32c::crc32c_append(folded, &record.to_le_bytes())
    }

    /// What [`Salt::fold`] begins with.
    pub(crate) fn fold_start(self) -> u32 {
        self.seed
    }
}

/// The head of a segment: what all segments before it amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
    /// Where the segment before ends; 0 for the first.
    pub(crate) previous_end: u64,
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    pub(crate) vote: Option<NumberedVote>,
}

/// Why a header is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// Not a file of ours.
    Magic,
    /// Of this later format.
    Newer(u8),
    /// Damaged.
    Checksum,
}

fn put_id(bytes: &mut Vec<u8>, id: LogId) {
    bytes.extend_from_slice(&id.index.to_le_bytes());
    bytes.extend_from_slice(&id.term.to_le_bytes());
    bytes.extend_from_slice(&id.node.to_le_bytes());
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a range of four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a range of eight bytes"))
}

fn id_at(bytes: &[u8], at: usize) -> LogId {
    LogId { index: u64_at(bytes, at), term: u64_at(bytes, at + 8), node: u64_at(bytes, at + 16) }
}

impl SegmentHeader {
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.extend_from_slice(&SEGMENT_MAGIC);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.extend_from_slice(&self.previous_end.to_le_bytes());
        let mut flags = 0;
        if self.purged.is_some() {
            flags |= HAS_PURGED;
        }
        if self.last.is_some() {
            flags |= HAS_LAST;
        }
        if let Some(vote) = self.vote {
            flags |= HAS_VOTE;
            if vote.vote.committed {
                flags |= VOTE_COMMITTED;
            }
        }
        bytes.extend_from_slice(&[flags, 0, 0, 0, 0, 0, 0, 0]);
        put_id(bytes, self.purged.unwrap_or_default());
        put_id(bytes, self.last.unwrap_or_default());
        let (number, vote) =
            self.vote.map_or((0, Vote::default()), |numbered| (numbered.number, numbered.vote));
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&vote.term.to_le_bytes());
        bytes.extend_from_slice(&vote.node.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[start..]);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        debug_assert_eq!(bytes.len() - start, SEGMENT_HEADER_BYTES);
    }

    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<SegmentHeader, HeaderFault> {
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(HeaderFault::Magic);
        }
        let checksum = crc32c::crc32c(&bytes[..120]);
        let is_whole = checksum == u32_at(bytes, 120);
        if bytes[8] > VERSION {
            return Err(HeaderFault::Newer(bytes[8]));
        }
        if !is_whole || bytes[8] != VERSION {
            return Err(HeaderFault::Checksum);
        }
        let flags = bytes[40];
        let committed = flags & VOTE_COMMITTED != 0;
        let vote = Vote { term: u64_at(bytes, 104), node: u64_at(bytes, 112), committed };
        Ok(SegmentHeader {
            sequence: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
            previous_end: u64_at(bytes, 32),
            purged: (flags & HAS_PURGED != 0).then(|| id_at(bytes, 48)),
            last: (flags & HAS_LAST != 0).then(|| id_at(bytes, 72)),
            vote: (flags & HAS_VOTE != 0).then(|| NumberedVote { number: u64_at(bytes, 96), vote }),
        })
    }
}

/// The head of a batch: what one write put down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Bytes of all records.
    pub(crate) body_bytes: u32,
    /// How many records.
    pub(crate) records: u32,
    /// Index of the first entry that can follow, 0 when any can; for messages.
    pub(crate) first_index: u64,
    /// Everything in front of this was durable before the batch was written (rule D2).
    pub(crate) synced: Position,
    /// The checksums of all records, folded.
    pub(crate) folded: u32,
}

impl BatchHeader {
    pub(crate) fn encode(&self, salt: Salt, into: &mut [u8]) {
        debug_assert_eq!(into.len(), BATCH_HEADER_BYTES);
        into[..4].copy_from_slice(&BATCH_MAGIC);
        into[8..16].copy_from_slice(&salt.value.to_le_bytes());
        into[16..20].copy_from_slice(&self.body_bytes.to_le_bytes());
        into[20..24].copy_from_slice(&self.records.to_le_bytes());
        into[24..32].copy_from_slice(&self.first_index.to_le_bytes());
        into[32..40].copy_from_slice(&self.synced.sequence.to_le_bytes());
        into[40..48].copy_from_slice(&self.synced.offset.to_le_bytes());
        into[48..52].copy_from_slice(&self.folded.to_le_bytes());
        into[52..56].fill(0);
        let checksum = salt.checksum(&into[8..]);
        into[4..8].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The header if these bytes are one of this segment's life.
    pub(crate) fn decode(salt: Salt, bytes: &[u8]) -> Option<BatchHeader> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        if bytes[..4] != BATCH_MAGIC
            || u64_at(bytes, 8) != salt.value
            || u32_at(bytes, 4) != salt.checksum(&bytes[8..])
        {
            return None;
        }
        Some(BatchHeader {
            body_bytes: u32_at(bytes, 16),
            records: u32_at(bytes, 20),
            first_index: u64_at(bytes, 24),
            synced: Position { sequence: u64_at(bytes, 32), offset: u64_at(bytes, 40) },
            folded: u32_at(bytes, 48),
        })
    }

    /// Bytes from the beginning of this batch to where the next one begins.
    pub(crate) fn extent(&self) -> u64 {
        (BATCH_HEADER_BYTES as u64 + u64::from(self.body_bytes)).next_multiple_of(BATCH_ALIGNMENT as u64)
    }
}

/// What one record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Entry(LogId),
    Vote(NumberedVote),
    TruncateAfter(Option<LogId>),
    Purge(LogId),
}

/// A record as it lies in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundRecord {
    pub(crate) record: Record,
    /// Bytes of the whole record.
    pub(crate) bytes: usize,
    pub(crate) checksum: u32,
}

/// Why there is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordFault {
    /// It ends behind the bytes given.
    Short,
    /// It is damaged.
    Checksum,
    /// It is whole and of a kind that is not known.
    Kind(u8),
}

impl Record {
    /// Appends the record; answers its checksum.
    pub(crate) fn encode(&self, payload: &[u8], salt: Salt, bytes: &mut Vec<u8>) -> u32 {
        let committed;
        let (kind, id, payload) = match self {
            Record::Entry(id) => (KIND_ENTRY, *id, payload),
            Record::Vote(numbered) => {
                committed = [u8::from(numbered.vote.committed)];
                let vote = numbered.vote;
                (
                    KIND_VOTE,
                    LogId { index: numbered.number, term: vote.term, node: vote.node },
                    &committed[..],
                )
            }
            Record::TruncateAfter(Some(id)) => (KIND_TRUNCATE_AFTER, *id, payload),
            Record::TruncateAfter(None) => (KIND_TRUNCATE_ALL, LogId::default(), payload),
            Record::Purge(id) => (KIND_PURGE, *id, payload),
        };
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        let length = u32::try_from(payload.len()).expect("payloads are bounded when they are submitted");
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[kind, 0, 0, 0]);
        put_id(bytes, id);
        bytes.extend_from_slice(payload);
        let checksum = salt.checksum(&bytes[start + 4..]);
        bytes[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// The record at the beginning of these bytes.
    pub(crate) fn decode(salt: Salt, bytes: &[u8]) -> Result<FoundRecord, RecordFault> {
        if bytes.len() < RECORD_HEADER_BYTES {
            return Err(RecordFault::Short);
        }
        let length = u32_at(bytes, 4) as usize;
        let whole = bytes.get(..RECORD_HEADER_BYTES + length).ok_or(RecordFault::Short)?;
        let checksum = u32_at(whole, 0);
        if checksum != salt.checksum(&whole[4..]) {
            return Err(RecordFault::Checksum);
        }
        let id = id_at(whole, 12);
        let record = match whole[8] {
            KIND_ENTRY => Record::Entry(id),
            KIND_VOTE if length == 1 => {
                let vote = Vote { term: id.term, node: id.node, committed: whole[RECORD_HEADER_BYTES] != 0 };
                Record::Vote(NumberedVote { number: id.index, vote })
            }
            KIND_TRUNCATE_AFTER => Record::TruncateAfter(Some(id)),
            KIND_TRUNCATE_ALL => Record::TruncateAfter(None),
            KIND_PURGE => Record::Purge(id),
            kind => return Err(RecordFault::Kind(kind)),
        };
        Ok(FoundRecord { record, bytes: whole.len(), checksum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId { term: 7, node: 0x8e9e_05c5_2164_694d, index }
    }

    #[test]
    fn a_segment_header_comes_back_as_it_was() {
        let vote = NumberedVote { number: 3, vote: Vote { term: 9, node: 2, committed: true } };
        for header in [
            SegmentHeader { sequence: 1, salt: 2, previous_end: 0, purged: None, last: None, vote: None },
            SegmentHeader {
                sequence: 5,
                salt: u64::MAX,
                previous_end: 777,
                purged: Some(id(4)),
                last: Some(id(9)),
                vote: Some(vote),
            },
        ] {
            let mut bytes = Vec::new();
            header.encode(&mut bytes);
            let bytes: [u8; SEGMENT_HEADER_BYTES] = bytes.try_into().expect("the size is fixed");
            assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
            for at in 0..124 {
                let mut broken = bytes;
                broken[at] ^= 0x10;
                assert!(SegmentHeader::decode(&broken).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_record_is_valid_only_under_its_own_salt() {
        let salt = Salt::new(1);
        for (record, payload) in [
            (Record::Entry(id(4)), &b"payload"[..]),
            (Record::Vote(NumberedVote { number: 1, vote: Vote { term: 3, node: 4, committed: true } }), b""),
            (Record::TruncateAfter(Some(id(3))), b""),
            (Record::TruncateAfter(None), b""),
            (Record::Purge(id(2)), b""),
        ] {
            let mut bytes = Vec::new();
            let checksum = record.encode(payload, salt, &mut bytes);
            let found = FoundRecord { record, bytes: bytes.len(), checksum };
            assert_eq!(Record::decode(salt, &bytes), Ok(found));
            assert_eq!(Record::decode(Salt::new(2), &bytes), Err(RecordFault::Checksum));
            assert_eq!(Record::decode(salt, &bytes[..bytes.len() - 1]), Err(RecordFault::Short));
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 1;
                assert!(Record::decode(salt, &broken).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_batch_header_is_valid_only_under_its_own_salt() {
        let synced = Position { sequence: 4, offset: 500 };
        let header = BatchHeader { body_bytes: 41, records: 1, first_index: 9, synced, folded: 77 };
        let mut bytes = [0; BATCH_HEADER_BYTES];
        header.encode(Salt::new(1), &mut bytes);
        assert_eq!(BatchHeader::decode(Salt::new(1), &bytes), Some(header));
        assert_eq!(BatchHeader::decode(Salt::new(2), &bytes), None);
        assert_eq!(header.extent(), 104);
        for at in 0..BATCH_HEADER_BYTES {
            let mut broken = bytes;
            broken[at] ^= 1;
            assert_eq!(BatchHeader::decode(Salt::new(1), &broken), None, "byte {at}");
        }
    }
}
