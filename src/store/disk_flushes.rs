//! What the domains of a disk tell each other of their flushes.
//!
//! A disk that fails a flush may drop what it was to cover, also what another domain had written,
//! and a flush of that one that runs at the same time may succeed and say nothing of it. So a
//! domain believes its flush only when every other one that was under way meanwhile has ended,
//! and none has failed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::layout::DOMAINS_MAX;

/// Who flushes labels, among the domains: one change of the membership at a time.
pub(crate) const LABELS: u16 = DOMAINS_MAX;

/// The flushes of one disk.
#[derive(Debug)]
pub struct DiskFlushes {
    failures: AtomicU64,
    /// How often each domain has begun or ended one: odd while one is under way. A domain has one
    /// at a time.
    turns: Box<[AtomicU64]>,
}

impl Default for DiskFlushes {
    fn default() -> Self {
        let turns = (0..=LABELS).map(|_| AtomicU64::new(0)).collect();
        DiskFlushes { failures: AtomicU64::new(0), turns }
    }
}

impl DiskFlushes {
    /// Flushes that failed.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    /// One failed. To be said before it is said to have ended.
    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::AcqRel);
    }

    /// A domain's flush begins, or ends.
    pub(crate) fn turn(&self, domain: u16) {
        self.turns[usize::from(domain)].fetch_add(1, Ordering::AcqRel);
    }

    /// The flushes of other domains that are under way.
    pub(crate) fn others(&self, domain: u16) -> UnderWay<'_> {
        let turns = self.turns.iter().enumerate();
        let turns = turns.map(|(number, turns)| (number, turns.load(Ordering::Acquire)));
        let others = turns
            .filter(|(number, turns)| *number != usize::from(domain) && !turns.is_multiple_of(2));
        UnderWay { flushes: self, left: others.collect() }
    }
}

/// Flushes that were under way.
pub(crate) struct UnderWay<'a> {
    flushes: &'a DiskFlushes,
    left: Vec<(usize, u64)>,
}

impl UnderWay<'_> {
    /// Whether all of them have ended.
    pub(crate) fn ended(&mut self) -> bool {
        let now = |number: usize| self.flushes.turns[number].load(Ordering::Acquire);
        self.left.retain(|(number, turns)| now(*number) == *turns);
        self.left.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_were_under_way_are_waited_for_and_no_others() {
        let flushes = DiskFlushes::default();
        flushes.turn(0);
        flushes.turn(3);
        let mut before = flushes.others(0);
        assert!(!before.ended());
        flushes.turn(5);
        flushes.count_failure();
        flushes.turn(3);
        flushes.turn(3);
        assert!(before.ended(), "what began later does not count");
        assert_eq!(flushes.failures(), 1);
        assert!(!flushes.others(3).ended() && flushes.others(3).left.len() == 2);
    }
}
