//! Block devices and files as disks: probing, exclusive opening, creating files, listing.
//!
//! A [`Device`] owns a descriptor opened with `O_DIRECT | O_CLOEXEC`, and with `O_EXCL` (block
//! device) or a `flock` (file), so that two writers never share a disk. The kernel keeps the
//! exclusion for as long as any duplicate or ring holds the open file, also after the process was
//! killed with writes in flight: that is why a busy device is waited for.
//!
//! Symbolic links are resolved first and what was opened is checked against what was probed, so
//! that a link changed in between is an error. Nothing here writes, except
//! [`create_file`] and [`zero_file`].

mod alignment;
mod create;
mod error;
mod info;
mod list;
pub(crate) mod mounts;
#[cfg(test)]
pub(crate) mod scratch;
pub(crate) mod sysfs;
pub(crate) mod usage;

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

pub use self::create::{create_file, zero_file};
use self::error::io_error;
pub use self::error::{DeviceError, DeviceErrorClass};
pub use self::info::{DeviceInfo, DeviceKind, QueueOwner, probe};
use self::info::{describe, file_system_name};
pub use self::list::list_block_devices;
pub(crate) use self::list::natural_key;
pub use self::sysfs::{BlockNode, DeviceNumber, QueueInfo, Sysfs, WriteCache};
pub use self::usage::{Usage, Use};

/// The longest sleep between two attempts at a busy device.
const BUSY_POLL_MAX: Duration = Duration::from_millis(50);

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    ReadOnly,
    /// Reads and writes; always exclusive.
    ReadWrite,
}

/// Whether others may have the device open exclusively, or mounted, at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusive {
    /// They may not. The only choice for writing.
    Yes,
    /// They may: to look at a disk in use. What is read may be changing.
    No,
}

/// How to open a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// For reading, or for writing too.
    pub access: Access,
    /// `Exclusive::No` is refused together with `Access::ReadWrite`.
    pub exclusive: Exclusive,
    /// How long to wait for a device that is in use. Zero means not at all.
    pub busy_wait: Duration,
}

impl OpenOptions {
    /// Exclusive, not waiting.
    #[must_use]
    pub fn new(access: Access) -> Self {
        OpenOptions { access, exclusive: Exclusive::Yes, busy_wait: Duration::ZERO }
    }
}

/// An open disk. Closing it gives up the exclusion once no ring refers to it any more.
///
/// ```no_run
/// use dynamicfs::machine::device::{Access, Device, OpenOptions};
/// let disk = Device::open("/dev/nvme0n1".as_ref(), &OpenOptions::new(Access::ReadOnly))?;
/// println!("{} bytes", disk.current_size()?);
/// # Ok::<(), dynamicfs::machine::device::DeviceError>(())
/// ```
#[derive(Debug)]
pub struct Device {
    file: File,
    info: DeviceInfo,
}

impl Device {
    /// Opens a block device or an existing file for direct I/O.
    ///
    /// # Errors
    ///
    /// See [`DeviceError`]; [`DeviceError::Busy`] names the user where it can be found out.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Device, DeviceError> {
        if options.access == Access::ReadWrite && options.exclusive == Exclusive::No {
            return Err(DeviceError::SharedWrite { path: path.to_path_buf() });
        }
        let info = probe(path)?;
        info.check_size()?;
        let file = open_waiting(&info, options)?;
        let info = confirm_identity(&file, info)?;
        info.check_size()?;
        Ok(Device { file, info })
    }

    /// What was probed when it was opened.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The size now, bytes: a device may have been resized since.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Io`], as when the device is gone.
    pub fn current_size(&self) -> Result<u64, DeviceError> {
        // The file position is used by nothing else: all I/O carries its offset.
        (&self.file)
            .seek(SeekFrom::End(0))
            .map_err(|source| io_error(&self.info.path, "find the size of", source))
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// The outcome of one attempt.
enum Attempt {
    Opened(File),
    InUse,
}

fn open_waiting(info: &DeviceInfo, options: &OpenOptions) -> Result<File, DeviceError> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match attempt(info, options) {
            Ok(Attempt::Opened(file)) => return Ok(file),
            Ok(Attempt::InUse) => {}
            Err(source) => return Err(refusal(info, source)),
        }
        let waited = start.elapsed();
        if waited >= options.busy_wait {
            return Err(DeviceError::Busy {
                path: info.path.clone(),
                holders: usage::users_of(info),
                waited,
            });
        }
        thread::sleep(pause.min(options.busy_wait.saturating_sub(waited)));
        pause = (pause * 2).min(BUSY_POLL_MAX);
    }
}

/// Opens once: `O_EXCL` without `O_CREAT` is the kernel's exclusive claim on a block device; a file
/// is claimed by `flock`, shared among readers.
fn attempt(info: &DeviceInfo, options: &OpenOptions) -> io::Result<Attempt> {
    let exclusive = options.exclusive == Exclusive::Yes;
    let mut flags = libc::O_DIRECT;
    if exclusive && info.kind == DeviceKind::Block {
        flags |= libc::O_EXCL;
    }
    let opened = fs::OpenOptions::new()
        .read(true)
        .write(options.access == Access::ReadWrite)
        .custom_flags(flags)
        .open(&info.resolved_path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if is_in_use(&error) => return Ok(Attempt::InUse),
        Err(error) => return Err(error),
    };
    if !exclusive || info.kind == DeviceKind::Block {
        return Ok(Attempt::Opened(file));
    }
    let locked = match options.access {
        Access::ReadOnly => file.try_lock_shared(),
        Access::ReadWrite => file.try_lock(),
    };
    match locked {
        Ok(()) => Ok(Attempt::Opened(file)),
        Err(TryLockError::WouldBlock) => Ok(Attempt::InUse),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// `ETXTBSY` is what writing to an active swap file or a running program gives.
fn is_in_use(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ETXTBSY))
}

fn refusal(info: &DeviceInfo, source: io::Error) -> DeviceError {
    let read_only = info.kind == DeviceKind::Block
        && Sysfs::system().block_node(info.number).is_ok_and(|node| node.read_only);
    match source.raw_os_error() {
        Some(libc::EINVAL) => DeviceError::NoDirectIo {
            path: info.path.clone(),
            file_system: match info.kind {
                DeviceKind::Block => String::from("a block device without it"),
                DeviceKind::File => {
                    file_system_name(&mounts::mounts().unwrap_or_default(), info.number)
                }
            },
        },
        Some(libc::EACCES | libc::EPERM) if read_only => {
            DeviceError::ReadOnly { path: info.path.clone() }
        }
        _ => io_error(&info.path, "open", source),
    }
}

/// Probes what was opened once more, and refuses when the path led elsewhere meanwhile.
fn confirm_identity(file: &File, info: DeviceInfo) -> Result<DeviceInfo, DeviceError> {
    let failed = |doing, source| DeviceError::Io { path: info.path.clone(), doing, source };
    let metadata = file.metadata().map_err(|source| failed("look up", source))?;
    let resolved = info.resolved_path.clone();
    let now = describe(&Sysfs::system(), &info.path, resolved, &metadata)?;
    let by_path = fs::metadata(&info.resolved_path).map_err(|source| failed("look up", source))?;
    let is_same = now.number == info.number
        && now.kind == info.kind
        && (by_path.dev(), by_path.ino()) == (metadata.dev(), metadata.ino());
    if is_same {
        Ok(now)
    } else {
        Err(failed("open", io::Error::other("the path was changed while it was being opened")))
    }
}

#[cfg(test)]
#[path = "device/open_tests.rs"]
mod tests;
