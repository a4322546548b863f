//! Extent and metadata locks from outside, under real threads and real tasks.
//!
//! `DYNAMICFS_STRESS_SECONDS` (2) lengthens each stress test, `DYNAMICFS_STRESS_SEED` repeats the
//! choices of one that failed; a failure and a hang name their seed.

// Only the test functions themselves are exempt by clippy.toml, not what they call.
#![allow(clippy::unwrap_used)]
// Foreign wakers and plain memory under a lock cannot be had without it.
#![allow(unsafe_code)]

mod cancel;
mod edges;
mod executors;
mod fairness;
mod foreign;
mod metadata;
mod order;
mod plain;
mod rig;
mod stress;
