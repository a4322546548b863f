//! Locks of extents, over the manager that production uses, in tables of one lock or two.
//!
//! What a lock guards is a cell that `loom` watches: two who hold it at once, or one who does not
//! see what the last holder wrote, are caught there. Who waits, waits in `wait()` or as a task that
//! is polled by hand; a wake-up that is lost shows as a deadlock.

// The cells are reached as a lock's holder reaches its extent: because it holds the lock.
#![allow(unsafe_code)]

use std::sync::Arc;

use dynamicfs::machine::mapping::PagePolicy;
use dynamicfs::{ExtentLockManager, LockConfig, LockRefusal};
use loom::cell::UnsafeCell;
use loom::thread;
use uuid::Uuid;

use crate::{explore_parts, explore_with};

/// Preemptions of models with two threads, and with three. Without a bound two threads that wait
/// for one lock take longer than anybody does for them.
const TWO_THREADS: Option<usize> = Some(2);
const THREE_THREADS: Option<usize> = Some(2);

/// What locks guard: a cell for each extent, and one for the only slot of a table of one.
struct Extents {
    locks: ExtentLockManager,
    cells: [UnsafeCell<u32>; 5],
    slot: UnsafeCell<u32>,
}

// SAFETY: a cell is reached under its lock alone; that this is so is what the models put to test.
unsafe impl Sync for Extents {}
// SAFETY: plain data.
unsafe impl Send for Extents {}

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;
/// Shares the first half of its key with `C`, and the second with `D`.
const C_WITH_D: usize = 4;

/// The home of all of them, but for `D`, is slot 0 also in a table of two.
fn id(extent: usize) -> Uuid {
    let (high, low) = [(0, 1), (0, 2), (0, 4), (1, 7), (0, 7)][extent];
    Uuid::from_u64_pair(high, low)
}

fn config(locks_max: usize, overtakes_max: u8) -> LockConfig {
    LockConfig { locks_max, shards: 1, overtakes_max, pages: PagePolicy::Normal }
}

impl Extents {
    fn new(locks_max: usize, overtakes_max: u8) -> Extents {
        let locks = ExtentLockManager::with_config(config(locks_max, overtakes_max)).unwrap();
        Extents { locks, cells: [0; 5].map(UnsafeCell::new), slot: UnsafeCell::new(0) }
    }

    /// Writes what the exclusive lock of `extent` guards.
    fn write_cell(&self, extent: usize) {
        // SAFETY: the caller holds the lock.
        self.cells[extent].with_mut(|cell| unsafe { *cell += 1 });
        if self.locks.locks_max() == 1 {
            // SAFETY: the caller holds the one lock of the table.
            self.slot.with_mut(|slot| unsafe { *slot += 1 });
        }
    }

    /// Reads what a lock of `extent` guards.
    fn read_cell(&self, extent: usize) -> u32 {
        // SAFETY: the caller holds the lock.
        self.cells[extent].with(|cell| unsafe { *cell })
    }

    fn wait_and_write(&self, extent: usize) {
        let held = self.locks.write(id(extent)).wait().unwrap();
        self.write_cell(extent);
        drop(held);
    }

    fn wait_and_read(&self, extent: usize) -> u32 {
        let held = self.locks.read(id(extent)).wait().unwrap();
        let value = self.read_cell(extent);
        drop(held);
        value
    }

    /// Writes, if that needs no waiting.
    fn try_and_write(&self, extent: usize) -> Result<(), LockRefusal> {
        let held = self.locks.try_write(id(extent))?;
        self.write_cell(extent);
        drop(held);
        Ok(())
    }

    /// Tries an extent that the others want too.
    fn tries(&self, extent: usize) {
        let _ = self.try_and_write(extent);
    }

    /// Tries an extent that nobody else holds: the table may be full, but the lock is not held.
    fn try_unheld(&self, extent: usize) {
        let refusal = self.try_and_write(extent).err();
        assert_ne!(refusal, Some(LockRefusal::Held), "refused what nobody holds");
    }
}

fn one_slot() -> Extents {
    Extents::new(1, 63)
}

/// The lock of `A` lies idle in slot 0.
fn one_slot_of_a() -> Extents {
    let extents = one_slot();
    extents.wait_and_write(A);
    extents
}

/// The lock of `A` lies idle in slot 0, and slot 1 was not used yet.
fn two_slots_with_a() -> Extents {
    let extents = Extents::new(2, 63);
    extents.wait_and_write(A);
    extents
}

fn all_idle(extents: &Extents) {
    assert_eq!(extents.locks.live(), 0, "somebody holds or waits still");
}

// ---- the word

#[test]
fn two_writers_exclude_each_other() {
    let writes = |extents: &Extents| extents.wait_and_write(A);
    explore_parts(TWO_THREADS, one_slot, &[writes, writes], |extents| {
        all_idle(extents);
        assert_eq!(extents.wait_and_read(A), 2);
    });
}

#[test]
fn a_reader_and_a_writer_exclude_each_other() {
    let reads = |extents: &Extents| {
        extents.wait_and_read(A);
    };
    explore_parts(TWO_THREADS, one_slot, &[|extents| extents.wait_and_write(A), reads], all_idle);
}

#[test]
fn two_readers_and_a_writer_who_only_try_exclude_each_other() {
    let reads = |extents: &Extents| {
        if let Ok(held) = extents.locks.try_read(id(A)) {
            extents.read_cell(A);
            drop(held);
        }
    };
    let writes = |extents: &Extents| extents.tries(A);
    explore_parts(THREE_THREADS, one_slot_of_a, &[reads, writes, reads], all_idle);
}

#[test]
fn nobody_comes_between_when_a_writer_becomes_a_reader() {
    let downgrades = |extents: &Extents| {
        let held = extents.locks.write(id(A)).wait().unwrap();
        extents.write_cell(A);
        let held = held.downgrade();
        assert!(extents.read_cell(A) == 1 || extents.read_cell(A) == 2);
        drop(held);
    };
    let reads = |extents: &Extents| {
        extents.wait_and_read(A);
    };
    let writes = |extents: &Extents| extents.wait_and_write(A);
    explore_parts(TWO_THREADS, one_slot, &[downgrades, writes], all_idle);
    explore_parts(TWO_THREADS, one_slot, &[downgrades, reads], all_idle);
}

// ---- taking a slot over

#[test]
fn the_extents_of_the_models_have_one_home() {
    explore_with(None, || {
        let config = LockConfig { shards: 2, ..config(2, 0) };
        let locks = ExtentLockManager::with_config(config).unwrap();
        assert_eq!([A, B, C, C_WITH_D].map(|extent| locks.shard_of(&id(extent))), [0; 4]);
    });
}

#[test]
fn one_slot_is_never_the_lock_of_two_extents() {
    let takes_a = |extents: &Extents| extents.tries(A);
    let takes_b = |extents: &Extents| extents.tries(B);
    explore_parts(TWO_THREADS, one_slot_of_a, &[takes_a, takes_b], all_idle);
}

#[test]
fn a_slot_that_was_given_away_and_came_back_is_taken_as_what_it_is() {
    let takes_a = |extents: &Extents| extents.tries(A);
    let takes_both = |extents: &Extents| {
        extents.tries(B);
        extents.tries(A);
    };
    explore_parts(TWO_THREADS, one_slot_of_a, &[takes_a, takes_both], all_idle);
}

#[test]
fn an_extent_has_one_lock_even_if_its_slot_was_given_away_meanwhile() {
    let takes_a = |extents: &Extents| extents.tries(A);
    let takes_both = |extents: &Extents| {
        extents.tries(B);
        extents.tries(A);
    };
    explore_parts(TWO_THREADS, two_slots_with_a, &[takes_a, takes_both], all_idle);
}

#[test]
fn nobody_is_refused_for_an_extent_that_nobody_holds() {
    let takes_a = |extents: &Extents| extents.tries(A);
    let tries_b = |extents: &Extents| extents.try_unheld(B);
    explore_parts(TWO_THREADS, one_slot_of_a, &[takes_a, tries_b], all_idle);
}

#[test]
fn a_key_that_was_read_half_before_and_half_after_a_change_refuses_nobody() {
    // Slot 0 goes from one extent to the other; the one that is asked for shares a half of its
    // key with each, and has never been held.
    let gives_away = |extents: &Extents| {
        extents.tries(C);
        extents.tries(D);
    };
    let tries = |extents: &Extents| extents.try_unheld(C_WITH_D);
    explore_parts(TWO_THREADS, one_slot, &[gives_away, tries], all_idle);
}

#[test]
fn a_lock_away_from_home_is_found_or_made_once() {
    // B holds the home of all, so that A lies in the other slot, from where C drives it out.
    for c_first in [false, true] {
        explore_with(TWO_THREADS, move || {
            let extents = Arc::new(Extents::new(2, 63));
            let home = extents.locks.try_write(id(B)).unwrap();
            extents.try_and_write(A).unwrap();
            let other = thread::spawn({
                let extents = Arc::clone(&extents);
                move || {
                    extents.tries(C);
                    extents.tries(A);
                }
            });
            if c_first {
                thread::yield_now();
            }
            extents.tries(A);
            other.join().unwrap();
            drop(home);
            all_idle(&extents);
        });
    }
}
