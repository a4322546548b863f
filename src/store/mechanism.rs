//! How a commit becomes durable, and which way is faster here.
//!
//! Both ways are as safe, so which one is faster can be found out while they are used: of the
//! records that may go either way, the first few go both ways in turn, then the faster one is
//! taken, and once in a while the other one is tried again. A disk that changes its ways, as they
//! do with fill and temperature, is followed.

use std::cell::Cell;

/// How a commit became durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// By one flush of the device's cache, linked to the record's write.
    Flush,
    /// By a write that bypasses the device's cache (RWF_DSYNC, FUA).
    Dsync,
}

/// What decides for a record that may go either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MechanismChoice {
    /// The configuration.
    Fixed(Mechanism),
    /// What was measured of either.
    Measured,
}

/// Samples of each before one is preferred.
const TRIALS: u32 = 8;
/// After so many the slower one is tried again.
const TRY_AGAIN_AFTER: u32 = 128;
/// A sample moves the mean by this part of their difference.
const WEIGHT: u64 = 8;

#[derive(Debug, Default)]
struct Mean {
    samples: Cell<u32>,
    ns: Cell<u64>,
}

impl Mean {
    fn add(&self, ns: u64) {
        let (samples, mean) = (self.samples.get(), self.ns.get());
        self.samples.set(samples.saturating_add(1));
        // One stall says little of the mechanism that met it.
        let ns = if samples == 0 { ns } else { ns.min(4 * mean.max(1)) };
        let mean = if samples == 0 { ns } else { mean - mean / WEIGHT + ns / WEIGHT };
        self.ns.set(mean);
    }
}

/// Chooses for one domain: see the module.
#[derive(Debug)]
pub(crate) struct MechanismChooser {
    choice: MechanismChoice,
    flush: Mean,
    dsync: Mean,
    since_trial: Cell<u32>,
}

impl MechanismChooser {
    /// Nothing is known yet.
    pub(crate) fn new(choice: MechanismChoice) -> MechanismChooser {
        let (flush, dsync) = (Mean::default(), Mean::default());
        MechanismChooser { choice, flush, dsync, since_trial: Cell::new(0) }
    }

    /// For the next record that may go either way.
    pub(crate) fn choose(&self) -> Mechanism {
        if let MechanismChoice::Fixed(mechanism) = self.choice {
            return mechanism;
        }
        let (flush, dsync) = (&self.flush, &self.dsync);
        if flush.samples.get().min(dsync.samples.get()) < TRIALS {
            let fewer = flush.samples.get() <= dsync.samples.get();
            return if fewer { Mechanism::Flush } else { Mechanism::Dsync };
        }
        let (best, other) = match flush.ns.get() <= dsync.ns.get() {
            true => (Mechanism::Flush, Mechanism::Dsync),
            false => (Mechanism::Dsync, Mechanism::Flush),
        };
        self.since_trial.set(self.since_trial.get() + 1);
        if self.since_trial.get() < TRY_AGAIN_AFTER {
            return best;
        }
        self.since_trial.set(0);
        other
    }

    /// A record that could have gone either way took so long.
    pub(crate) fn note(&self, mechanism: Mechanism, ns: u64) {
        match mechanism {
            Mechanism::Flush => self.flush.add(ns),
            Mechanism::Dsync => self.dsync.add(ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chooses `count` times on a disk with these times; how often DSYNC was chosen.
    fn run(chooser: &MechanismChooser, count: u32, flush_ns: u64, dsync_ns: u64) -> u32 {
        let mut dsyncs = 0;
        for _ in 0..count {
            let mechanism = chooser.choose();
            let ns = if mechanism == Mechanism::Flush { flush_ns } else { dsync_ns };
            dsyncs += u32::from(mechanism == Mechanism::Dsync);
            chooser.note(mechanism, ns);
        }
        dsyncs
    }

    #[test]
    fn the_faster_one_is_found_and_a_change_is_noticed() {
        let chooser = MechanismChooser::new(MechanismChoice::Measured);
        assert_eq!(run(&chooser, 16, 200, 100), 8, "both are tried");
        assert_eq!(run(&chooser, 1280, 200, 100), 1270, "one in 128 is not the best");
        // The disk changes: within some trials of the other one it is followed.
        run(&chooser, 1280, 50, 100);
        assert_eq!(run(&chooser, 1280, 50, 100), 10);
    }

    #[test]
    fn a_stall_does_not_decide() {
        let chooser = MechanismChooser::new(MechanismChoice::Measured);
        run(&chooser, 16, 300, 200);
        chooser.note(Mechanism::Dsync, 1_000_000_000);
        chooser.note(Mechanism::Dsync, 200);
        assert_eq!(run(&chooser, 100, 300, 200), 100);
    }

    #[test]
    fn the_configuration_decides_where_it_says_so() {
        for mechanism in [Mechanism::Flush, Mechanism::Dsync] {
            let chooser = MechanismChooser::new(MechanismChoice::Fixed(mechanism));
            let dsyncs = if mechanism == Mechanism::Dsync { 500 } else { 0 };
            assert_eq!(run(&chooser, 500, 1, 1), dsyncs);
        }
    }
}
