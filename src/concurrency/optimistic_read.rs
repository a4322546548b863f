//! Reading an extent without its lock: take a snapshot, do the I/O, see whether the snapshot still
//! holds; if not, again; after a few lost races, under the extent's shared lock, so that every read
//! ends.
//!
//! What makes it right is the writers' part: they change a cell under the extent's exclusive lock,
//! and let nobody overwrite the place an extent was at before they have published the new one.

use std::future::Future;
use std::sync::Arc;

use uuid::Uuid;

use crate::concurrency::extent_locks::ExtentLockManager;
use crate::concurrency::generation::{CellIndex, GenerationTable, ReadError};
use crate::concurrency::lock::acquire::LockRefusal;
use crate::concurrency::snapshot::{ExtentRecord, ExtentSnapshot};
use crate::metrics::per_thread::PerThread;

/// Races that a read may lose before it takes the lock, when nobody says otherwise.
pub const RACES_MAX: u32 = 3;

const READS: usize = 0;
const RETRIES: usize = 1;
const FALLBACKS: usize = 2;

/// Why an extent could not be read. What the I/O itself met is in the value it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptimisticReadError {
    /// The cell is another extent's: the extent was deleted, or never was here.
    #[error("the cell is of extent {found}, not of {wanted}")]
    OtherExtent {
        /// The extent that was to be read.
        wanted: Uuid,
        /// The one that was found; all zeroes in a cell that was never written.
        found: Uuid,
    },
    /// Its writer died, or somebody writes it without holding the lock, or the record is malformed.
    #[error(transparent)]
    Cell(ReadError),
    /// The lock was refused when it came to that.
    #[error("after {RACES_MAX} or more lost races: {0}")]
    Lock(LockRefusal),
}

/// How often what has happened, up to one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptimisticMetrics {
    /// Reads that ended without a lock.
    pub optimistic_reads: u64,
    /// Lost races: the snapshot, or the I/O done by it, had to be thrown away.
    pub optimistic_retries: u64,
    /// Reads that took the lock in the end.
    pub optimistic_fallbacks: u64,
}

/// Reads extents without their locks; see the [module](self).
///
/// ```
/// use std::sync::Arc;
///
/// use dynamicfs::concurrency::generation::{CellIndex, GenerationTable};
/// use dynamicfs::concurrency::optimistic_read::OptimisticReader;
/// use dynamicfs::concurrency::snapshot::ExtentRecord;
/// use dynamicfs::machine::mapping::PagePolicy;
/// use dynamicfs::ExtentLockManager;
/// use uuid::Uuid;
///
/// let locks = Arc::new(ExtentLockManager::new()?);
/// let extents = Arc::new(GenerationTable::new(1000, PagePolicy::Huge)?);
/// let (extent, cell) = (Uuid::from_u128(7), CellIndex(0));
///
/// // A writer holds the lock, and publishes with a generation that rises.
/// let writing = locks.write(extent).wait()?;
/// extents.begin_write(cell)?.end_write(1, &ExtentRecord::new(extent, 4096, &[])?)?;
/// drop(writing);
///
/// let reader = OptimisticReader::new(locks, extents);
/// let size = reader.read_blocking(extent, cell, |snapshot| snapshot.size_bytes())?;
/// assert_eq!((size, reader.metrics().optimistic_reads), (4096, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OptimisticReader {
    locks: Arc<ExtentLockManager>,
    extents: Arc<GenerationTable<ExtentRecord>>,
    races_max: u32,
    counts: PerThread<3>,
}

impl OptimisticReader {
    /// A reader that takes the lock after [`RACES_MAX`] lost races.
    pub fn new(
        locks: Arc<ExtentLockManager>,
        extents: Arc<GenerationTable<ExtentRecord>>,
    ) -> OptimisticReader {
        OptimisticReader { locks, extents, races_max: RACES_MAX, counts: PerThread::default() }
    }

    /// Takes the lock after so many lost races. With 0 the first lost race is the last.
    #[must_use]
    pub fn with_races_max(self, races_max: u32) -> OptimisticReader {
        OptimisticReader { races_max, ..self }
    }

    /// A snapshot of that extent, if one is to be had without the lock.
    #[inline]
    fn snapshot(&self, extent: Uuid, cell: CellIndex) -> Result<Snapshot, OptimisticReadError> {
        match self.extents.snapshot(cell) {
            Ok(snapshot) if snapshot.uuid() == extent => Ok(Snapshot::Whole(snapshot)),
            Ok(other) => {
                Err(OptimisticReadError::OtherExtent { wanted: extent, found: other.uuid() })
            }
            Err(ReadError::BeingWritten) => Ok(Snapshot::BeingWritten),
            Err(error) => Err(OptimisticReadError::Cell(error)),
        }
    }

    /// Under the lock nobody writes: what looks like it is an error.
    fn locked_snapshot(
        &self,
        extent: Uuid,
        cell: CellIndex,
    ) -> Result<ExtentSnapshot, OptimisticReadError> {
        self.counts.raise(FALLBACKS);
        match self.snapshot(extent, cell)? {
            Snapshot::Whole(snapshot) => Ok(snapshot),
            Snapshot::BeingWritten => Err(OptimisticReadError::Cell(ReadError::BeingWritten)),
        }
    }

    /// Whether what was done by the snapshot is to be kept.
    #[inline]
    fn holds(&self, cell: CellIndex, snapshot: &ExtentSnapshot) -> bool {
        let holds = self.extents.validate(cell, snapshot.generation());
        self.counts.raise(if holds { READS } else { RETRIES });
        holds
    }

    /// Reads as a task. `io` is called with a snapshot, once or several times, and the value of a
    /// call whose snapshot still held at its end is returned: it may be a failure, such as a
    /// checksum that does not match, and then it is one of this very generation.
    ///
    /// # Errors
    /// See [`OptimisticReadError`].
    pub async fn read<T, F: Future<Output = T>>(
        &self,
        extent: Uuid,
        cell: CellIndex,
        mut io: impl FnMut(ExtentSnapshot) -> F,
    ) -> Result<T, OptimisticReadError> {
        for _ in 0..=self.races_max {
            let Snapshot::Whole(snapshot) = self.snapshot(extent, cell)? else {
                self.counts.raise(RETRIES);
                continue;
            };
            let value = io(snapshot).await;
            if self.holds(cell, &snapshot) {
                return Ok(value);
            }
        }
        let _guard = self.locks.read(extent).await.map_err(OptimisticReadError::Lock)?;
        let snapshot = self.locked_snapshot(extent, cell)?;
        Ok(io(snapshot).await)
    }

    /// Reads as a thread; as [`OptimisticReader::read`].
    ///
    /// # Errors
    /// See [`OptimisticReadError`]; on a reactor's own thread, which cannot wait for the lock, a
    /// refusal when it comes to that.
    #[inline]
    pub fn read_blocking<T>(
        &self,
        extent: Uuid,
        cell: CellIndex,
        mut io: impl FnMut(ExtentSnapshot) -> T,
    ) -> Result<T, OptimisticReadError> {
        for _ in 0..=self.races_max {
            let Snapshot::Whole(snapshot) = self.snapshot(extent, cell)? else {
                self.counts.raise(RETRIES);
                continue;
            };
            let value = io(snapshot);
            if self.holds(cell, &snapshot) {
                return Ok(value);
            }
        }
        self.read_locked(extent, cell, io)
    }

    #[cold]
    fn read_locked<T>(
        &self,
        extent: Uuid,
        cell: CellIndex,
        mut io: impl FnMut(ExtentSnapshot) -> T,
    ) -> Result<T, OptimisticReadError> {
        let _guard = self.locks.read(extent).wait().map_err(OptimisticReadError::Lock)?;
        let snapshot = self.locked_snapshot(extent, cell)?;
        Ok(io(snapshot))
    }

    /// What was counted.
    pub fn metrics(&self) -> OptimisticMetrics {
        OptimisticMetrics {
            optimistic_reads: self.counts.sum(READS),
            optimistic_retries: self.counts.sum(RETRIES),
            optimistic_fallbacks: self.counts.sum(FALLBACKS),
        }
    }
}

/// What a look at a cell gave.
enum Snapshot {
    Whole(ExtentSnapshot),
    BeingWritten,
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
    use std::task::{Context, Poll, Waker};
    use std::time::{Duration, Instant};

    use super::{OptimisticMetrics, OptimisticReadError, OptimisticReader, RACES_MAX};
    use crate::concurrency::extent_locks::{ExtentLockManager, LockConfig};
    use crate::concurrency::generation::{CellIndex, GenerationTable, ReadError};
    use crate::concurrency::lock::acquire::LockRefusal;
    use crate::concurrency::snapshot::{ExtentRecord, ExtentSnapshot};
    use crate::format::fragment::Fragment;
    use crate::machine::mapping::PagePolicy;
    use std::sync::Arc;
    use uuid::Uuid;

    const EXTENT: Uuid = Uuid::from_u128(7);
    const CELL: CellIndex = CellIndex(0);

    fn reader(extents: u32) -> OptimisticReader {
        let config = LockConfig { locks_max: 256, pages: PagePolicy::Normal, ..Default::default() };
        let locks = ExtentLockManager::with_config(config).expect("memory");
        let extents = GenerationTable::new(extents, PagePolicy::Normal).expect("memory");
        let reader = OptimisticReader::new(Arc::new(locks), Arc::new(extents));
        publish(&reader, 1);
        reader
    }

    fn publish(reader: &OptimisticReader, generation: u64) {
        let record = ExtentRecord::new(EXTENT, generation as u32, &[]).expect("no fragments");
        let writer = reader.extents.begin_write(CELL).expect("the only writer");
        writer.end_write(generation, &record).expect("it rises");
    }

    fn counts(reader: &OptimisticReader) -> (u64, u64, u64) {
        let OptimisticMetrics { optimistic_reads, optimistic_retries, optimistic_fallbacks } =
            reader.metrics();
        (optimistic_reads, optimistic_retries, optimistic_fallbacks)
    }

    #[test]
    fn a_read_that_nobody_disturbs_does_its_io_once_and_takes_no_lock() {
        let reader = reader(1);
        let writing = reader.locks.try_write(EXTENT);
        let mut calls = 0;
        let size = reader.read_blocking(EXTENT, CELL, |snapshot| {
            calls += 1;
            snapshot.size_bytes()
        });
        assert_eq!((size, calls, counts(&reader)), (Ok(1), 1, (1, 0, 0)));
        drop(writing);
    }

    #[test]
    fn a_lost_race_is_run_again_with_a_new_snapshot() {
        let reader = reader(1);
        let mut seen = Vec::new();
        let generation = reader.read_blocking(EXTENT, CELL, |snapshot: ExtentSnapshot| {
            seen.push(snapshot.generation());
            if seen.len() < 3 {
                publish(&reader, snapshot.generation() + 1);
            }
            snapshot.generation()
        });
        assert_eq!((generation, seen), (Ok(3), vec![1, 2, 3]));
        assert_eq!(counts(&reader), (1, 2, 0));
    }

    #[test]
    fn after_enough_lost_races_the_lock_ends_it() {
        for races_max in [0, 1, RACES_MAX] {
            let reader = reader(1).with_races_max(races_max);
            let mut calls = 0;
            let result = reader.read_blocking(EXTENT, CELL, |snapshot| {
                calls += 1;
                // A writer that keeps to the rule cannot get in any more once the lock is held.
                if let Ok(_writing) = reader.locks.try_write(EXTENT) {
                    publish(&reader, snapshot.generation() + 1);
                }
                snapshot.generation()
            });
            let races = u64::from(races_max) + 1;
            assert_eq!((result, calls), (Ok(races + 1), races + 1));
            assert_eq!(counts(&reader), (0, races, 1));
            assert!(reader.locks.try_write(EXTENT).is_ok(), "the lock was let go");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let reader = reader(2);
        let io = |_: ExtentSnapshot| ();
        let wanted = Uuid::from_u128(8);
        let other = OptimisticReadError::OtherExtent { wanted, found: EXTENT };
        assert_eq!(reader.read_blocking(wanted, CELL, io), Err(other));
        let nobody = OptimisticReadError::OtherExtent { wanted: EXTENT, found: Uuid::nil() };
        assert_eq!(reader.read_blocking(EXTENT, CellIndex(1), io), Err(nobody));
        // Somebody writes, and does not hold the lock.
        let writer = reader.extents.begin_write(CELL).expect("the only writer");
        let written = OptimisticReadError::Cell(ReadError::BeingWritten);
        assert_eq!(reader.read_blocking(EXTENT, CELL, io), Err(written));
        drop(writer);
        std::thread::scope(|scope| {
            scope.spawn(|| std::mem::forget(reader.extents.begin_write(CELL)));
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while !matches!(
            reader.read_blocking(EXTENT, CELL, io),
            Err(OptimisticReadError::Cell(ReadError::WriterDied { .. }))
        ) {
            assert!(Instant::now() < deadline, "a writer that died is not found out");
        }
    }

    #[test]
    fn a_task_waits_for_the_lock_that_a_writer_holds() {
        let reader = reader(1).with_races_max(0);
        let writing = reader.locks.try_write(EXTENT).expect("nobody else");
        let cell_writer = reader.extents.begin_write(CELL).expect("nobody else");
        let mut read = pin!(reader.read(EXTENT, CELL, async |snapshot| snapshot.generation()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(read.as_mut().poll(&mut context).is_pending());
        let record = ExtentRecord::new(EXTENT, 2, &[]).expect("no fragments");
        cell_writer.end_write(2, &record).expect("it rises");
        drop(writing);
        assert_eq!(read.as_mut().poll(&mut context), Poll::Ready(Ok(2)));
        assert_eq!(counts(&reader), (0, 1, 1));
    }

    #[test]
    fn a_reactor_thread_is_refused_the_lock_and_not_the_read() {
        std::thread::spawn(|| {
            crate::concurrency::thread_wait::mark_reactor_thread();
            let reader = reader(1).with_races_max(0);
            assert_eq!(reader.read_blocking(EXTENT, CELL, |s| s.generation()), Ok(1));
            let lost = reader.read_blocking(EXTENT, CELL, |snapshot| {
                publish(&reader, snapshot.generation() + 1);
            });
            assert_eq!(lost, Err(OptimisticReadError::Lock(LockRefusal::OnReactor)));
        })
        .join()
        .expect("no panic");
    }

    /// A disk in memory: extents move to a free place at every write, and the place they leave is
    /// soon somebody else's. A word of content says whose it is and of which generation.
    #[test]
    fn readers_beside_writers_read_what_their_snapshot_says() {
        const EXTENTS: u32 = 4;
        const WORDS: usize = 16;
        let reader = reader(EXTENTS);
        let places: Vec<[AtomicU64; WORDS]> =
            (0..=EXTENTS).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect();
        let extent = |cell: u32| Uuid::from_u128(u128::from(cell) + 100);
        let word = |cell: u32, generation: u64| u64::from(cell) << 48 | generation;
        let write = |cell: u32, generation: u64, place: usize| {
            // The place is handed on: pairs with the fence in `validate`, so that whoever reads
            // what is stored here sees the extent that was here before gone.
            fence(Ordering::Release);
            for content in &places[place] {
                content.store(word(cell, generation), Ordering::Relaxed);
            }
            let fragment = Fragment::new(0, place as u64, 1).expect("in range");
            let record = ExtentRecord::new(extent(cell), 8, &[fragment]).expect("one fragment");
            let writer = reader.extents.begin_write(CellIndex(cell)).expect("the only writer");
            writer.end_write(generation, &record).expect("it rises");
        };
        (0..EXTENTS).for_each(|cell| write(cell, 2, cell as usize));
        let over = AtomicBool::new(false);
        let read_one = |cell: u32| {
            let io = |snapshot: ExtentSnapshot| {
                let place = &places[snapshot.fragments()[0].start_block() as usize];
                (snapshot.generation(), place.each_ref().map(|w| w.load(Ordering::Relaxed)))
            };
            let (generation, words) =
                reader.read_blocking(extent(cell), CellIndex(cell), io).expect("it is there");
            assert_eq!(words, [word(cell, generation); WORDS], "extent {cell}");
        };
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (over, read_one) = (&over, &read_one);
                scope.spawn(move || {
                    let mut cell = thread;
                    while !over.load(Ordering::Relaxed) {
                        cell = (cell + 1) % EXTENTS;
                        read_one(cell);
                    }
                });
            }
            let (mut free, mut at) = (EXTENTS as usize, [0, 1, 2, 3]);
            let began = Instant::now();
            for generation in 3.. {
                let cell = (generation % u64::from(EXTENTS)) as u32;
                let _guard = reader.locks.write(extent(cell)).wait().expect("room");
                write(cell, generation, free);
                std::mem::swap(&mut free, &mut at[cell as usize]);
                if began.elapsed() > Duration::from_secs(1) {
                    break;
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        let (reads, retries, _) = counts(&reader);
        assert!(reads > 1000 && retries > 0, "{reads} reads lost {retries} races");
    }
}
