//! The end of a reactor: drained, abandoned at a deadline, or poisoned by a panic.

use std::sync::Arc;

use serde::Serialize;

use crate::io::error::{ErrorKind, IoError};
use crate::io::op::{Buffers, Completion, DiskId};
use crate::io::op_table::{Origin, State};
use crate::reactor::ReactorState;

/// Operations that a disk never answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StuckDisk {
    /// Its path.
    pub path: String,
    /// How many operations.
    pub operations: u64,
    /// How long the oldest has been at the device, nanoseconds.
    pub oldest_ns: u64,
}

impl ReactorState {
    /// Gives every request back that waits and has nothing at the device.
    pub(crate) fn return_queued(&mut self) {
        for lane in 0..self.lanes.len() {
            for slot in self.lanes[lane].scheduler.take_all(&mut self.ops) {
                self.lanes[lane].note_dispatched(self.ops.op(slot));
                // ShuttingDown promises that nothing of it reached the device.
                let begun = self.ops.op(slot).issued > 0;
                let kind = if begun { ErrorKind::Abandoned } else { ErrorKind::ShuttingDown };
                let error = self.error(slot, kind, None);
                let op = self.ops.op_mut(slot);
                if op.pieces > 0 {
                    // Its last piece ends it.
                    op.issued = op.len;
                    op.state = State::Split;
                    self.ops.failure_mut(slot).get_or_insert(error);
                } else {
                    self.report(slot, Err(error));
                }
            }
            self.lanes[lane].publish_dispatched(&mut self.wakers);
        }
    }

    /// Ends everything: what waits comes back with its buffers; what is at the device gets an
    /// error of `kind` without them, and its memory is never freed.
    pub(crate) fn abandon(&mut self, kind: ErrorKind) -> Vec<StuckDisk> {
        self.draining = true;
        self.again.clear();
        self.ready.clear();
        let shared = std::sync::Arc::clone(&self.shared);
        let mut stuck: Vec<StuckDisk> = Vec::new();
        for lane in &mut self.lanes {
            lane.clear(&mut self.ops, &mut self.wakers);
        }
        for slot in self.ops.used_slots() {
            match self.ops.op(slot).state {
                State::Active | State::Split => self.note_stuck(slot, &mut stuck),
                _ => {}
            }
            let error = self.error(slot, kind, None);
            self.end_abruptly(slot, error);
        }
        for key in shared.mailbox.close(&shared.calls) {
            let request = shared.calls.take_request(&key).request;
            let path = self.path_of(request.disk);
            if let Some(lane) = self.lanes.iter().find(|lane| lane.facts().id == request.disk) {
                lane.shared.release(1, &mut self.wakers);
            }
            self.tell(Origin::Call(key), request.fail(kind, path));
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        self.lanes.iter().for_each(|lane| lane.shared.wake_all());
        stuck
    }

    fn path_of(&self, disk: DiskId) -> Arc<str> {
        let lane = self.lanes.iter().find(|lane| lane.facts().id == disk);
        lane.map_or_else(|| "a disk of another reactor".into(), |lane| lane.facts().path.clone())
    }

    fn note_stuck(&self, slot: u32, stuck: &mut Vec<StuckDisk>) {
        let op = self.ops.op(slot);
        if op.state == State::Split {
            return;
        }
        let path = self.lanes[usize::from(op.lane)].facts().path.as_ref();
        let oldest_ns = self.now.saturating_sub(op.dispatched_ns);
        match stuck.iter_mut().find(|disk| disk.path == path) {
            Some(disk) => {
                disk.operations += 1;
                disk.oldest_ns = disk.oldest_ns.max(oldest_ns);
            }
            None => {
                stuck.push(StuckDisk { path: path.to_owned(), operations: 1, oldest_ns });
            }
        }
    }

    /// Tells an operation's origin without touching memory that a device may still use.
    fn end_abruptly(&mut self, slot: u32, error: Box<IoError>) {
        let now = self.now;
        let op = self.ops.op(slot);
        let at_device = op.state == State::Active || op.pieces > 0;
        let completion = op.completion(Err(error), Buffers::None, now);
        if at_device {
            if let Some(origin) = self.ops.abandon(slot)
                && !matches!(origin, Origin::Piece { .. })
            {
                self.tell(origin, completion);
            }
            return;
        }
        if matches!(op.origin, Some(Origin::Piece { .. }) | None) {
            return;
        }
        let (origin, buffers) = self.ops.remove(slot);
        self.tell(origin, Completion { buffers, ..completion });
    }
}
