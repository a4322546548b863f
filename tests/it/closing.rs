//! Closing: with work queued, by drop, with no end of patience; and what is left afterwards.

use std::time::{Duration, Instant};

use dynamicfs::{Buffers, DiskId, ErrorKind, IoScheduler, Priority, Request, Ticket};

use crate::rig::{
    Gate, HANG, Scratch, alone, alongside, config, disk, filled, nop_disk, open, settle,
};

const DISK: DiskId = DiskId(0);
const MIB: u64 = 1 << 20;

fn assert_ended_whole(ticket: Ticket) -> bool {
    let completion = settle(ticket);
    assert!(matches!(completion.buffers, Buffers::One(_)), "a close took a buffer");
    match completion.result {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::ShuttingDown, "{error}");
            false
        }
    }
}

#[test]
fn what_is_queued_at_a_close_comes_back_with_its_buffers() {
    let _process = alongside();
    let engine = open(&config(vec![nop_disk()]));
    let gate = Gate::hold(&engine, 0);
    let tickets: Vec<Ticket> = (0..50)
        .map(|n| engine.submit(Request::read(DISK, n * 4096, filled(&engine, 4096, 0))).unwrap())
        .collect();
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        gate.open();
    });
    engine.close(HANG).unwrap();
    opener.join().unwrap();
    let done = tickets.into_iter().map(assert_ended_whole).filter(|done| *done).count();
    assert_eq!(done, 0, "the reactor was held until after the close began");
}

#[test]
fn what_is_at_the_device_at_a_close_is_waited_for() {
    let _process = alongside();
    let scratch = Scratch::new();
    let engine = open(&config(vec![disk(&scratch.file("disk", 16 * MIB))]));
    let write = |n: u64| {
        engine.write(DISK, Priority::Write, n * MIB, filled(&engine, 1 << 20, n as u8)).unwrap()
    };
    let tickets: Vec<Ticket> = (0..12).map(write).collect();
    engine.close(HANG).unwrap();
    for ticket in tickets {
        assert_ended_whole(ticket);
    }
}

#[test]
fn an_engine_that_is_dropped_closes_itself() {
    let _process = alongside();
    let engine = open(&config(vec![nop_disk()]));
    let tickets: Vec<Ticket> = (0..200)
        .map(|n| engine.submit(Request::read(DISK, n * 4096, filled(&engine, 4096, 0))).unwrap())
        .collect();
    let start = Instant::now();
    drop(engine);
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
    for ticket in tickets {
        assert_ended_whole(ticket);
    }
}

/// Cause: the deadline was added to the clock unchecked.
/// Harm: `close(Duration::MAX)`, which reads as "however long it takes", panicked.
/// Fix: a deadline beyond the clock is none.
#[test]
fn a_close_may_take_for_ever() {
    let _process = alongside();
    let engine = open(&config(vec![nop_disk()]));
    engine.close(Duration::MAX).unwrap();
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn reactor_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| name.starts_with("dynamicfs-")).count()
}

/// A joined thread may stay listed for a moment.
fn assert_threads_are_gone() {
    let start = Instant::now();
    while reactor_threads() > 0 {
        assert!(start.elapsed() < Duration::from_millis(500), "a close joins its threads");
        std::thread::yield_now();
    }
}

/// Waits until the process is as it was: the kernel takes a ring apart after its descriptor is
/// closed.
fn assert_nothing_is_left(what: &str, descriptors: usize) {
    let start = Instant::now();
    while open_descriptors() > descriptors || reactor_threads() > 0 {
        let (now, threads) = (open_descriptors(), reactor_threads());
        let late = start.elapsed() > Duration::from_secs(3);
        assert!(!late, "{what}: {now} descriptors after {descriptors}, {threads} threads");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn fifty_openings_leave_no_descriptor_and_no_thread() {
    let _process = alone();
    let scratch = Scratch::new();
    let path = scratch.file("disk", MIB);
    let once = || -> IoScheduler {
        let mut config = config(vec![disk(&path), nop_disk()]);
        config.memory.arena_mib_per_node = 2;
        config.reactors.count = Some(2);
        open(&config)
    };
    once().close(HANG).unwrap();
    let descriptors = open_descriptors();
    for n in 0..50 {
        let engine = once();
        let ticket = engine.read(DISK, Priority::NormalRead, 0, filled(&engine, 4096, 0)).unwrap();
        match n % 3 {
            0 => drop(ticket),
            1 => drop(settle(ticket)),
            _ => drop(ticket.wait().unwrap()),
        }
        if n % 2 == 0 {
            engine.close(HANG).unwrap();
            assert_threads_are_gone();
        }
    }
    assert_nothing_is_left("after 50 openings", descriptors);
}

#[test]
fn an_opening_that_fails_holds_nothing() {
    let _process = alone();
    let scratch = Scratch::new();
    let path = scratch.file("disk", MIB);
    let descriptors = open_descriptors();
    for _ in 0..10 {
        let mut bad = config(vec![disk(&path), nop_disk()]);
        bad.disks[1].nop_bytes = None;
        bad.disks[1].path = path.with_file_name("missing");
        assert!(IoScheduler::open(&bad).is_err());
        assert_threads_are_gone();
    }
    assert_nothing_is_left("after ten failures", descriptors);
    // The disk that did open is free again.
    open(&config(vec![disk(&path)])).close(HANG).unwrap();
}
