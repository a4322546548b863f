//! All that is known of a storage engine at one moment, as it is written for people and programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::engine::control::verdict::{self, Verdict};
use crate::engine::status::Status;
use crate::engine::storage_engine::{MirrorReport, PoolReport, SlotRemoval, StorageEngine};
use crate::format::layout::BLOCK_BYTES;
use crate::io::error::ErrorKind;
use crate::io::metrics::{ClassSnapshot, DiskMetrics, Metrics, ReactorSnapshot};
use crate::io::op::Priority;
use crate::machine::mapping::Pages;
use crate::store::domain::{DomainCounters, DomainStatus};
use crate::store::error::StoreError;
use crate::store::member::MirrorState;
use crate::store::recovery::RecoveryReport;
use crate::store::scrub::ScrubReport;

/// A read of a disk that takes so many times as long as one of the pool's median disk is slow.
const SLOW_TIMES: u64 = 8;
/// Below this no average is slow, nanoseconds.
const SLOW_NS_MIN: u64 = 1_000_000;

/// A storage engine at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The program that has it open.
    pub engine: ProcessView,
    /// The pool's labels when it was opened.
    pub pool: PoolReport,
    /// Of its membership, now.
    pub epoch: u64,
    /// Why no label can be written any more, if so: no disk can be taken out, or come back.
    pub labels_failed: Option<String>,
    /// Bytes for data and metadata pages.
    pub capacity_bytes: u64,
    /// Of these, bytes that nothing uses.
    pub free_bytes: u64,
    /// Inodes of all domains.
    pub inodes: u64,
    /// Threads that drive the disks.
    pub reactors: Vec<ReactorView>,
    /// Disks, in the order of the configuration.
    pub disks: Vec<DiskView>,
    /// How disks are brought into sync.
    pub sync: SyncView,
    /// Slots that are leaving, and those that are gone.
    #[serde(default)]
    pub removals: Vec<SlotRemoval>,
    /// Commit domains, by number.
    pub domains: Vec<DomainView>,
    /// Memory for buffers.
    pub memory: Vec<MemoryView>,
    /// What is counted, as few numbers.
    pub metrics: MetricsView,
    /// Those that have a target, held against it.
    pub verdicts: Vec<Verdict>,
    /// What could not be had, in words.
    pub notes: Vec<String>,
}

/// A process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessView {
    /// Version of the engine in it.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Since the engine was opened, nanoseconds.
    pub uptime_ns: u64,
}

/// A reactor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReactorView {
    /// The core it was given.
    pub cpu: u32,
    /// The core it was found on.
    pub cpu_found: Option<u32>,
    /// The node of that core.
    pub node: Option<u32>,
    /// Whether it is kept there.
    pub pinned: bool,
    /// Whether it has a polled ring too.
    pub polled_ring: bool,
    /// Numbers of the disks that it has a lane to.
    pub disks: Vec<u16>,
    /// Numbers of the domains that run on it.
    pub domains: Vec<u16>,
    /// What it has counted.
    pub counters: ReactorSnapshot,
}

/// What a disk is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It does what it should.
    Good,
    /// It gets what it lacks.
    Behind,
    /// Its reads take many times as long as those of others.
    Slow,
    /// Requests failed there.
    Failing,
    /// It was taken out.
    Out,
}

/// A disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskView {
    /// Its path, as the engine was given it.
    pub path: String,
    /// The same without links, from the root; none for a NOP disk.
    pub resolved_path: Option<PathBuf>,
    /// What it is good for.
    pub health: Health,
    /// What it is in the pool.
    pub member: Option<MirrorReport>,
    /// Its bytes.
    pub size_bytes: u64,
    /// Its node.
    pub node: Option<u32>,
    /// Lanes to it.
    pub lanes: u32,
    /// Requests that each lane has at the device at most.
    pub depth: u32,
    /// Requests that may wait in each lane.
    pub queue_max: u32,
    /// Classes by name.
    pub classes: BTreeMap<String, ClassSnapshot>,
    /// Longest waits of them before they are served out of turn, nanoseconds, by name.
    pub max_wait_ns: BTreeMap<String, u64>,
    /// Failed requests by kind.
    pub errors: BTreeMap<String, u64>,
    /// Flushes that the device answered.
    pub flushes: u64,
    /// Durable writes that it answered.
    pub dsync_writes: u64,
}

/// A commit domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DomainView {
    /// Its number.
    pub domain: u16,
    /// Its reactor.
    pub reactor: usize,
    /// What it is doing; none when it did not say so in time.
    pub now: Option<DomainStatus>,
    /// Its scrub.
    pub scrub: Option<ScrubReport>,
    /// Why it did not say what it is doing.
    pub silent: Option<String>,
    /// It never will again: it has ended.
    #[serde(default)]
    pub has_ended: bool,
    /// What the opening found and did.
    pub recovery: RecoveryReport,
}

/// How disks are brought into sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncView {
    /// It waits.
    pub paused: bool,
    /// Bytes that each domain reads of a disk in a second at most; 0: no bound.
    pub bytes_per_second_of_domain: u64,
}

/// Memory of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemoryView {
    /// Node it was wanted on.
    pub node_wanted: Option<u32>,
    /// Node where it is.
    pub node_found: Option<u32>,
    /// Size.
    pub bytes: u64,
    /// Bytes that are not lent out.
    pub free_bytes: u64,
    /// Pages it is made of.
    pub pages: Pages,
}

/// The engine in few numbers, all since it was opened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsView {
    /// Waits for each extent lock taken.
    pub lock_contention_ratio: f64,
    /// Extent locks taken.
    pub lock_acquisitions: u64,
    /// Requests of a commit.
    pub avg_group_commit_ops: f64,
    /// Durable commits.
    pub group_commits: u64,
    /// Requests of those.
    pub group_commit_ops: u64,
    /// Requests that wait for a commit now.
    pub pending: u64,
    /// Flushes and durable records of a commit, without those of seals and checkpoints.
    pub flushes_per_commit: f64,
    /// Bytes to the disk for each byte of callers, each slot counted once.
    pub write_amplification: f64,
    /// Bytes of callers.
    pub caller_bytes: u64,
    /// Requests that wait for a disk now.
    pub io_queue_length: u64,
    /// Requests that disks have answered.
    pub io_ops_completed: u64,
    /// Requests refused because a queue was full.
    pub shed: u64,
    /// Signals for each request from another thread.
    pub wakes_per_request: f64,
    /// Blocks that failed their checksum on every disk that has them.
    pub corrupt_blocks: u64,
}

impl Snapshot {
    /// Asks an engine, and waits for its domains until then.
    ///
    /// # Errors
    /// [`StoreError::WaitOnReactor`]: a reactor's own thread cannot wait.
    pub fn take(engine: &StorageEngine, until: Instant) -> Result<Snapshot, StoreError> {
        let domains = engine.looked_at(until)?;
        let (io, status) = (engine.io_metrics(), engine.io_status());
        let members = engine.disks();
        let counted = DomainCounters::default();
        let counted = domains.iter().filter_map(|domain| domain.now.as_ref()).fold(counted, sum);
        let now = || domains.iter().filter_map(|domain| domain.now.as_ref());
        let metrics = metrics_of(&counted, now(), &io);
        let (epoch, labels_failed) = engine.membership();
        let removals = engine.removals_of(&now().cloned().collect::<Vec<_>>());
        let mut snapshot = Snapshot {
            engine: ProcessView {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_ns: engine.uptime_ns(),
            },
            pool: engine.pool_report(),
            epoch,
            labels_failed,
            capacity_bytes: now().map(|domain| domain.blocks).sum::<u64>() * BLOCK_BYTES,
            free_bytes: now().map(|domain| domain.free_blocks).sum::<u64>() * BLOCK_BYTES,
            inodes: now().map(|domain| domain.inodes).sum(),
            reactors: reactors_of(&status, &io, &domains),
            disks: disks_of(&status, &io, members),
            sync: engine.sync_orders(),
            removals,
            memory: memory_of(&status),
            domains,
            metrics,
            verdicts: Vec::new(),
            notes: status.notes,
        };
        snapshot.verdicts = verdict::of(&snapshot);
        Ok(snapshot)
    }

    /// Why nothing more will happen in the pool, if so.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        let now = self.domains.iter().filter_map(|domain| domain.now.as_ref());
        let ended = self.domains.iter().filter(|domain| domain.has_ended);
        let mut why = now
            .filter_map(|now| now.stopped.as_deref())
            .chain(ended.filter_map(|domain| domain.silent.as_deref()))
            .chain(self.labels_failed.as_deref());
        why.next()
    }
}

fn sum(total: DomainCounters, domain: &DomainStatus) -> DomainCounters {
    let of = &domain.counters;
    DomainCounters {
        group_commits: total.group_commits + of.group_commits,
        group_commit_ops: total.group_commit_ops + of.group_commit_ops,
        commit_flushes: total.commit_flushes + of.commit_flushes,
        commit_dsyncs: total.commit_dsyncs + of.commit_dsyncs,
        seals: total.seals + of.seals,
        checkpoints: total.checkpoints + of.checkpoints,
        caller_bytes: total.caller_bytes + of.caller_bytes,
        journal_bytes: total.journal_bytes + of.journal_bytes,
        data_bytes: total.data_bytes + of.data_bytes,
        write_back_bytes: total.write_back_bytes + of.write_back_bytes,
        page_bytes: total.page_bytes + of.page_bytes,
        corrupt_blocks: total.corrupt_blocks + of.corrupt_blocks,
        ..total
    }
}

/// A share, 0 where there is nothing to share.
fn ratio(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

fn metrics_of<'a>(
    counted: &DomainCounters,
    domains: impl Iterator<Item = &'a DomainStatus> + Clone,
    io: &Metrics,
) -> MetricsView {
    let locks = domains.clone().map(|domain| &domain.locks);
    let (taken, waited) = locks.fold((0, 0), |(taken, waited), locks| {
        (taken + locks.lock_acquisitions, waited + locks.lock_contentions)
    });
    let written =
        counted.journal_bytes + counted.data_bytes + counted.write_back_bytes + counted.page_bytes;
    let classes = io.disks.iter().flat_map(|disk| &disk.classes);
    MetricsView {
        lock_contention_ratio: ratio(waited, taken),
        lock_acquisitions: taken,
        avg_group_commit_ops: ratio(counted.group_commit_ops, counted.group_commits),
        group_commits: counted.group_commits,
        group_commit_ops: counted.group_commit_ops,
        pending: domains.map(|domain| domain.pending).sum(),
        flushes_per_commit: ratio(
            // Records of other kinds have a flush each.
            (counted.commit_flushes + counted.commit_dsyncs)
                .saturating_sub(counted.seals + counted.checkpoints),
            counted.group_commits,
        ),
        write_amplification: ratio(written, counted.caller_bytes),
        caller_bytes: counted.caller_bytes,
        io_queue_length: io.io_queue_length(),
        io_ops_completed: io.io_ops_completed(),
        shed: classes.map(|class| class.shed).sum(),
        wakes_per_request: io.wakes_per_request(),
        corrupt_blocks: counted.corrupt_blocks,
    }
}

fn reactors_of(status: &Status, io: &Metrics, domains: &[DomainView]) -> Vec<ReactorView> {
    let view = |(number, (reactor, counters)): (usize, (_, &ReactorSnapshot))| {
        let reactor: &crate::engine::status::ReactorStatus = reactor;
        let lanes = status.lanes.iter().filter(|lane| lane.reactor == number);
        let of = domains.iter().filter(|domain| domain.reactor == number);
        ReactorView {
            cpu: reactor.cpu_wanted,
            cpu_found: reactor.cpu_found,
            node: reactor.node,
            pinned: reactor.pinned,
            polled_ring: reactor.polled_ring.is_some(),
            disks: lanes.map(|lane| lane.disk as u16).collect(),
            domains: of.map(|domain| domain.domain).collect(),
            counters: *counters,
        }
    };
    status.reactors.iter().zip(&io.reactors).enumerate().map(view).collect()
}

fn disks_of(status: &Status, io: &Metrics, members: Vec<MirrorReport>) -> Vec<DiskView> {
    let mut averages: Vec<u64> = members.iter().map(|member| member.read_average_ns).collect();
    averages.retain(|average| *average > 0);
    averages.sort_unstable();
    let median = averages.get(averages.len() / 2).copied().unwrap_or(0);
    let mut members: BTreeMap<u16, MirrorReport> =
        members.into_iter().map(|member| (member.disk, member)).collect();
    let by_class = |of: &dyn Fn(usize) -> u64| {
        Priority::ALL.iter().map(|class| (class.name().to_owned(), of(class.index()))).collect()
    };
    let view = |(number, (disk, counted)): (usize, (_, &DiskMetrics))| {
        let disk: &crate::engine::status::DiskStatus = disk;
        let member = members.remove(&(number as u16));
        let classes = Priority::ALL.iter().zip(counted.classes.iter().cloned());
        let errors = counted.errors.iter().map(|(kind, count)| ((*kind).to_owned(), *count));
        DiskView {
            path: disk.facts.path.to_string(),
            resolved_path: disk.device.as_ref().map(|device| device.resolved_path.clone()),
            health: health(member.as_ref(), has_failed(counted), median),
            member,
            size_bytes: disk.facts.size_bytes,
            node: disk.device.as_ref().and_then(|device| device.numa_node),
            lanes: status.lanes.iter().filter(|lane| lane.disk == number).count() as u32,
            depth: disk.limits.depth,
            queue_max: disk.limits.watermarks[0],
            classes: classes.map(|(class, counted)| (class.name().to_owned(), counted)).collect(),
            max_wait_ns: by_class(&|class| disk.limits.max_wait_ns[class]),
            errors: errors.collect(),
            flushes: counted.flushes,
            dsync_writes: counted.dsync_writes,
        }
    };
    status.disks.iter().zip(&io.disks).enumerate().map(view).collect()
}

/// Whether requests failed there that should not. A disk may refuse what it does not know.
fn has_failed(counted: &DiskMetrics) -> bool {
    counted.errors.keys().any(|kind| *kind != ErrorKind::Unsupported.name())
}

fn health(member: Option<&MirrorReport>, has_failed: bool, median_ns: u64) -> Health {
    let Some(member) = member else { return Health::Out };
    let slow_ns = (median_ns * SLOW_TIMES).max(SLOW_NS_MIN);
    match member.state {
        MirrorState::Out => Health::Out,
        MirrorState::Syncing => Health::Behind,
        MirrorState::InSync if has_failed || member.read_failures > 0 => Health::Failing,
        MirrorState::InSync if member.read_average_ns > slow_ns => Health::Slow,
        MirrorState::InSync => Health::Good,
    }
}

fn memory_of(status: &Status) -> Vec<MemoryView> {
    let view = |arena: &crate::memory::ArenaStatus| MemoryView {
        node_wanted: arena.node_wanted,
        node_found: arena.node_found,
        bytes: arena.bytes as u64,
        free_bytes: arena.free_bytes as u64,
        pages: arena.pages,
    };
    status.arenas.iter().map(view).collect()
}
