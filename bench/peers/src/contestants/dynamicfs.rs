//! dynamicfs: one inode of a pool on a file, its blocks the keys. Three times: by threads that
//! block, by tasks that one thread polls, by tasks on the reactor itself.
//!
//! One commit domain, as the others have one log each; memory for all writers; all else is the
//! default. The pool's file is written when it is made.

mod tasks;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::dynamicfs::{EngineConfig, FormatOptions, InodeId, InodeOptions, StorageEngine};

use crate::args::Shape;
use crate::contestants::{Contestant, Store, on_threads};
use crate::failure::Failure;
use crate::writer::Writer;

/// By threads that block.
pub(crate) const THREADS: Contestant = Contestant {
    name: "dynamicfs-threads",
    packages: &["dynamicfs"],
    disk_bytes: pool_bytes,
    memory_bytes,
    open: |folder, shape| open(folder, shape, Clients::Threads),
};

/// By tasks of one thread.
pub(crate) const TASKS: Contestant = Contestant {
    name: "dynamicfs-tasks",
    open: |folder, shape| open(folder, shape, Clients::Tasks),
    ..THREADS
};

/// By tasks of the reactor.
pub(crate) const REACTOR: Contestant = Contestant {
    name: "dynamicfs-reactor",
    open: |folder, shape| open(folder, shape, Clients::Reactor),
    ..THREADS
};

/// A journal has its full size from here on.
const POOL_BYTES_MIN: u64 = 1 << 30;
/// Beside two working sets: what a commit replaces is free only when it is durable.
const ROOM_BYTES: u64 = 256 << 20;
/// Memory beside that for one write of each writer.
const ARENA_BYTES: u64 = 32 << 20;
/// Memory of the engine beside its arena: writes that wait for their place, operations, rings.
const ENGINE_BYTES: u64 = 256 << 20;
/// Bytes of a pool for each of its metadata in memory, at least: 64 for a block of 4 KiB.
const BYTES_PER_METADATA_BYTE: u64 = 64;
const CLOSE_DEADLINE: Duration = Duration::from_secs(60);

fn pool_bytes(shape: Shape) -> u64 {
    (2 * shape.set_bytes + ROOM_BYTES).next_multiple_of(1 << 20).max(POOL_BYTES_MIN)
}

fn arena_bytes(shape: Shape) -> u64 {
    u64::from(shape.writers) * shape.block_bytes as u64 + ARENA_BYTES
}

fn memory_bytes(shape: Shape) -> u64 {
    arena_bytes(shape) + ENGINE_BYTES + pool_bytes(shape) / BYTES_PER_METADATA_BYTE
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
enum Clients {
    Threads,
    Tasks,
    Reactor,
}

struct Pool {
    engine: Arc<StorageEngine>,
    inode: InodeId,
    shape: Shape,
    clients: Clients,
}

fn open(folder: &Path, shape: Shape, clients: Clients) -> Result<Box<dyn Store>, Failure> {
    let file = folder.join("pool");
    let is_new = !file.exists();
    let mut config = EngineConfig::on_disk(&file);
    config.pool.domains = Some(1);
    let arena_mib = arena_bytes(shape).div_ceil(1 << 20) as u32;
    config.io.memory.arena_mib_per_node = config.io.memory.arena_mib_per_node.max(arena_mib);
    let unopened = |error| Failure::store("it cannot be opened", error);
    if is_new {
        let options =
            FormatOptions { create_bytes: Some(pool_bytes(shape)), ..FormatOptions::default() };
        StorageEngine::format(&config, options).map_err(unopened)?;
    }
    let engine = StorageEngine::open(config).map_err(unopened)?;
    let inode = match is_new {
        true => engine.create_inode(InodeOptions::default()).wait().map_err(failed)?,
        false => {
            let first = engine.list(InodeId(0), 1).wait().map_err(failed)?;
            let none = || Failure::store("it cannot be opened", "its inode is gone");
            first.first().ok_or_else(none)?.id
        }
    };
    Ok(Box::new(Pool { engine: Arc::new(engine), inode, shape, clients }))
}

fn failed(error: ::dynamicfs::StoreError) -> Failure {
    Failure::store("a request", error)
}

impl Store for Pool {
    fn fill(&self, first_key: u64, values: &[u8]) -> Result<(), Failure> {
        self.write(first_key, values)
    }

    fn write(&self, key: u64, value: &[u8]) -> Result<(), Failure> {
        let ticket = self.engine.write(self.inode, self.shape.offset(key), value);
        ticket.wait().map(drop).map_err(failed)
    }

    fn read(&self, key: u64) -> Result<Vec<u8>, Failure> {
        let range = self.shape.offset(key)..self.shape.offset(key + 1);
        let bytes = self.engine.read(self.inode, range).wait().map_err(failed)?;
        Ok(bytes.to_vec())
    }

    fn run(&self, writers: Vec<Writer>) -> Result<Vec<Writer>, Failure> {
        let engine = Arc::clone(&self.engine);
        match self.clients {
            Clients::Threads => on_threads(self, writers),
            Clients::Tasks => tasks::on_this_thread(engine, self.inode, self.shape, writers),
            Clients::Reactor => tasks::on_reactor(engine, self.inode, self.shape, writers),
        }
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        let closed = self.engine.close(CLOSE_DEADLINE);
        closed.map(drop).map_err(|error| Failure::store("it does not close", error))
    }
}
