//! fjall: a tree of sorted tables with one journal, which every writer syncs by itself, one after
//! the other. Twice: so, and with the writers' batches [gathered](super::gather).
//!
//! Alone, a write is an `insert` and a `persist`, as its documents have it. A batch that syncs is
//! one call, but keeps the journal locked from its first byte to the end of its sync: with 64
//! writers it was the slower one in three of four alternations, 571 writes a second by median
//! beside 830.
//!
//! Memtables as large as RocksDB's, no compression, values beside their keys, the journal up to
//! 1 GiB, as many workers as processors (its default stops at four); all else is its default.

use std::path::Path;

use ::fjall::{Database, Error, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::args::Shape;
use crate::contestants::gather::{Gather, Pair};
use crate::contestants::{Contestant, Store, missing, ordered};
use crate::failure::Failure;

/// Each writer inserts and syncs by itself.
pub(crate) const ALONE: Contestant = Contestant {
    name: "fjall",
    packages: &["fjall"],
    disk_bytes,
    memory_bytes,
    open: |folder, shape| open(folder, shape, None),
};

/// Writers that wait beside each other share a batch.
pub(crate) const GATHERED: Contestant = Contestant {
    name: "fjall-gathered",
    packages: &["fjall"],
    disk_bytes,
    memory_bytes,
    open: |folder, shape| open(folder, shape, Some(Gather::default())),
};

const MEMTABLE_BYTES: u64 = 128 << 20;
const JOURNALS_BYTES: u64 = 1 << 30;

/// Levels, each perhaps written anew while the old one is still there, and journals.
fn disk_bytes(shape: Shape) -> u64 {
    4 * shape.set_bytes + 2 * JOURNALS_BYTES
}

/// Memtables are kept until they are in tables, as their journals are.
fn memory_bytes(_: Shape) -> u64 {
    JOURNALS_BYTES + MEMTABLE_BYTES
}

struct Fjall {
    database: Database,
    keyspace: Keyspace,
    shape: Shape,
    gather: Option<Gather>,
}

fn open(folder: &Path, shape: Shape, gather: Option<Gather>) -> Result<Box<dyn Store>, Failure> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let builder = Database::builder(folder.join("database"))
        .max_journaling_size(JOURNALS_BYTES)
        .worker_threads(cpus);
    let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
    let opened = builder.open().and_then(|database| {
        let keyspace = database.keyspace("blocks", options)?;
        Ok((database, keyspace))
    });
    let (database, keyspace) =
        opened.map_err(|error| Failure::store("it cannot be opened", error))?;
    Ok(Box::new(Fjall { database, keyspace, shape, gather }))
}

fn failed(error: Error) -> Failure {
    Failure::store("a request", error)
}

impl Fjall {
    /// Writes pairs in one batch.
    fn commit<'a>(
        &self,
        pairs: impl Iterator<Item = (u64, &'a [u8])>,
        durability: PersistMode,
    ) -> Result<(), Failure> {
        let mut batch = self.database.batch().durability(Some(durability));
        for (key, value) in pairs {
            batch.insert(&self.keyspace, ordered(key), value);
        }
        batch.commit().map_err(failed)
    }
}

impl Store for Fjall {
    fn fill(&self, first_key: u64, values: &[u8]) -> Result<(), Failure> {
        let pairs = (first_key..).zip(values.chunks(self.shape.block_bytes));
        self.commit(pairs, PersistMode::Buffer)
    }

    fn write(&self, key: u64, value: &[u8]) -> Result<(), Failure> {
        let Some(gather) = &self.gather else {
            self.keyspace.insert(ordered(key), value).map_err(failed)?;
            return self.database.persist(PersistMode::SyncData).map_err(failed);
        };
        gather.write((key, value.to_vec()), &|pairs: &[Pair]| {
            let pairs = pairs.iter().map(|(key, value)| (*key, value.as_slice()));
            self.commit(pairs, PersistMode::SyncData)
        })
    }

    fn read(&self, key: u64) -> Result<Vec<u8>, Failure> {
        let value = self.keyspace.get(ordered(key)).map_err(failed)?;
        value.map(|value| value.to_vec()).ok_or_else(|| missing(key))
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.database.persist(PersistMode::SyncAll).map_err(failed)
    }
}
