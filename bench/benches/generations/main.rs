//! Reading a record of 56 bytes that another thread may be rewriting: our optimistic reads against
//! locks and cells that hold the record.
//!
//! A reader copies the record out and checks its sum and its number, every time. A reader that got
//! half of one version and half of another ends the process with a message and a code that is not
//! zero; tried on a planted contender without generations. The check costs everybody the same few
//! nanoseconds.

mod contender;
mod ours;
mod record;
mod rivals;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dynamicfs_bench::failure::Failure;
use dynamicfs_bench::micro::keys::{self, Popularity, Walk};
use dynamicfs_bench::micro::show::Table;
use dynamicfs_bench::micro::{Figure, Options, Subject, threads};

use contender::Records;
use record::Record;

const FIGURES: &[Figure] = &[
    Figure::time("ns/read"),
    Figure::rate("M reads/s", 2),
    // Told beside the reads, because a lock may be quick to read by keeping its writer waiting.
    Figure::rate("M writes/s", 3),
];

const FIELDS: &[(&str, usize, usize)] =
    &[("1 record", 1, 1 << 10), ("100,000 records", 100_000, 1 << 18)];

/// Who takes part in a case.
#[derive(Clone, Copy)]
struct Crowd {
    name: &'static str,
    readers: usize,
    writer: Writer,
}

/// What the one writer does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// There is none.
    Absent,
    /// Rewrites without a pause.
    Busy,
    /// Pauses for a microsecond after every record.
    Pausing,
    /// Reads as the readers do, and rewrites one record in a hundred.
    Reading,
}

const CROWDS: &[Crowd] = &[
    Crowd { name: "1 reader", readers: 1, writer: Writer::Absent },
    Crowd { name: "2 readers", readers: 2, writer: Writer::Absent },
    Crowd { name: "1 reader, busy writer", readers: 1, writer: Writer::Busy },
    Crowd { name: "1 reader, pausing writer", readers: 1, writer: Writer::Pausing },
    Crowd { name: "2 readers, one writes 1 in 100", readers: 1, writer: Writer::Reading },
    Crowd { name: "8 readers, busy writer", readers: 8, writer: Writer::Busy },
];

const PAUSE: Duration = Duration::from_micros(1);

fn main() -> ExitCode {
    let options = Options::of_this_process();
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("generations: error: {failure}\nhelp: {}", failure.help());
            failure.exit_code()
        }
    }
}

fn measure(options: &Options) -> Result<(), Failure> {
    let mut table = Table::new("Consistent reads of 56 bytes", FIGURES, options);
    for (field, count, length) in FIELDS {
        let mut contenders = rivals::all(*count);
        contenders.extend(ours::all(*count));
        let indices = keys::indices(*count, Popularity::Uniform, *length);
        for crowd in CROWDS {
            let mut subjects: Vec<Subject<'_>> = contenders
                .iter()
                .map(|contender| {
                    Subject::new(contender.name(), contender.side(), |window| {
                        contender.run(&indices, *crowd, window)
                    })
                })
                .collect();
            table.case(format!("{field}/{}", crowd.name), &mut subjects)?;
        }
    }
    Ok(())
}

/// The crowd reads and rewrites `records` along `indices` for `window`.
fn run<R: Records>(records: &R, indices: &[u32], crowd: Crowd, window: Duration) -> Vec<f64> {
    let writers = usize::from(crowd.writer != Writer::Absent);
    let count = crowd.readers + writers;
    let timed = threads::run(count, window, |thread, stop| {
        let mut walk = Walk::new(indices, thread, count);
        if thread < crowd.readers {
            return stop.repeat(|| {
                let batch = walk.batch();
                for index in batch {
                    let record = records.read(*index as usize);
                    assert!(record.is_whole(*index), "{}: torn: {record:?}", R::NAME);
                }
                batch.len() as u64
            });
        }
        let mut version = 0;
        stop.repeat(|| {
            let mut written = 0;
            for index in walk.batch() {
                version += 1;
                if crowd.writer == Writer::Reading && version % 100 != 0 {
                    black_box(records.read(*index as usize));
                    continue;
                }
                records.write(*index as usize, Record::new(*index, version));
                written += 1;
                if crowd.writer == Writer::Pausing {
                    pause();
                }
            }
            written
        })
    });
    let (reads, writes) = timed.operations.split_at(crowd.readers);
    let per_second = |operations: &[u64]| {
        operations.iter().sum::<u64>() as f64 / timed.elapsed.as_secs_f64() / 1e6
    };
    let written = if writes.is_empty() { f64::NAN } else { per_second(writes) };
    vec![timed.ns_each(reads), per_second(reads), written]
}

fn pause() {
    let until = Instant::now() + PAUSE;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}
