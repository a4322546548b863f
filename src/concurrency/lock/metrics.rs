//! What a family of locks counts.

use serde::{Deserialize, Serialize};

use crate::metrics::histogram::{Histogram, HistogramSnapshot};
use crate::metrics::per_thread::PerThread;

const ACQUISITIONS: usize = 0;
const CONTENTIONS: usize = 1;
const CREATIONS: usize = 2;

/// Counters of one family of locks.
#[derive(Debug, Default)]
pub(crate) struct LockCounters {
    counts: PerThread<3>,
    waits: Histogram,
}

impl LockCounters {
    #[inline(always)]
    pub(crate) fn acquired(&self) {
        self.counts.raise(ACQUISITIONS);
    }

    pub(crate) fn contended(&self) {
        self.counts.raise(CONTENTIONS);
    }

    pub(crate) fn created(&self) {
        self.counts.raise(CREATIONS);
    }

    pub(crate) fn waited(&self, ns: u64) {
        self.waits.record_shared(ns);
    }

    pub(crate) fn snapshot(&self) -> LockMetrics {
        LockMetrics {
            lock_acquisitions: self.counts.sum(ACQUISITIONS),
            lock_contentions: self.counts.sum(CONTENTIONS),
            lock_creations: self.counts.sum(CREATIONS),
            wait: self.waits.snapshot(),
        }
    }
}

/// What a family of locks has counted up to one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockMetrics {
    /// Locks taken.
    pub lock_acquisitions: u64,
    /// Of these and of those given up, how many found the lock held and had to wait.
    pub lock_contentions: u64,
    /// How often an idle place of the table was given to an extent that had none.
    pub lock_creations: u64,
    /// Time from finding the lock held to having it, nanoseconds.
    pub wait: HistogramSnapshot,
}

impl LockMetrics {
    /// Contentions for each acquisition, 0 when there were none.
    pub fn lock_contention_ratio(&self) -> f64 {
        match self.lock_acquisitions {
            0 => 0.0,
            acquisitions => self.lock_contentions as f64 / acquisitions as f64,
        }
    }

    /// What was counted after `earlier`, a snapshot of the same locks.
    #[must_use]
    pub fn since(&self, earlier: &LockMetrics) -> LockMetrics {
        LockMetrics {
            lock_acquisitions: self.lock_acquisitions - earlier.lock_acquisitions,
            lock_contentions: self.lock_contentions - earlier.lock_contentions,
            lock_creations: self.lock_creations - earlier.lock_creations,
            wait: self.wait.since(&earlier.wait),
        }
    }
}
