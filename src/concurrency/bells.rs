//! Bells: any thread makes one task of a reactor run, for one exchange and mostly no wake-up.
//!
//! A bell is one bit of a word. Who rings sets its bit, and only who found it clear nudges the
//! reactor's [`Mailbox`]: while it is set the reactor has not taken it, so a turn that takes it
//! is still to come. Nothing is lost:
//!
//! - A ring that finds the bit set is before the exchange in which the reactor takes it, so what
//!   its caller wrote before is seen by the poll that follows.
//! - A ring that finds it clear nudges. Either the nudge comes after the reactor announced its
//!   sleep, and ends it; or the announcement reads from the nudge, and the reactor, which looks at
//!   the bells once more after it, sees the bit.
//!
//! Ringing must not look first whether the bit is set: what a load sees may have been taken since.

use crossbeam_utils::CachePadded;

use crate::concurrency::mailbox::{Mailbox, Wake};
use crate::concurrency::sync::{AtomicU32, AtomicU64, Ordering};

/// The bells of one reactor.
#[derive(Debug)]
pub struct Bells {
    /// Alone on its cache lines: the reactor looks at it each turn.
    rung: CachePadded<AtomicU64>,
    given: AtomicU32,
}

impl Default for Bells {
    fn default() -> Self {
        Bells { rung: CachePadded::new(AtomicU64::new(0)), given: AtomicU32::new(0) }
    }
}

impl Bells {
    /// Most bells.
    pub const MAX: u32 = u64::BITS;

    /// The number of a bell that nobody has; none when all are given.
    pub fn give(&self) -> Option<u32> {
        let mut given = self.given.load(Ordering::Relaxed);
        while given < Bells::MAX {
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            match self.given.compare_exchange_weak(given, given + 1, success, failure) {
                Ok(number) => return Some(number),
                Err(now) => given = now,
            }
        }
        None
    }

    /// Rings a bell. `mailbox` is that of the same reactor.
    #[inline]
    pub fn ring(&self, number: u32, mailbox: &Mailbox) -> Wake {
        let bit = 1 << number;
        // Release pairs with the Acquire in `take`, also through the rings that come after it.
        if self.rung.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
            return Wake::NotNeeded;
        }
        mailbox.nudge()
    }

    /// Whether a bell was rung. Reactor only, each turn, and again after
    /// [`Mailbox::prepare_sleep`], whose exchange orders it behind every nudge before.
    #[inline(always)]
    pub fn any(&self) -> bool {
        self.rung.load(Ordering::Relaxed) != 0
    }

    /// Takes what was rung, as bits by number. Reactor only.
    #[inline]
    pub fn take(&self) -> u64 {
        self.rung.swap(0, Ordering::Acquire)
    }
}
