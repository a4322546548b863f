//! Making a pool.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use serde::Serialize;
use uuid::Builder;

use crate::engine::config::{DiskAccess, DiskConfig, IoConfig};
use crate::engine::engine_config::{EngineConfig, ReadOnly};
use crate::engine::io_scheduler::IoScheduler;
use crate::engine::storage_engine::labels::{self, PoolReport};
use crate::engine::storage_engine::opening::reactors_possible;
use crate::engine::storage_engine::{DISK_TIME_MIN, EngineError};
use crate::format::layout::{BLOCK_BYTES, Layout};
use crate::io::op::DiskId;
use crate::machine::device::{DeviceError, DeviceInfo, DeviceKind, create_file, probe, zero_file};
use crate::machine::mapping::PagePolicy;
use crate::machine::random;
use crate::machine::write_gate::{ForceSignatures, WriteGate, WriteRefusal};
use crate::store::errand::errand;
use crate::store::pool::{DiskPlan, PoolPlan, format as write_pool};

/// How long a format waits for its disk to end what is under way, once it has failed.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Memory for the few blocks that a format writes.
const ARENA_MIB: u32 = 2;

/// Whether what a disk carries may be destroyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// A file system, partition table, volume member or pool on it is a refusal.
    #[default]
    No,
    /// They are destroyed. A disk that is mounted or held is refused all the same.
    Yes,
}

/// Whether a file that is there is written over before a pool is made on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// All of it, with zeroes: the file system has nothing left to mark at a first write, which
    /// costs every commit a second flush otherwise.
    #[default]
    Whole,
    /// It was, or slow commits do not matter.
    Skip,
}

/// How to make a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormatOptions {
    /// What to do with a disk that carries something.
    pub overwrite: Overwrite,
    /// What to do with a file that is there.
    pub fill: Fill,
    /// Make a file of so many bytes (a multiple of 4,096) where there is nothing of that name.
    pub create_bytes: Option<u64>,
}

/// What a format would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FormatPlan {
    /// The disk.
    pub path: PathBuf,
    /// Whether a file of this name would be made.
    pub is_new: bool,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// The device as probed; none for what is not there yet.
    pub device: Option<DeviceInfo>,
    /// What would be destroyed.
    pub carries: Vec<String>,
    /// Commit domains.
    pub domains: u16,
    /// Bytes of each domain's journal.
    pub journal_bytes: u64,
    /// Bytes for data and metadata pages.
    pub data_bytes: u64,
}

/// The one disk of a configuration.
pub(super) fn the_disk(config: &EngineConfig) -> Result<&DiskConfig, EngineError> {
    config.check()?;
    let unfit = |field, value: String, reason| Err(EngineError::Unfit { field, value, reason });
    let [disk] = config.io.disks.as_slice() else {
        let count = config.io.disks.len().to_string();
        return unfit("disks", count, "a pool has one disk; name one");
    };
    if let Some(bytes) = disk.nop_bytes {
        let reason = "a NOP disk keeps nothing; a pool needs a device or file";
        return unfit("disks[0].nop_bytes", bytes.to_string(), reason);
    }
    if disk.access != DiskAccess::ReadWrite && config.pool.read_only == ReadOnly::No {
        let value = match disk.access {
            DiskAccess::ReadOnlyShared => "\"read_only_shared\"",
            _ => "\"read_only\"",
        };
        let reason = "a pool is made and changed by writing; set it to \"read_write\", or open the \
                      pool with pool.read_only = true";
        return unfit("disks[0].access", value.to_owned(), reason);
    }
    Ok(disk)
}

struct Planned {
    report: FormatPlan,
    layout: Layout,
    /// What the gate said, if it refuses without [`Overwrite::Yes`].
    refusal: Option<WriteRefusal>,
}

pub(super) fn plan(
    config: &EngineConfig,
    options: &FormatOptions,
) -> Result<FormatPlan, EngineError> {
    plan_whole(config, options).map(|planned| planned.report)
}

fn plan_whole(config: &EngineConfig, options: &FormatOptions) -> Result<Planned, EngineError> {
    if config.pool.read_only == ReadOnly::Yes {
        let (field, value) = ("pool.read_only", "true".to_owned());
        let reason = "a pool is made by writing; leave it out";
        return Err(EngineError::Unfit { field, value, reason });
    }
    let path = the_disk(config)?.path.clone();
    let (device, disk_bytes) = match (probe(&path), options.create_bytes) {
        (Err(DeviceError::Missing { .. }), Some(bytes)) => (None, bytes),
        (Err(error), _) => return Err(error.into()),
        (Ok(info), _) => {
            let bytes = size_of_device(&info)?;
            (Some(info), bytes)
        }
    };
    let mut carries = Vec::new();
    let mut refusal = None;
    if device.is_some() {
        let clearance = WriteGate::check(&path, Some(&path), ForceSignatures::Yes)?;
        carries = clearance.overridden().iter().map(ToString::to_string).collect();
        if !carries.is_empty() {
            let found = clearance.overridden().to_vec();
            refusal = Some(WriteRefusal::HoldsData { path: path.clone(), found });
        }
    }
    let layout = lay_out(config, &path, disk_bytes)?;
    let report = FormatPlan {
        path,
        is_new: device.is_none(),
        disk_bytes,
        device,
        carries,
        domains: layout.domains(),
        journal_bytes: layout.journal_bytes(),
        data_bytes: u64::from(layout.domains()) * layout.space_blocks() * BLOCK_BYTES,
    };
    Ok(Planned { report, layout, refusal })
}

fn size_of_device(info: &DeviceInfo) -> Result<u64, EngineError> {
    info.check_size()?;
    let block = u64::from(info.logical_block_bytes);
    Ok(info.size_bytes / block * block)
}

fn lay_out(config: &EngineConfig, path: &Path, disk_bytes: u64) -> Result<Layout, EngineError> {
    let domains = match config.pool.domains {
        Some(domains) => domains,
        None => config.pool.domains_for(reactors_possible(&config.io)?),
    };
    let journal_bytes = config.journal.bytes_per_domain(disk_bytes, domains);
    Layout::plan(disk_bytes, domains as u16, journal_bytes)
        .map_err(|source| EngineError::Layout { path: path.to_path_buf(), source })
}

pub(super) fn format(
    config: &EngineConfig,
    options: &FormatOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<PoolReport, EngineError> {
    let Planned { report: plan, layout, refusal } = plan_whole(config, options)?;
    if options.overwrite == Overwrite::No
        && let Some(refusal) = refusal
    {
        return Err(refusal.into());
    }
    let is_file = |info: &DeviceInfo| info.kind == DeviceKind::File;
    if plan.is_new {
        create_file(&plan.path, plan.disk_bytes, progress)?;
    } else if options.fill == Fill::Whole && plan.device.as_ref().is_some_and(is_file) {
        zero_file(&plan.path, progress)?;
    }
    let random = || random::bytes::<16>().map_err(EngineError::Random);
    let v4 = |bytes| *Builder::from_random_bytes(bytes).into_uuid().as_bytes();
    let incarnation = random::bytes().map_err(EngineError::Random)?;
    let (pool, id) = (v4(random()?), v4(random()?));
    let incarnation = u64::from_le_bytes(incarnation);
    write(config, (pool, id), layout, incarnation)?;
    let report = labels::inspect(&plan.path)?;
    assert_eq!(*report.pool.as_bytes(), pool, "the label that was written is read");
    Ok(report)
}

/// The blocks of the pool, through an engine with one reactor.
fn write(
    config: &EngineConfig,
    (pool, id): ([u8; 16], [u8; 16]),
    layout: Layout,
    incarnation: u64,
) -> Result<(), EngineError> {
    let mut io_config: IoConfig = config.io.clone();
    io_config.disks[0].lanes = Some(1);
    io_config.reactors.count = io_config.reactors.cpus.is_none().then_some(1);
    io_config.memory.arena_mib_per_node = ARENA_MIB;
    io_config.memory.pages = PagePolicy::Normal;
    let io = IoScheduler::open(&io_config)?;
    let sector = io.disks()[0].logical_block_bytes as usize;
    let disks = vec![DiskPlan { number: DiskId(0), id, layout, sector }];
    let plan = PoolPlan { pool, disks, incarnation };
    let reactor = io.reactors_of(DiskId(0))[0];
    let arena = io.arenas[0].clone();
    let (told, result) = channel();
    let work = move |port: std::rc::Rc<_>| -> crate::store::errand::LocalFuture<_> {
        Box::pin(async move { write_pool(&port, &arena, &plan).await })
    };
    // The receiver waits for it: it is there.
    io.spawn_seed(reactor, errand(work, move |outcome| drop(told.send(outcome))));
    let outcome = result.recv();
    let closed = io.shut(CLOSE_DEADLINE.max(DISK_TIME_MIN));
    match outcome {
        Ok(outcome) => outcome?,
        Err(_) => {
            let why = closed.err().map_or_else(|| "it ended".into(), |error| error.to_string());
            return Err(EngineError::Reactor(why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_pool_is_refused_by_field() {
        let with = |change: fn(&mut EngineConfig)| {
            let mut config = EngineConfig::on_disk("/nonexistent");
            change(&mut config);
            plan(&config, &FormatOptions::default()).unwrap_err().to_string()
        };
        for (text, wanted) in [
            (with(|_| ()), "no such device or file"),
            (with(|config| config.io.disks[0].access = DiskAccess::ReadOnly), "disks[0].access"),
            (with(|config| config.io.disks.push(DiskConfig::default())), "disks = 2"),
            (with(|config| config.io.disks[0].nop_bytes = Some(1 << 30)), "disks[0].nop_bytes"),
            (with(|config| config.io.disks.clear()), "disks = 0"),
            (with(|config| config.pool.domains = Some(65)), "pool.domains = 65"),
        ] {
            assert!(text.contains(wanted), "{text}");
        }
        let config = EngineConfig::on_disk("/nonexistent");
        let small = FormatOptions { create_bytes: Some(1 << 20), ..FormatOptions::default() };
        let error = plan(&config, &small).unwrap_err();
        assert!(matches!(error, EngineError::Layout { .. }), "{error}");
    }
}
