//! Nobody starves: how often a waiter is overtaken, counted under real threads.
//!
//! A time limit would say little on a busy machine. What is promised is a number: a waiter with `n`
//! before it is overtaken by at most `(n + 1) * overtakes_max` later arrivals. So the streams count
//! the locks they take, and the waiter looks at the count when it has joined the queue and when it
//! has the lock. To these come the `n` before it, and one for each thread that had the lock and had
//! not counted it when the waiter looked. A waiter and its stream never share the lock, so that
//! nobody comes in between its getting the lock and its looking.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use dynamicfs::concurrency::lock::acquire::{Acquire, LockKind};
use dynamicfs::{ExtentLockManager, LockMode};

use crate::rig::{Bell, HANG, Watchdog, assert_all_free, extent, poll, table};

const OVERTAKES_MAX: u8 = 3;
const THREADS: usize = 3;
const OVERTAKEN_MAX: u64 = (THREADS as u64 + 1) * OVERTAKES_MAX as u64 + 2 * THREADS as u64;
const ROUNDS: usize = 300;

/// What the threads of a stream do.
#[derive(Clone, Copy)]
struct Stream<'a> {
    locks: &'a ExtentLockManager,
    taken: &'a AtomicU64,
    stop: &'a AtomicBool,
}

impl Stream<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self) -> u64 {
        self.taken.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Readers hand over: each stays until another has come, so that there always is one, unless
    /// newcomers are kept out.
    fn readers(self) {
        while self.goes_on() {
            let _guard = self.locks.read(extent(0)).wait().unwrap();
            let own = self.count();
            let patience = Instant::now() + Duration::from_millis(1);
            while self.taken.load(Ordering::Acquire) == own && Instant::now() < patience {
                std::hint::spin_loop();
            }
        }
    }

    fn writers(self) {
        while self.goes_on() {
            let _guard = self.locks.write(extent(0)).wait().unwrap();
            self.count();
        }
    }

    /// Tries that hold the lock long enough for the waiter to find it held.
    fn tries_to_write(self) {
        while self.goes_on() {
            if let Ok(_guard) = self.locks.try_write(extent(0)) {
                self.count();
                let until = Instant::now() + Duration::from_micros(20);
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
        }
    }

    fn tries_to_read(self) {
        while self.goes_on() {
            if let Ok(_guard) = self.locks.try_read(extent(0)) {
                self.count();
            }
        }
    }

    /// How often a waiter was overtaken; none if it did not have to wait.
    fn overtaken<K: LockKind>(&self, asked: Acquire<'_, K>) -> Option<u64> {
        let mut asked = asked.into_future();
        let (bell, waker) = Bell::new();
        if poll(&mut asked, &waker).is_ready() {
            return None;
        }
        let before = self.taken.load(Ordering::Acquire);
        bell.take();
        loop {
            if let Poll::Ready(guard) = poll(&mut asked, &waker) {
                let overtaken = self.taken.load(Ordering::Acquire) - before;
                drop(guard.unwrap());
                return Some(overtaken);
            }
            while !bell.take() {
                std::thread::park();
            }
        }
    }
}

fn waits_beside(test: &'static str, stream: fn(Stream<'_>), mode: LockMode) {
    let _watchdog = Watchdog::over(test, 0, HANG);
    let locks = table(64, 4, OVERTAKES_MAX);
    let (taken, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let shared = Stream { locks: &locks, taken: &taken, stop: &stop };
    let mut counts = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(move || stream(shared));
        }
        let deadline = Instant::now() + HANG / 2;
        while counts.len() < ROUNDS && Instant::now() < deadline {
            counts.extend(match mode {
                LockMode::Shared => shared.overtaken(locks.read(extent(0))),
                LockMode::Exclusive => shared.overtaken(locks.write(extent(0))),
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    let most = counts.iter().max().copied().unwrap_or(0);
    eprintln!("{test}: waited {} times, overtaken at most {most} times", counts.len());
    assert!(counts.len() > ROUNDS / 10, "it hardly ever had to wait: {}", counts.len());
    assert!(most <= OVERTAKEN_MAX, "overtaken {most} times, {OVERTAKEN_MAX} are allowed");
    assert_all_free(&locks, 1);
}

#[test]
fn readers_do_not_starve_a_writer() {
    waits_beside("readers_do_not_starve_a_writer", |stream| stream.readers(), LockMode::Exclusive);
}

#[test]
fn writers_do_not_starve_a_reader() {
    waits_beside("writers_do_not_starve_a_reader", |stream| stream.writers(), LockMode::Shared);
}

#[test]
fn writers_do_not_starve_a_writer() {
    waits_beside("writers_do_not_starve_a_writer", |stream| stream.writers(), LockMode::Exclusive);
}

#[test]
fn tries_do_not_starve_a_reader() {
    let tries: fn(Stream<'_>) = |stream| stream.tries_to_write();
    waits_beside("tries_do_not_starve_a_reader", tries, LockMode::Shared);
}

#[test]
fn tries_do_not_starve_a_writer() {
    let tries: fn(Stream<'_>) = |stream| stream.tries_to_read();
    waits_beside("tries_do_not_starve_a_writer", tries, LockMode::Exclusive);
}
