//! The blocks of a domain: who may have some, and what must stay free.
//!
//! Some free blocks are not for data: a checkpoint needs homes for pages that have none yet, also
//! when the disk is full. **Promises** count the pages that requests on their way may make
//! necessary; a block that is freed belongs to nobody before the flush that made it free.

use crate::format::extent::Place;
use crate::format::fragment::Fragment;
use crate::format::layout::Layout;
use crate::store::allocator::{Allocator, Run};

/// Blocks that data never gets: for the parents of new pages.
const RESERVE_BLOCKS: u64 = 32;

/// A run of blocks that are neighbours on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskRun {
    pub(crate) start: u64,
    pub(crate) blocks: u32,
}

/// A block that two owners claim, or none has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpaceError {
    #[error("block {block} of disk {disk} is not in the data zone of domain {domain}")]
    Elsewhere { disk: u16, block: u64, domain: u16 },
    #[error("block {block} of disk {disk} has two owners")]
    TwoOwners { disk: u16, block: u64 },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Space {
    allocator: Allocator,
    layout: Layout,
    domain: u16,
    disk: u16,
    promised: u64,
    /// Free blocks for the next small requests that are to be neighbours.
    stretch: Option<Run>,
    scratch: Vec<Run>,
}

impl Space {
    /// All of it is free.
    pub(crate) fn new(layout: Layout, domain: u16, disk: u16) -> Space {
        let allocator = Allocator::new_free(layout.space_blocks());
        Space { allocator, layout, domain, disk, promised: 0, stretch: None, scratch: Vec::new() }
    }

    /// Blocks that have no owner.
    pub(crate) fn free_blocks(&self) -> u64 {
        self.allocator.free_blocks() + self.stretch.map_or(0, |run| u64::from(run.blocks))
    }

    /// All blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.allocator.blocks()
    }

    /// Blocks that data may have, when pages want `pages` blocks.
    pub(crate) fn available(&self, pages: u64) -> u64 {
        self.free_blocks().saturating_sub(RESERVE_BLOCKS + self.promised + pages)
    }

    /// Blocks that requests on their way may want for pages.
    pub(crate) fn promise(&mut self, blocks: u64) {
        self.promised += blocks;
    }

    /// Takes a promise back.
    pub(crate) fn release(&mut self, blocks: u64) {
        self.promised -= blocks;
    }

    /// Promises that were not taken back.
    pub(crate) fn promised(&self) -> u64 {
        self.promised
    }

    /// Takes blocks in as few runs as can be; nothing when there are not so many.
    pub(crate) fn take(&mut self, blocks: u32) -> Option<Vec<DiskRun>> {
        self.scratch.clear();
        if !self.allocator.take(blocks, &mut self.scratch) {
            self.close_stretch();
            if !self.allocator.take(blocks, &mut self.scratch) {
                return None;
            }
        }
        Some(self.on_disk())
    }

    /// As [`Space::take`], behind what the last call took as far as space allows: what small
    /// requests write home later goes in one write.
    pub(crate) fn take_beside(&mut self, blocks: u32) -> Option<Vec<DiskRun>> {
        if self.stretch.is_none_or(|run| run.blocks < blocks) {
            self.close_stretch();
            self.stretch = self.allocator.take_stretch();
        }
        let Some(run) = self.stretch.filter(|run| run.blocks >= blocks) else {
            return self.take(blocks);
        };
        let rest = Run { start: run.start + u64::from(blocks), blocks: run.blocks - blocks };
        self.stretch = (rest.blocks > 0).then_some(rest);
        self.scratch.clear();
        self.scratch.push(Run { start: run.start, blocks });
        Some(self.on_disk())
    }

    /// What is left of the stretch belongs to everybody.
    fn close_stretch(&mut self) {
        let Some(run) = self.stretch.take() else { return };
        let given = self.allocator.give(run);
        assert!(given.is_ok(), "{run:?} was taken: {given:?}");
    }

    /// The runs that were taken, as the disk has them.
    fn on_disk(&self) -> Vec<DiskRun> {
        let mut runs: Vec<DiskRun> = Vec::with_capacity(self.scratch.len());
        for run in &self.scratch {
            let (mut start, mut left) = (run.start, run.blocks);
            while left > 0 {
                let blocks = u64::from(left).min(self.layout.contiguous_from(start)) as u32;
                let disk = self.layout.disk_block(self.domain, start);
                match runs.last_mut() {
                    Some(last) if last.start + u64::from(last.blocks) == disk => {
                        last.blocks += blocks;
                    }
                    _ => runs.push(DiskRun { start: disk, blocks }),
                }
                start += u64::from(blocks);
                left -= blocks;
            }
        }
        runs
    }

    /// Two homes for a page, which need not be neighbours.
    pub(crate) fn take_homes(&mut self) -> Option<[Fragment; 2]> {
        let runs = self.take(2)?;
        let mut blocks = runs.iter().flat_map(|run| run.start..run.start + u64::from(run.blocks));
        let mut home = || Fragment::new(self.disk, blocks.next()?, 1);
        Some([home()?, home()?])
    }

    /// A block is free again.
    ///
    /// # Panics
    /// When it was: two owners would be next.
    pub(crate) fn give(&mut self, place: Place) {
        let start = self.number(place).unwrap_or_else(|error| unreachable!("{error}"));
        let free = self.stretch.is_some_and(|run| (run.start..run.end()).contains(&start));
        assert!(!free, "{place:?} was given and nobody had it");
        let given = self.allocator.give(Run { start, blocks: 1 });
        assert!(given.is_ok(), "{place:?} was given twice: {given:?}");
    }

    /// A block has an owner, as recovery finds.
    pub(crate) fn claim(&mut self, place: Place) -> Result<(), SpaceError> {
        let start = self.number(place)?;
        self.allocator
            .claim(Run { start, blocks: 1 })
            .map_err(|_| SpaceError::TwoOwners { disk: place.disk(), block: place.block() })
    }

    fn number(&self, place: Place) -> Result<u64, SpaceError> {
        let (disk, block, domain) = (place.disk(), place.block(), self.domain);
        match self.layout.space_block(block) {
            Some((found, number)) if found == domain && disk == self.disk => Ok(number),
            _ => Err(SpaceError::Elsewhere { disk, block, domain }),
        }
    }
}
