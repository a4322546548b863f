//! The blocks that a domain has on one disk.

use std::collections::BTreeSet;

use crate::format::extent::Place;
use crate::format::layout::Layout;
use crate::store::allocator::{Allocator, Run};
use crate::store::space::numbering::Numbering;
use crate::store::space::unused::Unused;
use crate::store::space::{DiskRun, HeldRun, SpaceError};

/// Groups that are looked at in one search for one that is free.
const GROUPS_TRIED: u64 = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct DiskSpace {
    allocator: Allocator,
    numbering: Numbering,
    domain: u16,
    disk: u16,
    /// Groups that have numbers and that another domain has, by their place; their blocks are used
    /// as far as the allocator knows.
    away: BTreeSet<u64>,
    /// Where the search for a group to give goes on.
    give_next: u64,
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
            numbering: Numbering::new(layout, domain),
            domain,
            disk,
            away: BTreeSet::new(),
            give_next: 0,
            stretch: None,
            held: 0,
            unused,
            scratch: Vec::new(),
        }
    }

    /// It has no group yet, and its disk is told of nothing.
    pub(super) fn without_groups(layout: Layout, domain: u16, disk: u16) -> DiskSpace {
        let mut space = DiskSpace::new(layout, domain, disk, 0);
        space.allocator = Allocator::new_used(layout.space_blocks());
        space.away = (0..space.numbering.groups()).collect();
        space
    }

    /// The disk has more groups, none of which are here.
    pub(super) fn know(&mut self, layout: Layout) {
        self.numbering.grow(layout);
    }

    /// All of a group was freed since its disk was told.
    pub(super) fn mark_unused(&mut self, group: u32) {
        let part = self.unused.part_blocks();
        let Some(place) = self.numbering.place_of(group.into()).filter(|_| part > 0) else {
            return;
        };
        let run = self.run_of(place);
        for start in (run.start..run.end()).step_by(part as usize) {
            self.unused.mark(start);
        }
    }

    /// Blocks that have no owner.
    pub(super) fn free_blocks(&self) -> u64 {
        let kept = self.stretch.map_or(0, |run| u64::from(run.blocks));
        self.allocator.free_blocks() + kept + self.held
    }

    /// All blocks that it has.
    pub(super) fn blocks(&self) -> u64 {
        self.allocator.blocks() - self.away.len() as u64 * self.numbering.group_blocks()
    }

    /// Whether so many free blocks in a row are found.
    pub(super) fn has_run(&self, blocks: u32) -> bool {
        self.allocator.has_run(blocks)
    }

    /// Blocks of a group.
    pub(super) fn group_blocks(&self) -> u64 {
        self.numbering.group_blocks()
    }

    /// A group that it has and of which every block is free, if one is found among the next that
    /// are looked at.
    pub(super) fn find_free_group(&mut self) -> Option<u32> {
        let groups = self.numbering.groups();
        for _ in 0..groups.min(GROUPS_TRIED) {
            // From behind: what is full is in front.
            self.give_next = self.give_next.checked_sub(1).unwrap_or(groups - 1).min(groups - 1);
            let place = self.give_next;
            if !self.away.contains(&place) && self.allocator.is_run_free(self.run_of(place)) {
                return self.numbering.group_at(place).map(|group| group as u32);
            }
        }
        None
    }

    fn run_of(&self, place: u64) -> Run {
        let blocks = self.numbering.group_blocks();
        // A group has at most 2^18 blocks.
        Run { start: place * blocks, blocks: blocks as u32 }
    }

    /// The disk has more groups, behind those that it had.
    pub(super) fn grow(&mut self, layout: Layout) {
        for group in self.numbering.grow(layout) {
            self.gain(group as u32);
        }
    }

    /// Another domain has a group; nothing when not all of it is free, or it is not here.
    pub(super) fn part_with(&mut self, group: u32) -> Option<()> {
        let place = self.numbering.place_of(group.into())?;
        let run = self.run_of(place);
        if self.away.contains(&place) || self.allocator.claim(run).is_err() {
            return None;
        }
        self.away.insert(place);
        self.numbering.remove(group.into());
        Some(())
    }

    /// It has a group, of which every block is free; nothing when it had it.
    pub(super) fn gain(&mut self, group: u32) -> Option<()> {
        let place = match self.numbering.place_of(group.into()) {
            Some(place) => self.away.remove(&place).then_some(place)?,
            None => {
                let (place, is_new) = self.numbering.add(group.into());
                match is_new {
                    true => {
                        let end = (place + 1) * self.numbering.group_blocks();
                        self.allocator.extend(end - self.allocator.blocks());
                    }
                    false => drop(self.away.remove(&place)),
                }
                place
            }
        };
        let run = self.run_of(place);
        let given = self.allocator.give(run);
        assert!(given.is_ok(), "{run:?} was another domain's: {given:?}");
        Some(())
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
                let blocks = u64::from(left).min(self.numbering.contiguous_from(start)) as u32;
                let disk = self.numbering.disk_block(start);
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
                && space.numbering.contiguous_from(start) >= part
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
            let most = most.min(self.numbering.contiguous_from(start));
            while end + part <= start + most && is_free(self, end) && self.unused.take(end / part) {
                end += part;
            }
            let run = Run { start, blocks: (end - start) as u32 };
            let claimed = self.allocator.claim(run);
            assert!(claimed.is_ok(), "{run:?} is free: {claimed:?}");
            self.held += end - start;
            let disk_block = self.numbering.disk_block(start);
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
            .map_err(|_| SpaceError::TwoOwners { disk: place.target(), block: place.block() })
    }

    fn number(&self, place: Place) -> Result<u64, SpaceError> {
        let (disk, block, domain) = (place.target(), place.block(), self.domain);
        let number = self.numbering.number(block).filter(|_| disk == self.disk);
        let is_away = |number: &u64| self.away.contains(&(number / self.numbering.group_blocks()));
        let number = number.filter(|number| !is_away(number));
        number.ok_or(SpaceError::Elsewhere { disk, block, domain })
    }
}
