//! Generations: a table of small records that are read without a lock while they are rewritten.
//!
//! Each cell is a seqlock: one state word, then the words of its record. The state word is
//!
//! - even: `generation << 1`, and the record is whole;
//! - odd: `thread << 1 | 1`, and that thread is writing the record.
//!
//! A reader copies the record between two looks at the state word, and has a whole record when
//! both showed the same even word: a generation only rises, so the word never comes back. The
//! copies are atomic loads of words, so that a copy that turns out torn is no undefined behaviour,
//! and no reference into a cell ever leaves. The orderings are those of Boehm, "Can seqlocks get
//! along with programming language memory models?" (MSPC 2012):
//!
//! | the writer | | the reader |
//! | --- | --- | --- |
//! | even to odd, Acquire (1) | | state word, Acquire (b) |
//! | `fence(Release)` (A) | | words, Relaxed |
//! | words, Relaxed | | `fence(Acquire)` (a) |
//! | even, Release (B) | | state word again, Relaxed |
//!
//! - (A) pairs with (a): who copied one word of a write sees at the second look at least the odd
//!   word before it, so the two looks differ.
//! - (B) pairs with (b): who sees a generation at the first look copies no word older than it.
//! - (1) is Acquire, so that one writer's words come after those of the writer before it, and so
//!   that a writer which gives up hands on with its Release what the one before had published.
//!
//! **One writer per cell** is the caller's rule, kept by the extent's exclusive lock. A second one
//! is refused while the first lives; what it left when it ended is repaired by
//! [`GenerationTable::replace_dead`]. Readers never wait for ever: after a bounded number of looks
//! they are told to take the lock.
//!
//! ```
//! use dynamicfs::concurrency::generation::{CellIndex, GenerationTable};
//! use dynamicfs::machine::mapping::PagePolicy;
//!
//! let table: GenerationTable<[u64; 2]> = GenerationTable::new(1000, PagePolicy::Huge)?;
//! let cell = CellIndex(7);
//! table.begin_write(cell)?.end_write(41, &[1, 2])?;
//!
//! let (generation, record) = table.read(cell)?;
//! assert_eq!((generation, record), (41, [1, 2]));
//! // ... do something with what the record says, and then:
//! assert!(table.validate(cell, generation), "else do it again, with a new copy");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::marker::PhantomData;

use bytemuck::Pod;

use crate::concurrency::sync::{AtomicU64, Ordering, fence, spin_loop, yield_now};
use crate::machine::mapping::{MappingError, PagePolicy};
use crate::machine::thread::{thread_id, thread_lives};
use crate::memory::{ArenaStatus, HugeTable};

/// The largest generation: the state word has one bit of its own. At a billion commits a second
/// it lasts for 292 years.
pub const GENERATION_MAX: u64 = (1 << 63) - 1;

/// A write is under 20 ns of stores: a reader that lost this many races meets a writer that was
/// interrupted, or a cell that is written all the time. A model tries each once.
const SPINS: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 48 };
/// Looks after those, each after giving the processor away: to the writer, if it waits for it.
const YIELDS: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 4 };

/// Which cell of a [`GenerationTable`]: below its [`GenerationTable::len`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellIndex(pub u32);

/// Why a record could not be read without the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Someone is writing it, or has written it at every look: take the extent's shared lock.
    #[error("the cell is being written")]
    BeingWritten,
    /// Its writer ended in the middle, and the record is lost: whoever holds the extent's
    /// exclusive lock calls [`GenerationTable::replace_dead`].
    #[error("thread {thread} ended while it was writing the cell")]
    WriterDied {
        /// The id that thread had.
        thread: u32,
    },
    /// The record is not one that its type can make, so it was not copied from a whole one: an
    /// error of this library or of the memory. Only of [`GenerationTable::snapshot`].
    #[error("the cell's record says it has {fragment_count} fragments")]
    Malformed {
        /// What it says.
        fragment_count: u32,
    },
}

/// Why a write could not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Someone else is writing the cell, without the lock that would have kept one of the two out.
    #[error("thread {thread} is writing the cell")]
    BeingWritten {
        /// The id of that thread; the caller's own when it began twice.
        thread: u32,
    },
    /// Its writer ended in the middle: call [`GenerationTable::replace_dead`].
    #[error("thread {thread} ended while it was writing the cell")]
    WriterDied {
        /// The id that thread had.
        thread: u32,
    },
}

/// A write with a generation that is not above the one before it, or above [`GENERATION_MAX`].
/// The cell is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation {given} cannot follow {current}: it must be larger, and below 2^63")]
pub struct GenerationNotRising {
    /// The cell's generation.
    pub current: u64,
    /// The one that was to follow.
    pub given: u64,
}

/// Why a cell was not taken over. It is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// Nobody is writing it; begin a write.
    #[error("nobody is writing the cell")]
    NotBeingWritten,
    /// Its writer lives.
    #[error("thread {thread}, which is writing the cell, lives")]
    WriterLives {
        /// The id of that thread.
        thread: u32,
    },
    /// A generation is below 2^63.
    #[error("generation {given} is above {GENERATION_MAX}")]
    GenerationTooLarge {
        /// The one that was refused.
        given: u64,
    },
}

/// Records of one type, each with the generation that last changed it, in huge-page memory.
///
/// `R` is plain data of whole 64-bit words. A cell is one word longer, so a record of 56 bytes
/// makes cells of one cache line each. The memory stays mapped and of this type until the table
/// is dropped. At first every cell is of generation 0, its record all zeroes.
///
/// Every method that takes a [`CellIndex`] panics when the table has no such cell: the caller
/// made a mistake, and no answer would be right.
#[derive(Debug)]
pub struct GenerationTable<R> {
    words: HugeTable<AtomicU64>,
    record: PhantomData<fn() -> R>,
}

/// One cell, taken apart.
#[derive(Clone, Copy, Debug)]
struct Cell<'a> {
    state: &'a AtomicU64,
    record: &'a [AtomicU64],
}

impl<R: Pod> GenerationTable<R> {
    const WORDS_PER_CELL: usize = 1 + size_of::<R>() / size_of::<u64>();

    /// A table of `cells` cells, on the NUMA node of the calling thread.
    ///
    /// # Errors
    /// When the machine has not even normal pages for it.
    pub fn new(cells: u32, policy: PagePolicy) -> Result<GenerationTable<R>, MappingError> {
        const {
            assert!(align_of::<R>() == align_of::<u64>(), "a record is made of 64-bit words");
            assert!(size_of::<R>().is_multiple_of(8) && size_of::<R>() > 0, "whole words");
        }
        let count = (cells as usize).saturating_mul(Self::WORDS_PER_CELL);
        let words = HugeTable::from_fn(count, policy, |_| AtomicU64::new(0))?;
        Ok(GenerationTable { words, record: PhantomData })
    }

    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.words.len() / Self::WORDS_PER_CELL
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// What became of its memory.
    pub fn status(&self) -> ArenaStatus {
        self.words.status()
    }

    #[inline(always)]
    fn cell(&self, cell: CellIndex) -> Cell<'_> {
        let first = cell.0 as usize * Self::WORDS_PER_CELL;
        match self.words.get(first..first + Self::WORDS_PER_CELL) {
            Some([state, record @ ..]) => Cell { state, record },
            _ => no_such_cell(cell, self.len()),
        }
    }

    /// The cell's generation and a whole copy of its record.
    ///
    /// Takes no lock and changes nothing. What the copy leads to may have changed by the time it
    /// is used: see [`GenerationTable::validate`].
    ///
    /// # Errors
    /// When the record stays half written, or changes all the time, for about as long as a system
    /// call takes.
    #[inline(always)]
    pub fn read(&self, cell: CellIndex) -> Result<(u64, R), ReadError> {
        let mut looks = 0;
        loop {
            // The only copy: one made by the cold path too would have to come through memory, and
            // so would this one, to meet it. That took twice as long.
            if let Some(copied) = copy_whole(self.cell(cell)) {
                return Ok(copied);
            }
            looks = self.after_look(cell, looks)?;
        }
    }

    /// A look at a cell was in vain: waits a little for the next one.
    #[cold]
    #[inline(never)]
    fn after_look(&self, cell: CellIndex, looks: u32) -> Result<u32, ReadError> {
        if looks < SPINS {
            spin_loop();
        } else if looks < SPINS + YIELDS {
            yield_now();
        } else {
            return Err(match dead_writer(self.cell(cell).state) {
                Some(thread) => ReadError::WriterDied { thread },
                None => ReadError::BeingWritten,
            });
        }
        Ok(looks + 1)
    }

    /// Whether the cell still is of exactly this generation: of what was read before this call,
    /// by a copy of the record or by an I/O to the place it names, nothing is of a later one.
    ///
    /// The fence keeps those earlier loads from being moved behind the look at the generation.
    /// For words of the cell it pairs with the writer's fence (A) in the module's table. For bytes
    /// in memory or on a disk it pairs with the Release by which a writer, after its `end_write`,
    /// hands the place on to be overwritten (a lock, a queue, the submission to the kernel): who
    /// read one overwritten byte then sees the new generation here.
    #[inline]
    pub fn validate(&self, cell: CellIndex, generation: u64) -> bool {
        fence(Ordering::Acquire);
        generation_of(self.cell(cell).state.load(Ordering::Relaxed)) == Some(generation)
    }

    /// The cell's generation, or none while it is being written.
    #[inline]
    pub fn generation(&self, cell: CellIndex) -> Option<u64> {
        generation_of(self.cell(cell).state.load(Ordering::Acquire))
    }

    /// Keeps readers off the cell until the writer is used or dropped. The caller holds the
    /// extent's exclusive lock, and begins only when it knows what to write: readers wait.
    ///
    /// # Errors
    /// When another write has begun and not ended, in this thread or another.
    pub fn begin_write(&self, cell: CellIndex) -> Result<CellWriter<'_, R>, WriteError> {
        let cell = self.cell(cell);
        let odd = odd_word(thread_id());
        let mut seen = cell.state.load(Ordering::Relaxed);
        loop {
            if let Some(thread) = writer_of(seen) {
                return Err(match dead_writer(cell.state) {
                    Some(thread) => WriteError::WriterDied { thread },
                    None => WriteError::BeingWritten { thread },
                });
            }
            // Acquire: (1) of the module. The fence (A) of this write is in `store_words`.
            match cell.state.compare_exchange(seen, odd, Ordering::Acquire, Ordering::Relaxed) {
                Ok(even) => {
                    let (record, thread_bound) = (PhantomData, PhantomData);
                    return Ok(CellWriter { cell, even, record, thread_bound });
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Writes a cell whose writer ended in the middle. The caller holds the extent's exclusive
    /// lock.
    ///
    /// The dead writer's mark has replaced the generation it found, so that a generation which
    /// does not rise goes unseen here: give one that was never used, such as a new commit's
    /// sequence number.
    ///
    /// # Errors
    /// When nobody is writing the cell, or its writer lives, or the generation is too large.
    pub fn replace_dead(
        &self,
        cell: CellIndex,
        generation: u64,
        record: &R,
    ) -> Result<(), ReplaceError> {
        if generation > GENERATION_MAX {
            return Err(ReplaceError::GenerationTooLarge { given: generation });
        }
        let cell = self.cell(cell);
        let seen = cell.state.load(Ordering::Relaxed);
        let thread = writer_of(seen).ok_or(ReplaceError::NotBeingWritten)?;
        if thread_lives(thread) {
            return Err(ReplaceError::WriterLives { thread });
        }
        // An exchange, so that of several who found it dead one takes it over, and so that a
        // writer which ended its write, and then itself, since the look above is not undone.
        let odd = odd_word(thread_id());
        cell.state.compare_exchange(seen, odd, Ordering::Acquire, Ordering::Relaxed).map_err(
            |now| match writer_of(now) {
                Some(thread) => ReplaceError::WriterLives { thread },
                None => ReplaceError::NotBeingWritten,
            },
        )?;
        store_words(cell, record);
        cell.state.store(even_word(generation), Ordering::Release);
        Ok(())
    }
}

/// The right to write one cell, once: by [`CellWriter::end_write`].
///
/// All stores to the record are made there. So a writer that is dropped instead, by a panic or a
/// task that was cancelled, gives the cell back as it was, of its old generation, and readers
/// never see that there was one. It belongs to the thread that began the write, by whose end it is
/// judged dead: it is not `Send`.
#[derive(Debug)]
#[must_use = "readers wait while it exists"]
pub struct CellWriter<'a, R> {
    cell: Cell<'a>,
    /// What the drop writes to the state word: the word that was found, until the new record is
    /// there.
    even: u64,
    record: PhantomData<fn(R)>,
    thread_bound: PhantomData<*const ()>,
}

impl<R: Pod> CellWriter<'_, R> {
    /// Writes the record, and publishes it as of `generation`.
    ///
    /// # Errors
    /// When the generation is not above the one before, or above [`GENERATION_MAX`].
    pub fn end_write(mut self, generation: u64, record: &R) -> Result<(), GenerationNotRising> {
        let current = self.even >> 1;
        if generation <= current || generation > GENERATION_MAX {
            return Err(GenerationNotRising { current, given: generation });
        }
        store_words(self.cell, record);
        self.even = even_word(generation);
        Ok(())
    }

    /// As [`CellWriter::end_write`], and the generation may also stay the same: for a record that
    /// nobody could have taken for whole since this generation was first written, because readers
    /// run on the writer's own thread, or take what they found only after the last rewrite.
    ///
    /// # Errors
    /// When `generation` is below the cell's, or above [`GENERATION_MAX`].
    pub fn rewrite(mut self, generation: u64, record: &R) -> Result<(), GenerationNotRising> {
        let current = self.even >> 1;
        if generation < current || generation > GENERATION_MAX {
            return Err(GenerationNotRising { current, given: generation });
        }
        store_words(self.cell, record);
        self.even = even_word(generation);
        Ok(())
    }
}

impl<R> Drop for CellWriter<'_, R> {
    fn drop(&mut self) {
        // (B) of the module. Release also when nothing was written: a reader that sees this word
        // sees through it what the writer before published, as this one did by its Acquire.
        self.cell.state.store(self.even, Ordering::Release);
    }
}

// ---- the state word

const fn even_word(generation: u64) -> u64 {
    generation << 1
}

const fn odd_word(thread: u32) -> u64 {
    (thread as u64) << 1 | 1
}

#[inline(always)]
const fn generation_of(state: u64) -> Option<u64> {
    if state & 1 == 0 { Some(state >> 1) } else { None }
}

const fn writer_of(state: u64) -> Option<u32> {
    if state & 1 == 1 { Some((state >> 1) as u32) } else { None }
}

/// The thread that left the cell odd, if it ended.
#[cold]
fn dead_writer(state: &AtomicU64) -> Option<u32> {
    let seen = state.load(Ordering::Relaxed);
    let thread = writer_of(seen)?;
    // Looked at again: a writer that ended its write before itself has left an even word.
    (!thread_lives(thread) && state.load(Ordering::Relaxed) == seen).then_some(thread)
}

// ---- the record

/// The reader's column of the module's table. None when the record was or became half written.
#[inline(always)]
fn copy_whole<R: Pod>(cell: Cell<'_>) -> Option<(u64, R)> {
    let state = cell.state.load(Ordering::Acquire);
    let generation = generation_of(state)?;
    let mut record = R::zeroed();
    let words: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut record));
    for (word, shared) in words.iter_mut().zip(cell.record) {
        *word = shared.load(Ordering::Relaxed);
    }
    // (a) of the module: the copies come before the second look.
    fence(Ordering::Acquire);
    (cell.state.load(Ordering::Relaxed) == state).then_some((generation, record))
}

/// From the fence to the last word of the writer's column. The state word is odd before and
/// after; the caller publishes.
fn store_words<R: Pod>(cell: Cell<'_>, record: &R) {
    // (A) of the module: here and not where the word was made odd, beside the stores it orders.
    fence(Ordering::Release);
    let words: &[u64] = bytemuck::cast_slice(std::slice::from_ref(record));
    for (shared, word) in cell.record.iter().zip(words) {
        shared.store(*word, Ordering::Relaxed);
    }
}

#[cold]
#[inline(never)]
fn no_such_cell(cell: CellIndex, cells: usize) -> ! {
    panic!("there is no cell {} in a generation table of {cells} cells", cell.0)
}

#[cfg(test)]
mod tests;
