//! Allocation groups of a slot that are divided, so that data with fewer copies than the slot has
//! mirrors takes as much less of it: [`mirror_set`](crate::format::mirror_set) says how.
//!
//! A group is divided when such data wants space, and is one again when no block of it has an
//! owner.

use std::collections::BTreeMap;

use crate::format::extent::Place;
use crate::format::layout::Layout;
use crate::format::mirror_set::MirrorSet;
use crate::store::space::disk_space::DiskSpace;
use crate::store::space::{DiskRun, SpaceError, TURN_BLOCKS};

/// The blocks of one set of mirrors.
#[derive(Debug)]
struct SetSpace {
    set: MirrorSet,
    space: DiskSpace,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Divided {
    layout: Layout,
    domain: u16,
    slot: u16,
    mirrors: u16,
    /// In the order in which they were first used.
    sets: Vec<SetSpace>,
    /// For how many copies each group is divided, and its blocks with an owner, of all sets.
    groups: BTreeMap<u32, (u16, u64)>,
    /// By number of copies: whose turn it is, and how many blocks it still has.
    turns: [(usize, u32); 4],
}

impl Divided {
    /// No group of the slot is.
    pub(super) fn new(layout: Layout, domain: u16, slot: u16, mirrors: u16) -> Divided {
        let (sets, groups) = (Vec::new(), BTreeMap::new());
        Divided { layout, domain, slot, mirrors, sets, groups, turns: [(0, 0); 4] }
    }

    /// Mirrors of the slot.
    pub(super) fn mirrors(&self) -> u16 {
        self.mirrors
    }

    /// The slot has more groups.
    pub(super) fn grow(&mut self, layout: Layout) {
        self.layout = layout;
        self.sets.iter_mut().for_each(|set| set.space.know(layout));
    }

    fn index_of(&mut self, set: MirrorSet) -> usize {
        if let Some(at) = self.sets.iter().position(|known| known.set == set) {
            return at;
        }
        let space = DiskSpace::without_groups(self.layout, self.domain, set.target(self.slot));
        self.sets.push(SetSpace { set, space });
        self.sets.len() - 1
    }

    /// A group, which nobody has a block of, is divided for so many copies.
    pub(super) fn divide(&mut self, group: u32, copies: u16) {
        for set in MirrorSet::of_group(self.mirrors, copies, group.into()) {
            let at = self.index_of(set);
            let gained = self.sets[at].space.gain(group);
            assert!(gained.is_some(), "group {group} was divided already");
        }
        let before = self.groups.insert(group, (copies, 0));
        assert!(before.is_none(), "group {group} is divided once");
    }

    /// For how many copies a group is divided, if it is.
    pub(super) fn copies(&self, group: u32) -> Option<u16> {
        self.groups.get(&group).map(|(copies, _)| *copies)
    }

    /// Groups that are divided, and of which no block has an owner.
    pub(super) fn empty(&self) -> Vec<u32> {
        let empty = self.groups.iter().filter(|(_, (_, used))| *used == 0);
        empty.map(|(group, _)| *group).collect()
    }

    /// How many blocks of a group have an owner.
    fn used(&mut self, group: u64) -> &mut u64 {
        match self.groups.get_mut(&(group as u32)) {
            Some((_, used)) => used,
            None => unreachable!("a block of group {group} has an owner, and it is not divided"),
        }
    }

    /// Blocks that were taken have an owner.
    fn count_taken(&mut self, runs: &[DiskRun]) {
        for run in runs {
            let (mut start, end) = (run.start, run.start + u64::from(run.blocks));
            while start < end {
                let Some((group, within)) = self.layout.group_of(start) else {
                    unreachable!("{run:?} is in a group")
                };
                let here = (self.layout.group_blocks() - within).min(end - start);
                *self.used(group) += here;
                start += here;
            }
        }
    }

    /// Makes a group one again, if no block of it has an owner.
    pub(super) fn reunite(&mut self, group: u32) -> bool {
        let Some((copies, 0)) = self.groups.get(&group).copied() else { return false };
        for set in MirrorSet::of_group(self.mirrors, copies, group.into()) {
            let at = self.index_of(set);
            let parted = self.sets[at].space.part_with(group);
            assert!(parted.is_some(), "all of group {group} is free");
        }
        self.groups.remove(&group);
        true
    }

    /// A block is free again. Gives its group, if no block of that has an owner any more.
    pub(super) fn give(&mut self, place: Place) -> Option<u32> {
        let at = self.index_of(place.mirrors());
        self.sets[at].space.give(place);
        let (group, _) = self.layout.group_of(place.block())?;
        let used = self.used(group);
        *used -= 1;
        (*used == 0).then_some(group as u32)
    }

    /// A block has an owner, as recovery finds; `divide` has a group divided that is not.
    pub(super) fn claim(
        &mut self,
        place: Place,
        divide: impl FnOnce(u32) -> Option<()>,
    ) -> Result<(), SpaceError> {
        let (disk, block, domain) = (place.target(), place.block(), self.domain);
        let elsewhere = SpaceError::Elsewhere { disk, block, domain };
        let (group, _) = self.layout.group_of(block).ok_or(elsewhere)?;
        let (set, copies) = (place.mirrors(), place.mirrors().copies(self.mirrors));
        if !set.is_of_group(self.mirrors, group) {
            return Err(elsewhere);
        }
        let group = group as u32;
        match self.copies(group) {
            Some(known) if known == copies => {}
            Some(_) => return Err(SpaceError::TwoOwners { disk, block }),
            None => {
                divide(group).ok_or(SpaceError::TwoOwners { disk, block })?;
                self.divide(group, copies);
            }
        }
        let at = self.index_of(set);
        self.sets[at].space.claim(place)?;
        *self.used(group.into()) += 1;
        Ok(())
    }

    fn of_copies(&self, copies: u16) -> impl Iterator<Item = (usize, &SetSpace)> {
        let mirrors = self.mirrors;
        let sets = self.sets.iter().enumerate();
        sets.filter(move |(_, set)| set.set.copies(mirrors) == copies)
    }

    /// Blocks without an owner of groups that are divided for so many copies, of the sets that are
    /// usable.
    pub(super) fn free_of(&self, copies: u16, usable: impl Fn(MirrorSet) -> bool) -> u64 {
        let sets = self.of_copies(copies).filter(|(_, set)| usable(set.set));
        sets.map(|(_, set)| set.space.free_blocks()).sum()
    }

    /// Takes up to so many blocks of one set, of those that are usable: the one whose turn it is,
    /// else the one with most.
    pub(super) fn take(
        &mut self,
        copies: u16,
        blocks: u32,
        usable: impl Fn(MirrorSet) -> bool,
    ) -> Option<Vec<DiskRun>> {
        let free = |set: &SetSpace| set.space.free_blocks();
        let (mut chosen, mut left) = self.turns[usize::from(copies)];
        let fits = self.sets.get(chosen).is_some_and(|set| {
            let is_one = set.set.copies(self.mirrors) == copies && usable(set.set);
            is_one && free(set) >= blocks.into()
        });
        if left < blocks || !fits {
            let sets = self.of_copies(copies).filter(|(_, set)| usable(set.set) && free(set) > 0);
            let most = sets.max_by_key(|(at, set)| (free(set), std::cmp::Reverse(*at)));
            (chosen, left) = (most?.0, TURN_BLOCKS);
        }
        self.turns[usize::from(copies)] = (chosen, left.saturating_sub(blocks));
        let space = &mut self.sets[chosen].space;
        let here = space.free_blocks().min(blocks.into()) as u32;
        let runs = space.take(here)?;
        self.count_taken(&runs);
        Some(runs)
    }

    /// All blocks of divided groups, those of each set by themselves.
    pub(super) fn blocks(&self) -> u64 {
        self.sets.iter().map(|set| set.space.blocks()).sum()
    }

    /// Of these, those without an owner.
    pub(super) fn free_blocks(&self) -> u64 {
        self.sets.iter().map(|set| set.space.free_blocks()).sum()
    }
}
