//! The inodes of a run: made and filled before it, removed after it. Others of the pool are left
//! as they are.

use std::collections::VecDeque;

use dynamicfs::{InodeId, InodeOptions, StorageEngine};

use crate::failure::Failure;
use crate::store::pool::request_failure;
use crate::stream::SplitMix;

/// Bytes of the writes that fill, and how many are under way.
const FILL_BYTES: u64 = 1 << 20;
const FILL_DEPTH: usize = 8;

/// Makes `count` inodes, each filled with `bytes`.
///
/// # Errors
/// [`Failure::Runtime`] when the pool has no room.
pub(crate) fn make(
    engine: &StorageEngine,
    count: u32,
    bytes: u64,
) -> Result<Vec<InodeId>, Failure> {
    let Some(options) = InodeOptions::tagged(b"dynamicfs-bench") else {
        unreachable!("a short tag")
    };
    let made = (0..count).map(|_| {
        let inode = engine.create_inode(options).wait();
        inode.map_err(|error| request_failure("an inode could not be made", &error))
    });
    let inodes: Vec<InodeId> = made.collect::<Result<_, _>>()?;
    match inodes.iter().try_for_each(|inode| fill(engine, *inode, bytes)) {
        Ok(()) => Ok(inodes),
        // Nothing is left behind in somebody's pool.
        Err(failure) => remove(engine, &inodes).and(Err(failure)),
    }
}

/// Writes all of an inode.
fn fill(engine: &StorageEngine, inode: InodeId, bytes: u64) -> Result<(), Failure> {
    let failed = |error| request_failure("an inode could not be filled", &error);
    let mut data = vec![0; FILL_BYTES as usize];
    SplitMix(inode.0).fill(&mut data);
    let mut under_way = VecDeque::with_capacity(FILL_DEPTH);
    for offset in (0..bytes).step_by(FILL_BYTES as usize) {
        if under_way.len() == FILL_DEPTH
            && let Some(oldest) = under_way.pop_front()
        {
            let ticket: dynamicfs::StoreTicket<_> = oldest;
            ticket.wait().map_err(failed)?;
        }
        let piece = &mut data[..(bytes - offset).min(FILL_BYTES) as usize];
        let stamp = offset.to_le_bytes();
        piece[..stamp.len()].copy_from_slice(&stamp);
        under_way.push_back(engine.write(inode, offset, piece));
    }
    for ticket in under_way {
        ticket.wait().map_err(failed)?;
    }
    Ok(())
}

/// Removes them.
///
/// # Errors
/// [`Failure::Runtime`] when one could not be.
pub(crate) fn remove(engine: &StorageEngine, inodes: &[InodeId]) -> Result<(), Failure> {
    let tickets: Vec<_> = inodes.iter().map(|inode| engine.delete(*inode)).collect();
    for ticket in tickets {
        ticket.wait().map_err(|error| request_failure("an inode could not be removed", &error))?;
    }
    Ok(())
}
