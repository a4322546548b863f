//! Pools whose slots have several disks: what one of them does is nobody's loss.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::check::{Depth, Finding, Severity};
use crate::format::layout::Zone;
use crate::io::op::{DiskId, OpKind};
use crate::machine::mapping::PagePolicy;
use crate::memory::Arena;
use crate::sim::{Fault, FaultRule, Random, SimDisk, for_each_seed};
use crate::store::assembly::Missing;
use crate::store::call::{Call, Reply};
use crate::store::error::StoreError;
use crate::store::member::MirrorState;
use crate::store::scrub::{ScrubOrder, ScrubState};
use crate::store::tests::checked::{checked, consistent, digest_of};
use crate::store::tests::crashes::{crash_and_go_on, enough_recoveries, run_workload};
use crate::store::tests::model::Model;
use crate::store::tests::world::{Setup, World};

/// Slots, mirrors, domains and reactors by seed.
pub(super) fn mirrored(seed: u64) -> Setup {
    Setup {
        disks: 1 + (seed % 3) as usize,
        mirrors: 2 + (seed / 3 % 2) as usize,
        domains: 1 + (seed / 6 % 3) as u16,
        reactors: 1 + (seed / 18 % 2) as usize,
        ..Setup::default()
    }
}

#[test]
fn pools_of_mirrors_survive_crashes() {
    for_each_seed("pools_of_mirrors_survive_crashes", 40, |seed| {
        crash_and_go_on(seed, &mirrored(seed), 6);
    });
    enough_recoveries("mirrors");
}

pub(super) fn states(world: &World) -> Vec<MirrorState> {
    let mirrors = world.disks().members.iter().flat_map(|member| member.mirrors.iter());
    mirrors.map(|mirror| mirror.state()).collect()
}

/// One disk fails anything at any time, or goes away: nothing is refused, nothing is lost, and the
/// others open without it.
#[test]
fn a_disk_that_dies_at_any_moment_costs_nothing() {
    let fenced = AtomicU64::new(0);
    for_each_seed("a_disk_that_dies_at_any_moment", 80, |seed| {
        let mut random = Random::new(seed ^ 0xdead);
        let setup = mirrored(seed).varied(&mut random);
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 10);
        let victim = DiskId(random.below(setup.disk_count() as u64) as u16);
        let kinds = [OpKind::Write, OpKind::WriteDsync, OpKind::Flush, OpKind::Read];
        match random.below(3) {
            0 => world.sim.with_disk(victim, |disk| disk.unplug()),
            1 => {
                let rule = FaultRule {
                    skip: random.below(20),
                    ..FaultRule::every(*random.pick(&kinds), Fault::Errno(libc::EIO))
                };
                world.sim.with_faults(victim, |faults| faults.rules.push(rule));
            }
            _ => {
                let rule =
                    FaultRule::nth(*random.pick(&kinds), random.below(20), Fault::Errno(libc::EIO));
                world.sim.with_faults(victim, |faults| faults.rules.push(rule));
            }
        }
        model.refuses_nothing = true;
        run_workload(&mut world, &mut model, &mut random, 40);
        model.refuses_nothing = false;
        fenced.fetch_add(world.disks().membership.fenced(), Ordering::Relaxed);
        let mut disks = world.sim.crash(random.next_u64());
        for disk in &mut disks {
            if disk.is_gone() && random.coin() {
                disk.plug(&mut random);
            }
        }
        let mut world = World::open(&setup, random.next_u64(), disks)
            .unwrap_or_else(|error| panic!("the others open: {error:?}"));
        model.check(&mut world);
        run_workload(&mut world, &mut model, &mut random, 20);
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        world.audit();
    });
    assert!(fenced.load(Ordering::Relaxed) > 20, "disks were taken out");
}

/// What rots on a disk is answered by another, and written again.
#[test]
fn what_rots_on_one_disk_is_read_from_another_and_mended() {
    let mended = AtomicU64::new(0);
    for_each_seed("what_rots_on_one_disk", 40, |seed| {
        let mut random = Random::new(seed ^ 0x0707);
        let setup = Setup { mirrors: 2, ..mirrored(seed) };
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 60);
        if random.coin() {
            world.close();
        }
        let mut disks = world.sim.crash(random.next_u64());
        for slot in 0..setup.disks {
            // Never both of a slot.
            let victim = &mut disks[slot * 2 + random.below(2) as usize];
            for _ in 0..40 {
                let at = (2 << 20) + random.below(setup.disk.size_bytes - (4 << 20));
                victim.flip_bit(at, random.below(8) as u8);
            }
            let data = setup.layout().zone(Zone::Data);
            let used = data.clone().step_by(4096);
            let used: Vec<u64> =
                used.filter(|at| victim.read(*at, 4096).iter().any(|byte| *byte != 0)).collect();
            for at in used {
                if random.below(3) == 0 {
                    victim.flip_bit(at + random.below(4096), random.below(8) as u8);
                }
            }
        }
        let mut world = World::open(&setup, random.next_u64(), disks)
            .unwrap_or_else(|error| panic!("one of each slot is whole: {error:?}"));
        model.check(&mut world);
        let now = world.sim.now_ns();
        world.sim.run_until(now + 2_000_000_000, |_| false);
        let of_domains = 0..usize::from(setup.domains);
        let wrong: u64 =
            of_domains.clone().map(|domain| world.status(domain).counters.copies_wrong).sum();
        let again: u64 =
            of_domains.clone().map(|domain| world.status(domain).counters.extents_mended).sum();
        let lost: u64 = of_domains.map(|domain| world.status(domain).counters.corrupt_blocks).sum();
        assert_eq!(lost, 0, "another disk has it right");
        assert_eq!(wrong, again, "all that was found is written again");
        mended.fetch_add(again, Ordering::Relaxed);
        // Nothing wrong is left to be found.
        model.check(&mut world);
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        assert!(states(&world).iter().all(|state| *state == MirrorState::InSync));
        let now = world.sim.now_ns();
        world.sim.run_until(now + 2_000_000_000, |_| false);
        world.audit();
    });
    assert!(mended.load(Ordering::Relaxed) > 50, "extents were mended");
}

/// Old images of a disk, from whenever, are never read.
#[test]
fn an_old_image_of_a_disk_never_answers() {
    for_each_seed("an_old_image_of_a_disk_never_answers", 30, |seed| {
        let mut random = Random::new(seed ^ 0x01d);
        let setup = mirrored(seed);
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        let mut images = Vec::new();
        for _ in 0..3 {
            run_workload(&mut world, &mut model, &mut random, 15);
            let disks = world.sim.crash(random.next_u64());
            images.push(disks.clone());
            world = World::open(&setup, random.next_u64(), disks).unwrap();
            model.check(&mut world);
        }
        run_workload(&mut world, &mut model, &mut random, 15);
        let mut disks = world.sim.crash(random.next_u64());
        let victim = random.below(setup.disk_count() as u64) as usize;
        disks[victim] = random.pick(&images)[victim].clone();
        let others = setup.disk_count() - 1;
        match World::open(&setup, random.next_u64(), disks) {
            Ok(mut world) => {
                assert!(2 * others > setup.disk_count());
                assert_eq!(states(&world)[victim], MirrorState::Syncing);
                model.check(&mut world);
                world.audit();
            }
            // Half of a pool of two: its owner has to say that the other is nowhere in use.
            Err(error) => {
                assert_eq!(others, 1, "{error:?}");
            }
        }
    });
}

/// A pool that was used without one of its disks: all of them, which one it was, and that as it was
/// before.
fn without_one(
    setup: &Setup,
    seed: u64,
    random: &mut Random,
    model: &mut Model,
) -> (Vec<SimDisk>, usize, SimDisk) {
    let mut world = World::new(setup, seed);
    run_workload(&mut world, model, random, 30);
    let mut disks = world.sim.crash(random.next_u64());
    let victim = random.below(setup.disk_count() as u64) as usize;
    let image = std::mem::replace(&mut disks[victim], SimDisk::new(setup.disk.clone()));
    let mut world = World::open(setup, random.next_u64(), disks).unwrap();
    model.check(&mut world);
    run_workload(&mut world, model, random, 30);
    (world.sim.crash(random.next_u64()), victim, image)
}

/// Runs until every disk is in sync.
fn until_in_sync(world: &mut World) {
    let disks = world.shared();
    let until = world.sim.now_ns() + 60_000_000_000;
    world.sim.run_until(until, |_| {
        let mut mirrors = disks.members.iter().flat_map(|member| member.mirrors.iter());
        mirrors.all(|mirror| mirror.state() == MirrorState::InSync)
    });
    assert!(states(world).iter().all(|state| *state == MirrorState::InSync), "in sync in the end");
}

/// Faults stop, and redundancy returns by itself, under load: a disk that was away, an old image of
/// it, or a new one in its place gets all that it lacks, crashes meanwhile or not. Then it alone is
/// the pool.
#[test]
fn a_disk_that_comes_back_gets_what_it_lacks_and_can_stand_alone() {
    let copied = AtomicU64::new(0);
    for_each_seed("a_disk_that_comes_back_gets_what_it_lacks", 60, |seed| {
        let mut random = Random::new(seed ^ 0xbac);
        let setup = Setup { missing: Missing::Accept, ..mirrored(seed) };
        let mut model = Model::default();
        let (mut disks, victim, image) = without_one(&setup, seed, &mut random, &mut model);
        disks[victim] = match seed % 2 {
            0 => image,
            _ => World::replaced(&setup, random.next_u64(), &mut disks, victim),
        };
        // Cut short now and then.
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        assert_eq!(states(&world)[victim], MirrorState::Syncing);
        for _ in 0..random.below(3) {
            model.check(&mut world);
            let ops = random.below(10);
            run_workload(&mut world, &mut model, &mut random, ops);
            let disks = world.sim.crash(random.next_u64());
            world = World::open(&setup, random.next_u64(), disks).unwrap();
        }
        model.check(&mut world);
        run_workload(&mut world, &mut model, &mut random, 30);
        until_in_sync(&mut world);
        let slot = &world.disks().members[victim / setup.mirrors];
        let mirror = slot.mirrors.iter().nth(victim % setup.mirrors).unwrap();
        copied.fetch_add(mirror.sync_copied.load(Ordering::Relaxed), Ordering::Relaxed);
        run_workload(&mut world, &mut model, &mut random, 10);
        let mut disks = world.sim.crash(random.next_u64());
        consistent(&disks, "in sync again");
        // The others of its slot are gone.
        let slot = victim / setup.mirrors * setup.mirrors;
        for other in (slot..slot + setup.mirrors).filter(|other| *other != victim) {
            disks[other] = SimDisk::new(setup.disk.clone());
        }
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        world.audit();
    });
    assert!(copied.load(Ordering::Relaxed) > 100, "blocks were copied");
}

/// Labels that are raised are crashed between any two writes.
#[test]
fn openings_that_are_cut_short_leave_a_pool_that_opens() {
    for_each_seed("openings_that_are_cut_short", 30, |seed| {
        let mut random = Random::new(seed ^ 0x1abe1);
        let setup = mirrored(seed);
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 15);
        let mut disks = world.sim.crash(random.next_u64());
        for _ in 0..12 {
            let steps = random.below(150);
            disks = World::raise_in_part(&setup, random.next_u64(), disks, steps);
        }
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        assert!(states(&world).iter().all(|state| *state == MirrorState::InSync));
        model.check(&mut world);
    });
}

/// Every disk of a slot is a pool with the others, whenever it crashes: the checker, which looks at
/// each way to read it, finds nothing wrong. Closed, all say the same.
#[test]
fn every_mirror_is_a_pool_by_itself() {
    for_each_seed("every_mirror_is_a_pool_by_itself", 20, |seed| {
        let mut random = Random::new(seed ^ 0xc4ec);
        let setup = mirrored(seed);
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        for round in 0..5 {
            let ops = 1 + random.below(40);
            run_workload(&mut world, &mut model, &mut random, ops);
            let mut disks = world.sim.crash(random.next_u64());
            consistent(&disks, &format!("round {round}, crashed"));
            while random.below(3) == 0 {
                let steps = random.below(300);
                (disks, _) = World::recover_in_part(&setup, random.next_u64(), disks, steps);
                consistent(&disks, &format!("round {round}, interrupted"));
            }
            world = World::open(&setup, random.next_u64(), disks).unwrap();
            model.check(&mut world);
        }
        world.close();
        let disks = world.sim.crash(random.next_u64());
        let report = consistent(&disks, "closed");
        assert_eq!((report.digest, report.notes), (digest_of(&model), 0), "{report:?}");
        // What rots on one disk is named with it.
        let victim = random.below(setup.disk_count() as u64) as usize;
        let mut rotten = disks;
        let data = setup.layout().zone(Zone::Data);
        for at in data.step_by(4096) {
            rotten[victim].flip_bit(at + 77, 3);
        }
        let report = checked(&rotten, Depth::Data);
        let (slot, mirror) = ((victim / setup.mirrors) as u16, (victim % setup.mirrors) as u16);
        let placed = |finding: &&Finding| {
            finding.severity == Severity::Error && finding.site.offset.is_some()
        };
        let mut placed = report.inconsistencies.iter().filter(placed).peekable();
        assert!(placed.peek().is_some() || model.inodes.is_empty());
        for finding in placed {
            assert_eq!((finding.site.disk, finding.site.mirror), (slot, mirror), "{finding}");
        }
    });
}

/// A disk that answers nothing any more is taken out after a while, and keeps what memory it has;
/// everything goes on.
#[test]
fn a_disk_that_hangs_is_taken_out_and_everything_goes_on() {
    for_each_seed("a_disk_that_hangs_is_taken_out", 40, |seed| {
        let mut random = Random::new(seed ^ 0x4a46);
        // What the disk keeps is missing.
        let arena = Arena::new(16 << 20, PagePolicy::Normal, None, 0).unwrap();
        let setup = Setup { arena, ..mirrored(seed).varied(&mut random) };
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 10);
        let victim = DiskId(random.below(setup.disk_count() as u64) as u16);
        world.sim.with_faults(victim, |faults| {
            for kind in [OpKind::Write, OpKind::WriteDsync, OpKind::Flush, OpKind::Read] {
                faults.rules.push(FaultRule::every(kind, Fault::Hang));
            }
        });
        model.refuses_nothing = true;
        run_workload(&mut world, &mut model, &mut random, 60);
        let inode = world.create(0).expect("the others go on");
        world.write(inode, 0, &[7; 40_000]).expect("the others go on");
        assert_eq!(world.read(inode, 0, 40_000).unwrap(), [7; 40_000]);
        world.delete(inode).unwrap();
        for domain in 0..usize::from(setup.domains) {
            let status = world.status(domain);
            assert_eq!(status.stopped, None);
        }
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.refuses_nothing = false;
        model.check(&mut world);
        world.sim.with_faults(victim, |faults| faults.rules.clear());
        until_in_sync(&mut world);
        let now = world.sim.now_ns();
        world.sim.run_until(now + 2_000_000_000, |_| false);
        world.audit();
    });
}

/// The time of each of many reads of a pool with one slow disk, the longest ones last.
fn read_times(setup: &Setup, seed: u64) -> Vec<u64> {
    let mut random = Random::new(seed);
    let mut world = World::new(setup, seed);
    let inode = world.create(0).unwrap();
    world.write(inode, 0, &vec![5; 2 << 20]).unwrap();
    let mut times = Vec::new();
    for _ in 0..2000 {
        let begun = world.sim.now_ns();
        let offset = random.below(512) * 4096;
        assert_eq!(world.read(inode, offset, 4096).unwrap(), [5; 4096]);
        times.push(world.sim.now_ns() - begun);
    }
    assert!(states(&world).iter().all(|state| *state == MirrorState::InSync), "slow, not hung");
    times.sort_unstable();
    times
}

/// One disk of two takes fifty times as long: hardly any read does.
#[test]
fn a_slow_disk_makes_few_reads_slow() {
    for_each_seed("a_slow_disk_makes_few_reads_slow", 4, |seed| {
        let setup = Setup { mirrors: 2, hung_after_ns: 10_000_000_000, ..Setup::default() };
        let even = read_times(&setup, seed);
        let slow = Setup { slow: Some(((seed % 2) as usize, 50)), ..setup };
        let uneven = read_times(&slow, seed);
        let alone = read_times(&Setup { hedged_reads: false, ..slow }, seed);
        let at = |times: &[u64], per_mille: usize| times[times.len() * per_mille / 1000];
        for (name, per_mille) in [("p50", 500), ("p99", 990), ("p99.9", 999)] {
            let [even, uneven, alone] = [&even, &uneven, &alone].map(|times| at(times, per_mille));
            eprintln!("{name}: {even} ns even, {uneven} ns with a slow disk, {alone} ns unhedged");
        }
        assert!(at(&uneven, 500) <= at(&even, 500) * 2);
        assert!(at(&uneven, 990) <= at(&even, 990) * 2, "{} {}", at(&even, 990), at(&uneven, 990));
        assert!(at(&uneven, 999) * 2 <= at(&alone, 999), "the slow disk is waited for");
    });
}

/// Scrubs, and gives what was wrong and what is lost.
fn scrubbed(world: &mut World) -> (u64, u64) {
    let mut found = (0, 0);
    for domain in 0..usize::from(world.setup.domains) {
        let order = ScrubOrder::Start { bytes_per_second: 0, coalesce: false };
        while let Reply::Scrub(report) = world.call(domain, Call::Scrub(order))
            && report.state != ScrubState::Running
        {}
        let report = loop {
            let now = world.sim.now_ns();
            world.sim.run_until(now + 10_000_000, |_| false);
            let Reply::Scrub(report) = world.call(domain, Call::Scrub(ScrubOrder::Look)) else {
                panic!("it says what it has done")
            };
            if report.state == ScrubState::Finished {
                break report;
            }
        };
        found = (found.0 + report.wrong, found.1 + report.lost);
    }
    let now = world.sim.now_ns();
    world.sim.run_until(now + 2_000_000_000, |_| false);
    found
}

/// A scrub finds everything that rots on a disk, blocks, pages and records, and the next one finds
/// nothing; what it says is lost is what no disk has.
#[test]
fn a_scrub_finds_what_rots_and_mends_what_another_disk_has() {
    let (mended, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    for_each_seed("a_scrub_finds_what_rots", 40, |seed| {
        let mut random = Random::new(seed ^ 0x5c);
        let setup = Setup { mirrors: 1 + (seed % 2) as usize, ..mirrored(seed / 2) };
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 60);
        world.close();
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        assert_eq!(scrubbed(&mut world), (0, 0), "nothing is wrong yet");
        let data = setup.layout().zone(Zone::Data);
        let mut used = 0;
        for slot in 0..setup.disks {
            let victim = slot * setup.mirrors + random.below(setup.mirrors as u64) as usize;
            world.sim.with_disk(DiskId(victim as u16), |disk| {
                for at in data.clone().step_by(4096) {
                    let is_used = disk.read(at, 4096).iter().any(|byte| *byte != 0);
                    if is_used && random.below(2) == 0 {
                        disk.flip_bit(at + random.below(4096), random.below(8) as u8);
                        used += 1;
                    }
                }
            });
        }
        let (wrong, gone) = scrubbed(&mut world);
        assert!(wrong <= used, "each is found once");
        lost.fetch_add(gone, Ordering::Relaxed);
        if setup.mirrors == 1 {
            let again = scrubbed(&mut world);
            assert_eq!(again, (gone, gone), "what is lost stays so; pages are mended");
            return;
        }
        mended.fetch_add(wrong, Ordering::Relaxed);
        assert_eq!(gone, 0);
        assert_eq!(scrubbed(&mut world), (0, 0), "all is mended");
        model.check(&mut world);
        world.audit();
        world.close();
        let disks = world.sim.crash(random.next_u64());
        consistent(&disks, "after a scrub");
    });
    assert!(mended.load(Ordering::Relaxed) > 100 && lost.load(Ordering::Relaxed) > 100);
}

/// The journal's last records are torn on one disk and rotten on the other: together they are
/// whole.
#[test]
fn a_journal_that_is_rotten_on_one_disk_and_torn_on_the_other_is_whole() {
    for_each_seed("a_journal_rotten_here_and_torn_there", 20, |seed| {
        let mut random = Random::new(seed ^ 0x70);
        let setup = Setup { mirrors: 2, ..Setup::default() };
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 30);
        let now = world.sim.now_ns();
        // A seal: what is before it was acknowledged.
        world.sim.run_until(now + 1_000_000_000, |_| false);
        let mut disks = world.sim.crash(random.next_u64());
        let journal = setup.layout().zone(Zone::Journal(0));
        let heads: Vec<u64> = journal
            .step_by(4096)
            .filter(|at| {
                disks[0].read(*at, 8) == b"dynfsREC" && disks[1].read(*at, 8) == b"dynfsREC"
            })
            .collect();
        let (last, before) = (heads[heads.len() - 1], heads[heads.len() - 2]);
        disks[(seed % 2) as usize].overwrite(last, &[0; 4096]);
        disks[1 - (seed % 2) as usize].flip_bit(before + 100, 2);
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        world.audit();
    });
}

/// Of one commit's flushes the one on a disk fails, each in turn.
#[test]
fn a_disk_that_dies_between_the_flushes_of_a_commit_costs_nothing() {
    for_each_seed("a_disk_that_dies_between_flushes", 40, |seed| {
        let mut random = Random::new(seed ^ 0xf1);
        let setup = Setup { disks: 2, mirrors: 2, domains: 1, ..Setup::default() };
        let mut world = World::new(&setup, seed);
        let inode = world.create(0).unwrap();
        let victim = DiskId((seed % 4) as u16);
        world.write(inode, 0, &[1; 200_000]).unwrap();
        world.sim.with_faults(victim, |faults| {
            let rule = FaultRule::nth(OpKind::Flush, seed / 4 % 3, Fault::Errno(libc::EIO));
            faults.rules.push(FaultRule { times: u64::MAX, ..rule });
        });
        for round in 2..6u8 {
            world.write(inode, 0, &[round; 200_000]).expect("the others have it");
        }
        assert_eq!(states(&world)[usize::from(victim.0)], MirrorState::Out);
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        assert_eq!(world.read(inode, 0, 200_000).unwrap(), [5; 200_000]);
    });
}

/// Two disks of a slot fail: what is answered is right, whatever is refused.
#[test]
fn beyond_what_is_mirrored_an_answer_is_right_or_an_error() {
    for_each_seed("beyond_what_is_mirrored", 40, |seed| {
        let mut random = Random::new(seed ^ 0xd0);
        let setup = Setup { mirrors: 2, missing: Missing::Accept, ..mirrored(seed) };
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 20);
        for victim in [0, 1] {
            let kinds = [OpKind::Write, OpKind::WriteDsync, OpKind::Flush];
            let rule = FaultRule {
                skip: random.below(40),
                times: 1 + random.below(10),
                ..FaultRule::every(*random.pick(&kinds), Fault::Errno(libc::EIO))
            };
            world.sim.with_faults(DiskId(victim), |faults| faults.rules.push(rule));
        }
        run_workload(&mut world, &mut model, &mut random, 40);
        let mut disks = world.sim.crash(random.next_u64());
        if random.coin() {
            disks[0].flip_bit(2 << 20, 1);
        }
        if let Ok(mut world) = World::open(&setup, random.next_u64(), disks) {
            model.check(&mut world);
            world.audit();
        }
    });
}

/// A disk that is being brought into sync hangs, in whatever step: it is taken out, and what was
/// locked for it is let go.
#[test]
fn a_disk_that_hangs_while_it_is_brought_into_sync_stops_nobody() {
    for_each_seed("a_disk_that_hangs_while_it_is_brought_into_sync", 40, |seed| {
        let mut random = Random::new(seed ^ 0x4a47);
        let arena = Arena::new(16 << 20, PagePolicy::Normal, None, 0).unwrap();
        let setup = Setup { arena, missing: Missing::Accept, ..mirrored(seed) };
        let mut model = Model::default();
        let (mut disks, victim, image) = without_one(&setup, seed, &mut random, &mut model);
        disks[victim] = image;
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        world.sim.with_faults(DiskId(victim as u16), |faults| {
            for kind in [OpKind::Write, OpKind::WriteDsync, OpKind::Flush, OpKind::Read] {
                let rule = FaultRule::every(kind, Fault::Hang);
                faults.rules.push(FaultRule { skip: random.below(6), ..rule });
            }
        });
        model.refuses_nothing = true;
        run_workload(&mut world, &mut model, &mut random, 40);
        let now = world.sim.now_ns();
        world.sim.run_until(now + 3_000_000_000, |_| false);
        let inodes: Vec<u64> = model.inodes.keys().copied().collect();
        for inode in inodes {
            match world.write(inode, 0, &[9; 5000]) {
                Ok(_) | Err(StoreError::NoSuchInode { .. } | StoreError::Full { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let state = states(&world);
        let of_slot = |number: usize| number / setup.mirrors == victim / setup.mirrors;
        for (number, state) in state.into_iter().enumerate().filter(|(n, _)| of_slot(*n)) {
            assert!(number == victim || state == MirrorState::InSync);
        }
    });
}

/// Both halves were opened by force, and the owner decides for one: the other's records, however
/// far they went, never count.
#[test]
fn the_half_that_the_owner_decides_against_leaves_nothing_behind() {
    for_each_seed("the_half_that_the_owner_decides_against", 30, |seed| {
        let mut random = Random::new(seed ^ 0x4a1f);
        let setup = Setup {
            disks: 1,
            mirrors: 2,
            domains: 1 + (seed % 2) as u16,
            missing: Missing::Accept,
            ..Setup::default()
        };
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 20);
        let both = world.sim.crash(random.next_u64());
        let half = |kept: usize| {
            let mut disks = both.clone();
            disks[1 - kept] = SimDisk::new(setup.disk.clone());
            disks
        };
        // The other half goes on, further than this one will.
        let mut other = World::open(&setup, random.next_u64(), half(1)).unwrap();
        let mut others = model.clone();
        others.check(&mut other);
        run_workload(&mut other, &mut others, &mut random, 60 + seed % 60);
        if random.coin() {
            other.close();
        }
        let mut other = other.sim.crash(random.next_u64());
        let mut world = World::open(&setup, random.next_u64(), half(0)).unwrap();
        model.check(&mut world);
        run_workload(&mut world, &mut model, &mut random, 10);
        world.close();
        let mut disks = world.sim.crash(random.next_u64());
        disks[1] = other.remove(1);
        let apart = World::open(&setup, random.next_u64(), disks.clone());
        assert!(
            apart.is_err() || states(&apart.unwrap()).len() == 1,
            "they are not put together by themselves"
        );
        disks[1] = World::replaced_with(&setup, random.next_u64(), &mut disks, (1, None));
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        until_in_sync(&mut world);
        world.close();
        let mut disks = world.sim.crash(random.next_u64());
        consistent(&disks, "together again");
        disks[0] = SimDisk::new(setup.disk.clone());
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        world.audit();
    });
}

/// An old image of a disk is there, and openings are cut short: it is not called in sync by any of
/// them.
#[test]
fn an_old_image_is_not_called_in_sync_by_an_opening_that_is_cut_short() {
    for_each_seed("an_old_image_and_openings_cut_short", 40, |seed| {
        let mut random = Random::new(seed ^ 0x01d2);
        let setup = Setup { mirrors: 3, ..mirrored(seed) };
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 15);
        let disks = world.sim.crash(random.next_u64());
        let image = disks.clone();
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        run_workload(&mut world, &mut model, &mut random, 15);
        let mut disks = world.sim.crash(random.next_u64());
        let victim = random.below(setup.disk_count() as u64) as usize;
        disks[victim] = image[victim].clone();
        for _ in 0..6 {
            let steps = random.below(120);
            disks = World::raise_in_part(&setup, random.next_u64(), disks, steps);
        }
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        assert_eq!(states(&world).len(), setup.disk_count(), "every label is whole");
        assert_eq!(states(&world)[victim], MirrorState::Syncing, "it lacks what came later");
        model.check(&mut world);
    });
}
