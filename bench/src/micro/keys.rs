//! Keys, and the order in which they are used, made from a fixed seed before the clock runs.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::Zipf;
use uuid::Uuid;

/// Seed of everything random here, so that two runs and two subjects see the same keys.
const SEED: u64 = 0x005e_ed0f_d15c;
/// Exponent of the skewed distribution, YCSB's.
const ZIPF_EXPONENT: f64 = 0.99;

/// How often each of several things is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Popularity {
    /// All alike.
    Uniform,
    /// Zipf's law with exponent 0.99: of 100,000 the first is used by every twelfth operation.
    Zipf,
}

impl Popularity {
    /// Short name for the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Popularity::Uniform => "uniform",
            Popularity::Zipf => "zipf",
        }
    }
}

/// One step of a sequence: which key, and what to do with it. The key is stored by value, so that
/// a step costs a sequential read and not a second random one.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The key.
    pub key: Uuid,
    /// The key's number, for what lies beside the lock.
    pub index: u32,
    /// Whether this step writes.
    pub writes: bool,
}

/// The same `count` random UUIDs on every call.
#[must_use]
pub fn uuids(count: usize) -> Vec<Uuid> {
    let mut random = SmallRng::seed_from_u64(SEED);
    (0..count).map(|_| uuid::Builder::from_random_bytes(random.random()).into_uuid()).collect()
}

/// `length` numbers below `count`. Under [`Popularity::Zipf`] the popular ones are scattered over
/// the range, so that they are not neighbours in memory.
///
/// # Panics
/// When `count` is zero or exceeds 32 bits.
#[must_use]
pub fn indices(count: usize, popularity: Popularity, length: usize) -> Vec<u32> {
    let count = u32::try_from(count).expect("indices of 32 bits");
    let mut random = SmallRng::seed_from_u64(SEED + 1);
    match popularity {
        Popularity::Uniform => (0..length).map(|_| random.random_range(0..count)).collect(),
        Popularity::Zipf => {
            let mut scattered: Vec<u32> = (0..count).collect();
            scattered.shuffle(&mut random);
            let zipf = Zipf::new(f64::from(count), ZIPF_EXPONENT).expect("a count above zero");
            // The distribution yields whole numbers from 1 to `count`.
            let ranks = (0..length).map(|_| random.sample(zipf) as usize - 1);
            ranks.map(|rank| scattered[rank]).collect()
        }
    }
}

/// A sequence of `length` steps over `keys`, of which `writes_percent` in a hundred write.
///
/// # Panics
/// When there are no keys.
#[must_use]
pub fn steps(
    keys: &[Uuid],
    popularity: Popularity,
    writes_percent: u32,
    length: usize,
) -> Vec<Step> {
    let mut random = SmallRng::seed_from_u64(SEED + 2);
    let indices = indices(keys.len(), popularity, length).into_iter();
    let step = indices.map(|index| Step {
        key: keys[index as usize],
        index,
        writes: random.random_range(0..100) < writes_percent,
    });
    step.collect()
}

/// Walks a sequence in a circle, a batch at a time. Threads that share one begin at different
/// places in it.
pub struct Walk<'a, T> {
    steps: &'a [T],
    at: usize,
}

impl<'a, T> Walk<'a, T> {
    /// The walk of thread `thread` out of `threads`.
    ///
    /// # Panics
    /// When the sequence does not consist of whole batches.
    #[must_use]
    pub fn new(steps: &'a [T], thread: usize, threads: usize) -> Walk<'a, T> {
        assert!(steps.len().is_multiple_of(BATCH) && !steps.is_empty(), "whole batches");
        let batches = steps.len() / BATCH;
        Walk { steps, at: batches * thread / threads.max(1) % batches * BATCH }
    }

    /// The next [`BATCH`] steps.
    #[inline]
    pub fn batch(&mut self) -> &'a [T] {
        let batch = &self.steps[self.at..self.at + BATCH];
        self.at += BATCH;
        if self.at == self.steps.len() {
            self.at = 0;
        }
        batch
    }
}

/// Steps between two looks at the stop flag.
pub const BATCH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_distinct_and_the_same_every_time() {
        let keys = uuids(1_000);
        assert_eq!(keys, uuids(1_000));
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), keys.len());
    }

    #[test]
    fn zipf_prefers_few_and_uniform_does_not() {
        let share_of_most_used = |popularity| {
            let mut uses = vec![0_u32; 1_000];
            for index in indices(1_000, popularity, 100_000) {
                uses[index as usize] += 1;
            }
            f64::from(uses.into_iter().max().unwrap()) / 100_000.0
        };
        assert!(share_of_most_used(Popularity::Zipf) > 0.1);
        assert!(share_of_most_used(Popularity::Uniform) < 0.002);
    }

    #[test]
    fn the_mix_is_as_asked_for() {
        let writes = |percent| {
            let steps = steps(&uuids(4), Popularity::Uniform, percent, 10_000);
            steps.iter().filter(|step| step.writes).count()
        };
        assert_eq!((writes(0), writes(100)), (0, 10_000));
        assert!((800..1_200).contains(&writes(10)));
    }

    #[test]
    fn walks_cover_the_sequence_in_a_circle() {
        let steps: Vec<usize> = (0..4 * BATCH).collect();
        let mut walk = Walk::new(&steps, 1, 2);
        let firsts: Vec<usize> = (0..4).map(|_| walk.batch()[0] / BATCH).collect();
        assert_eq!(firsts, [2, 3, 0, 1]);
        assert_eq!(Walk::new(&steps, 255, 256).batch()[0] / BATCH, 3);
    }
}
