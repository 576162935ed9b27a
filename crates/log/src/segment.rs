//! One segment file: its name, its head, and a reader over it.

use std::sync::Arc;

use crate::disk::DiskFile;
use crate::error::LogError;
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, HeaderFault, SEGMENT_HEADER_BYTES, Salt, SegmentHeader, VERSION,
};

/// A segment of the stream.
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) salt: Salt,
    /// Size of the file.
    pub(crate) bytes: u64,
    pub(crate) file: Arc<dyn DiskFile>,
}

const PREFIX: &str = "segment-";

/// File name of a segment.
pub(crate) fn segment_name(sequence: u64) -> String {
    format!("{PREFIX}{sequence:016x}")
}

/// The sequence in a segment's file name.
pub(crate) fn segment_sequence(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

impl Segment {
    pub(crate) fn name(&self) -> String {
        segment_name(self.sequence)
    }
}

/// Reads the head of a segment file.
pub(crate) fn read_header(file: &dyn DiskFile, name: &str) -> Result<SegmentHeader, LogError> {
    let fail = |source| LogError::disk("read", name, source);
    let corrupt = |reason: &str| LogError::Corrupt {
        file: name.to_string(),
        offset: 0,
        index: 0,
        reason: reason.to_string(),
    };
    if file.size().map_err(fail)? < SEGMENT_HEADER_BYTES as u64 {
        return Err(corrupt("it is shorter than its head"));
    }
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    file.read_at(0, &mut bytes).map_err(fail)?;
    SegmentHeader::decode(&bytes).map_err(|fault| match fault {
        HeaderFault::Magic => corrupt("it does not begin as a log segment"),
        HeaderFault::Newer(found) => LogError::NewerFormat { file: name.to_string(), found, known: VERSION },
        HeaderFault::Checksum => corrupt("the checksum of its head is wrong"),
    })
}

/// Reads a file from front to back through one buffer.
pub(crate) struct SegmentReader<'a> {
    file: &'a dyn DiskFile,
    name: &'a str,
    size: u64,
    buffer: Vec<u8>,
    /// Offset of the buffer's first byte.
    start: u64,
}

/// How much is read at once.
const READ_BYTES: u64 = 1 << 20;

impl<'a> SegmentReader<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile, name: &'a str) -> Result<SegmentReader<'a>, LogError> {
        let size = file.size().map_err(|source| LogError::disk("read", name, source))?;
        Ok(SegmentReader { file, name, size, buffer: Vec::new(), start: 0 })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// These bytes, fewer at the end of the file.
    pub(crate) fn bytes(&mut self, offset: u64, length: u64) -> Result<&[u8], LogError> {
        let length = length.min(self.size.saturating_sub(offset));
        let buffered = self.start..self.start + self.buffer.len() as u64;
        if length > 0 && !(buffered.contains(&offset) && offset + length <= buffered.end) {
            let take = length.max(READ_BYTES).min(self.size - offset);
            self.buffer.resize(take as usize, 0);
            self.start = offset;
            self.file
                .read_at(offset, &mut self.buffer)
                .map_err(|source| LogError::disk("read", self.name, source))?;
        }
        let from = if length == 0 { 0 } else { (offset - self.start) as usize };
        Ok(&self.buffer[from..from + length as usize])
    }

    /// The next batch header of this segment's life at or behind an offset where batches can begin.
    pub(crate) fn find_batch(
        &mut self,
        salt: Salt,
        mut offset: u64,
    ) -> Result<Option<(u64, BatchHeader)>, LogError> {
        let step = crate::format::BATCH_ALIGNMENT;
        while offset + BATCH_HEADER_BYTES as u64 <= self.size {
            let bytes = self.bytes(offset, READ_BYTES)?;
            let mut at = 0;
            while at + BATCH_HEADER_BYTES <= bytes.len() {
                if bytes[at..at + 4] == crate::format::BATCH_MAGIC
                    && let Some(header) = BatchHeader::decode(salt, &bytes[at..])
                {
                    return Ok(Some((offset + at as u64, header)));
                }
                at += step;
            }
            offset += at as u64;
        }
        Ok(None)
    }
}
