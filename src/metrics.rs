//! Counters and histograms: one writer each, any reader, no lock.
//!
//! The writer uses plain loads and stores (no read-modify-write); readers copy with Relaxed loads
//! and may be one event behind. What is counted where is said by the modules that count.

pub mod counter;
pub mod histogram;
pub mod per_thread;

pub use counter::Counter;
pub use histogram::{Histogram, HistogramSnapshot};
pub use per_thread::PerThread;
