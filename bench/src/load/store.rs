//! A clone on the storage engine: one request at a time to one inode, by a thread that blocks or by
//! whoever polls it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use dynamicfs::{
    Acknowledged, Durability, InodeId, ReadBytes, StorageEngine, StoreError, StoreTicket,
};

use crate::load::{CloneResult, FAILURES_MAX, Progress, Window};
use crate::stream::{Direction, SplitMix, Stream};

/// The clock of a run: nanoseconds since it was made.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds so far.
    #[inline]
    #[must_use]
    pub fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What a clone is to do.
#[derive(Debug)]
pub struct StoreOrder {
    /// Whose bytes.
    pub inode: InodeId,
    /// Its requests.
    pub stream: Stream,
    /// Bytes of each.
    pub block_bytes: u32,
    /// When a write is answered.
    pub durability: Durability,
    /// When it runs, on the clock below.
    pub window: Window,
    /// The clock.
    pub clock: Clock,
    /// Of the bytes that it writes.
    pub seed: u64,
}

/// A request under way.
enum UnderWay {
    Read(StoreTicket<ReadBytes>),
    Write(StoreTicket<Acknowledged>),
}

impl UnderWay {
    fn direction(&self) -> Direction {
        match self {
            Self::Read(_) => Direction::Read,
            Self::Write(_) => Direction::Write,
        }
    }

    fn wait(self) -> Result<(), StoreError> {
        match self {
            Self::Read(ticket) => ticket.wait().map(drop),
            Self::Write(ticket) => ticket.wait().map(drop),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        match self {
            Self::Read(ticket) => Pin::new(ticket).poll(context).map_ok(drop),
            Self::Write(ticket) => Pin::new(ticket).poll(context).map_ok(drop),
        }
    }
}

/// See the module.
pub struct StoreClone {
    engine: Arc<StorageEngine>,
    order: StoreOrder,
    progress: Progress,
    data: Vec<u8>,
    under_way: Option<(UnderWay, u64)>,
    result: Arc<CloneResult>,
}

impl std::fmt::Debug for StoreClone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreClone(inode {})", self.order.inode)
    }
}

impl StoreClone {
    /// A clone that has not begun.
    #[must_use]
    pub fn new(engine: Arc<StorageEngine>, order: StoreOrder, result: Arc<CloneResult>) -> Self {
        let mut data = vec![0; order.block_bytes as usize];
        SplitMix(order.seed).fill(&mut data);
        let progress = Progress::new(order.window);
        Self { engine, order, progress, data, under_way: None, result }
    }

    /// Runs to the end of the window, blocking this thread.
    pub fn run(mut self) {
        while let Some((request, started_ns)) = self.start() {
            let direction = request.direction();
            let outcome = request.wait();
            self.take(direction, started_ns, outcome);
        }
    }

    /// Goes on as far as it can; ready when it is over.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let (mut request, started_ns) = match self.under_way.take() {
                Some(under_way) => under_way,
                None => match self.start() {
                    Some(started) => started,
                    None => return Poll::Ready(()),
                },
            };
            match request.poll(context) {
                Poll::Ready(outcome) => self.take(request.direction(), started_ns, outcome),
                Poll::Pending => {
                    self.under_way = Some((request, started_ns));
                    return Poll::Pending;
                }
            }
        }
    }

    /// Makes the next request; none when the window is over, which it notes.
    fn start(&mut self) -> Option<(UnderWay, u64)> {
        let now = self.order.clock.now_ns();
        self.progress.tick(now, &self.result);
        if !self.progress.may_start(now) {
            self.progress.finish(now, &self.result);
            return None;
        }
        self.progress.started += 1;
        let (offset, direction) = self.order.stream.next_request();
        let inode = self.order.inode;
        let request = match direction {
            Direction::Read => {
                let end = offset + u64::from(self.order.block_bytes);
                UnderWay::Read(self.engine.read(inode, offset..end))
            }
            Direction::Write => {
                // No two writes are alike: what is found is what was written last.
                let stamp = self.progress.started.to_le_bytes();
                self.data[..stamp.len()].copy_from_slice(&stamp);
                let durability = self.order.durability;
                UnderWay::Write(self.engine.write_with(inode, offset, &self.data, durability))
            }
        };
        Some((request, now))
    }

    fn take(&mut self, direction: Direction, started_ns: u64, outcome: Result<(), StoreError>) {
        let now = self.order.clock.now_ns();
        self.progress.tick(now, &self.result);
        match outcome {
            Ok(()) => self.progress.succeed(now - started_ns, direction, &self.result),
            Err(error) => {
                self.result.fail((&error).into());
                if self.result.failed.get() >= FAILURES_MAX {
                    self.progress.window.ios_max = 0;
                }
            }
        }
    }
}
