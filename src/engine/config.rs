//! Configuration of the raw block engine, in code or from TOML.
//!
//! A file may `include` others; paths in them are relative to the file that names them. What
//! `dynamicfs-bench calibrate` writes is such a file: its `[[calibration]]` entries give a depth
//! target to the disks whose serial number, or path where there is none, they name.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::machine::mapping::PagePolicy;
use crate::scheduler::limits::SchedulerConfig;

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
    /// Milliseconds to wait for a disk that is in use before giving up.
    pub busy_wait_ms: u64,
    /// Poll for completions.
    pub polled: Polled,
    /// Every submission is a NOP on a disk of this many bytes: measures software alone.
    pub nop_bytes: Option<u64>,
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
#[serde(default)]
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
    /// Files whose entries are added to this one's.
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
    /// The file is not valid; the text has line and column.
    #[error("{}: {text}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column, and what is wrong.
        text: String,
    },
    /// Files include each other.
    #[error("{} includes itself, perhaps through others", path.display())]
    Cycle {
        /// The file.
        path: PathBuf,
    },
    /// A value is out of range.
    #[error("{field} = {value} is out of range: {range}")]
    Range {
        /// Dotted name of the field.
        field: &'static str,
        /// Value that was given.
        value: u64,
        /// What it must be.
        range: &'static str,
    },
}

impl IoConfig {
    /// Reads a TOML file and what it includes.
    pub fn from_file(path: impl AsRef<Path>) -> Result<IoConfig, ConfigError> {
        IoConfig::read(path.as_ref(), &mut Vec::new())
    }

    fn read(path: &Path, above: &mut Vec<PathBuf>) -> Result<IoConfig, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let canonical = path.canonicalize().map_err(failed)?;
        if above.contains(&canonical) {
            return Err(ConfigError::Cycle { path: path.to_owned() });
        }
        let text = std::fs::read_to_string(&canonical).map_err(failed)?;
        let mut config: IoConfig = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            text: error.to_string(),
        })?;
        let folder = canonical.parent().unwrap_or(Path::new("/")).to_owned();
        above.push(canonical);
        for include in std::mem::take(&mut config.include) {
            let included = IoConfig::read(&folder.join(include), above)?;
            config.calibration.extend(included.calibration);
            config.disks.extend(included.disks);
        }
        above.pop();
        Ok(config)
    }

    /// Checks what does not depend on the machine.
    pub fn check(&self) -> Result<(), ConfigError> {
        let range = |field, value: u64, low, high, range| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::Range { field, value, range })
            }
        };
        let reactors = &self.reactors;
        range("disks", self.disks.len() as u64, 1, 1024, "from 1 to 1,024 disks")?;
        range(
            "reactors.completion_batch",
            reactors.completion_batch.into(),
            1,
            64,
            "from 1 to 64",
        )?;
        range("reactors.settle_us", reactors.settle_us.into(), 1, 10_000, "from 1 to 10,000")?;
        let mib = u64::from(self.memory.arena_mib_per_node);
        range("memory.arena_mib_per_node", mib, 2, 1 << 20, "from 2 to 1,048,576")?;
        let calls = u64::from(self.calls_max.unwrap_or(1));
        range("calls_max", calls, 1, 1 << 24, "from 1 to 16,777,216")?;
        for disk in &self.disks {
            let lanes = u64::from(disk.lanes.unwrap_or(1));
            range("disks.lanes", lanes, 1, 64, "from 1 to 64")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_the_defaults_and_the_others_are_valid() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let default = IoConfig::from_file(configs.join("default.toml")).unwrap();
        assert_eq!(default, IoConfig::default());
        // What is commented out is valid as well.
        let text = std::fs::read_to_string(configs.join("default.toml")).unwrap();
        let field = |line: &str| line.starts_with("# [") || line.contains(" = ");
        let lines = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if field(line) && !rest.starts_with("A disk") => rest,
            _ => line,
        });
        let whole: String = lines.map(|line| format!("{line}\n")).collect();
        let config: IoConfig = toml::from_str(&whole).unwrap();
        assert_eq!(config.disks.len(), 1);
        assert_eq!(config.reactors.cpus, Some(vec![2, 3]));
        for name in ["nvme.toml", "file.toml"] {
            IoConfig::from_file(configs.join(name)).unwrap().check().unwrap();
        }
    }

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
        assert!(text.contains("line 2") && text.contains("spin_us"), "{text}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
