//! A log-linear histogram of nanoseconds: 64 buckets for each power of two, error at most 1.6 %.
//!
//! Our own, since it is on the hot path (about 12 instructions to record, one cache line
//! touched) and must be readable while it is written, which the well-kept crates are not.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

const SUB_BITS: u32 = 6;
const SUB_BUCKETS: u64 = 1 << SUB_BITS;
/// A power of two, so that an index is cut to size without a branch. Enough for 2^36 ns (about
/// 69 s); larger values share the last bucket.
const BUCKETS: usize = 2048;

/// One writer, any reader.
pub struct Histogram {
    buckets: Box<[AtomicU64; BUCKETS]>,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets: Box<[AtomicU64]> = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        let Ok(buckets) = buckets.try_into() else {
            unreachable!("the iterator has BUCKETS items")
        };
        Histogram { buckets, max: AtomicU64::new(0) }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Histogram({} values)", self.snapshot().count())
    }
}

/// Values below 128 have a bucket each; from there on a power of two has 64.
#[inline(always)]
fn bucket_of(ns: u64) -> usize {
    let shift = (ns | (2 * SUB_BUCKETS - 1)).ilog2() - SUB_BITS;
    let index = u64::from(shift) * SUB_BUCKETS + (ns >> shift);
    (index as usize).min(BUCKETS - 1)
}

/// Largest value that falls into a bucket.
fn bucket_high(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * SUB_BUCKETS {
        return index;
    }
    let shift = index / SUB_BUCKETS - 1;
    let low = (index % SUB_BUCKETS + SUB_BUCKETS) << shift;
    low + (1 << shift) - 1
}

impl Histogram {
    /// Records one value. Only the histogram's one writer may call this.
    #[inline(always)]
    pub fn record(&self, ns: u64) {
        let bucket = &self.buckets[bucket_of(ns)];
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        if ns > self.max.load(Ordering::Relaxed) {
            self.max.store(ns, Ordering::Relaxed);
        }
    }

    /// Records one value, from any thread.
    pub fn record_shared(&self, ns: u64) {
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.max.fetch_max(ns, Ordering::Relaxed);
    }

    /// Records a zero, in fewer steps. Only the histogram's one writer may call this.
    #[inline(always)]
    pub fn record_zero(&self) {
        let bucket = &self.buckets[0];
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// A copy to compute with.
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            counts: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            max: self.max.load(Ordering::Relaxed),
        }
    }
}

/// What a histogram held at one moment. It is written with its count and quantiles, for people and
/// scripts, and with its buckets, from which it is read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct HistogramSnapshot {
    counts: Vec<u64>,
    max: u64,
}

impl Default for HistogramSnapshot {
    fn default() -> Self {
        HistogramSnapshot { counts: vec![0; BUCKETS], max: 0 }
    }
}

/// A histogram as it is written.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default)]
    count: u64,
    #[serde(default)]
    mean_ns: u64,
    #[serde(default)]
    p50_ns: u64,
    #[serde(default)]
    p99_ns: u64,
    #[serde(default)]
    p999_ns: u64,
    max_ns: u64,
    /// Index and count of those that are not empty.
    buckets: Vec<(usize, u64)>,
}

impl From<HistogramSnapshot> for Written {
    fn from(of: HistogramSnapshot) -> Written {
        let filled = of.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0);
        Written {
            count: of.count(),
            mean_ns: of.mean_ns() as u64,
            p50_ns: of.quantile_ns(0.5),
            p99_ns: of.quantile_ns(0.99),
            p999_ns: of.quantile_ns(0.999),
            max_ns: of.max,
            buckets: filled.collect(),
        }
    }
}

impl TryFrom<Written> for HistogramSnapshot {
    type Error = String;

    fn try_from(written: Written) -> Result<HistogramSnapshot, String> {
        let mut of = HistogramSnapshot { max: written.max_ns, ..HistogramSnapshot::default() };
        let mut sum = 0_u64;
        for (index, count) in written.buckets {
            let bucket = of.counts.get_mut(index).ok_or("a histogram has no such bucket")?;
            *bucket = count;
            sum = sum.checked_add(count).ok_or("a histogram with more values than can be")?;
        }
        Ok(of)
    }
}

impl HistogramSnapshot {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Largest value, exact, nanoseconds. After [`HistogramSnapshot::since`] it is the largest of
    /// all time when that fell into the window, else the upper end of the window's last bucket.
    pub fn max_ns(&self) -> u64 {
        self.max
    }

    /// Mean in nanoseconds, from the middles of the buckets: within 0.8 %. 0 when empty.
    pub fn mean_ns(&self) -> f64 {
        let middle = |index: usize| {
            let low = if index == 0 { 0 } else { bucket_high(index - 1) + 1 };
            f64::midpoint(low as f64, bucket_high(index) as f64)
        };
        let filled = self.counts.iter().enumerate().filter(|(_, n)| **n > 0);
        let sum: f64 = filled.map(|(index, n)| middle(index) * *n as f64).sum();
        match self.count() {
            0 => 0.0,
            count => sum / count as f64,
        }
    }

    /// The value that a share `quantile` (0 to 1) of all values does not exceed, nanoseconds: the
    /// upper end of its bucket, at most 1.6 % too high. 0 when empty.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        let count = self.count();
        let wanted = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                return bucket_high(index).min(self.max);
            }
        }
        0
    }

    /// Non-empty buckets: upper end in nanoseconds and count, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let filled = self.counts.iter().enumerate().filter(|(_, n)| **n > 0);
        filled.map(|(index, n)| (bucket_high(index).min(self.max), *n))
    }

    /// Adds another histogram's values.
    pub fn merge(&mut self, other: &HistogramSnapshot) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.max = self.max.max(other.max);
    }

    /// What was recorded after `earlier`, a snapshot of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &HistogramSnapshot) -> HistogramSnapshot {
        let counts: Vec<u64> =
            self.counts.iter().zip(&earlier.counts).map(|(now, then)| now - then).collect();
        let last = counts.iter().rposition(|n| *n > 0);
        let max = last.map_or(0, |index| bucket_high(index).min(self.max));
        HistogramSnapshot { counts, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_is_at_most_two_percent_wide(ns in 0u64..(1 << 36)) {
            let high = bucket_high(bucket_of(ns));
            prop_assert!(high >= ns);
            prop_assert!(high - ns <= ns / 64, "{ns} fell into the bucket up to {high}");
        }

        #[test]
        fn quantiles_agree_with_a_sorted_list(
            values in proptest::collection::vec(0u64..1_000_000_000, 1..400),
            q in 0.0f64..1.0,
        ) {
            let histogram = Histogram::default();
            values.iter().for_each(|v| histogram.record(*v));
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let rank = ((q * sorted.len() as f64).ceil() as usize).max(1) - 1;
            let (exact, got) = (sorted[rank], histogram.snapshot().quantile_ns(q));
            prop_assert!(got >= exact && got - exact <= exact / 64 + 1, "{got} for {exact}");
        }
    }

    #[test]
    fn a_value_beyond_the_range_is_kept_in_the_last_bucket() {
        let histogram = Histogram::default();
        histogram.record(u64::MAX);
        assert_eq!(histogram.snapshot().count(), 1);
        assert_eq!(histogram.snapshot().max_ns(), u64::MAX);
    }
}
