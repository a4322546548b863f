//! The edges: full words and tables, what is forgotten, threads on their way out.

use std::cell::RefCell;
use std::mem::forget;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use dynamicfs::concurrency::lock::word::READERS_MAX;
use dynamicfs::{ExtentLockManager, ExtentReadGuard, LockMode, LockRefusal};

use crate::rig::{Bell, assert_all_free, extent, poll, table};

/// Takes an extent shared as often as it goes, by threads of their own: debug builds look through
/// all that one thread holds.
fn all_readers(locks: &ExtentLockManager) -> Vec<ExtentReadGuard<'_>> {
    std::thread::scope(|scope| {
        let take = || (0..512).map(|_| locks.try_read(extent(0)).unwrap()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..READERS_MAX / 512).map(|_| scope.spawn(take)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Cause: of several readers only the last one gave notice, since a reader never waits for
/// readers; but it does when there are as many as a word can count. Harm: it, and all behind it,
/// slept until every one of 32,768 readers had gone. Fix: the first one below the bound gives
/// notice too.
#[test]
fn a_reader_too_many_waits_for_one_and_not_for_all() {
    let locks = table(64, 4, 63);
    let mut readers = all_readers(&locks);
    assert_eq!(locks.try_read(extent(0)).err(), Some(LockRefusal::Held));
    assert_eq!(locks.try_write(extent(0)).err(), Some(LockRefusal::Held));
    let (bell, waker) = Bell::new();
    bell.take();
    let mut waiting: Vec<_> = (0..3).map(|_| locks.read(extent(0)).into_future()).collect();
    for read in &mut waiting {
        assert!(poll(read, &waker).is_pending());
    }
    for read in &mut waiting {
        readers.pop();
        assert!(bell.take(), "the head is called when there is room");
        let Poll::Ready(Ok(guard)) = poll(read, &waker) else { panic!("there is room for one") };
        readers.push(guard);
    }
    assert_eq!(locks.try_read(extent(0)).err(), Some(LockRefusal::Held));
    drop((readers, waiting));
    assert_all_free(&locks, 4);
}

#[test]
fn forgotten_readers_keep_writers_out_and_nothing_overflows() {
    let locks = table(64, 4, 63);
    forget(all_readers(&locks));
    for _ in 0..100 {
        assert_eq!(locks.try_read(extent(0)).err(), Some(LockRefusal::Held));
    }
    let soon = Instant::now() + Duration::from_millis(20);
    assert_eq!(locks.write(extent(0)).wait_until(soon).err(), Some(LockRefusal::Expired));
    assert_eq!(locks.live(), 1);
    assert!(locks.try_write(extent(1)).is_ok());
}

/// A forgotten waiter waits for ever: it costs its own lock and place, and no other.
#[test]
fn a_forgotten_waiter_costs_its_own_lock_alone() {
    let locks = table(2, 1, 3);
    let holder = locks.try_write(extent(0)).unwrap();
    let mut forgotten = locks.write(extent(0)).into_future();
    assert!(poll(&mut forgotten, Waker::noop()).is_pending());
    forget(forgotten);
    drop(holder);
    for _ in 0..3 {
        assert!(locks.try_write(extent(0)).is_ok(), "it is overtaken up to the bound");
    }
    assert_eq!(locks.try_read(extent(0)).err(), Some(LockRefusal::Held));
    let soon = Instant::now() + Duration::from_millis(20);
    assert_eq!(locks.read(extent(0)).wait_until(soon).err(), Some(LockRefusal::Expired));
    for other in 1..100 {
        assert!(locks.try_write(extent(other)).is_ok(), "its neighbours share the other place");
    }
    assert_eq!(locks.live(), 1);
}

/// One who was granted the lock by a shared head, and is forgotten, holds it shared for ever.
#[test]
fn a_forgotten_grant_is_a_reader_that_stays() {
    let locks = table(64, 1, 63);
    let holder = locks.try_write(extent(0)).unwrap();
    let (mut head, mut granted) =
        (locks.read(extent(0)).into_future(), locks.read(extent(0)).into_future());
    assert!(poll(&mut head, Waker::noop()).is_pending());
    assert!(poll(&mut granted, Waker::noop()).is_pending());
    drop(holder);
    assert!(matches!(poll(&mut head, Waker::noop()), Poll::Ready(Ok(_))));
    forget(granted);
    assert!(locks.try_read(extent(0)).is_ok());
    assert_eq!(locks.try_write(extent(0)).err(), Some(LockRefusal::Held));
}

#[test]
fn a_downgrade_lets_waiting_readers_in_at_once() {
    let locks = table(64, 4, 63);
    let writer = locks.try_write(extent(0)).unwrap();
    let ask = |_| (Bell::new(), locks.read(extent(0)).into_future());
    let mut waiting: Vec<_> = (0..20).map(ask).collect();
    for ((bell, waker), read) in &mut waiting {
        assert!(poll(read, waker).is_pending());
        bell.take();
    }
    let reader = writer.downgrade();
    // More than one head lets in with itself: it calls the next head, and that one the next.
    let mut guards = Vec::new();
    for ((bell, waker), read) in &mut waiting {
        assert!(bell.take(), "{} went in and called no more", guards.len());
        let Poll::Ready(guard) = poll(read, waker) else { panic!("readers go in together") };
        guards.push(guard.unwrap());
    }
    assert_eq!(locks.try_write(extent(0)).err(), Some(LockRefusal::Held));
    drop((guards, reader, waiting));
    assert_all_free(&locks, 4);
}

struct LocksOnTheWayOut<'a>(&'a ExtentLockManager, &'a AtomicBool);

impl Drop for LocksOnTheWayOut<'_> {
    fn drop(&mut self) {
        drop(self.0.write(extent(0)).wait().unwrap());
        self.1.store(true, Ordering::Release);
    }
}

thread_local! {
    static LAST: RefCell<Option<LocksOnTheWayOut<'static>>> = const { RefCell::new(None) };
}

/// Cause: a thread's waker is a thread-local with a destructor. Harm: a destructor of another
/// thread-local that ran after it, and had to wait for a lock, ended the process. Fix: it gets a
/// waker of its own.
#[test]
fn the_destructor_of_a_thread_local_may_wait() {
    let locks: &ExtentLockManager = Box::leak(Box::new(table(64, 4, 63)));
    static DONE: AtomicBool = AtomicBool::new(false);
    let holder = locks.write(extent(0)).wait().unwrap();
    let meet = Arc::new(Barrier::new(2));
    let there = Arc::clone(&meet);
    let thread = std::thread::spawn(move || {
        // Made before the waker, and so dropped after it.
        LAST.with(|last| *last.borrow_mut() = Some(LocksOnTheWayOut(locks, &DONE)));
        let soon = Instant::now() + Duration::from_millis(1);
        assert_eq!(locks.read(extent(0)).wait_until(soon).err(), Some(LockRefusal::Expired));
        there.wait();
    });
    meet.wait();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!DONE.load(Ordering::Acquire), "it waits");
    drop(holder);
    thread.join().unwrap();
    assert!(DONE.load(Ordering::Acquire));
    assert_all_free(locks, 4);
}

#[test]
fn a_table_of_one_place_is_a_lock() {
    let locks = table(1, 1, 63);
    let held = locks.write(extent(3)).wait().unwrap();
    let full = LockRefusal::TableFull { shard: 0, places: 1 };
    assert_eq!(locks.try_read(extent(4)).err(), Some(full));
    assert_eq!(locks.try_read(extent(3)).err(), Some(LockRefusal::Held));
    drop(held);
    let two = [(extent(1), LockMode::Shared), (extent(2), LockMode::Shared)];
    assert_eq!(locks.lock_many(&two).wait().err(), Some(full));
    assert_all_free(&locks, 10);
}

#[test]
fn shards_of_one_place_are_locks() {
    let locks = table(64, 64, 0);
    let mut held = Vec::new();
    for number in 0..64 {
        match locks.try_write(extent(number)) {
            Ok(guard) => held.push(guard),
            Err(refusal) => {
                let shard = locks.shard_of(&extent(number));
                assert_eq!(refusal, LockRefusal::TableFull { shard, places: 1 });
            }
        }
    }
    assert_eq!(locks.live(), held.len());
    drop(held);
    assert_all_free(&locks, 64);
}

/// The extent without a name is one like the others, though a place that was never used has no
/// name either.
#[test]
fn the_nil_extent_is_an_extent() {
    let locks = table(4, 1, 63);
    let nil = uuid::Uuid::nil();
    for number in 0..20 {
        let held = locks.try_write(nil).unwrap();
        assert_eq!(locks.try_read(nil).err(), Some(LockRefusal::Held));
        let others: Vec<_> = (0..3).map(|n| locks.try_write(extent(number * 3 + n))).collect();
        assert!(others.iter().all(Result::is_ok));
        assert_eq!(locks.try_read(nil).err(), Some(LockRefusal::Held));
        drop((others, held));
    }
    assert_eq!(locks.live(), 0);
}

/// Cause: several locks that had been handed out, or refused, were handed out again when their
/// future was polled once more: none at all, as a success. Harm: who polls a future after its end,
/// as a careless `select` loop does, believed it held what it did not. Fix: it panics, as the
/// future of an async function does.
#[test]
#[should_panic(expected = "polled after they were ready")]
fn several_locks_are_not_had_twice() {
    let locks = table(1, 1, 63);
    let two = [(extent(1), LockMode::Shared), (extent(2), LockMode::Shared)];
    let mut many = locks.lock_many(&two);
    assert!(matches!(poll(&mut many, Waker::noop()), Poll::Ready(Err(_))));
    assert!(matches!(poll(&mut many, Waker::noop()), Poll::Ready(Err(_))));
}
