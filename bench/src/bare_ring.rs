//! The least that random reads through io_uring can cost: one ring, one thread, fixed file, fixed
//! buffers, no scheduler, no metrics, no slab. What the engine costs is measured against this.

pub mod durable;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use dynamicfs::machine::affinity::{pin_to, thread_cpu_ns};
use dynamicfs::machine::mapping::{Mapping, PagePolicy};
use dynamicfs::machine::uring::{EnterWait, Ring, RingConfig};
use io_uring::{opcode, types};

use crate::failure::Failure;
use crate::stream::Stream;

/// What to run.
#[derive(Debug)]
pub struct BareOrder<'a> {
    /// Disk to read; none submits NOPs.
    pub file: Option<&'a OwnedFd>,
    /// Bytes per read.
    pub block_bytes: u32,
    /// In flight.
    pub depth: u32,
    /// Completions to wait for, and so reads per submission.
    pub batch: u32,
    /// How long.
    pub runtime: Duration,
    /// Stop after so many reads.
    pub ios_max: u64,
    /// Where to run.
    pub cpu: u32,
}

/// What it took.
#[derive(Debug, Clone, Copy, Default)]
pub struct BareResult {
    /// Reads done.
    pub ios: u64,
    /// Wall time, nanoseconds.
    pub wall_ns: u64,
    /// CPU time of its thread, nanoseconds.
    pub cpu_ns: u64,
    /// System calls.
    pub enters: u64,
}

/// Runs the bare loop on a pinned thread of its own.
///
/// # Errors
/// [`Failure`] when the ring cannot be had or a read fails.
pub fn run(order: &BareOrder<'_>, stream: Stream) -> Result<BareResult, Failure> {
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin_to(order.cpu);
            BareLoop::new(order, stream)?.run(order)
        });
        thread.join()
    });
    outcome.unwrap_or_else(|_| Err(broken("its thread panicked")))
}

pub(crate) fn broken(what: &str) -> Failure {
    Failure::Runtime {
        message: format!("the bare ring failed: {what}"),
        help: "it needs what the engine needs: see the message, `ulimit -l` and `dmesg`".into(),
    }
}

struct BareLoop {
    ring: Ring,
    memory: Mapping,
    block_bytes: u32,
    nop: bool,
    stream: Stream,
}

impl BareLoop {
    fn new(order: &BareOrder<'_>, stream: Stream) -> Result<Self, Failure> {
        let config = RingConfig {
            sq_entries: order.depth.max(32),
            cq_entries: order.depth * 2 + 32,
            polled: false,
            skip_rungs: 0,
        };
        let mut ring = Ring::new(&config).map_err(|error| broken(&error.to_string()))?;
        let file: RawFd = order.file.map_or(-1, AsRawFd::as_raw_fd);
        ring.register_files(&[file]).map_err(|error| broken(&error.to_string()))?;
        let bytes = order.depth as usize * order.block_bytes as usize;
        let memory =
            Mapping::new(bytes, PagePolicy::Huge).map_err(|error| broken(&error.to_string()))?;
        let piece =
            libc::iovec { iov_base: memory.as_ptr().as_ptr().cast(), iov_len: memory.bytes() };
        // SAFETY: `memory` is dropped after the ring has been drained (see `run`).
        #[allow(unsafe_code)]
        let registered = unsafe { ring.register_buffers(&[piece]) };
        registered.map_err(|error| {
            let bytes = memory.bytes();
            broken(&format!("cannot lock {bytes} bytes of buffers (RLIMIT_MEMLOCK): {error}"))
        })?;
        Ok(Self { ring, memory, block_bytes: order.block_bytes, nop: file < 0, stream })
    }

    #[inline]
    fn push(&mut self, slot: u32) {
        let entry = if self.nop {
            opcode::Nop::new().build()
        } else {
            let (offset, _) = self.stream.next_request();
            let from = slot as usize * self.block_bytes as usize;
            let target = self.memory.as_ptr().as_ptr().wrapping_add(from);
            opcode::ReadFixed::new(types::Fixed(0), target, self.block_bytes, 0)
                .offset(offset)
                .build()
        };
        // SAFETY: the slot's part of `memory` is in no other read, and lives until all are done.
        #[allow(unsafe_code)]
        let pushed = unsafe { self.ring.push(&entry.user_data(u64::from(slot))) };
        assert!(pushed, "the ring has an entry for every slot");
    }

    fn run(mut self, order: &BareOrder<'_>) -> Result<BareResult, Failure> {
        let failed = |error: std::io::Error| broken(&error.to_string());
        let expected = if self.nop { 0 } else { self.block_bytes as i32 };
        (0..order.depth).for_each(|slot| self.push(slot));
        let mut in_flight = order.depth;
        let (start, cpu_start) = (Instant::now(), thread_cpu_ns());
        let mut result = BareResult::default();
        let mut reaped: Vec<u32> = Vec::with_capacity(order.depth as usize);
        let mut going = true;
        let mut wrong = None;
        while in_flight > 0 {
            let completions = order.batch.min(in_flight);
            self.ring
                .enter(EnterWait::For { completions, timeout_ns: None, settle_us: 0 })
                .map_err(failed)?;
            reaped.clear();
            for cqe in self.ring.completions() {
                if cqe.result() != expected {
                    wrong = Some(cqe.result());
                }
                reaped.push(cqe.user_data() as u32);
            }
            in_flight -= reaped.len() as u32;
            if going {
                result.ios += reaped.len() as u64;
                result.wall_ns = start.elapsed().as_nanos() as u64;
                going = wrong.is_none()
                    && result.wall_ns < order.runtime.as_nanos() as u64
                    && result.ios < order.ios_max;
                if !going {
                    result.cpu_ns = thread_cpu_ns() - cpu_start;
                    result.enters = self.ring.enters();
                }
            }
            if going {
                reaped.iter().for_each(|slot| self.push(*slot));
                in_flight += reaped.len() as u32;
            }
        }
        match wrong {
            None => Ok(result),
            Some(code) if code < 0 => Err(failed(std::io::Error::from_raw_os_error(-code))),
            Some(code) => Err(broken(&format!("a read gave {code} of {expected} bytes"))),
        }
    }
}
