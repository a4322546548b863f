//! A ticket: the promise of a completion, for threads and for tasks alike.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::concurrency::call_table::CallerKey;
use crate::concurrency::sync::park;
use crate::concurrency::thread_wait::{on_reactor_thread, with_thread_waker};
use crate::io::op::Completion;
use crate::reactor::shared::Calls;

/// Looks at the reply this often before the thread parks: some 25 us on current processors,
/// about what a park and a wake-up across cores cost. It also lets a thread with many tickets
/// take a whole batch at a time.
const SPINS: u32 = 1_000;

/// Waiting on a reactor's own thread would never end. The ticket comes back.
#[derive(Debug)]
pub struct WaitOnReactor(pub Ticket);

impl std::fmt::Display for WaitOnReactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a reactor's own thread cannot wait for a ticket: it would never end; await it")
    }
}

impl std::error::Error for WaitOnReactor {}

/// The promise of a [`Completion`]. Await it, or [`Ticket::wait`] for it.
///
/// Dropping a ticket gives up interest, not the operation: it goes on, and its buffers go back to
/// their arena when it ends.
#[derive(Debug)]
pub struct Ticket {
    calls: Arc<Calls>,
    key: Option<CallerKey>,
}

impl Ticket {
    pub(crate) fn new(calls: Arc<Calls>, key: CallerKey) -> Ticket {
        Ticket { calls, key: Some(key) }
    }

    fn key(&self) -> &CallerKey {
        self.key.as_ref().unwrap_or_else(|| unreachable!("a ticket has its key until it is used"))
    }

    /// Whether [`Ticket::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        self.key.is_none() || self.calls.is_done(self.key())
    }

    /// Takes the completion if it is there.
    pub fn try_take(mut self) -> Result<Completion, Ticket> {
        match self.take() {
            Some(completion) => Ok(completion),
            None => Err(self),
        }
    }

    fn take(&mut self) -> Option<Completion> {
        let key = self.key.take()?;
        match self.calls.take_reply(key) {
            Ok(completion) => Some(completion),
            Err(key) => {
                self.key = Some(key);
                None
            }
        }
    }

    /// Blocks this thread until the completion is there.
    ///
    /// # Errors
    /// On a reactor's own thread, where it would never end; the ticket comes back.
    // The ticket is given back by value: that is what the error is for.
    #[allow(clippy::result_large_err)]
    pub fn wait(mut self) -> Result<Completion, WaitOnReactor> {
        if on_reactor_thread() {
            return Err(WaitOnReactor(self));
        }
        // A thread's waker is its one allocation: made at its first wait, not at its first park.
        with_thread_waker(|_| ());
        for _ in 0..SPINS {
            if let Some(completion) = self.take() {
                return Ok(completion);
            }
            std::hint::spin_loop();
        }
        loop {
            let polled = with_thread_waker(|waker| {
                Pin::new(&mut self).poll(&mut Context::from_waker(waker))
            });
            match polled {
                Poll::Ready(completion) => return Ok(completion),
                Poll::Pending => park(),
            }
        }
    }
}

impl Future for Ticket {
    type Output = Completion;

    /// # Panics
    /// When polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        assert!(self.key.is_some(), "a ticket was polled after its completion was taken");
        let registered = self.calls.register(self.key(), context);
        match registered {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => match self.take() {
                Some(completion) => Poll::Ready(completion),
                None => unreachable!("a done call gives its reply"),
            },
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.calls.detach(key);
        }
    }
}
