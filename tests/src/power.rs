//! A power cut for one file system: an ext4 on a loop device that is shut down without flushing its journal.
//!
//! What was fsynced is kept, everything else is lost. Needs root; without it a test says so and counts as not run.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::not_run::not_run;

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: at once, with nothing flushed.
const NO_LOG_FLUSH: u32 = 2;

/// True for root. If not, says that the test did not run; under `CI` that is a failure.
pub fn may_cut() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        return true;
    }
    not_run("a power cut needs root (a loop-mounted ext4)");
    false
}

/// A small ext4 on a loop device.
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    mounted: bool,
    _folder: tempfile::TempDir,
}

impl Disk {
    /// Makes the image and mounts it. The journal commits by itself only every 60 s, so that a cut loses much.
    pub fn new(megabytes: u64) -> Result<Disk> {
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("image");
        let mount = folder.path().join("mount");
        std::fs::File::create(&image)?.set_len(megabytes << 20)?;
        std::fs::create_dir(&mount)?;
        run("mkfs.ext4", &["-q", "-F", path(&image)?])?;
        let mut disk = Disk { image, mount, mounted: false, _folder: folder };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    fn mount(&mut self) -> Result<()> {
        run("mount", &["-o", "loop,commit=60", path(&self.image)?, path(&self.mount)?])?;
        self.mounted = true;
        Ok(())
    }

    /// From here on nothing reaches the disk: every write and fsync fails with EIO.
    pub fn cut(&self) -> Result<()> {
        let root = std::fs::File::open(&self.mount)?;
        // SAFETY: the request reads one u32 through a pointer that lives across the call.
        let outcome = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &NO_LOG_FLUSH) };
        ensure!(outcome == 0, "shut the file system down: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Power is back: unmount what is left and mount anew, so that the journal is replayed.
    pub fn restore(&mut self) -> Result<()> {
        run("umount", &[path(&self.mount)?])?;
        self.mounted = false;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // A test that failed may leave a process in it; the lazy form detaches all the same.
            let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
        }
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program} (Debian: e2fsprogs, mount)"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
