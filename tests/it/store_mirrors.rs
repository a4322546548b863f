//! Pools whose slots have two disks, on real files: one dies, is replaced, and gets everything.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dynamicfs::check::Report;
use dynamicfs::engine::engine_config::ReadOnly;
use dynamicfs::{
    DiskConfig, DiskPlace, EngineConfig, Force, FormatOptions, InodeOptions, MirrorState, Missing,
    Overwrite, StorageEngine,
};

use crate::pool::{Modelled, checked, close, small};
use crate::rig::{LoopDevice, Numbers, Scratch, alongside};

/// A pool of two slots with two files each.
struct Mirrors {
    scratch: Scratch,
    config: EngineConfig,
}

impl Mirrors {
    fn named(name: &str) -> Mirrors {
        let scratch = Scratch::new();
        let mut config = small(&scratch.path().join(format!("{name}-0")));
        config.pool.domains = Some(2);
        config.pool.mirrors = Some(2);
        config.io.reactors.count = Some(2);
        for number in 0..4 {
            // The disks of a slot need not be of one size.
            let path = scratch.file(&format!("{name}-{number}"), (48 + 8 * number) << 20);
            if number > 0 {
                let disk = DiskConfig { path, ..config.io.disks[0].clone() };
                config.io.disks.push(disk);
            }
        }
        StorageEngine::format(&config, FormatOptions::default())
            .unwrap_or_else(|error| panic!("{error}"));
        Mirrors { scratch, config }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.config.io.disks[number].path.clone()
    }

    /// With these of its disks.
    fn with(&self, numbers: &[usize]) -> EngineConfig {
        let mut config = self.config.clone();
        config.io.disks = numbers.iter().map(|n| self.config.io.disks[*n].clone()).collect();
        config
    }

    fn report(&self, numbers: &[usize]) -> Report {
        let disks = numbers.iter().map(|number| &self.config.io.disks[*number]);
        checked(disks.map(|disk| disk.path.as_path()))
    }
}

fn open(config: EngineConfig) -> StorageEngine {
    StorageEngine::open(config).unwrap_or_else(|error| panic!("{error}"))
}

fn states(engine: &StorageEngine) -> Vec<MirrorState> {
    engine.disks().iter().map(|disk| disk.state).collect()
}

fn until_in_sync(engine: &StorageEngine) {
    let begun = Instant::now();
    while states(engine).iter().any(|state| *state != MirrorState::InSync) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", engine.disks());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn work(engine: &StorageEngine, models: &mut [Modelled], seed: u64, steps: u64) {
    for (round, model) in models.iter_mut().enumerate() {
        let mut numbers = Numbers(seed + round as u64);
        (0..steps).for_each(|_| model.step(engine, &mut numbers));
    }
}

#[test]
fn a_disk_is_lost_replaced_and_gets_everything() {
    let _alongside = alongside();
    let mut disks = Mirrors::named("replaced");
    let engine = open(disks.config.clone());
    let mut models: Vec<Modelled> = (0..4).map(|_| Modelled::new(&engine, 300_000)).collect();
    work(&engine, &mut models, 1, 40);
    close(&engine);
    drop(engine);
    let report = disks.report(&[0, 1, 2, 3]);
    assert!(report.is_consistent() && report.notes == 0, "{:?}", report.inconsistencies);

    // One is gone: the others are more than half.
    std::fs::remove_file(disks.path(1)).unwrap();
    let engine = open(disks.config.clone());
    let status = engine.status().unwrap();
    assert_eq!(status.disks.len(), 3);
    assert!(status.pool.notes.iter().any(|note| note.contains("replaced-1")), "{:?}", status.pool);
    work(&engine, &mut models, 100, 40);
    models.iter().for_each(|model| model.check(&engine));
    close(&engine);
    drop(engine);

    let place = |slot, mirror| DiskPlace { slot, mirror };
    let left = disks.with(&[0, 2, 3]);
    let small = disks.scratch.file("small", 8 << 20);
    let new = disks.scratch.file("new", 64 << 20);
    let refused = |place, with: &PathBuf| {
        let replaced = StorageEngine::replace_disk(&left, place, with, Overwrite::No);
        replaced.unwrap_err().to_string()
    };
    assert!(refused(place(0, 1), &small).contains("and the others of its slot"));
    assert!(refused(place(2, 0), &new).contains("the pool has 2 slots"));
    assert!(refused(place(1, 0), &new).contains("has everything"));
    let error = refused(place(0, 1), &disks.path(3));
    assert!(error.contains("pool"), "{error}");
    let report = StorageEngine::replace_disk(&left, place(0, 1), &new, Overwrite::No).unwrap();
    assert_eq!((report.disks.len(), report.disks[1].in_sync), (4, false), "{report:?}");

    disks.config.io.disks[1].path = new;
    let engine = open(disks.config.clone());
    work(&engine, &mut models, 200, 20);
    until_in_sync(&engine);
    let copied: u64 = engine.disks().iter().map(|disk| disk.sync_copied).sum();
    assert!(copied > 0);
    work(&engine, &mut models, 300, 5);
    close(&engine);
    drop(engine);
    let report = disks.report(&[0, 1, 2, 3]);
    assert!(report.is_consistent() && report.notes == 0, "{:?}", report.inconsistencies);

    // The new one alone has all of its slot.
    let half = disks.with(&[1, 2]);
    let error = StorageEngine::open(half.clone()).unwrap_err().to_string();
    assert!(error.contains("2 of the 4 disks"), "{error}");
    let force = Force { missing: Missing::Accept, ..Force::default() };
    let engine = StorageEngine::open_forced(half, force).unwrap();
    models.iter().for_each(|model| model.check(&engine));
    work(&engine, &mut models, 400, 10);
    close(&engine);
    drop(engine);
    // The other half was left behind: it is not read, and gets what it lacks.
    let engine = open(disks.config.clone());
    models.iter().for_each(|model| model.check(&engine));
    until_in_sync(&engine);
    models.iter().for_each(|model| model.check(&engine));
    close(&engine);
}

/// Each half of a pool is booted by itself, by force: then they are two, and are not mixed.
#[test]
fn halves_that_were_opened_apart_are_not_put_together() {
    let _alongside = alongside();
    let disks = Mirrors::named("split");
    let engine = open(disks.config.clone());
    let mut models = vec![Modelled::new(&engine, 100_000)];
    work(&engine, &mut models, 1, 10);
    close(&engine);
    drop(engine);
    for half in [[0, 2], [1, 3]] {
        let error = StorageEngine::open(disks.with(&half)).unwrap_err().to_string();
        assert!(error.contains("more than half"), "{error}");
        let force = Force { missing: Missing::Accept, ..Force::default() };
        let engine = StorageEngine::open_forced(disks.with(&half), force).unwrap();
        close(&engine);
    }
    let error = StorageEngine::open(disks.config.clone()).unwrap_err().to_string();
    assert!(error.contains("opened apart"), "{error}");
    // Each by itself is a pool, from now on without a force.
    for half in [[0, 2], [1, 3]] {
        let engine = open(disks.with(&half));
        models.iter().for_each(|model| model.check(&engine));
        close(&engine);
    }
}

/// Waits until every place of the pool has a disk in sync, whatever was taken out.
pub(crate) fn until_every_place_is(engine: &StorageEngine, places: usize) {
    let begun = Instant::now();
    let in_sync = || states(engine).iter().filter(|s| **s == MirrorState::InSync).count();
    while in_sync() < places {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", engine.disks());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A disk that was away comes back while the pool is used: only what it lacks is copied.
#[test]
fn a_disk_comes_back_to_a_running_engine() {
    let _alongside = alongside();
    let disks = Mirrors::named("back");
    let engine = open(disks.config.clone());
    let mut models: Vec<Modelled> = (0..4).map(|_| Modelled::new(&engine, 300_000)).collect();
    work(&engine, &mut models, 1, 60);
    close(&engine);
    drop(engine);

    let away = disks.scratch.path().join("away");
    std::fs::rename(disks.path(1), &away).unwrap();
    let engine = open(disks.config.clone());
    work(&engine, &mut models, 100, 2);
    let error = engine.attach_disk(disks.path(0), None, Overwrite::No).unwrap_err().to_string();
    assert!(error.contains("is there, and in use"), "{error}");
    // What is too small, or was used apart, takes no place.
    let small = disks.scratch.file("small", 8 << 20);
    let place = Some(DiskPlace { slot: 0, mirror: 1 });
    for _ in 0..3 {
        let error = engine.attach_disk(&small, place, Overwrite::No).unwrap_err().to_string();
        assert!(error.contains("and others of its slot"), "{error}");
    }
    let stranger = disks.scratch.file("stranger", 64 << 20);
    let error = engine.attach_disk(&stranger, None, Overwrite::No).unwrap_err().to_string();
    assert!(error.contains("name the place"), "{error}");
    let back = engine.attach_disk(&away, None, Overwrite::No).unwrap();
    assert_eq!((back.slot, back.mirror, back.state), (0, 1, MirrorState::Syncing));
    work(&engine, &mut models, 200, 5);
    until_every_place_is(&engine, 4);
    let back = engine.disks().into_iter().find(|disk| disk.path == away).unwrap();
    let all: u64 = engine.status().unwrap().domains.iter().map(|d| d.now.extents).sum();
    assert!(back.sync_copied < all * 8, "{} of {all} extents", back.sync_copied);
    work(&engine, &mut models, 300, 5);
    close(&engine);
    drop(engine);
    std::fs::rename(&away, disks.path(1)).unwrap();
    let report = disks.report(&[0, 1, 2, 3]);
    assert!(report.is_consistent() && report.notes == 0, "{:?}", report.inconsistencies);
    // It and one of the other slot have everything.
    let force = Force { missing: Missing::Accept, ..Force::default() };
    let engine = StorageEngine::open_forced(disks.with(&[1, 2]), force).unwrap();
    models.iter().for_each(|model| model.check(&engine));
    close(&engine);
}

/// One that was used without the others has what they have not: it is not taken for one that was
/// only away.
#[test]
fn a_disk_that_was_used_apart_is_not_written_over_unasked() {
    let _alongside = alongside();
    let disks = Mirrors::named("apart");
    let engine = open(disks.config.clone());
    let mut models = vec![Modelled::new(&engine, 100_000)];
    work(&engine, &mut models, 1, 20);
    close(&engine);
    drop(engine);
    let force = Force { missing: Missing::Accept, ..Force::default() };
    let apart = StorageEngine::open_forced(disks.with(&[1, 3]), force).unwrap();
    work(&apart, &mut models, 100, 5);
    close(&apart);
    drop(apart);
    let before = std::fs::read(disks.path(1)).unwrap();
    // As often as the other half, less often, and more often.
    for openings in 0..3 {
        let engine = StorageEngine::open_forced(disks.with(&[0, 2]), force).unwrap();
        let (one, place) = (disks.path(1), Some(DiskPlace { slot: 0, mirror: 1 }));
        let error = engine.attach_disk(&one, None, Overwrite::No).unwrap_err().to_string();
        assert!(error.contains("opened without the disks that are here"), "{openings}: {error}");
        let error = engine.attach_disk(&one, place, Overwrite::No).unwrap_err().to_string();
        assert!(error.contains("dynamicfs"), "{openings}: {error}");
        assert!(std::fs::read(&one).unwrap() == before, "{openings}");
        close(&engine);
    }
    let engine = StorageEngine::open_forced(disks.with(&[0, 2]), force).unwrap();
    for number in [1, 3] {
        let place = Some(DiskPlace { slot: (number / 2) as u16, mirror: 1 });
        engine.attach_disk(disks.path(number), place, Overwrite::Yes).unwrap();
    }
    until_in_sync(&engine);
    close(&engine);
    drop(engine);
    let report = disks.report(&[0, 1, 2, 3]);
    assert!(report.is_consistent() && report.notes == 0, "{:?}", report.inconsistencies);
}

/// Three devices hold the same; one vanishes while threads write, another takes its place while
/// they go on, and each by itself has every byte.
#[test]
fn a_device_vanishes_under_load_and_another_takes_its_place() {
    let _alongside = alongside();
    let scratch = Scratch::new();
    let mut loops = Vec::new();
    for number in 0..4 {
        let file = scratch.file(&format!("disk-{number}"), 64 << 20);
        let Some(device) = LoopDevice::over(&file) else { return };
        loops.push((device, file));
    }
    let mut config = small(loops[0].0.path());
    config.pool.domains = Some(2);
    config.pool.mirrors = Some(3);
    config.io.reactors.count = Some(2);
    for (device, _) in &loops[1..3] {
        let path = device.path().to_path_buf();
        config.io.disks.push(DiskConfig { path, ..config.io.disks[0].clone() });
    }
    StorageEngine::format(&config, FormatOptions::default()).unwrap();
    let engine = open(config.clone());
    let models: Vec<Modelled> = (0..4).map(|_| Modelled::new(&engine, 300_000)).collect();
    let stop = AtomicBool::new(false);
    let models: Vec<Modelled> = std::thread::scope(|scope| {
        let working = models.into_iter().enumerate().map(|(seed, mut model)| {
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                let mut numbers = Numbers(seed as u64 + 7);
                while !stop.load(Ordering::Relaxed) {
                    model.step(engine, &mut numbers);
                }
                model
            })
        });
        let working: Vec<_> = working.collect();
        std::thread::sleep(Duration::from_millis(200));
        // As a device that is pulled out: nothing is inside of it any more.
        assert!(loops[1].0.cut(&loops[1].1, 0));
        let begun = Instant::now();
        while !states(&engine).contains(&MirrorState::Out) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", engine.disks());
            std::thread::sleep(Duration::from_millis(5));
        }
        let place = Some(DiskPlace { slot: 0, mirror: 1 });
        engine.attach_disk(loops[3].0.path(), place, Overwrite::No).unwrap();
        until_every_place_is(&engine, 3);
        std::thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        working.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    models.iter().for_each(|model| model.check(&engine));
    close(&engine);
    drop(engine);
    let now = [0, 3, 2].map(|number| loops[number].0.path().to_path_buf());
    let report = checked(now.iter().map(PathBuf::as_path));
    assert!(report.is_consistent() && report.notes == 0, "{:?}", report.inconsistencies);
    for path in &now {
        let mut alone = config.clone();
        alone.io.disks = vec![DiskConfig { path: path.clone(), ..config.io.disks[0].clone() }];
        alone.pool.read_only = ReadOnly::Yes;
        let force = Force { missing: Missing::Accept, ..Force::default() };
        let engine = StorageEngine::open_forced(alone, force).unwrap();
        models.iter().for_each(|model| model.check(&engine));
        close(&engine);
    }
}

/// Inodes of one copy beside one of two: half the space, and lost with one of the disks alone.
#[test]
fn an_inode_of_one_copy_takes_half_the_space_and_says_what_is_lost() {
    let _alongside = alongside();
    let mirrors = Mirrors::named("copies");
    let engine = open(mirrors.config.clone());
    let create = |copies| {
        let options = InodeOptions { copies: Some(copies), ..InodeOptions::default() };
        engine.create_inode(options).wait()
    };
    let refused = create(3).unwrap_err().to_string();
    assert!(refused.contains("1 to 2 copies"), "{refused}");
    let (safe, single) = (create(2).unwrap(), create(1).unwrap());
    let chunk: Vec<u8> = (0..1 << 20).map(|n: u32| (n / 5000) as u8).collect();
    engine.write(safe, 0, &chunk).wait().unwrap();
    let free_bytes = engine.status().unwrap().free_bytes();
    let mut chunks = 0u64;
    while engine.write(single, chunks << 20, &chunk).wait().is_ok() {
        chunks += 1;
    }
    assert!(chunks << 20 > free_bytes * 3 / 2, "{chunks} MiB where {free_bytes} bytes were free");
    let info = engine.stat(single).wait().unwrap();
    assert_eq!((info.copies, engine.stat(safe).wait().unwrap().copies), (Some(1), None));
    close(&engine);
    drop(engine);
    let report = mirrors.report(&[0, 1, 2, 3]);
    assert!(report.is_consistent(), "{:?}", report.inconsistencies);
    // One disk of each slot is lost for good.
    let force = Force { missing: Missing::Accept, ..Force::default() };
    let engine = StorageEngine::open_forced(mirrors.with(&[0, 3]), force).unwrap();
    assert_eq!(engine.read(safe, 0..1 << 20).wait().unwrap()[..], chunk);
    let (mut lost, mut right) = (0u64, 0u64);
    for at in (0..chunks << 20).step_by(64 << 10) {
        let within = (at % (1 << 20)) as usize;
        match engine.read(single, at..at + (64 << 10)).wait() {
            Ok(found) => {
                assert_eq!(found[..], chunk[within..within + (64 << 10)]);
                right += 1;
            }
            Err(error) => {
                let named = error.to_string().contains("which is missing");
                assert!(named, "it names the disk: {error}");
                lost += 1;
            }
        }
    }
    assert!(lost > right / 4 && right > lost / 4, "{lost} lost, {right} right");
    close(&engine);
}
