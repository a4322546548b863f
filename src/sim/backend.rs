//! One simulated reactor's [`Backend`].
//!
//! It never sleeps: [`Backend::enter`] hands over, and the simulation asks [`SimBackend::wakes_at`]
//! when the sleep that the reactor chose would end. A wake-up counts as one completion, as the
//! poll of an eventfd does.

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::io::backend::{Backend, DiskFacts, REAP_MAX, Reaped, Wait};
use crate::io::op::{Buffers, DiskId, OpKind};
use crate::io::op_table::{Half, OpId, OpTable, Origin, Span};
use crate::reactor::shared::Signal;
use crate::sim::disk::Command;
use crate::sim::world::{Sender, World};

/// The event that a simulated reactor sleeps on.
#[derive(Debug, Default)]
pub(crate) struct SimSignal(AtomicBool);

impl Signal for SimSignal {
    fn signal(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl SimSignal {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Staged {
    id: OpId,
    half: Half,
    disk: usize,
    command: Command,
}

/// What a simulated ring is.
#[derive(Clone, Copy)]
pub(crate) struct SimRing {
    pub(crate) room: u32,
    /// Chances in a million that an enter is refused by a kernel short of memory.
    pub(crate) refusals: u32,
    pub(crate) chains: bool,
}

/// See the module.
pub(crate) struct SimBackend {
    world: Rc<RefCell<World>>,
    reactor: usize,
    signal: Arc<SimSignal>,
    staged: Vec<Staged>,
    /// Entries that those take.
    entries: u32,
    room: u32,
    /// Whether a flush is chained to the write before it.
    chains: bool,
    /// Chances in a million that an enter is refused by a kernel short of memory.
    refusals: u32,
    enters: u64,
    /// When the sleep began, and whether the kernel refused to begin it.
    entered_ns: u64,
    refused: bool,
}

impl SimBackend {
    pub(crate) fn new(
        world: Rc<RefCell<World>>,
        reactor: usize,
        signal: Arc<SimSignal>,
        ring: SimRing,
    ) -> SimBackend {
        let (staged, entries) = (Vec::new(), 0);
        let SimRing { room, refusals, chains } = ring;
        let (enters, entered_ns, refused) = (0, 0, false);
        SimBackend {
            world,
            reactor,
            signal,
            staged,
            entries,
            room,
            chains,
            refusals,
            enters,
            entered_ns,
            refused,
        }
    }

    fn arrived(&self) -> u32 {
        let ready = self.world.borrow().ready[self.reactor].len() as u32;
        ready + u32::from(self.signal.is_set())
    }

    /// When a sleep that began with the last enter ends, as far as is known now; none when only
    /// an event yet unknown ends it.
    pub(crate) fn wakes_at(&self, wait: Wait) -> Option<u64> {
        let Wait::Until { completions, timeout_ns, settle_us } = wait else {
            return Some(self.entered_ns);
        };
        let arrived = self.arrived();
        if self.refused || arrived >= completions {
            return Some(self.entered_ns);
        }
        let timeout = timeout_ns.map(|ns| self.entered_ns.saturating_add(ns));
        let settled = (arrived > 0 && settle_us > 0)
            .then(|| self.entered_ns.saturating_add(u64::from(settle_us) * 1000));
        timeout.into_iter().chain(settled).min()
    }

    /// Whether a sleeper has nothing to wait for but a look around.
    pub(crate) fn is_quiet(&self) -> bool {
        self.arrived() == 0 && !self.refused
    }
}

impl Backend for SimBackend {
    fn attach(&mut self, _: &DiskFacts, _: RawFd) -> std::io::Result<()> {
        // A world has all its disks from the beginning.
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn detach(&mut self, _: DiskId) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn advance(&mut self) {
        // Its chains go on by themselves.
    }

    fn now(&mut self) -> u64 {
        self.world.borrow().now
    }

    fn room(&mut self) -> u32 {
        self.room - self.entries
    }

    fn stage(&mut self, ops: &mut OpTable, slot: u32) -> u32 {
        assert!(self.entries < self.room, "staged more than there was room for");
        let half = self.next_half(ops, slot);
        let op = ops.op_mut(slot);
        op.chained = half == Half::ChainedFlush;
        let (done, disk) = (op.done, usize::from(op.disk.0));
        let (mut offset, mut len) = (op.offset + done, op.len - done);
        let kind = match half {
            Half::Whole => op.kind,
            Half::Write | Half::ChainedFlush => OpKind::Write,
            Half::Flush => OpKind::Flush,
        };
        let mut data = Vec::new();
        match kind {
            OpKind::Flush => (offset, len) = (0, 0),
            OpKind::Read => check_memory(ops, slot),
            OpKind::Write | OpKind::WriteDsync => {
                check_memory(ops, slot);
                ops.with_bytes(slot, done, |bytes| data.extend_from_slice(bytes));
                assert_eq!(data.len() as u64, len, "a write has all its bytes");
            }
            _ => {}
        }
        let command = Command { kind, offset, len, data };
        self.staged.push(Staged { id: ops.id(slot), half, disk, command });
        let entries = 1 + u32::from(half == Half::ChainedFlush);
        self.entries += entries;
        entries
    }

    fn enter(&mut self, _wait: Wait) -> std::io::Result<()> {
        self.enters += 1;
        let mut world = self.world.borrow_mut();
        self.entered_ns = world.now;
        self.refused = world.random.chance(self.refusals);
        let take = match self.refused {
            true => world.random.below(self.staged.len() as u64 + 1) as usize,
            false => self.staged.len(),
        };
        for Staged { id, half, disk, command } in self.staged.drain(..take) {
            self.entries -= 1 + u32::from(half == Half::ChainedFlush);
            world.submit(Sender { reactor: self.reactor, id, half }, disk, command);
        }
        Ok(())
    }

    fn has_completions(&mut self) -> bool {
        self.arrived() > 0
    }

    fn reap(&mut self, ops: &mut OpTable, out: &mut Vec<Reaped>) {
        self.signal.0.store(false, Ordering::Relaxed);
        let mut world = self.world.borrow_mut();
        while out.len() < REAP_MAX
            && let Some(done) = world.ready[self.reactor].pop_front()
        {
            if let Some(slot) = ops.resolve(done.id)
                && ops.op(slot).kind == OpKind::Read
            {
                let mut rest = done.data.as_slice();
                let from = ops.op(slot).done;
                ops.with_bytes_mut(slot, from, |bytes| {
                    let here = rest.len().min(bytes.len());
                    bytes[..here].copy_from_slice(&rest[..here]);
                    rest = &rest[here..];
                });
            }
            out.push(Reaped { id: done.id, half: done.half, result: done.result });
        }
    }

    fn must_poll(&self) -> bool {
        false
    }

    fn enters(&self) -> u64 {
        self.enters
    }
}

impl SimBackend {
    /// What the next attempt at an operation is; a chain is made as a ring makes it.
    fn next_half(&self, ops: &OpTable, slot: u32) -> Half {
        let op = ops.op(slot);
        if op.kind != OpKind::WriteFlush {
            return Half::Whole;
        }
        if ops.awaits_flush(slot) {
            return Half::Flush;
        }
        let untried = op.done == 0 && op.attempts == 0;
        let fits = self.entries + 2 <= self.room;
        if self.chains && untried && fits { Half::ChainedFlush } else { Half::Write }
    }
}

/// The memory that a kernel would be told is exactly the operation's bytes that are left.
fn check_memory(ops: &mut OpTable, slot: u32) {
    let op = ops.op(slot);
    let (done, (first, count)) = (op.done, op.vectors);
    let owner = match op.origin {
        Some(Origin::Piece { parent }) => parent,
        _ => slot,
    };
    let mut wanted: Vec<(usize, usize)> = Vec::new();
    ops.with_bytes(slot, done, |bytes| wanted.push((bytes.as_ptr() as usize, bytes.len())));
    let span = ops.span(slot);
    let told: Vec<(usize, usize)> = match (span, ops.memory_mut(owner)) {
        (Span::Fixed { start, len, .. }, _) => vec![(start as usize, len as usize)],
        (Span::Vectors { first: pointer, count: length }, Buffers::Many(list)) => {
            let run = &list.vectors()[usize::from(first)..usize::from(first + count)];
            assert_eq!((pointer, length as usize), (run.as_ptr(), run.len()));
            run.iter().map(|vector| (vector.iov_base as usize, vector.iov_len)).collect()
        }
        _ => Vec::new(),
    };
    assert_eq!(told, wanted, "the kernel is told other memory than the operation's");
}
