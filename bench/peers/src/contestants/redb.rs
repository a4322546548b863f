//! redb: a copy-on-write tree with one writer at a time. Twice: every write in a transaction of its
//! own, and with the writers' transactions [gathered](super::gather).
//!
//! Every commit is durable at once, in one phase, which is the default; the cache holds all of it.

use std::path::Path;

use ::redb::{Database, Durability, Error, ReadableDatabase, TableDefinition};

use crate::args::Shape;
use crate::contestants::gather::{Gather, Pair};
use crate::contestants::{Contestant, Store, missing};
use crate::failure::Failure;

/// Each writer commits a transaction of its own.
pub(crate) const ALONE: Contestant = Contestant {
    name: "redb",
    packages: &["redb"],
    disk_bytes,
    memory_bytes: cache_bytes,
    open: |folder, shape| open(folder, shape, None),
};

/// Writers that wait beside each other share a transaction.
pub(crate) const GATHERED: Contestant = Contestant {
    name: "redb-gathered",
    packages: &["redb"],
    disk_bytes,
    memory_bytes: cache_bytes,
    open: |folder, shape| open(folder, shape, Some(Gather::default())),
};

const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
/// Beside the working set.
const CACHE_BYTES: u64 = 256 << 20;

/// A value of a page's size takes two, and the file doubles as it grows.
fn disk_bytes(shape: Shape) -> u64 {
    6 * shape.set_bytes + (64 << 20)
}

fn cache_bytes(shape: Shape) -> u64 {
    4 * shape.set_bytes + CACHE_BYTES
}

struct Redb {
    database: Database,
    shape: Shape,
    gather: Option<Gather>,
}

fn open(folder: &Path, shape: Shape, gather: Option<Gather>) -> Result<Box<dyn Store>, Failure> {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes(shape) as usize);
    let database = builder.create(folder.join("database"));
    let database = database.map_err(|error| Failure::store("it cannot be opened", error))?;
    Ok(Box::new(Redb { database, shape, gather }))
}

fn failed(error: Error) -> Failure {
    Failure::store("a request", error)
}

impl Redb {
    /// Writes pairs in one transaction.
    fn commit<'a>(&self, pairs: impl Iterator<Item = (u64, &'a [u8])>) -> Result<(), Failure> {
        let commit = || -> Result<(), Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            {
                let mut table = transaction.open_table(BLOCKS)?;
                for (key, value) in pairs {
                    table.insert(key, value)?;
                }
            }
            Ok(transaction.commit()?)
        };
        commit().map_err(failed)
    }
}

impl Store for Redb {
    fn fill(&self, first_key: u64, values: &[u8]) -> Result<(), Failure> {
        self.commit((first_key..).zip(values.chunks(self.shape.block_bytes)))
    }

    fn write(&self, key: u64, value: &[u8]) -> Result<(), Failure> {
        let Some(gather) = &self.gather else {
            return self.commit(std::iter::once((key, value)));
        };
        gather.write((key, value.to_vec()), &|pairs: &[Pair]| {
            self.commit(pairs.iter().map(|(key, value)| (*key, value.as_slice())))
        })
    }

    fn read(&self, key: u64) -> Result<Vec<u8>, Failure> {
        let read = || -> Result<Option<Vec<u8>>, Error> {
            let table = self.database.begin_read()?.open_table(BLOCKS)?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        };
        read().map_err(failed)?.ok_or_else(|| missing(key))
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.database.close().map_err(|error| failed(error.into()))
    }
}
