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

/// A manager, and who holds locks of it.
type Key = (u64, Holder);

/// What an [`Owner`] is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Thread(u64),
    Task { data: usize, vtable: usize },
}

type ByHolder = HashMap<Key, Vec<Entry>>;

static HELD: Mutex<Option<ByHolder>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static THREAD: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    static SHARDS_HELD: Cell<u32> = const { Cell::new(0) };
}

fn with_held<R>(f: impl FnOnce(&mut ByHolder) -> R) -> R {
    f(HELD.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(HashMap::new))
}

impl<'a> Owner<'a> {
    pub(crate) fn thread() -> Self {
        THREAD.try_with(|thread| Owner::Thread(*thread)).unwrap_or(Owner::Unknown)
    }

    pub(crate) fn task(waker: &'a Waker) -> Self {
        if waker.data().is_null() { Owner::Unknown } else { Owner::Task(waker) }
    }

    fn key(self, manager: u64) -> Option<Key> {
        let holder = match self {
            Owner::Unknown => return None,
            Owner::Thread(thread) => Holder::Thread(thread),
            Owner::Task(waker) => {
                let vtable = std::ptr::from_ref(waker.vtable()) as usize;
                Holder::Task { data: waker.data() as usize, vtable }
            }
        };
        Some((manager, holder))
    }
}

/// Panics if `owner` may not wait for a lock of this rank.
pub(crate) fn check(manager: u64, owner: Owner<'_>, rank: Rank, from: CalledFrom) {
    assert_eq!(
        SHARDS_HELD.get(),
        0,
        "a thread waits for {rank:?} at {} with a shard's mutex in hand",
        from.0
    );
    let Some(key) = owner.key(manager) else { return };
    let broken = with_held(|held| {
        let later = held.get(&key)?.iter().find(|entry| entry.rank.forbids(rank))?;
        Some((later.rank, later.place))
    });
    if let Some((held, place)) = broken {
        panic!(
            "lock order violated: {rank:?} is waited for at {}, while {held:?} is held, taken \
             at {place}; the order is extents by shard and UUID, then inodes, then extent maps, of \
             these one each",
            from.0
        );
    }
}

/// The remembrance of a lock that is held.
#[derive(Debug)]
pub(crate) struct Held {
    key: Option<Key>,
    ticket: u64,
    /// Keeps the task's address its own. Foreign code, so never dropped under the mutex.
    _task: Option<Waker>,
}

impl Held {
    pub(crate) fn new(manager: u64, owner: Owner<'_>, rank: Rank, from: CalledFrom) -> Held {
        let ticket = NEXT.fetch_add(1, Ordering::Relaxed);
        let task = match owner {
            Owner::Task(waker) => Some(waker.clone()),
            Owner::Thread(_) | Owner::Unknown => None,
        };
        let key = owner.key(manager);
        if let Some(key) = key {
            let entry = Entry { ticket, rank, place: from.0 };
            with_held(|held| held.entry(key).or_default().push(entry));
        }
        Held { key, ticket, _task: task }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
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
