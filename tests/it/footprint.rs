//! What an engine costs when it has nothing to do.

use std::time::{Duration, Instant};

use dynamicfs::{DiskId, Priority};

use crate::rig::{Scratch, alone, config, disk, filled, nop_disk, open, settle};

/// CPU nanoseconds of all reactor threads of this process so far, and how many there are.
fn reactor_cpu_ns() -> (u64, usize) {
    let mut total = (0, 0);
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.starts_with("dynamicfs-") {
            let schedstat = std::fs::read_to_string(task.join("schedstat")).unwrap();
            total.0 += schedstat.split(' ').next().unwrap().parse::<u64>().unwrap();
            total.1 += 1;
        }
    }
    total
}

#[test]
fn an_idle_engine_uses_no_measurable_cpu() {
    let _process = alone();
    if !std::path::Path::new("/proc/self/schedstat").exists() {
        return crate::rig::skipped("the kernel keeps no schedstat");
    }
    let scratch = Scratch::new();
    let mut config = config(vec![disk(&scratch.file("disk", 1 << 20)), nop_disk()]);
    config.reactors.count = Some(2);
    let engine = open(&config);
    // Idle after work, not only before the first.
    for disk in 0..2 {
        let buffer = filled(&engine, 4096, 0);
        settle(engine.read(DiskId(disk), Priority::NormalRead, 0, buffer).unwrap());
    }
    std::thread::sleep(Duration::from_millis(200));
    let (before, start) = (reactor_cpu_ns(), Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let (after, elapsed) = (reactor_cpu_ns(), start.elapsed());
    assert_eq!((before.1, after.1), (2, 2), "both reactors were looked at");
    let share = (after.0 - before.0) as f64 / elapsed.as_nanos() as f64;
    eprintln!("idle: two reactors used {:.5} % of a CPU over 10 s", share * 100.0);
    assert!(share < 0.001, "idle reactors use {:.3} % of a CPU", share * 100.0);
}

/// Cause: the gauge was written every 20 ms of work only. Harm: after a burst, `io_queue_length`
/// of a sleeping reactor stayed above zero for ever. Fix: it is published before every sleep.
#[test]
fn the_queue_of_a_sleeping_reactor_reads_as_empty() {
    let _process = alone();
    let mut config = config(vec![nop_disk()]);
    config.scheduler.depth = Some(2);
    let engine = open(&config);
    for _ in 0..20 {
        let mut tickets = Vec::new();
        let buffers = (0..64).map(|_| filled(&engine, 4096, 0));
        let requests: Vec<_> =
            buffers.map(|buffer| dynamicfs::Request::read(DiskId(0), 0, buffer)).collect();
        engine.submit_many(&mut requests.into_iter(), &mut tickets).unwrap();
        tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
        std::thread::sleep(Duration::from_millis(25));
        assert_eq!(engine.metrics().io_queue_length(), 0);
    }
}
