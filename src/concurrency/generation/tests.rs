//! Cells alone, against a naive model, under real threads, and with writers that die.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

use super::*;

type Record = [u64; 3];

const CELL: CellIndex = CellIndex(1);

fn table(cells: u32) -> GenerationTable<Record> {
    GenerationTable::new(cells, PagePolicy::Normal).unwrap()
}

fn write(table: &GenerationTable<Record>, generation: u64, record: &Record) {
    table.begin_write(CELL).unwrap().end_write(generation, record).unwrap();
}

// ---- alone

#[test]
fn a_new_table_is_of_generation_zero_and_all_zeroes() {
    let table = table(3);
    assert_eq!(table.len(), 3);
    assert!(!table.is_empty());
    for cell in (0..3).map(CellIndex) {
        assert_eq!(table.read(cell), Ok((0, [0; 3])));
        assert_eq!(table.generation(cell), Some(0));
    }
    assert!(table.status().bytes >= 3 * 4 * 8);
    assert!(GenerationTable::<Record>::new(0, PagePolicy::Normal).unwrap().is_empty());
}

#[test]
fn what_is_written_is_read_and_the_neighbours_stay() {
    let table = table(3);
    write(&table, 5, &[1, 2, 3]);
    assert_eq!(table.read(CELL), Ok((5, [1, 2, 3])));
    assert_eq!(table.generation(CELL), Some(5));
    for neighbour in [CellIndex(0), CellIndex(2)] {
        assert_eq!(table.read(neighbour), Ok((0, [0; 3])));
    }
}

#[test]
fn only_the_same_generation_validates() {
    let table = table(2);
    write(&table, 5, &[1, 2, 3]);
    assert!(table.validate(CELL, 5));
    for other in [0, 4, 6, 5 | 1 << 63, u64::MAX] {
        assert!(!table.validate(CELL, other), "{other}");
    }
    let writer = table.begin_write(CELL).unwrap();
    assert!(!table.validate(CELL, 5), "it is being written");
    // Nor is the odd word itself a generation.
    assert!(!table.validate(CELL, u64::from(thread_id())));
    assert!(!table.validate(CELL, u64::from(thread_id()) | 1 << 63));
    assert_eq!(table.generation(CELL), None);
    drop(writer);
    assert!(table.validate(CELL, 5));
    write(&table, 6, &[1, 2, 3]);
    assert!(!table.validate(CELL, 5), "the same record, but of another generation");
}

#[test]
fn a_generation_that_does_not_rise_is_refused_and_changes_nothing() {
    let table = table(2);
    write(&table, 5, &[1, 2, 3]);
    for given in [0, 4, 5, 1 << 63, u64::MAX] {
        let refused = table.begin_write(CELL).unwrap().end_write(given, &[9; 3]).unwrap_err();
        assert_eq!(refused, GenerationNotRising { current: 5, given });
        assert_eq!(table.read(CELL), Ok((5, [1, 2, 3])));
    }
    write(&table, GENERATION_MAX, &[7; 3]);
    assert_eq!(table.read(CELL), Ok((GENERATION_MAX, [7; 3])));
    let last = table.begin_write(CELL).unwrap().end_write(GENERATION_MAX, &[9; 3]);
    assert!(last.is_err(), "there is none after it");
}

#[test]
fn a_writer_that_is_dropped_changed_nothing() {
    let table = table(2);
    write(&table, 5, &[1, 2, 3]);
    drop(table.begin_write(CELL).unwrap());
    assert_eq!(table.read(CELL), Ok((5, [1, 2, 3])));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _writer = table.begin_write(CELL).unwrap();
        panic!("planted");
    }));
    assert!(panicked.is_err());
    assert_eq!(table.read(CELL), Ok((5, [1, 2, 3])));
    write(&table, 6, &[4; 3]);
    assert_eq!(table.read(CELL), Ok((6, [4; 3])));
}

/// Does not compile when a writer can be sent: then both implementations fit.
#[test]
fn a_writer_stays_on_its_thread() {
    trait Fits<Which> {
        fn fits() {}
    }
    impl<T> Fits<()> for T {}
    impl<T: Send> Fits<u8> for T {}
    <CellWriter<'static, Record> as Fits<_>>::fits();
}

#[test]
fn a_second_writer_is_told_who_writes() {
    let table = table(2);
    let writer = table.begin_write(CELL).unwrap();
    let thread = thread_id();
    assert_eq!(table.begin_write(CELL).unwrap_err(), WriteError::BeingWritten { thread });
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let began = table.begin_write(CELL).map(drop);
            (began, table.replace_dead(CELL, 1, &[9; 3]), table.read(CELL))
        });
        let (began, replaced, read) = other.join().unwrap();
        assert_eq!(began, Err(WriteError::BeingWritten { thread }));
        assert_eq!(replaced, Err(ReplaceError::WriterLives { thread }));
        assert_eq!(read, Err(ReadError::BeingWritten));
    });
    writer.end_write(1, &[1; 3]).unwrap();
    assert_eq!(table.read(CELL), Ok((1, [1; 3])));
}

#[test]
fn a_reader_is_served_when_the_writer_ends_in_time() {
    let table = table(2);
    for generation in 1..200 {
        let writer = table.begin_write(CELL).unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                loop {
                    match table.read(CELL) {
                        Ok(read) => return read,
                        Err(error) => assert_eq!(error, ReadError::BeingWritten),
                    }
                }
            });
            writer.end_write(generation, &[generation; 3]).unwrap();
            assert_eq!(reader.join().unwrap(), (generation, [generation; 3]));
        });
    }
}

#[test]
fn a_cell_that_is_not_there_is_a_panic_with_a_message() {
    let table = table(2);
    let calls: [&dyn Fn(CellIndex); 5] = [
        &|cell| assert!(table.read(cell).is_err()),
        &|cell| drop(table.begin_write(cell)),
        &|cell| assert!(table.replace_dead(cell, 1, &[0; 3]).is_err()),
        &|cell| assert!(!table.validate(cell, 0)),
        &|cell| assert_eq!(table.generation(cell), None),
    ];
    for call in calls {
        for index in [2, 3, u32::MAX] {
            let panicked = catch_unwind(AssertUnwindSafe(|| call(CellIndex(index)))).unwrap_err();
            let text = panicked.downcast_ref::<String>().unwrap();
            let expected = format!("there is no cell {index} in a generation table of 2 cells");
            assert_eq!(*text, expected);
        }
    }
}

#[test]
fn a_table_that_cannot_be_is_an_error() {
    let huge = GenerationTable::<[u64; 4096]>::new(u32::MAX, PagePolicy::Normal);
    assert!(huge.is_err());
}

// ---- writers that die

/// A thread begins a write of the cell, leaves the writer behind, and ends. Its id.
fn die_writing(table: &GenerationTable<Record>) -> u32 {
    let thread = std::thread::scope(|scope| {
        let dying = scope.spawn(|| {
            std::mem::forget(table.begin_write(CELL).unwrap());
            thread_id()
        });
        dying.join().unwrap()
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while thread_lives(thread) {
        assert!(Instant::now() < deadline, "the kernel keeps a thread that was joined");
        std::thread::sleep(Duration::from_millis(1));
    }
    thread
}

#[test]
fn a_writer_that_died_is_named_and_its_cell_can_be_replaced() {
    let table = table(3);
    write(&table, 5, &[1, 2, 3]);
    let thread = die_writing(&table);
    assert_eq!(table.read(CELL), Err(ReadError::WriterDied { thread }));
    assert_eq!(table.begin_write(CELL).unwrap_err(), WriteError::WriterDied { thread });
    assert_eq!(table.generation(CELL), None);
    assert!(!table.validate(CELL, 5));
    assert_eq!(table.read(CellIndex(0)), Ok((0, [0; 3])));

    let too_large = table.replace_dead(CELL, 1 << 63, &[9; 3]).unwrap_err();
    assert_eq!(too_large, ReplaceError::GenerationTooLarge { given: 1 << 63 });
    assert_eq!(table.read(CELL), Err(ReadError::WriterDied { thread }));
    table.replace_dead(CELL, 6, &[4, 5, 6]).unwrap();
    assert_eq!(table.read(CELL), Ok((6, [4, 5, 6])));
    let again = table.replace_dead(CELL, 7, &[9; 3]).unwrap_err();
    assert_eq!(again, ReplaceError::NotBeingWritten);
    write(&table, 7, &[7; 3]);
    assert_eq!(table.read(CELL), Ok((7, [7; 3])));
}

#[test]
fn of_many_who_find_a_dead_writer_one_replaces_it() {
    let table = table(2);
    for round in 0..20 {
        die_writing(&table);
        let replaced: usize = std::thread::scope(|scope| {
            let threads = [0, 1, 2].map(|n| {
                let table = &table;
                scope.spawn(move || table.replace_dead(CELL, 10 * round + n + 1, &[n; 3]).is_ok())
            });
            threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
        });
        assert_eq!(replaced, 1);
        let (generation, [word, ..]) = table.read(CELL).unwrap();
        assert_eq!(generation, 10 * round + word + 1, "both are the winner's");
    }
}

// ---- against a naive model

#[derive(Clone, Debug)]
enum Event {
    Begin,
    End { rises_by: i64, word: u64 },
    Drop,
    Read,
    Validate { differs_by: i64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Begin),
        3 => (-1i64..4, any::<u64>()).prop_map(|(rises_by, word)| Event::End { rises_by, word }),
        1 => Just(Event::Drop),
        3 => Just(Event::Read),
        2 => (-1i64..2).prop_map(|differs_by| Event::Validate { differs_by }),
    ]
}

/// What a cell is, said in the plainest way.
#[derive(Clone, Copy, Default)]
struct Naive {
    generation: u64,
    record: Record,
}

proptest! {
    #[test]
    fn random_events_do_what_the_naive_model_does(
        events in proptest::collection::vec((0usize..3, event()), 1..200),
    ) {
        let table = table(3);
        let mut model = [Naive::default(); 3];
        let mut writers: [Option<CellWriter<'_, Record>>; 3] = [None, None, None];
        for (at, event) in events {
            let (cell, naive, writer) = (CellIndex(at as u32), &mut model[at], &mut writers[at]);
            let whole = writer.is_none();
            match event {
                Event::Begin => match table.begin_write(cell) {
                    Ok(begun) => {
                        prop_assert_eq!(whole, true);
                        *writer = Some(begun);
                    }
                    Err(error) => {
                        prop_assert_eq!(whole, false);
                        prop_assert_eq!(error, WriteError::BeingWritten { thread: thread_id() });
                    }
                },
                Event::End { rises_by, word } => {
                    let Some(writer) = writer.take() else { continue };
                    let given = naive.generation.wrapping_add_signed(rises_by);
                    let record = [word, !word, given];
                    let expected = if rises_by > 0 {
                        *naive = Naive { generation: given, record };
                        Ok(())
                    } else {
                        Err(GenerationNotRising { current: naive.generation, given })
                    };
                    prop_assert_eq!(writer.end_write(given, &record), expected);
                }
                Event::Drop => *writer = None,
                Event::Read => {
                    let expected = (naive.generation, naive.record);
                    let expected = whole.then_some(expected).ok_or(ReadError::BeingWritten);
                    prop_assert_eq!(table.read(cell), expected);
                    prop_assert_eq!(table.generation(cell), whole.then_some(naive.generation));
                }
                Event::Validate { differs_by } => {
                    let asked = naive.generation.wrapping_add_signed(differs_by);
                    prop_assert_eq!(table.validate(cell, asked), whole && differs_by == 0);
                }
            }
        }
    }
}

// ---- under real threads

/// A record of which every word follows from the generation and the cell.
fn checksummed(cell: CellIndex, generation: u64) -> [u64; 7] {
    let mut word = generation ^ u64::from(cell.0) << 48;
    [(); 7].map(|()| {
        word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31) ^ generation;
        word
    })
}

#[test]
fn readers_beside_a_writer_see_whole_records_whose_generations_rise() {
    const CELLS: u32 = 3;
    let table: GenerationTable<[u64; 7]> = GenerationTable::new(CELLS, PagePolicy::Huge).unwrap();
    for cell in (0..CELLS).map(CellIndex) {
        table.begin_write(cell).unwrap().end_write(1, &checksummed(cell, 1)).unwrap();
    }
    let stop = AtomicBool::new(false);
    let read_until_stopped = || {
        let mut newest = [0; CELLS as usize];
        let (mut whole, mut changed) = (0u64, 0u64);
        while !stop.load(Ordering::Relaxed) {
            for cell in (0..CELLS).map(CellIndex) {
                let Ok((generation, record)) = table.read(cell) else { continue };
                assert_eq!(record, checksummed(cell, generation), "torn at {generation}");
                let newest = &mut newest[cell.0 as usize];
                assert!(generation >= *newest, "{generation} after {newest}");
                changed += u64::from(generation > *newest);
                *newest = generation;
                whole += 1;
            }
        }
        (whole, changed)
    };
    std::thread::scope(|scope| {
        let readers = [(); 3].map(|()| scope.spawn(read_until_stopped));
        let end = Instant::now() + Duration::from_secs(1);
        let mut generation = 1;
        while Instant::now() < end {
            generation += 1;
            for cell in (0..CELLS).map(CellIndex) {
                let writer = table.begin_write(cell).unwrap();
                if generation % 7 == 0 {
                    drop(writer);
                } else {
                    writer.end_write(generation, &checksummed(cell, generation)).unwrap();
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            let (whole, changed) = reader.join().unwrap();
            assert!(whole > 1000 && changed > 10, "{whole} reads saw {changed} changes");
        }
    });
}
