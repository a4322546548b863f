//! Larger mixes of threads and tasks on extent locks than `loom` can explore, by random schedules.
//!
//! Run with `RUSTFLAGS="--cfg shuttle" cargo test --release --test shuttle`. The seeds are fixed; a
//! failure prints the schedule, which `shuttle::replay` takes.
#![cfg(shuttle)]
// Only the test functions themselves are exempt by clippy.toml, not what they call.
#![allow(clippy::unwrap_used)]

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use dynamicfs::machine::mapping::PagePolicy;
use dynamicfs::{ExtentLockManager, LockConfig, LockMode, LockRefusal};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use shuttle::sync::{Condvar, Mutex};
use shuttle::{Config, Runner, thread};
use uuid::Uuid;

const SEED: u64 = 20_261_122;
const SCHEDULES: usize = 3_000;

/// Explores `model` by schedules that are random, and by such with few preemptions.
fn explore(model: fn()) {
    println!("seed {SEED}, {SCHEDULES} schedules of each kind");
    Runner::new(RandomScheduler::new_from_seed(SEED, SCHEDULES), Config::new()).run(model);
    Runner::new(PctScheduler::new_from_seed(SEED, 4, SCHEDULES), Config::new()).run(model);
}

/// What a task sleeps on: it remembers a wake-up until it is waited for.
#[derive(Default)]
struct Bell(Mutex<bool>, Condvar);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
}

impl Bell {
    /// If nobody ever rings, `shuttle` reports a deadlock: that is how a lost wake-up shows.
    fn wait(&self) {
        let mut rung = self.0.lock().unwrap();
        while !*rung {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Polls a future as a task does: again after each wake-up.
fn run<F: Future + Unpin>(mut future: F, bell: &Arc<Bell>) -> F::Output {
    let waker = Waker::from(Arc::clone(bell));
    loop {
        match Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => bell.wait(),
        }
    }
}

fn locks(locks_max: usize, overtakes_max: u8) -> ExtentLockManager {
    let pages = PagePolicy::Normal;
    ExtentLockManager::with_config(LockConfig { locks_max, shards: 1, overtakes_max, pages })
        .unwrap()
}

/// Who is in an extent.
#[derive(Default)]
struct Inside {
    readers: AtomicU32,
    writers: AtomicU32,
}

impl Inside {
    fn read(&self) {
        self.readers.fetch_add(1, Ordering::SeqCst);
        assert_eq!(self.writers.load(Ordering::SeqCst), 0, "a reader beside a writer");
        thread::yield_now();
        assert_eq!(self.writers.load(Ordering::SeqCst), 0, "a reader beside a writer");
        self.readers.fetch_sub(1, Ordering::SeqCst);
    }

    fn write(&self) {
        assert_eq!(self.writers.fetch_add(1, Ordering::SeqCst), 0, "two writers");
        assert_eq!(self.readers.load(Ordering::SeqCst), 0, "a writer beside a reader");
        thread::yield_now();
        assert_eq!(self.readers.load(Ordering::SeqCst), 0, "a writer beside a reader");
        self.writers.fetch_sub(1, Ordering::SeqCst);
    }
}

struct World {
    locks: ExtentLockManager,
    inside: [Inside; 3],
}

fn extent(index: usize) -> Uuid {
    Uuid::from_u128(index as u128 + 1)
}

impl World {
    /// One random thing that somebody does. A full table is an answer.
    fn act(&self, bell: &Arc<Bell>) {
        let index = thread_rng().gen_range(0..self.inside.len());
        let (locks, uuid, inside) = (&self.locks, extent(index), &self.inside[index]);
        match thread_rng().gen_range(0..9) {
            0 => self.ended(locks.read(uuid).wait().map(|_guard| inside.read())),
            1 => self.ended(locks.write(uuid).wait().map(|_guard| inside.write())),
            2 => self.ended(run(locks.read(uuid).into_future(), bell).map(|_guard| inside.read())),
            3 => {
                self.ended(run(locks.write(uuid).into_future(), bell).map(|_guard| inside.write()))
            }
            4 => drop(locks.try_read(uuid).map(|_guard| inside.read())),
            5 => drop(locks.try_write(uuid).map(|_guard| inside.write())),
            6 => self.ended(locks.write(uuid).wait().map(|guard| {
                inside.write();
                let _guard = guard.downgrade();
                inside.read();
            })),
            7 => self.give_up(uuid, bell),
            _ => self.many(bell),
        }
    }

    fn ended(&self, result: Result<(), LockRefusal>) {
        assert!(matches!(result, Ok(()) | Err(LockRefusal::TableFull { .. })), "{result:?}");
    }

    /// Waits as a task, and leaves at one point or another.
    fn give_up(&self, uuid: Uuid, bell: &Arc<Bell>) {
        let waker = Waker::from(Arc::clone(bell));
        let mut acquiring = self.locks.write(uuid).into_future();
        for _ in 0..thread_rng().gen_range(0..3) {
            if Pin::new(&mut acquiring).poll(&mut Context::from_waker(&waker)).is_ready() {
                return;
            }
            thread::yield_now();
        }
    }

    fn many(&self, bell: &Arc<Bell>) {
        let mode = |index: usize| [LockMode::Shared, LockMode::Exclusive][index % 2];
        let skew = thread_rng().gen_range(0..2);
        let all: Vec<_> =
            (0..self.inside.len()).map(|index| (extent(index), mode(index + skew))).collect();
        let locked = if thread_rng().gen_bool(0.5) {
            self.locks.lock_many(&all).wait()
        } else {
            run(self.locks.lock_many(&all), bell)
        };
        self.ended(locked.map(|_guards| {
            for (index, inside) in self.inside.iter().enumerate() {
                match mode(index + skew) {
                    LockMode::Shared => inside.read(),
                    LockMode::Exclusive => inside.write(),
                }
            }
        }));
    }
}

/// `threads` threads do random things; afterwards nothing is held or waited for.
fn mix(locks_max: usize, overtakes_max: u8, threads: usize) {
    let locks = locks(locks_max, overtakes_max);
    let world = Arc::new(World { locks, inside: Default::default() });
    let crowd: Vec<_> = (0..threads)
        .map(|_| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let bell = Arc::new(Bell::default());
                (0..4).for_each(|_| world.act(&bell));
            })
        })
        .collect();
    crowd.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(world.locks.live(), 0);
    for index in 0..world.inside.len() {
        assert!(world.locks.try_write(extent(index)).is_ok(), "extent {index} is stuck");
    }
}

#[test]
fn four_of_all_kinds_in_a_table_with_room() {
    explore(|| mix(4, 63, 4));
}

#[test]
fn six_of_all_kinds_fight_for_two_places() {
    explore(|| mix(2, 3, 6));
}

#[test]
fn eight_of_all_kinds_first_come_first_served() {
    explore(|| mix(4, 0, 8));
}

/// Two writers wait, the second behind the first; then three threads come that take the lock
/// whenever they can. While a writer holds the lock nobody else does, so what it counts then is
/// exactly how many later arrivals had it before: at most `bound` for it and for each before it.
fn overtaken(overtakes_max: u8, bound: u64) {
    let locks = Arc::new(locks(4, overtakes_max));
    let uuid = extent(0);
    let overtakers = Arc::new(AtomicU64::new(0));
    let holder = locks.try_read(uuid).unwrap();
    let bells = [Arc::new(Bell::default()), Arc::new(Bell::default())];
    let mut waiting = bells.each_ref().map(|_| locks.write(uuid).into_future());
    for (writer, bell) in waiting.iter_mut().zip(&bells) {
        let waker = Waker::from(Arc::clone(bell));
        assert!(Pin::new(writer).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..4 {
                    // Counted while it is held, so that no writer counts between the two.
                    let count = || overtakers.fetch_add(1, Ordering::SeqCst);
                    let _ = match thread_rng().gen_range(0..3) {
                        0 => locks.try_read(uuid).map(|_guard| count()),
                        1 => locks.try_write(uuid).map(|_guard| count()),
                        _ => locks.read(uuid).wait().map(|_guard| count()),
                    };
                }
            });
        }
        for (before, (writer, bell)) in waiting.into_iter().zip(&bells).enumerate() {
            let overtakers = &overtakers;
            scope.spawn(move || {
                let _guard = run(writer, bell).unwrap();
                let passed = overtakers.load(Ordering::SeqCst);
                let most = bound * (before as u64 + 1);
                assert!(passed <= most, "{passed} overtook a writer with {before} before it");
            });
        }
        drop(holder);
    });
    assert_eq!(locks.live(), 0);
}

#[test]
fn nobody_is_overtaken_more_often_than_the_bound() {
    explore(|| overtaken(0, 0));
    explore(|| overtaken(1, 1));
    explore(|| overtaken(3, 3));
}

#[test]
#[should_panic(expected = "overtook a writer")]
fn planted_a_lock_that_lets_one_more_pass_is_found_out() {
    explore(|| overtaken(4, 3));
}
