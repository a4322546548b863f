//! dynamicfs's generations as a contender.

use std::hint::spin_loop;

use bytemuck::{Pod, Zeroable};
use dynamicfs::concurrency::generation::{CellIndex, GenerationTable, ReadError};
use dynamicfs::machine::mapping::PagePolicy;
use dynamicfs_bench::micro::Side;

use crate::contender::{Contender, Records};
use crate::record::Record;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Words([u64; 7]);

/// A table of generations: with its generation a record is one cache line.
struct Ours(GenerationTable<Words>);

impl Records for Ours {
    const NAME: &'static str = "dynamicfs";
    const SIDE: Side = Side::Ours;

    fn with_records(count: usize) -> Self {
        let count = u32::try_from(count).expect("few records");
        let table = GenerationTable::new(count, PagePolicy::Huge).expect("memory for the table");
        let ours = Ours(table);
        (0..count).for_each(|index| ours.write(index as usize, Record::new(index, 0)));
        ours
    }

    /// What the store does for each read: a copy, its I/O, and the check that the copy still holds.
    #[inline(always)]
    fn read(&self, index: usize) -> Record {
        let cell = CellIndex(index as u32);
        loop {
            match self.0.read(cell) {
                Ok((generation, Words(words))) if self.0.validate(cell, generation) => {
                    return Record { words };
                }
                Ok(_) | Err(ReadError::BeingWritten) => spin_loop(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn write(&self, index: usize, record: Record) {
        let cell = CellIndex(index as u32);
        let before = self.0.generation(cell).expect("one writer at a time");
        let writer = self.0.begin_write(cell).expect("one writer at a time");
        let generation = before + 1;
        writer.end_write(generation, &Words(record.words)).expect("the generation rises");
    }
}

/// Our contenders, each with `count` records.
pub(crate) fn all(count: usize) -> Vec<Box<dyn Contender>> {
    vec![Box::new(Ours::with_records(count))]
}
