//! Crash after crash of pools of all kinds, with disks that die meanwhile: the count that is asked
//! for is made by one test, so that it says what it is a count of.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::io::op::{DiskId, OpKind};
use crate::machine::mapping::PagePolicy;
use crate::memory::Arena;
use crate::sim::{Fault, FaultRule, Random, for_each_seed};
use crate::store::assembly::Missing;
use crate::store::member::MirrorState;
use crate::store::tests::crashes::{crash_and_go_on, enough_recoveries, recovered, run_workload};
use crate::store::tests::mirrors::{mirrored, states};
use crate::store::tests::model::Model;
use crate::store::tests::world::{Setup, World};

/// Pools without mirrors, with them, with inodes of fewer copies, and with disks that die.
#[test]
fn recoveries_of_pools() {
    let taken_out = AtomicU64::new(0);
    for_each_seed("recoveries_of_pools", 60, |seed| {
        let number = seed / 6;
        let mirrors = mirrored(number);
        let several = Setup { disks: 2 + (number % 7) as usize, mirrors: 1, ..mirrors.clone() };
        let four = Setup { disks: 1 + (number % 2) as usize, mirrors: 4, ..mirrors.clone() };
        let of = |setup: &Setup, min| {
            let copies = Some((min, setup.mirrors as u16));
            Setup { copies, ..setup.clone() }
        };
        match seed % 6 {
            0 => crash_and_go_on(seed, &several, 6),
            1 => crash_and_go_on(seed, &mirrors, 6),
            2 => crash_and_go_on(seed, &of(&mirrors, 1), 6),
            3 => deaths_and_crashes(seed, &mirrors, &taken_out),
            4 => deaths_and_crashes(seed, &four, &taken_out),
            _ => deaths_and_crashes(seed, &of(&four, 2), &taken_out),
        }
    });
    let taken_out = taken_out.load(Ordering::Relaxed);
    let is_one = std::env::var_os("DYNAMICFS_SIM_SEED").is_some();
    assert!(is_one || taken_out > 20, "{taken_out} disks were taken out");
    enough_recoveries(&format!("pools, {taken_out} disks taken out"));
}

/// Disks fail or go away at any moment, as long as each slot keeps one in sync; they come back or
/// stay away. Nothing is refused and nothing is lost.
fn deaths_and_crashes(seed: u64, setup: &Setup, taken_out: &AtomicU64) {
    let mut random = Random::new(seed ^ 0xdea7);
    // What hangs keeps its memory until it is given up on, and the disk's after that.
    let arena = Arena::new(48 << 20, PagePolicy::Normal, None, 0).expect("there is memory");
    let setup = &Setup { arena, ..setup.varied(&mut random) };
    // So many may fail at a time: of an inode with two copies one is left.
    let spare = setup.copies.map_or(setup.mirrors, |(least, _)| usize::from(least)) - 1;
    let mut model = Model::default();
    let mut world = World::new(setup, seed);
    for _ in 0..6 {
        let ops = 1 + random.below(20);
        run_workload(&mut world, &mut model, &mut random, ops);
        // Nothing that was begun before is refused for what fails now, either.
        model.refuses_nothing = true;
        for _ in 0..1 + random.below(spare as u64) {
            if random.below(3) > 0 {
                fail_another(&mut world, setup, spare, &mut random);
            }
            let ops = 1 + random.below(20);
            run_workload(&mut world, &mut model, &mut random, ops);
        }
        model.refuses_nothing = false;
        let _ = taken_out.fetch_add(world.disks().membership.fenced(), Ordering::Relaxed);
        if random.below(4) == 0 {
            // Longer than it takes to bring a disk into sync.
            let now = world.sim.now_ns();
            world.sim.run_until(now + 200_000_000, |_| false);
        }
        // What went away unseen is missed by an opening, which may need it to decide.
        let (states, all) = (states(&world), setup.disk_count());
        let is_out = |n| states.len() < all || states.get(n) == Some(&MirrorState::Out);
        let mut disks = world.sim.crash(random.next_u64());
        for (number, disk) in disks.iter_mut().enumerate() {
            if disk.is_gone() && (random.below(4) > 0 || !is_out(number)) {
                disk.plug(&mut random);
            }
        }
        world = recovered(setup, &mut random, disks);
        model.check(&mut world);
        world.audit();
    }
}

/// A disk fails everything, or one kind of request from some moment on, where its slot and the pool
/// can do without it.
fn fail_another(world: &mut World, setup: &Setup, spare: usize, random: &mut Random) {
    let states = states(world);
    let in_sync = states.iter().filter(|state| **state == MirrorState::InSync).count();
    let slot = random.below(setup.disks as u64) as usize;
    let numbers = slot * setup.mirrors..(slot + 1) * setup.mirrors;
    let out = numbers.clone().filter(|number| states.get(*number) != Some(&MirrorState::InSync));
    // One whose failure nobody has seen is in sync by its label: one at a time.
    let mut is_unseen = |number: usize| {
        let disk = DiskId(number as u16);
        let fails = world.sim.with_disk(disk, |disk| disk.is_gone())
            || world.sim.with_faults(disk, |faults| !faults.rules.is_empty());
        fails && states.get(number) == Some(&MirrorState::InSync)
    };
    let all = setup.disk_count();
    if states.len() < all || out.count() >= spare || in_sync < 2 || (0..all).any(&mut is_unseen) {
        return;
    }
    let victim = DiskId(random.below(setup.mirrors as u64) as u16 + numbers.start as u16);
    if random.coin() {
        return world.sim.with_disk(victim, |disk| disk.unplug());
    }
    let kinds = [OpKind::Write, OpKind::WriteDsync, OpKind::Flush, OpKind::Read];
    let skip = random.below(20);
    // Longer than anybody waits; then it is done after all.
    let late = Fault::Slow(setup.hung_after_ns * (2 + random.below(20)));
    let fault = *random.pick(&[Fault::Errno(libc::EIO), Fault::Hang, late]);
    let rule = FaultRule::every(*random.pick(&kinds), fault);
    world.sim.with_faults(victim, |faults| faults.rules.push(FaultRule { skip, ..rule }));
}

/// A disk writes something long after it was given up on, and another fails so that it cannot be
/// taken out. What has a place that is written again must not be written after that.
#[test]
fn what_comes_late_to_a_place_of_its_own_destroys_nothing() {
    let (stopped, opened) = (AtomicU64::new(0), AtomicU64::new(0));
    for_each_seed("what_comes_late_to_a_place_of_its_own", 300, |seed| {
        let mut random = Random::new(seed ^ 0x1a7e);
        let setup = Setup { mirrors: 2, missing: Missing::Accept, ..Setup::default() };
        let setup = setup.varied(&mut random);
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 10);
        let late = Fault::Slow(LATE_NS);
        let (times, skip) = (1 + random.below(3), random.below(10));
        world.sim.with_faults(DiskId(0), |faults| {
            faults.rules.push(FaultRule { times, skip, ..FaultRule::every(OpKind::Write, late) });
        });
        // The label that would say that it is out.
        let (times, skip) = (1 + random.below(8), random.below(14));
        let error = Fault::Errno(libc::EIO);
        world.sim.with_faults(DiskId(1), |faults| {
            faults.rules.push(FaultRule { times, skip, ..FaultRule::every(OpKind::Write, error) });
        });
        run_workload(&mut world, &mut model, &mut random, 20);
        let now = world.sim.now_ns();
        world.sim.run_until(now + 2 * setup.hung_after_ns, |_| false);
        run_workload(&mut world, &mut model, &mut random, 20);
        let reason = world.status(0).stopped.unwrap_or_default();
        stopped.fetch_add(reason.contains("may still be").into(), Ordering::Relaxed);
        let now = world.sim.now_ns();
        world.sim.run_until(now + 2 * LATE_NS, |_| false);
        run_workload(&mut world, &mut model, &mut random, 10);
        let disks = world.sim.crash(random.next_u64());
        // What cannot be decided is said.
        let Ok(mut world) = World::open(&setup, random.next_u64(), disks) else { return };
        opened.fetch_add(1, Ordering::Relaxed);
        model.check(&mut world);
        world.audit();
    });
    let (stopped, opened) = (stopped.into_inner(), opened.into_inner());
    let is_one = std::env::var_os("DYNAMICFS_SIM_SEED").is_some();
    assert!(is_one || stopped > 5 && opened > 100, "{stopped} stopped, {opened} opened");
    eprintln!("{stopped} stopped, {opened} opened");
}

/// Longer than anybody waits.
const LATE_NS: u64 = 40_000_000_000;
