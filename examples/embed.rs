//! The storage engine in ten lines: a pool on a file, an inode, a durable write, a read.
//!
//! `cargo run --example embed [FILE]`; without a name it makes a file and removes it.

// An example shows its result.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use dynamicfs::{EngineConfig, FormatOptions, InodeOptions, StorageEngine};

pub(crate) fn run(file: &Path) -> Result<(), Box<dyn Error>> {
    let config = EngineConfig::on_disk(file);
    let new_file = FormatOptions { create_bytes: Some(64 << 20), ..FormatOptions::default() };
    StorageEngine::format(&config, new_file)?;

    let engine = StorageEngine::open(config)?;
    let inode = engine.create_inode(InodeOptions::default()).wait()?;
    engine.write(inode, 0, b"durable when this returns").wait()?;
    let read = engine.read(inode, 0..4096).wait()?;
    println!("inode {inode}: {}", String::from_utf8_lossy(&read));

    let mut both = engine.transaction(inode);
    both.write(0, b"all of it").write(1 << 20, b"or none of it");
    println!("{:?}", both.commit().wait()?);
    engine.close(Duration::from_secs(10))?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args_os().nth(1) {
        Some(file) => run(file.as_ref()),
        None => {
            let name = format!("dynamicfs-embed-{}", std::process::id());
            let file = std::env::temp_dir().join(name);
            let outcome = run(&file);
            std::fs::remove_file(&file)?;
            outcome
        }
    }
}
