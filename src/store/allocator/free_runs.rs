//! All free runs in order: for discarding them, and for checking the space.

use super::bits::WORD_BLOCKS;
use super::{Allocator, Run, word_of};

/// The iterator of [`Allocator::free_runs`], which has the particulars.
///
/// ```
/// use dynamicfs::store::allocator::{Allocator, Run};
///
/// let mut space = Allocator::new_free(200);
/// space.claim(Run { start: 50, blocks: 100 })?;
/// let free: Vec<Run> = space.free_runs().collect();
/// assert_eq!(free, [Run { start: 0, blocks: 50 }, Run { start: 150, blocks: 50 }]);
/// # Ok::<(), dynamicfs::store::allocator::RunError>(())
/// ```
#[derive(Debug)]
pub struct FreeRuns<'a> {
    space: &'a Allocator,
    /// No free block below it is still to come.
    at: u64,
}

impl<'a> FreeRuns<'a> {
    pub(super) fn new(space: &'a Allocator) -> FreeRuns<'a> {
        FreeRuns { space, at: 0 }
    }
}

impl Iterator for FreeRuns<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let start = self.space.next_free(self.at)?;
        let length = self.space.run_from(start, u32::MAX.into());
        let blocks = u32::try_from(length).expect("not longer than was asked for");
        self.at = start + length;
        Some(Run { start, blocks })
    }
}

impl Allocator {
    /// The first free block that is not below `from`.
    fn next_free(&self, from: u64) -> Option<u64> {
        let index = word_of(from);
        if from >= self.blocks {
            return None;
        }
        let rest = self.words.get(index) & u64::MAX << (from % WORD_BLOCKS);
        if rest != 0 {
            return Some(index as u64 * WORD_BLOCKS + u64::from(rest.trailing_zeros()));
        }
        let (mixed, whole) = (self.mixed.next(index + 1), self.whole.next(index + 1));
        let index = mixed.into_iter().chain(whole).min()?;
        let first = self.words.get(index).trailing_zeros();
        Some(index as u64 * WORD_BLOCKS + u64::from(first))
    }
}
