//! The blocks of a domain: who may have some, and what must stay free.
//!
//! Some free blocks are not for data: a checkpoint needs homes for pages that have none yet, also
//! when the disk is full. **Promises** count the pages that requests on their way may make
//! necessary; a block that is freed belongs to nobody before the flush that made it free.

mod unused;

use crate::format::extent::Place;
use crate::format::fragment::Fragment;
use crate::format::layout::Layout;
use crate::store::allocator::{Allocator, Run};
use unused::Unused;

/// Blocks that data never gets: for the parents of new pages.
const RESERVE_BLOCKS: u64 = 32;

/// A run of blocks that are neighbours on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskRun {
    pub(crate) start: u64,
    pub(crate) blocks: u32,
}

/// A run that nobody gets while the disk is told that it is unused.
#[derive(Debug)]
pub(crate) struct HeldRun {
    run: Run,
    pub(crate) disk_block: u64,
    pub(crate) blocks: u64,
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
    /// Free blocks that the disk is being told of.
    held: u64,
    unused: Unused,
    scratch: Vec<Run>,
}

impl Space {
    /// All of it is free. The disk is told of what becomes free in parts of so many blocks; 0:
    /// never.
    pub(crate) fn new(layout: Layout, domain: u16, disk: u16, part_blocks: u64) -> Space {
        let allocator = Allocator::new_free(layout.space_blocks());
        let unused = Unused::new(layout.space_blocks(), part_blocks);
        Space {
            allocator,
            layout,
            domain,
            disk,
            promised: 0,
            stretch: None,
            held: 0,
            unused,
            scratch: Vec::new(),
        }
    }

    /// Blocks that have no owner.
    pub(crate) fn free_blocks(&self) -> u64 {
        let kept = self.stretch.map_or(0, |run| u64::from(run.blocks));
        self.allocator.free_blocks() + kept + self.held
    }

    /// All blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.allocator.blocks()
    }

    /// Blocks that data may have, when pages want `pages` blocks.
    pub(crate) fn available(&self, pages: u64) -> u64 {
        self.free_blocks().saturating_sub(RESERVE_BLOCKS + self.promised + self.held + pages)
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
        self.unused.mark(start);
    }

    /// Takes a run that was freed since the disk was told, up to so many blocks, unless somebody
    /// could need it meanwhile. What is not wholly free is looked at again when more of it is.
    pub(crate) fn hold_unused(&mut self, blocks_max: u64, pages: u64) -> Option<HeldRun> {
        let part = self.unused.part_blocks();
        // Half of what is free stays free for whoever comes.
        let most = blocks_max.min(self.available(pages) / 2);
        let is_free = |space: &Space, start: u64| {
            (start..start + part).all(|block| space.allocator.is_free(block))
                && space.layout.contiguous_from(start) >= part
        };
        if part == 0 || part > most {
            return None;
        }
        loop {
            let start = self.unused.next()? * part;
            if !is_free(self, start) {
                continue;
            }
            let mut end = start + part;
            let most = most.min(self.layout.contiguous_from(start));
            while end + part <= start + most && is_free(self, end) && self.unused.take(end / part) {
                end += part;
            }
            let run = Run { start, blocks: (end - start) as u32 };
            let claimed = self.allocator.claim(run);
            assert!(claimed.is_ok(), "{run:?} is free: {claimed:?}");
            self.held += end - start;
            let disk_block = self.layout.disk_block(self.domain, start);
            return Some(HeldRun { run, disk_block, blocks: end - start });
        }
    }

    /// The disk was told.
    pub(crate) fn put_back(&mut self, held: HeldRun) {
        let given = self.allocator.give(held.run);
        assert!(given.is_ok(), "{held:?} was nobody's: {given:?}");
        self.held -= held.blocks;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        Space::new(Layout::plan(64 << 20, 1, 1 << 20).unwrap(), 0, 0, 256)
    }

    #[test]
    fn small_requests_are_neighbours_and_what_is_left_is_free() {
        let mut space = space();
        let all = space.free_blocks();
        let runs: Vec<DiskRun> = (0..20).flat_map(|_| space.take_beside(3).unwrap()).collect();
        let neighbours = runs.windows(2).filter(|two| two[0].start + 3 == two[1].start).count();
        assert_eq!(neighbours, 19, "{runs:?}");
        assert_eq!(space.free_blocks(), all - 60);
        // Every block that is free is to be had, those beside too.
        let rest: u32 = space.take(all as u32 - 60).unwrap().iter().map(|run| run.blocks).sum();
        assert_eq!((u64::from(rest), space.free_blocks()), (all - 60, 0));
        assert_eq!(space.take_beside(1), None);
        space.give(Place::new(0, runs[0].start));
        let one = space.take_beside(1);
        assert_eq!(one, Some(vec![DiskRun { start: runs[0].start, blocks: 1 }]));
    }

    #[test]
    fn what_is_freed_is_held_once_when_all_of_a_part_is_free_and_enough_besides() {
        let mut space = space();
        let all = space.free_blocks();
        assert!(space.hold_unused(1 << 14, 0).is_none(), "nothing was freed");
        let runs = space.take(1024).unwrap();
        let blocks: Vec<Place> =
            (runs[0].start..runs[0].start + 1024).map(|block| Place::new(0, block)).collect();
        assert_eq!(runs.len(), 1);
        blocks[..1000].iter().for_each(|place| space.give(*place));
        let held = space.hold_unused(512, 0).unwrap();
        assert_eq!((held.disk_block, held.blocks), (runs[0].start, 512));
        assert_eq!((space.free_blocks(), space.available(0)), (all - 24, all - 24 - 512 - 32));
        // Nobody gets what is held.
        let others = space.take((all - 24 - 512) as u32).unwrap();
        let inside = |run: &&DiskRun| {
            run.start < held.disk_block + 512 && held.disk_block < run.start + u64::from(run.blocks)
        };
        assert!(!others.iter().any(|run| inside(&run)), "{others:?}");
        space.put_back(held);
        assert_eq!(space.free_blocks(), 512);
        assert!(space.hold_unused(512, 0).is_none(), "the rest is in use again");
    }

    #[test]
    #[should_panic(expected = "nobody had it")]
    fn a_block_that_is_kept_for_the_next_request_has_no_owner() {
        let mut space = space();
        let taken = space.take_beside(1).unwrap();
        space.give(Place::new(0, taken[0].start + 1));
    }
}
