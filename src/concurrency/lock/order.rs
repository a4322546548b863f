//! The locking order, checked in debug builds: extents by shard and then by UUID, then inodes,
//! then extent maps. A shard's mutex is held for a few instructions and never while waiting.
//!
//! A thread that blocks, or a task that awaits, panics if it holds a lock of the same manager that
//! comes later in the order, or the same one; the panic names both places. A task is known by its
//! waker. Locks got by `try_` are remembered, not checked: who does not wait cannot be in a cycle.
//! A lock that a task got by `try_` counts as its thread's, which never blocks if it is a reactor.

use std::task::Waker;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
use std::{
    cell::Cell,
    collections::HashMap,
    panic::Location,
    sync::{Mutex, PoisonError},
};

/// A lock's place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(debug_assertions), allow(dead_code))]
pub(crate) enum Rank {
    Extent { shard: u32, uuid: u128 },
    Inode { stripe: u32 },
    ExtentMap { stripe: u32 },
}

/// Who holds or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(not(debug_assertions), allow(dead_code))]
pub(crate) enum Owner {
    Thread(u64),
    Task(usize, usize),
    /// A waker without data says nothing about its task.
    Unknown,
}

#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
mod check {
    use super::{Cell, HashMap, Location, Mutex, Owner, PoisonError, Rank, Waker};
    use std::sync::atomic::{AtomicU64, Ordering};

    type Place = &'static Location<'static>;

    /// Where a lock was asked for.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct CalledFrom(Place);

    impl CalledFrom {
        #[track_caller]
        pub(crate) fn here() -> CalledFrom {
            CalledFrom(Location::caller())
        }
    }

    struct Entry {
        ticket: u64,
        rank: Rank,
        place: Place,
    }

    /// Locks held, by their manager and holder.
    static HELD: Mutex<Option<HashMap<(u64, Owner), Vec<Entry>>>> = Mutex::new(None);
    static NEXT: AtomicU64 = AtomicU64::new(0);

    thread_local! {
        static THREAD: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
        static SHARDS_HELD: Cell<u32> = const { Cell::new(0) };
    }

    fn with_held<R>(f: impl FnOnce(&mut HashMap<(u64, Owner), Vec<Entry>>) -> R) -> R {
        f(HELD.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(HashMap::new))
    }

    impl Owner {
        pub(crate) fn thread() -> Owner {
            THREAD.try_with(|thread| Owner::Thread(*thread)).unwrap_or(Owner::Unknown)
        }

        pub(crate) fn task(waker: &Waker) -> Owner {
            match waker.data() as usize {
                0 => Owner::Unknown,
                data => Owner::Task(data, std::ptr::from_ref(waker.vtable()) as usize),
            }
        }
    }

    /// Panics if `owner` may not wait for a lock of this rank.
    pub(crate) fn check(manager: u64, owner: Owner, rank: Rank, from: CalledFrom) {
        assert_eq!(
            SHARDS_HELD.get(),
            0,
            "a thread waits for {rank:?} at {} with a shard's mutex in hand",
            from.0
        );
        if owner == Owner::Unknown {
            return;
        }
        let broken = with_held(|held| {
            let later = held.get(&(manager, owner))?.iter().find(|entry| entry.rank >= rank)?;
            Some((later.rank, later.place))
        });
        if let Some((held, place)) = broken {
            panic!(
                "lock order violated: {rank:?} is waited for at {}, while {held:?} is held, taken \
                 at {place}; the order is extents by shard and UUID, then inodes, then extent maps",
                from.0
            );
        }
    }

    /// The remembrance of a lock that is held.
    #[derive(Debug)]
    pub(crate) struct Held {
        manager: u64,
        owner: Owner,
        ticket: u64,
    }

    impl Held {
        pub(crate) fn new(manager: u64, owner: Owner, rank: Rank, from: CalledFrom) -> Held {
            let ticket = NEXT.fetch_add(1, Ordering::Relaxed);
            if owner != Owner::Unknown {
                let entry = Entry { ticket, rank, place: from.0 };
                with_held(|held| held.entry((manager, owner)).or_default().push(entry));
            }
            Held { manager, owner, ticket }
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let key = (self.manager, self.owner);
            with_held(|held| {
                let Some(entries) = held.get_mut(&key) else { return };
                entries.retain(|entry| entry.ticket != self.ticket);
                if entries.is_empty() {
                    held.remove(&key);
                }
            });
        }
    }

    /// The remembrance of a shard's mutex.
    #[derive(Debug)]
    pub(crate) struct ShardHeld(());

    impl ShardHeld {
        pub(crate) fn new() -> ShardHeld {
            SHARDS_HELD.set(SHARDS_HELD.get() + 1);
            ShardHeld(())
        }
    }

    impl Drop for ShardHeld {
        fn drop(&mut self) {
            SHARDS_HELD.set(SHARDS_HELD.get() - 1);
        }
    }
}

/// Release builds check nothing and remember nothing.
#[cfg(not(all(debug_assertions, not(any(loom, shuttle)))))]
mod check {
    use super::{Owner, Rank, Waker};

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct CalledFrom;

    impl CalledFrom {
        #[inline(always)]
        pub(crate) fn here() -> CalledFrom {
            CalledFrom
        }
    }

    impl Owner {
        #[inline(always)]
        pub(crate) fn thread() -> Owner {
            Owner::Unknown
        }

        #[inline(always)]
        pub(crate) fn task(_: &Waker) -> Owner {
            Owner::Unknown
        }
    }

    #[inline(always)]
    pub(crate) fn check(_: u64, _: Owner, _: Rank, _: CalledFrom) {}

    #[derive(Debug)]
    pub(crate) struct Held;

    impl Held {
        #[inline(always)]
        pub(crate) fn new(_: u64, _: Owner, _: Rank, _: CalledFrom) -> Held {
            Held
        }
    }

    #[derive(Debug)]
    pub(crate) struct ShardHeld;

    impl ShardHeld {
        #[inline(always)]
        pub(crate) fn new() -> ShardHeld {
            ShardHeld
        }
    }
}

pub(crate) use check::{CalledFrom, Held, ShardHeld, check};

/// A number for a manager, that no other one of this process has.
pub(crate) fn new_manager() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
