//! Which disks of a slot hold a block: all of them, or some.
//!
//! An inode may have fewer copies than its pool has mirrors. Its data lies in allocation groups
//! that are **divided**: each block number of such a group is several blocks, on disks of its slot
//! that have none in common. What a place names as its disk is the slot in bits 0 to 7 and the set
//! of mirrors in bits 8 to 15, a bit each; no bit: all mirrors. Of a slot with `m` mirrors, group
//! `g` is divided for `k` copies into the `m / k` sets that begin with mirror `g`, then `g + k` and
//! so on, each of the next `k` mirrors, counted modulo `m`. A group is divided while something
//! refers to a block of it that not all mirrors have, and for one number of copies; nothing else
//! says so.

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorSet(u8);

/// Bits of the slot in what a place names as its disk.
const SLOT_BITS: u32 = 8;

impl MirrorSet {
    /// All mirrors of the slot.
    pub const ALL: MirrorSet = MirrorSet(0);

    /// Of what a place names as its disk.
    ///
    /// ```
    /// use dynamicfs::format::mirror_set::MirrorSet;
    ///
    /// assert_eq!(MirrorSet::of_target(7), (7, MirrorSet::ALL));
    /// let (slot, set) = MirrorSet::of_target(0x0203);
    /// assert!(slot == 3 && set.includes(1) && !set.includes(0));
    /// ```
    pub const fn of_target(target: u16) -> (u16, MirrorSet) {
        (target & 0xff, MirrorSet((target >> SLOT_BITS) as u8))
    }

    /// What a place names as its disk.
    pub const fn target(self, slot: u16) -> u16 {
        slot | (self.0 as u16) << SLOT_BITS
    }

    /// Its bits, one for each mirror; 0: all.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set with these bits.
    pub const fn of_bits(bits: u8) -> MirrorSet {
        MirrorSet(bits)
    }

    /// Whether all mirrors are in it.
    pub const fn is_all(self) -> bool {
        self.0 == 0
    }

    /// Whether the mirror of that number is in it.
    pub const fn includes(self, number: u16) -> bool {
        self.is_all() || number < 8 && self.0 >> number & 1 == 1
    }

    /// Whether some mirror is in both.
    pub const fn overlaps(self, other: MirrorSet) -> bool {
        self.is_all() || other.is_all() || self.0 & other.0 != 0
    }

    /// How many mirrors are in it, of a slot with so many.
    pub const fn copies(self, mirrors: u16) -> u16 {
        if self.is_all() { mirrors } else { self.0.count_ones() as u16 }
    }

    /// The sets into which a group is divided for so many copies, 1 to `mirrors - 1`.
    pub fn of_group(mirrors: u16, copies: u16, group: u64) -> impl Iterator<Item = MirrorSet> {
        let first = (group % u64::from(mirrors.max(1))) as u16;
        (0..mirrors / copies.max(1)).map(move |set| {
            let numbers = (0..copies).map(|n| (first + set * copies + n) % mirrors);
            MirrorSet(numbers.fold(0, |bits, number| bits | 1 << number))
        })
    }

    /// Whether it is one of those of a group.
    pub fn is_of_group(self, mirrors: u16, group: u64) -> bool {
        let copies = self.copies(mirrors);
        (1..mirrors).contains(&copies)
            && MirrorSet::of_group(mirrors, copies, group).any(|set| set == self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_of_a_group_have_no_mirror_in_common() {
        for mirrors in 2..=4 {
            for copies in 1..mirrors {
                for group in 0..9 {
                    let sets: Vec<_> = MirrorSet::of_group(mirrors, copies, group).collect();
                    assert_eq!(sets.len(), usize::from(mirrors / copies));
                    for (n, set) in sets.iter().enumerate() {
                        assert_eq!(set.copies(mirrors), copies);
                        assert!((0..mirrors).filter(|m| set.includes(*m)).count() as u16 == copies);
                        assert!(set.is_of_group(mirrors, group) && set.overlaps(MirrorSet::ALL));
                        assert!(sets[..n].iter().all(|other| !other.overlaps(*set)));
                        assert_eq!(MirrorSet::of_target(set.target(200)), (200, *set));
                    }
                }
            }
        }
        let every: std::collections::BTreeSet<_> =
            (0..4).flat_map(|group| MirrorSet::of_group(4, 3, group)).collect();
        assert_eq!(every.len(), 4, "every mirror is left out as often");
        assert!(!MirrorSet::ALL.is_of_group(4, 0));
    }
}
