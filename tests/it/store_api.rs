//! The storage engine's API on a real file and a real loop device.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use dynamicfs::{
    Acknowledged, Certainty, DiskConfig, Durability, EngineConfig, EngineError, FormatOptions,
    InodeId, InodeOptions, Mechanism, Overwrite, Priority, ReadOptions, StorageEngine, StoreError,
    StoreTicket,
};

use crate::mounted::Mounted;
use crate::pool::{
    Modelled, Pool, checked, close, create, pattern, read, settle, side_by_side, small, until,
};
use crate::rig::{LoopDevice, Numbers, Scratch, alongside, block_on, skipped};
use dynamicfs::engine::engine_config::{CommitDurability, DiscardWhen, ReadOnly};

/// Changes two inodes at random against a model, and opens the pool again in between.
fn changes_and_openings(pool: &Pool, seed: u64) {
    let mut numbers = Numbers(seed);
    let mut engine = pool.open();
    let mut inodes: Vec<Modelled> =
        [200_000, 1_500_000].map(|span| Modelled::new(&engine, span)).into();
    for round in 0..4 {
        for _ in 0..60 {
            let which = numbers.below(2) as usize;
            inodes[which].step(&engine, &mut numbers);
        }
        inodes.iter().for_each(|inode| inode.check(&engine));
        if round % 2 == 0 {
            close(&engine);
        }
        drop(engine);
        engine = pool.open();
        inodes.iter().for_each(|inode| inode.check(&engine));
    }
    close(&engine);
}

#[test]
fn a_pool_on_a_file_does_what_its_model_does() {
    let _alongside = alongside();
    for seed in 0..3 {
        changes_and_openings(&Pool::on_file(48, |_| ()), seed);
    }
}

#[test]
fn a_pool_on_a_loop_device_does_what_its_model_does() {
    let _alongside = alongside();
    let scratch = Scratch::new();
    let Some(device) = LoopDevice::over(&scratch.file("disk", 64 << 20)) else { return };
    changes_and_openings(&Pool::on_device(device.path()), 7);
}

#[test]
fn a_pool_in_memory_does_what_its_model_does_and_is_a_pool_of_files() {
    let _alongside = alongside();
    let Some(memory) = Mounted::in_memory(300) else { return };
    let change = |config: &mut EngineConfig| {
        for (number, name) in ["one", "two"].into_iter().enumerate() {
            let disk = DiskConfig { path: memory.join(name), ..config.io.disks[0].clone() };
            config.io.disks.truncate(number);
            config.io.disks.push(DiskConfig { in_memory: true, ..disk });
        }
        config.pool.domains = Some(2);
        config.io.reactors.count = Some(2);
    };
    let mut pool = Pool::on_file(48, change);
    changes_and_openings(&pool, 11);
    let engine = pool.open();
    let notes = engine.status().unwrap().io.notes;
    assert!(notes.iter().any(|note| note.contains("one is in memory")), "{notes:?}");
    for name in ["one", "two"] {
        let file = std::fs::File::options().write(true).open(memory.join(name)).unwrap();
        file.set_len(90 << 20).unwrap();
    }
    let grown = engine.grow().unwrap();
    assert!(grown.is_empty(), "it is mapped as it was: {grown:?}");
    let inode = create(&engine);
    settle(engine.write(inode, 0, &pattern(3, 1 << 20)));
    // One that comes is in memory as well.
    let third = memory.join("three");
    std::fs::File::create(&third).unwrap().set_len(48 << 20).unwrap();
    engine.add_disks(std::slice::from_ref(&third), Overwrite::No).unwrap();
    settle(engine.write(inode, 1 << 20, &pattern(4, 8 << 20)));
    close(&engine);
    pool.config.io.disks.push(DiskConfig { path: third, ..pool.config.io.disks[0].clone() });
    // What is closed is let go, also while the engine's value is there.
    let same = pool.open();
    close(&same);
    drop((engine, same));
    let written = |pool: &Pool, how: &str| {
        let engine = pool.open();
        assert_eq!(read(&engine, inode, 0, 1 << 20), pattern(3, 1 << 20), "{how}");
        assert_eq!(read(&engine, inode, 1 << 20, 8 << 20), pattern(4, 8 << 20), "{how}");
        close(&engine);
    };
    pool.config.pool.read_only = ReadOnly::Yes;
    written(&pool, "by who only reads it");
    pool.config.pool.read_only = ReadOnly::No;
    pool.config.io.disks.iter_mut().for_each(|disk| disk.in_memory = false);
    written(&pool, "by the kernel's own reads and writes");
    checked(pool.config.io.disks.iter().map(|disk| disk.path.as_path()));
}

#[test]
fn a_disk_that_lasts_is_not_taken_for_memory() {
    let _alongside = alongside();
    let scratch = Scratch::new();
    let Some(device) = LoopDevice::over(&scratch.file("disk", 64 << 20)) else { return };
    let mut pool = Pool::on_device(device.path());
    pool.config.io.disks[0].in_memory = true;
    let refused = StorageEngine::open(pool.config.clone()).unwrap_err().to_string();
    assert!(refused.contains("no file on tmpfs") && refused.contains("in_memory"), "{refused}");
    pool.config.io.disks[0].in_memory = false;
    close(&pool.open());
}

/// Writes a MiB that says where it is.
fn settle_at(engine: &StorageEngine, inode: InodeId, offset: u64) {
    settle(engine.write(inode, offset, &pattern(offset, 1 << 20)));
}

/// Each commit's result says how it became durable. Left to itself the engine tries both ways.
#[test]
fn a_commit_says_how_it_became_durable() {
    let _alongside = alongside();
    let mechanisms = |durability| {
        let pool = Pool::on_file(48, |config| config.commit.durability = durability);
        let engine = pool.open();
        let inode = create(&engine);
        let found: Vec<Mechanism> = (0..20)
            .map(|n| match settle(engine.write(inode, n << 12, &pattern(n, 4096))) {
                Acknowledged::Durable(committed) => committed.mechanism,
                other => panic!("{other:?}"),
            })
            .collect();
        close(&engine);
        found
    };
    assert_eq!(mechanisms(CommitDurability::Flush), [Mechanism::Flush; 20]);
    assert_eq!(mechanisms(CommitDurability::Dsync), [Mechanism::Dsync; 20]);
    let both = mechanisms(CommitDurability::Auto);
    assert!(both.contains(&Mechanism::Flush) && both.contains(&Mechanism::Dsync), "{both:?}");
}

#[test]
fn a_file_gives_deleted_space_back_where_that_was_asked_for() {
    use std::os::unix::fs::MetadataExt;
    let _alongside = alongside();
    let pool = Pool::on_file(64, |config| {
        config.pool.domains = Some(1);
        config.pool.discard = DiscardWhen::Always;
    });
    let allocated = || std::fs::metadata(pool.path()).unwrap().blocks() * 512;
    let engine = pool.open();
    let (gone, kept) = (create(&engine), create(&engine));
    let fill = |inode| (0..12).for_each(|n| settle_at(&engine, inode, n << 20));
    fill(gone);
    settle(engine.write(kept, 0, &pattern(2, 1 << 20)));
    let before = allocated();
    settle(engine.delete(gone));
    let discarded = || engine.metrics().unwrap().domains[0].counters.discarded_bytes;
    until("most of the deleted space is discarded", || discarded() >= 8 << 20);
    assert!(allocated() + (8 << 20) <= before, "{} of {before} bytes are left", allocated());
    assert_eq!(read(&engine, kept, 0, 1 << 20), pattern(2, 1 << 20));
    // What was given back can be written again.
    let again = create(&engine);
    fill(again);
    assert!((0..12).all(|n| read(&engine, again, n << 20, 1 << 20) == pattern(n << 20, 1 << 20)));
    close(&engine);
}

#[test]
fn two_domains_live_on_two_reactors() {
    let _alongside = alongside();
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return skipped("two reactors need two CPUs");
    }
    let pool = Pool::on_file(64, |config| {
        config.pool.domains = Some(2);
        config.io.reactors.count = Some(2);
    });
    let engine = pool.open();
    let status = engine.status().unwrap();
    let reactors: Vec<usize> = status.domains.iter().map(|domain| domain.reactor).collect();
    let both: std::collections::BTreeSet<usize> = reactors.into_iter().collect();
    assert_eq!(both, [0, 1].into());
    let inodes: Vec<InodeId> = (0..10).map(|_| create(&engine)).collect();
    for (n, inode) in inodes.iter().enumerate() {
        settle(engine.write(*inode, n as u64 * 1000, &pattern(n as u64, 5000)));
    }
    let metrics = engine.metrics().unwrap();
    assert!(metrics.domains.iter().all(|domain| domain.inodes == 5), "{metrics:?}");
    // In pages of three, across both domains, without a gap.
    let mut listed = Vec::new();
    let mut from = InodeId(0);
    loop {
        let page = settle(engine.list(from, 3));
        let Some(last) = page.last() else { break };
        from = InodeId(last.id.0 + 1);
        listed.extend(page.iter().map(|inode| inode.id));
    }
    let mut wanted = inodes.clone();
    wanted.sort();
    assert_eq!(listed, wanted);
    settle(engine.sync());
    close(&engine);
    // A pool of two domains opens on one reactor.
    let mut config = pool.config.clone();
    config.io.reactors.count = Some(1);
    let engine = StorageEngine::open(config).unwrap();
    for (n, inode) in inodes.iter().enumerate() {
        assert_eq!(read(&engine, *inode, n as u64 * 1000, 9999), pattern(n as u64, 5000));
    }
    close(&engine);
}

#[test]
fn twenty_readers_and_ten_writers_of_one_inode_see_whole_extents() {
    const EXTENT: usize = 65_536;
    let _alongside = alongside();
    let pool = Pool::on_file(64, |_| ());
    let engine = pool.open();
    let inode = create(&engine);
    for extent in 0..4 {
        settle(engine.write(inode, extent * EXTENT as u64, &[1; EXTENT]));
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (engine, stop) = (&engine, &stop);
        for writer in 0..10 {
            scope.spawn(move || {
                let mut numbers = Numbers(writer);
                while !stop.load(Ordering::Relaxed) {
                    let extent = numbers.below(4) * EXTENT as u64;
                    settle(engine.write(inode, extent, &vec![numbers.next() as u8; EXTENT]));
                }
            });
        }
        let readers: Vec<_> = (0..20)
            .map(|reader| {
                scope.spawn(move || {
                    let mut numbers = Numbers(100 + reader);
                    for _ in 0..100 {
                        let first = numbers.below(4) * EXTENT as u64;
                        let last = numbers.below(4) * EXTENT as u64 + EXTENT as u64;
                        for extent in
                            read(engine, inode, first, last.saturating_sub(first)).chunks(EXTENT)
                        {
                            let torn = extent.iter().position(|byte| *byte != extent[0]);
                            assert_eq!(torn, None, "an extent of two writes");
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        stop.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|reader| reader.unwrap());
    });
    close(&engine);
}

#[test]
fn what_is_asked_wrongly_is_refused_as_a_value() {
    let _alongside = alongside();
    let pool = Pool::on_file(48, |_| ());
    let engine = pool.open();
    let inode = create(&engine);
    let large = vec![1; (16 << 20) + 1];
    let refusal = engine.write(inode, 0, &large).wait().unwrap_err();
    assert!(matches!(refusal, StoreError::TooLarge { max: 16_777_216, .. }), "{refusal}");
    let refusal = engine.read(inode, 0..(16 << 20) + 1).wait().unwrap_err();
    assert!(matches!(refusal, StoreError::TooLarge { .. }), "{refusal}");
    let refusal = engine.write(inode, u64::MAX - 10, b"far").wait().unwrap_err();
    assert!(matches!(refusal, StoreError::TooFar { .. }), "{refusal}");
    let mut many = engine.transaction(inode);
    for step in 0..1025 {
        many.truncate(step);
    }
    let refusal = many.commit().wait().unwrap_err();
    assert!(matches!(refusal, StoreError::TooManySteps { max: 1024, .. }), "{refusal}");
    let mut parts = engine.transaction(inode);
    for part in 0..3 {
        parts.write(part << 23, &large[..6 << 20]);
    }
    let refusal = parts.commit().wait().unwrap_err();
    assert!(matches!(refusal, StoreError::TooLarge { .. }), "{refusal}");
    for refusal in [
        engine.stat(InodeId(999)).wait().map(drop),
        engine.read(InodeId(999), 0..1).wait().map(drop),
        engine.write(InodeId(999), 0, b"x").wait().map(drop),
        engine.delete(InodeId(999)).wait().map(drop),
    ] {
        assert!(matches!(refusal, Err(StoreError::NoSuchInode { inode: 999 })), "{refusal:?}");
        assert_eq!(refusal.unwrap_err().certainty(), Certainty::Out);
    }
    assert_eq!(settle(engine.stat(inode)).size_bytes, 0);
    // Sixteen MiB are not too many.
    settle(engine.write(inode, 0, &large[..16 << 20]));
    assert!(read(&engine, inode, 0, 16 << 20) == large[..16 << 20]);
    close(&engine);
}

#[test]
fn buffers_tags_priorities_and_nothing_at_all() {
    let _alongside = alongside();
    let pool = Pool::on_file(48, |_| ());
    let engine = pool.open();
    let options = InodeOptions::tagged(b"a volume").unwrap();
    let inode = settle(engine.create_inode(options));
    assert_eq!(settle(engine.stat(inode)).tag, options.tag);
    let data = pattern(1, 9000);
    for offset in [0, 4096 * 5, 12_345, 1 << 30] {
        let mut buffer = engine.buffer(data.len()).unwrap();
        buffer.copy_from_slice(&data);
        settle(engine.write_buffer(inode, offset, buffer));
        let options = ReadOptions { priority: Priority::HighRead };
        let found = settle(engine.read_with(inode, offset..offset + 9000, options));
        assert_eq!(found[..], data, "{offset}");
    }
    settle(engine.write(inode, 77, b""));
    let mut backwards = 5..5;
    backwards.start = 9;
    assert_eq!(settle(engine.read(inode, backwards)).len(), 0);
    assert_eq!(settle(engine.read(inode, 1 << 40..1 << 41 >> 1)).len(), 0);
    let mut nothing = engine.transaction(inode);
    nothing.durability(Durability::Committed);
    assert!(nothing.is_empty());
    settle(nothing.commit());
    assert_eq!(settle(engine.stat(inode)).size_bytes, (1 << 30) + 9000);
    settle(engine.delete(inode));
    assert_eq!(settle(engine.list(InodeId(0), 10)), []);
    close(&engine);
}

#[test]
fn a_buffered_write_is_seen_at_once_and_durable_after_a_sync() {
    let _alongside = alongside();
    let pool = Pool::on_file(48, |config| config.commit.durability = CommitDurability::Flush);
    let engine = pool.open();
    let inode = create(&engine);
    for n in 0..50_u64 {
        let data = pattern(n, 3000);
        let answer = settle(engine.write_with(inode, n * 3000, &data, Durability::Buffered));
        assert_eq!(answer, Acknowledged::Buffered);
    }
    settle(engine.sync());
    let answer = settle(engine.write(inode, 0, &pattern(0, 3000)));
    let Acknowledged::Durable(committed) = answer else { panic!("{answer:?}") };
    assert_eq!(committed.mechanism, Mechanism::Flush);
    drop(engine);
    let engine = pool.open();
    for n in 0..50 {
        assert_eq!(read(&engine, inode, n * 3000, 3000), pattern(n, 3000), "{n}");
    }
    close(&engine);
}

/// A waker that waits for the engine, on the thread that wakes: the reactor's.
struct WaitsInside {
    engine: Arc<StorageEngine>,
    told: Mutex<Option<Result<(), StoreError>>>,
}

impl Wake for WaitsInside {
    fn wake(self: Arc<Self>) {
        let outcome = self.engine.sync().wait();
        self.told.lock().unwrap().get_or_insert(outcome);
    }
}

#[test]
fn waiting_on_a_reactors_thread_is_an_error_and_awaiting_is_not() {
    let _alongside = alongside();
    let pool = Pool::on_file(48, |config| {
        config.commit.mode = dynamicfs::engine::engine_config::CommitMode::Linger;
        config.commit.max_batch_delay_ms = 30;
    });
    let engine = Arc::new(pool.open());
    let inode = create(&engine);
    let waits = Arc::new(WaitsInside { engine: Arc::clone(&engine), told: Mutex::new(None) });
    let waker = Arc::clone(&waits).into();
    let mut ticket: StoreTicket<_> = engine.write(inode, 0, b"x");
    let polled = std::pin::Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker));
    assert!(matches!(polled, Poll::Pending), "it lingers");
    crate::pool::until("the waker is called", || waits.told.lock().unwrap().is_some());
    let told = waits.told.lock().unwrap().take();
    assert!(matches!(told, Some(Err(StoreError::WaitOnReactor))), "{told:?}");
    drop((waker, waits));
    block_on(ticket).unwrap();
    block_on(async {
        let both = (engine.write(inode, 0, b"first"), engine.write(inode, 70_000, b"second"));
        (both.1.await.unwrap(), both.0.await.unwrap())
    });
    assert_eq!(read(&engine, inode, 70_000, 10), b"second");
    close(&engine);
}

#[test]
fn tickets_give_up_early_are_dropped_and_outlive_a_close() {
    let _alongside = alongside();
    let pool = Pool::on_file(48, |config| {
        config.commit.mode = dynamicfs::engine::engine_config::CommitMode::Linger;
        config.commit.max_batch_delay_ms = 100;
    });
    let engine = pool.open();
    let inode = create(&engine);
    let ticket = engine.write(inode, 0, b"late");
    let ticket = ticket.wait_until(Instant::now() + Duration::from_millis(5)).unwrap_err();
    let mut ticket = ticket.try_take().unwrap_err();
    assert!(!ticket.is_done());
    settle(ticket);
    drop(engine.write(inode, 4, b"st"));
    let last = engine.write(inode, 10_000, b"while it closes");
    close(&engine);
    settle(last);
    let refusal = engine.write(inode, 0, b"after").wait();
    assert!(matches!(refusal, Err(StoreError::Closing)), "{refusal:?}");
    assert!(engine.metrics().is_err());
    close(&engine);
    drop(engine);
    let engine = pool.open();
    assert_eq!(read(&engine, inode, 0, 6), b"latest"[..6]);
    assert_eq!(read(&engine, inode, 10_000, 99), b"while it closes");
    close(&engine);
}

#[test]
fn a_pool_is_not_overwritten_or_opened_twice_and_says_what_it_is() {
    let _alongside = alongside();
    let pool = Pool::on_file(48, |_| ());
    let label = StorageEngine::inspect(pool.path()).unwrap();
    assert_eq!(
        (label.domains, &label.disks[0].labels[..]),
        (1, &["whole"; 4].map(String::from)[..])
    );
    let again = StorageEngine::format(&pool.config, FormatOptions::default());
    let Err(EngineError::Refused(refusal)) = again else { panic!("{again:?}") };
    assert!(refusal.to_string().contains(&label.pool.to_string()), "{refusal}");
    let engine = pool.open();
    let busy = StorageEngine::open(pool.config.clone()).unwrap_err().to_string();
    assert!(busy.contains("in use"), "{busy}");
    let overwrite = FormatOptions { overwrite: Overwrite::Yes, ..FormatOptions::default() };
    let busy = StorageEngine::format(&pool.config, overwrite).unwrap_err();
    assert!(matches!(busy, EngineError::Refused(_)), "{busy}");
    close(&engine);
    drop(engine);
    let new = StorageEngine::format(&pool.config, overwrite).unwrap();
    assert_ne!((new.pool, new.disks[0].disk), (label.pool, label.disks[0].disk));
    assert_eq!(settle(pool.open().list(InodeId(0), 10)), []);
    let scratch = Scratch::new();
    let empty = small(&scratch.file("empty", 64 << 20));
    let error = StorageEngine::open(empty).unwrap_err().to_string();
    assert!(error.contains("is not a disk of a pool"), "{error}");
}

#[test]
fn five_threads_commit_a_hundred_times_each() {
    let _alongside = alongside();
    let pool = Pool::on_file(64, |_| ());
    let engine = pool.open();
    let inodes: Vec<InodeId> = (0..5).map(|_| create(&engine)).collect();
    let before = engine.metrics().unwrap();
    side_by_side(5, |thread| {
        for n in 0..100 {
            let data = pattern(thread << 32 | n, 4096);
            let answer = settle(engine.write(inodes[thread as usize], n * 4096, &data));
            assert!(matches!(answer, Acknowledged::Durable(_)));
        }
    });
    let after = engine.metrics().unwrap();
    assert_eq!(after.group_commit_ops() - before.group_commit_ops(), 500);
    let commits = after.group_commits() - before.group_commits();
    assert!((100..=500).contains(&commits), "{commits} commits");
    let flushes = after.commit_flushes() - before.commit_flushes();
    let others: u64 = after.domains.iter().map(|d| d.counters.seals + d.counters.checkpoints).sum();
    assert!(
        flushes <= commits + others,
        "{flushes} flushes for {commits} commits, {others} others"
    );
    assert!(after.avg_group_commit_ops() >= 1.0);
    drop(engine);
    let engine = pool.open();
    for (thread, inode) in inodes.iter().enumerate() {
        for n in 0..100 {
            let wanted = pattern((thread as u64) << 32 | n, 4096);
            assert_eq!(read(&engine, *inode, n * 4096, 4096), wanted);
        }
    }
    close(&engine);
}

#[test]
fn ten_threads_do_a_thousand_mixed_operations_each() {
    let _alongside = alongside();
    let pool = Pool::on_file(128, |config| {
        config.pool.domains = Some(2);
        config.io.reactors.count = None;
    });
    let engine = pool.open();
    let models: Vec<Mutex<Modelled>> =
        (0..10).map(|_| Mutex::new(Modelled::new(&engine, 60_000))).collect();
    side_by_side(10, |thread| {
        let mut numbers = Numbers(thread);
        let mut model = models[thread as usize].lock().unwrap();
        for _ in 0..1000 {
            model.step(&engine, &mut numbers);
        }
    });
    models.iter().for_each(|model| model.lock().unwrap().check(&engine));
    assert!(engine.metrics().unwrap().avg_group_commit_ops() > 1.0);
    drop(engine);
    let engine = pool.open();
    models.iter().for_each(|model| model.lock().unwrap().check(&engine));
    close(&engine);
}
