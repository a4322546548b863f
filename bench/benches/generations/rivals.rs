//! What one would otherwise keep the record in.
//!
//! Each record begins on a cache line of its own, as ours does: with parking_lot's lock it fills
//! the line exactly, with the standard library's it takes two.

use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_utils::atomic::AtomicCell;
use dynamicfs_bench::micro::Side;

use crate::contender::{Contender, Records};
use crate::record::Record;

/// All rivals, each with `count` records.
pub(crate) fn all(count: usize) -> Vec<Box<dyn Contender>> {
    vec![
        Box::new(ParkingLot::with_records(count)),
        Box::new(Std::with_records(count)),
        Box::new(Cells::with_records(count)),
        Box::new(Swaps::with_records(count)),
    ]
}

/// Begins on a cache line.
#[repr(align(64))]
struct Line<T>(T);

fn lines<T>(count: usize, hold: impl Fn(Record) -> T) -> Vec<Line<T>> {
    let count = u32::try_from(count).expect("indices of 32 bits");
    (0..count).map(|index| Line(hold(Record::new(index, 0)))).collect()
}

struct ParkingLot(Vec<Line<parking_lot::RwLock<Record>>>);

impl Records for ParkingLot {
    const NAME: &'static str = "parking_lot RwLock";
    const SIDE: Side = Side::Rival;

    fn with_records(count: usize) -> Self {
        ParkingLot(lines(count, parking_lot::RwLock::new))
    }

    #[inline]
    fn read(&self, index: usize) -> Record {
        *self.0[index].0.read()
    }

    #[inline]
    fn write(&self, index: usize, record: Record) {
        *self.0[index].0.write() = record;
    }
}

struct Std(Vec<Line<std::sync::RwLock<Record>>>);

const POISONED: &str = "no thread panics under a lock";

impl Records for Std {
    const NAME: &'static str = "std RwLock";
    const SIDE: Side = Side::Rival;

    fn with_records(count: usize) -> Self {
        Std(lines(count, std::sync::RwLock::new))
    }

    #[inline]
    fn read(&self, index: usize) -> Record {
        *self.0[index].0.read().expect(POISONED)
    }

    #[inline]
    fn write(&self, index: usize, record: Record) {
        *self.0[index].0.write().expect(POISONED) = record;
    }
}

/// Itself a sequence lock, one of 67 that all cells of the process share by their addresses.
struct Cells(Vec<Line<AtomicCell<Record>>>);

impl Records for Cells {
    const NAME: &'static str = "crossbeam AtomicCell";
    const SIDE: Side = Side::Rival;

    fn with_records(count: usize) -> Self {
        Cells(lines(count, AtomicCell::new))
    }

    #[inline]
    fn read(&self, index: usize) -> Record {
        self.0[index].0.load()
    }

    #[inline]
    fn write(&self, index: usize, record: Record) {
        self.0[index].0.store(record);
    }
}

/// A pointer to an immutable version; a write allocates the next one.
struct Swaps(Vec<Line<ArcSwap<Record>>>);

impl Records for Swaps {
    const NAME: &'static str = "arc-swap";
    const SIDE: Side = Side::Rival;

    fn with_records(count: usize) -> Self {
        Swaps(lines(count, ArcSwap::from_pointee))
    }

    #[inline]
    fn read(&self, index: usize) -> Record {
        **self.0[index].0.load()
    }

    #[inline]
    fn write(&self, index: usize, record: Record) {
        self.0[index].0.store(Arc::new(record));
    }
}
