//! The locking order, checked in debug builds: extents by shard and then by UUID, then inodes,
//! then extent maps. A shard's mutex is held for a few instructions and never while waiting.
//!
//! A thread that blocks, or a task that awaits, panics if it holds a lock of the same manager that
//! comes later in the order, or the same one; the panic names both places. Locks got by `try_` are
//! remembered, not checked: who does not wait cannot be in a cycle. A lock that a task got by
//! `try_` counts as its thread's, which never blocks if it is a reactor.
//!
//! A guard counts as its taker's until it is dropped, wherever it was moved. A task is known by its
//! waker, of which its guards keep a clone: no other task's can lie there meanwhile. So debug
//! builds keep a task's memory while a guard lives that it took, and one that its executor lets
//! lie, without dropping its future, keeps its locks.

use std::task::Waker;

#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
mod checked;
#[cfg(not(all(debug_assertions, not(any(loom, shuttle)))))]
mod unchecked;

#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
pub(crate) use checked::{CalledFrom, Held, ShardHeld, check};
#[cfg(not(all(debug_assertions, not(any(loom, shuttle)))))]
pub(crate) use unchecked::{CalledFrom, Held, ShardHeld, check};

/// A lock's place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(any(loom, shuttle, not(debug_assertions)), allow(dead_code))]
pub(crate) enum Rank {
    Extent { shard: u32, uuid: u128 },
    Inode { stripe: u32 },
    ExtentMap { stripe: u32 },
}

impl Rank {
    /// Whether its holder may not wait for `next`: one that comes earlier, or the same; and of
    /// metadata two of a kind, since nobody knows in which stripes they lie.
    #[cfg_attr(any(loom, shuttle, not(debug_assertions)), allow(dead_code))]
    fn forbids(self, next: Rank) -> bool {
        match (self, next) {
            (Rank::Inode { .. }, Rank::Inode { .. })
            | (Rank::ExtentMap { .. }, Rank::ExtentMap { .. }) => true,
            _ => self >= next,
        }
    }
}

/// Who holds or waits.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(any(loom, shuttle, not(debug_assertions)), allow(dead_code))]
pub(crate) enum Owner<'a> {
    Thread(u64),
    Task(&'a Waker),
    /// A waker without data says nothing about its task.
    Unknown,
}

/// A number for a manager, that no other one of this process has.
pub(crate) fn new_manager() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
