//! The way of a domain's tasks to the disks and the clock.
//!
//! A task awaits [`Port::submit`]; the request waits in the outbox until the reactor calls the
//! domain, which hands it over, and the completion comes back to the slot that its tag names. A
//! future that is dropped leaves its slot to the completion.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use crate::io::error::ErrorKind;
use crate::io::op::{Completion, Request};
use crate::reactor::local::{LocalIo, LocalRefusal};

#[derive(Debug)]
enum Slot {
    Free,
    Waiting(Option<Waker>),
    Done(Completion),
    /// Nobody waits any more; who counts such ones, if somebody does.
    Orphaned(Option<Arc<AtomicU32>>),
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// By disk: one that takes no more holds up nobody else's.
    outbox: Vec<VecDeque<(usize, Request)>>,
    timers: BTreeMap<(u64, u64), Waker>,
    next_timer: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Port {
    slots: RefCell<Slots>,
    now: Cell<u64>,
    /// Requests handed over since somebody asked.
    handed_over: Cell<u64>,
}

impl Port {
    /// The clock of the turn, nanoseconds.
    pub(crate) fn now_ns(&self) -> u64 {
        self.now.get()
    }

    /// Submits a request; what it resolves to always has the request's memory, but for a device
    /// that never answered.
    pub(crate) fn submit(&self, request: Request) -> Submission<'_> {
        let mut slots = self.slots.borrow_mut();
        let slot = match slots.free.pop() {
            Some(slot) => slot,
            None => {
                slots.slots.push(Slot::Free);
                slots.slots.len() - 1
            }
        };
        slots.slots[slot] = Slot::Waiting(None);
        let disk = usize::from(request.disk.0);
        if slots.outbox.len() <= disk {
            slots.outbox.resize_with(disk + 1, VecDeque::new);
        }
        slots.outbox[disk].push_back((slot, request));
        Submission { port: self, slot: Some(slot), counter: None }
    }

    /// Ends at that time of [`Port::now_ns`].
    pub(crate) fn sleep_until(&self, at_ns: u64) -> Sleep<'_> {
        Sleep { port: self, at_ns, key: None }
    }

    /// Lets every other task that is ready run first.
    pub(crate) async fn step_aside(&self) {
        let mut first = true;
        std::future::poll_fn(|context| {
            if std::mem::take(&mut first) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// The turn begins: notes the time and wakes what waited for it.
    pub(crate) fn begin(&self, io: &LocalIo<'_>) {
        self.now.set(io.now_ns());
        loop {
            let mut slots = self.slots.borrow_mut();
            let Some(entry) = slots.timers.first_entry() else { return };
            if entry.key().0 > io.now_ns() {
                return;
            }
            let waker = entry.remove();
            drop(slots);
            waker.wake();
        }
    }

    /// When the next timer ends.
    pub(crate) fn next_timer(&self) -> Option<u64> {
        self.slots.borrow().timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Hands over what the tasks have submitted, as far as the queues take it. A request that
    /// cannot be accepted at all completes with an error at once; true when that happened.
    pub(crate) fn hand_over(&self, io: &mut LocalIo<'_>) -> bool {
        let disks = self.slots.borrow().outbox.len();
        let mut failed = false;
        for disk in 0..disks {
            failed |= self.hand_over_to(disk, io);
        }
        failed
    }

    fn hand_over_to(&self, disk: usize, io: &mut LocalIo<'_>) -> bool {
        let mut failed = false;
        loop {
            let Some((slot, request)) = self.slots.borrow_mut().outbox[disk].pop_front() else {
                return failed;
            };
            let (request, kind) = match io.submit(slot as u64, request) {
                Ok(()) => {
                    self.handed_over.set(self.handed_over.get() + 1);
                    continue;
                }
                Err(LocalRefusal::QueueFull(request)) => {
                    self.slots.borrow_mut().outbox[disk].push_front((slot, request));
                    return failed;
                }
                Err(LocalRefusal::ShuttingDown(request)) => (request, ErrorKind::ShuttingDown),
                Err(LocalRefusal::NotHere(request)) => (request, ErrorKind::Unsupported),
                Err(LocalRefusal::Invalid(request, _)) => (request, ErrorKind::Invalid),
            };
            let path = io.facts(request.disk).map_or_else(|| "?".into(), |disk| disk.path.clone());
            failed = true;
            self.complete(slot as u64, request.fail(kind, path));
        }
    }

    /// How many requests were handed over since this was last asked.
    pub(crate) fn take_handed_over(&self) -> u64 {
        self.handed_over.take()
    }

    /// A request has completed.
    pub(crate) fn complete(&self, tag: u64, completion: Completion) {
        let mut slots = self.slots.borrow_mut();
        let slot = tag as usize;
        match std::mem::replace(&mut slots.slots[slot], Slot::Free) {
            Slot::Waiting(waker) => {
                slots.slots[slot] = Slot::Done(completion);
                drop(slots);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Slot::Orphaned(counter) => {
                slots.free.push(slot);
                if let Some(counter) = counter {
                    counter.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Slot::Free | Slot::Done(_) => unreachable!("a request completes once"),
        }
    }
}

/// A request on its way.
#[must_use = "nobody sees what became of it"]
pub(crate) struct Submission<'a> {
    port: &'a Port,
    slot: Option<usize>,
    counter: Option<Arc<AtomicU32>>,
}

impl Submission<'_> {
    /// Counts it there from when it is given up to when it has completed.
    pub(crate) fn counted(self, counter: &Arc<AtomicU32>) -> Self {
        let mut counted = self;
        counted.counter = Some(Arc::clone(counter));
        counted
    }
}

impl Future for Submission<'_> {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let slot = self.slot.unwrap_or_else(|| unreachable!("polled after its end"));
        let mut slots = self.port.slots.borrow_mut();
        match std::mem::replace(&mut slots.slots[slot], Slot::Free) {
            Slot::Done(completion) => {
                slots.free.push(slot);
                drop(slots);
                self.slot = None;
                Poll::Ready(completion)
            }
            Slot::Waiting(_) => {
                slots.slots[slot] = Slot::Waiting(Some(context.waker().clone()));
                Poll::Pending
            }
            Slot::Free | Slot::Orphaned(_) => unreachable!("a slot is its submission's"),
        }
    }
}

impl Drop for Submission<'_> {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let mut slots = self.port.slots.borrow_mut();
        match slots.slots[slot] {
            Slot::Done(_) => {
                slots.slots[slot] = Slot::Free;
                slots.free.push(slot);
            }
            _ => {
                let counter = self.counter.take();
                if let Some(counter) = &counter {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                slots.slots[slot] = Slot::Orphaned(counter);
            }
        }
    }
}

/// A wait for a time.
pub(crate) struct Sleep<'a> {
    port: &'a Port,
    at_ns: u64,
    key: Option<(u64, u64)>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut slots = self.port.slots.borrow_mut();
        if let Some(key) = self.key {
            slots.timers.remove(&key);
        }
        if self.port.now_ns() >= self.at_ns {
            drop(slots);
            self.key = None;
            return Poll::Ready(());
        }
        let key = (self.at_ns, slots.next_timer);
        slots.next_timer += 1;
        slots.timers.insert(key, context.waker().clone());
        drop(slots);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.port.slots.borrow_mut().timers.remove(&key);
        }
    }
}

/// Tasks of one thread that wait for something to change.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    waiting: RefCell<Vec<Waker>>,
    count: Cell<u64>,
}

impl Changed {
    /// Something has changed: whoever waits looks again.
    pub(crate) fn notify(&self) {
        self.count.set(self.count.get() + 1);
        let mut waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.drain(..).for_each(Waker::wake);
        // The memory of the list stays.
        let mut now = self.waiting.borrow_mut();
        if now.is_empty() {
            *now = waiting;
        }
    }

    /// Ends when [`Changed::notify`] was called after this was.
    pub(crate) async fn changed(&self) {
        let seen = self.count.get();
        std::future::poll_fn(|context| {
            if self.count.get() != seen {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits until `test` gives something, looking whenever something changes.
    pub(crate) async fn until<T>(&self, mut test: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(found) = test() {
                return found;
            }
            self.changed().await;
        }
    }
}

/// Where tasks of one thread wait for something that is decided once, for all of them.
#[derive(Debug)]
pub(crate) struct Fate<T> {
    outcome: RefCell<Option<T>>,
    waiting: RefCell<Vec<Waker>>,
}

impl<T> Default for Fate<T> {
    fn default() -> Self {
        Fate { outcome: RefCell::new(None), waiting: RefCell::default() }
    }
}

impl<T: Clone> Fate<T> {
    /// Tells everybody who waits.
    pub(crate) fn decide(&self, outcome: T) {
        let before = self.outcome.borrow_mut().replace(outcome);
        assert!(before.is_none(), "it is decided once");
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Waits for it.
    pub(crate) async fn decided(&self) -> T {
        std::future::poll_fn(|context| match &*self.outcome.borrow() {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                self.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// Waits for all, or after `patience_ns` until `enough` says that what has ended is; the others are
/// dropped. It is asked when one has ended, and again and again after as long.
pub(crate) async fn join_enough<F: Future + Unpin>(
    port: &Port,
    mut futures: Vec<F>,
    patience_ns: u64,
    mut enough: impl FnMut(&[Option<F::Output>]) -> bool,
) -> Vec<Option<F::Output>> {
    let mut results: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    let later = || port.sleep_until(port.now_ns().saturating_add(patience_ns));
    let mut timer = later();
    let mut late = false;
    std::future::poll_fn(move |context| {
        let mut pending = false;
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none() {
                match Pin::new(future).poll(context) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        while pending && Pin::new(&mut timer).poll(context).is_ready() {
            late = true;
            timer = later();
        }
        if !pending || late && enough(&results) {
            return Poll::Ready(std::mem::take(&mut results));
        }
        Poll::Pending
    })
    .await
}

/// What came first.
pub(crate) enum Either<A, B> {
    /// The first.
    First(A),
    /// The second.
    Second(B),
}

/// Waits for whichever of two ends first; the other is dropped.
pub(crate) async fn either<A, B>(
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> Either<A, B> {
    let mut first = std::pin::pin!(first);
    let mut second = std::pin::pin!(second);
    std::future::poll_fn(|context| {
        if let Poll::Ready(a) = first.as_mut().poll(context) {
            return Poll::Ready(Either::First(a));
        }
        if let Poll::Ready(b) = second.as_mut().poll(context) {
            return Poll::Ready(Either::Second(b));
        }
        Poll::Pending
    })
    .await
}

/// Waits for both.
pub(crate) async fn both<A, B>(
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> (A, B) {
    let mut first = std::pin::pin!(first);
    let mut second = std::pin::pin!(second);
    let (mut a, mut b) = (None, None);
    std::future::poll_fn(|context| {
        if a.is_none()
            && let Poll::Ready(value) = first.as_mut().poll(context)
        {
            a = Some(value);
        }
        if b.is_none()
            && let Poll::Ready(value) = second.as_mut().poll(context)
        {
            b = Some(value);
        }
        match (a.take(), b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (left, right) => {
                (a, b) = (left, right);
                Poll::Pending
            }
        }
    })
    .await
}

/// Waits for all; nothing of it moves until the last has ended.
pub(crate) async fn join_all<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        let mut pending = false;
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            return Poll::Pending;
        }
        Poll::Ready(results.drain(..).flatten().collect())
    })
    .await
}
