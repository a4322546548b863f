//! How fast a slot takes what one domain writes there: what is new goes the less to it, the slower
//! it is beside the others.

use crate::store::space::TURN_BLOCKS;

/// Share of a slot that is as fast as the others.
pub(super) const WHOLE: u64 = 64;
/// Share of the slowest: what it is given now and then shows that it has become fast again.
const LEAST: u64 = 1;
/// Slots whose writes take so many times as long as those of the fastest are as fast: they may
/// take turns at being it.
const ALIKE: u64 = 4;
/// A write takes as long as so many blocks longer would: what each costs beside its bytes.
const BASE_BLOCKS: u64 = 16;
/// Writes over which the time is smoothed.
const SMOOTHED: u64 = 16;
/// Blocks that may be on their way to a slot beyond those to the one with fewest.
const AHEAD_BLOCKS: u64 = 4 * TURN_BLOCKS as u64;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Blocks on their way there.
    on_way: u64,
    /// Picoseconds for a block, smoothed; 0: none was written.
    block_ps: u64,
}

/// What the paces of several slots are measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    least_on_way: u64,
    fastest_ps: u64,
}

impl Measure {
    /// By those that have space.
    pub(super) fn of(paces: impl Iterator<Item = Pace>) -> Measure {
        let none = Measure { least_on_way: u64::MAX, fastest_ps: u64::MAX };
        paces.fold(none, |measure, pace| Measure {
            least_on_way: measure.least_on_way.min(pace.on_way),
            fastest_ps: match pace.block_ps {
                0 => measure.fastest_ps,
                ps => measure.fastest_ps.min(ps),
            },
        })
    }
}

impl Pace {
    /// So many blocks are on their way there.
    pub(super) fn sent(&mut self, blocks: u64) {
        self.on_way += blocks;
    }

    /// They have arrived, or failed, after so long.
    pub(super) fn arrived(&mut self, blocks: u64, took_ns: u64) {
        self.on_way -= blocks;
        let block_ps = took_ns.saturating_mul(1000) / (blocks + BASE_BLOCKS);
        self.block_ps = match self.block_ps {
            0 => block_ps.max(1),
            before => (before - before / SMOOTHED + block_ps / SMOOTHED).max(1),
        };
    }

    /// Its share beside the others: [`WHOLE`] down to 1; 0 while too much is on its way there.
    pub(super) fn share(self, measure: Measure) -> u64 {
        if self.on_way > measure.least_on_way.saturating_add(AHEAD_BLOCKS) {
            return 0;
        }
        let alike = measure.fastest_ps.saturating_mul(ALIKE);
        if self.block_ps <= alike {
            return WHOLE;
        }
        // A commit waits for the slowest disk that it wrote to, so that what is given to a slow one
        // costs the others too.
        let (alike, own) = (u128::from(alike), u128::from(self.block_ps));
        ((u128::from(WHOLE) * alike * alike / (own * own)) as u64).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(writes: &[(u64, u64)]) -> Pace {
        let mut pace = Pace::default();
        for (blocks, took_ns) in writes {
            pace.sent(*blocks);
            pace.arrived(*blocks, *took_ns);
        }
        pace
    }

    #[test]
    fn a_slot_gets_the_less_the_slower_it_is() {
        let fast = after(&[(16, 100_000); 40]);
        let measure = Measure::of([fast, Pace::default()].into_iter());
        for (times, share) in
            [(1, WHOLE), (3, WHOLE), (8, WHOLE / 4), (16, WHOLE / 16), (5_000, LEAST)]
        {
            let slow = after(&[(16, 100_000 * times); 40]);
            assert_eq!(slow.share(measure), share, "{times} times");
        }
        // Nothing is known of one that is new.
        assert_eq!(Pace::default().share(measure), WHOLE);
        // Larger writes take longer, and are not slower.
        let large = after(&[(256, 100_000 * 272 / 32); 40]);
        assert_eq!(large.share(measure), WHOLE);
    }

    #[test]
    fn one_that_was_slow_is_fast_again_soon() {
        let fast = after(&[(16, 100_000); 40]);
        let measure = Measure::of(std::iter::once(fast));
        let mut slow = after(&[(16, 5_000_000); 40]);
        assert!(slow.share(measure) < WHOLE / 8);
        let mut writes = 0;
        while slow.share(measure) < WHOLE {
            slow.sent(16);
            slow.arrived(16, 100_000);
            writes += 1;
        }
        assert!((20..80).contains(&writes), "{writes}");
    }

    #[test]
    fn one_that_does_not_answer_gets_no_more() {
        let mut silent = Pace::default();
        let measure = Measure::of([silent, Pace::default()].into_iter());
        silent.sent(AHEAD_BLOCKS);
        assert_eq!(silent.share(measure), WHOLE);
        silent.sent(1);
        assert_eq!(silent.share(measure), 0);
        assert_eq!(silent.share(Measure::of(std::iter::once(silent))), WHOLE, "all are as far");
    }
}
