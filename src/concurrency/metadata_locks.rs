//! Locks of metadata: striped by number, last in the locking order.
//!
//! Many inodes share a stripe, so two of them may wait for each other's holder; nobody may hold two
//! of a kind. The types are apart so that a signature shows the hierarchy: what takes an
//! [`InodeWriteGuard`] may lock an extent map, and not the other way round.

use std::sync::Arc;
use std::task::Waker;

use crossbeam_utils::CachePadded;

use crate::concurrency::extent_locks::ExtentLockManager;
use crate::concurrency::lock::acquire::{
    Acquire, Found, LockKind, LockRefusal, RawGuard, Source, sealed, take_settled,
};
use crate::concurrency::lock::metrics::{LockCounters, LockMetrics};
use crate::concurrency::lock::order::{CalledFrom, Rank};
use crate::concurrency::lock::raw::{Attempt, LockRef, Parking, Parkings, RawLock, Take};
use crate::concurrency::lock::word::LockMode;
use crate::machine::mapping::{MappingError, PagePolicy};
use crate::memory::table::HugeTable;

/// Stripes of each kind.
pub const STRIPES: usize = 1024;

/// Stripes whose waiters share a mutex are this many apart.
const PARKINGS: usize = 64;

#[derive(Debug)]
struct Stripes {
    /// Each alone on its cache lines.
    stripes: HugeTable<CachePadded<RawLock>>,
    parkings: Parkings,
    counters: LockCounters,
    /// The manager beside which these are: one order holds for all.
    manager: u64,
    rank: fn(u32) -> Rank,
}

impl Stripes {
    fn beside(
        extents: &ExtentLockManager,
        rank: fn(u32) -> Rank,
        pages: PagePolicy,
    ) -> Result<Arc<Stripes>, MappingError> {
        let stripe = |index| CachePadded::new(RawLock::new((index % PARKINGS) as u32));
        let parking = |_| CachePadded::new(Parking::new(extents.overtakes_max()));
        Ok(Arc::new(Stripes {
            stripes: HugeTable::from_fn(STRIPES, pages, stripe)?,
            parkings: HugeTable::from_fn(PARKINGS, pages, parking)?,
            counters: LockCounters::default(),
            manager: extents.manager(),
            rank,
        }))
    }

    /// Neighbouring numbers lie in stripes far apart (Fibonacci hashing).
    fn source(&self, number: u64) -> StripeSource<'_> {
        let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        StripeSource { stripes: self, stripe: (hash >> (64 - STRIPES.ilog2())) as u32 }
    }
}

/// The way to one stripe; opaque.
#[derive(Clone, Copy, Debug)]
pub struct StripeSource<'a> {
    stripes: &'a Stripes,
    stripe: u32,
}

impl<'a> StripeSource<'a> {
    fn lock(self) -> LockRef<'a> {
        let Stripes { stripes, parkings, .. } = self.stripes;
        LockRef { lock: &stripes[self.stripe as usize], parkings }
    }
}

impl<'a> Source<'a> for StripeSource<'a> {
    #[inline(always)]
    fn take_free(self, mode: LockMode) -> Option<LockRef<'a>> {
        let lock = self.lock();
        lock.take_free(lock.lock.word.load(), mode).then_some(lock)
    }

    fn take_known(self, mode: LockMode) -> Found<'a> {
        match take_settled(self.lock(), mode) {
            Take::Taken => Found::Taken(self.lock()),
            Take::Held | Take::Raced => Found::Held,
        }
    }

    fn take_or_queue(
        self,
        mode: LockMode,
        waker: Waker,
    ) -> Result<(LockRef<'a>, Attempt), LockRefusal> {
        let (lock, mut waker) = (self.lock(), Some(waker));
        let attempt = lock.parking().enter().take_or_queue(lock.lock, mode, &mut waker);
        Ok((lock, attempt))
    }

    fn take_or_refuse(self, mode: LockMode) -> Result<LockRef<'a>, LockRefusal> {
        match self.take_known(mode) {
            Found::Taken(lock) => Ok(lock),
            Found::Held | Found::Unknown => Err(LockRefusal::Held),
        }
    }

    fn counters(self) -> &'a LockCounters {
        &self.stripes.counters
    }

    fn manager(self) -> u64 {
        self.stripes.manager
    }

    fn rank(self) -> Rank {
        (self.stripes.rank)(self.stripe)
    }
}

/// Locks of inodes. They come after extents and before extent maps.
#[derive(Debug)]
pub struct InodeLocks(Arc<Stripes>);

/// Locks of extent maps, the last in the order.
#[derive(Debug)]
pub struct ExtentMapLocks(Arc<Stripes>);

/// An inode's stripe, held shared.
#[derive(Debug)]
pub struct InodeReadGuard<'a> {
    _raw: RawGuard<'a>,
}

/// An inode's stripe, held exclusively.
#[derive(Debug)]
pub struct InodeWriteGuard<'a>(RawGuard<'a>);

/// An extent map's stripe, held shared.
#[derive(Debug)]
pub struct ExtentMapReadGuard<'a> {
    _raw: RawGuard<'a>,
}

/// An extent map's stripe, held exclusively.
#[derive(Debug)]
pub struct ExtentMapWriteGuard<'a>(RawGuard<'a>);

impl InodeLocks {
    /// Inode locks in the same order as the locks of `extents`.
    ///
    /// # Errors
    /// When the machine has no memory for them.
    pub fn beside(extents: &ExtentLockManager, pages: PagePolicy) -> Result<Self, MappingError> {
        Stripes::beside(extents, |stripe| Rank::Inode { stripe }, pages).map(InodeLocks)
    }

    /// Asks for an inode's stripe, shared.
    #[track_caller]
    pub fn read(&self, inode: u64) -> Acquire<'_, InodeRead> {
        Acquire::new(self.0.source(inode), CalledFrom::here())
    }

    /// Asks for an inode's stripe, exclusively.
    #[track_caller]
    pub fn write(&self, inode: u64) -> Acquire<'_, InodeWrite> {
        Acquire::new(self.0.source(inode), CalledFrom::here())
    }

    /// What was counted.
    pub fn metrics(&self) -> LockMetrics {
        self.0.counters.snapshot()
    }
}

impl ExtentMapLocks {
    /// Extent-map locks in the same order as the locks of `extents`.
    ///
    /// # Errors
    /// When the machine has no memory for them.
    pub fn beside(extents: &ExtentLockManager, pages: PagePolicy) -> Result<Self, MappingError> {
        Stripes::beside(extents, |stripe| Rank::ExtentMap { stripe }, pages).map(ExtentMapLocks)
    }

    /// Asks for the stripe of an inode's extent map, shared.
    #[track_caller]
    pub fn read(&self, inode: u64) -> Acquire<'_, ExtentMapRead> {
        Acquire::new(self.0.source(inode), CalledFrom::here())
    }

    /// Asks for the stripe of an inode's extent map, exclusively.
    #[track_caller]
    pub fn write(&self, inode: u64) -> Acquire<'_, ExtentMapWrite> {
        Acquire::new(self.0.source(inode), CalledFrom::here())
    }

    /// What was counted.
    pub fn metrics(&self) -> LockMetrics {
        self.0.counters.snapshot()
    }
}

/// An inode's stripe, asked for shared.
#[derive(Debug)]
pub enum InodeRead {}

impl sealed::Sealed for InodeRead {}

/// An inode's stripe, asked for exclusively.
#[derive(Debug)]
pub enum InodeWrite {}

impl sealed::Sealed for InodeWrite {}

/// An extent map's stripe, asked for shared.
#[derive(Debug)]
pub enum ExtentMapRead {}

impl sealed::Sealed for ExtentMapRead {}

/// An extent map's stripe, asked for exclusively.
#[derive(Debug)]
pub enum ExtentMapWrite {}

impl sealed::Sealed for ExtentMapWrite {}

#[allow(private_interfaces)]
impl LockKind for InodeRead {
    type Source<'a> = StripeSource<'a>;
    type Guard<'a> = InodeReadGuard<'a>;
    const MODE: LockMode = LockMode::Shared;
    fn guard(raw: RawGuard<'_>) -> InodeReadGuard<'_> {
        InodeReadGuard { _raw: raw }
    }
}

#[allow(private_interfaces)]
impl LockKind for InodeWrite {
    type Source<'a> = StripeSource<'a>;
    type Guard<'a> = InodeWriteGuard<'a>;
    const MODE: LockMode = LockMode::Exclusive;
    fn guard(raw: RawGuard<'_>) -> InodeWriteGuard<'_> {
        InodeWriteGuard(raw)
    }
}

#[allow(private_interfaces)]
impl LockKind for ExtentMapRead {
    type Source<'a> = StripeSource<'a>;
    type Guard<'a> = ExtentMapReadGuard<'a>;
    const MODE: LockMode = LockMode::Shared;
    fn guard(raw: RawGuard<'_>) -> ExtentMapReadGuard<'_> {
        ExtentMapReadGuard { _raw: raw }
    }
}

#[allow(private_interfaces)]
impl LockKind for ExtentMapWrite {
    type Source<'a> = StripeSource<'a>;
    type Guard<'a> = ExtentMapWriteGuard<'a>;
    const MODE: LockMode = LockMode::Exclusive;
    fn guard(raw: RawGuard<'_>) -> ExtentMapWriteGuard<'_> {
        ExtentMapWriteGuard(raw)
    }
}

impl<'a> InodeWriteGuard<'a> {
    /// From exclusive to shared, with nobody in between.
    pub fn downgrade(self) -> InodeReadGuard<'a> {
        InodeReadGuard { _raw: self.0.downgrade() }
    }
}

impl<'a> ExtentMapWriteGuard<'a> {
    /// From exclusive to shared, with nobody in between.
    pub fn downgrade(self) -> ExtentMapReadGuard<'a> {
        ExtentMapReadGuard { _raw: self.0.downgrade() }
    }
}
