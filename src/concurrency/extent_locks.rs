//! Locks of extents, by UUID: shared and exclusive, for threads and tasks, in a bounded table.
//!
//! A lock that exists is taken and let go with one read-modify-write each, on one cache line, and
//! no other lock. **Fairness:** a waiter is overtaken by later arrivals at most
//! [`LockConfig::overtakes_max`] times for itself and for each waiter before it; shared ones that
//! wait next to each other go in together. So neither kind starves.

mod many;
mod table;
#[cfg(test)]
mod tests;

use std::task::Waker;

use uuid::Uuid;

use crate::concurrency::lock::acquire::{
    Acquire, Found, LockKind, LockRefusal, RawGuard, Source, sealed,
};
use crate::concurrency::lock::metrics::{LockCounters, LockMetrics};
use crate::concurrency::lock::order::{CalledFrom, Rank, new_manager};
use crate::concurrency::lock::raw::{Attempt, LockRef};
use crate::concurrency::lock::word::{LockMode, OVERTAKES_MAX};
use crate::machine::mapping::{MappingError, PagePolicy};
use crate::memory::arena::ArenaStatus;

pub use many::{LockMany, LockedExtents, Wanted};
use table::{Key, LockTable};

/// What a manager is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockConfig {
    /// Locks that can be held or waited for at once, 64 bytes each: a power of two from `shards` to
    /// 2^30. A shard may be full earlier, at 512 places a shard from about 80 % of all.
    pub locks_max: usize,
    /// Shards: a power of two from 1 to 65,536. Only making locks and waiting contend for one.
    pub shards: usize,
    /// How often the head of a queue may be overtaken: 0 to 63. 0 is strictly first come, first
    /// served, and then every hand-over between threads costs a wake-up.
    pub overtakes_max: u8,
    /// Pages of the table.
    pub pages: PagePolicy,
}

impl Default for LockConfig {
    fn default() -> Self {
        LockConfig {
            locks_max: 1 << 17,
            shards: ExtentLockManager::SHARDS,
            overtakes_max: OVERTAKES_MAX,
            pages: PagePolicy::Huge,
        }
    }
}

/// Why there is no manager.
#[derive(Debug, thiserror::Error)]
pub enum LockConfigError {
    /// A field out of its range.
    #[error("{field} = {value} is out of range: {range}")]
    OutOfRange {
        /// The field of [`LockConfig`].
        field: &'static str,
        /// What it was.
        value: usize,
        /// What it may be.
        range: &'static str,
    },
    /// No memory for the table.
    #[error(transparent)]
    Memory(#[from] MappingError),
}

/// Locks of extents; see the [module](self).
///
/// ```
/// use dynamicfs::{ExtentLockManager, LockMode, LockRefusal};
/// use uuid::Uuid;
///
/// let locks = ExtentLockManager::new()?;
/// let (here, there) = (Uuid::from_u128(1), Uuid::from_u128(2));
///
/// let reading = locks.read(here).wait()?; // a task writes `.await?`
/// assert_eq!(locks.try_write(here).err(), Some(LockRefusal::Held));
/// drop(reading);
///
/// let both = locks.lock_many(&[(there, LockMode::Exclusive), (here, LockMode::Shared)]).wait()?;
/// assert_eq!(both.count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ExtentLockManager {
    table: LockTable,
    number: u64,
    overtakes_max: u8,
}

impl ExtentLockManager {
    /// Shards of a manager that is made without a configuration.
    pub const SHARDS: usize = 256;

    /// A manager with the defaults of [`LockConfig`].
    ///
    /// # Errors
    /// When the machine has no memory for the table.
    pub fn new() -> Result<Self, LockConfigError> {
        Self::with_config(LockConfig::default())
    }

    /// A manager with another number of shards, a power of two.
    ///
    /// # Errors
    /// As [`ExtentLockManager::with_config`].
    pub fn with_shards(shards: usize) -> Result<Self, LockConfigError> {
        Self::with_config(LockConfig { shards, ..LockConfig::default() })
    }

    /// A manager as configured.
    ///
    /// # Errors
    /// A field out of its range, or no memory for the table.
    pub fn with_config(config: LockConfig) -> Result<Self, LockConfigError> {
        let LockConfig { locks_max, shards, overtakes_max, pages } = config;
        let refuse = |field, value, range| Err(LockConfigError::OutOfRange { field, value, range });
        if !shards.is_power_of_two() || shards > 1 << 16 {
            return refuse("shards", shards, "a power of two from 1 to 65,536");
        }
        if !locks_max.is_power_of_two() || locks_max < shards || locks_max > 1 << 30 {
            return refuse("locks_max", locks_max, "a power of two from `shards` to 2^30");
        }
        if overtakes_max > OVERTAKES_MAX {
            return refuse("overtakes_max", usize::from(overtakes_max), "0 to 63");
        }
        let table = LockTable::new(locks_max.ilog2(), shards.ilog2(), overtakes_max, pages)?;
        Ok(ExtentLockManager { table, number: new_manager(), overtakes_max })
    }

    /// Asks for an extent, shared with other readers.
    #[inline(always)]
    #[track_caller]
    pub fn read(&self, extent: Uuid) -> Acquire<'_, ExtentRead> {
        Acquire::new(self.source(&extent), CalledFrom::here())
    }

    /// Asks for an extent, exclusively.
    #[inline(always)]
    #[track_caller]
    pub fn write(&self, extent: Uuid) -> Acquire<'_, ExtentWrite> {
        Acquire::new(self.source(&extent), CalledFrom::here())
    }

    /// Takes an extent shared, if that needs no waiting.
    ///
    /// # Errors
    /// [`LockRefusal::Held`] or [`LockRefusal::TableFull`].
    #[inline(always)]
    #[track_caller]
    pub fn try_read(&self, extent: Uuid) -> Result<ExtentReadGuard<'_>, LockRefusal> {
        self.read(extent).try_now()
    }

    /// Takes an extent exclusively, if that needs no waiting.
    ///
    /// # Errors
    /// [`LockRefusal::Held`] or [`LockRefusal::TableFull`].
    #[inline(always)]
    #[track_caller]
    pub fn try_write(&self, extent: Uuid) -> Result<ExtentWriteGuard<'_>, LockRefusal> {
        self.write(extent).try_now()
    }

    /// Asks for several extents. They are taken by ascending shard, within one by ascending UUID,
    /// each once: exclusively if it is wanted both ways. Whoever takes all its extents by one call
    /// cannot be part of a deadlock of extents.
    #[track_caller]
    pub fn lock_many(&self, wanted: &[Wanted]) -> LockMany<'_> {
        let sources = wanted.iter().map(|(extent, mode)| (self.source(extent), *mode)).collect();
        LockMany::new(sources, CalledFrom::here())
    }

    #[inline(always)]
    fn source(&self, extent: &Uuid) -> ExtentSource<'_> {
        ExtentSource { manager: self, key: self.table.key(extent) }
    }

    /// What was counted.
    pub fn metrics(&self) -> LockMetrics {
        self.table.counters.snapshot()
    }

    /// Locks held or waited for at this moment; looks at the whole table.
    pub fn live(&self) -> usize {
        self.table.live()
    }

    /// Locks that fit.
    pub fn locks_max(&self) -> usize {
        self.table.places()
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.table.shards()
    }

    /// The shard of an extent: the first part of its place in the locking order.
    pub fn shard_of(&self, extent: &Uuid) -> u32 {
        self.table.shard_of(self.table.key(extent))
    }

    /// Where its memory landed: locks, and shards.
    pub fn status(&self) -> [ArenaStatus; 2] {
        self.table.status()
    }

    pub(crate) fn manager(&self) -> u64 {
        self.number
    }

    pub(crate) fn overtakes_max(&self) -> u8 {
        self.overtakes_max
    }
}

/// The way to one extent's lock; opaque.
#[derive(Clone, Copy, Debug)]
pub struct ExtentSource<'a> {
    manager: &'a ExtentLockManager,
    key: Key,
}

impl ExtentSource<'_> {
    fn order(&self) -> (u32, u128) {
        (self.manager.table.shard_of(self.key), self.key.uuid())
    }
}

impl<'a> Source<'a> for ExtentSource<'a> {
    #[inline(always)]
    fn take_free(self, mode: LockMode) -> Option<LockRef<'a>> {
        self.manager.table.take_free(self.key, mode)
    }

    fn take_known(self, mode: LockMode) -> Found<'a> {
        self.manager.table.take_known(self.key, mode)
    }

    fn take_or_queue(
        self,
        mode: LockMode,
        waker: Waker,
    ) -> Result<(LockRef<'a>, Attempt), LockRefusal> {
        self.manager.table.take_or_queue(self.key, mode, waker)
    }

    fn take_or_refuse(self, mode: LockMode) -> Result<LockRef<'a>, LockRefusal> {
        self.manager.table.take_or_refuse(self.key, mode)
    }

    #[inline(always)]
    fn counters(self) -> &'a LockCounters {
        &self.manager.table.counters
    }

    #[inline(always)]
    fn manager(self) -> u64 {
        self.manager.number
    }

    #[inline(always)]
    fn rank(self) -> Rank {
        let (shard, uuid) = self.order();
        Rank::Extent { shard, uuid }
    }
}

/// An extent, held shared. It is let go on drop, also by a panic.
#[derive(Debug)]
#[must_use = "a lock is let go at once when its guard is dropped"]
pub struct ExtentReadGuard<'a> {
    _raw: RawGuard<'a>,
}

/// An extent, held exclusively. It is let go on drop, also by a panic.
#[derive(Debug)]
#[must_use = "a lock is let go at once when its guard is dropped"]
pub struct ExtentWriteGuard<'a>(RawGuard<'a>);

impl<'a> ExtentWriteGuard<'a> {
    /// From exclusive to shared, with nobody in between.
    pub fn downgrade(self) -> ExtentReadGuard<'a> {
        ExtentReadGuard { _raw: self.0.downgrade() }
    }
}

/// An extent, asked for shared.
#[derive(Debug)]
pub enum ExtentRead {}

impl sealed::Sealed for ExtentRead {}

/// An extent, asked for exclusively.
#[derive(Debug)]
pub enum ExtentWrite {}

impl sealed::Sealed for ExtentWrite {}

#[allow(private_interfaces)]
impl LockKind for ExtentRead {
    type Source<'a> = ExtentSource<'a>;
    type Guard<'a> = ExtentReadGuard<'a>;
    const MODE: LockMode = LockMode::Shared;
    #[inline(always)]
    fn guard(raw: RawGuard<'_>) -> ExtentReadGuard<'_> {
        ExtentReadGuard { _raw: raw }
    }
}

#[allow(private_interfaces)]
impl LockKind for ExtentWrite {
    type Source<'a> = ExtentSource<'a>;
    type Guard<'a> = ExtentWriteGuard<'a>;
    const MODE: LockMode = LockMode::Exclusive;
    #[inline(always)]
    fn guard(raw: RawGuard<'_>) -> ExtentWriteGuard<'_> {
        ExtentWriteGuard(raw)
    }
}
