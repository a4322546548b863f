//! The gate that every destructive run passes before it writes to a disk.
//!
//! A disk is read-only unless the user named it for destruction, and nothing that is in use is ever
//! written, whoever names it. The rules, in the order in which they refuse:
//!
//! | refused | can be overridden |
//! | --- | --- |
//! | the path does not exist, or is neither block device nor file | no |
//! | it is under `/dev` and not a block device: a mistyped name | no |
//! | it was not named, or the name leads to another device | by naming it |
//! | it, its partitions, its whole disk or anything stacked on them is mounted, swap, held | no |
//! | somebody has it open exclusively | no |
//! | `blkid` is missing or failed, so that nobody knows what it holds | no |
//! | it or a partition holds a file system, partition table, RAID or LVM member, or our label | by [`ForceSignatures::Yes`] |
//!
//! Files obey the same rules: an existing file must be named, and may not back a loop device.
//!
//! Collecting the facts and deciding on them are apart; the decision is a pure function.
//! The gate answers for the moment it is asked. Keep the answer short-lived and open the disk
//! exclusively (`Device::open` does), which the kernel then enforces.

mod facts;
mod signatures;

use std::path::{Path, PathBuf};

use crate::machine::device::{DeviceNumber, Sysfs, Use};

use self::facts::{Facts, Naming, Target};
use self::signatures::Probed;
pub use self::signatures::{LABEL_MAGIC, Signature};

/// Whether signatures of other file systems and pools may be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForceSignatures {
    /// They stop the run.
    No,
    /// They are destroyed. Mounted and held disks are refused all the same.
    Yes,
}

/// Asks for leave to write. See the module's table.
#[derive(Debug)]
pub struct WriteGate;

impl WriteGate {
    /// Decides whether `path` may be written to, destroying what it holds. `named` is what the user
    /// gave as `--destroy`, if anything; both may be symbolic links.
    ///
    /// Reads the disk's first blocks and runs `blkid`; writes nothing.
    ///
    /// # Errors
    ///
    /// A [`WriteRefusal`] naming the reason, the object and what the user can do.
    ///
    /// ```no_run
    /// use dynamicfs::machine::write_gate::{ForceSignatures, WriteGate};
    /// let disk = "/dev/nvme1n1".as_ref();
    /// let clearance = WriteGate::check(disk, Some(disk), ForceSignatures::No)?;
    /// assert_eq!(clearance.resolved_path(), disk);
    /// # Ok::<(), dynamicfs::machine::write_gate::WriteRefusal>(())
    /// ```
    pub fn check(
        path: &Path,
        named: Option<&Path>,
        force: ForceSignatures,
    ) -> Result<WriteClearance, WriteRefusal> {
        let facts = facts::collect(&Sysfs::system(), path, named)?;
        decide(facts, force)
    }
}

/// Leave to write to one disk. Only [`WriteGate::check`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct WriteClearance {
    resolved_path: PathBuf,
    number: Option<DeviceNumber>,
    overridden: Vec<Signature>,
}

impl WriteClearance {
    /// The device or file, links followed.
    #[must_use]
    pub fn resolved_path(&self) -> &Path {
        &self.resolved_path
    }

    /// The block device's number; `None` for a file.
    #[must_use]
    pub fn number(&self) -> Option<DeviceNumber> {
        self.number
    }

    /// What will be destroyed because the user forced it.
    #[must_use]
    pub fn overridden(&self) -> &[Signature] {
        &self.overridden
    }
}

/// Why a disk may not be written to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteRefusal {
    /// Nothing has this name.
    #[error("{path}: no such device or file", path = .path.display())]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// Neither a block device nor a regular file, or a file among the device nodes.
    #[error("{path} is not a block device{}", if *.under_dev { ", although it is under /dev" }
        else { " or a regular file" }, path = .path.display())]
    NotADisk {
        /// As given.
        path: PathBuf,
        /// Whether it is a file among the device nodes.
        under_dev: bool,
    },
    /// The user did not say that it may be destroyed.
    #[error("{path} would be overwritten, and was not named for that", path = .path.display())]
    NotNamed {
        /// As given.
        path: PathBuf,
    },
    /// What the user named leads to something else.
    #[error("{path} would be overwritten, but --destroy={named} is another device",
        path = .path.display(), named = .named.display())]
    NamesAnother {
        /// As given.
        path: PathBuf,
        /// What was named.
        named: PathBuf,
    },
    /// It is in use.
    #[error("{path} is in use: {}", list(.uses), path = .path.display())]
    InUse {
        /// As given.
        path: PathBuf,
        /// By what. Not empty.
        uses: Vec<Use>,
    },
    /// It holds something.
    #[error("{path} holds data: {}", list(.found), path = .path.display())]
    HoldsData {
        /// As given.
        path: PathBuf,
        /// What was recognised. Not empty.
        found: Vec<Signature>,
    },
    /// There is no `blkid` to look what it holds.
    #[error("{path}: cannot tell what it holds, because `blkid` is not installed",
        path = .path.display())]
    ProberMissing {
        /// As given.
        path: PathBuf,
    },
    /// The facts could not be had.
    #[error("{path}: cannot tell whether it is free: {reason}", path = .path.display())]
    Unknown {
        /// As given.
        path: PathBuf,
        /// What failed.
        reason: String,
    },
}

impl WriteRefusal {
    /// What the user can do.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            WriteRefusal::Missing { .. } => {
                "`dynamicfs devices` or `lsblk` lists the block devices".into()
            }
            WriteRefusal::NotADisk { under_dev: true, .. } => {
                "remove the file if it is a leftover of a mistyped name; `lsblk` lists the devices"
                    .into()
            }
            WriteRefusal::NotADisk { under_dev: false, .. } => {
                "name a block device such as /dev/nvme0n1, or a file made for the purpose".into()
            }
            WriteRefusal::NotNamed { path } => {
                format!("if all it holds may be lost, add --destroy={}", path.display())
            }
            WriteRefusal::NamesAnother { path, .. } => {
                format!("name the same device twice: --destroy={}", path.display())
            }
            WriteRefusal::InUse { .. } => {
                "unmount it, `swapoff` it, or take it out of its volume or array; no option \
                 overrides this"
                    .into()
            }
            WriteRefusal::HoldsData { path, .. } => format!(
                "look at it with `blkid -p {0}`; `wipefs --all {0}`, or forcing it, destroys it",
                path.display()
            ),
            WriteRefusal::ProberMissing { .. } => "install util-linux".into(),
            WriteRefusal::Unknown { .. } => {
                "run as root, or as a user who may read the device".into()
            }
        }
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The decision. Pure: the facts say all there is to know.
fn decide(facts: Facts, force: ForceSignatures) -> Result<WriteClearance, WriteRefusal> {
    let Facts { path, resolved_path, target, under_dev, naming, uses, probed } = facts;
    let number = match target {
        Target::Block(number) => Some(number),
        Target::File if !under_dev => None,
        Target::File | Target::Other => return Err(WriteRefusal::NotADisk { path, under_dev }),
    };
    match naming {
        Naming::Same => {}
        Naming::No => return Err(WriteRefusal::NotNamed { path }),
        Naming::Different(named) => return Err(WriteRefusal::NamesAnother { path, named }),
    }
    if !uses.is_empty() {
        return Err(WriteRefusal::InUse { path, uses });
    }
    let found = match probed {
        Probed::Found(found) => found,
        Probed::ProberMissing => return Err(WriteRefusal::ProberMissing { path }),
        Probed::Failed(reason) => return Err(WriteRefusal::Unknown { path, reason }),
    };
    if found.is_empty() || force == ForceSignatures::Yes {
        return Ok(WriteClearance { resolved_path, number, overridden: found });
    }
    Err(WriteRefusal::HoldsData { path, found })
}

#[cfg(test)]
mod tests;
