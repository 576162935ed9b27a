//! A disk in memory that keeps live and durable bytes apart and can crash at every call that changes something.
//!
//! After a power cut a page that was not synced holds any state that it went through since its last sync, page by page
//! or sector by sector, in no order; creations, renames and removals that were not synced have happened up to any of
//! them, in order. This is weaker than what ext4 gives.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Chance;
use crate::disk::{Disk, DiskFile};

const PAGE_BYTES: u64 = 4096;
const SECTOR_BYTES: u64 = 512;

/// The disk. Clones share it.
#[derive(Clone, Default)]
pub struct CrashDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    files: Vec<Content>,
    /// Names as the process sees them, each with the number of its file.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync of the folder.
    unsynced_names: Vec<NameChange>,
    /// Calls so far that change something.
    calls: u64,
    crash_at: Option<u64>,
    fail_at: Option<(u64, io::ErrorKind)>,
    crashed: bool,
    room_pages: Option<u64>,
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, by offset.
    unsynced: Vec<(u64, Vec<u8>)>,
    /// Pages that take room.
    pages: BTreeSet<u64>,
}

#[derive(Clone)]
enum NameChange {
    Set(String, usize),
    Rename(String, String),
    Remove(String),
}

/// How much of what was not synced lands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Landing {
    Nothing,
    Everything,
    Some,
}

impl CrashDisk {
    /// An empty disk.
    pub fn new() -> CrashDisk {
        CrashDisk::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// How many calls have changed something, or would have.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The machine stops in the middle of the call with this number: that call and all later ones fail.
    pub fn crash_at(&self, call: u64) {
        self.lock().crash_at = Some(call);
    }

    /// Whether it has stopped.
    pub fn has_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// The call with this number does nothing and fails.
    pub fn fail_at(&self, call: u64, kind: io::ErrorKind) {
        self.lock().fail_at = Some((call, kind));
    }

    /// At most so many pages of 4 KiB can be written.
    pub fn set_room(&self, pages: Option<u64>) {
        self.lock().room_pages = pages;
    }

    /// Pages of 4 KiB that are in use.
    pub fn pages_used(&self) -> u64 {
        self.lock().pages_used()
    }

    /// The bytes of a file as a process sees them.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state.names.get(name).map(|number| state.files[*number].live.clone())
    }

    /// Damages a file: these bits of one byte are flipped, durably.
    pub fn flip(&self, name: &str, offset: u64, bits: u8) {
        let mut state = self.lock();
        if let Some(number) = state.names.get(name).copied() {
            let content = &mut state.files[number];
            for bytes in [&mut content.live, &mut content.durable] {
                if let Some(byte) = bytes.get_mut(offset as usize) {
                    *byte ^= bits;
                }
            }
        }
    }

    /// The disk as the next process finds it after this one was killed: nothing is lost, nothing more is durable.
    /// Handles of the old process fail from now on.
    pub fn kill(&self) -> CrashDisk {
        let mut state = self.lock();
        state.crashed = true;
        let mut next = state.clone();
        next.start_anew();
        CrashDisk { state: Arc::new(Mutex::new(next)) }
    }

    /// The disk as it is found after a power cut. Handles of the old process fail from now on.
    pub fn power_cut(&self, chance: &mut Chance) -> CrashDisk {
        let mut state = self.lock();
        state.crashed = true;
        let mut next = State { room_pages: state.room_pages, ..State::default() };
        let mut names = state.durable_names.clone();
        let landed = match landing(chance) {
            Landing::Nothing => 0,
            Landing::Everything => state.unsynced_names.len(),
            Landing::Some => chance.below(state.unsynced_names.len() as u64 + 1) as usize,
        };
        for change in &state.unsynced_names[..landed] {
            change.apply(&mut names);
        }
        let landing = landing(chance);
        for (name, number) in names {
            let content = &state.files[number];
            let bytes = content.after_power_cut(landing, chance);
            next.names.insert(name.clone(), next.files.len());
            next.durable_names.insert(name, next.files.len());
            next.files.push(Content {
                durable: bytes.clone(),
                live: bytes,
                unsynced: Vec::new(),
                pages: content.pages.clone(),
            });
        }
        next.start_anew();
        CrashDisk { state: Arc::new(Mutex::new(next)) }
    }
}

fn landing(chance: &mut Chance) -> Landing {
    match chance.below(5) {
        0 => Landing::Nothing,
        1 => Landing::Everything,
        _ => Landing::Some,
    }
}

impl State {
    fn start_anew(&mut self) {
        self.calls = 0;
        self.crash_at = None;
        self.fail_at = None;
        self.crashed = false;
    }

    fn pages_used(&self) -> u64 {
        self.names.values().map(|number| self.files[*number].pages.len() as u64).sum()
    }

    /// One call that changes something. True: it is carried out. False: the machine stops within it.
    fn change(&mut self) -> io::Result<bool> {
        if self.crashed {
            return Err(io::Error::other("the machine has stopped"));
        }
        let call = self.calls;
        self.calls += 1;
        if let Some((fail_at, kind)) = self.fail_at
            && fail_at == call
        {
            return Err(io::Error::from(kind));
        }
        self.crashed = self.crash_at == Some(call);
        Ok(!self.crashed)
    }

    fn ended(whole: bool) -> io::Result<()> {
        if whole { Ok(()) } else { Err(io::Error::other("the machine stops")) }
    }

    fn number(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Set(name, number) => {
                names.insert(name.clone(), *number);
            }
            NameChange::Rename(from, to) => {
                if let Some(number) = names.remove(from) {
                    names.insert(to.clone(), number);
                }
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Content {
    fn after_power_cut(&self, landing: Landing, chance: &mut Chance) -> Vec<u8> {
        match landing {
            Landing::Nothing => return self.durable.clone(),
            Landing::Everything => return self.live.clone(),
            Landing::Some => {}
        }
        let mut bytes = self.durable.clone();
        // A larger file may have its new size, and must if a page behind the old end has landed.
        let keeps_size = chance.one_in(4);
        bytes.resize(bytes.len().max(self.live.len()), 0);
        let mut touched: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (at, (offset, data)) in self.unsynced.iter().enumerate() {
            if !data.is_empty() {
                for page in offset / PAGE_BYTES..=(offset + data.len() as u64 - 1) / PAGE_BYTES {
                    touched.entry(page).or_default().push(at);
                }
            }
        }
        for (page, writes) in touched {
            let by_sector = chance.one_in(3);
            let piece = if by_sector { SECTOR_BYTES } else { PAGE_BYTES };
            for start in (page * PAGE_BYTES..(page + 1) * PAGE_BYTES).step_by(piece as usize) {
                let landed = chance.below(writes.len() as u64 + 1) as usize;
                for at in &writes[..landed] {
                    let (offset, data) = &self.unsynced[*at];
                    overlay(&mut bytes, start, start + piece, *offset, data);
                }
            }
        }
        bytes.truncate(if keeps_size { self.durable.len() } else { self.live.len() });
        bytes
    }
}

/// Writes the part of `data`, which lies at `offset`, that falls into `from..to`.
fn overlay(bytes: &mut [u8], from: u64, to: u64, offset: u64, data: &[u8]) {
    let start = from.max(offset);
    let end = to.min(offset + data.len() as u64).min(bytes.len() as u64);
    if start < end {
        bytes[start as usize..end as usize]
            .copy_from_slice(&data[(start - offset) as usize..(end - offset) as usize]);
    }
}

impl Disk for CrashDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let number = self.lock().number(name)?;
        Ok(Arc::new(CrashFile { disk: self.clone(), number }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        if state.names.contains_key(name) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let whole = state.change()?;
        let number = state.files.len();
        state.files.push(Content::default());
        state.change_name(NameChange::Set(name.to_string(), number));
        State::ended(whole)?;
        Ok(Arc::new(CrashFile { disk: self.clone(), number }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.number(from)?;
        let whole = state.change()?;
        state.change_name(NameChange::Rename(from.to_string(), to.to_string()));
        State::ended(whole)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.number(name)?;
        let whole = state.change()?;
        state.change_name(NameChange::Remove(name.to_string()));
        State::ended(whole)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.change()? {
            state.durable_names = state.names.clone();
            state.unsynced_names.clear();
        }
        State::ended(!state.crashed)
    }
}

/// An open file of the disk.
struct CrashFile {
    disk: CrashDisk,
    number: usize,
}

impl DiskFile for CrashFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[self.number].live.len() as u64)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let whole = state.change()?;
        state.files[self.number].live.resize(bytes as usize, 0);
        State::ended(whole)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.disk.lock();
        if state.crashed {
            return Err(io::Error::other("the machine has stopped"));
        }
        let from = offset as usize;
        let found = state.files[self.number].live.get(from..from + buffer.len());
        buffer.copy_from_slice(found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        let whole = state.change()?;
        let last = (offset + bytes.len() as u64).saturating_sub(1) / PAGE_BYTES;
        let new = (offset / PAGE_BYTES..=last)
            .filter(|page| !state.files[self.number].pages.contains(page))
            .collect::<Vec<_>>();
        if state.room_pages.is_some_and(|room| state.pages_used() + new.len() as u64 > room) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let content = &mut state.files[self.number];
        content.pages.extend(new);
        let end = offset as usize + bytes.len();
        if content.live.len() < end {
            content.live.resize(end, 0);
        }
        content.live[offset as usize..end].copy_from_slice(bytes);
        content.unsynced.push((offset, bytes.to_vec()));
        State::ended(whole)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        if state.change()? {
            let content = &mut state.files[self.number];
            content.durable.clone_from(&content.live);
            content.unsynced.clear();
        }
        State::ended(!state.crashed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &CrashDisk, name: &str) -> Arc<dyn DiskFile> {
        let file = disk.create(name).unwrap();
        file.write_at(0, b"old").unwrap();
        file.sync_data().unwrap();
        disk.sync_dir().unwrap();
        file
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_a_kill_keeps_all() {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let disk = CrashDisk::new();
            let file = written(&disk, "a");
            file.write_at(0, b"new").unwrap();
            disk.create("b").unwrap();
            let killed = disk.kill();
            assert_eq!(killed.bytes("a").unwrap(), b"new");
            assert!(file.read_at(0, &mut [0]).is_err(), "the old process is gone");
            let cut = killed.power_cut(&mut Chance::new(seed));
            seen.insert((cut.bytes("a").unwrap(), cut.bytes("b").is_some()));
        }
        let both = |bytes: &[u8]| [(bytes.to_vec(), false), (bytes.to_vec(), true)];
        assert_eq!(seen, both(b"old").into_iter().chain(both(b"new")).collect());
    }

    #[test]
    fn pages_of_one_write_land_in_any_order() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let disk = CrashDisk::new();
            let file = disk.create("a").unwrap();
            file.write_at(0, &[0; 8192]).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir().unwrap();
            file.write_at(0, &[1; 8192]).unwrap();
            let bytes = disk.power_cut(&mut Chance::new(seed)).bytes("a").unwrap();
            seen.insert((bytes[0], bytes[8191]));
        }
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn the_call_in_which_the_machine_stops_may_have_landed() {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let disk = CrashDisk::new();
            let file = written(&disk, "a");
            disk.crash_at(disk.calls());
            assert!(file.write_at(0, b"new").is_err());
            assert!(file.sync_data().is_err());
            seen.insert(disk.power_cut(&mut Chance::new(seed)).bytes("a").unwrap());
        }
        assert_eq!(seen.len(), 2);
    }
}
