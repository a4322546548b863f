//! The machine layer: system calls, rings, huge-page mappings, affinity, topology, devices.

pub mod affinity;
pub mod mapping;
pub mod uring;
pub mod wake;
