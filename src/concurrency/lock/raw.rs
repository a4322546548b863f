//! One lock, and the protocol of waiting for it.
//!
//! - A taker compares and swaps the [word](super::word). While others wait it overtakes them, and
//!   the word counts that; at the bound only the head of the queue may come in.
//! - Who finds the lock held joins the queue under the shard's mutex, and sets `QUEUED` by the
//!   very swap that still found it held: whoever lets go later sees it.
//! - Who lets go, and leaves somebody waiting and nobody woken, wakes the head of the queue and
//!   sets `NOTIFIED`. The lock is free meanwhile: on a busy lock the time of a wake-up is not lost.
//! - The woken head looks again under the mutex. It takes the lock, with all shared ones next in
//!   the queue if it is shared; or clears `NOTIFIED` by the very swap that still found it held, so
//!   that whoever lets go later wakes it again. If it gives up instead, it hands the notice on.
//!
//! So a waiter with `n` before it is overtaken by at most `(n + 1) * overtakes_max` later arrivals.
//! Wakers are called, and dropped, outside the mutex: they are foreign code.

use std::sync::PoisonError;
use std::task::Waker;

use crossbeam_utils::CachePadded;

use crate::concurrency::lock::order;
use crate::concurrency::lock::queue::{QueueEnds, WaiterId, Waiters};
use crate::concurrency::lock::word::{LockMode, LockWord, Notice, Queue, State};
use crate::concurrency::sync::{AtomicU32, Mutex, MutexGuard};
use crate::memory::table::HugeTable;

/// Shared waiters that one woken head lets in with itself; the next ones follow by a notice.
const GROUP: usize = 8;

/// A lock word with its queue.
#[derive(Debug)]
pub(crate) struct RawLock {
    pub(crate) word: LockWord,
    ends: QueueEnds,
    /// Which of its table's parkings keeps its waiters.
    shard: u32,
}

impl RawLock {
    pub(crate) fn new(shard: u32) -> RawLock {
        RawLock { word: LockWord::new(), ends: QueueEnds::new(), shard }
    }
}

/// The parkings of a table of locks, each on cache lines of its own.
pub(crate) type Parkings = HugeTable<CachePadded<Parking>>;

/// Where the waiters of several locks are kept.
#[derive(Debug)]
pub(crate) struct Parking {
    waiters: Mutex<Waiters>,
    overtakes_max: u8,
    /// Where the search for an idle lock of the shard goes on. Changed under the mutex.
    pub(crate) hand: AtomicU32,
}

/// The right to touch the queues of one shard, and to give its idle locks to other keys.
pub(crate) struct ParkingGuard<'a> {
    waiters: MutexGuard<'a, Waiters>,
    overtakes_max: u8,
    /// Debug builds panic when somebody waits for a lock with this in hand.
    _order: order::ShardHeld,
}

/// Wakers that are called once the mutex is free.
#[derive(Default)]
pub(crate) struct Woken {
    wake: [Option<Waker>; GROUP + 1],
    count: usize,
    /// Only dropped: they were replaced.
    dropped: Option<Waker>,
}

impl Woken {
    fn push(&mut self, waker: Option<Waker>) {
        if waker.is_some() {
            self.wake[self.count] = waker;
            self.count += 1;
        }
    }

    pub(crate) fn wake(mut self) {
        self.wake_left();
    }

    fn wake_left(&mut self) {
        for waker in &mut self.wake {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }
}

/// A waker that panics does not cost the others their wake-up.
impl Drop for Woken {
    fn drop(&mut self) {
        self.wake_left();
    }
}

/// What came of an attempt to take a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Taken,
    Waiting(WaiterId),
}

impl Parking {
    pub(crate) fn new(overtakes_max: u8) -> Parking {
        let (waiters, hand) = (Mutex::new(Waiters::new()), AtomicU32::new(0));
        Parking { waiters, overtakes_max, hand }
    }

    pub(crate) fn enter(&self) -> ParkingGuard<'_> {
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        ParkingGuard { waiters, overtakes_max: self.overtakes_max, _order: order::ShardHeld::new() }
    }
}

impl ParkingGuard<'_> {
    /// Takes the lock, or joins its queue and takes `waker` along. A waker that is not needed stays
    /// with the caller, who drops it outside the mutex.
    pub(crate) fn take_or_queue(
        &mut self,
        lock: &RawLock,
        mode: LockMode,
        waker: &mut Option<Waker>,
    ) -> Attempt {
        let mut seen = lock.word.load();
        loop {
            let next = seen.taken(mode, self.overtakes_max);
            match lock.word.change(seen, next.unwrap_or(seen.queued())) {
                Ok(()) if next.is_some() => return Attempt::Taken,
                Ok(()) => {
                    return Attempt::Waiting(self.waiters.append(&lock.ends, mode, waker.take()));
                }
                Err(now) => seen = now,
            }
        }
    }

    /// A waiter was called: takes the lock if it is its turn, or waits on with `waker`.
    pub(crate) fn look_again(
        &mut self,
        lock: &RawLock,
        id: WaiterId,
        waker: &mut Option<Waker>,
        woken: &mut Woken,
    ) -> Attempt {
        if self.waiters.leave_granted(id) {
            return Attempt::Taken;
        }
        let is_head = self.waiters.head(&lock.ends).filter(|(head, _)| *head == id);
        let Some((_, mode)) = is_head else {
            self.wait_on(id, waker, woken);
            return Attempt::Waiting(id);
        };
        if !self.admit_head(lock, id, mode) {
            self.wait_on(id, waker, woken);
            return Attempt::Waiting(id);
        }
        woken.dropped = self.waiters.remove(&lock.ends, id);
        if mode == LockMode::Shared {
            self.admit_group(lock, woken);
        }
        Attempt::Taken
    }

    fn wait_on(&mut self, id: WaiterId, waker: &mut Option<Waker>, woken: &mut Woken) {
        if let Some(waker) = waker.take() {
            woken.dropped = self.waiters.set_waker(id, waker);
        }
    }

    /// Changes the word for the head of the queue: held by it, or no longer notified.
    fn admit_head(&mut self, lock: &RawLock, id: WaiterId, mode: LockMode) -> bool {
        let left = if self.waiters.is_last(id) { Queue::Empty } else { Queue::Waiting };
        let mut seen = lock.word.load();
        loop {
            let next = seen.taken_by_head(mode, left);
            match lock.word.change(seen, next.unwrap_or(seen.unnotified())) {
                Ok(()) => return next.is_some(),
                Err(now) => seen = now,
            }
        }
    }

    /// The head was shared and is in: so may be those that follow it, up to an exclusive one.
    fn admit_group(&mut self, lock: &RawLock, woken: &mut Woken) {
        while let Some((id, LockMode::Shared)) = self.waiters.head(&lock.ends) {
            if woken.count == GROUP {
                return self.notify(lock, woken);
            }
            if !self.admit_head(lock, id, LockMode::Shared) {
                return;
            }
            let waker = self.waiters.grant(&lock.ends, id);
            woken.push(waker);
        }
    }

    /// Wakes the head of the queue if it could come in and was not woken yet.
    pub(crate) fn notify(&mut self, lock: &RawLock, woken: &mut Woken) {
        let Some((id, mode)) = self.waiters.head(&lock.ends) else { return };
        let mut seen = lock.word.load();
        while seen.is_queued() && !seen.is_notified() && seen.admits(mode) {
            match lock.word.change(seen, seen.notified()) {
                Ok(()) => {
                    let waker = self.waiters.take_waker(id);
                    return woken.push(waker);
                }
                Err(now) => seen = now,
            }
        }
    }

    /// A waiter gives up. True when it had been given the lock already: it must let go of it.
    pub(crate) fn give_up(&mut self, lock: &RawLock, id: WaiterId, woken: &mut Woken) -> bool {
        if self.waiters.leave_granted(id) {
            return true;
        }
        let was_head = self.waiters.head(&lock.ends).is_some_and(|(head, _)| head == id);
        let was_last = self.waiters.is_last(id);
        woken.dropped = self.waiters.remove(&lock.ends, id);
        if !was_head {
            return false;
        }
        // If it was the one who had been woken, the next one is owed the notice.
        let mut seen = lock.word.load();
        loop {
            let next = if was_last { seen.unqueued() } else { seen.unnotified() };
            match lock.word.change(seen, next) {
                Ok(()) => break,
                Err(now) => seen = now,
            }
        }
        self.notify(lock, woken);
        false
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.in_use()
    }
}

/// A lock and where its waiters are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockRef<'a> {
    pub(crate) lock: &'a RawLock,
    pub(crate) parkings: &'a Parkings,
}

impl<'a> LockRef<'a> {
    /// Where its waiters are; only they and those who wake them need to know.
    pub(crate) fn parking(&self) -> &'a Parking {
        &self.parkings[self.lock.shard as usize]
    }

    /// Takes the lock if nobody holds it in another way and nobody waits.
    #[inline(always)]
    pub(crate) fn take_free(&self, seen: State, mode: LockMode) -> bool {
        match seen.taken_free(mode) {
            Some(next) => self.lock.word.change(seen, next).is_ok(),
            None => false,
        }
    }

    /// Takes the lock from the state that was seen, or says why not.
    pub(crate) fn take(&self, seen: State, mode: LockMode) -> Take {
        let Some(next) = seen.taken(mode, self.parking().overtakes_max) else {
            return Take::Held;
        };
        match self.lock.word.change(seen, next) {
            Ok(()) => Take::Taken,
            Err(_) => Take::Raced,
        }
    }

    /// Lets go.
    #[inline(always)]
    pub(crate) fn release(&self, mode: LockMode) {
        if self.lock.word.release(mode) == Notice::Needed {
            self.notify();
        }
    }

    /// From exclusive to shared, with nobody in between.
    pub(crate) fn downgrade(&self) {
        if self.lock.word.downgrade() == Notice::Needed {
            self.notify();
        }
    }

    #[cold]
    fn notify(&self) {
        let mut woken = Woken::default();
        self.parking().enter().notify(self.lock, &mut woken);
        woken.wake();
    }
}

/// What became of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    Taken,
    /// Somebody holds it, or has been waiting for so long that nobody may overtake.
    Held,
    /// The word changed meanwhile: look again.
    Raced,
}
