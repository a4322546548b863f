//! What the tests stand on: records that show a broken lock, a watchdog, an executor of one task.

use std::future::Future;
use std::io::Write;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dynamicfs::machine::mapping::PagePolicy;
use dynamicfs::{ExtentLockManager, LockConfig};
use uuid::Uuid;

/// What a test may take beyond its own time before it counts as a hang.
pub(crate) const HANG: Duration = Duration::from_secs(120);

/// How long a stress test goes on.
pub(crate) fn span() -> Duration {
    let seconds = std::env::var("DYNAMICFS_STRESS_SECONDS").ok();
    Duration::from_secs_f64(seconds.map_or(2.0, |text| text.parse().expect("seconds")))
}

/// The seed of a test: another one at each run, unless one is given.
pub(crate) fn seed() -> u64 {
    match std::env::var("DYNAMICFS_STRESS_SEED") {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            now.as_nanos() as u64 % 1_000_000_007
        }
    }
}

/// Says something that the harness does not hide when a test passes.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A table on normal pages.
pub(crate) fn table(locks_max: usize, shards: usize, overtakes_max: u8) -> ExtentLockManager {
    let config = LockConfig { locks_max, shards, overtakes_max, pages: PagePolicy::Normal };
    ExtentLockManager::with_config(config).expect("the configuration is right")
}

/// The nth extent.
pub(crate) fn extent(number: usize) -> Uuid {
    Uuid::from_u128(number as u128 * 0x1_0000_0000_0001 + 7)
}

/// Nobody holds or waits, and each of these extents can be had.
pub(crate) fn assert_all_free(locks: &ExtentLockManager, extents: usize) {
    assert_eq!(locks.live(), 0, "locks are left behind");
    for number in 0..extents {
        let taken = locks.try_write(extent(number));
        assert!(taken.is_ok(), "extent {number}: {:?}", taken.err());
    }
    assert_eq!(locks.live(), 0);
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

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

const WORDS: usize = 6;

/// A record that is written word by word under the exclusive lock. Relaxed words, so that it is
/// the lock alone that makes it whole.
#[derive(Default)]
pub(crate) struct Record {
    writes: AtomicU64,
    words: [AtomicU64; WORDS],
    checksum: AtomicU64,
}

fn checksum(writes: u64, words: &[u64; WORDS]) -> u64 {
    let fold = |sum: u64, word: &u64| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    words.iter().fold(writes ^ 0x5bd1_e995, fold)
}

impl Record {
    fn copy(&self) -> (u64, [u64; WORDS], u64) {
        let words = std::array::from_fn(|index| self.words[index].load(Ordering::Relaxed));
        (self.writes.load(Ordering::Relaxed), words, self.checksum.load(Ordering::Relaxed))
    }

    /// For a shared holder: whole, and the same after others had their turn.
    pub(crate) fn check(&self, numbers: &mut Numbers) {
        let first = self.copy();
        let (writes, words, sum) = first;
        assert!(
            (writes == 0 && sum == 0) || sum == checksum(writes, &words),
            "a torn record was read under a shared lock: {first:?}"
        );
        if numbers.one_in(32) {
            std::thread::yield_now();
        }
        assert_eq!(first, self.copy(), "a record changed under a shared lock");
    }

    /// For an exclusive holder.
    pub(crate) fn rewrite(&self, numbers: &mut Numbers) {
        self.check(numbers);
        let writes = self.writes.load(Ordering::Relaxed) + 1;
        let words = std::array::from_fn(|_| numbers.next());
        let pause_at = numbers.below(WORDS * 4);
        self.writes.store(writes, Ordering::Relaxed);
        for (index, (shared, word)) in self.words.iter().zip(words).enumerate() {
            shared.store(word, Ordering::Relaxed);
            if index == pause_at {
                std::thread::yield_now();
            }
        }
        self.checksum.store(checksum(writes, &words), Ordering::Relaxed);
    }

    /// How often it was written. Two writers at once would lose one of their counts.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }
}

/// Ends the process, naming the test and its seed, when it is not dropped in time.
pub(crate) struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub(crate) fn over(test: &'static str, seed: u64, time: Duration) -> Watchdog {
        let (stop, stopped) = channel();
        let watch = move || {
            if stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                say(&format!("HANG: {test} after {time:?}, DYNAMICFS_STRESS_SEED={seed}"));
                std::process::abort();
            }
        };
        Watchdog { stop: Some(stop), thread: Some(std::thread::spawn(watch)) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A task's bell: it remembers that it rang, and unparks the thread that polls.
pub(crate) struct Bell {
    rung: AtomicBool,
    thread: Thread,
}

impl Bell {
    /// A bell that has rung, for the calling thread: each task is polled once unasked.
    pub(crate) fn new() -> (Arc<Bell>, Waker) {
        let bell = Bell { rung: AtomicBool::new(true), thread: std::thread::current() };
        let bell = Arc::new(bell);
        (Arc::clone(&bell), Waker::from(bell))
    }

    /// Whether it rang since it was last asked.
    pub(crate) fn take(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Whether it rang; it is not forgotten.
    pub(crate) fn rang(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Runs a future on this thread. It is polled when it was woken and at no other time, so that a
/// lost wake-up is not repaired here.
pub(crate) fn block_on<F: IntoFuture>(future: F) -> F::Output {
    let mut future = pin!(future.into_future());
    let (bell, waker) = Bell::new();
    loop {
        while !bell.take() {
            std::thread::park();
        }
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
    }
}

/// Is ready when it has been polled this often; it asks for each poll itself.
pub(crate) fn after_polls(mut polls: usize) -> impl Future<Output = ()> {
    std::future::poll_fn(move |context| {
        if polls == 0 {
            return Poll::Ready(());
        }
        polls -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

/// A time that is soon, or over.
pub(crate) fn deadline(numbers: &mut Numbers) -> Instant {
    Instant::now() + Duration::from_micros(numbers.next() % 300)
}

/// One poll.
pub(crate) fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// `N` extents, ascending in the locking order.
pub(crate) fn ordered_extents<const N: usize>(locks: &ExtentLockManager) -> [Uuid; N] {
    let mut extents: [Uuid; N] = std::array::from_fn(extent);
    extents.sort_by_key(|extent| (locks.shard_of(extent), extent.as_u128()));
    extents
}
