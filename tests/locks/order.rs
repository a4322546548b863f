//! The check of the locking order in debug builds: what it must find, naming both places, and what
//! it must let pass.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::task::{Poll, Waker};

use dynamicfs::machine::mapping::PagePolicy;
use dynamicfs::{ExtentLockManager, ExtentMapLocks, InodeLocks, LockMode};

use crate::rig::{
    Bell, HANG, Watchdog, after_polls, block_on, extent, ordered_extents, poll, say, table,
};

struct World {
    locks: ExtentLockManager,
    inodes: InodeLocks,
    maps: ExtentMapLocks,
}

fn world() -> World {
    let locks = table(64, 4, 63);
    let inodes = InodeLocks::beside(&locks, PagePolicy::Normal).unwrap();
    let maps = ExtentMapLocks::beside(&locks, PagePolicy::Normal).unwrap();
    World { locks, inodes, maps }
}

/// A line of this file.
type Line = u32;

/// Runs what holds a lock, taken at the first line it tells, and waits for another at the second;
/// the panic has to name both. Release builds do not check.
fn violates(f: impl FnOnce(&mut Line, &mut Line)) {
    if !cfg!(debug_assertions) {
        static SAID: Once = Once::new();
        return SAID.call_once(|| say("SKIPPED: release builds do not check the locking order"));
    }
    // What goes unseen may be a deadlock.
    let _watchdog = Watchdog::over("the check of the locking order", 0, HANG / 4);
    let (mut taken, mut waited) = (0, 0);
    let result = catch_unwind(AssertUnwindSafe(|| f(&mut taken, &mut waited)));
    let payload = result.expect_err("a violation of the locking order went unseen");
    let text = payload.downcast_ref::<String>().expect("the panic says something");
    let file = file!();
    for said in [
        format!("is waited for at {file}:{waited}:"),
        format!("taken at {file}:{taken}:"),
        "lock order violated".to_owned(),
    ] {
        assert!(text.contains(&said), "expected `{said}` in: {text}");
    }
}

#[test]
fn an_extent_after_an_inode_or_a_map_is_found() {
    let World { locks, inodes, maps } = world();
    violates(|taken, waited| {
        *taken = line!() + 1;
        let _guard = inodes.read(7).wait().unwrap();
        *waited = line!() + 1;
        let _ = locks.read(extent(0)).wait();
    });
    violates(|taken, waited| {
        *taken = line!() + 1;
        let _guard = maps.write(7).wait().unwrap();
        *waited = line!() + 1;
        let _ = locks.write(extent(0)).wait();
    });
    violates(|taken, waited| {
        *taken = line!() + 1;
        let _guard = maps.write(7).wait().unwrap();
        *waited = line!() + 1;
        let _ = locks.lock_many(&[(extent(0), LockMode::Shared)]).wait();
    });
    assert_eq!(locks.live(), 0, "what panicked let go");
}

#[test]
fn an_inode_after_a_map_is_found() {
    let World { inodes, maps, .. } = world();
    violates(|taken, waited| {
        *taken = line!() + 1;
        let _guard = maps.read(7).wait().unwrap();
        *waited = line!() + 1;
        let _ = inodes.read(7).wait();
    });
}

/// Cause: two inodes were only told apart by their stripes, and passed when these ascended by
/// chance. Harm: what must not be done was found for every other pair of inodes, in production
/// sooner than in a test. Fix: two of a kind are a violation, whatever their stripes.
#[test]
fn two_of_a_kind_are_found_whatever_their_stripes() {
    let World { inodes, maps, .. } = world();
    for other in 0..20 {
        violates(|taken, waited| {
            *taken = line!() + 1;
            let _guard = inodes.read(100).wait().unwrap();
            *waited = line!() + 1;
            let _ = inodes.read(other).wait();
        });
        violates(|taken, waited| {
            *taken = line!() + 1;
            let _guard = maps.write(100).wait().unwrap();
            *waited = line!() + 1;
            let _ = maps.write(other).wait();
        });
    }
}

#[test]
fn an_earlier_extent_or_the_same_one_is_found() {
    let World { locks, .. } = world();
    let [lower, higher] = ordered_extents(&locks);
    violates(|taken, waited| {
        *taken = line!() + 1;
        let _guard = locks.read(higher).wait().unwrap();
        *waited = line!() + 1;
        let _ = locks.read(lower).wait();
    });
    violates(|taken, waited| {
        *taken = line!() + 1;
        let _guard = locks.write(lower).wait().unwrap();
        *waited = line!() + 1;
        let _ = locks.write(lower).wait();
    });
    // Also shared: a writer between the two would make it a deadlock.
    violates(|taken, waited| {
        *taken = line!() + 1;
        let _guard = locks.read(lower).wait().unwrap();
        *waited = line!() + 1;
        let _ = locks.read(lower).wait();
    });
    // Also with a deadline, after a downgrade, and when the first one was got by a try.
    violates(|taken, waited| {
        *taken = line!() + 1;
        let _guard = locks.try_write(higher).unwrap().downgrade();
        *waited = line!() + 1;
        let _ = locks.read(lower).wait_until(std::time::Instant::now());
    });
    // Several at once after one of them.
    violates(|taken, waited| {
        *taken = line!() + 1;
        let _guard = locks.read(higher).wait().unwrap();
        let two = [(lower, LockMode::Shared), (higher, LockMode::Shared)];
        *waited = line!() + 1;
        let _ = locks.lock_many(&two).wait();
    });
    // One after several.
    violates(|taken, waited| {
        let two = [(lower, LockMode::Shared), (higher, LockMode::Shared)];
        *taken = line!() + 1;
        let _guards = locks.lock_many(&two).wait().unwrap();
        *waited = line!() + 1;
        let _ = locks.read(lower).wait();
    });
    assert_eq!(locks.live(), 0, "what panicked let go");
}

#[test]
fn a_task_that_awaits_is_found_like_a_thread_that_waits() {
    let World { locks, inodes, .. } = world();
    let [lower, higher] = ordered_extents(&locks);
    violates(|taken, waited| {
        block_on(async {
            *taken = line!() + 1;
            let _guard = locks.write(higher).await.unwrap();
            after_polls(3).await;
            *waited = line!() + 1;
            let _ = locks.write(lower).await;
        });
    });
    violates(|taken, waited| {
        block_on(async {
            *taken = line!() + 1;
            let _guard = inodes.write(7).await.unwrap();
            *waited = line!() + 1;
            let _ = locks.read(lower).until(after_polls(1)).await;
        });
    });
    violates(|taken, waited| {
        block_on(async {
            let two = [(lower, LockMode::Shared), (higher, LockMode::Shared)];
            *taken = line!() + 1;
            let _guards = locks.lock_many(&two).await.unwrap();
            *waited = line!() + 1;
            let _ = locks.lock_many(&two).await;
        });
    });
    assert_eq!(locks.live(), 0);
}

/// A task that moved to another thread since it took its first lock.
#[test]
fn a_task_that_moves_between_threads_is_found() {
    let World { locks, .. } = world();
    let [lower, higher] = ordered_extents(&locks);
    violates(|taken, waited| {
        let (_, waker) = Bell::new();
        let mut first = locks.write(higher).into_future();
        *taken = line!() - 1;
        let Poll::Ready(Ok(guard)) = poll(&mut first, &waker) else { panic!("it is free") };
        let mut second = locks.write(lower).into_future();
        *waited = line!() - 1;
        let elsewhere =
            std::thread::scope(|scope| scope.spawn(|| poll(&mut second, &waker).is_ready()).join());
        drop(guard);
        if let Err(payload) = elsewhere {
            std::panic::resume_unwind(payload);
        }
    });
}

/// A thread that was caught holding on to one lock is not blamed for it any more.
#[test]
fn a_violation_leaves_no_trace() {
    let World { locks, .. } = world();
    let [lower, higher] = ordered_extents(&locks);
    violates(|taken, waited| {
        *taken = line!() + 1;
        let _guard = locks.write(higher).wait().unwrap();
        *waited = line!() + 1;
        let _ = locks.write(lower).wait();
    });
    let _lower = locks.write(lower).wait().unwrap();
    let _higher = locks.write(higher).wait().unwrap();
}

// ---- what must pass

#[test]
fn the_order_itself_passes() {
    let World { locks, inodes, maps } = world();
    let [lower, higher] = ordered_extents(&locks);
    let first = locks.write(lower).wait().unwrap();
    let second = locks.read(higher).wait().unwrap();
    let inode = inodes.write(7).wait().unwrap();
    let map = maps.write(7).wait().unwrap();
    // Let go in another order than taken, and taken again behind what is left.
    drop((second, inode, map));
    let second = locks.lock_many(&[(higher, LockMode::Exclusive)]).wait().unwrap();
    drop(first);
    drop(inodes.read(7).wait().unwrap());
    drop(second);
    let both = [(higher, LockMode::Shared), (lower, LockMode::Exclusive)];
    drop(locks.lock_many(&both).wait().unwrap());
}

#[test]
fn a_try_passes_in_any_order() {
    let World { locks, inodes, .. } = world();
    let [lower, higher] = ordered_extents(&locks);
    let _inode = inodes.write(7).wait().unwrap();
    let _higher = locks.try_read(higher).unwrap();
    let _lower = locks.try_write(lower).unwrap();
    assert!(locks.try_read(higher).is_ok(), "the same one again");
}

#[test]
fn two_managers_have_two_orders() {
    let (one, two) = (world(), world());
    let _inode = one.inodes.write(7).wait().unwrap();
    let _extent = two.locks.write(extent(0)).wait().unwrap();
    let [lower, higher] = ordered_extents(&two.locks);
    let other = table(64, 4, 63);
    let _here = other.write(higher).wait().unwrap();
    let there = table(64, 4, 63);
    let _there = there.write(lower).wait().unwrap();
}

#[test]
fn tasks_that_take_turns_on_one_thread_are_told_apart() {
    let World { locks, .. } = world();
    let [lower, higher] = ordered_extents(&locks);
    let ((_, one), (_, two)) = (Bell::new(), Bell::new());
    let take = |extent, waker: &Waker| {
        let Poll::Ready(guard) = poll(&mut locks.write(extent).into_future(), waker) else {
            panic!("it is free")
        };
        guard.unwrap()
    };
    let held_by_one = take(higher, &one);
    let held_by_two = take(lower, &two);
    // The thread itself holds nothing.
    let [_, _, third] = ordered_extents(&locks);
    drop(locks.write(third).wait().unwrap());
    drop(held_by_one);
    let held_by_two_as_well = take(higher, &two);
    drop((held_by_two, held_by_two_as_well));
}

/// The guard counts as its taker's until it is dropped, wherever that is.
#[test]
fn a_guard_that_moved_to_another_thread_is_forgotten_when_it_is_dropped_there() {
    let World { locks, .. } = world();
    let [lower, higher] = ordered_extents(&locks);
    let guard = locks.write(higher).wait().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let moved = guard;
            drop(locks.write(lower).wait().unwrap());
            drop(moved);
        });
    });
    drop(locks.write(lower).wait().unwrap());
}

/// Threads that take all they want by one call, in whatever order they name it.
#[test]
fn several_at_once_pass_in_any_order_they_are_named() {
    let _watchdog = Watchdog::over("several_at_once_pass_in_any_order", 0, HANG);
    let World { locks, .. } = world();
    let named: Vec<_> = (0..5).map(|number| (extent(number), LockMode::Exclusive)).collect();
    std::thread::scope(|scope| {
        for turn in 0..4 {
            let (locks, mut named) = (&locks, named.clone());
            scope.spawn(move || {
                for _ in 0..200 {
                    named.rotate_left(turn);
                    drop(locks.lock_many(&named).wait().unwrap());
                    drop(block_on(locks.lock_many(&named)).unwrap());
                }
            });
        }
    });
    assert_eq!(locks.live(), 0);
}

/// Cause: a task was known by the address of its waker, and a guard may outlive that: `block_on`
/// hands it out, a future is polled with another waker. The next task's waker may lie there. Harm:
/// in debug builds a program without any fault panicked, as often as the allocator used memory
/// again. Fix: the guard keeps a clone of the waker.
#[test]
fn a_new_task_in_the_memory_of_an_ended_one_is_not_taken_for_it() {
    let locks = table(64, 4, 63);
    let [lower, higher] = ordered_extents(&locks);
    for _ in 0..100 {
        let _outlives_its_task = block_on(locks.write(higher)).unwrap();
        // Its waker may lie where the one before lay.
        assert!(block_on(locks.write(lower)).is_ok());
    }
}
