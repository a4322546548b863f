//! Those who wait for the locks of one shard: a queue for each lock, first come, first served, all
//! in one slab. Only touched under the shard's mutex.

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;

use crate::concurrency::lock::word::LockMode;

const NIL: u32 = u32::MAX;

/// A waiter's place in the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaiterId(u32);

/// The two ends of one lock's queue; they lie with the lock.
///
/// Plain atomics of the standard library, also in the models: only whoever has the slab of
/// waiters `&mut`, that is the shard's mutex, reaches their values.
#[derive(Debug)]
pub(crate) struct QueueEnds {
    first: AtomicU32,
    last: AtomicU32,
}

impl QueueEnds {
    pub(crate) fn new() -> QueueEnds {
        QueueEnds { first: AtomicU32::new(NIL), last: AtomicU32::new(NIL) }
    }
}

#[derive(Debug)]
struct Waiter {
    mode: LockMode,
    /// It was given the lock while it slept.
    granted: bool,
    /// None once it was woken, until it waits again.
    waker: Option<Waker>,
    previous: u32,
    /// Next in its queue, or in the list of free places.
    next: u32,
}

/// The waiters of one shard. It grows to the most that ever waited at once, and stays so.
#[derive(Debug)]
pub(crate) struct Waiters {
    places: Vec<Waiter>,
    free: u32,
}

impl Waiters {
    pub(crate) fn new() -> Waiters {
        Waiters { places: Vec::new(), free: NIL }
    }

    /// Puts a waiter at the end of a queue.
    pub(crate) fn append(
        &mut self,
        ends: &QueueEnds,
        mode: LockMode,
        waker: Option<Waker>,
    ) -> WaiterId {
        let last = ends.last.load(Ordering::Relaxed);
        let waiter = Waiter { mode, granted: false, waker, previous: last, next: NIL };
        let id = match self.places.get(self.free as usize) {
            Some(place) => {
                let id = self.free;
                self.free = place.next;
                self.places[id as usize] = waiter;
                id
            }
            None => {
                self.places.push(waiter);
                self.places.len() as u32 - 1
            }
        };
        match self.places.get_mut(last as usize) {
            Some(before) => before.next = id,
            None => ends.first.store(id, Ordering::Relaxed),
        }
        ends.last.store(id, Ordering::Relaxed);
        WaiterId(id)
    }

    /// Takes a waiter out of its queue; its place stays its own.
    fn unlink(&mut self, ends: &QueueEnds, id: WaiterId) {
        let (previous, next) = {
            let waiter = &self.places[id.0 as usize];
            (waiter.previous, waiter.next)
        };
        match self.places.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => ends.first.store(next, Ordering::Relaxed),
        }
        match self.places.get_mut(next as usize) {
            Some(after) => after.previous = previous,
            None => ends.last.store(previous, Ordering::Relaxed),
        }
    }

    fn free(&mut self, id: WaiterId) {
        let waiter = &mut self.places[id.0 as usize];
        debug_assert!(
            waiter.waker.is_none(),
            "a waker is dropped by whoever left, outside the mutex"
        );
        waiter.next = self.free;
        self.free = id.0;
    }

    /// Takes a waiter out of its queue and gives its place back. Its waker is handed out, so that
    /// foreign code is not run under the mutex.
    pub(crate) fn remove(&mut self, ends: &QueueEnds, id: WaiterId) -> Option<Waker> {
        self.unlink(ends, id);
        let waker = self.places[id.0 as usize].waker.take();
        self.free(id);
        waker
    }

    /// Takes a waiter out of its queue with the lock in its hands. It gives its place back when it
    /// comes to know, by [`Waiters::leave_granted`].
    pub(crate) fn grant(&mut self, ends: &QueueEnds, id: WaiterId) -> Option<Waker> {
        self.unlink(ends, id);
        let waiter = &mut self.places[id.0 as usize];
        waiter.granted = true;
        waiter.waker.take()
    }

    /// Whether it was granted the lock; then its place is given back.
    pub(crate) fn leave_granted(&mut self, id: WaiterId) -> bool {
        let granted = self.places[id.0 as usize].granted;
        if granted {
            self.free(id);
        }
        granted
    }

    pub(crate) fn head(&self, ends: &QueueEnds) -> Option<(WaiterId, LockMode)> {
        let first = ends.first.load(Ordering::Relaxed);
        self.places.get(first as usize).map(|waiter| (WaiterId(first), waiter.mode))
    }

    /// Whether this one waits alone.
    pub(crate) fn is_last(&self, id: WaiterId) -> bool {
        let waiter = &self.places[id.0 as usize];
        waiter.previous == NIL && waiter.next == NIL
    }

    /// Takes the waker of one that is about to be woken.
    pub(crate) fn take_waker(&mut self, id: WaiterId) -> Option<Waker> {
        self.places[id.0 as usize].waker.take()
    }

    /// Leaves a waker for the next time. The old one is handed out.
    pub(crate) fn set_waker(&mut self, id: WaiterId, waker: Waker) -> Option<Waker> {
        self.places[id.0 as usize].waker.replace(waker)
    }

    /// Places of those who wait, or do not know yet that they need not.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> usize {
        let mut free = 0;
        let mut at = self.free;
        while let Some(place) = self.places.get(at as usize) {
            free += 1;
            at = place.next;
        }
        self.places.len() - free
    }
}
