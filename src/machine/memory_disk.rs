//! A file on tmpfs as a disk at the speed of memory: mapped, and read and written by copying.
//!
//! It measures what a store costs by itself. Nothing of it survives the machine's next boot, so it
//! is refused where somebody might believe that it does. Whoever makes the file shorter meanwhile
//! ends the process.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

const WORD: usize = size_of::<u64>();

/// See the module. Two threads may be at the same bytes, as two requests may at a disk's: then what
/// is read is some of each.
#[derive(Debug)]
pub(crate) struct MemoryDisk {
    map: MmapRaw,
}

impl MemoryDisk {
    /// Maps all of a file, with memory for every byte of it. It is opened anew for that: a mapping
    /// keeps what it was made of, and a lock on that with it.
    ///
    /// # Errors
    /// It is no file on tmpfs, may not be written, or there is not as much memory.
    pub(crate) fn map(file: BorrowedFd<'_>) -> io::Result<MemoryDisk> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = File::options().read(true).write(true).open(path)?;
        // The file system of a device's node, `/dev`, is one, too.
        let metadata = file.metadata()?;
        let file_system = fstatfs(&file)?.filesystem_type();
        if file_system != TMPFS_MAGIC || !metadata.is_file() {
            let reason =
                "it is no file on tmpfs, and would be taken for a disk that keeps something";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        let bytes = metadata.len();
        // A hole without memory behind it would end the process where it is touched.
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes as libc::off_t)?;
        // Mapped whole now: a page that is touched for the first time costs more than its copying.
        Ok(MemoryDisk { map: MmapOptions::new().populate().map_raw(&file)? })
    }

    /// Copies what is there.
    ///
    /// # Panics
    /// When that is not inside of the file, or no whole words.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) {
        let words = self.words(offset, into.len());
        for (word, out) in words.iter().zip(into.chunks_exact_mut(WORD)) {
            out.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
    }

    /// Puts something there.
    ///
    /// # Panics
    /// As [`MemoryDisk::read`].
    pub(crate) fn write(&self, offset: u64, from: &[u8]) {
        let words = self.words(offset, from.len());
        for (word, bytes) in words.iter().zip(from.chunks_exact(WORD)) {
            let mut value = [0; WORD];
            value.copy_from_slice(bytes);
            word.store(u64::from_le_bytes(value), Ordering::Relaxed);
        }
    }

    /// Zeroes are there from now on.
    ///
    /// # Panics
    /// As [`MemoryDisk::read`].
    pub(crate) fn zero(&self, offset: u64, bytes: u64) {
        let words = self.words(offset, bytes as usize);
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    fn words(&self, offset: u64, bytes: usize) -> &[AtomicU64] {
        let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(bytes));
        assert!(end.is_some_and(|end| end <= self.map.len()), "a request is inside of its disk");
        let is_whole = (offset as usize).is_multiple_of(WORD) && bytes.is_multiple_of(WORD);
        assert!(is_whole, "a request is of whole sectors");
        let start = self.map.as_mut_ptr().wrapping_add(offset as usize).cast::<AtomicU64>();
        #[allow(unsafe_code)]
        // SAFETY: the words are inside of the mapping, which lives as long as `self`, begins at a
        // page and is only ever touched by such words.
        unsafe {
            std::slice::from_raw_parts(start, bytes / WORD)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn file_in(directory: &str) -> File {
        let path = format!("{directory}/dynamicfs-memory-disk-{}", std::process::id());
        let mut options = File::options();
        let file = options.create_new(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read_and_is_in_the_file() {
        use std::os::unix::fs::FileExt;
        let file = file_in("/dev/shm");
        let disk = MemoryDisk::map(file.as_fd()).unwrap();
        disk.write((1 << 20) - 4096, &[7; 4096]);
        disk.zero((1 << 20) - 512, 512);
        let mut found = [1; 1024];
        disk.read((1 << 20) - 1024, &mut found);
        assert_eq!((&found[..512], &found[512..]), (&[7; 512][..], &[0; 512][..]));
        let mut found = [0; 4096];
        file.read_exact_at(&mut found, (1 << 20) - 4096).unwrap();
        assert!(found[..3584].iter().all(|byte| *byte == 7));
    }

    #[test]
    #[should_panic(expected = "inside of its disk")]
    fn nothing_is_behind_its_end() {
        MemoryDisk::map(file_in("/dev/shm").as_fd()).unwrap().write((1 << 20) - 512, &[0; 1024]);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        // Its node is on a file system of that kind.
        let device = File::options().read(true).write(true).open("/dev/null").unwrap();
        let refused = MemoryDisk::map(device.as_fd()).unwrap_err().to_string();
        assert!(refused.contains("tmpfs"), "{refused}");
    }
}
