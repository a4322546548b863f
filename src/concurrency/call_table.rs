//! Call slots: where a request waits for a reactor and its reply waits for the caller.
//!
//! A slot is taken from a bounded free list, carries the request one way and the reply the other,
//! and goes back when both sides are done with it. Nothing is allocated per call, and a call can
//! never be refused half way: whoever holds a slot has room in every mailbox.
//!
//! Who may touch what, by the slot's state:
//!
//! | state | request | reply | waker |
//! | --- | --- | --- | --- |
//! | `PENDING` | server | server | caller |
//! | `PARKED` | server | server | nobody; the caller left it for the server |
//! | `TAKING` | – | server | server |
//! | `DONE` | – | caller | caller |
//! | `DETACHED` | server | nobody | nobody |
//!
//! The two keys of a call are not `Clone`: one caller, one server, as the table says.

use std::task::{Context, Poll, Waker};

use crossbeam_utils::CachePadded;

use crate::concurrency::sync::{AtomicU32, AtomicU64, Ordering, UnsafeCell, spin_loop};
use crate::concurrency::waiters::Waiters;

const PENDING: u32 = 0;
const PARKED: u32 = 1;
const TAKING: u32 = 2;
const DONE: u32 = 3;
const DETACHED: u32 = 4;

/// The end of a list of slots.
pub(crate) const NIL: u32 = u32::MAX;

/// The caller's half of a call: it takes the reply or detaches.
#[derive(Debug)]
pub struct CallerKey(u32);

/// The server's half of a call: it takes the request and completes it.
#[derive(Debug)]
pub struct ServerKey(pub(crate) u32);

#[derive(Debug)]
#[repr(align(128))]
struct Slot<Q, R> {
    state: AtomicU32,
    /// Next slot in whichever list holds this one: the free list, or a mailbox.
    next: AtomicU32,
    request: UnsafeCell<Option<Q>>,
    reply: UnsafeCell<Option<R>>,
    waker: UnsafeCell<Option<Waker>>,
}

/// A bounded table of calls from any thread to any reactor.
#[derive(Debug)]
pub struct CallTable<Q, R> {
    slots: Box<[Slot<Q, R>]>,
    /// Low half: index of the first free slot. High half: a counter that changes at every pop, so
    /// that a head which came back with another successor is not taken for the old one (ABA).
    free: CachePadded<AtomicU64>,
    /// Those who found no slot free.
    waiters: Waiters,
}

// SAFETY: a slot's cells are touched by one side at a time, as the table in the module head says;
// the state word's Acquire and Release pairs order those accesses.
#[allow(unsafe_code)]
unsafe impl<Q: Send, R: Send> Sync for CallTable<Q, R> {}
// SAFETY: the table owns its slots; moving it moves plain data.
#[allow(unsafe_code)]
unsafe impl<Q: Send, R: Send> Send for CallTable<Q, R> {}

#[allow(unsafe_code)]
impl<Q, R> CallTable<Q, R> {
    /// A table with room for `capacity` calls at once.
    pub fn new(capacity: u32) -> Self {
        assert!(
            capacity > 0 && capacity < NIL - 2,
            "a call table needs between 1 and 2^32 - 4 slots"
        );
        let slots = (0..capacity)
            .map(|index| Slot {
                state: AtomicU32::new(PENDING),
                next: AtomicU32::new(if index + 1 < capacity { index + 1 } else { NIL }),
                request: UnsafeCell::new(None),
                reply: UnsafeCell::new(None),
                waker: UnsafeCell::new(None),
            })
            .collect();
        CallTable { slots, free: CachePadded::new(AtomicU64::new(0)), waiters: Waiters::default() }
    }

    /// How many calls fit at once.
    pub fn capacity(&self) -> u32 {
        self.slots.len() as u32
    }

    fn slot(&self, index: u32) -> &Slot<Q, R> {
        &self.slots[index as usize]
    }

    pub(crate) fn link(&self, index: u32) -> &AtomicU32 {
        &self.slot(index).next
    }

    /// Opens a call with `request`, or gives it back when all slots are taken.
    pub fn open(&self, request: Q) -> Result<(CallerKey, ServerKey), Q> {
        let Some(index) = self.pop_free() else { return Err(request) };
        let slot = self.slot(index);
        // Relaxed: the mailbox push that hands the slot to the server has the Release.
        slot.state.store(PENDING, Ordering::Relaxed);
        // SAFETY: the slot came off the free list, so nobody else holds a key to it.
        slot.request.with_mut(|cell| unsafe { *cell = Some(request) });
        Ok((CallerKey(index), ServerKey(index)))
    }

    /// Registers a waiter for a slot. Call [`CallTable::open`] again afterwards.
    pub fn wait_for_slot(&self, waker: &Waker) {
        self.waiters.register(waker);
        // The second look, as `Waiters` demands it: a slot freed before this is seen by the next
        // `open`, and who frees one after it sees the registration.
        self.free.fetch_or(0, Ordering::AcqRel);
    }

    /// Takes the request out of a call.
    pub fn take_request(&self, key: &ServerKey) -> Q {
        // SAFETY: only the server touches the request cell once the call is open, and `key` is
        // the one server key of this slot.
        let request = self.slot(key.0).request.with_mut(|cell| unsafe { (*cell).take() });
        request.expect("a server key comes with a request in its slot")
    }

    /// Puts a request back, for another reactor to serve.
    pub fn put_request(&self, key: &ServerKey, request: Q) {
        // SAFETY: as in `take_request`.
        self.slot(key.0).request.with_mut(|cell| unsafe { *cell = Some(request) });
    }

    /// Completes a call. Returns the waker of a caller that waits; wake it after the batch.
    pub fn complete(&self, key: ServerKey, reply: R) -> Option<Waker> {
        let slot = self.slot(key.0);
        // SAFETY: in every state before DONE only the server touches the reply cell.
        slot.reply.with_mut(|cell| unsafe { *cell = Some(reply) });
        // Release pairs with the caller's Acquire in `take_reply`: the reply is whole before it
        // is seen.
        let seen = match slot.state.compare_exchange(
            PENDING,
            DONE,
            Ordering::Release,
            Ordering::Acquire,
        ) {
            Ok(_) => return None,
            Err(seen) => seen,
        };
        if seen == PARKED {
            // Acquire pairs with the caller's Release when it parked: the waker is whole.
            let parked =
                slot.state.compare_exchange(PARKED, TAKING, Ordering::Acquire, Ordering::Acquire);
            if parked.is_ok() {
                // SAFETY: in TAKING the waker cell is the server's.
                let waker = slot.waker.with_mut(|cell| unsafe { (*cell).take() });
                slot.state.store(DONE, Ordering::Release);
                return waker;
            }
        }
        self.complete_contended(slot, key)
    }

    /// The caller moved between parking, unparking and detaching while we completed.
    #[cold]
    fn complete_contended(&self, slot: &Slot<Q, R>, key: ServerKey) -> Option<Waker> {
        loop {
            match slot.state.load(Ordering::Acquire) {
                DETACHED => {
                    // SAFETY: a detached caller never comes back; the slot is the server's alone.
                    drop(slot.reply.with_mut(|cell| unsafe { (*cell).take() }));
                    self.push_free(key.0);
                    return None;
                }
                PARKED => {
                    let parked = slot.state.compare_exchange(
                        PARKED,
                        TAKING,
                        Ordering::Acquire,
                        Ordering::Relaxed,
                    );
                    if parked.is_ok() {
                        // SAFETY: in TAKING the waker cell is the server's.
                        let waker = slot.waker.with_mut(|cell| unsafe { (*cell).take() });
                        slot.state.store(DONE, Ordering::Release);
                        return waker;
                    }
                }
                _ => {
                    let pending = slot.state.compare_exchange(
                        PENDING,
                        DONE,
                        Ordering::Release,
                        Ordering::Relaxed,
                    );
                    if pending.is_ok() {
                        return None;
                    }
                }
            }
            spin_loop();
        }
    }

    /// Ends a call that was never sent: whoever has both keys gives the slot back.
    pub fn cancel(&self, caller: CallerKey, server: ServerKey) {
        assert_eq!(caller.0, server.0, "the two keys are of different calls");
        self.push_free(server.0);
    }

    /// Whether the reply is there to be taken.
    #[inline]
    pub fn is_done(&self, key: &CallerKey) -> bool {
        self.slot(key.0).state.load(Ordering::Acquire) == DONE
    }

    /// Takes the reply and gives the slot back, if the call is done.
    pub fn take_reply(&self, key: CallerKey) -> Result<R, CallerKey> {
        if !self.is_done(&key) {
            return Err(key);
        }
        let slot = self.slot(key.0);
        // SAFETY: in DONE both cells are the caller's.
        let reply = slot.reply.with_mut(|cell| unsafe { (*cell).take() });
        // SAFETY: as above; a waker that was registered and withdrawn may still lie here.
        drop(slot.waker.with_mut(|cell| unsafe { (*cell).take() }));
        self.push_free(key.0);
        Ok(reply.expect("a done call carries its reply"))
    }

    /// Registers the caller's waker, unless the call is done. A later registration replaces it.
    pub fn register(&self, key: &CallerKey, context: &Context<'_>) -> Poll<()> {
        let slot = self.slot(key.0);
        loop {
            match slot.state.load(Ordering::Acquire) {
                DONE => return Poll::Ready(()),
                PARKED => {
                    // Withdraw the old waker first: in PARKED it is the server's to take.
                    let _ = slot.state.compare_exchange(
                        PARKED,
                        PENDING,
                        Ordering::Acquire,
                        Ordering::Relaxed,
                    );
                }
                TAKING => spin_loop(),
                _ => {
                    let waker = context.waker();
                    // SAFETY: in PENDING the waker cell is the caller's.
                    slot.waker.with_mut(|cell| unsafe { (*cell).replace(waker.clone()) });
                    // Release: the waker is whole before the server may take it.
                    let parked = slot.state.compare_exchange(
                        PENDING,
                        PARKED,
                        Ordering::Release,
                        Ordering::Relaxed,
                    );
                    if parked.is_ok() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Gives up interest in the reply. The operation goes on; its slot is freed when it ends.
    pub fn detach(&self, key: CallerKey) {
        let slot = self.slot(key.0);
        loop {
            let state = slot.state.load(Ordering::Acquire);
            if state == DONE {
                drop(self.take_reply(key));
                return;
            }
            if state == TAKING {
                spin_loop();
                continue;
            }
            if state == PARKED {
                let _ = slot.state.compare_exchange(
                    PARKED,
                    PENDING,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                );
                continue;
            }
            // SAFETY: in PENDING the waker cell is the caller's.
            drop(slot.waker.with_mut(|cell| unsafe { (*cell).take() }));
            let detached = slot.state.compare_exchange(
                PENDING,
                DETACHED,
                Ordering::Release,
                Ordering::Relaxed,
            );
            if detached.is_ok() {
                return;
            }
        }
    }

    fn pop_free(&self) -> Option<u32> {
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            let index = head as u32;
            if index == NIL {
                return None;
            }
            let next = self.link(index).load(Ordering::Relaxed);
            let tagged = ((head >> 32).wrapping_add(1) << 32) | u64::from(next);
            // Acquire pairs with the Release in `push_free`: the slot's cells are the last
            // user's no more.
            match self.free.compare_exchange_weak(
                head,
                tagged,
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(index),
                Err(seen) => head = seen,
            }
        }
    }

    fn push_free(&self, index: u32) {
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            self.link(index).store(head as u32, Ordering::Relaxed);
            let tagged = (head & !u64::from(u32::MAX)) | u64::from(index);
            // Release for the next owner of the slot; Acquire to see who waits for one.
            match self.free.compare_exchange_weak(head, tagged, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return self.waiters.wake_all(),
                Err(seen) => head = seen,
            }
        }
    }
}
