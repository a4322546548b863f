//! The thread of a reactor: pinned, started in two steps, and what is done when it fails.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use crate::concurrency::thread_wait::mark_reactor_thread;
use crate::engine::error::OpenError;
use crate::engine::io_scheduler::ReactorEnd;
use crate::engine::status::ReactorStatus;
use crate::io::backend::{Backend, DiskFacts};
use crate::io::error::ErrorKind;
use crate::io::uring_backend::UringBackend;
use crate::machine::affinity::{current_cpu, memlock_limit_bytes, pin_to};
use crate::machine::mapping::PagePolicy;
use crate::machine::uring::{Ring, RingConfig};
use crate::machine::wake::WakeEvent;
use crate::memory::Arena;
use crate::placement::ReactorSlot;
use crate::reactor::drain::StuckDisk;
use crate::reactor::lane::Lane;
use crate::reactor::shared::{ReactorShared, Signal};
use crate::reactor::{Reactor, ReactorState, Tuning};

impl Signal for WakeEvent {
    fn signal(&self) {
        WakeEvent::signal(self);
    }
}

/// The arena that a thread maps for its node.
pub(super) struct ArenaOrder {
    pub(super) bytes: usize,
    pub(super) pages: PagePolicy,
    pub(super) first_piece: u16,
}

/// Everything that a reactor's thread starts with.
pub(super) struct Seed {
    pub(super) slot: ReactorSlot,
    /// CPUs of its node, or all.
    pub(super) node_cpus: Vec<u32>,
    pub(super) lanes: Vec<Lane>,
    pub(super) shared: Arc<ReactorShared>,
    pub(super) wake: Arc<WakeEvent>,
    pub(super) disks: Arc<[DiskFacts]>,
    pub(super) tuning: Tuning,
    pub(super) arena: Option<ArenaOrder>,
    pub(super) register_buffers: bool,
    pub(super) start: Instant,
    /// First news: pinned, and the node's arena if this thread maps it.
    pub(super) arena_made: Sender<Result<Option<Arc<Arena>>, OpenError>>,
    /// All arenas, once every thread has made its own.
    pub(super) arenas: Receiver<Vec<Arc<Arena>>>,
    /// Second news: rings made, ready.
    pub(super) ready: Sender<Result<ReactorStatus, OpenError>>,
    /// Last news.
    pub(super) ended: Sender<ReactorEnd>,
    /// The descriptors to register, in the disks' order; none leaves a slot empty.
    pub(super) files: Arc<[Option<OwnedFd>]>,
}

/// The body of a reactor's thread.
pub(super) fn main(mut seed: Seed) {
    mark_reactor_thread();
    let pinned = pin_to(seed.slot.cpu);
    let made = seed
        .arena
        .take()
        .map(|order| Arena::new(order.bytes, order.pages, seed.slot.node, order.first_piece));
    let made = made.transpose().map_err(OpenError::from);
    if seed.arena_made.send(made).is_err() {
        return;
    }
    // The engine gave up opening if this fails.
    let Ok(arenas) = seed.arenas.recv() else { return };
    let ended = seed.ended.clone();
    let ready = seed.ready.clone();
    match assemble(seed, &arenas, pinned) {
        Ok((reactor, status)) => {
            let _ = ready.send(Ok(status));
            drop(ready);
            let end = drive(reactor);
            let _ = ended.send(end);
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    }
}

fn assemble(
    seed: Seed,
    arenas: &[Arc<Arena>],
    pinned: bool,
) -> Result<(Reactor<UringBackend>, ReactorStatus), OpenError> {
    let mut state = ReactorState::new(seed.lanes, seed.disks.len(), seed.shared, seed.tuning);
    let active_max: u32 =
        state.lanes.iter().map(|lane| lane.scheduler.limits().depth + 16).sum::<u32>().max(32);
    let config = RingConfig {
        sq_entries: (active_max + 1).clamp(32, 4096),
        cq_entries: 2 * active_max + 64,
        polled: false,
        skip_rungs: 0,
    };
    let mut notes = Vec::new();
    if !pinned {
        notes.push(format!("CPU {} was refused: the reactor is not pinned", seed.slot.cpu));
    }
    let mut interrupt = Ring::new(&config)?;
    if !interrupt.capabilities().min_wait {
        // Nothing would bound how long several completions are waited for, wake-ups included.
        state.tuning.completion_batch = 1;
    }
    let files: Vec<RawFd> = seed.files.iter().map(raw).collect();
    interrupt.register_files(&files)?;
    interrupt.keep_workers_on(&seed.node_cpus);
    let mut polled = if seed.disks.iter().any(|disk| disk.polled) {
        let mut ring = Ring::new(&RingConfig { polled: true, ..config })?;
        ring.register_files(&files)?;
        Some(ring)
    } else {
        None
    };
    if seed.register_buffers {
        register(&mut interrupt, polled.as_mut(), arenas, &mut notes);
    }
    let status = ReactorStatus {
        cpu_wanted: seed.slot.cpu,
        cpu_found: current_cpu(),
        pinned,
        node: seed.slot.node,
        ring: interrupt.capabilities(),
        polled_ring: polled.as_ref().map(Ring::capabilities),
        notes,
    };
    let backend = UringBackend::new(interrupt, polled, seed.wake, seed.disks, seed.start)
        .map_err(|source| OpenError::System { action: "start a ring", source })?;
    Ok((Reactor { backend, state }, status))
}

/// Registers the arenas; without the right to lock that much memory the rings do without.
fn register(
    interrupt: &mut Ring,
    polled: Option<&mut Ring>,
    arenas: &[Arc<Arena>],
    notes: &mut Vec<String>,
) {
    let pieces: Vec<libc::iovec> = arenas.iter().flat_map(|arena| arena.pieces()).collect();
    for ring in std::iter::once(interrupt).chain(polled) {
        // SAFETY: the reactor's operations hold buffers, and those their arenas; the engine holds
        // every arena until the rings are closed, and leaks both together when a device hangs.
        #[allow(unsafe_code)]
        let registered = unsafe { ring.register_buffers(&pieces) };
        if let Err(error) = registered {
            let bytes: usize = pieces.iter().map(|piece| piece.iov_len).sum();
            let limit = match memlock_limit_bytes() {
                Some(limit) => format!("RLIMIT_MEMLOCK is {limit} bytes"),
                None => "RLIMIT_MEMLOCK is unlimited".to_owned(),
            };
            notes.push(format!(
                "buffers are not registered ({error}): {bytes} bytes of arenas want to be locked \
                 and {limit}; raise it with `ulimit -l {}` for up to 10 % more IOPS",
                bytes / 1024
            ));
            return;
        }
    }
}

/// Runs the reactor to its end, whatever that is.
fn drive(mut reactor: Reactor<UringBackend>) -> ReactorEnd {
    let run = catch_unwind(AssertUnwindSafe(|| reactor.run()));
    let failure = match run {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("a ring failed: {error}")),
        Err(panic) => Some(format!("a reactor panicked: {}", message(panic.as_ref()))),
    };
    conclude(reactor, failure)
}

/// Ends a reactor that stopped, or that failed for this reason.
pub(crate) fn conclude<B: Backend>(mut reactor: Reactor<B>, failure: Option<String>) -> ReactorEnd {
    let mut end = ReactorEnd { stuck: std::mem::take(&mut reactor.state.stuck), failure };
    if end.failure.is_some() {
        reactor.state.shared.poisoned.store(true, Ordering::Release);
        end.stuck.extend(give_up(&mut reactor.state));
    }
    reactor.state.shared.publish_usage();
    if reactor.state.ops.active() > 0 {
        // Whoever waits for a task is told; what the devices have is the operations'.
        drop_tasks(&mut reactor.state);
        // The devices may still write to the operations' memory, and a closed ring does not stop
        // them: rings, buffers and arenas stay for ever.
        std::mem::forget(reactor);
    } else if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(reactor))) {
        // The user's tasks are dropped with it.
        let said = format!("a reactor panicked while it ended: {}", message(panic.as_ref()));
        end.failure.get_or_insert(said);
    }
    end
}

/// Tells everyone that a failed reactor ends. A local task that panics at the news loses its turn
/// and nobody else does: each attempt takes its operation out before it calls the task, so there
/// are no more attempts than operations.
fn give_up(state: &mut ReactorState) -> Vec<StuckDisk> {
    loop {
        let told = catch_unwind(AssertUnwindSafe(|| state.abandon(ErrorKind::Poisoned)));
        if let Ok(stuck) = told {
            return stuck;
        }
    }
}

/// Drops the local tasks, one after another, whatever one says to it.
fn drop_tasks(state: &mut ReactorState) {
    for task in state.tasks.iter_mut().filter_map(|slot| slot.task.take()) {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
    }
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "?".to_owned())
}

fn raw(file: &Option<OwnedFd>) -> RawFd {
    file.as_ref().map_or(-1, AsRawFd::as_raw_fd)
}
