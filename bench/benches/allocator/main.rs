//! Taking blocks and giving them back, in small and large spaces, from empty to nearly full.
//!
//! A space is used up to its fill in pieces, so that free runs of 1 to 8 blocks remain all over it
//! (1 to 128 at half full). Then a turn takes requests, and gives back as many at random of those
//! that it took before: the fill stays, and the places that requests continue from travel.
//!
//! Times are per request, which is `runs` runs of blocks. There are no rivals: the numbers say what
//! a request costs, and whether that depends on size or fill.

use std::cell::RefCell;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dynamicfs::store::allocator::{Allocator, Run};
use dynamicfs_bench::failure::Failure;
use dynamicfs_bench::micro::keys::{self, Popularity};
use dynamicfs_bench::micro::show::Table;
use dynamicfs_bench::micro::{Figure, Options, Side, Subject};

const FIGURES: &[Figure] = &[
    Figure::time("ns/take"),
    Figure::time("ns/give"),
    Figure::time("runs"),
    Figure { digits: 3, ..Figure::time("bits/block") },
];

const SIZES: &[(&str, u64)] = &[("2^20", 1 << 20), ("2^28", 1 << 28), ("2^33", 1 << 33)];

/// How much of a space is used, in thousandths, and the longest free run that is left.
const FILLS: &[(&str, u64, u64)] =
    &[("empty", 0, 0), ("50 %", 500, 128), ("95 %", 950, 8), ("99.9 %", 999, 8)];

const REQUESTS: &[(&str, u32)] = &[("1", 1), ("16", 16), ("256", 256)];

/// Requests between two looks at the clock, and held at once; fewer where the space is small.
const BATCH: u64 = 64;
const HELD: u64 = 4096;
const STEPS: usize = 1 << 16;

fn main() -> ExitCode {
    let options = Options::of_this_process();
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("allocator: error: {failure}\nhelp: {}", failure.help());
            failure.exit_code()
        }
    }
}

fn measure(options: &Options) -> Result<(), Failure> {
    let mut table = Table::new("Space allocator", FIGURES, options);
    let choices = keys::indices(HELD as usize, Popularity::Uniform, STEPS);
    for (size_name, blocks) in SIZES {
        for (fill_name, used, longest) in FILLS {
            let wanted = |(name, _): &&(&str, u32)| {
                options.wants(&format!("{size_name}/{fill_name}/{name}"))
            };
            let requests: Vec<_> = REQUESTS.iter().filter(wanted).collect();
            if requests.is_empty() {
                continue;
            }
            let space = RefCell::new(fragmented(*blocks, *used, *longest));
            for (request_name, request) in requests {
                let mut load = Load::new(&space, *request, &choices);
                let turn = |window| load.run(window);
                let mut subjects = [Subject::new("Allocator", Side::Ours, turn)];
                let name = format!("{size_name}/{fill_name}/{request_name}");
                table.case(name, &mut subjects)?;
                drop(subjects);
                load.end();
            }
        }
    }
    Ok(())
}

/// A space of which `used` thousandths are used.
fn fragmented(blocks: u64, used: u64, longest: u64) -> Allocator {
    if used == 0 {
        return Allocator::new_free(blocks);
    }
    let mut space = Allocator::new_used(blocks);
    let lengths = keys::indices(1 << 16, Popularity::Uniform, STEPS);
    let mut lengths = lengths.iter().cycle().map(|length| u64::from(*length));
    let mut next = || lengths.next().expect("a cycle does not end");
    let mut at = 0;
    loop {
        // Free runs of (longest + 1) / 2 on average, and as much between them as the fill wants.
        let gap = (longest + 1) * used / (1000 - used) / 2;
        at += 1 + next() % (2 * gap).max(1);
        let length = 1 + next() % longest;
        if at + length > blocks {
            return space;
        }
        let run = Run { start: at, blocks: u32::try_from(length).expect("a short run") };
        space.give(run).expect("nothing was free there");
        at += length;
    }
}

/// Requests of one size, each with the runs that it got.
struct Load<'a> {
    space: &'a RefCell<Allocator>,
    request: u32,
    batch: usize,
    held: Vec<Vec<Run>>,
    /// Vectors of requests that were given back: none is made while the clock runs.
    spare: Vec<Vec<Run>>,
    choices: std::iter::Cycle<std::slice::Iter<'a, u32>>,
}

impl<'a> Load<'a> {
    fn new(space: &'a RefCell<Allocator>, request: u32, choices: &'a [u32]) -> Load<'a> {
        let free_requests = space.borrow().free_blocks() / u64::from(request);
        let batch = BATCH.min(free_requests / 4).max(1) as usize;
        let held = HELD.min(free_requests / 2) as usize;
        let vector = || Vec::with_capacity(request as usize);
        let spare = std::iter::repeat_with(vector).take(held + batch).collect();
        let choices = choices.iter().cycle();
        let mut load = Load { space, request, batch, held: Vec::new(), spare, choices };
        for _ in 0..held {
            load.take();
        }
        load
    }

    fn take(&mut self) -> usize {
        let mut runs = self.spare.pop().expect("a vector for every request");
        let enough = self.space.borrow_mut().take(self.request, &mut runs);
        assert!(enough, "there was room for twice as many requests");
        self.held.push(runs);
        self.held[self.held.len() - 1].len()
    }

    fn give(&mut self) {
        let choice = *self.choices.next().expect("a cycle does not end") as usize;
        let mut runs = self.held.swap_remove(choice % self.held.len());
        for run in runs.drain(..) {
            self.space.borrow_mut().give(run).expect("it was taken");
        }
        self.spare.push(runs);
    }

    fn run(&mut self, window: Duration) -> Vec<f64> {
        let began = Instant::now();
        let (mut taking, mut giving) = (Duration::ZERO, Duration::ZERO);
        let (mut requests, mut runs) = (0_usize, 0);
        while began.elapsed() < window {
            let start = Instant::now();
            runs += (0..self.batch).map(|_| self.take()).sum::<usize>();
            let middle = Instant::now();
            (0..self.batch).for_each(|_| self.give());
            taking += middle - start;
            giving += middle.elapsed();
            requests += self.batch;
        }
        let each = |time: Duration| time.as_nanos() as f64 / requests as f64;
        let space = self.space.borrow();
        let bits = space.bytes() as f64 * 8.0 / space.blocks() as f64;
        vec![each(taking), each(giving), runs as f64 / requests as f64, bits]
    }

    fn end(mut self) {
        while !self.held.is_empty() {
            self.give();
        }
    }
}
