//! Configuration of the raw block engine, in code or from TOML.
//!
//! A file is read as the storage engine's ([`EngineConfig`]), which has these fields and more. It
//! may `include` others, of which it takes the disks and the calibration; their paths are relative
//! to the file that names them. What `dynamicfs-bench calibrate` writes is such a file: its
//! `[[calibration]]` entries give a depth target to the disks whose serial number, or path where
//! there is none, they name.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::engine_config::EngineConfig;
use crate::engine::engine_config::fields::{check_numbers, join};
use crate::machine::mapping::PagePolicy;
use crate::scheduler::limits::SchedulerConfig;

/// Disks of one engine, at most.
const DISKS_MAX: usize = 1024;

/// What a disk is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskAccess {
    /// Reads only.
    #[default]
    ReadOnly,
    /// Reads only, beside others who have it open or mounted.
    ReadOnlyShared,
    /// Reads and writes, exclusively.
    ReadWrite,
}

/// Whether reads and writes go to a polled ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Polled {
    /// Where the device has poll queues and a trial read through them succeeds.
    #[default]
    Auto,
    /// As `auto`, but it is an error when they cannot be used.
    On,
    /// Never.
    Off,
}

/// One disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// Block device or regular file. Empty for a NOP disk.
    pub path: PathBuf,
    /// What it is opened for.
    pub access: DiskAccess,
    /// Lanes: reactors that drive it at the same time; absent: 1.
    pub lanes: Option<u32>,
    /// What it fails with others of the same name: a shelf, a controller. A pool is formatted so
    /// that disks which hold the same are of different ones.
    pub failure_domain: Option<String>,
    /// Milliseconds to wait for a disk that is in use before giving up.
    pub busy_wait_ms: u64,
    /// Poll for completions.
    pub polled: Polled,
    /// Every submission is a NOP on a disk of this many bytes: measures software alone.
    pub nop_bytes: Option<u64>,
    /// The file, on tmpfs, is mapped; requests copy from it and to it, and are NOPs to the kernel.
    /// Measures software alone, that of a pool as well. Nothing is kept when the machine stops.
    /// Where the disk is only read the kernel reads it; one that comes later is in memory if the
    /// first one is.
    pub in_memory: bool,
    /// Overrides fields of the engine's `[scheduler]`.
    pub scheduler: SchedulerConfig,
}

/// The reactors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReactorsConfig {
    /// How many; absent: one per lane, up to the cores.
    pub count: Option<u32>,
    /// On exactly these CPUs; excludes `count`.
    pub cpus: Option<Vec<u32>>,
    /// Let reactors share a core's hardware threads.
    pub all_hardware_threads: bool,
    /// Microseconds without any event before a reactor sleeps. 0: it sleeps at once.
    pub spin_us: u64,
    /// Completions worth waiting for at once, 1 to 64, when twice as many are at the device and
    /// none is `Critical` or `HighRead`. 1: never wait for more than one.
    pub completion_batch: u32,
    /// Microseconds after which one completion is enough all the same, 1 to 10,000.
    pub settle_us: u32,
}

impl Default for ReactorsConfig {
    fn default() -> Self {
        ReactorsConfig {
            count: None,
            cpus: None,
            all_hardware_threads: false,
            spin_us: 50,
            completion_batch: 16,
            settle_us: 20,
        }
    }
}

/// Memory for buffers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// Largest pages to try.
    pub pages: PagePolicy,
    /// MiB of buffers on each NUMA node with reactors, 2 to 1,048,576.
    pub arena_mib_per_node: u32,
    /// Register the arenas with the rings.
    pub register: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        MemoryConfig { pages: PagePolicy::Huge, arena_mib_per_node: 64, register: true }
    }
}

/// What `dynamicfs-bench calibrate` found out about a disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Calibration {
    /// Path of the device when it was measured.
    pub path: PathBuf,
    /// Its serial number; when present it alone identifies the disk.
    pub serial: Option<String>,
    /// Smallest depth that gives 95 % of the peak rate.
    pub depth: u32,
    /// Random 4 KiB reads per second at that depth.
    pub read_iops: f64,
    /// Sequential read bandwidth, bytes per second.
    pub read_bytes_per_second: f64,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IoConfig {
    /// Files whose disks and calibration are added to this one's. Empty once they were read.
    pub include: Vec<PathBuf>,
    /// The disks, in the order of their [`crate::io::DiskId`]s.
    pub disks: Vec<DiskConfig>,
    /// The reactors.
    pub reactors: ReactorsConfig,
    /// Scheduling, for all disks.
    pub scheduler: SchedulerConfig,
    /// Serve every request in one class, without reservations. For comparison.
    pub priorities_off: bool,
    /// Memory.
    pub memory: MemoryConfig,
    /// Requests of other threads that can be open at once, unread results included, 1 to
    /// 16,777,216; absent: twice what may wait in all lanes.
    pub calls_max: Option<u32>,
    /// Measured disks.
    pub calibration: Vec<Calibration>,
}

/// A line of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file; `None`: a text that came from none.
    pub file: Option<PathBuf>,
    /// Its line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}:{}", file.display(), self.line),
            None => write!(f, "line {}", self.line),
        }
    }
}

/// A configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("{at}: {text}")]
    Syntax {
        /// Where.
        at: Place,
        /// What is wrong.
        text: String,
    },
    /// Files include each other.
    #[error("{} includes itself, perhaps through others", path.display())]
    Cycle {
        /// The file.
        path: PathBuf,
    },
    /// There is no such field.
    #[error("{at}: unknown field {field}; the nearest is {nearest}")]
    Unknown {
        /// Where.
        at: Place,
        /// Dotted name that was given.
        field: String,
        /// Dotted name of the field that was perhaps meant.
        nearest: String,
    },
    /// The field would have no effect where it stands.
    #[error("{at}: {field} cannot stand here: {reason}")]
    Misplaced {
        /// Where.
        at: Place,
        /// Dotted name of the field.
        field: String,
        /// Why not.
        reason: &'static str,
    },
    /// A number where a text belongs, and the like.
    #[error("{at}: {field} = {value} has the wrong type: it is {expected}")]
    WrongType {
        /// Where.
        at: Place,
        /// Dotted name of the field.
        field: String,
        /// Value as it was written.
        value: String,
        /// Type and range that it has.
        expected: String,
    },
    /// A value is out of range.
    #[error("{}{field} = {value} is out of range: {range}", before(at.as_ref()))]
    Range {
        /// Where; `None`: not in a file, but in code.
        at: Option<Place>,
        /// Dotted name of the field.
        field: String,
        /// Value that was given.
        value: String,
        /// What it must be.
        range: String,
    },
}

fn before(at: Option<&Place>) -> String {
    at.map(|at| format!("{at}: ")).unwrap_or_default()
}

impl IoConfig {
    /// Reads a TOML file and what it includes: the raw part of [`EngineConfig::from_file`], which
    /// checks the store's sections too, so that no tool passes over a mistake in them.
    ///
    /// # Errors
    /// A [`ConfigError`] that names file and line.
    pub fn from_file(path: impl AsRef<Path>) -> Result<IoConfig, ConfigError> {
        EngineConfig::from_file(path).map(|config| config.io)
    }

    /// Checks what does not depend on the machine.
    ///
    /// # Errors
    /// [`ConfigError::Range`] with the first field that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=DISKS_MAX).contains(&self.disks.len()) {
            return Err(ConfigError::Range {
                at: None,
                field: "disks".to_owned(),
                value: self.disks.len().to_string(),
                range: "from 1 to 1,024 disks".to_owned(),
            });
        }
        let reactors = &self.reactors;
        let numbers = [
            ("count", reactors.count.map(u64::from)),
            ("completion_batch", Some(reactors.completion_batch.into())),
            ("settle_us", Some(reactors.settle_us.into())),
        ];
        check_numbers("reactors", &numbers)?;
        let mib = u64::from(self.memory.arena_mib_per_node);
        check_numbers("memory", &[("arena_mib_per_node", Some(mib))])?;
        check_numbers("", &[("calls_max", self.calls_max.map(u64::from))])?;
        check_scheduler("", &self.scheduler)?;
        for (index, disk) in self.disks.iter().enumerate() {
            let section = format!("disks[{index}]");
            let numbers = [("lanes", disk.lanes.map(u64::from)), ("nop_bytes", disk.nop_bytes)];
            check_numbers(&section, &numbers)?;
            check_scheduler(&section, &disk.scheduler)?;
        }
        for (index, entry) in self.calibration.iter().enumerate() {
            let depth = Some(u64::from(entry.depth));
            check_numbers(&format!("calibration[{index}]"), &[("depth", depth)])?;
        }
        Ok(())
    }

    /// The scheduler's configuration of one disk: its own, then the engine's, then calibration.
    pub(crate) fn scheduler_of(&self, disk: usize, serial: Option<&str>) -> SchedulerConfig {
        let own = self.disks[disk].scheduler.clone();
        let all = self.scheduler.clone();
        let path = &self.disks[disk].path;
        let measured = self.calibration.iter().find(|entry| match &entry.serial {
            Some(measured) => serial == Some(measured.as_str()),
            None => entry.path == *path,
        });
        SchedulerConfig {
            depth: own.depth.or(all.depth).or(measured.map(|entry| entry.depth)),
            queue_max: own.queue_max.or(all.queue_max),
            slot_bytes: own.slot_bytes.or(all.slot_bytes),
            split_bytes: own.split_bytes.or(all.split_bytes),
            active_bytes_max: own.active_bytes_max.or(all.active_bytes_max),
            max_wait_us: own.max_wait_us.or(all.max_wait_us),
            aged_every: own.aged_every.or(all.aged_every),
            background_busy_max: own.background_busy_max.or(all.background_busy_max),
            background_busy_bytes: own.background_busy_bytes.or(all.background_busy_bytes),
            background_idle_us: own.background_idle_us.or(all.background_idle_us),
        }
    }
}

fn check_scheduler(section: &str, config: &SchedulerConfig) -> Result<(), ConfigError> {
    let numbers = [
        ("depth", config.depth.map(u64::from)),
        ("queue_max", config.queue_max.map(u64::from)),
        ("slot_bytes", config.slot_bytes),
        ("split_bytes", config.split_bytes),
        ("active_bytes_max", config.active_bytes_max),
        ("aged_every", config.aged_every.map(u64::from)),
        ("background_busy_max", config.background_busy_max.map(u64::from)),
        ("background_busy_bytes", config.background_busy_bytes),
    ];
    check_numbers(&join(section, "scheduler"), &numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_included_calibration_gives_a_depth_by_serial() {
        let folder = std::env::temp_dir().join(format!("dynamicfs-config-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join("cal.toml"),
            "[[calibration]]\npath = \"/dev/x\"\nserial = \"S1\"\ndepth = 77\n",
        )
        .unwrap();
        let main = folder.join("main.toml");
        std::fs::write(&main, "include = [\"cal.toml\"]\n[[disks]]\npath = \"/dev/y\"\n").unwrap();
        let config = IoConfig::from_file(&main).unwrap();
        assert_eq!(config.scheduler_of(0, Some("S1")).depth, Some(77));
        assert_eq!(config.scheduler_of(0, Some("S2")).depth, None);
        std::fs::write(&main, "include = [\"main.toml\"]\n").unwrap();
        assert!(matches!(IoConfig::from_file(&main), Err(ConfigError::Cycle { .. })));
        std::fs::write(&main, "[reactors]\nspinn_us = 4\n").unwrap();
        let text = IoConfig::from_file(&main).unwrap_err().to_string();
        assert!(text.contains("main.toml:2: ") && text.contains("reactors.spin_us"), "{text}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
