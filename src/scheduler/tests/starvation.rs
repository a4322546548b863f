//! The starvation bound, asserted as a number of dispatches.
//!
//! Higher classes are kept saturated for the whole run. Of every request it is noted, when it
//! falls due, how many dispatches [`Limits::dispatches_until_served`] allows until it starts.

use std::collections::BTreeMap;

use crate::io::op::{Buffers, CLASSES, DiskId, OpKind, Priority, Request};
use crate::scheduler::limits::{Limits, SchedulerConfig};
use crate::scheduler::tests::{Lane, Started};
use crate::sim::{Random, for_each_seed};

const SLOT: u64 = 4096;

struct Known {
    id: u64,
    class: Priority,
    deadline: u64,
    /// Dispatches that it takes to start all of it.
    starts: u64,
}

struct Promise {
    made: u64,
    bound: u64,
}

struct Trial {
    random: Random,
    lane: Lane,
    now: u64,
    ids: u64,
    dispatches: u64,
    /// Not wholly started, in the order of arrival.
    waiting: Vec<Known>,
    promises: BTreeMap<u64, Promise>,
    active: Vec<Started>,
    kept: u64,
    /// The largest part of a bound that was used, in percent.
    tightest: u64,
}

impl Trial {
    fn new(seed: u64) -> Trial {
        let mut random = Random::new(seed);
        let config = SchedulerConfig {
            depth: Some(2 + random.below(30) as u32),
            slot_bytes: Some(SLOT),
            split_bytes: Some(4 * SLOT),
            active_bytes_max: Some(1 << 40),
            max_wait_us: Some([(); CLASSES].map(|()| 1 + random.below(400))),
            aged_every: Some(1 + random.below(9) as u32),
            ..SchedulerConfig::default()
        };
        let limits = Limits::resolve(&config, 0, 1).unwrap();
        Trial {
            random,
            lane: Lane::new(limits),
            now: 1,
            ids: 0,
            dispatches: 0,
            waiting: Vec::new(),
            promises: BTreeMap::new(),
            active: Vec::new(),
            kept: 0,
            tightest: 0,
        }
    }

    fn enqueue(&mut self, class: Priority, slots: u64) {
        self.ids += 1;
        let limits = self.lane.scheduler.limits();
        let deadline = self.now + limits.max_wait_ns[class.index()];
        let starts = if class >= Priority::Write { slots.div_ceil(4) } else { 1 };
        self.waiting.push(Known { id: self.ids, class, deadline, starts });
        let kind = if class >= Priority::Write { OpKind::Write } else { OpKind::Read };
        let (disk, offset, len, buffers) = (DiskId(0), 0, slots * SLOT, Buffers::None);
        let request = Request { disk, priority: class, kind, offset, len, buffers };
        self.lane.enqueue(self.ids, request, self.now);
    }

    /// Notes the bound of every request that has fallen due.
    fn promise(&mut self) {
        for (position, request) in self.waiting.iter().enumerate() {
            if request.deadline >= self.now || self.promises.contains_key(&request.id) {
                continue;
            }
            let before = &self.waiting[..position];
            let ahead = before.iter().filter(|other| other.class == request.class);
            let ahead: u64 = ahead.map(|other| other.starts).sum();
            let due = self
                .waiting
                .iter()
                .filter(|other| other.class != request.class && other.deadline <= request.deadline);
            let due: u64 = due.map(|other| other.starts).sum();
            let limits = self.lane.scheduler.limits();
            let bound = limits.dispatches_until_served(ahead as u32, due as u32);
            self.promises.insert(request.id, Promise { made: self.dispatches, bound });
        }
    }

    fn dispatch(&mut self) {
        self.promise();
        while let Some(started) = self.lane.next(self.now) {
            self.dispatches += 1;
            if let Some(Promise { made, bound }) = self.promises.remove(&started.id) {
                let used = self.dispatches - made;
                assert!(used <= bound, "{started:?} took {used} dispatches of {bound}");
                self.kept += 1;
                self.tightest = self.tightest.max(used * 100 / bound);
            }
            // Of a split one the first start was promised; the rest of it counts for others.
            let position = self.waiting.iter().position(|known| known.id == started.id).unwrap();
            self.waiting[position].starts -= 1;
            if self.waiting[position].starts == 0 {
                self.waiting.remove(position);
            } else {
                self.promises
                    .insert(started.id, Promise { made: self.dispatches, bound: u64::MAX });
            }
            self.active.push(started);
        }
    }

    fn complete_some(&mut self) {
        for _ in 0..1 + self.random.below(3) {
            if !self.active.is_empty() {
                let index = self.random.below(self.active.len() as u64) as usize;
                let started = self.active.swap_remove(index);
                self.lane.ended(started, self.now);
            }
        }
    }

    /// Runs with `loud` classes saturated and requests of `quiet` ones now and then.
    fn run(&mut self, loud: &[Priority], quiet: &[Priority], slots_max: u64) {
        for _ in 0..1500 {
            for class in loud {
                while self.waiting.iter().filter(|known| known.class == *class).count() < 8 {
                    let slots = 1 + self.random.below(slots_max);
                    self.enqueue(*class, slots);
                }
            }
            if self.random.below(20) == 0 {
                let class = *self.random.pick(quiet);
                let slots = 1 + self.random.below(slots_max);
                self.enqueue(class, slots);
            }
            self.dispatch();
            self.now += self.random.below(20_000);
            self.complete_some();
        }
    }
}

#[test]
fn a_due_request_starts_within_its_bound() {
    for_each_seed("a_due_request_starts_within_its_bound", 60, |seed| {
        let mut trial = Trial::new(seed);
        let loud = 1 + trial.random.below(CLASSES as u64 - 1) as usize;
        let slots_max = 1 + trial.random.below(12);
        let (loud, quiet) = (&Priority::ALL[..loud], &Priority::ALL[loud..]);
        trial.run(loud, quiet, slots_max);
        assert!(trial.kept > 50, "{} promises were made and kept", trial.kept);
        assert!(trial.tightest > 40, "the bound is loose: {} % used", trial.tightest);
    });
}

#[test]
fn background_is_served_under_saturating_critical_within_its_bound() {
    let name = "background_is_served_under_saturating_critical_within_its_bound";
    for_each_seed(name, 40, |seed| {
        let mut trial = Trial::new(seed);
        // Twice: of some seeds one run makes few requests of Background.
        trial.run(&[Priority::Critical], &[Priority::Background], 1);
        trial.run(&[Priority::Critical], &[Priority::Background], 1);
        let served = trial.ids - trial.waiting.len() as u64;
        let waiting = trial.waiting.iter().filter(|known| known.class == Priority::Background);
        assert!(served > 100 && waiting.count() < 40, "Background starves");
        assert!(trial.kept > 50);
    });
}

#[test]
fn a_request_larger_than_the_device_starts_within_its_bound() {
    let name = "a_request_larger_than_the_device_starts_within_its_bound";
    for_each_seed(name, 30, |seed| {
        let mut trial = Trial::new(seed);
        let slots = u64::from(trial.lane.scheduler.limits().depth) + 3;
        trial.enqueue(Priority::NormalRead, slots);
        trial.run(&[Priority::Critical, Priority::HighRead], &[Priority::NormalRead], 2);
        assert!(!trial.waiting.iter().any(|known| known.id == 1), "it never started");
    });
}
