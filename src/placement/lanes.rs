//! Giving lanes to reactors.

use super::{Disk, LaneSlot, Locality, ReactorSlot};

/// Places every lane. The caller has checked that no disk has more lanes than there are reactors.
///
/// Three passes, so that lanes which may go anywhere fill up what the bound ones left: lanes with a
/// reactor on their disk's node; lanes of placed disks that must go elsewhere; lanes of disks
/// without a node. Within a pass the least loaded reactor is taken, which keeps equal candidates
/// within one lane of each other; of those the one that the disk interrupts.
pub(super) fn assign(reactors: &[ReactorSlot], disks: &[Disk]) -> Vec<LaneSlot> {
    let mut desk = Desk {
        reactors,
        load: vec![0; reactors.len()],
        placed: disks.iter().map(|_| Vec::new()).collect(),
    };
    let placed_disks = || disks.iter().enumerate().filter(|(_, disk)| disk.node.is_some());
    for (index, disk) in placed_disks() {
        desk.fill(index, disk, &|reactor| reactor.node == disk.node);
    }
    for (index, disk) in placed_disks() {
        desk.fill(index, disk, &|_| true);
    }
    for (index, disk) in disks.iter().enumerate().filter(|(_, disk)| disk.node.is_none()) {
        desk.fill(index, disk, &|_| true);
    }
    desk.finish(disks)
}

struct Desk<'a> {
    reactors: &'a [ReactorSlot],
    /// Lanes per reactor.
    load: Vec<u32>,
    /// The reactors of each disk's lanes, in the order of the lanes.
    placed: Vec<Vec<usize>>,
}

impl Desk<'_> {
    /// Gives the disk's remaining lanes to reactors that `may` have them, as far as they go.
    fn fill(&mut self, index: usize, disk: &Disk, may: &dyn Fn(&ReactorSlot) -> bool) {
        let Some(mine) = self.placed.get_mut(index) else { return };
        while mine.len() < disk.lanes as usize {
            let free = self.reactors.iter().zip(&mut self.load).enumerate();
            let open = free.filter(|(at, (reactor, _))| may(reactor) && !mine.contains(at));
            let far = |slot: &ReactorSlot| !disk.interrupt_cpus.contains(&slot.cpu);
            let best = open.min_by_key(|(at, (slot, load))| (**load, far(slot), *at));
            let Some((at, (_, load))) = best else {
                return;
            };
            *load = load.saturating_add(1);
            mine.push(at);
        }
    }

    fn finish(self, disks: &[Disk]) -> Vec<LaneSlot> {
        let mut lanes = Vec::new();
        for (disk, (placed, request)) in self.placed.iter().zip(disks).enumerate() {
            for (lane, &reactor) in (0..).zip(placed) {
                let node = self.reactors.get(reactor).and_then(|slot| slot.node);
                lanes.push(LaneSlot { disk, lane, reactor, local: locality(request.node, node) });
            }
        }
        lanes
    }
}

fn locality(disk: Option<u32>, reactor: Option<u32>) -> Locality {
    match (disk, reactor) {
        (Some(disk), Some(reactor)) if disk == reactor => Locality::Local,
        (Some(_), Some(_)) => Locality::Remote,
        _ => Locality::Unknown,
    }
}
