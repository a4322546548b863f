//! A store ticket: the promise of an answer, for threads and for tasks alike.
//!
//! A request takes a call slot of its domain when it is made. When none is free the ticket keeps
//! the request and sends it as soon as it is polled or waited for and a slot has become free:
//! nothing blocks, and a thread that holds many finished tickets cannot lock itself out by making
//! one more before it has taken their answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::concurrency::call_table::CallerKey;
use crate::concurrency::sync::{park, park_timeout};
use crate::concurrency::thread_wait::{on_reactor_thread, with_thread_waker};
use crate::store::call::{Call, Reply};
use crate::store::error::StoreError;
use crate::store::service::Doorstep;

/// Looks at the reply this often before the thread parks: long enough for what is in memory. A raw
/// [`crate::Ticket`] looks 25 times longer; what waits for a flush gains nothing by that and takes
/// the processor from those who bring it about.
const SPINS: u32 = 40;

/// One domain's part of a request.
enum Part {
    /// No call slot was free.
    Full(Arc<Doorstep>, Box<Call>),
    Sent(Arc<Doorstep>, CallerKey),
    /// The answer is here.
    Done(Reply),
    /// The answer was taken.
    Taken,
}

impl Part {
    fn send(doorstep: &Arc<Doorstep>, call: Call) -> Part {
        let (caller, server) = match doorstep.calls.open(call) {
            Ok(keys) => keys,
            Err(call) => return Part::Full(Arc::clone(doorstep), Box::new(call)),
        };
        match doorstep.leave(server) {
            Ok(()) => Part::Sent(Arc::clone(doorstep), caller),
            Err(server) => {
                drop(doorstep.calls.take_request(&server));
                doorstep.calls.cancel(caller, server);
                Part::Done(Reply::Failed(StoreError::Closing))
            }
        }
    }

    fn take(&mut self) -> Part {
        std::mem::replace(self, Part::Taken)
    }

    /// Goes on as far as it can without waiting; true when the answer is here.
    fn advance(&mut self) -> bool {
        if let Part::Full(..) = self
            && let Part::Full(doorstep, call) = self.take()
        {
            *self = Part::send(&doorstep, *call);
        }
        if let Part::Sent(doorstep, key) = self
            && doorstep.calls.is_done(key)
            && let Part::Sent(doorstep, key) = self.take()
        {
            *self = match doorstep.calls.take_reply(key) {
                Ok(reply) => Part::Done(reply),
                Err(key) => Part::Sent(doorstep, key),
            };
        }
        matches!(self, Part::Done(_) | Part::Taken)
    }

    /// As [`Part::advance`], and the waker is woken when it can go on.
    fn poll(&mut self, context: &Context<'_>) -> bool {
        if self.advance() {
            return true;
        }
        if let Part::Full(doorstep, _) = self {
            doorstep.calls.wait_for_slot(context.waker());
            if self.advance() {
                return true;
            }
        }
        match self {
            Part::Sent(doorstep, key) => match doorstep.calls.register(key, context) {
                Poll::Ready(()) => self.advance(),
                Poll::Pending => false,
            },
            _ => false,
        }
    }
}

impl Drop for StoreTicketParts {
    fn drop(&mut self) {
        for part in std::iter::once(&mut self.first).chain(&mut self.rest) {
            // What never found a slot finds one now, or is given up.
            if let Part::Full(..) = part {
                part.advance();
            }
            if let Part::Sent(doorstep, key) = part.take() {
                doorstep.calls.detach(key);
            }
        }
    }
}

/// All parts of a request: nearly always one.
struct StoreTicketParts {
    first: Part,
    rest: Vec<Part>,
}

impl StoreTicketParts {
    fn each(&mut self) -> impl Iterator<Item = &mut Part> {
        std::iter::once(&mut self.first).chain(&mut self.rest)
    }
}

/// The replies of all domains that were asked, in their order.
pub(super) struct Replies<'a> {
    parts: &'a mut StoreTicketParts,
    next: usize,
}

impl Iterator for Replies<'_> {
    type Item = Reply;

    fn next(&mut self) -> Option<Reply> {
        let part = match self.next {
            0 => &mut self.parts.first,
            n => self.parts.rest.get_mut(n - 1)?,
        };
        self.next += 1;
        match part.take() {
            Part::Done(reply) => Some(reply),
            _ => unreachable!("an answer is made when all replies are there, once"),
        }
    }
}

/// What the replies mean. The number is whatever the request left for it.
pub(super) type Meaning<T> = fn(Replies<'_>, usize) -> Result<T, StoreError>;

/// The promise of an answer. Await it, or [`StoreTicket::wait`] for it.
///
/// Dropping a ticket gives up interest, not the request: it goes on. Only a request that never
/// found room ([`StoreTicket::taken`] says so) is given up with its ticket.
///
/// ```no_run
/// # fn example(engine: &dynamicfs::StorageEngine, inode: dynamicfs::InodeId)
/// # -> Result<(), dynamicfs::StoreError> {
/// let tickets: Vec<_> = (0..8).map(|n| engine.write(inode, n << 20, b"side by side")).collect();
/// for ticket in tickets {
///     ticket.wait()?; // in a task: ticket.await?
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "the request's outcome is in its ticket"]
pub struct StoreTicket<T> {
    parts: StoreTicketParts,
    meaning: Meaning<T>,
    note: usize,
}

impl<T> std::fmt::Debug for StoreTicket<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreTicket({} domains)", 1 + self.parts.rest.len())
    }
}

// A ticket is given back by value: that is what these errors are for.
#[allow(clippy::result_large_err)]
impl<T> StoreTicket<T> {
    /// One call to one domain.
    pub(super) fn one(doorstep: &Arc<Doorstep>, call: Call, meaning: Meaning<T>) -> StoreTicket<T> {
        let parts = StoreTicketParts { first: Part::send(doorstep, call), rest: Vec::new() };
        StoreTicket { parts, meaning, note: 0 }
    }

    /// A call to each of several domains.
    pub(super) fn all<'a>(
        doorsteps: impl Iterator<Item = &'a Arc<Doorstep>>,
        call: impl Fn() -> Call,
        (meaning, note): (Meaning<T>, usize),
    ) -> StoreTicket<T> {
        let mut parts = doorsteps.map(|doorstep| Part::send(doorstep, call()));
        let Some(first) = parts.next() else { unreachable!("a pool has a domain") };
        let rest = parts.collect();
        StoreTicket { parts: StoreTicketParts { first, rest }, meaning, note }
    }

    /// A request that failed before it was sent.
    pub(super) fn failed(error: StoreError, meaning: Meaning<T>) -> StoreTicket<T> {
        let first = Part::Done(Reply::Failed(error));
        StoreTicket { parts: StoreTicketParts { first, rest: Vec::new() }, meaning, note: 0 }
    }

    /// Whether [`StoreTicket::wait`] would return at once.
    pub fn is_done(&mut self) -> bool {
        // All of them, also behind one that is not done.
        self.parts.each().map(Part::advance).filter(|done| !done).count() == 0
    }

    /// Gives the ticket back as an error while its request waits for room: as many requests of its
    /// domain are under way as `operations.in_flight_max` allows. Keep it for later, or drop it to
    /// give the request up.
    ///
    /// # Errors
    /// [`QueueFull`] with the ticket.
    pub fn taken(mut self) -> Result<StoreTicket<T>, QueueFull<T>> {
        let full = self.parts.each().fold(false, |full, part| {
            part.advance();
            full || matches!(part, Part::Full(..))
        });
        if full { Err(QueueFull(self)) } else { Ok(self) }
    }

    /// Takes the answer if it is there; else the ticket comes back.
    ///
    /// # Errors
    /// The ticket, when there is no answer yet.
    pub fn try_take(mut self) -> Result<Result<T, StoreError>, StoreTicket<T>> {
        if self.is_done() { Ok(self.answer()) } else { Err(self) }
    }

    fn answer(&mut self) -> Result<T, StoreError> {
        (self.meaning)(Replies { parts: &mut self.parts, next: 0 }, self.note)
    }

    /// Blocks this thread until the answer is there.
    ///
    /// # Errors
    /// Those of the request; [`StoreError::WaitOnReactor`] on a reactor's own thread.
    pub fn wait(self) -> Result<T, StoreError> {
        match self.wait_for(None) {
            Ok(answer) => answer,
            Err(_) => unreachable!("without a deadline there is no end but the answer"),
        }
    }

    /// As [`StoreTicket::wait`], until a deadline.
    ///
    /// # Errors
    /// The ticket, when the deadline has passed.
    pub fn wait_until(self, deadline: Instant) -> Result<Result<T, StoreError>, StoreTicket<T>> {
        self.wait_for(Some(deadline))
    }

    fn wait_for(
        mut self,
        deadline: Option<Instant>,
    ) -> Result<Result<T, StoreError>, StoreTicket<T>> {
        if on_reactor_thread() {
            return Ok(Err(StoreError::WaitOnReactor));
        }
        for _ in 0..SPINS {
            if self.is_done() {
                return Ok(self.answer());
            }
            std::hint::spin_loop();
        }
        loop {
            let polled = with_thread_waker(|waker| {
                Pin::new(&mut self).poll(&mut Context::from_waker(waker))
            });
            if let Poll::Ready(answer) = polled {
                return Ok(answer);
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => park(),
                Some(Duration::ZERO) => return Err(self),
                Some(left) => park_timeout(left),
            }
        }
    }
}

impl<T> Future for StoreTicket<T> {
    type Output = Result<T, StoreError>;

    /// # Panics
    /// When polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let missing = self.parts.each().map(|part| part.poll(context)).filter(|done| !done);
        if missing.count() == 0 { Poll::Ready(self.answer()) } else { Poll::Pending }
    }
}

/// All requests that may be under way are. The ticket is in it, with the request.
pub struct QueueFull<T>(pub StoreTicket<T>);

impl<T> std::fmt::Debug for QueueFull<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QueueFull")
    }
}

impl<T> std::fmt::Display for QueueFull<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("as many requests as operations.in_flight_max allows are under way")
    }
}

impl<T> std::error::Error for QueueFull<T> {}
