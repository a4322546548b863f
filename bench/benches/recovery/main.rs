//! What a pool of many extents costs: to open again, in memory, and a checkpoint of it.
//!
//! `cargo bench -p dynamicfs-bench --bench recovery -- --dir=DIR`. For each number of extents a
//! pool is made in a new file of the directory, filled, closed, and opened `--rounds` times. Then
//! some of its extents are overwritten, far apart, so that each dirties a page, and closing is
//! timed, which makes one checkpoint of them. The file is removed.
//!
//! An extent here has `--blocks` blocks of 4 KiB, 1 to 16: what the engine keeps of it is the same,
//! and the file is smaller. Memory is the resident set after opening, less that of an empty pool of
//! the same size, in a process that keeps no other: each case runs in a child process.

// A bench prints its table, and stops at what it cannot measure.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Parser;
use dynamicfs::{EngineConfig, FormatOptions, InodeId, InodeOptions, StorageEngine};
use serde::{Deserialize, Serialize};

const EXTENT_BYTES: u64 = 64 << 10;
const BLOCK_BYTES: u64 = 4 << 10;
/// Extents of each transaction that fills the pool.
const EXTENTS_PER_STEP: u64 = 256;
/// Transactions under way.
const STEPS: usize = 4;
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Parser)]
#[command(about = "Opening, memory and checkpoints of pools with many extents")]
struct Options {
    /// Directory with room for the pool: 64 KiB or less an extent.
    #[arg(long)]
    dir: PathBuf,
    /// Numbers of extents.
    #[arg(long, value_delimiter = ',', default_value = "100000,1000000")]
    extents: Vec<u64>,
    /// Blocks of each extent.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=16))]
    blocks: u64,
    /// Times that each pool is opened.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Pages that the checkpoints write.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
    dirty: Vec<u64>,
    /// One measurement in this process, told by the parent.
    #[arg(long, hide = true)]
    child: Option<String>,
    /// Said by `cargo bench` to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a child process found.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    open_ns: u64,
    close_ns: u64,
    resident_bytes: u64,
    extents: u64,
    pages: u64,
}

fn config(file: &Path) -> EngineConfig {
    let mut config = EngineConfig::on_disk(file);
    config.pool.domains = Some(1);
    config
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn open(file: &Path) -> (StorageEngine, Found) {
    let begun = Instant::now();
    let engine = StorageEngine::open(config(file)).unwrap();
    let open_ns = begun.elapsed().as_nanos() as u64;
    let status = engine.status().unwrap();
    let recovery = &status.domains[0].recovery;
    let (extents, pages) = (recovery.extents, recovery.pages);
    let resident_bytes = resident_bytes();
    (engine, Found { open_ns, resident_bytes, extents, pages, ..Found::default() })
}

/// Makes the pool's one inode and fills it.
fn fill(file: &Path, extents: u64, blocks: u64) {
    let engine = StorageEngine::open(config(file)).unwrap();
    let inode = engine.create_inode(InodeOptions::default()).wait().unwrap();
    let data = vec![0x5a; (blocks * BLOCK_BYTES) as usize];
    let mut under_way = std::collections::VecDeque::new();
    for first in (0..extents).step_by(EXTENTS_PER_STEP as usize) {
        let mut step = engine.transaction(inode);
        for extent in first..extents.min(first + EXTENTS_PER_STEP) {
            step.write(extent * EXTENT_BYTES, &data);
        }
        under_way.push_back(step.commit());
        if under_way.len() >= STEPS {
            under_way.pop_front().unwrap().wait().unwrap();
        }
    }
    for ticket in under_way {
        ticket.wait().unwrap();
    }
    engine.close(DEADLINE).unwrap();
}

/// Overwrites a block on each of `pages` pages, and times the close that writes them.
fn checkpoint(file: &Path, extents: u64, pages: u64) -> Found {
    let (engine, mut found) = open(file);
    let inode: InodeId = engine.list(InodeId(0), 1).wait().unwrap()[0].id;
    // Eight groups of four extents to a page.
    for page in 0..pages.min(extents / 32) {
        engine.write(inode, page * 32 * EXTENT_BYTES, &[1; 4096]).wait().unwrap();
    }
    let begun = Instant::now();
    engine.close(DEADLINE).unwrap();
    found.close_ns = begun.elapsed().as_nanos() as u64;
    found
}

/// Runs one measurement in a process of its own.
fn in_child(options: &Options, what: &str) -> Found {
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("--dir")
        .arg(&options.dir)
        .args(["--child", what])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(text.trim()).unwrap()
}

fn child(options: &Options, what: &str) {
    let mut words = what.split(':');
    let verb = words.next().unwrap();
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let file = options.dir.join("recovery.pool");
    let found = match verb {
        "fill" => {
            fill(&file, number(), number());
            Found::default()
        }
        "open" => {
            let (engine, found) = open(&file);
            engine.close(DEADLINE).unwrap();
            found
        }
        _ => checkpoint(&file, number(), number()),
    };
    println!("{}", serde_json::to_string(&found).unwrap());
}

fn measure(options: &Options, extents: u64) {
    let file = options.dir.join("recovery.pool");
    // Room for the data, both homes of each page, and as much again as a tenth.
    let bytes = (extents * options.blocks * BLOCK_BYTES + extents * 512) * 11 / 10 + (256 << 20);
    let new_file = FormatOptions { create_bytes: Some(bytes), ..FormatOptions::default() };
    StorageEngine::format(&config(&file), new_file).unwrap();
    let empty = in_child(options, "open");
    in_child(options, &format!("fill:{extents}:{}", options.blocks));
    let mut opened: Vec<Found> = (0..options.rounds).map(|_| in_child(options, "open")).collect();
    opened.sort_by_key(|found| found.open_ns);
    let median = &opened[opened.len() / 2];
    assert_eq!(median.extents, extents, "all extents are there");
    let own_ns = median.open_ns.saturating_sub(empty.open_ns);
    println!(
        "{extents} extents: opened in {:.3} s ({:.3} s when empty), {:.2} M extents/s beyond that, \
         {} pages; {:.1} bytes resident an extent",
        median.open_ns as f64 / 1e9,
        empty.open_ns as f64 / 1e9,
        extents as f64 / own_ns as f64 * 1e3,
        median.pages,
        median.resident_bytes.saturating_sub(empty.resident_bytes) as f64 / extents as f64,
    );
    for pages in &options.dirty {
        if *pages * 32 <= extents {
            let found = in_child(options, &format!("checkpoint:{extents}:{pages}"));
            println!(
                "  closed with {pages} dirty pages: {:.1} ms, {:.1} us a page",
                found.close_ns as f64 / 1e6,
                found.close_ns as f64 / 1e3 / *pages as f64
            );
        }
    }
}

fn main() {
    let options = Options::parse();
    if let Some(what) = &options.child {
        return child(&options, what);
    }
    let file = options.dir.join("recovery.pool");
    assert!(!file.exists(), "{} is there already: remove it first", file.display());
    for extents in &options.extents {
        measure(&options, *extents);
        std::fs::remove_file(&file).unwrap();
    }
}
