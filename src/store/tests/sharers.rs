//! Many writers and readers of one inode at a time, with a journal and memory that are always
//! short, and flushes that fail.
//!
//! The inode is cut into slots of a block, each with one writer at a time. A slot holds a version,
//! repeated all over it: whoever reads must find one version, whole, not older than what was
//! acknowledged before the read began and not newer than what was begun before it ended.

use crate::io::op::{DiskId, OpKind};
use crate::sim::{Fault, FaultRule, Random, for_each_seed};
use crate::store::call::{Call, Durability, Reply, Step};
use crate::store::domain::Inline;
use crate::store::error::Certainty;
use crate::store::tests::world::{Asked, Setup, World};

const SLOTS: u64 = 48;
/// Slots are as many bytes apart: five in an extent, and holes between them.
const STRIDE: u64 = 3 * 4096;
const WRITERS: usize = 8;
const READERS: usize = 4;

#[derive(Clone, Copy, Default)]
struct Slot {
    /// The newest acknowledged version; 0 is a hole.
    acknowledged: u64,
    /// Begun, and neither acknowledged nor certainly out.
    begun: Option<u64>,
}

struct Write {
    slot: u64,
    version: u64,
    asked: Asked,
}

struct Read {
    slot: u64,
    /// Acknowledged before it began.
    oldest: u64,
    asked: Asked,
}

struct Sharers {
    domain: usize,
    inode: u64,
    slots: Vec<Slot>,
    versions: u64,
    writes: Vec<Write>,
    reads: Vec<Read>,
    failed: u64,
}

fn block(slot: u64, version: u64) -> Vec<u8> {
    (slot << 32 | version).to_le_bytes().repeat(512)
}

/// The version that a block holds, all over.
fn version_in(slot: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    let first = words.next().unwrap();
    assert!(words.all(|word| word == first), "slot {slot} is torn");
    assert!(first == 0 || first >> 32 == slot, "slot {slot} holds {first:#x}");
    first & 0xffff_ffff
}

impl Sharers {
    fn new(world: &mut World, domain: usize) -> Sharers {
        let inode = world.create(domain).unwrap();
        let slots = vec![Slot::default(); SLOTS as usize];
        let (writes, reads) = (Vec::new(), Vec::new());
        Sharers { domain, inode, slots, versions: 0, writes, reads, failed: 0 }
    }

    fn begin_write(&mut self, world: &mut World, random: &mut Random) {
        let slot = random.below(SLOTS);
        if self.slots[slot as usize].begun.is_some() {
            return;
        }
        self.versions += 1;
        let version = self.versions;
        self.slots[slot as usize].begun = Some(version);
        let payload = world.payload(slot * STRIDE, &block(slot, version));
        let (steps, durability) = (vec![Step::Write(payload)], Durability::Committed);
        let asked = world.ask(self.domain, Call::Change { inode: self.inode, steps, durability });
        self.writes.push(Write { slot, version, asked });
    }

    fn begin_read(&mut self, world: &mut World, random: &mut Random) {
        let slot = random.below(SLOTS);
        let call = world.read_call(self.inode, slot * STRIDE, 4096);
        let oldest = self.slots[slot as usize].acknowledged;
        self.reads.push(Read { slot, oldest, asked: world.ask(self.domain, call) });
    }

    /// Takes the answers that are there.
    fn settle(&mut self, world: &mut World) {
        for mut read in std::mem::take(&mut self.reads) {
            match world.answer(&mut read.asked) {
                None => self.reads.push(read),
                Some(Reply::Read(bytes)) => self.check_read(&read, &bytes),
                Some(other) => panic!("slot {}: {other:?}", read.slot),
            }
        }
        for mut write in std::mem::take(&mut self.writes) {
            let slot = &mut self.slots[write.slot as usize];
            match world.answer(&mut write.asked) {
                None => self.writes.push(write),
                Some(Reply::Changed(Some(_))) => {
                    *slot = Slot { acknowledged: write.version, begun: None };
                }
                Some(Reply::Failed(error)) => {
                    self.failed += 1;
                    if error.certainty() == Certainty::Out {
                        slot.begun = None;
                    }
                }
                Some(other) => panic!("slot {}: {other:?}", write.slot),
            }
        }
    }

    fn check_read(&self, read: &Read, bytes: &[u8]) {
        // What is beyond the size is not there.
        let found = if bytes.is_empty() { 0 } else { version_in(read.slot, bytes) };
        let slot = self.slots[read.slot as usize];
        let newest = slot.begun.unwrap_or(0).max(slot.acknowledged);
        let fits = (read.oldest..=newest).contains(&found);
        assert!(fits, "slot {}: {found} is not in {}..={newest}", read.slot, read.oldest);
    }

    fn begin(&mut self, world: &mut World, random: &mut Random) {
        if self.writes.len() < WRITERS && random.below(3) == 0 {
            self.begin_write(world, random);
        }
        if self.reads.len() < READERS && random.below(3) == 0 {
            self.begin_read(world, random);
        }
    }

    /// Runs until all is answered. What is served then has one owner for every block.
    fn finish(&mut self, world: &mut World) {
        let until = world.sim.now_ns() + 60_000_000_000;
        while !(self.writes.is_empty() && self.reads.is_empty()) {
            let waiting = (self.writes.len(), self.reads.len());
            assert!(
                world.sim.now_ns() < until,
                "{waiting:?} hang: {:?}",
                world.status(self.domain)
            );
            let now = world.sim.now_ns();
            world.sim.run_until(now + 1_000_000, |_| false);
            self.settle(world);
        }
        if world.status(self.domain).stopped.is_none() {
            self.check(world);
        }
    }

    /// Reads everything; what may be there or not is decided by that.
    fn check(&mut self, world: &mut World) {
        let size = world.size(self.inode).unwrap();
        for number in 0..SLOTS {
            let bytes = world.read(self.inode, number * STRIDE, 4096).unwrap();
            let found = if bytes.is_empty() { 0 } else { version_in(number, &bytes) };
            let slot = &mut self.slots[number as usize];
            let fits = found == slot.acknowledged || Some(found) == slot.begun;
            assert!(fits, "slot {number}: {found}, not {} or {:?}", slot.acknowledged, slot.begun);
            *slot = Slot { acknowledged: found, begun: None };
            let end = number * STRIDE + 4096;
            assert!(found == 0 || end <= size, "slot {number} ends behind the size {size}");
        }
    }
}

fn short_of_everything(seed: u64, random: &mut Random) -> Setup {
    let mut setup = Setup::default().varied(random);
    let config = &mut setup.config;
    config.checkpoint_percent = 2 + random.below(10);
    config.write_back_bytes = 4096 * (1 + random.below(40));
    config.urgent_percent = config.checkpoint_percent + random.below(20);
    if seed.is_multiple_of(4) {
        config.inline_when = Inline::Idle;
    }
    setup
}

/// Both or all inodes, side by side.
fn run(world: &mut World, all: &mut [Sharers], random: &mut Random, steps: u64) {
    for _ in 0..steps {
        all.iter_mut().for_each(|sharers| sharers.begin(world, random));
        if !world.sim.step() {
            let now = world.sim.now_ns();
            world.sim.run_until(now + 100_000, |_| false);
        }
        all.iter_mut().for_each(|sharers| sharers.settle(world));
    }
}

fn share(seed: u64, (domains, disks): (u16, usize), flushes_fail: bool) -> u64 {
    let mut random = Random::new(seed);
    let mut setup = short_of_everything(seed, &mut random);
    (setup.domains, setup.reactors, setup.disks) = (domains, domains.into(), disks);
    let mut world = World::new(&setup, seed);
    let mut all: Vec<Sharers> =
        (0..domains.into()).map(|domain| Sharers::new(&mut world, domain)).collect();
    for round in 0..4 {
        if flushes_fail {
            let fault = Fault::Errno(libc::EIO);
            let kind = if random.coin() { OpKind::Flush } else { OpKind::Write };
            let rule = FaultRule::nth(kind, random.below(60), fault);
            let disk = DiskId(random.below(disks as u64) as u16);
            world.sim.with_faults(disk, |faults| faults.rules.push(rule));
        }
        let steps = 50 + random.below(1500);
        run(&mut world, &mut all, &mut random, steps);
        if random.coin() {
            all.iter_mut().for_each(|sharers| sharers.finish(&mut world));
            let mut domains = 0..usize::from(domains);
            if domains.all(|domain| world.status(domain).stopped.is_none()) {
                world.audit();
            }
        }
        let disks = world.sim.crash(random.next_u64());
        world = World::open(&setup, random.next_u64(), disks)
            .unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        for sharers in &mut all {
            sharers.writes.clear();
            sharers.reads.clear();
            sharers.check(&mut world);
        }
        world.audit();
    }
    all.iter().map(|sharers| sharers.failed).sum()
}

#[test]
fn writers_and_readers_share_an_inode_through_crashes() {
    for_each_seed("writers_and_readers_share_an_inode", 60, |seed| {
        assert_eq!(share(seed, (1, 1), false), 0, "nothing fails");
    });
}

#[test]
fn writers_and_readers_share_an_inode_while_flushes_fail() {
    let failed = std::cell::Cell::new(0);
    for_each_seed("writers_and_readers_share_an_inode_while", 60, |seed| {
        failed.set(failed.get() + share(seed, (1, 1), true));
    });
    assert!(failed.get() > 0, "a fault hits a commit now and then");
}

#[test]
fn a_flush_that_fails_in_one_domain_loses_nothing_of_another() {
    for_each_seed("a_flush_that_fails_in_one_domain", 60, |seed| {
        share(seed, (2, 1), true);
    });
}

#[test]
fn a_flush_or_write_that_fails_on_one_disk_of_several_loses_nothing() {
    let failed = std::cell::Cell::new(0);
    for_each_seed("a_flush_or_write_that_fails_on_one_disk", 60, |seed| {
        let (domains, disks) = (1 + (seed % 3) as u16, 2 + (seed / 3 % 3) as usize);
        failed.set(failed.get() + share(seed, (domains, disks), true));
    });
    assert!(failed.get() > 0, "a fault hits a commit now and then");
}

/// Cause: extents of one read that lost their races were read under their locks beside each other.
/// Harm: the order of locks was broken, which ends the domain in a debug build. Fix: one lock at a
/// time.
#[test]
fn a_read_of_many_extents_that_loses_its_races_holds_one_lock_at_a_time() {
    const EXTENTS: u64 = 8;
    let mut setup = Setup::default();
    (setup.disk.read_ns, setup.disk.write_ns) = (4_000_000..=5_000_000, 1_000..=2_000);
    (setup.disk.command_ns, setup.config.inline_when) = (1_000..=2_000, Inline::Idle);
    (setup.config.inline_bytes_per_write, setup.config.write_back_bytes) = (0, 0);
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    let write = |world: &mut World, extent: u64, version: u64| {
        let payload = world.payload(extent << 16, &block(extent, version));
        let (steps, durability) = (vec![Step::Write(payload)], Durability::Committed);
        world.ask(0, Call::Change { inode, steps, durability })
    };
    for extent in 0..EXTENTS {
        world.write(inode, extent << 16, &vec![0; 1 << 16]).unwrap();
    }
    let mut writes: Vec<Asked> = (0..EXTENTS).map(|extent| write(&mut world, extent, 1)).collect();
    let bytes = (EXTENTS << 16) as usize;
    let mut version = 1;
    for _ in 0..2 {
        let call = world.read_call(inode, 0, bytes);
        let mut read = world.ask(0, call);
        let answer = loop {
            for (extent, asked) in writes.iter_mut().enumerate() {
                if let Some(reply) = world.answer(asked) {
                    assert!(matches!(reply, Reply::Changed(_)), "{reply:?}");
                    version += 1;
                    *asked = write(&mut world, extent as u64, version);
                }
            }
            if let Some(reply) = world.answer(&mut read) {
                break reply;
            }
            assert!(world.sim.step(), "the read ends");
        };
        let Reply::Read(found) = answer else { panic!("{answer:?}") };
        for extent in 0..EXTENTS {
            version_in(extent, &found[(extent << 16) as usize..][..4096]);
        }
    }
    assert!(world.status(0).counters.reads_locked > EXTENTS, "races were lost");
}

/// Cause: a block with a wrong sum was counted before it was looked whether it was the extent's
/// still. Harm: where reads were slow, and their blocks somebody else's by the time they were read,
/// a pool without a fault said for good that it had lost data. Fix: what is wrong counts while the
/// extent stands.
#[test]
fn a_read_whose_blocks_are_given_to_somebody_else_finds_nothing_corrupt() {
    const EXTENT_BYTES: usize = 1 << 16;
    let mut setup = Setup::default();
    (setup.disk.read_ns, setup.disk.write_ns) = (5_000_000..=6_000_000, 1_000..=2_000);
    setup.disk.command_ns = 1_000..=2_000;
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    let write = |world: &mut World, version: u64| {
        let content: Vec<u8> = (0..16).flat_map(|n| block(n, version)).collect();
        let (steps, durability) =
            (vec![Step::Write(world.payload(0, &content))], Durability::Committed);
        world.ask(0, Call::Change { inode, steps, durability })
    };
    let mut version = 1;
    let first = write(&mut world, version);
    assert!(matches!(world.wait(first), Reply::Changed(_)));
    let mut asked = write(&mut world, version);
    for _ in 0..3 {
        let call = world.read_call(inode, 0, EXTENT_BYTES);
        let mut read = world.ask(0, call);
        let answer = loop {
            if let Some(reply) = world.answer(&mut asked) {
                assert!(matches!(reply, Reply::Changed(_)), "{reply:?}");
                version += 1;
                asked = write(&mut world, version);
            }
            if let Some(reply) = world.answer(&mut read) {
                break reply;
            }
            assert!(world.sim.step(), "the read ends");
        };
        let Reply::Read(found) = answer else { panic!("{answer:?}") };
        for (bytes, n) in found.chunks(4096).zip(0..) {
            assert!(version_in(n, bytes) > 0, "there was something at any time");
        }
    }
    let counters = world.status(0).counters;
    assert!(counters.reads_again > 3, "{counters:?}");
    assert_eq!(counters.corrupt_blocks, 0);
}
