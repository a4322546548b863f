//! The blocks that a domain has on one disk.

use crate::format::extent::Place;
use crate::format::layout::Layout;
use crate::store::allocator::{Allocator, Run};
use crate::store::space::unused::Unused;
use crate::store::space::{DiskRun, HeldRun, SpaceError};

/// See the module.
#[derive(Debug)]
pub(super) struct DiskSpace {
    allocator: Allocator,
    layout: Layout,
    domain: u16,
    disk: u16,
    /// Free blocks for the next small requests that are to be neighbours.
    stretch: Option<Run>,
    /// Free blocks that the disk is being told of.
    held: u64,
    unused: Unused,
    scratch: Vec<Run>,
}

impl DiskSpace {
    /// All of it is free. The disk is told of what becomes free in parts of so many blocks; 0:
    /// never.
    pub(super) fn new(layout: Layout, domain: u16, disk: u16, part_blocks: u64) -> DiskSpace {
        let allocator = Allocator::new_free(layout.space_blocks());
        let unused = Unused::new(layout.space_blocks(), part_blocks);
        DiskSpace {
            allocator,
            layout,
            domain,
            disk,
            stretch: None,
            held: 0,
            unused,
            scratch: Vec::new(),
        }
    }

    /// Blocks that have no owner.
    pub(super) fn free_blocks(&self) -> u64 {
        let kept = self.stretch.map_or(0, |run| u64::from(run.blocks));
        self.allocator.free_blocks() + kept + self.held
    }

    /// All blocks.
    pub(super) fn blocks(&self) -> u64 {
        self.allocator.blocks()
    }

    /// Free blocks that the disk is being told of.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Whether the last call of [`DiskSpace::take_beside`] left so many blocks behind what it took.
    pub(super) fn has_beside(&self, blocks: u32) -> bool {
        self.stretch.is_some_and(|run| run.blocks >= blocks)
    }

    /// Takes blocks in as few runs as can be; nothing when there are not so many.
    pub(super) fn take(&mut self, blocks: u32) -> Option<Vec<DiskRun>> {
        self.scratch.clear();
        if !self.allocator.take(blocks, &mut self.scratch) {
            self.close_stretch();
            if !self.allocator.take(blocks, &mut self.scratch) {
                return None;
            }
        }
        Some(self.on_disk())
    }

    /// As [`DiskSpace::take`], behind what the last call took as far as space allows: what small
    /// requests write home later goes in one write.
    pub(super) fn take_beside(&mut self, blocks: u32) -> Option<Vec<DiskRun>> {
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
                    _ => runs.push(DiskRun { disk: self.disk, start: disk, blocks }),
                }
                start += u64::from(blocks);
                left -= blocks;
            }
        }
        runs
    }

    /// A block is free again.
    ///
    /// # Panics
    /// When it was: two owners would be next.
    pub(super) fn give(&mut self, place: Place) {
        let start = self.number(place).unwrap_or_else(|error| unreachable!("{error}"));
        let free = self.stretch.is_some_and(|run| (run.start..run.end()).contains(&start));
        assert!(!free, "{place:?} was given and nobody had it");
        let given = self.allocator.give(Run { start, blocks: 1 });
        assert!(given.is_ok(), "{place:?} was given twice: {given:?}");
        self.unused.mark(start);
    }

    /// Takes a run that was freed since the disk was told, up to so many blocks. What is not wholly
    /// free is looked at again when more of it is.
    pub(super) fn hold_unused(&mut self, most: u64) -> Option<HeldRun> {
        let part = self.unused.part_blocks();
        let is_free = |space: &DiskSpace, start: u64| {
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
            return Some(HeldRun { disk: self.disk, run, disk_block, blocks: end - start });
        }
    }

    /// The disk does not want to know what is unused.
    pub(super) fn stop_telling(&mut self) {
        self.unused = Unused::default();
    }

    /// The disk was told.
    pub(super) fn put_back(&mut self, held: HeldRun) {
        let given = self.allocator.give(held.run);
        assert!(given.is_ok(), "{held:?} was nobody's: {given:?}");
        self.held -= held.blocks;
    }

    /// A block has an owner, as recovery finds.
    pub(super) fn claim(&mut self, place: Place) -> Result<(), SpaceError> {
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
