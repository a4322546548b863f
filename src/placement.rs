//! Which core runs which reactor, and which reactor drives which disk.
//!
//! [`plan`] is a pure function from a [`Topology`] and a [`PlacementRequest`]: the same input gives
//! the same plan, and recorded topologies of real servers are its tests. Its rules:
//!
//! 1. Reactors sit on cores, one hardware thread each unless all are asked for; CPUs that the user
//!    lists are taken literally.
//! 2. `Auto` makes one reactor per disk lane, at most one per core. Every node with disks gets a
//!    reactor first, as far as they go; the rest follow the number of lanes per node. Within a node
//!    they spread over its last-level caches.
//!    They sit on the CPUs that take the interrupts of their disks, where those are known and few.
//! 3. A lane goes to a reactor on its disk's node if there is one, always the one with the fewest
//!    lanes, the first of equals. Lanes of one disk have different reactors; those that find no
//!    reactor left on the node go elsewhere, and a note says so.
//! 4. Disks without a node are spread over all reactors.
//!
//! Nothing is repaired in silence: what cannot be done as asked is a [`PlacementError`] that names
//! the numbers.

mod cpus;
mod lanes;
mod table;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::machine::topology::{Topology, ranges};

/// One disk to be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskRequest {
    /// The kernel's name for it, or a file's path.
    pub name: String,
    /// Its node, if known from elsewhere; otherwise the topology is asked by name.
    pub node: Option<u32>,
    /// Whether it spins.
    pub rotational: bool,
    /// How many lanes (reactors driving it at the same time). `None` means one.
    pub lanes: Option<u32>,
    /// CPUs that take the interrupts of its queues; empty where all of them do, or none is known.
    pub interrupt_cpus: Vec<u32>,
}

/// How many reactors, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReactorChoice {
    /// One per lane, up to the number of cores.
    #[default]
    Auto,
    /// This many.
    Count(u32),
    /// On exactly these CPUs, in this order.
    Cpus(Vec<u32>),
}

/// Which hardware threads of a core may run reactors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HardwareThreads {
    /// One per core: two reactors never share a core's units.
    #[default]
    OnePerCore,
    /// All of them; second threads are used after every core has one.
    All,
}

/// What to plan for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementRequest {
    /// The disks. May be empty.
    pub disks: Vec<DiskRequest>,
    /// How many reactors.
    pub reactors: ReactorChoice,
    /// Which hardware threads.
    pub hardware_threads: HardwareThreads,
}

/// A reactor's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReactorSlot {
    /// The hardware thread it is pinned to, by the kernel's number.
    pub cpu: u32,
    /// The node its memory is on.
    pub node: Option<u32>,
    /// The package it is in.
    pub package: Option<u32>,
}

/// How far a lane's reactor is from its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Locality {
    /// The same node.
    Local,
    /// Another node.
    Remote,
    /// The disk's node or the reactor's is not known.
    Unknown,
}

/// A lane's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneSlot {
    /// Index into the request's disks.
    pub disk: usize,
    /// Which of the disk's lanes, from 0.
    pub lane: u32,
    /// Index into the plan's reactors.
    pub reactor: usize,
    /// How far it is.
    pub local: Locality,
}

/// A plan. Its `Display` is a table for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// Reactors, by node and CPU, or in the order the user listed their CPUs.
    pub reactors: Vec<ReactorSlot>,
    /// Lanes, by disk and lane.
    pub lanes: Vec<LaneSlot>,
    /// What the user should know about the plan, as sentences.
    pub notes: Vec<String>,
    /// The disks' names, in the request's order.
    pub disks: Vec<String>,
}

/// The request cannot be met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// More reactors than places for them.
    #[error(
        "{asked} reactors do not fit: there are {available} {kind}; ask for at most {available}"
    )]
    TooManyReactors {
        /// What was asked for.
        asked: u32,
        /// What there is.
        available: u32,
        /// `usable cores` or `usable hardware threads`.
        kind: &'static str,
    },
    /// No reactor was asked for.
    #[error("at least one reactor is needed")]
    NoReactors,
    /// A listed CPU does not exist or may not be used.
    #[error("CPU {cpu} does not exist or may not be used by this process; usable are {allowed}")]
    UnknownCpu {
        /// The CPU.
        cpu: u32,
        /// The usable ones, as ranges.
        allowed: String,
    },
    /// A CPU was listed twice.
    #[error("CPU {cpu} is listed twice; each CPU runs one reactor")]
    DuplicateCpu {
        /// The CPU.
        cpu: u32,
    },
    /// A disk was listed twice.
    #[error("disk {disk} is listed twice; to use more reactors for it, give it more lanes")]
    DuplicateDisk {
        /// The disk.
        disk: String,
    },
    /// A disk has more lanes than there are reactors.
    #[error(
        "disk {disk} asks for {lanes} lanes, each on its own reactor, but there are {reactors} \
        reactors; ask for at most {reactors} lanes, or more reactors"
    )]
    TooManyLanes {
        /// The disk.
        disk: String,
        /// Its lanes.
        lanes: u32,
        /// The reactors there are.
        reactors: u32,
    },
    /// A disk with no lanes.
    #[error("disk {disk} asks for 0 lanes; it needs at least 1")]
    NoLanes {
        /// The disk.
        disk: String,
    },
    /// The topology holds no usable CPU.
    #[error("the topology has no usable CPU; check cpusets and `taskset -p`")]
    NoCpus,
}

/// A disk with its defaults and its node filled in.
#[derive(Clone, Debug)]
struct Disk {
    node: Option<u32>,
    lanes: u32,
    interrupt_cpus: Vec<u32>,
}

/// Plans. See the module's rules.
///
/// # Errors
///
/// A [`PlacementError`] naming what does not fit.
///
/// ```
/// use dynamicfs::machine::topology::Topology;
/// use dynamicfs::placement::{DiskRequest, PlacementRequest, plan};
/// let disk =
///     DiskRequest { name: "nvme0n1".into(), ..DiskRequest::default() };
/// let request = PlacementRequest { disks: vec![disk], ..PlacementRequest::default() };
/// let plan = plan(&Topology::detect()?, &request)?;
/// assert_eq!((plan.reactors.len(), plan.lanes.len()), (1, 1));
/// println!("{plan}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn plan(topology: &Topology, request: &PlacementRequest) -> Result<Placement, PlacementError> {
    if topology.cores.is_empty() {
        return Err(PlacementError::NoCpus);
    }
    let disks = resolve_disks(topology, request)?;
    let reactors = cpus::choose(topology, request, &disks)?;
    let available = u32::try_from(reactors.len()).unwrap_or(u32::MAX);
    for (disk, asked) in disks.iter().zip(&request.disks) {
        if disk.lanes > available {
            return Err(PlacementError::TooManyLanes {
                disk: asked.name.clone(),
                lanes: disk.lanes,
                reactors: available,
            });
        }
    }
    let lanes = lanes::assign(&reactors, &disks);
    let notes = notes(topology, request, &disks, &reactors, &lanes);
    let disks = request.disks.iter().map(|disk| disk.name.clone()).collect();
    Ok(Placement { reactors, lanes, notes, disks })
}

fn resolve_disks(
    topology: &Topology,
    request: &PlacementRequest,
) -> Result<Vec<Disk>, PlacementError> {
    let mut names = BTreeSet::new();
    let mut disks = Vec::with_capacity(request.disks.len());
    for disk in &request.disks {
        if !names.insert(&disk.name) {
            return Err(PlacementError::DuplicateDisk { disk: disk.name.clone() });
        }
        let lanes = disk.lanes.unwrap_or(1);
        if lanes == 0 {
            return Err(PlacementError::NoLanes { disk: disk.name.clone() });
        }
        let node = disk.node.or_else(|| topology.node_of_disk(&disk.name));
        disks.push(Disk { node, lanes, interrupt_cpus: disk.interrupt_cpus.clone() });
    }
    Ok(disks)
}

/// What is worth knowing about a plan, one sentence each.
fn notes(
    topology: &Topology,
    request: &PlacementRequest,
    disks: &[Disk],
    reactors: &[ReactorSlot],
    lanes: &[LaneSlot],
) -> Vec<String> {
    let mut notes = Vec::new();
    let mut unplaced = Vec::new();
    for (index, (disk, asked)) in disks.iter().zip(&request.disks).enumerate() {
        let name = &asked.name;
        let own = || lanes.iter().filter(|lane| lane.disk == index);
        let remote = own().filter(|lane| lane.local == Locality::Remote).count();
        if let (Some(node), true) = (disk.node, remote > 0) {
            notes.push(if reactors.iter().any(|reactor| reactor.node == Some(node)) {
                format!(
                    "{name}: {remote} of {} lanes are away from its node {node}, which has \
                    too few reactors for them.",
                    disk.lanes
                )
            } else {
                format!(
                    "{name} is on node {node}, where there is no reactor: all its I/O crosses \
                    nodes."
                )
            });
        }
        if disk.node.is_none() {
            unplaced.push(name.as_str());
        }
        if asked.rotational && disk.lanes > 1 {
            notes.push(format!("{name} spins: {} lanes make it seek more.", disk.lanes));
        }
    }
    if topology.nodes.len() > 1 && !unplaced.is_empty() {
        notes.push(format!(
            "The platform does not say on which node {} hang(s); spread over all.",
            unplaced.join(", ")
        ));
    }
    for core in &topology.cores {
        let sharing: Vec<u32> = core
            .cpus
            .iter()
            .copied()
            .filter(|cpu| reactors.iter().any(|reactor| reactor.cpu == *cpu))
            .collect();
        if sharing.len() > 1 {
            notes.push(format!(
                "CPUs {} are threads of one core: their reactors share it.",
                ranges(&sharing)
            ));
        }
    }
    let mut busy = vec![false; reactors.len()];
    for lane in lanes {
        if let Some(entry) = busy.get_mut(lane.reactor) {
            *entry = true;
        }
    }
    let idle = busy.iter().filter(|is_busy| !**is_busy).count();
    if idle > 0 && !disks.is_empty() {
        notes.push(format!("{idle} reactor(s) have no disk; more lanes would use them."));
    }
    notes
}

#[cfg(test)]
mod tests;
