//! What a completion leads to: done, the rest of a short transfer, another attempt, an error.
//!
//! A positive result is success only when it is the whole length. A transfer that ended early
//! goes on where it ended, on a block boundary; one that moved nothing is an error.
//!
//! A `WriteFlush` goes through up to two kinds of attempts, and its state is `done`: while that is
//! less than its length it is writing, then it flushes. Where the backend chains the two, the
//! completion of the flush stands for both. A chain that broke is not made again: what is left
//! goes on as a write of its own, and then as a flush of its own. A flush is never tried again.

use crate::concurrency::call_table::ServerKey;
use crate::io::backend::Reaped;
use crate::io::error::{ATTEMPTS_MAX, ErrorKind, IoError, Medium, Verdict, classify};
use crate::io::op::{Completion, OpKind, Request};
use crate::io::op_table::{EndedLocal, Half, Origin, State};
use crate::reactor::ReactorState;
use crate::reactor::local::LocalIo;

impl ReactorState {
    /// Takes one completion.
    #[inline(always)]
    pub(crate) fn finish(&mut self, reaped: Reaped) {
        match self.ops.end_local(reaped.id, reaped.result) {
            Some(ended) => self.finish_local(ended),
            None => self.finish_any(reaped),
        }
    }

    /// The plain case, written out for speed: what `end`, `report` and `tell` do, in one pass.
    #[inline(always)]
    fn finish_local(&mut self, ended: EndedLocal) {
        let wait_ns = ended.dispatched_ns.saturating_sub(ended.queued_ns);
        let service_ns = self.now.saturating_sub(ended.dispatched_ns);
        let lane = &mut self.lanes[usize::from(ended.lane)];
        lane.scheduler.ended(ended.class, ended.kind, ended.len, self.now);
        let class = &lane.shared.metrics.classes[ended.class.index()];
        class.completed.add(1);
        class.bytes.add(ended.len);
        class.service.record(service_ns);
        let index = usize::from(ended.task);
        let slot = &mut self.tasks[index];
        slot.outstanding -= 1;
        let Some(mut task) = slot.task.take() else { return };
        let (result, buffers) = (Ok(ended.len), ended.buffers);
        let completion = Completion { result, buffers, wait_ns, service_ns };
        let state = task.complete(&mut LocalIo::new(self, ended.task), ended.tag, completion);
        self.put_task_back(index, task, state);
    }

    fn finish_any(&mut self, reaped: Reaped) {
        if reaped.half != Half::Whole {
            return self.finish_half(reaped);
        }
        let Some((slot, op)) = self.ops.reap(reaped.id) else {
            self.shared.metrics.late.add(1);
            return;
        };
        let (kind, len) = (op.kind, op.len);
        let left = if kind.moves_data() { len - op.done } else { 0 };
        let (lane, origin) = (op.lane, &op.origin);
        let lane = &self.lanes[usize::from(lane)].shared.metrics;
        match kind {
            OpKind::Flush => lane.flushes.add(1),
            OpKind::WriteDsync => lane.dsync_writes.add(1),
            _ => {}
        }
        if reaped.result < 0 || reaped.result as u64 != left {
            return self.stumble(slot, kind, reaped.result);
        }
        if let Some(Origin::Piece { parent }) = *origin {
            return self.end_piece(slot, parent, None);
        }
        self.end(slot, Ok(len));
    }

    /// Takes the completion of one half of a `WriteFlush`.
    fn finish_half(&mut self, Reaped { id, half, result }: Reaped) {
        let expected = self.ops.resolve(id).filter(|slot| match half {
            Half::Whole => false,
            // A chain's write that was done whole says nothing: its flush does.
            Half::Write => !self.ops.op(*slot).chained || !self.ops.is_whole(*slot, result),
            Half::Flush => self.ops.awaits_flush(*slot),
            Half::ChainedFlush => self.ops.op(*slot).chained,
        });
        let Some(slot) = expected else {
            self.shared.metrics.late.add(1);
            return;
        };
        self.ops.reap(id);
        if half == Half::Write {
            return self.finish_write_half(slot, result);
        }
        let op = self.ops.op_mut(slot);
        // It ran, so all is written.
        (op.done, op.chained) = (op.len, false);
        let (len, lane) = (op.len, op.lane);
        self.lanes[usize::from(lane)].shared.metrics.flushes.add(1);
        match result {
            0 => self.end(slot, Ok(len)),
            _ => self.stumble(slot, OpKind::Flush, result),
        }
    }

    /// The write was an attempt of its own, or broke its chain.
    fn finish_write_half(&mut self, slot: u32, result: i32) {
        self.ops.op_mut(slot).chained = false;
        if !self.ops.is_whole(slot, result) {
            return self.stumble(slot, OpKind::Write, result);
        }
        self.ops.advance(slot, result as u64);
        self.again.push(slot);
    }

    /// A short transfer or an errno; `half` is what the attempt did.
    #[cold]
    fn stumble(&mut self, slot: u32, half: OpKind, result: i32) {
        let op = self.ops.op(slot);
        let lane = &self.lanes[usize::from(op.lane)];
        let (medium, block) = (lane.facts().medium(), lane.facts().logical_block_bytes);
        let kind = if result < 0 {
            match classify(-result, medium) {
                Verdict::Retry if half == OpKind::Flush => ErrorKind::Busy,
                Verdict::Retry if op.attempts >= ATTEMPTS_MAX => ErrorKind::Busy,
                Verdict::Retry => return self.attempt_again(slot),
                Verdict::Fail(kind) => kind,
            }
        } else {
            let whole = result as u64 / u64::from(block) * u64::from(block);
            if half.moves_data() && whole > 0 && whole < op.len - op.done {
                self.ops.advance(slot, whole);
                self.attempt_again(slot);
                // It made progress: only failed attempts in a row are bounded.
                self.ops.op_mut(slot).attempts = 0;
                return;
            }
            match medium {
                Medium::Device => ErrorKind::DeviceGone,
                Medium::File => ErrorKind::UnexpectedEnd,
            }
        };
        let errno = (result < 0).then_some(-result);
        let error = Box::new(IoError { op: half, ..*self.error(slot, kind, errno) });
        match self.ops.op(slot).origin {
            Some(Origin::Piece { parent }) => self.end_piece(slot, parent, Some(error)),
            _ => self.end(slot, Err(error)),
        }
    }

    /// Stages the operation again in the next turn. It keeps its slots at the device.
    fn attempt_again(&mut self, slot: u32) {
        let op = self.ops.op_mut(slot);
        op.attempts = op.attempts.saturating_add(1);
        let (lane, class) = (op.lane, op.class);
        self.lanes[usize::from(lane)].shared.metrics.classes[class.index()].retried.add(1);
        self.again.push(slot);
    }

    pub(crate) fn error(&self, slot: u32, kind: ErrorKind, errno: Option<i32>) -> Box<IoError> {
        let op = self.ops.op(slot);
        let path = self.lanes[usize::from(op.lane)].facts().path.clone();
        Box::new(IoError {
            kind,
            op: op.kind,
            disk: op.disk,
            path,
            offset: op.offset,
            expected: op.len,
            found: op.done,
            errno,
        })
    }

    /// A whole operation has left the device.
    #[inline]
    fn end(&mut self, slot: u32, result: Result<u64, Box<IoError>>) {
        let op = self.ops.op(slot);
        let lane = &mut self.lanes[usize::from(op.lane)];
        lane.scheduler.ended(op.class, op.kind, op.len, self.now);
        self.report(slot, result);
    }

    /// A piece has left the device; with the last one its parent ends.
    #[cold]
    fn end_piece(&mut self, slot: u32, parent: u32, failure: Option<Box<IoError>>) {
        let (lane, class, kind, len) = {
            let op = self.ops.op(slot);
            (op.lane, op.class, op.kind, op.len)
        };
        self.lanes[usize::from(lane)].scheduler.ended(class, kind, len, self.now);
        let _ = self.ops.remove(slot);
        let op = self.ops.op_mut(parent);
        op.pieces -= 1;
        let unissued = op.issued < op.len;
        if let Some(failure) = failure {
            self.ops.failure_mut(parent).get_or_insert(failure);
        }
        if unissued && self.ops.failure_mut(parent).is_some() {
            let op = self.ops.op_mut(parent);
            // No more pieces: what is left of it leaves the queue.
            op.issued = op.len;
            op.state = State::Split;
            let lane = &mut self.lanes[usize::from(lane)];
            lane.withdraw(&mut self.ops, parent);
            lane.publish_dispatched(&mut self.wakers);
        }
        let op = self.ops.op(parent);
        if op.pieces == 0 && op.issued == op.len {
            let len = op.len;
            let result = match self.ops.failure_mut(parent).take() {
                Some(failure) => Err(failure),
                None => Ok(len),
            };
            self.report(parent, result);
        }
    }

    /// Counts an operation as completed and tells its origin.
    #[inline]
    pub(crate) fn report(&mut self, slot: u32, result: Result<u64, Box<IoError>>) {
        let op = self.ops.op(slot);
        let wait_ns = op.dispatched_ns.saturating_sub(op.queued_ns);
        let service_ns = self.now.saturating_sub(op.dispatched_ns);
        let lane = &self.lanes[usize::from(op.lane)];
        let class = &lane.shared.metrics.classes[op.class.index()];
        class.completed.add(1);
        match &result {
            Ok(bytes) => {
                class.bytes.add(*bytes);
                class.service.record(service_ns);
            }
            Err(error) => lane.shared.metrics.errors[error.kind as usize].add(1),
        }
        let (origin, buffers) = self.ops.remove(slot);
        self.tell(origin, Completion { result, buffers, wait_ns, service_ns });
    }

    #[inline]
    pub(crate) fn tell(&mut self, origin: Origin, completion: Completion) {
        match origin {
            Origin::Local { task, tag } => self.with_task(usize::from(task), |task, io| {
                io.completed_one();
                task.complete(io, tag, completion)
            }),
            Origin::Call(key) => self.tell_caller(key, completion),
            Origin::Piece { .. } => unreachable!("pieces end in end_piece"),
        }
    }

    #[inline]
    fn tell_caller(&mut self, key: ServerKey, completion: Completion) {
        if let Some(waker) = self.shared.calls.complete(key, completion) {
            self.wakers.push(waker);
        }
    }

    /// Gives a request back that the table had no room for.
    #[cold]
    pub(crate) fn refuse(&mut self, request: Request, origin: Origin, lane: u16) {
        let lane = &mut self.lanes[usize::from(lane)];
        lane.shared.release(1, &mut self.wakers);
        let path = lane.facts().path.clone();
        self.tell(origin, request.fail(ErrorKind::Busy, path));
    }
}
