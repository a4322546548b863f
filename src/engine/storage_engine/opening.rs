//! Opening a pool: labels, reactors, one domain after another beside each other; all or nothing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::engine::config::{DiskAccess, IoConfig};
use crate::engine::engine_config::{
    CommitDurability, CommitMode, DiscardWhen, EngineConfig, InlineWhen, ReadOnly,
};
use crate::engine::io_scheduler::IoScheduler;
use crate::engine::storage_engine::failure_domains::shared;
use crate::engine::storage_engine::format::the_disks;
use crate::engine::storage_engine::labels::{
    ANSWERS_WITHIN, Judged, Labelled, PoolReport, answer, judge_each, look_and_judge,
};
use crate::engine::storage_engine::{DomainHandle, EngineError, OpenPool, StorageEngine};
use crate::format::disk_set::DiskSet;
use crate::format::label::{LABEL_BYTES, Label};
use crate::format::layout::BLOCK_BYTES;
use crate::io::backend::DiskFacts;
use crate::io::op::DiskId;
use crate::machine::device::{DeviceInfo, DeviceKind};
use crate::machine::random;
use crate::machine::topology::Topology;
use crate::memory::Arena;
use crate::store::assembly::{Assembly, Missing};
use crate::store::discard::PART_BYTES;
use crate::store::domain::{Access, Closing, DomainConfig, Inline, Undecidable};
use crate::store::errand::{LocalFuture, errand};
use crate::store::mechanism::{Mechanism, MechanismChoice};
use crate::store::member::{Disks, Members, MirrorDisk};
use crate::store::membership::NotDurable;
use crate::store::pool::{LabelCopies, PoolError, mend_labels, read_labels};
use crate::store::port::Port;
use crate::store::recovery::{DomainSeed, RecoveryError, RecoveryReport};
use crate::store::service::{Doorstep, StoreCalls, domain_task};

/// How long a disk in use is waited for at least: a process that was killed lets go of it when its
/// last I/O has ended.
const BUSY_WAIT_MS_MIN: u64 = 2_000;
/// How long an opening that failed waits for its disk.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// MiB of each domain beside its write-back: checkpoint pages, records, blocks read in part.
const DOMAIN_MIB: u64 = 24;

/// What an opening may give up because the caller says so. Nothing of it stands in a configuration
/// file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Force {
    /// What to do about a last record that may have been acknowledged and cannot be read.
    pub undecidable: Undecidable,
    /// What to do when half of the disks that have everything, or more, are missing.
    pub missing: Missing,
}

/// Reactors that this machine and configuration can have.
pub(super) fn reactors_possible(config: &IoConfig) -> Result<u32, EngineError> {
    let reactors = &config.reactors;
    if let Some(cpus) = &reactors.cpus {
        return Ok(cpus.len() as u32);
    }
    if let Some(count) = reactors.count {
        return Ok(count);
    }
    let topology = Topology::detect()?;
    let places = match reactors.all_hardware_threads {
        true => topology.cpus().len(),
        false => topology.cores.len(),
    };
    Ok(places as u32)
}

/// What a domain is told of the configuration.
fn domain_config(config: &EngineConfig, force: Force) -> DomainConfig {
    let (journal, commit, checkpoint) = (&config.journal, &config.commit, &config.checkpoint);
    let nanoseconds = |time: Duration| time.as_nanos() as u64;
    let default = DomainConfig::default();
    let pages_max = config.table.bytes_max().map(|bytes| bytes / BLOCK_BYTES);
    let table_pages_max = pages_max.map_or(u32::MAX, |pages| pages as u32);
    DomainConfig {
        access: match config.pool.read_only {
            ReadOnly::Yes => Access::ReadOnly,
            ReadOnly::No => Access::ReadWrite,
        },
        undecidable: force.undecidable,
        requests_max: config.operations.in_flight_max as usize,
        closing: match commit.mode {
            CommitMode::Adaptive => Closing::Adaptive,
            CommitMode::Linger => {
                Closing::Linger { delay_ns: nanoseconds(commit.batch_delay_max()) }
            }
        },
        batch_ops_max: commit.batch_ops_max(),
        batch_bytes_max: commit.batch_bytes_max(),
        inline_bytes_per_write: journal.inline_bytes_per_write(),
        inline_bytes_per_batch: journal.inline_bytes_per_batch(),
        inline_when: match journal.inline_when {
            InlineWhen::Idle => Inline::Idle,
            InlineWhen::Always => Inline::Always,
        },
        write_back_bytes: journal.writeback_bytes_max(),
        mechanism: match commit.durability {
            CommitDurability::Auto => MechanismChoice::Measured,
            CommitDurability::Flush => MechanismChoice::Fixed(Mechanism::Flush),
            CommitDurability::Dsync => MechanismChoice::Fixed(Mechanism::Dsync),
        },
        seal_idle_ns: nanoseconds(commit.seal_idle()),
        checkpoint_percent: checkpoint.start_fill_percent.into(),
        urgent_percent: checkpoint.urgent_fill_percent.into(),
        checkpoint_pages: checkpoint.pages_in_flight as usize,
        gather_extents: config.batcher.max_extents as usize,
        gather_bytes: config.batcher.bytes_max() as usize,
        pages: config.io.memory.pages,
        table_pages_per_chunk: table_pages_max.min(default.table_pages_per_chunk),
        table_pages_max,
        ..default
    }
}

/// In parts of how many bytes a disk is told of what became free; 0: it is not.
pub(super) fn discard_part_bytes(info: Option<&DeviceInfo>, when: DiscardWhen) -> u64 {
    let queue = info.and_then(|info| info.queue.as_ref());
    let takes_it = queue.is_some_and(|queue| queue.discard_max_bytes > 0);
    let is_file = info.is_some_and(|info| info.kind == DeviceKind::File);
    let unit = queue.map_or(0, |queue| queue.discard_granularity_bytes);
    match when {
        DiscardWhen::Always if is_file => PART_BYTES,
        DiscardWhen::Auto | DiscardWhen::Always if takes_it && !is_file => {
            unit.max(1).next_multiple_of(PART_BYTES)
        }
        _ => 0,
    }
}

/// The raw engine below a pool with such labels.
fn io_config(config: &EngineConfig, label: &Label) -> Result<IoConfig, EngineError> {
    let (mut io, domains) = (config.io.clone(), label.layout.domains());
    let possible = reactors_possible(&config.io)?;
    if label.disks() == 1 {
        let disk = &mut io.disks[0];
        disk.lanes = disk.lanes.or(Some(possible.clamp(1, domains.max(1).into())));
    } else {
        // Each domain reaches each disk from its own reactor.
        let lanes = match io.reactors.cpus {
            Some(_) => possible,
            None => possible.clamp(1, domains.max(1).into()),
        };
        if let Some(given) = io.disks.iter().find_map(|disk| disk.lanes.filter(|l| *l != lanes)) {
            let reason = "in a pool of several disks each has a lane on each reactor; leave it out";
            let (field, value) = ("disks.lanes", given.to_string());
            return Err(EngineError::Unfit { field, value, reason });
        }
        io.reactors.count = io.reactors.cpus.is_none().then_some(lanes);
        io.disks.iter_mut().for_each(|disk| disk.lanes = Some(lanes));
    }
    for disk in &mut io.disks {
        disk.busy_wait_ms = disk.busy_wait_ms.max(BUSY_WAIT_MS_MIN);
        if config.pool.read_only == ReadOnly::Yes && disk.access == DiskAccess::ReadWrite {
            disk.access = DiskAccess::ReadOnly;
        }
    }
    let each = u64::from(config.journal.writeback_mib) + DOMAIN_MIB;
    let own = u32::try_from(each * u64::from(domains)).unwrap_or(u32::MAX);
    io.memory.arena_mib_per_node = io.memory.arena_mib_per_node.saturating_add(own);
    Ok(io)
}

pub(super) fn open(config: &EngineConfig, force: Force) -> Result<StorageEngine, EngineError> {
    let paths = the_disks(config)?;
    // Only to know how many lanes to open; what counts is read again once the disks are ours.
    let seen = look_and_judge(&paths, force.missing)?;
    let mut config = config.clone();
    config.io.disks.retain(|disk| seen.disks.iter().any(|seen| seen.path == disk.path));
    let paths: Vec<PathBuf> = config.io.disks.iter().map(|disk| disk.path.clone()).collect();
    let places = match config.pool.read_only {
        ReadOnly::Yes => 0,
        ReadOnly::No => config.pool.vacant_places as u16,
    };
    let io = IoScheduler::open_with_places(&io_config(&config, &seen.assembly.label)?, places)?;
    match start(&io, (&config, force), (&paths, seen.assembly.notes)) {
        Ok((domains, pool, disks)) => {
            let open = OpenPool {
                io,
                domains,
                pool,
                slots_at_opening: disks.members.len(),
                disks,
                creations: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
                is_read_only: config.pool.read_only == ReadOnly::Yes,
                discard: config.pool.discard,
                attaching: Mutex::default(),
                #[cfg(feature = "control")]
                control: Mutex::default(),
                control_failed: OnceLock::new(),
            };
            let engine = StorageEngine { open: Arc::new(open), is_guest: false };
            #[cfg(feature = "control")]
            engine.serve_control(&config)?;
            #[cfg(not(feature = "control"))]
            without_control(&config)?;
            Ok(engine)
        }
        Err(error) => {
            let closed = io.shut(CLOSE_DEADLINE);
            // A reactor's own words say more than that it did not answer.
            match (error, closed) {
                (EngineError::Reactor(_), Err(why)) => Err(EngineError::Reactor(why.to_string())),
                (error, _) => Err(error),
            }
        }
    }
}

/// Refuses a socket that is asked for by name.
#[cfg(not(feature = "control"))]
fn without_control(config: &EngineConfig) -> Result<(), EngineError> {
    use crate::engine::engine_config::ControlSocket;
    let ControlSocket::At(path) = &config.control.socket else { return Ok(()) };
    let (field, value) = ("control.socket", path.display().to_string());
    let reason = "this program was built without the feature `control`";
    Err(EngineError::Unfit { field, value, reason })
}

fn start(
    io: &IoScheduler,
    (config, force): (&EngineConfig, Force),
    (paths, seen): (&[PathBuf], Vec<String>),
) -> Result<(Vec<DomainHandle>, PoolReport, Arc<Disks>), EngineError> {
    let by = Instant::now() + ANSWERS_WITHIN;
    let looking = (0..paths.len()).map(|number| Ok(begin_labels(io, &io.disks()[number])));
    let looking: Vec<_> = looking.collect();
    let found = |number: u16, found: Receiver<_>| {
        let (path, facts) = (&paths[usize::from(number)], &io.disks()[usize::from(number)]);
        Labelled::new((number, path), answer(&found, by, path)??, facts.size_bytes)
    };
    let Judged { mut disks, assembly } = judge_each(force.missing, looking, found)?;
    let members = Arc::new(members(io, config, (&disks, &assembly))?);
    if config.pool.read_only == ReadOnly::No {
        for disk in disks.iter_mut().filter(|disk| disk.in_sync) {
            disk.described = mend(io, DiskId(disk.number), disk)?;
        }
        raise(io, &members, assembly.in_sync)?;
    }
    let mut report = PoolReport::of(&disks, &assembly);
    (report.epoch, _) = members.membership.durable();
    let of_config = disks.iter().map(|disk| config.io.disks[usize::from(disk.number)].clone());
    let slots: Vec<u16> = disks.iter().map(|disk| disk.label.slot).collect();
    let of_one = shared(&of_config.collect::<Vec<_>>(), &assembly, &slots);
    for note in seen.into_iter().chain(of_one) {
        if !report.notes.contains(&note) {
            report.notes.push(note);
        }
    }
    let pool = assembly.label.pool;
    let (told, reports) = channel();
    let mut domains = Vec::new();
    for domain in 0..report.domains {
        let told = told.clone();
        let of = (pool, domain, &members);
        domains.push(start_domain(io, (config, force), of, (&domains, told))?);
    }
    drop(told);
    collect(&reports, &mut domains)?;
    Ok((domains, report, members))
}

/// The disks of a pool as its domains see them.
fn members(
    io: &IoScheduler,
    config: &EngineConfig,
    (disks, assembly): (&[Labelled], &Assembly),
) -> Result<Disks, EngineError> {
    let mut made = Disks::new(assembly, |index, state| {
        let labelled = &disks[index];
        let (disk, number) = (DiskId(labelled.number), usize::from(labelled.number));
        let arena = arena_of(io, io.reactors_of(disk)[0]);
        let sector = io.disks()[number].logical_block_bytes as usize;
        let memory = arena.take(sector.max(LABEL_BYTES));
        let memory = memory.map_err(|error| PoolError::NoMemory(error.to_string()))?;
        let named = (disk, Arc::clone(&labelled.name));
        let part_bytes = discard_part_bytes(io.devices[number].as_ref(), config.pool.discard);
        let label = (labelled.label, labelled.copies.clone());
        Ok::<_, EngineError>((MirrorDisk::new(named, label, state, memory), part_bytes))
    })?;
    made.hung_after_ns = u64::from(config.pool.hung_after_ms) * 1_000_000;
    let rate = config.pool.sync_mib_per_second;
    made.sync.set(None, Some(rate), assembly.label.layout.domains().into());
    made.hedged_reads = config.pool.hedged_reads.into();
    Ok(made)
}

/// Raises the epoch of a pool that is opened for writing.
fn raise(io: &IoScheduler, disks: &Arc<Disks>, in_sync: DiskSet) -> Result<(), EngineError> {
    let through = disks.any_disk();
    let disks = Arc::clone(disks);
    let work = move |port: std::rc::Rc<Port>, _: Arc<Arena>| -> LocalFuture<_> {
        Box::pin(async move { disks.raise(&port, in_sync).await })
    };
    let raised = on_reactor(io, through, work)?;
    raised.map_err(|NotDurable(why)| PoolError::Labels(why).into())
}

/// Reads the labels of a disk through the engine that has it.
pub(super) fn labels(io: &IoScheduler, facts: &DiskFacts) -> Result<LabelCopies, EngineError> {
    let by = Instant::now() + ANSWERS_WITHIN;
    Ok(answer(&begin_labels(io, facts), by, Path::new(&*facts.path))??)
}

fn begin_labels(io: &IoScheduler, facts: &DiskFacts) -> Receiver<Result<LabelCopies, PoolError>> {
    let (disk, bytes) = (facts.id, facts.size_bytes);
    let sector = facts.logical_block_bytes as usize;
    let work = move |port: std::rc::Rc<_>, arena: Arc<Arena>| -> LocalFuture<_> {
        Box::pin(async move { read_labels(&port, &arena, disk, bytes, sector).await })
    };
    begin_on_reactor(io, disk, work)
}

/// Writes label copies again that are not whole, now that the disks are known to be a pool.
fn mend(io: &IoScheduler, disk: DiskId, found: &Labelled) -> Result<Vec<String>, EngineError> {
    if found.copies.are_all(&found.label) {
        return Ok(found.described.clone());
    }
    let sector = io.disks()[usize::from(disk.0)].logical_block_bytes as usize;
    let (label, copies) = (found.label, found.copies.clone());
    let work = move |port: std::rc::Rc<_>, arena: Arc<Arena>| -> LocalFuture<_> {
        Box::pin(async move { mend_labels(&port, &arena, (disk, sector), &label, &copies).await })
    };
    on_reactor(io, disk, work)
}

/// Has work done on a reactor that drives the disk, and waits for it.
fn on_reactor<T: Send + 'static>(
    io: &IoScheduler,
    disk: DiskId,
    work: impl FnOnce(std::rc::Rc<Port>, Arc<Arena>) -> LocalFuture<T> + Send + 'static,
) -> Result<T, EngineError> {
    let ended = |_| EngineError::Reactor("it ended while labels were looked at".to_owned());
    begin_on_reactor(io, disk, work).recv().map_err(ended)
}

/// The same without waiting.
fn begin_on_reactor<T: Send + 'static>(
    io: &IoScheduler,
    disk: DiskId,
    work: impl FnOnce(std::rc::Rc<Port>, Arc<Arena>) -> LocalFuture<T> + Send + 'static,
) -> Receiver<T> {
    let reactor = io.reactors_of(disk)[0];
    let arena = arena_of(io, reactor);
    let (told, result) = channel();
    // The receiver is gone when nobody waits any more.
    let done = move |outcome| drop(told.send(outcome));
    io.spawn_seed(reactor, errand(move |port| work(port, arena), done));
    result
}

pub(super) fn arena_of(io: &IoScheduler, reactor: usize) -> Arc<Arena> {
    let node = io.placement.reactors[reactor].node;
    let found = io.arenas.iter().find(|arena| arena.status().node_wanted == node);
    Arc::clone(found.unwrap_or(&io.arenas[0]))
}

/// The first of the reactors, nearest first, with the fewest domains of those that are placed.
fn least_taken(reactors: &[usize], taken: &[usize]) -> usize {
    let load = |reactor: &&usize| taken.iter().filter(|other| other == reactor).count();
    reactors.iter().min_by_key(load).copied().unwrap_or(0)
}

type Told = (u16, Result<RecoveryReport, RecoveryError>);

fn start_domain(
    io: &IoScheduler,
    (config, force): (&EngineConfig, Force),
    (pool, domain, members): ([u8; 16], u16, &Arc<Disks>),
    (others, told): (&[DomainHandle], Sender<Told>),
) -> Result<DomainHandle, EngineError> {
    let home = members.home_of(domain);
    let reactors = io.reactors_of(members.members[usize::from(home)].first_disk());
    let taken: Vec<usize> = others.iter().map(|other| other.reactor).collect();
    let reactor = least_taken(&reactors, &taken);
    let Some(bell) = io.bell(reactor) else {
        unreachable!("a pool has no more domains than a reactor has bells")
    };
    let calls = Arc::new(StoreCalls::new(config.operations.in_flight_max));
    let doorstep = Arc::new(Doorstep::new(calls, bell.clone()));
    let arena = arena_of(io, reactor);
    let seed = DomainSeed {
        members: Members::new(Arc::clone(members), home),
        pool,
        domain,
        incarnation: u64::from_le_bytes(random::bytes().map_err(EngineError::Random)?),
        config: domain_config(config, force),
        arena: Arc::clone(&arena),
    };
    let (at_door, answer) =
        (Arc::clone(&doorstep), move |result| drop(told.send((domain, result))));
    let make = Box::new(move || domain_task(seed, at_door, Box::new(answer)));
    io.spawn_seed_with_bell(&bell, make);
    Ok(DomainHandle { doorstep, arena, reactor, recovery: RecoveryReport::default() })
}

/// Waits until every domain is open.
fn collect(reports: &Receiver<Told>, domains: &mut [DomainHandle]) -> Result<(), EngineError> {
    let mut errors = Vec::new();
    for _ in 0..domains.len() {
        match reports.recv() {
            Ok((domain, Ok(report))) => domains[usize::from(domain)].recovery = report,
            Ok((_, Err(error))) => errors.push(error),
            Err(_) => {
                return Err(EngineError::Reactor("it ended while a domain was recovered".into()));
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(EngineError::Recovery(errors)) }
}

const _: () =
    assert!(crate::format::layout::DOMAINS_MAX as u32 <= crate::reactor::bell::Bell::PER_REACTOR);

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: a domain's number chose among the reactors in the order of its own disk. Harm: disks
    /// with opposite orders put all domains on one reactor. Fix: the fewest first.
    #[test]
    fn domains_are_spread_whatever_the_order_of_their_disks_reactors() {
        let orders = [[0, 1, 2], [1, 0, 2], [2, 1, 0], [2, 0, 1]];
        let mut taken = Vec::new();
        for order in orders.iter().cycle().take(9) {
            taken.push(least_taken(order, &taken));
        }
        for reactor in 0..3 {
            assert_eq!(taken.iter().filter(|other| **other == reactor).count(), 3, "{taken:?}");
        }
        assert_eq!(taken[..3], [0, 1, 2], "the nearest, as long as it is as free as any");
    }

    /// Each field that a domain has is told what the configuration says, not its own default.
    #[test]
    fn every_field_reaches_the_domain() {
        let text = "
            memory.pages = \"normal\"
            operations.in_flight_max = 7
            pool.read_only = true
            table.mib = 1
            batcher = { max_extents = 3, max_kib = 12 }
            checkpoint = { start_fill_percent = 21, urgent_fill_percent = 43, pages_in_flight = 5 }
            [journal]
            inline_kib_per_batch = 40
            inline_kib_per_write = 20
            writeback_mib = 9
            [commit]
            mode = \"linger\"
            max_batch_ops = 11
            max_batch_kib = 100
            max_batch_delay_ms = 13
            durability = \"dsync\"
            seal_idle_ms = 17
        ";
        let told = domain_config(
            &EngineConfig::from_toml(text).unwrap(),
            Force { undecidable: Undecidable::GiveUp, ..Force::default() },
        );
        let wanted = DomainConfig {
            access: Access::ReadOnly,
            undecidable: Undecidable::GiveUp,
            requests_max: 7,
            closing: Closing::Linger { delay_ns: 13_000_000 },
            batch_ops_max: 11,
            batch_bytes_max: 100 << 10,
            inline_bytes_per_write: 20 << 10,
            inline_bytes_per_batch: 40 << 10,
            write_back_bytes: 9 << 20,
            mechanism: MechanismChoice::Fixed(Mechanism::Dsync),
            seal_idle_ns: 17_000_000,
            checkpoint_percent: 21,
            urgent_percent: 43,
            checkpoint_pages: 5,
            gather_extents: 3,
            gather_bytes: 12 << 10,
            table_pages_per_chunk: 256,
            table_pages_max: 256,
            pages: crate::machine::mapping::PagePolicy::Normal,
            ..DomainConfig::default()
        };
        assert_eq!(format!("{told:?}"), format!("{wanted:?}"));
    }
}
