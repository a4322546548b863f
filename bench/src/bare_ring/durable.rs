//! The least that a durable write through io_uring can cost: one ring, one thread, a write and an
//! fdatasync as a chain of the kernel, fixed file, fixed buffer.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use dynamicfs::machine::mapping::{Mapping, PagePolicy};
use dynamicfs::machine::uring::{EnterWait, Ring, RingConfig};
use io_uring::{opcode, types};

use crate::bare_ring::broken;
use crate::failure::Failure;

/// See the module. To be made and used on one thread.
pub struct LinkedWriter {
    ring: Ring,
    /// Dropped after the ring, which has nothing in flight between two writes.
    memory: Mapping,
    bytes: u32,
}

impl std::fmt::Debug for LinkedWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LinkedWriter({} bytes)", self.bytes)
    }
}

impl LinkedWriter {
    /// A writer of these bytes, whose length is a multiple of the device's block.
    ///
    /// # Errors
    /// [`Failure::Runtime`] when the ring cannot be had.
    pub fn new(file: BorrowedFd<'_>, data: &[u8]) -> Result<Self, Failure> {
        let config = RingConfig { sq_entries: 8, cq_entries: 32, polled: false, skip_rungs: 0 };
        let mut ring = Ring::new(&config).map_err(|error| broken(&error.to_string()))?;
        ring.register_files(&[file.as_raw_fd()]).map_err(|error| broken(&error.to_string()))?;
        let memory = Mapping::new(data.len(), PagePolicy::Normal)
            .map_err(|error| broken(&error.to_string()))?;
        assert!(memory.bytes() >= data.len());
        // SAFETY: the mapping is new, ours, and as long as asked for.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), memory.as_ptr().as_ptr(), data.len());
        }
        let piece =
            libc::iovec { iov_base: memory.as_ptr().as_ptr().cast(), iov_len: memory.bytes() };
        // SAFETY: `memory` is dropped after the ring, by the order of the fields.
        #[allow(unsafe_code)]
        let registered = unsafe { ring.register_buffers(&[piece]) };
        registered.map_err(|error| broken(&error.to_string()))?;
        Ok(Self { ring, memory, bytes: data.len() as u32 })
    }

    /// Writes at `offset` and waits until it is durable: the nanoseconds that took.
    ///
    /// # Errors
    /// [`Failure::Runtime`] when either half failed.
    pub fn write(&mut self, offset: u64) -> Result<u64, Failure> {
        let start = Instant::now();
        let from = self.memory.as_ptr().as_ptr();
        let file = types::Fixed(0);
        let write = opcode::WriteFixed::new(file, from, self.bytes, 0).offset(offset).build();
        let flush = opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: `memory` lives until the chain's only completion, which is waited for below.
        #[allow(unsafe_code)]
        let pushed = unsafe { self.ring.push_chain(write, flush) };
        if !pushed {
            return Err(broken("this kernel does no chains of a write and its flush"));
        }
        let mut results = Vec::new();
        while results.is_empty() {
            self.ring
                .enter(EnterWait::For { completions: 1, timeout_ns: None, settle_us: 0 })
                .map_err(|error| broken(&error.to_string()))?;
            results.extend(self.ring.completions().map(|cqe| cqe.result()));
        }
        match results.first() {
            Some(0) => Ok(start.elapsed().as_nanos() as u64),
            Some(code) if *code < 0 => {
                Err(broken(&std::io::Error::from_raw_os_error(-code).to_string()))
            }
            other => Err(broken(&format!("a write gave {other:?} of {} bytes", self.bytes))),
        }
    }
}
