//! A scrub goes on where it was, whatever ended its engine, and makes extents whole.

use crate::sim::{Random, for_each_seed};
use crate::store::call::{Call, Reply};
use crate::store::scrub::{ScrubOrder, ScrubReport, ScrubState};
use crate::store::tests::checked::consistent;
use crate::store::tests::crashes::run_workload;
use crate::store::tests::model::{Model, read_all};
use crate::store::tests::world::{Setup, World};

const SECOND_NS: u64 = 1_000_000_000;

fn order(world: &mut World, domain: usize, order: ScrubOrder) -> ScrubReport {
    match world.call(domain, Call::Scrub(order)) {
        Reply::Scrub(report) => *report,
        other => panic!("{other:?}"),
    }
}

fn pass(world: &mut World, ns: u64) {
    let until = world.sim.now_ns() + ns;
    world.sim.run_until(until, |_| false);
}

fn start(bytes_per_second: u64, coalesce: bool) -> ScrubOrder {
    ScrubOrder::Start { bytes_per_second, coalesce }
}

/// Runs one to its end.
fn finished(world: &mut World, coalesce: bool) -> ScrubReport {
    order(world, 0, start(0, coalesce));
    for _ in 0..1000 {
        let report = order(world, 0, ScrubOrder::Look);
        if report.state == ScrubState::Finished {
            return report;
        }
        pass(world, SECOND_NS / 100);
    }
    panic!("it ends: {:?}", order(world, 0, ScrubOrder::Look));
}

fn crashed(setup: &Setup, world: World, seed: u64) -> World {
    let disks = world.sim.crash(seed);
    consistent(&disks, "crashed");
    World::open(setup, seed, disks).unwrap()
}

#[test]
fn a_scrub_goes_on_where_it_was_after_a_crash() {
    let setup = Setup::default();
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    for extent in 0..60 {
        world.write(inode, extent << 16, &[7; 1 << 16]).unwrap();
    }
    // An extent a second.
    order(&mut world, 0, start(1 << 16, false));
    pass(&mut world, 25 * SECOND_NS);
    let before = order(&mut world, 0, ScrubOrder::Look);
    assert!((20..30).contains(&before.extents), "{before:?}");
    let mut world = crashed(&setup, world, 2);
    let after = order(&mut world, 0, ScrubOrder::Look);
    assert_eq!(after.state, ScrubState::Running);
    let saved = before.extents - 11..=before.extents;
    assert!(saved.contains(&after.extents), "{after:?} after {before:?}");
    assert!((after.bytes >> 16) - after.extents <= 1, "one may be being read: {after:?}");
    pass(&mut world, 5 * SECOND_NS);
    order(&mut world, 0, ScrubOrder::Pause);
    pass(&mut world, SECOND_NS);
    // With the one that was being read.
    let paused = order(&mut world, 0, ScrubOrder::Look);
    assert!((4..7).contains(&(paused.extents - after.extents)), "as fast as before: {paused:?}");
    let mut world = crashed(&setup, world, 3);
    pass(&mut world, 20 * SECOND_NS);
    assert_eq!(order(&mut world, 0, ScrubOrder::Look), paused, "it waits");
    order(&mut world, 0, start(1 << 20, false));
    pass(&mut world, 20 * SECOND_NS);
    let report = order(&mut world, 0, ScrubOrder::Look);
    assert_eq!((report.state, report.extents), (ScrubState::Finished, 60), "each of them once");
    let mut world = crashed(&setup, world, 4);
    assert_eq!(order(&mut world, 0, ScrubOrder::Look), ScrubReport::default());
    order(&mut world, 0, start(1 << 16, false));
    pass(&mut world, 3 * SECOND_NS);
    order(&mut world, 0, ScrubOrder::Stop);
    pass(&mut world, SECOND_NS);
    let mut world = crashed(&setup, world, 5);
    assert_eq!(order(&mut world, 0, ScrubOrder::Look).state, ScrubState::Idle);
    assert_eq!(world.inodes(), [inode], "its note is no inode");
    for reply in world.close() {
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }
}

#[test]
fn extents_in_pieces_are_made_whole_when_that_is_wanted() {
    let setup = Setup::default();
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    let mut content = vec![0; 40 << 16];
    let mut random = Random::new(1);
    for _ in 0..400 {
        let block = random.below(640) as usize;
        content[block * 4096..][..4096].fill(block as u8);
        world.write(inode, block as u64 * 4096, &[block as u8; 4096]).unwrap();
    }
    content.truncate(world.size(inode).unwrap() as usize);
    assert_eq!(finished(&mut world, false).coalesced, 0);
    let report = finished(&mut world, true);
    assert!(report.coalesced > 30, "{report:?}");
    assert_eq!(finished(&mut world, true).coalesced, 0, "there is room for each in a row");
    assert_eq!(read_all(&mut world, inode), content);
    world.audit();
    let mut world = crashed(&setup, world, 2);
    assert_eq!(read_all(&mut world, inode), content);
}

#[test]
fn what_is_made_whole_survives_crashes_and_changes_beside_it() {
    for_each_seed("what_is_made_whole_survives", 40, |seed| {
        let mut random = Random::new(seed);
        let setup = Setup::default().varied(&mut random);
        let (mut world, mut model) = (World::new(&setup, seed), Model::default());
        for round in 0..4 {
            run_workload(&mut world, &mut model, &mut random, 20);
            order(&mut world, 0, start([0, 1 << 20][round % 2], random.below(4) > 0));
            run_workload(&mut world, &mut model, &mut random, 30);
            if random.coin() {
                order(&mut world, 0, [ScrubOrder::Pause, ScrubOrder::Stop][round % 2]);
            }
            let disks = world.sim.crash(random.next_u64());
            consistent(&disks, &format!("round {round}"));
            world = World::open(&setup, random.next_u64(), disks)
                .unwrap_or_else(|error| panic!("round {round}: {error:?}"));
            model.check(&mut world);
            order(&mut world, 0, ScrubOrder::Stop);
            pass(&mut world, SECOND_NS);
            world.audit();
        }
    });
}
