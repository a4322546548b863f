//! Reading: a snapshot, I/O without a lock, checksums, and a second look.
//!
//! A reader copies an extent's record, reads the blocks that it names, and believes them when
//! each sums to what the record says. Meanwhile the extent may have been written again and its
//! old blocks given to somebody else; then the record has another generation, and the reader
//! begins again. After a few lost races it holds the extent's lock, so that nobody can join a
//! commit that changes it, and what is under way already is soon over. A sum that is wrong while
//! the record stands is corruption.

use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use crate::format::checksum::block_checksum;
use crate::format::extent::{Extent, Place};
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS, EXTENT_BYTES};
use crate::io::op::{Buffers, Priority, Request};
use crate::memory::DmaBuf;
use crate::store::call::ReadBytes;
use crate::store::domain::Domain;
use crate::store::error::StoreError;
use crate::store::member::Members;
use crate::store::port::join_all;
use crate::store::table::ExtentSnapshot;

const BLOCK: usize = BLOCK_BYTES as usize;
/// Extents that one request reads at a time.
const PARTS_AT_A_TIME: usize = 16;
/// Races that are lost without a lock.
const RACES_MAX: u32 = 4;

/// The blocks `first..first + count` of an extent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) inode: u64,
    pub(crate) index: u64,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

impl Part {
    /// The first byte of a block of it in the inode.
    pub(crate) fn offset(&self, block: usize) -> u64 {
        self.index * EXTENT_BYTES + (self.first + block) as u64 * BLOCK_BYTES
    }
}

/// The parts of extents that a range of blocks covers.
pub(crate) fn parts(inode: u64, first_block: u64, blocks: u64) -> impl Iterator<Item = Part> {
    let per_extent = EXTENT_BLOCKS as u64;
    let end = first_block + blocks;
    let mut at = first_block;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (index, first) = (at / per_extent, at % per_extent);
        let count = (per_extent - first).min(end - at);
        at += count;
        Some(Part { inode, index, first: first as usize, count: count as usize })
    })
}

/// Reads up to `len` bytes from `offset` on, into a buffer of whole blocks.
pub(crate) async fn read(
    domain: &Domain,
    inode: u64,
    offset: u64,
    (mut buffer, len): (DmaBuf, usize),
    priority: Priority,
) -> Result<ReadBytes, StoreError> {
    domain.settle_buffered(inode).await;
    let record = domain.table.borrow().inode(inode).copied();
    let missing = || domain.missing(inode, None).unwrap_or(StoreError::NoSuchInode { inode });
    let size = record.ok_or_else(missing)?.size_bytes;
    let len = (len as u64).min(size.saturating_sub(offset)) as usize;
    let start = (offset % BLOCK_BYTES) as usize;
    if len == 0 {
        return Ok(ReadBytes { buffer, start: 0, len: 0 });
    }
    let blocks = (start + len).div_ceil(BLOCK);
    buffer.set_len(blocks * BLOCK);
    let first = offset / BLOCK_BYTES;
    let mut all = parts(inode, first, blocks as u64);
    if let (Some(only), None) = (all.next(), all.next()) {
        // The common case is read where the caller wants it.
        buffer = read_part(domain, &only, buffer, priority).await?;
        return Ok(ReadBytes { buffer, start, len });
    }
    let all: Vec<Part> = parts(inode, first, blocks as u64).collect();
    let mut filled = 0;
    for some in all.chunks(PARTS_AT_A_TIME) {
        let mut reads: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
        for part in some {
            let piece = domain.buffer(part.count * BLOCK)?;
            reads.push(Box::pin(read_unlocked(domain, part, piece, priority)));
        }
        // Those that lost their races are read one after another: a reader holds one lock at most.
        for (part, looked) in some.iter().zip(join_all(reads).await) {
            let piece = match looked? {
                Look::Read(piece) => piece,
                Look::Lost(piece) => read_locked(domain, part, piece, priority).await?,
            };
            buffer[filled..filled + piece.len()].copy_from_slice(&piece);
            filled += piece.len();
        }
    }
    Ok(ReadBytes { buffer, start, len })
}

impl Domain {
    /// What was answered before it was durable is visible to whoever asks after that: it is a
    /// commit away from the table, and the reader waits for that.
    pub(crate) async fn settle_buffered(&self, inode: u64) {
        let fate = self.pipe.borrow().buffered_fate(inode);
        if let Some(fate) = fate {
            self.hurry.set(true);
            self.changed.notify();
            let _ = fate.decided().await;
        }
    }
}

/// Name of an extent's lock.
pub(crate) fn lock_name(inode: u64, index: u64) -> Uuid {
    Uuid::from_u64_pair(inode.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index, index << 20 ^ inode)
}

/// Reads a part of an extent as it was acknowledged.
async fn read_part(
    domain: &Domain,
    part: &Part,
    buffer: DmaBuf,
    priority: Priority,
) -> Result<DmaBuf, StoreError> {
    match read_unlocked(domain, part, buffer, priority).await? {
        Look::Read(buffer) => Ok(buffer),
        Look::Lost(buffer) => read_locked(domain, part, buffer, priority).await,
    }
}

/// What came of looking at a part, and its memory.
enum Look {
    /// It is read.
    Read(DmaBuf),
    /// It was written meanwhile.
    Lost(DmaBuf),
}

/// Reads a part without a lock, until it has lost too many races.
async fn read_unlocked(
    domain: &Domain,
    part: &Part,
    mut buffer: DmaBuf,
    priority: Priority,
) -> Result<Look, StoreError> {
    for _ in 0..RACES_MAX {
        match look(domain, part, buffer, priority).await? {
            Look::Read(buffer) => return Ok(Look::Read(buffer)),
            Look::Lost(back) => buffer = back,
        }
    }
    Ok(Look::Lost(buffer))
}

/// Reads a part while nobody can join a commit that changes it: what is under way is soon over.
async fn read_locked(
    domain: &Domain,
    part: &Part,
    mut buffer: DmaBuf,
    priority: Priority,
) -> Result<DmaBuf, StoreError> {
    domain.counters.borrow_mut().reads_locked += 1;
    let locked = domain.locks.read(lock_name(part.inode, part.index)).await;
    let _guard = locked.map_err(|refusal| no_lock(&refusal))?;
    loop {
        match look(domain, part, buffer, priority).await? {
            Look::Read(buffer) => return Ok(buffer),
            Look::Lost(back) => buffer = back,
        }
    }
}

/// Reads a part once, and looks whether it is still the one that it was.
async fn look(
    domain: &Domain,
    part: &Part,
    mut buffer: DmaBuf,
    priority: Priority,
) -> Result<Look, StoreError> {
    let snapshot = domain.table.borrow().extent(part.inode, part.index);
    let Some(snapshot) = snapshot else {
        if let Some(missing) = domain.missing(part.inode, Some(part.offset(0))) {
            return Err(missing);
        }
        buffer.fill(0);
        return Ok(Look::Read(buffer));
    };
    let stands = || domain.is_current(part, &snapshot);
    let (back, result) = fetch(domain, part, (&snapshot.extent, stands), buffer, priority).await;
    if domain.is_current(part, &snapshot) {
        result?;
        return Ok(Look::Read(back.ok_or_else(lost_buffer)?));
    }
    domain.counters.borrow_mut().reads_again += 1;
    Ok(Look::Lost(match back {
        Some(buffer) => buffer,
        None => domain.buffer(part.count * BLOCK)?,
    }))
}

fn lost_buffer() -> StoreError {
    StoreError::NoMemory { reason: "a device that never answered keeps a buffer".into() }
}

pub(crate) fn no_lock(refusal: &crate::concurrency::lock::acquire::LockRefusal) -> StoreError {
    StoreError::NoMemory { reason: refusal.to_string().into() }
}

impl Domain {
    fn is_current(&self, part: &Part, snapshot: &ExtentSnapshot) -> bool {
        // The cell may be of another extent by now: then its generation is another too.
        let table = self.table.borrow();
        table.is_current(snapshot) && table.inode(part.inode).is_some()
    }
}

/// Reads and verifies blocks of an extent, wherever they are, from whichever disk has them right.
/// The buffer comes back, if at all. What is wrong counts while the extent `stands`: its blocks may
/// have been given to somebody else meanwhile.
pub(crate) async fn fetch(
    domain: &Domain,
    part: &Part,
    (extent, stands): (&Extent, impl Fn() -> bool),
    buffer: DmaBuf,
    priority: Priority,
) -> (Option<DmaBuf>, Result<(), StoreError>) {
    let fetched = match fetch_first(domain, part, extent, buffer, priority).await {
        (Some(buffer), Err(error)) if stands() && has_mirrors(domain, part, extent) => {
            let asked = salvage(domain, part, extent, (buffer, error), priority);
            let salvaged = Box::pin(asked).await;
            if salvaged.1.is_ok() && stands() {
                domain.wants_mending(part);
            }
            salvaged
        }
        fetched => fetched,
    };
    if matches!(fetched.1, Err(StoreError::Corrupt { .. })) && stands() {
        domain.counters.borrow_mut().corrupt_blocks += 1;
    }
    fetched
}

/// Whether a block of it is in a slot with several disks in sync.
fn has_mirrors(domain: &Domain, part: &Part, extent: &Extent) -> bool {
    let places = &extent.places[part.first..part.first + part.count];
    let slots = places.iter().filter(|place| !place.is_nowhere()).map(|place| place.slot());
    // One that was taken out meanwhile may have been the one that answered.
    let mut members = slots.map(|slot| domain.members.at(slot));
    members.any(|member| member.mirrors.len() > 1)
}

/// Asks the disks of a slot one by one for each block that is not as it should be, when a first
/// look has failed with `error`.
async fn salvage(
    domain: &Domain,
    part: &Part,
    extent: &Extent,
    (mut buffer, error): (DmaBuf, StoreError),
    priority: Priority,
) -> (Option<DmaBuf>, Result<(), StoreError>) {
    for (block, at) in (part.first..part.first + part.count).enumerate() {
        let (place, sum) = (extent.places[at], extent.checksums[at]);
        let bytes = block * BLOCK..(block + 1) * BLOCK;
        if place.is_nowhere() {
            buffer[bytes].fill(0);
            continue;
        }
        // The first look may have left it unread, and its content in memory alone.
        domain.copy_from_ram(&[place], &mut buffer[bytes.clone()]);
        if block_checksum(&buffer[bytes.clone()]) == sum {
            continue;
        }
        let good = match good_block(domain, place, sum, priority).await {
            Ok(Some(good)) => good,
            Ok(None) => return (Some(buffer), Err(error)),
            Err(no_memory) => return (Some(buffer), Err(no_memory)),
        };
        buffer[bytes].copy_from_slice(&good);
    }
    (Some(buffer), Ok(()))
}

/// A block from the first disk of its slot that has it right; none when no disk has.
///
/// # Errors
/// There is no memory.
pub(crate) async fn good_block(
    domain: &Domain,
    place: Place,
    sum: u32,
    priority: Priority,
) -> Result<Option<DmaBuf>, StoreError> {
    let (_, offset) = Members::address(place);
    let member = domain.members.at(place.slot());
    let behind = member.of(place.mirrors()).filter(|mirror| !mirror.is_in_sync());
    // What few have may be right on one of these too.
    let behind = behind.filter(|mirror| !place.mirrors().is_all() && !mirror.times.hangs());
    for mirror in member.of(place.mirrors()).filter(|mirror| mirror.is_in_sync()).chain(behind) {
        let request = Request::read(mirror.disk, offset, domain.buffer(BLOCK)?);
        let request = request.with_priority(priority);
        let completion = domain.members.submit_to(&domain.port, mirror, request).await;
        if let (Ok(_), Some(bytes)) = completion.into_parts()
            && block_checksum(&bytes) == sum
        {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

async fn fetch_first(
    domain: &Domain,
    part: &Part,
    extent: &Extent,
    mut buffer: DmaBuf,
    priority: Priority,
) -> (Option<DmaBuf>, Result<(), StoreError>) {
    let places = &extent.places[part.first..part.first + part.count];
    let in_ram = domain.copy_from_ram(places, &mut buffer);
    if in_ram == 0 && is_one_run(places) {
        let (disk, offset) = Members::address(places[0]);
        let request = Request::read(disk, offset, buffer).with_priority(priority);
        let (completion, elsewhere) = domain.members.read(&domain.port, request).await;
        if elsewhere {
            domain.wants_mending(part);
        }
        let back = match completion.buffers {
            Buffers::One(buffer) => Some(buffer),
            _ => None,
        };
        let result = completion.result.map(|_| ()).map_err(|error| StoreError::Unreadable {
            inode: part.inode,
            offset: part.offset(0),
            source: Arc::from(error),
        });
        let result = result.and_then(|()| match &back {
            Some(buffer) => verify(domain, part, extent, buffer),
            None => Err(lost_buffer()),
        });
        return (back, result);
    }
    let mut block = 0;
    while block < part.count {
        let run = run_length(&places[block..]);
        if !places[block].is_nowhere() && in_ram & 1 << block == 0 {
            let run =
                (block + 1..block + run).find(|b| in_ram & 1 << b != 0).map_or(run, |b| b - block);
            if let Err(error) =
                fetch_run(domain, part, (block, run), places, &mut buffer, priority).await
            {
                return (Some(buffer), Err(error));
            }
            block += run;
            continue;
        }
        if places[block].is_nowhere() {
            buffer[block * BLOCK..(block + 1) * BLOCK].fill(0);
        }
        block += 1;
    }
    let result = verify(domain, part, extent, &buffer);
    (Some(buffer), result)
}

async fn fetch_run(
    domain: &Domain,
    part: &Part,
    (block, run): (usize, usize),
    places: &[Place],
    buffer: &mut DmaBuf,
    priority: Priority,
) -> Result<(), StoreError> {
    let piece = domain.buffer(run * BLOCK)?;
    let (disk, offset) = Members::address(places[block]);
    let request = Request::read(disk, offset, piece);
    let request = request.with_priority(priority);
    let (completion, elsewhere) = domain.members.read(&domain.port, request).await;
    if elsewhere {
        domain.wants_mending(part);
    }
    let (result, piece) = completion.into_parts();
    let (inode, offset) = (part.inode, part.offset(block));
    result.map_err(|error| StoreError::Unreadable { inode, offset, source: Arc::from(error) })?;
    let piece = piece.ok_or_else(lost_buffer)?;
    buffer[block * BLOCK..(block + run) * BLOCK].copy_from_slice(&piece);
    Ok(())
}

/// How many of the first places lie one after another.
fn run_length(places: &[Place]) -> usize {
    let Some(first) = places.first() else { return 0 };
    let next = |(n, place): &(usize, &Place)| {
        !place.is_nowhere()
            && place.target() == first.target()
            && place.block() == first.block() + *n as u64
    };
    places.iter().enumerate().take_while(next).count().max(1)
}

fn is_one_run(places: &[Place]) -> bool {
    !places[0].is_nowhere() && run_length(places) == places.len()
}

impl Domain {
    /// Copies the blocks that are not at home yet; says which.
    fn copy_from_ram(&self, places: &[Place], buffer: &mut [u8]) -> u16 {
        let ram = self.ram.borrow();
        if ram.len() == 0 {
            return 0;
        }
        let mut copied = 0;
        for (index, place) in places.iter().enumerate() {
            if let Some(block) = ram.get(*place) {
                buffer[index * BLOCK..(index + 1) * BLOCK].copy_from_slice(block.bytes());
                copied |= 1 << index;
            }
        }
        copied
    }
}

fn verify(domain: &Domain, part: &Part, extent: &Extent, buffer: &[u8]) -> Result<(), StoreError> {
    for (block, bytes) in buffer.chunks_exact(BLOCK).enumerate() {
        let at = part.first + block;
        let place = extent.places[at];
        if place.is_nowhere() {
            continue;
        }
        let (expected, found) = (extent.checksums[at], block_checksum(bytes));
        if expected != found {
            let (inode, offset) = (part.inode, part.offset(block));
            let path = domain.members.path_of(place);
            return Err(StoreError::Corrupt {
                inode,
                offset,
                path,
                block: place.block(),
                expected,
                found,
            });
        }
    }
    Ok(())
}

/// Reads blocks as the next change will find them, in memory that stays.
pub(crate) async fn read_now(
    domain: &Rc<Domain>,
    part: &Part,
    extent: &Extent,
) -> Result<Rc<DmaBuf>, StoreError> {
    let buffer = domain.buffer(part.count * BLOCK)?;
    // Whoever changes a block holds what keeps its place.
    let found = (extent, || true);
    let (buffer, result) = fetch(domain, part, found, buffer, Priority::NormalRead).await;
    result?;
    buffer.map(Rc::new).ok_or_else(lost_buffer)
}
