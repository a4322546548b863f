//! Where a run of blocks lies: disk, first block, how many.

use std::fmt;

use bytemuck::{Pod, Zeroable};

use crate::format::mirror_set::MirrorSet;

const START_BLOCK_BITS: u32 = 40;
const BLOCKS_BITS: u32 = 8;
/// A run of blocks on one disk, in 8 bytes.
///
/// From the lowest bit: 40 bits for the first block, 8 for the number of blocks less one, 16 for
/// the disk: its slot, and [which mirrors](MirrorSet) of it. Every 64-bit word is some fragment, so
/// that one copied from memory needs no check to be safe to look at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Fragment(u64);

impl Fragment {
    /// The largest number of a first block, 2^40 - 1: with blocks of 4 KiB, 4 PiB of a disk.
    pub const START_BLOCK_MAX: u64 = (1 << START_BLOCK_BITS) - 1;
    /// The most blocks of one fragment.
    pub const BLOCKS_MAX: u32 = 1 << BLOCKS_BITS;
    /// The word of zeroes: block 0 of disk 0, which is a label's, so that no data is ever there.
    pub const NONE: Fragment = Fragment(0);

    /// `blocks` blocks from `start_block` on: 1 to [`Fragment::BLOCKS_MAX`] of them, from at most
    /// [`Fragment::START_BLOCK_MAX`]. None for anything else.
    pub const fn new(target: u16, start_block: u64, blocks: u32) -> Option<Fragment> {
        if start_block > Self::START_BLOCK_MAX || blocks == 0 || blocks > Self::BLOCKS_MAX {
            return None;
        }
        let blocks = (blocks as u64 - 1) << START_BLOCK_BITS;
        let disk = (target as u64) << (START_BLOCK_BITS + BLOCKS_BITS);
        Some(Fragment(disk | blocks | start_block))
    }

    /// Its slot in the pool.
    pub const fn slot(self) -> u16 {
        MirrorSet::of_target(self.target()).0
    }

    /// Its slot in the pool, and the mirrors there that have it, as [`MirrorSet`] says.
    pub const fn target(self) -> u16 {
        (self.0 >> (START_BLOCK_BITS + BLOCKS_BITS)) as u16
    }

    /// The number of its first block on that disk.
    pub const fn start_block(self) -> u64 {
        self.0 & Self::START_BLOCK_MAX
    }

    /// How many blocks it is long, 1 to [`Fragment::BLOCKS_MAX`].
    pub const fn blocks(self) -> u32 {
        (self.0 >> START_BLOCK_BITS) as u8 as u32 + 1
    }
}

impl fmt::Debug for Fragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fragment")
            .field("disk", &self.target())
            .field("start_block", &self.start_block())
            .field("blocks", &self.blocks())
            .finish()
    }
}
