//! Images of version 1 of the format, as the store wrote them once: the checker and the store must
//! read them for ever. `tests/golden/README.md` says what they hold.

use crate::check::digest::{InodeDigest, PoolDigest};
use crate::check::tests::golden::GOLDEN;
use crate::sim::{SimDisk, SimDiskConfig};
use crate::store::call::{Call, Reply};
use crate::store::tests::checked::{checked, consistent};
use crate::store::tests::model::read_all;
use crate::store::tests::world::{Setup, World};

use crate::check::Depth;

/// A disk with these bytes.
pub(super) fn disk_of(bytes: &[u8], config: &SimDiskConfig) -> SimDisk {
    let mut disk = SimDisk::new(config.clone());
    assert_eq!(bytes.len() as u64, config.size_bytes);
    for (number, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            disk.overwrite(number as u64 * 4096, block);
        }
    }
    disk
}

/// As the checker counts what there is.
pub(super) fn digest_through_the_store(world: &mut World) -> u64 {
    let mut digest = PoolDigest::default();
    for inode in world.inodes() {
        let domain = world.domain_of(inode);
        let Reply::Stat(record) = world.call(domain, Call::Stat { inode }) else {
            panic!("inode {inode} was listed");
        };
        digest.add(&InodeDigest::of_content(inode, &record.tag, &read_all(world, inode)));
    }
    digest.sum()
}

#[test]
fn the_store_reads_golden_images() {
    let setup = Setup { domains: 2, reactors: 2, ..Setup::default() };
    for golden in GOLDEN {
        let disk = disk_of(&golden.image(), &setup.disk);
        let report = checked(std::slice::from_ref(&disk), Depth::Data);
        let mut world = World::open(&setup, 5, vec![disk]).unwrap();
        let name = golden.name;
        assert_eq!(digest_through_the_store(&mut world), report.digest, "{name}");
        world.audit();
        world.close();
        let disks = world.sim.crash(1);
        assert_eq!(consistent(&disks, name).digest, report.digest, "{name}");
    }
}
