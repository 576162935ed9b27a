//! The second home of the vote: a small file with two slots, written in turn.
//!
//! Each slot also says up to where the stream was durable when it was written, so that damage to the very end of the
//! stream, which no later batch covers, can be told from a torn write.

use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::format::{NumberedVote, Position, VERSION, u32_at, u64_at};
use crate::operation::Vote;

/// Name of the file.
pub(crate) const VOTE_FILE: &str = "vote";

const MAGIC: [u8; 8] = *b"DQLOGVOT";
/// Size of a slot.
pub(crate) const SLOT_BYTES: usize = 80;
/// Slots lie in pages of their own, so that a torn write of one cannot hurt the other.
const SLOT_DISTANCE: u64 = 4096;
const HAS_VOTE: u8 = 1;
const COMMITTED: u8 = 2;

/// What the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VoteMark {
    /// Rises by one with each write; the higher one of the two slots counts.
    turn: u64,
    pub(crate) vote: Option<NumberedVote>,
    /// The stream was durable up to here.
    pub(crate) synced: Position,
}

/// The file, open for writing.
pub(crate) struct VoteFile {
    disk: Arc<dyn Disk>,
    file: Option<Arc<dyn DiskFile>>,
    mark: VoteMark,
}

impl VoteFile {
    /// Reads the file; one that does not exist says nothing.
    pub(crate) fn open(disk: Arc<dyn Disk>, is_there: bool) -> Result<VoteFile, LogError> {
        let mut opened = VoteFile { disk, file: None, mark: VoteMark::default() };
        if !is_there {
            return Ok(opened);
        }
        let fail = |source| LogError::disk("read", VOTE_FILE, source);
        let file = opened.disk.open(VOTE_FILE).map_err(|source| LogError::disk("open", VOTE_FILE, source))?;
        let size = file.size().map_err(fail)?;
        let mut is_even_damaged = false;
        for offset in [slot_offset(1), slot_offset(2)] {
            let mut slot = [0; SLOT_BYTES];
            if offset + SLOT_BYTES as u64 > size {
                continue;
            }
            file.read_at(offset, &mut slot).map_err(fail)?;
            match decode(&slot)? {
                Some(mark) if mark.turn > opened.mark.turn => opened.mark = mark,
                Some(_) => {}
                None => is_even_damaged = offset == slot_offset(2) && slot.iter().any(|byte| *byte != 0),
            }
        }
        // One damaged slot is the write that a crash cut short: the other one then holds the turn before. Only the
        // very first turn has none before it, and that is an odd one.
        if is_even_damaged && opened.mark.turn == 0 {
            let reason = "neither slot can be read".to_string();
            return Err(LogError::Corrupt { file: VOTE_FILE.to_string(), offset: 0, index: 0, reason });
        }
        opened.file = Some(file);
        Ok(opened)
    }

    /// What was read or written last.
    pub(crate) fn mark(&self) -> VoteMark {
        self.mark
    }

    /// Syncs what was read (rule D1).
    pub(crate) fn sync(&self) -> Result<(), LogError> {
        match &self.file {
            Some(file) => file.sync_data().map_err(|source| LogError::disk("sync", VOTE_FILE, source)),
            None => Ok(()),
        }
    }

    /// Makes the file if it does not exist. Its name is durable only after a sync of the folder.
    pub(crate) fn create(&mut self) -> Result<Arc<dyn DiskFile>, LogError> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let fail = |source| LogError::disk("create", VOTE_FILE, source);
        let file = self.disk.create(VOTE_FILE).map_err(fail)?;
        file.set_size(2 * SLOT_DISTANCE).map_err(fail)?;
        self.file = Some(file.clone());
        Ok(file)
    }

    /// Writes the next slot, and syncs it if asked.
    pub(crate) fn write(
        &mut self,
        vote: Option<NumberedVote>,
        synced: Position,
        sync: bool,
    ) -> Result<(), LogError> {
        let is_new = self.file.is_none();
        let file = self.create()?;
        let mark = VoteMark { turn: self.mark.turn + 1, vote, synced };
        file.write_at(slot_offset(mark.turn), &encode(&mark))
            .map_err(|source| LogError::disk("write", VOTE_FILE, source))?;
        if sync {
            self.sync()?;
            if is_new {
                self.disk
                    .sync_dir()
                    .map_err(|source| LogError::disk("sync the folder of", VOTE_FILE, source))?;
            }
        }
        self.mark = mark;
        Ok(())
    }
}

fn slot_offset(turn: u64) -> u64 {
    (turn % 2) * SLOT_DISTANCE
}

fn encode(mark: &VoteMark) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8] = VERSION;
    bytes[16..24].copy_from_slice(&mark.turn.to_le_bytes());
    if let Some(NumberedVote { number, vote }) = mark.vote {
        bytes[9] = HAS_VOTE | if vote.committed { COMMITTED } else { 0 };
        bytes[24..32].copy_from_slice(&number.to_le_bytes());
        bytes[32..40].copy_from_slice(&vote.term.to_le_bytes());
        bytes[40..48].copy_from_slice(&vote.node.to_le_bytes());
    }
    bytes[48..56].copy_from_slice(&mark.synced.sequence.to_le_bytes());
    bytes[56..64].copy_from_slice(&mark.synced.offset.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..64]);
    bytes[64..68].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The slot's words; `None` if it was never written or is torn.
fn decode(bytes: &[u8; SLOT_BYTES]) -> Result<Option<VoteMark>, LogError> {
    if bytes[..8] != MAGIC {
        return Ok(None);
    }
    if bytes[8] > VERSION {
        return Err(LogError::NewerFormat { file: VOTE_FILE.to_string(), found: bytes[8], known: VERSION });
    }
    if u32_at(bytes, 64) != crc32c::crc32c(&bytes[..64]) {
        return Ok(None);
    }
    let committed = bytes[9] & COMMITTED != 0;
    let vote = Vote { term: u64_at(bytes, 32), node: u64_at(bytes, 40), committed };
    Ok(Some(VoteMark {
        turn: u64_at(bytes, 16),
        vote: (bytes[9] & HAS_VOTE != 0).then(|| NumberedVote { number: u64_at(bytes, 24), vote }),
        synced: Position { sequence: u64_at(bytes, 48), offset: u64_at(bytes, 56) },
    }))
}
