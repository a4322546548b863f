//! A directory that is gone after the run, also when it fails or a signal ends it; and whether
//! there is room for it.
//!
//! Making a directory is atomic and never takes over what exists, so that what is removed is always
//! our own: one that an earlier process with our number left behind stays, and ours has another
//! name. The signals that end a process are blocked before it is made, in this thread and those it
//! starts, and waited for by a thread that cleans up and lets the signal have its way. Whatever
//! fails once a signal has come fails because of that, so nobody is told: see [`await_signal`].

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::statvfs::statvfs;

use crate::failure::Failure;
use crate::units::show_count;

/// Left free beside what the contestants need.
const SPARE_BYTES: u64 = 512 << 20;
/// Threads of a contestant may make files while theirs are removed.
const REMOVALS: u32 = 20;
const REMOVE_AGAIN: Duration = Duration::from_millis(50);
/// Directories that earlier processes with our number may have left behind.
const LEFT_BEHIND_MAX: u32 = 100;

/// A signal that ends the process has come. Set before anything is removed: release here and
/// acquire in [`await_signal`], so that whoever misses a file also sees why.
static SIGNAL_CAME: AtomicBool = AtomicBool::new(false);

/// To be called before a failure is told. Returns at once, or, when a signal has come, never: the
/// signal ends the process when the directory is gone.
pub(crate) fn await_signal() {
    while SIGNAL_CAME.load(Ordering::Acquire) {
        std::thread::park();
    }
}

/// Removed with all it holds when dropped.
#[derive(Debug)]
pub(crate) struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    /// Makes one in `parent`, where `bytes` must be free.
    ///
    /// # Errors
    /// When there is no such directory, no room, or no permission.
    pub(crate) fn new(parent: &Path, bytes: u64) -> Result<Self, Failure> {
        let place = parent.display();
        let unusable = |error: io::Error| {
            Failure::new(format!("--dir {place}: {error}"), "name a directory that can be written")
        };
        let stat = statvfs(parent).map_err(|errno| unusable(errno.into()))?;
        check_room(stat.blocks_available() * stat.fragment_size(), bytes)?;
        let signals = ending_signals().map_err(unusable)?;
        signals.thread_block().map_err(|errno| unusable(errno.into()))?;
        let path = create(parent).map_err(unusable)?;
        let made = Self(path.clone());
        let wait = move || {
            // If it cannot be waited for, the run goes on and removes its directory at its end.
            let Ok(signal) = signals.wait() else { return };
            SIGNAL_CAME.store(true, Ordering::Release);
            drop(Self(path));
            // Unblocked, it ends the process with the status that its parent expects.
            let _ = signals.thread_unblock().and_then(|()| raise(signal));
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(wait);
        thread.map_err(unusable)?;
        Ok(made)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a directory in it.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn folder(&self, name: &str) -> Result<(), Failure> {
        let made = fs::create_dir(self.0.join(name));
        made.map_err(|error| Failure::store("its directory", error))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        for _ in 0..REMOVALS {
            match fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    std::thread::sleep(REMOVE_AGAIN);
                }
                _ => return,
            }
        }
    }
}

/// Makes a directory that nobody else has.
fn create(parent: &Path) -> io::Result<PathBuf> {
    let name = format!("dynamicfs-peers-{}", std::process::id());
    let mut path = parent.join(&name);
    for suffix in 1..=LEFT_BEHIND_MAX {
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                path = parent.join(format!("{name}-{suffix}"));
            }
            outcome => return outcome.map(|()| path),
        }
    }
    fs::create_dir(&path).map(|()| path)
}

fn check_room(free: u64, needed: u64) -> Result<(), Failure> {
    let needed = needed + SPARE_BYTES;
    if free >= needed {
        return Ok(());
    }
    let mib = |bytes: u64| show_count((bytes >> 20) as f64);
    let message = format!("--dir has {} MiB free, {} MiB are needed", mib(free), mib(needed));
    Err(Failure::new(message, "free some, use a smaller --working-set, or name some by --only"))
}

/// Interrupt, quit, hang-up and termination, without those that the parent told us to ignore
/// (`nohup`).
fn ending_signals() -> io::Result<SigSet> {
    let status = fs::read_to_string("/proc/self/status")?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTERM] {
        if ignored & (1 << (signal as i32 - 1)) == 0 {
            signals.add(signal);
        }
    }
    Ok(signals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_asked_for_with_something_spare() {
        assert!(check_room(2 << 30, 1 << 30).is_ok());
        let line = check_room(2 << 30, 2 << 30).unwrap_err().line();
        assert!(line.starts_with("--dir has 2,048 MiB free, 2,560 MiB are needed"), "{line}");
    }

    #[test]
    fn what_was_made_is_removed() {
        let made = TemporaryDirectory::new(&std::env::temp_dir(), 0).unwrap();
        let path = made.0.clone();
        made.folder("one").unwrap();
        fs::write(made.path().join("one/file"), "content").unwrap();
        drop(made);
        assert!(!path.exists());
    }

    #[test]
    fn what_was_left_behind_is_not_taken_over() {
        let parent = std::env::temp_dir().join(format!("peers-left-{}", std::process::id()));
        fs::create_dir(&parent).unwrap();
        let [first, second, third] = [(); 3].map(|()| create(&parent).unwrap());
        assert!(
            second.to_string_lossy().ends_with("-1") && third.to_string_lossy().ends_with("-2")
        );
        assert!(first != second && first.exists() && second.exists() && third.exists());
        fs::remove_dir_all(&parent).unwrap();
    }
}
