//! Work that runs on the reactor itself and submits without a mailbox.
//!
//! A local task is called on the reactor's thread and must not block. It costs no atomic
//! operation, no wake-up and no hand-over per request; the bench harness generates its load so,
//! and an embedder may put whole services here.

use crate::io::backend::{Backend, DiskFacts};
use crate::io::op::{Completion, DiskId, Request};
use crate::io::op_table::Origin;
use crate::reactor::ReactorState;
use crate::reactor::lane::Lane;

/// When a task wants to be polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Only its completions call it.
    Idle,
    /// In the next turn; the reactor does not sleep before.
    RunAgain,
    /// In the first turn after this time of [`LocalIo::now_ns`].
    At(u64),
    /// Never again. It ends when its last request has completed.
    Done,
}

/// Makes a task, on the thread of the reactor that it will run on: the task itself need not be
/// `Send`.
pub type TaskSeed = Box<dyn FnOnce() -> Box<dyn LocalTask> + Send>;

/// A task on a reactor. It never leaves its reactor's thread.
pub trait LocalTask {
    /// Runs a little: submits requests, says when it wants to run again.
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState;

    /// One of its requests has completed. `tag` is the one it was submitted with. A returned state
    /// replaces the last one.
    fn complete(
        &mut self,
        io: &mut LocalIo<'_>,
        tag: u64,
        completion: Completion,
    ) -> Option<TaskState>;

    /// It has said [`TaskState::Done`] and its last request has completed: called once, on the
    /// reactor's thread, before it is dropped. A task that is alive when the engine closes is
    /// dropped without it.
    fn finish(&mut self) {}
}

pub(crate) struct TaskSlot {
    /// None while it runs, and after it has ended.
    pub(crate) task: Option<Box<dyn LocalTask>>,
    pub(crate) state: TaskState,
    pub(crate) outstanding: u32,
}

/// Why a local request was not accepted. The request comes back with it.
#[derive(Debug)]
pub enum LocalRefusal {
    /// The class's watermark is reached: submit again after a completion.
    QueueFull(Request),
    /// The disk has no lane on this reactor.
    NotHere(Request),
    /// The request is malformed, as the text says.
    Invalid(Request, crate::io::op::InvalidRequest),
    /// The engine is closing.
    ShuttingDown(Request),
}

/// A local task's way to the disks of its reactor.
pub struct LocalIo<'a> {
    state: &'a mut ReactorState,
    task: u16,
    /// In a turn of its own, not while completions are told.
    backend: Option<&'a mut dyn Backend>,
}

impl<'a> LocalIo<'a> {
    #[inline(always)]
    pub(crate) fn new(state: &'a mut ReactorState, task: u16) -> LocalIo<'a> {
        LocalIo { state, task, backend: None }
    }

    #[inline(always)]
    pub(crate) fn in_turn(
        state: &'a mut ReactorState,
        task: u16,
        backend: &'a mut dyn Backend,
    ) -> LocalIo<'a> {
        LocalIo { state, task, backend: Some(backend) }
    }

    /// Lets a flush start that is linked to a write which has ended meanwhile: a task that has much
    /// to do in one [`LocalTask::poll`] calls it now and then, so that the device is not idle
    /// until it returns. A look into the ring unless there is such a flush.
    #[inline]
    pub fn advance(&mut self) {
        if let Some(backend) = &mut self.backend {
            backend.advance();
        }
    }

    /// The engine's clock in nanoseconds: one reading for all that happens in a batch.
    #[inline(always)]
    pub fn now_ns(&self) -> u64 {
        self.state.now
    }

    /// Disks with a lane on this reactor.
    pub fn disks(&self) -> impl Iterator<Item = &DiskFacts> {
        self.state.lanes.iter().map(Lane::facts)
    }

    /// What the engine knows of a disk; none when it has no lane on this reactor.
    pub fn facts(&self, disk: DiskId) -> Option<&DiskFacts> {
        let lane = self.state.lane_of_disk.get(usize::from(disk.0)).copied().flatten()?;
        Some(self.state.lanes[usize::from(lane)].facts())
    }

    /// Submits one request; its completion comes with `tag`.
    #[inline(always)]
    // The refusal is large because it gives the request back; boxing it would allocate.
    #[allow(clippy::result_large_err)]
    pub fn submit(&mut self, tag: u64, mut request: Request) -> Result<(), LocalRefusal> {
        let DiskId(disk) = request.disk;
        let lane = self.state.lane_of_disk.get(usize::from(disk)).copied().flatten();
        let Some(index) = lane else { return Err(LocalRefusal::NotHere(request)) };
        if self.state.draining {
            return Err(LocalRefusal::ShuttingDown(request));
        }
        let lane = &mut self.state.lanes[usize::from(index)];
        if let Err(invalid) = request.check(lane.facts()) {
            return Err(LocalRefusal::Invalid(request, invalid));
        }
        let class = request.priority;
        let now = self.state.now;
        let origin = Origin::Local { task: self.task, tag };
        if request.kind.is_plain()
            && self.state.ops.room() > 0
            && lane.start_at_once(class, request.len, now)
        {
            lane.shared.metrics.classes[class.index()].wait.record_zero();
            let Ok(slot) = self.state.ops.insert(request, origin, index, now) else {
                unreachable!("there is room")
            };
            self.state.ready.push(slot);
            self.state.tasks[usize::from(self.task)].outstanding += 1;
            return Ok(());
        }
        if !lane.reserve_local(class) {
            lane.shared.metrics.classes[class.index()].shed.add_shared(1);
            return Err(LocalRefusal::QueueFull(request));
        }
        match self.state.ops.insert(request, origin, index, now) {
            Ok(slot) => {
                lane.enqueue(&mut self.state.ops, slot);
                self.state.tasks[usize::from(self.task)].outstanding += 1;
                Ok(())
            }
            Err((request, _)) => {
                lane.release_local();
                Err(LocalRefusal::QueueFull(request))
            }
        }
    }

    #[inline(always)]
    pub(crate) fn completed_one(&mut self) {
        self.state.tasks[usize::from(self.task)].outstanding -= 1;
    }
}
