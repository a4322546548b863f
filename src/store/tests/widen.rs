//! A slot that comes while the pool is open, and disks that grow: the space is used beside the
//! rest, and a crash at any moment leaves a pool with it or one without.

use std::sync::{Arc, Mutex};

use crate::io::op::{DiskId, OpKind};
use crate::machine::mapping::PagePolicy;
use crate::memory::Arena;
use crate::sim::{Fault, FaultRule, Random, SimDisk, for_each_seed};
use crate::store::call::{Call, Reply};
use crate::store::errand::errand;
use crate::store::member::{MirrorDisk, MirrorState};
use crate::store::pool::{CopyFault, LabelCopies};
use crate::store::tests::checked::consistent;
use crate::store::tests::crashes::run_workload;
use crate::store::tests::model::{Model, read_all};
use crate::store::tests::world::{OpenFailure, Setup, World};

pub(super) type Widened = Arc<Mutex<Option<Result<u16, String>>>>;

fn setup(seed: u64, random: &mut Random) -> Setup {
    let (disks, mirrors) = (1 + (seed % 3) as usize, 1 + (seed / 3 % 2) as usize);
    let mut setup = Setup { disks, mirrors, spares: mirrors, ..Setup::default() };
    setup.domains = 1 + (seed / 6 % 3) as u16;
    setup.reactors = 1 + random.below(u64::from(setup.domains)) as usize;
    let memory = usize::from(setup.domains) * (6 << 20);
    setup.arena = Arena::new(memory, PagePolicy::Normal, None, 0).expect("there is memory");
    setup.varied(random)
}

/// With the slot.
fn wider(setup: &Setup) -> Setup {
    Setup { disks: setup.disks + 1, spares: 0, ..setup.clone() }
}

/// Begins to make the spare disks the next slot.
pub(super) fn start(world: &mut World) -> Widened {
    start_with(world, 0)
}

/// The same of the spare disks from this one on.
fn start_with(world: &mut World, spare: usize) -> Widened {
    let (setup, disks) = (world.setup.clone(), world.shared());
    let sector = setup.disk.logical_block_bytes as usize;
    let new = (0..setup.mirrors).map(|mirror| {
        let mut label = *disks.label();
        (label.slot, label.disk) = (disks.members.len() as u16, [70 + (spare + mirror) as u8; 16]);
        label.mirror.number = mirror as u16;
        let absent = LabelCopies(std::array::from_fn(|_| Err(CopyFault::Absent)));
        let disk = DiskId((setup.disk_count() + spare + mirror) as u16);
        let named = (disk, format!("spare-{mirror}").into());
        let memory = world.sim.arena().take(sector).expect("the arena has room");
        Arc::new(MirrorDisk::new(named, (label, absent), MirrorState::Syncing, memory))
    });
    let (new, done) = (new.collect(), Widened::default());
    let (told, part_bytes) = (Arc::clone(&done), setup.discard_part_bytes);
    let work = move |port: std::rc::Rc<_>| -> crate::store::errand::LocalFuture<_> {
        Box::pin(async move { disks.widen(&port, new, part_bytes).await })
    };
    world.sim.spawn_seed(0, errand(work, move |result| *told.lock().unwrap() = Some(result)));
    done
}

pub(super) fn finish(world: &mut World, widened: &Widened) -> Result<u16, String> {
    let until = world.sim.now_ns() + 60_000_000_000;
    world.sim.run_until(until, |_| widened.lock().unwrap().is_some());
    let slot = widened.lock().unwrap().take().expect("it ends")?;
    for domain in 0..usize::from(world.setup.domains) {
        let reply = world.call(domain, Call::Widen(slot));
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }
    Ok(slot)
}

fn blocks(world: &mut World) -> (u64, u64) {
    let domains = 0..usize::from(world.setup.domains);
    domains.fold((0, 0), |(blocks, free), domain| {
        let status = world.status(domain);
        (blocks + status.blocks, free + status.free_blocks)
    })
}

#[test]
fn a_slot_that_comes_gives_space_and_fills_beside_the_others() {
    for seed in 0..18 {
        let setup = setup(seed, &mut Random::new(seed));
        let mut world = World::new(&setup, seed);
        let inode = world.create(0).unwrap();
        let mut size = 0u64;
        while world.write(inode, size, &[5; 65_536]).is_ok() {
            size += 65_536;
        }
        let (before, _) = blocks(&mut world);
        let widened = start(&mut world);
        assert_eq!(finish(&mut world, &widened), Ok(setup.disks as u16));
        assert_eq!(blocks(&mut world).0, before + setup.layout().data_blocks(), "seed {seed}");
        let whole = size;
        while world.write(inode, size, &[6; 65_536]).is_ok() {
            size += 65_536;
        }
        let came = setup.layout().data_blocks() * 4096;
        assert!(size - whole > came / 2, "seed {seed}: {size} after {whole} bytes");
        let disks = world.sim.crash(seed);
        consistent(&disks, "with the slot");
        let setup = wider(&setup);
        let mut world = World::open(&setup, seed, disks).unwrap();
        let content = read_all(&mut world, inode);
        assert!(content[..whole as usize].iter().all(|byte| *byte == 5));
        assert_eq!(content.len() as u64, size);
        assert!(content[whole as usize..].iter().all(|byte| *byte == 6));
        world.audit();
    }
}

/// What is there opens, with the slot or without.
fn opens(setup: &Setup, seed: u64, disks: &[SimDisk]) -> World {
    match World::open(&wider(setup), seed, disks.to_vec()) {
        Ok(world) if world.shared().members.len() > setup.disks => world,
        // Mirrors without labels are only missing.
        Ok(_) => World::open(setup, seed, disks.to_vec()).unwrap(),
        Err(OpenFailure::Pool(with)) => {
            World::open(setup, seed, disks.to_vec()).unwrap_or_else(|without| {
                panic!("it opens neither with the slot ({with}) nor without: {without:?}")
            })
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_crash_while_a_slot_comes_leaves_a_pool_with_it_or_without() {
    for_each_seed("a_crash_while_a_slot_comes", 60, |seed| {
        let mut random = Random::new(seed);
        let setup = setup(seed, &mut random);
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 20);
        let widened = start(&mut world);
        let steps = random.below(150);
        for _ in 0..steps {
            if widened.lock().unwrap().is_some() || !world.sim.step() {
                break;
            }
        }
        if widened.lock().unwrap().is_some() {
            finish(&mut world, &widened).expect("nothing fails");
        }
        run_workload(&mut world, &mut model, &mut random, 20);
        let disks = world.sim.crash(random.next_u64());
        let mut world = opens(&setup, seed, &disks);
        model.check(&mut world);
        world.audit();
        // Whatever it is stays so, and works.
        let setup = world.setup.clone();
        run_workload(&mut world, &mut model, &mut random, 20);
        // A mirror whose label was cut short is missing.
        let shared = world.shared();
        let members = shared.members.iter().flat_map(|member| member.mirrors.iter());
        let used: Vec<DiskId> = members.map(|mirror| mirror.disk).collect();
        let disks = world.sim.crash(random.next_u64());
        let of_pool = disks.iter().enumerate();
        let of_pool = of_pool.filter(|(number, _)| used.contains(&DiskId(*number as u16)));
        let of_pool: Vec<SimDisk> = of_pool.map(|(_, disk)| disk.clone()).collect();
        consistent(&of_pool, "opened and crashed");
        let mut world = World::open(&setup, seed, disks).unwrap();
        model.check(&mut world);
        world.audit();
    });
}

/// The same disks, larger.
fn grown(setup: &Setup, disks: Vec<SimDisk>, size_bytes: u64) -> (Setup, Vec<SimDisk>) {
    let mut setup = setup.clone();
    setup.disk.size_bytes = size_bytes;
    let larger = disks.into_iter().map(|mut disk| {
        disk.grow(size_bytes);
        disk
    });
    (setup, larger.collect())
}

type Grown = Arc<Mutex<Option<Result<(), String>>>>;

fn start_growth(world: &mut World, slot: u16) -> Grown {
    let (disks, done, bytes) = (world.shared(), Grown::default(), world.setup.disk.size_bytes);
    let told = Arc::clone(&done);
    let work = move |port: std::rc::Rc<_>| -> crate::store::errand::LocalFuture<_> {
        Box::pin(async move { disks.grow(&port, slot, bytes).await })
    };
    world.sim.spawn_seed(0, errand(work, move |result| *told.lock().unwrap() = Some(result)));
    done
}

fn finish_growth(world: &mut World, slot: u16, grown: &Grown) {
    let until = world.sim.now_ns() + 60_000_000_000;
    world.sim.run_until(until, |_| grown.lock().unwrap().is_some());
    assert_eq!(grown.lock().unwrap().take(), Some(Ok(())));
    for domain in 0..usize::from(world.setup.domains) {
        let reply = world.call(domain, Call::Grow(slot));
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }
}

/// What comes behind is used, where the labels were too, and once more after that.
#[test]
fn disks_that_grow_have_more_space() {
    for seed in 0..18 {
        let setup = Setup { spares: 0, ..setup(seed, &mut Random::new(seed)) };
        let mut world = World::new(&setup, seed);
        let inode = world.create(0).unwrap();
        let mut size = 0u64;
        let (mut setup, mut last) = (setup, 0);
        for mib in [12, 17, 29] {
            let disks = world.sim.crash(seed);
            consistent(&disks, "before it grows");
            let (larger, disks) = grown(&setup, disks, mib << 20);
            setup = larger;
            world = World::open(&setup, seed, disks).unwrap();
            for slot in 0..setup.disks as u16 {
                let done = start_growth(&mut world, slot);
                finish_growth(&mut world, slot, &done);
            }
            while world.write(inode, size, &[mib as u8; 65_536]).is_ok() {
                size += 65_536;
            }
            assert!(size > last + (1 << 19), "seed {seed}, {mib} MiB: {size} bytes after {last}");
            last = size;
            world.audit();
        }
        let disks = world.sim.crash(seed);
        consistent(&disks, "grown");
        let mut world = World::open(&setup, seed, disks).unwrap();
        let content = read_all(&mut world, inode);
        assert_eq!(content.len() as u64, size);
        assert!(content.is_sorted(), "each part is what was written when there was room");
        world.audit();
    }
}

#[test]
fn a_crash_while_disks_grow_leaves_them_as_they_were_or_larger() {
    for_each_seed("a_crash_while_disks_grow", 60, |seed| {
        let mut random = Random::new(seed);
        let setup = Setup { spares: 0, ..setup(seed, &mut random) };
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 20);
        let disks = world.sim.crash(random.next_u64());
        let (setup, disks) = grown(&setup, disks, (13 + random.below(20)) << 20);
        let mut world = World::open(&setup, seed, disks).unwrap();
        model.check(&mut world);
        let slot = random.below(setup.disks as u64) as u16;
        let done = start_growth(&mut world, slot);
        for _ in 0..random.below(150) {
            if done.lock().unwrap().is_some() || !world.sim.step() {
                break;
            }
        }
        if done.lock().unwrap().is_some() {
            finish_growth(&mut world, slot, &done);
        }
        run_workload(&mut world, &mut model, &mut random, 40);
        for round in 0..2 {
            let disks = world.sim.crash(random.next_u64());
            world = World::open(&setup, seed, disks)
                .unwrap_or_else(|error| panic!("round {round}: {error:?}"));
            model.check(&mut world);
            world.audit();
            run_workload(&mut world, &mut model, &mut random, 20);
        }
        consistent(&world.sim.crash(random.next_u64()), "in the end");
    });
}

/// A new disk that fails stays outside; the pool goes on as it was.
#[test]
fn a_disk_that_fails_while_its_slot_comes_stays_outside() {
    for_each_seed("a_disk_that_fails_while_its_slot_comes", 24, |seed| {
        let mut random = Random::new(seed);
        let setup = setup(seed, &mut random);
        let mut model = Model::default();
        model.refuses_nothing = true;
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 20);
        let disk =
            DiskId((setup.disk_count() + random.below(setup.mirrors as u64) as usize) as u16);
        let rule = FaultRule { skip: 1, ..FaultRule::every(OpKind::Write, FAILS) };
        world.sim.with_faults(disk, |faults| faults.rules.push(rule));
        let widened = start(&mut world);
        assert!(finish(&mut world, &widened).is_err_and(|why| why.contains("cannot be written")));
        run_workload(&mut world, &mut model, &mut random, 20);
        let disks = world.sim.crash(random.next_u64());
        let mut world = World::open(&setup, seed, disks).unwrap();
        model.check(&mut world);
        world.audit();
    });
}

const FAILS: Fault = Fault::Errno(libc::EIO);

/// Cause: a group of a slot that had just come went to a domain that had not been told of the slot.
/// Harm: its reactor panicked. Fix: it looks at the slots itself.
#[test]
fn a_group_comes_to_a_domain_that_was_not_told_of_its_slot() {
    let mut random = Random::new(1);
    let setup = Setup { domains: 2, reactors: 2, ..setup(6, &mut random) };
    let mut world = World::new(&setup, 1);
    let inode = world.create(1).unwrap();
    let mut size = 0u64;
    while world.write(inode, size, &[5; 65_536]).is_ok() {
        size += 65_536;
    }
    let widened = start(&mut world);
    let until = world.sim.now_ns() + 60_000_000_000;
    world.sim.run_until(until, |_| widened.lock().unwrap().is_some());
    let slot = widened.lock().unwrap().take().unwrap().unwrap();
    assert!(matches!(world.call(0, Call::Widen(slot)), Reply::Done));
    let before = size;
    while world.write(inode, size, &[6; 65_536]).is_ok() {
        size += 65_536;
    }
    assert!(size - before > 1 << 20, "{size} after {before} bytes");
    assert!(matches!(world.call(1, Call::Widen(slot)), Reply::Done));
    world.audit();
    let disks = world.sim.crash(1);
    let mut world = World::open(&wider(&setup), 1, disks).unwrap();
    assert_eq!(world.size(inode).unwrap(), size);
    world.audit();
}

/// Cause: a pool of one disk did not raise its epoch, so two disks that were to be its second got
/// labels of one epoch. Harm: the one that had nothing was taken for the other. Fix: a slot comes
/// two epochs after whatever was tried before.
#[test]
fn a_disk_that_was_to_come_before_is_not_taken_for_the_one_that_came() {
    let mut tried = 0;
    for seed in 0..4 {
        let mirrors = 1 + (seed % 2) as usize;
        let setup = Setup {
            domains: 1,
            reactors: 1,
            disks: 1,
            mirrors,
            spares: 2 * mirrors,
            ..Setup::default()
        };
        for steps in (0..).step_by(5) {
            let mut world = World::new(&setup, seed);
            let widened = start_with(&mut world, 0);
            let mut went_on = true;
            for _ in 0..steps {
                went_on &= widened.lock().unwrap().is_none() && world.sim.step();
            }
            let disks = world.sim.crash(steps);
            if !went_on {
                break;
            }
            // Without the disks that were to come.
            let Ok(mut world) = World::open(&setup, seed, disks) else { continue };
            let widened = start_with(&mut world, mirrors);
            finish(&mut world, &widened).unwrap();
            let inode = world.create(0).unwrap();
            world.write(inode, 0, &[3; 1 << 20]).unwrap();
            let disks = world.sim.crash(steps);
            let wide = wider(&setup);
            let first: Vec<SimDisk> = disks[..2 * mirrors].to_vec();
            assert!(World::open(&wide, seed, first).is_err(), "{seed}, {steps} steps");
            let mut second = disks;
            second.drain(mirrors..2 * mirrors);
            let mut world = World::open(&wide, seed, second).unwrap();
            assert_eq!(read_all(&mut world, inode), vec![3; 1 << 20]);
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}

/// Cause: labels at the start of a disk said that it had grown though none could be written at its
/// new end. Harm: a crash while the second one was written left none two of which agreed. Fix:
/// those at the end come first, and one of them has to be there.
#[test]
fn a_disk_whose_new_end_cannot_be_written_stays_as_large_as_it_was() {
    for seed in 0..8 {
        let mirrors = 1 + (seed % 2) as usize;
        let setup = Setup { domains: 1, reactors: 1, disks: 1, mirrors, ..Setup::default() };
        let mut steps = 0;
        loop {
            let mut world = World::new(&setup, seed);
            let inode = world.create(0).unwrap();
            world.write(inode, 0, &[7; 65_536]).unwrap();
            let disks = world.sim.crash(seed);
            let (larger, disks) = grown(&setup, disks, 24 << 20);
            let mut world = World::open(&larger, seed, disks).unwrap();
            for disk in 0..mirrors {
                let rule = FaultRule::every(OpKind::Write, FAILS).at(20 << 20..24 << 20);
                world.sim.with_faults(DiskId(disk as u16), |faults| faults.rules.push(rule));
            }
            let done = start_growth(&mut world, 0);
            for _ in 0..steps {
                if done.lock().unwrap().is_some() || !world.sim.step() {
                    break;
                }
            }
            let ended = done.lock().unwrap().take();
            let disks = world.sim.crash(steps);
            let mut world = World::open(&larger, seed, disks)
                .unwrap_or_else(|error| panic!("{seed}, {steps} steps: {error:?}"));
            assert_eq!(read_all(&mut world, inode), vec![7; 65_536]);
            if let Some(ended) = ended {
                assert!(ended.is_err(), "{ended:?}");
                break;
            }
            steps += 1;
        }
        assert!(steps > 3, "{steps}");
    }
}
