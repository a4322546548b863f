//! The blocks of a domain, on all disks of its pool: who may have some, and what must stay free.
//!
//! Some free blocks are not for data: a checkpoint needs homes for pages that have none yet, also
//! when the disks are full. **Promises** count the pages that requests on their way may make
//! necessary; a block that is freed belongs to nobody before the flush that made it free.
//!
//! Each request goes to one disk where one has room for it. Disks take turns, each as often as its
//! share of the free blocks: a new, empty disk gets more than the others and never all. One that is
//! much slower than the others gets as much less, and one to which much more is on its way nothing
//! until that has arrived (`pace`). A turn is some blocks long, so that small requests of one batch
//! are on few disks: its commit flushes each that it wrote to, and waits for the slowest.
//!
//! A slot that is leaving has no space to be had, but for what was promised before: it is taken
//! there when no other slot has as much.

mod disk_space;
mod divided;
mod numbering;
mod pace;
mod unused;

use crate::format::deed::GroupId;
use crate::format::extent::Place;
use crate::format::fragment::Fragment;
use crate::format::label::MIRROR_MAX;
use crate::format::layout::Layout;
use crate::format::mirror_set::MirrorSet;
use crate::format::removals::SlotFate;
use crate::store::allocator::Run;
use crate::store::domain::SlotUse;
use crate::store::member::Fitness;
use disk_space::DiskSpace;
use divided::Divided;
use pace::{Measure, Pace};

/// Blocks that data never gets: for the parents of new pages.
const RESERVE_BLOCKS: u64 = 32;
/// Blocks of a turn: 256 KiB, beyond which a batch gains more by several disks than their flushes
/// cost.
const TURN_BLOCKS: u32 = 64;

/// A run of blocks that are neighbours on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskRun {
    /// Slot of the disk.
    pub(crate) disk: u16,
    pub(crate) start: u64,
    pub(crate) blocks: u32,
}

/// A run that nobody gets while the disk is told that it is unused.
#[derive(Debug)]
pub(crate) struct HeldRun {
    /// Slot of the disk.
    pub(crate) disk: u16,
    run: Run,
    pub(crate) disk_block: u64,
    pub(crate) blocks: u64,
}

/// A block that two owners claim, or none has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpaceError {
    #[error("block {block} of disk {disk} is in no allocation group of domain {domain}")]
    Elsewhere { disk: u16, block: u64, domain: u16 },
    #[error("block {block} of disk {disk} has two owners")]
    TwoOwners { disk: u16, block: u64 },
}

/// What a domain has of one disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Zones of the disk.
    pub(crate) layout: Layout,
    /// The disk is told of what becomes free in parts of so many blocks; 0: never.
    pub(crate) part_blocks: u64,
    /// Mirrors of its slot.
    pub(crate) mirrors: u16,
}

/// How many copies data has: as many as its pool has mirrors, or fewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Copies {
    /// One on each mirror of a slot.
    #[default]
    All,
    /// So many, 1 to 3.
    Fewer(u16),
}

impl Copies {
    /// Kinds of copies that there are.
    pub(crate) const KINDS: usize = 4;

    /// Its number among them.
    pub(crate) fn kind(self) -> usize {
        match self {
            Copies::All => 0,
            Copies::Fewer(copies) => usize::from(copies),
        }
    }
}

/// How well a set of mirrors in a slot takes data.
pub(crate) type Fit<'a> = &'a dyn Fn(u16, MirrorSet) -> Fitness;

#[derive(Debug)]
struct Member {
    space: DiskSpace,
    divided: Divided,
    /// What it is owed of the requests so far, in blocks: the turn is of whom most is owed to.
    owed: i128,
    pace: Pace,
    fate: SlotFate,
}

impl Member {
    /// Blocks that are to be had.
    fn room(&self) -> u64 {
        match self.fate {
            SlotFate::Stays => self.room_if_need_be(),
            SlotFate::Leaving | SlotFate::Gone => 0,
        }
    }

    /// Also where nothing ought to go any more.
    fn room_if_need_be(&self) -> u64 {
        match self.fate {
            SlotFate::Stays | SlotFate::Leaving => self.space.free_blocks() - self.space.held(),
            SlotFate::Gone => 0,
        }
    }

    /// All blocks, and those without an owner: of a divided group, of each set by themselves.
    fn counts(&self) -> (u64, u64) {
        let (blocks, free) = (self.space.blocks(), self.space.free_blocks());
        (blocks + self.divided.blocks(), free + self.divided.free_blocks())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Space {
    domain: u16,
    /// By slot.
    members: Vec<Member>,
    promised: u64,
    /// The same of data with fewer copies, by their number.
    promised_fewer: [u64; Copies::KINDS],
    /// Whose turn it is, and how many blocks it still has.
    turn: (usize, u32),
    /// Where the next small requests that are to be neighbours go, while there is room.
    beside: usize,
    /// Whose freed blocks are looked at next.
    unused_next: usize,
}

impl Space {
    /// All of it is free. The disks are by slot.
    pub(crate) fn new(domain: u16, disks: &[Share]) -> Space {
        let members = Vec::new();
        let mut space = Space {
            domain,
            members,
            promised: 0,
            promised_fewer: [0; Copies::KINDS],
            turn: (0, 0),
            beside: 0,
            unused_next: 0,
        };
        for (slot, share) in (0..).zip(disks) {
            space.add_disk(slot, share);
        }
        space
    }

    /// A disk has come, in the next slot; nothing changes when it was here. Whether it was not.
    pub(crate) fn add_disk(&mut self, slot: u16, share: &Share) -> bool {
        let is_new = usize::from(slot) == self.members.len();
        if is_new {
            let space = DiskSpace::new(share.layout, self.domain, slot, share.part_blocks);
            let fate = SlotFate::Stays;
            let divided = Divided::new(share.layout, self.domain, slot, share.mirrors);
            self.members.push(Member { space, divided, owed: 0, pace: Pace::default(), fate });
        }
        is_new
    }

    /// The disk in a slot has more groups than before.
    pub(crate) fn grow(&mut self, slot: u16, layout: Layout) {
        if let Some(member) = self.members.get_mut(usize::from(slot)) {
            member.space.grow(layout);
            member.divided.grow(layout);
        }
    }

    /// What becomes of a slot: what is free there is not to be had while it is leaving, and never
    /// again once it is gone.
    pub(crate) fn set_fate(&mut self, slot: u16, fate: SlotFate) {
        if let Some(member) = self.members.get_mut(usize::from(slot)) {
            member.fate = fate;
        }
    }

    /// What becomes of a slot, as far as this domain knows.
    pub(crate) fn fate(&self, slot: u16) -> SlotFate {
        self.members.get(usize::from(slot)).map_or(SlotFate::Stays, |member| member.fate)
    }

    /// Blocks of a slot that have an owner.
    pub(crate) fn used(&self, slot: u16) -> u64 {
        let member = self.members.get(usize::from(slot));
        member.map_or(0, |member| {
            let (blocks, free) = member.counts();
            blocks - free
        })
    }

    /// Blocks of a slot that its disk is being told of.
    pub(crate) fn held(&self, slot: u16) -> u64 {
        self.members.get(usize::from(slot)).map_or(0, |member| member.space.held())
    }

    /// Blocks that are to be had, whatever they are kept for.
    pub(crate) fn room(&self) -> u64 {
        self.members.iter().map(Member::room).sum()
    }

    /// What there is of each slot, but for those that are gone.
    pub(crate) fn slots(&self) -> Vec<SlotUse> {
        let all = (0..).zip(&self.members);
        let there = all.filter(|(_, member)| member.fate != SlotFate::Gone);
        let slot = |(slot, member): (u16, &Member)| {
            let (blocks, free) = member.counts();
            SlotUse { slot, blocks, used_blocks: blocks - free }
        };
        there.map(slot).collect()
    }

    fn sum(&self, of: impl Fn((u64, u64)) -> u64) -> u64 {
        let there = self.members.iter().filter(|member| member.fate != SlotFate::Gone);
        there.map(|member| of(member.counts())).sum()
    }

    /// Blocks that have no owner.
    pub(crate) fn free_blocks(&self) -> u64 {
        self.sum(|(_, free)| free)
    }

    /// All blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.sum(|(blocks, _)| blocks)
    }

    /// Blocks that data may have, when pages want `pages` blocks.
    pub(crate) fn available(&self, pages: u64) -> u64 {
        self.room().saturating_sub(RESERVE_BLOCKS + self.promised + pages)
    }

    /// Whether less than nothing is available: what is left is not enough for what was promised.
    pub(crate) fn is_short(&self, pages: u64) -> bool {
        let room = self.room();
        let staying = || self.members.iter().filter(|member| member.fate == SlotFate::Stays);
        let is_short = |(copies, promised): (u16, &u64)| {
            let free: u64 = staying().map(|m| m.divided.free_of(copies, |_| true)).sum();
            free < *promised
        };
        room < RESERVE_BLOCKS + self.promised + pages
            || (0..).zip(&self.promised_fewer).skip(1).any(is_short)
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
        self.promised + self.promised_fewer.iter().sum::<u64>()
    }

    /// Blocks that data on its way has been promised.
    pub(crate) fn promise_data(&mut self, copies: Copies, blocks: u64) {
        match copies {
            Copies::All => self.promised += blocks,
            Copies::Fewer(_) => self.promised_fewer[copies.kind()] += blocks,
        }
    }

    /// Takes such a promise back.
    pub(crate) fn release_data(&mut self, copies: Copies, blocks: u64) {
        match copies {
            Copies::All => self.promised -= blocks,
            Copies::Fewer(_) => self.promised_fewer[copies.kind()] -= blocks,
        }
    }

    /// Takes blocks for data in as few runs as can be; nothing when there are not so many.
    pub(crate) fn take_data(
        &mut self,
        copies: Copies,
        blocks: u32,
        fitness: Fit<'_>,
    ) -> Option<Vec<DiskRun>> {
        let Copies::Fewer(number) = copies else { return self.take(blocks) };
        let (mut runs, mut left) = (Vec::new(), blocks);
        // Where the disks have failed since it was promised, what is written there fails.
        for least in [Fitness::Whole, Fitness::Degraded, Fitness::Unfit] {
            while left > 0 {
                let usable = |slot, set| fitness(slot, set) >= least;
                let Some(some) = self.take_divided(number, left, &usable) else { break };
                left -= some.iter().map(|run| run.blocks).sum::<u32>();
                runs.extend(some);
            }
        }
        (left == 0).then_some(runs)
    }

    /// Takes up to so many blocks of the slot with most of those that are free.
    fn take_divided(
        &mut self,
        copies: u16,
        blocks: u32,
        usable: &dyn Fn(u16, MirrorSet) -> bool,
    ) -> Option<Vec<DiskRun>> {
        let of = |(slot, member): (u16, &Member)| {
            let free = member.divided.free_of(copies, |set| usable(slot, set));
            (member.fate == SlotFate::Stays, free)
        };
        let all = (0..).zip(&self.members).filter(|all| all.1.fate != SlotFate::Gone);
        let some = all.filter(|all| of(*all).1 > 0);
        let (slot, _) = some.max_by_key(|all| (of(*all), std::cmp::Reverse(all.0)))?;
        let divided = &mut self.members[usize::from(slot)].divided;
        divided.take(copies, blocks, |set| usable(slot, set))
    }

    /// A free group of which a set of mirrors is usable. Each begins with another one, so that few
    /// are looked at.
    fn find_usable_group(
        &mut self,
        copies: u16,
        usable: &dyn Fn(u16, MirrorSet) -> bool,
    ) -> Option<GroupId> {
        for _ in 0..2 * MIRROR_MAX {
            let id = self.find_free_group()?;
            let mirrors = self.members[usize::from(id.slot)].divided.mirrors();
            let mut sets = MirrorSet::of_group(mirrors, copies, id.group.into());
            if sets.any(|set| usable(id.slot, set)) {
                return Some(id);
            }
        }
        None
    }

    /// Whether data with fewer copies may have so many blocks beside what was promised; groups are
    /// divided for that as far as there are some, and enough is left for pages.
    pub(crate) fn has_divided(
        &mut self,
        copies: u16,
        blocks: u64,
        pages: u64,
        fitness: Fit<'_>,
    ) -> bool {
        let usable = |slot, set| fitness(slot, set) > Fitness::Unfit;
        loop {
            let free = (0..).zip(&self.members).filter(|(_, m)| m.fate == SlotFate::Stays);
            let free = free.map(|(slot, m)| m.divided.free_of(copies, |set| usable(slot, set)));
            let promised = self.promised_fewer[Copies::Fewer(copies).kind()];
            if free.sum::<u64>() >= promised + blocks {
                return true;
            }
            let Some(id) = self.find_usable_group(copies, &usable) else { return false };
            if self.available(pages) < self.group_blocks(id.slot) || self.part_with(id).is_none() {
                return false;
            }
            self.members[usize::from(id.slot)].divided.divide(id.group, copies);
        }
    }

    /// What the slots are measured by that have room for so many blocks; by all that have any, when
    /// none has so many.
    fn measure(&self, blocks: u32) -> (Measure, u64) {
        let least = match self.members.iter().any(|member| member.room() >= blocks.into()) {
            true => u64::from(blocks),
            false => 1,
        };
        let with_room = self.members.iter().filter(|member| member.room() >= least);
        (Measure::of(with_room.map(|member| member.pace)), least)
    }

    /// Whose turn it is to take so many blocks.
    fn turn(&mut self, blocks: u32) -> usize {
        let [_, _, ..] = self.members.as_slice() else { return 0 };
        let (measure, least) = self.measure(blocks);
        let mut all = 0;
        for member in &mut self.members {
            if member.fate != SlotFate::Stays {
                member.owed = 0;
                continue;
            }
            let share = member.space.free_blocks() * member.pace.share(measure);
            member.owed += i128::from(share) * i128::from(blocks);
            all += i128::from(share);
        }
        let may = |member: &Member| member.room() >= least && member.pace.share(measure) > 0;
        let (mut chosen, mut left) = self.turn;
        if left < blocks || !may(&self.members[chosen]) {
            let open = self.members.iter().enumerate().filter(|(_, member)| may(member));
            let most = open.max_by_key(|(slot, member)| {
                // Of several the first.
                (member.owed, std::cmp::Reverse(*slot))
            });
            (chosen, left) = (most.map_or(0, |(slot, _)| slot), TURN_BLOCKS);
        }
        self.members[chosen].owed -= all * i128::from(blocks);
        self.turn = (chosen, left.saturating_sub(blocks));
        chosen
    }

    /// So many blocks are on their way to a slot.
    pub(crate) fn sent(&mut self, slot: u16, blocks: u64) {
        self.members[usize::from(slot)].pace.sent(blocks);
    }

    /// They are not any more.
    pub(crate) fn arrived(&mut self, slot: u16, blocks: u64) {
        self.members[usize::from(slot)].pace.arrived(blocks);
    }

    /// A write of so many blocks to a slot took its disks so long, or failed.
    pub(crate) fn note_write(&mut self, slot: u16, blocks: u64, service_ns: Option<u64>) {
        let pace = &mut self.members[usize::from(slot)].pace;
        match service_ns {
            Some(service_ns) => pace.took(blocks, service_ns),
            None => pace.failed(),
        }
    }

    /// Takes blocks in as few runs as can be; nothing when there are not so many.
    pub(crate) fn take(&mut self, blocks: u32) -> Option<Vec<DiskRun>> {
        let first = self.turn(blocks);
        let member = &mut self.members[first];
        if member.fate == SlotFate::Stays
            && let Some(runs) = member.space.take(blocks)
        {
            return Some(runs);
        }
        let rooms = || self.members.iter().map(Member::room_if_need_be);
        if rooms().sum::<u64>() < u64::from(blocks) {
            return None;
        }
        let (mut runs, mut left) = (Vec::new(), blocks);
        let count = self.members.len();
        let mut slots: Vec<usize> = (first..count).chain(0..first).collect();
        // Where too much is on its way already, late; where nothing ought to go, last.
        let (measure, _) = self.measure(blocks);
        slots.sort_by_key(|slot| {
            let member = &self.members[*slot];
            (member.fate != SlotFate::Stays, member.pace.share(measure) == 0)
        });
        for slot in slots {
            let member = &mut self.members[slot];
            let here = member.room_if_need_be().min(left.into()) as u32;
            if here > 0 {
                let Some(some) = member.space.take(here) else {
                    unreachable!("{here} blocks are free")
                };
                runs.extend(some);
                left -= here;
            }
        }
        assert_eq!(left, 0, "there were as many blocks");
        Some(runs)
    }

    /// As [`Space::take`], behind what the last call took as far as space allows: what small
    /// requests write home later goes in one write.
    pub(crate) fn take_beside(&mut self, blocks: u32) -> Option<Vec<DiskRun>> {
        if !self.members[self.beside].space.has_beside(blocks) || self.is_crowded(self.beside) {
            self.beside = self.turn(blocks);
        }
        let member = &mut self.members[self.beside];
        let stays = member.fate == SlotFate::Stays;
        match stays.then(|| member.space.take_beside(blocks)).flatten() {
            Some(runs) => Some(runs),
            None => self.take(blocks),
        }
    }

    /// Whether too much is on its way to a slot, or nothing ought to go there.
    fn is_crowded(&self, slot: usize) -> bool {
        let [_, _, ..] = self.members.as_slice() else { return false };
        let (measure, _) = self.measure(1);
        let member = &self.members[slot];
        member.fate != SlotFate::Stays || member.pace.share(measure) == 0
    }

    /// Two homes for a page, which need not be neighbours.
    pub(crate) fn take_homes(&mut self) -> Option<[Fragment; 2]> {
        let runs = self.take(2)?;
        let mut blocks = runs.iter().flat_map(|run| {
            let blocks = run.start..run.start + u64::from(run.blocks);
            blocks.map(|block| (run.disk, block))
        });
        let mut home = || blocks.next().and_then(|(disk, block)| Fragment::new(disk, block, 1));
        Some([home()?, home()?])
    }

    /// A block is free again.
    ///
    /// # Panics
    /// When it was: two owners would be next.
    pub(crate) fn give(&mut self, place: Place) {
        let Some(member) = self.members.get_mut(usize::from(place.slot())) else {
            unreachable!("{}", self.elsewhere(place))
        };
        if place.mirrors().is_all() {
            return member.space.give(place);
        }
        if let Some(group) = member.divided.give(place) {
            self.reunite(GroupId { slot: place.slot(), group });
        }
    }

    /// Makes a group one again of which no block has an owner, unless something was promised that
    /// may need it.
    fn reunite(&mut self, id: GroupId) {
        let member = &mut self.members[usize::from(id.slot)];
        let Some(copies) = member.divided.copies(id.group) else { return };
        if self.promised_fewer[Copies::Fewer(copies).kind()] == 0
            && member.divided.reunite(id.group)
        {
            let gained = member.space.gain(id.group);
            assert!(gained.is_some(), "a group that was divided was not here");
            member.space.mark_unused(id.group);
        }
    }

    /// The same of all groups that are divided and empty.
    pub(crate) fn reunite_all(&mut self) {
        for slot in 0..self.members.len() {
            for group in self.members[slot].divided.empty() {
                self.reunite(GroupId { slot: slot as u16, group });
            }
        }
    }

    /// Takes a run that was freed since its disk was told, up to so many blocks, unless somebody
    /// could need it meanwhile.
    pub(crate) fn hold_unused(&mut self, blocks_max: u64, pages: u64) -> Option<HeldRun> {
        // Half of what is free stays free for whoever comes.
        let most = blocks_max.min(self.available(pages) / 2);
        let count = self.members.len();
        let turn = (self.unused_next..count).chain(0..self.unused_next);
        let turn = turn.filter(|slot| self.members[*slot].fate == SlotFate::Stays);
        let turn: Vec<usize> = turn.collect();
        let mut found =
            turn.into_iter().filter_map(|slot| self.members[slot].space.hold_unused(most));
        let held = found.next()?;
        self.unused_next = (usize::from(held.disk) + 1) % count;
        Some(held)
    }

    /// The disk was told.
    pub(crate) fn put_back(&mut self, held: HeldRun) {
        self.members[usize::from(held.disk)].space.put_back(held);
    }

    /// A disk does not want to know what is unused.
    pub(crate) fn stop_telling(&mut self, disk: u16) {
        if let Some(member) = self.members.get_mut(usize::from(disk)) {
            member.space.stop_telling();
        }
    }

    /// A group that it has and of which every block is free, on the disk with most free blocks that
    /// has one.
    pub(crate) fn find_free_group(&mut self) -> Option<GroupId> {
        let mut slots: Vec<u16> = (0..self.members.len() as u16).collect();
        slots.retain(|slot| self.fate(*slot) == SlotFate::Stays);
        let free = |slot: &u16| self.members[usize::from(*slot)].space.free_blocks();
        slots.sort_by_key(|slot| std::cmp::Reverse(free(slot)));
        slots.into_iter().find_map(|slot| {
            let found = self.members[usize::from(slot)].space.find_free_group();
            found.map(|group| GroupId { slot, group })
        })
    }

    /// Whether some disk has so many free blocks in a row.
    pub(crate) fn has_run(&self, blocks: u32) -> bool {
        let staying = self.members.iter().filter(|member| member.fate == SlotFate::Stays);
        staying.into_iter().any(|member| member.space.has_run(blocks))
    }

    /// Blocks of the largest group of those that stay.
    pub(crate) fn group_blocks_max(&self) -> u64 {
        let staying = self.members.iter().filter(|member| member.fate == SlotFate::Stays);
        staying.map(|member| member.space.group_blocks()).max().unwrap_or(0)
    }

    /// Blocks of a group.
    pub(crate) fn group_blocks(&self, slot: u16) -> u64 {
        self.members.get(usize::from(slot)).map_or(0, |member| member.space.group_blocks())
    }

    /// Another domain has a group. Nothing when this one has not, or not all of it is free.
    pub(crate) fn part_with(&mut self, id: GroupId) -> Option<()> {
        self.members.get_mut(usize::from(id.slot))?.space.part_with(id.group)
    }

    /// The domain has a group, of which every block is free. Nothing when it had it.
    pub(crate) fn gain(&mut self, id: GroupId) -> Option<()> {
        self.members.get_mut(usize::from(id.slot))?.space.gain(id.group)
    }

    /// A block has an owner, as recovery finds.
    pub(crate) fn claim(&mut self, place: Place) -> Result<(), SpaceError> {
        let elsewhere = self.elsewhere(place);
        let member = self.members.get_mut(usize::from(place.slot()));
        let member = member.filter(|member| member.fate != SlotFate::Gone).ok_or(elsewhere)?;
        if place.mirrors().is_all() {
            return member.space.claim(place);
        }
        let Member { space, divided, .. } = member;
        divided.claim(place, |group| space.part_with(group))
    }

    fn elsewhere(&self, place: Place) -> SpaceError {
        let (disk, block, domain) = (place.target(), place.block(), self.domain);
        SpaceError::Elsewhere { disk, block, domain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(bytes: u64) -> Share {
        Share { layout: Layout::plan(bytes, 1, 1 << 20).unwrap(), part_blocks: 256, mirrors: 1 }
    }

    fn space() -> Space {
        Space::new(0, &[share(64 << 20)])
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
        assert_eq!(one, Some(vec![DiskRun { disk: 0, start: runs[0].start, blocks: 1 }]));
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

    #[test]
    fn a_disk_that_grows_has_the_groups_behind_what_it_had() {
        for domains in [1, 3] {
            let small = Layout::plan(64 << 20, domains, 1 << 20).unwrap();
            let large = small.for_disk(200 << 20).unwrap();
            let share = Share { layout: small, part_blocks: 256, mirrors: 1 };
            let mut space = Space::new(domains - 1, &[share]);
            let before = space.free_blocks();
            let taken = space.take(before as u32).unwrap();
            space.grow(0, large);
            space.grow(0, large);
            assert_eq!(space.blocks(), large.space_blocks());
            let rest = space.take((large.space_blocks() - before) as u32).unwrap();
            let end = small.zone(crate::format::layout::Zone::Data).end / 4096;
            assert!(rest.iter().all(|run| run.start >= end), "{rest:?}");
            assert!(domains > 1 || rest.len() == 1, "neighbours are one run: {rest:?}");
            let all = taken.iter().chain(&rest);
            let mut known =
                Space::new(domains - 1, &[Share { layout: large, part_blocks: 0, mirrors: 1 }]);
            for run in all {
                (run.start..run.start + u64::from(run.blocks))
                    .for_each(|block| known.claim(Place::new(0, block)).unwrap());
            }
            assert_eq!((space.free_blocks(), known.free_blocks()), (0, 0));
        }
    }

    /// Disks of 64, 128 and 256 MiB, the first of which is half full, get data by what is free of
    /// each, turn by turn, and the last block of each is to be had.
    #[test]
    fn disks_are_filled_by_what_is_free_of_each() {
        let disks = [share(64 << 20), share(128 << 20), share(256 << 20)];
        let mut space = Space::new(0, &disks);
        let half = space.members[0].space.free_blocks() as u32 / 2;
        space.members[0].space.take(half).unwrap();
        let free = |space: &Space| -> Vec<u64> {
            space.members.iter().map(|member| member.space.free_blocks()).collect()
        };
        let before = free(&space);
        let all = space.free_blocks();
        let (mut last, mut longest, mut row) = (3, 0, 0);
        for _ in 0..all / 40 {
            let runs = space.take(10).unwrap();
            row = if runs[0].disk == last { row + 1 } else { 1 };
            (last, longest) = (runs[0].disk, longest.max(row));
        }
        for (disk, before) in before.iter().enumerate() {
            let share = free(&space)[disk] as f64 / *before as f64;
            assert!((0.74..0.76).contains(&share), "disk {disk} has {share} left of what was free");
        }
        let turn = TURN_BLOCKS / 10;
        assert!(longest < 8 * turn, "a disk got {longest} requests in a row");
        let left = space.free_blocks() as u32;
        let rest = space.take(left).unwrap();
        assert_eq!(rest.iter().map(|run| run.blocks).sum::<u32>(), left);
        assert_eq!((space.free_blocks(), space.take(1)), (0, None));
        for disk in [0, 2] {
            let run = rest.iter().find(|run| run.disk == disk).unwrap();
            space.give(Place::new(disk, run.start));
        }
        let homes = space.take_homes().unwrap().map(Fragment::slot);
        assert_eq!(homes.iter().sum::<u16>(), 2, "one on each disk that has one");
    }

    /// Cause: a slot that was nearly full was the one with least on its way. Harm: all others had
    /// too much, and requests were cut to its last blocks. Fix: who has no room is no measure.
    #[test]
    fn a_slot_that_is_nearly_full_is_left_to_what_fits() {
        let disks = [share(64 << 20), share(64 << 20), share(64 << 20)];
        let mut space = Space::new(0, &disks);
        let most = space.members[0].space.free_blocks() as u32 - 3;
        space.members[0].space.take(most).unwrap();
        for _ in 0..100 {
            let runs = space.take(16).unwrap();
            assert!(runs.len() == 1 && runs[0].disk != 0, "{runs:?}");
            space.sent(runs[0].disk, 1000);
        }
        // One that has not answered gets nothing, unless nobody else has room.
        space.sent(1, 1_000_000);
        for _ in 0..100 {
            assert_eq!(space.take(16).unwrap()[0].disk, 2);
        }
        let left = space.members[2].space.free_blocks() as u32;
        space.members[2].space.take(left - 8).unwrap();
        let runs = space.take(16).unwrap();
        assert_eq!(runs.iter().map(|run| run.disk).collect::<Vec<_>>(), [1]);
    }
}
