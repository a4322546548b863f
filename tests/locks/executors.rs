//! The same locks from tasks on the engine's own reactor and from threads that block.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use dynamicfs::engine::config::{MemoryConfig, ReactorsConfig};
use dynamicfs::reactor::local::{LocalIo, LocalTask, TaskState};
use dynamicfs::{
    Completion, DiskConfig, ExtentLockManager, InodeLocks, IoConfig, IoScheduler, LockMode,
    LockRefusal,
};

use crate::rig::{
    Bell, HANG, Numbers, Record, Watchdog, assert_all_free, extent, seed, span, table,
};

const EXTENTS: usize = 4;
const TASKS: u64 = 20;
const THREADS: u64 = 8;

/// One reactor on a disk that does nothing.
fn engine() -> IoScheduler {
    let disk = DiskConfig { nop_bytes: Some(1 << 20), ..DiskConfig::default() };
    let config = IoConfig {
        disks: vec![disk],
        reactors: ReactorsConfig { count: Some(1), ..ReactorsConfig::default() },
        memory: MemoryConfig { arena_mib_per_node: 16, ..MemoryConfig::default() },
        ..IoConfig::default()
    };
    IoScheduler::open(&config).unwrap_or_else(|error| panic!("the engine does not open: {error}"))
}

struct Running {
    future: Pin<Box<dyn Future<Output = u64> + Send>>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// An executor inside a reactor's task: it polls those that were woken.
struct Executor {
    running: Vec<Running>,
    done: Sender<u64>,
}

impl LocalTask for Executor {
    fn poll(&mut self, _: &mut LocalIo<'_>) -> TaskState {
        let done = &self.done;
        self.running.retain_mut(|task| {
            if !task.bell.take() {
                return true;
            }
            match task.future.as_mut().poll(&mut Context::from_waker(&task.waker)) {
                Poll::Ready(writes) => done.send(writes).is_err(),
                Poll::Pending => true,
            }
        });
        if self.running.is_empty() { TaskState::Done } else { TaskState::RunAgain }
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        None
    }
}

/// Lets the other tasks of the executor run.
async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|context| {
        if paused {
            return Poll::Ready(());
        }
        paused = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

struct World {
    locks: ExtentLockManager,
    records: Vec<Record>,
    until: Instant,
}

/// How many records it wrote.
async fn work(world: Arc<World>, mut numbers: Numbers) -> u64 {
    let mut writes = 0;
    while Instant::now() < world.until {
        let at = numbers.below(EXTENTS);
        match numbers.below(4) {
            0 | 1 => {
                let _guard = world.locks.read(extent(at)).await.unwrap();
                world.records[at].check(&mut numbers);
                pause().await;
                world.records[at].check(&mut numbers);
            }
            2 => {
                let _guard = world.locks.write(extent(at)).await.unwrap();
                world.records[at].rewrite(&mut numbers);
                writes += 1;
                pause().await;
                world.records[at].rewrite(&mut numbers);
                writes += 1;
            }
            _ => {
                let other = (at + 1) % EXTENTS;
                let wanted = [(extent(at), LockMode::Exclusive), (extent(other), LockMode::Shared)];
                let _guards = world.locks.lock_many(&wanted).await.unwrap();
                world.records[at].rewrite(&mut numbers);
                writes += 1;
                pause().await;
                world.records[other].check(&mut numbers);
            }
        }
        pause().await;
    }
    writes
}

/// As [`work`], on a thread of its own.
fn block(world: &World, mut numbers: Numbers) -> u64 {
    let mut writes = 0;
    while Instant::now() < world.until {
        let at = numbers.below(EXTENTS);
        if numbers.one_in(2) {
            let _guard = world.locks.read(extent(at)).wait().unwrap();
            world.records[at].check(&mut numbers);
        } else {
            let _guard = world.locks.write(extent(at)).wait().unwrap();
            world.records[at].rewrite(&mut numbers);
            writes += 1;
        }
    }
    writes
}

#[test]
fn tasks_of_a_reactor_and_threads_share_locks() {
    let seed = seed();
    eprintln!("tasks_of_a_reactor_and_threads_share_locks: DYNAMICFS_STRESS_SEED={seed}");
    let _watchdog =
        Watchdog::over("tasks_of_a_reactor_and_threads_share_locks", seed, span() + HANG);
    let engine = engine();
    let world = Arc::new(World {
        locks: table(64, 4, 63),
        records: (0..EXTENTS).map(|_| Record::default()).collect(),
        until: Instant::now() + span(),
    });
    let (done, results) = channel();
    let start = |task: u64| {
        let (bell, waker) = Bell::new();
        let future = Box::pin(work(Arc::clone(&world), Numbers(seed ^ (task << 40)))) as Pin<_>;
        Running { future, bell, waker }
    };
    let running = (0..TASKS).map(start).collect();
    engine.spawn_local(0, Box::new(Executor { running, done }));
    let by_threads: u64 = std::thread::scope(|scope| {
        let world = &world;
        let start = |thread: u64| {
            scope.spawn(move || block(world, Numbers(seed ^ ((TASKS + thread) << 40))))
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let by_tasks: Vec<u64> = results.iter().collect();
    assert_eq!(by_tasks.len() as u64, TASKS, "every task comes to its end");
    let writes: u64 = world.records.iter().map(Record::writes).sum();
    assert_eq!(writes, by_threads + by_tasks.iter().sum::<u64>(), "two wrote one record at once");
    assert!(by_threads > 0 && by_tasks.iter().all(|writes| *writes > 0), "{by_tasks:?}");
    assert!(world.locks.metrics().lock_contentions > 0);
    assert_all_free(&world.locks, EXTENTS);
}

/// Waits where it must not.
struct Impatient {
    locks: Arc<ExtentLockManager>,
    told: Sender<[Option<LockRefusal>; 6]>,
}

impl LocalTask for Impatient {
    fn poll(&mut self, _: &mut LocalIo<'_>) -> TaskState {
        let (locks, id) = (&self.locks, extent(0));
        let inodes =
            InodeLocks::beside(locks, dynamicfs::machine::mapping::PagePolicy::Normal).unwrap();
        let refusals = [
            locks.read(id).wait().err(),
            locks.write(id).wait().err(),
            locks.write(id).wait_until(Instant::now()).err(),
            locks.lock_many(&[(id, LockMode::Shared)]).wait().err(),
            inodes.read(7).wait().err(),
            locks.try_write(id).err(),
        ];
        self.told.send(refusals).unwrap();
        TaskState::Done
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        None
    }
}

#[test]
fn a_reactors_own_thread_does_not_block() {
    let engine = engine();
    let locks = Arc::new(table(64, 4, 63));
    let (told, tells) = channel();
    engine.spawn_local(0, Box::new(Impatient { locks: Arc::clone(&locks), told }));
    let [refused @ .., tried] = tells.recv_timeout(HANG).unwrap();
    assert_eq!(refused, [Some(LockRefusal::OnReactor); 5]);
    assert_eq!(tried, None, "what does not wait is allowed");
    assert_all_free(&locks, 4);
}
