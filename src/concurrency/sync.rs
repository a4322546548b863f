//! The atomics, locks, cells and threads of this layer: the standard library's, or `loom`'s under
//! `--cfg loom`, or `shuttle`'s under `--cfg shuttle`.

#[cfg(loom)]
pub use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering, fence},
};
#[cfg(shuttle)]
pub use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering, fence},
};
#[cfg(not(any(loom, shuttle)))]
pub use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub use loom::hint::spin_loop;
#[cfg(shuttle)]
pub use shuttle::hint::spin_loop;
#[cfg(not(any(loom, shuttle)))]
pub use std::hint::spin_loop;

#[cfg(loom)]
pub use loom::{
    thread::{Thread, current, park, yield_now},
    thread_local,
};
#[cfg(shuttle)]
pub use shuttle::{
    thread::{Thread, current, park, park_timeout, yield_now},
    thread_local,
};
#[cfg(not(any(loom, shuttle)))]
pub use std::{
    thread::{Thread, current, park, park_timeout, yield_now},
    thread_local,
};

/// Like `shuttle`'s: the models know no time, so no timeout ends a sleep.
#[cfg(loom)]
pub fn park_timeout(_: std::time::Duration) {
    park();
}

#[cfg(loom)]
pub use loom::cell::UnsafeCell;

/// A cell whose accesses `loom` can watch; this is the plain one with the same face.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    /// A cell that holds `value`.
    pub fn new(value: T) -> Self {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    /// Hands a raw pointer for writing to `f`.
    #[inline(always)]
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
