//! Threads that start together, work until they are told to stop, and are timed together.
//!
//! Every operation that was counted lies inside the time it is divided by: the clock runs from
//! the first thread's first operation to the last thread's last, also where threads that waited
//! for a lock end after the window.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dynamicfs::machine::affinity::pin_to;

/// What a group of threads did in a window.
#[derive(Debug, Clone)]
pub struct Timed {
    /// Operations of each thread.
    pub operations: Vec<u64>,
    /// From the first start to the last end.
    pub elapsed: Duration,
}

impl Timed {
    /// Operations of all threads together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.operations.iter().sum()
    }

    /// Operations a second of all threads together.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.total() as f64 / self.elapsed.as_secs_f64()
    }

    /// Nanoseconds that one operation took a thread of `of`, on average: the time of all these
    /// threads over what they did. NaN when they did nothing.
    #[must_use]
    pub fn ns_each(&self, of: &[u64]) -> f64 {
        let total: u64 = of.iter().sum();
        let spent = self.elapsed.as_secs_f64() * 1e9 * of.len() as f64;
        if total == 0 { f64::NAN } else { spent / total as f64 }
    }
}

/// The flag that ends a window.
pub struct Stop(AtomicBool);

impl Stop {
    /// Calls `batch` until the window is over; returns the sum of what it returned. A batch of a
    /// hundred operations or so keeps this flag out of the figures.
    #[inline]
    pub fn repeat(&self, mut batch: impl FnMut() -> u64) -> u64 {
        let mut operations = 0;
        loop {
            operations += batch();
            // Nothing is published by this flag; the threads are joined.
            if self.0.load(Ordering::Relaxed) {
                return operations;
            }
        }
    }

    /// Whether the window is over.
    #[inline]
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// CPUs this process may use, as the allowed set was at the first call.
#[must_use]
pub fn cpus() -> Vec<u32> {
    static CPUS: std::sync::OnceLock<Vec<u32>> = std::sync::OnceLock::new();
    CPUS.get_or_init(allowed).clone()
}

fn allowed() -> Vec<u32> {
    let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else {
        return vec![0];
    };
    let count = nix::sched::CpuSet::count();
    let found = (0..count).filter(|cpu| set.is_set(*cpu).unwrap_or(false));
    found.filter_map(|cpu| u32::try_from(cpu).ok()).collect()
}

/// Runs `work` on `count` threads for `window`. It is given the thread's number and the flag, and
/// returns its operations. As many threads as CPUs are pinned, one each; more are left to the
/// kernel.
///
/// # Panics
/// When `work` panics.
pub fn run<F>(count: usize, window: Duration, work: F) -> Timed
where
    F: Fn(usize, &Stop) -> u64 + Sync,
{
    let stop = Stop(AtomicBool::new(false));
    let together = Barrier::new(count + 1);
    let cpus = cpus();
    let (stop, together, work) = (&stop, &together, &work);
    let seen: Vec<(Instant, Instant, u64)> = std::thread::scope(|scope| {
        let started = (0..count).map(|thread| {
            let cpu = cpus.get(thread).copied().filter(|_| count <= cpus.len());
            scope.spawn(move || {
                if let Some(cpu) = cpu {
                    // An unpinned thread measures the same, with more noise.
                    let _ = pin_to(cpu);
                }
                together.wait();
                let start = Instant::now();
                let operations = work(thread, stop);
                (start, Instant::now(), operations)
            })
        });
        let threads: Vec<_> = started.collect();
        together.wait();
        std::thread::sleep(window);
        stop.0.store(true, Ordering::Relaxed);
        let joined = threads.into_iter().map(|thread| thread.join().expect("a measuring thread"));
        joined.collect()
    });
    let start = seen.iter().map(|(start, _, _)| *start).min();
    let end = seen.iter().map(|(_, end, _)| *end).max();
    Timed {
        operations: seen.iter().map(|(_, _, operations)| *operations).collect(),
        elapsed: end.zip(start).map_or(Duration::ZERO, |(end, start)| end - start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_works_at_least_once_and_all_its_work_is_counted() {
        let timed = run(5, Duration::from_millis(1), |thread, stop| {
            stop.repeat(|| if thread == 0 { 100 } else { 1 })
        });
        assert_eq!(timed.operations.len(), 5);
        assert!(timed.operations.iter().all(|operations| *operations > 0));
        assert_eq!(timed.total(), timed.operations.iter().sum::<u64>());
        assert!(timed.elapsed >= Duration::from_millis(1));
    }

    #[test]
    fn the_time_of_one_operation_counts_every_thread() {
        let timed = Timed { operations: vec![10, 10], elapsed: Duration::from_nanos(100) };
        assert!((timed.ns_each(&timed.operations) - 10.0).abs() < 1e-6);
        assert!(timed.ns_each(&[]).is_nan());
    }
}
