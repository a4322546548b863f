//! The checksums of the disk format against what else a format could use.
//!
//! `warm` sums the same bytes again and again. `cold` walks at random over 64 MiB of them, as a
//! checkpoint or a recovery meets records. A rival under the name of its algorithm is free of what
//! ours does around it: `metadata` has a context of 36 bytes in front, for every subject alike,
//! given to a rival as one streamed hash.
//!
//! Strength is not in the table: see `dynamicfs::format::checksum`.

use std::hash::Hasher;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dynamicfs::format::checksum::{Context, block_checksum, metadata_checksum};
use dynamicfs_bench::failure::Failure;
use dynamicfs_bench::micro::keys::{self, Popularity};
use dynamicfs_bench::micro::show::Table;
use dynamicfs_bench::micro::{Figure, Options, Side, Subject};

const FIGURES: &[Figure] = &[Figure::time("ns/sum"), Figure::rate("GB/s", 1)];

/// Calls between two looks at the clock, at most.
const BATCH: usize = 64;
/// What a cold case walks over: more than the caches hold.
const COLD_BYTES: usize = 64 << 20;
const STEPS: usize = 1 << 16;

const SIZES: &[(&str, usize)] =
    &[("128 B", 128), ("512 B", 512), ("4 KiB", 4 << 10), ("64 KiB", 64 << 10)];

/// Where the records of a metadata case are said to lie.
const HERE: Context = Context { pool: [7; 16], disk: 1, zone: 2, address: 4096, incarnation: 9 };

/// Stands for the encoded context where a rival sums it.
const ENCODED: [u8; 36] = [7; 36];

type Sum = fn(&[u8]) -> u64;

/// Name, whose, and how it sums.
type Contender = (&'static str, Side, Sum);

const BLOCKS: &[Contender] = &[
    ("block_checksum (crc32c)", Side::Ours, |bytes| block_checksum(bytes).into()),
    ("CRC-32C, crc-fast", Side::Rival, |bytes| crc_fast::crc32_iscsi(bytes).into()),
    ("CRC-32, crc32fast", Side::Rival, |bytes| crc32fast::hash(bytes).into()),
    ("CRC-64/NVMe, crc64fast-nvme", Side::Rival, |bytes| {
        let mut sum = crc64fast_nvme::Digest::new();
        sum.write(bytes);
        sum.sum64()
    }),
    ("XXH3-64, xxhash-rust", Side::Rival, xxhash_rust::xxh3::xxh3_64),
    ("XXH3-64, twox-hash", Side::Rival, twox_hash::XxHash3_64::oneshot),
];

const METADATA: &[Contender] = &[
    ("metadata_checksum (twox-hash)", Side::Ours, |bytes| {
        metadata_checksum(black_box(&HERE), &[bytes])
    }),
    ("CRC-64/NVMe, crc64fast-nvme", Side::Rival, |bytes| {
        let mut sum = crc64fast_nvme::Digest::new();
        sum.write(black_box(&ENCODED));
        sum.write(bytes);
        sum.sum64()
    }),
    ("CRC-64/NVMe, crc-fast", Side::Rival, |bytes| {
        let mut sum = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        sum.update(black_box(&ENCODED));
        sum.update(bytes);
        sum.finalize()
    }),
    ("XXH3-64, xxhash-rust, streamed", Side::Rival, |bytes| {
        let mut sum = xxhash_rust::xxh3::Xxh3::new();
        sum.update(black_box(&ENCODED));
        sum.update(bytes);
        sum.digest()
    }),
    ("XXH3-64, twox-hash, streamed", Side::Rival, |bytes| {
        let mut sum = twox_hash::XxHash3_64::default();
        sum.write(black_box(&ENCODED));
        sum.write(bytes);
        sum.finish()
    }),
];

fn main() -> ExitCode {
    let options = Options::of_this_process();
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("checksums: error: {failure}\nhelp: {}", failure.help());
            failure.exit_code()
        }
    }
}

fn measure(options: &Options) -> Result<(), Failure> {
    let bytes: Vec<u8> = (0..COLD_BYTES).map(|index| (index * 7 + index / 251) as u8).collect();
    let mut table = Table::new("Checksums", FIGURES, options);
    for (what, contenders) in [("block", BLOCKS), ("metadata", METADATA)] {
        for (name, size) in SIZES {
            let case = format!("{what}/warm/{name}");
            table.case(case, &mut subjects(contenders, &bytes, *size, &[0]))?;
        }
        for (name, size) in &SIZES[..3] {
            let places = keys::indices(COLD_BYTES / size, Popularity::Uniform, STEPS);
            let case = format!("{what}/cold/{name}");
            table.case(case, &mut subjects(contenders, &bytes, *size, &places))?;
        }
    }
    Ok(())
}

fn subjects<'a>(
    contenders: &'static [Contender],
    bytes: &'a [u8],
    size: usize,
    places: &'a [u32],
) -> Vec<Subject<'a>> {
    let subject = |(name, side, sum): &'static Contender| {
        Subject::new(name, *side, move |window| run(*sum, bytes, size, places, window))
    };
    contenders.iter().map(subject).collect()
}

/// Sums pieces of `size` bytes at `places`, again and again, for `window`.
fn run(sum: Sum, bytes: &[u8], size: usize, places: &[u32], window: Duration) -> Vec<f64> {
    let began = Instant::now();
    let mut places = places.iter().cycle();
    let mut sums = 0_u64;
    while began.elapsed() < window {
        for place in places.by_ref().take(BATCH) {
            let start = *place as usize * size;
            black_box(sum(black_box(&bytes[start..start + size])));
        }
        sums += BATCH as u64;
    }
    let ns = began.elapsed().as_nanos() as f64 / sums as f64;
    vec![ns, size as f64 / ns]
}
