//! The check itself: who holds what, and where it was taken.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

use crate::concurrency::lock::order::{Owner, Rank};

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
type ByHolder = HashMap<(u64, Owner), Vec<Entry>>;

static HELD: Mutex<Option<ByHolder>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static THREAD: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    static SHARDS_HELD: Cell<u32> = const { Cell::new(0) };
}

fn with_held<R>(f: impl FnOnce(&mut ByHolder) -> R) -> R {
    f(HELD.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(HashMap::new))
}

impl Owner {
    pub(crate) fn thread() -> Owner {
        THREAD.try_with(|thread| Owner::Thread(*thread)).unwrap_or(Owner::Unknown)
    }

    pub(crate) fn task(waker: &Waker) -> Owner {
        let vtable = std::ptr::from_ref(waker.vtable()) as usize;
        match (waker.data() as usize, Owner::thread()) {
            (data @ 1.., Owner::Thread(thread)) => Owner::Task { data, vtable, thread },
            _ => Owner::Unknown,
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
