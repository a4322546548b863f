//! What a set of locks has to offer in order to take part, and how it is driven.
//!
//! [`KeyedLocks`] is what each participant implements. Its calls take closures, so that any shape
//! of guard fits and is inlined; the measuring loops are generic over it. [`Contender`] is the
//! face that a list can hold: one dynamic call per window, none per operation.

use std::time::Duration;

use dynamicfs_bench::micro::keys::Step;
use dynamicfs_bench::micro::{Contention, Side, Subject};
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

    /// Running counts, where they are kept.
    fn contention(&self) -> Option<Contention> {
        None
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
    let subject = |contender: &'a dyn Contender| {
        Subject::new(contender.name(), contender.side(), move |window| turn(contender, window))
    };
    contenders.iter().map(|contender| subject(&**contender)).collect()
}
