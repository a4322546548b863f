//! The machine layer: system calls, rings, huge-page mappings, affinity, topology, devices.

pub mod device;
pub mod topology;
pub mod write_gate;
