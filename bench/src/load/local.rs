//! A clone that runs on the reactor.

use std::sync::Arc;

use dynamicfs::reactor::local::{LocalIo, LocalRefusal, LocalTask, TaskState};
use dynamicfs::{Buffers, Completion, DmaBuf, OpKind, Request};

use crate::load::{CloneOrder, CloneResult, FAILURES_MAX, Progress};
use crate::stream::Direction;

/// See the module.
#[derive(Debug)]
pub struct LocalClone {
    order: CloneOrder,
    progress: Progress,
    /// Buffers not in flight.
    idle: Vec<DmaBuf>,
    /// Scheduled start of the request of each tag; open loop only.
    intended_ns: Vec<u64>,
    idle_tags: Vec<u32>,
    next_start_ns: u64,
    in_flight: u32,
    last_ns: u64,
    result: Arc<CloneResult>,
}

/// Tags carry the direction in their lowest bit.
const WRITE_TAG: u64 = 1;

impl LocalClone {
    /// A clone with its `depth` buffers.
    #[must_use]
    pub fn new(order: CloneOrder, buffers: Vec<DmaBuf>, result: Arc<CloneResult>) -> Self {
        let tags = if order.interval_ns.is_some() { order.depth } else { 0 };
        Self {
            progress: Progress::new(order.window),
            intended_ns: vec![0; tags as usize],
            idle_tags: (0..tags).collect(),
            next_start_ns: 0,
            in_flight: 0,
            last_ns: 0,
            idle: buffers,
            order,
            result,
        }
    }

    #[inline]
    fn start(&mut self, io: &mut LocalIo<'_>, buffer: DmaBuf, tag: u64) {
        let (offset, direction) = self.order.stream.next_request();
        let kind = match direction {
            Direction::Read => OpKind::Read,
            Direction::Write => OpKind::Write,
        };
        let request = Request {
            disk: self.order.disk,
            priority: self.order.classes[direction as usize],
            kind,
            offset,
            len: u64::from(self.order.block_bytes),
            buffers: Buffers::One(buffer),
        };
        match io.submit(tag << 1 | direction as u64, request) {
            Ok(()) => {
                self.progress.started += 1;
                self.in_flight += 1;
            }
            Err(refusal) => self.refused(refusal),
        }
    }

    /// Its queue is deeper than any clone, so a refusal is the end of the run: the engine closes.
    #[cold]
    fn refused(&mut self, refusal: LocalRefusal) {
        let (LocalRefusal::QueueFull(request)
        | LocalRefusal::NotHere(request)
        | LocalRefusal::Invalid(request, _)
        | LocalRefusal::ShuttingDown(request)) = refusal;
        if let Buffers::One(buffer) = request.buffers {
            self.idle.push(buffer);
        }
        self.progress.window.ios_max = 0;
    }

    /// Starts what the schedule says, as far as there are buffers.
    fn start_scheduled(&mut self, io: &mut LocalIo<'_>, interval_ns: u64) -> TaskState {
        let now = io.now_ns();
        if self.next_start_ns == 0 {
            self.next_start_ns = now;
        }
        while self.next_start_ns <= now && self.progress.may_start(self.next_start_ns) {
            let (Some(buffer), Some(tag)) = (self.idle.pop(), self.idle_tags.pop()) else {
                // All of the depth is in flight: the schedule waits, and the wait is measured.
                return TaskState::Idle;
            };
            self.intended_ns[tag as usize] = self.next_start_ns;
            self.next_start_ns += interval_ns;
            self.start(io, buffer, u64::from(tag));
        }
        TaskState::At(self.next_start_ns)
    }

    fn over(&self) -> bool {
        self.in_flight == 0 && !self.progress.may_start(self.last_ns)
    }
}

impl LocalTask for LocalClone {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        self.last_ns = io.now_ns();
        self.progress.tick(self.last_ns, &self.result);
        if self.over() {
            return TaskState::Done;
        }
        if let Some(interval_ns) = self.order.interval_ns {
            return self.start_scheduled(io, interval_ns);
        }
        while self.progress.may_start(self.last_ns)
            && let Some(buffer) = self.idle.pop()
        {
            self.start(io, buffer, 0);
        }
        TaskState::Idle
    }

    #[inline]
    fn complete(
        &mut self,
        io: &mut LocalIo<'_>,
        tag: u64,
        completion: Completion,
    ) -> Option<TaskState> {
        let now = io.now_ns();
        if now != self.last_ns {
            self.last_ns = now;
            self.progress.tick(now, &self.result);
            self.progress.begin_batch(self.in_flight);
        }
        self.in_flight -= 1;
        let direction = if tag & WRITE_TAG == 0 { Direction::Read } else { Direction::Write };
        let total_ns = match self.order.interval_ns {
            None => completion.wait_ns + completion.service_ns,
            Some(_) => now.saturating_sub(self.intended_ns[(tag >> 1) as usize]),
        };
        self.progress.count(now, total_ns, direction, &completion, &self.result);
        if let Err(error) = completion.result {
            self.result.fail(error.as_ref().into());
            if self.result.failed.get() >= FAILURES_MAX {
                self.progress.window.ios_max = 0;
            }
        }
        let Buffers::One(buffer) = completion.buffers else {
            return Some(TaskState::RunAgain);
        };
        if self.order.interval_ns.is_none() && self.progress.may_start(now) {
            self.start(io, buffer, 0);
            return None;
        }
        self.idle.push(buffer);
        if self.order.interval_ns.is_some() {
            self.idle_tags.push((tag >> 1) as u32);
        }
        Some(TaskState::RunAgain)
    }

    fn finish(&mut self) {
        self.progress.finish(self.last_ns, &self.result);
    }
}
