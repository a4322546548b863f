//! Inodes with fewer copies than their pool has mirrors: what is on some disks alone takes as much
//! less space, and is lost with them alone, in words.

use crate::format::layout::BLOCK_BYTES;
use crate::io::op::{DiskId, OpKind};
use crate::sim::{Fault, FaultRule, Random, SimDisk, for_each_seed};
use crate::store::assembly::Missing;
use crate::store::call::{Call, Reply};
use crate::store::error::StoreError;
use crate::store::member::MirrorState;
use crate::store::scrub::{ScrubOrder, ScrubReport, ScrubState};
use crate::store::tests::checked::consistent;
use crate::store::tests::crashes::{crash_and_go_on, run_workload};
use crate::store::tests::mirrors::states;
use crate::store::tests::model::{Model, read_all};
use crate::store::tests::world::{Setup, World};

/// Slots, mirrors, domains and reactors by seed; inodes of one to all copies.
fn mixed(seed: u64) -> Setup {
    let mirrors = 2 + (seed / 3 % 3) as usize;
    Setup {
        disks: 1 + (seed % 3) as usize,
        mirrors,
        copies: Some((1, mirrors as u16)),
        domains: 1 + (seed / 9 % 3) as u16,
        reactors: 1 + (seed / 27 % 2) as usize,
        ..Setup::default()
    }
}

#[test]
fn inodes_of_fewer_copies_survive_crashes() {
    for_each_seed("inodes_of_fewer_copies_survive_crashes", 54, |seed| {
        crash_and_go_on(seed, &mixed(seed), 5);
    });
}

#[test]
fn a_pool_with_inodes_of_fewer_copies_is_consistent() {
    for_each_seed("a_pool_with_inodes_of_fewer_copies", 40, |seed| {
        let mut random = Random::new(seed);
        let setup = mixed(seed).varied(&mut random);
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        for _ in 0..3 {
            run_workload(&mut world, &mut model, &mut random, 60);
            let disks = world.sim.crash(random.next_u64());
            consistent(&disks, "fewer copies");
            world = World::open(&setup, seed, disks).unwrap();
            model.check(&mut world);
            world.audit();
        }
    });
}

/// Writes until there is no room; how many bytes there were.
fn filled(world: &mut World, copies: u16) -> (u64, u64) {
    let inode = world.create_with(0, Some(copies)).unwrap();
    let mut size = 0u64;
    while world.write(inode, size, &[copies as u8; 65_536]).is_ok() {
        size += 65_536;
    }
    (inode, size)
}

#[test]
fn fewer_copies_take_less_space_and_give_it_back() {
    for mirrors in 2..=4u16 {
        let setup = Setup { mirrors: mirrors.into(), disks: 2, ..Setup::default() };
        let mut world = World::new(&setup, 1);
        let (inode, whole) = filled(&mut world, mirrors);
        world.delete(inode).unwrap();
        for copies in (1..mirrors).rev() {
            let (inode, size) = filled(&mut world, copies);
            let times = size as f64 / whole as f64;
            let goal = f64::from(mirrors / copies) * 0.8;
            assert!(times > goal, "{copies} of {mirrors} copies: {times} times as much");
            assert!(read_all(&mut world, inode).iter().all(|byte| *byte == copies as u8));
            world.audit();
            let disks = world.sim.crash(3);
            consistent(&disks, "full");
            world = World::open(&setup, 2, disks).unwrap();
            assert_eq!(world.size(inode).unwrap(), size);
            world.audit();
            world.delete(inode).unwrap();
            // What was divided is one again.
            let (inode, again) = filled(&mut world, mirrors);
            assert!(again as f64 > whole as f64 * 0.95, "{again} bytes of {whole}");
            world.delete(inode).unwrap();
        }
    }
}

#[test]
fn more_copies_than_mirrors_are_refused_in_words() {
    let setup = Setup { mirrors: 2, ..Setup::default() };
    let mut world = World::new(&setup, 1);
    for copies in [0, 3, 9] {
        let refused = world.create_with(0, Some(copies)).unwrap_err();
        assert!(refused.to_string().contains("1 to 2 copies"), "{refused}");
    }
    assert!(world.create_with(0, Some(2)).is_ok());
}

/// Disks of which each block of every inode has another.
#[test]
fn a_disk_that_dies_costs_nothing_that_has_two_copies() {
    for_each_seed("a_disk_that_dies_costs_nothing_that_has_two", 60, |seed| {
        let mut random = Random::new(seed ^ 0xc0b1);
        let mirrors = 3 + (seed % 2) as usize;
        let setup = Setup { mirrors, copies: Some((2, mirrors as u16)), ..mixed(seed) };
        let setup = setup.varied(&mut random);
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 30);
        let victim = DiskId(random.below(setup.disk_count() as u64) as u16);
        fail(&mut world, victim, &mut random);
        model.refuses_nothing = true;
        run_workload(&mut world, &mut model, &mut random, 60);
        model.refuses_nothing = false;
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
}

/// A disk fails everything, or something at some time.
fn fail(world: &mut World, victim: DiskId, random: &mut Random) {
    let kinds = [OpKind::Write, OpKind::WriteDsync, OpKind::Flush, OpKind::Read];
    if random.coin() {
        return world.sim.with_disk(victim, |disk| disk.unplug());
    }
    let fault = Fault::Errno(libc::EIO);
    let rule =
        FaultRule { skip: random.below(20), ..FaultRule::every(*random.pick(&kinds), fault) };
    world.sim.with_faults(victim, |faults| faults.rules.push(rule));
}

/// What the model knows for certain is there, or an error says that it is lost.
fn right_or_an_error(world: &mut World, model: &Model, setup: &Setup, lost: &mut u64) {
    for (inode, content) in &model.inodes {
        let blocks = content.len().div_ceil(BLOCK_BYTES as usize);
        for block in 0..blocks {
            let at = block * BLOCK_BYTES as usize;
            let expected = &content[at..content.len().min(at + BLOCK_BYTES as usize)];
            match world.read(*inode, at as u64, expected.len()) {
                Ok(found) => assert_eq!(found, expected, "inode {inode}, block {block}"),
                Err(StoreError::Corrupt { .. } | StoreError::Unreadable { .. }) => *lost += 1,
                Err(error) => panic!(
                    "inode {inode}, block {block} of {setup:?}: {error}",
                    setup = setup.mirrors
                ),
            }
        }
    }
}

/// A disk that has the only copy of something is replaced by a blank one: that is lost, and said;
/// everything else is as it was, and the pool goes on.
#[test]
fn what_only_a_lost_disk_had_is_an_error_and_nothing_else_is() {
    let mut lost = 0;
    for seed in 0..30 {
        let mut random = Random::new(seed ^ 0x10c0);
        let setup = Setup { copies: Some((1, 1)), missing: Missing::Accept, ..mixed(seed) };
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 60);
        // Everything is answered, and nothing can be doubted.
        let now = world.sim.now_ns();
        world.sim.run_until(now + 1_000_000_000, |_| false);
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, seed, disks).unwrap();
        model.check(&mut world);
        world.close();
        let mut disks = world.sim.crash(random.next_u64());
        let victim = random.below(setup.disk_count() as u64) as usize;
        disks[victim] = SimDisk::new(setup.disk.clone());
        let mut world = World::open(&setup, seed, disks)
            .unwrap_or_else(|error| panic!("seed {seed}: it opens without it: {error:?}"));
        let before = lost;
        right_or_an_error(&mut world, &model, &setup, &mut lost);
        let said: u64 = (0..usize::from(setup.domains)).map(|d| scrubbed(&mut world, d).lost).sum();
        assert_eq!(said, lost - before, "seed {seed}: a scrub says what is lost");
        // New data goes where it has a disk.
        let inode = world.create_with(0, Some(1)).unwrap();
        world.write(inode, 0, &[7; 200_000]).unwrap();
        assert_eq!(world.read(inode, 0, 200_000).unwrap(), [7; 200_000]);
        world.audit();
    }
    assert!(lost > 50, "{lost} blocks were lost");
}

/// A disk that was away comes back with the only copies that it has.
#[test]
fn what_only_a_disk_has_that_was_away_is_there_again() {
    for_each_seed("what_only_a_disk_has_that_was_away", 30, |seed| {
        let mut random = Random::new(seed ^ 0xa11);
        let setup = Setup { missing: Missing::Accept, ..mixed(seed) };
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 60);
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, seed, disks).unwrap();
        model.check(&mut world);
        world.close();
        let mut disks = world.sim.crash(random.next_u64());
        let victim = random.below(setup.disk_count() as u64) as usize;
        let away = std::mem::replace(&mut disks[victim], SimDisk::new(setup.disk.clone()));
        let mut world = World::open(&setup, seed, disks).unwrap();
        // Something happens meanwhile that does not touch what there was.
        let inode = world.create_with(0, Some(1)).unwrap();
        world.write(inode, 0, &[7; 300_000]).unwrap();
        world.close();
        let mut disks = world.sim.crash(random.next_u64());
        disks[victim] = away;
        let mut world = World::open(&setup, seed, disks).unwrap();
        let until = world.sim.now_ns() + 60_000_000_000;
        let shared = world.shared();
        let is_behind = || {
            let mut mirrors = shared.members.iter().flat_map(|member| member.mirrors.iter());
            mirrors.any(|mirror| mirror.state() == MirrorState::Syncing)
        };
        world.sim.run_until(until, |_| !is_behind());
        assert!(states(&world).iter().all(|state| *state == MirrorState::InSync));
        let (content, known) = (read_all(&mut world, inode), model.inodes.len());
        assert_eq!(content, [7; 300_000]);
        let mut lost = 0;
        right_or_an_error(&mut world, &model, &setup, &mut lost);
        assert!(lost == 0 && known > 0, "{lost} blocks are lost of {known} inodes");
        let disks = world.sim.crash(random.next_u64());
        consistent(&disks, "it is back");
    });
}

/// A slot with all kinds of data is left.
#[test]
fn a_slot_with_data_of_few_copies_leaves() {
    for_each_seed("a_slot_with_data_of_few_copies_leaves", 24, |seed| {
        let mut random = Random::new(seed ^ 0x1eaf);
        let mut setup = Setup { disks: 2 + (seed % 2) as usize, removed: true, ..mixed(seed) };
        setup.disk.size_bytes = 32 << 20;
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 60);
        crate::store::tests::removal::leave(&mut world, 0);
        run_workload(&mut world, &mut model, &mut random, 40);
        crate::store::tests::removal::wait_until_gone(&mut world, 0);
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, seed, disks).unwrap();
        model.check(&mut world);
        world.audit();
    });
}

/// Scrubs a domain to its end.
fn scrubbed(world: &mut World, domain: usize) -> ScrubReport {
    let start = ScrubOrder::Start { bytes_per_second: 0, coalesce: true };
    world.call(domain, Call::Scrub(start));
    let until = world.sim.now_ns() + 60_000_000_000;
    loop {
        let now = world.sim.now_ns();
        world.sim.run_until(now + 10_000_000, |_| false);
        match world.call(domain, Call::Scrub(ScrubOrder::Look)) {
            Reply::Scrub(report) if report.state == ScrubState::Finished => return *report,
            _ => assert!(world.sim.now_ns() < until),
        }
    }
}

/// Scrub looks at each copy on the disks that have it, and at no other.
#[test]
fn a_scrub_finds_nothing_wrong_where_few_disks_have_something() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let setup = mixed(seed);
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 60);
        for domain in 0..usize::from(setup.domains) {
            let report = scrubbed(&mut world, domain);
            assert_eq!((report.wrong, report.lost), (0, 0), "{:?}", report.findings);
        }
        world.audit();
    }
}

/// Cause: a disk that was behind was asked whether it has what the last record names. Harm: what
/// was acknowledged without it was taken for torn. Fix: it can say that it is there, and not that
/// it is not.
#[test]
fn a_disk_that_is_behind_does_not_refute_the_last_record() {
    let setup =
        Setup { disks: 1, mirrors: 3, domains: 1, missing: Missing::Accept, ..Setup::default() };
    let mut bad = Vec::new();
    for stale in 0..3usize {
        for dead in (0..3usize).filter(|d| *d != stale) {
            let mut world = World::new(&setup, 5);
            let inode = world.create_with(0, Some(2)).unwrap();
            let other = world.create(0).unwrap();
            world.write(inode, 0, &[1; 65_536]).unwrap();
            world.sim.with_disk(DiskId(stale as u16), |disk| disk.unplug());
            for _ in 0..5 {
                let _ = world.write(other, 0, &[3; 4096]);
            }
            assert_eq!(states(&world)[stale], MirrorState::Out);
            let acked = world.write(inode, 0, &[2; 65_536]);
            let mut random = Random::new(7);
            let mut disks = world.sim.crash(random.next_u64());
            disks[stale].plug(&mut random);
            disks[dead] = SimDisk::new(setup.disk.clone());
            match World::open(&setup, 6, disks) {
                // That is said.
                Err(_) => {}
                Ok(mut world) => {
                    let found = world.read(inode, 0, 65_536).map(|b| b[0]);
                    if acked.is_ok() && matches!(found, Ok(1)) {
                        bad.push((stale, dead));
                    }
                }
            }
        }
    }
    assert!(bad.is_empty(), "acknowledged v2 is v1 again without a word: {bad:?}");
}

/// Cause: a write to one disk alone waited for it for ever, also when it had been taken out. Harm:
/// so did all small writes behind it. Fix: who does not answer in time has failed.
#[test]
fn a_disk_that_hangs_holds_up_nobody_for_ever() {
    let setup = Setup { disks: 1, mirrors: 2, domains: 1, ..Setup::default() };
    let mut world = World::new(&setup, 5);
    let inodes: Vec<u64> = (0..4).map(|_| world.create_with(0, Some(1)).unwrap()).collect();
    let other = world.create(0).unwrap();
    for inode in &inodes {
        world.write(*inode, 0, &[1; 262_144]).unwrap();
    }
    world.sim.with_faults(DiskId(0), |faults| {
        for kind in [OpKind::Write, OpKind::Flush] {
            faults.rules.push(FaultRule::every(kind, Fault::Hang));
        }
    });
    let mut asked = Vec::new();
    for inode in &inodes {
        let payload = world.payload(0, &[2; 262_144]);
        let steps = vec![crate::store::call::Step::Write(payload)];
        let durability = crate::store::call::Durability::Committed;
        asked.push(world.ask(0, Call::Change { inode: *inode, steps, durability }));
    }
    let now = world.sim.now_ns();
    world.sim.run_until(now + 1_000_000_000, |_| false);
    let _ = world.write(other, 0, &[3; 4096]);
    world.write(other, 0, &[3; 4096]).expect("another disk has it");
    assert_eq!(states(&world)[0], MirrorState::Out);
    let now = world.sim.now_ns();
    world.sim.run_until(now + 600_000_000_000, |_| false);
    let mut unanswered = 0;
    for a in &mut asked {
        unanswered += u32::from(world.answer(a).is_none());
    }
    let inode = world.create_with(0, Some(1)).unwrap();
    let payload = world.payload(0, &[4; 4096]);
    let steps = vec![crate::store::call::Step::Write(payload)];
    let durability = crate::store::call::Durability::Committed;
    let mut small = world.ask(0, Call::Change { inode, steps, durability });
    let now = world.sim.now_ns();
    world.sim.run_until(now + 600_000_000_000, |_| false);
    assert!(world.answer(&mut small).is_some(), "what comes later is answered");
    assert_eq!(unanswered, 0, "writes that hang although the disk is out, after 600 s");
}

/// Cause: the flush of a label failed, and was not counted before others believed a flush of
/// theirs. Harm: what was acknowledged, and on that disk alone, was gone. Fix: labels have a turn,
/// too.
#[test]
fn a_label_whose_flush_fails_takes_no_acknowledged_data_with_it() {
    use crate::store::call::{Durability, Step};
    let mut lost = Vec::new();
    let mut acks = 0;
    for seed in 0..60u64 {
        let mut random = Random::new(seed ^ 0x1abe1);
        let setup = Setup {
            disks: 2,
            mirrors: 2,
            domains: 2,
            missing: Missing::Accept,
            ..Setup::default()
        };
        let mut world = World::new(&setup, seed);
        let a = world.create_with(0, Some(1)).unwrap();
        let b = world.create(1).unwrap();
        world.write(a, 0, &[1; 65_536]).unwrap();
        world.write(b, 0, &[1; 4096]).unwrap();
        // d fails one flush, f fails everything.
        let d = DiskId(random.below(2) as u16);
        let f = DiskId(2 + random.below(2) as u16);
        world.sim.with_faults(d, |faults| {
            let rule = FaultRule::every(OpKind::Flush, Fault::Errno(libc::EIO));
            faults.rules.push(FaultRule { skip: random.below(4), times: 1, ..rule });
        });
        world.sim.with_disk(f, |disk| disk.unplug());
        let payload = world.payload(0, &[2; 4096]);
        let (steps, durability) = (vec![Step::Write(payload)], Durability::Committed);
        let mut of_b = world.ask(1, Call::Change { inode: b, steps, durability });
        let mut acked = Vec::new();
        for n in 0..12u8 {
            let now = world.sim.now_ns();
            world.sim.run_until(now + random.below(200_000), |_| false);
            let at = u64::from(n % 16) * 4096;
            if world.write(a, at, &[10 + n; 4096]).is_ok() {
                acks += 1;
                acked.push((at, 10 + n));
            }
        }
        let _ = world.answer(&mut of_b);
        let mut disks = world.sim.crash(random.next_u64());
        disks.iter_mut().filter(|disk| disk.is_gone()).for_each(|disk| disk.plug(&mut random));
        match World::open(&setup, seed + 1, disks) {
            // That is said.
            Err(_) => {}
            Ok(mut world) => {
                for (at, byte) in acked {
                    match world.read(a, at, 4096) {
                        Ok(found) if found == [byte; 4096] => {}
                        Ok(found) => lost.push((seed, at, byte, format!("{}", found[0]))),
                        Err(error) => lost.push((seed, at, byte, error.to_string())),
                    }
                }
            }
        }
    }
    assert!(
        lost.is_empty(),
        "{acks} acknowledged, {} lost: {:?}",
        lost.len(),
        &lost[..lost.len().min(5)]
    );
}

/// Cause: a write that was not answered in time failed, its blocks went to the next one, and the
/// disk, the last of its slot, did it after all. Harm: it destroyed what was acknowledged then.
/// Fix: such blocks are nobody's until the disk has answered.
#[test]
fn a_write_that_comes_late_destroys_nothing() {
    for seed in 0..20 {
        let mut random = Random::new(seed ^ 0x1a7e);
        let setup = Setup { mirrors: 2, missing: Missing::Accept, ..Setup::default() };
        let (mut world, inode) = with_a_late_write(&setup, &mut random, |_| 0);
        // All that is free is taken, wherever it is.
        let begun = world.sim.now_ns();
        let mut size = 65_536;
        while world.write(inode, size, &[3; 65_536]).is_ok() {
            size += 65_536;
        }
        assert!(world.sim.now_ns() < begun + LATE_NS / 2, "it has not come yet");
        assert_eq!(world.status(0).late_blocks, 16);
        world.sim.run_until(begun + LATE_NS, |_| false);
        for at in (65_536..size).step_by(65_536) {
            assert_eq!(world.read(inode, at, 65_536).unwrap(), [3; 65_536], "seed {seed}");
        }
        assert_eq!(world.read(inode, 0, 65_536).unwrap(), [1; 65_536]);
        // It has come, and its blocks are free.
        world.write(inode, size, &[4; 32_768]).unwrap();
        assert_eq!(world.status(0).late_blocks, 0);
        assert_eq!(world.audit().data, size / 4096 + 8);
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, seed, disks).unwrap();
        assert_eq!(world.audit().data, size / 4096 + 8);
        assert_eq!(world.read(inode, size, 32_768).unwrap(), [4; 32_768]);
    }
}

/// Cause: blocks that are nobody's counted as somebody's. Harm: their slot could not leave.
#[test]
fn a_slot_leaves_that_a_late_write_may_come_to() {
    for seed in 0..10 {
        let mut random = Random::new(seed ^ 0x1a7e);
        let missing = Missing::Accept;
        let setup = Setup { disks: 2, mirrors: 2, missing, removed: true, ..Setup::default() };
        let mut slot = 0;
        let (mut world, inode) = with_a_late_write(&setup, &mut random, |world| {
            let used = |world: &mut World, slot: usize| world.status(0).slots[slot].used_blocks;
            // Where the first of its blocks are, more is free: the next go there as well.
            slot = u16::from(used(world, 0) < used(world, 1));
            slot
        });
        assert_eq!(world.status(0).late_blocks, 16, "seed {seed}");
        crate::store::tests::removal::leave(&mut world, slot);
        crate::store::tests::removal::wait_until_gone(&mut world, slot);
        assert_eq!(world.read(inode, 0, 65_536).unwrap(), [1; 65_536]);
        world.audit();
    }
}

/// What a write takes that is given up on long before.
const LATE_NS: u64 = 40_000_000_000;

/// A pool with an inode of one copy, one of the slot's disks out, and a write to the inode that has
/// failed and is done by the other in the end. `slot` says where it goes.
fn with_a_late_write(
    setup: &Setup,
    random: &mut Random,
    slot: impl FnOnce(&mut World) -> u16,
) -> (World, u64) {
    use crate::store::call::{Durability, Step};
    let mut world = World::new(setup, random.next_u64());
    let inode = world.create_with(0, Some(1)).unwrap();
    world.write(inode, 0, &[1; 65_536]).unwrap();
    let first = slot(&mut world) * setup.mirrors as u16;
    world.sim.with_disk(DiskId(first + 1), |disk| disk.unplug());
    let other = world.create(0).unwrap();
    while states(&world)[usize::from(first) + 1] != MirrorState::Out {
        // Goes to each slot in turn.
        world.write(other, 0, &[9; 262_144]).unwrap();
    }
    for mirror in 0..setup.disk_count() as u16 {
        world.sim.with_faults(DiskId(mirror), |faults| {
            let rule = FaultRule::every(OpKind::Write, Fault::Slow(LATE_NS));
            faults.rules.push(FaultRule { times: 1, ..rule });
        });
    }
    let steps = vec![Step::Write(world.payload(0, &[2; 65_536]))];
    let durability = Durability::Committed;
    let mut late = world.ask(0, Call::Change { inode, steps, durability });
    let now = world.sim.now_ns();
    world.sim.run_until(now + 300_000_000 + random.below(100_000_000), |_| false);
    for mirror in 0..setup.disk_count() as u16 {
        world.sim.with_faults(DiskId(mirror), |faults| faults.rules.clear());
    }
    match world.answer(&mut late) {
        Some(Reply::Failed(StoreError::Write { .. })) => {}
        other => panic!("{other:?}"),
    }
    (world, inode)
}
