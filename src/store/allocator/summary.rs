//! A set of small numbers as a bitmap of bitmaps: the next member in a step or two per level.

use super::State;

/// Bits of a word.
const BITS: usize = u64::BITS as usize;

/// Words that begin as all zeroes or all ones, and cost nothing until they change: what is stored
/// is how a word differs from its beginning, so memory that nobody wrote reads as the beginning.
#[derive(Debug)]
pub(super) struct Words {
    differences: Vec<u64>,
    beginning: u64,
}

impl Words {
    pub(super) fn new(count: usize, state: State) -> Words {
        let beginning = if state == State::Free { u64::MAX } else { 0 };
        Words { differences: vec![0; count], beginning }
    }

    pub(super) fn len(&self) -> usize {
        self.differences.len()
    }

    /// There are so many words; new ones are zeroes.
    pub(super) fn extend(&mut self, count: usize) {
        self.differences.resize(count, self.beginning);
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> u64 {
        self.differences[index] ^ self.beginning
    }

    #[inline]
    pub(super) fn put(&mut self, index: usize, word: u64) {
        self.differences[index] = word ^ self.beginning;
    }
}

/// A set of numbers below a bound.
///
/// Bit `n` of a level is set when word `n` of the level below has a bit set; the last level is one
/// word.
#[derive(Debug)]
pub(super) struct Summary {
    levels: Vec<Words>,
}

impl Summary {
    /// The numbers below `bound`: all of them (`Free`) or none.
    pub(super) fn new(bound: usize, state: State) -> Summary {
        let mut levels = Vec::new();
        let mut bits = bound;
        loop {
            let mut words = Words::new(bits.div_ceil(BITS), state);
            if state == State::Free && !bits.is_multiple_of(BITS) {
                words.put(bits / BITS, (1 << (bits % BITS)) - 1);
            }
            bits = words.len();
            levels.push(words);
            if bits <= 1 {
                return Summary { levels };
            }
        }
    }

    /// The bound rises; nothing is a member beyond the old one.
    pub(super) fn extend(&mut self, bound: usize) {
        let mut bits = bound;
        for words in &mut self.levels {
            words.extend(bits.div_ceil(BITS));
            bits = words.len();
        }
        while bits > 1 {
            let mut above = Words::new(bits.div_ceil(BITS), State::Used);
            let Some(top) = self.levels.last() else { return };
            for index in (0..bits).filter(|index| top.get(*index) != 0) {
                above.put(index / BITS, above.get(index / BITS) | 1 << (index % BITS));
            }
            bits = above.len();
            self.levels.push(above);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.levels.iter().map(|words| words.len() * size_of::<u64>()).sum()
    }

    /// Which of the 64 numbers from `index * 64` on are members.
    #[inline]
    pub(super) fn word(&self, index: usize) -> u64 {
        self.levels[0].get(index)
    }

    #[inline]
    pub(super) fn change(&mut self, number: usize, is_member: bool) {
        if is_member { self.set(number) } else { self.clear(number) }
    }

    pub(super) fn set(&mut self, number: usize) {
        let mut index = number;
        for words in &mut self.levels {
            let old = words.get(index / BITS);
            words.put(index / BITS, old | 1 << (index % BITS));
            if old != 0 {
                return;
            }
            index /= BITS;
        }
    }

    pub(super) fn clear(&mut self, number: usize) {
        let mut index = number;
        for words in &mut self.levels {
            let new = words.get(index / BITS) & !(1 << (index % BITS));
            words.put(index / BITS, new);
            if new != 0 {
                return;
            }
            index /= BITS;
        }
    }

    /// The first member that is not below `from`.
    #[inline]
    pub(super) fn next(&self, from: usize) -> Option<usize> {
        let mut index = from;
        for (level, words) in self.levels.iter().enumerate() {
            let at = index / BITS;
            if at >= words.len() {
                return None;
            }
            let rest = words.get(at) & u64::MAX << (index % BITS);
            if rest != 0 {
                return Some(self.descend(level, at * BITS + rest.trailing_zeros() as usize));
            }
            index = at + 1;
        }
        None
    }

    /// The first member that is not below `from`, or else the first of all.
    #[inline]
    pub(super) fn next_around(&self, from: usize) -> Option<usize> {
        self.next(from).or_else(|| self.next(0))
    }

    /// The first member below bit `index` of `level`, which is set.
    #[inline]
    fn descend(&self, level: usize, index: usize) -> usize {
        self.levels[..level].iter().rev().fold(index, |index, words| {
            let word = words.get(index);
            assert!(word != 0, "a summary's bit {index} is set over nothing");
            index * BITS + word.trailing_zeros() as usize
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn agrees_with_a_set() {
        for bound in [1, 2, 63, 64, 65, 4095, 4096, 4097, 5000, 300_000] {
            for state in [State::Free, State::Used] {
                let mut summary = Summary::new(bound, state);
                let all = if state == State::Free { bound } else { 0 };
                let mut set: BTreeSet<usize> = (0..all).collect();
                let mut random = 1_u64;
                for round in 0..3000 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(11);
                    let number = (random >> 20) as usize % bound;
                    // Long stretches of removing, so that whole words empty.
                    if (round / 500) % 2 == 0 {
                        summary.clear(number);
                        set.remove(&number);
                    } else {
                        summary.set(number);
                        set.insert(number);
                    }
                    let from = (random >> 7) as usize % (bound + 2);
                    let next = set.range(from..).next().copied();
                    assert_eq!(summary.next(from), next, "from {from} of {bound}");
                    assert_eq!(summary.next_around(from), next.or(set.first().copied()));
                }
            }
        }
    }

    #[test]
    fn a_bound_that_rises_keeps_its_members() {
        for (from, to) in [(0, 1), (1, 64), (63, 65), (64, 4096), (70, 5000), (4096, 300_000)] {
            for state in [State::Free, State::Used] {
                let mut summary = Summary::new(from, state);
                summary.extend(to);
                let members = if state == State::Free { from } else { 0 };
                let found: Vec<usize> =
                    std::iter::successors(summary.next(0), |last| summary.next(last + 1)).collect();
                assert_eq!(found, (0..members).collect::<Vec<_>>(), "{from} to {to}");
                summary.set(to - 1);
                assert_eq!(summary.next(members.min(to - 1)), Some(to - 1), "{from} to {to}");
                summary.clear(to - 1);
                assert_eq!(summary.next(members), None, "{from} to {to}");
            }
        }
    }

    #[test]
    fn an_empty_bound_has_no_members() {
        for state in [State::Free, State::Used] {
            assert_eq!(Summary::new(0, state).next_around(0), None);
        }
    }
}
