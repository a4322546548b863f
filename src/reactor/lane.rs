//! One lane: one disk's queues on one reactor.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use crate::io::backend::DiskFacts;
use crate::io::op::{CLASSES, Priority};
use crate::io::op_table::{Op, OpTable, Origin};
use crate::reactor::shared::{LaneShared, ReactorShared};
use crate::scheduler::LaneScheduler;
use crate::scheduler::limits::Limits;

/// Another lane of the same disk.
pub(crate) struct Peer {
    pub(crate) lane_number: u32,
    pub(crate) shared: Arc<LaneShared>,
    pub(crate) reactor: Arc<ReactorShared>,
}

/// See the module.
pub(crate) struct Lane {
    facts: DiskFacts,
    /// Number among the disk's lanes.
    lane_number: u32,
    pub(crate) scheduler: LaneScheduler,
    pub(crate) shared: Arc<LaneShared>,
    pub(crate) peers: Vec<Peer>,
    /// Requests of local tasks that wait.
    local_waiting: u32,
    /// Foreign requests that left the queue since the last publication.
    dispatched: u32,
    asked: bool,
    /// Every request is treated as of this one class, for comparison with no priorities.
    single_class: Option<Priority>,
}

impl Lane {
    pub(crate) fn new(
        facts: DiskFacts,
        lane_number: u32,
        limits: Limits,
        shared: Arc<LaneShared>,
    ) -> Lane {
        Lane {
            facts,
            lane_number,
            scheduler: LaneScheduler::new(limits),
            shared,
            peers: Vec::new(),
            local_waiting: 0,
            dispatched: 0,
            asked: false,
            single_class: None,
        }
    }

    /// Treats every request as of one class.
    pub(crate) fn flatten(&mut self, class: Priority) {
        self.single_class = Some(class);
    }

    /// Drives a disk where none was: nothing has been queued.
    pub(crate) fn attach(&mut self, facts: DiskFacts, limits: Limits) {
        self.scheduler = LaneScheduler::new(limits);
        self.facts = facts;
    }

    /// The disk has another size.
    pub(crate) fn resize(&mut self, size_bytes: u64) {
        self.facts.size_bytes = size_bytes;
    }

    pub(crate) fn facts(&self) -> &DiskFacts {
        &self.facts
    }

    /// Most operations that this lane can have in the reactor's table.
    pub(crate) fn ops_max(&self) -> u32 {
        let limits = self.scheduler.limits();
        2 * limits.watermarks[0] + 3 * limits.depth + 128
    }

    /// Whether a transfer that has just arrived goes to the device without waiting.
    #[inline(always)]
    pub(crate) fn start_at_once(&mut self, class: Priority, bytes: u64, now: u64) -> bool {
        self.single_class.is_none() && self.scheduler.start_at_once(class, bytes, now)
    }

    #[inline(always)]
    pub(crate) fn enqueue(&mut self, ops: &mut OpTable, slot: u32) {
        if let Some(class) = self.single_class {
            ops.op_mut(slot).class = class;
        }
        self.asked = false;
        self.scheduler.enqueue(ops, slot);
    }

    /// Whether a local request of this class is accepted; counts it if so.
    #[inline]
    pub(crate) fn reserve_local(&mut self, class: Priority) -> bool {
        if self.local_waiting < self.scheduler.limits().watermark(class) {
            self.local_waiting += 1;
            return true;
        }
        false
    }

    /// Gives a local reservation back that was not used.
    pub(crate) fn release_local(&mut self) {
        self.local_waiting -= 1;
    }

    /// Counts an operation as no longer waiting.
    #[inline]
    pub(crate) fn note_dispatched(&mut self, op: &Op) {
        match op.origin {
            Some(Origin::Call(_)) => self.dispatched += 1,
            Some(Origin::Local { .. }) => self.local_waiting -= 1,
            _ => {}
        }
    }

    /// Makes the room of dispatched requests visible to submitters.
    #[inline]
    pub(crate) fn publish_dispatched(&mut self, wakers: &mut Vec<Waker>) {
        if self.dispatched > 0 {
            self.shared.release(self.dispatched, wakers);
            self.dispatched = 0;
        }
    }

    /// Publishes how many wait in each class.
    pub(crate) fn publish_queued(&self) {
        for class in 0..CLASSES {
            let queued = self.scheduler.queued_in(Priority::ALL[class]);
            self.shared.metrics.classes[class].queued.set(u64::from(queued));
        }
    }

    /// Lanes that asked for requests since the last call, as bits.
    #[inline]
    pub(crate) fn take_hungry(&self) -> u64 {
        if self.shared.hungry.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.shared.hungry.swap(0, Ordering::Relaxed)
    }

    /// Tells the disk's other lanes that this one is idle, once per idleness.
    pub(crate) fn ask_peers(&mut self) {
        if self.asked || self.peers.is_empty() {
            return;
        }
        self.asked = true;
        for peer in &self.peers {
            peer.shared.hungry.fetch_or(1 << self.lane_number, Ordering::Relaxed);
        }
    }
}

impl Lane {
    /// Takes an operation whose pieces are partly issued out of its queue, where it is the head.
    pub(crate) fn withdraw(&mut self, ops: &mut OpTable, slot: u32) {
        self.scheduler.withdraw_head(ops, slot);
        self.note_dispatched(ops.op(slot));
    }

    /// Takes everything out of the queues without ending it, and gives the places back.
    pub(crate) fn clear(&mut self, ops: &mut OpTable, wakers: &mut Vec<Waker>) {
        let taken = self.scheduler.take_all(ops);
        let foreign = |slot: &&u32| matches!(ops.op(**slot).origin, Some(Origin::Call(_)));
        self.dispatched += taken.iter().filter(foreign).count() as u32;
        self.publish_dispatched(wakers);
    }
}
