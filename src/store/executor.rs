//! The tasks of a domain: futures that its reactor polls, on one thread.
//!
//! Two kinds of places: a fixed number for requests, whose futures are all of one type and move
//! into memory that is there already, and boxed ones for the few tasks that live as long as the
//! domain. A waker sets one bit; whoever sets it is on the reactor's thread or rings the domain's
//! bell besides.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// One bit a task.
#[derive(Debug)]
struct Ready {
    words: Box<[AtomicU64]>,
}

#[derive(Debug)]
struct TaskWaker {
    task: usize,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.words[self.task / 64].fetch_or(1 << (self.task % 64), Ordering::AcqRel);
    }
}

/// See the module.
pub(crate) struct Executor<F> {
    /// Requests: `None` is free.
    requests: Vec<Pin<Box<Option<F>>>>,
    free: Vec<usize>,
    /// Tasks of the domain itself; their numbers follow the requests'.
    residents: Vec<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    wakers: Vec<Waker>,
    ready: Arc<Ready>,
}

/// Most resident tasks.
const RESIDENTS_MAX: usize = 32;

impl<F: Future<Output = ()>> Executor<F> {
    /// Room for `requests` requests at a time.
    pub(crate) fn new(requests: usize) -> Executor<F> {
        let tasks = requests + RESIDENTS_MAX;
        let words = (0..tasks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let ready = Arc::new(Ready { words });
        let waker = |task| Waker::from(Arc::new(TaskWaker { task, ready: Arc::clone(&ready) }));
        Executor {
            requests: (0..requests).map(|_| Box::pin(None)).collect(),
            free: (0..requests).rev().collect(),
            residents: Vec::new(),
            wakers: (0..tasks).map(waker).collect(),
            ready,
        }
    }

    /// Requests that have not ended.
    pub(crate) fn requests(&self) -> usize {
        self.requests.len() - self.free.len()
    }

    /// Tasks of the domain that were started.
    pub(crate) fn residents(&self) -> usize {
        self.residents.len()
    }

    /// Whether every task has ended.
    pub(crate) fn is_idle(&self) -> bool {
        self.requests() == 0 && self.residents.iter().all(Option::is_none)
    }

    /// Starts a request; it is polled in the next [`Executor::run`].
    ///
    /// # Panics
    /// When there is no room.
    pub(crate) fn start(&mut self, future: F) {
        let task = self.free.pop().unwrap_or_else(|| unreachable!("the caller asks for room"));
        self.requests[task].as_mut().set(Some(future));
        self.wakers[task].wake_by_ref();
    }

    /// Starts a task of the domain itself.
    ///
    /// # Panics
    /// When there are too many.
    pub(crate) fn reside(&mut self, future: Pin<Box<dyn Future<Output = ()>>>) {
        assert!(self.residents.len() < RESIDENTS_MAX, "a domain has few tasks of its own");
        self.residents.push(Some(future));
        self.wakers[self.requests.len() + self.residents.len() - 1].wake_by_ref();
    }

    /// Polls the tasks of the domain that are ready, once each.
    pub(crate) fn run_residents(&mut self) {
        for task in self.requests.len()..self.requests.len() + self.residents.len() {
            let (word, bit) = (&self.ready.words[task / 64], 1 << (task % 64));
            if word.load(Ordering::Relaxed) & bit != 0 {
                word.fetch_and(!bit, Ordering::AcqRel);
                self.poll(task);
            }
        }
    }

    /// Polls what is ready until nothing is; calls `between` after each.
    pub(crate) fn run(&mut self, mut between: impl FnMut()) {
        loop {
            let mut any = false;
            for word in 0..self.ready.words.len() {
                let mut bits = match self.ready.words[word].load(Ordering::Relaxed) {
                    0 => continue,
                    _ => self.ready.words[word].swap(0, Ordering::AcqRel),
                };
                while bits != 0 {
                    any = true;
                    self.poll(word * 64 + bits.trailing_zeros() as usize);
                    bits &= bits - 1;
                    between();
                }
            }
            if !any {
                return;
            }
        }
    }

    fn poll(&mut self, task: usize) {
        let context = &mut Context::from_waker(&self.wakers[task]);
        if task < self.requests.len() {
            let place = &mut self.requests[task];
            let Some(future) = place.as_mut().as_pin_mut() else { return };
            if future.poll(context) == Poll::Ready(()) {
                place.as_mut().set(None);
                self.free.push(task);
            }
            return;
        }
        let Some(place) = self.residents.get_mut(task - self.requests.len()) else { return };
        let Some(future) = place else { return };
        if future.as_mut().poll(context) == Poll::Ready(()) {
            *place = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    #[test]
    fn tasks_end_when_they_are_woken_and_their_places_are_used_again() {
        let woken: Rc<RefCell<Vec<Waker>>> = Rc::default();
        let ended = Rc::new(Cell::new(0));
        let make = |polls: u32| {
            let (woken, ended) = (Rc::clone(&woken), Rc::clone(&ended));
            async move {
                for _ in 0..polls {
                    let mut first = true;
                    std::future::poll_fn(|context| {
                        if std::mem::take(&mut first) {
                            woken.borrow_mut().push(context.waker().clone());
                            return Poll::Pending;
                        }
                        Poll::Ready(())
                    })
                    .await;
                }
                ended.set(ended.get() + 1);
            }
        };
        let mut executor = Executor::new(3);
        for round in 1..=4 {
            (0..3).for_each(|polls| executor.start(make(polls)));
            executor.run(|| {});
            assert_eq!((ended.get(), executor.requests()), (3 * round - 2, 2));
            while executor.requests() > 0 {
                let wakers = std::mem::take(&mut *woken.borrow_mut());
                wakers.iter().for_each(Waker::wake_by_ref);
                executor.run(|| {});
            }
            assert_eq!(ended.get(), 3 * round);
        }
        executor.reside(Box::pin(make(1)));
        executor.run(|| {});
        assert_eq!(ended.get(), 12);
        woken.borrow_mut().pop().unwrap().wake();
        executor.run(|| {});
        assert_eq!(ended.get(), 13);
    }
}
