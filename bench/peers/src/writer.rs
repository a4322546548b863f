//! A writer: which key it overwrites next, with which bytes, and what it has seen acknowledged.
//!
//! Keys are dealt to the writers in turn, so no two writers overwrite the same one: the value that
//! was acknowledged last is known of every key. A value has its key and its sequence number at the
//! start of each sector and at its end; what is between them does not compress, and each writer has
//! another. So a value that is put together from two is seen, whichever two they are.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::args::Shape;
use crate::failure::Failure;

/// Alignment of memory for O_DIRECT.
const ALIGNMENT: usize = 4096;
/// A longer write counts as this long.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
const LATENCY_DIGITS: u8 = 3;
/// Memory of one histogram with these bounds.
const LATENCIES_BYTES: u64 = 256 << 10;
/// Bytes of a key and a sequence number.
const STAMP: usize = 16;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// Keys of a turn that a writer keeps for the check after it: the last ones.
const RECENT_MAX: usize = 1024;

/// When a turn's writes count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// The end of the warm-up.
    pub(crate) from: Instant,
    /// When nothing more begins.
    pub(crate) until: Instant,
}

impl Window {
    /// A window after a warm-up that begins now.
    pub(crate) fn after(warmup: Duration, runtime: Duration) -> Self {
        let from = Instant::now() + warmup;
        Self { from, until: from + runtime }
    }
}

/// Bytes at an address that O_DIRECT takes.
#[derive(Debug)]
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Zeroes.
    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, len }
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The bytes, to be changed.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Sebastiano Vigna's splitmix64: enough for keys and bytes.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}

/// Makes a value of a key, with the noise of the writer whose key it is.
pub(crate) fn make_value(value: &mut [u8], shape: Shape, key: u64, sequence: u64) {
    let mut noise = SplitMix(key % u64::from(shape.writers));
    for chunk in value.chunks_mut(8) {
        chunk.copy_from_slice(&noise.draw().to_le_bytes()[..chunk.len()]);
    }
    stamp(value, key, sequence);
}

fn stamp(value: &mut [u8], key: u64, sequence: u64) {
    let mut bytes = [0; STAMP];
    bytes[..8].copy_from_slice(&key.to_le_bytes());
    bytes[8..].copy_from_slice(&sequence.to_le_bytes());
    for sector in value.chunks_mut(SECTOR) {
        sector[..STAMP].copy_from_slice(&bytes);
    }
    let end = value.len() - STAMP;
    value[end..].copy_from_slice(&bytes);
}

/// Compares what was read of a key with what was acknowledged.
fn check_value(found: &[u8], expected: &[u8], key: u64, sequence: u64) -> Result<(), Failure> {
    if found == expected {
        return Ok(());
    }
    let stamps = found.get(..STAMP).zip(found.len().checked_sub(STAMP).map(|end| &found[end..]));
    let shown = stamps.map_or_else(String::new, |(first, last)| {
        let number = |bytes: &[u8]| {
            bytes.iter().rev().fold(0, |number: u64, byte| number << 8 | u64::from(*byte))
        };
        let pair =
            |stamp: &[u8]| format!("key {} write {}", number(&stamp[..8]), number(&stamp[8..]));
        format!(", from {} to {}", pair(first), pair(last))
    });
    let (bytes, all) = (found.len(), expected.len());
    let text = format!("{bytes} bytes{shown}, instead of {all} bytes of write {sequence}");
    Err(Failure::new(
        format!("key {key} reads back as {text}"),
        "an acknowledged write is lost: do not trust its row",
    ))
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Writer {
    number: u64,
    writers: u64,
    random: SplitMix,
    /// Of each own key, the last write that was acknowledged. What filled the store is write 0.
    sequences: Vec<u64>,
    /// Which of them were overwritten last in this turn, at most [`RECENT_MAX`].
    recent: VecDeque<usize>,
    value: Aligned,
    window: Window,
    /// The write under way: which of the own keys, since when.
    under_way: Option<(usize, Instant)>,
    /// What this turn's window has seen; none between turns.
    seen: Option<Seen>,
}

/// The writes of a window.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Writes that ended in it: so many an engine did in that time.
    pub(crate) ended: u64,
    /// Of the writes that began in it, nanoseconds. All of them are waited for, so that none is
    /// left out because it took long.
    pub(crate) latency: Histogram<u64>,
}

/// For latencies in nanoseconds, to three digits.
///
/// # Errors
/// Never with the bounds that stand here: a histogram refuses others.
pub(crate) fn latencies() -> Result<Histogram<u64>, Failure> {
    let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS);
    histogram.map_err(|error| Failure::store("a histogram", error))
}

impl Writer {
    /// All writers of a run, before their first turn.
    pub(crate) fn all(shape: Shape) -> Vec<Self> {
        let writers = u64::from(shape.writers);
        let one = |number: u64| {
            let mut value = Aligned::new(shape.block_bytes);
            make_value(value.bytes_mut(), shape, number, 0);
            let now = Instant::now();
            Self {
                number,
                writers,
                random: SplitMix(number << 32),
                sequences: vec![0; (shape.keys() - number).div_ceil(writers) as usize],
                recent: VecDeque::with_capacity(RECENT_MAX),
                value,
                window: Window { from: now, until: now },
                under_way: None,
                seen: None,
            }
        };
        (0..writers).map(one).collect()
    }

    /// Memory of all writers of a contestant between its turns, by estimate.
    pub(crate) fn memory_bytes(shape: Shape) -> u64 {
        let each = shape.block_bytes + ALIGNMENT + RECENT_MAX * size_of::<usize>();
        shape.keys() * size_of::<u64>() as u64 + u64::from(shape.writers) * each as u64
    }

    /// What comes to that in a turn.
    pub(crate) fn turn_bytes(shape: Shape) -> u64 {
        u64::from(shape.writers) * LATENCIES_BYTES
    }

    /// Before a turn.
    ///
    /// # Errors
    /// Those of [`latencies`].
    pub(crate) fn enter(&mut self, window: Window) -> Result<(), Failure> {
        self.window = window;
        self.recent.clear();
        self.seen = Some(Seen { ended: 0, latency: latencies()? });
        Ok(())
    }

    /// After a turn: what its window has seen.
    pub(crate) fn leave(&mut self) -> Option<Seen> {
        self.seen.take()
    }

    /// The key to overwrite next, with [`Self::value`]; none when the window is over.
    pub(crate) fn begin(&mut self) -> Option<u64> {
        let now = Instant::now();
        if now >= self.window.until {
            return None;
        }
        let slot = self.random.below(self.sequences.len() as u64) as usize;
        let key = self.key(slot);
        stamp(self.value.bytes_mut(), key, self.sequences[slot] + 1);
        self.under_way = Some((slot, now));
        Some(key)
    }

    /// What to write.
    pub(crate) fn value(&self) -> &[u8] {
        self.value.bytes()
    }

    /// The write that began last is durable.
    pub(crate) fn acknowledge(&mut self) {
        let Some((slot, since)) = self.under_way.take() else {
            unreachable!("a store acknowledges a write that has begun, once")
        };
        self.sequences[slot] += 1;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(slot);
        let now = Instant::now();
        let window = self.window.from..self.window.until;
        let Some(seen) = &mut self.seen else { return };
        seen.ended += u64::from(window.contains(&now));
        if window.contains(&since) {
            let took = now.duration_since(since).as_nanos();
            seen.latency.saturating_record(u64::try_from(took).unwrap_or(u64::MAX).max(1));
        }
    }

    /// Holds `count` of its keys against what `read` finds of them: first those that were
    /// overwritten last in this turn, up to half of all, then any at random.
    ///
    /// # Errors
    /// What `read` says, and a value that is not the one that was acknowledged last.
    pub(crate) fn check(
        &mut self,
        count: usize,
        read: &dyn Fn(u64) -> Result<Vec<u8>, Failure>,
    ) -> Result<(), Failure> {
        let recent: Vec<usize> =
            self.recent.iter().rev().take(count.div_ceil(2)).copied().collect();
        let others = count - recent.len();
        for slot in recent {
            self.check_slot(slot, read)?;
        }
        for _ in 0..others {
            let slot = self.random.below(self.sequences.len() as u64) as usize;
            self.check_slot(slot, read)?;
        }
        Ok(())
    }

    fn check_slot(
        &mut self,
        slot: usize,
        read: &dyn Fn(u64) -> Result<Vec<u8>, Failure>,
    ) -> Result<(), Failure> {
        let (key, sequence) = (self.key(slot), self.sequences[slot]);
        stamp(self.value.bytes_mut(), key, sequence);
        check_value(&read(key)?, self.value.bytes(), key, sequence)
    }

    fn key(&self, slot: usize) -> u64 {
        slot as u64 * self.writers + self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const SHAPE: Shape = Shape { writers: 3, block_bytes: 4096, set_bytes: 10 * 4096 };

    #[test]
    fn every_key_has_one_writer() {
        let writers = Writer::all(SHAPE);
        let mut keys: Vec<u64> = writers
            .iter()
            .flat_map(|writer| (0..writer.sequences.len()).map(|slot| writer.key(slot)))
            .collect();
        keys.sort_unstable();
        assert_eq!(keys, (0..10).collect::<Vec<u64>>());
    }

    #[test]
    fn what_was_acknowledged_is_asked_back() {
        let mut store: Vec<Vec<u8>> = (0..10)
            .map(|key| {
                let mut value = vec![0; 4096];
                make_value(&mut value, SHAPE, key, 0);
                value
            })
            .collect();
        let mut writer = Writer::all(SHAPE).remove(1);
        writer.enter(Window::after(Duration::ZERO, Duration::from_secs(100))).unwrap();
        for _ in 0..50 {
            let key = writer.begin().unwrap();
            store[key as usize] = writer.value().to_vec();
            writer.acknowledge();
        }
        let seen = writer.leave().unwrap();
        assert_eq!((seen.ended, seen.latency.len()), (50, 50));
        let store = RefCell::new(store);
        let read = |key: u64| Ok(store.borrow()[key as usize].clone());
        writer.check(100, &read).unwrap();
        for key in [1, 4, 7] {
            store.borrow_mut()[key][4000] ^= 1;
        }
        let line = writer.check(1, &read).unwrap_err().line();
        assert!(line.contains("reads back as 4096 bytes, from key"), "{line}");
        let nothing = |_| Ok(Vec::new());
        let line = writer.check(1, &nothing).unwrap_err().line();
        assert!(line.contains("reads back as 0 bytes, instead of 4096"), "{line}");
    }

    #[test]
    fn the_keys_of_the_turn_are_checked_first() {
        let shape = Shape { writers: 1, set_bytes: 1000 * 4096, ..SHAPE };
        let mut writer = Writer::all(shape).remove(0);
        writer.enter(Window::after(Duration::ZERO, Duration::from_secs(100))).unwrap();
        let written: Vec<u64> = (0..5)
            .map(|_| {
                let key = writer.begin().unwrap();
                writer.acknowledge();
                key
            })
            .collect();
        let read = RefCell::new(Vec::new());
        let nothing = |key| {
            read.borrow_mut().push(key);
            Ok(Vec::new())
        };
        assert!(writer.check(8, &nothing).is_err());
        assert_eq!(*read.borrow(), [written[4]]);
        writer.enter(writer.window).unwrap();
        assert!(writer.recent.is_empty());
    }

    #[test]
    fn a_value_put_together_from_two_is_seen() {
        let value = |key, sequence| {
            let mut value = vec![0; 4096];
            make_value(&mut value, SHAPE, key, sequence);
            value
        };
        let whole = value(1, 2);
        check_value(&whole, &whole, 1, 2).unwrap();
        // Another writer's key, another key of the same writer, an older write of the same key.
        for other in [value(2, 2), value(4, 2), value(1, 1)] {
            for sector in 0..SHAPE.block_bytes / SECTOR {
                let mut mixed = whole.clone();
                let bytes = sector * SECTOR..(sector + 1) * SECTOR;
                mixed[bytes.clone()].copy_from_slice(&other[bytes]);
                assert!(check_value(&mixed, &whole, 1, 2).is_err(), "sector {sector}");
            }
        }
    }

    #[test]
    fn nothing_begins_after_the_window_or_counts_before_it() {
        let mut writer = Writer::all(SHAPE).remove(0);
        assert_eq!(writer.begin(), None);
        writer.enter(Window::after(Duration::from_secs(100), Duration::from_secs(1))).unwrap();
        assert!(writer.begin().is_some());
        writer.acknowledge();
        let seen = writer.leave().unwrap();
        assert_eq!((seen.ended, seen.latency.len()), (0, 0));
    }

    #[test]
    fn a_write_across_a_border_counts_where_it_ends_and_lasts_where_it_began() {
        let second = Duration::from_secs(1);
        for (from_the_start, counted) in [(true, (1, 0)), (false, (0, 1))] {
            let mut writer = Writer::all(SHAPE).remove(0);
            writer.enter(Window::after(Duration::ZERO, 100 * second)).unwrap();
            writer.begin().unwrap();
            let now = Instant::now();
            writer.window = match from_the_start {
                true => Window { from: now, until: now + 100 * second },
                false => Window { from: now - second, until: now },
            };
            writer.acknowledge();
            let seen = writer.leave().unwrap();
            assert_eq!((seen.ended, seen.latency.len()), counted);
        }
    }

    #[test]
    fn memory_is_aligned() {
        let mut memory = Aligned::new(8192);
        memory.bytes_mut()[8191] = 1;
        assert_eq!(memory.bytes().as_ptr().align_offset(ALIGNMENT), 0);
        assert_eq!(memory.bytes().len(), 8192);
    }
}
