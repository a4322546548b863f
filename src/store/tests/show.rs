//! What pools of many disks do, in the simulator's virtual time: the processor costs nothing there,
//! so it is the disks that are measured, and how well they are used. A disk here has at most
//! [`DEPTH`] requests at a time; what it takes for one is drawn anew each time.

use crate::format::removals::SlotFate;
use crate::io::op::DiskId;
use crate::scheduler::limits::SchedulerConfig;
use crate::sim::{Random, SimDiskConfig};
use crate::store::assembly::Missing;
use crate::store::call::{Call, Durability, Reply, Step};
use crate::store::domain::{DomainConfig, Inline};
use crate::store::tests::attach::{arrive, come, in_sync};
use crate::store::tests::removal::{fate, leave};
use crate::store::tests::widen;
use crate::store::tests::world::{Asked, Setup, World};

const DEPTH: u32 = 8;
/// Bytes of an inode that are worked on.
const INODE_BYTES: u64 = 8 << 20;

fn pool(disks: usize, domains: u16) -> Setup {
    let default = Setup::default();
    let disk = SimDiskConfig { size_bytes: 256 << 20, ..default.disk };
    let config = DomainConfig {
        inline_when: Inline::Idle,
        requests_max: 128,
        table_pages_per_chunk: 512,
        batch_bytes_max: 4 << 20,
        write_back_bytes: 4 << 20,
        locks_max: 1 << 13,
        ..default.config
    };
    let arena =
        crate::memory::Arena::new(256 << 20, crate::machine::mapping::PagePolicy::Normal, None, 0);
    let arena = arena.expect("there is memory");
    let scheduler = SchedulerConfig { depth: Some(DEPTH), ..SchedulerConfig::default() };
    Setup { disk, disks, domains, config, scheduler, arena, ..Setup::default() }
}

/// What is asked again and again.
#[derive(Clone, Copy)]
enum Load {
    Reads,
    Writes(usize),
}

/// Asks one after another from so many places at once, and keeps how long each took.
struct Callers {
    inodes: Vec<u64>,
    load: Load,
    asked: Vec<(Asked, u64)>,
    random: Random,
    times: Vec<u64>,
}

impl Callers {
    fn new(world: &mut World, inodes: &[u64], load: Load, callers: usize) -> Callers {
        let random = Random::new(3);
        let (inodes, asked, times) = (inodes.to_vec(), Vec::new(), Vec::new());
        let mut all = Callers { inodes, load, asked, random, times };
        for caller in 0..callers {
            let asked = all.ask(world, caller);
            all.asked.push(asked);
        }
        all
    }

    fn ask(&mut self, world: &mut World, caller: usize) -> (Asked, u64) {
        let inode = self.inodes[caller % self.inodes.len()];
        let call = match self.load {
            Load::Reads => {
                world.read_call(inode, self.random.below(INODE_BYTES / 4096) * 4096, 4096)
            }
            Load::Writes(bytes) => {
                let offset = self.random.below(INODE_BYTES / bytes as u64) * bytes as u64;
                let payload = world.payload(offset, &vec![7; bytes]);
                let (steps, durability) = (vec![Step::Write(payload)], Durability::Committed);
                Call::Change { inode, steps, durability }
            }
        };
        (world.ask(world.domain_of(inode), call), world.sim.now_ns())
    }

    /// One step of the simulation, and new calls for those that were answered.
    fn step(&mut self, world: &mut World) {
        assert!(world.sim.step(), "something is always under way");
        for caller in 0..self.asked.len() {
            match world.answer(&mut self.asked[caller].0) {
                None => continue,
                Some(Reply::Changed(_) | Reply::Read(_)) => {}
                Some(other) => panic!("{other:?}"),
            }
            self.times.push(world.sim.now_ns() - self.asked[caller].1);
            self.asked[caller] = self.ask(world, caller);
        }
    }

    /// So many calls; how many a second there were.
    fn rate(&mut self, world: &mut World, calls: usize) -> f64 {
        let (begun, before) = (world.sim.now_ns(), self.times.len());
        while self.times.len() < before + calls {
            self.step(world);
        }
        calls as f64 * 1e9 / (world.sim.now_ns() - begun) as f64
    }

    /// Nanoseconds that so many in a thousand of the calls do not exceed, of those since a number.
    fn quantile(&self, since: usize, per_mille: usize) -> u64 {
        let mut times = self.times[since..].to_vec();
        times.sort_unstable();
        times[times.len() * per_mille / 1000]
    }
}

/// An inode of each domain, written.
fn filled(world: &mut World) -> Vec<u64> {
    let domains = usize::from(world.setup.domains);
    let inodes: Vec<u64> = (0..domains).map(|domain| world.create(domain).unwrap()).collect();
    for inode in &inodes {
        for offset in (0..INODE_BYTES).step_by(1 << 20) {
            world.write(*inode, offset, &vec![5; 1 << 20]).unwrap();
        }
    }
    inodes
}

/// Calls a second of a pool, with so many callers for each disk.
fn rate(setup: &Setup, load: Load, per_disk: usize, calls: usize) -> f64 {
    let mut world = World::new(setup, 11);
    let inodes = filled(&mut world);
    let mut callers = Callers::new(&mut world, &inodes, load, per_disk * setup.disks);
    callers.rate(&mut world, calls / 4);
    callers.rate(&mut world, calls)
}

/// What a disk does at a flush.
#[derive(Clone, Copy, Debug)]
enum Flushes {
    /// Its cache outlives a loss of power, as that of disks for servers: 10 to 30 us.
    Fast,
    /// As the simulator's disks do: 0.1 to 3 ms.
    Slow,
}

impl Flushes {
    fn of(self, setup: Setup) -> Setup {
        let command_ns = match self {
            Flushes::Fast => 10_000..=30_000,
            Flushes::Slow => setup.disk.command_ns,
        };
        Setup { disk: SimDiskConfig { command_ns, ..setup.disk }, ..setup }
    }
}

#[test]
fn disks_beside_each_other_do_as_many_times_as_much() {
    // A commit flushes each disk that it wrote to and waits for the slowest, and for flushes of
    // other domains that were under way there. Flushes that take from 0.1 to 3 ms cost much of what
    // more disks give: those rows only have a floor.
    for (name, load, flushes, share) in [
        ("reads of 4 KiB", Load::Reads, Flushes::Slow, 0.9),
        ("durable writes of 64 KiB", Load::Writes(64 << 10), Flushes::Fast, 0.9),
        ("durable writes of 64 KiB", Load::Writes(64 << 10), Flushes::Slow, 0.3),
        ("durable writes of 4 KiB", Load::Writes(4096), Flushes::Fast, 0.5),
        ("durable writes of 4 KiB", Load::Writes(4096), Flushes::Slow, 0.25),
    ] {
        let pool = |disks: usize| flushes.of(pool(disks, disks as u16));
        let (callers, calls) = match load {
            Load::Reads => (32, 4_000),
            Load::Writes(_) => (48, 2_000),
        };
        let one = rate(&pool(1), load, callers, calls);
        eprintln!("{name}, {flushes:?} flushes: {one:.0} a second with one disk (virtual time)");
        for disks in [2, 4, 8] {
            let all = rate(&pool(disks), load, callers, calls * disks);
            let times = all / one;
            eprintln!("{name}, {flushes:?} flushes: {all:.0} with {disks}, {times:.2} times");
            assert!(times >= share * disks as f64, "{name}: {times:.2} times with {disks} disks");
        }
    }
}

/// What one disk of several that has become slow takes from all, when the journal is elsewhere.
#[test]
fn a_slow_disk_gets_less_work() {
    let run = |slow: Option<(usize, u64)>, (bytes, writers): (usize, usize)| {
        let setup = Setup { slow, ..Flushes::Fast.of(pool(4, 1)) };
        let mut world = World::new(&setup, 11);
        let inodes = filled(&mut world);
        let mut callers = Callers::new(&mut world, &inodes, Load::Writes(bytes), writers);
        callers.rate(&mut world, 1_000);
        let since = callers.times.len();
        let rate = callers.rate(&mut world, 4_000);
        (rate, callers.quantile(since, 500), callers.quantile(since, 990))
    };
    for load in [(64 << 10, 32), (256 << 10, 60), (1 << 20, 24)] {
        let (even, p50, p99) = run(None, load);
        let (uneven, slow_p50, slow_p99) = run(Some((3, 50)), load);
        let (kib, writers) = (load.0 >> 10, load.1);
        eprintln!(
            "{writers} durable writers of {kib} KiB, 4 disks: {even:.0} a second, p50 {} us, p99 \
             {} us; one 50 times slower: {uneven:.0}, p50 {} us, p99 {} us (virtual time)",
            p50 / 1000,
            p99 / 1000,
            slow_p50 / 1000,
            slow_p99 / 1000
        );
        // As much as the other three do, but for what shows that it is still slow.
        assert!(uneven > even * 0.6, "{uneven:.0} of {even:.0} a second");
    }
}

/// One disk that is nowhere near its depth: each domain commits by itself, but for waiting for
/// flushes of others, which begin with the writes of their records.
#[test]
fn domains_beside_each_other_commit_as_many_times_as_often() {
    let commits = |domains: u16| {
        let scheduler = SchedulerConfig { depth: Some(128), ..SchedulerConfig::default() };
        let setup = Setup { scheduler, ..Flushes::Fast.of(pool(1, domains)) };
        let setup = Setup { reactors: usize::from(domains), ..setup };
        let mut world = World::new(&setup, 11);
        let inodes = filled(&mut world);
        let callers = 8 * usize::from(domains);
        let mut callers = Callers::new(&mut world, &inodes, Load::Writes(4096), callers);
        callers.rate(&mut world, 200);
        callers.rate(&mut world, 1_000 * usize::from(domains))
    };
    let one = commits(1);
    eprintln!("writes of 4 KiB: {one:.0} a second with one domain (virtual time)");
    for (domains, wanted) in [(2, 1.3), (4, 1.8)] {
        let times = commits(domains) / one;
        eprintln!("writes of 4 KiB: {times:.2} times with {domains} domains");
        assert!(times >= wanted, "{times:.2} times with {domains} domains");
    }
}

/// How long reads take while a disk is brought into sync, at what rate.
#[test]
fn a_rebuild_leaves_readers_alone() {
    let run = |mib_per_second: Option<u32>| {
        let setup = Setup { mirrors: 2, spares: 1, missing: Missing::Accept, ..pool(1, 1) };
        let mut world = World::new(&setup, 5);
        let inodes = filled(&mut world);
        world.sim.with_disk(DiskId(1), |disk| disk.unplug());
        world.write(inodes[0], 0, &[1; 4096]).unwrap();
        assert_eq!(in_sync(&world), 1);
        let mut readers = Callers::new(&mut world, &inodes, Load::Reads, 4);
        readers.rate(&mut world, 2_000);
        let (p50, p99) = (readers.quantile(0, 500), readers.quantile(0, 990));
        if let Some(mib) = mib_per_second {
            world.disks().sync.set(None, Some(mib), 1);
        }
        let coming = come(&mut world, 1, true);
        let _asked = arrive(&mut world, &coming);
        let (begun, before) = (world.sim.now_ns(), readers.times.len());
        while in_sync(&world) < 2 {
            readers.step(&mut world);
        }
        let seconds = (world.sim.now_ns() - begun) as f64 / 1e9;
        let rate = INODE_BYTES as f64 / seconds / (1 << 20) as f64;
        let beside = (readers.quantile(before, 500), readers.quantile(before, 990));
        eprintln!(
            "rebuild at {rate:.1} MiB/s (limit {mib_per_second:?}): reads p50 {} -> {} us, p99 {} \
             -> {} us (virtual time)",
            p50 / 1000,
            beside.0 / 1000,
            p99 / 1000,
            beside.1 / 1000
        );
        (rate, p99, beside.1)
    };
    let (free, before, beside) = run(None);
    assert!(beside <= before * 2, "p99 {before} ns alone, {beside} ns beside a rebuild");
    let (limited, ..) = run(Some(4));
    assert!(limited <= 4.4 && limited < free, "{limited} MiB/s of 4");
}

/// Blocks of each slot that have an owner, and all of them.
fn fill(world: &mut World) -> Vec<(u64, u64)> {
    let mut fill = Vec::new();
    for domain in 0..usize::from(world.setup.domains) {
        for slot in world.status(domain).slots {
            let number = usize::from(slot.slot);
            fill.resize(fill.len().max(number + 1), (0, 0));
            let (used, blocks) = &mut fill[number];
            (*used, *blocks) = (*used + slot.used_blocks, *blocks + slot.blocks);
        }
    }
    fill
}

/// How full slots of one size are when one has come to them, and what each got of what is written.
#[test]
fn a_slot_that_comes_fills_and_is_no_hot_spot() {
    const STEP: u64 = 16 << 20;
    let mut setup = Setup { spares: 1, ..pool(3, 2) };
    setup.disk.size_bytes = 64 << 20;
    let mut world = World::new(&setup, 5);
    let inodes = [world.create(0).unwrap(), world.create(1).unwrap()];
    let mut at = 0;
    let write = |world: &mut World, at: &mut u64, bytes: u64| {
        for _ in 0..bytes / 2 / 65_536 {
            for inode in inodes {
                world.write(inode, *at, &[5; 65_536]).unwrap();
            }
            *at += 65_536;
        }
    };
    let show = |before: &[(u64, u64)], after: &[(u64, u64)]| {
        let percent = |part: u64, of: u64| 100.0 * part as f64 / of as f64;
        let full: Vec<f64> = after.iter().map(|(used, blocks)| percent(*used, *blocks)).collect();
        let got: Vec<u64> =
            after.iter().zip(before).map(|(a, b)| a.0.saturating_sub(b.0)).collect();
        let all = got.iter().sum::<u64>().max(1);
        let got: Vec<f64> = got.into_iter().map(|got| percent(got, all)).collect();
        eprintln!("slots are {full:.0?} % full, and got {got:.0?} % of what was written");
        (full, got)
    };
    write(&mut world, &mut at, 6 * STEP);
    let mut before = fill(&mut world);
    let (full, _) = show(&[(0, 1); 3], &before);
    assert!(full.iter().all(|one| (one - full[0]).abs() < 5.0), "{full:?}");
    let widened = widen::start(&mut world);
    assert_eq!(widen::finish(&mut world, &widened), Ok(3));
    before.push((0, 0));
    for _ in 0..4 {
        write(&mut world, &mut at, STEP);
        let after = fill(&mut world);
        let (_, got) = show(&before, &after);
        // More than the others, and not all.
        assert!(got[..3].iter().all(|other| *other < got[3]), "{got:?}");
        assert!(got[3] < 75.0, "{got:?}");
        before = after;
    }
}

/// How fast a slot leaves, and how long reads take meanwhile.
#[test]
fn a_slot_leaves_beside_readers() {
    let run = |mib_per_second: Option<u32>| {
        let mut world = World::new(&pool(3, 2), 5);
        let inodes = filled(&mut world);
        for at in (INODE_BYTES..64 << 20).step_by(1 << 20) {
            for inode in &inodes {
                world.write(*inode, at, &vec![5; 1 << 20]).unwrap();
            }
        }
        let mut readers = Callers::new(&mut world, &inodes, Load::Reads, 4);
        readers.rate(&mut world, 2_000);
        let before = readers.quantile(0, 990);
        if let Some(mib) = mib_per_second {
            world.disks().sync.set(None, Some(mib), 2);
        }
        let blocks = fill(&mut world)[0].0;
        let (begun, since) = (world.sim.now_ns(), readers.times.len());
        leave(&mut world, 0);
        while fate(&world, 0) != SlotFate::Gone {
            assert!(world.sim.now_ns() < begun + 60_000_000_000, "it leaves");
            readers.step(&mut world);
        }
        let seconds = (world.sim.now_ns() - begun) as f64 / 1e9;
        let (mib, beside) =
            ((blocks * 4096) as f64 / (1 << 20) as f64, readers.quantile(since, 990));
        let rate = mib / seconds;
        eprintln!(
            "a slot with {mib:.1} MiB leaves in {seconds:.2} s, {rate:.1} MiB/s (limit \
             {mib_per_second:?}): reads p99 {} -> {} us (virtual time)",
            before / 1000,
            beside / 1000
        );
        (rate, before, beside)
    };
    let (free, before, beside) = run(None);
    assert!(beside <= before * 3 / 2, "p99 {before} ns alone, {beside} ns beside it");
    let (limited, ..) = run(Some(16));
    // Nobody waits for the last of it to have been due.
    assert!((12.0..18.0).contains(&limited) && limited < free, "{limited} MiB/s of 16");
}

/// Opening after a crash takes as long with many disks as with one, for as much on each.
#[test]
fn many_disks_are_recovered_beside_each_other() {
    let recovered = |disks: usize, domains: u16, reactors: usize| {
        let setup = Setup { reactors, ..pool(disks, domains) };
        let mut world = World::new(&setup, 9);
        let inodes = filled(&mut world);
        let callers = 4 * usize::from(domains);
        let mut callers = Callers::new(&mut world, &inodes, Load::Writes(4096), callers);
        callers.rate(&mut world, 200 * usize::from(domains));
        let disks = world.sim.crash(1);
        let world = World::open(&setup, 2, disks).unwrap();
        let records: u64 = world.reports.iter().map(|report| report.records).sum();
        (world.sim.now_ns() - world.judged_ns, world.judged_ns, records)
    };
    let (one, labels, records) = recovered(1, 1, 1);
    let ms = |ns: u64| ns as f64 / 1e6;
    let shown = |of: &str, (all, labels, records): (u64, u64, u64)| {
        let (all, labels) = (ms(all), ms(labels));
        eprintln!("{of}: {records} records in {all:.1} ms, labels before in {labels:.1} (virtual)");
    };
    shown("1 disk, 1 domain", (one, labels, records));
    for (disks, domains) in [(8, 8), (24, 8), (24, 24)] {
        let (all, labels, records) = recovered(disks, domains, 4);
        shown(&format!("{disks} disks, {domains} domains"), (all, labels, records));
        assert!(all <= 4 * one, "{:.1} ms with {disks} disks", ms(all));
    }
}
