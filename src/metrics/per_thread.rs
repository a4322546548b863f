//! Counters that every thread may raise at the price of a plain load and store: each thread has
//! its own, and a reader adds them up.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_utils::CachePadded;

/// Threads that have counters of their own; those that start while so many live share one more
/// set, and pay a read-modify-write.
const THREADS: usize = 256;
const SHARED: usize = THREADS;
const UNKNOWN: usize = usize::MAX;

/// Numbers that no living thread has: those given back, and the next new one.
static FREE: Mutex<(Vec<usize>, usize)> = Mutex::new((Vec::new(), 0));

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(UNKNOWN) };
    static REGISTRATION: Registration = Registration::new();
}

/// A thread's number while it lives.
struct Registration(usize);

impl Registration {
    fn new() -> Registration {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = free.0.pop() {
            return Registration(number);
        }
        let number = free.1.min(SHARED);
        free.1 = (number + 1).min(SHARED);
        Registration(number)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // What this thread still counts on its way out goes to the shared set: the mutex orders its
        // last store before the first of the number's next owner.
        NUMBER.set(SHARED);
        if self.0 != SHARED {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).0.push(self.0);
        }
    }
}

/// Gives the thread its number.
fn register() {
    NUMBER.set(REGISTRATION.try_with(|registration| registration.0).unwrap_or(SHARED));
}

/// `N` counters for each thread.
pub struct PerThread<const N: usize> {
    /// An array, not a slice: a thread's number needs no check against it.
    sets: Box<[CachePadded<[AtomicU64; N]>; THREADS + 1]>,
}

impl<const N: usize> Default for PerThread<N> {
    fn default() -> Self {
        let set = |_| CachePadded::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let sets: Box<[_]> = (0..=THREADS).map(set).collect();
        let Ok(sets) = sets.try_into() else { unreachable!("the iterator has that many items") };
        PerThread { sets }
    }
}

impl<const N: usize> std::fmt::Debug for PerThread<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries((0..N).map(|which| self.sum(which))).finish()
    }
}

impl<const N: usize> PerThread<N> {
    /// Raises counter `which` (below `N`) by one.
    #[inline(always)]
    pub fn raise(&self, which: usize) {
        let number = NUMBER.get();
        if number >= SHARED {
            return self.raise_first(number, which);
        }
        // One writer: no other living thread has this number.
        let counter = &self.sets[number][which];
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// By a thread that has no number yet, or none of its own.
    #[cold]
    #[inline(never)]
    fn raise_first(&self, number: usize, which: usize) {
        if number == UNKNOWN {
            // From the next time on; this once is counted with the shared ones.
            register();
        }
        self.sets[SHARED][which].fetch_add(1, Ordering::Relaxed);
    }

    /// All threads' counts of `which` together, as of a moment ago.
    pub fn sum(&self, which: usize) -> u64 {
        self.sets.iter().map(|set| set[which].load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_is_counted_also_when_there_are_many_and_when_they_end() {
        let counters = PerThread::<2>::default();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                for _ in 0..THREADS + 50 {
                    scope.spawn(|| (0..100).for_each(|_| counters.raise(1)));
                }
            });
        }
        assert_eq!(counters.sum(1), 3 * (THREADS as u64 + 50) * 100);
        assert_eq!(counters.sum(0), 0);
    }
}
