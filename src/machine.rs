//! The machine layer: system calls, rings, huge-page mappings, affinity, topology, devices.

pub mod affinity;
pub mod device;
pub mod mapping;
pub(crate) mod memory_disk;
pub mod owner_socket;
pub mod random;
pub mod thread;
pub mod topology;
pub mod uring;
pub mod wake;
pub mod write_gate;
