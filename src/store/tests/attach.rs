//! A disk that comes while the pool is open: in the place of one that failed, under load, with
//! crashes at any moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::format::label::Label;
use crate::io::op::{DiskId, OpKind};
use crate::machine::mapping::PagePolicy;
use crate::memory::{Arena, DmaBuf};
use crate::sim::{Fault, FaultRule, Random, SimDisk, for_each_seed};
use crate::store::assembly::Missing;
use crate::store::call::Call;
use crate::store::errand::errand;
use crate::store::member::{MirrorDisk, MirrorState};
use crate::store::pool::{CopyFault, LabelCopies, PoolError, Preparation, prepare};
use crate::store::tests::checked::consistent;
use crate::store::tests::crashes::run_workload;
use crate::store::tests::mirrors::mirrored;
use crate::store::tests::model::Model;
use crate::store::tests::world::{Asked, Setup, World};

/// A disk that is being prepared.
pub(super) struct Coming {
    disk: DiskId,
    label: Label,
    is_blank: bool,
    done: Arc<Mutex<Option<Result<(), PoolError>>>>,
}

impl Coming {
    fn mirror(&self, memory: DmaBuf) -> Arc<MirrorDisk> {
        let absent = LabelCopies(std::array::from_fn(|_| Err(CopyFault::Absent)));
        let (named, label) = ((self.disk, "spare".into()), (self.label, absent));
        let mut mirror = MirrorDisk::new(named, label, MirrorState::Syncing, memory);
        mirror.is_blank = self.is_blank;
        Arc::new(mirror)
    }
}

/// Takes it into the membership.
fn admit(world: &mut World, mirror: &Arc<MirrorDisk>) -> Result<(), String> {
    let (disks, mirror) = (world.shared(), Arc::clone(mirror));
    let admitted = Arc::new(Mutex::new(None));
    let told = Arc::clone(&admitted);
    let work = move |port: std::rc::Rc<_>| -> crate::store::errand::LocalFuture<_> {
        Box::pin(async move { disks.admit(&port, mirror).await })
    };
    world.sim.spawn_seed(0, errand(work, move |result| *told.lock().unwrap() = Some(result)));
    let until = world.sim.now_ns() + 60_000_000_000;
    world.sim.run_until(until, |_| admitted.lock().unwrap().is_some());
    let result = admitted.lock().unwrap().take();
    result.expect("it ends")
}

/// Begins to make the first spare disk the one in a place of the pool.
pub(super) fn come(world: &mut World, place: usize, is_blank: bool) -> Coming {
    let (setup, disks) = (world.setup.clone(), world.shared());
    let mut label = *disks.label();
    (label.slot, label.disk) = ((place / setup.mirrors) as u16, [77; 16]);
    label.mirror.number = (place % setup.mirrors) as u16;
    let disk = DiskId(setup.disk_count() as u16);
    let (arena, sector) = (world.sim.arena(), setup.disk.logical_block_bytes as usize);
    let done = Arc::new(Mutex::new(None));
    let told = Arc::clone(&done);
    let work = move |port: std::rc::Rc<_>| -> crate::store::errand::LocalFuture<_> {
        Box::pin(async move {
            let of = (&label, &Preparation::default());
            prepare(&port, &arena, (disk, sector), of).await
        })
    };
    world.sim.spawn_seed(0, errand(work, move |result| *told.lock().unwrap() = Some(result)));
    Coming { disk, label, is_blank, done }
}

/// Adds the disk when it is ready, and has the domains bring it what there is.
pub(super) fn arrive(world: &mut World, coming: &Coming) -> Vec<Asked> {
    let until = world.sim.now_ns() + 60_000_000_000;
    world.sim.run_until(until, |_| coming.done.lock().unwrap().is_some());
    coming.done.lock().unwrap().take().expect("it ends").expect("the new disk works");
    let sector = world.setup.disk.logical_block_bytes as usize;
    let memory = world.sim.arena().take(sector).expect("the arena has room");
    let mirror = coming.mirror(memory);
    assert_eq!(admit(world, &mirror), Ok(()));
    let again = coming.mirror(world.sim.arena().take(sector).expect("the arena has room"));
    assert!(admit(world, &again).is_err(), "one place has one disk");
    (0..usize::from(world.setup.domains))
        .map(|domain| world.ask(domain, Call::Bring(Arc::clone(&mirror))))
        .collect()
}

/// Which places of the pool have a disk in sync.
pub(super) fn in_sync(world: &World) -> usize {
    let disks = world.disks();
    let all = disks.members.iter().flat_map(|member| member.mirrors.iter());
    all.filter(|mirror| mirror.state() == MirrorState::InSync).count()
}

pub(super) fn until_in_sync(world: &mut World) {
    let (disks, wanted) = (world.shared(), world.setup.disk_count());
    let until = world.sim.now_ns() + 60_000_000_000;
    world.sim.run_until(until, |_| {
        let all = disks.members.iter().flat_map(|member| member.mirrors.iter());
        all.filter(|mirror| mirror.state() == MirrorState::InSync).count() == wanted
    });
    assert_eq!(in_sync(world), wanted, "{disks:?}");
}

/// Works until a disk has been taken out.
fn until_out(world: &mut World, model: &mut Model, random: &mut Random) {
    for _ in 0..100 {
        run_workload(world, model, random, 5);
        if in_sync(world) < world.setup.disk_count() {
            return;
        }
    }
    panic!("a disk that fails is taken out");
}

/// The disks as the next opening finds them: the one that came in its place.
fn in_their_places(setup: &Setup, mut disks: Vec<SimDisk>, victim: usize) -> Vec<SimDisk> {
    disks.swap(victim, setup.disk_count());
    disks[setup.disk_count()] = SimDisk::new(setup.disk.clone());
    disks
}

/// All but one disk of a slot are gone: it alone has everything.
fn stands_alone(
    (setup, seed): (&Setup, u64),
    mut disks: Vec<SimDisk>,
    victim: usize,
    model: &mut Model,
) {
    consistent(&disks[..setup.disk_count()], "with the disk that came");
    let slot = victim / setup.mirrors * setup.mirrors;
    for other in (slot..slot + setup.mirrors).filter(|other| *other != victim) {
        disks[other] = SimDisk::new(setup.disk.clone());
    }
    let mut world = World::open(setup, seed, disks).expect("it has everything");
    model.check(&mut world);
    world.audit();
}

/// A disk dies, or hangs; another comes in its place while all goes on, and gets everything, with
/// crashes or without. Then it alone is enough.
#[test]
fn a_disk_that_comes_while_all_goes_on_gets_what_there_is() {
    let (joined, cut_short) = (AtomicU64::new(0), AtomicU64::new(0));
    for_each_seed("a_disk_that_comes_while_all_goes_on", 80, |seed| {
        let mut random = Random::new(seed ^ 0xc0e);
        let setup = mirrored(seed).varied(&mut random);
        // What hangs keeps its memory.
        let arena = Arena::new(16 << 20, PagePolicy::Normal, None, 0).expect("there is memory");
        let setup = Setup { spares: 1, missing: Missing::Accept, arena, ..setup };
        let mut model = Model::default();
        let mut world = World::new(&setup, seed);
        run_workload(&mut world, &mut model, &mut random, 30);
        let victim = random.below(setup.disk_count() as u64) as usize;
        let dying = DiskId(victim as u16);
        match random.below(3) {
            0 => world.sim.with_disk(dying, |disk| disk.unplug()),
            1 => world.sim.with_faults(dying, |faults| {
                faults.rules.push(FaultRule::every(OpKind::Flush, Fault::Errno(libc::EIO)));
                faults.rules.push(FaultRule::every(OpKind::Write, Fault::Errno(libc::EIO)));
            }),
            _ => world.sim.with_faults(dying, |faults| {
                faults.rules.push(FaultRule::every(OpKind::Write, Fault::Hang));
            }),
        }
        until_out(&mut world, &mut model, &mut random);
        let is_blank = random.coin();
        let coming = come(&mut world, victim, is_blank);
        let ops = random.below(20);
        run_workload(&mut world, &mut model, &mut random, ops);
        let _asked = arrive(&mut world, &coming);
        let ops = random.below(40);
        run_workload(&mut world, &mut model, &mut random, ops);
        if random.coin() {
            cut_short.fetch_add(u64::from(in_sync(&world) < setup.disk_count()), Ordering::Relaxed);
            let disks = in_their_places(&setup, world.sim.crash(random.next_u64()), victim);
            world = World::open(&setup, random.next_u64(), disks).expect("the others are enough");
            model.check(&mut world);
            run_workload(&mut world, &mut model, &mut random, 10);
            until_in_sync(&mut world);
            run_workload(&mut world, &mut model, &mut random, 10);
            let disks = world.sim.crash(random.next_u64());
            stands_alone((&setup, random.next_u64()), disks, victim, &mut model);
        } else {
            until_in_sync(&mut world);
            joined.fetch_add(1, Ordering::Relaxed);
            run_workload(&mut world, &mut model, &mut random, 10);
            if random.coin() {
                world.close();
            }
            let disks = in_their_places(&setup, world.sim.crash(random.next_u64()), victim);
            stands_alone((&setup, random.next_u64()), disks, victim, &mut model);
        }
    });
    let (joined, cut_short) = (joined.into_inner(), cut_short.into_inner());
    assert!(joined > 20 && cut_short > 5, "{joined} joined, {cut_short} cut short");
}

/// Steps of a simulation after which a rebuild is cut short: each of them in as many seeds.
const STEPS: u64 = 512;

/// A small pool of two disks that hold the same, one of which has been taken out.
fn one_is_out(seed: u64, random: &mut Random, model: &mut Model) -> World {
    let setup = Setup { spares: 1, mirrors: 2, missing: Missing::Accept, ..Setup::default() };
    let mut world = World::new(&setup, seed);
    run_workload(&mut world, model, random, 12);
    world.sim.with_disk(DiskId(1), |disk| disk.unplug());
    until_out(&mut world, model, random);
    world
}

/// A rebuild is interrupted after any of its steps, as that of a disk which came to a pool that was
/// open, and as that of one which the opening found: nothing is lost, and it ends.
#[test]
fn a_rebuild_that_is_interrupted_at_any_step_ends_at_last() {
    let (cut_short, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    for_each_seed("a_rebuild_that_is_interrupted_at_any_step", 96, |seed| {
        // As odd as it is, it meets every step once.
        let steps = seed * 677 % STEPS;
        let mut random = Random::new(5);
        let mut model = Model::default();
        let mut world = one_is_out(5, &mut random, &mut model);
        let setup = world.setup.clone();
        let coming = come(&mut world, 1, seed % 3 == 0);
        let _asked = arrive(&mut world, &coming);
        if !(seed / STEPS).is_multiple_of(2) {
            // Found by the opening.
            let disks = in_their_places(&setup, world.sim.crash(7), 1);
            world = World::open(&setup, 8, disks).expect("the other is enough");
            model.check(&mut world);
        }
        for _ in 0..steps {
            if in_sync(&world) == setup.disk_count() || !world.sim.step() {
                break;
            }
        }
        let is_cut = in_sync(&world) < setup.disk_count();
        (if is_cut { &cut_short } else { &ended }).fetch_add(1, Ordering::Relaxed);
        let mut disks = world.sim.crash(random.next_u64());
        if (seed / STEPS).is_multiple_of(2) {
            disks = in_their_places(&setup, disks, 1);
        }
        let mut world = World::open(&setup, random.next_u64(), disks).expect("enough are there");
        model.check(&mut world);
        run_workload(&mut world, &mut model, &mut random, 3);
        until_in_sync(&mut world);
        let disks = world.sim.crash(random.next_u64());
        stands_alone((&setup, random.next_u64()), disks, 1, &mut model);
    });
    let (cut_short, ended) = (cut_short.into_inner(), ended.into_inner());
    assert!(cut_short > 0, "{cut_short} cut short, {ended} not");
    eprintln!("rebuilds: {cut_short} cut short, {ended} ended before");
}
