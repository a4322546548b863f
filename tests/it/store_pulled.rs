//! Of three disks that hold the same, one dies under load; another takes its place while the load
//! goes on, and is compared byte for byte with what was written. On loop devices, from outside.
//!
//! What a loop device can be made to die of while somebody has it open (Linux 6.18):
//!
//! | what is done to it | what happens |
//! | --- | --- |
//! | `losetup --detach` | nothing, until nobody has it open any more |
//! | its file is cut to nothing | reads fail; writes make the file longer again, and succeed as flushes do |
//! | the same, and `losetup --set-capacity` | reads and writes lie behind its end; flushes succeed |
//! | `fsfreeze` of its file's file system | writes are not answered |
//! | `mount -o remount,abort` of that file system | writes and flushes fail, reads do not |
//! | `EXT4_IOC_SHUTDOWN` of that file system | all of it fails at once, also what is under way |
//!
//! The last is what is nearest to a disk that is **pulled out**: the device stays, as large as it
//! was, and has nothing but errors for whoever has it open. The one before is a disk that **takes
//! no writes any more**, as flash does at the end of its life, and the one before that a disk that
//! **hangs**. A device that has lost its capacity is in `store_mirrors`.
//!
//! That a rebuild has copied is shown by inodes that are not written during it. Their bytes come to
//! the new disk by being copied alone, and what it had before is no byte of theirs: every byte of
//! it was written before it came. Each disk is opened without the others in the end.

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dynamicfs::engine::engine_config::ReadOnly;
use dynamicfs::{
    DiskConfig, DiskPlace, EngineConfig, Force, FormatOptions, InodeId, MirrorReport, MirrorState,
    Missing, Overwrite, StorageEngine,
};

use crate::mounted::Mounted;
use crate::pool::{checked, close, create, pattern, read, settle, small, until};
use crate::rig::{LoopDevice, Numbers, alongside, skipped, write_whole};
use crate::store_mirrors::until_every_place_is;

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 96 * MIB;
/// What of an inode is as one change left it, whatever came before and after.
const GRAIN_BYTES: u64 = 512;
const GRAINS_A_MIB: u64 = MIB / GRAIN_BYTES;
/// Each so many'th change of an inode leaves nothing.
const NOTHING_EVERY: u32 = 8;
/// Threads that change an inode.
const WRITERS: u64 = 4;
/// A phase in which the engine serves is so long, and so many changes and reads are answered in it.
const PHASE: Duration = Duration::from_millis(300);
const SERVED: u64 = 30;
/// MiB a second that are looked at to bring a disk into sync: some phases long.
const SYNC_RATE: u32 = 24;

static ONE: Mutex<()> = Mutex::new(());

/// A test has half a gigabyte of disks, which it writes: two beside each other wait for each other.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An inode in grains. Each tells its place, and by which change it came.
struct Field {
    inode: InodeId,
    /// Of each grain the newest change that was begun; one thread at a time changes it.
    begun: Vec<AtomicU32>,
    /// The newest that was acknowledged.
    done: Vec<AtomicU32>,
}

impl Field {
    /// Of so many MiB, all of it written but for the last quarter.
    fn new(engine: &StorageEngine, mib: u64) -> Field {
        let grains = mib * GRAINS_A_MIB;
        let versions = || (0..grains).map(|_| AtomicU32::new(0)).collect();
        let field = Field { inode: create(engine), begun: versions(), done: versions() };
        let step = GRAINS_A_MIB / 2;
        (0..grains / 4 * 3 / step).for_each(|n| field.change(engine, n * step..(n + 1) * step, 1));
        field.change(engine, grains - 1..grains, 1);
        field
    }

    fn grains(&self) -> u64 {
        self.done.len() as u64
    }

    /// What a grain has after a change.
    fn content(&self, grain: u64, version: u32) -> Vec<u8> {
        if version.is_multiple_of(NOTHING_EVERY) {
            return vec![0; GRAIN_BYTES as usize];
        }
        let seed = self.inode.0 << 56 | grain << 32 | u64::from(version);
        let mut bytes = pattern(seed, GRAIN_BYTES as usize);
        bytes[..8].copy_from_slice(&u64::from(version).to_le_bytes());
        bytes
    }

    fn change(&self, engine: &StorageEngine, grains: Range<u64>, version: u32) {
        let these = grains.start as usize..grains.end as usize;
        self.begun[these.clone()].iter().for_each(|begun| begun.store(version, Ordering::SeqCst));
        let (from, to) = (grains.start * GRAIN_BYTES, grains.end * GRAIN_BYTES);
        if version.is_multiple_of(NOTHING_EVERY) {
            settle(engine.discard(self.inode, from..to));
        } else {
            let bytes: Vec<u8> = grains.flat_map(|grain| self.content(grain, version)).collect();
            settle(engine.write(self.inode, from, &bytes));
        }
        self.done[these].iter().for_each(|done| done.store(version, Ordering::SeqCst));
    }

    /// Reads grains: each is as some change left it that may be the newest.
    fn check(&self, engine: &StorageEngine, grains: Range<u64>) {
        let these = grains.start as usize..grains.end as usize;
        let now = |of: &[AtomicU32]| -> Vec<u32> {
            of[these.clone()].iter().map(|version| version.load(Ordering::SeqCst)).collect()
        };
        let oldest = now(&self.done);
        let len = (grains.end - grains.start) * GRAIN_BYTES;
        let found = read(engine, self.inode, grains.start * GRAIN_BYTES, len);
        let newest = now(&self.begun);
        assert_eq!(found.len() as u64, len, "inode {} ends early", self.inode);
        let each = found.chunks(GRAIN_BYTES as usize).zip(oldest.into_iter().zip(newest));
        for (grain, (bytes, (oldest, newest))) in grains.zip(each) {
            self.hold(grain, bytes, oldest..=newest);
        }
    }

    fn hold(&self, grain: u64, bytes: &[u8], possible: RangeInclusive<u32>) {
        let said = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as u32;
        // A grain that has nothing does not say by which change.
        let version = match said {
            0 => possible.end() / NOTHING_EVERY * NOTHING_EVERY,
            said => said,
        };
        let inode = self.inode;
        let (is_one, is_whole) =
            (possible.contains(&version), bytes == self.content(grain, version));
        assert!(is_one && is_whole, "inode {inode} grain {grain}: {said}, possible {possible:?}");
    }

    /// All of it, when nobody changes it.
    fn check_all(&self, engine: &StorageEngine) {
        assert_eq!(settle(engine.stat(self.inode)).size_bytes, self.grains() * GRAIN_BYTES);
        let pieces = (0..self.grains()).step_by(GRAINS_A_MIB as usize);
        pieces.for_each(|from| self.check(engine, from..from + GRAINS_A_MIB));
    }
}

/// What threads do all the time, and how they are served.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    changes: AtomicU64,
    reads: AtomicU64,
    slowest_ns: AtomicU64,
}

/// Ends the load, whatever the thread dies of that watches it.
struct EndOf<'a>(&'a Load);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Load {
    fn repeat(&self, counter: &AtomicU64, mut what: impl FnMut()) {
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            what();
            self.slowest_ns.fetch_max(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Changes a part of an inode that nobody else changes.
    fn change(&self, engine: &StorageEngine, field: &Field, part: Range<u64>) {
        let mut numbers = Numbers(part.start ^ field.inode.0);
        let mut version = 1;
        self.repeat(&self.changes, || {
            version += 1;
            // A few bytes of a block, some blocks, several extents.
            let most = [6, 130, 600][numbers.below(3) as usize];
            let len = 1 + numbers.below(most);
            let first = part.start + numbers.below(part.end - part.start - len);
            field.change(engine, first..first + len, version);
        });
    }

    fn read(&self, engine: &StorageEngine, fields: &[Field], seed: u64) {
        let mut numbers = Numbers(seed);
        self.repeat(&self.reads, || {
            let field = &fields[numbers.below(fields.len() as u64) as usize];
            let len = 1 + numbers.below(300);
            let first = numbers.below(field.grains() - len);
            field.check(engine, first..first + len);
        });
    }

    /// Waits until more was changed and read. Nobody is answered with an error, or so would its
    /// thread say.
    fn goes_on(&self, when: &str) {
        let now = || [&self.changes, &self.reads].map(|count| count.load(Ordering::Relaxed));
        let before = now();
        let begun = Instant::now();
        until(&format!("nobody is served {when}"), || {
            let is_served = now().iter().zip(before).all(|(now, before)| *now >= before + SERVED);
            is_served && begun.elapsed() >= PHASE
        });
    }
}

/// What the disk dies of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Pulled,
    TakesNoWrites,
    Hangs,
}

/// A loop device over a file in a file system of its own, so that it can die.
struct Disk {
    device: Option<LoopDevice>,
    under: Mounted,
}

impl Disk {
    fn new() -> Option<Disk> {
        let under = Mounted::new(DISK_BYTES / MIB + 32)?;
        write_whole(&under.join("disk"), DISK_BYTES);
        let device = LoopDevice::of_large_sectors(&under.join("disk"))?;
        Some(Disk { device: Some(device), under })
    }

    fn path(&self) -> &Path {
        self.device.as_ref().unwrap().path()
    }

    /// False where it cannot be done, said on stderr.
    fn kill(&self, how: Death) -> bool {
        let is_done = match how {
            Death::Pulled => self.under.end().is_ok(),
            Death::TakesNoWrites => self.under.abort(),
            Death::Hangs => self.under.freeze(),
        };
        if !is_done {
            skipped("a file system cannot be ended, aborted or frozen here");
        }
        is_done
    }

    /// It is there again, with what it had.
    fn revive(&mut self) {
        self.device = None;
        assert!(self.under.revive());
        self.device = LoopDevice::of_large_sectors(&self.under.join("disk"));
    }
}

/// A pool of the first three of some disks.
struct Disks {
    all: Vec<Disk>,
    config: EngineConfig,
}

impl Disks {
    fn new(count: usize, how: Death) -> Option<Disks> {
        let all: Vec<Disk> = (0..count).map(|_| Disk::new()).collect::<Option<_>>()?;
        let mut config = small(all[0].path());
        config.pool.domains = Some(2);
        config.pool.mirrors = Some(3);
        if how == Death::Hangs {
            // Longer than a device that lives lets one wait, also on a machine that has much to do.
            config.pool.hung_after_ms = 5000;
        }
        // So short that it is written around several times.
        config.journal.mib_per_domain = Some(2);
        config.io.reactors.count = Some(2);
        let mut disks = Disks { all, config };
        disks.config = disks.with(&[0, 1, 2]);
        StorageEngine::format(&disks.config, FormatOptions::default())
            .unwrap_or_else(|error| panic!("{error}"));
        Some(disks)
    }

    /// With these of its disks.
    fn with(&self, numbers: &[usize]) -> EngineConfig {
        let mut config = self.config.clone();
        let disk = |number: &usize| DiskConfig {
            path: self.all[*number].path().to_path_buf(),
            ..config.io.disks[0].clone()
        };
        config.io.disks = numbers.iter().map(disk).collect();
        config
    }

    fn path(&self, number: usize) -> &Path {
        self.all[number].path()
    }

    /// What the engine says of a disk.
    fn report(&self, engine: &StorageEngine, number: usize) -> MirrorReport {
        let status = engine.status().unwrap();
        assert_eq!(status.labels_failed, None);
        let path = self.path(number);
        let found = status.disks.into_iter().find(|disk| disk.path == path);
        found.unwrap_or_else(|| panic!("{} is no disk of the pool", path.display()))
    }

    /// A disk dies and is taken out. False when it cannot die here.
    fn lose(&self, engine: &StorageEngine, number: usize, how: Death) -> bool {
        assert_ne!(self.report(engine, number).state, MirrorState::Out);
        if !self.all[number].kill(how) {
            return false;
        }
        let died = Instant::now();
        let is_out = || self.report(engine, number).state == MirrorState::Out;
        until("the disk that died is not taken out", is_out);
        eprintln!("{how:?}: out after {:?}", died.elapsed());
        true
    }

    /// Another one takes the place of the first, and begins to get what it lacks.
    fn attach(&self, engine: &StorageEngine, number: usize) {
        let place = DiskPlace { slot: 0, mirror: 0 };
        let new = engine.attach_disk(self.path(number), Some(place), Overwrite::No);
        let new = new.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((new.slot, new.mirror, new.state), (0, 0, MirrorState::Syncing));
    }

    /// The checker says so, and each of these disks by itself has every byte.
    fn are_whole(&self, numbers: &[usize], fields: &[Field]) {
        let report = checked(numbers.iter().map(|number| self.path(*number)));
        assert!(report.is_consistent() && report.notes == 0, "{:?}", report.inconsistencies);
        for number in numbers {
            let mut alone = self.with(&[*number]);
            alone.pool.read_only = ReadOnly::Yes;
            let engine = StorageEngine::open_forced(alone, accepted()).unwrap();
            fields.iter().for_each(|field| field.check_all(&engine));
            close(&engine);
        }
    }

    /// All that is left of the pool is this disk, which is used.
    fn is_used_alone(&self, number: usize, fields: &[Field]) {
        let engine = StorageEngine::open_forced(self.with(&[number]), accepted()).unwrap();
        for field in fields {
            let version = field.done[0].load(Ordering::SeqCst) + NOTHING_EVERY + 1;
            field.change(&engine, 0..field.grains() / 3, version);
            field.check_all(&engine);
        }
        close(&engine);
    }
}

fn accepted() -> Force {
    Force { missing: Missing::Accept, ..Force::default() }
}

/// A pool with two inodes that the load changes and two that it reads alone: of each, one in either
/// domain.
fn filled(disks: &Disks) -> (StorageEngine, Vec<Field>) {
    let engine = StorageEngine::open(disks.config.clone()).unwrap();
    let fields = [12, 12, 8, 8].map(|mib| Field::new(&engine, mib));
    (engine, fields.into())
}

/// Changes the first two inodes, and reads all, while something is done.
fn under_load<T>(engine: &StorageEngine, fields: &[Field], work: impl FnOnce(&Load) -> T) -> T {
    let load = Load::default();
    let done = std::thread::scope(|scope| {
        let end = EndOf(&load);
        let load = &load;
        let (changed, quiet) = fields.split_at(2);
        let mut threads = Vec::new();
        for field in changed {
            let each = field.grains() / WRITERS;
            for n in 0..WRITERS {
                let part = n * each..(n + 1) * each;
                threads.push(scope.spawn(move || load.change(engine, field, part)));
            }
        }
        for (seed, fields) in (1..).zip([changed, quiet]) {
            threads.push(scope.spawn(move || load.read(engine, fields, seed)));
        }
        let done = work(load);
        drop(end);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        done
    });
    let [changes, reads, slowest_ns] =
        [load.changes, load.reads, load.slowest_ns].map(AtomicU64::into_inner);
    eprintln!("{changes} changes, {reads} reads, the slowest took {} ms", slowest_ns / 1_000_000);
    done
}

/// All of it can be read, and nothing was ever found that no disk had.
fn check(engine: &StorageEngine, fields: &[Field]) {
    fields.iter().for_each(|field| field.check_all(engine));
    let domains = engine.metrics().unwrap().domains;
    assert!(domains.iter().all(|domain| domain.counters.corrupt_blocks == 0), "{domains:?}");
}

fn copied_all(new: &MirrorReport, fields: &[Field]) {
    let quiet: u64 = fields[2..].iter().map(|field| field.grains() * GRAIN_BYTES / 4 * 3).sum();
    assert!(new.sync_copied * 4096 >= quiet, "{quiet} bytes were not written again: {new:?}");
    assert_eq!(new.sync_lost, 0);
}

/// The first disk dies, is taken out, and a fourth gets everything, all of it while others are
/// served. False when it cannot die here.
fn replace(engine: &StorageEngine, disks: &Disks, how: Death, load: &Load) -> bool {
    load.goes_on("before");
    if !disks.lose(engine, 0, how) {
        return false;
    }
    load.goes_on("by two disks");
    if how == Death::TakesNoWrites {
        // As fast as it can, from the first moment on.
        disks.attach(engine, 3);
    } else {
        engine.sync_order(Some(true), Some(SYNC_RATE));
        disks.attach(engine, 3);
        load.goes_on("while a disk is there that lacks much");
        assert_eq!(disks.report(engine, 3).state, MirrorState::Syncing);
        engine.sync_order(Some(false), None);
        load.goes_on("while that is copied");
    }
    until_every_place_is(engine, 3);
    load.goes_on("by three disks again");
    true
}

fn one_dies_and_is_replaced(how: Death) {
    let (_alongside, _alone) = (alongside(), one_at_a_time());
    let Some(mut disks) = Disks::new(4, how) else { return };
    let (engine, fields) = filled(&disks);
    // Whatever hangs, not for ever.
    let hangs = how == Death::Hangs;
    let watchdog = hangs.then(|| disks.all[0].under.thaw_after(Duration::from_secs(45)));
    let is_done = under_load(&engine, &fields, |load| replace(&engine, &disks, how, load));
    disks.all[0].under.thaw();
    drop(watchdog);
    if !is_done {
        return;
    }
    check(&engine, &fields);
    copied_all(&disks.report(&engine, 3), &fields);
    close(&engine);
    drop(engine);
    disks.are_whole(&[3, 1, 2], &fields);
    if how == Death::Pulled {
        is_put_back_in(&mut disks, &fields);
        disks.is_used_alone(0, &fields);
    } else {
        disks.is_used_alone(3, &fields);
    }
}

/// The disk that was pulled out is not taken for what it was: neither beside the one that has its
/// place, nor without that one, until it has been brought what it lacks.
fn is_put_back_in(disks: &mut Disks, fields: &[Field]) {
    disks.all[0].revive();
    let engine = StorageEngine::open(disks.with(&[0, 1, 2, 3])).unwrap();
    let (status, old) = (engine.status().unwrap(), disks.path(0));
    let told = |note: &String| note.contains(&*old.to_string_lossy()) && note.contains("not used");
    assert!(status.pool.notes.iter().any(told), "{:?}", status.pool.notes);
    assert!(status.disks.iter().all(|disk| disk.path != old), "{:?}", status.disks);
    check(&engine, fields);
    close(&engine);
    drop(engine);

    let engine = StorageEngine::open(disks.with(&[0, 1, 2])).unwrap();
    check(&engine, fields);
    until_every_place_is(&engine, 3);
    assert!(disks.report(&engine, 0).sync_copied > 0, "it has what it never got");
    close(&engine);
    drop(engine);
    disks.are_whole(&[0, 1, 2], fields);
}

#[test]
fn a_disk_is_pulled_out_under_load_replaced_and_put_back_in() {
    one_dies_and_is_replaced(Death::Pulled);
}

#[test]
fn a_disk_takes_no_writes_any_more_and_is_replaced_under_load() {
    one_dies_and_is_replaced(Death::TakesNoWrites);
}

#[test]
fn a_disk_hangs_and_is_replaced_under_load() {
    one_dies_and_is_replaced(Death::Hangs);
}

/// The new disk dies while it gets what it lacks, and so does one that the next is brought it from:
/// one is left that has everything, and from it another one is rebuilt.
#[test]
fn disks_are_pulled_out_while_they_are_rebuilt_and_rebuilt_from() {
    let (_alongside, _alone) = (alongside(), one_at_a_time());
    let Some(disks) = Disks::new(5, Death::Pulled) else { return };
    let (engine, fields) = filled(&disks);
    let is_done = under_load(&engine, &fields, |load| {
        engine.sync_order(None, Some(SYNC_RATE));
        if !disks.lose(&engine, 0, Death::Pulled) {
            return false;
        }
        for (new, dies) in [(3, 3), (4, 1)] {
            disks.attach(&engine, new);
            until("nothing is copied", || disks.report(&engine, new).sync_copied > 500);
            assert!(disks.lose(&engine, dies, Death::Pulled));
            load.goes_on("by what is left");
        }
        engine.sync_order(None, Some(0));
        until_every_place_is(&engine, 2);
        load.goes_on("by two disks");
        true
    });
    if !is_done {
        return;
    }
    check(&engine, &fields);
    copied_all(&disks.report(&engine, 4), &fields);
    close(&engine);
    drop(engine);
    disks.are_whole(&[4, 2], &fields);
    disks.is_used_alone(4, &fields);
}
