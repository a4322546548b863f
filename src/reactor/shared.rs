//! What other threads see of a reactor and its lanes.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use crossbeam_utils::CachePadded;

use crate::concurrency::bells::Bells;
use crate::concurrency::call_table::{CallTable, ServerKey};
use crate::concurrency::mailbox::{Mailbox, Wake};
use crate::concurrency::waiters::Waiters;
use crate::io::backend::DiskFacts;
use crate::io::metrics::{LaneMetrics, ReactorMetrics};
use crate::io::op::{Completion, DiskId, Request};
use crate::machine::affinity::thread_usage;
use crate::reactor::local::{LocalTask, TaskSeed};
use crate::scheduler::limits::Limits;

/// A request on its way to a reactor.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) request: Request,
    /// When another lane accepted it, nanoseconds; 0 when it comes from its submitter.
    pub(crate) queued_ns: u64,
}

/// Calls of one engine.
pub(crate) type Calls = CallTable<Parcel, Completion>;

/// An order from the engine.
pub(crate) enum Control {
    Spawn(Box<dyn LocalTask + Send>),
    /// Start a task made on the reactor's thread, and let a bell call it.
    Plant {
        seed: TaskSeed,
        bell: Option<u32>,
    },
    /// Drive a disk in a place that was vacant, and say whether that is so.
    Attach {
        facts: Box<DiskFacts>,
        limits: Limits,
        file: Arc<OwnedFd>,
        done: Box<dyn FnOnce(std::io::Result<()>) + Send>,
    },
    /// A disk has another size, and what is inside may be sent; say so.
    Resize {
        disk: DiskId,
        size_bytes: u64,
        done: Box<dyn FnOnce(std::io::Result<()>) + Send>,
    },
    /// Let go of a disk that nothing is sent to any more, and say so.
    Detach {
        disk: DiskId,
        done: Box<dyn FnOnce(std::io::Result<()>) + Send>,
    },
    Drain,
    /// Give up on what is at the devices.
    Abandon,
}

/// Ends a sleep: an event that the backend waits for, or nothing where the driver is a loop.
pub(crate) trait Signal: Send + Sync {
    fn signal(&self);
}

/// One reactor, as other threads see it.
pub(crate) struct ReactorShared {
    pub(crate) calls: Arc<Calls>,
    pub(crate) mailbox: Mailbox,
    pub(crate) bells: Bells,
    pub(crate) metrics: ReactorMetrics,
    pub(crate) poisoned: AtomicBool,
    orders: Mutex<Vec<Control>>,
    orders_pending: AtomicBool,
    event: Arc<dyn Signal>,
}

impl ReactorShared {
    pub(crate) fn new(calls: Arc<Calls>, event: Arc<dyn Signal>) -> ReactorShared {
        ReactorShared {
            calls,
            mailbox: Mailbox::default(),
            bells: Bells::default(),
            metrics: ReactorMetrics::default(),
            poisoned: AtomicBool::new(false),
            orders: Mutex::new(Vec::new()),
            orders_pending: AtomicBool::new(false),
            event,
        }
    }

    fn wake(&self, wake: Wake) {
        if wake == Wake::Needed {
            self.metrics.wakes.add_shared(1);
            self.event.signal();
        }
    }

    /// Sends one call to the reactor, or gives its key back when the reactor has ended.
    #[inline]
    pub(crate) fn post(&self, key: ServerKey) -> Result<(), ServerKey> {
        let wake = self.mailbox.push(&self.calls, key)?;
        self.wake(wake);
        Ok(())
    }

    /// Sends many calls with one exchange and at most one wake-up; those that come back find the
    /// reactor ended.
    pub(crate) fn post_many(
        &self,
        keys: impl Iterator<Item = ServerKey>,
        mut refused: impl FnMut(ServerKey),
    ) {
        match self.mailbox.push_many(&self.calls, keys) {
            Ok(wake) => self.wake(wake),
            Err(keys) => keys.for_each(&mut refused),
        }
    }

    #[inline]
    pub(crate) fn ring(&self, bell: u32) {
        let wake = self.bells.ring(bell, &self.mailbox);
        self.wake(wake);
    }

    /// Gives the reactor an order.
    pub(crate) fn order(&self, order: Control) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        self.orders_pending.store(true, Ordering::Release);
        let wake = self.mailbox.nudge();
        self.wake(wake);
    }

    #[inline(always)]
    pub(crate) fn control_pending(&self) -> bool {
        self.orders_pending.load(Ordering::Acquire)
    }

    pub(crate) fn take_orders(&self) -> Vec<Control> {
        self.orders_pending.store(false, Ordering::Release);
        std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes the calling thread's CPU time as this reactor's.
    pub(crate) fn publish_usage(&self) {
        let usage = thread_usage();
        self.metrics.cpu_ns.set(usage.cpu_ns);
        self.metrics.user_ns.set(usage.user_ns);
        self.metrics.system_ns.set(usage.system_ns);
        self.metrics.switches.set(usage.voluntary_switches + usage.involuntary_switches);
    }
}

/// One lane, as other threads see it.
#[derive(Debug, Default)]
pub(crate) struct LaneShared {
    /// Requests of other threads accepted and not yet at the device.
    pub(crate) waiting: CachePadded<AtomicU32>,
    /// Lanes of the same disk that are idle and would take requests, by number.
    pub(crate) hungry: AtomicU64,
    pub(crate) metrics: LaneMetrics,
    /// Submitters that wait for room in the lane's queue; the count is `waiting`.
    room: Waiters,
}

impl LaneShared {
    /// Counts one more request in, unless `watermark` are waiting.
    #[inline]
    pub(crate) fn reserve(&self, watermark: u32) -> bool {
        if self.waiting.fetch_add(1, Ordering::AcqRel) < watermark {
            return true;
        }
        self.take_back();
        false
    }

    /// Counts a request out that never came to be queued.
    #[cold]
    pub(crate) fn take_back(&self) {
        // For a moment it was counted in, and who looked then found the queue fuller than it was.
        // While others are counted, their end wakes the waiters; the last one has to do it here.
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.room.wake_all();
        }
    }

    /// Counts `n` requests out, and collects who waits for the room.
    #[inline]
    pub(crate) fn release(&self, n: u32, wakers: &mut Vec<Waker>) {
        self.waiting.fetch_sub(n, Ordering::AcqRel);
        self.room.take_into(wakers);
    }

    /// Registers a waiter for room. Try [`LaneShared::reserve`] again afterwards.
    pub(crate) fn wait_for_room(&self, waker: &Waker) {
        self.room.register(waker);
    }

    /// Wakes everyone who waits for room: the lane takes nothing any more.
    pub(crate) fn wake_all(&self) {
        self.room.wake_all();
    }
}
