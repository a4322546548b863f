//! What a caller asks of a disk, and what comes back.

use serde::{Deserialize, Serialize};

use std::sync::Arc;

use crate::io::backend::DiskFacts;
use crate::io::error::{ErrorKind, IoError};
use crate::memory::{BufferList, DmaBuf};

/// Number of priority classes.
pub const CLASSES: usize = 5;

/// Priority classes, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Priority {
    /// Metadata, and what everything else waits for.
    Critical = 0,
    /// Reads of hot data.
    HighRead = 1,
    /// Other reads.
    NormalRead = 2,
    /// Writes.
    Write = 3,
    /// Scrub, garbage collection, checkpoints.
    Background = 4,
}

impl Priority {
    /// All classes, highest first.
    pub const ALL: [Priority; CLASSES] = [
        Priority::Critical,
        Priority::HighRead,
        Priority::NormalRead,
        Priority::Write,
        Priority::Background,
    ];

    /// Position in [`Priority::ALL`].
    #[inline(always)]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name used in configuration and reports.
    pub fn name(self) -> &'static str {
        ["critical", "high_read", "normal_read", "write", "background"][self.index()]
    }
}

/// A disk of one engine: its position in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiskId(pub u16);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum OpKind {
    /// Read into the buffers.
    Read,
    /// Write from the buffers.
    Write,
    /// Write from the buffers, durable by itself (RWF_DSYNC: FUA where the device has it). It
    /// covers its own bytes and nothing else that the disk's cache holds.
    WriteDsync,
    /// Write from the buffers, and when all of it is written, flush: one operation. It succeeds
    /// only when the whole write was done before a flush that succeeded was submitted.
    WriteFlush,
    /// Make what was completed before this was submitted durable (fdatasync).
    Flush,
    /// Tell the device that a range is unused; its content is undefined afterwards.
    Discard,
    /// Make a range read as zeroes without sending them.
    WriteZeroes,
}

impl OpKind {
    /// Reads and writes of every kind have buffers; the others are commands to the device.
    #[inline(always)]
    pub fn moves_data(self) -> bool {
        matches!(self, OpKind::Read | OpKind::Write | OpKind::WriteDsync | OpKind::WriteFlush)
    }

    /// Reads and writes that promise nothing of durability: they may be split into pieces and
    /// take the short way through the reactor. A durable write is one command, or one and a flush.
    #[inline(always)]
    pub fn is_plain(self) -> bool {
        matches!(self, OpKind::Read | OpKind::Write)
    }
}

/// The memory of a request. It always comes back with the completion.
#[derive(Debug, Default)]
pub enum Buffers {
    /// The operation needs none; or it was lost to a device that never answered.
    #[default]
    None,
    /// One contiguous buffer.
    One(DmaBuf),
    /// Several, in order.
    Many(Box<BufferList>),
}

impl Buffers {
    /// The one buffer, if that is what it is.
    pub fn into_one(self) -> Option<DmaBuf> {
        match self {
            Buffers::One(buffer) => Some(buffer),
            _ => None,
        }
    }
}

/// One request to one disk.
#[derive(Debug)]
pub struct Request {
    /// Which disk.
    pub disk: DiskId,
    /// In which class.
    pub priority: Priority,
    /// What to do.
    pub kind: OpKind,
    /// First byte on the disk, a multiple of its logical block.
    pub offset: u64,
    /// Bytes, a multiple of the logical block; for reads and writes the length of the buffers.
    pub len: u64,
    /// Memory.
    pub buffers: Buffers,
}

impl Request {
    /// Reads `buffer.len()` bytes at `offset`, in class `NormalRead`.
    pub fn read(disk: DiskId, offset: u64, buffer: DmaBuf) -> Request {
        Request::data(disk, Priority::NormalRead, OpKind::Read, offset, Buffers::One(buffer))
    }

    /// Writes `buffer.len()` bytes at `offset`, in class `Write`.
    pub fn write(disk: DiskId, offset: u64, buffer: DmaBuf) -> Request {
        Request::data(disk, Priority::Write, OpKind::Write, offset, Buffers::One(buffer))
    }

    /// Reads one contiguous range into several buffers, in class `NormalRead`.
    pub fn read_vectored(disk: DiskId, offset: u64, buffers: Box<BufferList>) -> Request {
        Request::data(disk, Priority::NormalRead, OpKind::Read, offset, Buffers::Many(buffers))
    }

    /// Writes several buffers to one contiguous range, in class `Write`.
    pub fn write_vectored(disk: DiskId, offset: u64, buffers: Box<BufferList>) -> Request {
        Request::data(disk, Priority::Write, OpKind::Write, offset, Buffers::Many(buffers))
    }

    /// Writes `buffer.len()` bytes at `offset` and then flushes the disk, as one operation, in
    /// class `Critical`. An error says which half failed ([`IoError::op`]); a failed flush is
    /// never tried again.
    pub fn write_flush(disk: DiskId, offset: u64, buffer: DmaBuf) -> Request {
        Request::data(disk, Priority::Critical, OpKind::WriteFlush, offset, Buffers::One(buffer))
    }

    /// As [`Request::write_flush`], from several buffers to one contiguous range.
    pub fn write_flush_vectored(disk: DiskId, offset: u64, buffers: Box<BufferList>) -> Request {
        Request::data(disk, Priority::Critical, OpKind::WriteFlush, offset, Buffers::Many(buffers))
    }

    /// Writes `buffer.len()` bytes at `offset`, durable when it completes, in class `Critical`.
    /// It says nothing of any other write.
    pub fn write_dsync(disk: DiskId, offset: u64, buffer: DmaBuf) -> Request {
        Request::data(disk, Priority::Critical, OpKind::WriteDsync, offset, Buffers::One(buffer))
    }

    /// As [`Request::write_dsync`], from several buffers to one contiguous range.
    pub fn write_dsync_vectored(disk: DiskId, offset: u64, buffers: Box<BufferList>) -> Request {
        Request::data(disk, Priority::Critical, OpKind::WriteDsync, offset, Buffers::Many(buffers))
    }

    /// Flushes the disk's volatile cache, in class `Write`.
    pub fn flush(disk: DiskId) -> Request {
        Request {
            disk,
            priority: Priority::Write,
            kind: OpKind::Flush,
            offset: 0,
            len: 0,
            buffers: Buffers::None,
        }
    }

    /// Discards a range, in class `Background`.
    pub fn discard(disk: DiskId, offset: u64, len: u64) -> Request {
        let (priority, kind) = (Priority::Background, OpKind::Discard);
        Request { disk, priority, kind, offset, len, buffers: Buffers::None }
    }

    /// Zeroes a range, in class `Write`.
    pub fn write_zeroes(disk: DiskId, offset: u64, len: u64) -> Request {
        let (priority, kind) = (Priority::Write, OpKind::WriteZeroes);
        Request { disk, priority, kind, offset, len, buffers: Buffers::None }
    }

    fn data(
        disk: DiskId,
        priority: Priority,
        kind: OpKind,
        offset: u64,
        mut buffers: Buffers,
    ) -> Request {
        debug_assert!(
            kind != OpKind::Read || !matches!(&buffers, Buffers::One(buffer) if buffer.is_view()),
            "a view is for reading alone"
        );
        let len = match &mut buffers {
            Buffers::None => 0,
            Buffers::One(buffer) => buffer.len() as u64,
            Buffers::Many(list) => {
                list.reset();
                list.bytes()
            }
        };
        Request { disk, priority, kind, offset, len, buffers }
    }

    /// Whether the request can be sent to `disk` at all; also makes its vectors ready.
    #[inline(always)]
    pub(crate) fn check(&mut self, disk: &DiskFacts) -> Result<(), InvalidRequest> {
        let misfit = u64::from(disk.logical_block_bytes) - 1;
        let end = self.offset.checked_add(self.len);
        if (self.offset | self.len) & misfit != 0 || end.is_none_or(|end| end > disk.size_bytes) {
            return Err(self.explain(disk));
        }
        let fits = match &mut self.buffers {
            Buffers::One(buffer) => self.kind.moves_data() && buffer.len() as u64 == self.len,
            Buffers::None => !self.kind.moves_data(),
            Buffers::Many(list) => {
                list.reset();
                self.kind.moves_data()
                    && list.bytes() == self.len
                    && self.len <= TRANSFER_BYTES_MAX
                    && list.buffers().len() <= BufferList::BUFFERS_MAX
                    && list.buffers().iter().all(|b| !b.is_empty() && b.len() as u64 & misfit == 0)
            }
        };
        let wants_length = self.kind != OpKind::Flush;
        let read_only = disk.read_only && self.kind != OpKind::Read;
        if !fits || read_only || wants_length == (self.len == 0) {
            return Err(self.explain(disk));
        }
        Ok(())
    }

    /// What its origin is told when it never reached the device; it keeps its buffers.
    pub(crate) fn fail(self, kind: ErrorKind, path: Arc<str>) -> Completion {
        let error = IoError {
            kind,
            op: self.kind,
            disk: self.disk,
            path,
            offset: self.offset,
            expected: self.len,
            found: 0,
            errno: None,
        };
        let result = Err(Box::new(error));
        Completion { result, buffers: self.buffers, wait_ns: 0, service_ns: 0 }
    }

    #[cold]
    fn explain(&self, disk: &DiskFacts) -> InvalidRequest {
        let block = disk.logical_block_bytes;
        if disk.read_only && self.kind != OpKind::Read {
            return InvalidRequest::ReadOnly { path: disk.path.clone() };
        }
        if (self.offset | self.len) & (u64::from(block) - 1) != 0 {
            let (offset, len) = (self.offset, self.len);
            return InvalidRequest::Unaligned { path: disk.path.clone(), offset, len, block };
        }
        if self.offset.checked_add(self.len).is_none_or(|end| end > disk.size_bytes) {
            return InvalidRequest::OutOfRange {
                path: disk.path.clone(),
                offset: self.offset,
                len: self.len,
                size_bytes: disk.size_bytes,
            };
        }
        InvalidRequest::Buffers { len: self.len, block }
    }

    /// The same request in another class.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Request {
        self.priority = priority;
        self
    }
}

/// Longest transfer of one request, bytes.
pub const TRANSFER_BYTES_MAX: u64 = 1 << 30;

/// Why a request cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// Offset or length is not a multiple of the disk's logical block.
    #[error("{path}: offset {offset} and length {len} must be multiples of {block} bytes")]
    Unaligned {
        /// The disk.
        path: Arc<str>,
        /// Offset of the request.
        offset: u64,
        /// Length of the request.
        len: u64,
        /// The disk's logical block in bytes.
        block: u32,
    },
    /// The request goes past the end of the disk.
    #[error("{path}: {len} bytes at offset {offset} go past the end at {size_bytes}")]
    OutOfRange {
        /// The disk.
        path: Arc<str>,
        /// Offset of the request.
        offset: u64,
        /// Length of the request.
        len: u64,
        /// Size of the disk in bytes.
        size_bytes: u64,
    },
    /// The disk was opened for reading.
    #[error("{path} was opened read-only; open it for writing to change it")]
    ReadOnly {
        /// The disk.
        path: Arc<str>,
    },
    /// The buffers do not fit the request.
    #[error(
        "the buffers do not fit: a transfer needs buffers of {len} bytes together, at most 1 GiB \
         in 1024 buffers, each a multiple of {block} bytes and not empty; a discard or \
         write-zeroes needs a length and no buffer, a flush neither"
    )]
    Buffers {
        /// Length of the request.
        len: u64,
        /// The disk's logical block in bytes.
        block: u32,
    },
    /// There is no such disk.
    #[error("there is no disk {disk}; the engine has {disks}")]
    NoSuchDisk {
        /// Number that was asked for.
        disk: u16,
        /// Disks of the engine.
        disks: usize,
    },
}

/// What became of a request.
#[derive(Debug)]
pub struct Completion {
    /// Bytes done, always the whole length, or why not.
    pub result: Result<u64, Box<IoError>>,
    /// The request's memory. `Buffers::None` after an error means that a device which never
    /// answered may still write to it; it is never given back.
    pub buffers: Buffers,
    /// Nanoseconds from acceptance to the device.
    pub wait_ns: u64,
    /// Nanoseconds from there to the completion.
    pub service_ns: u64,
}

impl Completion {
    /// The result and the single buffer of a plain read or write.
    pub fn into_parts(self) -> (Result<u64, Box<IoError>>, Option<DmaBuf>) {
        (self.result, self.buffers.into_one())
    }
}
