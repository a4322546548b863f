//! Those who wait for room: tasks and threads that found something full.
//!
//! The one protocol for both sides, with `count` an atomic that says how much is free or taken:
//!
//! - who finds it full registers here, and looks again **with a read-modify-write** of `count`;
//! - who makes room changes `count` by a read-modify-write, and then wakes all.
//!
//! Both changes are AcqRel and of one atomic, so one comes first: if it is the waiter's, the other
//! sees the registration; if not, the waiter sees the room.

use std::sync::PoisonError;
use std::task::Waker;

use crate::concurrency::sync::{AtomicU32, Mutex, Ordering};

/// See the module.
#[derive(Debug)]
pub struct Waiters {
    /// 1 when somebody may be registered, so that nobody locks for an empty list.
    any: AtomicU32,
    wakers: Mutex<Vec<Waker>>,
}

impl Default for Waiters {
    fn default() -> Self {
        Waiters { any: AtomicU32::new(0), wakers: Mutex::new(Vec::new()) }
    }
}

impl Waiters {
    /// Registers a waiter, once. Look again afterwards.
    pub fn register(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|other| other.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        self.any.store(1, Ordering::Release);
    }

    /// Takes the registered ones out, to be woken later.
    #[inline]
    pub fn take_into(&self, taken: &mut Vec<Waker>) {
        // Relaxed: the caller's read-modify-write ordered it, as the module says.
        if self.any.load(Ordering::Relaxed) != 0 {
            taken.append(&mut self.take());
        }
    }

    /// Wakes everyone who is registered.
    #[inline]
    pub fn wake_all(&self) {
        if self.any.load(Ordering::Relaxed) != 0 {
            self.take().into_iter().for_each(Waker::wake);
        }
    }

    #[cold]
    fn take(&self) -> Vec<Waker> {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(0, Ordering::Relaxed);
        std::mem::take(&mut wakers)
    }
}
