//! What a set of locks has to offer in order to take part, and how it is driven.
//!
//! [`KeyedLocks`] is what each participant implements. Its calls take closures, so that any shape
//! of guard fits and is inlined; the measuring loops are generic over it. [`Contender`] is the
//! face that a list can hold: one dynamic call per window, none per operation.

use std::time::Duration;

use dynamicfs_bench::micro::keys::Step;
use dynamicfs_bench::micro::{Side, Subject};
use uuid::Uuid;

use crate::many::Payload;
use crate::{hand_off, many, uncontended};

/// Locks by UUID, each shared or exclusive.
pub(crate) trait KeyedLocks: Sync {
    /// Name in the tables.
    const NAME: &'static str;
    /// Ours or a rival.
    const SIDE: Side;

    /// Ready to lock any of `keys` without a first-time cost, where that is possible.
    fn with_keys(keys: &[Uuid]) -> Self;

    /// Runs `work` while `key` is locked shared.
    fn shared<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R;

    /// Runs `work` while `key` is locked exclusively.
    fn exclusive<R>(&self, key: &Uuid, work: impl FnOnce() -> R) -> R;

    /// Counts since `with_keys`, where they are kept.
    fn contention(&self) -> Option<Contention> {
        None
    }
}

/// How many acquisitions there were, and how many of them had to wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Contention {
    /// All acquisitions.
    pub(crate) acquired: u64,
    /// Those that did not get the lock at once.
    pub(crate) waited: u64,
}

impl Contention {
    /// The share that waited between two readings; NaN when there is nothing to divide.
    pub(crate) fn share(before: Option<Contention>, after: Option<Contention>) -> f64 {
        let (Some(before), Some(after)) = (before, after) else { return f64::NAN };
        let acquired = after.acquired - before.acquired;
        if acquired == 0 {
            return f64::NAN;
        }
        (after.waited - before.waited) as f64 / acquired as f64
    }
}

/// How a lock is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By many at once.
    Shared,
    /// By one alone.
    Exclusive,
}

/// One participant, whatever its type. Each call measures for a window.
pub(crate) trait Contender {
    fn name(&self) -> &'static str;
    fn side(&self) -> Side;
    fn uncontended(&self, steps: &[Step], mode: Mode, window: Duration) -> Vec<f64>;
    fn hand_off(&self, key: &Uuid, hold: Duration, window: Duration) -> Vec<f64>;
    fn many(
        &self,
        steps: &[Step],
        payloads: &[Payload],
        threads: usize,
        window: Duration,
    ) -> Vec<f64>;
}

impl<L: KeyedLocks> Contender for L {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn side(&self) -> Side {
        L::SIDE
    }

    fn uncontended(&self, steps: &[Step], mode: Mode, window: Duration) -> Vec<f64> {
        uncontended::run(self, steps, mode, window)
    }

    fn hand_off(&self, key: &Uuid, hold: Duration, window: Duration) -> Vec<f64> {
        hand_off::run(self, key, hold, window)
    }

    fn many(
        &self,
        steps: &[Step],
        payloads: &[Payload],
        threads: usize,
        window: Duration,
    ) -> Vec<f64> {
        many::run(self, steps, payloads, threads, window)
    }
}

/// All contenders as subjects of one case; `turn` drives one of them for one window.
pub(crate) fn subjects<'a>(
    contenders: &'a [Box<dyn Contender>],
    turn: impl Fn(&dyn Contender, Duration) -> Vec<f64> + Copy + 'a,
) -> Vec<Subject<'a>> {
    let subject = |contender: &'a Box<dyn Contender>| {
        Subject::new(contender.name(), contender.side(), move |window| turn(&**contender, window))
    };
    contenders.iter().map(subject).collect()
}
