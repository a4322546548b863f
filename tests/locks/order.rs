//! The check of the locking order in debug builds: what it must find, and what it must let pass.

use crate::rig::{block_on, ordered_extents, table};

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
