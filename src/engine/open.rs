//! Opening the raw block engine: disks, plan, threads, rings; all or nothing.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::config::{DiskAccess, DiskConfig, IoConfig, Polled};
use crate::engine::error::OpenError;
use crate::engine::gate::{Gate, make_lanes};
use crate::engine::io_scheduler::{IoScheduler, ReactorEnd, ReactorHandle};
use crate::engine::status::ReactorStatus;
use crate::engine::thread::{ArenaOrder, Seed};
use crate::engine::vacancies::Vacancies;
use crate::io::backend::DiskFacts;
use crate::io::op::{DiskId, Priority};
use crate::machine::device::{Access, Device, DeviceInfo, DeviceKind, Exclusive, OpenOptions};
use crate::machine::mapping::{PagePolicy, Pages};
use crate::machine::memory_disk::MemoryDisk;
use crate::machine::topology::Topology;
use crate::machine::uring::try_polled_read;
use crate::machine::wake::WakeEvent;
use crate::memory::Arena;
use crate::memory::arena::REGISTERED_BYTES_MAX;
use crate::placement::{
    DiskRequest, HardwareThreads, LaneSlot, Locality, Placement, PlacementRequest, ReactorChoice,
    plan,
};
use crate::reactor::Tuning;
use crate::reactor::lane::Lane;
use crate::reactor::shared::{Calls, ReactorShared};
use crate::scheduler::limits::{Limits, SchedulerConfig};

/// Schedulers below us that look at priorities.
const LISTENING_SCHEDULERS: [&str; 2] = ["mq-deadline", "bfq"];
/// Most calls that can be open without `calls_max`.
const CALLS_DEFAULT_MAX: u32 = 1 << 18;

/// With so many places beside the disks for others that come later. Such a place has as many lanes
/// as the first disk.
pub(super) fn open(config: &IoConfig, vacant: u16) -> Result<IoScheduler, OpenError> {
    config.check()?;
    let (devices, disks) = open_disks(config, vacant)?;
    let topology = Topology::detect()?;
    let mut placement = plan(&topology, &request(config, &devices))?;
    add_vacant_lanes(&mut placement, config, vacant);
    let limits = resolve_limits(config, &devices, &disks)?;
    let calls = Arc::new(Calls::new(calls_max(config, &limits)));
    let wakes = placement.reactors.iter().map(|_| WakeEvent::new().map(Arc::new));
    let wakes: Vec<Arc<WakeEvent>> = wakes
        .collect::<Result<_, _>>()
        .map_err(|source| OpenError::System { action: "make an eventfd", source })?;
    let shared: Vec<Arc<ReactorShared>> = wakes
        .iter()
        .map(|wake| Arc::new(ReactorShared::new(Arc::clone(&calls), wake.clone())))
        .collect();
    let single_class = config.priorities_off.then_some(Priority::NormalRead);
    let (lanes, routes) = make_lanes(&placement.lanes, single_class, &disks, &limits, &shared);
    let start = Instant::now();
    let start_order =
        StartOrder { config, topology: &topology, placement: &placement, disks: &disks, start };
    let files = duplicate_all(&devices)?;
    let (reactors, arenas) = start_order.start_all(lanes, &shared, wakes, &files)?;
    let closing = AtomicBool::new(false);
    let gate = Gate { disks, limits, routes, reactors: shared, calls, closing };
    placement.notes.extend(arenas.iter().filter_map(|arena| page_note(config, arena)));
    placement.notes.extend(gate.disks.iter().filter_map(memory_note));
    let infos = devices.iter().map(|device| device.as_ref().map(|device| device.info().clone()));
    let (devices, held) = (infos.collect(), Mutex::new(devices));
    let vacancies = Vacancies::new(config, vacant);
    Ok(IoScheduler { gate, reactors, arenas, devices, held, placement, start, vacancies })
}

/// What to say when an arena is not made of the pages that were wanted.
fn page_note(config: &IoConfig, arena: &Arena) -> Option<String> {
    let (wanted, found) = (config.memory.pages, arena.status().pages);
    let got = match (wanted, found) {
        (PagePolicy::Gigantic, Pages::Gigantic) | (PagePolicy::Huge, Pages::Huge) => return None,
        (PagePolicy::Normal, _) => return None,
        (_, Pages::Gigantic | Pages::Huge) => "2 MiB huge pages",
        (_, Pages::Transparent) => "transparent huge pages, as far as the kernel finds some",
        (_, Pages::Normal) => "4 KiB pages",
    };
    let kind = if wanted == PagePolicy::Gigantic { "1 GiB" } else { "2 MiB" };
    Some(format!("no {kind} huge pages were free (see vm.nr_hugepages): buffers use {got}"))
}

fn memory_note(disk: &DiskFacts) -> Option<String> {
    let path = disk.memory.as_ref().map(|_| &disk.path)?;
    Some(format!("{path} is in memory: nothing on it outlives the machine's next boot"))
}

fn calls_max(config: &IoConfig, limits: &[Limits]) -> u32 {
    let waiting: u64 = limits
        .iter()
        .zip(&config.disks)
        .map(|(limits, disk)| u64::from(limits.watermarks[0]) * u64::from(disk.lanes.unwrap_or(1)))
        .sum();
    config.calls_max.unwrap_or((2 * waiting).min(u64::from(CALLS_DEFAULT_MAX)) as u32)
}

type OpenDisks = (Vec<Option<Device>>, Arc<[DiskFacts]>);

fn open_disks(config: &IoConfig, vacant: u16) -> Result<OpenDisks, OpenError> {
    let mut devices = Vec::new();
    let mut disks = Vec::new();
    for (index, disk) in config.disks.iter().enumerate() {
        let id = DiskId(index as u16);
        match disk.nop_bytes {
            Some(size_bytes) => {
                if disk.in_memory {
                    let source = std::io::Error::other("nop_bytes says that there is no disk");
                    return Err(OpenError::NotInMemory { path: "nop".into(), source });
                }
                disks.push(nop_facts(id, size_bytes / 4096 * 4096));
                devices.push(None);
            }
            None => {
                let (device, facts) = open_disk(id, disk)?;
                disks.push(facts);
                devices.push(Some(device));
            }
        }
    }
    for _ in 0..vacant {
        disks.push(DiskFacts::vacant(DiskId(disks.len() as u16)));
        devices.push(None);
    }
    Ok((devices, disks.into()))
}

/// Opens a disk, and looks at what it is.
pub(super) fn open_disk(id: DiskId, disk: &DiskConfig) -> Result<(Device, DiskFacts), OpenError> {
    let device = Device::open(&disk.path, &options(disk))?;
    let facts = facts(id, disk, &device)?;
    Ok((device, facts))
}

fn options(disk: &DiskConfig) -> OpenOptions {
    let (access, exclusive) = match disk.access {
        DiskAccess::ReadOnly => (Access::ReadOnly, Exclusive::Yes),
        DiskAccess::ReadOnlyShared => (Access::ReadOnly, Exclusive::No),
        DiskAccess::ReadWrite => (Access::ReadWrite, Exclusive::Yes),
    };
    OpenOptions { access, exclusive, busy_wait: Duration::from_millis(disk.busy_wait_ms) }
}

fn nop_facts(id: DiskId, size_bytes: u64) -> DiskFacts {
    DiskFacts {
        id,
        path: "nop".into(),
        size_bytes,
        logical_block_bytes: 512,
        raw_device: true,
        nr_requests: 0,
        nop: true,
        memory: None,
        priority_hints: false,
        polled: false,
        read_only: false,
    }
}

fn facts(id: DiskId, disk: &DiskConfig, device: &Device) -> Result<DiskFacts, OpenError> {
    let info = device.info();
    let block = u64::from(info.logical_block_bytes);
    let queue = info.queue.as_ref();
    let scheduler = queue.and_then(|queue| queue.scheduler.as_deref());
    // What is only read is read by the kernel.
    let is_mapped = disk.in_memory && disk.access == DiskAccess::ReadWrite;
    let memory = is_mapped.then(|| memory_disk(disk, device)).transpose()?;
    Ok(DiskFacts {
        id,
        path: disk.path.to_string_lossy().into(),
        size_bytes: info.size_bytes / block * block,
        logical_block_bytes: info.logical_block_bytes,
        raw_device: info.kind == DeviceKind::Block,
        nr_requests: queue.and_then(|queue| queue.nr_requests).unwrap_or(0),
        nop: memory.is_some(),
        memory,
        priority_hints: scheduler.is_some_and(|name| LISTENING_SCHEDULERS.contains(&name)),
        polled: polled(disk, info, device)?,
        read_only: disk.access != DiskAccess::ReadWrite,
    })
}

fn memory_disk(disk: &DiskConfig, device: &Device) -> Result<Arc<MemoryDisk>, OpenError> {
    let mapped = MemoryDisk::map(device.as_fd());
    mapped.map(Arc::new).map_err(|source| {
        let path = disk.path.display().to_string();
        OpenError::NotInMemory { path, source }
    })
}

/// Whether the disk is polled: poll queues are there and a real read through them succeeded.
fn polled(disk: &DiskConfig, info: &DeviceInfo, device: &Device) -> Result<bool, OpenError> {
    if disk.polled == Polled::Off {
        return Ok(false);
    }
    let queues = info.kind == DeviceKind::Block && info.queue.as_ref().is_some_and(|q| q.io_poll);
    let tried = if queues {
        try_polled_read(device.as_fd().as_raw_fd(), info.logical_block_bytes)
            .map_err(|error| error.to_string())
    } else {
        Err("it has no poll queues".to_owned())
    };
    match (tried, disk.polled) {
        (Ok(()), _) => Ok(true),
        (Err(_), Polled::Auto) => Ok(false),
        (Err(reason), _) => {
            Err(OpenError::NotPollable { path: disk.path.display().to_string(), reason })
        }
    }
}

/// The device name that the topology knows the disk by.
fn disk_name(index: usize, path: &Path, device: Option<&Device>) -> String {
    if path.as_os_str().is_empty() {
        // NOP disks have no path, and two of them are two disks.
        return format!("nop disk {index}");
    }
    let info = device.map(Device::info);
    let name = info.map(|info| match info.kind {
        // Files in two directories may have one name.
        DeviceKind::File => info.resolved_path.display().to_string(),
        _ => info.parent_disk.clone().unwrap_or_else(|| info.name.clone()),
    });
    name.unwrap_or_else(|| path.display().to_string())
}

fn request(config: &IoConfig, devices: &[Option<Device>]) -> PlacementRequest {
    let disks = config.disks.iter().zip(devices).enumerate();
    let disks = disks.map(|(index, (disk, device))| DiskRequest {
        name: disk_name(index, &disk.path, device.as_ref()),
        node: device.as_ref().and_then(|device| device.info().numa_node),
        rotational: device.as_ref().is_some_and(|device| device.info().is_rotational()),
        lanes: disk.lanes,
        interrupt_cpus: device
            .as_ref()
            .map_or_else(Vec::new, |device| device.info().interrupt_cpus.clone()),
    });
    let reactors = match (&config.reactors.cpus, config.reactors.count) {
        (Some(cpus), _) => ReactorChoice::Cpus(cpus.clone()),
        (None, Some(count)) => ReactorChoice::Count(count),
        (None, None) => ReactorChoice::Auto,
    };
    let hardware_threads = if config.reactors.all_hardware_threads {
        HardwareThreads::All
    } else {
        HardwareThreads::OnePerCore
    };
    PlacementRequest { disks: disks.collect(), reactors, hardware_threads }
}

/// Lanes of places without a disk: they are on the reactors that have the first disk's, so that
/// whoever reaches that one reaches those too, and nothing is placed by them.
fn add_vacant_lanes(placement: &mut Placement, config: &IoConfig, vacant: u16) {
    let of_first = placement.lanes.iter().filter(|lane| lane.disk == 0);
    let of_first: Vec<LaneSlot> = of_first.cloned().collect();
    for place in 0..usize::from(vacant) {
        let disk = config.disks.len() + place;
        let as_there = |lane: &LaneSlot| LaneSlot { disk, local: Locality::Unknown, ..*lane };
        placement.lanes.extend(of_first.iter().map(as_there));
    }
}

fn resolve_limits(
    config: &IoConfig,
    devices: &[Option<Device>],
    disks: &[DiskFacts],
) -> Result<Vec<Limits>, OpenError> {
    let each = disks.iter().enumerate().map(|(index, facts)| {
        let Some(disk) = config.disks.get(index) else {
            return limits_of(config, &config.scheduler, facts, config.disks[0].lanes);
        };
        let serial = devices[index].as_ref().and_then(|device| device.info().serial.clone());
        let scheduler = config.scheduler_of(index, serial.as_deref());
        limits_of(config, &scheduler, facts, disk.lanes)
    });
    each.collect()
}

/// Limits of each lane of a disk.
pub(super) fn limits_of(
    config: &IoConfig,
    scheduler: &SchedulerConfig,
    facts: &DiskFacts,
    lanes: Option<u32>,
) -> Result<Limits, OpenError> {
    let limits = Limits::resolve(scheduler, facts.nr_requests, lanes.unwrap_or(1))
        .map_err(|source| OpenError::Limits { path: facts.path.to_string(), source })?;
    Ok(if config.priorities_off { limits.without_priorities() } else { limits })
}

fn duplicate_all(devices: &[Option<Device>]) -> Result<Arc<[Option<OwnedFd>]>, OpenError> {
    let action = "duplicate a disk's descriptor";
    let copies = devices.iter().map(|device| {
        let copy = device.as_ref().map(|device| device.as_fd().try_clone_to_owned());
        copy.transpose().map_err(|source| OpenError::System { action, source })
    });
    Ok(copies.collect::<Result<Vec<_>, _>>()?.into())
}

struct StartOrder<'a> {
    config: &'a IoConfig,
    topology: &'a Topology,
    placement: &'a Placement,
    disks: &'a Arc<[DiskFacts]>,
    start: Instant,
}

type Started = (Vec<ReactorHandle>, Vec<Arc<Arena>>);

/// The engine's ends of the channels to one starting thread.
struct Starting {
    arena_made: Receiver<Result<Option<Arc<Arena>>, OpenError>>,
    arenas: Sender<Vec<Arc<Arena>>>,
    ready: Receiver<Result<ReactorStatus, OpenError>>,
    ended: Receiver<ReactorEnd>,
    thread: JoinHandle<()>,
}

impl StartOrder<'_> {
    /// Starts every thread and waits until all are ready. On an error none is left.
    fn start_all(
        &self,
        lanes: Vec<Vec<Lane>>,
        shared: &[Arc<ReactorShared>],
        wakes: Vec<Arc<WakeEvent>>,
        files: &Arc<[Option<OwnedFd>]>,
    ) -> Result<Started, OpenError> {
        let mut starting = Vec::new();
        let mut spawned = Ok(());
        for (number, (lanes, wake)) in lanes.into_iter().zip(wakes).enumerate() {
            let shared = Arc::clone(&shared[number]);
            match self.spawn(number, lanes, shared, wake, Arc::clone(files)) {
                Ok(thread) => starting.push(thread),
                Err(error) => {
                    spawned = Err(error);
                    break;
                }
            }
        }
        let (arenas, statuses) = match spawned.and_then(|()| get_ready(&starting)) {
            Ok(ready) => ready,
            Err(error) => {
                shared.iter().for_each(|s| s.order(crate::reactor::shared::Control::Drain));
                for Starting { arenas, thread, .. } in starting {
                    // A thread that waits for the arenas ends when they cannot come any more.
                    drop(arenas);
                    drop(thread.join());
                }
                return Err(error);
            }
        };
        let handles = starting.into_iter().zip(statuses).zip(shared);
        let handles = handles.map(|((thread, status), shared)| ReactorHandle {
            shared: Arc::clone(shared),
            ended: Mutex::new(thread.ended),
            thread: Mutex::new(Some(thread.thread)),
            status,
        });
        Ok((handles.collect(), arenas))
    }

    fn spawn(
        &self,
        number: usize,
        lanes: Vec<Lane>,
        shared: Arc<ReactorShared>,
        wake: Arc<WakeEvent>,
        files: Arc<[Option<OwnedFd>]>,
    ) -> Result<Starting, OpenError> {
        let (arena_made_tx, arena_made) = channel();
        let (arenas, arenas_rx) = channel();
        let (ready_tx, ready) = channel();
        let (ended_tx, ended) = channel();
        let reactors = &self.config.reactors;
        let seed = Seed {
            slot: self.placement.reactors[number].clone(),
            node_cpus: self.node_cpus(number),
            lanes,
            shared,
            wake,
            disks: Arc::clone(self.disks),
            files,
            tuning: Tuning {
                spin_ns: reactors.spin_us.saturating_mul(1000),
                completion_batch: reactors.completion_batch,
                settle_us: reactors.settle_us,
            },
            arena: self.arena_order(number),
            register_buffers: self.config.memory.register,
            start: self.start,
            arena_made: arena_made_tx,
            arenas: arenas_rx,
            ready: ready_tx,
            ended: ended_tx,
        };
        let name = format!("dynamicfs-{number}");
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || crate::engine::thread::main(seed))
            .map_err(|source| OpenError::System { action: "start a reactor's thread", source })?;
        Ok(Starting { arena_made, arenas, ready, ended, thread })
    }

    /// CPUs of a reactor's node, or all where there are no nodes.
    fn node_cpus(&self, number: usize) -> Vec<u32> {
        let node = self.placement.reactors[number].node;
        let found = self.topology.nodes.iter().find(|other| Some(other.os_index) == node);
        found.map_or_else(|| self.topology.cpus(), |found| found.cpus.clone())
    }

    /// The first reactor of each node maps the node's arena.
    fn arena_order(&self, number: usize) -> Option<ArenaOrder> {
        let node = self.placement.reactors[number].node;
        let before = &self.placement.reactors[..number];
        if before.iter().any(|other| other.node == node) {
            return None;
        }
        let mut nodes: Vec<Option<u32>> = before.iter().map(|other| other.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let bytes = (self.config.memory.arena_mib_per_node as usize) << 20;
        let pieces = bytes.div_ceil(REGISTERED_BYTES_MAX);
        let first_piece = (nodes.len() * pieces) as u16;
        Some(ArenaOrder { bytes, pages: self.config.memory.pages, first_piece })
    }
}

/// Collects the arenas, hands them round, waits until all are ready.
fn get_ready(starting: &[Starting]) -> Result<(Vec<Arc<Arena>>, Vec<ReactorStatus>), OpenError> {
    let mut arenas = Vec::new();
    for thread in starting {
        arenas.extend(receive(&thread.arena_made)?);
    }
    for thread in starting {
        let _ = thread.arenas.send(arenas.clone());
    }
    let statuses = starting.iter().map(|thread| receive(&thread.ready));
    Ok((arenas, statuses.collect::<Result<_, _>>()?))
}

fn receive<T>(from: &Receiver<Result<T, OpenError>>) -> Result<T, OpenError> {
    let gone = || OpenError::System {
        action: "start a reactor",
        source: std::io::Error::other("its thread ended early"),
    };
    from.recv().unwrap_or_else(|_| Err(gone()))
}
