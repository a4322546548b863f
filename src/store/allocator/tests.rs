//! Random calls against the allocator and a naive model, and the promises of each call.
//!
//! A failing seed is tried again with `ALLOCATOR_SEED=n cargo test --lib allocator`.

use super::*;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// The truth: `true` is free.
struct Model(Vec<bool>);

impl Model {
    fn range(run: Run) -> std::ops::Range<usize> {
        run.start as usize..run.end() as usize
    }

    fn is_all(&self, run: Run, free: bool) -> bool {
        self.0.get(Model::range(run)).is_some_and(|blocks| blocks.iter().all(|b| *b == free))
    }

    fn first(&self, run: Run, free: bool) -> Option<u64> {
        Model::range(run).find(|block| self.0[*block] == free).map(|block| block as u64)
    }

    fn set(&mut self, run: Run, free: bool) {
        self.0[Model::range(run)].fill(free);
    }

    fn free(&self) -> u64 {
        self.0.iter().filter(|free| **free).count() as u64
    }

    fn has_aligned(&self, blocks: usize) -> bool {
        self.0.chunks_exact(blocks).any(|chunk| chunk.iter().all(|free| *free))
    }

    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for start in (0..self.0.len() as u64).filter(|block| self.0[*block as usize]) {
            match runs.last_mut() {
                Some(run) if run.end() == start => run.blocks += 1,
                _ => runs.push(Run { start, blocks: 1 }),
            }
        }
        runs
    }
}

/// An allocator beside its model; every call is checked against it.
struct Pair {
    space: Allocator,
    model: Model,
}

impl Pair {
    fn new(blocks: u64, state: State) -> Pair {
        let space = match state {
            State::Free => Allocator::new_free(blocks),
            State::Used => Allocator::new_used(blocks),
        };
        Pair { space, model: Model(vec![state == State::Free; blocks as usize]) }
    }

    fn take_exact(&mut self, blocks: u32) -> Option<Run> {
        let taken = self.space.take_exact(blocks);
        if let Some(run) = taken {
            assert_eq!(run.blocks, blocks);
            assert!(self.model.is_all(run, true), "{run:?} was not free");
            self.model.set(run, false);
        } else {
            let promised = match blocks {
                0 => false,
                1 => self.model.free() > 0,
                2..=16 => self.model.has_aligned(16),
                17..=64 => self.model.has_aligned(64),
                _ => false,
            };
            assert!(!promised, "no {blocks} blocks found of {:?}", self.model.runs());
        }
        taken
    }

    fn take(&mut self, blocks: u32) -> Option<Vec<Run>> {
        let before = Run { start: 7, blocks: 7 };
        let mut out = vec![before];
        let enough = self.model.free() >= blocks.into();
        assert_eq!(self.space.take(blocks, &mut out), enough);
        assert_eq!(out.remove(0), before, "what was in the list stays");
        assert_eq!(out.iter().map(|run| run.blocks).sum::<u32>(), if enough { blocks } else { 0 });
        for run in &out {
            assert!(run.blocks > 0 && self.model.is_all(*run, true), "{run:?} was not free");
            self.model.set(*run, false);
        }
        enough.then_some(out)
    }

    fn give(&mut self, run: Run) {
        let expected = if run.end() > self.space.blocks() {
            Err(RunError::Outside { run, blocks: self.space.blocks() })
        } else {
            let conflict = self.model.first(run, true);
            conflict.map_or(Ok(()), |block| Err(RunError::AlreadyFree { run, block }))
        };
        if expected.is_ok() {
            self.model.set(run, true);
        }
        assert_eq!(self.space.give(run), expected);
    }

    fn claim(&mut self, run: Run) {
        let expected = if run.end() > self.space.blocks() {
            Err(RunError::Outside { run, blocks: self.space.blocks() })
        } else {
            let conflict = self.model.first(run, false);
            conflict.map_or(Ok(()), |block| Err(RunError::AlreadyUsed { run, block }))
        };
        if expected.is_ok() {
            self.model.set(run, false);
        }
        assert_eq!(self.space.claim(run), expected);
    }

    fn extend(&mut self, blocks: u64) {
        self.space.extend(blocks);
        self.model.0.resize(self.model.0.len() + blocks as usize, false);
    }

    /// Everything that can be asked, and every summary, against the model.
    fn check(&self) {
        assert_eq!(self.space.free_blocks(), self.model.free());
        let free: Vec<Run> = self.space.free_runs().collect();
        assert_eq!(free, self.model.runs());
        for (block, is_free) in self.model.0.iter().enumerate() {
            assert_eq!(self.space.is_free(block as u64), *is_free, "block {block}");
        }
        let mut whole_words = 0;
        for index in 0..self.space.words.len() {
            let kind = Kind::of(self.space.words.get(index));
            let told = |summary: &Summary| summary.next(index) == Some(index);
            assert_eq!(told(&self.space.whole), kind.whole, "word {index}");
            assert_eq!(told(&self.space.mixed), kind.mixed, "word {index}");
            assert_eq!(told(&self.space.quarter), kind.quarter, "word {index}");
            whole_words += u64::from(kind.whole);
        }
        assert_eq!(self.space.whole_free_blocks(), whole_words * 64);
    }

    /// A run somewhere, sometimes over the end.
    fn any_run(&self, random: &mut Random) -> Run {
        let longest = [1, 3, 17, 70, 300][random.below(5) as usize];
        let start = random.below(self.space.blocks() + 3);
        Run { start, blocks: random.below(longest + 1) as u32 }
    }
}

const SIZES: [u64; 16] =
    [0, 1, 15, 16, 17, 63, 64, 65, 100, 127, 128, 1000, 4095, 4096, 4161, 20_000];

fn storm(seed: u64, blocks: u64) {
    let mut random = Random(seed ^ blocks << 32);
    let state = if random.below(2) == 0 { State::Free } else { State::Used };
    let mut pair = Pair::new(blocks, state);
    let mut held: Vec<Run> = Vec::new();
    for step in 0..400 {
        // Phases of mostly taking and of mostly giving, so that it is both empty and full.
        let giving = if (step / 100) % 2 == 0 { 2 } else { 6 };
        match random.below(10) {
            0 => pair.give(pair.any_run(&mut random)),
            1 => pair.claim(pair.any_run(&mut random)),
            choice if choice < 2 + giving && !held.is_empty() => {
                let run = held.swap_remove(random.below(held.len() as u64) as usize);
                pair.give(run);
            }
            choice => {
                let longest = [1, 4, 16, 20, 64, 256, 5000][random.below(7) as usize];
                let wanted = random.below(longest + 1) as u32;
                if choice % 2 == 0 {
                    held.extend(pair.take_exact(wanted));
                } else {
                    held.extend(pair.take(wanted).into_iter().flatten());
                }
            }
        }
        if step % 150 == 149 {
            pair.extend(random.below(9000));
        }
        let run = pair.any_run(&mut random);
        let fits = run.end() <= pair.space.blocks();
        assert_eq!(pair.space.is_run_free(run), fits && pair.model.first(run, false).is_none());
        if step % 40 == 0 {
            pair.check();
        }
    }
    pair.check();
}

#[test]
fn random_calls_agree_with_the_model() {
    let given = std::env::var("ALLOCATOR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = given.map_or(0..24, |seed: u64| seed..seed + 1);
    for seed in seeds {
        for blocks in SIZES {
            // Shown when it fails.
            eprintln!("ALLOCATOR_SEED={seed}, {blocks} blocks");
            storm(seed, blocks);
        }
    }
}

#[test]
fn a_new_space_is_all_free_or_all_used() {
    for blocks in SIZES {
        for state in [State::Free, State::Used] {
            Pair::new(blocks, state).check();
        }
    }
}

#[test]
fn a_free_space_is_taken_whole_by_one_request() {
    for blocks in SIZES {
        let mut pair = Pair::new(blocks, State::Free);
        let expected = (blocks > 0).then_some(Run { start: 0, blocks: blocks as u32 });
        assert_eq!(pair.take_exact(blocks as u32), expected, "{blocks} blocks");
        pair.check();
        assert_eq!(pair.take_exact(1), None);
    }
}

#[test]
fn requests_in_order_lie_in_order() {
    for blocks in [1, 5, 16, 64, 256] {
        let mut pair = Pair::new(4096, State::Free);
        for number in 0..4096 / blocks {
            let run = pair.take_exact(blocks as u32).unwrap();
            assert_eq!(run.start, number * blocks, "of {blocks} blocks each");
        }
    }
}

#[test]
fn small_requests_leave_whole_words_whole() {
    let mut pair = Pair::new(64 * 100, State::Free);
    // Every fourth word has 10 blocks free at its end and 2 in its middle.
    for word in (0..100).step_by(4) {
        pair.claim(Run { start: word * 64, blocks: 20 });
        pair.claim(Run { start: word * 64 + 22, blocks: 32 });
    }
    let whole = pair.space.whole_free_blocks();
    assert_eq!(whole, 75 * 64);
    for _ in 0..25 {
        for blocks in [7, 3, 2] {
            assert!(pair.take_exact(blocks).is_some());
        }
    }
    assert_eq!(pair.space.whole_free_blocks(), whole);
    assert_eq!(pair.space.free_blocks(), whole);
    assert_eq!(pair.take_exact(1), Some(Run { start: 64, blocks: 1 }));
}

#[test]
fn extents_lie_on_multiples_of_64_kib() {
    let mut pair = Pair::new(1 << 14, State::Free);
    let mut random = Random(1);
    for _ in 0..300 {
        pair.take_exact(1 + random.below(15) as u32);
        let run = pair.take_exact(16).unwrap();
        assert_eq!(run.start % 16, 0);
    }
}

#[test]
fn large_requests_begin_at_multiples_of_64_kib() {
    let mut pair = Pair::new(1 << 14, State::Free);
    let starts: Vec<u64> =
        [20, 16, 100, 70, 300].map(|blocks| pair.take_exact(blocks).unwrap().start).to_vec();
    assert_eq!(starts, [0, 32, 48, 160, 240]);

    // Found by search, in a run that begins elsewhere; and from its beginning if it must be.
    let mut pair = Pair::new(1 << 14, State::Used);
    pair.give(Run { start: 50, blocks: 320 });
    assert_eq!(pair.take_exact(200).unwrap().start, 64);
    pair.give(Run { start: 64, blocks: 200 });
    assert_eq!(pair.take_exact(320).unwrap().start, 50);
}

#[test]
fn the_next_place_is_behind_the_last_and_only_then_before_it() {
    let mut pair = Pair::new(64 * 100, State::Used);
    for start in [64, 64 * 50, 64 * 60] {
        pair.give(Run { start, blocks: if start == 64 { 16 } else { 64 } });
    }
    let mut next = || pair.take_exact(16).unwrap().start;
    assert_eq!([next(), next(), next(), next(), next()], [64, 3200, 3216, 3232, 3248]);
    pair.give(Run { start: 64, blocks: 16 });
    let mut next = || pair.take_exact(16).unwrap().start;
    assert_eq!([next(), next(), next(), next(), next()], [3840, 3856, 3872, 3888, 64]);
}

/// Runs are followed 64 words at a time, but only from the first of the 64 on.
#[test]
fn a_run_that_begins_amid_64_free_words_ends_where_it_ends() {
    let mut pair = Pair::new(4096 * 3, State::Free);
    let first = pair.take_exact(64).unwrap();
    pair.give(first);
    pair.claim(Run { start: 4096, blocks: 1 });
    assert_eq!(pair.take_exact(4090), Some(Run { start: 4112, blocks: 4090 }));
    assert_eq!(pair.take_exact(4096), Some(Run { start: 0, blocks: 4096 }));
    pair.check();
}

#[test]
fn a_long_run_is_found_among_thousands_of_short_ones() {
    let mut pair = Pair::new(64 * 40_000, State::Free);
    // Every second word used: no two whole ones in a row, but for one place.
    for word in (0..40_000).step_by(2).filter(|word| !(1502..1506).contains(word)) {
        pair.claim(Run { start: word * 64, blocks: 64 });
    }
    assert_eq!(pair.take_exact(256), Some(Run { start: 1501 * 64, blocks: 256 }));
    assert_eq!(pair.take(256).unwrap().len(), 4);
}

/// One block free in every 101: no request can be served by anything longer.
#[test]
fn fragmented_space_gives_its_last_block() {
    for blocks in [101, 6464, 20_000] {
        let mut pair = Pair::new(blocks, State::Used);
        for start in (0..blocks).step_by(101) {
            pair.give(Run { start, blocks: 1 });
        }
        assert_eq!(pair.take_exact(2), None);
        while pair.space.free_blocks() > 0 {
            let wanted = pair.space.free_blocks().min(3) as u32;
            assert_eq!(pair.take(wanted).unwrap().len(), wanted as usize);
            assert!(pair.space.free_blocks() == 0 || pair.take_exact(1).is_some());
        }
        assert_eq!(pair.take(1), None);
        assert_eq!(pair.take_exact(1), None);
    }
}

#[test]
fn one_block_is_found_exactly_as_long_as_one_is_free() {
    let mut random = Random(99);
    for blocks in [64, 5000] {
        let mut pair = Pair::new(blocks, State::Used);
        for _ in 0..2000 {
            if random.below(100) < 55 {
                let some_are_free = pair.model.free() > 0;
                assert_eq!(pair.take_exact(1).is_some(), some_are_free);
            } else {
                let start = random.below(blocks);
                pair.give(Run { start, blocks: 1 });
            }
        }
    }
}

#[test]
fn what_is_refused_changes_nothing_and_is_named() {
    let mut pair = Pair::new(300, State::Used);
    pair.give(Run { start: 100, blocks: 100 });
    let runs = |pair: &Pair| pair.space.free_runs().collect::<Vec<_>>();
    let before = runs(&pair);
    let run = Run { start: 20, blocks: 200 };
    assert_eq!(pair.space.give(run), Err(RunError::AlreadyFree { run, block: 100 }));
    let run = Run { start: 150, blocks: 100 };
    let error = pair.space.claim(run).unwrap_err();
    assert_eq!(error, RunError::AlreadyUsed { run, block: 200 });
    assert_eq!(error.to_string(), "block 200 of 150..250 is used already");
    for run in [
        Run { start: 299, blocks: 2 },
        Run { start: 301, blocks: 0 },
        Run { start: u64::MAX, blocks: u32::MAX },
    ] {
        assert_eq!(pair.space.give(run), Err(RunError::Outside { run, blocks: 300 }));
        assert_eq!(pair.space.claim(run), Err(RunError::Outside { run, blocks: 300 }));
    }
    assert_eq!(runs(&pair), before);
    pair.check();
}

#[test]
fn the_largest_space_costs_nothing_until_it_is_used() {
    for mut space in [Allocator::new_free(BLOCKS_MAX), Allocator::new_used(BLOCKS_MAX)] {
        let bits = space.bytes() as f64 * 8.0 / BLOCKS_MAX as f64;
        assert!(bits < 1.1, "{bits} bits per block");
        let last = Run { start: BLOCKS_MAX - 100, blocks: 100 };
        if space.free_blocks() == 0 {
            space.give(last).unwrap();
        } else {
            space.claim(last).unwrap();
            space.give(last).unwrap();
            assert_eq!(space.free_blocks(), BLOCKS_MAX);
            assert_eq!(space.take_exact(1 << 22), Some(Run { start: 0, blocks: 1 << 22 }));
            continue;
        }
        assert_eq!(space.take_exact(100), Some(last));
    }
}

#[test]
fn long_free_stretches_are_told_in_pieces() {
    let space = Allocator::new_free(1 << 33);
    let runs: Vec<Run> = space.free_runs().collect();
    assert_eq!(runs.iter().map(|run| u64::from(run.blocks)).sum::<u64>(), 1 << 33);
    assert!(runs.windows(2).all(|pair| pair[0].end() == pair[1].start));
}
