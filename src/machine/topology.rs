//! Cores, NUMA nodes and disks of a machine, as plain data.
//!
//! hwloc does the looking; what leaves this module is a [`Topology`] that can be compared, printed
//! and built by hand. It holds only hardware threads that may be used: those hwloc finds allowed
//! (cgroups), and for the running machine also in this process's affinity mask. Nodes and disks are
//! kept even where none of their cores may be used, because a disk's node stays what it is.
//!
//! A machine without NUMA information has one node, 0, with all cores. A disk whose place hwloc
//! cannot tell has no node: `None` is an answer, not an error.

mod hwloc;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use self::hwloc::Source;
use super::device::natural_key;

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NumaNode {
    /// The kernel's number.
    pub os_index: u32,
    /// Its memory, bytes; 0 where unknown.
    pub memory_bytes: u64,
    /// The usable hardware threads closest to it, ascending.
    pub cpus: Vec<u32>,
}

/// A core with at least one usable hardware thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Core {
    /// The package (socket) it is in, where there are packages.
    pub package: Option<u32>,
    /// The node whose memory is closest.
    pub node: Option<u32>,
    /// Cores with the same number share a last-level cache. Without such a cache, the package.
    pub l3_group: u32,
    /// Its usable hardware threads, by the kernel's numbers, ascending. Never empty.
    pub cpus: Vec<u32>,
}

/// One kind of cache, over the whole machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheLevel {
    /// 1, 2, 3, ...
    pub level: u32,
    /// How many there are.
    pub count: u32,
    /// Size of the largest of them, bytes.
    pub size_bytes: u64,
}

/// What a machine is made of. Its lists are sorted: cores by their first thread, nodes by number.
///
/// ```
/// use dynamicfs::machine::topology::Topology;
/// let topology = Topology::detect()?;
/// assert!(!topology.cores.is_empty());
/// # Ok::<(), dynamicfs::machine::topology::TopologyError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// Number of packages (sockets).
    pub packages: u32,
    /// NUMA nodes.
    pub nodes: Vec<NumaNode>,
    /// Cores with something usable.
    pub cores: Vec<Core>,
    /// Block devices by name, with the node each hangs on.
    pub disks: BTreeMap<String, Option<u32>>,
    /// Data and unified caches, lowest level first.
    pub caches: Vec<CacheLevel>,
}

/// The topology could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The file with the recorded topology could not be read.
    #[error("cannot read the topology {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not hwloc's XML.
    #[error(
        "{origin} is not a topology that hwloc understands: {reason}; \
        `lstopo --whole-io --disallowed FILE.xml` records one"
    )]
    Invalid {
        /// The file's name, or `the text`.
        origin: String,
        /// What was wrong.
        reason: String,
    },
    /// hwloc failed on the running machine.
    #[error("hwloc cannot detect this machine's topology: {reason}; is /sys mounted?")]
    Detect {
        /// What hwloc said.
        reason: String,
    },
    /// The kernel did not say which CPUs this process may use.
    #[error("cannot read this process's CPU affinity: {source}")]
    Affinity {
        /// Why.
        source: io::Error,
    },
    /// Not one CPU is left.
    #[error("{origin} has no CPU that may be used; check cpusets and `taskset -p`")]
    NoCpus {
        /// Where the topology is from.
        origin: String,
    },
}

impl Topology {
    /// The running machine, as far as this process may use it. CPUs are counted up to 1024, the
    /// size of the C library's CPU set.
    ///
    /// # Errors
    ///
    /// [`TopologyError::Detect`], [`TopologyError::Affinity`] or [`TopologyError::NoCpus`].
    pub fn detect() -> Result<Self, TopologyError> {
        let affinity = sched_getaffinity(Pid::from_raw(0))
            .map_err(|errno| TopologyError::Affinity { source: errno.into() })?;
        let topology = hwloc::read(Source::ThisMachine)?;
        let is_ours = |cpu: u32| {
            let cpu = usize::try_from(cpu).unwrap_or(usize::MAX);
            cpu < CpuSet::count() && affinity.is_set(cpu).unwrap_or(false)
        };
        topology.restricted_to(&is_ours).checked("this machine")
    }

    /// A machine recorded with `lstopo --whole-io --disallowed FILE.xml`.
    ///
    /// Take only files that hwloc wrote: it finds most damage, but some well-formed XML with
    /// contradictory numbers crashes it (seen with 2.9.0: 2 of 400 files with a few bytes changed),
    /// and its self-check aborts debug builds.
    ///
    /// # Errors
    ///
    /// [`TopologyError::Read`], [`TopologyError::Invalid`] or [`TopologyError::NoCpus`].
    pub fn from_xml_file(path: &Path) -> Result<Self, TopologyError> {
        let xml = fs::read_to_string(path)
            .map_err(|source| TopologyError::Read { path: path.to_path_buf(), source })?;
        Self::from_xml(&xml, &path.display().to_string())
    }

    /// The same from text, with the same warning.
    ///
    /// # Errors
    ///
    /// [`TopologyError::Invalid`] or [`TopologyError::NoCpus`].
    pub fn from_xml_str(xml: &str) -> Result<Self, TopologyError> {
        Self::from_xml(xml, "the text")
    }

    fn from_xml(xml: &str, origin: &str) -> Result<Self, TopologyError> {
        hwloc::read(Source::Xml { text: xml, origin })?.checked(origin)
    }

    /// Every usable hardware thread, ascending.
    #[must_use]
    pub fn cpus(&self) -> Vec<u32> {
        let mut cpus: Vec<u32> = self.cores.iter().flat_map(|core| core.cpus.clone()).collect();
        cpus.sort_unstable();
        cpus
    }

    /// The core that a hardware thread belongs to.
    #[must_use]
    pub fn core_of(&self, cpu: u32) -> Option<&Core> {
        self.cores.iter().find(|core| core.cpus.contains(&cpu))
    }

    /// The node of a disk or partition, by the longest disk name that begins its name.
    #[must_use]
    pub fn node_of_disk(&self, name: &str) -> Option<u32> {
        let exact = self.disks.get(name);
        let by_disk = || {
            let disks = self.disks.iter().filter(|(disk, _)| is_partition_of(name, disk));
            disks.max_by_key(|(disk, _)| disk.len()).map(|(_, node)| node)
        };
        exact.or_else(by_disk).copied().flatten()
    }

    /// The disks' names as people count them: `nvme2n1` before `nvme10n1`.
    #[must_use]
    pub fn disk_names_in_order(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.disks.keys().map(String::as_str).collect();
        names.sort_by_key(|name| natural_key(name));
        names
    }

    /// Drops the hardware threads that `is_usable` refuses, and the cores left without any.
    fn restricted_to(mut self, is_usable: &dyn Fn(u32) -> bool) -> Self {
        for core in &mut self.cores {
            core.cpus.retain(|cpu| is_usable(*cpu));
        }
        self.cores.retain(|core| !core.cpus.is_empty());
        for node in &mut self.nodes {
            node.cpus.retain(|cpu| is_usable(*cpu));
        }
        self
    }

    fn checked(self, origin: &str) -> Result<Self, TopologyError> {
        if self.cores.is_empty() {
            return Err(TopologyError::NoCpus { origin: origin.to_owned() });
        }
        Ok(self)
    }
}

/// `nvme0n1p2` of `nvme0n1`, `sda1` of `sda`.
fn is_partition_of(name: &str, disk: &str) -> bool {
    let Some(rest) = name.strip_prefix(disk) else { return false };
    let digits = match disk.ends_with(|c: char| c.is_ascii_digit()) {
        true => rest.strip_prefix('p').unwrap_or(""),
        false => rest,
    };
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for Topology {
    /// A few lines: totals, then one line per node with its threads and disks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads: usize = self.cores.iter().map(|core| core.cpus.len()).sum();
        writeln!(
            f,
            "{}, {}, {} usable with {}",
            counted(self.packages as usize, "package"),
            counted(self.nodes.len(), "NUMA node"),
            counted(self.cores.len(), "core"),
            counted(threads, "hardware thread"),
        )?;
        for node in &self.nodes {
            let disks = self.disk_names(Some(node.os_index));
            let memory = node.memory_bytes.div_ceil(1 << 20);
            write!(f, "  node {}: {memory} MiB, CPUs {}", node.os_index, ranges(&node.cpus))?;
            writeln!(f, ", disks {}", if disks.is_empty() { "none" } else { &disks })?;
        }
        let unplaced = self.disk_names(None);
        if !unplaced.is_empty() {
            writeln!(f, "  no node: disks {unplaced}")?;
        }
        Ok(())
    }
}

impl Topology {
    fn disk_names(&self, node: Option<u32>) -> String {
        let names = self.disk_names_in_order().into_iter();
        names.filter(|name| self.disks.get(*name) == Some(&node)).collect::<Vec<_>>().join(" ")
    }
}

/// `1 core`, `2 cores`.
fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Writes an ascending list as the kernel does: `0-3,8`; `none` when empty.
#[must_use]
pub fn ranges(cpus: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(cpu) => *last = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    if runs.is_empty() {
        return String::from("none");
    }
    let words = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_cores_and_only_allowed_threads() {
        let topology = Topology::detect().unwrap();
        assert!(topology.packages >= 1);
        let affinity = sched_getaffinity(Pid::from_raw(0)).unwrap();
        for cpu in topology.cpus() {
            assert!(affinity.is_set(cpu as usize).unwrap());
        }
    }

    #[test]
    fn what_is_not_a_topology_is_refused() {
        for xml in ["", "not xml", "<topology version=\"2.0\"></topology>", "a\0b"] {
            let error = Topology::from_xml_str(xml).unwrap_err();
            assert!(matches!(error, TopologyError::Invalid { .. }), "{xml:?}: {error}");
        }
        let error = Topology::from_xml_file(Path::new("/nonexistent.xml")).unwrap_err();
        assert!(matches!(error, TopologyError::Read { .. }), "{error}");
    }

    #[test]
    fn restricting_drops_threads_then_cores() {
        let core = |cpus: &[u32]| Core {
            package: Some(0),
            node: Some(0),
            l3_group: 0,
            cpus: cpus.to_vec(),
        };
        let node = NumaNode { os_index: 0, memory_bytes: 0, cpus: vec![0, 1, 2, 3] };
        let topology = Topology {
            nodes: vec![node],
            cores: vec![core(&[0, 2]), core(&[1, 3])],
            ..Topology::default()
        };
        let restricted = topology.restricted_to(&|cpu| cpu == 2);
        assert_eq!(restricted.cores, [core(&[2])]);
        assert_eq!(restricted.nodes[0].cpus, [2]);
        assert!(restricted.restricted_to(&|_| false).checked("it").is_err());
    }

    #[test]
    fn a_partition_has_its_disks_node() {
        let disks = [("nvme1n1", Some(1)), ("sda", Some(0)), ("nvme1n11", None)];
        let disks = disks.map(|(name, node)| (name.to_owned(), node)).into();
        let topology = Topology { disks, ..Topology::default() };
        assert_eq!(topology.node_of_disk("nvme1n1"), Some(1));
        assert_eq!(topology.node_of_disk("nvme1n1p3"), Some(1));
        assert_eq!(topology.node_of_disk("nvme1n11"), None);
        assert_eq!(topology.node_of_disk("sda12"), Some(0));
        assert_eq!(topology.node_of_disk("sdaa"), None);
    }

    #[test]
    fn ranges_are_written_as_the_kernel_does() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(ranges(&[]), "none");
    }
}
