//! Where a thread runs, where memory lies, and what a thread has cost.

use std::ptr::NonNull;

/// Pins the calling thread to one hardware thread. False when the system refused.
pub fn pin_to(cpu: u32) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu as usize })
}

/// The hardware thread this code runs on now.
pub fn current_cpu() -> Option<u32> {
    nix::sched::sched_getcpu().ok().and_then(|cpu| u32::try_from(cpu).ok())
}

/// The NUMA node that holds the page of `address`; none when the kernel cannot tell.
pub fn node_of(address: NonNull<u8>) -> Option<u32> {
    let mut page = address.as_ptr().cast::<libc::c_void>();
    let mut status: libc::c_int = -1;
    // SAFETY: with a null `nodes`, move_pages moves nothing: it reads one address from `page` and
    // writes one int to `status`, both alive across the call.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            1usize,
            &raw mut page,
            std::ptr::null::<libc::c_int>(),
            &raw mut status,
            0,
        )
    };
    if result == 0 { u32::try_from(status).ok() } else { None }
}

/// CPU time of a thread, split as the kernel accounts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadUsage {
    /// User time, nanoseconds.
    pub user_ns: u64,
    /// System time, nanoseconds.
    pub system_ns: u64,
    /// User and system together from the thread's own CPU clock, nanoseconds: precise where the
    /// two above may be sampled by ticks.
    pub cpu_ns: u64,
    /// Times it gave the CPU away by sleeping.
    pub voluntary_switches: u64,
    /// Times the CPU was taken away.
    pub involuntary_switches: u64,
    /// Page faults that read from a disk.
    pub major_faults: u64,
    /// Page faults that did not.
    pub minor_faults: u64,
}

/// What the calling thread has cost since it started.
pub fn thread_usage() -> ThreadUsage {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let mut usage = ThreadUsage { cpu_ns: thread_cpu_ns(), ..ThreadUsage::default() };
    if let Ok(seen) = getrusage(UsageWho::RUSAGE_THREAD) {
        usage.user_ns = seen.user_time().num_nanoseconds().max(0) as u64;
        usage.system_ns = seen.system_time().num_nanoseconds().max(0) as u64;
        usage.voluntary_switches = seen.voluntary_context_switches().max(0) as u64;
        usage.major_faults = seen.major_page_faults().max(0) as u64;
        usage.minor_faults = seen.minor_page_faults().max(0) as u64;
        usage.involuntary_switches = seen.involuntary_context_switches().max(0) as u64;
    }
    usage
}

/// CPU time of the calling thread in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(|time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
        .unwrap_or(0)
}

/// The soft limit on locked memory in bytes; none when unlimited.
pub fn memlock_limit_bytes() -> Option<u64> {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft != RLIM_INFINITY => Some(soft),
        _ => None,
    }
}
