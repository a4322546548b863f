//! How long a lock takes from the thread that releases it to the thread that waits for it.
//!
//! Two threads on two cores pass one exclusive lock back and forth. Nobody barges in: the receiver
//! of hand-over `n` announces itself right before it calls the lock, the holder waits for that
//! announcement, holds on for a set time, stamps the clock as its last act under the lock and
//! releases; the receiver reads the clock as its first act under the lock. The thread that has
//! released comes back only when the receiver has the lock. So every hand-over waits, and the
//! locks' fairness plays no part.
//!
//! The set time decides how the receiver waits. After 100 ns everybody still spins; 2 us lie where
//! the rivals begin to give the core away; after 200 us everybody sleeps in the kernel. The
//! latency contains one reading of the clock (some 25 ns), the same for all.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use dynamicfs_bench::failure::Failure;
use dynamicfs_bench::micro::show::Table;
use dynamicfs_bench::micro::threads::{self, Stop};
use dynamicfs_bench::micro::{Figure, Options};
use uuid::Uuid;

use crate::contender::{Contender, KeyedLocks, subjects};
use crate::field;

const FIGURES: &[Figure] =
    &[Figure::time("ns p50"), Figure::time("ns p99"), Figure::rate("hand-overs", 0)];

/// Keys in the map: as in use, the lock that is passed is one of many.
const KEYS: usize = 1_000;

const HOLDS: &[(&str, Duration)] = &[
    ("hand-off/spinning, held 100 ns", Duration::from_nanos(100)),
    ("hand-off/between, held 2 us", Duration::from_micros(2)),
    ("hand-off/asleep, held 200 us", Duration::from_micros(200)),
];

pub(crate) fn measure(options: &Options) -> Result<(), Failure> {
    if !HOLDS.iter().any(|(name, _)| options.wants(name)) {
        return Ok(());
    }
    if threads::cpus().len() < 2 {
        eprintln!("extent_locks: hand-off is left out: it wants two cores");
        return Ok(());
    }
    let title = "Hand-off of an exclusive lock between two cores, from release to acquisition";
    let mut table = Table::new(title, FIGURES, options);
    let (keys, contenders) = field(KEYS);
    for (name, hold) in HOLDS {
        let turn = |contender: &dyn Contender, window| contender.hand_off(&keys[0], *hold, window);
        table.case((*name).to_owned(), &mut subjects(&contenders, turn))?;
    }
    Ok(())
}

/// What the two threads tell each other. Numbers are those of hand-overs, counted from one.
struct Exchange {
    /// The latest hand-over whose receiver is about to call the lock.
    announced: CachePadded<AtomicU64>,
    /// The latest hand-over that is complete.
    received: CachePadded<AtomicU64>,
    /// When the holder was about to release, nanoseconds since `epoch`. Written and read under
    /// the lock that is measured.
    released_ns: CachePadded<AtomicU64>,
    epoch: Instant,
    hold: Duration,
}

/// Passes the lock of `key` back and forth for `window`.
pub(crate) fn run<L: KeyedLocks>(
    locks: &L,
    key: &Uuid,
    hold: Duration,
    window: Duration,
) -> Vec<f64> {
    let exchange = Exchange {
        announced: CachePadded::default(),
        received: CachePadded::default(),
        released_ns: CachePadded::default(),
        epoch: Instant::now(),
        hold,
    };
    let seen_ns = Mutex::new(Vec::new());
    threads::run(2, window, |thread, stop| {
        let mut latencies_ns: Vec<u64> = Vec::with_capacity(1 << 16);
        // The second thread receives hand-overs 1, 3, 5; the first 2, 4, 6.
        let mut number = 2 - thread as u64;
        while let Some(latency_ns) = exchange.receive(locks, key, number, stop) {
            // The first comes from nobody.
            if number > 1 {
                latencies_ns.push(latency_ns);
            }
            number += 2;
        }
        let count = latencies_ns.len() as u64;
        seen_ns.lock().expect("no thread panics").extend(latencies_ns);
        count
    });
    let mut seen_ns = seen_ns.into_inner().expect("no thread panics");
    seen_ns.sort_unstable();
    vec![percentile(&seen_ns, 50), percentile(&seen_ns, 99), seen_ns.len() as f64]
}

impl Exchange {
    /// Receives hand-over `number`, and holds the lock until the next can take place. Returns the
    /// latency in nanoseconds; none when the window is over.
    fn receive<L: KeyedLocks>(
        &self,
        locks: &L,
        key: &Uuid,
        number: u64,
        stop: &Stop,
    ) -> Option<u64> {
        wait_for(&self.received, number - 1, stop)?;
        self.announced.store(number, Ordering::Release);
        locks.exclusive(key, || {
            let latency_ns = self.now_ns() - self.released_ns.load(Ordering::Relaxed);
            self.received.store(number, Ordering::Release);
            let announced = wait_for(&self.announced, number + 1, stop);
            let until = Instant::now() + self.hold;
            while announced.is_some() && Instant::now() < until {
                std::hint::spin_loop();
            }
            self.released_ns.store(self.now_ns(), Ordering::Relaxed);
            announced.map(|()| latency_ns)
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).expect("a window of less than 500 years")
    }
}

/// Spins until `word` has come to `number`; none when the window is over.
fn wait_for(word: &AtomicU64, number: u64, stop: &Stop) -> Option<()> {
    while word.load(Ordering::Acquire) < number {
        if stop.is_set() {
            return None;
        }
        std::hint::spin_loop();
    }
    Some(())
}

fn percentile(sorted: &[u64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).map_or(f64::NAN, |value| *value as f64)
}
