//! Plain memory under the locks, for ThreadSanitizer: it reports two accesses of which one writes
//! when no lock, as it understands locks, puts one before the other. Without it this is a test of
//! exclusion like the others.
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 CARGO_PROFILE_TEST_DEBUG_ASSERTIONS=false \
//! RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" \
//! TSAN_OPTIONS=suppressions=$PWD/tests/locks/tsan.supp \
//!     cargo test --target x86_64-unknown-linux-gnu --test locks
//! ```
//!
//! The standard library comes built without the sanitizer, so that it does not see what a mutex
//! puts in order that had to wait, nor the fence in `Arc`; `tsan.supp` names what stands on these.
//! Debug assertions are off because the order check keeps all it knows under a mutex.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

use dynamicfs::machine::mapping::PagePolicy;
use dynamicfs::{ExtentLockManager, InodeLocks, LockMode, LockRefusal};

use crate::rig::{HANG, Numbers, Watchdog, assert_all_free, block_on, extent, seed, table};

const THREADS: u64 = 8;
const ROUNDS: usize = 3000;
const EXTENTS: usize = 4;

/// A record that only who holds its lock touches.
#[derive(Default)]
struct Plain(UnsafeCell<[u64; 4]>);

// SAFETY: every access is in `read` or `add`, whose callers hold the record's lock, shared or
// exclusively. That this is enough is what the test is about.
unsafe impl Sync for Plain {}

impl Plain {
    /// For a shared holder.
    fn read(&self) -> [u64; 4] {
        // SAFETY: the caller holds the lock shared, and who writes holds it exclusively.
        unsafe { *self.0.get() }
    }

    /// For an exclusive holder.
    fn add(&self) {
        // SAFETY: the caller holds the lock exclusively, and the reference ends with this call.
        let words = unsafe { &mut *self.0.get() };
        for word in words {
            *word += 1;
        }
    }
}

fn check(words: [u64; 4]) {
    assert!(words.iter().all(|word| *word == words[0]), "a torn record: {words:?}");
}

struct World<'a> {
    locks: &'a ExtentLockManager,
    records: [Plain; EXTENTS],
    written: AtomicU64,
}

impl World<'_> {
    fn wrote(&self, at: usize) {
        self.records[at].add();
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    fn step(&self, numbers: &mut Numbers) -> Result<(), LockRefusal> {
        let at = numbers.below(EXTENTS);
        let id = extent(at);
        match numbers.below(7) {
            0 => {
                let _guard = self.locks.read(id).wait()?;
                check(self.records[at].read());
            }
            1 => {
                let _guard = block_on(self.locks.read(id))?;
                check(self.records[at].read());
            }
            2 => {
                let _guard = self.locks.try_read(id)?;
                check(self.records[at].read());
            }
            3 => {
                let guard = self.locks.write(id).wait()?;
                self.wrote(at);
                let _guard = guard.downgrade();
                check(self.records[at].read());
            }
            4 => {
                let _guard = block_on(self.locks.write(id))?;
                self.wrote(at);
            }
            5 => {
                let _guard = self.locks.try_write(id)?;
                self.wrote(at);
            }
            _ => {
                let other = (at + 1) % EXTENTS;
                let two = [(id, LockMode::Exclusive), (extent(other), LockMode::Shared)];
                let _guards = self.locks.lock_many(&two).wait()?;
                self.wrote(at);
                check(self.records[other].read());
            }
        }
        Ok(())
    }
}

fn run(test: &'static str, locks: &ExtentLockManager) {
    let seed = seed();
    eprintln!("{test}: DYNAMICFS_STRESS_SEED={seed}");
    let _watchdog = Watchdog::over(test, seed, HANG);
    let (records, written) = (std::array::from_fn(|_| Plain::default()), AtomicU64::new(0));
    let world = World { locks, records, written };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (world, mut numbers) = (&world, Numbers(seed ^ (thread << 40)));
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let _ = world.step(&mut numbers);
                }
            });
        }
    });
    let last = |at: usize| {
        let _guard = locks.read(extent(at)).wait().unwrap();
        world.records[at].read()[0]
    };
    assert_eq!(
        (0..EXTENTS).map(last).sum::<u64>(),
        world.written.load(Ordering::Relaxed),
        "two wrote one record at once"
    );
    assert_all_free(locks, EXTENTS);
}

#[test]
fn plain_memory_under_extent_locks() {
    run("plain_memory_under_extent_locks", &table(64, 4, 63));
}

#[test]
fn plain_memory_under_locks_that_change_hands() {
    run("plain_memory_under_locks_that_change_hands", &table(2, 1, 3));
}

#[test]
fn plain_memory_under_inode_locks() {
    let locks = table(2, 1, 63);
    let inodes = InodeLocks::beside(&locks, PagePolicy::Normal).unwrap();
    let record = Plain::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let guard = inodes.write(5).wait().unwrap();
                    record.add();
                    let _guard = guard.downgrade();
                    check(record.read());
                }
            });
        }
    });
    let _guard = inodes.read(5).wait().unwrap();
    assert_eq!(record.read()[0], THREADS * ROUNDS as u64);
}
