//! A small file system of its own, in a file: what lies in it can be made to hang, to take no
//! writes, and to answer nothing but errors.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::rig::{Scratch, skipped};

/// Nothing more is written, not even the log: `EXT4_GOING_FLAGS_NOLOGFLUSH` of `fs/ext4/ext4.h`.
const WITHOUT_LOG: u32 = 2;

nix::ioctl_read! {
    /// Ends a file system that is mounted (`EXT4_IOC_SHUTDOWN`). The kernel reads the number,
    /// though the request's direction says otherwise.
    end_file_system, b'X', 125, u32
}

/// A file system, unmounted on drop.
pub(crate) struct Mounted {
    at: PathBuf,
    image: PathBuf,
    _scratch: Scratch,
}

fn ran(program: &str, arguments: &[&Path]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

impl Mounted {
    /// An ext4 in a file of so many MiB. None where that cannot be had, said on stderr.
    pub(crate) fn new(mib: u64) -> Option<Mounted> {
        let scratch = Scratch::new();
        let (image, at) = (scratch.file("image", mib << 20), scratch.path().join("mounted"));
        std::fs::create_dir(&at).unwrap();
        let mounted = Mounted { at, image, _scratch: scratch };
        if !ran("mkfs.ext4", &[Path::new("-q"), &mounted.image]) || !mounted.mount() {
            skipped("no file system of a test's own can be made and mounted");
            return None;
        }
        Some(mounted)
    }

    /// A tmpfs of so many MiB. None where that cannot be had, said on stderr.
    pub(crate) fn in_memory(mib: u64) -> Option<Mounted> {
        let scratch = Scratch::new();
        let at = scratch.path().join("mounted");
        std::fs::create_dir(&at).unwrap();
        let size = format!("size={mib}m");
        let words = ["-t", "tmpfs", "-o", &size, "none"].map(Path::new);
        if !ran("mount", &[&words[..], &[&at]].concat()) {
            skipped("no tmpfs of a test's own can be mounted");
            return None;
        }
        Some(Mounted { at, image: PathBuf::new(), _scratch: scratch })
    }

    fn mount(&self) -> bool {
        ran("mount", &[Path::new("-o"), Path::new("loop"), &self.image, &self.at])
    }

    /// The path of a file in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    pub(crate) fn freeze(&self) -> bool {
        ran("fsfreeze", &[Path::new("--freeze"), &self.at])
    }

    pub(crate) fn thaw(&self) {
        thaw(&self.at);
    }

    /// Ends the freeze in the end, whatever hangs: a frozen disk outlives a killed test.
    pub(crate) fn thaw_after(&self, time: Duration) -> Sender<()> {
        let (told, ended) = channel::<()>();
        let at = self.at.clone();
        std::thread::spawn(move || {
            if ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                thaw(&at);
            }
        });
        told
    }

    /// From now on every read, write and flush of its files fails.
    #[allow(unsafe_code)]
    pub(crate) fn end(&self) -> nix::Result<()> {
        let root = File::open(&self.at).unwrap();
        let mut how = WITHOUT_LOG;
        // SAFETY: the number is ours until the call ends, and of the length that the request names.
        unsafe { end_file_system(root.as_raw_fd(), &raw mut how) }.map(drop)
    }

    /// From now on every write and flush of its files fails; what is there can be read.
    pub(crate) fn abort(&self) -> bool {
        ran("mount", &[Path::new("-o"), Path::new("remount,abort"), &self.at])
    }

    /// Mounts it anew, whatever it died of. Nobody may have a file of it open.
    pub(crate) fn revive(&self) -> bool {
        ran("umount", &[&self.at]) && self.mount()
    }
}

fn thaw(at: &Path) {
    ran("fsfreeze", &[Path::new("--unfreeze"), at]);
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.thaw();
        // Lazily: a thread that was left behind may be a moment longer about letting go.
        ran("umount", &[Path::new("--lazy"), &self.at]);
    }
}
