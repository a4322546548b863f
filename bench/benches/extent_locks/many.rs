//! What many threads get done, over hot and cold keys, and how evenly.
//!
//! Under the lock a thread reads, or rewrites, two words that belong to the key. A writer adds one
//! to each with a plain load and store: were there ever two writers, one addition would be lost,
//! and were there a reader beside a writer, it would see the words differ. The reader looks
//! for the second every time, the count after every window for the first.
//!
//! With more threads than cores, the window must be long against the kernel's time slices for the
//! slowest and the fastest thread to say something about the lock: with 256 threads, 2 seconds.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamicfs_bench::failure::Failure;
use dynamicfs_bench::micro::keys::{self, Popularity, Step, Walk};
use dynamicfs_bench::micro::show::Table;
use dynamicfs_bench::micro::{Contention, Figure, Options, threads};

use crate::contender::{Contender, KeyedLocks, subjects};
use crate::field;

const FIGURES: &[Figure] = &[
    Figure::rate("M ops/s", 3),
    Figure::rate("slowest thread", 0),
    Figure::rate("fastest thread", 0),
    Figure::time("waited %"),
];

const FIELDS: &[(&str, usize, Popularity, usize)] = &[
    ("1 key", 1, Popularity::Uniform, 1 << 16),
    ("16 keys", 16, Popularity::Uniform, 1 << 16),
    ("100,000 uniform", 100_000, Popularity::Uniform, 1 << 18),
    ("100,000 zipf", 100_000, Popularity::Zipf, 1 << 18),
];

const WRITES_PERCENT: &[u32] = &[10, 100];
const THREADS: &[usize] = &[2, 8, 64, 256];

/// What a lock guards: two words that are always alike. Atomic only so that a lock that fails is
/// seen instead of being undefined behaviour; no operation on them is more than a move.
#[repr(align(64))]
#[derive(Default)]
pub(crate) struct Payload {
    words: [AtomicU64; 2],
}

impl Payload {
    /// The words; they differ only when a writer is at work.
    #[inline]
    fn read(&self) -> (u64, u64) {
        (self.words[0].load(Ordering::Relaxed), self.words[1].load(Ordering::Relaxed))
    }

    #[inline]
    fn write(&self) {
        let (first, second) = self.read();
        self.words[0].store(first + 1, Ordering::Relaxed);
        self.words[1].store(second + 1, Ordering::Relaxed);
    }
}

pub(crate) fn measure(options: &Options) -> Result<(), Failure> {
    let mut table = Table::new("Many threads", FIGURES, options);
    for (name, count, popularity, length) in FIELDS {
        let name_of =
            |writes: u32, threads: usize| format!("many/{name}/{writes}% writes/{threads} threads");
        let cases = WRITES_PERCENT.iter().flat_map(|w| THREADS.iter().map(move |t| (*w, *t)));
        let cases: Vec<_> = cases.filter(|(w, t)| options.wants(&name_of(*w, *t))).collect();
        if cases.is_empty() {
            continue;
        }
        let (keys, contenders) = field(*count);
        let payloads: Vec<Payload> = keys.iter().map(|_| Payload::default()).collect();
        for (writes, threads) in cases {
            let steps = keys::steps(&keys, *popularity, writes, *length);
            let turn = |contender: &dyn Contender, window| {
                contender.many(&steps, &payloads, threads, window)
            };
            table.case(name_of(writes, threads), &mut subjects(&contenders, turn))?;
        }
    }
    Ok(())
}

/// `count` threads walk along `steps` for `window`. Panics when the locks failed to exclude.
pub(crate) fn run<L: KeyedLocks>(
    locks: &L,
    steps: &[Step],
    payloads: &[Payload],
    count: usize,
    window: Duration,
) -> Vec<f64> {
    let before = (written(payloads), locks.contention());
    let writes = AtomicU64::new(0);
    let timed = threads::run(count, window, |thread, stop| {
        let mut walk = Walk::new(steps, thread, count);
        let mut own_writes = 0;
        let operations = stop.repeat(|| {
            let batch = walk.batch();
            for step in batch {
                let payload = &payloads[step.index as usize];
                if step.writes {
                    locks.exclusive(&step.key, || payload.write());
                    own_writes += 1;
                } else {
                    let (first, second) = locks.shared(&step.key, || black_box(payload.read()));
                    assert_eq!(first, second, "{}: a reader beside a writer", L::NAME);
                }
            }
            batch.len() as u64
        });
        writes.fetch_add(own_writes, Ordering::Relaxed);
        operations
    });
    let added = written(payloads) - before.0;
    assert_eq!(added, writes.into_inner(), "{}: two writers at once", L::NAME);
    let slowest = timed.operations.iter().min().copied().unwrap_or(0);
    let fastest = timed.operations.iter().max().copied().unwrap_or(0);
    let waited = Contention::percent_between(before.1, locks.contention());
    vec![timed.per_second() / 1e6, slowest as f64, fastest as f64, waited]
}

/// Writes that left their mark.
fn written(payloads: &[Payload]) -> u64 {
    payloads.iter().map(|payload| payload.read().0).sum()
}
