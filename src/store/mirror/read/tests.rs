//! Which disk a read goes to, while other threads change what is known of them.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::format::disk_set::DiskSet;
use crate::format::label::{Label, Mirror};
use crate::format::layout::Layout;
use crate::format::removals::{Removals, SlotFate};
use crate::io::op::{DiskId, Priority};
use crate::machine::mapping::PagePolicy;
use crate::memory::Arena;
use crate::store::member::MirrorState;
use crate::store::mirror_list::MirrorList;
use crate::store::pool::{CopyFault, LabelCopies};

fn slot_with(states: &[MirrorState]) -> Member {
    let arena = Arena::new(1 << 20, PagePolicy::Normal, None, 0).unwrap();
    let layout = Layout::plan(12 << 20, 1, 1 << 20).unwrap();
    let mirrors = MirrorList::default();
    for (number, state) in (0..).zip(states) {
        let mirror = Mirror { number, count: states.len() as u16, in_sync: DiskSet::NONE };
        let (slot, slots, home_slots, epoch) = (0, 1, 1, 1);
        let (pool, disk) = ([1; 16], [2 + number as u8; 16]);
        let removals = Removals::NONE;
        let label = Label { pool, disk, slot, slots, home_slots, removals, mirror, epoch, layout };
        let absent = LabelCopies(std::array::from_fn(|_| Err(CopyFault::Absent)));
        let (named, memory) = ((DiskId(number), "disk".into()), arena.take(4096).unwrap());
        mirrors.push(Arc::new(MirrorDisk::new(named, (label, absent), *state, memory))).unwrap();
    }
    let mut member = Member::new(0, SlotFate::Stays);
    member.mirrors = mirrors;
    member
}

/// A read of a block there.
fn at(offset: u64) -> Form {
    Form { priority: Priority::NormalRead, offset, len: 4096, set: MirrorSet::ALL }
}

/// Cause: the disk expected to answer first was looked for twice, first its time and then the disk
/// that has it; reads that other reactors began in between made every disk slower than that.
/// Harm: no disk was found, and the read went to the first of the slot, whatever its state: where
/// that had been taken out because it hangs, the read never ended; where not, an extent that was
/// right was counted as wrong and written again.
/// Fix: the disk is kept along with its time.
#[test]
fn a_disk_is_found_whatever_others_read_meanwhile() {
    let slot = slot_with(&[MirrorState::Out, MirrorState::InSync, MirrorState::InSync]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut took_ns = 1000;
            while !is_over.load(Ordering::Relaxed) {
                let in_sync = || slot.in_sync().map(|mirror| &mirror.times);
                in_sync().for_each(|times| (0..8).for_each(|_| times.begin()));
                in_sync().for_each(|times| (0..8).for_each(|_| times.end(took_ns)));
                took_ns = took_ns * 7 % 1_000_003;
            }
        });
        let found = |n: u64| pick(&slot, &at(n * SPREAD_BYTES), &[]).map(|mirror| mirror.number());
        let lost = (0..300_000).map(found).filter(|number| !matches!(number, Some(1 | 2))).count();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(lost, 0);
    });
}

#[test]
fn the_faster_disk_is_read_and_now_and_then_another() {
    let slot = slot_with(&[MirrorState::InSync, MirrorState::InSync, MirrorState::Syncing]);
    let disks: Vec<&Arc<MirrorDisk>> = slot.mirrors.iter().collect();
    for (disk, took_ns) in disks.iter().zip([8000, 1000, 1]) {
        disk.times.begin();
        disk.times.end(took_ns);
    }
    let mut read = [0; 3];
    for n in 0..PROBE_EVERY * 4 {
        let number = pick(&slot, &at(n * SPREAD_BYTES), &[]).unwrap().number();
        read[number] += 1;
        disks[number].times.reads.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(read, [4, PROBE_EVERY * 4 - 4, 0]);
    // Each that was tried is passed over, and then there is none.
    assert_eq!(pick(&slot, &at(0), &disks[1..2]).unwrap().number(), 0);
    assert!(pick(&slot, &at(0), &disks[..2]).is_none());
}
