//! Full disks, tiny journals, queues of length one: refused cleanly, and never stuck.

use crate::format::layout::BLOCK_BYTES;
use crate::io::op::DiskId;
use crate::io::op::OpKind;
use crate::scheduler::limits::SchedulerConfig;
use crate::sim::{Fault, FaultRule, Random, SimDiskConfig, for_each_seed};
use crate::store::call::{Call, Durability, Reply, Step};
use crate::store::error::StoreError;
use crate::store::tests::crashes::run_workload;
use crate::store::tests::model::{Model, read_all};
use crate::store::tests::world::{Setup, World};

/// The journal is written over many times; checkpoints and home writes keep up, and a record at the
/// end of the ring is like any other.
#[test]
fn a_tiny_journal_goes_round_and_round() {
    for_each_seed("a_tiny_journal_goes_round_and_round", 3, |seed| {
        let (setup, mut random, mut model) =
            (Setup::default(), Random::new(seed), Model::default());
        let mut world = World::new(&setup, seed);
        for _ in 0..6 {
            run_workload(&mut world, &mut model, &mut random, 150);
            let status = world.status(0);
            assert!(status.journal_used_bytes <= status.journal_bytes);
            let disks = world.sim.crash(random.next_u64());
            world = World::open(&setup, random.next_u64(), disks).unwrap();
            model.check(&mut world);
            world.audit();
        }
        let inode = world.create(0).unwrap();
        for round in 0..400u32 {
            let bytes = [(round % 251) as u8; 8192];
            world.write(inode, u64::from(round % 7) * 8192, &bytes).unwrap();
        }
        let status = world.status(0);
        let laps = status.counters.journal_bytes / status.journal_bytes;
        assert!(laps >= 4 && status.counters.checkpoints >= 4, "{status:?}");
        let disks = world.sim.crash(1);
        let mut world = World::open(&setup, seed, disks).unwrap();
        for round in 393..400u32 {
            let found = world.read(inode, u64::from(round % 7) * 8192, 8192).unwrap();
            assert_eq!(found, [(round % 251) as u8; 8192]);
        }
    });
}

/// Fills a pool until it refuses; gives the inodes and how many blocks each has.
fn fill(world: &mut World) -> Vec<(u64, u64)> {
    let mut inodes = Vec::new();
    for len in [400_000usize, 4096] {
        loop {
            let Ok(inode) = world.create(0) else { return inodes };
            match world.write(inode, 0, &vec![inode as u8; len]) {
                Ok(_) => inodes.push((inode, len as u64)),
                Err(StoreError::Full { wanted_bytes, free_bytes }) => {
                    assert!(wanted_bytes as usize >= len && free_bytes < wanted_bytes + (1 << 18));
                    assert_eq!(world.size(inode).unwrap(), 0, "nothing of it happened");
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    inodes
}

#[test]
fn a_full_pool_refuses_cleanly_and_deleting_makes_room() {
    let setup = Setup::default();
    let mut world = World::new(&setup, 1);
    let inodes = fill(&mut world);
    assert!(inodes.len() > 12, "{} inodes fill it", inodes.len());
    world.audit();
    // Also after a crash, with everything that recovery must write.
    let disks = world.sim.crash(2);
    let mut world = World::open(&setup, 3, disks).unwrap();
    for (inode, len) in &inodes {
        assert_eq!(read_all(&mut world, *inode), vec![*inode as u8; *len as usize]);
    }
    assert!(matches!(
        world.write(inodes[0].0, 1 << 20, &[1; 400_000]),
        Err(StoreError::Full { .. })
    ));
    for (inode, _) in &inodes {
        world.delete(*inode).unwrap();
    }
    world.close();
    let disks = world.sim.crash(4);
    let mut world = World::open(&setup, 5, disks).unwrap();
    let audit = world.audit();
    assert_eq!(audit.data, 0);
    assert!(!fill(&mut world).is_empty());
}

#[test]
fn the_disk_is_told_of_what_became_free_and_of_nothing_else() {
    let setup = Setup { discard_part_bytes: 64 << 10, ..Setup::default() };
    let mut world = World::new(&setup, 1);
    let (gone, kept) = (world.create(0).unwrap(), world.create(0).unwrap());
    for n in 0..16 {
        world.write(gone, n << 16, &[1; 65_536]).unwrap();
        world.write(kept, n << 14, &[2; 16_384]).unwrap();
    }
    world.delete(gone).unwrap();
    let until = world.sim.now_ns() + 1_000_000_000;
    world.sim.run_until(until, |_| false);
    let told = world.status(0).counters.discarded_bytes;
    assert!((500_000..=1 << 20).contains(&told), "{told} of 1 MiB");
    assert_eq!(read_all(&mut world, kept), vec![2; 16 << 14]);
    world.audit();
    // What is told is free: all of it can be had.
    let inodes = fill(&mut world);
    for (inode, len) in &inodes {
        assert_eq!(read_all(&mut world, *inode), vec![*inode as u8; *len as usize]);
    }
}

#[test]
fn queues_of_length_one_are_no_deadlock() {
    let scheduler =
        SchedulerConfig { depth: Some(1), queue_max: Some(8), ..SchedulerConfig::default() };
    let mut setup = Setup { scheduler, ..Setup::default() };
    setup.config.checkpoint_pages = 1;
    for_each_seed("queues_of_length_one_are_no_deadlock", 3, |seed| {
        let (mut random, mut model) = (Random::new(seed), Model::default());
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 200);
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, random.next_u64(), disks).unwrap();
        model.check(&mut world);
        world.close();
    });
}

/// Space that an acknowledged commit refers to is not given away by one that only is on its way.
#[test]
fn space_freed_by_an_unacknowledged_batch_is_not_reused() {
    for_each_seed("space_freed_by_an_unacknowledged_batch_is_not_reused", 30, |seed| {
        let setup = Setup::default();
        let mut world = World::new(&setup, seed);
        let inodes = fill(&mut world);
        let (victim, len) = inodes[(seed as usize) % 12];
        let old = vec![victim as u8; len as usize];
        // The flush that would make the deletion durable takes for ever; meanwhile others want
        // space.
        let slow = FaultRule::every(OpKind::Flush, Fault::Slow(10_000_000_000));
        world.sim.with_faults(DiskId(0), |faults| faults.rules.push(slow));
        let _deleting = world.ask(0, Call::Delete { inode: victim });
        let steps = |world: &World| vec![Step::Write(world.payload(0, &[0xab; 300_000]))];
        let mut others = Vec::new();
        for (inode, _) in inodes.iter().filter(|(inode, _)| *inode != victim).take(3) {
            let steps = steps(&world);
            let durability = Durability::Committed;
            others.push(world.ask(0, Call::Change { inode: *inode, steps, durability }));
        }
        let now = world.sim.now_ns();
        world.sim.run_until(now + 1_000_000_000, |_| false);
        for mut other in others {
            if let Some(reply) = world.answer(&mut other) {
                assert!(matches!(reply, Reply::Failed(StoreError::Full { .. })), "{reply:?}");
            }
        }
        let disks = world.sim.crash(seed);
        let mut world = World::open(&setup, seed, disks).unwrap();
        if world.size(victim).is_ok() {
            assert_eq!(read_all(&mut world, victim), old, "its blocks had another owner");
        }
    });
}

/// An inode of very many extents is deleted by one small record, on a full disk with a journal of
/// 1 MiB, through a crash in the middle.
fn delete_a_large_inode(extents: u64, seed: u64) {
    let blocks = extents + extents / 32 * 3 + 2000;
    let disk = SimDiskConfig {
        size_bytes: (blocks * 4096 + (8 << 20)).next_multiple_of(1 << 20),
        logical_block_bytes: 4096,
        ..SimDiskConfig::default()
    };
    let mut setup = Setup { disk, ..Setup::default() };
    setup.config.table_pages_per_chunk = 512;
    let mut world = World::new(&setup, seed);
    let inode = world.create(0).unwrap();
    let per_change = 512;
    for first in (0..extents).step_by(per_change) {
        let steps = (first..(first + per_change as u64).min(extents))
            .map(|index| Step::Write(world.payload(index * 65_536, &[0; 4096])));
        world.change(inode, steps.collect()).unwrap();
    }
    let filler = world.create(0).unwrap();
    let mut at = 0;
    while world.write(filler, at, &[0; 65_536]).is_ok() {
        at += 65_536;
    }
    assert_eq!(world.status(0).extents, extents + at / 65_536);
    let disks = world.sim.crash(seed);
    let mut world = World::open(&setup, seed, disks).unwrap();
    let _deleting = world.ask(0, Call::Delete { inode });
    let mut random = Random::new(seed);
    (0..random.below(60)).for_each(|_| {
        world.sim.step();
    });
    let disks = world.sim.crash(seed + 1);
    let mut world = World::open(&setup, seed + 1, disks).unwrap();
    if world.size(inode).is_ok() {
        assert_eq!(world.status(0).extents, extents + at / 65_536, "whole, or gone");
        world.delete(inode).unwrap();
    }
    assert_eq!(world.status(0).extents, at / 65_536);
    world.audit();
    world.close();
    let disks = world.sim.crash(seed + 2);
    let mut world = World::open(&setup, seed + 2, disks).unwrap();
    assert_eq!((world.inodes(), world.status(0).extents), (vec![filler], at / 65_536));
    world.audit();
}

#[test]
fn an_inode_of_ten_thousand_extents_is_deleted_on_a_full_disk() {
    for_each_seed("an_inode_of_ten_thousand_extents_is_deleted_on_a_full_disk", 2, |seed| {
        delete_a_large_inode(10_000, seed);
    });
}

#[test]
#[ignore = "takes minutes; tests/run does it"]
fn an_inode_of_a_million_extents_is_deleted_on_a_full_disk() {
    delete_a_large_inode(1_000_000, 1);
}

/// A table that may have no more memory refuses new extents, and nothing that needs none.
#[test]
fn a_full_table_refuses_new_extents_alone() {
    for_each_seed("a_full_table_refuses_new_extents_alone", 6, |seed| {
        let mut setup = Setup::default();
        setup.config.table_pages_max = 5;
        setup.config.table_pages_per_chunk = 5;
        let (mut world, mut extents) = (World::new(&setup, seed), 0u64);
        let [full, spare] = [0; 2].map(|_| world.create(0).unwrap());
        // In the first extent of each group, so that each takes one.
        let at = |extent: u64| extent * 4 * (64 << 10);
        world.write(spare, 0, &[9; 4096]).unwrap();
        let refused = loop {
            match world.write(full, at(extents), &[extents as u8; 4096]) {
                Ok(_) => extents += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, StoreError::TableFull { bytes_max: 20480 }), "{refused}");
        // Eight groups to a page, less what one request promises.
        assert!((32..40).contains(&extents), "{extents} groups");
        for extent in 0..extents {
            world.write(full, at(extent), &[!extent as u8; 4096]).unwrap();
        }
        world.create(0).expect("an inode has no extent");
        world.delete(spare).unwrap();
        world.write(full, at(extents), &[extents as u8; 4096]).expect("there is room again");
        let disks = world.sim.crash(seed);
        let mut world = World::open(&setup, seed, disks).unwrap();
        for extent in 0..extents {
            let found = world.read(full, at(extent), 4096).unwrap();
            assert_eq!(found, [!extent as u8; 4096]);
        }
        world.audit();
    });
}

/// Cause: commits of small data flush the journal's disk alone. Harm: blocks that had gone home to
/// another disk stayed in memory, and held the journal, until a checkpoint. Fix: those disks are
/// flushed before they hold more than what may wait for a home write.
#[test]
fn blocks_that_went_home_to_another_disk_do_not_stay_in_memory() {
    let mut setup = Setup { disks: 2, ..Setup::default() };
    (setup.config.checkpoint_percent, setup.config.urgent_percent) = (90, 95);
    setup.config.write_back_bytes = 4 * BLOCK_BYTES;
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    let mut most = 0;
    for block in 0..100 {
        world.write(inode, block * BLOCK_BYTES, &[block as u8; 4096]).unwrap();
        most = most.max(world.status(0).deferred_blocks);
    }
    assert_eq!(world.status(0).counters.checkpoints, 0, "nothing else makes room");
    assert!(most < 24, "{most} blocks were in memory");
}
