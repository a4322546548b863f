//! Space that moves between domains: whoever needs it gets it, and no block has two owners,
//! whenever it crashes.

use std::cell::Cell;

use crate::io::op::{DiskId, OpKind};
use crate::machine::mapping::PagePolicy;
use crate::memory::Arena;
use crate::sim::{Fault, FaultRule, Random, for_each_seed};
use crate::store::call::{Audit, Call, Reply};
use crate::store::error::StoreError;
use crate::store::recovery::RecoveryError;
use crate::store::tests::checked::{checked, consistent};
use crate::store::tests::crashes::run_workload;
use crate::store::tests::model::{Model, read_all};
use crate::store::tests::world::{OpenFailure, Setup, World};

const MIB: u64 = 1 << 20;

fn setup(domains: u16, disks: usize, data_mib: u64) -> Setup {
    let mut setup = Setup { domains, reactors: domains.into(), disks, ..Setup::default() };
    setup.disk.size_bytes = (4 + u64::from(domains) + data_mib) * MIB;
    let memory = usize::from(domains) * (4 << 20);
    setup.arena = Arena::new(memory, PagePolicy::Normal, None, 0).expect("there is memory");
    setup
}

fn audits(world: &mut World) -> Vec<Audit> {
    let domains = 0..usize::from(world.setup.domains);
    let each = domains.map(|domain| match world.call(domain, Call::Audit) {
        Reply::Audit(audit) => audit,
        other => panic!("{other:?}"),
    });
    each.collect()
}

/// Every group has an owner, once what is on its way has arrived.
fn all_groups_have_owners(world: &mut World) {
    let layout = world.setup.layout();
    let all = layout.data_blocks() * world.setup.disks as u64;
    for _ in 0..1000 {
        let audits = audits(world);
        let blocks: u64 = audits.iter().map(|audit| audit.blocks).sum();
        assert!(blocks <= all, "{blocks} of {all} blocks: {audits:?}");
        if blocks == all {
            return;
        }
        let now = world.sim.now_ns();
        world.sim.run_until(now + 1_000_000, |_| false);
    }
    panic!("a group has no owner: {:?}", audits(world));
}

/// Fills one inode until it is refused; how many bytes it has.
fn fill(world: &mut World, inode: u64) -> u64 {
    let mut size = 0;
    loop {
        match world.write(inode, size, &[inode as u8; 65_536]) {
            Ok(_) => size += 65_536,
            Err(StoreError::Full { .. }) => return size,
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn one_inode_gets_the_space_of_all_domains_and_gives_it_back() {
    for (domains, disks, reactors) in [(2, 1, 2), (4, 1, 1), (3, 3, 2)] {
        let mut setup = setup(domains, disks, 4 * u64::from(domains));
        setup.reactors = reactors;
        let mut world = World::new(&setup, 1);
        let all = setup.layout().data_blocks() * 4096 * disks as u64;
        for round in 0..3 {
            let domain = round % usize::from(domains);
            let inode = world.create(domain).unwrap();
            let size = fill(&mut world, inode);
            // Each domain keeps a group on each disk that has pages, and blocks for more of them.
            let kept = u64::from(domains) * disks as u64 * MIB + u64::from(domains) * MIB / 2;
            assert!(size > all - kept && size > all / 2, "{size} of {all} bytes, round {round}");
            all_groups_have_owners(&mut world);
            world.audit();
            let gained: u64 = (0..usize::from(domains))
                .map(|domain| world.status(domain).counters.groups_gained)
                .sum();
            assert!(gained > 0, "round {round}");
            let disks = world.sim.crash(round as u64);
            consistent(&disks, "full");
            world = World::open(&setup, 2, disks).unwrap();
            assert_eq!(read_all(&mut world, inode), vec![inode as u8; size as usize]);
            all_groups_have_owners(&mut world);
            world.delete(inode).unwrap();
        }
        for reply in world.close() {
            assert!(matches!(reply, Reply::Done), "{reply:?}");
        }
        consistent(&world.sim.crash(9), "closed");
    }
}

#[test]
fn what_has_the_id_of_a_deed_is_no_inode() {
    let setup = setup(2, 1, 8);
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    fill(&mut world, inode);
    let deeds = (0..8).map(|group| crate::format::deed::GroupId { slot: 0, group }.deed_id());
    for id in deeds {
        assert!(matches!(world.size(id), Err(StoreError::NoSuchInode { .. })));
        assert!(matches!(world.read(id, 0, 1), Err(StoreError::NoSuchInode { .. })));
        assert!(matches!(world.write(id, 0, &[1]), Err(StoreError::NoSuchInode { .. })));
        assert!(matches!(world.delete(id), Err(StoreError::NoSuchInode { .. })));
    }
    assert_eq!(world.inodes(), [inode]);
    let next = world.create(0);
    assert!(next.is_err() || next.is_ok_and(|next| next < 10), "ids go on where they were");
}

/// A workload that needs more space in one domain than it has at first, in another one each round,
/// with a crash at any moment; gives how many groups moved.
fn move_and_crash(seed: u64, flushes_fail: bool) -> u64 {
    let mut random = Random::new(seed);
    let (domains, disks) = (2 + (seed % 3) as u16, 1 + (seed / 3 % 2) as usize);
    // Three groups for each domain, or two where there are two disks.
    let data_mib = u64::from(domains) * if disks == 1 { 3 } else { 1 };
    let mut setup = setup(domains, disks, data_mib).varied(&mut random);
    setup.reactors = 1 + random.below(u64::from(domains)) as usize;
    let mut model = Model::default();
    model.inodes_max = Some(30);
    let mut world = World::new(&setup, seed);
    let mut gained = 0;
    for round in 0..6 {
        model.favourite = Some(random.below(u64::from(domains)) as usize);
        if flushes_fail {
            let kind = if random.coin() { OpKind::Flush } else { OpKind::Write };
            let rule = FaultRule::nth(kind, random.below(120), Fault::Errno(libc::EIO));
            let disk = DiskId(random.below(disks as u64) as u16);
            world.sim.with_faults(disk, |faults| faults.rules.push(rule));
        }
        let ops = 1 + random.below(120);
        run_workload(&mut world, &mut model, &mut random, ops);
        for domain in 0..usize::from(domains) {
            gained += world.status(domain).counters.groups_gained;
        }
        let mut disks = world.sim.crash(random.next_u64());
        consistent(&disks, &format!("round {round}, crashed"));
        while random.below(3) == 0 {
            let steps = random.below(300);
            let (next, _) = World::recover_in_part(&setup, random.next_u64(), disks, steps);
            disks = next;
        }
        world = World::open(&setup, random.next_u64(), disks)
            .unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        model.check(&mut world);
        all_groups_have_owners(&mut world);
        world.audit();
    }
    gained
}

#[test]
fn space_moves_between_domains_through_crashes() {
    let gained = Cell::new(0);
    for_each_seed("space_moves_between_domains_through", 60, |seed| {
        gained.set(gained.get() + move_and_crash(seed, false));
    });
    assert!(gained.get() > 0, "space moves now and then");
}

#[test]
fn space_moves_between_domains_while_flushes_and_writes_fail() {
    let gained = Cell::new(0);
    for_each_seed("space_moves_between_domains_while", 60, |seed| {
        gained.set(gained.get() + move_and_crash(seed, true));
    });
    assert!(gained.get() > 0, "space moves now and then");
}

/// Released by one domain, claimed by another, and a crash after every single step between.
#[test]
fn a_group_that_moves_has_one_owner_or_none_at_every_step() {
    let setup = setup(2, 1, 4);
    let (mut steps, mut moved) = (0, 0);
    loop {
        let mut world = World::new(&setup, 5);
        let inode = world.create(0).unwrap();
        let mut size = 0;
        // Nearly all that the domain has at first.
        while audits(&mut world)[0].free > 80 {
            world.write(inode, size, &[7; 32_768]).unwrap();
            size += 32_768;
        }
        let payload = world.payload(size, &[8; 262_144]);
        let steps_of = vec![crate::store::call::Step::Write(payload)];
        let durability = crate::store::call::Durability::Committed;
        let mut asked = world.ask(0, Call::Change { inode, steps: steps_of, durability });
        let mut answered = None;
        for _ in 0..steps {
            answered = answered.or_else(|| world.answer(&mut asked));
            if answered.is_some() || !world.sim.step() {
                break;
            }
        }
        let disks = world.sim.crash(steps);
        consistent(&disks, &format!("crashed after {steps} steps"));
        let mut world = World::open(&setup, 6, disks).unwrap();
        let content = read_all(&mut world, inode);
        assert!(content[..size as usize].iter().all(|byte| *byte == 7));
        let is_there = content.len() as u64 > size;
        assert!(is_there || !matches!(answered, Some(Reply::Changed(_))), "{steps}: it is gone");
        all_groups_have_owners(&mut world);
        moved += u64::from(audits(&mut world)[0].blocks > setup.layout().space_blocks());
        // The other domain goes on with what it has left.
        let other = world.create(1).unwrap();
        world.write(other, 0, &[9; 65_536]).unwrap();
        world.audit();
        if let Some(reply) = answered {
            assert!(matches!(reply, Reply::Changed(_)), "{reply:?}");
            break;
        }
        steps += 1;
    }
    assert!(moved > 10, "{moved} of {steps} crashes came after the move began");
}

/// A disk comes back that does not know of what it gave: two domains would own the same blocks.
#[test]
fn a_group_that_was_taken_and_not_given_is_refused() {
    let setup = setup(2, 2, 4);
    let mut world = World::new(&setup, 1);
    // Domain 1 has its journal on disk 1.
    let before = world.sim.with_disk(DiskId(1), |disk| disk.clone());
    let inode = world.create(0).unwrap();
    fill(&mut world, inode);
    assert!(world.status(0).counters.groups_gained > 0);
    let mut disks = world.sim.crash(1);
    disks[1] = before;
    let report = checked(&disks, crate::check::Depth::Metadata);
    let found = report
        .inconsistencies
        .iter()
        .any(|finding| finding.to_string().contains("to have given it to domain 0"));
    assert!(found, "{:?}", report.inconsistencies);
    match World::open(&setup, 2, disks) {
        Err(OpenFailure::Recovery(RecoveryError::Corrupt { domain: 0, what, .. })) => {
            assert!(what.contains("has not given it"), "{what}");
        }
        Ok(_) => panic!("it opens"),
        Err(other) => panic!("{other:?}"),
    }
}

/// Cause: when there was enough for one that waited, nobody asked for the others any more. Harm:
/// they waited for ever. Fix: whoever still waits says so again.
#[test]
fn several_that_wait_for_space_all_get_it() {
    let setup = setup(3, 1, 18);
    let mut world = World::new(&setup, 1);
    let inode = world.create(0).unwrap();
    let mut size = 0;
    while audits(&mut world)[0].free > 300 {
        world.write(inode, size, &[7; 65_536]).unwrap();
        size += 65_536;
    }
    let mut asked = Vec::new();
    for writer in 0..6 {
        let payload = world.payload(size + writer * 786_432, &[8; 786_432]);
        let steps = vec![crate::store::call::Step::Write(payload)];
        let durability = crate::store::call::Durability::Committed;
        asked.push(world.ask(0, Call::Change { inode, steps, durability }));
    }
    let until = world.sim.now_ns() + 5_000_000_000;
    world.sim.run_until(until, |_| false);
    for (writer, call) in asked.iter_mut().enumerate() {
        let reply = world.answer(call);
        assert!(matches!(reply, Some(Reply::Changed(_))), "{writer}: {reply:?}");
    }
    world.audit();
}
