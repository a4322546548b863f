//! The bare side: a ring with a chain, or threads with two system calls.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::bare_ring::durable::LinkedWriter;
use crate::compare_durable::{Contest, RAMP, Side, Writers, process_cpu_ns};
use crate::failure::Failure;
use crate::report::latency::Latency;
use crate::stream::{SplitMix, Stream};

/// Alignment of memory for O_DIRECT.
const ALIGNMENT: usize = 4096;

/// Whether writes go through the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    /// O_DIRECT.
    Bypassed,
    /// They do; the sync writes them.
    Used,
}

fn failed(error: &std::io::Error) -> Failure {
    let help = "see `dmesg`".into();
    Failure::Runtime { message: format!("a bare durable write failed: {error}"), help }
}

fn open(contest: &Contest<'_>, cache: Cache) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    // Nobody else has it: the pool of the rounds before is closed.
    let exclusive = libc::O_EXCL | if cache == Cache::Bypassed { libc::O_DIRECT } else { 0 };
    let is_file = contest.plan.disk.is_file();
    let flags = if is_file { exclusive & !libc::O_EXCL } else { exclusive };
    options.write(true).custom_flags(flags);
    options.open(&contest.plan.disk).map_err(|error| failed(&error))
}

fn data(contest: &Contest<'_>) -> Vec<u8> {
    let mut data = vec![0; contest.plan.block_bytes as usize];
    SplitMix(7).fill(&mut data);
    data
}

/// One writer with a chain of the kernel.
pub(super) fn ring(contest: &Contest<'_>) -> Result<Side, Failure> {
    let file = open(contest, Cache::Bypassed)?;
    let mut stream = contest.stream(0);
    let writer = || {
        let mut writer = LinkedWriter::new(file.as_fd(), &data(contest))?;
        let mut write = |offset| writer.write(offset);
        run(&mut stream, Instant::now() + RAMP, contest.plan.runtime, &mut write)
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(writer);
        let cpu_ns = window_cpu_ns(contest);
        let ended = thread.join();
        let ended = ended.unwrap_or_else(|_| unreachable!("the bare writer returns its errors"));
        Ok(side(contest, ended?, cpu_ns))
    })
}

/// Sleeps through the ramp and the window: the processor time that the window took.
fn window_cpu_ns(contest: &Contest<'_>) -> u64 {
    std::thread::sleep(RAMP);
    let before = process_cpu_ns();
    std::thread::sleep(contest.plan.runtime);
    process_cpu_ns().saturating_sub(before)
}

/// Threads that write and sync.
pub(super) fn calls(
    contest: &Contest<'_>,
    writers: Writers,
    cache: Cache,
) -> Result<Side, Failure> {
    let file = open(contest, cache)?;
    let count = contest.writers(writers);
    let mut streams: Vec<Stream> = (0..count).map(|writer| contest.stream(writer)).collect();
    let (data, barrier) = (data(contest), Barrier::new(count as usize));
    let (file, data, barrier) = (&file, &data, &barrier);
    let each = std::thread::scope(|scope| {
        let threads: Vec<_> = streams
            .iter_mut()
            .map(|stream| {
                scope.spawn(move || {
                    let memory = Aligned::new(data);
                    let mut write = |offset| {
                        let start = Instant::now();
                        file.write_all_at(memory.bytes(), offset)
                            .and_then(|()| file.sync_data())
                            .map_err(|error| failed(&error))?;
                        Ok(start.elapsed().as_nanos() as u64)
                    };
                    barrier.wait();
                    run(stream, Instant::now() + RAMP, contest.plan.runtime, &mut write)
                })
            })
            .collect();
        let cpu_ns = window_cpu_ns(contest);
        let ends = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| unreachable!("a writer returns its errors"))
        });
        let ends: Result<Vec<Latency>, Failure> = ends.collect();
        ends.map(|ends| (ends, cpu_ns))
    });
    let (each, cpu_ns) = each?;
    let mut all = Latency::new();
    each.iter().for_each(|latency| all.absorb(latency));
    Ok(side(contest, all, cpu_ns))
}

fn side(contest: &Contest<'_>, latency: Latency, cpu_ns: u64) -> Side {
    let rate = latency.count() as f64 / contest.plan.runtime.as_secs_f64();
    let cpu_ns = cpu_ns as f64 / latency.count().max(1) as f64;
    Side { rate, latency, cpu_ns, ..Side::default() }
}

/// Writes from now on, and counts what ends between `from` and `runtime` later.
fn run(
    stream: &mut Stream,
    from: Instant,
    runtime: Duration,
    write: &mut dyn FnMut(u64) -> Result<u64, Failure>,
) -> Result<Latency, Failure> {
    let mut latency = Latency::new();
    let until = from + runtime;
    loop {
        let (offset, _) = stream.next_request();
        let took_ns = write(offset)?;
        let now = Instant::now();
        if now >= until {
            return Ok(latency);
        }
        if now >= from {
            latency.record(took_ns);
        }
    }
}

/// Bytes at an address that O_DIRECT takes.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(data: &[u8]) -> Self {
        let mut memory = vec![0; data.len() + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        memory[start..start + data.len()].copy_from_slice(data);
        Self { memory, start, len: data.len() }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}
