//! An idle lane takes waiting requests of a busy lane of its disk.

use std::collections::BTreeMap;

use crate::io::op::{Completion, DiskId, OpKind, Priority, Request};
use crate::reactor::local::{LocalIo, LocalTask, TaskState};
use crate::scheduler::limits::SchedulerConfig;
use crate::sim::fault::{Fault, FaultRule};
use crate::sim::tests::engine::{Play, Weather};
use crate::sim::trace::Event;
use crate::sim::{SimConfig, Simulation, for_each_seed};

const DISK: DiskId = DiskId(0);
const REQUESTS: u64 = 32;
const SLOW_NS: u64 = 20_000_000;

fn two_lanes() -> SimConfig {
    SimConfig {
        reactors: 2,
        lanes: vec![vec![0, 1]],
        scheduler: SchedulerConfig { depth: Some(1), ..SchedulerConfig::default() },
        ..SimConfig::default()
    }
}

#[test]
fn an_idle_lane_takes_the_queue_of_a_busy_one() {
    for_each_seed("an_idle_lane_takes_the_queue_of_a_busy_one", 30, |seed| {
        let mut sim = Simulation::new(seed, &two_lanes());
        sim.keep_trace();
        // The way in alternates between equal lanes: the first lane gets the slow half.
        for request in 0..REQUESTS / 2 {
            let range = request * 8192..request * 8192 + 4096;
            let slow = FaultRule::every(OpKind::Write, Fault::Slow(SLOW_NS)).at(range);
            sim.with_faults(DISK, |faults| faults.rules.push(slow));
        }
        let requests: Vec<Request> = (0..REQUESTS)
            .map(|n| Request::write(DISK, n * 4096, sim.buffer(4096).unwrap()))
            .collect();
        let tickets: Vec<_> =
            requests.into_iter().map(|request| sim.submit(request).unwrap()).collect();
        sim.run();
        for ticket in tickets {
            assert_eq!(ticket.try_take().unwrap().result.unwrap(), 4096);
        }
        let mut dispatched: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (_, event) in sim.trace_events(0) {
            if let Event::Dispatch { reactor, offset, .. } = event {
                dispatched.entry(offset).or_default().push(reactor);
            }
        }
        assert_eq!(dispatched.len() as u64, REQUESTS);
        let once = dispatched.values().all(|reactors| reactors.len() == 1);
        assert!(once, "what is at the device does not move: {dispatched:?}");
        let stolen = sim.metrics().disks[0].class(Priority::Write).stolen;
        assert!(stolen >= 4, "{stolen} moved");
        let serial = REQUESTS / 2 * SLOW_NS;
        assert!(sim.now_ns() < serial * 3 / 4, "{} of {serial} ns", sim.now_ns());
        assert_eq!(sim.lent_bytes(), 0);
        for route in &sim.gate.routes[0] {
            assert_eq!(route.lane.waiting.load(std::sync::atomic::Ordering::Relaxed), 0);
        }
    });
}

#[test]
fn stealing_goes_on_while_one_lane_is_hung() {
    let mut sim = Simulation::new(5, &two_lanes());
    let hang = FaultRule::nth(OpKind::Write, 0, Fault::Hang);
    sim.with_faults(DISK, |faults| faults.rules.push(hang));
    let tickets: Vec<_> = (0..REQUESTS)
        .map(|n| {
            let request = Request::write(DISK, n * 4096, sim.buffer(4096).unwrap());
            sim.submit(request).unwrap()
        })
        .collect();
    let until = sim.now_ns() + 100_000_000_000;
    sim.run_until(until, |_| false);
    let done = tickets.iter().filter(|ticket| ticket.is_done()).count() as u64;
    assert_eq!(done, REQUESTS - 1, "a lane whose only slot hangs gives its queue away");
}

/// Writes of a local task, which cannot move.
struct Rooted;

impl LocalTask for Rooted {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        for tag in 0..6 {
            let zeroes = Request::write_zeroes(DISK, tag * 4096, 4096);
            io.submit(tag, zeroes.with_priority(Priority::Write)).unwrap();
        }
        TaskState::Done
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        None
    }
}

/// Cause: a lane that had nothing to give at that moment forgot who had asked. Harm: the idle lane
/// had asked once and did not ask again, so that it stayed idle beside a long queue. Fix: the
/// question stays until it is answered.
#[test]
fn an_idle_lane_is_remembered_while_there_is_nothing_to_give() {
    let mut sim = Simulation::new(8, &two_lanes());
    let slow = |kind| FaultRule::every(kind, Fault::Slow(SLOW_NS)).at(0..REQUESTS * 4096);
    sim.with_faults(DISK, |faults| {
        faults.rules = vec![slow(OpKind::WriteZeroes), slow(OpKind::Write)];
    });
    sim.spawn_local(0, Box::new(Rooted));
    while sim.reactor(0).unwrap().ops.used() < 6 {
        sim.step();
    }
    // Even ones wait behind the task's on the first lane; the second lane is soon done.
    let tickets: Vec<_> = (0..8)
        .map(|n| {
            let sector = if n % 2 == 0 { n } else { REQUESTS + n };
            let request = Request::write(DISK, sector * 4096, sim.buffer(4096).unwrap());
            sim.submit(request).unwrap()
        })
        .collect();
    sim.run();
    assert!(tickets.iter().all(|ticket| ticket.is_done()));
    let stolen = sim.metrics().disks[0].class(Priority::Write).stolen;
    assert!(stolen > 0, "the second lane stayed idle");
}

#[test]
fn requests_are_stolen_in_the_random_plays_too() {
    let moved = std::cell::Cell::new(0);
    for_each_seed("requests_are_stolen_in_the_random_plays_too", 20, |seed| {
        let mut play = Play::new(seed, Weather::Mixed);
        play.play(80);
        play.settle();
        let disks = play.sim.metrics().disks;
        let classes = disks.iter().flat_map(|disk| &disk.classes);
        moved.set(moved.get() + classes.map(|class| class.stolen).sum::<u64>());
        assert_eq!(play.outstanding(), 0);
    });
    assert!(std::env::var_os("DYNAMICFS_SIM_SEED").is_some() || moved.get() > 20);
}
