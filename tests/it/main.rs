//! The engine from outside, on the real kernel: its public API, real files, real loop devices.
//!
//! A test that needs what this machine or user lacks says `SKIPPED: <why>` on stderr. Tests run
//! side by side, but those that look at the whole process (descriptors, threads, CPU time) take
//! [`rig::alone`], and all others [`rig::alongside`].

// Only the test functions themselves are exempt by clippy.toml, not what they call.
#![allow(clippy::unwrap_used)]

mod back_pressure;
mod bells;
mod closing;
mod data;
mod durable;
mod faults;
mod footprint;
mod mounted;
mod poison;
mod pool;
mod rig;
mod store_api;
mod store_batches;
mod store_control;
mod store_disks;
mod store_hangs;
mod store_kills;
mod store_mirrors;
mod store_pulled;
mod store_removal;
mod stress;
mod tickets;
