//! A directory that is gone after the smoke, also when a signal ends it.
//!
//! Making a directory is atomic and never takes over what exists, so that what is removed is always
//! our own. The signals that end a process are blocked before it is made, in this thread and those
//! it starts, and waited for by a thread that cleans up and lets the signal have its way.

use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::sys::signal::{SigSet, Signal, raise};

/// Removed with all it holds when dropped.
pub(super) struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    /// Makes one in `parent`.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        let path = parent.join(format!("dynamicfs-smoke-{}", std::process::id()));
        let signals = ending_signals()?;
        signals.thread_block()?;
        fs::create_dir(&path)?;
        let home = Self(path.clone());
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let signal = signals.wait();
            drop(Self(path));
            if let Ok(signal) = signal {
                // Unblocked, it ends the process with the status that its parent expects.
                let _ = signals.thread_unblock().and_then(|()| raise(signal));
            }
        })?;
        Ok(home)
    }

    /// The one file in it.
    pub(super) fn file(&self) -> PathBuf {
        self.0.join("disk")
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Interrupt, hang-up and termination, without those that the parent told us to ignore (`nohup`).
fn ending_signals() -> io::Result<SigSet> {
    let status = fs::read_to_string("/proc/self/status")?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
        if ignored & (1 << (signal as i32 - 1)) == 0 {
            signals.add(signal);
        }
    }
    Ok(signals)
}
