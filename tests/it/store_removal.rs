//! A slot that leaves a pool which is used: its disks are free in the end, and all is elsewhere.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dynamicfs::{DiskConfig, EngineConfig, EngineError, FormatOptions, StorageEngine};

use crate::pool::{Modelled, checked, close, small};
use crate::rig::{Numbers, Scratch, alongside};

/// Longer than a removal takes here.
const LONG: Duration = Duration::from_secs(120);

/// Three slots of files, each with so many disks that hold the same.
fn three_slots(scratch: &Scratch, mirrors: u16) -> EngineConfig {
    let mut config = small(&scratch.path().join("disk-0"));
    config.pool.domains = Some(3);
    config.pool.mirrors = Some(mirrors.into());
    config.io.reactors.count = Some(2);
    for number in 0..3 * mirrors {
        let path = scratch.file(&format!("disk-{number}"), 64 << 20);
        if number > 0 {
            let disk = DiskConfig { path, ..config.io.disks[0].clone() };
            config.io.disks.push(disk);
        }
    }
    StorageEngine::format(&config, FormatOptions::default())
        .unwrap_or_else(|error| panic!("{error}"));
    config
}

fn open(config: &EngineConfig) -> StorageEngine {
    StorageEngine::open(config.clone()).unwrap_or_else(|error| panic!("{error}"))
}

fn wait_until_gone(engine: &StorageEngine, slot: u16) {
    let until = Instant::now() + LONG;
    loop {
        let removals = engine.removals().unwrap();
        let removal = removals.iter().find(|removal| removal.slot == slot).expect("it leaves");
        if removal.is_gone {
            return;
        }
        assert!(Instant::now() < until, "{removal:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The disks that are left.
fn without(config: &EngineConfig, slot: u16, mirrors: u16) -> EngineConfig {
    let mut config = config.clone();
    let first = usize::from(slot * mirrors);
    drop(config.io.disks.drain(first..first + usize::from(mirrors)));
    config
}

fn checks(config: &EngineConfig) {
    let report = checked(config.io.disks.iter().map(|disk| disk.path.as_path()));
    assert!(report.is_consistent(), "{:?}", report.inconsistencies);
}

fn a_slot_leaves(mirrors: u16) {
    let _alongside = alongside();
    let scratch = Scratch::new();
    let config = three_slots(&scratch, mirrors);
    let engine = open(&config);
    let mut models: Vec<Modelled> = (0..3).map(|_| Modelled::new(&engine, 4 << 20)).collect();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = models.iter_mut().enumerate().map(|(number, model)| {
            let (engine, ended) = (&engine, &ended);
            scope.spawn(move || {
                let mut numbers = Numbers(number as u64 + 1);
                let mut steps = 0;
                while steps < 200 || !ended.load(Ordering::Relaxed) {
                    model.step(engine, &mut numbers);
                    steps += 1;
                }
            })
        });
        let load: Vec<_> = load.collect();
        std::thread::sleep(Duration::from_millis(200));
        let removal = engine.remove_slot(1).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(removal.slot, 1);
        wait_until_gone(&engine, 1);
        ended.store(true, Ordering::Relaxed);
        load.into_iter().for_each(|load| load.join().expect("nothing fails"));
    });
    models.iter().for_each(|model| model.check(&engine));
    let status = engine.status().unwrap();
    assert_eq!(status.pool.members, 2 * mirrors);
    assert!(status.disks.iter().all(|disk| disk.slot != 1), "{:?}", status.disks);
    // The disks are anybody's while the pool is used.
    let removed = &config.io.disks[usize::from(mirrors)].path;
    assert!(StorageEngine::inspect(removed).is_err(), "its label is gone");
    is_let_go(removed);
    close(&engine);
    drop(engine);
    let left = without(&config, 1, mirrors);
    checks(&left);
    let engine = open(&left);
    models.iter().for_each(|model| model.check(&engine));
    let refused = engine.remove_slot(1).unwrap_err();
    assert!(matches!(&refused, EngineError::NotRemoved { slot: 1, .. }), "{refused}");
    close(&engine);
}

/// Another pool can be made of it.
fn is_let_go(path: &Path) {
    let options = FormatOptions::default();
    let made = StorageEngine::format(&small(path), options);
    assert!(made.is_ok(), "{made:?}");
}

#[test]
fn a_slot_of_one_disk_leaves_a_pool_that_is_used() {
    a_slot_leaves(1);
}

#[test]
fn a_slot_of_two_disks_leaves_a_pool_that_is_used() {
    a_slot_leaves(2);
}

#[test]
fn a_slot_that_has_more_than_the_others_have_room_for_does_not_leave() {
    let _alongside = alongside();
    let scratch = Scratch::new();
    let config = three_slots(&scratch, 1);
    let engine = open(&config);
    let inode = engine.create_inode(dynamicfs::InodeOptions::default()).wait().unwrap();
    let chunk = vec![7; 1 << 20];
    let mut chunks = 0;
    while engine.write(inode, chunks << 20, &chunk).wait().is_ok() {
        chunks += 1;
    }
    let refused = engine.remove_slot(0).unwrap_err().to_string();
    assert!(refused.contains("add disks, or delete something"), "{refused}");
    assert_eq!(engine.removals().unwrap(), []);
    // With room it is begun, and what has begun can be ended, also after an opening.
    let mut cut = engine.transaction(inode);
    cut.truncate(1 << 20);
    cut.commit().wait().unwrap();
    engine.sync_order(Some(true), None);
    assert!(!engine.remove_slot(0).unwrap().is_gone);
    close(&engine);
    drop(engine);
    let engine = open(&config);
    assert_eq!(engine.removals().unwrap().len(), 1);
    engine
        .keep_slot(0)
        .or_else(|error| match &error {
            // It was quick.
            EngineError::NotRemoved { reason, .. } if reason.contains("gone already") => Ok(()),
            _ => Err(error),
        })
        .unwrap();
    assert!(engine.keep_slot(9).unwrap_err().to_string().contains("no slot 9"));
    close(&engine);
}
