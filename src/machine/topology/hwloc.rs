//! From hwloc's object tree to plain data.
//!
//! The tree is built with disallowed CPUs included, because hwloc otherwise removes the nodes
//! without an allowed CPU and a disk on one of them would look as if it had no place.

use std::collections::{BTreeMap, BTreeSet};

use hwlocality::Topology as Tree;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::{CacheType, OSDeviceType, ObjectType};
use hwlocality::topology::builder::{BuildFlags, TopologyBuilder, TypeFilter};

use super::{CacheLevel, Core, NumaNode, Topology, TopologyError};

/// Where to read a topology from.
pub(super) enum Source<'a> {
    /// The running machine.
    ThisMachine,
    /// hwloc's XML.
    Xml { text: &'a str, origin: &'a str },
}

impl Source<'_> {
    fn failed(&self, reason: &dyn std::fmt::Display) -> TopologyError {
        let reason = reason.to_string();
        match self {
            Source::ThisMachine => TopologyError::Detect { reason },
            Source::Xml { origin, .. } => {
                TopologyError::Invalid { origin: (*origin).to_owned(), reason }
            }
        }
    }
}

/// Runs hwloc and flattens its tree; only threads that hwloc calls allowed are kept.
pub(super) fn read(source: Source<'_>) -> Result<Topology, TopologyError> {
    let builder = match &source {
        Source::ThisMachine => TopologyBuilder::new(),
        Source::Xml { text, .. } => {
            // hwloc crashes on nothing, but takes an empty or NUL-holding buffer for a bug of ours.
            if text.trim().is_empty() || text.contains('\0') {
                return Err(source.failed(&"it is empty or holds a NUL"));
            }
            TopologyBuilder::new().from_xml(text).map_err(|error| source.failed(&error))?
        }
    };
    let tree = builder
        .with_flags(BuildFlags::INCLUDE_DISALLOWED)
        .map_err(|error| source.failed(&error))?
        .with_io_type_filter(TypeFilter::KeepAll)
        .map_err(|error| source.failed(&error))?
        .build()
        .map_err(|error| source.failed(&error))?;
    Ok(flatten(&tree))
}

fn flatten(tree: &Tree) -> Topology {
    let allowed: BTreeSet<u32> =
        tree.allowed_cpuset().iter_set().map(|cpu| narrow(usize::from(cpu))).collect();
    let homes = thread_homes(tree);
    let mut cores = cores(tree, &homes, &allowed);
    cores.sort_by_key(|core| core.cpus.first().copied());
    let packages = tree.objects_with_type(ObjectType::Package).count().max(1);
    Topology {
        packages: narrow(packages),
        nodes: nodes(tree, &allowed),
        cores,
        disks: disks(tree, &homes),
        caches: caches(tree),
    }
}

/// For each hardware thread the node to allocate from: where several are equally close (DRAM and
/// high-bandwidth or persistent memory), the lowest number, which is the DRAM.
fn thread_homes(tree: &Tree) -> BTreeMap<u32, u32> {
    let mut homes: BTreeMap<u32, u32> = BTreeMap::new();
    let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
    for node in tree.objects_with_type(ObjectType::NUMANode) {
        let Some(index) = node.os_index().map(narrow) else { continue };
        let threads = threads_of(node);
        for &cpu in &threads {
            // The smaller locality is the closer memory: a node over the whole machine comes last.
            let better = match (homes.get(&cpu), sizes.get(&cpu)) {
                (Some(&home), Some(&size)) => (threads.len(), index) < (size, home),
                _ => true,
            };
            if better {
                homes.insert(cpu, index);
                sizes.insert(cpu, threads.len());
            }
        }
    }
    homes
}

fn nodes(tree: &Tree, allowed: &BTreeSet<u32>) -> Vec<NumaNode> {
    let mut nodes: Vec<NumaNode> = tree
        .objects_with_type(ObjectType::NUMANode)
        .filter_map(|node| {
            let memory_bytes = match node.attributes() {
                Some(ObjectAttributes::NUMANode(numa)) => numa.local_memory().map_or(0, u64::from),
                _ => 0,
            };
            let cpus = threads_of(node).into_iter().filter(|cpu| allowed.contains(cpu)).collect();
            Some(NumaNode { os_index: node.os_index().map(narrow)?, memory_bytes, cpus })
        })
        .collect();
    nodes.sort_by_key(|node| node.os_index);
    nodes
}

/// One entry per core; a machine that reports no cores has one per hardware thread.
fn cores(tree: &Tree, homes: &BTreeMap<u32, u32>, allowed: &BTreeSet<u32>) -> Vec<Core> {
    let mut found: Vec<&TopologyObject> = tree.objects_with_type(ObjectType::Core).collect();
    let covered: BTreeSet<u32> = found.iter().flat_map(|core| threads_of(core)).collect();
    let threads = tree.objects_with_type(ObjectType::PU);
    found.extend(
        threads.filter(|thread| {
            thread.os_index().is_some_and(|index| !covered.contains(&narrow(index)))
        }),
    );
    let mut cores = Vec::with_capacity(found.len());
    for object in found {
        let cpus: Vec<u32> =
            threads_of(object).into_iter().filter(|cpu| allowed.contains(cpu)).collect();
        let Some(first) = cpus.first() else { continue };
        let package = object.first_ancestor_with_type(ObjectType::Package);
        let cache = object.first_ancestor_with_type(ObjectType::L3Cache);
        cores.push(Core {
            package: package.and_then(TopologyObject::os_index).map(narrow),
            node: homes.get(first).copied(),
            l3_group: cache.or(package).map_or(0, |object| narrow(object.logical_index())),
            cpus,
        });
    }
    cores
}

/// Block devices with the node that all cores near them share, if it is one node.
fn disks(tree: &Tree, homes: &BTreeMap<u32, u32>) -> BTreeMap<String, Option<u32>> {
    let mut disks = BTreeMap::new();
    for device in tree.os_devices() {
        let is_disk = matches!(device.attributes(), Some(ObjectAttributes::OSDevice(os))
            if os.device_type() == OSDeviceType::Storage);
        let name = device.name().map(|name| name.to_string_lossy().into_owned());
        // hwloc calls DAX devices storage too, but they are character devices without blocks.
        let name = name.filter(|name| is_disk && !name.starts_with("dax"));
        let Some(name) = name else { continue };
        let place = device.first_non_io_ancestor();
        let nodes: BTreeSet<u32> = place
            .into_iter()
            .flat_map(threads_of)
            .filter_map(|cpu| homes.get(&cpu).copied())
            .collect();
        let node = if nodes.len() == 1 { nodes.first().copied() } else { None };
        disks.insert(name, node);
    }
    disks
}

fn caches(tree: &Tree) -> Vec<CacheLevel> {
    let mut levels: BTreeMap<u32, CacheLevel> = BTreeMap::new();
    for object in tree.normal_objects() {
        let Some(ObjectAttributes::Cache(cache)) = object.attributes() else { continue };
        if cache.cache_type() == CacheType::Instruction {
            continue;
        }
        let level = narrow(cache.depth());
        let entry = levels.entry(level).or_insert(CacheLevel { level, count: 0, size_bytes: 0 });
        entry.count = entry.count.saturating_add(1);
        entry.size_bytes = entry.size_bytes.max(cache.size().map_or(0, u64::from));
    }
    levels.into_values().collect()
}

/// The hardware threads an object covers, ascending, disallowed ones included.
fn threads_of(object: &TopologyObject) -> Vec<u32> {
    match object.cpuset() {
        Some(set) if set.weight().is_some() => {
            set.iter_set().map(|cpu| narrow(usize::from(cpu))).collect()
        }
        _ => Vec::new(),
    }
}

/// hwloc counts in `usize`; the kernel's numbers of CPUs and nodes fit 32 bits.
fn narrow(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
