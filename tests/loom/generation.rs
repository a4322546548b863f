//! Generations: a record that is read while it is written, over the table that production uses;
//! and its protocol with one rule broken at a time, in a small copy.
//!
//! Records are of two words: a torn one needs no more. A writer that died has no model, because
//! all threads of a model are one thread to the kernel; `replace_dead` has its tests beside it.

use dynamicfs::concurrency::generation::{CellIndex, GenerationTable, ReadError};
use dynamicfs::machine::mapping::PagePolicy;
use loom::sync::atomic::{AtomicU64, Ordering, fence};

use crate::explore_parts;

type Record = [u64; 2];
type Table = GenerationTable<Record>;

const CELL: CellIndex = CellIndex(0);

/// The record that each generation has, here. Generation 0 is a cell never written.
fn record_of(generation: u64) -> Record {
    [generation * 10, generation * 11]
}

fn table() -> Table {
    GenerationTable::new(1, PagePolicy::Normal).unwrap()
}

fn write(table: &Table, generation: u64) {
    table.begin_write(CELL).unwrap().end_write(generation, &record_of(generation)).unwrap();
}

/// Reads. What is read is whole; what is not read is being written.
fn read_whole(table: &Table) -> Option<u64> {
    match table.read(CELL) {
        Ok((generation, record)) => {
            assert_eq!(record, record_of(generation), "torn");
            Some(generation)
        }
        Err(error) => {
            assert_eq!(error, ReadError::BeingWritten);
            None
        }
    }
}

/// The part of a reader.
fn reads(table: &Table) {
    read_whole(table);
}

#[test]
fn a_read_beside_a_write_is_whole() {
    explore_parts(None, table, &[|table| write(table, 1), reads], |table| {
        assert_eq!(read_whole(table), Some(1));
    });
}

#[test]
fn reads_beside_two_writes_are_whole_and_never_go_back() {
    let writes = |table: &Table| {
        write(table, 1);
        write(table, 2);
    };
    let reads = |table: &Table| {
        let (first, second) = (read_whole(table), read_whole(table));
        assert!(second.is_none() || first <= second, "{first:?} came before {second:?}");
    };
    explore_parts(Some(3), table, &[writes, reads], |table| {
        assert_eq!(read_whole(table), Some(2));
    });
}

#[test]
fn a_writer_that_gives_up_was_never_there() {
    let writes = |table: &Table| {
        write(table, 1);
        drop(table.begin_write(CELL).unwrap());
    };
    explore_parts(None, table, &[writes, reads], |table| {
        assert_eq!(read_whole(table), Some(1));
    });
}

#[test]
fn a_writer_that_gives_up_hands_on_what_another_thread_wrote() {
    let writes = |table: &Table| {
        if let Ok(writer) = table.begin_write(CELL) {
            writer.end_write(1, &record_of(1)).unwrap();
        }
    };
    let gives_up = |table: &Table| drop(table.begin_write(CELL));
    explore_parts(Some(3), table, &[writes, gives_up, reads], |table| {
        read_whole(table).unwrap();
    });
}

#[test]
fn of_two_who_write_one_cell_each_record_is_whole() {
    fn write_if_free(table: &Table, generation: u64) {
        if let Ok(writer) = table.begin_write(CELL) {
            // The other may have been there, with a larger one.
            let _ = writer.end_write(generation, &record_of(generation));
        }
    }
    let writers: [fn(&Table); 2] =
        [|table| write_if_free(table, 1), |table| write_if_free(table, 2)];
    explore_parts(Some(2), table, &[writers[0], writers[1], reads], |table| {
        assert!(read_whole(table).unwrap() > 0);
    });
}

#[test]
fn a_block_that_was_overwritten_never_validates() {
    /// A table, and the block where generation 1 lies: what is in it.
    struct Extent {
        table: Table,
        block: AtomicU64,
    }
    let start = || {
        let table = table();
        write(&table, 1);
        Extent { table, block: AtomicU64::new(1) }
    };
    let writes = |extent: &Extent| {
        write(&extent.table, 2);
        // Release stands for the kernel and the device, which order no less.
        extent.block.store(2, Ordering::Release);
    };
    let reads = |extent: &Extent| {
        let content = extent.block.load(Ordering::Relaxed);
        if extent.table.validate(CELL, 1) {
            assert_eq!(content, 1, "validated what was overwritten");
        }
    };
    explore_parts(None, start, &[writes, reads], |extent| {
        assert!(!extent.table.validate(CELL, 1) && extent.table.validate(CELL, 2));
    });
}

// ---- planted faults

/// Which rule the copy breaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    BeginIsRelaxed,
    NoFenceAfterOdd,
    EvenIsRelaxed,
    GivingUpIsRelaxed,
    FirstLookIsRelaxed,
    OddIsRead,
    NoFenceBeforeSecondLook,
    NoSecondLook,
    NoFenceInValidate,
}

/// A cell as in `GenerationTable`, with one rule broken.
struct PlantedCell {
    fault: Fault,
    state: AtomicU64,
    record: [AtomicU64; 2],
    /// What is in the block where generation 0 lies.
    block: AtomicU64,
}

impl PlantedCell {
    fn new(fault: Fault) -> PlantedCell {
        let (state, record) = (AtomicU64::new(0), [0, 0].map(AtomicU64::new));
        PlantedCell { fault, state, record, block: AtomicU64::new(0) }
    }

    fn ordering(&self, relaxed_by: Fault, otherwise: Ordering) -> Ordering {
        if self.fault == relaxed_by { Ordering::Relaxed } else { otherwise }
    }

    fn fence(&self, omitted_by: Fault, ordering: Ordering) {
        if self.fault != omitted_by {
            fence(ordering);
        }
    }

    /// The even word that was found; none when somebody else is writing.
    fn begin(&self) -> Option<u64> {
        let begin = self.ordering(Fault::BeginIsRelaxed, Ordering::Acquire);
        let even = self.state.load(Ordering::Relaxed);
        let free = even & 1 == 0;
        let begun = free && self.state.compare_exchange(even, 1, begin, Ordering::Relaxed).is_ok();
        begun.then_some(even)
    }

    fn end(&self, generation: u64) {
        self.fence(Fault::NoFenceAfterOdd, Ordering::Release);
        for (shared, word) in self.record.iter().zip(record_of(generation)) {
            shared.store(word, Ordering::Relaxed);
        }
        let even = self.ordering(Fault::EvenIsRelaxed, Ordering::Release);
        self.state.store(generation << 1, even);
    }

    fn give_up(&self, even: u64) {
        let ordering = self.ordering(Fault::GivingUpIsRelaxed, Ordering::Release);
        self.state.store(even, ordering);
    }

    /// One look; what it takes for a whole record must be one.
    fn read_whole(&self) {
        let first = self.state.load(self.ordering(Fault::FirstLookIsRelaxed, Ordering::Acquire));
        if first & 1 == 1 && self.fault != Fault::OddIsRead {
            return;
        }
        let record = [0, 1].map(|word: usize| self.record[word].load(Ordering::Relaxed));
        self.fence(Fault::NoFenceBeforeSecondLook, Ordering::Acquire);
        let same = self.state.load(Ordering::Relaxed) == first;
        if same || self.fault == Fault::NoSecondLook {
            assert_eq!(record, record_of(first >> 1), "torn");
        }
    }

    fn validate(&self, generation: u64) -> bool {
        self.fence(Fault::NoFenceInValidate, Ordering::Acquire);
        self.state.load(Ordering::Relaxed) == generation << 1
    }
}

/// A read beside one write.
fn explore_planted_write(fault: Fault) {
    let writes = |cell: &PlantedCell| {
        cell.begin().unwrap();
        cell.end(1);
    };
    let start = move || PlantedCell::new(fault);
    explore_parts(None, start, &[writes, PlantedCell::read_whole], |_| {});
}

/// A read beside a writer, and another thread that begins and gives up.
fn explore_planted_give_up(fault: Fault) {
    let writes = |cell: &PlantedCell| {
        if cell.begin().is_some() {
            cell.end(1);
        }
    };
    let gives_up = |cell: &PlantedCell| {
        if let Some(even) = cell.begin() {
            cell.give_up(even);
        }
    };
    let start = move || PlantedCell::new(fault);
    explore_parts(Some(3), start, &[writes, gives_up, PlantedCell::read_whole], |_| {});
}

/// A read of the block, beside the write that frees it and the next use of it.
fn explore_planted_validate(fault: Fault) {
    let writes = |cell: &PlantedCell| {
        cell.begin().unwrap();
        cell.end(1);
        cell.block.store(1, Ordering::Release);
    };
    let reads = |cell: &PlantedCell| {
        let content = cell.block.load(Ordering::Relaxed);
        if cell.validate(0) {
            assert_eq!(content, 0, "validated what was overwritten");
        }
    };
    explore_parts(None, move || PlantedCell::new(fault), &[writes, reads], |_| {});
}

#[test]
fn the_generation_protocol_itself_holds() {
    explore_planted_write(Fault::None);
    explore_planted_give_up(Fault::None);
    explore_planted_validate(Fault::None);
}

#[test]
#[should_panic(expected = "torn")]
fn planted_a_record_published_with_relaxed_is_caught() {
    explore_planted_write(Fault::EvenIsRelaxed);
}

#[test]
#[should_panic(expected = "torn")]
fn planted_a_write_without_a_fence_after_the_odd_word_is_caught() {
    explore_planted_write(Fault::NoFenceAfterOdd);
}

#[test]
#[should_panic(expected = "torn")]
fn planted_a_first_look_with_relaxed_is_caught() {
    explore_planted_write(Fault::FirstLookIsRelaxed);
}

#[test]
#[should_panic(expected = "torn")]
fn planted_a_reader_that_takes_an_odd_word_for_a_generation_is_caught() {
    explore_planted_write(Fault::OddIsRead);
}

#[test]
#[should_panic(expected = "torn")]
fn planted_a_second_look_without_a_fence_before_it_is_caught() {
    explore_planted_write(Fault::NoFenceBeforeSecondLook);
}

#[test]
#[should_panic(expected = "torn")]
fn planted_a_reader_without_a_second_look_is_caught() {
    explore_planted_write(Fault::NoSecondLook);
}

#[test]
#[should_panic(expected = "torn")]
fn planted_a_writer_that_gives_up_with_relaxed_is_caught() {
    explore_planted_give_up(Fault::GivingUpIsRelaxed);
}

#[test]
#[should_panic(expected = "torn")]
fn planted_a_write_begun_with_relaxed_is_caught() {
    explore_planted_give_up(Fault::BeginIsRelaxed);
}

#[test]
#[should_panic(expected = "validated what was overwritten")]
fn planted_a_validation_without_a_fence_is_caught() {
    explore_planted_validate(Fault::NoFenceInValidate);
}
