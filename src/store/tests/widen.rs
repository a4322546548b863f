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

type Widened = Arc<Mutex<Option<Result<u16, String>>>>;

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
fn start(world: &mut World) -> Widened {
    let (setup, disks) = (world.setup.clone(), world.shared());
    let sector = setup.disk.logical_block_bytes as usize;
    let new = (0..setup.mirrors).map(|mirror| {
        let mut label = *disks.label();
        (label.slot, label.disk) = (disks.members.len() as u16, [70 + mirror as u8; 16]);
        label.mirror.number = mirror as u16;
        let absent = LabelCopies(std::array::from_fn(|_| Err(CopyFault::Absent)));
        let disk = DiskId((setup.disk_count() + mirror) as u16);
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

fn finish(world: &mut World, widened: &Widened) -> Result<u16, String> {
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
        Ok(world) => world,
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
        let disks = world.sim.crash(random.next_u64());
        consistent(&disks[..setup.disk_count()], "opened and crashed");
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
