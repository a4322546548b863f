//! On what machine a run was made: what a reader needs to compare two results.
//!
//! Read from `/proc` and `/sys` only; nothing is changed, no program is started. What cannot be
//! read is absent, never an error: a container or an old kernel gives a shorter fingerprint.

pub mod device;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use device::Device;

/// A machine's fingerprint.
///
/// ```
/// let machine = dynamicfs_bench::environment::Environment::probe(&[]);
/// assert!(machine.devices.is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Environment {
    /// Version of this harness.
    pub version: String,
    /// `git describe` of the sources, if the build was given it in `DYNAMICFS_GIT_DESCRIBE`.
    pub git: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Processor model.
    pub cpu_model: Option<String>,
    /// Processors online.
    pub cpus: usize,
    /// Memory nodes.
    pub nodes: usize,
    /// Runs under a hypervisor.
    pub virtual_machine: bool,
    /// Share of time the hypervisor took away since boot, percent.
    pub steal_percent: Option<f64>,
    /// Load average over one minute.
    pub load: Option<f64>,
    /// Frequency governor; several are joined by a comma.
    pub governor: Option<String>,
    /// Processor weaknesses that the kernel works around, at a cost per system call.
    pub mitigated: Vec<String>,
    /// Processor weaknesses left open.
    pub vulnerable: Vec<String>,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// Huge pages.
    pub huge_pages: HugePages,
    /// Limit of locked memory: bytes, or `unlimited`.
    pub memlock_limit: Option<String>,
    /// `kernel.io_uring_disabled`: 0 all may, 1 privileged only, 2 nobody.
    pub io_uring_disabled: Option<u64>,
    /// Poll queues of the NVMe driver; absent without the driver.
    pub nvme_poll_queues: Option<u64>,
    /// The disks of the run.
    pub devices: Vec<Device>,
    /// What makes measurements on this machine doubtful or slow, with what to do.
    pub warnings: Vec<String>,
}

/// Settings of huge pages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HugePages {
    /// Size of one.
    pub page_bytes: Option<u64>,
    /// Reserved.
    pub total: Option<u64>,
    /// Reserved and free.
    pub free: Option<u64>,
    /// Setting of transparent huge pages: `always`, `madvise`, `never`.
    pub transparent: Option<String>,
}

impl Environment {
    /// Reads the fingerprint of this machine and of the disks at `paths`.
    #[must_use]
    pub fn probe(paths: &[PathBuf]) -> Self {
        let root = Path::new("/");
        let mut machine = Self::probe_machine(root);
        machine.devices = paths.iter().map(|path| Device::probe(root, path)).collect();
        machine.warnings = machine.doubts();
        machine
    }

    /// Reads what concerns the machine below `root`.
    fn probe_machine(root: &Path) -> Self {
        let cpuinfo = text(root, "proc/cpuinfo").unwrap_or_default();
        let meminfo = text(root, "proc/meminfo").unwrap_or_default();
        let (mitigated, vulnerable) = weaknesses(root);
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            git: option_env!("DYNAMICFS_GIT_DESCRIBE").map(str::to_owned),
            kernel: text(root, "proc/sys/kernel/osrelease"),
            cpu_model: field(&cpuinfo, "model name").map(str::to_owned),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            nodes: names(root, "sys/devices/system/node", "node").len(),
            virtual_machine: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            steal_percent: text(root, "proc/stat").as_deref().and_then(steal_percent),
            load: text(root, "proc/loadavg").and_then(|line| line.split(' ').next()?.parse().ok()),
            governor: governor(root),
            mitigated,
            vulnerable,
            memory_bytes: kibibytes(&meminfo, "MemTotal"),
            huge_pages: HugePages {
                page_bytes: kibibytes(&meminfo, "Hugepagesize"),
                total: field(&meminfo, "HugePages_Total").and_then(|count| count.parse().ok()),
                free: field(&meminfo, "HugePages_Free").and_then(|count| count.parse().ok()),
                transparent: text(root, "sys/kernel/mm/transparent_hugepage/enabled")
                    .and_then(|line| chosen(&line)),
            },
            memlock_limit: text(root, "proc/self/limits").as_deref().and_then(memlock_limit),
            io_uring_disabled: number(root, "proc/sys/kernel/io_uring_disabled"),
            nvme_poll_queues: number(root, "sys/module/nvme/parameters/poll_queues"),
            devices: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.virtual_machine {
            doubts.push("virtual machine: neighbours and the host's disk cache blur times".into());
        }
        if let Some(steal) = self.steal_percent.filter(|percent| *percent >= 1.0) {
            doubts.push(format!("the hypervisor took {steal:.1} % of processor time since boot"));
        }
        if let Some(load) = self.load.filter(|load| *load > 0.5 * self.cpus.max(1) as f64) {
            doubts.push(format!("load average {load:.2}: something else is running here"));
        }
        if let Some(governor) = self.governor.as_ref().filter(|name| *name != "performance") {
            doubts.push(format!(
                "frequency governor is {governor}: `cpupower frequency-set -g performance`"
            ));
        }
        if let Some(setting) = self.io_uring_disabled.filter(|setting| *setting != 0) {
            doubts.push(format!(
                "kernel.io_uring_disabled is {setting}: `sysctl kernel.io_uring_disabled=0`"
            ));
        }
        let nvme = self.devices.iter().any(|device| device.is_nvme());
        if nvme && self.nvme_poll_queues == Some(0) {
            doubts.push(
                "no NVMe poll queues: boot with nvme.poll_queues=N for polled completions".into(),
            );
        }
        for doubt in self.devices.iter().flat_map(Device::doubts) {
            // Two files of a run may be on one disk.
            if !doubts.contains(&doubt) {
                doubts.push(doubt);
            }
        }
        doubts
    }
}

/// A file's content without the white space around it; `None` if it is absent, empty or unreadable.
fn text(root: &Path, path: &str) -> Option<String> {
    let content = fs::read_to_string(root.join(path)).ok()?;
    let trimmed = content.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

fn number(root: &Path, path: &str) -> Option<u64> {
    text(root, path)?.parse().ok()
}

/// The names in a directory that are `prefix` and a number, in order.
fn names(root: &Path, directory: &str, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(root.join(directory)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u32>().is_ok()))
        .collect();
    names.sort();
    names
}

/// The value of the first line `key : value`.
fn field<'a>(lines: &'a str, key: &str) -> Option<&'a str> {
    let pairs = lines.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.trim(), value.trim())).find(|(name, _)| *name == key)?.1.into()
}

fn kibibytes(meminfo: &str, key: &str) -> Option<u64> {
    field(meminfo, key)?.strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The choice in brackets: `always [madvise] never`.
fn chosen(line: &str) -> Option<String> {
    let (_, rest) = line.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Time stolen as a share of all time: the eighth number of the line `cpu`.
fn steal_percent(stat: &str) -> Option<f64> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).flat_map(str::parse).collect();
    let all: u64 = ticks.iter().take(8).sum();
    (all > 0).then(|| 100.0 * ticks.get(7).copied().unwrap_or(0) as f64 / all as f64)
}

/// The soft limit: `Max locked memory  8388608  8388608  bytes`.
fn memlock_limit(limits: &str) -> Option<String> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next().map(str::to_owned)
}

fn governor(root: &Path) -> Option<String> {
    let directory = "sys/devices/system/cpu";
    let cpus = names(root, directory, "cpu").into_iter();
    let mut found: Vec<String> = cpus
        .filter_map(|cpu| text(root, &format!("{directory}/{cpu}/cpufreq/scaling_governor")))
        .collect();
    found.sort();
    found.dedup();
    (!found.is_empty()).then(|| found.join(","))
}

/// Names of the weaknesses worked around and of those left open.
fn weaknesses(root: &Path) -> (Vec<String>, Vec<String>) {
    let directory = "sys/devices/system/cpu/vulnerabilities";
    let entries = fs::read_dir(root.join(directory)).into_iter().flatten().flatten();
    let mut known: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    known.sort();
    let with = |state: &str| -> Vec<String> {
        let matches = |name: &&String| {
            text(root, &format!("{directory}/{name}")).is_some_and(|line| line.starts_with(state))
        };
        known.iter().filter(matches).cloned().collect()
    };
    (with("Mitigation"), with("Vulnerable"))
}

#[cfg(test)]
mod tests;
