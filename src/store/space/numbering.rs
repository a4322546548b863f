//! How the blocks that a domain has on a disk are numbered: its own allocation groups one after
//! another, then groups that it has got since it was opened.

use std::collections::BTreeMap;

use crate::format::layout::Layout;

/// See the module.
#[derive(Debug)]
pub(super) struct Numbering {
    layout: Layout,
    domain: u16,
    /// Its own groups when it was made: more of them come behind as others do.
    own_groups: u64,
    /// Groups of the disk that follow its own, by their place; none where one went away again.
    others: Vec<Option<u64>>,
    /// The place of each.
    places: BTreeMap<u64, usize>,
}

impl Numbering {
    pub(super) fn new(layout: Layout, domain: u16) -> Numbering {
        let (own_groups, others) = (layout.groups_per_domain(), Vec::new());
        Numbering { layout, domain, own_groups, others, places: BTreeMap::new() }
    }

    /// Blocks of a group.
    pub(super) fn group_blocks(&self) -> u64 {
        self.layout.group_blocks()
    }

    /// Blocks of its own groups.
    fn own_blocks(&self) -> u64 {
        self.own_groups * self.group_blocks()
    }

    /// Groups that there are numbers for.
    pub(super) fn groups(&self) -> u64 {
        self.own_groups + self.others.len() as u64
    }

    /// The disk has more groups: which of them are its own and have no number yet.
    pub(super) fn grow(&mut self, layout: Layout) -> Vec<u64> {
        let known = self.layout.groups_per_domain();
        self.layout = layout;
        let (domains, domain) = (u64::from(layout.domains()), u64::from(self.domain));
        (known..layout.groups_per_domain()).map(|own| own * domains + domain).collect()
    }

    /// The group of the disk at a place, if there is one.
    pub(super) fn group_at(&self, place: u64) -> Option<u64> {
        match place.checked_sub(self.own_groups) {
            None => Some(place * u64::from(self.layout.domains()) + u64::from(self.domain)),
            Some(other) => *self.others.get(other as usize)?,
        }
    }

    /// The place of a group of the disk.
    pub(super) fn place_of(&self, group: u64) -> Option<u64> {
        let domains = u64::from(self.layout.domains());
        let own = group / domains;
        if group % domains == u64::from(self.domain) && own < self.own_groups {
            return Some(own);
        }
        self.places.get(&group).map(|place| self.own_groups + *place as u64)
    }

    /// A group that is not its own gets a place: its place, and whether that is a new one, behind
    /// all others.
    pub(super) fn add(&mut self, group: u64) -> (u64, bool) {
        let free = self.others.iter().position(Option::is_none);
        let place = free.unwrap_or(self.others.len());
        if place == self.others.len() {
            self.others.push(None);
        }
        self.others[place] = Some(group);
        self.places.insert(group, place);
        (self.own_groups + place as u64, free.is_none())
    }

    /// A group that was added is gone.
    pub(super) fn remove(&mut self, group: u64) {
        if let Some(place) = self.places.remove(&group) {
            self.others[place] = None;
        }
    }

    /// The block of the disk that has a number.
    pub(super) fn disk_block(&self, number: u64) -> u64 {
        let (place, within) = (number / self.group_blocks(), number % self.group_blocks());
        let Some(group) = self.group_at(place) else {
            unreachable!("block {number} is of a group that went away")
        };
        self.layout.group_start(group) + within
    }

    /// The number of a block of the disk, if it is in a group that has a place.
    pub(super) fn number(&self, disk_block: u64) -> Option<u64> {
        let (group, within) = self.layout.group_of(disk_block)?;
        Some(self.place_of(group)? * self.group_blocks() + within)
    }

    /// How many blocks from `number` on are neighbours on the disk too.
    pub(super) fn contiguous_from(&self, number: u64) -> u64 {
        match number < self.own_blocks() && self.layout.domains() == 1 {
            true => self.own_blocks() - number,
            false => self.group_blocks() - number % self.group_blocks(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_come_first_and_others_where_there_is_a_place() {
        let layout = Layout::plan(24 << 20, 3, 1 << 20).unwrap();
        let mut numbering = Numbering::new(layout, 1);
        let (own, blocks) = (layout.groups_per_domain(), layout.group_blocks());
        assert_eq!(numbering.add(0), (own, true));
        assert_eq!(numbering.add(5), (own + 1, true));
        numbering.remove(0);
        assert_eq!((numbering.group_at(own), numbering.place_of(0)), (None, None));
        assert_eq!(numbering.add(2), (own, false));
        assert_eq!(numbering.groups(), own + 2);
        for place in 0..numbering.groups() {
            let group = numbering.group_at(place).unwrap();
            assert_eq!(numbering.place_of(group), Some(place));
            for within in [0, blocks - 1] {
                let number = place * blocks + within;
                let disk_block = numbering.disk_block(number);
                assert_eq!(disk_block, layout.group_start(group) + within);
                assert_eq!(numbering.number(disk_block), Some(number));
                assert_eq!(numbering.contiguous_from(number), blocks - within);
            }
        }
        assert_eq!(numbering.number(layout.group_start(3)), None, "another domain's");
        assert_eq!(numbering.number(layout.group_start(own * 3 + 1)), None, "behind the last");
        assert_eq!(numbering.number(0), None, "a label");
    }
}
