//! The storage engine in an async program: every ticket is a future, so tasks await it.
//!
//! `cargo run --example async_tokio [FILE]`; without a name it makes a file and removes it.

// An example shows its result.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dynamicfs::{EngineConfig, FormatOptions, InodeOptions, StorageEngine};

/// Tasks that write beside each other: their writes share commits.
const TASKS: u64 = 64;

pub(crate) fn run(file: &Path) -> Result<(), Box<dyn Error>> {
    let config = EngineConfig::on_disk(file);
    let new_file = FormatOptions { create_bytes: Some(64 << 20), ..FormatOptions::default() };
    StorageEngine::format(&config, new_file)?;
    // Opening waits for recovery, so it is done outside of the tasks.
    let engine = Arc::new(StorageEngine::open(config)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    runtime.block_on(write_and_read(Arc::clone(&engine)))?;
    let metrics = engine.metrics()?;
    let (ops, commits) = (metrics.group_commit_ops(), metrics.group_commits());
    println!("{ops} durable changes in {commits} commits");
    engine.close(Duration::from_secs(10))?;
    Ok(())
}

async fn write_and_read(engine: Arc<StorageEngine>) -> Result<(), Box<dyn Error>> {
    let inode = engine.create_inode(InodeOptions::default()).await?;
    let tasks = (0..TASKS).map(|task| {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            let line = format!("task {task:>2}\n");
            engine.write(inode, task * line.len() as u64, line.as_bytes()).await
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    let text = engine.read(inode, 0..u64::from(u16::MAX)).await?;
    println!("{} lines", text.split(|byte| *byte == b'\n').count() - 1);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args_os().nth(1) {
        Some(file) => run(file.as_ref()),
        None => {
            let name = format!("dynamicfs-async-{}", std::process::id());
            let file = std::env::temp_dir().join(name);
            let outcome = run(&file);
            std::fs::remove_file(&file)?;
            outcome
        }
    }
}
