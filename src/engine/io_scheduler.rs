//! [`IoScheduler`]: raw blocks on many disks, five classes, owned buffers, tickets.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::config::IoConfig;
use crate::engine::error::{CloseError, OpenError};
use crate::engine::gate::Gate;
use crate::engine::status::{ReactorStatus, Status};
use crate::engine::vacancies::Vacancies;
use crate::io::backend::DiskFacts;
use crate::io::metrics::{DiskMetrics, Metrics};
use crate::io::op::DiskId;
use crate::machine::device::{Device, DeviceInfo};
use crate::memory::{Arena, BufferUnavailable, DmaBuf};
use crate::placement::{LaneSlot, Placement};
use crate::reactor::bell::Bell;
use crate::reactor::drain::StuckDisk;
use crate::reactor::local::{LocalTask, TaskSeed};
use crate::reactor::shared::{Control, ReactorShared};

/// How long [`IoScheduler`] waits for its devices when it is dropped without a close.
const DROP_DEADLINE: Duration = Duration::from_secs(10);
/// How long a reactor may take to obey when it was told to abandon its operations.
const OBEY_DEADLINE: Duration = Duration::from_secs(2);

/// How a reactor ended.
#[derive(Debug, Default)]
pub(crate) struct ReactorEnd {
    pub(crate) stuck: Vec<StuckDisk>,
    pub(crate) failure: Option<String>,
}

/// One reactor as the engine holds it.
pub(super) struct ReactorHandle {
    pub(super) shared: Arc<ReactorShared>,
    pub(super) ended: Mutex<Receiver<ReactorEnd>>,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) status: ReactorStatus,
}

/// The raw block engine. It is `Sync`: share it behind an `Arc` between any threads and tasks.
///
/// ```no_run
/// use dynamicfs::{DiskConfig, DiskId, IoConfig, IoScheduler, Priority, Request};
///
/// let disk = DiskConfig { path: "/dev/nvme0n1".into(), ..DiskConfig::default() };
/// let engine = IoScheduler::open(&IoConfig { disks: vec![disk], ..IoConfig::default() })?;
/// let buffer = engine.buffer(4096)?;
/// let read = Request::read(DiskId(0), 0, buffer).with_priority(Priority::HighRead);
/// let (result, buffer) = engine.submit(read)?.wait()?.into_parts();
/// println!("{} bytes: {:?}", result?, &buffer.unwrap()[..16]);
/// engine.close(std::time::Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct IoScheduler {
    pub(super) gate: Gate,
    pub(super) reactors: Vec<ReactorHandle>,
    pub(super) arenas: Vec<Arc<Arena>>,
    pub(super) devices: Vec<Option<DeviceInfo>>,
    /// The disks as opened, until the close: then others may have them.
    pub(super) held: Mutex<Vec<Option<Device>>>,
    pub(super) placement: Placement,
    pub(super) start: Instant,
    pub(super) vacancies: Vacancies,
}

impl std::fmt::Debug for IoScheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (disks, reactors) = (self.gate.disks.len(), self.reactors.len());
        write!(f, "IoScheduler({disks} disks, {reactors} reactors)")
    }
}

impl IoScheduler {
    /// Opens the disks, places and starts the reactors.
    pub fn open(config: &IoConfig) -> Result<IoScheduler, OpenError> {
        crate::engine::open::open(config, 0)
    }

    /// The same, with places for disks that come later.
    pub(crate) fn open_with_places(
        config: &IoConfig,
        places: u16,
    ) -> Result<IoScheduler, OpenError> {
        crate::engine::open::open(config, places)
    }

    /// What the engine knows of the disks of its configuration, by [`DiskId`].
    pub fn disks(&self) -> &[DiskFacts] {
        &self.gate.disks[..self.vacancies.configured()]
    }

    /// Nanoseconds of the engine's clock, the one of [`crate::reactor::local::LocalIo::now_ns`].
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// A buffer of `bytes` (up to 16 MiB), from the first node that has room.
    pub fn buffer(&self, bytes: usize) -> Result<DmaBuf, BufferUnavailable> {
        self.buffer_from(0, bytes)
    }

    /// A buffer of `bytes` near a disk: from the node of its first lane's reactor.
    pub fn buffer_near(&self, disk: DiskId, bytes: usize) -> Result<DmaBuf, BufferUnavailable> {
        let route = self.gate.routes.get(usize::from(disk.0)).and_then(|routes| routes.first());
        let node = route.and_then(|route| self.placement.reactors[route.reactor].node);
        let wanted = self.arenas.iter().position(|arena| arena.status().node_wanted == node);
        self.buffer_from(wanted.unwrap_or(0), bytes)
    }

    fn buffer_from(&self, first: usize, bytes: usize) -> Result<DmaBuf, BufferUnavailable> {
        let mut last = None;
        for index in 0..self.arenas.len() {
            match self.arenas[(first + index) % self.arenas.len()].take(bytes) {
                Ok(buffer) => return Ok(buffer),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(BufferUnavailable { bytes, free_bytes: 0, arena_bytes: 0 }))
    }

    /// Reactors that have a lane of `disk`, by number.
    pub fn reactors_of(&self, disk: DiskId) -> Vec<usize> {
        let routes = self.gate.routes.get(usize::from(disk.0));
        routes.map_or_else(Vec::new, |routes| routes.iter().map(|route| route.reactor).collect())
    }

    /// How many reactors there are.
    pub fn reactor_count(&self) -> usize {
        self.reactors.len()
    }

    /// Starts a task on a reactor. It lives until it is done or the engine closes.
    ///
    /// # Panics
    /// When there is no reactor of that number.
    pub fn spawn_local(&self, reactor: usize, task: Box<dyn LocalTask + Send>) {
        self.reactors[reactor].shared.order(Control::Spawn(task));
    }

    /// Starts a task that is made on the reactor's thread and never leaves it, so that it need not
    /// be `Send`. A seed that panics is a panic of the reactor.
    ///
    /// # Panics
    /// When there is no reactor of that number.
    pub fn spawn_seed(&self, reactor: usize, seed: TaskSeed) {
        self.reactors[reactor].shared.order(Control::Plant { seed, bell: None });
    }

    /// A bell of a reactor; none when it has given all [`Bell::PER_REACTOR`].
    ///
    /// # Panics
    /// When there is no reactor of that number.
    pub fn bell(&self, reactor: usize) -> Option<Bell> {
        Bell::new(&self.reactors[reactor].shared)
    }

    /// As [`IoScheduler::spawn_seed`], on the bell's reactor; the bell calls the task from then
    /// on, and no longer another that it called before.
    pub fn spawn_seed_with_bell(&self, bell: &Bell, seed: TaskSeed) {
        bell.plant(seed);
    }

    /// Counters and histograms at this moment.
    pub fn metrics(&self) -> Metrics {
        let attached = self.vacancies.attached();
        let facts = self.disks().iter().chain(attached.iter().map(|disk| &disk.facts));
        let disks = facts.zip(&self.gate.routes).map(|(facts, routes)| {
            DiskMetrics::gather(&facts.path, routes.iter().map(|route| &route.lane.metrics))
        });
        let reactors = self.reactors.iter().map(|reactor| reactor.shared.metrics.snapshot());
        Metrics { disks: disks.collect(), reactors: reactors.collect() }
    }

    /// What the engine is made of.
    pub fn status(&self) -> Status {
        let parts = self.disks().iter().zip(&self.devices).zip(&self.gate.limits);
        let disks = parts.map(|((facts, device), limits)| crate::engine::status::DiskStatus {
            facts: facts.clone(),
            device: device.clone(),
            limits: limits.clone(),
        });
        let disks = disks.chain(self.vacancies.attached());
        let disks: Vec<_> = disks.collect();
        let of_disks = |lane: &&LaneSlot| lane.disk < disks.len();
        let lanes = self.placement.lanes.iter().filter(of_disks).cloned().collect();
        let reactors: Vec<ReactorStatus> =
            self.reactors.iter().map(|reactor| reactor.status.clone()).collect();
        let mut notes = self.placement.notes.clone();
        notes.extend(reactors.iter().flat_map(|reactor| reactor.notes.iter().cloned()));
        notes.sort();
        notes.dedup();
        Status {
            disks,
            reactors,
            lanes,
            arenas: self.arenas.iter().map(|arena| arena.status()).collect(),
            notes,
        }
    }

    /// Closes: takes nothing new, gives what waits back with its buffers (as `ShuttingDown`), and
    /// waits up to `deadline` for what is at the devices.
    ///
    /// # Errors
    /// Disks that did not answer in time, by name, and reactors that failed. All else is closed.
    pub fn close(self, deadline: Duration) -> Result<(), CloseError> {
        self.shut(deadline)
    }

    pub(super) fn shut(&self, deadline: Duration) -> Result<(), CloseError> {
        if self.gate.closing.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // A deadline beyond the clock is none.
        let until = Instant::now().checked_add(deadline);
        self.reactors.iter().for_each(|reactor| reactor.shared.order(Control::Drain));
        let mut report = CloseError { stuck: Vec::new(), failed: Vec::new() };
        for (number, reactor) in self.reactors.iter().enumerate() {
            self.end_reactor(number, reactor, until, &mut report);
        }
        for route in self.gate.routes.iter().flatten() {
            route.lane.wake_all();
        }
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if report.stuck.is_empty() && report.failed.is_empty() { Ok(()) } else { Err(report) }
    }

    fn end_reactor(
        &self,
        number: usize,
        reactor: &ReactorHandle,
        until: Option<Instant>,
        report: &mut CloseError,
    ) {
        let ended = reactor.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let mut end = match until {
            Some(until) => ended.recv_timeout(until.saturating_duration_since(Instant::now())),
            None => ended.recv().map_err(RecvTimeoutError::from),
        };
        if matches!(end, Err(RecvTimeoutError::Timeout)) {
            reactor.shared.order(Control::Abandon);
            end = ended.recv_timeout(OBEY_DEADLINE);
        }
        match end {
            Ok(end) => {
                // Its last words are here, but the kernel lets a thread go only when the workers of
                // its rings are back: a write or flush that hangs in one would hang us here.
                let is_stuck = !end.stuck.is_empty();
                report.stuck.extend(end.stuck);
                report.failed.extend(end.failure);
                let thread = reactor.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(thread) = thread
                    && !is_stuck
                {
                    // Its outcome came through the channel; the panic, if any, is in it.
                    let _ = thread.join();
                }
            }
            Err(_) => report.failed.push(format!(
                "reactor {number} hangs inside the kernel and was left behind with its memory"
            )),
        }
    }
}

impl Drop for IoScheduler {
    fn drop(&mut self) {
        let _ = self.shut(DROP_DEADLINE);
    }
}
