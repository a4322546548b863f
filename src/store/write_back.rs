//! Home writes: blocks that came in records go to their places, in the background.
//!
//! They wait as long as memory and journal allow, because what is overwritten meanwhile never needs to
//! go home. Neighbours go in one write. A home write is done when a flush has covered it: that of a
//! commit, or one of its own where none comes.

use std::rc::Rc;

use crate::format::extent::Place;
use crate::format::layout::BLOCK_BYTES;
use crate::io::op::Request;
use crate::memory::DmaBuf;
use crate::store::domain::{Domain, Health};
use crate::store::error::StoreError;
use crate::store::port::join_all;
use crate::store::ram::RamBlock;

/// Blocks of one round.
const ROUND_BLOCKS: usize = 256;
/// Most blocks of one write.
const WRITE_BLOCKS: usize = 64;

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
    fn write_back_is_due(&self) -> bool {
        let ram = self.ram.borrow();
        let waiting = ram.waiting_bytes();
        let unflushed = ram.unflushed();
        drop(ram);
        // Only flushed home writes move the tail, and with room wanted no commit brings a flush.
        let pressed = self.room_wanted.get() || self.closing.get() || self.drain_wanted.get();
        waiting > self.config.write_back_bytes
            || waiting > 0 && (pressed || self.journal_fill() >= self.config.checkpoint_percent)
            || unflushed > 0 && pressed
    }
}

async fn round(domain: &Domain) -> Result<(), StoreError> {
    let blocks = domain.ram.borrow_mut().send_home(ROUND_BLOCKS);
    let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
    let mut rest = blocks.as_slice();
    let mut short = None;
    while let Some((first, _)) = rest.first() {
        let run = neighbours(*first, rest);
        let (here, after) = rest.split_at(run);
        rest = after;
        match domain.buffer(here.len() * BLOCK_BYTES as usize) {
            Ok(buffer) => writes.push(Box::pin(write_run(domain, here, buffer))),
            Err(error) => {
                short = Some(error);
                finish(domain, here, false);
            }
        }
    }
    if writes.is_empty()
        && let Some(error) = short
    {
        return Err(error);
    }
    for result in join_all(writes).await {
        result?;
    }
    let pressed = domain.room_wanted.get() || domain.closing.get() || domain.drain_wanted.get();
    if pressed && domain.ram.borrow().unflushed() > 0 {
        flush(domain).await?;
    }
    Ok(())
}

/// How many of the first blocks lie one after another.
fn neighbours(first: Place, blocks: &[(Place, RamBlock)]) -> usize {
    let same = |(n, (place, _)): &(usize, &(Place, RamBlock))| {
        place.disk() == first.disk() && place.block() == first.block() + *n as u64
    };
    blocks.iter().take(WRITE_BLOCKS).enumerate().take_while(same).count()
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
    let request = Request::write(domain.disk, Domain::offset_of(*place), buffer);
    let completion = domain.port.submit(request.with_priority(domain.cleaning_priority())).await;
    let (result, _) = completion.into_parts();
    finish(domain, blocks, result.is_ok());
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

async fn flush(domain: &Domain) -> Result<(), StoreError> {
    let writes = domain.ram.borrow().writes();
    let (result, _) = domain.port.submit(Request::flush(domain.disk)).await.into_parts();
    domain.counters.borrow_mut().other_flushes += 1;
    match result {
        Ok(_) => {
            domain.ram.borrow_mut().flushed(writes);
            Ok(())
        }
        Err(error) => {
            domain.flush_failed();
            Err(StoreError::Write { source: error.into() })
        }
    }
}
