//! How many shards our lock manager should have: the same work over 1 to 1,024 of them.
//!
//! Over 100,000 keys, evenly used or by Zipf's law, nine acquisitions of ten shared; and `churn`,
//! where every acquisition is exclusive and meets its key for the first time, so that entries are
//! made all the time. Churn begins every turn with an empty manager, and ends it early when a
//! million keys are used up; the time is that of the acquisitions alone.

mod ours;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use dynamicfs_bench::failure::Failure;
use dynamicfs_bench::micro::keys::{self, BATCH, Popularity, Step, Walk};
use dynamicfs_bench::micro::show::Table;
use dynamicfs_bench::micro::threads::{self, Timed};
use dynamicfs_bench::micro::{Contention, Figure, Options, Side, Subject};
use uuid::Uuid;

use ours::Manager;

const FIGURES: &[Figure] = &[Figure::rate("M ops/s", 3), Figure::time("waited %")];

const SHARDS: &[(usize, &str)] = &[
    (1, "1 shard"),
    (16, "16 shards"),
    (64, "64 shards"),
    (256, "256 shards"),
    (1_024, "1024 shards"),
];
const THREADS: &[usize] = &[1, 2, 8, 64, 256];
const KEYS: usize = 100_000;
const STEPS: usize = 1 << 18;
const WRITES_PERCENT: u32 = 10;
/// Keys of one turn of churn, a whole number of batches for each of 256 threads.
const CHURN_KEYS: usize = 1 << 20;

fn main() -> ExitCode {
    let options = Options::of_this_process();
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("shards: error: {failure}\nhelp: {}", failure.help());
            failure.exit_code()
        }
    }
}

fn measure(options: &Options) -> Result<(), Failure> {
    if Manager::with_shards(1).is_none() {
        eprintln!("shards: this build has no lock manager to try them on");
        return Ok(());
    }
    let mut table = Table::new("Shards of the lock manager", FIGURES, options);
    known_keys(&mut table)?;
    fresh_keys(&mut table)
}

/// The same keys again and again: uniform and Zipf.
fn known_keys(table: &mut Table<'_>) -> Result<(), Failure> {
    let keys = keys::uuids(KEYS);
    let managers: Vec<Manager> = SHARDS.iter().map(|(count, _)| manager(*count)).collect();
    for popularity in [Popularity::Uniform, Popularity::Zipf] {
        let steps = keys::steps(&keys, popularity, WRITES_PERCENT, STEPS);
        for threads in THREADS {
            let mut subjects = Vec::new();
            for (manager, (_, name)) in managers.iter().zip(SHARDS) {
                let turn = |window| walk(manager, &steps, *threads, window);
                subjects.push(Subject::new(name, Side::Ours, turn));
            }
            table.case(format!("{}/{threads} threads", popularity.name()), &mut subjects)?;
        }
    }
    Ok(())
}

/// Every key once: churn.
fn fresh_keys(table: &mut Table<'_>) -> Result<(), Failure> {
    let keys = keys::uuids(CHURN_KEYS);
    for threads in THREADS {
        let mut subjects = Vec::new();
        for (count, name) in SHARDS {
            let turn = |window| churn(&manager(*count), &keys, *threads, window);
            subjects.push(Subject::new(name, Side::Ours, turn));
        }
        table.case(format!("churn/{threads} threads"), &mut subjects)?;
    }
    Ok(())
}

fn manager(shards: usize) -> Manager {
    Manager::with_shards(shards).expect("a manager of any number of shards in the table")
}

/// `count` threads walk along `steps` for `window`.
fn walk(manager: &Manager, steps: &[Step], count: usize, window: Duration) -> Vec<f64> {
    let before = manager.contention();
    let timed = threads::run(count, window, |thread, stop| {
        let mut walk = Walk::new(steps, thread, count);
        stop.repeat(|| {
            let batch = walk.batch();
            for step in batch {
                if step.writes {
                    manager.exclusive(&step.key, || black_box(()));
                } else {
                    manager.shared(&step.key, || black_box(()));
                }
            }
            batch.len() as u64
        })
    });
    figures(&timed, before, manager.contention())
}

/// `count` threads lock their part of `keys`, each key once.
fn churn(manager: &Manager, keys: &[Uuid], count: usize, window: Duration) -> Vec<f64> {
    let before = manager.contention();
    let part = keys.len() / count;
    let timed = threads::run(count, window, |thread, stop| {
        let mut used = 0;
        for batch in keys[thread * part..(thread + 1) * part].chunks(BATCH) {
            for key in batch {
                manager.exclusive(key, || black_box(()));
            }
            used += batch.len() as u64;
            if stop.is_set() {
                break;
            }
        }
        used
    });
    figures(&timed, before, manager.contention())
}

fn figures(timed: &Timed, before: Option<Contention>, after: Option<Contention>) -> Vec<f64> {
    vec![timed.per_second() / 1e6, Contention::percent_between(before, after)]
}
