//! What a disk may still do that has not answered in time.
//!
//! A write that was given up on may be done at any time until the disk has answered it after all,
//! and destroys what is there then. Blocks of data that it was for are nobody's until then, or
//! until the next opening. Where something has a place of its own, which is written again and
//! again, the domain takes no changes any more.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::format::mirror_set::MirrorSet;
use crate::format::removals::SlotFate;
use crate::io::op::Completion;
use crate::store::domain::Domain;
use crate::store::space::DiskRun;

/// Blocks, and what counts the writes that were given up on by each disk that may still do one.
type LateRun = (DiskRun, Vec<Arc<AtomicU32>>);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LateWrites(RefCell<Vec<LateRun>>);

fn slot_of(run: &DiskRun) -> u16 {
    MirrorSet::of_target(run.disk).0
}

impl Domain {
    /// These blocks are nobody's until their disks have answered all that was given up on.
    pub(crate) fn keep_until_answered(&self, run: DiskRun) {
        let (slot, set) = MirrorSet::of_target(run.disk);
        let disks = self.members.at(slot).of(set).map(|mirror| Arc::clone(&mirror.given_up));
        self.late_writes.0.borrow_mut().push((run, disks.collect()));
    }

    /// Such blocks of a slot.
    pub(crate) fn late_blocks(&self, slot: u16) -> u64 {
        let runs = self.late_writes.0.borrow();
        let there = runs.iter().filter(|(run, _)| slot_of(run) == slot);
        there.map(|(run, _)| u64::from(run.blocks)).sum()
    }

    /// Such blocks of all slots that are there.
    pub(crate) fn all_late_blocks(&self) -> u64 {
        let there = self.space.borrow().slots().into_iter();
        there.map(|there| self.late_blocks(there.slot)).sum()
    }

    /// Gives blocks back where nothing can be written late any more.
    pub(crate) fn give_what_was_answered(&self) {
        if self.late_writes.0.borrow().is_empty() {
            return;
        }
        let answered: Vec<LateRun> = {
            let space = self.space.borrow();
            let is_answered = |(run, disks): &mut LateRun| {
                space.fate(slot_of(run)) != SlotFate::Gone
                    && disks.iter().all(|disk| disk.load(Ordering::Relaxed) == 0)
            };
            self.late_writes.0.borrow_mut().extract_if(.., is_answered).collect()
        };
        answered.iter().for_each(|(run, _)| self.give_runs(std::slice::from_ref(run)));
    }

    /// Stops where what was given up on has a place that is written again.
    pub(crate) fn heed(&self, completion: &Completion) {
        if let Err(error) = &completion.result
            && error.may_land_late()
        {
            self.stop(&format!(
                "what was given up on may still be written over what follows: {error}"
            ));
        }
    }
}
