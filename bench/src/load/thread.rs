//! A clone that runs on a thread of its own and submits through tickets.

use std::collections::VecDeque;
use std::sync::Arc;

use dynamicfs::{Buffers, Completion, DmaBuf, IoScheduler, OpKind, Request, SubmitError, Ticket};

use crate::load::{CloneOrder, CloneResult, FAILURES_MAX, Progress};
use crate::stream::Direction;

/// One clone.
#[derive(Debug)]
pub struct ThreadClone {
    order: CloneOrder,
    progress: Progress,
    idle: Vec<DmaBuf>,
    in_flight: VecDeque<(Ticket, Direction)>,
    result: Arc<CloneResult>,
}

impl ThreadClone {
    /// A clone with its `depth` buffers. Closed loop only.
    #[must_use]
    pub fn new(order: CloneOrder, buffers: Vec<DmaBuf>, result: Arc<CloneResult>) -> Self {
        let progress = Progress::new(order.window);
        let in_flight = VecDeque::with_capacity(order.depth as usize);
        Self { order, progress, idle: buffers, in_flight, result }
    }

    /// Runs to the end of the window.
    pub fn run(mut self, engine: &IoScheduler) {
        let mut tickets = Vec::with_capacity(self.order.depth as usize);
        let mut directions = Vec::with_capacity(self.order.depth as usize);
        loop {
            let now = engine.now_ns();
            self.progress.tick(now, &self.result);
            self.start_all(engine, now, &mut tickets, &mut directions);
            let Some((oldest, direction)) = self.in_flight.pop_front() else { break };
            match oldest.wait() {
                Ok(completion) => self.take(engine.now_ns(), direction, completion),
                Err(_) => unreachable!("a client's thread is not a reactor's"),
            }
            self.take_more(engine.now_ns());
            self.progress.begin_batch(self.in_flight.len() as u32);
        }
        self.progress.finish(engine.now_ns(), &self.result);
    }

    /// Submits a request for every idle buffer, with one hand-over.
    fn start_all(
        &mut self,
        engine: &IoScheduler,
        now: u64,
        tickets: &mut Vec<Ticket>,
        directions: &mut Vec<Direction>,
    ) {
        let (order, idle, progress) = (&mut self.order, &mut self.idle, &mut self.progress);
        let mut requests = std::iter::from_fn(|| {
            if !progress.may_start(now) {
                return None;
            }
            let buffer = idle.pop()?;
            let (offset, direction) = order.stream.next_request();
            directions.push(direction);
            progress.started += 1;
            Some(Request {
                disk: order.disk,
                priority: order.classes[direction as usize],
                kind: if direction == Direction::Read { OpKind::Read } else { OpKind::Write },
                offset,
                len: u64::from(order.block_bytes),
                buffers: Buffers::One(buffer),
            })
        });
        let refused = engine.submit_many(&mut requests, tickets);
        let accepted = tickets.len();
        self.in_flight.extend(tickets.drain(..).zip(directions.drain(..).take(accepted)));
        if let Err(error) = refused {
            self.refused(error);
        }
    }

    /// The queue is full: what is in flight makes room. Anything else ends the run.
    fn refused(&mut self, error: SubmitError) {
        self.progress.started -= 1;
        if !matches!(error, SubmitError::QueueFull(_)) {
            self.progress.window.ios_max = 0;
        }
        if let Buffers::One(buffer) = error.into_request().buffers {
            self.idle.push(buffer);
        }
    }

    /// Takes what else is done, oldest first.
    fn take_more(&mut self, now: u64) {
        while self.in_flight.front().is_some_and(|(ticket, _)| ticket.is_done()) {
            let Some((ticket, direction)) = self.in_flight.pop_front() else { return };
            match ticket.try_take() {
                Ok(completion) => self.take(now, direction, completion),
                Err(ticket) => self.in_flight.push_front((ticket, direction)),
            }
        }
    }

    fn take(&mut self, now: u64, direction: Direction, completion: Completion) {
        let total_ns = completion.wait_ns + completion.service_ns;
        self.progress.count(now, total_ns, direction, &completion, &self.result);
        if let Err(error) = completion.result {
            self.result.fail(error.as_ref().into());
            if self.result.failed.get() >= FAILURES_MAX {
                self.progress.window.ios_max = 0;
            }
        }
        if let Buffers::One(buffer) = completion.buffers {
            self.idle.push(buffer);
        }
    }
}
