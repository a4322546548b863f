//! The seam: everything that touches the world goes through `Backend`.
//!
//! Two implementations: io_uring, and the simulator's disks under a virtual clock. The reactor
//! above is a state machine that knows neither threads nor clocks.

use std::os::fd::RawFd;
use std::sync::Arc;

use serde::Serialize;

use crate::io::error::Medium;
use crate::io::op::DiskId;
use crate::io::op_table::{Half, OpId, OpTable};
use crate::machine::memory_disk::MemoryDisk;

/// How long a reactor may stay inside its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Hand over what is staged and come back.
    None,
    /// Sleep until something happens, a wake-up included.
    Until {
        /// Completions that end the sleep; with several, one is enough after `settle_us`.
        completions: u32,
        /// Upper bound in nanoseconds from now.
        timeout_ns: Option<u64>,
        /// See `completions`.
        settle_us: u32,
    },
}

/// One attempt's end: bytes done, or a negative errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reaped {
    pub(crate) id: OpId,
    pub(crate) half: Half,
    pub(crate) result: i32,
}

/// Completions of one reap.
pub(crate) const REAP_MAX: usize = 64;

/// What the reactor asks of the world.
pub(crate) trait Backend {
    /// Monotonic nanoseconds.
    fn now(&mut self) -> u64;

    /// Entries that may be staged before the next [`Backend::enter`].
    fn room(&mut self) -> u32;

    /// Stages the next attempt at an active operation: its span, at `offset + done`. Returns the
    /// entries that it took: one, or two for a write with its flush chained to it, which is only
    /// done while there is room for two. Of a `WriteFlush` it sets `chained`.
    fn stage(&mut self, ops: &mut OpTable, slot: u32) -> u32;

    /// Hands over what is staged, and waits as told. An error is fatal to the reactor.
    fn enter(&mut self, wait: Wait) -> std::io::Result<()>;

    /// Lets the kernel start the flush of a chain whose write has ended, where it waits for us to
    /// come by. Nothing is reaped; an error comes again at the next [`Backend::enter`].
    fn advance(&mut self);

    /// Whether [`Backend::reap`] or [`Backend::enter`] would find a completion now.
    fn has_completions(&mut self) -> bool;

    /// Takes up to [`REAP_MAX`] completions.
    fn reap(&mut self, ops: &mut OpTable, out: &mut Vec<Reaped>);

    /// Whether an attempt is under way that only [`Wait::None`] brings to an end (a polled ring).
    fn must_poll(&self) -> bool;

    /// Drives a disk from here on, in a place that was vacant until now. It is polled only if it is
    /// told so and there is a polled ring.
    fn attach(&mut self, facts: &DiskFacts, file: RawFd) -> std::io::Result<()>;

    /// Lets go of a disk that nothing is sent to any more.
    fn detach(&mut self, disk: DiskId) -> std::io::Result<()>;

    /// System calls made to hand over and to wait, so far.
    fn enters(&self) -> u64;
}

/// What the layers above the machine know of a disk.
#[derive(Clone, Debug, Serialize)]
pub struct DiskFacts {
    /// Its number.
    pub id: DiskId,
    /// Its path as the user gave it, or `nop`.
    pub path: Arc<str>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Every offset and length is a multiple of this, bytes.
    pub logical_block_bytes: u32,
    /// A raw device rather than a file.
    pub raw_device: bool,
    /// Requests that the block layer takes before a submission blocks; 0 when unknown.
    pub nr_requests: u32,
    /// Its submissions are NOPs: software cost alone.
    pub nop: bool,
    /// What such requests copy from and to; none: they do nothing.
    #[serde(skip)]
    pub(crate) memory: Option<Arc<MemoryDisk>>,
    /// An I/O scheduler below us listens to priorities.
    pub priority_hints: bool,
    /// Reads and writes may go to a polled ring.
    pub polled: bool,
    /// Opened for reading only.
    pub read_only: bool,
}

impl DiskFacts {
    /// Of a place for a disk that is not there yet: no request is inside of it.
    pub(crate) fn vacant(id: DiskId) -> DiskFacts {
        DiskFacts {
            id,
            path: "vacant".into(),
            size_bytes: 0,
            logical_block_bytes: 512,
            raw_device: true,
            nr_requests: 0,
            nop: false,
            memory: None,
            priority_hints: false,
            polled: false,
            read_only: true,
        }
    }

    pub(crate) fn medium(&self) -> Medium {
        if self.raw_device { Medium::Device } else { Medium::File }
    }
}
