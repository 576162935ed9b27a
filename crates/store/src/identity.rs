//! Which proposals of which boot have been applied: a second copy changes nothing (rule W1, `docs/consistency.md`).

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use crate::ids::Identity;
use crate::response::CommandError;
use crate::sql::{DATABASE_FILE, failed, prepare};
use crate::store::StoreError;

/// The settled proposals of one boot of one member: all below `low`, and `above`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Settled {
    boot: u64,
    low: u64,
    above: BTreeSet<u64>,
}

/// All origins; mirrors the table `identity` as the open SQLite transaction will leave it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identities {
    origins: BTreeMap<u64, Settled>,
    /// Origins whose row is behind.
    dirty: BTreeSet<u64>,
}

impl Identities {
    pub fn load(connection: &Connection) -> Result<Identities, StoreError> {
        const CONTEXT: &str = "read the identities";
        let mut identities = Identities::default();
        let mut statement = prepare(connection, "SELECT member, boot, low, settled FROM identity", CONTEXT)?;
        let mut rows = statement.query([]).map_err(failed(CONTEXT))?;
        while let Some(row) = rows.next().map_err(failed(CONTEXT))? {
            let read = || {
                let bytes: Vec<u8> = row.get(3)?;
                rusqlite::Result::Ok((
                    row.get::<_, i64>(0)? as u64,
                    row.get::<_, i64>(1)? as u64,
                    row.get::<_, i64>(2)? as u64,
                    bytes,
                ))
            };
            let (member, boot, low, bytes) = read().map_err(failed(CONTEXT))?;
            let above = decode(low, &bytes).ok_or_else(|| StoreError::Corrupt {
                path: DATABASE_FILE.into(),
                detail: format!("the settled proposals of member {member:x} are not readable"),
            })?;
            identities.origins.insert(member, Settled { boot, low, above });
        }
        Ok(identities)
    }

    /// A new boot of a member: proposals of the boots before apply as nothing from here on. An older boot registers
    /// nothing.
    pub fn register(&mut self, member: u64, boot: u64) {
        // Boots count from 1: a member that was added and has not started has no boot whose proposals could count.
        if boot > self.origins.get(&member).map_or(0, |origin| origin.boot) {
            self.origins.insert(member, Settled { boot, ..Settled::default() });
            self.dirty.insert(member);
        }
    }

    /// Takes note that a proposal is being applied, or says why it must not be.
    pub fn settle(&mut self, identity: &Identity) -> Result<(), CommandError> {
        let member = identity.member.0;
        let origin = self
            .origins
            .get_mut(&member)
            .filter(|origin| origin.boot == identity.boot)
            .ok_or(CommandError::UnregisteredBoot)?;
        if identity.sequence < origin.low || origin.above.contains(&identity.sequence) {
            return Err(CommandError::AlreadyApplied);
        }
        if identity.lowest_unsettled > origin.low {
            origin.low = identity.lowest_unsettled;
            origin.above = origin.above.split_off(&origin.low);
        }
        if identity.sequence >= origin.low {
            origin.above.insert(identity.sequence);
        }
        // Numbers that follow on the low-water mark say the same as a higher mark, in less room.
        while origin.above.remove(&origin.low) {
            origin.low += 1;
        }
        self.dirty.insert(member);
        Ok(())
    }

    /// Writes the rows that are behind. Every COMMIT must hold identities and applied log id up to the same entry.
    pub fn write(&mut self, connection: &Connection) -> Result<(), StoreError> {
        const CONTEXT: &str = "write the identities";
        for member in &self.dirty {
            let Some(origin) = self.origins.get(member) else { continue };
            prepare(connection, "INSERT OR REPLACE INTO identity VALUES(?1, ?2, ?3, ?4)", CONTEXT)?
                .execute((
                    *member as i64,
                    origin.boot as i64,
                    origin.low as i64,
                    encode(origin.low, &origin.above),
                ))
                .map_err(failed(CONTEXT))?;
        }
        self.dirty.clear();
        Ok(())
    }
}

/// Distances as LEB128: from the low-water mark to the first number, then from each to the next.
fn encode(low: u64, above: &BTreeSet<u64>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(above.len());
    let mut last = low;
    for &sequence in above {
        let mut distance = sequence - last;
        while distance >= 0x80 {
            bytes.push(distance as u8 | 0x80);
            distance >>= 7;
        }
        bytes.push(distance as u8);
        last = sequence;
    }
    bytes
}

fn decode(low: u64, bytes: &[u8]) -> Option<BTreeSet<u64>> {
    let mut above = BTreeSet::new();
    let mut last = low;
    let mut distance = 0u64;
    let mut shift = 0;
    for &byte in bytes {
        distance |= u64::from(byte & 0x7f).checked_shl(shift)?;
        shift += 7;
        if byte & 0x80 == 0 {
            last = last.checked_add(distance)?;
            above.insert(last);
            (distance, shift) = (0, 0);
        }
    }
    (shift == 0).then_some(above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MemberId;

    fn identity(boot: u64, sequence: u64, lowest_unsettled: u64) -> Identity {
        Identity { member: MemberId(7), boot, sequence, lowest_unsettled }
    }

    #[test]
    fn a_second_copy_is_refused_and_an_old_boot_too() {
        let mut identities = Identities::default();
        assert_eq!(identities.settle(&identity(1, 1, 1)), Err(CommandError::UnregisteredBoot));
        identities.register(7, 1);
        assert_eq!(identities.settle(&identity(1, 5, 1)), Ok(()));
        assert_eq!(identities.settle(&identity(1, 5, 1)), Err(CommandError::AlreadyApplied));
        assert_eq!(identities.settle(&identity(1, 4, 3)), Ok(()));
        assert_eq!(
            identities.settle(&identity(1, 2, 1)),
            Err(CommandError::AlreadyApplied),
            "below the mark"
        );
        identities.register(7, 2);
        assert_eq!(identities.settle(&identity(1, 6, 3)), Err(CommandError::UnregisteredBoot));
        assert_eq!(identities.settle(&identity(2, 1, 1)), Ok(()));
        identities.register(7, 1);
        assert_eq!(identities.settle(&identity(2, 1, 1)), Err(CommandError::AlreadyApplied), "no way back");
    }

    #[test]
    fn settled_numbers_survive_their_encoding() {
        for above in [vec![], vec![10], vec![11, 12, 400, 1 << 40, u64::MAX]] {
            let above = BTreeSet::from_iter(above);
            assert_eq!(decode(10, &encode(10, &above)), Some(above));
        }
        assert_eq!(decode(0, &[0x80]), None);
    }
}
