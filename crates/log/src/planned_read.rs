//! Entries that lie near each other in a segment, read with one call and without the log's lock.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::LogError;
use crate::format::{RECORD_HEADER_BYTES, Record};
use crate::index::Slot;
use crate::operation::{Entry, LogId};
use crate::segment::Segment;

/// One read of a segment file goes on over bytes that belong to no wanted entry only up to this many.
const READ_GAP_BYTES: u32 = 64 << 10;

/// One read of a segment file, and the entries in it.
pub(crate) struct PlannedRead {
    segment: Arc<Segment>,
    offset: u32,
    bytes: u32,
    pub(crate) entries: Vec<(LogId, Slot)>,
}

impl PlannedRead {
    /// A read of one entry.
    pub(crate) fn new(segment: Arc<Segment>, id: LogId, slot: Slot) -> PlannedRead {
        PlannedRead { segment, offset: slot.offset, bytes: slot.bytes, entries: vec![(id, slot)] }
    }

    /// Whether this entry lies near enough behind the others.
    pub(crate) fn reaches(&self, sequence: u64, slot: Slot) -> bool {
        let end = self.offset + self.bytes;
        self.segment.sequence == sequence && slot.offset >= end && slot.offset - end <= READ_GAP_BYTES
    }

    pub(crate) fn add(&mut self, id: LogId, slot: Slot) {
        self.bytes = slot.offset + slot.bytes - self.offset;
        self.entries.push((id, slot));
    }

    /// Reads the bytes, checks each record and adds the entries; the payloads share one buffer.
    pub(crate) fn run(self, entries: &mut Vec<Entry>) -> Result<(), LogError> {
        let mut buffer = vec![0; self.bytes as usize];
        self.segment
            .file
            .read_at(u64::from(self.offset), &mut buffer)
            .map_err(|source| LogError::disk("read", &self.segment.name(), source))?;
        let buffer = Bytes::from(buffer);
        for (id, slot) in self.entries {
            let at = (slot.offset - self.offset) as usize;
            let record = buffer.slice(at..at + slot.bytes as usize);
            match Record::decode(self.segment.salt, &record) {
                Ok(found) if found.record == Record::Entry(id) && found.bytes == record.len() => {
                    entries.push(Entry { id, payload: record.slice(RECORD_HEADER_BYTES..) });
                }
                found => {
                    return Err(LogError::Corrupt {
                        file: self.segment.name(),
                        offset: u64::from(slot.offset),
                        index: id.index,
                        reason: match found {
                            Ok(_) => "another record lies there".to_string(),
                            Err(_) => "the record's checksum is wrong".to_string(),
                        },
                    });
                }
            }
        }
        Ok(())
    }
}
