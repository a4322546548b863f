//! The calls into dynamicfs's lock manager that the experiment makes.

use dynamicfs_bench::micro::Contention;
use uuid::Uuid;

/// The lock manager, with a number of shards that the experiment chooses.
pub(crate) struct Manager;

impl Manager {
    /// A manager of so many shards, with no keys; none when this build has no manager.
    pub(crate) fn with_shards(_shards: usize) -> Option<Manager> {
        None
    }

    /// Runs `work` while `key` is locked shared.
    pub(crate) fn shared<R>(&self, _key: &Uuid, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Runs `work` while `key` is locked exclusively.
    pub(crate) fn exclusive<R>(&self, _key: &Uuid, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Running counts.
    pub(crate) fn contention(&self) -> Option<Contention> {
        None
    }
}
