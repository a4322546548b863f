//! Wakers as a foreign executor may make them: they run any code when they are cloned, called and
//! dropped, they panic, and they come back to the locks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::task::{Poll, RawWaker, RawWakerVTable, Waker};
use std::time::Duration;

use dynamicfs::{ExtentLockManager, LockMode, LockRefusal};
use uuid::Uuid;

use crate::rig::{Bell, assert_all_free, extent, ordered_extents, poll, table};

type Code = Box<dyn Fn() + Send + Sync>;

/// What one waker runs. It lives as long as the process, so that no test can get that wrong.
struct Foreign {
    clone: Code,
    wake: Code,
    drop: Code,
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| {
        (foreign(data).clone)();
        RawWaker::new(data, &VTABLE)
    },
    |data| {
        (foreign(data).wake)();
        (foreign(data).drop)();
    },
    |data| (foreign(data).wake)(),
    |data| (foreign(data).drop)(),
);

fn foreign(data: *const ()) -> &'static Foreign {
    // SAFETY: `Foreign::waker` alone makes wakers of this table, of what it never frees.
    unsafe { &*data.cast::<Foreign>() }
}

impl Foreign {
    /// One that does nothing.
    fn idle() -> Foreign {
        Foreign { clone: Box::new(|| ()), wake: Box::new(|| ()), drop: Box::new(|| ()) }
    }

    fn waker(self) -> Waker {
        let data: &'static Foreign = Box::leak(Box::new(self));
        let raw = RawWaker::new(std::ptr::from_ref(data).cast(), &VTABLE);
        // SAFETY: the table's functions are what a waker's must be: safe on any thread, because a
        // `Foreign` is Sync and is never freed.
        unsafe { Waker::from_raw(raw) }
    }
}

/// A manager that wakers may keep.
fn kept(locks_max: usize, shards: usize) -> &'static ExtentLockManager {
    Box::leak(Box::new(table(locks_max, shards, 63)))
}

/// Whether another thread, that locks in this shard, comes to its end meanwhile.
fn gets_through(locks: &'static ExtentLockManager, id: Uuid) -> bool {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        drop(locks.try_write(id).unwrap());
        let _ = tell.send(());
    });
    told.recv_timeout(Duration::from_secs(5)).is_ok()
}

/// Runs what is expected to panic, and hides nothing else.
fn panics(f: impl FnOnce()) {
    let payload = catch_unwind(AssertUnwindSafe(f)).expect_err("the waker did not panic");
    assert_eq!(payload.downcast_ref(), Some(&"planted"));
}

/// Cause: a task that found the lock free under the shard's mutex dropped its clone of the waker
/// before it let go of the mutex. Harm: a waker whose drop comes back to the locks, as by dropping
/// a task that holds one, stands still for ever, and the shard with it. Fix: the caller keeps the
/// waker until the mutex is free.
#[test]
fn no_waker_is_dropped_or_called_under_the_mutex() {
    let locks = kept(64, 1);
    // The clone lets the lock go: after the task saw it held, before it takes the mutex.
    let holder = Mutex::new(Some(locks.try_write(extent(0)).unwrap()));
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let enters = move || {
        let call = CALLS.fetch_add(1, Ordering::Relaxed) as usize;
        assert!(gets_through(locks, extent(10 + call)), "foreign code ran under the mutex");
    };
    let lets_go: Code = Box::new(move || drop(holder.lock().unwrap().take()));
    let task = |clone| Foreign { clone, wake: Box::new(enters), drop: Box::new(enters) }.waker();
    let waker = task(lets_go);
    let Poll::Ready(guard) = poll(&mut locks.write(extent(0)).into_future(), &waker) else {
        panic!("free")
    };
    // Debug builds keep one more clone with the guard, and drop it when they let it go.
    let kept = u64::from(cfg!(debug_assertions));
    assert_eq!(CALLS.load(Ordering::Relaxed), 1, "the clone was dropped");
    // Replaced by another poll, dropped by one who gives up, called.
    let waker = task(Box::new(|| ()));
    let mut waiting = locks.read(extent(0)).into_future();
    assert!(poll(&mut waiting, &waker).is_pending());
    assert!(poll(&mut waiting, &waker).is_pending());
    assert_eq!(CALLS.load(Ordering::Relaxed), 2);
    drop(waiting);
    assert_eq!(CALLS.load(Ordering::Relaxed), 3);
    let mut waiting = locks.read(extent(0)).into_future();
    assert!(poll(&mut waiting, &waker).is_pending());
    drop(guard);
    assert_eq!(CALLS.load(Ordering::Relaxed), 5 + kept, "called, and so dropped");
    assert!(matches!(poll(&mut waiting, &waker), Poll::Ready(Ok(_))));
    drop(waiting);
    assert_all_free(locks, 4);
}

/// Cause: a waiter that looked again was taken out of its future before the waker was cloned.
/// Harm: if the clone panicked, nobody was left to take its place out of the queue: the lock was
/// lost to all when the place became the head. Fix: it stays in the future until it has the lock.
#[test]
fn a_waker_that_panics_when_cloned_leaves_the_queue_whole() {
    let locks = kept(64, 1);
    let holder = locks.try_write(extent(0)).unwrap();
    let (mut waiting, mut next) =
        (locks.write(extent(0)).into_future(), locks.write(extent(0)).into_future());
    let ((_, quiet), (bell, waker)) = (Bell::new(), Bell::new());
    assert!(poll(&mut waiting, &quiet).is_pending());
    assert!(poll(&mut next, &waker).is_pending());
    bell.take();
    let bomb = Foreign { clone: Box::new(|| std::panic::panic_any("planted")), ..Foreign::idle() };
    let bomb = bomb.waker();
    panics(|| drop(poll(&mut waiting, &bomb)));
    drop(holder);
    assert!(!bell.take(), "the first one still waits");
    drop(waiting);
    assert!(bell.take());
    assert!(matches!(poll(&mut next, &waker), Poll::Ready(Ok(_))));
    drop(next);
    assert_all_free(locks, 4);
}

/// Cause: a shared head that comes in lets others in with it, and calls their wakers before it has
/// a guard. Harm: if one panicked, the head's own lock was never let go, and those after the one
/// that panicked were never called. Fix: the lock is in a guard before anybody is called, and all
/// are called.
#[test]
fn a_waker_that_panics_when_called_costs_nobody_else_a_lock() {
    let locks = kept(64, 1);
    let holder = locks.try_write(extent(0)).unwrap();
    let bomb = Foreign { wake: Box::new(|| std::panic::panic_any("planted")), ..Foreign::idle() };
    let bomb = bomb.waker();
    let bells: [_; 3] = std::array::from_fn(|_| Bell::new());
    let mut head = locks.read(extent(0)).into_future();
    assert!(poll(&mut head, Waker::noop()).is_pending());
    let mut doomed = locks.read(extent(0)).into_future();
    assert!(poll(&mut doomed, &bomb).is_pending());
    let mut others: Vec<_> = bells.iter().map(|_| locks.read(extent(0)).into_future()).collect();
    for (other, (bell, waker)) in others.iter_mut().zip(&bells) {
        assert!(poll(other, waker).is_pending());
        bell.take();
    }
    drop(holder);
    panics(|| drop(poll(&mut head, Waker::noop())));
    drop(head);
    let mut guards = Vec::new();
    for (other, (bell, waker)) in others.iter_mut().zip(&bells) {
        assert!(bell.take(), "a waker after the one that panicked was not called");
        let Poll::Ready(guard) = poll(other, waker) else { panic!("it was granted the lock") };
        guards.push(guard.unwrap());
    }
    drop((guards, doomed));
    assert_all_free(locks, 4);
}

#[test]
fn a_waker_that_panics_when_a_lock_is_let_go_does_not_keep_it() {
    let locks = kept(64, 1);
    let bomb = Foreign { wake: Box::new(|| std::panic::panic_any("planted")), ..Foreign::idle() };
    let bomb = bomb.waker();
    let (bell, waker) = Bell::new();
    let (mut doomed, mut next) =
        (locks.write(extent(0)).into_future(), locks.write(extent(0)).into_future());
    let holder = locks.try_write(extent(0)).unwrap();
    assert!(poll(&mut doomed, &bomb).is_pending());
    assert!(poll(&mut next, &waker).is_pending());
    bell.take();
    panics(|| drop(holder));
    drop(doomed);
    assert!(bell.take(), "the notice goes to the next one");
    assert!(matches!(poll(&mut next, &waker), Poll::Ready(Ok(_))));
    // And when a writer becomes a reader.
    let mut doomed = locks.read(extent(0)).into_future();
    let holder = locks.try_write(extent(0)).unwrap();
    assert!(poll(&mut doomed, &bomb).is_pending());
    panics(|| drop(holder.downgrade()));
    drop(doomed);
    assert_all_free(locks, 4);
}

/// A waker that takes, waits for and lets go of locks of the same shard, in the middle of a
/// hand-over, on the thread that lets go.
#[test]
fn a_waker_may_come_back_to_the_locks() {
    let locks = kept(8, 1);
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let comes_back = move || {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // The lock that was just let go, and then one that makes a place for itself.
        let waited_for = locks.read(extent(0)).wait().unwrap();
        let made = locks.write(extent(5)).wait().unwrap();
        let mut waiting = locks.write(extent(5)).into_future();
        assert!(poll(&mut waiting, Waker::noop()).is_pending());
        let two = [(extent(7), LockMode::Exclusive), (extent(6), LockMode::Shared)];
        drop(locks.lock_many(&two).wait().unwrap());
        drop((waiting, waited_for, made));
    };
    let waker = Foreign { wake: Box::new(comes_back), ..Foreign::idle() }.waker();
    for _ in 0..100 {
        let holder = locks.try_write(extent(0)).unwrap();
        let mut waiting: Vec<_> = (0..20).map(|_| locks.read(extent(0)).into_future()).collect();
        for read in &mut waiting {
            assert!(poll(read, &waker).is_pending());
        }
        drop(holder);
        let mut guards = Vec::new();
        for read in &mut waiting {
            let Poll::Ready(guard) = poll(read, &waker) else { panic!("readers go in together") };
            guards.push(guard.unwrap());
        }
        drop((guards, waiting));
    }
    assert!(CALLS.load(Ordering::Relaxed) >= 100 * 19);
    assert_all_free(locks, 8);
}

/// Cause: a guard was forgotten by the order check after it had called those who waited. Harm: an
/// executor that runs a task inside its waker got a false panic in debug builds, when the task
/// waited for an earlier lock on the thread that was letting go of a later one. Fix: a guard is
/// forgotten first.
#[test]
fn who_is_run_by_a_waker_does_not_inherit_the_lock_that_is_let_go() {
    let locks = kept(64, 4);
    let [lower, higher] = ordered_extents(locks);
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let waits = move || {
        drop(locks.write(lower).wait().unwrap());
        CALLS.fetch_add(1, Ordering::Relaxed);
    };
    let waker = Foreign { wake: Box::new(waits), ..Foreign::idle() }.waker();
    let holder = locks.write(higher).wait().unwrap();
    let mut waiting = locks.write(higher).into_future();
    assert!(poll(&mut waiting, &waker).is_pending());
    drop(holder);
    assert_eq!(CALLS.load(Ordering::Relaxed), 1);
    assert!(matches!(poll(&mut waiting, &waker), Poll::Ready(Ok(_))));
}

/// A task may be polled with another waker each time; the last one counts.
#[test]
fn the_last_waker_is_called() {
    let locks = kept(64, 1);
    let holder = locks.try_write(extent(0)).unwrap();
    let bells: Vec<_> = (0..5).map(|_| Bell::new()).collect();
    let mut waiting = locks.read(extent(0)).into_future();
    for (bell, waker) in &bells {
        assert!(poll(&mut waiting, waker).is_pending());
        bell.take();
    }
    drop(holder);
    let rung: Vec<bool> = bells.iter().map(|(bell, _)| bell.take()).collect();
    assert_eq!(rung, [false, false, false, false, true]);
    assert_eq!(locks.try_write(extent(0)).err(), None);
    drop(waiting);
    assert_eq!(locks.try_read(extent(0)).err(), None::<LockRefusal>);
}
