//! The check of the locking order in debug builds: what it must find, and what it must let pass.

use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::rig::{Bell, ordered_extents, poll, table};

/// Cause: a task was known by the address of its waker alone. `block_on` hands the guard out and
/// frees its waker; the next task's waker may lie there, while the guard is still held. Harm: in
/// debug builds a program without any fault panicked, as often as the allocator used memory again.
/// Fix: a task is known by its waker and its thread.
#[test]
fn a_new_task_in_the_memory_of_an_ended_one_is_not_taken_for_it() {
    let locks = table(64, 4, 63);
    let [lower, higher] = ordered_extents(&locks);
    // The same memory, without waiting for the allocator to give it out twice.
    let (bell, _) = Bell::new();
    let _outlives = std::thread::scope(|scope| {
        let ended = scope.spawn(|| {
            let waker = Waker::from(Arc::clone(&bell));
            let Poll::Ready(guard) = poll(&mut locks.write(higher), &waker) else { panic!("free") };
            guard.unwrap()
        });
        ended.join().unwrap()
    });
    std::thread::scope(|scope| {
        let next = scope.spawn(|| {
            let waker = Waker::from(Arc::clone(&bell));
            assert!(matches!(poll(&mut locks.write(lower), &waker), Poll::Ready(Ok(_))));
        });
        next.join().unwrap();
    });
}
