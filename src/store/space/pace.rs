//! How fast a slot takes what one domain writes there: what is new goes the less to it, the slower
//! it is beside the others.

use crate::store::space::TURN_BLOCKS;

/// Share of a slot that is as fast as the others.
pub(super) const WHOLE: u64 = 1024;
/// Share of the slowest: what it is given now and then shows that it has become fast again.
const LEAST: u64 = 1;
/// Slots whose writes take so many times as long as those of the fastest are as fast: they may
/// take turns at being it.
const ALIKE: u64 = 4;
/// A write takes as long as so many blocks longer would: what each costs beside its bytes.
const BASE_BLOCKS: u64 = 16;
/// Writes over which the time is smoothed.
const SMOOTHED: u64 = 16;
/// How much slower a slot counts for each write that fails there.
const FAILED: u64 = 4;
/// Picoseconds for a block of a slot where nothing but that was seen: a second; and the most.
const FAILED_PS: u64 = 1_000_000_000_000;
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
    /// By those that have room. What is on its way to a slow one says nothing of how much is much.
    pub(super) fn of(paces: impl Iterator<Item = Pace> + Clone) -> Measure {
        let known = paces.clone().map(|pace| pace.block_ps).filter(|ps| *ps > 0);
        let fastest_ps = known.min().unwrap_or(u64::MAX);
        let mut measure = Measure { least_on_way: u64::MAX, fastest_ps };
        let fast = paces.filter(|pace| pace.speed(measure) == WHOLE);
        measure.least_on_way = fast.map(|pace| pace.on_way).min().unwrap_or(u64::MAX);
        measure
    }
}

impl Pace {
    /// So many blocks are on their way there.
    pub(super) fn sent(&mut self, blocks: u64) {
        self.on_way += blocks;
    }

    /// They are not any more.
    pub(super) fn arrived(&mut self, blocks: u64) {
        self.on_way -= blocks;
    }

    /// So many blocks took the device so long.
    pub(super) fn took(&mut self, blocks: u64, service_ns: u64) {
        let block_ps = service_ns.saturating_mul(1000) / (blocks + BASE_BLOCKS);
        let block_ps = block_ps.min(FAILED_PS);
        self.block_ps = match self.block_ps {
            0 => block_ps.max(1),
            // It has become fast again: it is given too little to find that out slowly.
            before if block_ps < before / ALIKE => before / 2,
            before => (before - before / SMOOTHED + block_ps / SMOOTHED).max(1),
        };
    }

    /// A write failed there: however soon that was said, it is not fast.
    pub(super) fn failed(&mut self) {
        self.block_ps = match self.block_ps {
            0 => FAILED_PS,
            before => before.saturating_mul(FAILED).min(FAILED_PS),
        };
    }

    /// [`WHOLE`] when it is as fast as others, down to 1.
    fn speed(self, measure: Measure) -> u64 {
        let alike = measure.fastest_ps.saturating_mul(ALIKE);
        if self.block_ps <= alike {
            return WHOLE;
        }
        // A commit waits for the slowest disk that it wrote to, so that what is given to a slow one
        // costs the others too.
        let (alike, own) = (u128::from(alike), u128::from(self.block_ps));
        // In 1024ths, so that no power of it is too large.
        let part = (alike << 10) / own;
        (((u128::from(WHOLE) * part * part * part) >> 30) as u64).max(LEAST)
    }

    /// Its share beside the others; 0 while too much is on its way there.
    pub(super) fn share(self, measure: Measure) -> u64 {
        match self.on_way > measure.least_on_way.saturating_add(AHEAD_BLOCKS) {
            true => 0,
            false => self.speed(measure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(writes: &[(u64, u64)]) -> Pace {
        let mut pace = Pace::default();
        writes.iter().for_each(|(blocks, service_ns)| pace.took(*blocks, *service_ns));
        pace
    }

    fn measure(paces: &[Pace]) -> Measure {
        Measure::of(paces.iter().copied())
    }

    #[test]
    fn a_slot_gets_the_less_the_slower_it_is() {
        let fast = after(&[(16, 100_000); 40]);
        let measure = measure(&[fast, Pace::default()]);
        for (times, share) in
            [(1, WHOLE), (3, WHOLE), (8, WHOLE / 8), (16, WHOLE / 64), (5_000, LEAST)]
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
        let measure = measure(&[fast]);
        let mut slow = after(&[(16, 5_000_000); 40]);
        assert!(slow.share(measure) < WHOLE / 8);
        let mut writes = 0;
        while slow.share(measure) < WHOLE {
            slow.took(16, 100_000);
            writes += 1;
        }
        assert!((2..40).contains(&writes), "{writes}");
    }

    #[test]
    fn one_that_does_not_answer_gets_no_more() {
        let mut silent = Pace::default();
        let before = measure(&[silent, Pace::default()]);
        silent.sent(AHEAD_BLOCKS);
        assert_eq!(silent.share(before), WHOLE);
        silent.sent(1);
        assert_eq!(silent.share(before), 0);
        assert_eq!(silent.share(measure(&[silent])), WHOLE, "all are as far");
    }

    /// Cause: what a slow slot had on its way was the least, because it was given little. Harm: the
    /// fast ones had too much beside that, and everything went to the slow one. Fix: it is no
    /// measure of that.
    #[test]
    fn an_idle_slow_slot_does_not_stop_the_fast_ones() {
        let (mut fast, slow) = (after(&[(16, 100_000); 40]), after(&[(16, 5_000_000); 40]));
        fast.sent(100 * AHEAD_BLOCKS);
        let measure = measure(&[fast, slow]);
        assert_eq!((fast.share(measure), slow.share(measure)), (WHOLE, LEAST));
    }

    /// Cause: a write that failed at once counted as a fast one. Harm: all others were slow beside
    /// it, and everything went where it fails. Fix: a failure makes slower.
    #[test]
    fn a_slot_where_writes_fail_is_not_the_fastest() {
        let (fast, mut failing) = (after(&[(16, 100_000); 40]), after(&[(16, 100_000); 40]));
        (0..3).for_each(|_| failing.failed());
        let mut new = Pace::default();
        (0..100).for_each(|_| new.failed());
        let measure = measure(&[fast, failing, new]);
        let shares = [fast, failing, new].map(|pace| pace.share(measure));
        assert!(shares[0] == WHOLE && shares[1] < WHOLE / 8 && shares[2] == LEAST, "{shares:?}");
        new.took(16, 100_000);
        assert!(new.block_ps < FAILED_PS, "one that works makes faster");
    }
}
