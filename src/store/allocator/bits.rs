//! Runs of ones inside one word.

/// Blocks of a word.
pub(super) const WORD_BLOCKS: u64 = 64;
/// Blocks of a quarter of a word: 64 KiB, an extent.
pub(super) const QUARTER_BLOCKS: u64 = 16;

/// The first bit of each quarter.
const QUARTERS: u64 = 0x0001_0001_0001_0001;

/// `count` ones from bit `offset` on; together at most 64.
pub(super) fn ones(offset: u64, count: u64) -> u64 {
    debug_assert!(offset + count <= WORD_BLOCKS, "{count} bits from bit {offset}");
    if count == 0 { 0 } else { u64::MAX >> (WORD_BLOCKS - count) << offset }
}

/// The bits where `length` ones begin; 1 to 64.
pub(super) fn run_starts(word: u64, length: u64) -> u64 {
    debug_assert!((1..=WORD_BLOCKS).contains(&length), "a run of {length} in a word");
    let (mut starts, mut have) = (word, 1);
    while have < length {
        // Twice as far, or what is missing: `have` ones from here and `have` ones from there.
        let step = have.min(length - have);
        starts &= starts >> step;
        have += step;
    }
    starts
}

/// The first bits of the quarters that are all ones.
pub(super) fn free_quarters(word: u64) -> u64 {
    run_starts(word, QUARTER_BLOCKS) & QUARTERS
}

/// The first of the longest runs of ones: where it begins and its length, which is 0 in 0.
pub(super) fn longest_run(word: u64) -> (u64, u64) {
    let (mut starts, mut rest, mut length) = (0, word, 0);
    while rest != 0 {
        starts = rest;
        rest &= rest >> 1;
        // After n steps a bit is set where n + 1 ones begin.
        length += 1;
    }
    (if length == 0 { 0 } else { u64::from(starts.trailing_zeros()) }, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive_starts(word: u64, length: u64) -> u64 {
        (0..=WORD_BLOCKS - length)
            .filter(|bit| word & ones(*bit, length) == ones(*bit, length))
            .fold(0, |starts, bit| starts | 1 << bit)
    }

    fn words() -> impl Iterator<Item = u64> {
        let mut state = 1_u64;
        let random = std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(0x5EED);
            // Ones in runs, so that long ones occur.
            state | state.rotate_left(7) | (state >> 20 & 0xFFFF) << (state >> 58)
        });
        [0, 1, u64::MAX, 1 << 63, u64::MAX >> 1, u64::MAX << 1].into_iter().chain(random).take(500)
    }

    #[test]
    fn runs_of_ones_are_those_that_looking_at_every_bit_finds() {
        for word in words() {
            for length in 1..=WORD_BLOCKS {
                assert_eq!(run_starts(word, length), naive_starts(word, length), "{word:#b}");
            }
            let longest = (1..=WORD_BLOCKS).rev().find(|length| naive_starts(word, *length) != 0);
            let (start, length) = longest_run(word);
            assert_eq!(length, longest.unwrap_or(0), "{word:#b}");
            assert_eq!(word & ones(start, length), ones(start, length), "{word:#b}");
        }
    }

    #[test]
    fn quarters_begin_at_multiples_of_16() {
        assert_eq!(free_quarters(u64::MAX), QUARTERS);
        assert_eq!(free_quarters(0xFFFF << 8), 0);
        assert_eq!(free_quarters(0xFFFF << 32 | 0x7FFF), 1 << 32);
    }
}
