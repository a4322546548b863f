//! Who uses a disk: what is mounted from it, swapped on it, or stacked on it.
//!
//! [`Surroundings`] is what the kernel says about mounts, swap and loop devices, with paths already
//! resolved; from it and a sysfs tree, [`uses_of`] is computed without further system calls on the
//! disks themselves. The walk goes up: partitions, then holders (dm, md, bcache), loop devices, and
//! their partitions and holders in turn.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use super::info::{DeviceInfo, DeviceKind};
use super::mounts;
use super::sysfs::{DeviceNumber, STACK_DEPTH_MAX, Sysfs};

/// What a path leads to, independent of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Identity {
    /// A block device.
    Block(DeviceNumber),
    /// A file: its file system and inode number.
    File { dev: u64, ino: u64 },
}

impl Identity {
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            Identity::Block(DeviceNumber::from_dev(metadata.rdev()))
        } else {
            Identity::File { dev: metadata.dev(), ino: metadata.ino() }
        }
    }

    /// `None` for what is not a path, does not exist, or is out of reach.
    fn of_path(path: &Path) -> Option<Self> {
        if !path.is_absolute() {
            return None;
        }
        fs::metadata(path).ok().map(|metadata| Identity::of(&metadata))
    }
}

/// Something mounted, with its source resolved (btrfs and others hide the device's number).
#[derive(Clone, Debug)]
pub(crate) struct Mounted {
    pub(crate) number: DeviceNumber,
    pub(crate) source: Option<Identity>,
    pub(crate) mount_point: PathBuf,
}

/// A bound loop device.
#[derive(Clone, Debug)]
pub(crate) struct BoundLoop {
    pub(crate) name: String,
    pub(crate) number: DeviceNumber,
    pub(crate) backing: Option<Identity>,
}

/// Mounts, swap and loop devices of the running system.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) mounts: Vec<Mounted>,
    pub(crate) swaps: Vec<Identity>,
    pub(crate) loops: Vec<BoundLoop>,
}

impl Surroundings {
    /// Reads `/proc` and the loop devices of a sysfs tree.
    pub(crate) fn read(sysfs: &Sysfs) -> io::Result<Self> {
        let mounts = mounts::mounts()?;
        let swaps = mounts::swaps()?;
        let loops = sysfs.loop_bindings().into_iter().filter_map(|binding| {
            Some(BoundLoop {
                number: sysfs.number_of(&binding.name)?,
                backing: Identity::of_path(&binding.backing),
                name: binding.name,
            })
        });
        Ok(Surroundings {
            mounts: mounts
                .into_iter()
                .map(|mount| Mounted {
                    number: mount.number,
                    // Only a block device: a bind mount's source may be any file.
                    source: Identity::of_path(&mount.source)
                        .filter(|identity| matches!(identity, Identity::Block(_))),
                    mount_point: mount.mount_point,
                })
                .collect(),
            swaps: swaps.iter().filter_map(|path| Identity::of_path(path)).collect(),
            loops: loops.collect(),
        })
    }
}

/// How something is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Mounted here.
    MountedOn(PathBuf),
    /// As swap.
    Swap,
    /// A device of this name is stacked on it.
    HeldBy(String),
    /// A loop device of this name is backed by it.
    BackingLoop(String),
    /// A second loop device of this name shares its backing file.
    SharesBackingWith(String),
    /// Somebody has it open exclusively.
    OpenExclusively,
}

/// One reason why a disk is not free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// What is used: `/dev/vda1`.
    pub object: String,
    /// How.
    pub usage: Usage,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = &self.object;
        match &self.usage {
            Usage::MountedOn(point) => write!(f, "{object} is mounted on {}", point.display()),
            Usage::Swap => write!(f, "{object} is in use as swap"),
            Usage::HeldBy(holder) => write!(f, "{object} is held by {holder}"),
            Usage::BackingLoop(name) => write!(f, "{object} is backing the loop device {name}"),
            Usage::SharesBackingWith(name) => {
                write!(f, "{object} has the same backing file as {name}")
            }
            Usage::OpenExclusively => write!(f, "{object} is open exclusively by a process"),
        }
    }
}

/// Everything that uses `target`, its partitions, or the disk it is a partition of. `name` is how
/// messages call a file; devices are called by their `/dev` names.
pub(crate) fn uses_of(
    sysfs: &Sysfs,
    around: &Surroundings,
    target: Identity,
    name: &Path,
) -> Vec<Use> {
    let mut walk = Walk { sysfs, around, seen: BTreeSet::new(), uses: Vec::new() };
    match target {
        Identity::File { .. } => {
            let name = name.display().to_string();
            walk.visit_identity(target, &name, 0);
        }
        Identity::Block(number) => {
            walk.visit_shared_backing(number);
            walk.visit_with_partitions(number, 0);
            if let Some(disk) = sysfs.parent_disk(number) {
                walk.visit(disk, 0);
            }
        }
    }
    walk.uses
}

/// The uses of an already probed device, as phrases, for [`super::DeviceError::Busy`].
pub(super) fn users_of(info: &DeviceInfo) -> Vec<String> {
    let sysfs = Sysfs::system();
    let identity = match info.kind {
        DeviceKind::Block => Some(Identity::Block(info.number)),
        DeviceKind::File => Identity::of_path(&info.resolved_path),
    };
    let (Ok(around), Some(identity)) = (Surroundings::read(&sysfs), identity) else {
        return Vec::new();
    };
    let uses = uses_of(&sysfs, &around, identity, &info.path);
    uses.iter().map(ToString::to_string).collect()
}

struct Walk<'a> {
    sysfs: &'a Sysfs,
    around: &'a Surroundings,
    seen: BTreeSet<DeviceNumber>,
    uses: Vec<Use>,
}

impl Walk<'_> {
    fn visit_with_partitions(&mut self, number: DeviceNumber, depth: usize) {
        self.visit(number, depth);
        for partition in self.sysfs.partitions(number) {
            self.visit(partition, depth);
        }
    }

    fn visit(&mut self, number: DeviceNumber, depth: usize) {
        if depth >= STACK_DEPTH_MAX || !self.seen.insert(number) {
            return;
        }
        let name = device_name(self.sysfs, number);
        for mount in &self.around.mounts {
            if mount.number == number || mount.source == Some(Identity::Block(number)) {
                let usage = Usage::MountedOn(mount.mount_point.clone());
                self.uses.push(Use { object: name.clone(), usage });
            }
        }
        for holder in self.sysfs.holders(number) {
            let usage = Usage::HeldBy(device_name(self.sysfs, holder));
            self.uses.push(Use { object: name.clone(), usage });
            self.visit_with_partitions(holder, depth + 1);
        }
        self.visit_identity(Identity::Block(number), &name, depth);
    }

    /// What refers to a file or device by path: swap and loop devices.
    fn visit_identity(&mut self, identity: Identity, name: &str, depth: usize) {
        if self.around.swaps.contains(&identity) {
            self.uses.push(Use { object: name.to_owned(), usage: Usage::Swap });
        }
        for bound in &self.around.loops {
            if bound.backing == Some(identity) {
                let usage = Usage::BackingLoop(format!("/dev/{}", bound.name));
                self.uses.push(Use { object: name.to_owned(), usage });
                self.visit_with_partitions(bound.number, depth + 1);
            }
        }
    }

    /// Two loop devices over one file: writing to either changes the other.
    fn visit_shared_backing(&mut self, number: DeviceNumber) {
        let disk = self.sysfs.parent_disk(number).unwrap_or(number);
        let own = self.around.loops.iter().find(|bound| bound.number == disk);
        let Some(backing) = own.and_then(|bound| bound.backing) else { return };
        for other in &self.around.loops {
            if other.backing == Some(backing) && other.number != disk {
                let usage = Usage::SharesBackingWith(format!("/dev/{}", other.name));
                self.uses.push(Use { object: device_name(self.sysfs, disk), usage });
            }
        }
    }
}

/// `/dev/NAME`, or the number where sysfs does not know it.
pub(crate) fn device_name(sysfs: &Sysfs, number: DeviceNumber) -> String {
    match sysfs.block_node(number) {
        Ok(node) => format!("/dev/{}", node.name),
        Err(_) => format!("block device {number}"),
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
