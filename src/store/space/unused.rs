//! Which parts of a domain's space had blocks freed since the disk was last told: a bit for each.

/// Parts with blocks that were freed, in the order of their places, round and round.
#[derive(Debug, Default)]
pub(super) struct Unused {
    /// Blocks of a part; 0: the disk is never told.
    part_blocks: u64,
    /// Whole parts.
    parts: u64,
    words: Vec<u64>,
    marked: u64,
    /// The part to look at next.
    cursor: u64,
}

impl Unused {
    /// Of a space of so many blocks, all of them as the disk knows them.
    pub(super) fn new(blocks: u64, part_blocks: u64) -> Unused {
        let parts = blocks.checked_div(part_blocks).unwrap_or(0);
        let words = vec![0; parts.div_ceil(64) as usize];
        Unused { part_blocks, parts, words, marked: 0, cursor: 0 }
    }

    /// Blocks of a part.
    pub(super) fn part_blocks(&self) -> u64 {
        self.part_blocks
    }

    /// A block was freed. The last part, if it is not whole, is never told of.
    pub(super) fn mark(&mut self, block: u64) {
        let part = block.checked_div(self.part_blocks);
        let Some(part) = part.filter(|part| *part < self.parts) else { return };
        let (word, bit) = ((part / 64) as usize, 1 << (part % 64));
        let Some(word) = self.words.get_mut(word) else { return };
        self.marked += u64::from(*word & bit == 0);
        *word |= bit;
    }

    /// Takes the next marked part off; its number.
    pub(super) fn next(&mut self) -> Option<u64> {
        if self.marked == 0 {
            return None;
        }
        let count = self.words.len();
        let first = (self.cursor / 64) as usize % count;
        for step in 0..=count {
            let word = (first + step) % count;
            let mut bits = self.words[word];
            if step == 0 {
                bits &= u64::MAX << (self.cursor % 64);
            }
            if bits != 0 {
                let part = word as u64 * 64 + u64::from(bits.trailing_zeros());
                self.take(part);
                return Some(part);
            }
        }
        None
    }

    /// Takes a part off if it is marked.
    pub(super) fn take(&mut self, part: u64) -> bool {
        let (word, bit) = ((part / 64) as usize, 1 << (part % 64));
        let Some(word) = self.words.get_mut(word).filter(|word| **word & bit != 0) else {
            return false;
        };
        *word &= !bit;
        self.marked -= 1;
        self.cursor = part + 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_taken_in_order_round_and_round() {
        let mut unused = Unused::new(256 * 200 + 100, 256);
        assert_eq!(unused.next(), None);
        for block in [0, 255, 256 * 199, 256 * 70 + 9, 256 * 200 + 99] {
            unused.mark(block);
        }
        assert_eq!([unused.next(), unused.next()], [Some(0), Some(70)]);
        unused.mark(3);
        assert!(unused.take(199) && !unused.take(199) && !unused.take(1 << 40));
        assert_eq!([unused.next(), unused.next()], [Some(0), None]);
    }

    #[test]
    fn a_disk_that_is_never_told_costs_nothing() {
        let mut unused = Unused::new(1 << 30, 0);
        unused.mark(7);
        assert_eq!((unused.next(), unused.words.len()), (None, 0));
    }
}
