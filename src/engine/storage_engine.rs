//! [`StorageEngine`]: a crash-consistent pool of inodes on disks, for threads and tasks.
//!
//! It is thin: an operation becomes a [`Call`] to the commit domain that its inode belongs to, and
//! the domain's answer comes back in a [`StoreTicket`]. An inode belongs to domain `id % domains`;
//! creations go round. The domains are tasks on the reactors of an [`IoScheduler`], which has the
//! pool's disks for itself; each reactor reaches each disk, so that no request of a domain goes
//! through another thread.
//!
//! What can fail at the pool as a whole is an [`EngineError`]; an operation fails with a
//! [`StoreError`], which says what is certain. Full is a value: see [`StoreTicket::taken`].

mod add;
mod attach;
#[cfg(feature = "control")]
mod controlled;
mod engine_error;
mod engine_status;
mod failure_domains;
mod format;
mod grow;
mod labels;
mod opening;
mod operations;
mod remove;
mod replace;
mod store_ticket;
mod transaction;

use std::path::{Path, PathBuf};
#[cfg(feature = "control")]
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::concurrency::thread_wait::on_reactor_thread;
#[cfg(feature = "control")]
use crate::engine::control::server::ControlServer;
use crate::engine::engine_config::{DiscardWhen, EngineConfig};
use crate::engine::io_scheduler::IoScheduler;
use crate::format::layout::BLOCK_BYTES;
use crate::memory::{Arena, BufferUnavailable, DmaBuf};
use crate::store::call::Call;
use crate::store::error::StoreError;
use crate::store::member::{Disks, Member};
use crate::store::recovery::RecoveryReport;
use crate::store::service::Doorstep;

pub use engine_error::{CloseReport, EngineError};
pub use engine_status::{DomainReport, EngineMetrics, EngineStatus, MirrorReport};
pub use format::{DiskFormatPlan, Fill, FormatOptions, FormatPlan, Overwrite};
pub use grow::GrownSlot;
pub use labels::{MemberReport, PoolReport};
pub use opening::Force;
pub use operations::{Acknowledged, InodeId, InodeInfo, InodeOptions, ReadOptions};
pub use remove::SlotRemoval;
pub use replace::DiskPlace;
pub use store_ticket::{QueueFull, StoreTicket};
pub use transaction::Transaction;

/// How long an engine that is dropped without a close waits for its domains, and then for its disk.
const DROP_DEADLINE: Duration = Duration::from_secs(10);
/// Least time for the disk, whatever the domains used up.
const DISK_TIME_MIN: Duration = Duration::from_millis(100);

/// One commit domain as the engine holds it.
struct DomainHandle {
    doorstep: Arc<Doorstep>,
    /// Memory of the reactor that it runs on.
    arena: Arc<Arena>,
    reactor: usize,
    recovery: RecoveryReport,
}

/// A pool that is open, as everybody who uses it has it.
pub(crate) struct OpenPool {
    io: IoScheduler,
    domains: Vec<DomainHandle>,
    pool: PoolReport,
    disks: Arc<Disks>,
    /// Slots that it had when it was opened.
    slots_at_opening: usize,
    /// Creations so far: their domains take turns.
    creations: AtomicUsize,
    closed: AtomicBool,
    is_read_only: bool,
    /// When disks are told of what became free.
    discard: DiscardWhen,
    /// One disk at a time comes.
    attaching: Mutex<()>,
    /// By which other processes reach it.
    #[cfg(feature = "control")]
    control: Mutex<Option<ControlServer>>,
    /// Why they do not, if so.
    control_failed: OnceLock<String>,
}

#[cfg(feature = "control")]
impl Drop for OpenPool {
    fn drop(&mut self) {
        // Of an engine that was dropped where nothing can be waited for: its threads end by
        // themselves.
        drop(self.with_control(Option::take).map(ControlServer::end));
    }
}

impl OpenPool {
    /// What the pool is, with the slots that have come.
    fn pool_report(&self) -> PoolReport {
        let mut report = self.pool.clone();
        report.disks.retain(|disk| {
            let member = self.disks.members.get(usize::from(disk.slot));
            member.is_some_and(Member::is_there)
        });
        // Those that have grown say so.
        for disk in &mut report.disks {
            if let Some(member) = self.disks.members.get(usize::from(disk.slot)) {
                let layout = member.layout();
                disk.disk_bytes = layout.disk_bytes();
                disk.data_bytes = layout.data_blocks() * BLOCK_BYTES;
            }
        }
        let there = self.disks.members.iter().filter(|member| member.is_there());
        report.members = there.count() as u16 * report.mirrors.max(1);
        let came = self.disks.members.iter().skip(self.slots_at_opening);
        for member in came.filter(|member| member.is_there()) {
            let disks = member.mirrors.iter();
            report.disks.extend(disks.map(|mirror| MemberReport::that_came(mirror)));
        }
        report
    }

    #[cfg(feature = "control")]
    fn with_control<T>(&self, of: impl FnOnce(&mut Option<ControlServer>) -> T) -> T {
        of(&mut self.control.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A pool that is open. It is `Sync`: share it behind an `Arc` between any threads and tasks.
///
/// ```no_run
/// use dynamicfs::{EngineConfig, FormatOptions, InodeOptions, StorageEngine};
///
/// let config = EngineConfig::on_disk("/dev/nvme0n1");
/// StorageEngine::format(&config, FormatOptions::default())?;
///
/// let engine = StorageEngine::open(config)?;
/// let inode = engine.create_inode(InodeOptions::default()).wait()?;
/// engine.write(inode, 0, b"durable when this returns").wait()?;
/// assert_eq!(&engine.read(inode, 0..7).wait()?[..], b"durable");
/// engine.close(std::time::Duration::from_secs(30))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct StorageEngine {
    open: Arc<OpenPool>,
    /// It does not close the pool when it is dropped: another does.
    is_guest: bool,
}

impl std::fmt::Debug for StorageEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (pool, disks, domains) =
            (self.open.pool.pool, self.open.pool.members, self.open.domains.len());
        write!(f, "StorageEngine({pool}, {disks} disks, {domains} domains)")
    }
}

impl StorageEngine {
    /// What [`StorageEngine::format`] would do. Nothing is written.
    ///
    /// # Errors
    /// Whatever would make the format impossible, but for data that the disk carries: that is in
    /// the plan.
    pub fn plan_format(
        config: &EngineConfig,
        options: &FormatOptions,
    ) -> Result<FormatPlan, EngineError> {
        format::plan(config, options)
    }

    /// Makes a pool on the disks of `config`: all that was there is gone.
    ///
    /// # Errors
    /// A disk is in use, or carries data and `options` does not say [`Overwrite::Yes`]; it is too
    /// small; or it fails. Afterwards there is the new pool or, after a failure, none.
    pub fn format(
        config: &EngineConfig,
        options: FormatOptions,
    ) -> Result<PoolReport, EngineError> {
        format::format(config, &options, &mut |_| ())
    }

    /// As [`StorageEngine::format`]; `progress` is told how many bytes of a file were written over.
    ///
    /// # Errors
    /// As [`StorageEngine::format`].
    pub fn format_with_progress(
        config: &EngineConfig,
        options: FormatOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<PoolReport, EngineError> {
        format::format(config, &options, progress)
    }

    /// What the labels of a disk say. Nothing is written, and the pool may be open elsewhere.
    ///
    /// # Errors
    /// The disk cannot be read, or carries no pool.
    pub fn inspect(path: impl AsRef<Path>) -> Result<PoolReport, EngineError> {
        labels::inspect(path.as_ref())
    }

    /// Opens a pool and recovers it, whatever ended its last use.
    ///
    /// A disk that is still held, as by a process that was killed a moment ago, is waited for: at
    /// least two seconds, longer if `busy_wait_ms` says so. The domains' own memory, for data that
    /// waits for its home write, comes on top of `memory.arena_mib_per_node`.
    ///
    /// # Errors
    /// [`EngineError`]. It is all or nothing: after an error nothing is open.
    pub fn open(config: EngineConfig) -> Result<StorageEngine, EngineError> {
        opening::open(&config, Force::default())
    }

    /// As [`StorageEngine::open`], and gives up what `force` names where it cannot be had. What was
    /// given up is gone for good, and named in [`EngineStatus`]; look with `pool.read_only` first.
    ///
    /// # Errors
    /// As [`StorageEngine::open`].
    pub fn open_forced(config: EngineConfig, force: Force) -> Result<StorageEngine, EngineError> {
        opening::open(&config, force)
    }

    /// Puts a new disk in the place of one that is not in sync: it is missing from the disks of
    /// `config`, or failed. The pool is opened without it and closed, which says so in every other
    /// label; the new disk gets what it lacks when the pool is next opened with it, while it is
    /// used. All that was on the new disk is gone.
    ///
    /// # Errors
    /// The place is that of a disk in sync, or there is none such; the new disk is too small, in
    /// use, or carries data and `overwrite` does not say [`Overwrite::Yes`]; or as
    /// [`StorageEngine::open`].
    pub fn replace_disk(
        config: &EngineConfig,
        place: DiskPlace,
        with: impl AsRef<Path>,
        overwrite: Overwrite,
    ) -> Result<PoolReport, EngineError> {
        replace::replace(config, place, with.as_ref(), overwrite)
    }

    /// What disks are together, by their labels alone. Nothing is written, and the pool may be open
    /// elsewhere.
    ///
    /// # Errors
    /// They are no pool, or not enough of one.
    pub fn inspect_disks(paths: &[PathBuf]) -> Result<PoolReport, EngineError> {
        labels::inspect_all(paths)
    }

    /// A buffer of `bytes` (up to 16 MiB), for [`StorageEngine::write_buffer`].
    ///
    /// # Errors
    /// When the memory for buffers is lent out.
    pub fn buffer(&self, bytes: usize) -> Result<DmaBuf, BufferUnavailable> {
        self.open.io.buffer(bytes)
    }

    /// Closes: what was asked before is finished and made durable, a checkpoint is written, later
    /// requests are answered [`StoreError::Closing`]. A second close does nothing.
    ///
    /// # Errors
    /// [`EngineError::NotClosed`]: what could not be made durable, and which disk did not answer
    /// before the deadline. Everything is let go all the same.
    pub fn close(&self, deadline: Duration) -> Result<CloseReport, EngineError> {
        if on_reactor_thread() {
            let reason = "a reactor's own thread cannot close the engine: it would wait for itself";
            return Err(EngineError::Reactor(reason.into()));
        }
        let report = self.shut(deadline);
        if report.is_clean() { Ok(report) } else { Err(EngineError::NotClosed(Box::new(report))) }
    }

    fn shut(&self, deadline: Duration) -> CloseReport {
        let mut report = CloseReport::default();
        if self.open.closed.swap(true, Ordering::AcqRel) {
            return report;
        }
        let now = Instant::now();
        // A deadline beyond the clock is a year.
        let until = now.checked_add(deadline).unwrap_or(now + Duration::from_secs(31_536_000));
        // Nobody else asks any more; who has asked is answered while the domains close.
        #[cfg(feature = "control")]
        let leaving = self.open.with_control(Option::take).map(ControlServer::end);
        let closing = self
            .open
            .domains
            .iter()
            .map(|domain| StoreTicket::one(&domain.doorstep, Call::Close, operations::done));
        let closing: Vec<StoreTicket<()>> = closing.collect();
        for (number, ticket) in closing.into_iter().enumerate() {
            match ticket.wait_until(until) {
                Ok(Ok(())) => {}
                // Its reactor has failed, and says so itself.
                Ok(Err(StoreError::Closing)) => {}
                Ok(Err(error)) => report.domains.push((number as u16, error)),
                Err(_) => report.silent.push(number as u16),
            }
        }
        let left = until.saturating_duration_since(Instant::now()).max(DISK_TIME_MIN);
        report.io = self.open.io.shut(left).err();
        #[cfg(feature = "control")]
        if let Some(leaving) = leaving {
            leaving.wait_until(until.max(Instant::now() + DISK_TIME_MIN));
        }
        report
    }
}

impl Drop for StorageEngine {
    fn drop(&mut self) {
        // On a reactor's own thread nothing can be waited for; what was acknowledged is durable.
        if !self.is_guest && !on_reactor_thread() {
            let _ = self.shut(DROP_DEADLINE);
        }
    }
}
