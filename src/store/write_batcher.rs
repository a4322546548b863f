//! The write batcher: data of several requests goes to the disk in few large writes.
//!
//! Whoever has data to write leaves it here and waits. The first to come lets every task that is
//! ready run before it looks again, and if it has less than an extent also waits for the write
//! that is on its way: what came meanwhile goes with it. At `gather_extents` extents nobody waits
//! for a task, at `gather_bytes` bytes for nothing. What was gathered gets neighbouring blocks, and
//! is written run by run, each run in one vectored write where whole buffers fill it.
//!
//! A write that is on its way costs the others no time, because their batch waits for the commit
//! before it anyway; that each write carries more does save time of processor and device.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::format::extent::Place;
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS};
use crate::format::mirror_set::MirrorSet;
use crate::io::op::{Completion, DiskId, Request};
use crate::memory::{BufferList, DmaBuf};
use crate::store::domain::Domain;
use crate::store::error::StoreError;
use crate::store::member::Members;
use crate::store::port::{Changed, Fate, join_all};
use crate::store::space::{Copies, DiskRun};

const BLOCK: usize = BLOCK_BYTES as usize;

/// Where all blocks of a gather are, or why they are nowhere.
type Outcome = Result<Rc<[DiskRun]>, StoreError>;

/// Data of requests that goes to the disk together: whole blocks, one request after another.
#[derive(Debug, Default)]
struct Gather {
    buffers: Vec<DmaBuf>,
    blocks: u32,
    /// That the requests make at least.
    extents: usize,
    fate: Rc<Fate<Outcome>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct WriteBatcher {
    waiting: RefCell<Gather>,
    /// Gathered writes on their way.
    writes: Cell<u32>,
    ended: Changed,
}

impl WriteBatcher {
    /// Whether the gather that ends so still waits.
    fn waits(&self, fate: &Rc<Fate<Outcome>>) -> bool {
        Rc::ptr_eq(&self.waiting.borrow().fate, fate)
    }
}

/// Writes blocks to space that is taken for them; the caller has made sure that there is as much,
/// by a promise of as many blocks, which this takes back.
pub(crate) async fn write_gathered(
    domain: &Domain,
    copies: Copies,
    buffers: impl Iterator<Item = DmaBuf>,
) -> Result<Vec<DiskRun>, StoreError> {
    let batcher = &domain.batchers[copies.kind()];
    let (fate, at, blocks, gathered_bytes, gathered_extents) = {
        let mut gather = batcher.waiting.borrow_mut();
        let at = gather.blocks;
        for buffer in buffers {
            gather.blocks += (buffer.len() / BLOCK) as u32;
            gather.buffers.push(buffer);
        }
        let blocks = gather.blocks - at;
        gather.extents += (blocks as usize).div_ceil(EXTENT_BLOCKS);
        let bytes = gather.blocks as usize * BLOCK;
        (Rc::clone(&gather.fate), at, blocks, bytes, gather.extents)
    };
    let leads = at == 0;
    let alone = batcher.writes.get() == 0 || blocks as usize >= EXTENT_BLOCKS;
    let full = gathered_bytes >= domain.config.gather_bytes
        || alone && gathered_extents >= domain.config.gather_extents;
    if leads && !full {
        domain.port.step_aside().await;
        let free = || (alone || batcher.writes.get() == 0 || !batcher.waits(&fate)).then_some(());
        batcher.ended.until(free).await;
    }
    if full || leads && batcher.waits(&fate) {
        let gather = batcher.waiting.take();
        batcher.writes.set(batcher.writes.get() + 1);
        write_all(domain, copies, gather).await;
        batcher.writes.set(batcher.writes.get() - 1);
        batcher.ended.notify();
    }
    Ok(part(&fate.decided().await?, at, blocks))
}

/// Takes space for what was gathered, writes it, and tells everybody.
async fn write_all(domain: &Domain, copies: Copies, gather: Gather) {
    domain.give_what_was_answered();
    let runs = {
        let mut space = domain.space.borrow_mut();
        space.release_data(copies, u64::from(gather.blocks));
        space.take_data(copies, gather.blocks, &|slot, set| domain.members.fitness(slot, set))
    };
    let Some(runs) = runs else { unreachable!("as many blocks were promised") };
    domain.counters.borrow_mut().gathered_writes += runs.len() as u64;
    let mut late = vec![false; runs.len()];
    let written = write_runs(domain, &runs, gather.buffers, &mut late).await;
    gather.fate.decide(match written {
        Ok(()) => Ok(runs.into()),
        Err(error) => {
            for (run, late) in runs.iter().zip(late) {
                if late {
                    domain.keep_until_answered(*run);
                } else {
                    domain.give_runs(std::slice::from_ref(run));
                }
            }
            Err(error)
        }
    });
}

/// The part of runs that is `blocks` blocks from block `at` of them on.
fn part(runs: &[DiskRun], mut at: u32, mut blocks: u32) -> Vec<DiskRun> {
    let mut own = Vec::with_capacity(1);
    for run in runs {
        if at >= run.blocks {
            at -= run.blocks;
            continue;
        }
        let here = blocks.min(run.blocks - at);
        if here > 0 {
            own.push(DiskRun { start: run.start + u64::from(at), blocks: here, ..*run });
        }
        (at, blocks) = (0, blocks - here);
        if blocks == 0 {
            break;
        }
    }
    own
}

/// Writes buffers one after another into runs. Where it fails, `late` says to which of them
/// something may still be written.
async fn write_runs(
    domain: &Domain,
    runs: &[DiskRun],
    buffers: Vec<DmaBuf>,
    late: &mut [bool],
) -> Result<(), StoreError> {
    let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
    let mut buffers = buffers.into_iter().peekable();
    // What is left of a buffer that did not fit into its run whole.
    let mut rest: Option<(DmaBuf, usize)> = None;
    let mut short = None;
    let mut whose = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        let mut list = Vec::new();
        let mut left = run.blocks as usize * BLOCK;
        while left > 0 && short.is_none() {
            let fits = rest.is_none() && buffers.peek().is_some_and(|next| next.len() <= left);
            if fits && let Some(buffer) = buffers.next() {
                left -= buffer.len();
                list.push(buffer);
                continue;
            }
            let (from, at) = match rest.take() {
                Some(rest) => rest,
                None => match buffers.next() {
                    Some(buffer) => (buffer, 0),
                    None => unreachable!("the runs are as long as the buffers"),
                },
            };
            let here = left.min(from.len() - at);
            match domain.buffer(here) {
                Ok(mut piece) => {
                    piece.copy_from_slice(&from[at..at + here]);
                    list.push(piece);
                }
                Err(error) => short = Some(error),
            }
            left -= here;
            if at + here < from.len() {
                rest = Some((from, at + here));
            }
        }
        if short.is_some() {
            break;
        }
        for request in requests(Members::address(Place::new(run.disk, run.start)), list) {
            writes.push(Box::pin(write_one(domain, request)));
            whose.push(number);
        }
    }
    let mut outcome = short.map_or(Ok(()), Err);
    for (completion, run) in join_all(writes).await.into_iter().zip(whose) {
        if let Err(error) = completion.result {
            late[run] |= error.may_land_late();
            outcome = Err(StoreError::Write { source: Arc::from(error) });
        }
    }
    outcome
}

/// Writes, and sees how much is on its way to the slot.
async fn write_one(domain: &Domain, request: Request) -> Completion {
    let (slot, _) = MirrorSet::of_target(request.disk.0);
    let blocks = request.len / BLOCK_BYTES;
    domain.space.borrow_mut().sent(slot, blocks);
    let completion = write_noted(domain, request).await;
    domain.space.borrow_mut().arrived(slot, blocks);
    completion
}

/// Writes, and sees how long the disks of the slot take for it.
pub(crate) async fn write_noted(domain: &Domain, request: Request) -> Completion {
    let (slot, _) = MirrorSet::of_target(request.disk.0);
    let blocks = request.len / BLOCK_BYTES;
    let completion = domain.members.submit(&domain.port, request).await;
    let took_ns = completion.result.is_ok().then_some(completion.service_ns);
    domain.space.borrow_mut().note_write(slot, blocks, took_ns);
    completion
}

/// One request for buffers that follow each other on the disk, or a few when they are many.
fn requests((disk, mut offset): (DiskId, u64), list: Vec<DmaBuf>) -> Vec<Request> {
    if list.len() == 1 {
        return list.into_iter().map(|one| Request::write(disk, offset, one)).collect();
    }
    let mut requests = Vec::new();
    let mut list = list.into_iter().peekable();
    while list.peek().is_some() {
        let some: Vec<DmaBuf> = list.by_ref().take(BufferList::BUFFERS_MAX).collect();
        let some = Box::new(BufferList::new(some));
        let bytes = some.bytes();
        requests.push(Request::write_vectored(disk, offset, some));
        offset += bytes;
    }
    requests
}
