//! Random requests from many threads against a naive model: every block carries a stamp.
//!
//! `DYNAMICFS_STRESS_SECONDS` (20) and `DYNAMICFS_STRESS_SEED` change the run; a failure names
//! its seed. Threads share disks, reactors, arenas and the call table, and own regions of the
//! disks, so that each knows what its blocks must hold.

use std::time::{Duration, Instant};

use dynamicfs::{
    BufferList, Buffers, Completion, DiskId, IoConfig, IoScheduler, OpKind, Priority, Request,
    SubmitError, Ticket,
};

use crate::rig::{
    HANG, LoopDevice, Numbers, Scratch, alongside, assert_buffers_are_back, block_on, config, disk,
    open, settle,
};

const BLOCK: usize = 4096;
const THREADS: usize = 8;
/// Blocks of one thread's region on each disk; the last ones are written and never looked at.
const REGION_BLOCKS: u64 = 512;
const UNWATCHED_BLOCKS: u64 = 64;
/// Largest request in blocks: above what is split.
const REQUEST_BLOCKS_MAX: u64 = 64;
const IN_FLIGHT_MAX: usize = 6;

/// What a block must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Zeroes,
    Version(u64),
    /// Discarded: anything.
    Unknown,
}

/// Consecutive blocks of a thread's region.
#[derive(Clone, Copy)]
struct Run {
    disk: usize,
    first: u64,
    blocks: u64,
}

/// A request under way and what it will have done.
struct Flight {
    ticket: Ticket,
    kind: OpKind,
    run: Run,
    version: u64,
}

struct Worker<'a> {
    engine: &'a IoScheduler,
    numbers: Numbers,
    number: usize,
    /// By disk, by block of the region.
    contents: Vec<Vec<Content>>,
    flights: Vec<Flight>,
    version: u64,
    completed: u64,
}

impl Worker<'_> {
    fn offset(&self, block: u64) -> u64 {
        (self.number as u64 * REGION_BLOCKS + block) * BLOCK as u64
    }

    /// Sixteen bytes at both ends of the block: version and place.
    fn stamp(&self, disk: usize, block: u64, version: u64, bytes: &mut [u8]) {
        let place = ((disk as u64) << 56) | ((self.number as u64) << 48) | block;
        for at in [0, BLOCK - 16] {
            bytes[at..at + 8].copy_from_slice(&version.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&place.to_le_bytes());
        }
    }

    fn check(&self, run: Run, index: u64, bytes: &[u8]) {
        let block = run.first + index;
        let content = self.contents[run.disk][block as usize];
        let mut expected = [0; BLOCK];
        match content {
            Content::Unknown => return,
            Content::Zeroes => {}
            Content::Version(version) => self.stamp(run.disk, block, version, &mut expected),
        }
        let (head, tail) = (&bytes[..16], &bytes[BLOCK - 16..]);
        assert!(
            expected[..16] == *head && expected[BLOCK - 16..] == *tail,
            "disk {} thread {} block {block}, {index} in a read of {}: expected {content:?}, \
             found {head:?} ... {tail:?}",
            run.disk,
            self.number,
            run.blocks,
        );
    }

    /// A run of blocks that no request under way touches.
    fn choose_run(&mut self, disk: usize) -> Option<Run> {
        let watched = REGION_BLOCKS - UNWATCHED_BLOCKS;
        let long = self.numbers.below(4) == 0;
        let blocks = 1 + self.numbers.below(if long { REQUEST_BLOCKS_MAX } else { 4 });
        let first = self.numbers.below(watched - blocks + 1);
        let apart = |flight: &Flight| {
            let other = flight.run;
            other.disk != disk
                || first + blocks <= other.first
                || other.first + other.blocks <= first
        };
        self.flights.iter().all(apart).then_some(Run { disk, first, blocks })
    }

    /// Memory for a run, in one piece or in several.
    fn buffers(&mut self, blocks: u64) -> Option<Buffers> {
        if self.numbers.below(3) > 0 {
            return self.engine.buffer(blocks as usize * BLOCK).ok().map(Buffers::One);
        }
        let (mut parts, mut left) = (Vec::new(), blocks);
        while left > 0 {
            let part = 1 + self.numbers.below(left.min(24));
            parts.push(self.engine.buffer(part as usize * BLOCK).ok()?);
            left -= part;
        }
        Some(Buffers::Many(Box::new(BufferList::new(parts))))
    }

    fn submit(&mut self) {
        let disk = self.numbers.below(2) as usize;
        let Some(run) = self.choose_run(disk) else { return };
        let kind = match self.numbers.below(20) {
            0 => OpKind::Flush,
            1 => OpKind::Discard,
            2 | 3 => OpKind::WriteZeroes,
            4..=9 => OpKind::Write,
            10 => OpKind::WriteDsync,
            11 => OpKind::WriteFlush,
            _ => OpKind::Read,
        };
        let Some(request) = self.request(kind, run) else { return };
        let ticket = match self.numbers.below(3) {
            0 => self.engine.submit_wait(request, None),
            1 => block_on(self.engine.submit_async(request)),
            _ => self.engine.submit(request),
        };
        match ticket {
            Ok(ticket) => {
                self.flights.push(Flight { ticket, kind, run, version: self.version });
            }
            Err(error) => assert!(matches!(error, SubmitError::QueueFull(_)), "{error}"),
        }
    }

    /// A request of a kind for a run, with its stamps; none when memory is short.
    fn request(&mut self, kind: OpKind, run: Run) -> Option<Request> {
        self.version += 1;
        let (offset, len) = (self.offset(run.first), run.blocks * BLOCK as u64);
        let disk = DiskId(run.disk as u16);
        let request = match kind {
            OpKind::Flush => Request::flush(disk),
            OpKind::Discard => Request::discard(disk, offset, len),
            OpKind::WriteZeroes => Request::write_zeroes(disk, offset, len),
            kind => {
                let mut buffers = self.buffers(run.blocks)?;
                each_block(&mut buffers, |index, bytes| {
                    bytes.fill(0x5a);
                    self.stamp(run.disk, run.first + index, self.version, bytes);
                });
                if kind == OpKind::Read {
                    each_block(&mut buffers, |_, bytes| bytes.fill(0xee));
                }
                Request { disk, priority: Priority::Write, kind, offset, len, buffers }
            }
        };
        Some(request.with_priority(Priority::ALL[self.numbers.below(5) as usize]))
    }

    fn finish(&mut self, index: usize) {
        let Flight { ticket, kind, run, version } = self.flights.swap_remove(index);
        let completion: Completion = match self.numbers.below(3) {
            0 => settle(ticket),
            1 => ticket.wait().unwrap(),
            _ => block_on(ticket),
        };
        let bytes = completion.result.unwrap_or_else(|error| panic!("{error}"));
        let moved = if kind == OpKind::Flush { 0 } else { run.blocks * BLOCK as u64 };
        assert_eq!(bytes, moved);
        self.completed += 1;
        let content = match kind {
            OpKind::Flush => return,
            OpKind::Read => {
                let mut buffers = completion.buffers;
                each_block(&mut buffers, |index, bytes| self.check(run, index, bytes));
                return;
            }
            OpKind::Write | OpKind::WriteDsync | OpKind::WriteFlush => Content::Version(version),
            OpKind::WriteZeroes => Content::Zeroes,
            OpKind::Discard => Content::Unknown,
        };
        let blocks = run.first as usize..(run.first + run.blocks) as usize;
        self.contents[run.disk][blocks].fill(content);
    }

    /// Writes what nobody looks at, and drops the ticket.
    fn submit_and_forget(&mut self) {
        let block = REGION_BLOCKS - 1 - self.numbers.below(UNWATCHED_BLOCKS);
        let Ok(buffer) = self.engine.buffer(BLOCK) else { return };
        let disk = DiskId(self.numbers.below(2) as u16);
        let _ = self.engine.submit(Request::write(disk, self.offset(block), buffer));
    }

    fn run(&mut self, until: Instant) {
        while Instant::now() < until {
            if self.flights.len() < IN_FLIGHT_MAX {
                self.submit();
            }
            if self.numbers.below(8) == 0 {
                self.submit_and_forget();
            }
            if self.flights.len() >= IN_FLIGHT_MAX || self.numbers.below(3) == 0 {
                let count = self.flights.len() as u64;
                if count > 0 {
                    let index = self.numbers.below(count) as usize;
                    self.finish(index);
                }
            }
        }
        while !self.flights.is_empty() {
            self.finish(0);
        }
    }
}

/// Hands each block of a request's memory to `f`, with its position.
fn each_block(buffers: &mut Buffers, mut f: impl FnMut(u64, &mut [u8])) {
    let mut index = 0;
    let mut each = |buffer: &mut [u8]| {
        for block in buffer.chunks_exact_mut(BLOCK) {
            f(index, block);
            index += 1;
        }
    };
    match buffers {
        Buffers::None => panic!("a request lost its memory"),
        Buffers::One(buffer) => each(buffer),
        Buffers::Many(list) => list.buffers_mut().iter_mut().for_each(|buffer| each(buffer)),
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

fn stress(config: &IoConfig, duration: Duration) {
    let seed = from_environment("DYNAMICFS_STRESS_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_nanos() as u64
    });
    eprintln!("DYNAMICFS_STRESS_SEED={seed}");
    let engine = open(config);
    let until = Instant::now() + duration;
    let completed: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|number| {
                let contents = vec![vec![Content::Zeroes; REGION_BLOCKS as usize]; 2];
                let mut worker = Worker {
                    engine: &engine,
                    numbers: Numbers(seed ^ ((number as u64) << 32)),
                    number,
                    contents,
                    flights: Vec::new(),
                    version: 0,
                    completed: 0,
                };
                scope.spawn(move || {
                    worker.run(until);
                    worker.completed
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    eprintln!("{completed} requests were checked");
    assert!(completed > 1000, "only {completed} requests were made");
    assert_buffers_are_back(&engine);
    engine.close(HANG).unwrap();
}

#[test]
fn random_requests_of_many_threads_keep_every_block() {
    let _process = alongside();
    let scratch = Scratch::new();
    let bytes = THREADS as u64 * REGION_BLOCKS * BLOCK as u64;
    let first = scratch.file("first", bytes);
    let second = scratch.file("second", bytes);
    let device = LoopDevice::over(&second);
    let second = device.as_ref().map_or(second.as_path(), LoopDevice::path);
    let mut config = config(vec![disk(&first), disk(second)]);
    config.reactors.count = Some(2);
    // Narrow, so that queues fill, classes are shed and calls run out; but not so narrow that all
    // workers could wait for calls whose replies only they can take.
    config.scheduler.queue_max = Some(24);
    config.scheduler.depth = Some(8);
    config.calls_max = Some(1 + (THREADS * (IN_FLIGHT_MAX - 1)) as u32);
    let seconds = from_environment("DYNAMICFS_STRESS_SECONDS").unwrap_or(20);
    stress(&config, Duration::from_secs(seconds).div_f64(2.0));
    // Again with two lanes for each disk, which take over each other's requests.
    for file in [&first, &scratch.file("second", bytes)] {
        std::fs::File::create(file).unwrap().set_len(bytes).unwrap();
    }
    if let Some(device) = &device {
        assert!(device.take_size_of_file());
    }
    config.disks.iter_mut().for_each(|disk| disk.lanes = Some(2));
    stress(&config, Duration::from_secs(seconds).div_f64(2.0));
}
