//! Whether a disk of a slot has the blocks of an extent right: for resync and scrub.

use std::sync::Arc;

use crate::format::checksum::block_checksum;
use crate::format::extent::{Extent, Place};
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS};
use crate::io::op::{Priority, Request};
use crate::store::domain::Domain;
use crate::store::error::StoreError;
use crate::store::member::{Members, MirrorDisk};

/// Blocks of an extent that were read on a disk, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verified {
    /// Those that are in the disk's slot, and at home.
    pub(crate) read: u16,
    /// Of these, those that cannot be read or do not sum to what the extent says.
    pub(crate) wrong: u16,
}

/// Reads the blocks of an extent that a disk has.
pub(crate) async fn verify_on(
    domain: &Domain,
    mirror: &Arc<MirrorDisk>,
    extent: &Extent,
    priority: Priority,
) -> Result<Verified, StoreError> {
    let (mut verified, mut block) = (Verified::default(), 0);
    while block < EXTENT_BLOCKS {
        let run = run_at(domain, mirror, extent, block);
        if run == 0 {
            block += 1;
            continue;
        }
        let buffer = domain.buffer(run * BLOCK_BYTES as usize)?;
        let (_, offset) = Members::address(extent.places[block]);
        let request = Request::read(mirror.disk, offset, buffer);
        let request = request.with_priority(priority);
        let read = domain.members.submit_to(&domain.port, mirror, request).await.into_parts();
        for n in 0..run {
            let at = n * BLOCK_BYTES as usize..(n + 1) * BLOCK_BYTES as usize;
            let found = match &read {
                (Ok(_), Some(bytes)) => Some(block_checksum(&bytes[at])),
                _ => None,
            };
            verified.read |= 1 << (block + n);
            if found != Some(extent.checksums[block + n]) {
                verified.wrong |= 1 << (block + n);
            }
        }
        block += run;
    }
    Ok(verified)
}

/// How many blocks from this one on lie one after another on a disk, and at home.
fn run_at(domain: &Domain, mirror: &MirrorDisk, extent: &Extent, block: usize) -> usize {
    let ram = domain.ram.borrow();
    let first = extent.places[block];
    if first.is_nowhere() || !mirror.has(first) {
        return 0;
    }
    let fits = |n: &usize| {
        let place = extent.places[block + n];
        place == Place::new(first.target(), first.block() + *n as u64) && ram.get(place).is_none()
    };
    (0..EXTENT_BLOCKS - block).take_while(fits).count()
}
