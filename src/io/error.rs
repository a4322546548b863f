//! What can go wrong with a request, decided by one table.
//!
//! Facts behind the rows: media errors arrive as `ENODATA` as well as `EIO`; a device that is
//! gone answers writes with `ENOSPC` and reads with zero bytes; a full file says `ENOSPC` too.

use serde::Serialize;
use std::sync::Arc;

use crate::io::op::{DiskId, OpKind};

/// What kind of failure it was, whatever number the kernel gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The medium could not be read or written there.
    Media,
    /// The device is gone, detached or shrunk.
    DeviceGone,
    /// The file system below a file is full.
    NoSpace,
    /// The device or its driver gave up waiting.
    Timeout,
    /// The path to the device was lost.
    PathLost,
    /// The device or file is read-only.
    ReadOnly,
    /// The system refuses it for lack of rights.
    NotPermitted,
    /// The kernel found the request malformed: unaligned, too long, or a bug of ours.
    Invalid,
    /// The device cannot do that.
    Unsupported,
    /// The system lacked a resource several times in a row.
    Busy,
    /// The transfer ended before its end: the file or device ends there.
    UnexpectedEnd,
    /// It was still queued when the engine closed. It did not reach the device.
    ShuttingDown,
    /// It was at the device, or a part of it had been, when the engine gave up on it. Its outcome
    /// is unknown.
    Abandoned,
    /// A reactor panicked. Its outcome is unknown if it had reached the device.
    Poisoned,
    /// An error with no row in the table.
    Other,
}

impl ErrorKind {
    /// Number of kinds.
    pub const COUNT: usize = ErrorKind::Other as usize + 1;

    /// All kinds, in order.
    pub const ALL: [ErrorKind; ErrorKind::COUNT] = [
        ErrorKind::Media,
        ErrorKind::DeviceGone,
        ErrorKind::NoSpace,
        ErrorKind::Timeout,
        ErrorKind::PathLost,
        ErrorKind::ReadOnly,
        ErrorKind::NotPermitted,
        ErrorKind::Invalid,
        ErrorKind::Unsupported,
        ErrorKind::Busy,
        ErrorKind::UnexpectedEnd,
        ErrorKind::ShuttingDown,
        ErrorKind::Abandoned,
        ErrorKind::Poisoned,
        ErrorKind::Other,
    ];

    /// A word for reports.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Media => "media",
            ErrorKind::DeviceGone => "device_gone",
            ErrorKind::NoSpace => "no_space",
            ErrorKind::Timeout => "timeout",
            ErrorKind::PathLost => "path_lost",
            ErrorKind::ReadOnly => "read_only",
            ErrorKind::NotPermitted => "not_permitted",
            ErrorKind::Invalid => "invalid",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Busy => "busy",
            ErrorKind::UnexpectedEnd => "unexpected_end",
            ErrorKind::ShuttingDown => "shutting_down",
            ErrorKind::Abandoned => "abandoned",
            ErrorKind::Poisoned => "poisoned",
            ErrorKind::Other => "other",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            ErrorKind::Media => "the medium failed there; check the device's health",
            ErrorKind::DeviceGone => "the device is gone, detached or smaller than before",
            ErrorKind::NoSpace => "the file system is full",
            ErrorKind::Timeout => "the device did not answer in its driver's time",
            ErrorKind::PathLost => "the path to the device was lost",
            ErrorKind::ReadOnly => "it is read-only",
            ErrorKind::NotPermitted => "the system refuses it; check the rights",
            ErrorKind::Invalid => "the kernel refused the request as malformed",
            ErrorKind::Unsupported => "the device or file system cannot do that",
            ErrorKind::Busy => "the system lacks a resource",
            ErrorKind::UnexpectedEnd => "the file or device ends before that",
            ErrorKind::ShuttingDown => "the engine closed before it was sent",
            ErrorKind::Abandoned => {
                "the engine gave up on it at the device; its outcome is unknown"
            }
            ErrorKind::Poisoned => "the reactor failed; its outcome is unknown",
            ErrorKind::Other => "an error that this version does not know",
        }
    }
}

/// What the reactor does about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing happened; try again, a few times.
    Retry,
    /// Tell the caller.
    Fail(ErrorKind),
}

/// Whether the disk is a raw device, where `ENOSPC` means something else than on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    Device,
    File,
}

/// Every errno that the block layer, file systems and io_uring are known to complete with.
const TABLE: &[(i32, Verdict)] = &[
    (libc::EIO, Verdict::Fail(ErrorKind::Media)),
    (libc::ENODATA, Verdict::Fail(ErrorKind::Media)),
    (libc::EILSEQ, Verdict::Fail(ErrorKind::Media)),
    (libc::EREMOTEIO, Verdict::Fail(ErrorKind::Media)),
    (libc::EBADE, Verdict::Fail(ErrorKind::Media)),
    (libc::ENODEV, Verdict::Fail(ErrorKind::DeviceGone)),
    (libc::ENXIO, Verdict::Fail(ErrorKind::DeviceGone)),
    (libc::ENOMEDIUM, Verdict::Fail(ErrorKind::DeviceGone)),
    (libc::EREMCHG, Verdict::Fail(ErrorKind::DeviceGone)),
    (libc::ESHUTDOWN, Verdict::Fail(ErrorKind::DeviceGone)),
    (libc::ENOSPC, Verdict::Fail(ErrorKind::NoSpace)),
    (libc::EDQUOT, Verdict::Fail(ErrorKind::NoSpace)),
    (libc::ETIMEDOUT, Verdict::Fail(ErrorKind::Timeout)),
    (libc::ENOLINK, Verdict::Fail(ErrorKind::PathLost)),
    (libc::EROFS, Verdict::Fail(ErrorKind::ReadOnly)),
    (libc::EBADF, Verdict::Fail(ErrorKind::ReadOnly)),
    (libc::EPERM, Verdict::Fail(ErrorKind::NotPermitted)),
    (libc::EACCES, Verdict::Fail(ErrorKind::NotPermitted)),
    (libc::EINVAL, Verdict::Fail(ErrorKind::Invalid)),
    (libc::EFAULT, Verdict::Fail(ErrorKind::Invalid)),
    (libc::EFBIG, Verdict::Fail(ErrorKind::Invalid)),
    (libc::EOPNOTSUPP, Verdict::Fail(ErrorKind::Unsupported)),
    (libc::ENOSYS, Verdict::Fail(ErrorKind::Unsupported)),
    (libc::ENOTTY, Verdict::Fail(ErrorKind::Unsupported)),
    (libc::EAGAIN, Verdict::Retry),
    (libc::EINTR, Verdict::Retry),
    (libc::EBUSY, Verdict::Retry),
    (libc::ENOMEM, Verdict::Retry),
    (libc::ECANCELED, Verdict::Retry),
];

/// Attempts at a request that meets a passing lack of resources.
pub(crate) const ATTEMPTS_MAX: u8 = 8;

pub(crate) fn classify(errno: i32, medium: Medium) -> Verdict {
    if errno == libc::ENOSPC && medium == Medium::Device {
        return Verdict::Fail(ErrorKind::DeviceGone);
    }
    TABLE
        .iter()
        .find(|(row, _)| *row == errno)
        .map_or(Verdict::Fail(ErrorKind::Other), |(_, verdict)| *verdict)
}

/// Every errno that has a row in the table, for simulators.
pub fn known_errnos() -> impl Iterator<Item = i32> {
    TABLE.iter().map(|(errno, _)| *errno)
}

/// A request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoError {
    /// What it comes to.
    pub kind: ErrorKind,
    /// What was asked; of a `WriteFlush` the half that failed, `Write` or `Flush`. It says
    /// `WriteFlush` when that is not known: the request was not sent, or was given up on.
    pub op: OpKind,
    /// Of which disk.
    pub disk: DiskId,
    /// Its path.
    pub path: Arc<str>,
    /// First byte of the request.
    pub offset: u64,
    /// Bytes that were asked for.
    pub expected: u64,
    /// Bytes that were done before it failed, as far as is known.
    pub found: u64,
    /// The kernel's number, if the kernel said it.
    pub errno: Option<i32>,
}

impl IoError {
    /// Whether something was given up on before the kernel had answered that may still be written.
    pub(crate) fn may_land_late(&self) -> bool {
        let writes = !matches!(self.op, OpKind::Read | OpKind::Flush);
        let is_unanswered = matches!(self.kind, ErrorKind::Timeout | ErrorKind::Abandoned);
        writes && is_unanswered && self.errno.is_none()
    }
}

impl std::fmt::Display for IoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let op = match self.op {
            OpKind::Read => "read",
            OpKind::Write => "write",
            OpKind::WriteDsync => "durable write",
            OpKind::WriteFlush => "write and flush",
            OpKind::Flush => "flush",
            OpKind::Discard => "discard",
            OpKind::WriteZeroes => "write-zeroes",
        };
        write!(f, "{}: {op} of {} bytes at offset {}", self.path, self.expected, self.offset)?;
        if self.found > 0 {
            write!(f, " ended after {} bytes", self.found)?;
        }
        write!(f, ": {}", self.kind.advice())?;
        match self.errno {
            Some(errno) => write!(f, " ({})", std::io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for IoError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_errors_come_under_several_numbers() {
        for errno in [libc::EIO, libc::ENODATA, libc::EILSEQ] {
            assert_eq!(classify(errno, Medium::Device), Verdict::Fail(ErrorKind::Media));
        }
    }

    #[test]
    fn no_space_on_a_raw_device_means_gone() {
        let on = |medium| classify(libc::ENOSPC, medium);
        assert_eq!(on(Medium::Device), Verdict::Fail(ErrorKind::DeviceGone));
        assert_eq!(on(Medium::File), Verdict::Fail(ErrorKind::NoSpace));
    }

    #[test]
    fn an_unknown_number_is_an_error_and_rows_are_unique() {
        assert_eq!(classify(9999, Medium::Device), Verdict::Fail(ErrorKind::Other));
        let mut numbers: Vec<i32> = known_errnos().collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), TABLE.len());
        assert!(ErrorKind::ALL.iter().enumerate().all(|(i, kind)| *kind as usize == i));
    }
}
