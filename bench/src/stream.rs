//! Where a job's requests go: offsets prepared before the clock starts.
//!
//! A table of up to 2^20 block numbers is walked again and again. Where the span has more blocks
//! than the table, each lap is shifted, so that the laps together touch all of it.

use crate::args::Pattern;
use crate::plan::JobPlan;

/// Most prepared offsets.
const TABLE_MAX: u64 = 1 << 20;

/// Direction of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
}

/// The requests of one clone of a job, in order.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Block numbers within the span; bit 31 set means write.
    table: Vec<u32>,
    cursor: usize,
    shift: u64,
    stride: u64,
    blocks: u64,
    first_byte: u64,
    block_bytes: u64,
}

const WRITE_BIT: u32 = 1 << 31;

impl Stream {
    /// Requests over `blocks` blocks from `first_byte` on. `clone` starts each clone of a job
    /// elsewhere.
    #[must_use]
    pub fn new(job: &JobPlan, first_byte: u64, blocks: u64, clone: u32) -> Self {
        let entries = blocks.clamp(1, TABLE_MAX) as usize;
        let mut random = SplitMix(job.seed.wrapping_add(u64::from(clone) << 32));
        let random_order =
            matches!(job.pattern, Pattern::RandRead | Pattern::RandWrite | Pattern::RandRw);
        let base = if random_order { 0 } else { blocks / u64::from(job.clones) * u64::from(clone) };
        let mut order: Vec<u32> = (0..entries as u32).collect();
        if random_order {
            // Fisher and Yates: every block of the table once a lap, as fio's random map does.
            for last in (1..entries).rev() {
                order.swap(last, (random.draw() % (last as u64 + 1)) as usize);
            }
        }
        let table = order.into_iter().map(|block| {
            let write = random.draw() % 100 >= u64::from(job.read_percent);
            block | if write { WRITE_BIT } else { 0 }
        });
        Self {
            table: table.collect(),
            cursor: 0,
            shift: base,
            // Sequential laps continue where the last one ended; random ones jump by the golden
            // section, which spreads them evenly.
            stride: if random_order {
                (blocks as f64 * 0.618_033_988_749_895) as u64
            } else {
                entries as u64
            },
            blocks: blocks.max(1),
            first_byte,
            block_bytes: u64::from(job.block_bytes),
        }
    }

    /// The next request: byte offset and direction.
    #[inline]
    pub fn next_request(&mut self) -> (u64, Direction) {
        if self.cursor == self.table.len() {
            self.cursor = 0;
            self.shift = (self.shift + self.stride) % self.blocks;
        }
        let entry = self.table[self.cursor];
        self.cursor += 1;
        let mut block = u64::from(entry & !WRITE_BIT) + self.shift;
        if block >= self.blocks {
            block -= self.blocks;
        }
        let direction = if entry & WRITE_BIT == 0 { Direction::Read } else { Direction::Write };
        (self.first_byte + block * self.block_bytes, direction)
    }
}

/// Sebastiano Vigna's splitmix64: enough for offsets and data, and no dependency.
#[derive(Debug, Clone)]
pub struct SplitMix(pub u64);

impl SplitMix {
    /// The next number.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Fills a buffer.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.draw().to_le_bytes()[..chunk.len()]);
        }
    }
}
