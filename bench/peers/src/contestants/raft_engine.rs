//! raft-engine: TiKV's log of many Raft groups, which has keys and values of each group, too. It
//! commits in groups by itself.
//!
//! A key is one of such a group. Its values stay in memory and their log is written anew when it
//! has grown to four working sets, by a thread that asks for it as TiKV's does. Logs are used
//! again, and some are written before the start, so that a sync finds nothing of the file system
//! to commit. No compression.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ::raft_engine::{Config, Engine, Error, LogBatch, ReadableSize};

use crate::args::Shape;
use crate::contest::QUIET;
use crate::contestants::{Contestant, Store, missing, ordered};
use crate::failure::Failure;

/// The row.
pub(crate) const CONTESTANT: Contestant =
    Contestant { name: "raft-engine", packages: &["raft-engine"], disk_bytes, memory_bytes, open };

/// Groups that the keys are dealt to: each has a lock of its own.
const GROUPS: u64 = 256;
/// Bytes of the log, in working sets, from which on it is written anew.
const PURGE_SETS: u64 = 4;
/// But not below this: a log is made of files of 128 MiB.
const PURGE_BYTES_MIN: u64 = 512 << 20;
/// Memory beside the values.
const BATCHES_BYTES: u64 = 64 << 20;
/// How often that is asked: several times in [`QUIET`], the time that decides that nobody works any
/// more, so that work that is due begins before the next turn and not in it. Below the threshold
/// the question is a look at two sizes.
const PURGE_EVERY: Duration = Duration::from_millis(100);
const _: () = assert!(PURGE_EVERY.as_nanos() < QUIET.as_nanos());

fn purge_bytes(shape: Shape) -> u64 {
    (PURGE_SETS * shape.set_bytes).max(PURGE_BYTES_MIN)
}

/// Logs with what is kept for use again, and what was written anew.
fn disk_bytes(shape: Shape) -> u64 {
    2 * purge_bytes(shape) + 4 * shape.set_bytes
}

/// All values, each with what finds it, and batches.
fn memory_bytes(shape: Shape) -> u64 {
    shape.set_bytes + shape.set_bytes / 4 + BATCHES_BYTES
}

struct RaftEngine {
    engine: Arc<Engine>,
    shape: Shape,
    /// Dropped to end the thread.
    going: Sender<()>,
    purger: JoinHandle<Result<(), Error>>,
}

fn open(folder: &Path, shape: Shape) -> Result<Box<dyn Store>, Failure> {
    let directory = folder.join("logs");
    let Some(dir) = directory.to_str() else {
        return Err(Failure::new("its directory's name is not UTF-8", "choose another --dir"));
    };
    let config = Config {
        dir: dir.to_owned(),
        batch_compression_threshold: ReadableSize(0),
        purge_threshold: ReadableSize(purge_bytes(shape)),
        enable_log_recycle: true,
        prefill_for_recycle: true,
        ..Config::default()
    };
    let engine = Engine::open(config);
    let engine = Arc::new(engine.map_err(|error| Failure::store("it cannot be opened", error))?);
    let (going, ended) = channel::<()>();
    let purged = Arc::clone(&engine);
    let purge = move || {
        while ended.recv_timeout(PURGE_EVERY) == Err(RecvTimeoutError::Timeout) {
            purged.purge_expired_files()?;
        }
        Ok(())
    };
    let purger = std::thread::Builder::new().name("raft-engine purge".into()).spawn(purge);
    let purger = purger.map_err(|error| Failure::store("no thread for the purge", error))?;
    Ok(Box::new(RaftEngine { engine, shape, going, purger }))
}

fn group(key: u64) -> u64 {
    key % GROUPS + 1
}

fn failed(error: Error) -> Failure {
    Failure::store("a request", error)
}

impl Store for RaftEngine {
    fn fill(&self, first_key: u64, values: &[u8]) -> Result<(), Failure> {
        let mut batch = LogBatch::default();
        for (key, value) in (first_key..).zip(values.chunks(self.shape.block_bytes)) {
            batch.put(group(key), ordered(key).to_vec(), value.to_vec()).map_err(failed)?;
        }
        self.engine.write(&mut batch, false).map(drop).map_err(failed)
    }

    fn write(&self, key: u64, value: &[u8]) -> Result<(), Failure> {
        let mut batch = LogBatch::with_capacity(1);
        batch.put(group(key), ordered(key).to_vec(), value.to_vec()).map_err(failed)?;
        self.engine.write(&mut batch, true).map(drop).map_err(failed)
    }

    fn read(&self, key: u64) -> Result<Vec<u8>, Failure> {
        self.engine.get(group(key), &ordered(key)).ok_or_else(|| missing(key))
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        drop(self.going);
        let ended = self.purger.join();
        ended
            .unwrap_or_else(|_| Err(Error::Other("its thread panicked".into())))
            .map_err(|error| Failure::store("the purge", error))
        // No sync: every write was synced, and its own sync of an empty batch does nothing.
    }
}
