//! Planted faults: the lock word, its waiters and its change of hands in a small copy, with one
//! rule broken at a time, which the models catch.
//!
//! The copy has exclusive holders alone and one slot. Its key is one word, so half a key is not
//! planted here: the production code has a model of that, which fails without the fence.

// They share a cell between threads by hand, as the code they copy does.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use crate::{Event, explore_parts, explore_with};

/// Which rule the copy breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    ReleaseIsRelaxed,
    LooksAreRelaxed,
    NoIncarnation,
    KeyBeforeChanging,
    EndOfChangeIsRelaxed,
    QueuedWithoutSecondLook,
    ClearedWithoutSecondLook,
    NoticeNotHandedOn,
    TakenAwayThoughQueued,
}

const HELD: u64 = 1;
const QUEUED: u64 = 2;
const NOTIFIED: u64 = 4;
const CHANGING: u64 = 8;
const INCARNATION: u64 = 16;

const A: u64 = 1;
const B: u64 = 2;

type Queue = VecDeque<Arc<Event>>;

/// A slot with its lock, as in the table; and what its holder owns.
struct PlantedLock {
    fault: Fault,
    word: AtomicU64,
    key: AtomicU64,
    queue: Mutex<Queue>,
    cell: UnsafeCell<u32>,
}

// SAFETY: the word says whose the cell is; that it does is what the models below put to the test.
unsafe impl Sync for PlantedLock {}
// SAFETY: plain data.
unsafe impl Send for PlantedLock {}

/// What one look at the lock found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    Taken,
    Held,
    Other,
}

impl PlantedLock {
    /// The idle lock of `A`.
    fn new(fault: Fault) -> PlantedLock {
        let (word, key) = (AtomicU64::new(0), AtomicU64::new(A));
        PlantedLock { fault, word, key, queue: Mutex::default(), cell: UnsafeCell::new(0) }
    }

    fn ordering(&self, relaxed_by: Fault, otherwise: Ordering) -> Ordering {
        if self.fault == relaxed_by { Ordering::Relaxed } else { otherwise }
    }

    fn load(&self) -> u64 {
        self.word.load(self.ordering(Fault::LooksAreRelaxed, Ordering::Acquire))
    }

    fn change(&self, from: u64, to: u64) -> Result<u64, u64> {
        let both = self.ordering(Fault::LooksAreRelaxed, Ordering::AcqRel);
        let acquire = self.ordering(Fault::LooksAreRelaxed, Ordering::Acquire);
        self.word.compare_exchange(from, to, both, acquire)
    }

    /// Changes the word as `next` says of what is there.
    fn update(&self, next: impl Fn(u64) -> u64) -> u64 {
        let mut seen = self.load();
        loop {
            match self.change(seen, next(seen)) {
                Ok(_) => return seen,
                Err(now) => seen = now,
            }
        }
    }

    /// One look without the mutex.
    fn take(&self, key: u64) -> Take {
        let seen = self.load();
        if seen & CHANGING != 0 || self.key.load(Ordering::Relaxed) != key {
            return Take::Other;
        }
        if seen & HELD != 0 {
            return Take::Held;
        }
        match self.change(seen, seen | HELD) {
            Ok(_) => Take::Taken,
            Err(_) => Take::Other,
        }
    }

    /// Takes the slot for another extent, if it is idle.
    fn take_over(&self, key: u64) -> bool {
        let queue = self.queue.lock().unwrap();
        let seen = self.load();
        let queued = if self.fault == Fault::TakenAwayThoughQueued { 0 } else { QUEUED };
        if seen & (HELD | queued | CHANGING) != 0 {
            return false;
        }
        if self.fault == Fault::KeyBeforeChanging {
            self.key.store(key, Ordering::Relaxed);
        }
        let rises = if self.fault == Fault::NoIncarnation { 0 } else { INCARNATION };
        let next = (seen & !(INCARNATION - 1)) + rises;
        if self.change(seen, next | CHANGING).is_err() {
            return false;
        }
        assert!(queue.is_empty(), "taken from those who wait");
        self.key.store(key, Ordering::Relaxed);
        let end = self.ordering(Fault::EndOfChangeIsRelaxed, Ordering::Release);
        self.word.store(next | HELD, end);
        true
    }

    /// The holder of `key` does its work and lets go.
    fn work_and_release(&self, key: u64) {
        assert_eq!(self.key.load(Ordering::Relaxed), key, "holds the lock of another extent");
        // SAFETY: the lock is held; `loom` says if somebody else reaches the cell.
        self.cell.with_mut(|cell| unsafe { *cell += 1 });
        self.release();
    }

    fn release(&self) {
        let release = self.ordering(Fault::ReleaseIsRelaxed, Ordering::Release);
        let left = self.word.fetch_sub(HELD, release) - HELD;
        if left & (QUEUED | NOTIFIED) == QUEUED {
            self.notify(&self.queue.lock().unwrap());
        }
    }

    fn notify(&self, queue: &Queue) {
        let Some(head) = queue.front() else { return };
        let wants = |seen: u64| seen & (HELD | QUEUED | NOTIFIED) == QUEUED;
        let seen = self.update(|seen| if wants(seen) { seen | NOTIFIED } else { seen });
        if wants(seen) {
            head.signal();
        }
    }

    /// True when it has the lock at once.
    fn take_or_queue(&self, event: &Arc<Event>) -> bool {
        let mut queue = self.queue.lock().unwrap();
        if self.fault == Fault::QueuedWithoutSecondLook && self.load() & HELD != 0 {
            self.update(|seen| seen | QUEUED);
            queue.push_back(Arc::clone(event));
            return false;
        }
        let seen = self.update(|seen| seen | if seen & HELD == 0 { HELD } else { QUEUED });
        if seen & HELD != 0 {
            queue.push_back(Arc::clone(event));
        }
        seen & HELD == 0
    }

    /// The head was woken.
    fn look_again(&self) -> bool {
        let mut queue = self.queue.lock().unwrap();
        if self.fault == Fault::ClearedWithoutSecondLook && self.load() & HELD != 0 {
            self.update(|seen| seen & !NOTIFIED);
            return false;
        }
        let gone = if queue.len() == 1 { QUEUED | NOTIFIED } else { NOTIFIED };
        let seen = self.update(|seen| match seen & HELD {
            0 => (seen & !gone) | HELD,
            _ => seen & !NOTIFIED,
        });
        if seen & HELD == 0 {
            queue.pop_front();
        }
        seen & HELD == 0
    }

    /// Waits as a thread or a task does, whose waker signals an event.
    fn wait(&self) {
        let event = Arc::new(Event::default());
        if self.take_or_queue(&event) {
            return;
        }
        loop {
            event.wait();
            if self.look_again() {
                return;
            }
        }
    }

    /// The head of the queue goes, woken or not.
    fn give_up(&self) {
        let mut queue = self.queue.lock().unwrap();
        queue.pop_front();
        let gone = if queue.is_empty() { QUEUED | NOTIFIED } else { NOTIFIED };
        self.update(|seen| seen & !gone);
        if self.fault != Fault::NoticeNotHandedOn {
            self.notify(&queue);
        }
    }
}

/// Two who try one lock.
fn explore_exclusion(fault: Fault) {
    let tries = |lock: &PlantedLock| {
        if lock.take(A) == Take::Taken {
            lock.work_and_release(A);
        }
    };
    explore_parts(None, move || PlantedLock::new(fault), &[tries, tries], |_| {});
}

/// One who tries `A`, which nobody else does, beside one who takes its slot over, and lets go.
fn explore_takeover(fault: Fault) {
    let tries = |lock: &PlantedLock| match lock.take(A) {
        Take::Taken => lock.work_and_release(A),
        Take::Held => panic!("refused what nobody holds"),
        Take::Other => {}
    };
    let takes_over = |lock: &PlantedLock| {
        if lock.take_over(B) {
            lock.work_and_release(B);
        }
    };
    explore_parts(None, move || PlantedLock::new(fault), &[tries, takes_over], |_| {});
}

/// One who holds the lock, one who waits for it, and another.
fn explore_waiting(fault: Fault, other: fn(&PlantedLock)) {
    explore_with(Some(2), move || {
        let lock = Arc::new(PlantedLock::new(fault));
        assert!(lock.take(A) == Take::Taken);
        let waits = |lock: &PlantedLock| {
            lock.wait();
            lock.release();
        };
        let threads = [waits, other].map(|part| {
            let lock = Arc::clone(&lock);
            thread::spawn(move || part(&lock))
        });
        lock.release();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(lock.load() & (INCARNATION - 1), 0);
    });
}

fn tries(lock: &PlantedLock) {
    if lock.take(A) == Take::Taken {
        lock.release();
    }
}

fn takes_over(lock: &PlantedLock) {
    if lock.take_over(B) {
        lock.release();
    }
}

/// One who holds the lock while two wait, of whom the first gives up.
fn explore_giving_up(fault: Fault) {
    explore_with(Some(3), move || {
        let lock = Arc::new(PlantedLock::new(fault));
        assert!(lock.take(A) == Take::Taken);
        assert!(!lock.take_or_queue(&Arc::default()));
        let waiting = thread::spawn({
            let lock = Arc::clone(&lock);
            move || {
                lock.wait();
                lock.work_and_release(A);
            }
        });
        thread::yield_now();
        lock.work_and_release(A);
        lock.give_up();
        waiting.join().unwrap();
    });
}

#[test]
fn the_lock_protocol_itself_holds() {
    explore_exclusion(Fault::None);
    explore_takeover(Fault::None);
    explore_waiting(Fault::None, tries);
    explore_waiting(Fault::None, takes_over);
    explore_giving_up(Fault::None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_a_lock_let_go_with_relaxed_is_caught() {
    explore_exclusion(Fault::ReleaseIsRelaxed);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_a_lock_taken_with_relaxed_is_caught() {
    explore_exclusion(Fault::LooksAreRelaxed);
}

#[test]
#[should_panic(expected = "holds the lock of another extent")]
fn planted_a_slot_that_comes_back_with_the_same_word_is_caught() {
    explore_takeover(Fault::NoIncarnation);
}

#[test]
#[should_panic(expected = "holds the lock of another extent")]
fn planted_a_key_written_before_the_word_says_so_is_caught() {
    explore_takeover(Fault::KeyBeforeChanging);
}

#[test]
#[should_panic(expected = "refused what nobody holds")]
fn planted_a_change_of_hands_that_ends_with_relaxed_is_caught() {
    explore_takeover(Fault::EndOfChangeIsRelaxed);
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_waiter_that_queues_without_a_second_look_is_caught() {
    explore_waiting(Fault::QueuedWithoutSecondLook, tries);
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_notice_that_is_cleared_without_a_second_look_is_caught() {
    explore_waiting(Fault::ClearedWithoutSecondLook, tries);
}

#[test]
#[should_panic(expected = "taken from those who wait")]
fn planted_a_slot_given_away_while_somebody_waits_is_caught() {
    explore_waiting(Fault::TakenAwayThoughQueued, takes_over);
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_waiter_that_keeps_its_notice_when_it_gives_up_is_caught() {
    explore_giving_up(Fault::NoticeNotHandedOn);
}
