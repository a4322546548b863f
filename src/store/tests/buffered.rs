//! Changes that are answered before they are durable.

use crate::io::op::{DiskId, OpKind};
use crate::sim::{Fault, FaultRule, for_each_seed};
use crate::store::call::{Call, Durability, Reply, Step};
use crate::store::domain::Closing;
use crate::store::tests::world::{Setup, World};

fn buffered(world: &mut World, inode: u64, offset: u64, bytes: &[u8]) -> Reply {
    let steps = vec![Step::Write(world.payload(offset, bytes))];
    let call = Call::Change { inode, steps, durability: Durability::Buffered };
    world.call(world.domain_of(inode), call)
}

/// A pool whose batches close late, so that nothing is durable by itself.
fn lingering() -> Setup {
    let mut setup = Setup::default();
    setup.config.closing = Closing::Linger { delay_ns: 10_000_000_000 };
    setup
}

#[test]
fn a_buffered_write_is_visible_at_once_and_durable_after_a_sync() {
    for_each_seed("a_buffered_write_is_visible_at_once", 20, |seed| {
        let setup = lingering();
        let mut world = World::new(&setup, seed);
        let inode = world.create(0).unwrap();
        let before = world.sim.now_ns();
        assert!(matches!(buffered(&mut world, inode, 0, &[1; 5000]), Reply::Changed(None)));
        assert!(world.sim.now_ns() - before < 10_000_000, "it waited for no commit");
        assert_eq!(world.read(inode, 0, 9000).unwrap(), [1; 5000]);
        for tag in 2..6 {
            assert!(matches!(buffered(&mut world, inode, 0, &[tag; 5000]), Reply::Changed(None)));
        }
        assert!(matches!(world.call(0, Call::Sync), Reply::Done));
        buffered(&mut world, inode, 0, &[9; 5000]);
        let disks = world.sim.crash(seed);
        let mut world = World::open(&setup, seed, disks).unwrap();
        let found = world.read(inode, 0, 5000).unwrap();
        assert!(found == [5; 5000] || found == [9; 5000], "what was synced is there");
    });
}

#[test]
fn a_lost_buffered_write_is_said_by_every_later_sync() {
    let setup = lingering();
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    buffered(&mut world, inode, 0, &[1; 5000]);
    let failing = FaultRule::nth(OpKind::Write, 0, Fault::Errno(libc::EIO));
    world.sim.with_faults(DiskId(0), |faults| faults.rules.push(failing));
    assert!(matches!(world.call(0, Call::Sync), Reply::Failed(_)));
    world.write(inode, 0, &[2; 10]).unwrap();
    assert!(matches!(world.call(0, Call::Sync), Reply::Failed(_)), "not forgotten");
}
