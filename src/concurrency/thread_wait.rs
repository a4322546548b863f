//! How a plain thread waits for what a task would await: by a waker that unparks it.

use std::cell::Cell;
use std::sync::Arc;
use std::task::{Wake, Waker};

use crate::concurrency::sync::{self, Thread, current};

// The standard library's also in the models: no thread of theirs is a reactor's.
std::thread_local! {
    static ON_REACTOR: Cell<bool> = const { Cell::new(false) };
}

sync::thread_local! {
    static THREAD_WAKER: Waker = Waker::from(Arc::new(Unpark(current())));
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Marks the calling thread as a reactor's: it must not wait for what it brings about itself.
pub(crate) fn mark_reactor_thread() {
    ON_REACTOR.set(true);
}

/// Whether the calling thread is a reactor's.
pub(crate) fn on_reactor_thread() -> bool {
    ON_REACTOR.get()
}

/// Runs `f` with a waker that unparks this thread. The waker is a thread's one allocation, made at
/// the first call; a destructor of a thread-local that waits after the waker's own gets a new one.
pub(crate) fn with_thread_waker<R>(f: impl FnOnce(&Waker) -> R) -> R {
    match THREAD_WAKER.try_with(Waker::clone) {
        Ok(waker) => f(&waker),
        Err(_) => f(&Waker::from(Arc::new(Unpark(current())))),
    }
}
