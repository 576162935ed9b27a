//! Why the log cannot go on, or cannot be opened.

use std::io;
use std::sync::Arc;

use crate::operation::LogId;

/// What an operator does about a damaged log; part of the message because nobody looks it up at night.
const DAMAGED: &str = "hint: if other members are alive, remove this member and add it again with an empty data \
                       directory; a lone member is restored from a backup";

/// Why the log cannot go on, or cannot be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed; the log has stopped for good, since a failed fsync must not be tried again.
    #[error("log: {action} {file}: {source}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: String,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// Bytes that were durable are damaged.
    #[error(
        "log: {file} is damaged at byte {offset}, where index {index} is expected: {reason}\n{hint}",
        hint = DAMAGED
    )]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// The index of the first entry that is affected.
        index: u64,
        /// What is wrong.
        reason: String,
    },
    /// Segment files are gone whose entries were not purged.
    #[error("log: {file} is missing; what lay in it, up to index {index}, was not purged\n{hint}", hint = DAMAGED)]
    Missing {
        /// The file.
        file: String,
        /// The last index that is known to be missing.
        index: u64,
    },
    /// Written by a later release.
    #[error(
        "log: {file} has format {found}, this release reads formats up to {known}\n\
         hint: start the release that wrote it, or a later one"
    )]
    NewerFormat {
        /// The file.
        file: String,
        /// Its format.
        found: u8,
        /// The newest format that is read here.
        known: u8,
    },
    /// The operation does not follow the one before it; it was not carried out, the log goes on.
    #[error("log: the last entry is {last:?}, {found:?} cannot follow or be named")]
    OutOfOrder {
        /// The last entry.
        last: Option<LogId>,
        /// The entry named.
        found: LogId,
    },
    /// The entry is larger than an entry may be; it was not carried out, the log goes on.
    #[error("log: entry {index} has {bytes} bytes, at most {bytes_max} are possible")]
    TooLarge {
        /// Its index.
        index: u64,
        /// Its payload.
        bytes: usize,
        /// The largest payload.
        bytes_max: usize,
    },
    /// The log was closed before the operation was carried out.
    #[error("log: closed")]
    Closed,
}

impl LogError {
    /// The error of one call to the disk.
    pub(crate) fn disk(action: &'static str, file: &str, source: io::Error) -> LogError {
        LogError::Disk { action, file: file.to_string(), source: Arc::new(source) }
    }
}
