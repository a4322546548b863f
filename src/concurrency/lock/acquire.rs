//! Waiting for a lock: one future for tasks, which a thread can also block on.

use std::future::{Future, IntoFuture};
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

/// A thread looks this often before it yields, with pauses that double up to `PAUSES_MAX`: about
/// 5 us, a tenth of what a sleep and a wake-up take.
const SPIN_ROUNDS: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 20 };
/// So rare that the holder is not disturbed, so often that no lock lies free for long.
const PAUSES_MAX: u32 = 16;
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
    /// Takes the lock if it is where it should be, and free. The fast path: a few instructions.
    fn take_free(self, mode: LockMode) -> Option<LockRef<'a>>;
    /// Takes the lock without any mutex, if it is known and may be taken.
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
    /// Dropped first: letting go wakes others, and a waker may run a task at once on this thread,
    /// which no longer holds this.
    _held: Held,
    hold: Hold<'a>,
}

/// A lock that is held and not yet remembered. It is let go on drop, also when a waker panics
/// before there is a guard.
#[derive(Debug)]
struct Hold<'a> {
    lock: LockRef<'a>,
    mode: LockMode,
}

impl<'a> RawGuard<'a> {
    pub(crate) fn mode(&self) -> LockMode {
        self.hold.mode
    }

    /// From exclusive to shared, with nobody in between.
    pub(crate) fn downgrade(mut self) -> RawGuard<'a> {
        assert_eq!(self.mode(), LockMode::Exclusive, "only an exclusive lock is downgraded");
        self.hold.mode = LockMode::Shared;
        self.hold.lock.downgrade();
        self
    }
}

impl Drop for Hold<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.lock.release(self.mode);
    }
}

/// What was asked for. Plain data, so that the fast path has nothing to drop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<S> {
    source: S,
    mode: LockMode,
    from: CalledFrom,
}

impl<'a, S: Source<'a>> Asked<S> {
    #[inline(always)]
    pub(crate) fn new(source: S, mode: LockMode, from: CalledFrom) -> Self {
        Asked { source, mode, from }
    }

    /// Takes it now or not at all.
    #[inline(always)]
    pub(crate) fn try_now(self) -> Result<RawGuard<'a>, LockRefusal> {
        match self.source.take_free(self.mode) {
            Some(lock) => Ok(self.guard(lock, Owner::thread())),
            None => self.try_long(),
        }
    }

    #[inline(never)]
    fn try_long(self) -> Result<RawGuard<'a>, LockRefusal> {
        let lock = match self.source.take_known(self.mode) {
            Found::Taken(lock) => lock,
            Found::Held => return Err(LockRefusal::Held),
            Found::Unknown => self.source.take_or_refuse(self.mode)?,
        };
        Ok(self.guard(lock, Owner::thread()))
    }

    /// Blocks until it has the lock or the deadline has passed.
    #[inline(always)]
    pub(crate) fn wait(self, deadline: Option<Instant>) -> Result<RawGuard<'a>, LockRefusal> {
        if on_reactor_thread() {
            return Err(LockRefusal::OnReactor);
        }
        let owner = Owner::thread();
        self.check_order(owner);
        match self.source.take_free(self.mode) {
            Some(lock) => Ok(self.guard(lock, owner)),
            None => wait_long(self, owner, deadline),
        }
    }

    #[inline(always)]
    fn check_order(&self, owner: Owner<'_>) {
        order::check(self.source.manager(), owner, self.source.rank(), self.from);
    }

    #[inline(always)]
    fn guard(&self, lock: LockRef<'a>, owner: Owner<'_>) -> RawGuard<'a> {
        // Remembered first: a hold, which is dropped if that should panic, would lie in memory
        // meanwhile and be copied from there, at 10 ns. It cannot panic: no waker is cloned.
        debug_assert!(!matches!(owner, Owner::Task(_)), "threads alone come this way");
        let held = self.remember(owner);
        RawGuard { _held: held, hold: Hold { lock, mode: self.mode } }
    }

    #[inline(always)]
    fn remember(&self, owner: Owner<'_>) -> Held {
        self.source.counters().acquired();
        Held::new(self.source.manager(), owner, self.source.rank(), self.from)
    }
}

/// A place in a lock's queue. It is left on drop; a lock that was granted meanwhile is let go.
#[derive(Debug)]
struct Place<'a> {
    lock: LockRef<'a>,
    mode: LockMode,
    /// None once it was left.
    id: Option<WaiterId>,
}

impl<'a> Place<'a> {
    /// Looks whether it is its turn. A waker is foreign code and may panic: until the lock is taken
    /// the place is kept, and from then on the lock is held, so that neither is lost.
    fn look_again(&mut self, waker: &Waker) -> Option<Hold<'a>> {
        let Some(id) = self.id else { unreachable!("nobody looks after it has left") };
        // Cloned before the mutex and dropped after it.
        let mut waker = Some(waker.clone());
        let mut woken = Woken::default();
        let parking = self.lock.parking();
        let attempt = parking.enter().look_again(self.lock.lock, id, &mut waker, &mut woken);
        let hold = (attempt == Attempt::Taken).then(|| {
            self.id = None;
            Hold { lock: self.lock, mode: self.mode }
        });
        woken.wake();
        hold
    }

    /// Leaves the queue. The lock comes back if it was granted meanwhile.
    fn give_up(&mut self) -> Option<LockRef<'a>> {
        let id = self.id.take()?;
        let mut woken = Woken::default();
        let granted = self.lock.parking().enter().give_up(self.lock.lock, id, &mut woken);
        woken.wake();
        granted.then_some(self.lock)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(lock) = self.give_up() {
            lock.release(self.mode);
        }
    }
}

/// The way to one lock, in one mode.
#[derive(Debug)]
pub(crate) struct RawAcquire<'a, S: Source<'a>> {
    asked: Asked<S>,
    /// Its place in a queue, once it waits.
    place: Option<Place<'a>>,
    /// When it found the lock held.
    began: Option<Instant>,
}

impl<'a, S: Source<'a>> RawAcquire<'a, S> {
    pub(crate) fn new(asked: Asked<S>) -> Self {
        RawAcquire { asked, place: None, began: None }
    }

    fn contended(&mut self) {
        if self.began.is_none() {
            self.began = Some(Instant::now());
            self.asked.source.counters().contended();
        }
    }

    fn guard(&self, lock: LockRef<'a>, owner: Owner<'_>) -> RawGuard<'a> {
        self.guard_of(Hold { lock, mode: self.asked.mode }, owner)
    }

    fn guard_of(&self, hold: Hold<'a>, owner: Owner<'_>) -> RawGuard<'a> {
        if let Some(began) = self.began {
            self.asked.source.counters().waited(began.elapsed().as_nanos() as u64);
        }
        RawGuard { _held: self.asked.remember(owner), hold }
    }

    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Result<RawGuard<'a>, LockRefusal>> {
        let owner = Owner::task(waker);
        if self.place.is_none() {
            self.asked.check_order(owner);
        }
        self.poll_as(owner, waker)
    }

    fn poll_as(
        &mut self,
        owner: Owner<'_>,
        waker: &Waker,
    ) -> Poll<Result<RawGuard<'a>, LockRefusal>> {
        if let Some(place) = &mut self.place {
            return match place.look_again(waker) {
                Some(hold) => Poll::Ready(Ok(self.guard_of(hold, owner))),
                None => Poll::Pending,
            };
        }
        let Asked { source, mode, .. } = self.asked;
        if let Found::Taken(lock) = source.take_known(mode) {
            return Poll::Ready(Ok(self.guard(lock, owner)));
        }
        match source.take_or_queue(mode, waker.clone()) {
            Ok((lock, Attempt::Taken)) => Poll::Ready(Ok(self.guard(lock, owner))),
            Ok((lock, Attempt::Waiting(id))) => {
                self.place = Some(Place { lock, mode, id: Some(id) });
                self.contended();
                Poll::Pending
            }
            Err(refusal) => Poll::Ready(Err(refusal)),
        }
    }

    /// Sleeps until it has the lock or the deadline has passed.
    fn sleep(
        mut self,
        owner: Owner<'_>,
        deadline: Option<Instant>,
    ) -> Result<RawGuard<'a>, LockRefusal> {
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
                return match self.place.as_mut().and_then(Place::give_up) {
                    Some(lock) => Ok(self.guard(lock, owner)),
                    None => Err(LockRefusal::Expired),
                };
            }
            park_timeout(left);
        }
    }
}

/// Waits for a lock that could not be taken at once.
#[inline(never)]
fn wait_long<'a, S: Source<'a>>(
    asked: Asked<S>,
    owner: Owner<'_>,
    deadline: Option<Instant>,
) -> Result<RawGuard<'a>, LockRefusal> {
    let mut acquire = RawAcquire::new(asked);
    match asked.source.take_known(asked.mode) {
        Found::Taken(lock) => return Ok(acquire.guard(lock, owner)),
        Found::Held => {
            acquire.contended();
            if let Some(lock) = spin(asked) {
                return Ok(acquire.guard(lock, owner));
            }
        }
        Found::Unknown => (),
    }
    acquire.sleep(owner, deadline)
}

/// Looks for a while, since most locks are held for less than a sleep and a wake-up take.
fn spin<'a, S: Source<'a>>(asked: Asked<S>) -> Option<LockRef<'a>> {
    for round in 0..SPIN_ROUNDS + YIELD_ROUNDS {
        if round < SPIN_ROUNDS {
            (0..(1 << round).min(PAUSES_MAX)).for_each(|_| spin_loop());
        } else {
            yield_now();
        }
        match asked.source.take_known(asked.mode) {
            Found::Taken(lock) => return Some(lock),
            Found::Held => (),
            Found::Unknown => return None,
        }
    }
    None
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

/// One kind of lock, held in one way: what an [`Acquire`] asks for.
///
/// It has no lifetime of its own, and its guard is named through it: a bound between the lifetimes
/// of the two would keep the compiler from seeing that a task which awaits a lock is `Send`.
#[allow(private_interfaces, private_bounds)]
pub trait LockKind: sealed::Sealed + 'static {
    /// Where its lock is found.
    #[doc(hidden)]
    type Source<'a>: Source<'a>;
    /// What it is held by.
    type Guard<'a>;
    /// How it is held.
    const MODE: LockMode;
    #[doc(hidden)]
    fn guard(raw: RawGuard<'_>) -> Self::Guard<'_>;
}

pub(crate) mod sealed {
    /// Only this crate's locks are locks.
    pub trait Sealed {}
}

/// A lock that was asked for: await it, [`wait`](Acquire::wait) for it, or wait
/// [until](Acquire::wait_until) a deadline. Nothing happens before.
#[must_use = "a lock is taken by waiting for it"]
pub struct Acquire<'a, K: LockKind> {
    asked: Asked<K::Source<'a>>,
    kind: PhantomData<fn() -> K>,
}

impl<'a, K: LockKind> std::fmt::Debug for Acquire<'a, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acquire").field("mode", &K::MODE).finish_non_exhaustive()
    }
}

impl<'a, K: LockKind> Acquire<'a, K> {
    #[inline(always)]
    pub(crate) fn new(source: K::Source<'a>, from: CalledFrom) -> Self {
        Acquire { asked: Asked::new(source, K::MODE, from), kind: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn try_now(self) -> Result<K::Guard<'a>, LockRefusal> {
        self.asked.try_now().map(K::guard)
    }

    /// Blocks this thread until it has the lock: it looks for some microseconds, then sleeps.
    ///
    /// # Errors
    /// [`LockRefusal::TableFull`], or [`LockRefusal::OnReactor`] on a reactor's own thread.
    #[inline(always)]
    pub fn wait(self) -> Result<K::Guard<'a>, LockRefusal> {
        self.asked.wait(None).map(K::guard)
    }

    /// As [`Acquire::wait`], until `deadline` at the latest.
    ///
    /// # Errors
    /// [`LockRefusal::Expired`] after the deadline, and those of [`Acquire::wait`].
    #[inline(always)]
    pub fn wait_until(self, deadline: Instant) -> Result<K::Guard<'a>, LockRefusal> {
        self.asked.wait(Some(deadline)).map(K::guard)
    }

    /// Waits as a task until `timer`, any future of the caller's runtime, is ready.
    ///
    /// # Errors
    /// [`LockRefusal::Expired`] when the timer was first, and [`LockRefusal::TableFull`].
    pub async fn until(self, timer: impl Future<Output = ()>) -> Result<K::Guard<'a>, LockRefusal> {
        let mut acquiring = self.into_future();
        let mut timer = pin!(timer);
        std::future::poll_fn(move |context| {
            if let Poll::Ready(result) = Pin::new(&mut acquiring).poll(context) {
                return Poll::Ready(result);
            }
            timer.as_mut().poll(context).map(|()| Err(LockRefusal::Expired))
        })
        .await
    }
}

impl<'a, K: LockKind> IntoFuture for Acquire<'a, K> {
    type Output = Result<K::Guard<'a>, LockRefusal>;
    type IntoFuture = Acquiring<'a, K>;

    fn into_future(self) -> Acquiring<'a, K> {
        Acquiring { raw: RawAcquire::new(self.asked), kind: PhantomData }
    }
}

/// A task's wait for a lock: what an [`Acquire`] becomes when it is awaited. Dropping it is safe at
/// any time: it leaves the queue, and hands on a notice that it got.
#[must_use = "a future does nothing until it is polled"]
pub struct Acquiring<'a, K: LockKind> {
    raw: RawAcquire<'a, K::Source<'a>>,
    kind: PhantomData<fn() -> K>,
}

impl<'a, K: LockKind> std::fmt::Debug for Acquiring<'a, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acquiring").field("mode", &K::MODE).finish_non_exhaustive()
    }
}

impl<'a, K: LockKind> Future for Acquiring<'a, K> {
    type Output = Result<K::Guard<'a>, LockRefusal>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.raw.poll(context.waker()).map(|result| result.map(K::guard))
    }
}
