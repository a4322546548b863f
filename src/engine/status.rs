//! What the engine is made of, for people and for programs.

use serde::Serialize;

use crate::io::backend::DiskFacts;
use crate::machine::device::DeviceInfo;
use crate::machine::uring::RingCapabilities;
use crate::memory::ArenaStatus;
use crate::placement::LaneSlot;
use crate::scheduler::limits::Limits;

/// One reactor as it started.
#[derive(Clone, Debug, Serialize)]
pub struct ReactorStatus {
    /// CPU that the plan gave it.
    pub cpu_wanted: u32,
    /// CPU that it ran on after pinning.
    pub cpu_found: Option<u32>,
    /// Whether the system accepted the pinning.
    pub pinned: bool,
    /// NUMA node of that CPU.
    pub node: Option<u32>,
    /// The interrupt ring.
    pub ring: RingCapabilities,
    /// The polled ring, if there is one.
    pub polled_ring: Option<RingCapabilities>,
    /// What could not be had and what that costs, in words.
    pub notes: Vec<String>,
}

/// One disk.
#[derive(Clone, Debug, Serialize)]
pub struct DiskStatus {
    /// What the engine knows of it.
    pub facts: DiskFacts,
    /// What the system says about the device; none for a NOP disk.
    pub device: Option<DeviceInfo>,
    /// Limits of each of its lanes.
    pub limits: Limits,
}

/// The whole engine.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Disks, in the order of the configuration.
    pub disks: Vec<DiskStatus>,
    /// Reactors, in the order of the plan.
    pub reactors: Vec<ReactorStatus>,
    /// Which lane is on which reactor.
    pub lanes: Vec<LaneSlot>,
    /// Buffer memory.
    pub arenas: Vec<ArenaStatus>,
    /// Remarks on the placement and on what could not be had.
    pub notes: Vec<String>,
}
