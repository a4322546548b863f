//! Blocks whose content is in a record and not yet at home.
//!
//! A block enters when its request joins a batch, is **deferred** when the batch was
//! acknowledged, and leaves when its home write was flushed, or when it was overwritten and
//! freed: then it is never written home. Until it leaves, reads get it from here, and the record
//! that holds it is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::format::extent::Place;
use crate::format::layout::BLOCK_BYTES;
use crate::memory::DmaBuf;

/// A block inside a buffer that several share. The default is one without content.
#[derive(Clone, Debug, Default)]
pub(crate) struct RamBlock {
    buffer: Option<Rc<DmaBuf>>,
    start: usize,
}

impl RamBlock {
    /// The block that starts at byte `start` of the buffer.
    pub(crate) fn new(buffer: Rc<DmaBuf>, start: usize) -> RamBlock {
        assert!(start + BLOCK_BYTES as usize <= buffer.len());
        RamBlock { buffer: Some(buffer), start }
    }

    /// Its content.
    pub(crate) fn bytes(&self) -> &[u8] {
        let buffer = self.buffer.as_ref();
        let buffer = buffer.unwrap_or_else(|| unreachable!("its content was written already"));
        &buffer[self.start..self.start + BLOCK_BYTES as usize]
    }

    /// Whether it is the first block of a buffer of `bytes` bytes.
    pub(crate) fn begins(&self, bytes: usize) -> bool {
        self.start == 0 && self.buffer.as_ref().is_some_and(|buffer| buffer.len() == bytes)
    }

    /// Whether it is the `n`th block after another, in the same buffer.
    pub(crate) fn follows(&self, first: &RamBlock, n: usize) -> bool {
        let same = match (&self.buffer, &first.buffer) {
            (Some(own), Some(other)) => Rc::ptr_eq(own, other),
            _ => false,
        };
        same && self.start == first.start + n * BLOCK_BYTES as usize
    }

    /// The buffer, when nobody else has a block in it.
    pub(crate) fn into_buffer(self) -> Option<DmaBuf> {
        Rc::try_unwrap(self.buffer?).ok()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its batch is not acknowledged.
    Pending,
    /// Acknowledged; the record at this position has it.
    Deferred(u64),
    /// As before, and its home write is on its way.
    Writing(u64),
    /// As before, and that has completed, as the numbered one of all; no flush of its disk has
    /// covered it.
    Written(u64, u64),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct RamBlocks {
    blocks: BTreeMap<Place, (RamBlock, Stage)>,
    /// Deferred, writing and written ones, by the position of their record.
    by_position: BTreeSet<(u64, Place)>,
    /// Deferred ones alone.
    waiting: BTreeSet<(u64, Place)>,
    /// Written ones, by their disk and number.
    written: BTreeMap<(u16, u64), Place>,
    /// How many of those each disk has.
    unflushed: BTreeMap<u16, usize>,
    /// Home writes that have completed.
    writes: u64,
    /// Freed while their home write was on its way: free when that has completed.
    freed: BTreeSet<Place>,
}

impl RamBlocks {
    /// A block of a batch that is not acknowledged.
    pub(crate) fn insert(&mut self, place: Place, block: RamBlock) {
        let before = self.blocks.insert(place, (block, Stage::Pending));
        assert!(before.is_none(), "a block that is not at home has no other content");
    }

    /// Its content, if it is here.
    pub(crate) fn get(&self, place: Place) -> Option<&RamBlock> {
        self.blocks.get(&place).map(|(block, _)| block)
    }

    /// Its batch was acknowledged, in the record at this position.
    pub(crate) fn defer(&mut self, place: Place, position: u64) {
        if let Some((_, stage @ Stage::Pending)) = self.blocks.get_mut(&place) {
            *stage = Stage::Deferred(position);
            self.by_position.insert((position, place));
            self.waiting.insert((position, place));
        }
    }

    /// The block was freed: it need not go home. False when a write to its home is on its way, so
    /// that the place must not have another owner before [`RamBlocks::wrote`] returns it.
    pub(crate) fn forget(&mut self, place: Place) -> bool {
        let Some((_, stage)) = self.blocks.get(&place) else { return true };
        match *stage {
            Stage::Pending => {}
            Stage::Deferred(position) => {
                self.by_position.remove(&(position, place));
                self.waiting.remove(&(position, place));
            }
            Stage::Writing(position) => {
                self.by_position.remove(&(position, place));
                self.freed.insert(place);
                return false;
            }
            Stage::Written(position, number) => {
                self.by_position.remove(&(position, place));
                self.take_written((place.slot(), number));
            }
        }
        self.blocks.remove(&place);
        true
    }

    /// Bytes that are deferred and not on their way home.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.waiting.len() as u64 * BLOCK_BYTES
    }

    /// Home writes that have completed and no flush has covered.
    pub(crate) fn unflushed(&self) -> usize {
        self.written.len()
    }

    /// The disks of those.
    pub(crate) fn unflushed_disks(&self) -> Vec<u16> {
        self.unflushed.keys().copied().collect()
    }

    /// Those on other disks than this.
    pub(crate) fn unflushed_beside(&self, disk: u16) -> usize {
        self.written.len() - self.unflushed.get(&disk).copied().unwrap_or(0)
    }

    fn take_written(&mut self, key: (u16, u64)) {
        let was_there = self.written.remove(&key).is_some();
        if let Some(count) = self.unflushed.get_mut(&key.0).filter(|_| was_there) {
            *count -= 1;
            if *count == 0 {
                self.unflushed.remove(&key.0);
            }
        }
    }

    /// Blocks that are here.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Position of the oldest record that is needed for a block.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.by_position.first().map(|(position, _)| *position)
    }

    /// Up to `max` blocks to write home, of the oldest records, in the order of their places;
    /// they are on their way from now on.
    pub(crate) fn send_home(&mut self, max: usize) -> Vec<(Place, RamBlock)> {
        let mut batch = Vec::new();
        while batch.len() < max
            && let Some((position, place)) = self.waiting.pop_first()
        {
            if let Some((block, stage)) = self.blocks.get_mut(&place) {
                *stage = Stage::Writing(position);
                batch.push((place, block.clone()));
            }
        }
        batch.sort_by_key(|(place, _)| *place);
        batch
    }

    /// A home write has ended. True when the block was freed meanwhile: its place is free now.
    pub(crate) fn wrote(&mut self, place: Place, success: bool) -> bool {
        if self.freed.remove(&place) {
            self.blocks.remove(&place);
            return true;
        }
        let Some((_, stage)) = self.blocks.get_mut(&place) else { return false };
        let Stage::Writing(position) = *stage else { return false };
        if success {
            self.writes += 1;
            *stage = Stage::Written(position, self.writes);
            self.written.insert((place.slot(), self.writes), place);
            *self.unflushed.entry(place.slot()).or_default() += 1;
        } else {
            *stage = Stage::Deferred(position);
            self.waiting.insert((position, place));
        }
        false
    }

    /// How many home writes have completed: a flush that is submitted from now on covers those of
    /// its disk.
    pub(crate) fn writes(&self) -> u64 {
        self.writes
    }

    /// A flush of a disk that was submitted after so many writes had completed has succeeded.
    pub(crate) fn flushed(&mut self, disk: u16, writes: u64) {
        while let Some((key, place)) = self.written.range((disk, 0)..=(disk, writes)).next() {
            let (key, place) = (*key, *place);
            self.take_written(key);
            if let Some((_, Stage::Written(position, _))) = self.blocks.remove(&place) {
                self.by_position.remove(&(position, place));
            }
        }
    }

    /// A flush has failed: whatever no flush has covered may be lost, and is written again.
    pub(crate) fn flush_failed(&mut self) {
        self.unflushed.clear();
        for (_, place) in std::mem::take(&mut self.written) {
            if let Some((_, stage)) = self.blocks.get_mut(&place)
                && let Stage::Written(position, _) = *stage
            {
                *stage = Stage::Deferred(position);
                self.waiting.insert((position, place));
            }
        }
    }
}
