//! The checker and the store judge the same disks and know nothing of each other: what recovery
//! accepts the checker finds no error in, both see the same records, inodes, extents and contents,
//! and so does the model.

mod golden;
mod lies;
mod rot;

use crate::check::digest::{InodeDigest, PoolDigest};
use crate::check::image::ReadAt;
use crate::check::{Depth, Finding, Image, Report, check};
use crate::sim::{Random, SimDisk, for_each_seed};
use crate::store::domain::DomainConfig;
use crate::store::mechanism::{Mechanism, MechanismChoice};
use crate::store::recovery::RecoveryReport;
use crate::store::tests::crashes::run_workload;
use crate::store::tests::model::Model;
use crate::store::tests::world::{Setup, World};

/// Checks simulated disks as they are.
pub(super) fn checked(disks: &[SimDisk], depth: Depth) -> Report {
    let mut reads: Vec<_> = disks
        .iter()
        .map(|disk| {
            move |offset: u64, buffer: &mut [u8]| {
                buffer.copy_from_slice(&disk.read(offset, buffer.len() as u64));
                Ok(())
            }
        })
        .collect();
    let sizes = disks.iter().map(|disk| disk.config().size_bytes);
    let disks = sizes.zip(&mut reads).map(|(bytes, read)| (bytes, read as ReadAt<'_>));
    check(&mut Image::of_disks(disks), depth)
}

/// The same, of disks that must be right.
pub(super) fn consistent(disks: &[SimDisk], when: &str) -> Report {
    let report = checked(disks, Depth::Data);
    let lines: Vec<String> = report.inconsistencies.iter().map(ToString::to_string).collect();
    assert!(report.is_consistent(), "{when}:\n{}", lines.join("\n"));
    report
}

pub(super) fn digest_of(model: &Model) -> u64 {
    let mut digest = PoolDigest::default();
    for (inode, content) in &model.inodes {
        digest.add(&InodeDigest::of_content(*inode, &[0; 64], content));
    }
    digest.sum()
}

/// What both say of each domain.
fn facts_of_check(report: &Report) -> Vec<[u64; 7]> {
    let facts = report.domains.iter().map(|domain| {
        [
            domain.last_sequence,
            domain.records,
            domain.replayed,
            domain.pages,
            domain.extents,
            domain.inodes,
            domain.dropped.unwrap_or(0),
        ]
    });
    facts.collect()
}

fn facts_of_recovery(reports: &[RecoveryReport]) -> Vec<[u64; 7]> {
    let facts = reports.iter().map(|report| {
        [
            report.accepted,
            report.records,
            report.replayed,
            report.pages,
            report.extents,
            report.inodes,
            report.dropped.as_ref().map_or(0, |(sequence, _)| *sequence),
        ]
    });
    facts.collect()
}

fn crash_check_and_go_on(seed: u64, setup: &Setup, rounds: u64) {
    let mut random = Random::new(seed ^ 0xc4ec_4ed0);
    let mut model = Model::default();
    let mut world = World::new(setup, seed);
    for round in 0..rounds {
        let ops = 1 + random.below(40);
        run_workload(&mut world, &mut model, &mut random, ops);
        let mut disks = world.sim.crash(random.next_u64());
        let mut crashed = consistent(&disks, &format!("round {round}, crashed"));
        while random.below(3) == 0 {
            let steps = random.below(200);
            let (next, _) = World::recover_in_part(setup, random.next_u64(), disks, steps);
            disks = next;
            let interrupted = consistent(&disks, &format!("round {round}, interrupted"));
            assert_eq!(interrupted.digest, crashed.digest, "an interrupted recovery changes it");
            crashed = interrupted;
        }
        world = World::open(setup, random.next_u64(), disks)
            .unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        assert_eq!(facts_of_check(&crashed), facts_of_recovery(&world.reports), "round {round}");
        model.check(&mut world);
        assert_eq!(crashed.digest, digest_of(&model), "round {round}: crashed and recovered");
        if random.below(3) == 0 {
            let disks = world.sim.crash(random.next_u64());
            let report = consistent(&disks, &format!("round {round}, recovered"));
            assert_eq!(report.digest, digest_of(&model), "round {round}: recovered");
            world = World::open(setup, random.next_u64(), disks).unwrap();
        } else if random.below(3) == 0 {
            world = close_and_open(setup, world, &model, &mut random, round);
        }
    }
}

fn close_and_open(
    setup: &Setup,
    mut world: World,
    model: &Model,
    random: &mut Random,
    round: u64,
) -> World {
    let audit = world.audit();
    world.close();
    let disks = world.sim.crash(random.next_u64());
    let report = consistent(&disks, &format!("round {round}, closed"));
    assert_eq!(report.digest, digest_of(model), "round {round}: closed");
    assert!(report.domains.iter().all(|domain| domain.closed), "nothing is left to do");
    let first = &report.domains[0];
    assert_eq!((first.blocks, first.data_blocks), (audit.blocks, audit.data));
    assert_eq!(report.notes, 0, "{:?}", report.inconsistencies);
    World::open(setup, random.next_u64(), disks).unwrap()
}

#[test]
fn what_a_crash_leaves_is_consistent_and_what_recovery_says() {
    for_each_seed("what_a_crash_leaves_is_consistent", 12, |seed| {
        crash_check_and_go_on(seed, &Setup::default(), 6);
    });
}

/// Checkpoints all the time, so that pages are copied between commits.
#[test]
fn checkpoints_under_way_are_consistent() {
    let config = DomainConfig {
        checkpoint_percent: 4,
        urgent_percent: 30,
        checkpoint_pages: 1,
        write_back_bytes: 16 << 10,
        ..Setup::default().config
    };
    let setup = Setup { config, ..Setup::default() };
    for_each_seed("checkpoints_under_way_are_consistent", 12, |seed| {
        crash_check_and_go_on(seed, &setup, 6);
    });
}

#[test]
fn two_domains_are_consistent() {
    let config = DomainConfig {
        mechanism: MechanismChoice::Fixed(Mechanism::Dsync),
        ..Setup::default().config
    };
    let setup = Setup { domains: 2, reactors: 2, config, ..Setup::default() };
    for_each_seed("two_domains_are_consistent", 8, |seed| {
        crash_check_and_go_on(seed, &setup, 6);
    });
}

/// The checker is given the disks in another order than that of their slots.
#[test]
fn pools_of_several_disks_are_consistent() {
    for_each_seed("pools_of_several_disks_are_consistent", 12, |seed| {
        let (disks, domains) = (2 + (seed % 3) as usize, 1 + (seed / 3 % 3) as u16);
        let setup = Setup { disks, domains, ..Setup::default() };
        crash_check_and_go_on(seed, &setup, 6);
        let mut world = World::new(&setup, seed);
        let mut model = Model::default();
        run_workload(&mut world, &mut model, &mut Random::new(seed), 40);
        let mut disks = world.sim.crash(seed);
        let straight = consistent(&disks, "in order");
        disks.reverse();
        let reverse = consistent(&disks, "in reverse");
        assert_eq!(straight.digest, reverse.digest);
        let lost = checked(&disks[1..], Depth::Metadata);
        let named = |finding: &Finding| finding.to_string().contains("missing");
        assert!(lost.inconsistencies.iter().any(named), "a disk is missing");
    });
}
