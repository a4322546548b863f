//! What a reader needs to compare two tables: machine, kernel, file system, versions.
//!
//! Read from `/proc`, `/sys` and the lock file that the program was built with. What cannot be read
//! is left out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use crate::contestants::Contestant;
use crate::counters::{Counters, device_name};

/// The lock file of this build: which versions it has.
const LOCK: &str = include_str!("../Cargo.lock");

/// A machine and what runs on it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// Model of its processor, and how many are online.
    pub(crate) processors: String,
    /// Memory.
    pub(crate) memory: Option<String>,
    /// Kernel release.
    pub(crate) kernel: Option<String>,
    /// Type and options of the directory's file system.
    pub(crate) file_system: Option<String>,
    /// The disk under it and how it is set.
    pub(crate) disk: Option<String>,
    /// Where bytes and flushes were counted.
    pub(crate) counted: String,
    /// Packages with their versions.
    pub(crate) versions: Vec<String>,
}

impl Machine {
    /// Reads it, for a directory and those who take part.
    pub(crate) fn read(directory: &Path, counters: &Counters, contestants: &[Contestant]) -> Self {
        let cpuinfo = text("/proc/cpuinfo").unwrap_or_default();
        let model = field(&cpuinfo, "model name").unwrap_or("unknown processor");
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let number = fs::metadata(directory).map(|data| data.dev()).ok();
        let mounts = text("/proc/self/mountinfo").unwrap_or_default();
        let mut packages: Vec<&str> = Vec::new();
        for package in contestants.iter().flat_map(|contestant| contestant.packages) {
            if !packages.contains(package) {
                packages.push(package);
            }
        }
        let counted = match counters.disk() {
            Some(disk) if counters.has_flushes() => {
                format!("bytes and flushes are counted at the disk {disk}, by everybody")
            }
            Some(disk) => {
                format!("bytes are counted at the disk {disk}, by everybody; it counts no flushes")
            }
            None => "bytes are this process's by /proc/self/io: the disk has no counters".into(),
        };
        Self {
            processors: format!("{cpus} x {model}"),
            memory: text("/proc/meminfo").as_deref().and_then(memory),
            kernel: text("/proc/sys/kernel/osrelease"),
            file_system: number.and_then(|number| file_system(&mounts, &device_name(number))),
            disk: disk(counters),
            counted,
            versions: packages.iter().filter_map(|package| version(LOCK, package)).collect(),
        }
    }

    /// The lines above the table.
    pub(crate) fn lines(&self) -> String {
        let parts = [
            Some(self.processors.clone()),
            self.memory.clone(),
            self.kernel.as_ref().map(|kernel| format!("Linux {kernel}")),
            self.file_system.clone(),
            self.disk.clone(),
        ];
        let machine: Vec<String> = parts.into_iter().flatten().collect();
        format!("{}\n{}\n", machine.join(", "), self.versions.join(", "))
    }
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    let content = fs::read_to_string(path).ok()?;
    let trimmed = content.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

/// The value of the first line `key : value`.
fn field<'a>(lines: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = lines.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
}

/// What the kernel could give to programs without swapping.
pub(crate) fn memory_available_bytes() -> Option<u64> {
    memory_bytes(&text("/proc/meminfo")?, "MemAvailable")
}

fn memory(meminfo: &str) -> Option<String> {
    let bytes = memory_bytes(meminfo, "MemTotal")?;
    Some(format!("{:.0} GiB", bytes as f64 / f64::from(1 << 30)))
}

/// A line of `/proc/meminfo`.
fn memory_bytes(meminfo: &str, line: &str) -> Option<u64> {
    let kib: u64 = field(meminfo, line)?.strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Type and options of the mount of a device: `ext4 (rw,relatime)`.
fn file_system(mounts: &str, device: &str) -> Option<String> {
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(device))?;
    let (before, after) = line.split_once(" - ")?;
    Some(format!("{} ({})", after.split(' ').next()?, before.split(' ').nth(5)?))
}

fn disk(counters: &Counters) -> Option<String> {
    let queue = counters.sysfs()?.join("queue");
    let cache = text(queue.join("write_cache")).unwrap_or_else(|| "cache unknown".into());
    let scheduler = text(queue.join("scheduler")).and_then(|line| chosen(&line));
    let scheduler = scheduler.unwrap_or_else(|| "none".into());
    let fua = text(queue.join("fua")).unwrap_or_else(|| "unknown".into());
    Some(format!("{} ({cache}, fua {fua}, scheduler {scheduler})", counters.disk()?))
}

/// The choice in brackets: `mq-deadline [none]`.
fn chosen(line: &str) -> Option<String> {
    let (_, rest) = line.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// `name version`, of the first package of this name in a lock file.
fn version(lock: &str, package: &str) -> Option<String> {
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    Some(format!("{package} {}", rest.split_once('"')?.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contestants::CONTESTANTS;

    #[test]
    fn every_package_has_a_version() {
        for package in CONTESTANTS.iter().flat_map(|contestant| contestant.packages) {
            let found = version(LOCK, package).unwrap();
            assert!(found.starts_with(package), "{found}");
        }
        assert_eq!(version(LOCK, "no-such-package"), None);
    }

    #[test]
    fn the_mount_of_a_device_is_found() {
        let mounts = "22 1 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n\
                      25 1 252:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,errors=x\n";
        assert_eq!(file_system(mounts, "252:0").as_deref(), Some("ext4 (rw,relatime)"));
        assert_eq!(file_system(mounts, "252:1"), None);
    }

    #[test]
    fn fields_are_read() {
        assert_eq!(memory("MemTotal:       25165824 kB\nMemFree: 1 kB"), Some("24 GiB".into()));
        assert_eq!(memory_bytes("MemTotal: 2 kB\nMemAvailable: 1 kB", "MemAvailable"), Some(1024));
        assert_eq!(chosen("mq-deadline [none] kyber").as_deref(), Some("none"));
    }
}
