//! Every operation that a reactor has accepted: queued, at the device, or split into pieces.
//!
//! The table owns an operation's buffers until its completion was reaped. A slot whose operation
//! is at the device ([`State::Active`]) cannot be freed, and a table that is dropped with such
//! slots leaks them: the device may still write to their memory.
//!
//! An [`OpId`] carries the slot's generation, so that a late completion of an earlier life of the
//! slot is counted and never matched to the present one.

use crate::concurrency::call_table::{NIL, ServerKey};
use crate::io::error::IoError;
use crate::io::op::{Buffers, Completion, DiskId, OpKind, Priority, Request};

/// A slot and its generation, as it travels through a ring's `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OpId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What of its operation an attempt is: all of it, but for a `WriteFlush`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Half {
    /// The operation.
    Whole = 0,
    /// The write of a `WriteFlush`. Where its flush is chained to it, this completion comes only
    /// when it was not done whole, and the flush does not run.
    Write = 1,
    /// The flush of a `WriteFlush`, submitted when its write was known to be whole.
    Flush = 2,
    /// The flush that was chained to the write: it ran because the write was done whole.
    ChainedFlush = 3,
}

/// Bits of a slot in a ring's `user_data`; the two above it are the [`Half`].
const SLOT_BITS: u32 = 30;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

impl OpId {
    #[inline(always)]
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// As [`OpId::to_bits`], marked: a completion of a write of nothing has the result 0 too, and
    /// must not be taken for that of a flush.
    #[inline(always)]
    pub(crate) fn to_bits_of(self, half: Half) -> u64 {
        self.to_bits() | (half as u64) << SLOT_BITS
    }

    #[inline(always)]
    pub(crate) fn from_bits(bits: u64) -> OpId {
        OpId { slot: bits as u32 & SLOT_MASK, generation: (bits >> 32) as u32 }
    }
}

impl Half {
    #[inline(always)]
    pub(crate) fn from_bits(bits: u64) -> Half {
        match bits >> SLOT_BITS & 3 {
            0 => Half::Whole,
            1 => Half::Write,
            2 => Half::Flush,
            _ => Half::ChainedFlush,
        }
    }
}

/// Who is told when it is done.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A ticket of any thread.
    Call(ServerKey),
    /// A task on this reactor, with its own tag for the request.
    Local { task: u16, tag: u64 },
    /// A split operation in this slot.
    Piece { parent: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Free,
    /// In a scheduler's queue.
    Queued,
    /// Handed to the backend, completion not reaped.
    Active,
    /// All or some of its pieces are at the device; it has the buffers they use.
    Split,
}

/// One operation.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Op {
    pub(crate) state: State,
    pub(crate) kind: OpKind,
    pub(crate) class: Priority,
    pub(crate) attempts: u8,
    /// Of a `WriteFlush`: a write is at the device with its flush chained to it.
    pub(crate) chained: bool,
    pub(crate) disk: DiskId,
    /// Position of its lane on this reactor.
    pub(crate) lane: u16,
    pub(crate) generation: u32,
    /// Next in a queue or in the free list.
    pub(crate) next: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Bytes done by earlier, short attempts.
    pub(crate) done: u64,
    pub(crate) queued_ns: u64,
    pub(crate) dispatched_ns: u64,
    pub(crate) origin: Option<Origin>,
    /// Of a vectored operation or piece: first vector and number of vectors not yet done.
    pub(crate) vectors: (u16, u16),
    /// Of a split operation: bytes for which pieces were issued, and pieces at the device.
    pub(crate) issued: u64,
    pub(crate) pieces: u32,
}

/// The memory of one attempt, for a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Span {
    /// Contiguous, inside a registered piece.
    Fixed { start: *mut u8, len: u32, piece: u16 },
    /// A run of vectors.
    Vectors { first: *const libc::iovec, count: u32 },
    /// None.
    Empty,
}

/// What [`OpTable::end_local`] took out.
pub(crate) struct EndedLocal {
    pub(crate) task: u16,
    pub(crate) tag: u64,
    pub(crate) class: Priority,
    pub(crate) kind: OpKind,
    pub(crate) lane: u16,
    pub(crate) len: u64,
    pub(crate) queued_ns: u64,
    pub(crate) dispatched_ns: u64,
    pub(crate) buffers: Buffers,
}

/// The table.
#[derive(Debug)]
pub(crate) struct OpTable {
    ops: Vec<Op>,
    /// The memory of each operation, beside it: an [`Op`] is plain data and is written whole.
    memory: Vec<Buffers>,
    /// First failure of a split operation.
    failures: Vec<Option<Box<IoError>>>,
    free: u32,
    used: u32,
    active: u32,
}

impl OpTable {
    pub(crate) fn new(capacity: u32) -> OpTable {
        assert!(capacity <= SLOT_MASK, "a slot's number leaves room for the mark of its half");
        let ops: Vec<Op> = (0..capacity)
            .map(|slot| Op::vacant(if slot + 1 < capacity { slot + 1 } else { NIL }))
            .collect();
        OpTable {
            ops,
            memory: (0..capacity).map(|_| Buffers::None).collect(),
            failures: (0..capacity).map(|_| None).collect(),
            free: if capacity == 0 { NIL } else { 0 },
            used: 0,
            active: 0,
        }
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Free slots.
    pub(crate) fn room(&self) -> u32 {
        self.ops.len() as u32 - self.used
    }

    /// Operations whose completion has not been reaped.
    pub(crate) fn active(&self) -> u32 {
        self.active
    }

    #[inline(always)]
    pub(crate) fn op(&self, slot: u32) -> &Op {
        &self.ops[slot as usize]
    }

    #[inline(always)]
    pub(crate) fn op_mut(&mut self, slot: u32) -> &mut Op {
        &mut self.ops[slot as usize]
    }

    #[inline(always)]
    pub(crate) fn id(&self, slot: u32) -> OpId {
        OpId { slot, generation: self.op(slot).generation }
    }

    /// The memory of an operation, for backends that move data with the processor.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn memory_mut(&mut self, slot: u32) -> &mut Buffers {
        &mut self.memory[slot as usize]
    }

    /// The first failure of a split operation's pieces.
    pub(crate) fn failure_mut(&mut self, slot: u32) -> &mut Option<Box<IoError>> {
        &mut self.failures[slot as usize]
    }

    /// The plain case in one step: a whole transfer of a local task that moved every byte leaves
    /// the table. None in every other case, and then nothing has changed.
    #[inline(always)]
    pub(crate) fn end_local(&mut self, id: OpId, result: i32) -> Option<EndedLocal> {
        let op = self.ops.get_mut(id.slot as usize)?;
        let Some(Origin::Local { task, tag }) = op.origin else { return None };
        if op.generation != id.generation
            || op.state != State::Active
            || !op.kind.is_plain()
            || i64::from(result) != (op.len - op.done) as i64
        {
            return None;
        }
        op.state = State::Free;
        op.generation = op.generation.wrapping_add(1);
        op.next = self.free;
        self.free = id.slot;
        self.used -= 1;
        self.active -= 1;
        Some(EndedLocal {
            task,
            tag,
            class: op.class,
            kind: op.kind,
            lane: op.lane,
            len: op.len,
            queued_ns: op.queued_ns,
            dispatched_ns: op.dispatched_ns,
            buffers: std::mem::take(&mut self.memory[id.slot as usize]),
        })
    }

    /// The slot of a completion, if the completion belongs to its present life; its memory is
    /// ours again.
    #[inline(always)]
    pub(crate) fn reap(&mut self, id: OpId) -> Option<(u32, &Op)> {
        let op = self.ops.get_mut(id.slot as usize)?;
        if op.generation != id.generation || op.state != State::Active {
            return None;
        }
        op.state = State::Queued;
        self.active -= 1;
        Some((id.slot, op))
    }

    /// The slot of a completion, if the completion belongs to its present life.
    #[inline(always)]
    pub(crate) fn resolve(&self, id: OpId) -> Option<u32> {
        let op = self.ops.get(id.slot as usize)?;
        (op.generation == id.generation && op.state == State::Active).then_some(id.slot)
    }

    #[inline]
    fn claim(&mut self) -> Option<u32> {
        let slot = self.free;
        if slot == NIL {
            return None;
        }
        self.free = self.ops[slot as usize].next;
        self.used += 1;
        Some(slot)
    }

    /// Takes a request in as `Queued`, or gives it back when the table is full.
    #[inline(always)]
    pub(crate) fn insert(
        &mut self,
        mut request: Request,
        origin: Origin,
        lane: u16,
        now: u64,
    ) -> Result<u32, (Request, Origin)> {
        let Some(slot) = self.claim() else { return Err((request, origin)) };
        let vectors = match &mut request.buffers {
            Buffers::Many(list) => list.vectors().len() as u16,
            _ => 0,
        };
        let op = &mut self.ops[slot as usize];
        *op = Op {
            state: State::Queued,
            kind: request.kind,
            class: request.priority,
            attempts: 0,
            chained: false,
            disk: request.disk,
            lane,
            generation: op.generation,
            next: NIL,
            offset: request.offset,
            len: request.len,
            done: 0,
            queued_ns: now,
            dispatched_ns: now,
            origin: Some(origin),
            vectors: (0, vectors),
            issued: 0,
            pieces: 0,
        };
        let before = std::mem::replace(&mut self.memory[slot as usize], request.buffers);
        debug_assert!(matches!(before, Buffers::None), "a free slot holds no memory");
        // It is `None`: forgetting it spares the hot path the question.
        std::mem::forget(before);
        Ok(slot)
    }

    /// A piece of a split operation: `len` bytes from `start` of the parent.
    pub(crate) fn insert_piece(
        &mut self,
        parent: u32,
        start: u64,
        len: u64,
        vectors: (u16, u16),
    ) -> Option<u32> {
        let slot = self.claim()?;
        let (kind, class, disk, lane) = {
            let op = self.op(parent);
            (op.kind, op.class, op.disk, op.lane)
        };
        let (offset, queued_ns) = (self.op(parent).offset + start, self.op(parent).queued_ns);
        let op = &mut self.ops[slot as usize];
        op.state = State::Queued;
        (op.kind, op.class, op.disk, op.lane) = (kind, class, disk, lane);
        (op.attempts, op.chained) = (0, false);
        (op.offset, op.len, op.done, op.queued_ns) = (offset, len, 0, queued_ns);
        op.origin = Some(Origin::Piece { parent });
        op.vectors = vectors;
        Some(slot)
    }

    /// Marks an operation as handed to the backend.
    #[inline(always)]
    pub(crate) fn activate(&mut self, slot: u32) {
        let op = &mut self.ops[slot as usize];
        debug_assert!(op.state == State::Queued);
        op.state = State::Active;
        self.active += 1;
    }

    /// Ends a slot's life and takes out what its origin gets back.
    #[inline(always)]
    pub(crate) fn remove(&mut self, slot: u32) -> (Origin, Buffers) {
        let free = self.free;
        let op = &mut self.ops[slot as usize];
        assert!(
            op.state == State::Queued || (op.state == State::Split && op.pieces == 0),
            "an operation at the device cannot be freed"
        );
        op.state = State::Free;
        op.generation = op.generation.wrapping_add(1);
        op.next = free;
        let origin = op.origin.take();
        let buffers = std::mem::take(&mut self.memory[slot as usize]);
        self.free = slot;
        self.used -= 1;
        (origin.expect("a used slot has an origin"), buffers)
    }

    /// Takes the origin of an operation whose memory stays with a device that does not answer.
    pub(crate) fn abandon(&mut self, slot: u32) -> Option<Origin> {
        self.ops[slot as usize].origin.take()
    }

    /// Slots in use, for shutdown and status.
    pub(crate) fn used_slots(&self) -> Vec<u32> {
        let used = (0..self.ops.len() as u32).filter(|slot| self.op(*slot).state != State::Free);
        used.collect()
    }

    /// Slot that owns the buffers of an operation, and where in them the operation begins.
    #[inline]
    fn owner(&self, slot: u32) -> (u32, u64) {
        let op = self.op(slot);
        match op.origin {
            Some(Origin::Piece { parent }) => (parent, op.offset - self.op(parent).offset),
            _ => (slot, 0),
        }
    }

    /// The memory of an operation's next attempt.
    #[inline]
    pub(crate) fn span(&mut self, slot: u32) -> Span {
        let (owner, start) = self.owner(slot);
        let op = self.op(slot);
        let (done, len, (first, count)) = (op.done, op.len, op.vectors);
        match &mut self.memory[owner as usize] {
            Buffers::None => Span::Empty,
            Buffers::One(buffer) => {
                let from = (start + done) as usize;
                let left = (len - done) as usize;
                assert!(from + left <= buffer.len(), "an operation is longer than its buffer");
                let start = buffer.start().wrapping_add(from);
                Span::Fixed { start, len: left as u32, piece: buffer.piece() }
            }
            Buffers::Many(list) => {
                let run = &list.vectors()[usize::from(first)..usize::from(first + count)];
                Span::Vectors { first: run.as_ptr(), count: u32::from(count) }
            }
        }
    }

    /// Whether all bytes of a `WriteFlush` are written, so that its flush comes next.
    pub(crate) fn awaits_flush(&self, slot: u32) -> bool {
        let op = self.op(slot);
        op.kind == OpKind::WriteFlush && op.done == op.len
    }

    /// Whether a result is all that is left of a transfer.
    pub(crate) fn is_whole(&self, slot: u32, result: i32) -> bool {
        let op = self.op(slot);
        i64::from(result) == (op.len - op.done) as i64
    }

    /// Notes that `bytes` more of an operation are done, so that its span begins behind them.
    pub(crate) fn advance(&mut self, slot: u32, bytes: u64) {
        let (owner, _) = self.owner(slot);
        self.op_mut(slot).done += bytes;
        let (mut first, mut count) = self.op(slot).vectors;
        if let Buffers::Many(list) = &mut self.memory[owner as usize] {
            let mut left = bytes as usize;
            while count > 0 && left >= list.vectors()[usize::from(first)].iov_len {
                left -= list.vectors()[usize::from(first)].iov_len;
                first += 1;
                count -= 1;
            }
            if left > 0 {
                let vector = &mut list.vectors()[usize::from(first)];
                vector.iov_base = vector.iov_base.wrapping_byte_add(left);
                vector.iov_len -= left;
            }
        }
        self.op_mut(slot).vectors = (first, count);
    }

    /// Lengths of the vectors from `first` on, for splitting.
    pub(crate) fn vector_lengths(
        &mut self,
        slot: u32,
        first: u16,
    ) -> Option<impl Iterator<Item = u64> + '_> {
        match &mut self.memory[slot as usize] {
            Buffers::Many(list) => {
                let run = &list.vectors()[usize::from(first)..];
                Some(run.iter().map(|vector| vector.iov_len as u64))
            }
            _ => None,
        }
    }

    /// The bytes of an operation's buffers from `from` on (of the operation itself), in pieces;
    /// for backends that move data with the processor.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn with_bytes(&self, slot: u32, from: u64, mut f: impl FnMut(&[u8])) {
        let (owner, mut left) = self.left_from(slot, from);
        let mut each = |buffer: &crate::memory::DmaBuf| {
            if let Some(range) = left.in_next(buffer.len()) {
                f(&buffer[range]);
            }
        };
        match &self.memory[owner as usize] {
            Buffers::None => {}
            Buffers::One(buffer) => each(buffer),
            Buffers::Many(list) => list.buffers().iter().for_each(each),
        }
    }

    /// The same, to be filled.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn with_bytes_mut(&mut self, slot: u32, from: u64, mut f: impl FnMut(&mut [u8])) {
        let (owner, mut left) = self.left_from(slot, from);
        let mut each = |buffer: &mut crate::memory::DmaBuf| {
            if let Some(range) = left.in_next(buffer.len()) {
                f(&mut buffer[range]);
            }
        };
        match &mut self.memory[owner as usize] {
            Buffers::None => {}
            Buffers::One(buffer) => each(buffer),
            Buffers::Many(list) => list.buffers_mut().iter_mut().for_each(each),
        }
    }

    #[cfg(any(test, feature = "sim"))]
    fn left_from(&self, slot: u32, from: u64) -> (u32, Left) {
        let (owner, start) = self.owner(slot);
        let (skip, bytes) = ((start + from) as usize, (self.op(slot).len - from) as usize);
        (owner, Left { skip, bytes })
    }
}

/// A part of buffers that follow each other.
#[cfg(any(test, feature = "sim"))]
struct Left {
    skip: usize,
    bytes: usize,
}

#[cfg(any(test, feature = "sim"))]
impl Left {
    /// What of it is in the next buffer.
    fn in_next(&mut self, len: usize) -> Option<std::ops::Range<usize>> {
        let here = self.skip.min(len);
        let take = self.bytes.min(len - here);
        self.skip -= here;
        self.bytes -= take;
        (take > 0).then_some(here..here + take)
    }
}

impl Op {
    fn vacant(next: u32) -> Op {
        Op {
            state: State::Free,
            kind: OpKind::Read,
            class: Priority::Critical,
            attempts: 0,
            chained: false,
            disk: DiskId(0),
            lane: 0,
            generation: 0,
            next,
            offset: 0,
            len: 0,
            done: 0,
            queued_ns: 0,
            dispatched_ns: 0,
            origin: None,
            vectors: (0, 0),
            issued: 0,
            pieces: 0,
        }
    }

    /// The request as it was accepted, without its buffers, for a lane that takes it over.
    pub(crate) fn request(&self) -> Request {
        Request {
            disk: self.disk,
            priority: self.class,
            kind: self.kind,
            offset: self.offset,
            len: self.len,
            buffers: Buffers::None,
        }
    }

    /// What its origin is told.
    #[inline]
    pub(crate) fn completion(
        &self,
        result: Result<u64, Box<IoError>>,
        buffers: Buffers,
        now: u64,
    ) -> Completion {
        Completion {
            result,
            buffers,
            wait_ns: self.dispatched_ns.saturating_sub(self.queued_ns),
            service_ns: now.saturating_sub(self.dispatched_ns),
        }
    }
}

impl Drop for OpTable {
    fn drop(&mut self) {
        if self.active > 0 {
            // The device may still write to the buffers of these: leak them, and with them their
            // arenas. See `engine::close`, which reports it.
            std::mem::forget(std::mem::take(&mut self.memory));
        }
    }
}

// Two cache lines: the hot path touches both, and nothing else of the table.
const _: () = assert!(size_of::<Op>() <= 128);
