//! What a simulated disk holds durably: sparse, and cheap to copy.
//!
//! Sectors lie in runs that copies of a disk share until one of them changes something there, so a
//! test that recovers from thousands of crashes of one disk pays for what each of them changed.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// A sector's bytes; none are zeroes.
pub(super) type Content = Option<Arc<[u8]>>;

/// Sectors of a run. Fewer make a disk dearer to copy, more make the first write to a run dearer.
const RUN: u64 = 128;

#[derive(Clone, Debug)]
struct Run {
    sectors: [Content; RUN as usize],
    /// Of these sectors where they are, once somebody asked.
    hash: OnceLock<u64>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Sectors(BTreeMap<u64, Arc<Run>>);

impl Sectors {
    pub(super) fn get(&self, sector: u64) -> Content {
        let run = self.0.get(&(sector / RUN))?;
        run.sectors[(sector % RUN) as usize].clone()
    }

    pub(super) fn set(&mut self, sector: u64, content: Content) {
        let (number, at) = (sector / RUN, (sector % RUN) as usize);
        if content.is_none() && !self.0.contains_key(&number) {
            return;
        }
        let run = Arc::make_mut(self.0.entry(number).or_insert_with(Run::empty));
        run.sectors[at] = content;
        run.hash = OnceLock::new();
    }

    /// Equal for equal bytes, whether zeroes were written or never were.
    pub(super) fn hash(&self) -> u64 {
        let runs =
            self.0.iter().map(|(number, run)| *run.hash.get_or_init(|| run.hash_at(*number)));
        runs.fold(0, u64::wrapping_add)
    }
}

impl Run {
    fn empty() -> Arc<Run> {
        Arc::new(Run { sectors: [const { None }; RUN as usize], hash: OnceLock::new() })
    }

    fn hash_at(&self, number: u64) -> u64 {
        let written = (number * RUN..).zip(&self.sectors);
        let written = written.filter_map(|(sector, content)| Some((sector, content.as_ref()?)));
        written.fold(0, |sum: u64, (sector, bytes)| sum.wrapping_add(hash_of(sector, bytes)))
    }
}

/// Of one sector in its place; 0 for zeroes.
fn hash_of(sector: u64, bytes: &[u8]) -> u64 {
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let mix = |hash: u64, word: u64| {
        let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    };
    words.fold(mix(0x243f_6a88_85a3_08d3, sector), mix)
}
