//! What the tests stand on: disks of their own, a reactor that can be held, waits that end.

use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use dynamicfs::engine::config::{DiskAccess, MemoryConfig, ReactorsConfig};
use dynamicfs::reactor::local::{LocalIo, LocalTask, TaskState};
use dynamicfs::{Completion, DiskConfig, DmaBuf, IoConfig, IoScheduler, Ticket};

/// After this long a wait counts as a hang.
pub(crate) const HANG: Duration = Duration::from_secs(20);

static PROCESS: RwLock<()> = RwLock::new(());
static NEXT: AtomicU32 = AtomicU32::new(0);

/// For a test that may share the process with others.
pub(crate) fn alongside() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that measures the process.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Says loudly that a test proves nothing here.
pub(crate) fn skipped(why: &str) {
    // Not eprintln, which the harness hides when a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {}", why.trim());
}

/// A directory of one test alone, removed on drop.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dynamicfs-it-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path.canonicalize().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A sparse file of this many bytes.
    pub(crate) fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.0.join(name);
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }
}

/// Makes a file of so many bytes, and writes all of it: no block has to be found for it any more.
pub(crate) fn write_whole(path: &Path, bytes: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    let piece = vec![0xa5; 1 << 20];
    (0..bytes >> 20).for_each(|_| file.write_all(&piece).unwrap());
    file.sync_all().unwrap();
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A loop device that passes direct I/O on; detached on drop.
pub(crate) struct LoopDevice(PathBuf);

impl LoopDevice {
    /// None where this machine or user cannot make one, said on stderr.
    pub(crate) fn over(file: &Path) -> Option<LoopDevice> {
        LoopDevice::made(file, &[])
    }

    /// As [`LoopDevice::over`], with sectors of 4 KiB.
    pub(crate) fn of_large_sectors(file: &Path) -> Option<LoopDevice> {
        LoopDevice::made(file, &["--sector-size", "4096"])
    }

    fn made(file: &Path, options: &[&str]) -> Option<LoopDevice> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--direct-io=on"]).args(options).arg(file);
        let made = losetup.output();
        match made {
            Ok(output) if output.status.success() => {
                Some(LoopDevice(String::from_utf8(output.stdout).unwrap().trim().into()))
            }
            Ok(output) => {
                skipped(&format!("no loop device: {}", String::from_utf8_lossy(&output.stderr)));
                None
            }
            Err(error) => {
                skipped(&format!("no loop device: losetup: {error}"));
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Cuts its file to so many bytes, and the device with it. False when that cannot be done.
    ///
    /// A write in flight makes the file longer again, and the device would take that size: so
    /// again, until the file stays short.
    pub(crate) fn cut(&self, file: &Path, bytes: u64) -> bool {
        let file = std::fs::File::options().write(true).open(file).unwrap();
        loop {
            file.set_len(bytes).unwrap();
            if !self.take_size_of_file() {
                return false;
            }
            if file.metadata().unwrap().len() == bytes {
                return true;
            }
        }
    }

    /// Makes the device as large as its file is now.
    pub(crate) fn take_size_of_file(&self) -> bool {
        let status = Command::new("losetup").arg("--set-capacity").arg(&self.0).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

pub(crate) fn disk(path: &Path) -> DiskConfig {
    DiskConfig { path: path.to_owned(), access: DiskAccess::ReadWrite, ..DiskConfig::default() }
}

pub(crate) fn nop_disk() -> DiskConfig {
    DiskConfig { nop_bytes: Some(1 << 30), ..DiskConfig::default() }
}

/// A small engine: 16 MiB of buffers, one reactor.
pub(crate) fn config(disks: Vec<DiskConfig>) -> IoConfig {
    IoConfig {
        disks,
        reactors: ReactorsConfig { count: Some(1), ..ReactorsConfig::default() },
        memory: MemoryConfig { arena_mib_per_node: 16, ..MemoryConfig::default() },
        ..IoConfig::default()
    }
}

pub(crate) fn open(config: &IoConfig) -> IoScheduler {
    IoScheduler::open(config).unwrap_or_else(|error| panic!("the engine does not open: {error}"))
}

/// A buffer filled with one byte.
pub(crate) fn filled(engine: &IoScheduler, bytes: usize, byte: u8) -> DmaBuf {
    let mut buffer = engine.buffer(bytes).unwrap();
    buffer.fill(byte);
    buffer
}

/// Waits for a ticket, but not for ever.
pub(crate) fn settle(mut ticket: Ticket) -> Completion {
    let start = Instant::now();
    while start.elapsed() < HANG {
        match ticket.try_take() {
            Ok(completion) => return completion,
            Err(back) => ticket = back,
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    panic!("a ticket hangs")
}

/// Every arena has all its bytes back; reactors may still be giving some back.
pub(crate) fn assert_buffers_are_back(engine: &IoScheduler) {
    let start = Instant::now();
    loop {
        let arenas = engine.status().arenas;
        if arenas.iter().all(|arena| arena.free_bytes == arena.bytes) {
            return;
        }
        assert!(start.elapsed() < HANG, "buffers are missing: {arenas:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread; panics when nobody wakes it in time.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let start = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        // Only a wake-up leads to another poll: a lost one must not be repaired here.
        std::thread::park_timeout(HANG);
        assert!(start.elapsed() < HANG, "a future was never woken");
    }
}

/// Holds a reactor inside a task until it is opened, so that what comes meanwhile piles up.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<(bool, bool)>, Condvar)>);

impl Gate {
    /// Spawns the task that waits, and returns when the reactor stands in it.
    pub(crate) fn hold(engine: &IoScheduler, reactor: usize) -> Gate {
        let gate = Gate::default();
        engine.spawn_local(reactor, Box::new(Held { gate: gate.clone(), then_panic: false }));
        gate.wait_until_held();
        gate
    }

    /// As [`Gate::hold`], and when it is opened the task panics.
    pub(crate) fn hold_then_panic(engine: &IoScheduler, reactor: usize) -> Gate {
        let gate = Gate::default();
        engine.spawn_local(reactor, Box::new(Held { gate: gate.clone(), then_panic: true }));
        gate.wait_until_held();
        gate
    }

    fn wait_until_held(&self) {
        let (state, changed) = &*self.0;
        let held = changed.wait_while(state.lock().unwrap(), |(held, _)| !*held);
        drop(held.unwrap());
    }

    pub(crate) fn open(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().1 = true;
        changed.notify_all();
    }
}

struct Held {
    gate: Gate,
    then_panic: bool,
}

impl LocalTask for Held {
    fn poll(&mut self, _io: &mut LocalIo<'_>) -> TaskState {
        let (state, changed) = &*self.gate.0;
        let mut guard = state.lock().unwrap();
        guard.0 = true;
        changed.notify_all();
        let opened = changed.wait_timeout_while(guard, HANG, |(_, open)| !*open).unwrap();
        drop(opened);
        assert!(!self.then_panic, "a task that panics on purpose");
        TaskState::Done
    }

    fn complete(&mut self, _: &mut LocalIo<'_>, _: u64, _: Completion) -> Option<TaskState> {
        None
    }
}

/// Numbers that look random, the same for the same seed (splitmix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
