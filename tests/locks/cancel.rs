//! A storm of tasks that are dropped wherever they stand: before their first poll, while they wait,
//! woken and not yet polled, with the lock in hand. Beside them threads that block.
//!
//! Those that stay are polled when they are woken and at no other time; all of them have to get
//! their locks. A hang names the seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Instant;

use dynamicfs::concurrency::extent_locks::{ExtentRead, ExtentWrite, LockMany};
use dynamicfs::concurrency::lock::acquire::Acquiring;
use dynamicfs::{
    ExtentLockManager, ExtentReadGuard, ExtentWriteGuard, LockMode, LockRefusal, LockedExtents,
};

use crate::rig::{
    Bell, HANG, Numbers, Record, Watchdog, assert_all_free, deadline, extent, poll, seed, span,
    table,
};

const EXTENTS: usize = 12;
const POLLING_THREADS: u64 = 6;
const BLOCKING_THREADS: u64 = 6;
/// Tasks of one polling thread at once.
const TASKS: usize = 24;

enum Asked<'a> {
    Read(Acquiring<'a, ExtentRead>),
    Write(Acquiring<'a, ExtentWrite>),
    Many(LockMany<'a>),
}

/// Only dropped.
#[expect(dead_code, reason = "guards are kept to be dropped")]
enum Guards<'a> {
    Read(ExtentReadGuard<'a>),
    Write(ExtentWriteGuard<'a>),
    Many(LockedExtents<'a>),
}

impl<'a> Asked<'a> {
    fn poll(&mut self, waker: &Waker) -> Poll<Result<Guards<'a>, LockRefusal>> {
        match self {
            Asked::Read(future) => poll(future, waker).map_ok(Guards::Read),
            Asked::Write(future) => poll(future, waker).map_ok(Guards::Write),
            Asked::Many(future) => poll(future, waker).map_ok(Guards::Many),
        }
    }
}

struct Task<'a> {
    wanted: Vec<(usize, LockMode)>,
    asked: Asked<'a>,
    bell: Arc<Bell>,
    waker: Waker,
    /// It is neither dropped nor polled unasked.
    stays: bool,
    polled: bool,
}

#[derive(Debug, Default)]
struct Counts {
    got: AtomicU64,
    stayed: AtomicU64,
    dropped_unpolled: AtomicU64,
    dropped_waiting: AtomicU64,
    dropped_woken: AtomicU64,
    dropped_with_lock: AtomicU64,
    blocked: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Storm {
    locks: ExtentLockManager,
    records: Vec<Record>,
    counts: Counts,
}

/// What one thread polls.
struct Poller<'a> {
    storm: &'a Storm,
    numbers: Numbers,
    tasks: Vec<Task<'a>>,
    held: Vec<(Vec<(usize, LockMode)>, Guards<'a>)>,
}

impl Storm {
    fn wanted(&self, numbers: &mut Numbers, most: usize) -> Vec<(usize, LockMode)> {
        let mut wanted: Vec<(usize, LockMode)> = Vec::new();
        for _ in 0..1 + numbers.below(most) {
            // Some extents are wanted more than others.
            let at = numbers.below(EXTENTS).min(numbers.below(EXTENTS));
            if wanted.iter().all(|(other, _)| *other != at) {
                let mode = if numbers.one_in(2) { LockMode::Shared } else { LockMode::Exclusive };
                wanted.push((at, mode));
            }
        }
        wanted
    }

    fn ask(&self, wanted: &[(usize, LockMode)]) -> Asked<'_> {
        match wanted {
            [(at, LockMode::Shared)] => Asked::Read(self.locks.read(extent(*at)).into_future()),
            [(at, LockMode::Exclusive)] => {
                Asked::Write(self.locks.write(extent(*at)).into_future())
            }
            _ => Asked::Many(self.locks.lock_many(&by_extent(wanted))),
        }
    }

    /// What the locks are for.
    fn use_locks(&self, wanted: &[(usize, LockMode)], numbers: &mut Numbers) {
        for (at, mode) in wanted {
            match mode {
                LockMode::Shared => self.records[*at].check(numbers),
                LockMode::Exclusive => self.records[*at].rewrite(numbers),
            }
        }
    }

    fn block(&self, numbers: &mut Numbers, until: Instant) {
        while Instant::now() < until {
            let wanted = self.wanted(numbers, 3);
            let many = self.locks.lock_many(&by_extent(&wanted));
            let result =
                if numbers.one_in(3) { many.wait_until(deadline(numbers)) } else { many.wait() };
            match result {
                Ok(_guards) => {
                    self.use_locks(&wanted, numbers);
                    count(&self.counts.blocked);
                }
                Err(refusal) => assert_eq!(refusal, LockRefusal::Expired),
            }
        }
    }
}

fn by_extent(wanted: &[(usize, LockMode)]) -> Vec<(uuid::Uuid, LockMode)> {
    wanted.iter().map(|(at, mode)| (extent(*at), *mode)).collect()
}

impl Poller<'_> {
    fn spawn(&mut self) {
        let wanted = self.storm.wanted(&mut self.numbers, 4);
        let asked = self.storm.ask(&wanted);
        let (bell, waker) = Bell::new();
        let stays = self.numbers.one_in(3);
        self.tasks.push(Task { wanted, asked, bell, waker, stays, polled: false });
    }

    fn poll(&mut self, index: usize) {
        let task = &mut self.tasks[index];
        task.polled = true;
        let Poll::Ready(result) = task.asked.poll(&task.waker) else { return };
        let guards = result.expect("the table has room for all extents");
        let task = self.tasks.swap_remove(index);
        self.storm.use_locks(&task.wanted, &mut self.numbers);
        count(&self.storm.counts.got);
        if task.stays {
            count(&self.storm.counts.stayed);
        }
        self.held.push((task.wanted, guards));
    }

    /// Polls those that were woken. Whether there were any.
    fn poll_woken(&mut self) -> bool {
        let mut any = false;
        for index in (0..self.tasks.len()).rev() {
            if self.tasks.get(index).is_some_and(|task| task.bell.take()) {
                any = true;
                self.poll(index);
            }
        }
        any
    }

    fn drop_one(&mut self, index: usize) {
        let task = self.tasks.swap_remove(index);
        let counts = &self.storm.counts;
        count(match (task.polled, task.bell.rang()) {
            (false, _) => &counts.dropped_unpolled,
            (true, false) => &counts.dropped_waiting,
            (true, true) => &counts.dropped_woken,
        });
    }

    fn let_go(&mut self, index: usize) {
        let (wanted, guards) = self.held.swap_remove(index);
        for (at, mode) in wanted {
            if mode == LockMode::Shared {
                self.storm.records[at].check(&mut self.numbers);
            }
        }
        drop(guards);
        count(&self.storm.counts.dropped_with_lock);
    }

    fn step(&mut self) {
        let chosen = (!self.tasks.is_empty()).then(|| self.numbers.below(self.tasks.len()));
        let leaves = chosen.filter(|index| !self.tasks[*index].stays);
        match self.numbers.below(8) {
            0..3 if self.tasks.len() < TASKS => self.spawn(),
            3 => {
                if let Some(index) = leaves {
                    self.drop_one(index);
                }
            }
            4 => {
                // Unasked, and sometimes from another task.
                if let Some(index) = leaves {
                    if self.numbers.one_in(2) {
                        let task = &mut self.tasks[index];
                        (task.bell, task.waker) = Bell::new();
                    }
                    self.poll(index);
                }
            }
            5 => {
                if !self.poll_woken() {
                    std::thread::yield_now();
                }
            }
            _ => {
                if !self.held.is_empty() {
                    let index = self.numbers.below(self.held.len());
                    self.let_go(index);
                }
            }
        }
    }

    fn storm(&mut self, until: Instant) {
        while Instant::now() < until {
            self.step();
        }
        // Everybody who is still here stays, and has to be woken to get on.
        loop {
            while !self.held.is_empty() {
                self.let_go(0);
            }
            if self.tasks.is_empty() {
                return;
            }
            if !self.poll_woken() {
                std::thread::park();
            }
        }
    }
}

fn storm(test: &'static str, locks: ExtentLockManager) {
    let seed = seed();
    eprintln!("{test}: DYNAMICFS_STRESS_SEED={seed}");
    let _watchdog = Watchdog::over(test, seed, span() + HANG);
    let records = (0..EXTENTS).map(|_| Record::default()).collect();
    let storm = Storm { locks, records, counts: Counts::default() };
    let until = Instant::now() + span();
    std::thread::scope(|scope| {
        for thread in 0..POLLING_THREADS + BLOCKING_THREADS {
            let (storm, mut numbers) = (&storm, Numbers(seed ^ (thread << 40)));
            scope.spawn(move || {
                if thread < BLOCKING_THREADS {
                    return storm.block(&mut numbers, until);
                }
                let (tasks, held) = (Vec::new(), Vec::new());
                Poller { storm, numbers, tasks, held }.storm(until);
            });
        }
    });
    let counts = &storm.counts;
    eprintln!("{test}: {counts:?}");
    for counter in [
        &counts.stayed,
        &counts.dropped_unpolled,
        &counts.dropped_waiting,
        &counts.dropped_woken,
        &counts.dropped_with_lock,
        &counts.blocked,
    ] {
        assert!(counter.load(Ordering::Relaxed) > 20, "too little was tried: {counts:?}");
    }
    assert_all_free(&storm.locks, EXTENTS);
}

#[test]
fn tasks_are_dropped_everywhere_and_who_stays_gets_its_locks() {
    storm("tasks_are_dropped_everywhere_and_who_stays_gets_its_locks", table(64, 2, 63));
}

#[test]
fn the_same_where_nobody_is_overtaken() {
    storm("the_same_where_nobody_is_overtaken", table(1 << 10, 1, 0));
}
