//! Bandwidth and rate per interval: what a mean over the whole run hides.
//!
//! Fed with running totals; a sample is closed by the first feed at or after its end, over the time
//! that really passed. A last piece shorter than half an interval is left out, because its rate
//! would be noise.

use std::time::Duration;

use serde::Serialize;

/// Samples in order of time, one per interval.
///
/// ```
/// use dynamicfs_bench::report::interval::IntervalSeries;
/// let mut series = IntervalSeries::per_second();
/// series.feed(1_000_000_000, 100, 409_600);
/// series.feed(2_000_000_000, 300, 1_228_800);
/// let iops = series.iops();
/// assert_eq!((iops.min, iops.max, iops.mean, iops.samples), (100.0, 200.0, 150.0, 2));
/// ```
#[derive(Debug, Clone)]
pub struct IntervalSeries {
    interval_ns: u64,
    /// Totals at the end of the last sample.
    last: Totals,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    at_ns: u64,
    ios: u64,
    bytes: u64,
}

/// One interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// Its end, since the start of measuring.
    pub at_ns: u64,
    /// Requests per second in it.
    pub iops: f64,
    /// Bytes per second in it.
    pub bytes_per_second: f64,
}

/// Statistics of a series; all zero without samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Least sample.
    pub min: f64,
    /// Greatest sample.
    pub max: f64,
    /// Mean of the samples.
    pub mean: f64,
    /// Standard deviation of the samples (n - 1; 0 for one sample), as fio's.
    pub stddev: f64,
    /// Number of samples.
    pub samples: u64,
}

impl IntervalSeries {
    /// A series of one sample per second.
    #[must_use]
    pub fn per_second() -> Self {
        Self::every(Duration::from_secs(1))
    }

    /// A series of one sample per `interval`, at least a millisecond.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        // Room for an hour, so that no sample of a usual run allocates.
        let samples = Vec::with_capacity(3600);
        Self { interval_ns: nanos.max(1_000_000), last: Totals::default(), samples }
    }

    /// Takes the totals at `elapsed_ns` since the start of measuring.
    pub fn feed(&mut self, elapsed_ns: u64, done_ios: u64, done_bytes: u64) {
        if elapsed_ns.saturating_sub(self.last.at_ns) >= self.interval_ns {
            self.close(Totals { at_ns: elapsed_ns, ios: done_ios, bytes: done_bytes });
        }
    }

    /// Takes the totals at the end of the run; a piece of at least half an interval counts.
    pub fn finish(&mut self, elapsed_ns: u64, done_ios: u64, done_bytes: u64) {
        if elapsed_ns.saturating_sub(self.last.at_ns) >= self.interval_ns / 2 {
            self.close(Totals { at_ns: elapsed_ns, ios: done_ios, bytes: done_bytes });
        }
    }

    /// Adds a series that ran at the same time, sample by sample; what only one has stays as it is.
    pub fn absorb(&mut self, other: &Self) {
        for (mine, theirs) in self.samples.iter_mut().zip(&other.samples) {
            mine.iops += theirs.iops;
            mine.bytes_per_second += theirs.bytes_per_second;
        }
        let more = other.samples.iter().skip(self.samples.len());
        self.samples.extend(more);
    }

    /// The samples, in order of time.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Requests per second over the samples.
    #[must_use]
    pub fn iops(&self) -> Spread {
        self.spread(|sample| sample.iops)
    }

    /// Bytes per second over the samples.
    #[must_use]
    pub fn bytes_per_second(&self) -> Spread {
        self.spread(|sample| sample.bytes_per_second)
    }

    fn close(&mut self, now: Totals) {
        let time_ns = now.at_ns - self.last.at_ns;
        let rate = |now: u64, last: u64| super::per_second(now.saturating_sub(last), time_ns);
        self.samples.push(Sample {
            at_ns: now.at_ns,
            iops: rate(now.ios, self.last.ios),
            bytes_per_second: rate(now.bytes, self.last.bytes),
        });
        self.last = now;
    }

    fn spread(&self, of: fn(&Sample) -> f64) -> Spread {
        let Some(first) = self.samples.first().map(of) else {
            return Spread::default();
        };
        let count = self.samples.len() as f64;
        let values = || self.samples.iter().map(of);
        let mean = values().sum::<f64>() / count;
        let squares = values().map(|value| (value - mean).powi(2)).sum::<f64>();
        Spread {
            min: values().fold(first, f64::min),
            max: values().fold(first, f64::max),
            mean,
            stddev: (squares / (count - 1.0).max(1.0)).sqrt(),
            samples: self.samples.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn samples_cover_the_time_that_passed() {
        let mut series = IntervalSeries::per_second();
        series.feed(SECOND / 2, 50, 50);
        assert!(series.samples().is_empty(), "half a second is no sample");
        series.feed(SECOND * 5 / 4, 250, 500);
        series.feed(SECOND * 9 / 4, 350, 600);
        series.finish(SECOND * 10 / 4, 9000, 9000);
        let rates: Vec<_> = series.samples().iter().map(|s| (s.iops, s.bytes_per_second)).collect();
        assert_eq!(rates, [(200.0, 400.0), (100.0, 100.0)], "the last quarter is left out");
        let spread = series.iops();
        assert_eq!((spread.min, spread.max, spread.mean, spread.samples), (100.0, 200.0, 150.0, 2));
        assert!((spread.stddev - 5000.0_f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn no_samples_and_one_sample_have_no_nan() {
        let mut series = IntervalSeries::per_second();
        assert_eq!(series.iops(), Spread::default());
        series.finish(SECOND * 3 / 4, 75, 750);
        assert_eq!((series.iops().mean, series.iops().stddev), (100.0, 0.0));
    }

    #[test]
    fn series_side_by_side_add_up() {
        let (mut one, mut two) = (IntervalSeries::per_second(), IntervalSeries::per_second());
        one.feed(SECOND, 10, 10);
        two.feed(SECOND, 5, 5);
        two.feed(2 * SECOND, 12, 12);
        one.absorb(&two);
        let rates: Vec<_> = one.samples().iter().map(|sample| sample.iops).collect();
        assert_eq!(rates, [15.0, 7.0]);
    }
}
