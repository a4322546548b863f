//! Waiting for a lock: one future for tasks, which a thread can also block on.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::concurrency::lock::metrics::LockCounters;
use crate::concurrency::lock::order::{self, CalledFrom, Held, Owner, Rank};
use crate::concurrency::lock::queue::WaiterId;
use crate::concurrency::lock::raw::{Attempt, LockRef, Take, Woken};
use crate::concurrency::lock::word::LockMode;
use crate::concurrency::sync::{park, park_timeout, spin_loop, yield_now};
use crate::concurrency::thread_wait::{on_reactor_thread, with_thread_waker};

/// A thread looks this often, with pauses that double, before it yields.
const SPIN_ROUNDS: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 8 };
/// Then this often with a yield between, before it joins the queue and sleeps.
const YIELD_ROUNDS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 8 };

/// Why a lock was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockRefusal {
    /// `try_`: somebody holds it, or has waited for so long that nobody may overtake.
    #[error("the lock is held")]
    Held,
    /// The deadline passed, or the timer fired, while somebody else held it.
    #[error("the lock was not had before the deadline")]
    Expired,
    /// The extent has no lock yet, and all places of its shard are held.
    #[error(
        "all {places} places of lock shard {shard} are held; let go of some, or raise `locks_max`"
    )]
    TableFull {
        /// The extent's shard.
        shard: u32,
        /// Places in a shard.
        places: u32,
    },
    /// A reactor's own thread cannot block: its other tasks would stand still, and perhaps the one
    /// that holds the lock. Await it instead.
    #[error("a reactor's own thread cannot block on a lock: await it")]
    OnReactor,
}

/// Where a lock is found.
pub(crate) trait Source<'a>: Copy + Unpin {
    /// Takes the lock without any mutex, if it is known and free.
    fn take_known(self, mode: LockMode) -> Found<'a>;
    /// Takes the lock, making it if need be, or joins its queue.
    fn take_or_queue(
        self,
        mode: LockMode,
        waker: Waker,
    ) -> Result<(LockRef<'a>, Attempt), LockRefusal>;
    /// Takes the lock, making it if need be, or refuses.
    fn take_or_refuse(self, mode: LockMode) -> Result<LockRef<'a>, LockRefusal>;
    fn counters(self) -> &'a LockCounters;
    fn manager(self) -> u64;
    fn rank(self) -> Rank;
}

/// What a look without the mutex found.
pub(crate) enum Found<'a> {
    Taken(LockRef<'a>),
    Held,
    /// It has no lock yet, or it could not be found without the mutex.
    Unknown,
}

/// A lock that is held, in either mode. It is let go on drop.
#[derive(Debug)]
pub(crate) struct RawGuard<'a> {
    lock: LockRef<'a>,
    mode: LockMode,
    _held: Held,
}

impl<'a> RawGuard<'a> {
    pub(crate) fn mode(&self) -> LockMode {
        self.mode
    }

    /// From exclusive to shared, with nobody in between.
    pub(crate) fn downgrade(mut self) -> RawGuard<'a> {
        assert_eq!(self.mode, LockMode::Exclusive, "only an exclusive lock is downgraded");
        self.mode = LockMode::Shared;
        self.lock.downgrade();
        self
    }
}

impl Drop for RawGuard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.lock.release(self.mode);
    }
}

/// The way to one lock, in one mode.
#[derive(Debug)]
pub(crate) struct RawAcquire<'a, S: Source<'a>> {
    source: S,
    mode: LockMode,
    from: CalledFrom,
    /// Its place in a queue, once it waits.
    queued: Option<(LockRef<'a>, WaiterId)>,
    /// When it found the lock held.
    began: Option<Instant>,
}

impl<'a, S: Source<'a>> RawAcquire<'a, S> {
    #[inline(always)]
    pub(crate) fn new(source: S, mode: LockMode, from: CalledFrom) -> Self {
        RawAcquire { source, mode, from, queued: None, began: None }
    }

    fn check_order(&self, owner: Owner) {
        order::check(self.source.manager(), owner, self.source.rank(), self.from);
    }

    #[inline(always)]
    fn guard(&self, lock: LockRef<'a>, owner: Owner) -> RawGuard<'a> {
        self.source.counters().acquired();
        if let Some(began) = self.began {
            self.source.counters().waited(began.elapsed().as_nanos() as u64);
        }
        let held = Held::new(self.source.manager(), owner, self.source.rank(), self.from);
        RawGuard { lock, mode: self.mode, _held: held }
    }

    fn contended(&mut self) {
        if self.began.is_none() {
            self.began = Some(Instant::now());
            self.source.counters().contended();
        }
    }

    /// Takes it now or not at all.
    #[inline(always)]
    pub(crate) fn try_now(self) -> Result<RawGuard<'a>, LockRefusal> {
        let lock = match self.source.take_known(self.mode) {
            Found::Taken(lock) => lock,
            Found::Held => return Err(LockRefusal::Held),
            Found::Unknown => self.source.take_or_refuse(self.mode)?,
        };
        Ok(self.guard(lock, Owner::thread()))
    }

    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Result<RawGuard<'a>, LockRefusal>> {
        let owner = Owner::task(waker);
        if self.queued.is_none() {
            self.check_order(owner);
        }
        self.poll_as(owner, waker)
    }

    fn poll_as(&mut self, owner: Owner, waker: &Waker) -> Poll<Result<RawGuard<'a>, LockRefusal>> {
        let (lock, attempt) = match self.queued.take() {
            Some((lock, id)) => (lock, look_again(lock, id, waker)),
            None => {
                if let Found::Taken(lock) = self.source.take_known(self.mode) {
                    return Poll::Ready(Ok(self.guard(lock, owner)));
                }
                match self.source.take_or_queue(self.mode, waker.clone()) {
                    Ok(queued) => queued,
                    Err(refusal) => return Poll::Ready(Err(refusal)),
                }
            }
        };
        match attempt {
            Attempt::Taken => Poll::Ready(Ok(self.guard(lock, owner))),
            Attempt::Waiting(id) => {
                self.queued = Some((lock, id));
                self.contended();
                Poll::Pending
            }
        }
    }

    /// Blocks until it has the lock or the deadline has passed.
    #[inline(always)]
    pub(crate) fn wait(self, deadline: Option<Instant>) -> Result<RawGuard<'a>, LockRefusal> {
        if on_reactor_thread() {
            return Err(LockRefusal::OnReactor);
        }
        let owner = Owner::thread();
        self.check_order(owner);
        match self.source.take_known(self.mode) {
            Found::Taken(lock) => Ok(self.guard(lock, owner)),
            Found::Held => self.wait_long(owner, deadline, Looks::Spin),
            Found::Unknown => self.wait_long(owner, deadline, Looks::Queue),
        }
    }

    #[cold]
    fn wait_long(
        mut self,
        owner: Owner,
        deadline: Option<Instant>,
        looks: Looks,
    ) -> Result<RawGuard<'a>, LockRefusal> {
        if looks == Looks::Spin {
            self.contended();
            if let Some(lock) = self.spin() {
                return Ok(self.guard(lock, owner));
            }
        }
        loop {
            let polled = with_thread_waker(|waker| self.poll_as(owner, waker));
            if let Poll::Ready(result) = polled {
                return result;
            }
            let Some(deadline) = deadline else {
                park();
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return match self.give_up() {
                    Some(lock) => Ok(self.guard(lock, owner)),
                    None => Err(LockRefusal::Expired),
                };
            }
            park_timeout(left);
        }
    }

    /// Looks for a while, since most locks are held for less than a sleep and a wake-up take.
    fn spin(&self) -> Option<LockRef<'a>> {
        for round in 0..SPIN_ROUNDS + YIELD_ROUNDS {
            if round < SPIN_ROUNDS {
                (0..1 << round).for_each(|_| spin_loop());
            } else {
                yield_now();
            }
            match self.source.take_known(self.mode) {
                Found::Taken(lock) => return Some(lock),
                Found::Held => (),
                Found::Unknown => return None,
            }
        }
        None
    }

    /// Leaves the queue. The lock comes back if it was granted meanwhile.
    fn give_up(&mut self) -> Option<LockRef<'a>> {
        let (lock, id) = self.queued.take()?;
        let mut woken = Woken::default();
        let granted = lock.parking.enter().give_up(lock.lock, id, &mut woken);
        woken.wake();
        granted.then_some(lock)
    }
}

/// How a thread begins to wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    Spin,
    Queue,
}

fn look_again(lock: LockRef<'_>, id: WaiterId, waker: &Waker) -> Attempt {
    // Cloned before the mutex and dropped after it: a waker is foreign code.
    let mut waker = Some(waker.clone());
    let mut woken = Woken::default();
    let attempt = lock.parking.enter().look_again(lock.lock, id, &mut waker, &mut woken);
    woken.wake();
    attempt
}

impl<'a, S: Source<'a>> Drop for RawAcquire<'a, S> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.queued.is_some()
            && let Some(lock) = self.give_up()
        {
            lock.release(self.mode);
        }
    }
}

/// Takes a lock by its word until nobody interferes.
#[inline(always)]
pub(crate) fn take_settled(lock: LockRef<'_>, mode: LockMode) -> Take {
    loop {
        match lock.take(lock.lock.word.load(), mode) {
            Take::Raced => spin_loop(),
            settled => return settled,
        }
    }
}

/// A guard that an [`Acquire`] ends in.
#[allow(private_interfaces, private_bounds)]
pub trait Guard<'a>: Sized + sealed::Sealed {
    /// Where its lock is found.
    #[doc(hidden)]
    type Source: Source<'a>;
    /// How it is held.
    const MODE: LockMode;
    #[doc(hidden)]
    fn from_raw(raw: RawGuard<'a>) -> Self;
}

pub(crate) mod sealed {
    /// Only this crate's guards are guards.
    pub trait Sealed {}
}

/// A lock that was asked for: await it, [`wait`](Acquire::wait) for it, or wait
/// [until](Acquire::wait_until) a deadline. Nothing happens before; it may be dropped at any time.
#[must_use = "a lock is taken by waiting for it"]
pub struct Acquire<'a, G: Guard<'a>> {
    raw: RawAcquire<'a, G::Source>,
    guard: PhantomData<fn() -> G>,
}

impl<'a, G: Guard<'a>> std::fmt::Debug for Acquire<'a, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acquire").field("mode", &G::MODE).finish_non_exhaustive()
    }
}

impl<'a, G: Guard<'a>> Acquire<'a, G> {
    #[inline(always)]
    pub(crate) fn new(source: G::Source, from: CalledFrom) -> Self {
        Acquire { raw: RawAcquire::new(source, G::MODE, from), guard: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn try_now(self) -> Result<G, LockRefusal> {
        self.raw.try_now().map(G::from_raw)
    }

    /// Blocks this thread until it has the lock: it looks for some microseconds, then sleeps.
    ///
    /// # Errors
    /// [`LockRefusal::TableFull`], or [`LockRefusal::OnReactor`] on a reactor's own thread.
    #[inline(always)]
    pub fn wait(self) -> Result<G, LockRefusal> {
        self.raw.wait(None).map(G::from_raw)
    }

    /// As [`Acquire::wait`], until `deadline` at the latest.
    ///
    /// # Errors
    /// [`LockRefusal::Expired`] after the deadline, and those of [`Acquire::wait`].
    #[inline(always)]
    pub fn wait_until(self, deadline: Instant) -> Result<G, LockRefusal> {
        self.raw.wait(Some(deadline)).map(G::from_raw)
    }

    /// Waits as a task until `timer`, any future of the caller's runtime, is ready.
    ///
    /// # Errors
    /// [`LockRefusal::Expired`] when the timer was first, and [`LockRefusal::TableFull`].
    pub async fn until(mut self, timer: impl Future<Output = ()>) -> Result<G, LockRefusal> {
        let mut timer = pin!(timer);
        std::future::poll_fn(move |context| {
            if let Poll::Ready(result) = Pin::new(&mut self).poll(context) {
                return Poll::Ready(result);
            }
            timer.as_mut().poll(context).map(|()| Err(LockRefusal::Expired))
        })
        .await
    }
}

impl<'a, G: Guard<'a>> Future for Acquire<'a, G> {
    type Output = Result<G, LockRefusal>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.raw.poll(context.waker()).map(|result| result.map(G::from_raw))
    }
}
