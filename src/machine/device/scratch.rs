//! Temporary directories and loop devices for tests, removed when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory of this test alone.
pub(crate) struct ScratchDir(PathBuf);

impl ScratchDir {
    pub(crate) fn new() -> Self {
        let index = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dynamicfs-test-{}-{index}", process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        ScratchDir(fs::canonicalize(path).unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A sparse file of this many bytes.
    pub(crate) fn file(&self, name: &str, size_bytes: u64) -> PathBuf {
        let path = self.0.join(name);
        fs::File::create(&path).unwrap().set_len(size_bytes).unwrap();
        path
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A loop device over a file.
pub(crate) struct LoopDevice(PathBuf);

impl LoopDevice {
    /// `None`, with the reason on stderr, where this machine or user cannot make one.
    pub(crate) fn over(file: &Path) -> Option<Self> {
        let output =
            Command::new("losetup").args(["--find", "--show", "--partscan"]).arg(file).output();
        match output {
            Ok(output) if output.status.success() => {
                Some(LoopDevice(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())))
            }
            Ok(output) => skipped(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => skipped(&format!("losetup: {error}")),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Says loudly why a test proves nothing here.
pub(crate) fn skipped<T>(why: &str) -> Option<T> {
    eprintln!("SKIPPED: {}", why.trim());
    None
}

/// Runs a tool of the system; says so and gives `false` where it is missing or fails.
pub(crate) fn ran(program: &str, arguments: &[&str]) -> bool {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            skipped::<()>(&format!("{program} {arguments:?}: {why}")).is_some()
        }
        Err(error) => skipped::<()>(&format!("{program}: {error}")).is_some(),
    }
}
