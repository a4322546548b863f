//! Making a pool.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde::Serialize;
use uuid::Builder;

use crate::engine::config::{DiskAccess, IoConfig};
use crate::engine::engine_config::{EngineConfig, ReadOnly};
use crate::engine::io_scheduler::IoScheduler;
use crate::engine::storage_engine::failure_domains::arrange;
use crate::engine::storage_engine::labels::{Judged, PoolReport, look_and_judge};
use crate::engine::storage_engine::opening::reactors_possible;
use crate::engine::storage_engine::{DISK_TIME_MIN, EngineError};
use crate::format::disk_set::DISKS_MAX;
use crate::format::layout::{BLOCK_BYTES, Layout};
use crate::io::op::DiskId;
use crate::machine::device::{DeviceError, DeviceInfo, DeviceKind, create_file, probe, zero_file};
use crate::machine::mapping::PagePolicy;
use crate::machine::random;
use crate::machine::write_gate::{ForceSignatures, WriteGate, WriteRefusal};
use crate::memory::Arena;
use crate::store::assembly::Missing;
use crate::store::errand::{LocalFuture, errand};
use crate::store::pool::{DiskPlan, PoolPlan, format as write_pool};
use crate::store::port::Port;

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
    /// The disks, by slot.
    pub disks: Vec<DiskFormatPlan>,
    /// Disks of each slot that hold the same.
    pub mirrors: u16,
    /// Commit domains.
    pub domains: u16,
    /// Bytes of each domain's journal.
    pub journal_bytes: u64,
}

/// What a format would do to a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskFormatPlan {
    /// The disk.
    pub path: PathBuf,
    /// Whether a file of this name would be made.
    pub is_new: bool,
    /// What it fails with, if that was said.
    pub failure_domain: Option<String>,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// The device as probed; none for what is not there yet.
    pub device: Option<DeviceInfo>,
    /// What would be destroyed.
    pub carries: Vec<String>,
    /// Bytes for data and metadata pages.
    pub data_bytes: u64,
}

impl FormatPlan {
    /// What would be destroyed, with the disk that carries it.
    pub fn carries(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.disks
            .iter()
            .flat_map(|disk| disk.carries.iter().map(|found| (disk.path.as_path(), found.as_str())))
    }

    /// Bytes for data and metadata pages, of all slots.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        let slots = self.disks.chunks(usize::from(self.mirrors));
        slots.map(|disks| disks[0].data_bytes).sum()
    }
}

/// The disks of a configuration that is fit for a pool.
pub(super) fn the_disks(config: &EngineConfig) -> Result<Vec<PathBuf>, EngineError> {
    config.check()?;
    let unfit = |field, value: String, reason| Err(EngineError::Unfit { field, value, reason });
    let disks = &config.io.disks;
    if disks.is_empty() {
        return unfit("disks", "0".to_owned(), "a pool has disks; name them");
    }
    for disk in disks {
        if let Some(bytes) = disk.nop_bytes {
            let reason = "a NOP disk keeps nothing; a pool needs a device or file";
            return unfit("disks.nop_bytes", bytes.to_string(), reason);
        }
        if disk.access != DiskAccess::ReadWrite && config.pool.read_only == ReadOnly::No {
            let value = match disk.access {
                DiskAccess::ReadOnlyShared => "\"read_only_shared\"",
                _ => "\"read_only\"",
            };
            let reason = "a pool is made and changed by writing; set it to \"read_write\", or open \
                          the pool with pool.read_only = true";
            return unfit("disks.access", value.to_owned(), reason);
        }
    }
    Ok(disks.iter().map(|disk| disk.path.clone()).collect())
}

struct Planned {
    report: FormatPlan,
    /// With the disks in the order of the slots.
    config: EngineConfig,
    /// By slot.
    layouts: Vec<Layout>,
    /// What the gate said of the first disk that it refuses without [`Overwrite::Yes`].
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
    the_disks(config)?;
    let mirrors = config.pool.mirrors.unwrap_or(1);
    check_mirrors(mirrors, config.io.disks.len())?;
    let mut config = config.clone();
    arrange(&mut config.io.disks, mirrors)?;
    let mut disks = Vec::new();
    let mut refusal = None;
    for disk in &config.io.disks {
        let (mut planned, refused) = plan_disk(&disk.path, options)?;
        planned.failure_domain.clone_from(&disk.failure_domain);
        refusal = refusal.or(refused);
        disks.push(planned);
    }
    twice(&disks)?;
    let domains = match config.pool.domains {
        Some(domains) => domains,
        None => config.pool.domains_for(reactors_possible(&config.io)?),
    };
    let smallest = disks.iter().map(|disk| disk.disk_bytes).min().unwrap_or(0);
    // Each disk has room for the journals of all.
    let journal_bytes = config.journal.bytes_per_domain(smallest, domains);
    let mut layouts = Vec::new();
    for number in 0..disks.len() {
        // The disks of a slot hold the same: as much as the smallest.
        let slot = number - number % mirrors as usize;
        let slot = disks[slot..slot + mirrors as usize].iter();
        let disk_bytes = slot.map(|disk| disk.disk_bytes).min().unwrap_or(0);
        let disk = &mut disks[number];
        let layout = Layout::plan(disk_bytes, domains as u16, journal_bytes);
        let path = || disk.path.clone();
        let layout = layout.map_err(|source| EngineError::Layout { path: path(), source })?;
        disk.data_bytes = u64::from(layout.domains()) * layout.space_blocks() * BLOCK_BYTES;
        layouts.push(layout);
    }
    let (domains, mirrors) = (domains as u16, mirrors as u16);
    let report = FormatPlan { disks, mirrors, domains, journal_bytes };
    Ok(Planned { report, config, layouts, refusal })
}

fn check_mirrors(mirrors: u32, disks: usize) -> Result<(), EngineError> {
    let unfit = |reason| {
        let (field, value) = ("pool.mirrors", mirrors.to_string());
        Err(EngineError::Unfit { field, value, reason })
    };
    if disks > DISKS_MAX {
        let (field, value) = ("pool.disks", disks.to_string());
        return Err(EngineError::Unfit { field, value, reason: "a pool has at most 256 disks" });
    }
    match mirrors {
        1 => Ok(()),
        2..=4 if disks.is_multiple_of(mirrors as usize) => Ok(()),
        2..=4 => unfit("it takes that many disks for each slot: name a multiple of it"),
        _ => unfit("a slot has 1 to 4 disks that hold the same"),
    }
}

fn plan_disk(
    path: &Path,
    options: &FormatOptions,
) -> Result<(DiskFormatPlan, Option<WriteRefusal>), EngineError> {
    let (device, disk_bytes) = match (probe(path), options.create_bytes) {
        (Err(DeviceError::Missing { .. }), Some(bytes)) => (None, bytes),
        (Err(error), _) => return Err(error.into()),
        (Ok(info), _) => {
            let bytes = size_of_device(&info)?;
            (Some(info), bytes)
        }
    };
    let path = path.to_path_buf();
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
    let is_new = device.is_none();
    let (failure_domain, data_bytes) = (None, 0);
    let plan =
        DiskFormatPlan { path, is_new, failure_domain, disk_bytes, device, carries, data_bytes };
    Ok((plan, refusal))
}

/// What a name stands for: the file that is there, or the place where one would be made.
#[derive(PartialEq, Eq)]
enum Meant {
    Existing { device: u64, inode: u64 },
    New(PathBuf),
}

fn meant(disk: &DiskFormatPlan) -> Meant {
    let path = disk.device.as_ref().map_or(&disk.path, |device| &device.resolved_path);
    if let Ok(found) = std::fs::metadata(path) {
        return Meant::Existing { device: found.dev(), inode: found.ino() };
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_path_buf());
    Meant::New(directory.join(path.file_name().unwrap_or_default()))
}

/// Refuses a disk that is named twice, by whatever names.
fn twice(disks: &[DiskFormatPlan]) -> Result<(), EngineError> {
    let all: Vec<Meant> = disks.iter().map(meant).collect();
    match (1..all.len()).find(|number| all[..*number].contains(&all[*number])) {
        None => Ok(()),
        Some(number) => {
            let value = disks[number].path.display().to_string();
            let reason = "the disk is named twice";
            Err(EngineError::Unfit { field: "disks.path", value, reason })
        }
    }
}

fn size_of_device(info: &DeviceInfo) -> Result<u64, EngineError> {
    info.check_size()?;
    let block = u64::from(info.logical_block_bytes);
    Ok(info.size_bytes / block * block)
}

pub(super) fn format(
    config: &EngineConfig,
    options: &FormatOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<PoolReport, EngineError> {
    let Planned { report: plan, config, layouts, refusal } = plan_whole(config, options)?;
    if options.overwrite == Overwrite::No
        && let Some(refusal) = refusal
    {
        return Err(refusal.into());
    }
    let is_file = |info: &DeviceInfo| info.kind == DeviceKind::File;
    let mut written = 0;
    for disk in &plan.disks {
        let before = written;
        let mut told = |bytes| {
            written = before + bytes;
            progress(written);
        };
        if disk.is_new {
            create_file(&disk.path, disk.disk_bytes, &mut told)?;
        } else if options.fill == Fill::Whole && disk.device.as_ref().is_some_and(is_file) {
            zero_file(&disk.path, &mut told)?;
        }
    }
    let random = || random::bytes::<16>().map_err(EngineError::Random);
    let v4 = |bytes| *Builder::from_random_bytes(bytes).into_uuid().as_bytes();
    let incarnation = random::bytes().map_err(EngineError::Random)?;
    let incarnation = u64::from_le_bytes(incarnation);
    let pool = v4(random()?);
    let mut disks = Vec::new();
    for (number, layout) in (0..).zip(layouts) {
        let (number, id) = (DiskId(number), v4(random()?));
        disks.push(DiskPlan { number, id, layout, sector: 0 });
    }
    write(&config, PoolPlan { pool, disks, mirrors: plan.mirrors, incarnation })?;
    let paths: Vec<PathBuf> = plan.disks.iter().map(|disk| disk.path.clone()).collect();
    let Judged { disks, assembly } = look_and_judge(&paths, Missing::Refuse)?;
    let report = PoolReport::of(&disks, &assembly);
    assert_eq!(*report.pool.as_bytes(), pool, "the labels that were written are read");
    Ok(report)
}

/// The blocks of the pool, through an engine with one reactor.
fn write(config: &EngineConfig, mut plan: PoolPlan) -> Result<(), EngineError> {
    let work = move |port: std::rc::Rc<Port>, arena: Arc<Arena>, sectors| -> LocalFuture<_> {
        for (disk, sector) in plan.disks.iter_mut().zip::<Vec<usize>>(sectors) {
            disk.sector = sector;
        }
        Box::pin(async move { write_pool(&port, &arena, &plan).await })
    };
    Ok(on_one_reactor(config, work)??)
}

/// Has work done on all disks of a configuration by an engine with one reactor. It is told the
/// bytes of their logical sectors.
pub(super) fn on_one_reactor<T: Send + 'static>(
    config: &EngineConfig,
    work: impl FnOnce(std::rc::Rc<Port>, Arc<Arena>, Vec<usize>) -> LocalFuture<T> + Send + 'static,
) -> Result<T, EngineError> {
    let mut io_config: IoConfig = config.io.clone();
    io_config.disks.iter_mut().for_each(|disk| disk.lanes = Some(1));
    // Every disk has its lane on that one.
    io_config.reactors.cpus =
        io_config.reactors.cpus.map(|cpus| cpus.into_iter().take(1).collect());
    io_config.reactors.count = io_config.reactors.cpus.is_none().then_some(1);
    io_config.memory.arena_mib_per_node = ARENA_MIB;
    io_config.memory.pages = PagePolicy::Normal;
    let io = IoScheduler::open(&io_config)?;
    let sectors = io.disks().iter().map(|facts| facts.logical_block_bytes as usize).collect();
    let reactor = io.reactors_of(DiskId(0))[0];
    let arena = io.arenas[0].clone();
    let (told, result) = channel();
    let work = move |port| work(port, arena, sectors);
    // The receiver waits for it: it is there.
    io.spawn_seed(reactor, errand(work, move |outcome| drop(told.send(outcome))));
    let outcome = result.recv();
    let closed = io.shut(CLOSE_DEADLINE.max(DISK_TIME_MIN));
    outcome.map_err(|_| {
        let why = closed.err().map_or_else(|| "it ended".into(), |error| error.to_string());
        EngineError::Reactor(why)
    })
}

/// Bytes of a disk that is there and may be written over.
pub(super) fn cleared(path: &Path, overwrite: Overwrite) -> Result<u64, EngineError> {
    let (disk, refusal) = plan_disk(path, &FormatOptions::default())?;
    match refusal {
        Some(refusal) if overwrite == Overwrite::No => Err(refusal.into()),
        _ => Ok(disk.disk_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::DiskConfig;

    #[test]
    fn what_cannot_be_a_pool_is_refused_by_field() {
        let with = |change: fn(&mut EngineConfig)| {
            let mut config = EngineConfig::on_disk("/nonexistent");
            change(&mut config);
            plan(&config, &FormatOptions::default()).unwrap_err().to_string()
        };
        fn disks(count: usize) -> Vec<DiskConfig> {
            let one = EngineConfig::on_disk("/nonexistent").io.disks[0].clone();
            let path = |n: usize| PathBuf::from(format!("/nonexistent-{n}"));
            (0..count).map(|n| DiskConfig { path: path(n), ..one.clone() }).collect()
        }
        for (text, wanted) in [
            (with(|_| ()), "no such device or file"),
            (with(|config| config.io.disks[0].access = DiskAccess::ReadOnly), "disks.access"),
            (with(|config| config.io.disks[0].nop_bytes = Some(1 << 30)), "disks.nop_bytes"),
            (with(|config| config.io.disks.clear()), "disks = 0"),
            (with(|config| config.pool.domains = Some(65)), "pool.domains = 65"),
            (with(|config| config.io.disks = disks(257)), "pool.disks = 257"),
        ] {
            assert!(text.contains(wanted), "{text}");
        }
        let mut config = EngineConfig::on_disk("/nonexistent");
        config.io.disks.push(config.io.disks[0].clone());
        let options = FormatOptions { create_bytes: Some(1 << 30), ..FormatOptions::default() };
        let error = plan(&config, &options).unwrap_err().to_string();
        assert!(error.contains("named twice"), "{error}");
        let config = EngineConfig::on_disk("/nonexistent");
        let small = FormatOptions { create_bytes: Some(1 << 20), ..FormatOptions::default() };
        let error = plan(&config, &small).unwrap_err();
        assert!(matches!(error, EngineError::Layout { .. }), "{error}");
    }
}
