//! An actor makes requests on regions of its own and knows what must come back.
//!
//! It works for foreign submitters and for local tasks alike. A region has one writer or many
//! readers at a time, so that its content is known whatever the order of completions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::io::backend::DiskFacts;
use crate::io::error::{ErrorKind, IoError, Verdict, classify};
use crate::io::op::{Buffers, Completion, DiskId, OpKind, Priority, Request};
use crate::memory::{Arena, BufferList, DmaBuf};
use crate::reactor::local::{LocalIo, LocalRefusal, LocalTask, TaskState};
use crate::sim::{Random, SimDisk};

pub(super) const REGION_BYTES: u64 = 256 << 10;

/// What an actor knows of a request of its own.
struct Known {
    kind: OpKind,
    disk: DiskId,
    region: u64,
    offset: u64,
    len: u64,
    /// Address and length of its buffers.
    memory: Vec<(usize, usize)>,
    tag: u64,
}

#[derive(Clone, Copy, Default)]
struct Lock {
    readers: u32,
    writers: u32,
}

/// What became of an actor's requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Score {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) refused: u64,
    pub(super) shut: u64,
    pub(super) abandoned: u64,
    /// Requests whose buffers stay with a device.
    pub(super) unreturned: u64,
    pub(super) sectors_compared: u64,
}

/// See the module.
pub(super) struct Actor {
    pub(super) random: Random,
    arena: Arc<Arena>,
    disks: Vec<DiskFacts>,
    first_region: u64,
    regions: u64,
    locks: BTreeMap<(u16, u64), Lock>,
    /// Tag of each sector; none when a fault left it unknown. Sectors without an entry are zero.
    content: BTreeMap<(u16, u64), Option<u64>>,
    known: BTreeMap<u64, Known>,
    pub(super) next_id: u64,
    pub(super) score: Score,
    pub(super) large: bool,
    /// Whether it makes requests of two commands.
    pub(super) write_flushes: bool,
}

impl Actor {
    /// Actor number `number`; actors of different numbers never meet.
    pub(super) fn new(
        random: Random,
        arena: &Arc<Arena>,
        disks: &[DiskFacts],
        number: u64,
    ) -> Self {
        let regions = 6;
        Actor {
            random,
            arena: Arc::clone(arena),
            disks: disks.to_vec(),
            first_region: number * regions,
            regions,
            locks: BTreeMap::new(),
            content: BTreeMap::new(),
            known: BTreeMap::new(),
            next_id: 1,
            score: Score::default(),
            large: true,
            write_flushes: true,
        }
    }

    pub(super) fn outstanding(&self) -> usize {
        self.known.len()
    }

    /// A new request, if a region is free for it and there is memory.
    pub(super) fn make(&mut self) -> Option<(u64, Request)> {
        let random = &mut self.random;
        let facts = random.pick(&self.disks).clone();
        let (disk, block) = (facts.id, u64::from(facts.logical_block_bytes));
        let region = self.first_region + random.below(self.regions);
        let kind = match random.below(20) {
            0..8 => OpKind::Read,
            8..13 => OpKind::Write,
            13..15 if self.write_flushes => OpKind::WriteFlush,
            13..16 => OpKind::WriteDsync,
            16 => OpKind::Flush,
            17 => OpKind::Discard,
            _ => OpKind::WriteZeroes,
        };
        let lock = self.locks.entry((disk.0, region)).or_default();
        let changes = !matches!(kind, OpKind::Read | OpKind::Flush);
        if lock.writers > 0 && kind != OpKind::Flush || changes && lock.readers > 0 {
            return None;
        }
        let blocks_max = if self.large && random.below(8) == 0 { REGION_BYTES / block } else { 6 };
        let blocks = 1 + random.below(blocks_max);
        let first = random.below(REGION_BYTES / block - blocks + 1);
        let (offset, len) = (region * REGION_BYTES + first * block, blocks * block);
        let (id, tag) = (self.next_id, random.next_u64() | 1);
        let class = *random.pick(&Priority::ALL);
        let mut known = Known { kind, disk, region, offset, len, memory: Vec::new(), tag };
        let request = match kind {
            OpKind::Flush => Request::flush(disk),
            OpKind::Discard => Request::discard(disk, offset, len),
            OpKind::WriteZeroes => Request::write_zeroes(disk, offset, len),
            kind => {
                let mut buffers = self.buffers(len, block)?;
                self.fill(&mut buffers, &known, block as usize);
                known.memory = buffers.iter().map(place).collect();
                data_request(kind, disk, offset, buffers)
            }
        };
        let lock = self.locks.entry((disk.0, region)).or_default();
        lock.writers += u32::from(changes);
        lock.readers += u32::from(kind == OpKind::Read);
        self.next_id += 1;
        self.known.insert(id, known);
        Some((id, request.with_priority(class)))
    }

    fn buffers(&mut self, len: u64, block: u64) -> Option<Vec<DmaBuf>> {
        let mut left = len;
        let mut buffers = Vec::new();
        let several = self.random.below(3) == 0;
        while left > 0 {
            let part = if several { block * (1 + self.random.below(left / block)) } else { left };
            buffers.push(self.arena.take(part as usize).ok()?);
            left -= part;
        }
        Some(buffers)
    }

    /// Writes get their tag in every sector; reads what must not be left of it.
    fn fill(&self, buffers: &mut [DmaBuf], known: &Known, block: usize) {
        let mut sector = known.offset / block as u64;
        for buffer in buffers {
            if known.kind == OpKind::Read {
                buffer.fill(0xee);
                continue;
            }
            for chunk in buffer.chunks_mut(block) {
                chunk.copy_from_slice(&image(Some(known.tag ^ sector), block));
                sector += 1;
            }
        }
    }

    /// The request was not taken: it comes back whole.
    pub(super) fn refused(&mut self, id: u64, request: Request) {
        let known = self.known.remove(&id).expect("a refusal is of a request just made");
        self.unlock(&known);
        assert_eq!(memory_of(&request.buffers), known.memory, "a refusal returns the buffers");
        self.score.refused += 1;
    }

    /// Nobody will tell what becomes of it: its region is never used again.
    pub(super) fn detached(&mut self, id: u64) {
        if let Some(known) = self.known.remove(&id)
            && !matches!(known.kind, OpKind::Read | OpKind::Flush)
        {
            self.learn(&known, |_| None);
        }
    }

    /// What is known of a disk's content is what the disk has; outstanding requests aside.
    pub(super) fn verify(&self, disk: u16, found: &SimDisk) {
        let block = u64::from(found.config().logical_block_bytes);
        for ((_, sector), tag) in self.content.range((disk, 0)..(disk + 1, 0)) {
            let busy = |known: &Known| {
                let (first, end) = (known.offset / block, (known.offset + known.len) / block);
                known.disk.0 == disk && (first..end).contains(sector)
            };
            if let Some(tag) = tag
                && !self.known.values().any(busy)
            {
                let same = found.read(sector * block, block) == image(Some(*tag), block as usize);
                assert!(same, "disk {disk} sector {sector} is not what was written last");
            }
        }
    }

    fn unlock(&mut self, known: &Known) {
        let lock = self.locks.entry((known.disk.0, known.region)).or_default();
        match known.kind {
            OpKind::Read => lock.readers -= 1,
            OpKind::Flush => {}
            _ => lock.writers -= 1,
        }
    }

    /// Takes the one completion of a request.
    pub(super) fn completed(&mut self, id: u64, completion: Completion) {
        let known = self.known.remove(&id).expect("a request completes once");
        self.unlock(&known);
        let Completion { result, mut buffers, .. } = completion;
        match result {
            Ok(bytes) => {
                assert_eq!(bytes, known.len * u64::from(known.kind != OpKind::Flush));
                assert_eq!(memory_of(&buffers), known.memory, "its own buffers come back");
                self.score.succeeded += 1;
                match known.kind {
                    OpKind::Read => self.compare(&known, &mut buffers),
                    OpKind::Write | OpKind::WriteDsync | OpKind::WriteFlush => {
                        self.learn(&known, |sector| Some(known.tag ^ sector));
                    }
                    OpKind::WriteZeroes => self.learn(&known, |_| Some(0)),
                    OpKind::Discard => self.learn(&known, |_| None),
                    OpKind::Flush => {}
                }
            }
            Err(error) => self.failed(&known, &error, &buffers),
        }
    }

    fn failed(&mut self, known: &Known, error: &IoError, buffers: &Buffers) {
        let half =
            known.kind == OpKind::WriteFlush && matches!(error.op, OpKind::Write | OpKind::Flush);
        assert!(error.disk == known.disk && (half || error.op == known.kind), "{error:?}");
        let inside = error.offset >= known.offset
            && error.offset + error.expected <= known.offset + known.len;
        assert!(known.kind == OpKind::Flush || inside, "{error:?}");
        let unreturned = matches!(buffers, Buffers::None) && !known.memory.is_empty();
        let given_up = matches!(error.kind, ErrorKind::Abandoned | ErrorKind::Poisoned);
        assert!(!unreturned || given_up, "{error:?} keeps the buffers");
        self.score.unreturned += u64::from(unreturned);
        assert!(unreturned || memory_of(buffers) == known.memory, "its own buffers come back");
        match (error.errno, error.kind) {
            (None, ErrorKind::ShuttingDown) => self.score.shut += 1,
            (None, _) if given_up => self.score.abandoned += 1,
            (errno, kind) => {
                self.score.failed += 1;
                self.check_kind(known, errno, kind);
            }
        }
        let changes = !matches!(known.kind, OpKind::Read | OpKind::Flush);
        if changes && error.kind != ErrorKind::ShuttingDown {
            self.learn(known, |_| None);
        }
    }

    /// The kind is what the table says of the errno; without one it was an early end.
    fn check_kind(&self, known: &Known, errno: Option<i32>, kind: ErrorKind) {
        let medium = self.disks.iter().find(|facts| facts.id == known.disk).unwrap().medium();
        match errno.map(|errno| classify(errno, medium)) {
            Some(Verdict::Fail(expected)) => assert_eq!(kind, expected),
            Some(Verdict::Retry) => assert_eq!(kind, ErrorKind::Busy),
            None => {
                assert!(known.kind.moves_data());
                assert!(matches!(kind, ErrorKind::DeviceGone | ErrorKind::UnexpectedEnd));
            }
        }
    }

    fn block_of(&self, disk: DiskId) -> u64 {
        let facts = self.disks.iter().find(|facts| facts.id == disk);
        u64::from(facts.unwrap().logical_block_bytes)
    }

    fn learn(&mut self, known: &Known, tag: impl Fn(u64) -> Option<u64>) {
        let block = self.block_of(known.disk);
        for sector in known.offset / block..(known.offset + known.len) / block {
            self.content.insert((known.disk.0, sector), tag(sector));
        }
    }

    fn compare(&mut self, known: &Known, buffers: &mut Buffers) {
        let block = self.block_of(known.disk);
        let mut sector = known.offset / block;
        for bytes in slices(buffers) {
            for chunk in bytes.chunks(block as usize) {
                let expected = self.content.get(&(known.disk.0, sector)).copied();
                if let Some(tag) = expected.unwrap_or(Some(0)) {
                    let same = chunk == image(Some(tag), block as usize);
                    let word = &chunk[..8];
                    let at = (known.offset, known.len, sector);
                    assert!(same, "disk {} {at:?}: tag {tag:x}, read {word:x?}", known.disk.0);
                    self.score.sectors_compared += 1;
                }
                sector += 1;
            }
        }
    }
}

/// A sector with this tag; tag 0 is zeroes.
fn image(tag: Option<u64>, block: usize) -> Vec<u8> {
    tag.unwrap_or(0).to_le_bytes().repeat(block / 8)
}

fn place(buffer: &DmaBuf) -> (usize, usize) {
    (buffer.as_ptr() as usize, buffer.len())
}

fn memory_of(buffers: &Buffers) -> Vec<(usize, usize)> {
    match buffers {
        Buffers::None => Vec::new(),
        Buffers::One(buffer) => vec![place(buffer)],
        Buffers::Many(list) => list.buffers().iter().map(place).collect(),
    }
}

fn slices(buffers: &Buffers) -> Vec<&[u8]> {
    match buffers {
        Buffers::None => Vec::new(),
        Buffers::One(buffer) => vec![buffer],
        Buffers::Many(list) => list.buffers().iter().map(|buffer| &**buffer).collect(),
    }
}

fn data_request(kind: OpKind, disk: DiskId, offset: u64, mut buffers: Vec<DmaBuf>) -> Request {
    let single = buffers.len() == 1;
    match (kind, buffers.pop()) {
        (OpKind::Read, Some(buffer)) if single => Request::read(disk, offset, buffer),
        (OpKind::WriteFlush, Some(buffer)) if single => Request::write_flush(disk, offset, buffer),
        (OpKind::WriteDsync, Some(buffer)) if single => Request::write_dsync(disk, offset, buffer),
        (_, Some(buffer)) if single => Request::write(disk, offset, buffer),
        (kind, last) => {
            buffers.extend(last);
            let list = Box::new(BufferList::new(buffers));
            match kind {
                OpKind::Read => Request::read_vectored(disk, offset, list),
                OpKind::WriteFlush => Request::write_flush_vectored(disk, offset, list),
                OpKind::WriteDsync => Request::write_dsync_vectored(disk, offset, list),
                _ => Request::write_vectored(disk, offset, list),
            }
        }
    }
}

/// An actor on a reactor.
pub(super) struct LocalActor {
    pub(super) actor: Arc<Mutex<Actor>>,
    pub(super) requests_left: u64,
}

impl LocalTask for LocalActor {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        let mut actor = self.actor.lock().unwrap();
        for _ in 0..actor.random.below(6) {
            if self.requests_left == 0 {
                return TaskState::Done;
            }
            let Some((id, request)) = actor.make() else { break };
            self.requests_left -= 1;
            match io.submit(id, request) {
                Ok(()) => {}
                Err(LocalRefusal::QueueFull(request) | LocalRefusal::ShuttingDown(request)) => {
                    actor.refused(id, request);
                }
                Err(other) => panic!("an actor makes requests that can be sent: {other:?}"),
            }
        }
        match actor.random.below(3) {
            0 => TaskState::RunAgain,
            _ => TaskState::At(io.now_ns() + actor.random.below(400_000)),
        }
    }

    fn complete(
        &mut self,
        _io: &mut LocalIo<'_>,
        tag: u64,
        completion: Completion,
    ) -> Option<TaskState> {
        let mut actor = self.actor.lock().unwrap();
        actor.completed(tag, completion);
        actor.random.coin().then_some(if self.requests_left == 0 {
            TaskState::Done
        } else {
            TaskState::RunAgain
        })
    }
}
