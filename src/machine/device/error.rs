//! Why a device cannot be used, with what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A device could not be opened, probed or created. Every message names the path.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Nothing has this name.
    #[error("{path}: no such device or file", path = .path.display())]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// The path names something that holds no blocks.
    #[error("{path} is {found}, not a block device or a regular file", path = .path.display())]
    NotADevice {
        /// As given.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
    },
    /// The kernel refused access.
    #[error("{path}: permission denied", path = .path.display())]
    PermissionDenied {
        /// As given.
        path: PathBuf,
    },
    /// Writing was asked for, and the device is set read-only.
    #[error("{path} is read-only", path = .path.display())]
    ReadOnly {
        /// As given.
        path: PathBuf,
    },
    /// Somebody else has it, still, after waiting.
    #[error("{path} is in use: {}{}", describe_holders(.holders), describe_wait(*.waited),
        path = .path.display())]
    Busy {
        /// As given.
        path: PathBuf,
        /// Each a phrase such as `/dev/vda1 is mounted on /`; empty when it cannot be told.
        holders: Vec<String>,
        /// How long was waited for it to become free.
        waited: Duration,
    },
    /// The file system has no `O_DIRECT`.
    #[error("{path}: direct I/O (O_DIRECT) is not supported by its file system ({file_system})",
        path = .path.display())]
    NoDirectIo {
        /// As given.
        path: PathBuf,
        /// The file system's type.
        file_system: String,
    },
    /// It holds less than one block.
    #[error("{path} holds {size_bytes} bytes, less than one block of {block_bytes}",
        path = .path.display())]
    TooSmall {
        /// As given.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
        /// The size of a logical block.
        block_bytes: u32,
    },
    /// A block device of size zero.
    #[error("{path} has no medium (its size is 0)", path = .path.display())]
    NoMedium {
        /// As given.
        path: PathBuf,
    },
    /// `Exclusive::No` together with `Access::ReadWrite`.
    #[error("{path}: a device is only ever written to under exclusive access",
        path = .path.display())]
    SharedWrite {
        /// As given.
        path: PathBuf,
    },
    /// A file of this name exists; it is not overwritten.
    #[error("{path} exists already", path = .path.display())]
    Exists {
        /// As given.
        path: PathBuf,
    },
    /// A file was to be created among the device nodes.
    #[error("{path} is under /dev, where no files are created: is it a mistyped device?",
        path = .path.display())]
    UnderDev {
        /// As given.
        path: PathBuf,
    },
    /// A size that no file of ours has.
    #[error("{path}: a size of {size_bytes} bytes is not a positive multiple of {unit_bytes}",
        path = .path.display())]
    InvalidSize {
        /// As given.
        path: PathBuf,
        /// What was asked for.
        size_bytes: u64,
        /// What it must be a multiple of.
        unit_bytes: u64,
    },
    /// The file system is too full.
    #[error("{path}: needs {needed_bytes} bytes, its file system has {available_bytes} available",
        path = .path.display())]
    NoSpace {
        /// As given.
        path: PathBuf,
        /// What was asked for.
        needed_bytes: u64,
        /// What there is.
        available_bytes: u64,
    },
    /// The kernel reported something else.
    #[error("cannot {doing} {path}: {source}", path = .path.display())]
    Io {
        /// As given.
        path: PathBuf,
        /// A verb: `open`, `write to`, ...
        doing: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

/// The broad class of a [`DeviceError`], for exit codes and retry decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceErrorClass {
    /// Missing, not accessible, or not something to store on.
    Unfit,
    /// In use; may succeed later.
    Busy,
    /// The device or file system failed.
    Io,
}

impl DeviceError {
    /// The broad class.
    #[must_use]
    pub fn class(&self) -> DeviceErrorClass {
        match self {
            DeviceError::Busy { .. } => DeviceErrorClass::Busy,
            DeviceError::Io { .. } => DeviceErrorClass::Io,
            _ => DeviceErrorClass::Unfit,
        }
    }

    /// What the user can do, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let text = match self {
            DeviceError::Missing { .. } => {
                "`dynamicfs devices` or `lsblk` lists the block devices".into()
            }
            DeviceError::NotADevice { .. } => {
                "name a block device such as /dev/nvme0n1, or a file made for the purpose".into()
            }
            DeviceError::PermissionDenied { .. } => {
                "run as root, or join the group `disk` (and log in again)".into()
            }
            DeviceError::ReadOnly { path } => format!(
                "`blockdev --setrw {}` lifts it, unless the medium itself is write-protected",
                path.display()
            ),
            DeviceError::Busy { path, holders, .. } if holders.is_empty() => {
                format!("`lsof {0}` or `fuser -v {0}` shows which process has it", path.display())
            }
            DeviceError::Busy { .. } => {
                "unmount it or stop its user; a disk in use is never taken over".into()
            }
            DeviceError::NoDirectIo { .. } => {
                "put the file on ext4, xfs or btrfs, or use a block device".into()
            }
            DeviceError::TooSmall { .. } => "use a larger file or device".into(),
            DeviceError::NoMedium { path } => format!(
                "insert a medium; a loop device gets one with `losetup {} FILE`",
                path.display()
            ),
            DeviceError::SharedWrite { .. } => {
                "open it read-only, or leave `exclusive` at its default".into()
            }
            DeviceError::Exists { .. } => "remove it first, or choose another name".into(),
            DeviceError::UnderDev { .. } => "`lsblk` lists the block devices".into(),
            DeviceError::InvalidSize { unit_bytes, .. } => {
                format!("round the size to a multiple of {unit_bytes}")
            }
            DeviceError::NoSpace { .. } => "choose a smaller size, or free space".into(),
            DeviceError::Io { .. } => return None,
        };
        Some(text)
    }
}

/// Sorts the kernel's answers about a path into the errors that have a name.
pub(super) fn io_error(path: &Path, doing: &'static str, source: io::Error) -> DeviceError {
    let path = path.to_path_buf();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ENXIO | libc::ENODEV) => {
            DeviceError::Missing { path }
        }
        Some(libc::EACCES | libc::EPERM) => DeviceError::PermissionDenied { path },
        Some(libc::ENOMEDIUM) => DeviceError::NoMedium { path },
        Some(libc::EROFS) => DeviceError::ReadOnly { path },
        _ => DeviceError::Io { path, doing, source },
    }
}

fn describe_holders(holders: &[String]) -> String {
    if holders.is_empty() {
        return String::from("another process has it open exclusively");
    }
    holders.join("; ")
}

/// Nothing where nobody asked to wait: what passed was the time of one attempt.
fn describe_wait(waited: Duration) -> String {
    match waited.as_millis() {
        0 => String::new(),
        milliseconds => format!("; waited {milliseconds} ms"),
    }
}
