//! Who is compared: one table of contestants, and the one trait that each fulfils.
//!
//! A contestant's settings, and why they are fair, stand in its file and in README.md. Order in the
//! table is the order of the rows.

mod bare;
mod dynamicfs;
mod fjall;
mod gather;
mod raft_engine;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;

use std::path::Path;

use crate::args::Shape;
use crate::failure::Failure;
use crate::writer::Writer;

/// Opens a store in a directory of its own: an empty one the first time, what is there after that.
pub(crate) type Open = fn(&Path, Shape) -> Result<Box<dyn Store>, Failure>;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contestant {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Packages of the lock file whose versions are told with its results.
    pub(crate) packages: &'static [&'static str],
    /// What it needs of the disk at most, by estimate.
    pub(crate) disk_bytes: fn(Shape) -> u64,
    /// What it keeps in memory at most, by estimate, from its first turn to the end. Page cache
    /// does not count, which the kernel takes back.
    pub(crate) memory_bytes: fn(Shape) -> u64,
    /// Opens it.
    pub(crate) open: Open,
}

/// A store that is open. All of it is called by many threads.
pub(crate) trait Store: Send + Sync {
    /// Writes the values of consecutive keys. They need not be durable before [`Store::close`].
    fn fill(&self, first_key: u64, values: &[u8]) -> Result<(), Failure>;

    /// Overwrites a key's value. It is durable when this returns.
    fn write(&self, key: u64, value: &[u8]) -> Result<(), Failure>;

    /// Reads a key's value.
    fn read(&self, key: u64) -> Result<Vec<u8>, Failure>;

    /// Lets the writers write until their windows are over: each on a thread of its own, where a
    /// store has no other way.
    fn run(&self, writers: Vec<Writer>) -> Result<Vec<Writer>, Failure> {
        on_threads(self, writers)
    }

    /// Closes it; everything is durable.
    fn close(self: Box<Self>) -> Result<(), Failure>;
}

/// The table. The first row is what the others are compared with.
pub(crate) const CONTESTANTS: &[Contestant] = &[
    dynamicfs::THREADS,
    dynamicfs::TASKS,
    dynamicfs::REACTOR,
    #[cfg(feature = "rocksdb")]
    rocksdb::CONTESTANT,
    raft_engine::CONTESTANT,
    fjall::ALONE,
    fjall::GATHERED,
    redb::ALONE,
    redb::GATHERED,
    bare::DIRECT,
    bare::DSYNC,
    bare::CACHED,
];

/// Each writer on a thread that blocks. A writer that fails ends; the others go on.
fn on_threads<S: Store + ?Sized>(store: &S, writers: Vec<Writer>) -> Result<Vec<Writer>, Failure> {
    let write = |mut writer: Writer| {
        while let Some(key) = writer.begin() {
            store.write(key, writer.value())?;
            writer.acknowledge();
        }
        Ok(writer)
    };
    std::thread::scope(|scope| {
        let spawn = |writer| std::thread::Builder::new().spawn_scoped(scope, || write(writer));
        let threads: Vec<_> = writers.into_iter().map(spawn).collect();
        let join = |thread: std::io::Result<std::thread::ScopedJoinHandle<'_, _>>| {
            let thread = thread.map_err(|error| {
                Failure::new(format!("no thread for a writer: {error}"), "use fewer --writers")
            })?;
            thread.join().unwrap_or_else(|_| Err(Failure::store("a write", "its thread panicked")))
        };
        // All are joined before the first failure is told.
        let ends: Vec<_> = threads.into_iter().map(join).collect();
        ends.into_iter().collect()
    })
}

/// A key as the stores that order their keys have it: numbers in their own order.
fn ordered(key: u64) -> [u8; 8] {
    key.to_be_bytes()
}

/// What a store says of a key that it does not have.
fn missing(key: u64) -> Failure {
    Failure::new(
        format!("key {key} is not there"),
        "an acknowledged write is lost: do not trust its row",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { writers: 4, block_bytes: 4096, set_bytes: 2 << 20 };

    #[test]
    fn names_are_unique_and_the_first_is_ours() {
        let names: Vec<&str> = CONTESTANTS.iter().map(|one| one.name).collect();
        assert_eq!(names[0], "dynamicfs-threads");
        for (position, name) in names.iter().enumerate() {
            assert!(!names[..position].contains(name), "{name}");
        }
    }

    #[test]
    fn every_estimate_has_room_for_the_working_set() {
        for contestant in CONTESTANTS {
            assert!((contestant.disk_bytes)(SHAPE) >= SHAPE.set_bytes, "{}", contestant.name);
        }
    }

    #[test]
    fn keys_are_ordered_as_their_numbers() {
        assert!(ordered(255) < ordered(256));
    }
}
