//! The facts the gate decides on, gathered from the running system.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::machine::device::usage::{Identity, Surroundings, device_name, uses_of};
use crate::machine::device::{DeviceNumber, Sysfs, Usage, Use, mounts};

use super::WriteRefusal;
use super::signatures::{self, Probed};

/// What the path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Block(DeviceNumber),
    File,
    Other,
}

/// Whether the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    No,
    Same,
    Different(PathBuf),
}

/// All that matters for the decision.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// As given, for messages.
    pub(super) path: PathBuf,
    pub(super) resolved_path: PathBuf,
    pub(super) target: Target,
    /// Whether its directory holds device nodes.
    pub(super) under_dev: bool,
    pub(super) naming: Naming,
    pub(super) uses: Vec<Use>,
    pub(super) probed: Probed,
}

/// Gathers. Disks that were not named, or are in use, are not even opened.
pub(super) fn collect(
    sysfs: &Sysfs,
    path: &Path,
    named: Option<&Path>,
) -> Result<Facts, WriteRefusal> {
    let unknown = |what: &str, error: &io::Error| WriteRefusal::Unknown {
        path: path.to_path_buf(),
        reason: format!("{what}: {error}"),
    };
    let resolved_path = match fs::canonicalize(path) {
        Ok(resolved) => resolved,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(WriteRefusal::Missing { path: path.to_path_buf() });
        }
        Err(error) => return Err(unknown("cannot resolve it", &error)),
    };
    let metadata =
        fs::metadata(&resolved_path).map_err(|error| unknown("cannot look it up", &error))?;
    let around = Surroundings::read(sysfs)
        .map_err(|error| unknown("cannot read /proc/self/mountinfo and /proc/swaps", &error))?;
    let identity = Identity::of(&metadata);
    let kind = metadata.file_type();
    let target = match identity {
        Identity::Block(number) => Target::Block(number),
        Identity::File { .. } if kind.is_file() => Target::File,
        Identity::File { .. } => Target::Other,
    };
    let mut facts = Facts {
        path: path.to_path_buf(),
        under_dev: is_under_dev(&resolved_path),
        naming: naming(identity, named),
        uses: Vec::new(),
        probed: Probed::Found(Vec::new()),
        target,
        resolved_path,
    };
    if target == Target::Other || facts.naming != Naming::Same {
        return Ok(facts);
    }
    if let Target::Block(number) = target
        && let Err(error) = sysfs.block_node(number)
    {
        return Err(unknown("sysfs does not know it", &error));
    }
    facts.uses = uses_of(sysfs, &around, identity, path);
    if facts.uses.is_empty() {
        facts.uses = trial_open(sysfs, &facts.resolved_path, target)
            .map_err(|error| unknown("cannot open it", &error))?;
    }
    if facts.uses.is_empty() {
        facts.probed = probe_all(sysfs, &facts.resolved_path, target);
    }
    Ok(facts)
}

fn is_under_dev(resolved: &Path) -> bool {
    let Some(directory) = resolved.parent() else { return false };
    let number = fs::metadata(directory).map(|metadata| DeviceNumber::from_dev(metadata.dev()));
    match (number, mounts::mounts()) {
        (Ok(number), Ok(mounts)) => mounts::is_under_dev(&mounts, directory, number),
        _ => directory.starts_with("/dev"),
    }
}

/// Names are compared by what they lead to: a device by its number, a file by its inode.
fn naming(identity: Identity, named: Option<&Path>) -> Naming {
    let Some(named) = named else { return Naming::No };
    match fs::metadata(named) {
        Ok(metadata) if Identity::of(&metadata) == identity => Naming::Same,
        _ => Naming::Different(named.to_path_buf()),
    }
}

/// Opens exclusively for a moment, to find the holders that no list shows (btrfs members, another
/// process). Files are tried by their lock.
fn trial_open(sysfs: &Sysfs, path: &Path, target: Target) -> io::Result<Vec<Use>> {
    let (object, flags) = match target {
        Target::Block(number) => (device_name(sysfs, number), libc::O_EXCL),
        Target::File | Target::Other => (path.display().to_string(), 0),
    };
    let in_use = || Ok(vec![Use { object: object.clone(), usage: Usage::OpenExclusively }]);
    let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return in_use(),
        Err(error) => return Err(error),
    };
    if file.metadata()?.file_type().is_block_device() {
        return Ok(Vec::new());
    }
    match file.try_lock() {
        Ok(()) => Ok(Vec::new()),
        Err(fs::TryLockError::WouldBlock) => in_use(),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Looks at the disk and, when it is a whole one, at each of its partitions.
fn probe_all(sysfs: &Sysfs, path: &Path, target: Target) -> Probed {
    let mut probed = signatures::probe(path);
    if let Target::Block(number) = target {
        for partition in sysfs.partitions(number) {
            let node = PathBuf::from(device_name(sysfs, partition));
            probed = probed.and(signatures::probe(&node));
        }
    }
    probed
}
