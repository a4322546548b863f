//! Several extents at once, in one order: nobody who uses it can be in a cycle of waiters.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use uuid::Uuid;

use crate::concurrency::extent_locks::ExtentSource;
use crate::concurrency::lock::acquire::{Asked, LockRefusal, RawAcquire, RawGuard};
use crate::concurrency::lock::order::CalledFrom;
use crate::concurrency::lock::word::LockMode;

/// Several extents that were asked for: await it or [`wait`](LockMany::wait) for it. Nothing
/// happens before. On any refusal, and when it is dropped, it lets go of what it has.
#[must_use = "locks are taken by waiting for them"]
#[derive(Debug)]
pub struct LockMany<'a> {
    /// Still to be taken, the next one last.
    wanted: Vec<(ExtentSource<'a>, LockMode)>,
    current: Option<RawAcquire<'a, ExtentSource<'a>>>,
    held: Vec<RawGuard<'a>>,
    from: CalledFrom,
    /// It was ready once: what it held is no longer here.
    ended: bool,
}

impl<'a> LockMany<'a> {
    /// `wanted` in any order, with repetitions: an extent that is wanted both ways is taken
    /// exclusively.
    pub(super) fn new(
        mut wanted: Vec<(ExtentSource<'a>, LockMode)>,
        from: CalledFrom,
    ) -> LockMany<'a> {
        // Descending, because they are taken from the end; exclusive before shared.
        wanted.sort_unstable_by_key(|(source, mode)| std::cmp::Reverse((source.order(), *mode)));
        wanted.dedup_by_key(|(source, _)| source.order());
        let held = Vec::with_capacity(wanted.len());
        LockMany { wanted, current: None, held, from, ended: false }
    }

    /// Blocks this thread until it has them all.
    ///
    /// # Errors
    /// Those of [`Acquire::wait`](crate::concurrency::lock::acquire::Acquire::wait).
    pub fn wait(self) -> Result<LockedExtents<'a>, LockRefusal> {
        self.wait_for(None)
    }

    /// As [`LockMany::wait`], until `deadline` at the latest.
    ///
    /// # Errors
    /// [`LockRefusal::Expired`] after the deadline, and those of [`LockMany::wait`].
    pub fn wait_until(self, deadline: Instant) -> Result<LockedExtents<'a>, LockRefusal> {
        self.wait_for(Some(deadline))
    }

    fn wait_for(mut self, deadline: Option<Instant>) -> Result<LockedExtents<'a>, LockRefusal> {
        while let Some((source, mode)) = self.wanted.pop() {
            let guard = Asked::new(source, mode, self.from).wait(deadline)?;
            self.held.push(guard);
        }
        Ok(LockedExtents { held: self.held })
    }
}

impl<'a> Future for LockMany<'a> {
    type Output = Result<LockedExtents<'a>, LockRefusal>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        assert!(!this.ended, "several locks were polled after they were ready");
        loop {
            let acquire = match &mut this.current {
                Some(acquire) => acquire,
                None => {
                    let Some((source, mode)) = this.wanted.pop() else {
                        this.ended = true;
                        let held = std::mem::take(&mut this.held);
                        return Poll::Ready(Ok(LockedExtents { held }));
                    };
                    let asked = Asked::new(source, mode, this.from);
                    this.current.insert(RawAcquire::new(asked))
                }
            };
            let Poll::Ready(result) = acquire.poll(context.waker()) else { return Poll::Pending };
            this.current = None;
            match result {
                Ok(guard) => this.held.push(guard),
                Err(refusal) => {
                    this.ended = true;
                    this.wanted.clear();
                    this.held.clear();
                    return Poll::Ready(Err(refusal));
                }
            }
        }
    }
}

/// Several extents, held. They are let go on drop.
#[derive(Debug)]
pub struct LockedExtents<'a> {
    held: Vec<RawGuard<'a>>,
}

impl LockedExtents<'_> {
    /// How many different extents are held.
    pub fn count(&self) -> usize {
        self.held.len()
    }

    /// How many of them are held exclusively.
    pub fn exclusive_count(&self) -> usize {
        self.held.iter().filter(|guard| guard.mode() == LockMode::Exclusive).count()
    }
}

/// One extent and how it is wanted.
pub type Wanted = (Uuid, LockMode);
