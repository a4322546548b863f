//! Which disks are a pool: by what their labels say, and by nothing else.

use super::*;
use crate::format::label::Mirror;
use crate::format::layout::Layout;
use crate::format::removals::Removals;

/// Disk `mirror` of a slot, of so many slots with two mirrors each.
fn disk((slot, mirror): (u16, u16), slots: u16, epoch: u64, in_sync: &[usize]) -> Label {
    let layout = Layout::plan(12 << 20, 2, 1 << 20).unwrap();
    let mut set = DiskSet::NONE;
    in_sync.iter().for_each(|number| set.insert(*number));
    let mirror = Mirror { number: mirror, count: 2, in_sync: set };
    let disk = [1 + slot as u8 * 2 + mirror.number as u8; 16];
    Label {
        pool: [1; 16],
        disk,
        slot,
        slots,
        home_slots: slots,
        removals: Removals::NONE,
        mirror,
        epoch,
        layout,
    }
}

fn named(labels: &[Label]) -> Vec<(Arc<str>, Label)> {
    labels.iter().enumerate().map(|(n, label)| (format!("d{n}").into(), *label)).collect()
}

fn judged(labels: &[Label]) -> Result<Assembly, PoolError> {
    assemble(&named(labels), Missing::Refuse)
}

fn refusal(labels: &[Label]) -> String {
    judged(labels).expect_err("it is refused").to_string()
}

fn used(assembly: &Assembly) -> Vec<(usize, MirrorState)> {
    assembly.disks.clone()
}

use MirrorState::{InSync, Syncing};

#[test]
fn all_disks_in_any_order_and_of_two_neighbouring_epochs() {
    let (a, b) = (disk((0, 0), 1, 5, &[0, 1]), disk((0, 1), 1, 5, &[0, 1]));
    assert_eq!(used(&judged(&[b, a]).unwrap()), [(1, InSync), (0, InSync)]);
    // A raise that was cut short.
    let later = Label { epoch: 6, ..a };
    let both = judged(&[later, b]).unwrap();
    assert_eq!((used(&both), both.in_sync.len()), (vec![(0, InSync), (1, InSync)], 2));
    assert!(both.notes.is_empty());
}

#[test]
fn half_of_a_pool_is_not_opened_unless_it_is_accepted() {
    let (a, b) = (disk((0, 0), 1, 5, &[0, 1]), disk((0, 1), 1, 5, &[0, 1]));
    for half in [a, b] {
        assert!(refusal(&[half]).contains("1 of the 2 disks"), "both halves would open");
        let forced = assemble(&named(&[half]), Missing::Accept).unwrap();
        assert_eq!((used(&forced), forced.in_sync.len()), (vec![(0, InSync)], 1));
        assert!(forced.notes[0].contains("is missing"), "{:?}", forced.notes);
    }
    // More than half, and a disk of each slot.
    let four: Vec<Label> =
        [(0, 0), (0, 1), (1, 0), (1, 1)].map(|at| disk(at, 2, 5, &[0, 1, 2, 3])).to_vec();
    let three = judged(&four[1..]).unwrap();
    assert_eq!(used(&three), [(0, InSync), (1, InSync), (2, InSync)]);
    assert_eq!(three.in_sync.iter().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(refusal(&[four[0], four[3]]).contains("2 of the 4"));
    let no_slot = assemble(&named(&four[..2]), Missing::Accept).unwrap_err().to_string();
    assert!(no_slot.contains("no disk of slot 1"), "no force brings back what is not there");
}

#[test]
fn a_disk_that_was_taken_out_is_not_read_and_the_one_that_stayed_is_enough() {
    let old = disk((0, 1), 1, 5, &[0, 1]);
    let alone = disk((0, 0), 1, 6, &[0]);
    assert_eq!(used(&judged(&[alone]).unwrap()), [(0, InSync)]);
    for epoch in [6, 7, 99] {
        let both = judged(&[old, Label { epoch, ..alone }]).unwrap();
        assert_eq!(used(&both), [(1, InSync), (0, Syncing)], "epoch {epoch}");
        assert!(both.notes[0].contains("d0"), "{:?}", both.notes);
    }
    assert!(refusal(&[old]).contains("1 of the 2 disks"), "the stale one alone");
    assert!(assemble(&named(&[old]), Missing::Accept).is_ok());
}

/// An image of a disk that was in sync then, and is called so now.
#[test]
fn an_old_image_of_a_disk_in_sync_is_stale() {
    let (a, b) = (disk((0, 0), 1, 9, &[0, 1]), disk((0, 1), 1, 7, &[0, 1]));
    let c = disk((0, 1), 1, 9, &[0, 1]);
    let three = [disk((1, 0), 2, 9, &[0, 1, 2, 3]), disk((1, 1), 2, 9, &[0, 1, 2, 3])];
    let all = [a, b].map(|label| {
        let mirror = Mirror { in_sync: DiskSet::first(4), ..label.mirror };
        Label { slots: 2, home_slots: 2, mirror, ..label }
    });
    let judged = judged(&[all[0], all[1], three[0], three[1]]).unwrap();
    assert_eq!(used(&judged), [(0, InSync), (1, Syncing), (2, InSync), (3, InSync)]);
    assert!(judged.notes[0].contains("d1 is stale: of epoch 7"), "{:?}", judged.notes);
    // Beside the true one it is not used at all.
    let beside = assemble(&named(&[a, b, c]), Missing::Refuse).unwrap();
    assert_eq!(used(&beside), [(0, InSync), (2, InSync)]);
    assert!(beside.notes.iter().any(|note| note.contains("not used")), "{:?}", beside.notes);
}

/// A slot was coming: the new disks have the newest label, the others that or the one before.
#[test]
fn a_slot_that_was_coming_is_there_when_its_disks_are_named() {
    let before = |mirror| disk((0, mirror), 1, 8, &[0, 1]);
    let widened = |label: Label| Label { slots: 2, ..label };
    let after = |slot, mirror| {
        widened(Label { home_slots: 1, ..disk((slot, mirror), 1, 9, &[0, 1, 2, 3]) })
    };
    let new = [after(1, 0), after(1, 1)];
    for old in [[before(0), before(1)], [after(0, 0), before(1)], [after(0, 0), after(0, 1)]] {
        let judged = judged(&[old[0], new[0], old[1], new[1]]).unwrap();
        let all = [(0, InSync), (2, InSync), (1, InSync), (3, InSync)];
        assert_eq!(used(&judged), all);
        assert_eq!((judged.label.slots, judged.label.home_slots), (2, 1));
    }
    // Nobody needs them as long as none of the others has heard of them.
    assert_eq!(used(&judged(&[before(0), before(1)]).unwrap()), [(0, InSync), (1, InSync)]);
    assert!(refusal(&[after(0, 0), before(1)]).contains("no disk of slot 1"));
    // Two of one epoch say one thing, and a newer one never less.
    let same = Label { epoch: 9, ..before(1) };
    assert!(refusal(&[after(0, 0), same, new[0], new[1]]).contains("another geometry"));
    let later = Label { epoch: 10, ..before(0) };
    assert!(refusal(&[later, before(1), new[0], new[1]]).contains("another geometry"));
}

#[test]
fn disks_that_were_opened_apart_are_not_put_together() {
    let first = disk((0, 0), 1, 8, &[0]);
    let second = disk((0, 1), 1, 8, &[1]);
    assert!(refusal(&[first, second]).contains("opened apart"));
    // One of them was opened once more.
    let later = Label { epoch: 11, ..second };
    let both = judged(&[first, later]).unwrap();
    assert_eq!(used(&both), [(1, InSync)], "the first is not written over");
    assert!(both.notes.iter().any(|note| note.contains("without the others")), "{:?}", both.notes);
}

#[test]
fn foreign_doubled_and_impossible_disks_are_named() {
    let (a, b) = (disk((0, 0), 1, 5, &[0, 1]), disk((0, 1), 1, 5, &[0, 1]));
    let foreign = Label { pool: [9; 16], ..b };
    assert!(refusal(&[a, b, foreign]).contains("d2 is of pool"));
    assert!(refusal(&[a, b, b]).contains("d2 and d1 both say they are mirror 1 of slot 0"));
    let layout = Layout::plan(12 << 20, 1, 1 << 20).unwrap();
    assert!(refusal(&[a, Label { layout, ..b }]).contains("another geometry"));
    assert!(refusal(&[a, Label { slot: 4, ..b }]).contains("slot 4 of 1"));
    assert!(refusal(&[]).contains("no disk is named"));
}

#[test]
fn without_mirrors_every_disk_is_needed_and_stale_ones_are_refused() {
    let alone =
        |slot: u16, epoch| Label { mirror: Mirror::ALONE, ..disk((slot, 0), 3, epoch, &[]) };
    let all = judged(&[alone(2, 5), alone(0, 5), alone(1, 4)]).unwrap();
    assert_eq!(used(&all), [(1, InSync), (2, InSync), (0, InSync)]);
    assert!(refusal(&[alone(0, 5), alone(2, 5)]).contains("disk 1 of 3 is missing"));
    let stale = refusal(&[alone(0, 5), alone(2, 5), alone(1, 3)]);
    assert!(stale.contains("d2 is stale: of epoch 3"), "{stale}");
}

/// Cause: of two disks for one place, neither with everything, the first that was named was taken.
/// Harm: the one that had been replaced came back, and its successor was left out. Fix: the newest.
#[test]
fn of_two_that_are_behind_in_one_place_the_newer_is_taken() {
    let alone = disk((0, 0), 1, 7, &[0]);
    let (replaced, came) = (disk((0, 1), 1, 5, &[0, 1]), disk((0, 1), 1, 7, &[0]));
    let three = judged(&[replaced, alone, came]).unwrap();
    assert_eq!(used(&three), [(1, InSync), (2, Syncing)]);
    assert!(three.notes.iter().any(|note| note.contains("is not used")), "{:?}", three.notes);
}
