//! Orders to the apply loop from other threads: hold still, give pages back, stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::worker::Signal;

/// Bytes given back to the file system until the WAL must begin anew. SQLite cuts its file, and syncs what was moved,
/// only in a checkpoint that moves the whole WAL, for which all writes hold still: so that has to be little.
const GIVEN_BACK_BYTES_MAX: u64 = 4 << 20;

/// The same while the disk is nearly full: each slice is cut off at once, so that the WAL stays within few MiB.
const GIVEN_BACK_BYTES_MAX_WHEN_SHORT: u64 = 1;
/// While the disk is nearly full the checkpointer is signalled after this part of the usual bytes.
const SHORT_SHARE: u64 = 4;

/// What the apply loop is asked to do beside applying.
pub(crate) struct ApplyControl {
    inner: Mutex<Orders>,
    apply_signal: Arc<Signal>,
    checkpoint_signal: Arc<Signal>,
    /// Bytes that commits have added to SQLite's WAL since somebody last took the number.
    committed_bytes: AtomicU64,
    /// Bytes given back to the file system since the WAL last began anew.
    given_back_bytes: AtomicU64,
    /// The disk is nearly full.
    is_short_of_space: AtomicBool,
    /// The WAL's file has not been emptied since space became short.
    is_wal_to_be_emptied: AtomicBool,
}

#[derive(Default)]
struct Orders {
    hold: Hold,
    vacuums: Vec<oneshot::Sender<()>>,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hold {
    #[default]
    None,
    Asked,
    Held,
}

/// How the apply loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Executes what was handed over and is durable, commits, ends.
    Clean,
    /// Ends where it stands, as a killed process would.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests kill members"))]
    Abrupt,
}

impl ApplyControl {
    pub(crate) fn new(apply_signal: Arc<Signal>, checkpoint_signal: Arc<Signal>) -> ApplyControl {
        ApplyControl {
            inner: Mutex::default(),
            apply_signal,
            checkpoint_signal,
            committed_bytes: AtomicU64::new(0),
            given_back_bytes: AtomicU64::new(0),
            is_short_of_space: AtomicBool::new(false),
            is_wal_to_be_emptied: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// Asks the apply loop to commit and to begin nothing until [`ApplyControl::release`]. True once it does so; the
    /// checkpointer is signalled then.
    pub(crate) fn hold(&self) -> bool {
        let mut orders = self.lock();
        match orders.hold {
            Hold::Held => return true,
            Hold::Asked => {}
            Hold::None => orders.hold = Hold::Asked,
        }
        drop(orders);
        self.apply_signal.raise();
        false
    }

    /// Lets the apply loop go on.
    pub(crate) fn release(&self) {
        self.lock().hold = Hold::None;
        self.apply_signal.raise();
    }

    /// The apply loop asks whether it must hold still.
    pub(crate) fn is_hold_asked(&self) -> bool {
        self.lock().hold != Hold::None
    }

    /// The apply loop holds still: no SQLite transaction is open.
    pub(crate) fn holds_still(&self) {
        let mut orders = self.lock();
        if orders.hold == Hold::Asked {
            orders.hold = Hold::Held;
            drop(orders);
            self.checkpoint_signal.raise();
        }
    }

    /// Asks for all free pages to be given back; answered when it is done.
    pub(crate) fn vacuum(&self) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        self.lock().vacuums.push(done);
        self.apply_signal.raise();
        wait
    }

    /// Whoever waits for a vacuum.
    pub(crate) fn take_vacuums(&self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut self.lock().vacuums)
    }

    /// So many bytes at the end of the database are free to be cut off. The checkpointer is signalled once they are
    /// many, or with the last of them.
    pub(crate) fn add_given_back(&self, bytes: u64, is_last: bool) {
        let bytes = if is_last { GIVEN_BACK_BYTES_MAX } else { bytes };
        if self.given_back_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes >= self.given_back_bytes_max() {
            self.checkpoint_signal.raise();
        }
    }

    /// Whether the WAL must begin anew before more is given back.
    pub(crate) fn is_cut_due(&self) -> bool {
        self.given_back_bytes.load(Ordering::Acquire) >= self.given_back_bytes_max()
    }

    fn given_back_bytes_max(&self) -> u64 {
        if self.is_short_of_space() { GIVEN_BACK_BYTES_MAX_WHEN_SHORT } else { GIVEN_BACK_BYTES_MAX }
    }

    /// Says whether the disk is nearly full; the checkpointer is signalled when it has become so.
    pub(crate) fn set_short_of_space(&self, is_short: bool) {
        if !self.is_short_of_space.swap(is_short, Ordering::AcqRel) && is_short {
            self.is_wal_to_be_emptied.store(true, Ordering::Release);
            self.checkpoint_signal.raise();
        }
    }

    /// Whether the disk is nearly full: the WAL is kept small, and its file gives its space back.
    pub(crate) fn is_short_of_space(&self) -> bool {
        self.is_short_of_space.load(Ordering::Acquire)
    }

    /// Whether space has become short since the WAL's file was last emptied.
    pub(crate) fn is_wal_to_be_emptied(&self) -> bool {
        self.is_wal_to_be_emptied.load(Ordering::Acquire)
    }

    /// The WAL's file is empty.
    pub(crate) fn wal_is_emptied(&self) {
        self.is_wal_to_be_emptied.store(false, Ordering::Release);
    }

    /// The WAL has begun anew, and the file ends with its last used page.
    pub(crate) fn is_cut(&self) {
        self.given_back_bytes.store(0, Ordering::Release);
    }

    /// Ends the apply loop.
    pub(crate) fn end(&self, how: End) {
        self.lock().end = Some(how);
        self.apply_signal.raise();
    }

    /// Whether and how it must end.
    pub(crate) fn ending(&self) -> Option<End> {
        self.lock().end
    }

    /// A commit has added about so many bytes to SQLite's WAL. The checkpointer is signalled for the first one and when
    /// they pass `bound`.
    pub(crate) fn add_committed_bytes(&self, bytes: u64, bound: u64) {
        // A commit of entries without keys counts too.
        let bytes = bytes.max(1);
        let bound = if self.is_short_of_space() { bound / SHORT_SHARE } else { bound };
        let before = self.committed_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before == 0 || before < bound && before + bytes >= bound {
            self.checkpoint_signal.raise();
        }
    }

    /// Bytes added since the last call.
    pub(crate) fn take_committed_bytes(&self) -> u64 {
        self.committed_bytes.swap(0, Ordering::Relaxed)
    }

    /// Bytes added since they were last taken.
    pub(crate) fn committed_bytes(&self) -> u64 {
        self.committed_bytes.load(Ordering::Relaxed)
    }
}
