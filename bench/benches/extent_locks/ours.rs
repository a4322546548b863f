//! dynamicfs's own locks as a contender.

use dynamicfs::ExtentLockManager;
use dynamicfs::metrics::PerThread;
use dynamicfs_bench::micro::{Contention, Side};
use uuid::Uuid;

use crate::contender::{Contender, KeyedLocks};

/// The manager as an embedder gets it by default.
struct Ours(ExtentLockManager);

impl KeyedLocks for Ours {
    const NAME: &'static str = "dynamicfs";
    const SIDE: Side = Side::Ours;

    fn with_keys(keys: &[Uuid]) -> Self {
        let locks = ExtentLockManager::new().expect("memory for the lock table");
        for key in keys {
            drop(locks.write(*key).wait().expect("an idle table has room"));
        }
        Ours(locks)
    }

    #[inline(always)]
    fn shared<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let _guard = self.0.read(*key).wait().expect("the table has room for every thread");
        work()
    }

    #[inline(always)]
    fn exclusive<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        let _guard = self.0.write(*key).wait().expect("the table has room for every thread");
        work()
    }

    fn contention(&self) -> Option<Contention> {
        let metrics = self.0.metrics();
        let (acquired, waited) = (metrics.lock_acquisitions, metrics.lock_contentions);
        Some(Contention { acquired, waited })
    }
}

/// The same, with one count more for each lock: the difference is what counting costs.
struct CountedTwice(Ours, PerThread<1>);

impl KeyedLocks for CountedTwice {
    const NAME: &'static str = "dynamicfs, counted twice";
    const SIDE: Side = Side::Ours;

    fn with_keys(keys: &[Uuid]) -> Self {
        CountedTwice(Ours::with_keys(keys), PerThread::default())
    }

    #[inline(always)]
    fn shared<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        self.0.shared(key, || {
            self.1.raise(0);
            work()
        })
    }

    #[inline(always)]
    fn exclusive<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R {
        self.0.exclusive(key, || {
            self.1.raise(0);
            work()
        })
    }
}

/// Ours, counted as it is and once more.
pub(crate) fn counted(keys: &[Uuid]) -> Vec<Box<dyn Contender>> {
    vec![Box::new(Ours::with_keys(keys)), Box::new(CountedTwice::with_keys(keys))]
}

/// Our contenders, ready for `keys`.
pub(crate) fn all(keys: &[Uuid]) -> Vec<Box<dyn Contender>> {
    vec![Box::new(Ours::with_keys(keys))]
}
