//! From any thread to a disk's reactor: validation, back-pressure, tickets.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::concurrency::call_table::{CallerKey, ServerKey};
use crate::engine::error::SubmitError;
use crate::engine::io_scheduler::{IoScheduler, Route};
use crate::engine::ticket::{Ticket, on_reactor_thread, with_thread_waker};
use crate::io::op::{DiskId, InvalidRequest, Priority, Request};
use crate::memory::{BufferList, DmaBuf};
use crate::reactor::shared::Parcel;

/// A submitter that waits for a slot of the call table, which no reactor frees, looks this often.
const SLOT_POLL: Duration = Duration::from_millis(1);

// A refusal gives the request back by value, which is its purpose; boxing it would allocate.
#[allow(clippy::result_large_err)]
impl IoScheduler {
    /// Submits one request. It never blocks.
    ///
    /// # Errors
    /// [`SubmitError`] with the request: full, malformed, closing, or failed.
    #[inline]
    pub fn submit(&self, request: Request) -> Result<Ticket, SubmitError> {
        let (route, caller, server) = self.accept(request)?;
        match self.reactors[route.reactor].shared.post(server) {
            Ok(()) => Ok(Ticket::new(Arc::clone(&self.calls), caller)),
            Err(server) => Err(self.recall(route, caller, server)),
        }
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
        let mut ahead: Option<Request> = None;
        loop {
            let Some(request) = ahead.take().or_else(|| requests.next()) else { return Ok(()) };
            let (route, caller, first) = self.accept(request)?;
            tickets.push(Ticket::new(Arc::clone(&self.calls), caller));
            let mut refusal = None;
            let rest = std::iter::from_fn(|| {
                let request = requests.next()?;
                if !self.same_reactor(&request, route.reactor) {
                    ahead = Some(request);
                    return None;
                }
                match self.accept(request) {
                    Ok((_, caller, server)) => {
                        tickets.push(Ticket::new(Arc::clone(&self.calls), caller));
                        Some(server)
                    }
                    Err(error) => {
                        refusal = Some(error);
                        None
                    }
                }
            });
            let shared = &self.reactors[route.reactor].shared;
            shared.post_many(std::iter::once(first).chain(rest), |key| self.fail_closed(key));
            if let Some(error) = refusal {
                return Err(error);
            }
        }
    }

    /// Whether all of a request's disk is on this reactor.
    fn same_reactor(&self, request: &Request, reactor: usize) -> bool {
        let routes = self.routes.get(usize::from(request.disk.0));
        routes.is_some_and(|routes| routes.len() == 1 && routes[0].reactor == reactor)
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
        let mut request = request;
        loop {
            match self.submit(request) {
                Err(SubmitError::QueueFull(back)) => request = back,
                other => return other,
            }
            if on_reactor_thread() {
                return Err(SubmitError::WaitOnReactor(request));
            }
            with_thread_waker(|waker| self.route(&request).lane.wait_for_room(waker));
            match self.submit(request) {
                Err(SubmitError::QueueFull(back)) => request = back,
                other => return other,
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(SubmitError::QueueFull(request));
            }
            std::thread::park_timeout(left.map_or(SLOT_POLL, |left| left.min(SLOT_POLL)));
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
        for attempt in 0..2 {
            let Some(taken) = request.take() else {
                unreachable!("the request is put back whenever the future is pending")
            };
            if attempt == 1 {
                self.route(&taken).lane.wait_for_room(context.waker());
            }
            match self.submit(taken) {
                Err(SubmitError::QueueFull(back)) => *request = Some(back),
                other => return Poll::Ready(other),
            }
        }
        Poll::Pending
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

    /// Checks a request, reserves its place in a queue and a slot for its reply.
    #[inline]
    fn accept(&self, mut request: Request) -> Result<(&Route, CallerKey, ServerKey), SubmitError> {
        let disk = usize::from(request.disk.0);
        let Some(facts) = self.disks.get(disk) else {
            let disks = self.disks.len();
            let why = InvalidRequest::NoSuchDisk { disk: request.disk.0, disks };
            return Err(SubmitError::Invalid(request, why));
        };
        if let Err(why) = request.check(facts) {
            return Err(SubmitError::Invalid(request, why));
        }
        if self.closing.load(Ordering::Relaxed) {
            return Err(SubmitError::ShuttingDown(request));
        }
        let class = request.priority;
        let route = self.route(&request);
        if !route.lane.reserve(self.limits[disk].watermark(class)) {
            route.lane.metrics.classes[class.index()].shed.add_shared(1);
            return Err(SubmitError::QueueFull(request));
        }
        match self.calls.open(Parcel { request, queued_ns: 0 }) {
            Ok((caller, server)) => Ok((route, caller, server)),
            Err(parcel) => {
                route.lane.release(1, &mut Vec::new());
                route.lane.metrics.classes[class.index()].shed.add_shared(1);
                Err(SubmitError::QueueFull(parcel.request))
            }
        }
    }

    /// The lane for a request: of several, the one with the fewest waiting.
    #[inline]
    fn route(&self, request: &Request) -> &Route {
        let routes = &self.routes[usize::from(request.disk.0)];
        match routes.as_slice() {
            [only] => only,
            several => several
                .iter()
                .min_by_key(|route| route.lane.waiting.load(Ordering::Relaxed))
                .unwrap_or_else(|| unreachable!("every disk has a lane")),
        }
    }

    /// The reactor has ended: takes the request back out of the call.
    #[cold]
    fn recall(&self, route: &Route, caller: CallerKey, server: ServerKey) -> SubmitError {
        let request = self.calls.take_request(&server).request;
        route.lane.release(1, &mut Vec::new());
        self.calls.cancel(caller, server);
        if self.reactors[route.reactor].shared.poisoned.load(Ordering::Acquire) {
            SubmitError::Poisoned(request)
        } else {
            SubmitError::ShuttingDown(request)
        }
    }

    /// The reactor has ended while a batch was on its way: its tickets say so.
    #[cold]
    fn fail_closed(&self, key: ServerKey) {
        let request = self.calls.take_request(&key).request;
        let route = self.route(&request);
        route.lane.release(1, &mut Vec::new());
        let poisoned = self.reactors[route.reactor].shared.poisoned.load(Ordering::Acquire);
        let kind = if poisoned {
            crate::io::ErrorKind::Poisoned
        } else {
            crate::io::ErrorKind::ShuttingDown
        };
        let path = self.disks[usize::from(request.disk.0)].path.clone();
        if let Some(waker) = self.calls.complete(key, request.fail(kind, path)) {
            waker.wake();
        }
    }
}

/// What the convenience calls return.
pub type Submitted = Result<Ticket, SubmitError>;
