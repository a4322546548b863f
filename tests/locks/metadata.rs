//! Locks of inodes and extent maps: they exclude, share, follow the hierarchy and count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use dynamicfs::concurrency::metadata_locks::STRIPES;
use dynamicfs::machine::mapping::PagePolicy;
use dynamicfs::{ExtentLockManager, ExtentMapLocks, InodeLocks, LockMode, LockRefusal};

use crate::rig::{
    Bell, HANG, Numbers, Record, Watchdog, block_on, extent, poll, seed, span, table,
};

fn locks() -> (ExtentLockManager, InodeLocks, ExtentMapLocks) {
    let extents = table(64, 4, 63);
    let inodes = InodeLocks::beside(&extents, PagePolicy::Normal).unwrap();
    let maps = ExtentMapLocks::beside(&extents, PagePolicy::Normal).unwrap();
    (extents, inodes, maps)
}

/// What the other thread gets, which may wait for a moment.
fn elsewhere<T: Send>(f: impl FnOnce(Instant) -> T + Send) -> T {
    let soon = Instant::now() + Duration::from_millis(20);
    std::thread::scope(|scope| scope.spawn(|| f(soon)).join().unwrap())
}

#[test]
fn readers_share_a_writer_is_alone_and_becomes_a_reader() {
    let (_extents, inodes, maps) = locks();
    let held = Some(LockRefusal::Expired);
    let reader = inodes.read(7).wait().unwrap();
    assert_eq!(elsewhere(|soon| inodes.read(7).wait_until(soon).err()), None);
    assert_eq!(elsewhere(|soon| inodes.write(7).wait_until(soon).err()), held);
    drop(reader);
    let writer = inodes.write(7).wait().unwrap();
    assert_eq!(elsewhere(|soon| inodes.read(7).wait_until(soon).err()), held);
    // A map's lock is another one than its inode's.
    let map = maps.write(7).wait().unwrap();
    assert_eq!(elsewhere(|soon| maps.read(7).wait_until(soon).err()), held);
    let (reader, map) = (writer.downgrade(), map.downgrade());
    assert_eq!(elsewhere(|soon| inodes.read(7).wait_until(soon).err()), None);
    assert_eq!(elsewhere(|soon| inodes.write(7).wait_until(soon).err()), held);
    assert_eq!(elsewhere(|soon| maps.read(7).wait_until(soon).err()), None);
    assert_eq!(elsewhere(|soon| maps.write(7).wait_until(soon).err()), held);
    drop((reader, map));
    assert_eq!(elsewhere(|soon| inodes.write(7).wait_until(soon).err()), None);
    assert_eq!(elsewhere(|soon| maps.write(7).wait_until(soon).err()), None);
}

#[test]
fn a_task_waits_and_gives_up_like_one_that_waits_for_an_extent() {
    let (_extents, inodes, _maps) = locks();
    let holder = inodes.write(7).wait().unwrap();
    let ((first_bell, first), (bell, waker)) = (Bell::new(), Bell::new());
    let (mut gives_up, mut waits) = (inodes.write(7).into_future(), inodes.read(7).into_future());
    assert!(poll(&mut gives_up, &first).is_pending());
    assert!(poll(&mut waits, &waker).is_pending());
    let _ = (first_bell.take(), bell.take());
    drop(holder);
    assert_eq!((first_bell.take(), bell.take()), (true, false));
    drop(gives_up);
    assert!(bell.take(), "the notice goes to the next one");
    let Poll::Ready(Ok(guard)) = poll(&mut waits, &waker) else { panic!("it is its turn") };
    drop(guard);
}

/// Neighbours do not share a stripe, and all stripes are used.
#[test]
fn numbers_spread_over_the_stripes() {
    let (_extents, inodes, _maps) = locks();
    let mut alone = 0;
    let holder = inodes.write(0).wait().unwrap();
    for other in 1..2 * STRIPES as u64 {
        let (_, waker) = Bell::new();
        let free = poll(&mut inodes.write(other).into_future(), &waker).is_ready();
        alone += u64::from(free);
        assert!(free || other > 100, "inode {other} shares the stripe of inode 0");
    }
    drop(holder);
    assert!(alone >= 2 * STRIPES as u64 - 6, "{alone}");
}

#[test]
fn what_happens_is_counted_by_each_kind_for_itself() {
    let (extents, inodes, maps) = locks();
    let before = inodes.metrics();
    let holder = inodes.write(7).wait().unwrap();
    assert_eq!(elsewhere(|soon| inodes.read(7).wait_until(soon).err()), Some(LockRefusal::Expired));
    let (_, waker) = Bell::new();
    let mut waiting = inodes.read(7).into_future();
    assert!(poll(&mut waiting, &waker).is_pending());
    drop(holder);
    assert!(matches!(poll(&mut waiting, &waker), Poll::Ready(Ok(_))));
    let counted = inodes.metrics().since(&before);
    // The one who gave up found it held and never had it.
    assert_eq!((counted.lock_acquisitions, counted.lock_contentions), (2, 2));
    assert_eq!((counted.lock_contention_ratio(), counted.wait.count()), (1.0, 1));
    assert_eq!(counted.lock_creations, 0, "stripes are there from the start");
    assert_eq!(maps.metrics().lock_acquisitions, 0);
    assert_eq!(extents.metrics().lock_acquisitions, 0);
}

/// Threads that go down the whole hierarchy: extents, an inode, its map.
#[test]
fn threads_go_down_the_hierarchy() {
    let seed = seed();
    eprintln!("threads_go_down_the_hierarchy: DYNAMICFS_STRESS_SEED={seed}");
    let _watchdog = Watchdog::over("threads_go_down_the_hierarchy", seed, span() + HANG);
    let (extents, inodes, maps) = locks();
    let records: [[Record; 3]; 3] = Default::default();
    let (writes, until) = (AtomicU64::new(0), Instant::now() + span() / 2);
    let go_down = |mut numbers: Numbers| {
        let wrote = |record: &Record, numbers: &mut Numbers| {
            record.rewrite(numbers);
            writes.fetch_add(1, Ordering::Relaxed);
        };
        while Instant::now() < until {
            let [at, inode, map]: [usize; 3] = std::array::from_fn(|_| numbers.below(3));
            let _extent = extents.lock_many(&[(extent(at), LockMode::Exclusive)]).wait().unwrap();
            wrote(&records[0][at], &mut numbers);
            if numbers.one_in(2) {
                let _inode = inodes.read(inode as u64).wait().unwrap();
                records[1][inode].check(&mut numbers);
                let _map = block_on(maps.read(map as u64)).unwrap();
                records[2][map].check(&mut numbers);
            } else {
                let guard = inodes.write(inode as u64).wait().unwrap();
                wrote(&records[1][inode], &mut numbers);
                let _inode = guard.downgrade();
                records[1][inode].check(&mut numbers);
                let _map = maps.write(map as u64).wait().unwrap();
                wrote(&records[2][map], &mut numbers);
            }
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let go_down = &go_down;
            scope.spawn(move || go_down(Numbers(seed ^ (thread << 40))));
        }
    });
    let counted: u64 = records.iter().flatten().map(Record::writes).sum();
    assert_eq!(counted, writes.load(Ordering::Relaxed), "two wrote one record at once");
    assert!(inodes.metrics().lock_contentions > 0);
    assert_eq!(extents.live(), 0);
    for inode in 0..3 {
        drop((inodes.write(inode).wait().unwrap(), maps.write(inode).wait().unwrap()));
    }
}
