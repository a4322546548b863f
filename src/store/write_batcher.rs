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

use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS};
use crate::io::op::Request;
use crate::memory::{BufferList, DmaBuf};
use crate::store::domain::Domain;
use crate::store::error::StoreError;
use crate::store::port::{Changed, join_all};
use crate::store::space::DiskRun;

const BLOCK: usize = BLOCK_BYTES as usize;

/// Where a request's blocks are, or why they are nowhere.
type Outcome = Result<Vec<DiskRun>, StoreError>;

/// One request's data: whole blocks in buffers of its own.
#[derive(Debug)]
struct Gathered {
    buffers: Vec<DmaBuf>,
    blocks: u32,
    outcome: Rc<RefCell<Option<Outcome>>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct WriteBatcher {
    waiting: RefCell<Vec<Gathered>>,
    /// Gathered writes on their way.
    writes: Cell<u32>,
    ended: Changed,
}

impl WriteBatcher {
    /// Whether the request with this outcome still waits.
    fn has(&self, outcome: &Rc<RefCell<Option<Outcome>>>) -> bool {
        self.waiting.borrow().iter().any(|gathered| Rc::ptr_eq(&gathered.outcome, outcome))
    }

    /// Blocks that wait, and extents that they make at least.
    fn size(&self) -> (usize, usize) {
        let waiting = self.waiting.borrow();
        let blocks: u32 = waiting.iter().map(|gathered| gathered.blocks).sum();
        let extents = waiting.iter().map(|g| (g.blocks as usize).div_ceil(EXTENT_BLOCKS)).sum();
        (blocks as usize * BLOCK, extents)
    }
}

/// Writes blocks to space that is taken for them; the caller has made sure that there is as much,
/// by a promise of as many blocks, which this takes back.
pub(crate) async fn write_gathered(
    domain: &Domain,
    buffers: Vec<DmaBuf>,
) -> Result<Vec<DiskRun>, StoreError> {
    let blocks: u32 = buffers.iter().map(|buffer| (buffer.len() / BLOCK) as u32).sum();
    let outcome = Rc::new(RefCell::new(None));
    let batcher = &domain.batcher;
    let leads = {
        let mut waiting = batcher.waiting.borrow_mut();
        waiting.push(Gathered { buffers, blocks, outcome: Rc::clone(&outcome) });
        waiting.len() == 1
    };
    let (bytes, extents) = batcher.size();
    let alone = batcher.writes.get() == 0 || blocks as usize >= EXTENT_BLOCKS;
    let full =
        bytes >= domain.config.gather_bytes || alone && extents >= domain.config.gather_extents;
    if leads && !full {
        domain.port.step_aside().await;
        let free = || (alone || batcher.writes.get() == 0 || !batcher.has(&outcome)).then_some(());
        batcher.ended.until(free).await;
    }
    if full || leads && batcher.has(&outcome) {
        let gathered = std::mem::take(&mut *batcher.waiting.borrow_mut());
        batcher.writes.set(batcher.writes.get() + 1);
        write_all(domain, gathered).await;
        batcher.writes.set(batcher.writes.get() - 1);
        batcher.ended.notify();
    }
    let found = || outcome.borrow_mut().take();
    batcher.ended.until(found).await
}

/// Takes space for what was gathered, writes it, and tells everybody.
async fn write_all(domain: &Domain, mut gathered: Vec<Gathered>) {
    let blocks: u32 = gathered.iter().map(|one| one.blocks).sum();
    if blocks == 0 {
        return;
    }
    let runs = {
        let mut space = domain.space.borrow_mut();
        space.release(u64::from(blocks));
        space.take(blocks)
    };
    let Some(runs) = runs else { unreachable!("as many blocks were promised") };
    domain.counters.borrow_mut().gathered_writes += runs.len() as u64;
    let buffers: Vec<DmaBuf> =
        gathered.iter_mut().flat_map(|one| std::mem::take(&mut one.buffers)).collect();
    let written = write_runs(domain, &runs, buffers).await;
    let mut cut = RunCutter { runs: &runs, at: 0 };
    for one in gathered {
        let own = cut.take(one.blocks);
        let result = match &written {
            Ok(()) => Ok(own),
            Err(error) => {
                domain.give_runs(&own);
                Err(error.clone())
            }
        };
        *one.outcome.borrow_mut() = Some(result);
    }
}

/// Cuts runs into each request's part, in order.
struct RunCutter<'a> {
    runs: &'a [DiskRun],
    at: u32,
}

impl RunCutter<'_> {
    fn take(&mut self, mut blocks: u32) -> Vec<DiskRun> {
        let mut own = Vec::new();
        while blocks > 0
            && let Some((first, rest)) = self.runs.split_first()
        {
            let here = blocks.min(first.blocks - self.at);
            own.push(DiskRun { start: first.start + u64::from(self.at), blocks: here });
            blocks -= here;
            self.at += here;
            if self.at == first.blocks {
                (self.runs, self.at) = (rest, 0);
            }
        }
        own
    }
}

/// Writes buffers one after another into runs.
async fn write_runs(
    domain: &Domain,
    runs: &[DiskRun],
    buffers: Vec<DmaBuf>,
) -> Result<(), StoreError> {
    let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
    let mut buffers = buffers.into_iter().peekable();
    // What is left of a buffer that did not fit into its run whole.
    let mut rest: Option<(DmaBuf, usize)> = None;
    let mut short = None;
    for run in runs {
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
        let offset = run.start * BLOCK_BYTES;
        for request in requests(domain, offset, list) {
            writes.push(Box::pin(domain.port.submit(request)));
        }
    }
    let mut outcome = short.map_or(Ok(()), Err);
    for completion in join_all(writes).await {
        if let Err(error) = completion.result {
            outcome = Err(StoreError::Write { source: Arc::from(error) });
        }
    }
    outcome
}

/// One request for buffers that follow each other on the disk, or a few when they are many.
fn requests(domain: &Domain, mut offset: u64, list: Vec<DmaBuf>) -> Vec<Request> {
    if list.len() == 1 {
        return list.into_iter().map(|one| Request::write(domain.disk, offset, one)).collect();
    }
    let mut requests = Vec::new();
    let mut list = list.into_iter().peekable();
    while list.peek().is_some() {
        let some: Vec<DmaBuf> = list.by_ref().take(BufferList::BUFFERS_MAX).collect();
        let some = Box::new(BufferList::new(some));
        let bytes = some.bytes();
        requests.push(Request::write_vectored(domain.disk, offset, some));
        offset += bytes;
    }
    requests
}
