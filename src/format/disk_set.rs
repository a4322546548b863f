//! A set of the disks of a pool, as a label holds it.

use bytemuck::{Pod, Zeroable};

/// Most disks of a pool with copies.
pub const DISKS_MAX: usize = 256;

/// Disks by their number in the pool: bit `n % 64` of word `n / 64` is disk `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DiskSet([u64; DISKS_MAX / 64]);

impl DiskSet {
    /// No disk.
    pub const NONE: DiskSet = DiskSet([0; DISKS_MAX / 64]);

    /// Those with numbers below `count`.
    pub fn first(count: usize) -> DiskSet {
        let mut set = DiskSet::default();
        (0..count).for_each(|number| set.insert(number));
        set
    }

    /// Whether it has a disk. A number from [`DISKS_MAX`] on is in no set.
    pub fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Puts a disk in.
    ///
    /// # Panics
    /// When its number is [`DISKS_MAX`] or more.
    pub fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    /// Takes a disk out, if it is there.
    pub fn remove(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..DISKS_MAX).filter(|number| self.contains(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_in_and_out() {
        let mut set = DiskSet::first(70);
        assert_eq!((set.len(), set.contains(69), set.contains(70)), (70, true, false));
        set.insert(255);
        set.remove(3);
        set.remove(9999);
        assert!(!set.contains(3) && set.contains(255) && !set.contains(9999));
        assert_eq!(set.iter().last(), Some(255));
        assert!(DiskSet::default().is_empty());
    }
}
