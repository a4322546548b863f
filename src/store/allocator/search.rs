//! Where a request finds its blocks. Nothing is changed here.

use super::bits::{QUARTER_BLOCKS, WORD_BLOCKS, free_quarters, longest_run, run_starts};
use super::{Allocator, Run, word_of};

/// Words of a kind that a request of up to 64 blocks looks into before it takes second best.
const WORDS_TRIED: usize = 8;
/// Stretches of 64 words, each with a whole one, that a longer request looks into.
const STRETCHES_TRIED: usize = 64;
/// Mixed words of which the one with the longest run is taken.
const PIECES_COMPARED: usize = 4;
/// Words of a stretch: what one word of a summary tells of.
const STRETCH_WORDS: usize = 64;

impl Allocator {
    /// Where `blocks` free blocks begin; see [`Allocator::take_exact`] for what is found.
    pub(super) fn find_exact(&self, blocks: u64) -> Option<u64> {
        if blocks == 0 || blocks > self.free_blocks {
            None
        } else if blocks < QUARTER_BLOCKS {
            self.find_small(blocks)
        } else {
            self.find_large(blocks)
        }
    }

    /// The next quarter of a mixed word.
    pub(super) fn find_mixed_quarter(&self) -> Option<u64> {
        let index = self.quarter.next_around(word_of(self.large_cursor))?;
        Some(self.quarter_of(index))
    }

    /// Mixed words first, then the quarter of one, then a whole one.
    fn find_small(&self, blocks: u64) -> Option<u64> {
        let cursor = word_of(self.small_cursor);
        self.find_in_cursors_word(blocks)
            .or_else(|| self.find_in_mixed(blocks, cursor))
            .or_else(|| self.quarter.next_around(cursor).map(|index| self.quarter_of(index)))
            .or_else(|| self.whole.next_around(cursor).map(first_of))
    }

    /// Behind the cursor in its own word, if that is mixed.
    fn find_in_cursors_word(&self, blocks: u64) -> Option<u64> {
        let (index, offset) = (word_of(self.small_cursor), self.small_cursor % WORD_BLOCKS);
        if offset == 0 {
            return None;
        }
        let starts = run_starts(self.words.get(index) & u64::MAX << offset, blocks);
        (starts != 0).then(|| first_of(index) + u64::from(starts.trailing_zeros()))
    }

    fn find_in_mixed(&self, blocks: u64, cursor: usize) -> Option<u64> {
        let mut from = cursor;
        for _ in 0..WORDS_TRIED {
            let index = self.mixed.next_around(from)?;
            let found = self.fit_in(index, blocks);
            if found.is_some() {
                return found;
            }
            from = index + 1;
        }
        None
    }

    /// At the cursor, then at the next place of the size's own kind, then wherever it fits.
    fn find_large(&self, blocks: u64) -> Option<u64> {
        let start = self.large_cursor.next_multiple_of(QUARTER_BLOCKS);
        if self.run_from(start, blocks) == blocks {
            return Some(start);
        }
        let cursor = word_of(self.large_cursor);
        if blocks == QUARTER_BLOCKS {
            self.find_quarter(cursor).or_else(|| self.find_in_mixed(blocks, cursor))
        } else if blocks <= WORD_BLOCKS {
            let whole = self.whole.next_around(cursor).map(first_of);
            whole.or_else(|| self.find_in_quarters(blocks, cursor))
        } else {
            // Runs that consist of whole words, then those with a part of a word at an end.
            let words = blocks.div_ceil(WORD_BLOCKS);
            self.find_words(blocks, words, cursor).or_else(|| self.find_words(blocks, 1, cursor))
        }
    }

    /// The next quarter, of a mixed word or of a whole one, whichever comes first.
    fn find_quarter(&self, cursor: usize) -> Option<u64> {
        let (mixed, whole) = (self.quarter.next_around(cursor), self.whole.next_around(cursor));
        // Words before the cursor come after all that are behind it.
        let next = mixed.into_iter().chain(whole).min_by_key(|index| (*index < cursor, *index))?;
        Some(self.quarter_of(next))
    }

    fn find_in_quarters(&self, blocks: u64, cursor: usize) -> Option<u64> {
        let mut from = cursor;
        for _ in 0..WORDS_TRIED {
            let index = self.quarter.next_around(from)?;
            let found = self.fit_in(index, blocks);
            if found.is_some() {
                return found;
            }
            from = index + 1;
        }
        None
    }

    /// A run of `blocks` that begins with, or just before, `words` whole words of one stretch, or
    /// with whole words that go on in the next stretch.
    fn find_words(&self, blocks: u64, words: u64, cursor: usize) -> Option<u64> {
        let mut from = cursor;
        for _ in 0..STRETCHES_TRIED {
            let index = self.whole.next_around(from)?;
            let stretch = index / STRETCH_WORDS;
            let whole = self.whole.word(stretch) & u64::MAX << (index % STRETCH_WORDS);
            let starts = run_starts(whole, words.min(WORD_BLOCKS));
            let at_its_end = STRETCH_WORDS - whole.leading_ones() as usize;
            let first = if starts == 0 { at_its_end } else { starts.trailing_zeros() as usize };
            if first < STRETCH_WORDS {
                let begin = self.run_begin(stretch * STRETCH_WORDS + first);
                let starts = [begin.next_multiple_of(QUARTER_BLOCKS), begin];
                let found = starts.into_iter().find(|at| self.run_from(*at, blocks) == blocks);
                if found.is_some() {
                    return found;
                }
            }
            from = (stretch + 1) * STRETCH_WORDS;
        }
        None
    }

    /// A long run of at most `blocks` blocks, the longest of a few. There is one: the caller knows
    /// that blocks are free.
    pub(super) fn find_piece(&self, blocks: u32) -> Run {
        let cursor = match u64::from(blocks) < QUARTER_BLOCKS {
            true => word_of(self.small_cursor),
            false => word_of(self.large_cursor),
        };
        let (start, length) = if let Some(index) = self.whole.next_around(cursor) {
            let start = self.run_begin(index);
            (start, self.run_from(start, blocks.into()))
        } else if let Some(index) = self.quarter.next_around(cursor) {
            self.longest_in(index, blocks.into())
        } else {
            self.longest_of_mixed(cursor, blocks.into())
        };
        assert!(length > 0, "{} blocks are free, and none is found", self.free_blocks);
        // Not more than `blocks`.
        Run { start, blocks: length as u32 }
    }

    fn longest_of_mixed(&self, cursor: usize, blocks: u64) -> (u64, u64) {
        let mut best = (0, 0);
        let mut from = cursor;
        for _ in 0..PIECES_COMPARED {
            let Some(index) = self.mixed.next_around(from) else { return best };
            let found = self.longest_in(index, blocks);
            if found.1 > best.1 {
                best = found;
            }
            from = index + 1;
        }
        best
    }

    /// The longest run in a word, or the one that reaches or begins at its end, with what follows
    /// it: start and length.
    fn longest_in(&self, index: usize, blocks: u64) -> (u64, u64) {
        let word = self.words.get(index);
        let (offset, length) = longest_run(word);
        let tail = first_of(index) + WORD_BLOCKS - u64::from(word.leading_ones());
        let beyond = self.run_from(tail, blocks);
        if beyond > length {
            (tail, beyond)
        } else {
            (first_of(index) + offset, length.min(blocks))
        }
    }

    /// Where `blocks` free blocks begin in a word; they may end in the next ones.
    fn fit_in(&self, index: usize, blocks: u64) -> Option<u64> {
        let word = self.words.get(index);
        let starts = if blocks > WORD_BLOCKS { 0 } else { run_starts(word, blocks) };
        if starts != 0 {
            return Some(first_of(index) + u64::from(starts.trailing_zeros()));
        }
        let tail = first_of(index) + WORD_BLOCKS - u64::from(word.leading_ones());
        (word.leading_ones() > 0 && self.run_from(tail, blocks) == blocks).then_some(tail)
    }

    /// The first free quarter of a word that has one.
    fn quarter_of(&self, index: usize) -> u64 {
        let quarters = free_quarters(self.words.get(index));
        assert!(quarters != 0, "word {index} has no free quarter, though its summary says so");
        first_of(index) + u64::from(quarters.trailing_zeros())
    }

    /// Where the free blocks of the word before `index` begin that end with it. A word that is
    /// wholly free is left whole.
    fn run_begin(&self, index: usize) -> u64 {
        let before = index.checked_sub(1).map_or(0, |before| self.words.get(before));
        let free = if before == u64::MAX { 0 } else { before.leading_ones() };
        first_of(index) - u64::from(free)
    }

    /// How many blocks are free from `start` on, at most `blocks`.
    pub(super) fn run_from(&self, start: u64, blocks: u64) -> u64 {
        let end = start.saturating_add(blocks).min(self.blocks);
        let mut at = start;
        while at < end {
            let (index, offset) = (word_of(at), at % WORD_BLOCKS);
            let begins_stretch = offset == 0 && index.is_multiple_of(STRETCH_WORDS);
            if begins_stretch && self.whole.word(index / STRETCH_WORDS) == u64::MAX {
                at += STRETCH_WORDS as u64 * WORD_BLOCKS;
                continue;
            }
            let free = u64::from((self.words.get(index) >> offset).trailing_ones());
            at += free;
            if free < WORD_BLOCKS - offset {
                break;
            }
        }
        at.min(end).saturating_sub(start)
    }
}

/// The first block of a word.
fn first_of(index: usize) -> u64 {
    index as u64 * WORD_BLOCKS
}
