//! Pools opened for reading only: nothing is written, everything is there, and lost metadata costs
//! what was on it, by name.

use crate::check::Image;
use crate::check::domain::DomainView;
use crate::check::report::Findings;
use crate::format::label::Label;
use crate::format::layout::BLOCK_BYTES;
use crate::format::record::{JournalId, RecordHead};
use crate::io::op::{DiskId, OpKind};
use crate::sim::{Fault, FaultRule, Random, SimDisk, for_each_seed};
use crate::store::call::{Call, Reply};
use crate::store::domain::{Access, DomainConfig, Undecidable};
use crate::store::error::StoreError;
use crate::store::recovery::RecoveryError;
use crate::store::tests::crashes::run_workload;
use crate::store::tests::model::Model;
use crate::store::tests::world::{DISK_BYTES, OpenFailure, Setup, World};

fn for_reading(setup: &Setup) -> Setup {
    let config = DomainConfig { access: Access::ReadOnly, ..setup.config.clone() };
    Setup { config, ..setup.clone() }
}

/// After a crash everything that was acknowledged can be read, no byte of the disk changes, and the
/// next opening finds what it would have found.
#[test]
fn everything_is_there_and_nothing_is_written() {
    for_each_seed("everything_is_there_and_nothing_is_written", 40, |seed| {
        let (setup, mut random, mut model) =
            (Setup::default(), Random::new(seed), Model::default());
        let setup = Setup { domains: 1 + (seed % 2) as u16, ..setup };
        let mut world = World::new(&setup, seed);
        for _ in 0..3 {
            let ops = 5 + random.below(40);
            run_workload(&mut world, &mut model, &mut random, ops);
            let disks = world.sim.crash(random.next_u64());
            let before = disks[0].image_hash();
            let reading = for_reading(&setup);
            let mut reader = World::open(&reading, random.next_u64(), disks).unwrap();
            model.check(&mut reader);
            refuses_changes(&mut reader);
            let closed = reader.close();
            assert!(closed.iter().all(|reply| matches!(reply, Reply::Done)), "{closed:?}");
            let disks = reader.sim.crash(random.next_u64());
            assert_eq!(disks[0].image_hash(), before, "the disk is as it was");
            world = World::open(&setup, random.next_u64(), disks).unwrap();
            model.check(&mut world);
        }
    });
}

fn refuses_changes(reader: &mut World) {
    for domain in 0..usize::from(reader.setup.domains) {
        match reader.call(domain, Call::Create { tag: [0; 64], copies: None }) {
            Reply::Failed(StoreError::ReadOnly { reason }) => {
                assert_eq!(&*reason, "the pool was opened for reading only");
            }
            other => panic!("{other:?}"),
        }
    }
    if let Some(inode) = reader.inodes().first().copied() {
        for outcome in [reader.write(inode, 0, &[1; 100]).map(|_| ()), reader.delete(inode)] {
            assert!(matches!(outcome, Err(StoreError::ReadOnly { .. })), "{outcome:?}");
        }
    }
}

/// A pool that was closed, and byte offsets of its pages.
fn closed_pool(setup: &Setup, seed: u64) -> (SimDisk, Model, Vec<u64>) {
    let (mut random, mut model) = (Random::new(seed), Model::default());
    let mut world = World::new(setup, seed);
    run_workload(&mut world, &mut model, &mut random, 60);
    let disks = world.sim.crash(random.next_u64());
    let mut world = World::open(setup, random.next_u64(), disks).unwrap();
    model.check(&mut world);
    world.close();
    let disk = world.sim.crash(random.next_u64()).remove(0);
    let bytes = disk.read(0, DISK_BYTES);
    let mut read = |offset: u64, buffer: &mut [u8]| {
        buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
        Ok(())
    };
    let label = Label::decode(0, DISK_BYTES, &bytes).unwrap();
    let mut image = Image::new(DISK_BYTES, &mut read);
    let view = DomainView::read(&mut image, &label.into(), 0, &mut Findings::default());
    let homes = view.tree.pages.iter().map(|page| page.child.homes[0].start_block() * BLOCK_BYTES);
    (disk, model, homes.collect())
}

/// What reading every block of every inode gives: how many are right, and how many lost.
fn read_what_is_left(world: &mut World, model: &Model) -> (u64, u64) {
    let (mut right, mut lost) = (0, 0);
    for (inode, content) in &model.inodes {
        for (n, expected) in content.chunks(4096).enumerate() {
            match world.read(*inode, n as u64 * 4096, expected.len()) {
                Ok(found) => {
                    assert_eq!(found, expected, "block {n} of inode {inode}");
                    right += 1;
                }
                Err(StoreError::MetadataLost { inode: named, reason, .. }) => {
                    assert!(named == *inode && reason.contains("is lost: "), "{reason}");
                    lost += 1;
                }
                Err(other) => panic!("block {n} of inode {inode}: {other}"),
            }
        }
    }
    (right, lost)
}

/// Each page in turn rots, or cannot be read: opening for writing refuses and names it, opening for
/// reading gives everything that was not on it.
#[test]
fn a_lost_page_costs_what_was_on_it() {
    for_each_seed("a_lost_page_costs_what_was_on_it", 4, |seed| {
        let setup = Setup::default();
        let (disk, model, homes) = closed_pool(&setup, seed);
        assert!(homes.len() >= 3, "a parent and pages of both kinds");
        let mut some_of_both = 0;
        for (n, home) in homes.iter().enumerate() {
            let mut rotten = disk.clone();
            let unreadable = n % 2 == 1;
            if !unreadable {
                rotten.flip_bit(home + 100, 3);
            }
            let boot = |setup: &Setup| {
                let mut world = World::boot(setup, seed, vec![rotten.clone()]);
                if unreadable {
                    let fault = Fault::Errno(nix::libc::ENODATA);
                    let rule = FaultRule::every(OpKind::Read, fault).at(*home..home + 4096);
                    world.sim.with_faults(DiskId(0), |faults| faults.rules.push(rule));
                }
                world.recover(seed)
            };
            let refused = boot(&setup).err().expect("a page is missing");
            let OpenFailure::Recovery(error) = refused else { panic!("{refused:?}") };
            let named = match &error {
                RecoveryError::Corrupt { offset, .. } => *offset == *home,
                RecoveryError::Io { source, .. } => source.offset == *home,
                _ => false,
            };
            assert!(named, "{error}");
            let mut reader = boot(&for_reading(&setup)).expect("the rest is there");
            let losses = reader.reports[0].lost.clone();
            assert!(losses.len() == 1 && losses[0].contains(" is lost: "), "{losses:?}");
            let (right, lost) = read_what_is_left(&mut reader, &model);
            assert!(lost > 0, "the page at {home} had something");
            some_of_both += u64::from(right > 0);
        }
        assert!(some_of_both > 0 || homes.len() == 3, "one page of several is not everything");
    });
}

/// A crash after so many writes of three blocks, the inode, and the last record.
fn crashed_after(setup: &Setup, writes: u64) -> (Vec<SimDisk>, u64, JournalId, RecordHead) {
    let mut world = World::new(setup, 1);
    let inode = world.create(0).unwrap();
    for n in 0..writes {
        world.write(inode, 0, &vec![n as u8; 3 * 4096]).unwrap();
    }
    let sequence = world.status(0).sequence;
    let disks = world.sim.crash(1);
    let bytes = disks[0].read(0, DISK_BYTES);
    let mut read = |offset: u64, buffer: &mut [u8]| {
        buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
        Ok(())
    };
    let label = Label::decode(0, DISK_BYTES, &bytes).unwrap();
    let mut image = Image::new(DISK_BYTES, &mut read);
    let view = DomainView::read(&mut image, &label.into(), 0, &mut Findings::default());
    let last = view.journal.last.unwrap();
    assert_eq!(last.sequence, sequence);
    (disks, inode, view.journal.id, last)
}

/// A last record that cannot be read is undecidable: refused for writing, left out for reading,
/// given up by force, and then for good, whether or not the disk can read it again.
#[test]
fn a_record_that_cannot_be_judged_is_left_out_or_given_up_and_said() {
    let setup = Setup::default();
    // One in the middle of the ring, and one that went to its beginning.
    let turned = (2..).map(|writes| (writes, crashed_after(&setup, writes)));
    let turned = turned.take(1000).find(|(_, (.., last))| last.skipped > 0);
    let (turned, _) = turned.expect("some record does not fit before the end");
    for writes in [2, turned] {
        let (disks, inode, id, last) = crashed_after(&setup, writes);
        let head = id.offset(last.position);
        // Its head, and its last inline block.
        for at in [head, head + u64::from(last.length) - BLOCK_BYTES] {
            left_out_or_given_up(&setup, &disks, inode, (writes, last.sequence, at));
        }
    }
}

fn left_out_or_given_up(
    setup: &Setup,
    disks: &[SimDisk],
    inode: u64,
    (writes, sequence, at): (u64, u64, u64),
) {
    let boot = |setup: &Setup| {
        let mut world = World::boot(setup, 2, disks.to_vec());
        let fault = Fault::Errno(nix::libc::EIO);
        let rule = FaultRule::every(OpKind::Read, fault).at(at..at + BLOCK_BYTES);
        world.sim.with_faults(DiskId(0), |faults| faults.rules.push(rule));
        world.recover(2)
    };
    let refused = boot(setup).err().expect("nobody can tell");
    let OpenFailure::Recovery(RecoveryError::Undecidable { sequence: named, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(named, sequence);
    let config = DomainConfig { undecidable: Undecidable::GiveUp, ..setup.config.clone() };
    let forced = Setup { config, ..setup.clone() };
    let before = vec![(writes - 2) as u8; 3 * 4096];
    for mut world in [boot(&for_reading(setup)).unwrap(), boot(&forced).unwrap()] {
        let dropped = world.reports[0].dropped.clone().expect("it is left out");
        let said = dropped.1.contains("cannot be decided");
        assert!(dropped.0 == sequence && said, "{dropped:?}");
        assert_eq!(world.read(inode, 0, 3 * 4096).unwrap(), before);
    }
    // The disk can read it again, where it was not written over.
    let again = World::boot(setup, 3, boot(&forced).unwrap().sim.crash(3)).recover(3);
    let mut again = again.unwrap();
    assert_eq!(again.reports[0].dropped, None);
    assert_eq!(again.read(inode, 0, 3 * 4096).unwrap(), before);
    again.write(inode, 0, &[3; 4096]).unwrap();
    let mut last = World::boot(setup, 4, again.sim.crash(4)).recover(4).unwrap();
    assert_eq!(last.read(inode, 0, 4096).unwrap(), [3; 4096]);
}
