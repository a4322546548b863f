//! What the kernel says about block devices, read from a sysfs tree.
//!
//! Everything here takes the root of the tree, so that tests build a small one in a temporary
//! directory and recorded trees of real servers can be read. Nothing is opened but sysfs itself.
//! A file that is missing or does not parse is an absent value, never an error: attributes come and
//! go with kernels. Only a device that sysfs does not know at all is an error.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The length of a sector in sysfs, whatever the device's own block is.
const SYSFS_SECTOR_BYTES: u64 = 512;

/// A device stack (partition, dm, md, loop) deeper than this is taken for a cycle.
pub(crate) const STACK_DEPTH_MAX: usize = 16;

/// The kernel's number of a block device, as in `/sys/dev/block/259:0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// The driver's number.
    pub major: u64,
    /// The device's number within its driver.
    pub minor: u64,
}

impl DeviceNumber {
    /// Splits a `dev_t` as `stat` reports it.
    #[must_use]
    pub fn from_dev(dev: u64) -> Self {
        DeviceNumber { major: nix::sys::stat::major(dev), minor: nix::sys::stat::minor(dev) }
    }

    /// Reads `259:0`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Serialize for DeviceNumber {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether a device acknowledges writes from a cache that a power cut empties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteCache {
    /// Volatile: a write is durable after a flush, or with FUA.
    WriteBack,
    /// None, or one that survives a power cut: a completed write is durable.
    WriteThrough,
    /// The kernel does not say. To be treated like `WriteBack`.
    Unknown,
}

/// Limits and properties of a disk's request queue. A partition has those of its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueInfo {
    /// Smallest addressable unit, bytes.
    pub logical_block_bytes: u32,
    /// Smallest unit written without read-modify-write in the device, bytes.
    pub physical_block_bytes: u32,
    /// Requests the kernel holds per hardware queue before a submitter must wait.
    pub nr_requests: Option<u32>,
    /// Largest request the kernel sends, KiB.
    pub max_sectors_kb: Option<u32>,
    /// The I/O scheduler in use (`none`, `mq-deadline`, ...).
    pub scheduler: Option<String>,
    /// Whether there is a volatile write cache.
    pub write_cache: WriteCache,
    /// Whether single writes can be forced to the medium.
    pub fua: Option<bool>,
    /// Whether it is a spinning disk.
    pub rotational: Option<bool>,
    /// Whether the device has poll queues, so that `IORING_SETUP_IOPOLL` works.
    pub io_poll: bool,
    /// Largest write that the device promises not to tear, bytes; 0 when it promises none.
    pub atomic_write_unit_max_bytes: u64,
    /// Largest discard, bytes; 0 when it cannot discard.
    pub discard_max_bytes: u64,
    /// Unit of discards, bytes; 0 when it cannot discard.
    pub discard_granularity_bytes: u64,
    /// Largest write-zeroes request that the device does itself, bytes; 0 when it cannot.
    pub write_zeroes_max_bytes: u64,
}

/// One block device: a disk, a partition, or a device stacked on others (dm, md, loop).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockNode {
    /// The kernel's name: `nvme0n1p2`.
    pub name: String,
    /// Its number.
    pub number: DeviceNumber,
    /// The whole disk's name when this is a partition.
    pub parent_disk: Option<String>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Whether the kernel refuses writes to it.
    pub read_only: bool,
    /// The queue's properties: its own, or its disk's when it is a partition.
    pub queue: QueueInfo,
    /// The NUMA node it hangs on, when the platform says so.
    pub numa_node: Option<u32>,
    /// What the maker calls it.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// The CPUs that take the interrupts of its queues, where those are not all there are: a
    /// thread on one of these sees completions without another CPU being told first.
    pub interrupt_cpus: Vec<u32>,
}

/// A loop device and what it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoopBinding {
    /// `loop0`.
    pub(crate) name: String,
    /// The backing file, as the kernel prints it.
    pub(crate) backing: PathBuf,
}

/// A sysfs tree.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
    /// The tree of processes and interrupts beside it.
    proc: PathBuf,
}

impl Sysfs {
    /// The running kernel's.
    #[must_use]
    pub fn system() -> Self {
        Sysfs { root: "/sys".into(), proc: "/proc".into() }
    }

    /// A tree elsewhere: a recording, or one that a test built. What belongs to `/proc` is in its
    /// `proc`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Sysfs { proc: root.join("proc"), root }
    }

    /// Reads everything about one device.
    ///
    /// # Errors
    ///
    /// `NotFound` when this kernel has no such device; other kinds when sysfs cannot be read.
    pub fn block_node(&self, number: DeviceNumber) -> io::Result<BlockNode> {
        let dir = self.dir_of(number)?;
        let name = file_name(&dir)?;
        let disk_dir = disk_dir(&dir);
        let parent_disk = if disk_dir == dir { None } else { Some(file_name(disk_dir)?) };
        let size_sectors = number_in(&dir.join("size")).unwrap_or(0);
        Ok(BlockNode {
            name: name.replace('!', "/"),
            number,
            parent_disk,
            size_bytes: size_sectors.saturating_mul(SYSFS_SECTOR_BYTES),
            read_only: number_in(&dir.join("ro")) == Some(1),
            queue: queue_info(&disk_dir.join("queue")),
            numa_node: self.numa_node_of(disk_dir, 0),
            model: text_in(&disk_dir.join("device/model")),
            serial: serial_of(disk_dir),
            interrupt_cpus: self.interrupt_cpus(disk_dir),
        })
    }

    /// The names of all whole disks, sorted.
    ///
    /// # Errors
    ///
    /// When `block` cannot be listed: sysfs is not mounted.
    pub fn disk_names(&self) -> io::Result<Vec<String>> {
        let mut names = entry_names(&self.root.join("block"))?;
        names.sort();
        Ok(names)
    }

    /// The number of the disk or partition of this name.
    #[must_use]
    pub fn number_of(&self, name: &str) -> Option<DeviceNumber> {
        let name = name.replace('/', "!");
        let disk = self.root.join("block").join(&name).join("dev");
        let any = self.root.join("class/block").join(&name).join("dev");
        text_in(&disk).or_else(|| text_in(&any)).and_then(|text| DeviceNumber::parse(&text))
    }

    /// The partitions of a disk, sorted by number; empty for a partition.
    pub fn partitions(&self, number: DeviceNumber) -> Vec<DeviceNumber> {
        let Ok(dir) = self.dir_of(number) else { return Vec::new() };
        let mut found: Vec<DeviceNumber> = entry_names(&dir)
            .unwrap_or_default()
            .iter()
            .map(|name| dir.join(name))
            .filter(|entry| entry.join("partition").exists())
            .filter_map(|entry| DeviceNumber::parse(&text_in(&entry.join("dev"))?))
            .collect();
        found.sort();
        found
    }

    /// The whole disk that a partition is part of.
    #[must_use]
    pub fn parent_disk(&self, number: DeviceNumber) -> Option<DeviceNumber> {
        let dir = self.dir_of(number).ok()?;
        let disk = disk_dir(&dir);
        if disk == dir { None } else { DeviceNumber::parse(&text_in(&disk.join("dev"))?) }
    }

    /// The devices stacked directly on this one (dm, md, bcache, ...), sorted.
    #[must_use]
    pub fn holders(&self, number: DeviceNumber) -> Vec<DeviceNumber> {
        self.links(number, "holders")
    }

    /// The devices this one is stacked on directly, sorted.
    #[must_use]
    pub fn slaves(&self, number: DeviceNumber) -> Vec<DeviceNumber> {
        self.links(number, "slaves")
    }

    /// Every bound loop device.
    pub(crate) fn loop_bindings(&self) -> Vec<LoopBinding> {
        let names = self.disk_names().unwrap_or_default();
        names
            .into_iter()
            .filter(|name| name.starts_with("loop"))
            .filter_map(|name| {
                let file = self.root.join("block").join(&name).join("loop/backing_file");
                Some(LoopBinding { backing: PathBuf::from(text_in(&file)?), name })
            })
            .collect()
    }

    fn links(&self, number: DeviceNumber, kind: &str) -> Vec<DeviceNumber> {
        let Ok(dir) = self.dir_of(number) else { return Vec::new() };
        let names = entry_names(&dir.join(kind)).unwrap_or_default();
        let mut found: Vec<DeviceNumber> =
            names.iter().filter_map(|name| self.number_of(name)).collect();
        found.sort();
        found
    }

    fn dir_of(&self, number: DeviceNumber) -> io::Result<PathBuf> {
        fs::canonicalize(self.root.join("dev/block").join(number.to_string()))
    }

    /// The node of the nearest ancestor that has one; for a multipath NVMe head the node of its
    /// controllers, for a stacked device that of what it is stacked on, where all agree.
    fn numa_node_of(&self, disk_dir: &Path, depth: usize) -> Option<u32> {
        if depth >= STACK_DEPTH_MAX {
            return None;
        }
        let sysfs_root = fs::canonicalize(&self.root).ok()?;
        let ancestors =
            disk_dir.ancestors().take_while(|dir| *dir != sysfs_root).map(Path::to_path_buf);
        let device = fs::canonicalize(disk_dir.join("device")).ok();
        for dir in ancestors.chain(device.iter().flat_map(|dir| {
            dir.ancestors().take_while(|dir| *dir != sysfs_root).map(Path::to_path_buf)
        })) {
            if let Some(node) = text_in(&dir.join("numa_node")) {
                return node.parse::<u32>().ok();
            }
        }
        let below = self.lower_dirs(disk_dir);
        let nodes: BTreeSet<Option<u32>> =
            below.iter().map(|dir| self.numa_node_of(dir, depth + 1)).collect();
        if nodes.len() == 1 { nodes.into_iter().next().flatten() } else { None }
    }

    /// See [`BlockNode::interrupt_cpus`].
    fn interrupt_cpus(&self, disk_dir: &Path) -> Vec<u32> {
        let Ok(device) = fs::canonicalize(disk_dir.join("device")) else { return Vec::new() };
        let vectors = device.ancestors().map(|dir| dir.join("msi_irqs")).find(|dir| dir.exists());
        let numbers = vectors.and_then(|dir| entry_names(&dir).ok()).unwrap_or_default();
        let queues = numbers.iter().filter(|number| {
            let actions = self.root.join("kernel/irq").join(number).join("actions");
            text_in(&actions).is_some_and(|actions| is_queue(&actions))
        });
        let cpus = queues.filter_map(|number| {
            let affinity = self.proc.join("irq").join(number).join("effective_affinity_list");
            cpu_list(&text_in(&affinity)?)
        });
        let cpus: BTreeSet<u32> = cpus.flatten().collect();
        let online = text_in(&self.root.join("devices/system/cpu/online"));
        let online = online.and_then(|text| cpu_list(&text)).unwrap_or_default();
        if cpus.len() >= online.len() { Vec::new() } else { cpus.into_iter().collect() }
    }

    /// What a disk without a parent bus is made of: NVMe controllers, or its slaves' disks.
    fn lower_dirs(&self, disk_dir: &Path) -> Vec<PathBuf> {
        if let Some(subsystem) = disk_dir.parent()
            && file_name(subsystem).is_ok_and(|name| name.starts_with("nvme-subsys"))
        {
            let names = entry_names(subsystem).unwrap_or_default();
            let controllers = names.iter().filter(|name| {
                name.strip_prefix("nvme").is_some_and(|rest| rest.parse::<u32>().is_ok())
            });
            return controllers
                .filter_map(|name| fs::canonicalize(subsystem.join(name)).ok())
                .collect();
        }
        let slaves = entry_names(&disk_dir.join("slaves")).unwrap_or_default();
        slaves
            .iter()
            .filter_map(|name| fs::canonicalize(disk_dir.join("slaves").join(name)).ok())
            .map(|dir| self::disk_dir(&dir).to_path_buf())
            .collect()
    }
}

/// The directory of the disk that `dir` is, or is a partition of.
fn disk_dir(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if dir.join("partition").exists() => parent,
        _ => dir,
    }
}

fn queue_info(queue: &Path) -> QueueInfo {
    let number = |name: &str| number_in(&queue.join(name));
    let narrow = |name: &str| number(name).and_then(|value| u32::try_from(value).ok());
    let logical = narrow("logical_block_size").unwrap_or(512).max(512);
    QueueInfo {
        logical_block_bytes: logical,
        physical_block_bytes: narrow("physical_block_size").unwrap_or(logical).max(logical),
        nr_requests: narrow("nr_requests"),
        max_sectors_kb: narrow("max_sectors_kb"),
        scheduler: text_in(&queue.join("scheduler")).as_deref().and_then(active_scheduler),
        write_cache: match text_in(&queue.join("write_cache")).as_deref() {
            Some("write back") => WriteCache::WriteBack,
            Some("write through") => WriteCache::WriteThrough,
            _ => WriteCache::Unknown,
        },
        fua: number("fua").map(|value| value != 0),
        rotational: number("rotational").map(|value| value != 0),
        io_poll: number("io_poll") == Some(1),
        atomic_write_unit_max_bytes: number("atomic_write_unit_max_bytes").unwrap_or(0),
        discard_max_bytes: number("discard_max_bytes").unwrap_or(0),
        discard_granularity_bytes: number("discard_granularity").unwrap_or(0),
        write_zeroes_max_bytes: number("write_zeroes_max_bytes").unwrap_or(0),
    }
}

/// Picks the bracketed word of `mq-deadline kyber [none]`; a lone word is the active one.
fn active_scheduler(text: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    let bracketed = words.clone().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    let active = bracketed.or_else(|| words.next().filter(|_| words.next().is_none()));
    active.map(str::to_owned)
}

/// NVMe has `device/serial`, virtio `serial`, SCSI a binary page whose first four bytes are a
/// header.
fn serial_of(disk_dir: &Path) -> Option<String> {
    text_in(&disk_dir.join("device/serial")).or_else(|| text_in(&disk_dir.join("serial"))).or_else(
        || {
            let page = fs::read(disk_dir.join("device/vpd_pg80")).ok()?;
            let text = String::from_utf8_lossy(page.get(4..)?).trim().to_owned();
            Some(text).filter(|text| !text.is_empty())
        },
    )
}

/// Whether an interrupt is that of a queue of requests: `virtio1-req.0`, `nvme0q3`; the first
/// queue of NVMe is for administration.
fn is_queue(actions: &str) -> bool {
    let nvme = |name: &str| {
        let queue = name.strip_prefix("nvme").and_then(|rest| rest.split_once('q'));
        queue.is_some_and(|(_, queue)| queue.parse::<u32>().is_ok_and(|queue| queue > 0))
    };
    actions.split(',').any(|name| name.contains("-req.") || nvme(name))
}

/// The CPUs of `0-3,8`.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.trim().parse::<u32>().ok()?..=last.trim().parse().ok()?);
    }
    Some(cpus)
}

fn text_in(file: &Path) -> Option<String> {
    let text = fs::read(file).ok()?;
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    if text.is_empty() { None } else { Some(text) }
}

fn number_in(file: &Path) -> Option<u64> {
    text_in(file)?.parse().ok()
}

fn entry_names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn file_name(path: &Path) -> io::Result<String> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(name.to_string_lossy().into_owned())
}

#[cfg(test)]
#[path = "sysfs_tests.rs"]
mod tests;
