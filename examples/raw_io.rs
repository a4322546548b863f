//! The raw block engine: reads and writes with priorities, and a flush, without a pool.
//!
//! `cargo run --example raw_io [FILE]` writes over the first blocks of FILE, which it makes if it
//! is not there; without a name it makes a file and removes it.

// An example shows its result.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use dynamicfs::engine::config::DiskAccess;
use dynamicfs::machine::device::create_file;
use dynamicfs::{DiskConfig, DiskId, IoConfig, IoScheduler, Priority, Request};

const BLOCK: usize = 4096;

pub(crate) fn run(file: &Path) -> Result<(), Box<dyn Error>> {
    if !file.exists() {
        create_file(file, 16 << 20, &mut |_| ())?;
    }
    let access = DiskAccess::ReadWrite;
    let disk = DiskConfig { path: file.into(), access, ..DiskConfig::default() };
    let engine = IoScheduler::open(&IoConfig { disks: vec![disk], ..IoConfig::default() })?;
    let mut tickets = Vec::new();
    for block in 0..16_u8 {
        let mut buffer = engine.buffer(BLOCK)?;
        buffer.fill(block);
        let write = Request::write(DiskId(0), u64::from(block) * BLOCK as u64, buffer);
        tickets.push(engine.submit(write)?);
    }
    for ticket in tickets {
        ticket.wait()?.into_parts().0?;
    }
    engine.flush(DiskId(0))?.wait()?.into_parts().0?;
    let read = Request::read(DiskId(0), 5 * BLOCK as u64, engine.buffer(BLOCK)?);
    let read = engine.submit(read.with_priority(Priority::Critical))?;
    let (result, buffer) = read.wait()?.into_parts();
    let buffer = buffer.ok_or("a read returns its buffer")?;
    println!("{} bytes, all {}", result?, buffer[0]);
    assert!(buffer.iter().all(|byte| *byte == 5));
    println!("{} requests", engine.metrics().io_ops_completed());
    engine.close(Duration::from_secs(10))?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args_os().nth(1) {
        Some(file) => run(file.as_ref()),
        None => {
            let name = format!("dynamicfs-raw-{}", std::process::id());
            let file = std::env::temp_dir().join(name);
            let outcome = run(&file);
            std::fs::remove_file(&file)?;
            outcome
        }
    }
}
