//! What a window cost: bytes and flushes by the disk's own counters, processor time of the process.
//!
//! The disk's counters are those of the whole disk under the directory, so what others do on it
//! counts too. Where the file system has no such disk (tmpfs, btrfs, overlays), the bytes are the
//! process's by the kernel's accounts, without those that the file system adds, and there are no
//! flushes. Disks that only pass requests on (dm, md) count bytes, but no flushes: theirs stay zero
//! whatever the disks below do, and are not told. Everything here is read, nothing is set.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

const SECTOR_BYTES: u64 = 512;
/// Places in the file `stat`: sectors written, flushes completed (Linux 5.5).
const SECTORS_WRITTEN: usize = 6;
const FLUSHES: usize = 15;

/// Where the counters come from.
#[derive(Debug, Clone)]
pub(crate) struct Counters {
    disk: Option<PathBuf>,
}

/// The counters at one moment, or between two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Bytes written, by the source that there is.
    pub(crate) written_bytes: u64,
    /// Bytes that the process gave to the kernel to be written, page cache included.
    pub(crate) process_bytes: u64,
    /// Flushes that the disk completed.
    pub(crate) flushes: Option<u64>,
    /// Processor time of all threads.
    pub(crate) cpu_ns: u64,
}

impl Counters {
    /// Those of the disk that a directory lies on.
    pub(crate) fn of(directory: &Path) -> Self {
        let number = fs::metadata(directory).map(|data| data.dev()).ok();
        let disk = number.and_then(|number| whole_disk(Path::new("/sys"), number));
        Self { disk: disk.filter(|disk| disk_counts(disk).is_some()) }
    }

    /// The kernel's name of the disk.
    pub(crate) fn disk(&self) -> Option<String> {
        let name = self.disk.as_ref()?.file_name()?;
        Some(name.to_string_lossy().into_owned())
    }

    /// Its directory in sysfs.
    pub(crate) fn sysfs(&self) -> Option<&Path> {
        self.disk.as_deref()
    }

    /// Whether flushes are counted there.
    pub(crate) fn has_flushes(&self) -> bool {
        let counts = self.disk.as_deref().and_then(disk_counts);
        counts.is_some_and(|(_, flushes)| flushes.is_some())
    }

    /// The counters now.
    pub(crate) fn read(&self) -> Reading {
        let process_bytes = fs::read_to_string("/proc/self/io");
        let process_bytes = process_bytes.ok().and_then(|text| write_bytes(&text)).unwrap_or(0);
        let (written_bytes, flushes) = match self.disk.as_deref().and_then(disk_counts) {
            Some((bytes, flushes)) => (bytes, flushes),
            None => (process_bytes, None),
        };
        Reading { written_bytes, process_bytes, flushes, cpu_ns: process_cpu_ns() }
    }
}

impl Reading {
    /// What was counted from `self` to `after`.
    #[must_use]
    pub(crate) fn until(self, after: Self) -> Self {
        let flushes = self.flushes.zip(after.flushes);
        Self {
            written_bytes: after.written_bytes.saturating_sub(self.written_bytes),
            process_bytes: after.process_bytes.saturating_sub(self.process_bytes),
            flushes: flushes.map(|(before, after)| after.saturating_sub(before)),
            cpu_ns: after.cpu_ns.saturating_sub(self.cpu_ns),
        }
    }

    /// Both together.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            written_bytes: self.written_bytes + other.written_bytes,
            process_bytes: self.process_bytes + other.process_bytes,
            flushes: self.flushes.zip(other.flushes).map(|(one, other)| one + other),
            cpu_ns: self.cpu_ns + other.cpu_ns,
        }
    }
}

/// Bytes written, and flushes where the kernel counts them: as requests of a queue of the disk's
/// own, which a disk that passes them on does not have.
fn disk_counts(disk: &Path) -> Option<(u64, Option<u64>)> {
    let (bytes, flushes) = parse_stat(&fs::read_to_string(disk.join("stat")).ok()?)?;
    Some((bytes, flushes.filter(|_| disk.join("mq").exists())))
}

fn parse_stat(stat: &str) -> Option<(u64, Option<u64>)> {
    let numbers: Vec<u64> = stat.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let sectors = numbers.get(SECTORS_WRITTEN)?;
    Some((sectors.saturating_mul(SECTOR_BYTES), numbers.get(FLUSHES).copied()))
}

/// The line `write_bytes` of `/proc/self/io`.
fn write_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

/// A device's number as the kernel writes it: the C library's split has 12 + 20 bits of the major
/// number and 20 + 12 of the minor one.
pub(crate) fn device_name(number: u64) -> String {
    let major = ((number >> 32) & 0xffff_f000) | ((number >> 8) & 0xfff);
    let minor = ((number >> 12) & 0xffff_ff00) | (number & 0xff);
    format!("{major}:{minor}")
}

/// The directory of the whole disk that `number` is, or is a partition of: flushes are counted
/// there alone.
fn whole_disk(sysfs: &Path, number: u64) -> Option<PathBuf> {
    let found = fs::canonicalize(sysfs.join("dev/block").join(device_name(number))).ok()?;
    let is_partition = found.join("partition").exists();
    if is_partition { found.parent().map(Path::to_owned) } else { Some(found) }
}

fn process_cpu_ns() -> u64 {
    let ns = |time: TimeVal| time.tv_sec() as u64 * 1_000_000_000 + time.tv_usec() as u64 * 1_000;
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |used| ns(used.user_time()) + ns(used.system_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_file_is_read() {
        let stat = "150 0 2880 28 13 37 2520 2 0 32 31 2 0 32770 0 4 1\n";
        assert_eq!(parse_stat(stat), Some((2520 * 512, Some(4))));
        assert_eq!(parse_stat("1 2 3 4 5 6 7 8 9 10 11"), Some((7 * 512, None)));
        assert_eq!(parse_stat("1 2 3"), None);
    }

    #[test]
    fn a_disk_that_passes_requests_on_has_no_flushes() {
        let disk = std::env::temp_dir().join(format!("peers-counters-{}", std::process::id()));
        fs::create_dir_all(&disk).unwrap();
        fs::write(disk.join("stat"), "0 0 0 0 0 0 8 0 0 0 0 0 0 0 0 4 0\n").unwrap();
        assert_eq!(disk_counts(&disk), Some((4096, None)));
        fs::create_dir(disk.join("mq")).unwrap();
        assert_eq!(disk_counts(&disk), Some((4096, Some(4))));
        fs::remove_dir_all(&disk).unwrap();
    }

    #[test]
    fn the_process_s_account_is_read() {
        let io = "rchar: 1\nwchar: 2\nwrite_bytes: 8192\ncancelled_write_bytes: 4\n";
        assert_eq!(write_bytes(io), Some(8192));
        assert_eq!(write_bytes("rchar: 1\n"), None);
    }

    #[test]
    fn device_numbers_are_split_as_the_c_library_does() {
        // What `stat` says of 252:0, 259:2 and, with a large minor number, 8:4097.
        for (number, name) in [(0xfc00, "252:0"), (0x1_0302, "259:2"), (0x100_0801, "8:4097")] {
            assert_eq!(device_name(number), name);
        }
    }

    #[test]
    fn readings_are_subtracted_and_added() {
        let at = |n: u64, flushes| Reading {
            written_bytes: n,
            process_bytes: 2 * n,
            flushes,
            cpu_ns: 3 * n,
        };
        let first = at(10, Some(1)).until(at(30, Some(6)));
        assert_eq!(first, at(20, Some(5)));
        assert_eq!(first.and(at(1, Some(2))), at(21, Some(7)));
        assert_eq!(first.and(at(1, None)).flushes, None);
    }
}
