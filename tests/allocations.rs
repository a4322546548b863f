//! After warm-up the I/O path allocates nothing: counted over all threads of this process.
//!
//! One test function, so that nothing else runs in the process while it counts. NOP disks only:
//! what is counted is the engine, not a file system.

// Only the test functions themselves are exempt by clippy.toml, not what they call.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use dynamicfs::reactor::local::{LocalIo, LocalRefusal, LocalTask, TaskState};
use dynamicfs::{
    BufferList, Buffers, Completion, DiskConfig, DiskId, DmaBuf, IoConfig, IoScheduler, OpKind,
    Priority, Request,
};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

const DISK: DiskId = DiskId(0);
const WARM_UP: u64 = 10_000;
const COUNTED: u64 = 100_000;
const HANG: Duration = Duration::from_secs(60);

fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// Keeps some reads and split writes under way on its reactor, and counts between two marks.
struct Load {
    idle: Vec<DmaBuf>,
    done: u64,
    at_start: u64,
    result: SyncSender<u64>,
}

impl Load {
    fn submit(&mut self, io: &mut LocalIo<'_>) {
        while let Some(buffer) = self.idle.pop() {
            // A 256 KiB buffer is written, in pieces; a small one is read.
            let request = if buffer.len() > 4096 {
                Request::write(DISK, 0, buffer)
            } else {
                Request::read(DISK, 0, buffer)
            };
            if let Err(refusal) = io.submit(0, request) {
                let LocalRefusal::QueueFull(back) = refusal else { panic!("{refusal:?}") };
                self.idle.extend(back.buffers.into_one());
                return;
            }
        }
    }
}

impl LocalTask for Load {
    fn poll(&mut self, io: &mut LocalIo<'_>) -> TaskState {
        self.submit(io);
        TaskState::Idle
    }

    fn complete(
        &mut self,
        io: &mut LocalIo<'_>,
        _: u64,
        completion: Completion,
    ) -> Option<TaskState> {
        completion.result.unwrap();
        self.idle.extend(completion.buffers.into_one());
        self.done += 1;
        if self.done == WARM_UP {
            self.at_start = allocations();
        }
        if self.done == WARM_UP + COUNTED {
            let _ = self.result.send(allocations() - self.at_start);
        }
        if self.done >= WARM_UP + COUNTED {
            return Some(TaskState::Done);
        }
        self.submit(io);
        None
    }
}

fn through_a_local_task(engine: &IoScheduler) -> u64 {
    let mut idle: Vec<DmaBuf> = (0..24).map(|_| engine.buffer(4096).unwrap()).collect();
    idle.extend((0..8).map(|_| engine.buffer(256 << 10).unwrap()));
    let (result, results) = sync_channel(1);
    engine.spawn_local(0, Box::new(Load { idle, done: 0, at_start: 0, result }));
    // Not by waiting in the channel: the first wait of a thread allocates.
    let started = Instant::now();
    loop {
        match results.try_recv() {
            Ok(counted) => return counted,
            Err(reason) => assert!(started.elapsed() < HANG, "no result: {reason}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Submits and waits, one at a time; counts after the warm-up.
fn through_tickets(engine: &IoScheduler, counted: u64, mut buffers: Buffers, kind: OpKind) -> u64 {
    let len = match &buffers {
        Buffers::Many(list) => list.bytes(),
        Buffers::One(buffer) => buffer.len() as u64,
        Buffers::None => 0,
    };
    let mut at_start = 0;
    for n in 0..WARM_UP + counted {
        if n == WARM_UP {
            at_start = allocations();
        }
        let priority = Priority::ALL[(n % 5) as usize];
        let request = Request { disk: DISK, priority, kind, offset: 0, len, buffers };
        let completion = engine.submit(request).unwrap().wait().unwrap();
        completion.result.unwrap();
        buffers = completion.buffers;
    }
    allocations() - at_start
}

#[test]
fn the_io_path_allocates_nothing() {
    let mut config = IoConfig {
        disks: vec![DiskConfig { nop_bytes: Some(1 << 30), ..DiskConfig::default() }],
        ..IoConfig::default()
    };
    config.reactors.count = Some(1);
    config.memory.arena_mib_per_node = 16;
    let engine = IoScheduler::open(&config).unwrap();
    let before = allocations();
    drop(std::hint::black_box(vec![1u8]));
    assert!(allocations() > before, "the counter counts");

    assert_eq!(through_a_local_task(&engine), 0, "through a local task");
    let one = || Buffers::One(engine.buffer(4096).unwrap());
    let large = || Buffers::One(engine.buffer(1 << 20).unwrap());
    let list = |bytes: usize| {
        let buffers = (0..8).map(|_| engine.buffer(bytes).unwrap());
        Buffers::Many(Box::new(BufferList::new(buffers.collect())))
    };
    assert_eq!(through_tickets(&engine, COUNTED, one(), OpKind::Read), 0, "through tickets");
    let rows: Vec<(&str, Buffers, OpKind)> = vec![
        ("a write", one(), OpKind::Write),
        ("a split write", large(), OpKind::Write),
        ("a flush", Buffers::None, OpKind::Flush),
        ("a write and flush", one(), OpKind::WriteFlush),
        ("a vectored write and flush", list(128 << 10), OpKind::WriteFlush),
        ("a durable write", one(), OpKind::WriteDsync),
        ("a vectored read", list(4096), OpKind::Read),
        ("a split vectored write", list(128 << 10), OpKind::Write),
    ];
    let counts: Vec<(&str, u64)> = rows
        .into_iter()
        .map(|(name, buffers, kind)| (name, through_tickets(&engine, WARM_UP, buffers, kind)))
        .collect();
    assert!(counts.iter().all(|(_, count)| *count == 0), "of {WARM_UP} each: {counts:?}");
    engine.close(HANG).unwrap();
}
