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
    std::thread::sleep(Duration::from_secs(2));
    let (after, elapsed) = (reactor_cpu_ns(), start.elapsed());
    assert_eq!((before.1, after.1), (2, 2), "both reactors were looked at");
    let share = (after.0 - before.0) as f64 / elapsed.as_nanos() as f64;
    assert!(share < 0.001, "idle reactors use {:.3} % of a CPU", share * 100.0);
}
