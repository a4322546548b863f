//! Pools of several disks: made, used, opened in any order, and refused when they are not whole.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use dynamicfs::engine::engine_config::ReadOnly;
use dynamicfs::{DiskConfig, EngineConfig, EngineError, FormatOptions, StorageEngine};

use crate::pool::{Modelled, checked, close, read, side_by_side, small};
use crate::rig::{Numbers, Scratch, alongside};

/// A pool of three files of different sizes, with as many domains.
struct Disks {
    scratch: Scratch,
    config: EngineConfig,
}

fn disk(path: PathBuf) -> DiskConfig {
    DiskConfig { path, ..small(std::path::Path::new("/")).io.disks[0].clone() }
}

impl Disks {
    fn named(name: &str) -> Disks {
        let scratch = Scratch::new();
        let mut config = small(&scratch.path().join(format!("{name}-0")));
        config.pool.domains = Some(3);
        config.io.reactors.count = Some(2);
        for (number, mib) in [48, 64, 96].into_iter().enumerate() {
            let path = scratch.file(&format!("{name}-{number}"), mib << 20);
            if number > 0 {
                config.io.disks.push(disk(path));
            }
        }
        StorageEngine::format(&config, FormatOptions::default())
            .unwrap_or_else(|error| panic!("{error}"));
        Disks { scratch, config }
    }

    fn open(&self) -> StorageEngine {
        StorageEngine::open(self.config.clone()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// With these of its disks, by their numbers now.
    fn refused(&self, numbers: &[usize]) -> String {
        let mut config = self.config.clone();
        config.io.disks = numbers.iter().map(|n| self.config.io.disks[*n].clone()).collect();
        StorageEngine::open(config).unwrap_err().to_string()
    }

    fn check(&self) {
        let report = checked(self.config.io.disks.iter().map(|disk| disk.path.as_path()));
        assert!(report.is_consistent(), "{:?}", report.inconsistencies);
    }
}

#[test]
fn a_pool_of_three_disks_is_used_and_opened_in_any_order() {
    let _alongside = alongside();
    let mut disks = Disks::named("pool");
    let engine = disks.open();
    let mut models: Vec<Modelled> = (0..6).map(|_| Modelled::new(&engine, 300_000)).collect();
    for (round, model) in models.iter_mut().enumerate() {
        let mut numbers = Numbers(round as u64 + 1);
        (0..60).for_each(|_| model.step(&engine, &mut numbers));
    }
    models.iter().for_each(|model| model.check(&engine));
    let status = engine.status().unwrap();
    assert_eq!((status.pool.members, status.pool.disks.len(), status.domains.len()), (3, 3, 3));
    close(&engine);
    drop(engine);
    disks.check();
    // Labels decide who is who, not the order of the names.
    disks.config.io.disks.rotate_left(1);
    let engine = disks.open();
    models.iter().for_each(|model| model.check(&engine));
    for (round, model) in models.iter_mut().enumerate() {
        let mut numbers = Numbers(round as u64 + 77);
        (0..20).for_each(|_| model.step(&engine, &mut numbers));
    }
    close(&engine);
    drop(engine);
    disks.config.io.reactors.count = Some(1);
    let engine = disks.open();
    models.iter().for_each(|model| model.check(&engine));
    close(&engine);
    disks.check();
}

#[test]
fn threads_write_to_all_disks_and_a_full_pool_refuses_cleanly() {
    let _alongside = alongside();
    let disks = Disks::named("full");
    let engine = disks.open();
    let models: Vec<Modelled> = (0..3).map(|_| Modelled::new(&engine, 1 << 20)).collect();
    let free_bytes = engine.status().unwrap().free_bytes();
    let written = AtomicU64::new(0);
    side_by_side(3, |thread| {
        let inode = models[thread as usize].inode;
        let chunk = vec![thread as u8 + 1; 1 << 20];
        let mut chunks = 0;
        let full = loop {
            match engine.write(inode, chunks << 20, &chunk).wait() {
                Ok(_) => chunks += 1,
                Err(error) => break error,
            }
        };
        assert!(full.to_string().contains("full"), "{full}");
        for n in 0..chunks {
            assert_eq!(read(&engine, inode, n << 20, 4096), chunk[..4096]);
        }
        // Others may have taken of what was its domain's at first, as it of theirs.
        let share = free_bytes / 3;
        assert!(chunks << 20 > share / 4, "{chunks} MiB of {share} bytes");
        written.fetch_add(chunks << 20, Ordering::Relaxed);
    });
    // Everything but what is kept for metadata, and what a chunk is too large for.
    let written = written.into_inner();
    assert!(written > free_bytes / 10 * 8, "{written} of {free_bytes} bytes");
    close(&engine);
    drop(engine);
    disks.check();
    let engine = disks.open();
    models.iter().for_each(|model| engine.delete(model.inode).wait().map(drop).unwrap());
    assert!(engine.status().unwrap().free_bytes() > free_bytes / 100 * 99);
    close(&engine);
}

/// Label copies that rotted, or were never written, are written again by whoever opens the pool for
/// writing, who says so.
#[test]
fn label_copies_that_are_not_whole_are_written_again() {
    let _alongside = alongside();
    let disks = Disks::named("rotten");
    let path = disks.config.io.disks[1].path.clone();
    let rotten = || {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0x5a; 512], 0).unwrap();
        file.write_all_at(&[0; 512], (64 << 20) - (1 << 20)).unwrap();
    };
    let copies = || StorageEngine::inspect(&path).unwrap().disks[0].labels.clone();
    rotten();
    let wrong = copies();
    assert!(wrong[0] != "whole" && wrong[3] == "no label" && wrong[1..3] == ["whole", "whole"]);
    let mut reading = disks.config.clone();
    reading.pool.read_only = ReadOnly::Yes;
    close(&StorageEngine::open(reading).unwrap());
    assert_eq!(copies(), wrong, "reading writes nothing");
    let engine = disks.open();
    let said = engine.status().unwrap().pool.disks[1].labels.clone();
    assert!(said[0].ends_with("it was written again") && said[1] == "whole", "{said:?}");
    close(&engine);
    assert_eq!(copies(), ["whole"; 4]);
    disks.check();
}

/// The copies at the end lie where the end was, and a copy of a newer format is somebody else's.
#[test]
fn a_disk_that_has_grown_and_a_newer_copy_are_left_as_they_are() {
    let _alongside = alongside();
    let disks = Disks::named("grown");
    let path = disks.config.io.disks[1].path.clone();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    file.set_len(80 << 20).unwrap();
    let engine = disks.open();
    let labels = engine.status().unwrap().pool.disks[1].labels.clone();
    assert_eq!(labels, ["whole"; 4]);
    close(&engine);
    drop(engine);
    // Its version, behind the magic: the fourth copy is of the next one.
    let newer = (64 << 20) - (1 << 20) + 8;
    file.write_all_at(&[2, 0], newer).unwrap();
    let engine = disks.open();
    let labels = engine.status().unwrap().pool.disks[1].labels.clone();
    assert!(labels[3].contains("version 2") && !labels[3].contains("written"), "{labels:?}");
    assert_eq!(labels[..3], ["whole"; 3]);
    close(&engine);
    let mut found = [0; 2];
    file.read_exact_at(&mut found, newer).unwrap();
    assert_eq!(found, [2, 0]);
}

#[test]
fn disks_that_are_missing_foreign_or_there_twice_are_named() {
    let _alongside = alongside();
    let (pool, other) = (Disks::named("one"), Disks::named("two"));
    let missing = pool.refused(&[0, 2]);
    assert!(missing.contains("disk 1 of 3 is missing"), "{missing}");
    let copy = pool.scratch.path().join("copy");
    std::fs::copy(&pool.config.io.disks[1].path, &copy).unwrap();
    let mut twice = pool.config.clone();
    twice.io.disks.push(disk(copy));
    let error = StorageEngine::open(twice).unwrap_err();
    let EngineError::Pool(_) = &error else { panic!("{error:?}") };
    assert!(error.to_string().contains("both say they are disk 1"), "{error}");
    let mut foreign = pool.config.clone();
    foreign.io.disks[2] = other.config.io.disks[2].clone();
    let error = StorageEngine::open(foreign).unwrap_err().to_string();
    assert!(error.contains("is of pool") && error.contains("is missing"), "{error}");
    // Nothing was changed by all that.
    close(&pool.open());
    close(&other.open());
}
