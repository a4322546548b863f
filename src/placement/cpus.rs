//! Choosing the hardware threads that run reactors.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::machine::topology::{Core, Topology, ranges};

use super::{Disk, HardwareThreads, PlacementError, PlacementRequest, ReactorChoice, ReactorSlot};

/// A hardware thread that may be taken.
#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    cpu: u32,
    /// How many threads of its core come before it.
    sibling: usize,
    core: &'a Core,
    /// It takes interrupts of a disk.
    interrupted: bool,
}

/// The reactors' places, by node and CPU, or in the user's order.
pub(super) fn choose(
    topology: &Topology,
    request: &PlacementRequest,
    disks: &[Disk],
) -> Result<Vec<ReactorSlot>, PlacementError> {
    if let ReactorChoice::Cpus(cpus) = &request.reactors {
        return take_listed(topology, cpus);
    }
    let candidates = candidates(topology, request.hardware_threads, disks);
    let available = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
    let count = match request.reactors {
        ReactorChoice::Count(0) => return Err(PlacementError::NoReactors),
        ReactorChoice::Count(asked) if asked > available => {
            let kind = match request.hardware_threads {
                HardwareThreads::OnePerCore => "usable cores",
                HardwareThreads::All => "usable hardware threads",
            };
            return Err(PlacementError::TooManyReactors { asked, available, kind });
        }
        ReactorChoice::Count(asked) => asked,
        ReactorChoice::Auto | ReactorChoice::Cpus(_) => {
            let lanes = disks.iter().fold(0u32, |sum, disk| sum.saturating_add(disk.lanes));
            lanes.clamp(1, available)
        }
    };
    let shares = shares(&candidates, disks, count);
    let mut taken = Vec::new();
    for (node, share) in shares {
        taken.extend(take_spread(&candidates, node, share));
    }
    taken.sort_by_key(|slot| (slot.node, slot.cpu));
    debug_assert_eq!(taken.len(), count as usize, "every share is within its node's capacity");
    Ok(taken)
}

fn take_listed(topology: &Topology, cpus: &[u32]) -> Result<Vec<ReactorSlot>, PlacementError> {
    if cpus.is_empty() {
        return Err(PlacementError::NoReactors);
    }
    let mut seen = BTreeSet::new();
    let slots = cpus.iter().map(|&cpu| {
        let core = topology
            .core_of(cpu)
            .ok_or_else(|| PlacementError::UnknownCpu { cpu, allowed: ranges(&topology.cpus()) })?;
        if !seen.insert(cpu) {
            return Err(PlacementError::DuplicateCpu { cpu });
        }
        Ok(slot(cpu, core))
    });
    slots.collect()
}

fn slot(cpu: u32, core: &Core) -> ReactorSlot {
    ReactorSlot { cpu, node: core.node, package: core.package }
}

fn candidates<'a>(
    topology: &'a Topology,
    threads: HardwareThreads,
    disks: &[Disk],
) -> Vec<Candidate<'a>> {
    let interrupted: BTreeSet<u32> =
        disks.iter().flat_map(|disk| disk.interrupt_cpus.iter().copied()).collect();
    let limit = match threads {
        HardwareThreads::OnePerCore => 1,
        HardwareThreads::All => usize::MAX,
    };
    topology
        .cores
        .iter()
        .flat_map(|core| {
            let mut cpus = core.cpus.clone();
            // The thread that is interrupted is the core's first choice.
            cpus.sort_by_key(|cpu| !interrupted.contains(cpu));
            let cpus = cpus.into_iter().take(limit).enumerate();
            let taken = cpus.map(|(sibling, cpu)| {
                let interrupted = interrupted.contains(&cpu);
                Candidate { cpu, sibling, core, interrupted }
            });
            taken.collect::<Vec<_>>()
        })
        .collect()
}

/// How many reactors each node gets.
///
/// A node's demand is the lanes of its own disks plus an even part of the lanes that belong to no
/// usable node. Nodes with own lanes get one reactor each first, the most demanding first; then the
/// node with the highest demand per reactor gets the next (D'Hondt's method), the lowest number of
/// equals, until all are given out. Nodes without demand are used last.
fn shares(candidates: &[Candidate<'_>], disks: &[Disk], count: u32) -> BTreeMap<Option<u32>, u32> {
    let mut capacity: BTreeMap<Option<u32>, u32> = BTreeMap::new();
    for candidate in candidates {
        *capacity.entry(candidate.core.node).or_default() += 1;
    }
    let mut own: BTreeMap<Option<u32>, u64> = BTreeMap::new();
    let mut unplaced: u64 = 0;
    for disk in disks {
        if disk.node.is_some() && capacity.contains_key(&disk.node) {
            *own.entry(disk.node).or_default() += u64::from(disk.lanes);
        } else {
            unplaced = unplaced.saturating_add(u64::from(disk.lanes));
        }
    }
    let node_count = capacity.len() as u64;
    // Scaled by the number of nodes, so that the even part needs no fraction.
    let demand = |node: &Option<u32>| {
        own.get(node).copied().unwrap_or(0).saturating_mul(node_count).saturating_add(unplaced)
    };
    let mut shares: BTreeMap<Option<u32>, u32> = capacity.keys().map(|node| (*node, 0)).collect();
    let mut first: Vec<Option<u32>> = own.keys().copied().collect();
    first.sort_by_key(|node| (std::cmp::Reverse(demand(node)), *node));
    let mut left = count;
    for node in first.iter().take(count as usize) {
        shares.insert(*node, 1);
        left -= 1;
    }
    while left > 0 {
        let open = shares.iter().filter(|(node, share)| capacity.get(node) > Some(share));
        let best = open.min_by(|(a, a_share), (b, b_share)| {
            by_need((demand(a), **a_share), (demand(b), **b_share)).then(a.cmp(b))
        });
        let Some(node) = best.map(|(node, _)| *node) else { break };
        *shares.entry(node).or_default() += 1;
        left -= 1;
    }
    shares
}

/// Orders the needier first: demand divided by the reactors it would then have, as a product.
fn by_need(a: (u64, u32), b: (u64, u32)) -> Ordering {
    let weight = |demand: u64, other: u32| u128::from(demand) * u128::from(other.saturating_add(1));
    weight(b.0, a.1).cmp(&weight(a.0, b.1)).then(a.1.cmp(&b.1))
}

/// Takes threads of one node: first threads of cores before second ones, then those that disks
/// interrupt, then from the last-level cache that has fewest reactors, then the lowest number.
fn take_spread(candidates: &[Candidate<'_>], node: Option<u32>, share: u32) -> Vec<ReactorSlot> {
    let mut left: Vec<&Candidate<'_>> =
        candidates.iter().filter(|candidate| candidate.core.node == node).collect();
    let mut per_cache: BTreeMap<u32, u32> = BTreeMap::new();
    let mut taken = Vec::new();
    for _ in 0..share {
        let used = |candidate: &Candidate<'_>| {
            per_cache.get(&candidate.core.l3_group).copied().unwrap_or(0)
        };
        let best = left.iter().enumerate().min_by_key(|(_, candidate)| {
            (candidate.sibling, !candidate.interrupted, used(candidate), candidate.cpu)
        });
        let Some(index) = best.map(|(index, _)| index) else { break };
        let candidate = left.swap_remove(index);
        *per_cache.entry(candidate.core.l3_group).or_default() += 1;
        taken.push(slot(candidate.cpu, candidate.core));
    }
    taken
}
