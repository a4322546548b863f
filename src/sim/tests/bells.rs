//! Bells, and tasks that are made where they run.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::io::op::{Completion, DiskId, Request};
use crate::memory::DmaBuf;
use crate::reactor::bell::Bell;
use crate::reactor::local::{LocalIo, LocalTask, TaskSeed, TaskState};
use crate::sim::{SimConfig, Simulation};

/// Counts its polls. It is not `Send`.
struct Counter {
    polls: Rc<Cell<u64>>,
    seen: Arc<AtomicU64>,
    last: u64,
    /// Submitted at the first poll.
    buffer: Option<DmaBuf>,
}

impl LocalTask for Counter {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        self.polls.set(self.polls.get() + 1);
        self.seen.store(self.polls.get(), Ordering::Relaxed);
        assert_eq!(io.facts(DiskId(0)).unwrap().path.as_ref(), "sim-0");
        assert!(io.facts(DiskId(9)).is_none());
        if let Some(buffer) = self.buffer.take() {
            io.submit(0, Request::read(DiskId(0), 0, buffer)).unwrap();
        }
        if self.polls.get() == self.last { TaskState::Done } else { TaskState::Idle }
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        None
    }
}

fn seed(seen: &Arc<AtomicU64>, last: u64, buffer: Option<DmaBuf>) -> TaskSeed {
    let seen = Arc::clone(seen);
    Box::new(move || Box::new(Counter { polls: Rc::default(), seen, last, buffer }))
}

fn polls(sim: &mut Simulation, seen: &AtomicU64) -> u64 {
    sim.run();
    seen.load(Ordering::Relaxed)
}

#[test]
fn a_seed_becomes_a_task_and_submits() {
    let mut sim = Simulation::new(1, &SimConfig::default());
    let seen = Arc::default();
    let buffer = sim.buffer(4096).unwrap();
    sim.spawn_seed(0, seed(&seen, 1, Some(buffer)));
    assert_eq!(polls(&mut sim, &seen), 1);
    assert_eq!((sim.metrics().io_ops_completed(), sim.lent_bytes()), (1, 0));
}

#[test]
fn each_ring_after_a_poll_is_a_poll_of_its_own_task_alone() {
    let config = SimConfig { reactors: 2, lanes: vec![vec![0, 1]], ..SimConfig::default() };
    for number in 0..16 {
        let mut sim = Simulation::new(number, &config);
        let seen: [Arc<AtomicU64>; 3] = Default::default();
        let bells: Vec<Bell> = [0, 0, 1].map(|reactor| sim.bell(reactor).unwrap()).into();
        for (bell, seen) in bells.iter().zip(&seen) {
            sim.spawn_seed_with_bell(bell, seed(seen, u64::MAX, None));
        }
        let all = |sim: &mut Simulation| [0, 1, 2].map(|task: usize| polls(sim, &seen[task]));
        assert_eq!(all(&mut sim), [1, 1, 1]);
        bells[1].ring();
        assert_eq!(all(&mut sim), [1, 2, 1]);
        // Several before a poll are one.
        bells[2].ring();
        bells[2].clone().ring();
        bells[0].ring();
        assert_eq!(all(&mut sim), [2, 2, 2]);
    }
}

#[test]
fn a_ring_before_the_task_started_is_followed_by_a_poll() {
    for steps in 0..12 {
        let mut sim = Simulation::new(2, &SimConfig::default());
        let (seen, bell) = (Arc::default(), sim.bell(0).unwrap());
        bell.ring();
        (0..steps).for_each(|_| _ = sim.step());
        sim.spawn_seed_with_bell(&bell, seed(&seen, u64::MAX, None));
        bell.ring();
        assert!(polls(&mut sim, &seen) >= 1);
    }
}

#[test]
fn a_bell_of_an_ended_task_calls_nobody() {
    let mut sim = Simulation::new(3, &SimConfig::default());
    let (first, second): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
    let bell = sim.bell(0).unwrap();
    sim.spawn_seed_with_bell(&bell, seed(&first, 2, None));
    assert_eq!(polls(&mut sim, &first), 1);
    bell.ring();
    assert_eq!(polls(&mut sim, &first), 2);
    // It takes the slot of the ended one.
    sim.spawn_seed(0, seed(&second, u64::MAX, None));
    assert_eq!(polls(&mut sim, &second), 1);
    bell.ring();
    assert_eq!((polls(&mut sim, &second), polls(&mut sim, &first)), (1, 2));
    sim.spawn_seed_with_bell(&bell, seed(&first, u64::MAX, None));
    bell.ring();
    polls(&mut sim, &first);
    sim.close(1_000_000).unwrap();
    bell.ring();
}

#[test]
fn bells_are_refused_when_all_are_given() {
    let sim = Simulation::new(4, &SimConfig { reactors: 2, ..SimConfig::default() });
    let bells: Vec<Bell> = std::iter::from_fn(|| sim.bell(0)).take(100).collect();
    assert_eq!(bells.len() as u32, Bell::PER_REACTOR);
    assert!(sim.bell(1).is_some());
}
