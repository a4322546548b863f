//! What is known about a device before any I/O: probing without opening.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::alignment::{DirectIoAlignment, direct_io_alignment};
use super::mounts::{self, Mount};
use super::sysfs::{BlockNode, DeviceNumber, QueueInfo, Sysfs};
use super::{DeviceError, io_error};

/// What kind of thing a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A block device: a disk, a partition, or something stacked on them.
    Block,
    /// A regular file.
    File,
}

/// Whose request queue [`DeviceInfo::queue`] describes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "of", content = "name")]
pub enum QueueOwner {
    /// The device's own.
    Itself,
    /// The whole disk's, because the device is a partition.
    ParentDisk(String),
    /// That of the block device below a file's file system. The file system stands between.
    Backing(String),
    /// There is none to be found: a file on a network, memory or overlay file system.
    Unknown,
}

/// Everything probed about one block device or file. See [`probe`] and `Device::info`.
///
/// ```no_run
/// let info = dynamicfs::machine::device::probe("/dev/nvme0n1".as_ref())?;
/// println!("{} bytes, node {:?}", info.size_bytes, info.numa_node);
/// # Ok::<(), dynamicfs::machine::device::DeviceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// The path as given.
    pub path: PathBuf,
    /// The path with all symbolic links followed.
    pub resolved_path: PathBuf,
    /// Block device or file.
    pub kind: DeviceKind,
    /// The kernel's name (`nvme0n1p2`), or the file's name.
    pub name: String,
    /// The block device's number; for a file, that of its file system.
    pub number: DeviceNumber,
    /// The disk a partition is part of.
    pub parent_disk: Option<String>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// The unit of offsets and lengths of direct I/O, bytes. At least 512.
    pub logical_block_bytes: u32,
    /// What the medium writes without read-modify-write, bytes.
    pub physical_block_bytes: u32,
    /// The alignment in memory that direct I/O asks for, bytes.
    pub memory_align_bytes: u32,
    /// Whose queue `queue` is.
    pub queue_owner: QueueOwner,
    /// The request queue's properties, when there is a queue to be found.
    pub queue: Option<QueueInfo>,
    /// The NUMA node, when the platform says so.
    pub numa_node: Option<u32>,
    /// The maker's name for it; of the backing disk for a file.
    pub model: Option<String>,
    /// The serial number; of the backing disk for a file.
    pub serial: Option<String>,
    /// As [`BlockNode::interrupt_cpus`]; of the backing disk for a file.
    pub interrupt_cpus: Vec<u32>,
}

impl DeviceInfo {
    /// Refuses what holds less than one block. [`super::Device::open`] does this too.
    ///
    /// # Errors
    ///
    /// [`DeviceError::NoMedium`] for an empty block device, [`DeviceError::TooSmall`] otherwise.
    pub fn check_size(&self) -> Result<(), DeviceError> {
        if self.size_bytes >= u64::from(self.logical_block_bytes) {
            return Ok(());
        }
        let path = self.path.clone();
        if self.kind == DeviceKind::Block && self.size_bytes == 0 {
            return Err(DeviceError::NoMedium { path });
        }
        let (size_bytes, block_bytes) = (self.size_bytes, self.logical_block_bytes);
        Err(DeviceError::TooSmall { path, size_bytes, block_bytes })
    }

    /// Whether it is known to spin. A device that does not say is taken for one that does not.
    #[must_use]
    pub fn is_rotational(&self) -> bool {
        self.queue.as_ref().and_then(|queue| queue.rotational) == Some(true)
    }
}

/// Probes a device without opening it.
///
/// # Errors
///
/// [`DeviceError::Missing`], [`DeviceError::NotADevice`], [`DeviceError::PermissionDenied`], or
/// [`DeviceError::Io`] where sysfs does not know the device.
pub fn probe(path: &Path) -> Result<DeviceInfo, DeviceError> {
    let resolved = fs::canonicalize(path).map_err(|error| io_error(path, "resolve", error))?;
    let metadata = fs::metadata(&resolved).map_err(|error| io_error(path, "look up", error))?;
    describe(&Sysfs::system(), path, resolved, &metadata)
}

/// The pure half of [`probe`], as far as the file system allows: what the metadata and sysfs say.
pub(super) fn describe(
    sysfs: &Sysfs,
    path: &Path,
    resolved: PathBuf,
    metadata: &fs::Metadata,
) -> Result<DeviceInfo, DeviceError> {
    let kind = metadata.file_type();
    if kind.is_block_device() {
        return describe_block(sysfs, path, resolved, DeviceNumber::from_dev(metadata.rdev()));
    }
    if kind.is_file() {
        return describe_file(sysfs, path, resolved, metadata);
    }
    let found = if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else {
        "a pipe or socket"
    };
    Err(DeviceError::NotADevice { path: path.to_path_buf(), found })
}

fn describe_block(
    sysfs: &Sysfs,
    path: &Path,
    resolved: PathBuf,
    number: DeviceNumber,
) -> Result<DeviceInfo, DeviceError> {
    let node = sysfs.block_node(number).map_err(|source| DeviceError::Io {
        path: path.to_path_buf(),
        doing: "look up in sysfs",
        source,
    })?;
    let alignment = direct_io_alignment(&resolved);
    let logical = node.queue.logical_block_bytes;
    Ok(DeviceInfo {
        path: path.to_path_buf(),
        resolved_path: resolved,
        kind: DeviceKind::Block,
        name: node.name,
        number,
        queue_owner: match &node.parent_disk {
            Some(disk) => QueueOwner::ParentDisk(disk.clone()),
            None => QueueOwner::Itself,
        },
        parent_disk: node.parent_disk,
        size_bytes: node.size_bytes,
        logical_block_bytes: logical,
        physical_block_bytes: node.queue.physical_block_bytes,
        memory_align_bytes: match alignment {
            DirectIoAlignment::Known { memory_bytes, .. } => memory_bytes,
            DirectIoAlignment::Unsupported | DirectIoAlignment::Unknown => logical,
        },
        queue: Some(node.queue),
        numa_node: node.numa_node,
        model: node.model,
        serial: node.serial,
        interrupt_cpus: node.interrupt_cpus,
    })
}

fn describe_file(
    sysfs: &Sysfs,
    path: &Path,
    resolved: PathBuf,
    metadata: &fs::Metadata,
) -> Result<DeviceInfo, DeviceError> {
    let number = DeviceNumber::from_dev(metadata.dev());
    let mounts = mounts::mounts().map_err(|source| DeviceError::Io {
        path: path.to_path_buf(),
        doing: "read /proc/self/mountinfo for",
        source,
    })?;
    let backing = backing_node(sysfs, &mounts, number);
    let backing_logical = backing.as_ref().map_or(512, |node| node.queue.logical_block_bytes);
    let (memory_bytes, offset_bytes) = match direct_io_alignment(&resolved) {
        DirectIoAlignment::Known { memory_bytes, offset_bytes } => (memory_bytes, offset_bytes),
        DirectIoAlignment::Unknown => (backing_logical, backing_logical),
        DirectIoAlignment::Unsupported => {
            return Err(DeviceError::NoDirectIo {
                path: path.to_path_buf(),
                file_system: file_system_name(&mounts, number),
            });
        }
    };
    let logical = offset_bytes.max(512);
    let name = resolved.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
    let physical = backing.as_ref().map_or(logical, |node| node.queue.physical_block_bytes);
    Ok(DeviceInfo {
        path: path.to_path_buf(),
        resolved_path: resolved,
        kind: DeviceKind::File,
        name,
        number,
        parent_disk: None,
        size_bytes: metadata.len(),
        logical_block_bytes: logical,
        physical_block_bytes: physical.max(logical),
        memory_align_bytes: memory_bytes,
        queue_owner: match &backing {
            Some(node) => QueueOwner::Backing(node.name.clone()),
            None => QueueOwner::Unknown,
        },
        numa_node: backing.as_ref().and_then(|node| node.numa_node),
        model: backing.as_ref().and_then(|node| node.model.clone()),
        serial: backing.as_ref().and_then(|node| node.serial.clone()),
        interrupt_cpus: backing.as_ref().map_or_else(Vec::new, |node| node.interrupt_cpus.clone()),
        queue: backing.map(|node| node.queue),
    })
}

/// The block device below a file system: by number, or by the mount's source where the number is
/// anonymous (btrfs).
fn backing_node(sysfs: &Sysfs, mounts: &[Mount], number: DeviceNumber) -> Option<BlockNode> {
    if let Ok(node) = sysfs.block_node(number) {
        return Some(node);
    }
    let source = &mounts::file_system_of(mounts, number)?.source;
    let metadata = fs::metadata(source).ok().filter(|meta| meta.file_type().is_block_device())?;
    sysfs.block_node(DeviceNumber::from_dev(metadata.rdev())).ok()
}

/// The name of the file system with this number, for messages.
pub(super) fn file_system_name(mounts: &[Mount], number: DeviceNumber) -> String {
    mounts::file_system_of(mounts, number)
        .map_or_else(|| String::from("an unknown file system"), |mount| mount.file_system.clone())
}
