//! Which blocks of a domain's share of a disk are free: a bitmap under summaries of itself.
//!
//! One allocator knows the blocks `0..blocks` of one domain on one disk, which the caller maps from
//! allocation groups. It knows nothing of time: a block is given back when it may be overwritten.
//!
//! # Shape
//!
//! One bit per block, set when it is free, in words of 64. Above them three summaries, each a bit
//! per word, and above that a bit per 64 of those bits, up to a single word:
//!
//! | summary | set when the word |
//! | --- | --- |
//! | `whole` | is wholly free |
//! | `mixed` | has free blocks and used ones |
//! | `quarter` | is mixed, and one of its four quarters (16 blocks, 64 KiB) is wholly free |
//!
//! So the next word of a kind is a step or two per level away, five levels for 2^36 blocks, however
//! full the disk is. All of it takes 1.048 bits per block, and memory is touched when blocks are:
//! both an empty and a full allocator are pages of zeroes, read under a mask (see `Words`).
//!
//! # Policy
//!
//! - From 16 blocks on a request lands where the one before it ended, rounded up to 64 KiB, if that
//!   is free; else at the next place that suits. So what is written in order lies in order.
//! - Fewer blocks go into mixed words first, with a place of their own to continue from, so that
//!   whole words stay whole.
//! - Many small requests that are to lie one after another share a stretch that is taken for them
//!   all ([`Allocator::take_stretch`]).
//! - No call walks the bitmap: where a search could be long it looks at a fixed number of
//!   candidates. What it promises to find nevertheless is said at [`Allocator::take_exact`].
//!
//! Everything is decided by the calls and their order alone.

mod bits;
mod free_runs;
mod search;
mod summary;
#[cfg(test)]
mod tests;

use bits::{QUARTER_BLOCKS, WORD_BLOCKS, free_quarters, ones};
use summary::{Summary, Words};

pub use free_runs::FreeRuns;

/// Blocks of the largest allocator: 256 TiB of 4 KiB.
pub const BLOCKS_MAX: u64 = 1 << 36;

/// Small requests get whole words while more than this part of the space is in such: one in 8.
const PLENTY: u64 = 8;

/// Blocks that lie one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first block.
    pub start: u64,
    /// How many.
    pub blocks: u32,
}

impl Run {
    /// The first block behind it.
    ///
    /// ```
    /// use dynamicfs::store::allocator::Run;
    ///
    /// assert_eq!(Run { start: 16, blocks: 4 }.end(), 20);
    /// ```
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.blocks.into())
    }
}

/// Why a run was neither given back nor claimed: nothing has changed.
///
/// See [`Allocator::give`] for an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// A part of the run is beyond the allocator.
    #[error("blocks {}..{} are not among the {blocks} blocks of this space", run.start, run.end())]
    Outside {
        /// The run that was named.
        run: Run,
        /// Blocks of the allocator.
        blocks: u64,
    },
    /// A block that was given back is free.
    #[error("block {block} of {}..{} is free already", run.start, run.end())]
    AlreadyFree {
        /// The run that was named.
        run: Run,
        /// Its first block that is free.
        block: u64,
    },
    /// A block that was claimed is used.
    #[error("block {block} of {}..{} is used already", run.start, run.end())]
    AlreadyUsed {
        /// The run that was named.
        run: Run,
        /// Its first block that is used.
        block: u64,
    },
}

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Used,
}

/// The free space of one domain on one disk. See the [module](self) for shape and policy.
///
/// ```
/// use dynamicfs::store::allocator::{Allocator, Run};
///
/// let mut space = Allocator::new_free(1 << 20);
/// assert_eq!(space.take_exact(16), Some(Run { start: 0, blocks: 16 }));
/// assert_eq!(space.take_exact(16), Some(Run { start: 16, blocks: 16 }));
///
/// let mut runs = Vec::new();
/// assert!(space.take(256, &mut runs));
/// assert_eq!(runs, [Run { start: 32, blocks: 256 }]);
/// assert_eq!(space.free_blocks(), (1 << 20) - 288);
/// ```
#[derive(Debug)]
pub struct Allocator {
    blocks: u64,
    free_blocks: u64,
    whole_words: u64,
    /// A bit per block, set when it is free. Bits behind the last block are never set.
    words: Words,
    mixed: Summary,
    quarter: Summary,
    whole: Summary,
    /// Where the last request of less than 16 blocks ended.
    small_cursor: u64,
    /// Where the last request of 16 blocks or more ended.
    large_cursor: u64,
}

impl Allocator {
    /// `blocks` blocks, all free. Takes the same short time for every number of them.
    ///
    /// # Panics
    /// When there are more than [`BLOCKS_MAX`]: whoever reads a disk's size checks it first.
    #[must_use]
    pub fn new_free(blocks: u64) -> Allocator {
        let mut space = Allocator::new(blocks, State::Free);
        space.free_blocks = blocks;
        space.whole_words = blocks / WORD_BLOCKS;
        // The word that the blocks do not fill is not whole, and its end is not there.
        let rest = blocks % WORD_BLOCKS;
        if rest > 0 {
            let last = space.words.len() - 1;
            space.words.put(last, ones(0, rest));
            space.whole.clear(last);
            space.mixed.set(last);
            if rest >= QUARTER_BLOCKS {
                space.quarter.set(last);
            }
        }
        space
    }

    /// `blocks` blocks, all used: what recovery begins with where it is told what is free.
    ///
    /// # Panics
    /// As [`Allocator::new_free`].
    #[must_use]
    pub fn new_used(blocks: u64) -> Allocator {
        Allocator::new(blocks, State::Used)
    }

    fn new(blocks: u64, state: State) -> Allocator {
        assert!(blocks <= BLOCKS_MAX, "{blocks} blocks, more than {BLOCKS_MAX}");
        let count = word_of(blocks.next_multiple_of(WORD_BLOCKS));
        Allocator {
            blocks,
            free_blocks: 0,
            whole_words: 0,
            words: Words::new(count, state),
            mixed: Summary::new(count, State::Used),
            quarter: Summary::new(count, State::Used),
            whole: Summary::new(count, state),
            small_cursor: 0,
            large_cursor: 0,
        }
    }

    /// There are `blocks` more, behind all others. They are used.
    ///
    /// ```
    /// use dynamicfs::store::allocator::{Allocator, Run};
    ///
    /// let mut space = Allocator::new_free(100);
    /// space.extend(1000);
    /// assert_eq!((space.blocks(), space.free_blocks()), (1100, 100));
    /// space.give(Run { start: 100, blocks: 1000 })?;
    /// assert_eq!(space.free_blocks(), 1100);
    /// # Ok::<(), dynamicfs::store::allocator::RunError>(())
    /// ```
    ///
    /// # Panics
    /// As [`Allocator::new_free`].
    pub fn extend(&mut self, blocks: u64) {
        let blocks = self.blocks.saturating_add(blocks);
        assert!(blocks <= BLOCKS_MAX, "{blocks} blocks, more than {BLOCKS_MAX}");
        let count = word_of(blocks.next_multiple_of(WORD_BLOCKS));
        self.blocks = blocks;
        self.words.extend(count);
        for summary in [&mut self.mixed, &mut self.quarter, &mut self.whole] {
            summary.extend(count);
        }
    }

    /// Whether [`Allocator::take_exact`] would find so many blocks.
    #[must_use]
    pub fn has_run(&self, blocks: u32) -> bool {
        self.find_exact(blocks.into()).is_some()
    }

    /// Takes one run of exactly `blocks` blocks, or nothing.
    ///
    /// One block is found whenever one is free; up to 16 whenever 16 free ones begin at a multiple
    /// of 16; up to 64 whenever 64 free ones begin at a multiple of 64. Beyond that a run that
    /// exists may be missed in badly fragmented space. No run has 0 blocks.
    #[must_use]
    pub fn take_exact(&mut self, blocks: u32) -> Option<Run> {
        let start = self.find_exact(blocks.into())?;
        let run = Run { start, blocks };
        self.take_run(run, blocks);
        Some(run)
    }

    /// Takes a run for small requests that come one by one and are to be neighbours: 64 blocks
    /// while an eighth of the space is in words that are wholly free, else 16 of a mixed word.
    /// Nothing when there is neither, though there may be blocks.
    #[must_use]
    pub fn take_stretch(&mut self) -> Option<Run> {
        if self.whole_free_blocks() > self.blocks / PLENTY {
            return self.take_exact(WORD_BLOCKS as u32);
        }
        let start = self.find_mixed_quarter()?;
        let run = Run { start, blocks: QUARTER_BLOCKS as u32 };
        self.take_run(run, run.blocks);
        Some(run)
    }

    /// Takes `blocks` blocks in as few runs as are found quickly, and appends them to `out`. When
    /// fewer are free it takes nothing, leaves `out` alone and returns `false`.
    #[must_use]
    pub fn take(&mut self, blocks: u32, out: &mut Vec<Run>) -> bool {
        if u64::from(blocks) > self.free_blocks {
            return false;
        }
        let first = out.len();
        let mut missing = blocks;
        // A search in vain is the dearest part. It is worth another one when half is done.
        let mut search_at = blocks;
        while missing > 0 {
            let found = if missing <= search_at { self.take_exact(missing) } else { None };
            let run = match found {
                Some(run) => run,
                None => {
                    search_at = search_at.min(missing / 2);
                    let run = self.find_piece(missing);
                    self.take_run(run, missing);
                    run
                }
            };
            missing -= run.blocks;
            match out[first..].last_mut() {
                Some(before) if before.end() == run.start => before.blocks += run.blocks,
                Some(before) if run.end() == before.start => {
                    *before = Run { start: run.start, blocks: before.blocks + run.blocks };
                }
                _ => out.push(run),
            }
        }
        true
    }

    /// Makes a used run free.
    ///
    /// ```
    /// use dynamicfs::store::allocator::{Allocator, Run, RunError};
    ///
    /// let mut space = Allocator::new_used(100);
    /// space.give(Run { start: 10, blocks: 5 })?;
    /// let again = Run { start: 8, blocks: 4 };
    /// assert_eq!(space.give(again), Err(RunError::AlreadyFree { run: again, block: 10 }));
    /// assert_eq!(space.free_blocks(), 5);
    /// # Ok::<(), RunError>(())
    /// ```
    ///
    /// # Errors
    /// When a block of it is free already, or outside; then nothing has changed.
    pub fn give(&mut self, run: Run) -> Result<(), RunError> {
        match self.first_not(run, State::Used)? {
            Some(block) => Err(RunError::AlreadyFree { run, block }),
            None => {
                self.set(run, State::Free);
                Ok(())
            }
        }
    }

    /// Makes a free run used: recovery, where it is told what is in use. Does not move the places
    /// that requests continue from.
    ///
    /// # Errors
    /// When a block of it is used already, or outside; then nothing has changed.
    pub fn claim(&mut self, run: Run) -> Result<(), RunError> {
        match self.first_not(run, State::Free)? {
            Some(block) => Err(RunError::AlreadyUsed { run, block }),
            None => {
                self.set(run, State::Used);
                Ok(())
            }
        }
    }

    /// Blocks, free and used.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks that are free, exactly.
    #[must_use]
    pub fn free_blocks(&self) -> u64 {
        self.free_blocks
    }

    /// Blocks in words that are wholly free: 64 at a multiple of 64. Beside
    /// [`Allocator::free_blocks`] it tells how fragmented the space is.
    #[must_use]
    pub fn whole_free_blocks(&self) -> u64 {
        self.whole_words * WORD_BLOCKS
    }

    /// Whether `block` is free; one outside is not.
    #[must_use]
    pub fn is_free(&self, block: u64) -> bool {
        block < self.blocks && self.words.get(word_of(block)) & ones(block % WORD_BLOCKS, 1) != 0
    }

    /// Whether all blocks of a run are free; one that ends outside is not.
    #[must_use]
    pub fn is_run_free(&self, run: Run) -> bool {
        matches!(self.first_not(run, State::Free), Ok(None))
    }

    /// All free blocks in their order, as the longest runs there are; a stretch of more than
    /// `u32::MAX` blocks in several.
    pub fn free_runs(&self) -> FreeRuns<'_> {
        FreeRuns::new(self)
    }

    /// Bytes of address space of bitmap and summaries; untouched parts of it take no memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let summaries = self.mixed.bytes() + self.quarter.bytes() + self.whole.bytes();
        self.words.len() * size_of::<u64>() + summaries
    }

    /// Takes a run that was found for a request of `wanted` blocks.
    fn take_run(&mut self, run: Run, wanted: u32) {
        self.set(run, State::Used);
        if u64::from(wanted) < QUARTER_BLOCKS {
            self.small_cursor = run.end();
        } else {
            self.large_cursor = run.end();
        }
    }

    /// The first block of `run` that is not in `state`.
    fn first_not(&self, run: Run, state: State) -> Result<Option<u64>, RunError> {
        if run.end() > self.blocks {
            return Err(RunError::Outside { run, blocks: self.blocks });
        }
        Ok(pieces(run).find_map(|(index, mask)| {
            let word = self.words.get(index);
            let others = mask & if state == State::Free { !word } else { word };
            let first = index as u64 * WORD_BLOCKS + u64::from(others.trailing_zeros());
            (others != 0).then_some(first)
        }))
    }

    /// Changes every block of a run to `state`, which none of them is in.
    fn set(&mut self, run: Run, state: State) {
        assert!(run.end() <= self.blocks, "{run:?} ends behind {} blocks", self.blocks);
        for (index, mask) in pieces(run) {
            let old = self.words.get(index);
            let changed = if state == State::Free { !old } else { old };
            assert!(changed & mask == mask, "{run:?} is in part {state:?} in word {index}");
            self.put(index, old, old ^ mask);
        }
        match state {
            State::Free => self.free_blocks += u64::from(run.blocks),
            State::Used => self.free_blocks -= u64::from(run.blocks),
        }
    }

    /// Replaces a word, and keeps the summaries true to it.
    fn put(&mut self, index: usize, old: u64, new: u64) {
        self.words.put(index, new);
        let (before, after) = (Kind::of(old), Kind::of(new));
        if before == after {
            return;
        }
        if before.whole != after.whole {
            self.whole.change(index, after.whole);
            self.whole_words = self.whole_words + u64::from(after.whole) - u64::from(before.whole);
        }
        if before.mixed != after.mixed {
            self.mixed.change(index, after.mixed);
        }
        if before.quarter != after.quarter {
            self.quarter.change(index, after.quarter);
        }
    }
}

/// What the summaries say of a word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    whole: bool,
    mixed: bool,
    quarter: bool,
}

impl Kind {
    fn of(word: u64) -> Kind {
        let whole = word == u64::MAX;
        let mixed = word != 0 && !whole;
        Kind { whole, mixed, quarter: mixed && free_quarters(word) != 0 }
    }
}

/// The words that a run touches, each with its blocks in it.
fn pieces(run: Run) -> impl Iterator<Item = (usize, u64)> {
    let mut at = run.start;
    std::iter::from_fn(move || {
        let offset = at % WORD_BLOCKS;
        let count = (WORD_BLOCKS - offset).min(run.end() - at);
        let piece = (word_of(at), ones(offset, count));
        at += count;
        (count > 0).then_some(piece)
    })
}

/// The word that holds `block`. A bitmap is in memory, so its words are counted by `usize`.
fn word_of(block: u64) -> usize {
    (block / WORD_BLOCKS) as usize
}
