//! Creating files to store on: fully allocated and written once, never over something else.
//!
//! A file whose blocks were allocated but never written costs a second flush and a metadata update
//! at each first write (the file system marks the blocks written), so the whole file is written
//! with zeros before it is handed out.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use super::info::file_system_name;
use super::mounts;
use super::sysfs::DeviceNumber;
use super::{Access, Device, DeviceError, OpenOptions, io_error};

/// Sizes are a multiple of this, so that any logical block of a disk divides them.
const SIZE_UNIT_BYTES: u64 = 4096;

/// How much is written at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Creates a file of `size_bytes`, allocated, written with zeros and durable, with its directory
/// entry. `progress` is told the bytes written so far, from time to time and at the end.
///
/// # Errors
///
/// [`DeviceError::Exists`], [`DeviceError::UnderDev`], [`DeviceError::InvalidSize`] (a multiple of
/// 4096), [`DeviceError::NoSpace`], [`DeviceError::NoDirectIo`], [`DeviceError::Missing`] (the
/// directory), or others of [`DeviceError`]. The file is removed again when creating it failed.
pub fn create_file(
    path: &Path,
    size_bytes: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<(), DeviceError> {
    let length = i64::try_from(size_bytes).unwrap_or(0);
    if length == 0 || !size_bytes.is_multiple_of(SIZE_UNIT_BYTES) {
        return Err(DeviceError::InvalidSize {
            path: path.to_path_buf(),
            size_bytes,
            unit_bytes: SIZE_UNIT_BYTES,
        });
    }
    let directory = check_directory(path)?;
    if fs::symlink_metadata(path).is_ok() {
        return Err(DeviceError::Exists { path: path.to_path_buf() });
    }
    check_space(path, &directory, size_bytes)?;
    let created = create_new(path, &directory)?;
    fill(&created, size_bytes, length, progress)
        .map_err(|error| full_or_failed(path, &directory, size_bytes, error))?;
    File::open(&directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| io_error(path, "sync the directory of", error))?;
    created.keep();
    Ok(())
}

/// A file that is removed again unless it is kept: also when `progress` panics.
struct Created {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Created {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if !self.kept {
            // The error that led here is the one to report, not that of cleaning up.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Resolves the directory the file goes to, and refuses the places of device nodes.
fn check_directory(path: &Path) -> Result<PathBuf, DeviceError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = fs::canonicalize(parent).map_err(|error| io_error(parent, "resolve", error))?;
    let metadata = fs::metadata(&directory).map_err(|error| io_error(parent, "look up", error))?;
    let mounts = mounts::mounts()
        .map_err(|error| io_error(parent, "read /proc/self/mountinfo for", error))?;
    let number = DeviceNumber::from_dev(metadata.dev());
    if mounts::is_under_dev(&mounts, &directory, number) {
        return Err(DeviceError::UnderDev { path: path.to_path_buf() });
    }
    Ok(directory)
}

fn create_new(path: &Path, directory: &Path) -> Result<Created, DeviceError> {
    let opened = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    match opened {
        Ok(file) => Ok(Created { file, path: path.to_path_buf(), kept: false }),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(DeviceError::Exists { path: path.to_path_buf() })
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // Some kernels create the name before they find that O_DIRECT is not to be had; it was
            // created by this call, for O_EXCL would have reported it otherwise.
            let _ = fs::remove_file(path);
            let number = fs::metadata(directory)
                .map(|metadata| DeviceNumber::from_dev(metadata.dev()))
                .map_err(|error| io_error(path, "look up the directory of", error))?;
            let mounts = mounts::mounts().unwrap_or_default();
            Err(DeviceError::NoDirectIo {
                path: path.to_path_buf(),
                file_system: file_system_name(&mounts, number),
            })
        }
        Err(error) => Err(io_error(path, "create", error)),
    }
}

fn fill(
    created: &Created,
    size_bytes: u64,
    length: i64,
    progress: &mut dyn FnMut(u64),
) -> io::Result<()> {
    match fallocate(&created.file, FallocateFlags::empty(), 0, length) {
        Ok(()) => {}
        // A file system without fallocate: writing it all does the same, less contiguously.
        Err(nix::errno::Errno::EOPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    write_zeros(&created.file, size_bytes, progress)
}

/// Writes a file that is there already over with zeros, all of it, so that every block of it was
/// written once. Nothing is asked: pass the write gate first.
///
/// # Errors
/// As opening it exclusively for writing, and when writing fails.
pub fn zero_file(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), DeviceError> {
    let device = Device::open(path, &OpenOptions::new(Access::ReadWrite))?;
    let whole = device.info.size_bytes / SIZE_UNIT_BYTES * SIZE_UNIT_BYTES;
    let directory = path.parent().unwrap_or(Path::new("."));
    write_zeros(&device.file, whole, progress)
        .map_err(|error| full_or_failed(path, directory, whole, error))
}

fn write_zeros(file: &File, size_bytes: u64, progress: &mut dyn FnMut(u64)) -> io::Result<()> {
    let memory = vec![0u8; CHUNK_BYTES + SIZE_UNIT_BYTES as usize];
    let start = memory.as_ptr().align_offset(SIZE_UNIT_BYTES as usize);
    let zeros = memory
        .get(start..start.saturating_add(CHUNK_BYTES))
        .ok_or_else(|| io::Error::other("the allocator gave no aligned memory"))?;
    let mut written: u64 = 0;
    while written < size_bytes {
        let left = usize::try_from(size_bytes - written).unwrap_or(CHUNK_BYTES);
        let chunk = zeros.get(..left.min(CHUNK_BYTES)).unwrap_or(zeros);
        file.write_all_at(chunk, written)?;
        written += chunk.len() as u64;
        progress(written);
    }
    file.sync_all()
}

fn check_space(path: &Path, directory: &Path, needed_bytes: u64) -> Result<(), DeviceError> {
    match available_bytes(directory) {
        Some(available_bytes) if available_bytes < needed_bytes => {
            Err(DeviceError::NoSpace { path: path.to_path_buf(), needed_bytes, available_bytes })
        }
        _ => Ok(()),
    }
}

fn full_or_failed(
    path: &Path,
    directory: &Path,
    needed_bytes: u64,
    error: io::Error,
) -> DeviceError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => DeviceError::NoSpace {
            path: path.to_path_buf(),
            needed_bytes,
            available_bytes: available_bytes(directory).unwrap_or(0),
        },
        _ => DeviceError::Io { path: path.to_path_buf(), doing: "write", source: error },
    }
}

fn available_bytes(directory: &Path) -> Option<u64> {
    let space = statvfs(directory).ok()?;
    Some(space.blocks_available().saturating_mul(space.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::device::scratch::ScratchDir;

    #[test]
    fn a_file_is_allocated_written_and_reported() {
        let dir = ScratchDir::new();
        let path = dir.path().join("disk");
        let size = 2 * CHUNK_BYTES as u64 + SIZE_UNIT_BYTES;
        let mut seen = Vec::new();
        create_file(&path, size, &mut |bytes| seen.push(bytes)).unwrap();
        assert_eq!(seen, [1 << 20, 2 << 20, size]);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), size);
        assert!(metadata.blocks() * 512 >= size, "sparse");
    }

    #[test]
    fn what_exists_is_never_overwritten() {
        let dir = ScratchDir::new();
        let path = dir.file("precious", 100);
        let error = create_file(&path, 4096, &mut |_| ()).unwrap_err();
        assert!(matches!(error, DeviceError::Exists { .. }), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 100);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).unwrap();
        let error = create_file(&link, 4096, &mut |_| ()).unwrap_err();
        assert!(matches!(error, DeviceError::Exists { .. }), "{error}");
    }

    #[test]
    fn device_directories_bad_sizes_and_full_disks_are_refused() {
        let dir = ScratchDir::new();
        let link = dir.path().join("devices");
        std::os::unix::fs::symlink("/dev", &link).unwrap();
        for path in [PathBuf::from("/dev/nvme9n9x"), link.join("nvme9n9x")] {
            let error = create_file(&path, 4096, &mut |_| ()).unwrap_err();
            assert!(matches!(error, DeviceError::UnderDev { .. }), "{error}");
        }
        let path = dir.path().join("disk");
        for size in [0, 4095, 4097, u64::MAX] {
            let error = create_file(&path, size, &mut |_| ()).unwrap_err();
            assert!(matches!(error, DeviceError::InvalidSize { .. }), "{error}");
        }
        let error = create_file(&path, 1 << 60, &mut |_| ()).unwrap_err();
        assert!(matches!(error, DeviceError::NoSpace { .. }), "{error}");
        let error = create_file(&dir.path().join("no/disk"), 4096, &mut |_| ()).unwrap_err();
        assert!(matches!(error, DeviceError::Missing { .. }), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn a_failure_midway_removes_the_file() {
        let dir = ScratchDir::new();
        let path = dir.path().join("disk");
        let result = std::panic::catch_unwind(|| {
            create_file(&path, 4096, &mut |_| panic!("progress bar broke"))
        });
        assert!(result.is_err());
        assert!(!path.exists());
    }
}
