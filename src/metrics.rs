//! Counters and histograms: one writer each, any reader, no lock.
//!
//! A reactor writes its own lanes' metrics with plain loads and stores (no read-modify-write);
//! readers copy them with Relaxed loads and may be one event behind.

pub mod counter;
pub mod histogram;
pub mod lane;

pub use counter::Counter;
pub use histogram::{Histogram, HistogramSnapshot};
pub use lane::{
    ClassMetrics, ClassSnapshot, DiskMetrics, LaneMetrics, Metrics, ReactorMetrics, ReactorSnapshot,
};
