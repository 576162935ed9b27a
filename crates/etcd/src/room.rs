//! Room on the disk: NOSPACE is raised while it can still be written, and a reserve is given up for the way out.
//!
//! Equal data on equal disks fill at the same entry on all members, and a member whose log or database meets a full disk
//! ends: without a reserve nobody could delete anything (rule D5, docs/consistency.md). So a file of the data directory
//! holds space that nothing uses. When what is free besides falls below a bound, the member raises its NOSPACE alarm
//! and removes the file; reads, deletes, compaction, defragmentation and disarming go on in that space. Before that the
//! member gives up what only saves it work (a spare log segment, the length of SQLite's WAL).

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use dqlited_raft::Node;
use dqlited_store::reserve::Reserve;
use dqlited_store::response::AlarmRecord;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::disk;
use crate::quota::{NOSPACE, Quota};

/// Part of the file system that is reserved, with bounds: a large disk needs no more than a log segment.
const RESERVE_SHARE: u64 = 16;
const RESERVE_BYTES: (u64, u64) = (4 << 20, 64 << 20);
/// Part of the file system below which too little is free, with bounds: what is written between two looks (at 300 MB/s
/// some 15 MB) and one more log segment must fit.
const LOW_SHARE: u64 = 8;
const LOW_BYTES: (u64, u64) = (8 << 20, 128 << 20);
/// Pause between two looks while there is plenty, and while there are less than [`NEAR`] times the bound.
const FAR_INTERVAL: Duration = Duration::from_millis(500);
const NEAR_INTERVAL: Duration = Duration::from_millis(50);
const NEAR: u64 = 8;
/// Limit of one look at the alarms and of one attempt to raise one; the next look tries again.
const RAISE_TIMEOUT: Duration = Duration::from_secs(5);

/// The bounds for one file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    reserve_bytes: u64,
    low_bytes: u64,
}

/// What a look at the disk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    /// Raise the alarm, then give up the reserve.
    Raise,
    /// Set space aside (again).
    Reserve,
}

impl Bounds {
    fn of(total_bytes: u64) -> Bounds {
        Bounds {
            reserve_bytes: (total_bytes / RESERVE_SHARE).clamp(RESERVE_BYTES.0, RESERVE_BYTES.1),
            low_bytes: (total_bytes / LOW_SHARE).clamp(LOW_BYTES.0, LOW_BYTES.1),
        }
    }

    /// Whether the member has to do without files that only save work. Once it does, more must be free until it has them
    /// again: they would make space short at once.
    fn is_short(self, free_bytes: u64, was_short: bool) -> bool {
        let bytes = self.low_bytes + 2 * self.reserve_bytes;
        free_bytes < if was_short { 2 * bytes } else { bytes }
    }

    /// `free_bytes` is what is free beside the reserve.
    fn act(self, free_bytes: u64, has_reserve: bool, is_raised: bool) -> Act {
        if free_bytes < self.low_bytes {
            return if has_reserve || !is_raised { Act::Raise } else { Act::Nothing };
        }
        // Under the alarm the space belongs to the way out; and setting it aside must not bring the alarm back.
        let is_enough = free_bytes >= self.low_bytes + 2 * self.reserve_bytes;
        if !has_reserve && !is_raised && is_enough { Act::Reserve } else { Act::Nothing }
    }
}

/// Watches the disk until the member stops. Spawned once by the server.
pub async fn watch(node: &Node, quota: &Quota) {
    let data_dir = node.data_dir().to_path_buf();
    let mut can_reserve = true;
    let mut last_raised = None;
    let mut is_short = false;
    loop {
        let folder = data_dir.clone();
        let Ok(look) = tokio::task::spawn_blocking(move || Look::at(&folder)).await else { return };
        let look = match look {
            Ok(look) => look,
            Err(error) => {
                warn!(%error, "the free space of the data directory is unknown");
                tokio::time::sleep(FAR_INTERVAL).await;
                continue;
            }
        };
        let (bounds, free_bytes) = (Bounds::of(look.total_bytes), look.free_bytes);
        if bounds.is_short(free_bytes, is_short) != is_short {
            is_short = !is_short;
            info!(free_bytes, is_short, "what only saves work is given up while space is short");
            let node = node.clone();
            let told = tokio::task::spawn_blocking(move || node.set_short_of_space(is_short)).await;
            if told.is_err() {
                return;
            }
        }
        // The alarm is asked for only where the answer matters.
        let is_raised = match bounds.act(free_bytes, look.has_reserve, false) {
            Act::Nothing => false,
            Act::Reserve if !can_reserve => false,
            Act::Reserve | Act::Raise => is_raised(node).await,
        };
        match bounds.act(free_bytes, look.has_reserve, is_raised) {
            Act::Nothing => {}
            Act::Raise => {
                if last_raised != Some(is_raised) {
                    warn!(
                        free_bytes,
                        low_bytes = bounds.low_bytes,
                        "the disk of the data directory is nearly full"
                    );
                }
                if !is_raised {
                    quota.raise_alarm(node, Instant::now() + RAISE_TIMEOUT).await;
                }
                // Also when the alarm could not be raised: what could not be written then is what needs the space.
                give_up(&data_dir, look.has_reserve).await;
                last_raised = Some(is_raised);
            }
            Act::Reserve if can_reserve => can_reserve = set_aside(&data_dir, bounds.reserve_bytes).await,
            Act::Reserve => {}
        }
        quota.set_disk_credit(free_bytes.saturating_sub(bounds.low_bytes));
        let is_near = free_bytes < NEAR * bounds.low_bytes;
        let pause = if is_near { NEAR_INTERVAL } else { FAR_INTERVAL };
        // A write that finds the credit used up does not wait for the time.
        let _ = tokio::time::timeout(pause, quota.disk_look_wanted()).await;
    }
}

/// The disk at one moment.
struct Look {
    total_bytes: u64,
    free_bytes: u64,
    has_reserve: bool,
}

impl Look {
    fn at(folder: &Path) -> io::Result<Look> {
        let total_bytes = disk::total_bytes(folder)?;
        Ok(Look {
            total_bytes,
            free_bytes: disk::free_bytes(folder)?,
            has_reserve: Reserve::new(folder, Bounds::of(total_bytes).reserve_bytes).is_held(),
        })
    }
}

async fn is_raised(node: &Node) -> bool {
    let own = AlarmRecord { member: node.member_id().0, alarm: NOSPACE };
    let deadline = Instant::now() + RAISE_TIMEOUT;
    let read = node.read(node.local_barrier(), deadline, |view| view.alarms()).await;
    // Unknown counts as not raised: raising it again changes nothing.
    matches!(read, Ok(Ok(alarms)) if alarms.contains(&own))
}

async fn give_up(data_dir: &Path, has_reserve: bool) {
    if !has_reserve {
        return;
    }
    match blocking(data_dir, |folder| Reserve::new(folder, 0).release()).await {
        Ok(()) => warn!("the reserve was given up: delete, compact, defragment, then `etcdctl alarm disarm`"),
        Err(error) => warn!(%error, "the reserve could not be given up"),
    }
}

/// Answers whether it is worth trying again another time.
async fn set_aside(data_dir: &Path, bytes: u64) -> bool {
    match blocking(data_dir, move |folder| hold(folder, bytes)).await {
        Ok(()) => {
            info!(bytes, "reserved against a full disk");
            true
        }
        Err(error) => {
            warn!(%error, "no reserve against a full disk could be set aside");
            false
        }
    }
}

/// Takes the blocks without writing them where the file system can do that.
fn hold(folder: &Path, bytes: u64) -> io::Result<()> {
    let path = folder.join(Reserve::FILE);
    let file = std::fs::File::create(&path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => file.sync_all(),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Reserve::new(folder, bytes).hold(),
        Err(error) => {
            // What is not whole keeps nothing back.
            std::fs::remove_file(&path)?;
            Err(error.into())
        }
    }
}

async fn blocking(
    data_dir: &Path,
    act: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let folder = data_dir.to_path_buf();
    tokio::task::spawn_blocking(move || act(&folder)).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_disks_have_bounds_of_their_own() {
        let bounds = |megabytes: u64| {
            let bounds = Bounds::of(megabytes << 20);
            (bounds.reserve_bytes >> 20, bounds.low_bytes >> 20)
        };
        assert_eq!(bounds(16), (4, 8));
        assert_eq!(bounds(160), (10, 20));
        assert_eq!(bounds(1_000_000), (64, 128));
    }

    #[test]
    fn the_alarm_comes_before_the_disk_is_full_and_the_reserve_returns_after_it() {
        let bounds = Bounds { reserve_bytes: 10, low_bytes: 20 };
        // Plenty.
        assert_eq!(bounds.act(100, false, false), Act::Reserve);
        assert_eq!(bounds.act(100, true, false), Act::Nothing);
        // Too little: until both is done.
        assert_eq!(bounds.act(19, true, false), Act::Raise);
        assert_eq!(bounds.act(19, true, true), Act::Raise);
        assert_eq!(bounds.act(19, false, false), Act::Raise);
        assert_eq!(bounds.act(19, false, true), Act::Nothing);
        // Space is back, but the alarm is up: the way out keeps it.
        assert_eq!(bounds.act(100, false, true), Act::Nothing);
        // Disarmed with space for the reserve, and without.
        assert_eq!(bounds.act(40, false, false), Act::Reserve);
        assert_eq!(bounds.act(39, false, false), Act::Nothing);
    }

    #[test]
    fn space_is_short_before_the_alarm_and_until_there_is_plenty() {
        let bounds = Bounds { reserve_bytes: 10, low_bytes: 20 };
        assert_eq!((bounds.is_short(39, false), bounds.is_short(40, false)), (true, false));
        assert_eq!((bounds.is_short(79, true), bounds.is_short(80, true)), (true, false));
    }

    #[test]
    fn the_reserve_takes_its_blocks() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        hold(folder.path(), 1 << 20).unwrap();
        let file = std::fs::metadata(folder.path().join(Reserve::FILE)).unwrap();
        assert_eq!((file.len(), file.blocks() * 512 >= 1 << 20), (1 << 20, true));
        assert!(Reserve::new(folder.path(), 1 << 20).is_held());
    }
}
