//! The reactor: a state machine that joins schedulers to a backend.
//!
//! One turn, always in this order, so that a request travels one way:
//!
//! 1. take the mail (requests of other threads) and let runnable local tasks submit, those whose
//!    bells were rung among them;
//! 2. dispatch: each lane's scheduler fills the slots that its ceilings allow;
//! 3. enter the backend once: hand over what is staged, sleep if there is nothing else to do;
//! 4. reap completions, tell their origins, wake their waiters.
//!
//! A pinned thread drives it in production (`Reactor::run`); the simulator drives many, on one
//! thread. Nothing here uses a thread, a clock or a random source of its own.

pub mod bell;
pub(crate) mod drain;
pub(crate) mod finish;
pub(crate) mod lane;
pub mod local;
pub(crate) mod shared;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use crate::concurrency::call_table::ServerKey;
use crate::io::backend::{Backend, DiskFacts, REAP_MAX, Reaped, Wait};
use crate::io::error::ErrorKind;
use crate::io::op::{DiskId, Request};
use crate::io::op_table::{OpTable, Origin, State};
use crate::reactor::bell::BellTable;
use crate::reactor::drain::StuckDisk;
use crate::reactor::lane::Lane;
use crate::reactor::local::{LocalIo, LocalTask, TaskSlot, TaskState};
use crate::reactor::shared::{Control, Parcel, ReactorShared};
use crate::scheduler::Choice;
use crate::scheduler::limits::Limits;

/// How a reactor waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuning {
    /// Nanoseconds without any event before it sleeps.
    pub(crate) spin_ns: u64,
    /// Completions worth waiting for at once, when twice as many are at the device and none of
    /// them is urgent.
    pub(crate) completion_batch: u32,
    /// Microseconds after which one completion is enough all the same.
    pub(crate) settle_us: u32,
}

/// Whether to turn again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    /// Drained: nothing is queued, nothing at the device, the mailbox is closed. Or abandoned.
    Stop,
}

/// A sleeper with operations at the device looks around this often, nanoseconds.
const LOOK_AROUND_NS: u64 = 1_000_000_000;
/// How often a busy reactor publishes its thread's CPU time, nanoseconds.
const USAGE_EVERY_NS: u64 = 20_000_000;

/// See the module.
pub(crate) struct Reactor<B: Backend> {
    pub(crate) backend: B,
    pub(crate) state: ReactorState,
}

/// All of a reactor but its backend.
pub(crate) struct ReactorState {
    pub(crate) ops: OpTable,
    pub(crate) lanes: Vec<Lane>,
    /// Lane of each disk on this reactor, by disk number.
    pub(crate) lane_of_disk: Vec<Option<u16>>,
    pub(crate) tasks: Vec<TaskSlot>,
    pub(crate) bells: BellTable,
    pub(crate) shared: Arc<ReactorShared>,
    pub(crate) tuning: Tuning,
    pub(crate) now: u64,
    last_event_ns: u64,
    last_usage_ns: u64,
    /// Operations that started on arrival, to be staged; they hold their slots.
    pub(crate) ready: Vec<u32>,
    /// Attempts to stage again before anything new; they hold their slots.
    pub(crate) again: Vec<u32>,
    /// Waiters of completed calls, woken after the batch.
    pub(crate) wakers: Vec<Waker>,
    reaped: Vec<Reaped>,
    pub(crate) draining: bool,
    mailbox_closed: bool,
    /// Operations that were given up on, by disk; some when the reactor was told to.
    pub(crate) stuck: Vec<StuckDisk>,
    abandoned: bool,
}

impl ReactorState {
    pub(crate) fn new(
        lanes: Vec<Lane>,
        disks: usize,
        shared: Arc<ReactorShared>,
        tuning: Tuning,
    ) -> ReactorState {
        let mut lane_of_disk = vec![None; disks];
        for (index, lane) in lanes.iter().enumerate() {
            lane_of_disk[usize::from(lane.facts().id.0)] = Some(index as u16);
        }
        // Foreign and local requests that may wait, those at the device, and what an idle lane
        // may have taken over.
        let capacity: u32 = lanes.iter().map(Lane::ops_max).sum();
        ReactorState {
            ops: OpTable::new(capacity),
            lanes,
            lane_of_disk,
            tasks: Vec::new(),
            bells: BellTable::new(),
            shared,
            tuning,
            now: 0,
            last_event_ns: 0,
            last_usage_ns: 0,
            ready: Vec::with_capacity(capacity as usize),
            again: Vec::with_capacity(64),
            wakers: Vec::with_capacity(1024),
            reaped: Vec::with_capacity(REAP_MAX),
            draining: false,
            mailbox_closed: false,
            stuck: Vec::new(),
            abandoned: false,
        }
    }
}

impl<B: Backend> Reactor<B> {
    /// Turns until it is stopped. An error means that the backend cannot be used any more.
    pub(crate) fn run(&mut self) -> std::io::Result<()> {
        while self.turn()? == Flow::Continue {}
        Ok(())
    }

    /// One turn.
    #[inline]
    pub(crate) fn turn(&mut self) -> std::io::Result<Flow> {
        let wait = self.begin_turn();
        self.backend.enter(wait)?;
        Ok(self.end_turn(wait))
    }

    /// The part of a turn before the backend is entered: its first two steps, and how to wait.
    #[inline(always)]
    pub(crate) fn begin_turn(&mut self) -> Wait {
        let state = &mut self.state;
        state.now = self.backend.now();
        state.take_mail();
        if state.shared.control_pending() {
            state.obey(&mut self.backend);
        }
        if state.shared.bells.any() {
            state.answer_bells();
        }
        state.run_tasks(&mut self.backend);
        let staged = state.dispatch(&mut self.backend);
        state.choose_wait(&mut self.backend, staged)
    }

    /// The part of a turn after the backend was entered: its last step, and whether to go on.
    #[inline(always)]
    pub(crate) fn end_turn(&mut self, wait: Wait) -> Flow {
        if wait != Wait::None {
            self.state.shared.mailbox.awake();
        }
        self.reap();
        self.state.settle_turn(self.backend.enters())
    }

    #[inline]
    fn reap(&mut self) {
        let state = &mut self.state;
        let mut reaped = std::mem::take(&mut state.reaped);
        let mut fresh = false;
        loop {
            reaped.clear();
            self.backend.reap(&mut state.ops, &mut reaped);
            if reaped.is_empty() {
                break;
            }
            if !fresh {
                // One timestamp for the batch, taken after the wait.
                state.now = self.backend.now();
                state.last_event_ns = state.now;
                fresh = true;
                state.shared.metrics.reaps.add(1);
            }
            state.shared.metrics.reaped.add(reaped.len() as u64);
            for completion in &reaped {
                state.finish(*completion);
            }
            if reaped.len() < REAP_MAX {
                break;
            }
        }
        state.reaped = reaped;
        for waker in state.wakers.drain(..) {
            waker.wake();
        }
    }
}

impl ReactorState {
    /// Takes requests of other threads into the lanes' queues.
    #[inline]
    fn take_mail(&mut self) {
        if !self.shared.mailbox.has_mail() {
            return;
        }
        self.last_event_ns = self.now;
        let shared = Arc::clone(&self.shared);
        let mut taken = 0;
        for key in shared.mailbox.drain(&shared.calls) {
            taken += 1;
            let parcel = shared.calls.take_request(&key);
            self.admit(parcel, Origin::Call(key));
        }
        self.shared.metrics.mail.add(taken);
    }

    /// Queues one foreign request on its lane.
    fn admit(&mut self, parcel: Parcel, origin: Origin) {
        let disk = usize::from(parcel.request.disk.0);
        let Some(lane) = self.lane_of_disk[disk] else {
            unreachable!("the engine routes a request to a reactor that has a lane of its disk")
        };
        let since = if parcel.queued_ns == 0 { self.now } else { parcel.queued_ns };
        match self.ops.insert(parcel.request, origin, lane, since) {
            Ok(slot) => {
                let lane = &mut self.lanes[usize::from(lane)];
                lane.enqueue(&mut self.ops, slot);
                if self.draining {
                    self.return_queued();
                }
            }
            Err((request, origin)) => self.refuse(request, origin, lane),
        }
    }

    /// Lets runnable local tasks submit.
    #[inline]
    fn run_tasks(&mut self, backend: &mut dyn Backend) {
        for index in 0..self.tasks.len() {
            let runnable = match self.tasks[index].state {
                TaskState::Idle | TaskState::Done => false,
                TaskState::RunAgain => true,
                TaskState::At(ns) => ns <= self.now,
            };
            if runnable {
                let Some(mut task) = self.tasks[index].task.take() else { continue };
                let state = task.poll(&mut LocalIo::in_turn(self, index as u16, &mut *backend));
                self.put_task_back(index, task, Some(state));
            }
        }
    }

    /// Runs one call into a task, and ends the task when it is done and owes nothing.
    #[inline]
    pub(crate) fn with_task(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut dyn LocalTask, &mut LocalIo<'_>) -> Option<TaskState>,
    ) {
        let Some(mut task) = self.tasks[index].task.take() else { return };
        let state = call(&mut *task, &mut LocalIo::new(self, index as u16));
        self.put_task_back(index, task, state);
    }

    #[inline(always)]
    pub(crate) fn put_task_back(
        &mut self,
        index: usize,
        task: Box<dyn LocalTask>,
        state: Option<TaskState>,
    ) {
        let slot = &mut self.tasks[index];
        slot.task = Some(task);
        if let Some(state) = state {
            slot.state = state;
        }
        if slot.outstanding == 0 && slot.state == TaskState::Done {
            self.end_task(index);
        }
    }

    /// A task that is done and owes nothing.
    #[cold]
    fn end_task(&mut self, index: usize) {
        self.bells.untie(index as u16);
        if let Some(mut task) = self.tasks[index].task.take() {
            task.finish();
        }
    }

    /// Hands the device what the ceilings allow. Returns how many attempts were staged.
    #[inline]
    fn dispatch(&mut self, backend: &mut impl Backend) -> u32 {
        let nothing_started = self.again.is_empty() && self.ready.is_empty();
        if nothing_started && !self.lanes.iter().any(|lane| lane.scheduler.has_queued()) {
            return 0;
        }
        let mut room = backend.room();
        let mut staged = 0;
        while room > 0
            && let Some(slot) = self.again.pop()
        {
            self.ops.activate(slot);
            room = room.saturating_sub(backend.stage(&mut self.ops, slot));
            staged += 1;
        }
        let started = self.ready.len().min(room as usize);
        for slot in self.ready.drain(..started) {
            self.ops.activate(slot);
            // Plain transfers alone start on arrival: each is one entry.
            backend.stage(&mut self.ops, slot);
        }
        room -= started as u32;
        staged += started as u32;
        for lane in 0..self.lanes.len() {
            while room > 0
                && let Some(choice) = self.lanes[lane].scheduler.next(&mut self.ops, self.now)
            {
                let Some(slot) = self.prepare(lane, choice) else { break };
                self.ops.activate(slot);
                room = room.saturating_sub(backend.stage(&mut self.ops, slot));
                staged += 1;
            }
            self.lanes[lane].publish_dispatched(&mut self.wakers);
            if self.lanes[lane].scheduler.has_queued() {
                self.share_queue(lane);
            }
        }
        self.shared.metrics.submitted.add(u64::from(staged));
        self.shared.metrics.submits.add(u64::from(staged > 0));
        staged
    }

    /// Turns a choice into the slot to stage: the operation itself, or a piece of it.
    #[inline]
    fn prepare(&mut self, lane: usize, choice: Choice) -> Option<u32> {
        let now = self.now;
        let slot = match choice.piece {
            None => choice.slot,
            Some(bytes) => self.carve(lane, choice, bytes)?,
        };
        let op = self.ops.op_mut(slot);
        op.dispatched_ns = now;
        let lane = &mut self.lanes[lane];
        if choice.piece.is_none() {
            lane.note_dispatched(op);
        }
        let class = &lane.shared.metrics.classes[op.class.index()];
        if choice.piece.is_none() {
            class.wait.record(now.saturating_sub(op.queued_ns));
        }
        if choice.aged {
            class.aged.add(1);
        }
        Some(slot)
    }

    /// Makes the next piece of a large operation.
    #[cold]
    fn carve(&mut self, lane: usize, choice: Choice, bytes: u64) -> Option<u32> {
        let parent = choice.slot;
        let (issued, len, first) = {
            let op = self.ops.op(parent);
            (op.issued, op.len, op.vectors.0)
        };
        let vectors = self.vectors_for(parent, first, bytes);
        let Some(piece) = self.ops.insert_piece(parent, issued, bytes, vectors) else {
            self.lanes[lane].scheduler.put_back(&mut self.ops, choice);
            return None;
        };
        let now = self.now;
        let op = self.ops.op_mut(parent);
        op.issued += bytes;
        op.pieces += 1;
        op.vectors = (first + vectors.1, op.vectors.1.saturating_sub(vectors.1));
        let lane = &mut self.lanes[lane];
        if issued + bytes == len {
            op.state = State::Split;
            lane.note_dispatched(op);
        }
        let class = &lane.shared.metrics.classes[op.class.index()];
        class.split.add(1);
        if issued == 0 {
            op.dispatched_ns = now;
            class.wait.record(now.saturating_sub(op.queued_ns));
        }
        Some(piece)
    }

    /// How many whole vectors make up `bytes`.
    fn vectors_for(&mut self, parent: u32, first: u16, bytes: u64) -> (u16, u16) {
        let Some(lengths) = self.ops.vector_lengths(parent, first) else { return (0, 0) };
        let mut left = bytes;
        let whole = lengths.take_while(|length| {
            let fits = left >= *length && left > 0;
            left = left.saturating_sub(*length);
            fits
        });
        (first, whole.count() as u16)
    }

    /// Gives waiting requests to idle lanes of the same disk that asked.
    #[cold]
    fn share_queue(&mut self, lane: usize) {
        let hungry = self.lanes[lane].take_hungry();
        if hungry == 0 {
            return;
        }
        let mut spare = self.lanes[lane].scheduler.queued().div_ceil(2).min(64);
        for peer in 0..self.lanes[lane].peers.len() {
            let asker = 1 << self.lanes[lane].peers[peer].lane_number;
            if hungry & asker == 0 {
                continue;
            }
            let mut given = 0;
            while spare > 0 && self.give_one(lane, peer) {
                spare -= 1;
                given += 1;
            }
            if given == 0 {
                // It asks once only: what could not be given now may be later.
                self.lanes[lane].shared.hungry.fetch_or(asker, Ordering::Relaxed);
            }
        }
        // With its last requests gone this lane may not dispatch again for long.
        self.lanes[lane].publish_dispatched(&mut self.wakers);
    }

    /// Moves one waiting request to a peer; false when none may move.
    fn give_one(&mut self, lane: usize, peer: usize) -> bool {
        let movable =
            |ops: &OpTable, slot: u32| matches!(ops.op(slot).origin, Some(Origin::Call(_)));
        let Some(slot) = self.lanes[lane].scheduler.give_away(&mut self.ops, movable) else {
            return false;
        };
        let (class, queued_ns) = (self.ops.op(slot).class, self.ops.op(slot).queued_ns);
        self.lanes[lane].note_dispatched(self.ops.op(slot));
        let (request, key) = self.take_out(slot);
        let shared = Arc::clone(&self.shared);
        shared.calls.put_request(&key, Parcel { request, queued_ns });
        let peer = &self.lanes[lane].peers[peer];
        peer.shared.waiting.fetch_add(1, Ordering::AcqRel);
        match peer.reactor.post(key) {
            Ok(()) => {
                self.lanes[lane].shared.metrics.classes[class.index()].stolen.add(1);
                true
            }
            Err(key) => {
                // The peer has closed, as this engine is about to: keep it here.
                peer.shared.waiting.fetch_sub(1, Ordering::AcqRel);
                self.lanes[lane].shared.waiting.fetch_add(1, Ordering::AcqRel);
                let parcel = shared.calls.take_request(&key);
                self.admit(parcel, Origin::Call(key));
                false
            }
        }
    }

    fn take_out(&mut self, slot: u32) -> (Request, ServerKey) {
        let request = self.ops.op(slot).request();
        let (origin, buffers) = self.ops.remove(slot);
        let Origin::Call(key) = origin else { unreachable!("only calls move between lanes") };
        (Request { buffers, ..request }, key)
    }

    /// Decides whether this turn sleeps, and for what.
    #[inline]
    fn choose_wait(&mut self, backend: &mut impl Backend, staged: u32) -> Wait {
        let active = self.ops.active();
        let more = self.abandoned
            || !self.again.is_empty()
            || !self.ready.is_empty()
            || self.draining && active == 0
            || backend.must_poll()
            || self.tasks.iter().any(|slot| slot.state == TaskState::RunAgain);
        if more {
            return Wait::None;
        }
        let spinning = self.tuning.spin_ns > 0
            && self.now.saturating_sub(self.last_event_ns) < self.tuning.spin_ns;
        if spinning || (staged == 0 && backend.has_completions()) {
            return Wait::None;
        }
        if active == 0 {
            self.lanes.iter_mut().for_each(|lane| lane.ask_peers());
        }
        // Orders and bells that came before the announcement did not wake: look again.
        if !self.shared.mailbox.prepare_sleep()
            || self.shared.control_pending()
            || self.shared.bells.any()
        {
            self.shared.mailbox.awake();
            return Wait::None;
        }
        self.shared.metrics.sleeps.add(1);
        // A sleeper does not publish again: what is read while it sleeps must be true.
        self.lanes.iter().for_each(Lane::publish_queued);
        let batch = self.tuning.completion_batch;
        let patient = batch > 1
            && active >= 2 * batch
            && !self.lanes.iter().any(|lane| lane.scheduler.urgent_active());
        let completions = if patient { batch } else { 1 };
        let settle_us = if patient { self.tuning.settle_us } else { 0 };
        Wait::Until { completions, timeout_ns: self.next_deadline(active), settle_us }
    }

    /// When the next timed local task wants to run, as nanoseconds from now.
    fn next_deadline(&self, active: u32) -> Option<u64> {
        let tasks = self.tasks.iter().filter_map(|slot| match slot.state {
            TaskState::At(ns) => Some(ns.saturating_sub(self.now)),
            _ => None,
        });
        let look_around = (active > 0).then_some(LOOK_AROUND_NS);
        tasks.chain(look_around).min()
    }

    /// The end of a turn: publishes what is counted, and stops when drained.
    #[inline]
    fn settle_turn(&mut self, enters: u64) -> Flow {
        let metrics = &self.shared.metrics;
        metrics.turns.add(1);
        metrics.enters.set(enters);
        if self.now.saturating_sub(self.last_usage_ns) >= USAGE_EVERY_NS {
            self.last_usage_ns = self.now;
            self.publish_gauges();
        }
        if self.abandoned {
            return Flow::Stop;
        }
        if self.draining && self.ops.used() == 0 && self.close_mailbox() {
            return Flow::Stop;
        }
        Flow::Continue
    }

    #[cold]
    fn publish_gauges(&mut self) {
        self.shared.publish_usage();
        for lane in &self.lanes {
            lane.publish_queued();
        }
    }

    /// Closes the mailbox; true when nothing came out of it.
    fn close_mailbox(&mut self) -> bool {
        if !self.mailbox_closed {
            self.mailbox_closed = true;
            let shared = Arc::clone(&self.shared);
            for key in shared.mailbox.close(&shared.calls) {
                let parcel = shared.calls.take_request(&key);
                self.admit(parcel, Origin::Call(key));
            }
            for waker in self.wakers.drain(..) {
                waker.wake();
            }
        }
        self.ops.used() == 0
    }

    /// Obeys orders from the engine.
    #[cold]
    fn obey(&mut self, backend: &mut dyn Backend) {
        for order in self.shared.take_orders() {
            match order {
                Control::Spawn(task) => {
                    self.start(task);
                }
                Control::Plant { seed, bell } => {
                    let task = self.start(seed());
                    if let Some(bell) = bell {
                        self.bells.tie(bell, task);
                    }
                }
                Control::Attach { facts, limits, file, done } => {
                    let attached = backend.attach(&facts, file.as_raw_fd());
                    if attached.is_ok() {
                        self.attach(&facts, &limits);
                    }
                    done(attached);
                }
                Control::Detach { disk, done } => done(backend.detach(disk)),
                Control::Resize { disk, size_bytes, done } => {
                    if let Some(lane) = self.lane_of(disk) {
                        lane.resize(size_bytes);
                    }
                    done(Ok(()));
                }
                Control::Drain => {
                    self.draining = true;
                    self.return_queued();
                }
                Control::Abandon => {
                    self.stuck = self.abandon(ErrorKind::Abandoned);
                    self.abandoned = true;
                }
            }
        }
        self.note_event();
    }

    /// The lane of a place that was vacant drives a disk.
    fn attach(&mut self, facts: &DiskFacts, limits: &Limits) {
        if let Some(lane) = self.lane_of(facts.id) {
            lane.attach(facts.clone(), limits.clone());
        }
    }

    fn lane_of(&mut self, disk: DiskId) -> Option<&mut Lane> {
        let index = self.lane_of_disk.get(usize::from(disk.0)).copied().flatten()?;
        self.lanes.get_mut(usize::from(index))
    }

    /// Puts a task in a free slot, to be polled in this turn.
    fn start(&mut self, task: Box<dyn LocalTask>) -> u16 {
        let slot = TaskSlot { task: Some(task), state: TaskState::RunAgain, outstanding: 0 };
        let index = match self.tasks.iter().position(|slot| slot.task.is_none()) {
            Some(free) => {
                self.tasks[free] = slot;
                free
            }
            None => {
                self.tasks.push(slot);
                self.tasks.len() - 1
            }
        };
        index as u16
    }

    /// Something happened: a reactor that spins goes on for a while.
    pub(crate) fn note_event(&mut self) {
        self.last_event_ns = self.now;
    }
}
