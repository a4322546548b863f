//! Crashes at any moment: what was acknowledged is there, what was not is whole or absent.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::io::op::{DiskId, OpKind};
use crate::sim::{Fault, FaultRule, Random, SimDisk, for_each_seed};
use crate::store::tests::model::{Model, Running};
use crate::store::tests::world::{Setup, World};

#[test]
fn what_was_written_is_read_and_survives_a_close() {
    let setup = Setup::default();
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n / 7) as u8).collect();
    world.write(inode, 100, &bytes).unwrap();
    world.write(inode, 5000, &[9; 10]).unwrap();
    let mut expected = vec![0; 100];
    expected.extend(&bytes);
    expected[5000..5010].fill(9);
    assert_eq!(world.read(inode, 0, 300_000).unwrap(), expected);
    world.audit();
    world.close();
    let disks = world.sim.crash(3);
    let mut world = World::open(&setup, 2, disks).unwrap();
    assert_eq!(world.reports[0].replayed, 0, "a closed pool has nothing to replay");
    assert_eq!(world.read(inode, 0, 300_000).unwrap(), expected);
    world.delete(inode).unwrap();
    let audit = world.audit();
    assert_eq!(audit.data, 0);
}

/// Runs a workload for so many operations, and stops somewhere in the middle of things.
pub(super) fn run_workload(world: &mut World, model: &mut Model, random: &mut Random, ops: u64) {
    let mut running: Vec<Running> = Vec::new();
    let depth = 1 + random.below(8) as usize;
    let mut started = 0;
    let mut steps_left = random.below(400);
    while started < ops || steps_left > 0 {
        while running.len() < depth && started < ops {
            running.extend(model.start(world, random));
            started += 1;
        }
        if !world.sim.step() {
            let now = world.sim.now_ns();
            world.sim.run_until(now + 1_000_000, |_| false);
        }
        steps_left = if started == ops { steps_left.saturating_sub(1) } else { steps_left };
        let waiting = std::mem::take(&mut running);
        running.extend(waiting.into_iter().filter_map(|one| model.finish(world, one)));
    }
}

/// Openings after a crash, those that were interrupted included, of this process.
static RECOVERIES: AtomicU64 = AtomicU64::new(0);

/// Opens after a crash; before that recovery is interrupted as well, a few times.
pub(super) fn recovered(setup: &Setup, random: &mut Random, mut disks: Vec<SimDisk>) -> World {
    while random.below(3) == 0 {
        let steps = 1 + random.below(200);
        RECOVERIES.fetch_add(1, Ordering::Relaxed);
        (disks, _) = World::recover_in_part(setup, random.next_u64(), disks, steps);
    }
    RECOVERIES.fetch_add(1, Ordering::Relaxed);
    World::open(setup, random.next_u64(), disks).unwrap_or_else(|error| panic!("{error:?}"))
}

pub(super) fn crash_and_go_on(seed: u64, setup: &Setup, rounds: u64) {
    let mut random = Random::new(seed);
    let setup = &setup.varied(&mut random);
    let mut model = Model::default();
    let mut world = World::new(setup, seed);
    for _ in 0..rounds {
        let ops = 1 + random.below(30);
        run_workload(&mut world, &mut model, &mut random, ops);
        let disks = world.sim.crash(random.next_u64());
        world = recovered(setup, &mut random, disks);
        model.check(&mut world);
        world.audit();
        if random.below(3) == 0 {
            // The verdict stays.
            let disks = world.sim.crash(random.next_u64());
            RECOVERIES.fetch_add(1, Ordering::Relaxed);
            world = World::open(setup, random.next_u64(), disks).unwrap();
            model.check_same(&mut world);
        }
    }
}

/// Says how many there were, where as many are asked for: `DYNAMICFS_RECOVERIES_MIN`.
// The test harness shows it when asked to: this line is its purpose.
#[allow(clippy::print_stderr)]
pub(super) fn enough_recoveries(setup: &str) {
    eprintln!("{setup}: {} recoveries", RECOVERIES.load(Ordering::Relaxed));
    let Ok(wanted) = std::env::var("DYNAMICFS_RECOVERIES_MIN") else { return };
    let (wanted, found) = (wanted.parse::<u64>().unwrap(), RECOVERIES.load(Ordering::Relaxed));
    assert!(found >= wanted, "{setup}: {found} recoveries, {wanted} are asked for");
}

#[test]
fn crashes_of_one_domain() {
    for_each_seed("crashes_of_one_domain", 40, |seed| {
        crash_and_go_on(seed, &Setup::default(), 6);
    });
    enough_recoveries("one domain");
}

#[test]
fn crashes_of_two_domains() {
    let setup = Setup { domains: 2, reactors: 2, ..Setup::default() };
    for_each_seed("crashes_of_two_domains", 20, |seed| crash_and_go_on(seed, &setup, 6));
    enough_recoveries("two domains");
}

/// Data and pages of each domain lie on every disk, and its journal on one.
#[test]
fn pools_of_several_disks_survive_crashes() {
    for_each_seed("pools_of_several_disks_survive_crashes", 30, |seed| {
        let disks = 2 + (seed % 3) as usize;
        let domains = 1 + (seed / 3 % 3) as u16;
        let reactors = 1 + (seed / 9 % 2) as usize;
        let setup = Setup { disks, domains, reactors, ..Setup::default() };
        crash_and_go_on(seed, &setup, 6);
    });
}

/// Nobody believes a flush of its own beside which another domain's has failed, also while domains
/// are opened.
#[test]
fn flushes_that_fail_while_domains_are_opened_lose_nothing() {
    let failures = AtomicU64::new(0);
    for_each_seed("flushes_that_fail_while_domains_are_opened", 60, |seed| {
        let mut random = Random::new(seed ^ 0xf1);
        let (disks, domains) = (1 + (seed % 2) as usize, 2 + (seed / 2 % 2) as u16);
        let setup = Setup { disks, domains, reactors: 2, ..Setup::default() };
        let setup = setup.varied(&mut random);
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        for _ in 0..4 {
            run_workload(&mut world, &mut model, &mut random, 30);
            let mut left = world.sim.crash(random.next_u64());
            world = loop {
                let mut booted = World::boot(&setup, random.next_u64(), left);
                let rule = FaultRule::nth(OpKind::Flush, random.below(16), Fault::Errno(libc::EIO));
                let disk = DiskId(random.below(disks as u64) as u16);
                booted.sim.with_faults(disk, |faults| faults.rules.push(rule));
                match booted.recover_or_crash(random.next_u64()) {
                    Ok(mut world) => {
                        world.sim.with_faults(disk, |faults| faults.rules.clear());
                        break world;
                    }
                    Err(disks) => left = disks,
                }
                failures.fetch_add(1, Ordering::Relaxed);
            };
            model.check(&mut world);
            world.audit();
        }
    });
    assert!(failures.load(Ordering::Relaxed) > 0, "a fault hits an opening now and then");
}

/// Counters of a pool's whole life are kept with its checkpoints.
#[test]
fn counters_survive_a_close_and_a_crash() {
    let setup = Setup::default();
    let (mut random, mut model) = (Random::new(5), Model::default());
    let mut world = World::new(&setup, 5);
    let mut known = world.status(0).lifetime;
    assert_eq!((known.group_commits, known.caller_bytes), (0, 0));
    for round in 0..4 {
        run_workload(&mut world, &mut model, &mut random, 60);
        let now = world.status(0).lifetime;
        assert!(now.group_commits > known.group_commits && now.caller_bytes > known.caller_bytes);
        known = now;
        if round % 2 == 0 {
            world.close();
            let disks = world.sim.crash(random.next_u64());
            world = World::open(&setup, random.next_u64(), disks).unwrap();
            let found = world.status(0).lifetime;
            // A close ends with the checkpoint that they are in, and a flush that is not.
            assert_eq!(found.caller_bytes, known.caller_bytes);
            assert!(found.group_commits >= known.group_commits && found.page_bytes > 0);
        } else {
            let disks = world.sim.crash(random.next_u64());
            world = World::open(&setup, random.next_u64(), disks).unwrap();
            let found = world.status(0).lifetime;
            assert!(found.group_commits <= known.group_commits);
            known = found;
        }
        model.check(&mut world);
    }
}
