//! Submitting to an [`IoScheduler`]: at once, waiting, awaiting.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::concurrency::sync::{park, park_timeout};
use crate::concurrency::thread_wait::{on_reactor_thread, with_thread_waker};
use crate::engine::error::SubmitError;
use crate::engine::io_scheduler::IoScheduler;
use crate::engine::ticket::Ticket;
use crate::io::op::{DiskId, Priority, Request};
use crate::memory::{BufferList, DmaBuf};

// A refusal gives the request back by value, which is its purpose; boxing it would allocate.
#[allow(clippy::result_large_err)]
impl IoScheduler {
    /// Submits one request. It never blocks.
    ///
    /// # Errors
    /// [`SubmitError`] with the request: full, malformed, closing, or failed.
    #[inline]
    pub fn submit(&self, request: Request) -> Result<Ticket, SubmitError> {
        self.gate.submit(request)
    }

    /// Submits requests in order until one is refused, with one hand-over and at most one wake-up
    /// for each run of requests to one reactor. Tickets of the accepted ones are added to
    /// `tickets`.
    ///
    /// # Errors
    /// The first refusal, with its request; the requests after it are still in the iterator.
    pub fn submit_many(
        &self,
        requests: &mut dyn Iterator<Item = Request>,
        tickets: &mut Vec<Ticket>,
    ) -> Result<(), SubmitError> {
        self.gate.submit_many(requests, tickets)
    }

    /// Submits one request, waiting for room if there is none, up to `deadline` if one is given.
    ///
    /// # Errors
    /// As [`IoScheduler::submit`]; `QueueFull` only when the deadline passed.
    pub fn submit_wait(
        &self,
        request: Request,
        deadline: Option<Instant>,
    ) -> Result<Ticket, SubmitError> {
        let mut request = match self.submit(request) {
            Err(SubmitError::QueueFull(back)) => back,
            other => return other,
        };
        if on_reactor_thread() {
            return Err(SubmitError::WaitOnReactor(request));
        }
        loop {
            match with_thread_waker(|waker| self.gate.submit_or_register(request, waker)) {
                Err(SubmitError::QueueFull(back)) => request = back,
                other => return other,
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => park(),
                Some(Duration::ZERO) => return Err(SubmitError::QueueFull(request)),
                Some(left) => park_timeout(left),
            }
        }
    }

    /// Submits one request, awaiting room if there is none.
    ///
    /// # Errors
    /// As [`IoScheduler::submit`], never `QueueFull`.
    pub async fn submit_async(&self, request: Request) -> Result<Ticket, SubmitError> {
        let mut request = Some(request);
        std::future::poll_fn(|context| self.poll_submit(&mut request, context)).await
    }

    fn poll_submit(
        &self,
        request: &mut Option<Request>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Ticket, SubmitError>> {
        let Some(taken) = request.take() else {
            unreachable!("the request is put back whenever the future is pending")
        };
        match self.gate.submit_or_register(taken, context.waker()) {
            Err(SubmitError::QueueFull(back)) => {
                *request = Some(back);
                Poll::Pending
            }
            other => Poll::Ready(other),
        }
    }

    /// Reads `buffer.len()` bytes.
    pub fn read(&self, disk: DiskId, class: Priority, offset: u64, buffer: DmaBuf) -> Submitted {
        self.submit(Request::read(disk, offset, buffer).with_priority(class))
    }

    /// Writes `buffer.len()` bytes.
    pub fn write(&self, disk: DiskId, class: Priority, offset: u64, buffer: DmaBuf) -> Submitted {
        self.submit(Request::write(disk, offset, buffer).with_priority(class))
    }

    /// Reads one range into several buffers.
    pub fn read_vectored(&self, disk: DiskId, offset: u64, buffers: Box<BufferList>) -> Submitted {
        self.submit(Request::read_vectored(disk, offset, buffers))
    }

    /// Writes several buffers to one range.
    pub fn write_vectored(&self, disk: DiskId, offset: u64, buffers: Box<BufferList>) -> Submitted {
        self.submit(Request::write_vectored(disk, offset, buffers))
    }

    /// Makes everything durable that had completed before this call.
    pub fn flush(&self, disk: DiskId) -> Submitted {
        self.submit(Request::flush(disk))
    }

    /// Tells the disk that a range is unused.
    pub fn discard(&self, disk: DiskId, offset: u64, len: u64) -> Submitted {
        self.submit(Request::discard(disk, offset, len))
    }

    /// Makes a range read as zeroes.
    pub fn write_zeroes(&self, disk: DiskId, offset: u64, len: u64) -> Submitted {
        self.submit(Request::write_zeroes(disk, offset, len))
    }
}

/// What the convenience calls return.
pub type Submitted = Result<Ticket, SubmitError>;
