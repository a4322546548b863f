//! An extent: 16 blocks of an inode, where each lies, and what each sums to.
//!
//! In a record and on a page an extent is a mask of the blocks that exist, up to 16 fragments that
//! hold these blocks in their order, and a checksum for each. A block that does not exist is a hole
//! and reads as zeroes.

use crate::format::fragment::Fragment;
use crate::format::layout::EXTENT_BLOCKS;
use crate::format::mirror_set::MirrorSet;

/// The place of one block: disk and block, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u64);

const DISK_SHIFT: u32 = 48;

impl Place {
    /// A hole.
    pub const NOWHERE: Place = Place(u64::MAX);

    /// A block of a slot, or of some mirrors of it ([`MirrorSet::target`]); the block is at most
    /// [`Fragment::START_BLOCK_MAX`].
    pub const fn new(target: u16, block: u64) -> Place {
        assert!(block <= Fragment::START_BLOCK_MAX);
        Place((target as u64) << DISK_SHIFT | block)
    }

    /// Whether it is a hole.
    pub const fn is_nowhere(self) -> bool {
        self.0 == u64::MAX
    }

    /// Its slot in the pool.
    pub const fn slot(self) -> u16 {
        MirrorSet::of_target(self.target()).0
    }

    /// The mirrors of the slot that have it.
    pub const fn mirrors(self) -> MirrorSet {
        MirrorSet::of_target(self.target()).1
    }

    /// Both, as [`MirrorSet`] says.
    pub const fn target(self) -> u16 {
        (self.0 >> DISK_SHIFT) as u16
    }

    /// The block's number on the disk.
    pub const fn block(self) -> u64 {
        self.0 & Fragment::START_BLOCK_MAX
    }

    /// The block `n` after it.
    const fn after(self, n: u64) -> Place {
        Place(self.0 + n)
    }
}

/// Where the blocks of an extent are and what they sum to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Of each block.
    pub places: [Place; EXTENT_BLOCKS],
    /// Of each block; zero for a hole.
    pub checksums: [u32; EXTENT_BLOCKS],
}

/// Fragments that are no extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fragments of {found} blocks for a mask of {expected}")]
pub struct FragmentsMismatch {
    /// Blocks of the mask.
    pub expected: u32,
    /// Blocks of the fragments.
    pub found: u32,
}

impl Extent {
    /// No block exists.
    pub const HOLE: Extent =
        Extent { places: [Place::NOWHERE; EXTENT_BLOCKS], checksums: [0; EXTENT_BLOCKS] };

    /// Which blocks exist.
    pub fn mask(&self) -> u16 {
        let exist = self.places.iter().enumerate().filter(|(_, place)| !place.is_nowhere());
        exist.fold(0, |mask, (index, _)| mask | 1 << index)
    }

    /// Whether no block exists.
    pub fn is_hole(&self) -> bool {
        self.places.iter().all(|place| place.is_nowhere())
    }

    /// Makes a block a hole.
    pub fn clear(&mut self, index: usize) {
        self.places[index] = Place::NOWHERE;
        self.checksums[index] = 0;
    }

    /// The places of its blocks that exist.
    pub fn existing(&self) -> impl Iterator<Item = Place> + '_ {
        self.places.iter().copied().filter(|place| !place.is_nowhere())
    }

    /// The fragments that hold its blocks: neighbours of one disk are one fragment.
    pub fn fragments(&self) -> Fragments {
        let mut fragments = Fragments { list: [Fragment::NONE; EXTENT_BLOCKS], count: 0 };
        let mut run: Option<(Place, u32)> = None;
        for place in self.existing() {
            run = match run {
                Some((first, blocks)) if first.after(u64::from(blocks)) == place => {
                    Some((first, blocks + 1))
                }
                other => {
                    fragments.push(other);
                    Some((place, 1))
                }
            };
        }
        fragments.push(run);
        fragments
    }

    /// How many fragments [`Extent::fragments`] gives.
    pub fn fragment_count(&self) -> usize {
        let mut next = Place::NOWHERE;
        let begins = |place: &&Place| {
            let begins = !place.is_nowhere() && **place != next;
            if !place.is_nowhere() {
                next = place.after(1);
            }
            begins
        };
        self.places.iter().filter(begins).count()
    }

    /// The extent of a mask, its fragments and the checksums of the blocks that exist, in order.
    ///
    /// # Errors
    /// When the fragments do not hold as many blocks as the mask has.
    pub fn assemble(
        mask: u16,
        fragments: impl Iterator<Item = Fragment>,
        mut checksums: impl Iterator<Item = u32>,
    ) -> Result<Extent, FragmentsMismatch> {
        let mut extent = Extent::HOLE;
        let (mut left, mut found) = (mask, 0);
        for fragment in fragments {
            let first = Place::new(fragment.target(), fragment.start_block());
            found += fragment.blocks();
            for n in 0..u64::from(fragment.blocks()) {
                if left == 0 {
                    break;
                }
                let index = left.trailing_zeros() as usize;
                left &= left - 1;
                extent.places[index] = first.after(n);
                extent.checksums[index] = checksums.next().unwrap_or(0);
            }
        }
        let expected = mask.count_ones();
        if found == expected { Ok(extent) } else { Err(FragmentsMismatch { expected, found }) }
    }
}

/// Up to 16 fragments.
#[derive(Clone, Copy, Debug)]
pub struct Fragments {
    list: [Fragment; EXTENT_BLOCKS],
    count: usize,
}

impl Fragments {
    fn push(&mut self, run: Option<(Place, u32)>) {
        let Some((first, blocks)) = run else { return };
        let fragment = Fragment::new(first.target(), first.block(), blocks);
        self.list[self.count] = fragment.unwrap_or_else(|| unreachable!("a place is in range"));
        self.count += 1;
    }

    /// The fragments, in the order of their content.
    pub fn as_slice(&self) -> &[Fragment] {
        &self.list[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_and_back() {
        let mut extent = Extent::HOLE;
        for (index, block) in [(0, 10), (1, 11), (2, 12), (5, 13), (6, 99), (15, 98)] {
            extent.places[index] = Place::new(3, block);
            extent.checksums[index] = block as u32;
        }
        let fragments = extent.fragments();
        assert_eq!(extent.fragment_count(), 3);
        let found: Vec<(u64, u32)> =
            fragments.as_slice().iter().map(|f| (f.start_block(), f.blocks())).collect();
        assert_eq!(found, [(10, 4), (99, 1), (98, 1)]);
        let sums = [10, 11, 12, 13, 99, 98];
        let list = fragments.as_slice().iter().copied();
        assert_eq!(Extent::assemble(extent.mask(), list, sums.into_iter()), Ok(extent));
    }

    #[test]
    fn neighbours_of_two_disks_are_two_fragments() {
        let mut extent = Extent::HOLE;
        extent.places[0] = Place::new(0, 7);
        extent.places[1] = Place::new(1, 8);
        assert_eq!((extent.fragments().as_slice().len(), extent.fragment_count()), (2, 2));
    }

    #[test]
    fn too_few_and_too_many_blocks_are_refused() {
        let four = || Fragment::new(0, 8, 4).into_iter();
        assert!(Extent::assemble(0b1111, four(), 0..).is_ok());
        let error = Extent::assemble(0b111, four(), 0..).unwrap_err();
        assert_eq!(error, FragmentsMismatch { expected: 3, found: 4 });
        assert!(Extent::assemble(0b11111, four(), 0..).is_err());
        assert!(Extent::HOLE.fragments().as_slice().is_empty());
        assert_eq!(Extent::HOLE.fragment_count(), 0);
    }
}
