//! What a reader knows of an extent: a copy of its record, and the generation the copy is of.
//!
//! A read takes a snapshot, does its I/O to the fragments that the snapshot names without any
//! lock, and asks [`GenerationTable::validate`] whether the extent is still of that generation.
//! If it is not, the place may have been given to somebody else in between, and what was read is
//! thrown away.
//!
//! ```
//! use dynamicfs::concurrency::generation::{CellIndex, GenerationTable};
//! use dynamicfs::concurrency::snapshot::ExtentRecord;
//! use dynamicfs::format::fragment::Fragment;
//! use dynamicfs::machine::mapping::PagePolicy;
//!
//! let extents: GenerationTable<ExtentRecord> = GenerationTable::new(1 << 10, PagePolicy::Huge)?;
//! let (cell, disk, start_block) = (CellIndex(3), 1, 4096);
//! let place = Fragment::new(disk, start_block, 16).ok_or("no such place")?;
//! let record = ExtentRecord::new(uuid::Uuid::from_u128(7), 65_536, &[place])?;
//! extents.begin_write(cell)?.end_write(1, &record)?;
//!
//! let snapshot = extents.snapshot(cell)?;
//! assert_eq!(snapshot.fragments(), [place]);
//! // ... read 16 blocks from block 4096 of disk 1, and then:
//! assert!(extents.validate(cell, snapshot.generation()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use bytemuck::{Pod, Zeroable};
use uuid::Uuid;

use crate::concurrency::generation::{CellIndex, GenerationTable, ReadError};
use crate::format::fragment::Fragment;

/// How many fragments a record holds.
pub const FRAGMENTS_MAX: usize = 4;

/// What the table holds of one extent: which it is, how many bytes, and where they are.
///
/// 56 bytes, so that with its generation it fills one cache line. It is plain data and says
/// nothing by itself: [`GenerationTable::snapshot`] checks what it copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ExtentRecord {
    /// Whole words all, so that a copy stays in registers: with fields of half a word, which are
    /// loaded from words that were just stored, a snapshot took half as long again.
    uuid: [u64; 2],
    /// Low half: the size. High half: at most `FRAGMENTS_MAX`; the places above it are zero.
    size_and_count: u64,
    fragments: [Fragment; FRAGMENTS_MAX],
}

const _: () = assert!(
    size_of::<u64>() + size_of::<ExtentRecord>() == 64,
    "a cell of a generation table of extents is one cache line"
);

/// More fragments than a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given} fragments do not fit in a record, which holds {FRAGMENTS_MAX}")]
pub struct TooManyFragments {
    /// How many there were.
    pub given: usize,
}

impl ExtentRecord {
    /// A record of an extent of `size_bytes` bytes in `fragments`, in the order of their content.
    ///
    /// # Errors
    /// When there are more than [`FRAGMENTS_MAX`] fragments.
    pub fn new(
        uuid: Uuid,
        size_bytes: u32,
        fragments: &[Fragment],
    ) -> Result<ExtentRecord, TooManyFragments> {
        let given = fragments.len();
        let mut held = [Fragment::zeroed(); FRAGMENTS_MAX];
        held.get_mut(..given).ok_or(TooManyFragments { given })?.copy_from_slice(fragments);
        let size_and_count = u64::from(size_bytes) | (given as u64) << 32;
        Ok(ExtentRecord { uuid: bytemuck::cast(uuid), size_and_count, fragments: held })
    }

    fn fragment_count(&self) -> u32 {
        (self.size_and_count >> 32) as u32
    }
}

/// A whole copy of an extent's record, and the generation it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentSnapshot {
    generation: u64,
    /// Its fragment count was checked.
    record: ExtentRecord,
}

impl ExtentSnapshot {
    #[inline(always)]
    fn checked(generation: u64, record: ExtentRecord) -> Result<ExtentSnapshot, ReadError> {
        let fragment_count = record.fragment_count();
        if fragment_count as usize > FRAGMENTS_MAX {
            return Err(ReadError::Malformed { fragment_count });
        }
        Ok(ExtentSnapshot { generation, record })
    }

    /// Which extent it is.
    pub fn uuid(&self) -> Uuid {
        bytemuck::cast(self.record.uuid)
    }

    /// The commit that had last changed the extent.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Length of the extent's content in bytes.
    pub fn size_bytes(&self) -> u32 {
        self.record.size_and_count as u32
    }

    /// How many fragments it has, 0 to [`FRAGMENTS_MAX`].
    pub fn fragment_count(&self) -> usize {
        self.record.fragment_count() as usize
    }

    /// Where the content was at that generation, in its order. Empty for an extent that was never
    /// written.
    pub fn fragments(&self) -> &[Fragment] {
        // The minimum is the count: it was checked when the snapshot was taken.
        &self.record.fragments[..self.fragment_count().min(FRAGMENTS_MAX)]
    }

    /// Whether it tells the extent's state at `current_generation`. To ask whether it still does,
    /// after an I/O, use [`GenerationTable::validate`], which also keeps the order of the loads.
    pub fn is_valid(&self, current_generation: u64) -> bool {
        self.generation == current_generation
    }
}

impl GenerationTable<ExtentRecord> {
    /// A snapshot of the extent in this cell; that of a cell never written is all zeroes, of
    /// generation 0. Panics when the table has no such cell.
    ///
    /// # Errors
    /// As [`GenerationTable::read`], and [`ReadError::Malformed`].
    #[inline]
    pub fn snapshot(&self, cell: CellIndex) -> Result<ExtentSnapshot, ReadError> {
        let (generation, record) = self.read(cell)?;
        ExtentSnapshot::checked(generation, record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::mapping::PagePolicy;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    const CELL: CellIndex = CellIndex(0);

    fn table() -> GenerationTable<ExtentRecord> {
        GenerationTable::new(2, PagePolicy::Normal).unwrap()
    }

    proptest! {
        #[test]
        fn a_fragment_gives_back_what_it_was_made_of(
            disk in any::<u16>(),
            start_block in 0..=Fragment::START_BLOCK_MAX,
            blocks in 1..=Fragment::BLOCKS_MAX,
        ) {
            let fragment = Fragment::new(disk, start_block, blocks).unwrap();
            prop_assert_eq!(fragment.target(), disk);
            prop_assert_eq!(fragment.start_block(), start_block);
            prop_assert_eq!(fragment.blocks(), blocks);
        }

        #[test]
        fn every_word_is_the_fragment_that_it_says(word in any::<u64>()) {
            let fragment: Fragment = bytemuck::cast(word);
            let again =
                Fragment::new(fragment.target(), fragment.start_block(), fragment.blocks());
            prop_assert_eq!(again, Some(fragment));
        }
    }

    #[test]
    fn a_fragment_out_of_range_is_none() {
        assert!(Fragment::new(u16::MAX, Fragment::START_BLOCK_MAX, 256).is_some());
        assert_eq!(Fragment::new(0, Fragment::START_BLOCK_MAX + 1, 1), None);
        assert_eq!(Fragment::new(0, u64::MAX, 1), None);
        assert_eq!(Fragment::new(0, 0, 0), None);
        assert_eq!(Fragment::new(0, 0, 257), None);
        assert_eq!(Fragment::new(0, 0, u32::MAX), None);
    }

    #[test]
    fn a_fragment_says_what_it_is() {
        let text = format!("{:?}", Fragment::new(3, 70, 16).unwrap());
        assert_eq!(text, "Fragment { disk: 3, start_block: 70, blocks: 16 }");
    }

    #[test]
    fn a_snapshot_is_what_was_written_whatever_the_number_of_fragments() {
        let table = table();
        let places: Vec<Fragment> =
            (0..4u16).map(|n| Fragment::new(n, 100 * u64::from(n), 4).unwrap()).collect();
        for count in 0..=FRAGMENTS_MAX {
            let (uuid, size) = (Uuid::from_u128(count as u128 + 9), 1000 + count as u32);
            let record = ExtentRecord::new(uuid, size, &places[..count]).unwrap();
            let generation = 10 + count as u64;
            table.begin_write(CELL).unwrap().end_write(generation, &record).unwrap();
            let snapshot = table.snapshot(CELL).unwrap();
            assert_eq!(snapshot.uuid(), uuid);
            assert_eq!(snapshot.size_bytes(), size);
            assert_eq!(snapshot.generation(), generation);
            assert_eq!(snapshot.fragment_count(), count);
            assert_eq!(snapshot.fragments(), &places[..count]);
            assert!(snapshot.is_valid(generation));
            assert!(!snapshot.is_valid(generation + 1) && !snapshot.is_valid(generation - 1));
        }
        let five = [places[0]; 5];
        let refused = ExtentRecord::new(Uuid::nil(), 0, &five).unwrap_err();
        assert_eq!(refused, TooManyFragments { given: 5 });
    }

    #[test]
    fn a_cell_never_written_is_an_empty_extent_of_generation_zero() {
        let snapshot = table().snapshot(CELL).unwrap();
        assert_eq!(snapshot.generation(), 0);
        assert_eq!((snapshot.uuid(), snapshot.size_bytes()), (Uuid::nil(), 0));
        assert!(snapshot.fragments().is_empty());
    }

    #[test]
    fn a_record_that_no_constructor_made_is_an_error() {
        let table = table();
        for fragment_count in [5, u32::MAX] {
            let generation = u64::from(fragment_count);
            let broken =
                ExtentRecord { size_and_count: generation << 32, ..ExtentRecord::zeroed() };
            table.begin_write(CELL).unwrap().end_write(generation, &broken).unwrap();
            let refused = table.snapshot(CELL).unwrap_err();
            assert_eq!(refused, ReadError::Malformed { fragment_count });
        }
    }

    #[test]
    fn a_snapshot_of_a_cell_that_is_being_written_is_refused() {
        let table = table();
        let writer = table.begin_write(CELL).unwrap();
        assert_eq!(table.snapshot(CELL).unwrap_err(), ReadError::BeingWritten);
        assert!(table.snapshot(CellIndex(1)).is_ok());
        drop(writer);
        assert!(table.snapshot(CELL).is_ok());
    }
}
