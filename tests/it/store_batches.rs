//! Group commit from outside: when a batch closes, how many flushes that takes, what is full.

use std::time::{Duration, Instant};

use dynamicfs::engine::engine_config::CommitMode;
use dynamicfs::{EngineMetrics, InodeId, StorageEngine, StoreError};

use crate::pool::{Pool, close, create, pattern, read, settle, side_by_side};
use crate::rig::{HANG, alongside, block_on};

/// A pool whose batches wait for so many operations or milliseconds.
fn lingering(ops: u32, delay_ms: u32, in_flight_max: u32) -> Pool {
    Pool::on_file(48, |config| {
        config.commit.mode = CommitMode::Linger;
        config.commit.max_batch_ops = Some(ops);
        config.commit.max_batch_delay_ms = delay_ms;
        config.operations.in_flight_max = in_flight_max;
    })
}

/// What was counted since.
fn since(engine: &StorageEngine, before: &EngineMetrics) -> (u64, u64) {
    let now = engine.metrics().unwrap();
    let commits = now.group_commits() - before.group_commits();
    (commits, now.group_commit_ops() - before.group_commit_ops())
}

/// An inode, without waiting for the delay: a sync closes the batch at once.
fn create_now(engine: &StorageEngine) -> InodeId {
    let ticket = engine.create_inode(dynamicfs::InodeOptions::default());
    settle(engine.sync());
    settle(ticket)
}

#[test]
fn a_batch_closes_at_its_size() {
    let _alongside = alongside();
    let pool = lingering(10, 10_000, 64);
    let engine = pool.open();
    let inode = create_now(&engine);
    let before = engine.metrics().unwrap();
    let start = Instant::now();
    let tickets: Vec<_> =
        (0..20).map(|n| engine.write(inode, n * 65_536, &pattern(n, 500))).collect();
    for ticket in tickets {
        settle(ticket);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "nobody waits for the delay");
    assert_eq!(since(&engine, &before), (2, 20));
    let full = |metrics: &EngineMetrics| metrics.domains[0].counters.closed_full;
    assert_eq!(full(&engine.metrics().unwrap()) - full(&before), 2);
    close(&engine);
}

#[test]
fn a_batch_closes_at_its_time() {
    let _alongside = alongside();
    let pool = lingering(100, 80, 64);
    let engine = pool.open();
    let inode = create_now(&engine);
    let before = engine.metrics().unwrap();
    let start = Instant::now();
    let tickets: Vec<_> = (0..3).map(|n| engine.write(inode, n * 70_000, b"waits")).collect();
    for ticket in tickets {
        settle(ticket);
    }
    assert!(start.elapsed() >= Duration::from_millis(75), "{:?}", start.elapsed());
    assert_eq!(since(&engine, &before), (1, 3));
    let late = |metrics: &EngineMetrics| metrics.domains[0].counters.closed_late;
    assert_eq!(late(&engine.metrics().unwrap()) - late(&before), 1);
    close(&engine);
}

#[test]
fn a_full_queue_is_a_value_and_passes() {
    let _alongside = alongside();
    let pool = lingering(100, 300, 4);
    let engine = pool.open();
    let inode = create_now(&engine);
    let writes: Vec<_> = (0..4)
        .map(|n| engine.write(inode, n * 65_536, b"under way").taken().expect("there is room"))
        .collect();
    let refused = engine.write(inode, 0, b"not yet").taken().unwrap_err();
    assert!(refused.to_string().contains("operations.in_flight_max"), "{refused}");
    // A thread that waits, a task that awaits, and one that gives up.
    let waits = engine.write(inode, 5 * 65_536, b"waited");
    let awaits = engine.write(inode, 6 * 65_536, b"awaited");
    drop(engine.write(inode, 7 * 65_536, b"given up"));
    let short = engine.write(inode, 7 * 65_536, b"given up too");
    drop(short.wait_until(Instant::now() + Duration::from_millis(20)).unwrap_err());
    for ticket in writes {
        settle(ticket);
    }
    settle(refused.0);
    settle(waits);
    block_on(awaits).unwrap();
    assert_eq!(read(&engine, inode, 0, 7), b"not yet");
    assert_eq!(read(&engine, inode, 5 * 65_536, 6), b"waited");
    assert_eq!(read(&engine, inode, 6 * 65_536, 1 << 20), b"awaited");
    close(&engine);
}

#[test]
fn many_threads_get_through_a_short_queue() {
    let _alongside = alongside();
    let pool = Pool::on_file(48, |config| config.operations.in_flight_max = 2);
    let engine = pool.open();
    let inode = create(&engine);
    side_by_side(16, |thread| {
        for n in 0..40 {
            let data = pattern(thread * 1000 + n, 4096);
            settle(engine.write(inode, thread * 4096, &data));
            assert_eq!(read(&engine, inode, thread * 4096, 4096), data);
        }
    });
    close(&engine);
}

#[test]
fn a_full_pool_refuses_cleanly_and_deleting_makes_room() {
    let _alongside = alongside();
    let pool = Pool::on_file(24, |config| config.journal.mib_per_domain = Some(2));
    let engine = pool.open();
    let (keeper, mut victims) = (create(&engine), Vec::new());
    settle(engine.write(keeper, 0, &pattern(1, 100_000)));
    let refusal = loop {
        let inode = match engine.create_inode(dynamicfs::InodeOptions::default()).wait() {
            Ok(inode) => inode,
            Err(error) => break error,
        };
        victims.push(inode);
        if let Err(error) = engine.write(inode, 0, &pattern(inode.0, 512 << 10)).wait() {
            break error;
        }
        assert!(victims.len() < 100, "it fills");
    };
    let StoreError::Full { wanted_bytes, free_bytes } = refusal else { panic!("{refusal}") };
    assert!(wanted_bytes > free_bytes, "{wanted_bytes} of {free_bytes}");
    assert!(victims.len() > 20, "{} half MiB", victims.len());
    // Nothing of what was acknowledged is lost, and what makes room works when there is none.
    assert_eq!(read(&engine, keeper, 0, 1 << 20), pattern(1, 100_000));
    assert_eq!(read(&engine, victims[0], 0, 1 << 20), pattern(victims[0].0, 512 << 10));
    settle(engine.delete(victims[0]));
    settle(engine.truncate(victims[1], 1000));
    settle(engine.discard(victims[2], 0..512 << 10));
    settle(engine.write(keeper, 0, &pattern(2, 600 << 10)));
    drop(engine);
    let engine = pool.open();
    assert_eq!(read(&engine, keeper, 0, 1 << 20), pattern(2, 600 << 10));
    assert_eq!(read(&engine, victims[1], 0, 1 << 20), pattern(victims[1].0, 512 << 10)[..1000]);
    assert_eq!(read(&engine, victims[2], 0, 1 << 20), vec![0; 512 << 10]);
    let status = engine.status().unwrap();
    assert!(status.free_bytes() < status.capacity_bytes() / 4, "{status:?}");
    for inode in settle(engine.list(InodeId(0), 1000)) {
        settle(engine.delete(inode.id));
    }
    assert!(engine.status().unwrap().free_bytes() > status.capacity_bytes() / 10 * 9);
    close(&engine);
}

#[test]
fn a_pool_takes_many_times_its_journal() {
    let _alongside = alongside();
    let pool = Pool::on_file(32, |config| config.journal.mib_per_domain = Some(1));
    let engine = pool.open();
    let inodes: Vec<InodeId> = (0..4).map(|_| create(&engine)).collect();
    side_by_side(4, |thread| {
        for n in 0..400_u64 {
            let data = pattern(thread << 32 | n, 4000);
            settle(engine.write(inodes[thread as usize], n % 100 * 4000, &data));
        }
    });
    let metrics = engine.metrics().unwrap();
    assert!(metrics.domains[0].counters.checkpoints > 2, "{metrics:?}");
    assert!(metrics.write_amplification() > 1.0);
    assert!(engine.close(HANG).unwrap().is_clean());
    drop(engine);
    let engine = pool.open();
    for (thread, inode) in inodes.iter().enumerate() {
        for n in 300..400_u64 {
            let found = read(&engine, *inode, n % 100 * 4000, 4000);
            assert_eq!(found, pattern((thread as u64) << 32 | n, 4000), "{thread} {n}");
        }
    }
    close(&engine);
}
