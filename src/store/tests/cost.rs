//! What a durable write costs the processor, counted in instructions.
//!
//! In the simulator one thread does everything and nothing sleeps, so that callgrind sees the
//! store as it is; what the simulator itself costs stands under its own names.

use crate::sim::{Random, SimDiskConfig};
use crate::store::call::{Call, Durability, Reply, Step};
use crate::store::domain::{DomainConfig, Inline};
use crate::store::tests::world::{Asked, Setup, World};

const WRITERS: u64 = 64;
/// Of each writer, bytes.
const OWN_BYTES: u64 = 512 << 10;

fn ask(world: &mut World, inode: u64, random: &mut Random) -> Asked {
    let offset = random.below(OWN_BYTES / 4096) * 4096;
    let payload = world.payload(offset, &[7; 4096]);
    let (steps, durability) = (vec![Step::Write(payload)], Durability::Committed);
    world.ask(0, Call::Change { inode, steps, durability })
}

/// `DYNAMICFS_COST_WRITES=N valgrind --tool=callgrind` of this test's binary, for two N; the
/// difference of the two is the cost of a write, without the start.
#[test]
#[ignore = "counts nothing by itself: for callgrind"]
fn of_a_durable_write() {
    let writes = std::env::var("DYNAMICFS_COST_WRITES").map_or(1_000, |n| n.parse().unwrap());
    let disk = SimDiskConfig { size_bytes: 128 << 20, ..SimDiskConfig::default() };
    let config = DomainConfig { inline_when: Inline::Idle, ..Setup::default().config };
    let config = DomainConfig {
        requests_max: 128,
        table_pages_per_chunk: 512,
        batch_bytes_max: 1 << 20,
        write_back_bytes: 4 << 20,
        locks_max: 1 << 13,
        ..config
    };
    let setup = Setup { disk, config, ..Setup::default() };
    let (mut world, mut random) = (World::new(&setup, 1), Random::new(1));
    let inodes: Vec<u64> = (0..WRITERS).map(|_| world.create(0).unwrap()).collect();
    let mut asked: Vec<Asked> = Vec::new();
    for inode in &inodes {
        asked.push(ask(&mut world, *inode, &mut random));
    }
    let mut done = 0;
    while done < writes {
        assert!(world.sim.step(), "something is always under way");
        for (writer, inode) in inodes.iter().enumerate() {
            match world.answer(&mut asked[writer]) {
                None => continue,
                Some(Reply::Changed(_)) => done += 1,
                Some(other) => panic!("{other:?}"),
            }
            asked[writer] = ask(&mut world, *inode, &mut random);
        }
    }
    let counters = world.status(0).counters;
    assert!(counters.group_commit_ops >= writes);
    eprintln!(
        "{writes} writes in {} commits, {} gathered writes",
        counters.group_commits, counters.gathered_writes
    );
}
