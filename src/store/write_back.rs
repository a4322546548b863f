//! Home writes: blocks that came in records go to their places, in the background.
//!
//! They wait as long as memory and journal allow, because what is overwritten meanwhile never
//! needs to go home. Neighbours go in one write. A home write is done when a flush has covered
//! it: that of a commit, or one of its own where none comes.

use std::rc::Rc;

use crate::format::extent::Place;
use crate::format::layout::BLOCK_BYTES;
use crate::format::removals::SlotFate;
use crate::io::op::Request;
use crate::memory::DmaBuf;
use crate::store::domain::{Domain, Health};
use crate::store::error::StoreError;
use crate::store::member::Members;
use crate::store::port::join_all;
use crate::store::ram::RamBlock;
use crate::store::write_batcher::write_noted;

/// Most blocks of one write.
pub(crate) const RUN_BLOCKS: usize = 64;
/// Writes at a time.
pub(crate) const RUNS: usize = 4;

/// Writes home until the domain is closed.
pub(crate) async fn write_home(domain: Rc<Domain>) {
    loop {
        let due = || match &*domain.health.borrow() {
            Health::Closed | Health::Stopped(_) => Some(false),
            _ => domain.write_back_is_due().then_some(true),
        };
        if !domain.changed.until(due).await {
            return;
        }
        if let Err(error) = round(&domain).await {
            domain.stop(&format!("blocks could not be written to their places: {error}"));
        }
        domain.changed.notify();
    }
}

impl Domain {
    pub(crate) fn write_back_is_due(&self) -> bool {
        let ram = self.ram.borrow();
        let waiting = ram.waiting_bytes();
        let unflushed = ram.unflushed();
        drop(ram);
        // Only flushed home writes move the tail, and with room wanted no commit brings a flush.
        let pressed = self.room_wanted.get() || self.closing.get() || self.drains.get() > 0;
        waiting > self.config.write_back_bytes
            || waiting > 0 && (pressed || self.deferred_fill() >= self.config.checkpoint_percent)
            || unflushed > 0 && pressed
            || self.flush_beside_is_due()
    }

    /// Whether what went home to other disks than the journal's, which few commits flush, holds too
    /// much memory or too much of the journal.
    fn flush_beside_is_due(&self) -> bool {
        let beside = self.ram.borrow().unflushed_beside(self.members.home_slot());
        beside as u64 * BLOCK_BYTES > self.config.write_back_bytes
            || beside > 0 && self.deferred_fill() >= self.config.checkpoint_percent
    }
}

async fn round(domain: &Domain) -> Result<(), StoreError> {
    let blocks = domain.ram.borrow_mut().send_home(RUNS * RUN_BLOCKS);
    let mut runs = Vec::new();
    let mut rest = blocks.as_slice();
    while let Some((first, _)) = rest.first() {
        let (here, after) = rest.split_at(neighbours(*first, rest));
        rest = after;
        runs.push(here);
    }
    let mut outcome = Ok(());
    let mut left = runs.as_slice();
    while !left.is_empty() {
        let (now, later) = left.split_at(left.len().min(domain.reserves.runs.count().max(1)));
        left = later;
        let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
        for run in now {
            match domain.reserves.runs.take(run.len() * BLOCK_BYTES as usize) {
                Ok(buffer) if outcome.is_ok() => {
                    writes.push(Box::pin(write_run(domain, run, buffer)));
                }
                Ok(buffer) => {
                    domain.reserves.runs.give(Some(buffer));
                    finish(domain, run, false);
                }
                Err(error) => {
                    finish(domain, run, false);
                    outcome = Err(error);
                }
            }
        }
        for result in join_all(writes).await {
            outcome = outcome.and(result);
        }
    }
    outcome?;
    let pressed = domain.room_wanted.get() || domain.closing.get() || domain.drains.get() > 0;
    if pressed || domain.flush_beside_is_due() {
        let mut unflushed = domain.ram.borrow().unflushed_disks();
        unflushed.retain(|slot| pressed || *slot != domain.members.home_slot());
        if !unflushed.is_empty() {
            flush(domain, unflushed.into_iter()).await?;
        }
    }
    Ok(())
}

/// How many of the first blocks lie one after another.
fn neighbours(first: Place, blocks: &[(Place, RamBlock)]) -> usize {
    let same = |(n, (place, _)): &(usize, &(Place, RamBlock))| {
        place.target() == first.target() && place.block() == first.block() + *n as u64
    };
    blocks.iter().take(RUN_BLOCKS).enumerate().take_while(same).count()
}

async fn write_run(
    domain: &Domain,
    blocks: &[(Place, RamBlock)],
    mut buffer: DmaBuf,
) -> Result<(), StoreError> {
    for (out, (_, block)) in buffer.chunks_exact_mut(BLOCK_BYTES as usize).zip(blocks) {
        out.copy_from_slice(block.bytes());
    }
    let (place, _) = &blocks[0];
    let (disk, offset) = Members::address(*place);
    let failures = domain.members.flush_failures();
    let request = Request::write(disk, offset, buffer);
    let request = request.with_priority(domain.cleaning_priority());
    let completion = write_noted(domain, request).await;
    domain.heed(&completion);
    let (result, buffer) = completion.into_parts();
    domain.reserves.runs.give(buffer);
    // A flush that failed meanwhile may have dropped it.
    finish(domain, blocks, result.is_ok() && domain.members.flush_failures() == failures);
    result.map_err(|error| StoreError::Write { source: error.into() })?;
    domain.counters.borrow_mut().write_back_bytes += blocks.len() as u64 * BLOCK_BYTES;
    Ok(())
}

fn finish(domain: &Domain, blocks: &[(Place, RamBlock)], success: bool) {
    let (mut ram, mut space) = (domain.ram.borrow_mut(), domain.space.borrow_mut());
    for (place, _) in blocks {
        if ram.wrote(*place, success) {
            space.give(*place);
        }
    }
}

/// Makes durable what was written to the disks in these slots. Never beside a record: where a flush
/// fails, the disk may have dropped what it was to cover, and another one that succeeds at the same
/// time says nothing of that.
pub(crate) async fn flush(
    domain: &Domain,
    slots: impl Iterator<Item = u16>,
) -> Result<(), StoreError> {
    domain.changed.until(|| (!domain.journal_busy.get()).then_some(())).await;
    domain.journal_busy.set(true);
    // Where this domain has nothing, and will not have, another may be the last to leave.
    let there = |slot: &u16| domain.space.borrow().fate(*slot) != SlotFate::Gone;
    let slots: Vec<u16> = slots.filter(there).collect();
    let failures = domain.notice_failures();
    let writes = domain.ram.borrow().writes();
    let result = domain.flush_each(&slots).await;
    domain.others_have_flushed(&slots).await;
    let failed = domain.notice_failures() != failures;
    domain.journal_busy.set(false);
    domain.changed.notify();
    domain.counters.borrow_mut().other_flushes += slots.len() as u64;
    result.map_err(|error| StoreError::Write { source: error.into() })?;
    // What another domain's failure may have dropped is written again.
    if !failed {
        let mut ram = domain.ram.borrow_mut();
        slots.iter().for_each(|slot| ram.flushed(*slot, writes));
    }
    Ok(())
}
