//! RocksDB: one database, its log synced for every write; it commits in groups by itself.
//!
//! Set as its tuning guide has it for many writes of values that do not compress: memtables of
//! 128 MiB, flush and compaction past the page cache, no compression. Logs are used again, so that
//! a sync of the log does not make the file system commit a new length each time. Pipelined writes
//! are off, which is the default.

use std::path::Path;

use ::rocksdb::{DB, DBCompressionType, Error, Options, WriteBatch, WriteOptions};

use crate::args::Shape;
use crate::contestants::{Contestant, Store, missing, ordered};
use crate::failure::Failure;

/// The row.
pub(crate) const CONTESTANT: Contestant = Contestant {
    name: "rocksdb",
    packages: &["rocksdb", "librocksdb-sys"],
    disk_bytes,
    memory_bytes,
    open,
};

const MEMTABLE_BYTES: usize = 128 << 20;
const MEMTABLES: i32 = 4;
/// Its block cache, and indexes of its tables.
const CACHE_BYTES: u64 = 64 << 20;
/// Logs kept for their next use.
const LOGS_RECYCLED: usize = 4;
/// Levels, each perhaps written anew while the old one is still there, and logs.
const SETS: u64 = 4;

struct Rocks {
    database: DB,
    synced: WriteOptions,
    shape: Shape,
}

fn disk_bytes(shape: Shape) -> u64 {
    SETS * shape.set_bytes + 4 * MEMTABLES as u64 * MEMTABLE_BYTES as u64
}

fn memory_bytes(_: Shape) -> u64 {
    MEMTABLES as u64 * MEMTABLE_BYTES as u64 + CACHE_BYTES
}

fn open(folder: &Path, shape: Shape) -> Result<Box<dyn Store>, Failure> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_write_buffer_number(MEMTABLES);
    // As much as level 0 has when it is compacted, as the tuning guide wants it.
    options.set_max_bytes_for_level_base(4 * MEMTABLE_BYTES as u64);
    options.set_use_direct_io_for_flush_and_compaction(true);
    options.set_recycle_log_file_num(LOGS_RECYCLED);
    let jobs = std::thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 16));
    options.set_max_background_jobs(jobs as i32);
    let database = DB::open(&options, folder.join("database"));
    let database = database.map_err(|error| Failure::store("it cannot be opened", error))?;
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    Ok(Box::new(Rocks { database, synced, shape }))
}

fn failed(error: Error) -> Failure {
    Failure::store("a request", error)
}

impl Store for Rocks {
    fn fill(&self, first_key: u64, values: &[u8]) -> Result<(), Failure> {
        let mut batch = WriteBatch::default();
        for (key, value) in (first_key..).zip(values.chunks(self.shape.block_bytes)) {
            batch.put(ordered(key), value);
        }
        self.database.write(batch).map_err(failed)
    }

    fn write(&self, key: u64, value: &[u8]) -> Result<(), Failure> {
        self.database.put_opt(ordered(key), value, &self.synced).map_err(failed)
    }

    fn read(&self, key: u64) -> Result<Vec<u8>, Failure> {
        self.database.get(ordered(key)).map_err(failed)?.ok_or_else(|| missing(key))
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.database.flush_wal(true).map_err(failed)
    }
}
