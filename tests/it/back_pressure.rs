//! A full queue gives the request back, low classes first; who waits for room gets through.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use dynamicfs::scheduler::limits::SchedulerConfig;
use dynamicfs::{DiskId, IoConfig, IoScheduler, Priority, Request, SubmitError, Ticket};

use crate::rig::{
    Gate, Scratch, alongside, assert_buffers_are_back, block_on, config, disk, nop_disk, open,
    settle,
};

const DISK: DiskId = DiskId(0);
const QUEUE_MAX: u32 = 16;

fn narrow(queue_max: u32) -> IoConfig {
    let scheduler = SchedulerConfig { queue_max: Some(queue_max), ..SchedulerConfig::default() };
    IoConfig { scheduler, ..config(vec![nop_disk()]) }
}

fn read(engine: &IoScheduler, class: Priority) -> Request {
    Request::read(DISK, 0, engine.buffer(4096).unwrap()).with_priority(class)
}

/// Submits in one class until it is refused.
fn fill(engine: &IoScheduler, class: Priority, tickets: &mut Vec<Ticket>) {
    loop {
        match engine.submit(read(engine, class)) {
            Ok(ticket) => tickets.push(ticket),
            Err(SubmitError::QueueFull(back)) => {
                assert_eq!(back.priority, class);
                assert_eq!(back.buffers.into_one().unwrap().len(), 4096);
                return;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn low_classes_are_shed_before_high_ones() {
    let _process = alongside();
    let engine = open(&narrow(QUEUE_MAX));
    let gate = Gate::hold(&engine, 0);
    let mut tickets = Vec::new();
    let lowest_first = Priority::ALL.into_iter().rev();
    for (class, expected) in lowest_first.zip([8, 12, 14, 15, 16]) {
        fill(&engine, class, &mut tickets);
        assert_eq!(tickets.len(), expected, "{class:?} was shed at another watermark");
    }
    let shed: Vec<u64> = engine.metrics().disks[0].classes.iter().map(|c| c.shed).collect();
    assert_eq!(shed, [1; 5]);
    gate.open();
    tickets.into_iter().for_each(|ticket| assert_eq!(settle(ticket).result.unwrap(), 4096));
    assert_buffers_are_back(&engine);
}

#[test]
fn a_wait_with_a_deadline_ends_at_the_deadline() {
    let _process = alongside();
    let engine = open(&narrow(QUEUE_MAX));
    let gate = Gate::hold(&engine, 0);
    let mut tickets = Vec::new();
    fill(&engine, Priority::Write, &mut tickets);
    let start = Instant::now();
    let patience = Duration::from_millis(60);
    let refused = engine.submit_wait(read(&engine, Priority::Write), Some(start + patience));
    assert!(matches!(refused, Err(SubmitError::QueueFull(_))), "{refused:?}");
    assert!(start.elapsed() >= patience, "it gave up after {:?}", start.elapsed());
    assert!(start.elapsed() < 20 * patience, "it gave up only after {:?}", start.elapsed());
    gate.open();
    let late =
        engine.submit_wait(read(&engine, Priority::Write), Some(Instant::now() + 20 * patience));
    tickets.push(late.unwrap());
    drop(refused);
    tickets.into_iter().for_each(|ticket| drop(settle(ticket)));
    assert_buffers_are_back(&engine);
}

#[test]
fn all_who_wait_for_room_get_through() {
    let _process = alongside();
    let engine = open(&narrow(QUEUE_MAX));
    let gate = Gate::hold(&engine, 0);
    let mut tickets = Vec::new();
    fill(&engine, Priority::Background, &mut tickets);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let engine = &engine;
            scope.spawn(move || {
                for _ in 0..50 {
                    let request = read(engine, Priority::Background);
                    let ticket = if n % 2 == 0 {
                        block_on(engine.submit_async(request))
                    } else {
                        engine.submit_wait(request, None)
                    };
                    assert_eq!(settle(ticket.unwrap()).result.unwrap(), 4096);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(20));
        gate.open();
    });
    tickets.into_iter().for_each(|ticket| drop(settle(ticket)));
    assert_buffers_are_back(&engine);
}

/// Cause: an awaiting submitter registers for room in a lane's queue; when the calls run out it
/// was given no wake-up, and its registration was taken out and dropped.
/// Harm: `submit_async` never returned although every earlier call had ended.
/// Fix: whoever frees a call wakes those who wait for one.
#[test]
fn who_awaits_a_call_is_woken_when_one_is_given_back() {
    let _process = alongside();
    for dropped in [false, true] {
        let engine = open(&IoConfig { calls_max: Some(4), ..narrow(QUEUE_MAX) });
        let tickets: Vec<Ticket> =
            (0..4).map(|_| engine.submit(read(&engine, Priority::Critical)).unwrap()).collect();
        while !tickets.iter().all(Ticket::is_done) {
            std::thread::yield_now();
        }
        let full = engine.submit(read(&engine, Priority::Critical));
        assert!(matches!(full, Err(SubmitError::QueueFull(_))), "{full:?}");
        std::thread::scope(|scope| {
            let (started, starts) = channel();
            let engine = &engine;
            let waiter = scope.spawn(move || {
                started.send(()).unwrap();
                let ticket = block_on(engine.submit_async(read(engine, Priority::Critical)));
                settle(ticket.unwrap()).result.unwrap()
            });
            starts.recv().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            for ticket in tickets {
                if dropped {
                    drop(ticket);
                } else {
                    settle(ticket);
                }
            }
            assert_eq!(waiter.join().unwrap(), 4096);
        });
        drop(full);
        assert_buffers_are_back(&engine);
    }
}

/// Cause: a submitter that met a full queue had counted itself in for a moment; another that
/// waited for the last place saw that count and went to sleep, and nobody woke it.
/// Harm: `submit_async` hung on an idle disk; likely with a queue of one.
/// Fix: whoever takes a failed reservation back wakes those who wait for room.
#[test]
fn those_who_crowd_at_a_queue_of_one_all_get_through() {
    let _process = alongside();
    let engine = open(&narrow(1));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let engine = &engine;
            scope.spawn(move || {
                for _ in 0..2000 {
                    let request = read(engine, Priority::Write);
                    let ticket = block_on(engine.submit_async(request)).unwrap();
                    drop(ticket);
                }
            });
        }
    });
    assert_buffers_are_back(&engine);
}

/// Cause: requests that a lane gave to an idle lane of the same disk were counted out with the
/// lane's next dispatch, and when they had been its last ones, that did not come.
/// Harm: the lane looked fuller than it was; with a narrow queue it took nothing any more.
/// Fix: count them out when they are given away.
#[test]
fn what_an_idle_lane_took_over_leaves_room_behind() {
    let _process = alongside();
    let scratch = Scratch::new();
    let mut config = narrow(2);
    config.disks = vec![disk(&scratch.file("disk", 1 << 20))];
    config.disks[0].lanes = Some(2);
    config.scheduler.depth = Some(1);
    config.reactors.count = Some(2);
    config.reactors.spin_us = 0;
    let engine = open(&config);
    for round in 0..300 {
        let burst: Vec<Ticket> = (0..3)
            .map(|_| {
                let write = Request::write(DISK, 0, engine.buffer(4096).unwrap());
                engine.submit_wait(write.with_priority(Priority::Critical), None).unwrap()
            })
            .collect();
        burst.into_iter().for_each(|ticket| assert_eq!(settle(ticket).result.unwrap(), 4096));
        let gates = [Gate::hold(&engine, 0), Gate::hold(&engine, 1)];
        let mut tickets = Vec::new();
        fill(&engine, Priority::Critical, &mut tickets);
        assert_eq!(tickets.len(), 4, "round {round}: room is missing");
        gates.iter().for_each(Gate::open);
        tickets.into_iter().for_each(|ticket| assert_eq!(settle(ticket).result.unwrap(), 4096));
    }
    let stolen: u64 = engine.metrics().disks[0].classes.iter().map(|c| c.stolen).sum();
    assert!(stolen > 0, "nothing was taken over: the test looks at nothing");
    assert_buffers_are_back(&engine);
}
