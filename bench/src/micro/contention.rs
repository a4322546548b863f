//! How often a lock was not free.

/// How many acquisitions there were, and how many of them had to wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contention {
    /// All acquisitions.
    pub acquired: u64,
    /// Those that did not get the lock at once.
    pub waited: u64,
}

impl Contention {
    /// Percent that waited, between two readings of running counts; NaN when nothing was counted.
    #[must_use]
    pub fn percent_between(before: Option<Contention>, after: Option<Contention>) -> f64 {
        let (Some(before), Some(after)) = (before, after) else { return f64::NAN };
        let acquired = after.acquired.saturating_sub(before.acquired);
        if acquired == 0 {
            return f64::NAN;
        }
        after.waited.saturating_sub(before.waited) as f64 / acquired as f64 * 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_between_the_readings_counts() {
        let before = Some(Contention { acquired: 100, waited: 90 });
        let after = Some(Contention { acquired: 300, waited: 100 });
        assert!((Contention::percent_between(before, after) - 5.0).abs() < 1e-9);
        assert!(Contention::percent_between(before, before).is_nan());
        assert!(Contention::percent_between(None, after).is_nan());
    }
}
