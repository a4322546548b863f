//! 256 threads over few and over many extents, in tables of the usual size and in ones so small
//! that their places change hands all the time.
//!
//! Every extent has a record that only its exclusive holder rewrites. A reader that sees it torn or
//! changing, and in the end a count of writes that is too low, show a lock that two had at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dynamicfs::{ExtentLockManager, LockMode, LockRefusal};

use crate::rig::{
    HANG, Numbers, Record, Watchdog, after_polls, assert_all_free, block_on, deadline, extent,
    seed, span, table,
};

const THREADS: usize = 256;
/// Extents that many threads want, of those there are.
const HOT: usize = 32;

/// What was done by all threads.
#[derive(Debug, Default)]
struct Counts {
    reads: AtomicU64,
    writes: AtomicU64,
    downgrades: AtomicU64,
    many: AtomicU64,
    held: AtomicU64,
    expired: AtomicU64,
    table_full: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn counted(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

struct World<'a> {
    locks: &'a ExtentLockManager,
    records: &'a [Record],
    counts: &'a Counts,
    /// Most extents that are locked by one call.
    many_max: usize,
}

impl World<'_> {
    fn choose(&self, numbers: &mut Numbers) -> usize {
        let all = self.records.len();
        if numbers.one_in(2) { numbers.below(all.min(HOT)) } else { numbers.below(all) }
    }

    /// One lock, in one of the ways there are, and what it is for.
    fn step(&self, numbers: &mut Numbers) -> Result<(), LockRefusal> {
        let at = self.choose(numbers);
        let id = extent(at);
        let polls = numbers.below(4);
        let way = numbers.below(16);
        match way {
            0..8 => {
                let _guard = match way {
                    0..3 => self.locks.read(id).wait()?,
                    3 | 4 => self.locks.try_read(id)?,
                    5 => self.locks.read(id).wait_until(deadline(numbers))?,
                    6 => block_on(self.locks.read(id))?,
                    _ => block_on(self.locks.read(id).until(after_polls(polls)))?,
                };
                self.records[at].check(numbers);
                count(&self.counts.reads);
            }
            8..14 => {
                let guard = match way {
                    8 | 9 => self.locks.write(id).wait()?,
                    10 => self.locks.try_write(id)?,
                    11 => self.locks.write(id).wait_until(deadline(numbers))?,
                    12 => block_on(self.locks.write(id))?,
                    _ => block_on(self.locks.write(id).until(after_polls(polls)))?,
                };
                self.records[at].rewrite(numbers);
                count(&self.counts.writes);
                if numbers.one_in(2) {
                    let _guard = guard.downgrade();
                    self.records[at].check(numbers);
                    count(&self.counts.downgrades);
                }
            }
            _ => self.many(numbers)?,
        }
        Ok(())
    }

    fn many(&self, numbers: &mut Numbers) -> Result<(), LockRefusal> {
        let mut chosen = Vec::new();
        for _ in 0..1 + numbers.below(self.many_max) {
            let at = self.choose(numbers);
            if chosen.iter().all(|(other, _)| *other != at) {
                let exclusive = numbers.one_in(2);
                chosen.push((at, if exclusive { LockMode::Exclusive } else { LockMode::Shared }));
            }
        }
        let mut wanted: Vec<_> = chosen.iter().map(|(at, mode)| (extent(*at), *mode)).collect();
        // Wanted both ways is wanted exclusively.
        wanted.extend(chosen.iter().map(|(at, _)| (extent(*at), LockMode::Shared)));
        let last = wanted.len() - 1;
        wanted.swap(0, last);
        let guards = match numbers.below(3) {
            0 => self.locks.lock_many(&wanted).wait()?,
            1 => self.locks.lock_many(&wanted).wait_until(deadline(numbers))?,
            _ => block_on(self.locks.lock_many(&wanted))?,
        };
        assert_eq!(guards.count(), chosen.len());
        for (at, mode) in chosen {
            match mode {
                LockMode::Shared => self.records[at].check(numbers),
                LockMode::Exclusive => {
                    self.records[at].rewrite(numbers);
                    count(&self.counts.writes);
                }
            }
        }
        count(&self.counts.many);
        Ok(())
    }

    fn work(&self, numbers: &mut Numbers, until: Instant) {
        while Instant::now() < until {
            match self.step(numbers) {
                Ok(()) => (),
                Err(LockRefusal::Held) => count(&self.counts.held),
                Err(LockRefusal::Expired) => count(&self.counts.expired),
                Err(LockRefusal::TableFull { .. }) => {
                    count(&self.counts.table_full);
                    std::thread::yield_now();
                }
                Err(LockRefusal::OnReactor) => panic!("this is no reactor's thread"),
            }
        }
    }
}

/// Runs all threads and checks what must hold in the end.
fn stress(
    test: &'static str,
    locks: &ExtentLockManager,
    extents: usize,
    many_max: usize,
) -> Counts {
    let seed = seed();
    eprintln!("{test}: DYNAMICFS_STRESS_SEED={seed}");
    let _watchdog = Watchdog::over(test, seed, span() + HANG);
    let records: Vec<Record> = (0..extents).map(|_| Record::default()).collect();
    let counts = Counts::default();
    let world = World { locks, records: &records, counts: &counts, many_max };
    let until = Instant::now() + span();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (world, mut numbers) = (&world, Numbers(seed ^ ((thread as u64) << 40)));
            scope.spawn(move || world.work(&mut numbers, until));
        }
    });
    eprintln!("{test}: {counts:?}, {:?}", locks.metrics().lock_contention_ratio());
    let writes: u64 = records.iter().map(Record::writes).sum();
    assert_eq!(writes, counted(&counts.writes), "two wrote one record at once");
    assert!(counted(&counts.reads) > 0 && counted(&counts.downgrades) > 0);
    assert!(counted(&counts.held) > 0 && counted(&counts.expired) > 0);
    assert_all_free(locks, extents);
    counts
}

#[test]
fn few_extents_in_a_usual_table() {
    let locks = ExtentLockManager::new().unwrap();
    let counts = stress("few_extents_in_a_usual_table", &locks, 4, 4);
    assert_eq!(counted(&counts.table_full), 0);
    assert!(counted(&counts.many) > 0);
    assert_eq!(locks.metrics().lock_creations, 4, "no lock is made twice while there is room");
}

#[test]
fn few_extents_that_fight_for_two_places() {
    let locks = table(2, 1, 63);
    let counts = stress("few_extents_that_fight_for_two_places", &locks, 4, 2);
    assert!(counted(&counts.table_full) > 0);
    assert!(locks.metrics().lock_creations > 100);
}

#[test]
fn many_extents_in_a_usual_table() {
    let locks = ExtentLockManager::new().unwrap();
    let counts = stress("many_extents_in_a_usual_table", &locks, 100_000, 5);
    assert_eq!(counted(&counts.table_full), 0);
    assert!(counted(&counts.many) > 0);
}

#[test]
fn many_extents_in_a_table_that_is_full_all_the_time() {
    let locks = table(64, 4, 5);
    let counts = stress("many_extents_in_a_table_that_is_full_all_the_time", &locks, 100_000, 3);
    assert!(counted(&counts.table_full) > 0 && counted(&counts.many) > 0);
    assert!(locks.metrics().lock_creations > 1000);
}

#[test]
fn strictly_first_come_first_served() {
    let locks = table(256, 4, 0);
    let counts = stress("strictly_first_come_first_served", &locks, 4, 4);
    assert!(counted(&counts.many) > 0);
}
