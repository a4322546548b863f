//! What the kernel counted at a disk while a run went on: fio's `disk_util`, and the flushes.
//!
//! From `/sys/block/NAME/stat` before and after. Counts are the whole disk's, so what others do on
//! it counts too; with `iostats=0` all are zero. A disk that sysfs does not show has no counters.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// A disk's counters at one moment.
///
/// ```
/// use dynamicfs_bench::report::disk::DiskCounters;
/// assert_eq!(DiskCounters::read("no-such-disk"), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskCounters([u64; COUNTERS]);

/// Numbers in the file since Linux 5.5: reads, writes, queue, discards, flushes.
const COUNTERS: usize = 17;

/// A disk's counters over a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DiskUse {
    /// The kernel's name of the disk.
    pub name: String,
    /// Reads that the disk completed.
    pub read_ios: u64,
    /// Writes that the disk completed.
    pub write_ios: u64,
    /// Reads merged into others before they reached the disk.
    pub read_merges: u64,
    /// Writes merged into others before they reached the disk.
    pub write_merges: u64,
    /// Time of all reads, ms.
    pub read_ticks: u64,
    /// Time of all writes, ms.
    pub write_ticks: u64,
    /// Time of all requests, ms.
    pub in_queue: u64,
    /// Share of the run in which the disk had work, percent.
    pub util: f64,
    /// Flushes that the disk completed.
    pub flush_ios: u64,
    /// Bytes read from the disk.
    pub read_bytes: u64,
    /// Bytes written to the disk.
    pub write_bytes: u64,
}

impl DiskCounters {
    /// The counters of the disk that the kernel calls `name`, now.
    #[must_use]
    pub fn read(name: &str) -> Option<Self> {
        let path = Path::new("/sys/block").join(name).join("stat");
        Self::parse(&fs::read_to_string(path).ok()?)
    }

    /// Reads the file's content; what an older kernel does not count is zero.
    fn parse(stat: &str) -> Option<Self> {
        let mut counters = [0; COUNTERS];
        let numbers: Vec<u64> = stat.split_whitespace().flat_map(str::parse).collect();
        if numbers.len() < 11 {
            return None;
        }
        for (counter, number) in counters.iter_mut().zip(numbers) {
            *counter = number;
        }
        Some(Self(counters))
    }

    /// What was counted from `self` to `after`, in a run of `elapsed_ns`.
    #[must_use]
    pub fn until(self, after: Self, name: &str, elapsed_ns: u64) -> DiskUse {
        let counted = |index: usize| after.0[index].saturating_sub(self.0[index]);
        let busy_ns = counted(9).saturating_mul(1_000_000);
        DiskUse {
            name: name.into(),
            read_ios: counted(0),
            read_merges: counted(1),
            read_bytes: counted(2).saturating_mul(512),
            read_ticks: counted(3),
            write_ios: counted(4),
            write_merges: counted(5),
            write_bytes: counted(6).saturating_mul(512),
            write_ticks: counted(7),
            in_queue: counted(10),
            util: (100.0 * super::ratio(busy_ns, elapsed_ns)).min(100.0),
            flush_ios: counted(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "150 0 2880 28 13 37 2520 2 0 32 31 2 0 32770 0 4 1\n";
    const AFTER: &str = "250 1 3680 128 23 47 2600 12 3 532 141 2 0 32770 0 9 2\n";

    #[test]
    fn counts_are_those_between_two_moments() {
        let read = |text| DiskCounters::parse(text).expect("a stat file");
        let counted = read(BEFORE).until(read(AFTER), "vda", 1_000_000_000);
        let expected = DiskUse {
            name: "vda".into(),
            read_ios: 100,
            write_ios: 10,
            read_merges: 1,
            write_merges: 10,
            read_ticks: 100,
            write_ticks: 10,
            in_queue: 110,
            util: 50.0,
            flush_ios: 5,
            read_bytes: 800 * 512,
            write_bytes: 80 * 512,
        };
        assert_eq!(counted, expected);
    }

    #[test]
    fn old_kernels_and_strange_files() {
        let old = DiskCounters::parse("1 2 3 4 5 6 7 8 9 10 11").expect("eleven numbers");
        assert_eq!(old.until(old, "sda", 0).util, 0.0);
        assert_eq!(DiskCounters::parse("1 2 3"), None);
        assert_eq!(DiskCounters::parse(""), None);
    }

    /// The names and types that fio 3.33 printed for a run on a virtio disk.
    #[test]
    fn names_are_those_of_fio() {
        let fio = r#"{ "name": "vda", "read_ios": 0, "write_ios": 0, "read_merges": 0,
            "write_merges": 0, "read_ticks": 0, "write_ticks": 0, "in_queue": 0, "util": 0.0 }"#;
        let fio: serde_json::Value = serde_json::from_str(fio).unwrap();
        let ours = serde_json::to_value(DiskUse { name: "vda".into(), ..Default::default() });
        let ours = ours.unwrap();
        for (name, value) in fio.as_object().unwrap() {
            assert_eq!(ours.get(name), Some(value), "{name}");
        }
    }
}
