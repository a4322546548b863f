//! What the tests of the storage engine stand on: a pool of its own, and a model of one inode.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dynamicfs::check::image::ReadAt;
use dynamicfs::check::{Depth, Image, Report, check};
use dynamicfs::engine::config::{MemoryConfig, ReactorsConfig};
use dynamicfs::{
    EngineConfig, FormatOptions, InodeId, InodeOptions, Overwrite, StorageEngine, StoreTicket,
};

use crate::rig::{HANG, Numbers, Scratch};

/// What the checker says of the disks of a pool that nobody has open, all of their data read.
pub(crate) fn checked<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Report {
    let images: Vec<Vec<u8>> = paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut reads: Vec<_> = (images.iter())
        .map(|bytes| {
            move |offset: u64, buffer: &mut [u8]| {
                buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
                Ok(())
            }
        })
        .collect();
    let sizes = images.iter().map(|bytes| bytes.len() as u64);
    let disks = sizes.zip(&mut reads).map(|(bytes, read)| (bytes, read as ReadAt<'_>));
    check(&mut Image::of_disks(disks), Depth::Data)
}

/// A file with a pool, in a directory of its own.
pub(crate) struct Pool {
    pub(crate) config: EngineConfig,
    _scratch: Option<Scratch>,
}

/// A small engine on a disk: one reactor, little memory.
pub(crate) fn small(path: &Path) -> EngineConfig {
    let mut config = EngineConfig::on_disk(path);
    config.io.reactors = ReactorsConfig { count: Some(1), ..ReactorsConfig::default() };
    config.io.memory = MemoryConfig { arena_mib_per_node: 48, ..MemoryConfig::default() };
    config.journal.writeback_mib = 4;
    config.pool.domains = Some(1);
    config
}

impl Pool {
    /// On a new file of so many MiB, with a configuration changed by `change`.
    pub(crate) fn on_file(mib: u64, change: impl FnOnce(&mut EngineConfig)) -> Pool {
        let scratch = Scratch::new();
        let mut config = small(&scratch.path().join("pool"));
        change(&mut config);
        let options = FormatOptions { create_bytes: Some(mib << 20), ..FormatOptions::default() };
        StorageEngine::format(&config, options).unwrap_or_else(|error| panic!("{error}"));
        Pool { config, _scratch: Some(scratch) }
    }

    /// On a device that is there.
    pub(crate) fn on_device(path: &Path) -> Pool {
        let config = small(path);
        let options = FormatOptions { overwrite: Overwrite::Yes, ..FormatOptions::default() };
        StorageEngine::format(&config, options).unwrap_or_else(|error| panic!("{error}"));
        Pool { config, _scratch: None }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.config.io.disks[0].path.clone()
    }

    pub(crate) fn open(&self) -> StorageEngine {
        StorageEngine::open(self.config.clone()).unwrap_or_else(|error| panic!("{error}"))
    }
}

pub(crate) fn close(engine: &StorageEngine) {
    engine.close(HANG).unwrap_or_else(|error| panic!("{error}"));
}

pub(crate) fn create(engine: &StorageEngine) -> InodeId {
    settle(engine.create_inode(InodeOptions::default()))
}

/// The answer, which is no error, and not after too long.
pub(crate) fn settle<T>(ticket: StoreTicket<T>) -> T {
    let until = std::time::Instant::now() + HANG;
    match ticket.wait_until(until) {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => panic!("{error}"),
        Err(_) => panic!("a ticket hangs"),
    }
}

pub(crate) fn read(engine: &StorageEngine, inode: InodeId, offset: u64, len: u64) -> Vec<u8> {
    settle(engine.read(inode, offset..offset + len)).to_vec()
}

/// Bytes that tell where and when they were written.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&numbers.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// An inode and what should be in it.
pub(crate) struct Modelled {
    pub(crate) inode: InodeId,
    pub(crate) bytes: Vec<u8>,
    pub(crate) span: u64,
}

impl Modelled {
    pub(crate) fn new(engine: &StorageEngine, span: u64) -> Modelled {
        Modelled { inode: create(engine), bytes: Vec::new(), span }
    }

    /// One change of any kind, or a read that is compared.
    pub(crate) fn step(&mut self, engine: &StorageEngine, numbers: &mut Numbers) {
        let offset = numbers.below(self.span);
        let len = match numbers.below(3) {
            0 => numbers.below(600),
            1 => numbers.below(20_000),
            _ => numbers.below(self.span / 4),
        };
        let end = (offset + len).min(self.span);
        match numbers.below(10) {
            0..=4 => {
                let data = pattern(numbers.next(), (end - offset) as usize);
                settle(engine.write(self.inode, offset, &data));
                self.wrote(offset, &data);
            }
            5 => {
                let data = pattern(numbers.next(), (end - offset) as usize);
                let mut transaction = engine.transaction(self.inode);
                transaction.write_zeroes(0..offset).write(offset, &data);
                settle(transaction.commit());
                self.zeroed(0, offset);
                self.wrote(offset, &data);
            }
            6 => {
                settle(engine.discard(self.inode, offset..end));
                self.zeroed(offset, end);
            }
            7 => {
                settle(engine.truncate(self.inode, offset));
                self.bytes.resize(offset as usize, 0);
            }
            _ => assert_eq!(read(engine, self.inode, offset, end - offset), self.part(offset, end)),
        }
    }

    fn wrote(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = offset as usize + data.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[offset as usize..end].copy_from_slice(data);
    }

    fn zeroed(&mut self, from: u64, to: u64) {
        let len = self.bytes.len();
        self.bytes[(from as usize).min(len)..(to as usize).min(len)].fill(0);
    }

    fn part(&self, from: u64, to: u64) -> &[u8] {
        let len = self.bytes.len();
        &self.bytes[(from as usize).min(len)..(to as usize).min(len)]
    }

    /// All of it is as it should be.
    pub(crate) fn check(&self, engine: &StorageEngine) {
        assert_eq!(settle(engine.stat(self.inode)).size_bytes, self.bytes.len() as u64);
        let found = read(engine, self.inode, 0, self.span);
        let wrong = found.iter().zip(&self.bytes).position(|(found, wanted)| found != wanted);
        assert_eq!((wrong, found.len()), (None, self.bytes.len()), "inode {}", self.inode);
    }
}

/// Runs a closure on several threads and joins them.
pub(crate) fn side_by_side(threads: u64, work: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = (0..threads).map(|n| scope.spawn(move || work(n))).collect();
        handles.into_iter().for_each(|handle| handle.join().unwrap());
    });
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < HANG, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
