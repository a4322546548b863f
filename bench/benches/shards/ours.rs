//! The calls into dynamicfs's lock manager that the experiment makes.

use dynamicfs::ExtentLockManager;
use dynamicfs_bench::micro::Contention;
use uuid::Uuid;

/// The lock manager, with a number of shards that the experiment chooses.
pub(crate) struct Manager(ExtentLockManager);

impl Manager {
    /// A manager of so many shards, with no keys.
    pub(crate) fn with_shards(shards: usize) -> Option<Manager> {
        Some(Manager(ExtentLockManager::with_shards(shards).expect("memory for the lock table")))
    }

    /// Runs `work` while `key` is locked shared.
    #[inline(always)]
    pub(crate) fn shared<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let _guard = self.0.read(*key).wait().expect("the table has room for every thread");
        work()
    }

    /// Runs `work` while `key` is locked exclusively.
    #[inline(always)]
    pub(crate) fn exclusive<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let _guard = self.0.write(*key).wait().expect("the table has room for every thread");
        work()
    }

    /// Running counts.
    pub(crate) fn contention(&self) -> Option<Contention> {
        let metrics = self.0.metrics();
        let (acquired, waited) = (metrics.lock_acquisitions, metrics.lock_contentions);
        Some(Contention { acquired, waited })
    }
}
