//! The load: a job's clone as a task on a reactor, or as a thread with tickets; on the storage
//! engine ([`store`]) as a blocking thread, or as one of many tasks ([`tasks`]).
//!
//! A closed loop keeps `depth` requests in flight; an open loop (`--rate_iops`) starts requests on
//! a schedule and measures from the scheduled start, so that a stall is not omitted.
//! Buffers, data and offsets are prepared before; a request costs the loop no allocation and no
//! clock reading of its own.

pub mod local;
pub mod store;
pub mod tasks;
pub mod thread;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use dynamicfs::io::IoError;
use dynamicfs::machine::affinity::ThreadUsage;
use dynamicfs::metrics::{Counter, Histogram};
use dynamicfs::{Completion, DiskId, Priority, StoreError};

use crate::report::Buckets;
use crate::stream::{Direction, Stream};

/// Failed requests after which a clone gives up: a disk that refuses everything would be asked at
/// the speed of light.
pub const FAILURES_MAX: u64 = 1000;

/// When a clone runs, on the engine's clock.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// First nanosecond that counts.
    pub from_ns: u64,
    /// First that does not count any more; nothing starts from here on.
    pub until_ns: u64,
    /// Stop after so many requests.
    pub ios_max: u64,
}

/// What a clone is to do.
#[derive(Debug)]
pub struct CloneOrder {
    /// Which disk.
    pub disk: DiskId,
    /// Its requests.
    pub stream: Stream,
    /// Bytes of each.
    pub block_bytes: u32,
    /// In flight.
    pub depth: u32,
    /// Class of reads and of writes.
    pub classes: [Priority; 2],
    /// Nanoseconds between starts; none in a closed loop.
    pub interval_ns: Option<u64>,
    /// When.
    pub window: Window,
}

/// One direction of a clone. One writer.
#[derive(Debug, Default)]
pub struct Tally {
    /// Completed in the window.
    pub ios: Counter,
    /// From the start (scheduled start in an open loop) to the completion.
    pub total: Histogram,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestFailure {
    /// The kernel's number, 0 where it has said none.
    pub errno: i32,
    /// In words.
    pub message: String,
}

impl From<&IoError> for RequestFailure {
    fn from(error: &IoError) -> Self {
        Self { errno: error.errno.unwrap_or(0), message: error.to_string() }
    }
}

impl From<&StoreError> for RequestFailure {
    fn from(error: &StoreError) -> Self {
        let errno = match error {
            StoreError::Unreadable { source, .. } | StoreError::Write { source } => {
                source.errno.unwrap_or(0)
            }
            _ => 0,
        };
        Self { errno, message: error.to_string() }
    }
}

/// What a clone has done, readable while it runs.
#[derive(Debug, Default)]
pub struct CloneResult {
    /// Bytes of each request.
    pub block_bytes: u64,
    /// Reads and writes.
    pub tallies: [Tally; 2],
    /// Failed requests.
    pub failed: Counter,
    /// In flight, and completions, at each batch of completions in the window.
    pub sizes: Mutex<(Buckets, Buckets)>,
    /// Set when it is over.
    pub done: AtomicBool,
    /// First failure.
    pub first_failure: Mutex<Option<RequestFailure>>,
    /// The executing thread's cost when the window opened and closed, and when that was.
    pub edges: Mutex<[Option<(u64, ThreadUsage)>; 2]>,
}

impl CloneResult {
    /// Whether it is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// The first failure, if any.
    #[must_use]
    pub fn failure(&self) -> Option<RequestFailure> {
        self.first_failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Both edges of the window.
    #[must_use]
    pub fn window(&self) -> Option<[(u64, ThreadUsage); 2]> {
        let edges = self.edges.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match *edges {
            [Some(from), Some(until)] => Some([from, until]),
            _ => None,
        }
    }

    fn edge(&self, which: usize, now_ns: u64) {
        let mut edges = self.edges.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        edges[which].get_or_insert((now_ns, dynamicfs::machine::affinity::thread_usage()));
    }

    #[cold]
    fn fail(&self, error: RequestFailure) {
        self.failed.add(1);
        let mut first =
            self.first_failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert(error);
    }
}

/// Where a clone stands; shared by both kinds of clients.
#[derive(Debug)]
struct Progress {
    window: Window,
    depths: Buckets,
    batches: Buckets,
    batch: u32,
    started: u64,
    opened: bool,
    closed: bool,
}

impl Progress {
    fn new(window: Window) -> Self {
        let (depths, batches) = (Buckets::default(), Buckets::default());
        Self { window, depths, batches, batch: 0, started: 0, opened: false, closed: false }
    }

    /// Whether a request may start at `now`.
    #[inline]
    fn may_start(&self, now_ns: u64) -> bool {
        now_ns < self.window.until_ns && self.started < self.window.ios_max
    }

    /// Notes the window's edges as time passes.
    #[inline]
    fn tick(&mut self, now_ns: u64, result: &CloneResult) {
        if !self.opened && now_ns >= self.window.from_ns {
            self.opened = true;
            result.edge(0, now_ns);
        }
        if !self.closed && now_ns >= self.window.until_ns {
            self.closed = true;
            result.edge(1, now_ns);
        }
    }

    /// A new batch of completions begins, with so many in flight.
    #[inline]
    fn begin_batch(&mut self, in_flight: u32) {
        if self.opened && !self.closed && self.batch > 0 {
            self.batches.count(self.batch);
            self.depths.count(in_flight);
        }
        self.batch = 0;
    }

    /// Counts a completion.
    #[inline]
    fn count(
        &mut self,
        now_ns: u64,
        total_ns: u64,
        direction: Direction,
        done: &Completion,
        result: &CloneResult,
    ) {
        if !self.opened || self.closed {
            return;
        }
        debug_assert!(now_ns >= self.window.from_ns);
        self.batch += 1;
        if done.result.is_ok() {
            self.succeed(total_ns, direction, result);
        }
    }

    /// Counts a request that succeeded, if it ended in the window.
    #[inline]
    fn succeed(&self, total_ns: u64, direction: Direction, result: &CloneResult) {
        if self.opened && !self.closed {
            let tally = &result.tallies[direction as usize];
            tally.ios.add(1);
            tally.total.record(total_ns);
        }
    }

    /// Closes the window if time has not done so: the requests are used up.
    fn finish(&mut self, now_ns: u64, result: &CloneResult) {
        self.tick(now_ns, result);
        if !self.opened {
            self.opened = true;
            result.edge(0, now_ns);
        }
        if !self.closed {
            self.closed = true;
            result.edge(1, now_ns);
        }
        let mut sizes = result.sizes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *sizes = (self.depths, self.batches);
        drop(sizes);
        result.done.store(true, Ordering::Release);
    }
}
