//! What alignment direct I/O needs on a file, asked of the kernel with `statx(STATX_DIOALIGN)`.
//!
//! The flag exists since Linux 6.1; older kernels, and file systems that do not answer, leave its
//! bit unset in the result, which is [`DirectIoAlignment::Unknown`] and not an error.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The kernel's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirectIoAlignment {
    /// Direct I/O works at these alignments, bytes.
    Known { memory_bytes: u32, offset_bytes: u32 },
    /// The file system says that this file cannot do direct I/O.
    Unsupported,
    /// The kernel does not say.
    Unknown,
}

/// Asks about the file that `path` names, following links.
pub(super) fn direct_io_alignment(path: &Path) -> DirectIoAlignment {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return DirectIoAlignment::Unknown;
    };
    // SAFETY: `libc::statx` is a C struct of integers only, for which all-zero bytes are a value.
    let mut answer: libc::statx = unsafe { mem::zeroed() };
    // SAFETY: `path` is NUL-terminated (CString) and `answer` is a live, writable `struct statx`;
    // the call keeps neither pointer.
    let result = unsafe {
        libc::statx(libc::AT_FDCWD, path.as_ptr(), 0, libc::STATX_DIOALIGN, &raw mut answer)
    };
    if result != 0 || answer.stx_mask & libc::STATX_DIOALIGN == 0 {
        return DirectIoAlignment::Unknown;
    }
    if answer.stx_dio_offset_align == 0 {
        return DirectIoAlignment::Unsupported;
    }
    DirectIoAlignment::Known {
        memory_bytes: answer.stx_dio_mem_align.max(1),
        offset_bytes: answer.stx_dio_offset_align,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::device::scratch::ScratchDir;

    #[test]
    fn a_file_answers_a_power_of_two_and_a_missing_one_is_unknown() {
        let dir = ScratchDir::new();
        let file = dir.file("image", 4096);
        if let DirectIoAlignment::Known { memory_bytes, offset_bytes } = direct_io_alignment(&file)
        {
            assert!(memory_bytes.is_power_of_two() && offset_bytes.is_power_of_two());
        }
        let missing = direct_io_alignment(&dir.path().join("none"));
        assert_eq!(missing, DirectIoAlignment::Unknown);
    }
}
