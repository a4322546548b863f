//! The driver: reactors, the way in, and the order in which everything happens.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::error::{CloseError, SubmitError};
use crate::engine::gate::{Gate, make_lanes};
use crate::engine::io_scheduler::ReactorEnd;
use crate::engine::thread::{conclude, message};
use crate::engine::ticket::Ticket;
use crate::io::backend::{Backend, DiskFacts, Wait};
use crate::io::metrics::{DiskMetrics, Metrics};
use crate::io::op::{DiskId, Request};
use crate::io::op_table::State;
use crate::machine::mapping::PagePolicy;
use crate::memory::{Arena, BufferUnavailable, DmaBuf};
use crate::placement::{LaneSlot, Locality};
use crate::reactor::bell::Bell;
use crate::reactor::local::{LocalTask, TaskSeed};
use crate::reactor::shared::{Calls, Control, ReactorShared};
use crate::reactor::{Flow, Reactor, ReactorState, Tuning};
use crate::scheduler::limits::{Limits, SchedulerConfig};
use crate::sim::backend::{SimBackend, SimRing, SimSignal};
use crate::sim::disk::{SimDisk, SimDiskConfig};
use crate::sim::fault::Faults;
use crate::sim::random::Random;
use crate::sim::trace::Event;
use crate::sim::world::World;

/// Half turns without the clock moving to an event, after which the run is taken to be stuck.
const STEPS_MAX: u64 = 20_000_000;
/// How long a reactor may take to obey when it was told to abandon its operations, nanoseconds.
const OBEY_NS: u64 = 2_000_000_000;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// The disks.
    pub disks: Vec<SimDiskConfig>,
    /// How many reactors.
    pub reactors: usize,
    /// For each disk the reactors with a lane of it; for disks without an entry one lane, round
    /// robin.
    pub lanes: Vec<Vec<usize>>,
    /// Of every lane.
    pub scheduler: SchedulerConfig,
    /// Most open calls.
    pub calls_max: u32,
    /// Memory for buffers.
    pub arena_bytes: usize,
    /// Memory for buffers that is there already, in the place of new memory.
    pub arena: Option<Arc<Arena>>,
    /// See `reactors.completion_batch` of the engine's configuration.
    pub completion_batch: u32,
    /// See `reactors.settle_us` of the engine's configuration.
    pub settle_us: u32,
    /// Nanoseconds without any event before a reactor sleeps.
    pub spin_ns: u64,
    /// Attempts that one hand-over can carry.
    pub sq_entries: u32,
    /// Chances in a million that the kernel refuses a hand-over for lack of memory.
    pub enter_refusals: u32,
    /// Whether the ring chains the flush of a `WriteFlush` to its write, as kernels from 5.17 on
    /// do; else the reactor submits one after the other.
    pub chains: bool,
    /// Bounds of the time of half a turn.
    pub turn_ns: RangeInclusive<u64>,
}

impl Default for SimConfig {
    fn default() -> Self {
        SimConfig {
            disks: vec![SimDiskConfig::default()],
            reactors: 1,
            lanes: Vec::new(),
            scheduler: SchedulerConfig::default(),
            calls_max: 4096,
            arena_bytes: 16 << 20,
            arena: None,
            completion_batch: 1,
            settle_us: 0,
            spin_ns: 0,
            sq_entries: 128,
            enter_refusals: 0,
            chains: true,
            turn_ns: 100..=2_000,
        }
    }
}

/// Where a reactor is.
enum Phase {
    /// Between turns.
    Awake,
    /// Inside its backend.
    Entered(Wait),
}

struct SimReactor {
    reactor: Option<Reactor<SimBackend>>,
    phase: Phase,
    end: Option<ReactorEnd>,
}

/// See the module.
pub struct Simulation {
    world: Rc<RefCell<World>>,
    pub(crate) gate: Gate,
    reactors: Vec<SimReactor>,
    arena: Arc<Arena>,
    order: Random,
    turn_ns: RangeInclusive<u64>,
    tolerate_panics: bool,
}

impl Simulation {
    /// New disks, and reactors on them.
    ///
    /// # Panics
    /// When the configuration cannot be: see [`SimConfig`].
    pub fn new(seed: u64, config: &SimConfig) -> Simulation {
        let disks = config.disks.iter().cloned().map(SimDisk::new).collect();
        Simulation::with_disks(seed, config, disks)
    }

    /// Reactors on disks that were there before; `config.disks` is not looked at.
    ///
    /// # Panics
    /// As [`Simulation::new`].
    pub fn with_disks(seed: u64, config: &SimConfig, disks: Vec<SimDisk>) -> Simulation {
        let mut random = Random::new(seed);
        let order = random.fork();
        let facts: Arc<[DiskFacts]> = disks.iter().enumerate().map(facts).collect();
        let plan = plan(config, disks.len());
        let limits: Vec<Limits> = facts
            .iter()
            .enumerate()
            .map(|(disk, facts)| {
                let lanes = plan.iter().filter(|lane| lane.disk == disk).count() as u32;
                Limits::resolve(&config.scheduler, facts.nr_requests, lanes)
                    .expect("a simulated scheduler is configured within its ranges")
            })
            .collect();
        let calls = Arc::new(Calls::new(config.calls_max));
        let signals: Vec<Arc<SimSignal>> = (0..config.reactors).map(|_| Arc::default()).collect();
        let shared: Vec<Arc<ReactorShared>> = signals
            .iter()
            .map(|signal| Arc::new(ReactorShared::new(Arc::clone(&calls), signal.clone())))
            .collect();
        let (lanes, routes) = make_lanes(&plan, None, &facts, &limits, &shared);
        let arena = config.arena.clone().unwrap_or_else(|| {
            Arena::new(config.arena_bytes, PagePolicy::Normal, None, 0)
                .expect("the machine has memory for a simulated arena")
        });
        let world = Rc::new(RefCell::new(World::new(random, disks, config.reactors)));
        let tuning = Tuning {
            spin_ns: config.spin_ns,
            completion_batch: config.completion_batch,
            settle_us: config.settle_us,
        };
        let (room, refusals, chains) = (config.sq_entries, config.enter_refusals, config.chains);
        let ring = SimRing { room, refusals, chains };
        let reactors = lanes.into_iter().zip(&shared).zip(signals).enumerate();
        let reactors = reactors.map(|(number, ((lanes, shared), signal))| {
            let state = ReactorState::new(lanes, facts.len(), Arc::clone(shared), tuning);
            let backend = SimBackend::new(Rc::clone(&world), number, signal, ring);
            let reactor = Some(Reactor { backend, state });
            SimReactor { reactor, phase: Phase::Awake, end: None }
        });
        let reactors = reactors.collect();
        let closing = AtomicBool::new(false);
        let gate = Gate { disks: facts, limits, routes, reactors: shared, calls, closing };
        let turn_ns = config.turn_ns.clone();
        Simulation { world, gate, reactors, arena, order, turn_ns, tolerate_panics: false }
    }

    /// A panic in a reactor is from now on its failure, as in production, and not the test's.
    pub fn tolerate_panics(&mut self) {
        self.tolerate_panics = true;
    }

    /// What the reactors know of the disks.
    pub fn disks(&self) -> &[DiskFacts] {
        &self.gate.disks
    }

    /// The virtual clock, nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.world.borrow().now
    }

    /// A buffer.
    pub fn buffer(&self, bytes: usize) -> Result<DmaBuf, BufferUnavailable> {
        self.arena.take(bytes)
    }

    /// Bytes of buffers that are lent out.
    pub fn lent_bytes(&self) -> usize {
        let status = self.arena.status();
        status.bytes - status.free_bytes
    }

    /// Works on a disk: damages it, unplugs it, looks into it.
    pub fn with_disk<R>(&mut self, disk: DiskId, f: impl FnOnce(&mut SimDisk) -> R) -> R {
        f(&mut self.world.borrow_mut().disks[usize::from(disk.0)])
    }

    /// Changes the faults of a disk, for attempts from now on.
    pub fn with_faults<R>(&mut self, disk: DiskId, f: impl FnOnce(&mut Faults) -> R) -> R {
        f(&mut self.world.borrow_mut().faults[usize::from(disk.0)])
    }

    /// Keeps the trace's events from now on, for [`Simulation::trace_text`].
    pub fn keep_trace(&mut self) {
        self.world.borrow_mut().trace.keep();
    }

    /// One number for all that has happened.
    pub fn trace_hash(&self) -> u64 {
        self.world.borrow().trace.hash()
    }

    /// What has happened, as text.
    pub fn trace_text(&self) -> String {
        self.world.borrow().trace.to_string()
    }

    /// What has happened, with its times, from the `first` kept event on.
    pub fn trace_events(&self, first: usize) -> Vec<(u64, Event)> {
        self.world.borrow().trace.events()[first..].to_vec()
    }

    /// Attempts that never complete.
    pub fn hung(&self) -> u64 {
        self.world.borrow().hung()
    }

    /// Submits as any thread would.
    ///
    /// # Errors
    /// As `IoScheduler::submit`.
    // A refusal gives the request back by value, which is its purpose; boxing it would allocate.
    #[allow(clippy::result_large_err)]
    pub fn submit(&mut self, request: Request) -> Result<Ticket, SubmitError> {
        let (disk, class, kind) = (request.disk.0, request.priority, request.kind);
        let (offset, len) = (request.offset, request.len);
        let ticket = self.gate.submit(request);
        let taken = ticket.is_ok();
        self.world.borrow_mut().note(Event::Submit { disk, class, kind, offset, len, taken });
        ticket
    }

    /// Submits several as any thread would.
    ///
    /// # Errors
    /// As `IoScheduler::submit_many`.
    #[allow(clippy::result_large_err)]
    pub fn submit_many(
        &mut self,
        requests: &mut dyn Iterator<Item = Request>,
        tickets: &mut Vec<Ticket>,
    ) -> Result<(), SubmitError> {
        let (before, mut seen) = (tickets.len(), Vec::new());
        let mut noted = requests.inspect(|request| {
            seen.push((
                request.disk.0,
                request.priority,
                request.kind,
                request.offset,
                request.len,
            ));
        });
        let end = self.gate.submit_many(&mut noted, tickets);
        let taken = tickets.len() - before;
        let mut world = self.world.borrow_mut();
        for (index, (disk, class, kind, offset, len)) in seen.into_iter().enumerate() {
            let taken = index < taken;
            world.note(Event::Submit { disk, class, kind, offset, len, taken });
        }
        end
    }

    /// Starts a task on a reactor.
    ///
    /// # Panics
    /// When there is no reactor of that number.
    pub fn spawn_local(&mut self, reactor: usize, task: Box<dyn LocalTask + Send>) {
        self.gate.reactors[reactor].order(Control::Spawn(task));
    }

    /// As `IoScheduler::spawn_seed`.
    ///
    /// # Panics
    /// When there is no reactor of that number.
    pub fn spawn_seed(&mut self, reactor: usize, seed: TaskSeed) {
        self.gate.reactors[reactor].order(Control::Plant { seed, bell: None });
    }

    /// As `IoScheduler::bell`.
    ///
    /// # Panics
    /// When there is no reactor of that number.
    pub fn bell(&self, reactor: usize) -> Option<Bell> {
        Bell::new(&self.gate.reactors[reactor])
    }

    /// As `IoScheduler::spawn_seed_with_bell`.
    pub fn spawn_seed_with_bell(&mut self, bell: &Bell, seed: TaskSeed) {
        bell.plant(seed);
    }

    /// Counters and histograms.
    pub fn metrics(&self) -> Metrics {
        let disks = self.gate.disks.iter().zip(&self.gate.routes).map(|(facts, routes)| {
            DiskMetrics::gather(&facts.path, routes.iter().map(|route| &route.lane.metrics))
        });
        let reactors = self.gate.reactors.iter().map(|reactor| reactor.metrics.snapshot());
        Metrics { disks: disks.collect(), reactors: reactors.collect() }
    }

    /// Where buffers come from.
    #[cfg(test)]
    pub(crate) fn arena(&self) -> Arc<Arena> {
        Arc::clone(&self.arena)
    }

    /// Disks with a lane on a reactor.
    #[cfg(test)]
    pub(crate) fn disks_of(&self, reactor: usize) -> Vec<DiskFacts> {
        let state = self.reactor(reactor).into_iter();
        state.flat_map(|state| state.lanes.iter().map(|lane| lane.facts().clone())).collect()
    }

    /// A reactor that has not ended.
    #[cfg(test)]
    pub(crate) fn reactor(&self, number: usize) -> Option<&ReactorState> {
        self.reactors[number].reactor.as_ref().map(|reactor| &reactor.state)
    }
}

impl Simulation {
    /// One half turn of one reactor; or if none has anything to do, the clock moves to the next
    /// event. False when there is nothing left but timers: of local tasks, of sleepers that look
    /// around.
    pub fn step(&mut self) -> bool {
        let now = self.now_ns();
        self.world.borrow_mut().advance(now);
        let runnable: Vec<usize> =
            (0..self.reactors.len()).filter(|number| self.is_runnable(*number, now)).collect();
        if !runnable.is_empty() {
            let number = *self.order.pick(&runnable);
            self.half_turn(number);
            let cost = self.order.within(&self.turn_ns);
            self.world.borrow_mut().advance(now + cost);
            return true;
        }
        let next_due = self.world.borrow().next_due();
        // While something is on its way a timer that ends before it comes first.
        let on_its_way = next_due.is_some();
        let next = self.wakes(|backend| on_its_way || !backend.is_quiet()).chain(next_due).min();
        match next {
            Some(at) => {
                self.world.borrow_mut().advance(at);
                true
            }
            None => false,
        }
    }

    /// Runs until nothing is on its way.
    ///
    /// # Panics
    /// When that does not come: a task that runs for ever, or a reactor that does.
    pub fn run(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < STEPS_MAX, "the simulation does not come to rest");
        }
    }

    /// Runs, timers included, until the clock shows `until_ns` or `done` says so.
    pub fn run_until(&mut self, until_ns: u64, mut done: impl FnMut(&mut Simulation) -> bool) {
        while !done(self) && self.now_ns() < until_ns {
            if !self.step() {
                let next = self.wakes(|_| true).min().unwrap_or(until_ns);
                self.world.borrow_mut().advance(next.min(until_ns));
            }
        }
    }

    fn is_runnable(&self, number: usize, now: u64) -> bool {
        let SimReactor { reactor, phase, .. } = &self.reactors[number];
        match (reactor, phase) {
            (None, _) => false,
            (Some(_), Phase::Awake) => true,
            (Some(reactor), Phase::Entered(wait)) => {
                reactor.backend.wakes_at(*wait).is_some_and(|at| at <= now)
            }
        }
    }

    /// When sleepers that `which` selects wake.
    fn wakes(&self, which: impl Fn(&SimBackend) -> bool) -> impl Iterator<Item = u64> {
        self.reactors.iter().filter_map(move |SimReactor { reactor, phase, .. }| {
            match (reactor, phase) {
                (Some(reactor), Phase::Entered(wait)) if which(&reactor.backend) => {
                    reactor.backend.wakes_at(*wait)
                }
                _ => None,
            }
        })
    }

    fn half_turn(&mut self, number: usize) {
        let slot = &mut self.reactors[number];
        let Some(reactor) = &mut slot.reactor else { return };
        let phase = std::mem::replace(&mut slot.phase, Phase::Awake);
        let mut slept = false;
        let turned = catch_unwind(AssertUnwindSafe(|| match phase {
            Phase::Awake => {
                let wait = reactor.begin_turn();
                reactor.backend.enter(wait).map(|()| (Phase::Entered(wait), Flow::Continue))
            }
            Phase::Entered(wait) => {
                slept = wait != Wait::None;
                Ok((Phase::Awake, reactor.end_turn(wait)))
            }
        }));
        let failure = match turned {
            Ok(Ok((phase, flow))) => {
                slot.phase = phase;
                if flow == Flow::Continue {
                    self.world.borrow_mut().note(Event::Turn { reactor: number, slept });
                    return;
                }
                None
            }
            Ok(Err(error)) => Some(format!("a ring failed: {error}")),
            Err(panic) if self.tolerate_panics => Some(message(panic.as_ref())),
            Err(panic) => resume_unwind(panic),
        };
        let failed = failure.is_some();
        if let Some(reactor) = slot.reactor.take() {
            slot.end = Some(conclude(reactor, failure));
        }
        self.world.borrow_mut().note(Event::End { reactor: number, failed });
    }

    /// Closes as `IoScheduler::close` does, with a deadline on the virtual clock.
    ///
    /// # Errors
    /// Disks that did not answer in time, by name, and reactors that failed.
    pub fn close(&mut self, deadline_ns: u64) -> Result<(), CloseError> {
        self.gate.closing.store(true, Ordering::Release);
        self.gate.reactors.iter().for_each(|reactor| reactor.order(Control::Drain));
        let until = self.now_ns().saturating_add(deadline_ns);
        self.run_until(until, |sim| !sim.is_alive());
        for (number, slot) in self.reactors.iter().enumerate() {
            if slot.reactor.is_some() {
                self.gate.reactors[number].order(Control::Abandon);
            }
        }
        let until = self.now_ns().saturating_add(OBEY_NS);
        self.run_until(until, |sim| !sim.is_alive());
        let mut report = CloseError { stuck: Vec::new(), failed: Vec::new() };
        for (number, slot) in self.reactors.iter_mut().enumerate() {
            match slot.end.take() {
                Some(end) => {
                    report.stuck.extend(end.stuck);
                    report.failed.extend(end.failure);
                }
                None => report.failed.push(format!("reactor {number} did not obey")),
            }
        }
        self.gate.routes.iter().flatten().for_each(|route| route.lane.wake_all());
        if report.stuck.is_empty() && report.failed.is_empty() { Ok(()) } else { Err(report) }
    }

    /// Whether a reactor has not ended.
    pub fn is_alive(&self) -> bool {
        self.reactors.iter().any(|slot| slot.reactor.is_some())
    }

    /// Whether every reactor sleeps with nothing to wait for but timers.
    pub fn is_quiet(&self) -> bool {
        let now = self.now_ns();
        (0..self.reactors.len()).all(|number| {
            let SimReactor { reactor, phase, .. } = &self.reactors[number];
            let waits = matches!((reactor, phase), (Some(reactor), Phase::Entered(_))
                if reactor.backend.is_quiet());
            reactor.is_none() || waits && !self.is_runnable(number, now)
        })
    }

    /// Attempts that are at the devices and will complete.
    pub fn pending(&self) -> usize {
        self.world.borrow().pending()
    }

    /// The power fails. The disks lose what `seed` says; reactors and callers are gone.
    pub fn crash(mut self, seed: u64) -> Vec<SimDisk> {
        let mut disks = self.switch_off();
        for (number, disk) in disks.iter_mut().enumerate() {
            disk.crash(&mut Random::new(seed.wrapping_add((number as u64) << 32)));
        }
        disks
    }

    /// The process dies. Its last writes may still land: [`SimDisk::land_in_flight`].
    pub fn kill(mut self) -> Vec<SimDisk> {
        self.switch_off()
    }

    /// Ends the reactors at once. No simulated device writes to memory after that, so that no
    /// buffer has to be leaked.
    fn switch_off(&mut self) -> Vec<SimDisk> {
        for slot in &mut self.reactors {
            let Some(mut reactor) = slot.reactor.take() else { continue };
            let ops = &mut reactor.state.ops;
            for used in ops.used_slots() {
                if ops.op(used).state == State::Active {
                    let id = ops.id(used);
                    ops.reap(id);
                }
            }
        }
        std::mem::take(&mut self.world.borrow_mut().disks)
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.switch_off();
    }
}

fn facts((number, disk): (usize, &SimDisk)) -> DiskFacts {
    let config = disk.config();
    DiskFacts {
        id: DiskId(number as u16),
        path: format!("sim-{number}").into(),
        size_bytes: config.size_bytes,
        logical_block_bytes: config.logical_block_bytes,
        raw_device: config.raw_device,
        nr_requests: config.nr_requests,
        nop: false,
        memory: None,
        priority_hints: false,
        polled: false,
        read_only: false,
    }
}

fn plan(config: &SimConfig, disks: usize) -> Vec<LaneSlot> {
    let mut plan = Vec::new();
    for disk in 0..disks {
        let round_robin = vec![disk % config.reactors];
        let reactors = config.lanes.get(disk).unwrap_or(&round_robin);
        for (lane, reactor) in reactors.iter().enumerate() {
            let local = Locality::Local;
            plan.push(LaneSlot { disk, lane: lane as u32, reactor: *reactor, local });
        }
    }
    plan
}
