//! Disks that fail: nothing that was acknowledged is lost, nothing that failed comes back.

use crate::format::layout::Zone;
use crate::io::error::known_errnos;
use crate::io::op::{DiskId, OpKind};
use crate::sim::{Fault, FaultRates, FaultRule, Faults, Random, for_each_seed};
use crate::store::error::{Certainty, StoreError};
use crate::store::tests::crashes::run_workload;
use crate::store::tests::model::{Model, read_all};
use crate::store::tests::world::{OpenFailure, Setup, World};

const DISK: DiskId = DiskId(0);

fn plan(world: &mut World, rule: FaultRule) {
    world.sim.with_faults(DISK, |faults| faults.rules.push(rule));
}

fn heal(world: &mut World) {
    world.sim.with_faults(DISK, |faults| *faults = Faults::default());
}

/// Runs a workload with a fault somewhere, opens the pool again, and compares.
fn survive(seed: u64, fault: impl Fn(&mut Random) -> FaultRule, rounds: u64) {
    let (setup, mut random, mut model) = (Setup::default(), Random::new(seed), Model::default());
    let mut world = World::new(&setup, seed);
    for _ in 0..rounds {
        let rule = fault(&mut random);
        plan(&mut world, rule);
        let ops = 5 + random.below(25);
        run_workload(&mut world, &mut model, &mut random, ops);
        let disks = world.sim.crash(random.next_u64());
        world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        world.audit();
    }
}

#[test]
fn every_errno_of_every_write_and_flush() {
    let errnos: Vec<i32> = known_errnos().collect();
    for_each_seed("every_errno_of_every_write_and_flush", errnos.len() as u64, |seed| {
        let errno = errnos[seed as usize % errnos.len()];
        survive(
            seed,
            |random| {
                let kind = if random.coin() { OpKind::Write } else { OpKind::Flush };
                FaultRule::nth(kind, random.below(30), Fault::Errno(errno))
            },
            3,
        );
    });
}

#[test]
fn short_and_empty_transfers() {
    for_each_seed("short_and_empty_transfers", 20, |seed| {
        survive(
            seed,
            |random| {
                let short = Fault::Short(1 + random.below(9000));
                let fault = if random.coin() { short } else { Fault::Zero };
                FaultRule {
                    times: 1 + random.below(3),
                    ..FaultRule::nth(OpKind::Write, random.below(20), fault)
                }
            },
            3,
        );
    });
}

#[test]
fn a_disk_that_goes_away_and_comes_back() {
    for_each_seed("a_disk_that_goes_away_and_comes_back", 20, |seed| {
        let (setup, mut random) = (Setup::default(), Random::new(seed));
        let (mut world, mut model) = (World::new(&setup, seed), Model::default());
        run_workload(&mut world, &mut model, &mut random, 10);
        world.sim.with_disk(DISK, |disk| disk.unplug());
        run_workload(&mut world, &mut model, &mut random, 10);
        let mut disks = world.sim.crash(random.next_u64());
        disks.iter_mut().for_each(|disk| disk.plug(&mut random));
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        world.audit();
    });
}

/// Cause: a commit's flush fails after its record was written. Harm: the record is on the disk, and
/// an opening after later commits would find it in its place. Rule: an abort takes its place first.
#[test]
fn a_failed_batch_does_not_come_back_after_a_later_one() {
    for_each_seed("a_failed_batch_does_not_come_back_after_a_later_one", 50, |seed| {
        let setup = Setup::default();
        let mut world = World::new(&setup, seed);
        let inode = world.create(0).unwrap();
        world.write(inode, 0, &[1; 4096]).unwrap();
        plan(&mut world, FaultRule::nth(OpKind::Flush, 0, Fault::Errno(libc::EIO)));
        let failed = world.write(inode, 0, &[2; 4096]).unwrap_err();
        assert_eq!(failed.certainty(), Certainty::Out, "{failed}");
        assert!(matches!(failed, StoreError::CommitFailed { .. }));
        assert_eq!(world.read(inode, 0, 1).unwrap(), [1]);
        let other = world.create(0).unwrap();
        let disks = world.sim.crash(seed);
        let mut world = World::open(&setup, seed, disks).unwrap();
        assert_eq!(world.read(inode, 0, 1).unwrap(), [1], "what failed came back");
        assert_eq!(world.size(other).unwrap(), 0);
        world.audit();
    });
}

/// Cause: flushes fail for good, so that the abort cannot be made durable either. Harm: an answer
/// that claims to know. Rule: unknown is said, the domain takes no more, and the next opening
/// decides.
#[test]
fn when_nothing_can_be_made_durable_the_domain_stops_and_says_so() {
    for_each_seed("when_nothing_can_be_made_durable_the_domain_stops", 30, |seed| {
        let setup = Setup::default();
        let mut world = World::new(&setup, seed);
        let inode = world.create(0).unwrap();
        world.write(inode, 0, &[1; 4096]).unwrap();
        plan(&mut world, FaultRule::every(OpKind::Flush, Fault::Errno(libc::EIO)));
        let failed = world.write(inode, 0, &[2; 4096]).unwrap_err();
        assert_eq!(failed.certainty(), Certainty::Unknown, "{failed}");
        let refused = world.write(inode, 0, &[3; 4096]).unwrap_err();
        assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused}");
        assert_eq!(world.read(inode, 0, 1).unwrap(), [1], "it still reads");
        heal(&mut world);
        let mut disks = world.sim.crash(seed);
        let mut decided = None;
        for again in 0..4 {
            let mut world = World::open(&setup, seed + again, disks).unwrap();
            let found = world.read(inode, 0, 1).unwrap()[0];
            assert!(found == 1 || found == 2);
            assert_eq!(*decided.get_or_insert(found), found, "a verdict stays");
            disks = world.sim.crash(seed ^ again);
        }
    });
}

/// Cause: the killed process' last write lands while its successor opens. Harm: what was judged
/// gone is there the next time. Rule: an opening waits for the disk, flushes, judges, and writes
/// its verdict over the place.
#[test]
fn a_verdict_survives_a_zombie_write_and_a_second_crash() {
    for_each_seed("a_verdict_survives_a_zombie_write_and_a_second_crash", 60, |seed| {
        let (setup, mut random) = (Setup::default(), Random::new(seed));
        let mut world = World::new(&setup, seed);
        let inode = world.create(0).unwrap();
        world.write(inode, 0, &[1; 4096]).unwrap();
        let payload = world.payload(0, &[2; 4096]);
        let call = crate::store::call::Call::Change {
            inode,
            steps: vec![crate::store::call::Step::Write(payload)],
            durability: crate::store::call::Durability::Committed,
        };
        let _on_its_way = world.ask(0, call);
        (0..random.below(40)).for_each(|_| {
            world.sim.step();
        });
        let mut disks = world.sim.kill();
        disks.iter_mut().for_each(|disk| disk.land_in_flight(&mut random));
        let mut world = World::open(&setup, seed, disks).unwrap();
        let found = world.read(inode, 0, 4096).unwrap();
        assert!(found == [1; 4096] || found == [2; 4096]);
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, seed + 1, disks).unwrap();
        assert_eq!(world.read(inode, 0, 4096).unwrap(), found, "a verdict stays");
        world.audit();
    });
}

/// Cause: a page's newer home rots. Harm: the older home is whole, and has extents that were since
/// overwritten. Rule: the parent says what the page sums to; no home is taken for being readable.
#[test]
fn a_rotten_page_does_not_bring_back_the_old_one() {
    let setup = Setup::default();
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    for round in 1..=3u8 {
        world.write(inode, 0, &vec![round; 200_000]).unwrap();
        world.close();
        let disks = world.sim.crash(u64::from(round));
        world = World::open(&setup, u64::from(round), disks).unwrap();
    }
    let disks = world.sim.crash(9);
    let data = setup.layout().zone(Zone::Data);
    let pages: Vec<u64> =
        data.step_by(4096).filter(|offset| disks[0].read(*offset, 4) == b"dfPG").collect();
    assert!(pages.len() >= 6, "two homes of at least three pages: {pages:?}");
    let mut refused = 0;
    for page in pages {
        let mut rotten = disks.clone();
        rotten[0].flip_bit(page + 700, 3);
        match World::open(&setup, 5, rotten) {
            Ok(mut world) => assert_eq!(read_all(&mut world, inode), vec![3; 200_000]),
            Err(OpenFailure::Recovery(error)) => {
                assert!(error.to_string().contains("page"), "{error}");
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused >= 2, "pages in use were among them");
}

/// Cause: a record that was acknowledged rots. Harm: it looks like a torn one, which is dropped.
/// Rule: an idle domain writes a seal behind it, and what is before a valid record was
/// acknowledged.
#[test]
fn a_torn_last_record_is_told_from_a_rotten_acknowledged_one() {
    let setup = Setup::default();
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    world.write(inode, 0, &[1; 4096]).unwrap();
    let now = world.sim.now_ns();
    world.sim.run_until(now + 1_000_000_000, |_| false);
    assert_eq!(world.status(0).counters.seals, 1);
    let disks = world.sim.crash(1);
    let journal = setup.layout().zone(Zone::Journal(0));
    let records: Vec<u64> =
        journal.step_by(4096).filter(|offset| disks[0].read(*offset, 8) == b"dynfsREC").collect();
    let [_, open, create, write, seal] = records[..] else { panic!("{records:?}") };
    assert!(open < create && create < write && write < seal);
    // The write's inline block.
    let mut rotten = disks.clone();
    rotten[0].flip_bit(write + 5000, 0);
    let Err(OpenFailure::Recovery(error)) = World::open(&setup, 2, rotten) else {
        panic!("a rotten record that was acknowledged was taken for a torn one")
    };
    assert!(error.to_string().contains("checksum"), "{error}");
    // Its head: then it is not there at all.
    let mut rotten = disks.clone();
    rotten[0].flip_bit(write + 30, 0);
    let Err(OpenFailure::Recovery(error)) = World::open(&setup, 2, rotten) else {
        panic!("a record that is not there was not missed")
    };
    assert!(error.to_string().contains("acknowledged"), "{error}");
    // Without the seal the same looks torn, and is dropped and reported.
    let mut torn = disks;
    torn[0].overwrite(seal, &[0; 4096]);
    torn[0].flip_bit(write + 5000, 0);
    let mut world = World::open(&setup, 2, torn).unwrap();
    assert!(world.reports[0].dropped.is_some());
    assert_eq!(world.size(inode).unwrap(), 0);
}

/// Lost and misdirected writes break what no copy mends; then an answer is right or an error.
#[test]
fn lost_and_misdirected_writes_are_never_taken_for_data() {
    for_each_seed("lost_and_misdirected_writes_are_never_taken_for_data", 60, |seed| {
        let (setup, mut random) = (Setup::default(), Random::new(seed));
        let mut world = World::new(&setup, seed);
        let mut inodes = Vec::new();
        for tag in 1..=4u8 {
            let inode = world.create(0).unwrap();
            world.write(inode, 0, &vec![tag; 100_000]).unwrap();
            inodes.push((inode, tag));
        }
        let rates = FaultRates { lost: 100_000, misdirected: 50_000, ..FaultRates::default() };
        world.sim.with_faults(DISK, |faults| faults.rates = rates);
        for _ in 0..20 {
            let (inode, tag) = *random.pick(&inodes);
            let _ = world.write(inode, random.below(20) * 4096, &vec![tag; 20_000]);
        }
        heal(&mut world);
        let disks = world.sim.crash(random.next_u64());
        let Ok(mut world) = World::open(&setup, seed, disks) else { return };
        for (inode, tag) in inodes {
            for block in 0..30 {
                match world.read(inode, block * 4096, 4096) {
                    Ok(bytes) => assert!(bytes.iter().all(|byte| *byte == tag)),
                    Err(StoreError::Corrupt { inode: named, .. }) => assert_eq!(named, inode),
                    Err(StoreError::NoSuchInode { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }
    });
}

/// A block that rots or cannot be read is an error that names it.
#[test]
fn a_bad_block_is_named() {
    let setup = Setup::default();
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    let bytes: Vec<u8> = (0..131_072u32).map(|n| (n >> 9) as u8).collect();
    world.write(inode, 0, &bytes).unwrap();
    world.close();
    let mut disks = world.sim.crash(1);
    let data = setup.layout().zone(Zone::Data);
    let third = bytes[8192..12_288].to_vec();
    let place = data
        .step_by(4096)
        .find(|offset| disks[0].read(*offset, 4096) == third)
        .expect("the third block is somewhere");
    disks[0].flip_bit(place + 9, 1);
    let mut world = World::open(&setup, 2, disks).unwrap();
    match world.read(inode, 8192, 100) {
        Err(StoreError::Corrupt { inode: named, offset, block, .. }) => {
            assert_eq!((named, offset, block), (inode, 8192, place / 4096));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.read(inode, 0, 8192).unwrap(), bytes[..8192], "its neighbours are well");
    let rule = FaultRule::every(OpKind::Read, Fault::Errno(libc::ENODATA));
    plan(&mut world, rule.at(place + 4096..place + 8192));
    match world.read(inode, 12_288, 100) {
        Err(StoreError::Unreadable { inode: named, offset, .. }) => {
            assert_eq!((named, offset), (inode, 12_288));
        }
        other => panic!("{other:?}"),
    }
}
