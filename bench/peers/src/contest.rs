//! The rounds: every contestant in turn, in another order each time.
//!
//! All stores stay open from their first turn to the end, because a store that was just opened is
//! not in its steady state: memtables are empty, logs are new. So that nobody's background work
//! falls into another's window, a turn begins when the process has been quiet for a while.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::args::{Plan, Shape};
use crate::contestants::{Contestant, Store};
use crate::counters::{Counters, Reading};
use crate::directory::{TemporaryDirectory, await_signal};
use crate::failure::Failure;
use crate::writer::{Window, Writer, latencies, make_value};

/// Bytes of the writes that fill a store.
const FILL_BYTES: usize = 1 << 20;
/// Keys of each check, of all writers together.
const CHECKED: usize = 2048;
/// Quiet is: for so long, less than this share of one processor, and nothing written.
pub(crate) const QUIET: Duration = Duration::from_millis(500);
const QUIET_CPU: f64 = 0.05;
/// After so long a turn begins all the same, which is told beside its figures.
const QUIET_DEADLINE: Duration = Duration::from_secs(60);

/// A contestant, its store, and what was seen of it.
pub(crate) struct Entry {
    /// Who.
    pub(crate) contestant: Contestant,
    store: Option<Box<dyn Store>>,
    writers: Vec<Writer>,
    /// Writes that ended in its windows.
    pub(crate) ended: u64,
    /// Of the writes that began in them, nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Writes per second of each round.
    pub(crate) rates: Vec<f64>,
    /// Cost of all windows together.
    pub(crate) cost: Reading,
    /// Turns that began while somebody still worked in the background.
    pub(crate) disturbed: u32,
    /// Why it took no further part.
    pub(crate) failure: Option<Failure>,
}

/// What a run has seen, also when it ended early.
pub(crate) struct Contest {
    /// In the order of the plan.
    pub(crate) entries: Vec<Entry>,
    /// Why it ended early: nobody's failure alone.
    pub(crate) failure: Option<Failure>,
}

/// Runs it: fills, measures, checks, and removes all files. A contestant that fails takes no
/// further part; the others go on.
pub(crate) fn run(plan: &Plan, counters: &Counters, say: &mut dyn FnMut(&str)) -> Contest {
    let mut entries = Vec::new();
    let outcome = run_in_directory(plan, counters, &mut entries, say);
    Contest { entries, failure: outcome.err() }
}

fn run_in_directory(
    plan: &Plan,
    counters: &Counters,
    entries: &mut Vec<Entry>,
    say: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let needed = plan.contestants.iter().map(|one| (one.disk_bytes)(plan.shape)).sum();
    let home = TemporaryDirectory::new(&plan.directory, needed)?;
    for contestant in &plan.contestants {
        entries.push(Entry::new(*contestant, plan.shape)?);
    }
    let outcome = measure(plan, counters, &home, entries, say);
    // What is still open is closed before its files go.
    entries.iter_mut().for_each(Entry::abandon);
    outcome
}

fn measure(
    plan: &Plan,
    counters: &Counters,
    home: &TemporaryDirectory,
    entries: &mut [Entry],
    say: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    for entry in &mut *entries {
        say(&format!("filling {}", entry.contestant.name));
        home.folder(entry.contestant.name)?;
        entry.attempt(say, |entry| entry.open(home, plan.shape)?.fill(plan.shape));
        // The second time finds logs of the first one to use again, as all turns after it do.
        settle(plan, counters)?;
        entry.attempt(say, |entry| entry.fill(plan.shape));
    }
    for round in 0..plan.rounds {
        for index in order(entries.len(), round, plan.rounds) {
            let entry = &mut entries[index];
            if entry.failure.is_some() {
                continue;
            }
            if settle(plan, counters)? == Background::Busy {
                say("somebody still works in the background: the next window has that in it");
                entry.disturbed += 1;
            }
            if let Some(rate) = entry.attempt(say, |entry| entry.turn(plan, counters)) {
                let name = entry.contestant.name;
                say(&format!("round {} of {}: {name} {rate:.0}/s", round + 1, plan.rounds));
            }
        }
    }
    for entry in entries.iter_mut().filter(|entry| entry.failure.is_none()) {
        say(&format!("closing {}, opening and checking it", entry.contestant.name));
        entry.attempt(say, |entry| entry.end(home, plan.shape));
    }
    Ok(())
}

/// The order of a round: it begins elsewhere each time, and every other round goes the other way,
/// so that nobody always comes after the same one.
fn order(count: usize, round: u32, rounds: u32) -> Vec<usize> {
    let first = count * round as usize / rounds.max(1) as usize;
    let mut order: Vec<usize> = (0..count).map(|place| (first + place) % count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// What works in the background when a turn begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Background {
    Quiet,
    Busy,
}

/// Waits until nobody works in the background, then syncs the file system: what quiet engines left
/// in the page cache would be written in somebody's window.
fn settle(plan: &Plan, counters: &Counters) -> Result<Background, Failure> {
    let found = wait_for_quiet(counters);
    let synced = File::open(&plan.directory).and_then(|file| Ok(nix::unistd::syncfs(&file)?));
    synced.map_err(|error| Failure::store("a sync of the file system", error))?;
    Ok(found)
}

fn wait_for_quiet(counters: &Counters) -> Background {
    let deadline = Instant::now() + QUIET_DEADLINE;
    while Instant::now() < deadline {
        let before = counters.read();
        std::thread::sleep(QUIET);
        let spent = before.until(counters.read());
        let cpu = spent.cpu_ns as f64 / QUIET.as_nanos() as f64;
        if cpu < QUIET_CPU && spent.process_bytes == 0 {
            return Background::Quiet;
        }
    }
    Background::Busy
}

impl Entry {
    fn new(contestant: Contestant, shape: Shape) -> Result<Self, Failure> {
        Ok(Self {
            contestant,
            store: None,
            writers: Writer::all(shape),
            ended: 0,
            latency: latencies()?,
            rates: Vec::new(),
            cost: Reading { flushes: Some(0), ..Reading::default() },
            disturbed: 0,
            failure: None,
        })
    }

    /// Does a step, unless an earlier one failed. A failure, also a panic, ends its part.
    fn attempt<T>(
        &mut self,
        say: &mut dyn FnMut(&str),
        step: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Option<T> {
        if self.failure.is_some() {
            return None;
        }
        // Nobody looks at what the step has left: only figures of earlier turns are used.
        let outcome = catch_unwind(AssertUnwindSafe(|| step(self)));
        let outcome = outcome.unwrap_or_else(|_| Err(Failure::store("its part", "it panicked")));
        let told = |failure: Failure| {
            await_signal();
            let failure = failure.of(self.contestant.name);
            say(&format!("{}; it takes no further part", failure.line()));
            self.failure = Some(failure);
            self.abandon();
        };
        outcome.map_err(told).ok()
    }

    /// Drops the store as it is. One that failed may panic at that, too.
    fn abandon(&mut self) {
        let store = self.store.take();
        drop(catch_unwind(AssertUnwindSafe(|| drop(store))));
    }

    fn open(&mut self, home: &TemporaryDirectory, shape: Shape) -> Result<&mut Self, Failure> {
        let folder = home.path().join(self.contestant.name);
        self.store = Some((self.contestant.open)(&folder, shape)?);
        Ok(self)
    }

    /// Writes the first value of every key, also over itself.
    fn fill(&self, shape: Shape) -> Result<(), Failure> {
        let store = self.store()?;
        let keys_per_write = (FILL_BYTES / shape.block_bytes).max(1) as u64;
        let mut values = Vec::new();
        for first in (0..shape.keys()).step_by(keys_per_write as usize) {
            let keys = first..shape.keys().min(first + keys_per_write);
            values.resize((keys.end - keys.start) as usize * shape.block_bytes, 0);
            for (key, value) in keys.zip(values.chunks_mut(shape.block_bytes)) {
                make_value(value, shape, key, 0);
            }
            store.fill(first, &values)?;
        }
        Ok(())
    }

    fn store(&self) -> Result<&dyn Store, Failure> {
        let closed = || Failure::store("a turn", "the store is closed");
        self.store.as_deref().ok_or_else(closed)
    }

    /// Warms up, measures, checks; the rate.
    fn turn(&mut self, plan: &Plan, counters: &Counters) -> Result<f64, Failure> {
        let mut writers = std::mem::take(&mut self.writers);
        let window = Window::after(plan.warmup, plan.runtime);
        writers.iter_mut().try_for_each(|writer| writer.enter(window))?;
        let store = self.store()?;
        let (writers, cost) = std::thread::scope(|scope| {
            let running = scope.spawn(|| store.run(writers));
            std::thread::sleep(window.from.saturating_duration_since(Instant::now()));
            let before = counters.read();
            std::thread::sleep(window.until.saturating_duration_since(Instant::now()));
            let cost = before.until(counters.read());
            let ran = running.join();
            let ran = ran.unwrap_or_else(|_| Err(Failure::store("a turn", "its thread panicked")));
            ran.map(|writers| (writers, cost))
        })?;
        self.writers = writers;
        self.cost = self.cost.and(cost);
        let mut ended = 0;
        for seen in self.writers.iter_mut().filter_map(Writer::leave) {
            let added = self.latency.add(seen.latency);
            added.map_err(|error| Failure::store("a histogram", error))?;
            ended += seen.ended;
        }
        self.ended += ended;
        let rate = ended as f64 / plan.runtime.as_secs_f64();
        self.rates.push(rate);
        self.check()?;
        Ok(rate)
    }

    /// Whether a sample of keys has what was acknowledged last.
    fn check(&mut self) -> Result<(), Failure> {
        let mut writers = std::mem::take(&mut self.writers);
        let store = self.store()?;
        let count = CHECKED.div_ceil(writers.len().max(1));
        let read = |key| store.read(key);
        let outcome = writers.iter_mut().try_for_each(|writer| writer.check(count, &read));
        self.writers = writers;
        outcome
    }

    /// Closes the store, and checks it again as it is opened from its files.
    fn end(&mut self, home: &TemporaryDirectory, shape: Shape) -> Result<(), Failure> {
        self.close()?;
        self.open(home, shape)?.check()?;
        self.close()
    }

    fn close(&mut self) -> Result<(), Failure> {
        self.store.take().map_or(Ok(()), Store::close)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_everybody_once() {
        for count in 1..12 {
            for round in 0..5 {
                let mut order = order(count, round, 5);
                order.sort_unstable();
                assert_eq!(order, (0..count).collect::<Vec<_>>(), "{count} in round {round}");
            }
        }
    }

    /// A store that breaks whenever it is used, and when it is dropped.
    struct Broken;

    impl Drop for Broken {
        fn drop(&mut self) {
            panic!("planted: dropped")
        }
    }

    impl Store for Broken {
        fn fill(&self, _: u64, _: &[u8]) -> Result<(), Failure> {
            Err(Failure::store("a write", "planted"))
        }

        fn write(&self, _: u64, _: &[u8]) -> Result<(), Failure> {
            panic!("planted: written")
        }

        fn read(&self, _: u64) -> Result<Vec<u8>, Failure> {
            panic!("planted: read")
        }

        fn close(self: Box<Self>) -> Result<(), Failure> {
            Ok(())
        }
    }

    #[test]
    fn a_contestant_that_fails_keeps_its_figures_and_does_nothing_more() {
        let shape = Shape { writers: 1, block_bytes: 4096, set_bytes: 4096 };
        let contestant = Contestant {
            name: "broken",
            packages: &[],
            disk_bytes: |_| 0,
            memory_bytes: |_| 0,
            open: |_, _| Ok(Box::new(Broken)),
        };
        type Step = fn(&mut Entry, Shape) -> Result<(), Failure>;
        let steps: [(Step, &str); 2] = [
            (|entry, shape| entry.fill(shape), "broken: a write: planted"),
            (|entry, _| entry.check(), "broken: its part: it panicked"),
        ];
        for (step, said) in steps {
            let mut entry = Entry::new(contestant, shape).unwrap();
            entry.store = Some(Box::new(Broken));
            entry.rates.push(1.0);
            let mut told = Vec::new();
            let mut say = |what: &str| told.push(what.to_owned());
            assert_eq!(entry.attempt(&mut say, |entry| step(entry, shape)), None);
            assert_eq!(entry.attempt(&mut say, |_| -> Result<(), _> { unreachable!() }), None);
            assert!(told.len() == 1 && told[0].starts_with(said), "{told:?}");
            assert!(entry.failure.is_some() && entry.store.is_none());
            assert_eq!(entry.rates, [1.0]);
        }
    }

    #[test]
    fn rounds_begin_elsewhere_and_turn_round() {
        assert_eq!(order(6, 0, 3), [0, 1, 2, 3, 4, 5]);
        assert_eq!(order(6, 1, 3), [1, 0, 5, 4, 3, 2]);
        assert_eq!(order(6, 2, 3), [4, 5, 0, 1, 2, 3]);
    }
}
