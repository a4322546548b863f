//! One io_uring: the set-up ladder, what was obtained, and the calls that a reactor makes.
//!
//! A ring is made on the thread that uses it (SINGLE_ISSUER). Each rung of the ladder drops the
//! newest demand and tries again on `EINVAL`; any other error is the answer, with its cause.
//! Rungs, newest first: everything; without NO_SQARRAY (6.6); COOP_TASKRUN in place of
//! DEFER_TASKRUN and SINGLE_ISSUER (6.1, 6.0); plain with SUBMIT_ALL (5.18); plain.

use io_uring::{CompletionQueue, IoUring, squeue};
use serde::Serialize;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::machine::affinity::memlock_limit_bytes;
use crate::machine::mapping::{Mapping, PagePolicy};

/// How a ring is wanted.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Submission entries, a power of two.
    pub sq_entries: u32,
    /// Completion entries: at least everything that can be in flight, plus wake-ups.
    pub cq_entries: u32,
    /// Poll the device for completions instead of taking interrupts. Needs poll queues.
    pub polled: bool,
    /// How many rungs of the ladder to skip, to try what an older kernel would give.
    pub skip_rungs: usize,
}

/// What the kernel gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RingCapabilities {
    /// Completions run only when the reactor asks for them.
    pub defer_taskrun: bool,
    /// Completions run at the next kernel entry.
    pub coop_taskrun: bool,
    /// Only this thread submits.
    pub single_issuer: bool,
    /// No indirection array between the queue and its entries.
    pub no_sqarray: bool,
    /// One bad entry does not stop the batch.
    pub submit_all: bool,
    /// The ring's descriptor is registered with this thread.
    pub registered_ring: bool,
    /// Completions are polled for.
    pub polled: bool,
    /// The kernel can wait for several completions with a bound on the delay (6.12).
    pub min_wait: bool,
    /// Waits take a timeout argument (5.11).
    pub timed_wait: bool,
    /// Chains whose first entry is only heard of when it fails (5.17, with `submit_all`).
    pub chains: bool,
    /// Disks are registered files.
    pub fixed_files: bool,
    /// Arenas are registered buffers.
    pub fixed_buffers: bool,
    /// Entries of the submission queue.
    pub sq_entries: u32,
}

/// Why there is no ring, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The system administrator turned io_uring off.
    #[error(
        "io_uring is disabled on this machine (kernel.io_uring_disabled = {value}); run \
         `sysctl kernel.io_uring_disabled=0`, or with value 1 run as root or join the group of \
         kernel.io_uring_group"
    )]
    Disabled {
        /// Value of the sysctl.
        value: String,
    },
    /// The system call is filtered or missing.
    #[error(
        "io_uring is not permitted here ({source}): a seccomp filter blocks it (containers do by \
         default: run with a profile that allows io_uring_setup, io_uring_enter and \
         io_uring_register) or the kernel is older than 5.15"
    )]
    Filtered {
        /// The system's answer.
        source: io::Error,
    },
    /// Locked memory is limited too tightly.
    #[error(
        "the limit on locked memory is too small: io_uring needs about {needed_bytes} bytes for \
         its queues and RLIMIT_MEMLOCK is {limit_bytes} bytes; raise it with `ulimit -l \
         {needed_kib}` or in limits.conf, or lower the queue depth"
    )]
    Memlock {
        /// Estimated need in bytes.
        needed_bytes: u64,
        /// The same in KiB, as ulimit counts.
        needed_kib: u64,
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// Anything else.
    #[error("cannot {action} an io_uring: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// How [`Ring::enter`] waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnterWait {
    /// Submit only; take no completions.
    Submit,
    /// Submit, and run the completions that are ready.
    Reap,
    /// Submit and sleep until `completions` are there.
    For {
        /// How many completions end the sleep.
        completions: u32,
        /// After this long in nanoseconds the sleep ends whatever happened.
        timeout_ns: Option<u64>,
        /// After this long in microseconds one completion is enough; 0 means never.
        settle_us: u32,
    },
}

/// A ring and how it is entered.
pub struct Ring {
    ring: IoUring,
    capabilities: RingCapabilities,
    /// Index of the registered ring descriptor, or the descriptor itself.
    enter_fd: RawFd,
    enter_flags: u32,
    staged: u32,
    /// Entries pushed so far.
    pushed: u64,
    /// Where in that count the second entries of staged chains are, in order.
    chained: VecDeque<u64>,
    enters: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_usec: u32,
    timespec: u64,
}

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: u32 = 20;
const RUNGS: usize = 5;

impl Ring {
    /// Makes a ring on the calling thread, which becomes its only submitter.
    pub fn new(config: &RingConfig) -> Result<Ring, RingError> {
        let mut rung = config.skip_rungs;
        let (ring, capabilities) = loop {
            let (built, capabilities) = build(config, rung);
            match built {
                Ok(ring) => break (ring, capabilities),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && rung + 1 < RUNGS => {
                    rung += 1;
                }
                Err(error) => return Err(explain(error, config)),
            }
        };
        let parameters = ring.params();
        let mut capabilities = RingCapabilities {
            polled: config.polled,
            sq_entries: parameters.sq_entries(),
            min_wait: parameters.is_feature_min_timeout(),
            timed_wait: parameters.is_feature_ext_arg(),
            // Without SUBMIT_ALL a bad entry ends a hand-over, and may so cut a chain in two.
            chains: parameters.is_feature_skip_cqe_on_success() && capabilities.submit_all,
            ..capabilities
        };
        let mut enter_fd = ring.as_raw_fd();
        let mut enter_flags = 0;
        if let Some(index) = register_ring_fd(enter_fd) {
            capabilities.registered_ring = true;
            enter_fd = index;
            enter_flags = ENTER_REGISTERED_RING;
        }
        // All the chains that fit, so that staging never allocates.
        let chained = VecDeque::with_capacity(capabilities.sq_entries as usize / 2);
        let (staged, pushed, enters) = (0, 0, 0);
        Ok(Ring { ring, capabilities, enter_fd, enter_flags, staged, pushed, chained, enters })
    }

    /// What the kernel gave.
    pub fn capabilities(&self) -> RingCapabilities {
        self.capabilities
    }

    /// System calls made to enter the ring so far.
    pub fn enters(&self) -> u64 {
        self.enters
    }

    /// Registers descriptors as fixed files, in order.
    pub fn register_files(&mut self, files: &[RawFd]) -> Result<(), RingError> {
        self.ring
            .submitter()
            .register_files(files)
            .map_err(|source| RingError::System { action: "register the disks with", source })?;
        self.capabilities.fixed_files = true;
        Ok(())
    }

    /// Puts a descriptor in the place of fixed file `index`, which has to be registered; -1 empties
    /// it.
    pub fn update_file(&mut self, index: u32, file: RawFd) -> io::Result<()> {
        match self.ring.submitter().register_files_update(index, &[file])? {
            1 => Ok(()),
            _ => Err(io::Error::other("the kernel did not take the descriptor")),
        }
    }

    /// Registers memory as fixed buffers, in order. A piece is at most 1 GiB.
    ///
    /// # Safety
    /// Each piece must stay mapped until the ring is closed and its in-flight requests are done.
    #[allow(unsafe_code)]
    pub unsafe fn register_buffers(&mut self, pieces: &[libc::iovec]) -> io::Result<()> {
        // SAFETY: the caller keeps the pieces mapped; this call only reads the array.
        unsafe { self.ring.submitter().register_buffers(pieces)? };
        self.capabilities.fixed_buffers = true;
        Ok(())
    }

    /// Keeps work that the kernel hands to worker threads (flushes, discards) on these CPUs: those
    /// of the reactor's node, not its own CPU alone, where a busy reactor would hold them up.
    pub fn keep_workers_on(&self, cpus: &[u32]) {
        let mut set: libc::cpu_set_t = zeroed_cpu_set();
        let fitting = cpus.iter().map(|cpu| *cpu as usize);
        let fitting = fitting.filter(|cpu| *cpu < nix::sched::CpuSet::count());
        fitting.for_each(|cpu| set_cpu(&mut set, cpu));
        // A kernel before 5.14 refuses: its workers run anywhere, which costs but works.
        let _ = self.ring.submitter().register_iowq_aff(&set);
    }

    /// Free submission entries.
    #[inline]
    pub fn room(&mut self) -> u32 {
        let sq = self.ring.submission();
        (sq.capacity() - sq.len()) as u32
    }

    /// Stages one entry for the next [`Ring::enter`]. False when the queue is full.
    ///
    /// # Safety
    /// The memory that the entry names must stay valid until its completion was reaped.
    #[inline]
    #[allow(unsafe_code)]
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller keeps the entry's memory valid until the completion.
        let pushed = unsafe { self.ring.submission().push(entry) }.is_ok();
        self.staged += u32::from(pushed);
        self.pushed += u64::from(pushed);
        pushed
    }

    /// Stages two entries, the second of which runs when the first has done all that it says
    /// (a short transfer counts as failed). The first completes only when it failed, and then the
    /// second neither runs nor completes. False when there is no room for both, or the ring does
    /// not do chains.
    ///
    /// # Safety
    /// As [`Ring::push`]; the first entry's memory until either of the two has completed.
    #[allow(unsafe_code)]
    pub unsafe fn push_chain(&mut self, first: squeue::Entry, second: squeue::Entry) -> bool {
        if !self.capabilities.chains {
            return false;
        }
        let first = first.flags(squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS);
        // SAFETY: the caller keeps the entries' memory valid until the completion.
        let pushed = unsafe { self.ring.submission().push_multiple(&[first, second]) }.is_ok();
        if pushed {
            self.chained.push_back(self.pushed + 1);
            self.pushed += 2;
            self.staged += 2;
        }
        pushed
    }

    /// Entries staged and not yet handed to the kernel.
    #[inline]
    pub fn staged(&self) -> u32 {
        self.staged
    }

    /// Whether the kernel holds completions back until [`Ring::enter`] takes them, or some are
    /// in the queue already.
    #[inline]
    pub fn has_completions(&mut self) -> bool {
        if !self.ring.completion().is_empty() {
            return true;
        }
        let sq = self.ring.submission();
        sq.taskrun() || sq.cq_overflow()
    }

    /// Whether the kernel has work that it does when [`Ring::enter`] comes by: to post completions,
    /// and to start what is linked to what has ended.
    #[inline]
    pub fn has_work(&mut self) -> bool {
        self.ring.submission().taskrun()
    }

    /// The completion queue.
    #[inline]
    pub fn completions(&mut self) -> CompletionQueue<'_> {
        self.ring.completion()
    }

    /// One system call: hands over what is staged and waits as told.
    ///
    /// `Ok` also when the wait ended by time or a signal. `EAGAIN` and `EBUSY` mean that nothing
    /// more was taken this time: the rest stays staged, reap and call again. A chain of which the
    /// kernel took one entry alone is an error that ends the ring: what it left runs by itself, and
    /// its success would say nothing of the first. It takes a kernel without memory for a request.
    #[allow(unsafe_code)]
    pub fn enter(&mut self, wait: EnterWait) -> io::Result<()> {
        let mut flags = self.enter_flags;
        let mut minimum = 0;
        let mut argument =
            GetEventsArg { sigmask: 0, sigmask_bytes: 8, min_wait_usec: 0, timespec: 0 };
        let mut timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        match wait {
            EnterWait::Submit => {}
            EnterWait::Reap => flags |= ENTER_GETEVENTS,
            EnterWait::For { completions, timeout_ns, settle_us } => {
                flags |= ENTER_GETEVENTS;
                minimum = completions;
                if self.capabilities.timed_wait && (timeout_ns.is_some() || settle_us > 0) {
                    flags |= ENTER_EXT_ARG;
                }
                if let Some(ns) = timeout_ns {
                    timespec.tv_sec = (ns / 1_000_000_000) as libc::time_t;
                    timespec.tv_nsec = (ns % 1_000_000_000) as libc::c_long;
                    argument.timespec = (&raw const timespec) as u64;
                }
                if self.capabilities.min_wait {
                    argument.min_wait_usec = settle_us;
                }
            }
        }
        self.enters += 1;
        let (pointer, bytes) = if flags & ENTER_EXT_ARG == 0 {
            (std::ptr::null(), 0)
        } else {
            (&raw const argument, size_of::<GetEventsArg>())
        };
        // SAFETY: the descriptor is our ring's; `argument` and `timespec` live across the call;
        // staged entries were pushed under `push`'s contract.
        let taken = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                self.staged,
                minimum,
                flags,
                pointer,
                bytes,
            )
        };
        self.entered(taken)
    }

    #[inline]
    fn entered(&mut self, taken: i64) -> io::Result<()> {
        if taken >= 0 {
            self.staged -= taken as u32;
            return self.forget_chains();
        }
        let error = io::Error::last_os_error();
        // What was handed over before the wait failed is gone from the queue: ask the queue.
        self.staged = self.ring.submission().len() as u32;
        self.forget_chains()?;
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR) => Ok(()),
            _ => Err(error),
        }
    }
}

impl Ring {
    /// Forgets the chains that were handed over; an error when one was cut in two.
    #[inline]
    fn forget_chains(&mut self) -> io::Result<()> {
        if self.chained.is_empty() {
            return Ok(());
        }
        let taken = self.pushed - u64::from(self.staged);
        while let Some(second) = self.chained.front() {
            match second.cmp(&taken) {
                std::cmp::Ordering::Less => self.chained.pop_front(),
                std::cmp::Ordering::Equal => {
                    return Err(io::Error::other("the kernel took half of a chain of two entries"));
                }
                std::cmp::Ordering::Greater => break,
            };
        }
        Ok(())
    }
}

impl Drop for Ring {
    /// Gives the registered files back at once: the kernel takes a closed ring apart later, and
    /// until then it would keep the disks open and locked against the next who opens them.
    fn drop(&mut self) {
        if self.capabilities.fixed_files {
            // The ring goes away in any case.
            let _ = self.ring.submitter().unregister_files();
        }
    }
}

/// Tries one read of `block_bytes` through a polled ring: the only proof that polling works.
///
/// # Errors
/// What the ring or the read said; `TimedOut` when no completion came within two seconds, and
/// then the read's memory is leaked, since the device may still write to it.
#[allow(unsafe_code)]
pub fn try_polled_read(file: RawFd, block_bytes: u32) -> io::Result<()> {
    let config = RingConfig { sq_entries: 4, cq_entries: 4, polled: true, skip_rungs: 0 };
    let mut ring = Ring::new(&config).map_err(io::Error::other)?;
    let memory = Mapping::new(1, PagePolicy::Normal).map_err(io::Error::other)?;
    let target = memory.as_ptr().as_ptr();
    let read = io_uring::opcode::Read::new(io_uring::types::Fd(file), target, block_bytes).build();
    // SAFETY: `memory` outlives the completion, or is leaked below.
    if !unsafe { ring.push(&read) } {
        return Err(io::Error::other("a new ring has no room"));
    }
    let start = std::time::Instant::now();
    while start.elapsed() < std::time::Duration::from_secs(2) {
        ring.enter(EnterWait::Reap)?;
        if let Some(completion) = ring.completions().next() {
            let result = completion.result();
            return if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
        }
    }
    std::mem::forget(memory);
    Err(io::ErrorKind::TimedOut.into())
}

fn build(config: &RingConfig, rung: usize) -> (io::Result<IoUring>, RingCapabilities) {
    let mut builder = IoUring::builder();
    let mut capabilities = RingCapabilities::default();
    builder.setup_cqsize(config.cq_entries.next_power_of_two()).setup_clamp();
    if config.polled {
        builder.setup_iopoll();
    }
    if rung <= 3 {
        builder.setup_submit_all();
        capabilities.submit_all = true;
    }
    if rung <= 1 {
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        capabilities.single_issuer = true;
        capabilities.defer_taskrun = true;
    } else if rung == 2 {
        builder.setup_coop_taskrun().setup_taskrun_flag();
        capabilities.coop_taskrun = true;
    }
    if rung == 0 {
        builder.setup_no_sqarray();
        capabilities.no_sqarray = true;
    }
    (builder.build(config.sq_entries.next_power_of_two()), capabilities)
}

/// Spares the kernel the descriptor look-up at every entry (5.18).
#[allow(unsafe_code)]
fn register_ring_fd(fd: RawFd) -> Option<RawFd> {
    /// `struct io_uring_rsrc_update`.
    #[repr(C)]
    struct Update {
        offset: u32,
        reserved: u32,
        data: u64,
    }
    let mut update = Update { offset: u32::MAX, reserved: 0, data: fd as u64 };
    // SAFETY: one update structure, alive across the call, for a descriptor that we own.
    let registered = unsafe {
        libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, &raw mut update, 1)
    };
    (registered == 1).then_some(update.offset as RawFd)
}

#[allow(unsafe_code)]
fn zeroed_cpu_set() -> libc::cpu_set_t {
    // SAFETY: cpu_set_t is a plain bit array; all zeroes is the empty set.
    unsafe { std::mem::zeroed() }
}

#[allow(unsafe_code)]
fn set_cpu(set: &mut libc::cpu_set_t, cpu: usize) {
    // SAFETY: the macro checks the index against the size of the set.
    unsafe { libc::CPU_SET(cpu, set) }
}

fn explain(source: io::Error, config: &RingConfig) -> RingError {
    match source.raw_os_error() {
        Some(libc::EPERM) => {
            let value = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
            match value.as_deref().map(str::trim) {
                Ok(value) if value != "0" => RingError::Disabled { value: value.to_owned() },
                _ => RingError::Filtered { source },
            }
        }
        Some(libc::ENOSYS | libc::EACCES | libc::EOPNOTSUPP) => RingError::Filtered { source },
        Some(libc::ENOMEM) => {
            // 64 bytes an entry, 16 a completion, rounded up to pages twice over.
            let entries = u64::from(config.sq_entries.next_power_of_two());
            let completions = u64::from(config.cq_entries.next_power_of_two());
            let needed_bytes = (entries * 68 + completions * 16 + 16_384).next_multiple_of(4096);
            match memlock_limit_bytes() {
                Some(limit_bytes) => RingError::Memlock {
                    needed_bytes,
                    needed_kib: needed_bytes / 1024,
                    limit_bytes,
                },
                None => RingError::System { action: "set up", source },
            }
        }
        _ => RingError::System { action: "set up", source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::opcode;

    fn ring(skip_rungs: usize) -> Ring {
        let config = RingConfig { sq_entries: 8, cq_entries: 64, polled: false, skip_rungs };
        Ring::new(&config).unwrap()
    }

    #[test]
    #[allow(unsafe_code)]
    fn every_rung_of_the_ladder_moves_entries() {
        for rung in 0..RUNGS {
            let mut ring = ring(rung);
            for user_data in 0..8 {
                let entry = opcode::Nop::new().build().user_data(user_data);
                // SAFETY: a NOP names no memory.
                assert!(unsafe { ring.push(&entry) });
            }
            assert_eq!(ring.room(), 0, "rung {rung}");
            ring.enter(EnterWait::For { completions: 8, timeout_ns: None, settle_us: 0 }).unwrap();
            let seen: Vec<u64> = ring.completions().map(|cqe| cqe.user_data()).collect();
            assert_eq!(seen, (0..8).collect::<Vec<u64>>(), "rung {rung}");
            assert_eq!(ring.staged(), 0);
        }
    }

    /// A chain of a write of `bytes` to a full socket's buffer or less, and a NOP.
    #[allow(unsafe_code)]
    fn chain(ring: &mut Ring, file: RawFd, bytes: &[u8]) -> Vec<(u64, i32)> {
        let write =
            opcode::Write::new(io_uring::types::Fd(file), bytes.as_ptr(), bytes.len() as u32)
                .build()
                .user_data(1);
        let nop = opcode::Nop::new().build().user_data(2);
        // SAFETY: the bytes outlive the wait below, which takes the chain's only completion.
        assert!(unsafe { ring.push_chain(write, nop) });
        ring.enter(EnterWait::For { completions: 1, timeout_ns: None, settle_us: 0 }).unwrap();
        // A second completion would come no later than this.
        let wait = EnterWait::For { completions: 1, timeout_ns: Some(20_000_000), settle_us: 0 };
        let mut seen: Vec<_> =
            ring.completions().map(|cqe| (cqe.user_data(), cqe.result())).collect();
        ring.enter(wait).unwrap();
        seen.extend(ring.completions().map(|cqe| (cqe.user_data(), cqe.result())));
        seen
    }

    #[test]
    fn a_chain_completes_once_by_its_end_or_by_what_broke_it() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        for rung in 0..RUNGS {
            let mut ring = ring(rung);
            if !ring.capabilities().chains {
                assert!(rung == RUNGS - 1, "this kernel chains without SUBMIT_ALL only");
                continue;
            }
            let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
            let whole = chain(&mut ring, null.as_raw_fd(), &[0; 4096]);
            assert_eq!(whole, [(2, 0)], "rung {rung}: done whole");
            let failed = chain(&mut ring, full.as_raw_fd(), &[0; 4096]);
            assert_eq!(failed, [(1, -libc::ENOSPC)], "rung {rung}: failed");
            let long = vec![0; 8 << 20];
            let short = chain(&mut ring, ours.as_raw_fd(), &long);
            assert_eq!((short.len(), short[0].0), (1, 1), "rung {rung}: short");
            assert!(short[0].1 < long.len() as i32, "{short:?}");
            assert_eq!(ring.staged(), 0);
            // Room for the next round.
            let _ = std::io::Read::read(&mut &theirs, &mut vec![0; 8 << 20]).unwrap();
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_chain_that_is_cut_in_two_ends_the_ring() {
        let mut ring = ring(0);
        let nop = |n| opcode::Nop::new().build().user_data(n);
        // SAFETY: a NOP names no memory.
        assert!(unsafe { ring.push(&nop(1)) });
        // SAFETY: as above.
        assert!(unsafe { ring.push_chain(nop(2), nop(3)) });
        // What the kernel's answer would be.
        let mut taken = |count| ring.entered(count).map_err(|error| error.to_string());
        taken(1).unwrap();
        assert!(taken(1).unwrap_err().contains("half of a chain"));
    }

    #[test]
    fn a_wait_without_completions_ends_in_time() {
        let mut ring = ring(0);
        let wait = EnterWait::For { completions: 1, timeout_ns: Some(2_000_000), settle_us: 0 };
        let start = std::time::Instant::now();
        ring.enter(wait).unwrap();
        let waited = start.elapsed();
        assert!(waited.as_millis() >= 2 && waited.as_millis() < 2_000, "{waited:?}");
    }

    #[test]
    fn a_missing_right_is_named() {
        let config = RingConfig { sq_entries: 8, cq_entries: 8, polled: false, skip_rungs: 0 };
        let error = explain(io::Error::from_raw_os_error(libc::ENOSYS), &config);
        assert!(error.to_string().contains("seccomp"), "{error}");
        let error = explain(io::Error::from_raw_os_error(libc::EPERM), &config);
        assert!(error.to_string().contains("io_uring"), "{error}");
    }
}
