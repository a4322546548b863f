//! A disk's settings, from sysfs.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{chosen, number, text};

/// A disk of the run. For a file: the disk its file system is on, where sysfs knows it.
///
/// Not an example to run: [`Environment::probe`](super::Environment::probe) makes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The path of the run.
    pub path: String,
    /// A regular file and not a device.
    pub is_file: bool,
    /// The kernel's name of the whole disk: `nvme0n1`.
    pub name: Option<String>,
    /// Model, as the device says.
    pub model: Option<String>,
    /// Firmware, as the device says.
    pub firmware: Option<String>,
    /// Size of the whole disk.
    pub bytes: Option<u64>,
    /// Memory node it hangs on; absent if there is but one.
    pub node: Option<u64>,
    /// Logical block.
    pub logical_block_bytes: Option<u64>,
    /// The kernel's scheduler: `none`, `mq-deadline`.
    pub scheduler: Option<String>,
    /// Requests per hardware queue.
    pub nr_requests: Option<u64>,
    /// 0 merges neighbours, 1 cheap ones only, 2 none.
    pub nomerges: Option<u64>,
    /// Target of write throttling, microseconds; 0 is off.
    pub wbt_lat_usec: Option<u64>,
    /// `write back` has a volatile cache, `write through` none.
    pub write_cache: Option<String>,
    /// Turning platters.
    pub rotational: Option<bool>,
    /// The kernel counts this disk's requests.
    pub iostats: Option<bool>,
    /// Polled completions possible.
    pub io_poll: Option<bool>,
}

impl Device {
    /// Reads the settings of the disk at `path`, its sysfs below `root`.
    pub(super) fn probe(root: &Path, path: &Path) -> Self {
        let metadata = fs::metadata(path).ok();
        let is_file = metadata.as_ref().is_some_and(|data| data.file_type().is_file());
        let is_block = metadata.as_ref().is_some_and(|data| data.file_type().is_block_device());
        let number = metadata.map(|data| if is_block { data.rdev() } else { data.dev() });
        let found = number.and_then(|number| whole_disk(root, number));
        let mut device = found.map(|directory| Self::read(&directory)).unwrap_or_default();
        device.path = path.display().to_string();
        device.is_file = is_file;
        device
    }

    /// Reads the settings in a whole disk's directory of sysfs.
    pub(super) fn read(directory: &Path) -> Self {
        let flag = |path: &str| number(directory, path).map(|value| value != 0);
        Self {
            path: String::new(),
            is_file: false,
            name: directory.file_name().map(|name| name.to_string_lossy().into_owned()),
            model: text(directory, "device/model"),
            firmware: text(directory, "device/firmware_rev")
                .or_else(|| text(directory, "device/rev")),
            bytes: number(directory, "size").and_then(|sectors| sectors.checked_mul(512)),
            node: number(directory, "device/numa_node")
                .or_else(|| number(directory, "device/device/numa_node")),
            logical_block_bytes: number(directory, "queue/logical_block_size"),
            scheduler: text(directory, "queue/scheduler").map(|line| chosen(&line).unwrap_or(line)),
            nr_requests: number(directory, "queue/nr_requests"),
            nomerges: number(directory, "queue/nomerges"),
            wbt_lat_usec: number(directory, "queue/wbt_lat_usec"),
            write_cache: text(directory, "queue/write_cache"),
            rotational: flag("queue/rotational"),
            iostats: flag("queue/iostats"),
            io_poll: flag("queue/io_poll"),
        }
    }

    /// Whether the NVMe driver drives it.
    #[must_use]
    pub fn is_nvme(&self) -> bool {
        self.name.as_ref().is_some_and(|name| name.starts_with("nvme"))
    }

    /// What makes measurements on it doubtful or slow, with what to do.
    pub(super) fn doubts(&self) -> Vec<String> {
        let Some(name) = &self.name else {
            return Vec::new();
        };
        let set =
            |file: &str, value: &str| format!("`echo {value} > /sys/block/{name}/queue/{file}`");
        let mut doubts = Vec::new();
        if let Some(scheduler) = self.scheduler.as_ref().filter(|named| *named != "none") {
            doubts.push(format!(
                "{name}: kernel scheduler is {scheduler}: {}",
                set("scheduler", "none")
            ));
        }
        if let Some(target) = self.wbt_lat_usec.filter(|target| *target > 0) {
            let off = set("wbt_lat_usec", "0");
            doubts.push(format!("{name}: writes are throttled to {target} us: {off}"));
        }
        if self.rotational == Some(true) && self.is_nvme() {
            doubts.push(format!("{name}: marked as rotational: {}", set("rotational", "0")));
        }
        if self.is_file {
            doubts.push(format!("{}: a file, so the file system is measured too", self.path));
        }
        doubts
    }
}

/// The directory of the whole disk that `number` is, or is a partition of.
fn whole_disk(root: &Path, number: u64) -> Option<PathBuf> {
    // The C library's split of a device number: major 12 + 20 bits, minor 20 + 12 bits.
    let major = ((number >> 32) & 0xffff_f000) | ((number >> 8) & 0xfff);
    let minor = ((number >> 12) & 0xffff_ff00) | (number & 0xff);
    let link = root.join(format!("sys/dev/block/{major}:{minor}"));
    let directory = fs::canonicalize(link).ok()?;
    if directory.join("partition").exists() {
        return directory.parent().map(Path::to_owned);
    }
    Some(directory)
}
