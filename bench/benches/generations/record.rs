//! The record that is read while it is rewritten: seven words, of which the last is a sum.

/// Odd, so that every version has words of its own; unlike, so that no half of one version and
/// half of another has a whole one's sum.
const FACTORS: [u64; 6] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
];

/// 56 bytes: the size of an extent's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Six words of content and their sum with the record's number.
    pub(crate) words: [u64; 7],
}

impl Record {
    /// Version `version` of record number `index`.
    #[inline]
    pub(crate) fn new(index: u32, version: u64) -> Record {
        let [a, b, c, d, e, f] = FACTORS.map(|factor| version.wrapping_mul(factor));
        let content = [a, b, c, d, e, f];
        Record { words: [a, b, c, d, e, f, sum(&content, index)] }
    }

    /// Whether this is one version, whole, of record number `index`.
    #[inline]
    pub(crate) fn is_whole(&self, index: u32) -> bool {
        let [a, b, c, d, e, f, seen] = self.words;
        sum(&[a, b, c, d, e, f], index) == seen
    }
}

#[inline]
fn sum(content: &[u64; 6], index: u32) -> u64 {
    content.iter().fold(u64::from(index), |sum, word| sum.wrapping_add(*word))
}
