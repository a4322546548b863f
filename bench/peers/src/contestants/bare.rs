//! No engine: as many threads as writers, which write and make durable, no more and no less, on one
//! file that is wholly written.
//!
//! By `pwrite` and `fdatasync`, or by one `pwrite` with O_DSYNC. That is not what the disk can do:
//! nobody gathers writes of several threads. And it gives less than an engine does: a torn block
//! stays torn, nobody would notice.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::args::Shape;
use crate::contestants::{Contestant, Store};
use crate::failure::Failure;
use crate::writer::Aligned;

/// Past the page cache.
pub(crate) const DIRECT: Contestant = Contestant {
    name: "bare-direct",
    packages: &[],
    disk_bytes: |shape| shape.set_bytes,
    memory_bytes: |_| 0,
    open: |folder, shape| open(folder, shape, OFlag::O_DIRECT, Durable::BySync),
};

/// The same by one system call for each write.
pub(crate) const DSYNC: Contestant = Contestant {
    name: "bare-dsync",
    open: |folder, shape| open(folder, shape, OFlag::O_DIRECT | OFlag::O_DSYNC, Durable::ByWrite),
    ..DIRECT
};

/// Through the page cache; the sync writes it.
pub(crate) const CACHED: Contestant = Contestant {
    name: "bare-cached",
    open: |folder, shape| open(folder, shape, OFlag::empty(), Durable::BySync),
    ..DIRECT
};

/// What makes a write durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durable {
    /// `fdatasync` after it.
    BySync,
    /// The write itself, as the file was opened.
    ByWrite,
}

struct Bare {
    file: File,
    shape: Shape,
    durable: Durable,
}

fn open(
    folder: &Path,
    shape: Shape,
    flags: OFlag,
    durable: Durable,
) -> Result<Box<dyn Store>, Failure> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(flags.bits());
    let file = options.open(folder.join("file")).map_err(|error| {
        let help = "choose a --dir on a file system with O_DIRECT, or other contestants by --only";
        Failure::new(format!("its file cannot be opened: {error}"), help)
    })?;
    Ok(Box::new(Bare { file, shape, durable }))
}

impl Store for Bare {
    fn fill(&self, first_key: u64, values: &[u8]) -> Result<(), Failure> {
        let mut memory = Aligned::new(values.len());
        memory.bytes_mut().copy_from_slice(values);
        let written = self.file.write_all_at(memory.bytes(), self.shape.offset(first_key));
        written.map_err(|error| Failure::store("a write", error))
    }

    fn write(&self, key: u64, value: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all_at(value, self.shape.offset(key));
        let durable = written.and_then(|()| match self.durable {
            Durable::BySync => self.file.sync_data(),
            Durable::ByWrite => Ok(()),
        });
        durable.map_err(|error| Failure::store("a write", error))
    }

    fn read(&self, key: u64) -> Result<Vec<u8>, Failure> {
        let mut memory = Aligned::new(self.shape.block_bytes);
        let read = self.file.read_exact_at(memory.bytes_mut(), self.shape.offset(key));
        read.map_err(|error| Failure::store("a read", error))?;
        Ok(memory.bytes().to_vec())
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| Failure::store("a sync", error))
    }
}
