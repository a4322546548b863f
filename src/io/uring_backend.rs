//! The real world: one interrupt ring, and a polled one where disks have poll queues.
//!
//! Reads and writes of polled disks go to the polled ring; everything else, wake-ups included,
//! to the interrupt ring (a polled ring refuses fsync and poll requests). So do durable writes.
//!
//! A `WriteFlush` is a write with an fdatasync linked to it, where the ring does such chains, the
//! queue has room for both, and no attempt at it was made before: the kernel then starts the flush
//! when all is written, without us. Otherwise it is one attempt after the other.

use io_uring::{opcode, squeue, types};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use crate::io::backend::{Backend, DiskFacts, REAP_MAX, Reaped, Wait};
use crate::io::op::{DiskId, OpKind, Priority};
use crate::io::op_table::{Half, OpId, OpTable, Span};
use crate::machine::memory_disk::MemoryDisk;
use crate::machine::uring::{EnterWait, Ring};
use crate::machine::wake::WakeEvent;

/// `user_data` of the wake-up poll; no slot has this number.
const WAKE_TOKEN: u64 = u64::MAX;
const FALLOC_PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const FALLOC_ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// Rings and what they need.
pub(crate) struct UringBackend {
    interrupt: Ring,
    polled: Option<Ring>,
    polled_active: u32,
    wake: Arc<WakeEvent>,
    wake_armed: bool,
    /// A chain was handed over and has not ended.
    chain_active: bool,
    disks: Vec<DiskFacts>,
    fixed_buffers: bool,
    any_nop: bool,
    start: Instant,
}

/// Which of the two rings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Interrupt,
    Polled,
}

impl UringBackend {
    /// `start` is the zero of the engine's clock. Files are registered in the disks' order.
    pub(crate) fn new(
        interrupt: Ring,
        polled: Option<Ring>,
        wake: Arc<WakeEvent>,
        disks: Arc<[DiskFacts]>,
        start: Instant,
    ) -> io::Result<UringBackend> {
        let fixed_buffers = interrupt.capabilities().fixed_buffers
            && polled.as_ref().is_none_or(|ring| ring.capabilities().fixed_buffers);
        let any_nop = disks.iter().any(|disk| disk.nop);
        let mut backend = UringBackend {
            interrupt,
            polled,
            polled_active: 0,
            wake,
            wake_armed: false,
            chain_active: false,
            disks: disks.to_vec(),
            fixed_buffers,
            any_nop,
            start,
        };
        backend.arm_wake();
        backend.interrupt.enter(EnterWait::Submit)?;
        Ok(backend)
    }

    fn arm_wake(&mut self) {
        let fd: RawFd = self.wake.as_raw_fd();
        let poll = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32).multi(true).build();
        // SAFETY: a poll names no memory; the event outlives the ring (both are ours).
        #[allow(unsafe_code)]
        let pushed = unsafe { self.interrupt.push(&poll.user_data(WAKE_TOKEN)) };
        self.wake_armed = pushed;
    }

    fn entry(&self, ops: &mut OpTable, slot: u32) -> squeue::Entry {
        let op = ops.op(slot);
        let disk = &self.disks[usize::from(op.disk.0)];
        let file = types::Fixed(u32::from(op.disk.0));
        let (kind, offset, left) = (op.kind, op.offset + op.done, op.len - op.done);
        let ioprio = if disk.priority_hints { hint(op.class) } else { 0 };
        match (kind, ops.span(slot)) {
            (OpKind::Read, Span::Fixed { start, len, piece }) if self.fixed_buffers => {
                opcode::ReadFixed::new(file, start, len, piece)
                    .offset(offset)
                    .ioprio(ioprio)
                    .build()
            }
            (OpKind::Read, Span::Fixed { start, len, .. }) => {
                opcode::Read::new(file, start, len).offset(offset).ioprio(ioprio).build()
            }
            (OpKind::Read, Span::Vectors { first, count }) => {
                opcode::Readv::new(file, first, count).offset(offset).ioprio(ioprio).build()
            }
            (OpKind::Flush, _) => fdatasync(file),
            (OpKind::Discard, _) => {
                opcode::Fallocate::new(file, left).offset(offset).mode(FALLOC_PUNCH_HOLE).build()
            }
            (OpKind::WriteZeroes, _) => {
                opcode::Fallocate::new(file, left).offset(offset).mode(FALLOC_ZERO_RANGE).build()
            }
            (OpKind::Write | OpKind::WriteDsync | OpKind::WriteFlush, span) => {
                let flags = if kind == OpKind::WriteDsync { libc::RWF_DSYNC } else { 0 };
                write(file, span, self.fixed_buffers, flags, (offset, ioprio))
            }
            (OpKind::Read, Span::Empty) => unreachable!("{NO_BUFFERS}"),
        }
    }

    /// Stages what is next of a `WriteFlush`.
    fn stage_write_flush(&mut self, ops: &mut OpTable, slot: u32) -> u32 {
        let id = ops.id(slot);
        let op = ops.op_mut(slot);
        op.chained = false;
        let (file, untried) =
            (types::Fixed(u32::from(op.disk.0)), op.done == 0 && op.attempts == 0);
        if ops.awaits_flush(slot) {
            let flush = fdatasync(file).user_data(id.to_bits_of(Half::Flush));
            return push(&mut self.interrupt, &flush);
        }
        let write = self.entry(ops, slot).user_data(id.to_bits_of(Half::Write));
        // One entry beside the two is the wake-up's.
        if untried && self.interrupt.room() > 2 {
            let flush = fdatasync(file).user_data(id.to_bits_of(Half::ChainedFlush));
            // SAFETY: as in `push`: the slot stays Active until the flush has completed, or the
            // write that broke the chain.
            #[allow(unsafe_code)]
            let pushed = unsafe { self.interrupt.push_chain(write.clone(), flush) };
            if pushed {
                ops.op_mut(slot).chained = true;
                self.chain_active = true;
                return 2;
            }
        }
        push(&mut self.interrupt, &write)
    }

    fn ring_for(&self, ops: &OpTable, slot: u32) -> Which {
        let op = ops.op(slot);
        let polled = self.polled.is_some()
            && op.kind.is_plain()
            && self.disks[usize::from(op.disk.0)].polled;
        if polled { Which::Polled } else { Which::Interrupt }
    }

    fn collect(&mut self, which: Which, ops: &OpTable, out: &mut Vec<Reaped>) {
        let before = out.len();
        let mut rearm = false;
        let ring = match (which, self.polled.as_mut()) {
            (Which::Polled, Some(ring)) => ring,
            (Which::Polled, None) => return,
            (Which::Interrupt, _) => &mut self.interrupt,
        };
        for cqe in ring.completions().take(REAP_MAX - before) {
            if cqe.user_data() == WAKE_TOKEN {
                rearm |= !io_uring::cqueue::more(cqe.flags());
            } else {
                let (bits, result) = (cqe.user_data(), cqe.result());
                let half = Half::from_bits(bits);
                // Its end, or what broke it.
                self.chain_active &= half == Half::Whole;
                out.push(Reaped { id: OpId::from_bits(bits), half, result });
            }
        }
        if which == Which::Polled {
            self.polled_active -= (out.len() - before) as u32;
        }
        if self.any_nop {
            self.give_nops_lengths(ops, &mut out[before..]);
        }
        if rearm {
            self.wake.clear();
            self.wake_armed = false;
        }
    }

    /// A NOP has no length of its own: it counts as done in full.
    #[inline(always)]
    fn give_nops_lengths(&self, ops: &OpTable, reaped: &mut [Reaped]) {
        for completion in reaped {
            let Some(slot) = ops.resolve(completion.id) else { continue };
            let op = ops.op(slot);
            let nop = self.disks[usize::from(op.disk.0)].nop;
            if nop && op.kind.moves_data() && completion.result == 0 {
                completion.result = (op.len - op.done) as i32;
            }
        }
    }
}

/// Priority as a hint to an I/O scheduler below us: best effort, never real time, since a
/// scheduler that takes classes strictly could starve the others past our own bound.
fn hint(class: Priority) -> u16 {
    const BEST_EFFORT: u16 = 2 << 13;
    BEST_EFFORT | [0, 2, 4, 5, 7][class.index()]
}

impl Backend for UringBackend {
    #[inline]
    fn now(&mut self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn room(&mut self) -> u32 {
        let interrupt = self.interrupt.room().saturating_sub(1);
        match &mut self.polled {
            Some(ring) => interrupt.min(ring.room()),
            None => interrupt,
        }
    }

    #[inline]
    fn stage(&mut self, ops: &mut OpTable, slot: u32) -> u32 {
        let token = ops.id(slot).to_bits();
        let op = ops.op(slot);
        let disk = &self.disks[usize::from(op.disk.0)];
        // The common case, a fixed read through the interrupt ring, is built where it is pushed.
        if disk.nop {
            if let Some(memory) = &disk.memory {
                copy(memory, ops, slot);
            }
            return push(&mut self.interrupt, &opcode::Nop::new().build().user_data(token));
        }
        let kind = op.kind;
        let plain = kind == OpKind::Read && self.fixed_buffers && !disk.polled;
        if plain {
            let offset = op.offset + op.done;
            let ioprio = if disk.priority_hints { hint(op.class) } else { 0 };
            let file = types::Fixed(u32::from(op.disk.0));
            if let Span::Fixed { start, len, piece } = ops.span(slot) {
                let read = opcode::ReadFixed::new(file, start, len, piece);
                let read = read.offset(offset).ioprio(ioprio).build().user_data(token);
                return push(&mut self.interrupt, &read);
            }
        }
        if kind == OpKind::WriteFlush {
            return self.stage_write_flush(ops, slot);
        }
        let entry = self.entry(ops, slot).user_data(token);
        let ring = match (self.ring_for(ops, slot), self.polled.as_mut()) {
            (Which::Polled, Some(ring)) => {
                self.polled_active += 1;
                ring
            }
            _ => &mut self.interrupt,
        };
        push(ring, &entry)
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        if !self.wake_armed {
            self.arm_wake();
        }
        if let Some(ring) = &mut self.polled
            && (ring.staged() > 0 || self.polled_active > 0)
        {
            tolerate(ring.enter(EnterWait::Reap))?;
        }
        let wait = match wait {
            Wait::None if self.interrupt.staged() == 0 && !self.interrupt.has_completions() => {
                return Ok(());
            }
            Wait::None => EnterWait::Reap,
            Wait::Until { completions, timeout_ns, settle_us } => {
                EnterWait::For { completions, timeout_ns, settle_us }
            }
        };
        tolerate(self.interrupt.enter(wait))
    }

    #[inline]
    fn advance(&mut self) {
        if self.chain_active && self.interrupt.has_work() {
            // What fails now fails again in `enter`, whose errors are seen.
            let _ = self.interrupt.enter(EnterWait::Reap);
        }
    }

    #[inline]
    fn has_completions(&mut self) -> bool {
        self.interrupt.has_completions()
            || self.polled.as_mut().is_some_and(|ring| ring.has_completions())
    }

    fn reap(&mut self, ops: &mut OpTable, out: &mut Vec<Reaped>) {
        self.collect(Which::Interrupt, ops, out);
        if self.polled.is_some() {
            self.collect(Which::Polled, ops, out);
        }
    }

    #[inline]
    fn must_poll(&self) -> bool {
        self.polled_active > 0
    }

    fn attach(&mut self, facts: &DiskFacts, file: RawFd) -> io::Result<()> {
        let number = facts.id.0;
        for ring in std::iter::once(&mut self.interrupt).chain(&mut self.polled) {
            ring.update_file(number.into(), file)?;
        }
        self.any_nop |= facts.nop;
        let polled = facts.polled && self.polled.is_some();
        self.disks[usize::from(number)] = DiskFacts { polled, ..facts.clone() };
        Ok(())
    }

    fn detach(&mut self, disk: DiskId) -> io::Result<()> {
        for ring in std::iter::once(&mut self.interrupt).chain(&mut self.polled) {
            ring.update_file(disk.0.into(), -1)?;
        }
        Ok(())
    }

    fn enters(&self) -> u64 {
        self.interrupt.enters() + self.polled.as_ref().map_or(0, Ring::enters)
    }
}

/// Does what is left of an operation by copying.
fn copy(memory: &MemoryDisk, ops: &mut OpTable, slot: u32) {
    let op = ops.op(slot);
    let (kind, mut offset, left) = (op.kind, op.offset + op.done, op.len - op.done);
    match kind {
        OpKind::Flush | OpKind::Discard => return,
        OpKind::WriteZeroes => return memory.zero(offset, left),
        OpKind::Read | OpKind::Write | OpKind::WriteDsync | OpKind::WriteFlush => {}
    }
    // SAFETY (of the three): the slot is Active, so OpTable keeps its memory and its vectors where
    // they are, and nobody else touches what a read fills, or changes what a write has.
    let mut piece = |start: *mut u8, bytes: usize| {
        #[allow(unsafe_code)]
        if kind == OpKind::Read {
            // SAFETY: see above.
            memory.read(offset, unsafe { std::slice::from_raw_parts_mut(start, bytes) });
        } else {
            // SAFETY: see above.
            memory.write(offset, unsafe { std::slice::from_raw_parts(start, bytes) });
        }
        offset += bytes as u64;
    };
    match ops.span(slot) {
        Span::Fixed { start, len, .. } => piece(start, len as usize),
        Span::Vectors { first, count } => {
            // SAFETY: see above.
            #[allow(unsafe_code)]
            let vectors = unsafe { std::slice::from_raw_parts(first, count as usize) };
            for vector in vectors {
                piece(vector.iov_base.cast(), vector.iov_len);
            }
        }
        Span::Empty => {}
    }
}

/// Pushes the entry of an active operation.
#[inline(always)]
fn push(ring: &mut Ring, entry: &squeue::Entry) -> u32 {
    // SAFETY: the slot is Active, so OpTable keeps the entry's buffers and vectors where they
    // are until the reactor reaps its completion, and leaks them if that never comes.
    #[allow(unsafe_code)]
    let pushed = unsafe { ring.push(entry) };
    assert!(pushed, "the reactor asks for room before it stages");
    1
}

const NO_BUFFERS: &str = "validation refuses a transfer without buffers";

fn fdatasync(file: types::Fixed) -> squeue::Entry {
    opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build()
}

fn write(
    file: types::Fixed,
    span: Span,
    fixed_buffers: bool,
    flags: i32,
    (offset, ioprio): (u64, u16),
) -> squeue::Entry {
    match span {
        Span::Fixed { start, len, piece } if fixed_buffers => {
            let write = opcode::WriteFixed::new(file, start, len, piece);
            write.offset(offset).ioprio(ioprio).rw_flags(flags).build()
        }
        Span::Fixed { start, len, .. } => {
            let write = opcode::Write::new(file, start, len);
            write.offset(offset).ioprio(ioprio).rw_flags(flags).build()
        }
        Span::Vectors { first, count } => {
            let write = opcode::Writev::new(file, first, count);
            write.offset(offset).ioprio(ioprio).rw_flags(flags).build()
        }
        Span::Empty => unreachable!("{NO_BUFFERS}"),
    }
}

/// `EAGAIN` and `EBUSY`: the kernel is short of something; what was not taken stays staged and
/// the next turn tries again. Anything else means that the ring is unusable.
fn tolerate(entered: io::Result<()>) -> io::Result<()> {
    match entered {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::op::Request;
    use crate::io::op_table::Origin;
    use crate::machine::mapping::PagePolicy;
    use crate::machine::uring::RingConfig;
    use crate::memory::Arena;

    /// A backend over one file, on this rung of the ladder.
    fn backend(file: &std::fs::File, skip_rungs: usize) -> UringBackend {
        let config = RingConfig { sq_entries: 8, cq_entries: 64, polled: false, skip_rungs };
        let mut ring = Ring::new(&config).unwrap();
        ring.register_files(&[file.as_raw_fd()]).unwrap();
        let facts = DiskFacts {
            id: DiskId(0),
            path: "file".into(),
            size_bytes: 1 << 20,
            logical_block_bytes: 512,
            raw_device: false,
            nr_requests: 0,
            nop: false,
            memory: None,
            priority_hints: false,
            polled: false,
            read_only: false,
        };
        let (wake, start) = (Arc::new(WakeEvent::new().unwrap()), Instant::now());
        UringBackend::new(ring, None, wake, [facts].into(), start).unwrap()
    }

    /// One attempt: the entries that it took, and its completion.
    fn attempt(backend: &mut UringBackend, ops: &mut OpTable, slot: u32) -> (u32, Half, i32) {
        ops.activate(slot);
        let entries = backend.stage(ops, slot);
        let mut reaped = Vec::new();
        while reaped.is_empty() {
            let wait = Wait::Until { completions: 1, timeout_ns: None, settle_us: 0 };
            backend.enter(wait).unwrap();
            backend.reap(ops, &mut reaped);
        }
        assert_eq!((reaped.len(), reaped[0].id), (1, ops.id(slot)));
        ops.reap(reaped[0].id).unwrap();
        (entries, reaped[0].half, reaped[0].result)
    }

    #[test]
    fn a_write_flush_is_one_chain_or_two_attempts() {
        let path = std::env::temp_dir().join(format!("dynamicfs-chain-{}", std::process::id()));
        let file = std::fs::File::options().create_new(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let arena = Arena::new(1 << 20, PagePolicy::Normal, None, 0).unwrap();
        for rung in 0..5 {
            let mut backend = backend(&file, rung);
            let mut ops = OpTable::new(2);
            let chains = backend.interrupt.capabilities().chains;
            assert!(!chains || rung < 4, "without SUBMIT_ALL a chain may be cut");
            let request = Request::write_flush(DiskId(0), 0, arena.take(4096).unwrap());
            let origin = Origin::Local { task: 0, tag: 0 };
            let slot = ops.insert(request, origin, 0, 0).unwrap();
            if chains {
                let done = attempt(&mut backend, &mut ops, slot);
                assert_eq!(done, (2, Half::ChainedFlush, 0), "rung {rung}");
                assert!(ops.op(slot).chained);
                // As after an attempt that failed: no other chain.
                ops.op_mut(slot).attempts = 1;
            }
            assert_eq!(attempt(&mut backend, &mut ops, slot), (1, Half::Write, 4096));
            assert!(!ops.op(slot).chained);
            ops.advance(slot, 4096);
            assert_eq!(attempt(&mut backend, &mut ops, slot), (1, Half::Flush, 0));
            ops.remove(slot);
        }
    }
}
