//! Looking at clones while they run: rates per second, and the progress line.

use std::sync::Arc;
use std::time::Duration;

use crate::eta::Eta;
use crate::load::CloneResult;
use crate::report::interval::IntervalSeries;

/// Feeds the series of clones from what they have done so far.
#[derive(Debug)]
pub struct Watcher {
    results: Vec<Arc<CloneResult>>,
    /// Reads and writes of each.
    series: Vec<[IntervalSeries; 2]>,
    eta: Eta,
}

impl Watcher {
    /// Of clones that have just begun.
    #[must_use]
    pub fn new(results: Vec<Arc<CloneResult>>, eta: Eta) -> Self {
        let pair = || [IntervalSeries::per_second(), IntervalSeries::per_second()];
        Self { series: results.iter().map(|_| pair()).collect(), results, eta }
    }

    /// Looks, so long after the window has opened.
    pub fn tick(&mut self, elapsed_ns: u64) {
        let (mut ios, mut bytes) = (0, 0);
        for (result, pair) in self.results.iter().zip(&mut self.series) {
            for (tally, series) in result.tallies.iter().zip(pair.iter_mut()) {
                let done = tally.ios.get();
                series.feed(elapsed_ns, done, done * result.block_bytes);
                ios += done;
                bytes += done * result.block_bytes;
            }
        }
        self.eta.tick(ios, bytes, Duration::from_nanos(elapsed_ns));
    }

    /// The window is over: the series of each clone.
    #[must_use]
    pub fn finish(mut self, end_ns: u64) -> Vec<[IntervalSeries; 2]> {
        self.eta.finish();
        for (result, pair) in self.results.iter().zip(&mut self.series) {
            for (tally, series) in result.tallies.iter().zip(pair.iter_mut()) {
                let done = tally.ios.get();
                series.finish(end_ns, done, done * result.block_bytes);
            }
        }
        self.series
    }
}
