//! Pools whose slots have two disks, on real files: one dies, is replaced, and gets everything.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use dynamicfs::check::Report;
use dynamicfs::{
    DiskConfig, DiskPlace, EngineConfig, Force, FormatOptions, MirrorState, Missing, Overwrite,
    StorageEngine,
};

use crate::pool::{Modelled, checked, close, small};
use crate::rig::{Numbers, Scratch, alongside};

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
