//! The manager with threads and with tasks that are polled by hand.

use std::future::{Future, IntoFuture};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{ExtentLockManager, LockConfig, LockConfigError};
use crate::concurrency::lock::acquire::LockRefusal;
use crate::concurrency::lock::word::LockMode;
use crate::machine::mapping::PagePolicy;

const A: Uuid = Uuid::from_u128(1);
const B: Uuid = Uuid::from_u128(2);

fn config(locks_max: usize, shards: usize, overtakes_max: u8) -> LockConfig {
    LockConfig { locks_max, shards, overtakes_max, pages: PagePolicy::Normal }
}

fn locks(locks_max: usize, shards: usize, overtakes_max: u8) -> ExtentLockManager {
    ExtentLockManager::with_config(config(locks_max, shards, overtakes_max)).expect("memory")
}

/// Counts its wakes.
#[derive(Default)]
struct Bell(AtomicU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bell {
    fn rung(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn task() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell::default());
    (Arc::clone(&bell), Waker::from(bell))
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

#[test]
fn readers_share_and_a_writer_is_alone() {
    let locks = locks(64, 4, 63);
    let one = locks.read(A).wait().unwrap();
    let two = locks.try_read(A).unwrap();
    assert_eq!(locks.try_write(A).err(), Some(LockRefusal::Held));
    let other = locks.try_write(B).unwrap();
    assert_eq!(locks.live(), 2);
    drop((one, two, other));
    assert_eq!(locks.live(), 0);
    let writer = locks.try_write(A).unwrap();
    assert_eq!(locks.try_read(A).err(), Some(LockRefusal::Held));
    let reader = writer.downgrade();
    let second = locks.try_read(A).unwrap();
    drop((reader, second));
    assert!(locks.try_write(A).is_ok());
}

#[test]
fn the_configuration_is_refused_with_field_value_and_range() {
    for (config, field) in [
        (config(64, 3, 0), "shards"),
        (config(64, 0, 0), "shards"),
        (config(48, 4, 0), "locks_max"),
        (config(2, 4, 0), "locks_max"),
        (config(64, 4, 64), "overtakes_max"),
    ] {
        match ExtentLockManager::with_config(config) {
            Err(LockConfigError::OutOfRange { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{config:?} gave {other:?}"),
        }
    }
    assert_eq!(ExtentLockManager::with_shards(16).unwrap().shards(), 16);
}

#[test]
fn a_full_table_is_a_value_and_room_comes_back() {
    let locks = locks(8, 1, 63);
    let mut held: Vec<_> = (0..8).map(|n| locks.try_write(Uuid::from_u128(n)).unwrap()).collect();
    let refusal = LockRefusal::TableFull { shard: 0, places: 8 };
    assert_eq!(locks.try_read(Uuid::from_u128(8)).err(), Some(refusal));
    assert_eq!(locks.read(Uuid::from_u128(8)).wait().err(), Some(refusal));
    let many = locks.lock_many(&[(Uuid::from_u128(8), LockMode::Shared)]).wait();
    assert_eq!(many.err(), Some(refusal));
    held.pop();
    assert!(locks.try_read(Uuid::from_u128(8)).is_ok());
}

#[test]
fn a_billion_extents_need_the_memory_of_few() {
    let locks = locks(64, 4, 63);
    for n in 0..100_000 {
        let extent = Uuid::from_u128(n * 0x1_0001);
        let held = locks.try_write(extent).unwrap();
        assert_eq!(locks.try_read(extent).err(), Some(LockRefusal::Held));
        drop(held);
    }
    assert_eq!(locks.live(), 0);
    assert!(locks.metrics().lock_creations > 90_000);
}

#[test]
fn a_waiting_task_is_woken_once_and_gets_the_lock() {
    let locks = locks(64, 4, 63);
    let holder = locks.try_write(A).unwrap();
    let (bell, waker) = task();
    let mut waiting = locks.write(A).into_future();
    assert!(poll(&mut waiting, &waker).is_pending());
    assert!(poll(&mut waiting, &waker).is_pending(), "a poll too many does no harm");
    assert_eq!(bell.rung(), 0);
    drop(holder);
    assert_eq!(bell.rung(), 1);
    let Poll::Ready(Ok(guard)) = poll(&mut waiting, &waker) else { panic!("it is its turn") };
    drop(guard);
    assert_eq!((bell.rung(), locks.live()), (1, 0));
}

#[test]
fn a_notice_to_one_who_gave_up_goes_to_the_next() {
    let locks = locks(64, 4, 63);
    let holder = locks.try_write(A).unwrap();
    let ((first_bell, first), (bell, waker)) = (task(), task());
    let mut gives_up = locks.write(A).into_future();
    let mut waits = locks.read(A).into_future();
    assert!(poll(&mut gives_up, &first).is_pending());
    assert!(poll(&mut waits, &waker).is_pending());
    drop(holder);
    assert_eq!((first_bell.rung(), bell.rung()), (1, 0));
    drop(gives_up);
    assert_eq!(bell.rung(), 1);
    assert!(matches!(poll(&mut waits, &waker), Poll::Ready(Ok(_))));
}

#[test]
fn readers_that_wait_together_go_in_together() {
    let locks = locks(64, 4, 63);
    let holder = locks.try_write(A).unwrap();
    let tasks: Vec<_> = (0..20).map(|_| task()).collect();
    let mut waiting: Vec<_> = tasks.iter().map(|_| locks.read(A).into_future()).collect();
    for (read, (_, waker)) in waiting.iter_mut().zip(&tasks) {
        assert!(poll(read, waker).is_pending());
    }
    drop(holder);
    let mut guards = Vec::new();
    let mut left: Vec<usize> = (0..20).collect();
    for round in 0.. {
        assert!(round < 4, "20 readers are let in by few wakes");
        left.retain(|index| match tasks[*index].0.0.swap(0, Ordering::Relaxed) {
            0 => true,
            _ => match poll(&mut waiting[*index], &tasks[*index].1) {
                Poll::Ready(guard) => {
                    guards.push(guard.unwrap());
                    false
                }
                Poll::Pending => true,
            },
        });
        if left.is_empty() {
            break;
        }
    }
    assert_eq!(guards.len(), 20);
    assert_eq!(locks.try_write(A).err(), Some(LockRefusal::Held));
    drop(guards);
    assert!(locks.try_write(A).is_ok());
}

#[test]
fn a_granted_task_that_is_dropped_lets_go() {
    let locks = locks(64, 4, 63);
    let holder = locks.try_write(A).unwrap();
    let ((_, first), (second_bell, second)) = (task(), task());
    let (mut head, mut granted) = (locks.read(A).into_future(), locks.read(A).into_future());
    assert!(poll(&mut head, &first).is_pending());
    assert!(poll(&mut granted, &second).is_pending());
    drop(holder);
    let Poll::Ready(Ok(guard)) = poll(&mut head, &first) else { panic!("it is its turn") };
    assert_eq!(second_bell.rung(), 1);
    assert_eq!(locks.table.waiting(), 1, "it was granted and does not know yet");
    drop(granted);
    drop(guard);
    assert_eq!((locks.live(), locks.table.waiting()), (0, 0));
}

#[test]
fn no_more_than_the_bound_overtake_the_head() {
    for bound in [0, 1, 5, 63] {
        let locks = locks(64, 4, bound);
        let holder = locks.try_read(A).unwrap();
        let (_, waker) = task();
        let mut writer = locks.write(A).into_future();
        assert!(poll(&mut writer, &waker).is_pending());
        let passed: Vec<_> = std::iter::from_fn(|| locks.try_read(A).ok()).take(100).collect();
        assert_eq!(passed.len(), usize::from(bound));
        drop((passed, holder));
        assert_eq!(locks.try_read(A).err(), Some(LockRefusal::Held), "it is kept for the head");
        assert!(matches!(poll(&mut writer, &waker), Poll::Ready(Ok(_))));
    }
}

#[test]
fn a_deadline_ends_the_wait_of_a_thread_and_of_a_task() {
    let locks = locks(64, 4, 63);
    let holder = locks.try_write(A).unwrap();
    let (began, span) = (Instant::now(), Duration::from_millis(30));
    let expired = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| locks.read(A).wait_until(began + span).err());
        waiting.join().unwrap()
    });
    assert_eq!(expired, Some(LockRefusal::Expired));
    assert!(began.elapsed() >= span);
    let (_, waker) = task();
    let mut fired = false;
    let timer = std::future::poll_fn(|_| {
        if fired {
            Poll::Ready(())
        } else {
            fired = true;
            Poll::Pending
        }
    });
    let mut until = pin!(locks.write(A).until(timer));
    let context = &mut Context::from_waker(&waker);
    assert!(until.as_mut().poll(context).is_pending());
    let Poll::Ready(Err(refusal)) = until.as_mut().poll(context) else { panic!("it fired") };
    assert_eq!(refusal, LockRefusal::Expired);
    drop(holder);
    assert_eq!((locks.live(), locks.table.waiting()), (0, 0), "no trace is left");
}

#[test]
fn a_panic_lets_go() {
    let locks = locks(64, 4, 63);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guard = locks.write(A).wait().unwrap();
        panic!("planted");
    }));
    assert!(panicked.is_err());
    assert!(locks.try_write(A).is_ok());
}

#[test]
fn many_are_taken_once_each_and_exclusively_if_wanted_both_ways() {
    let locks = locks(64, 4, 63);
    let wanted = [
        (B, LockMode::Shared),
        (A, LockMode::Exclusive),
        (B, LockMode::Exclusive),
        (A, LockMode::Exclusive),
    ];
    let held = locks.lock_many(&wanted).wait().unwrap();
    assert_eq!((held.count(), held.exclusive_count()), (2, 2));
    assert_eq!(locks.try_read(B).err(), Some(LockRefusal::Held));
    drop(held);
    assert_eq!(locks.live(), 0);
    let none = locks.lock_many(&[]).wait().unwrap();
    assert_eq!(none.count(), 0);
}

#[test]
fn a_task_that_waits_for_many_lets_go_of_what_it_has_when_dropped() {
    let locks = locks(64, 4, 63);
    let mut by_order = [A, B];
    by_order.sort_by_key(|extent| (locks.shard_of(extent), extent.as_u128()));
    let [first, last] = by_order;
    let holder = locks.try_write(last).unwrap();
    let (_, waker) = task();
    let mut many = locks.lock_many(&[(A, LockMode::Exclusive), (B, LockMode::Exclusive)]);
    assert!(poll(&mut many, &waker).is_pending());
    assert_eq!(locks.try_read(first).err(), Some(LockRefusal::Held));
    drop(many);
    drop(holder);
    assert_eq!(locks.live(), 0);
}

#[test]
fn what_happens_is_counted() {
    let locks = locks(64, 4, 63);
    let holder = locks.try_write(A).unwrap();
    let (_, waker) = task();
    let mut waiting = locks.write(A).into_future();
    assert!(poll(&mut waiting, &waker).is_pending());
    drop(holder);
    assert!(matches!(poll(&mut waiting, &waker), Poll::Ready(Ok(_))));
    let metrics = locks.metrics();
    assert_eq!((metrics.lock_acquisitions, metrics.lock_contentions), (2, 1));
    assert_eq!((metrics.lock_contention_ratio(), metrics.wait.count()), (0.5, 1));
}

/// The nth UUID of a kind.
type Kind = fn(u128) -> u128;

#[test]
fn uuids_of_every_kind_spread_over_shards() {
    let table = ExtentLockManager::with_config(config(1 << 14, 256, 63)).unwrap();
    let kinds: [(&str, Kind); 6] = [
        ("counted", |n| n),
        ("counted from above", |n| n << 64),
        ("high bytes", |n| n << 112),
        ("time first, as version 7", |n| (n / 8) << 80 | 7 << 76 | 2 << 62 | (n % 8)),
        ("one bit", |n| 1 << (n % 128) | (n / 128) << 32),
        ("strides of 64 KiB", |n| n << 16),
    ];
    for (name, kind) in kinds {
        let mut counts = [0u32; 256];
        let total = 256 * 64;
        for n in 0..total {
            counts[table.shard_of(&Uuid::from_u128(kind(n))) as usize] += 1;
        }
        // Chi-squared of 255 degrees of freedom: mean 255, standard deviation 22.6.
        let squares: f64 = counts.iter().map(|c| (f64::from(*c) - 64.0).powi(2) / 64.0).sum();
        assert!(squares < 255.0 + 8.0 * 22.6, "{name}: chi-squared is {squares}");
    }
}
