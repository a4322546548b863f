//! A histogram of latencies: exact count, sum, least and greatest; percentiles to under 1 %.
//!
//! Two significant digits give buckets of at most 1/128 of their value, the error of fio's own
//! histogram, in 31 KiB that are allocated once. Recording allocates nothing. Values above 64 s
//! are counted in the last bucket; the greatest stays exact.

use hdrhistogram::Histogram;

/// Greatest value with a bucket of its own, ns.
const BUCKETED_NS_MAX: u64 = 64_000_000_000;

/// Latencies in nanoseconds.
///
/// ```
/// let mut latency = dynamicfs_bench::report::latency::Latency::new();
/// latency.record(1_000);
/// latency.record(3_000);
/// assert_eq!((latency.min_ns(), latency.max_ns(), latency.mean_ns()), (1_000, 3_000, 2_000.0));
/// ```
#[derive(Debug, Clone)]
pub struct Latency {
    buckets: Histogram<u64>,
    sum_ns: u128,
    /// `u64::MAX` while nothing was recorded.
    min_ns: u64,
    max_ns: u64,
}

impl Latency {
    /// An empty histogram.
    #[must_use]
    pub fn new() -> Self {
        let buckets = match Histogram::new_with_bounds(1, BUCKETED_NS_MAX, 2) {
            Ok(buckets) => buckets,
            Err(error) => unreachable!("constant bounds: {error}"),
        };
        Self { buckets, sum_ns: 0, min_ns: u64::MAX, max_ns: 0 }
    }

    /// Counts one latency.
    #[inline]
    pub fn record(&mut self, latency_ns: u64) {
        self.buckets.saturating_record(latency_ns);
        self.sum_ns += u128::from(latency_ns);
        self.min_ns = self.min_ns.min(latency_ns);
        self.max_ns = self.max_ns.max(latency_ns);
    }

    /// Counts `count` equal latencies, as of a batch that was reaped together.
    pub fn record_many(&mut self, latency_ns: u64, count: u64) {
        if count == 0 {
            return;
        }
        self.buckets.saturating_record_n(latency_ns, count);
        self.sum_ns += u128::from(latency_ns) * u128::from(count);
        self.min_ns = self.min_ns.min(latency_ns);
        self.max_ns = self.max_ns.max(latency_ns);
    }

    /// Adds all that `other` counted.
    pub fn absorb(&mut self, other: &Self) {
        if let Err(error) = self.buckets.add(&other.buckets) {
            unreachable!("equal bounds: {error}");
        }
        self.sum_ns += other.sum_ns;
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// Forgets everything, for the end of the ramp.
    pub fn reset(&mut self) {
        self.buckets.reset();
        (self.sum_ns, self.min_ns, self.max_ns) = (0, u64::MAX, 0);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.len()
    }

    /// The least, exact; 0 when empty.
    #[must_use]
    pub fn min_ns(&self) -> u64 {
        if self.count() == 0 { 0 } else { self.min_ns }
    }

    /// The greatest, exact; 0 when empty.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The mean, exact; 0 when empty.
    #[must_use]
    pub fn mean_ns(&self) -> f64 {
        if self.count() == 0 { 0.0 } else { self.sum_ns as f64 / self.count() as f64 }
    }

    /// The standard deviation, as exact as the buckets; 0 when empty.
    #[must_use]
    pub fn stddev_ns(&self) -> f64 {
        if self.count() == 0 { 0.0 } else { self.buckets.stdev() }
    }

    /// The value that `percentile` percent do not exceed, as exact as the buckets; 0 when empty.
    #[must_use]
    pub fn percentile_ns(&self, percentile: f64) -> u64 {
        if self.count() == 0 {
            return 0;
        }
        self.buckets.value_at_percentile(percentile).clamp(self.min_ns, self.max_ns)
    }

    /// Percentage of values in each span between one bound and the next, the first from 0 and the
    /// last without end: one entry more than there are bounds.
    #[must_use]
    pub fn shares(&self, bounds_ns: &[u64]) -> Vec<f64> {
        let mut counts = vec![0_u64; bounds_ns.len() + 1];
        for step in self.buckets.iter_recorded() {
            let value = step.value_iterated_to();
            counts[bounds_ns.partition_point(|bound| *bound < value)] += step.count_at_value();
        }
        counts.iter().map(|count| 100.0 * super::ratio(*count, self.count())).collect()
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_histogram_is_all_zeroes() {
        let latency = Latency::new();
        assert_eq!((latency.count(), latency.min_ns(), latency.max_ns()), (0, 0, 0));
        assert_eq!(
            (latency.mean_ns(), latency.stddev_ns(), latency.percentile_ns(99.0)),
            (0.0, 0.0, 0)
        );
        assert_eq!(latency.shares(&[10]), [0.0, 0.0]);
    }

    #[test]
    fn percentiles_are_within_one_percent_and_ends_are_exact() {
        let mut latency = Latency::new();
        for value in 1..=1_000_000 {
            latency.record(value);
        }
        assert_eq!(
            (latency.min_ns(), latency.max_ns(), latency.count()),
            (1, 1_000_000, 1_000_000)
        );
        assert_eq!(latency.mean_ns(), 500_000.5);
        for percentile in [1.0, 50.0, 99.0, 99.9, 99.99] {
            let exact = percentile * 10_000.0;
            let error = (latency.percentile_ns(percentile) as f64 - exact).abs() / exact;
            assert!(error < 0.01, "{percentile}: {error}");
        }
        let deviation = 1_000_000.0 / 12.0_f64.sqrt();
        assert!((latency.stddev_ns() - deviation).abs() / deviation < 0.01);
    }

    #[test]
    fn values_beyond_the_buckets_keep_the_maximum() {
        let mut latency = Latency::new();
        latency.record(0);
        latency.record(u64::MAX);
        assert_eq!((latency.count(), latency.min_ns(), latency.max_ns()), (2, 0, u64::MAX));
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let (mut whole, mut one, mut two) = (Latency::new(), Latency::new(), Latency::new());
        for value in 1..1000_u64 {
            whole.record(value * 7);
            if value % 3 == 0 { &mut one } else { &mut two }.record(value * 7);
        }
        one.absorb(&two);
        assert_eq!(one.count(), whole.count());
        assert_eq!(one.mean_ns(), whole.mean_ns());
        assert_eq!(one.percentile_ns(99.0), whole.percentile_ns(99.0));
        one.record_many(50, 3);
        one.record_many(50, 0);
        assert_eq!(one.count(), whole.count() + 3);
        one.reset();
        assert_eq!((one.count(), one.min_ns(), one.max_ns()), (0, 0, 0));
    }

    #[test]
    fn shares_split_at_the_bounds() {
        let mut latency = Latency::new();
        for value in [1, 2, 3, 10, 11, 500] {
            latency.record(value);
        }
        let shares = latency.shares(&[2, 10, 100]);
        let sixth = 100.0 / 6.0;
        for (share, count) in shares.iter().zip([2.0, 2.0, 1.0, 1.0]) {
            assert!((share - sixth * count).abs() < 1e-9, "{shares:?}");
        }
    }
}
