//! Slots that leave a pool, and where journals went that were in one, as a label says it.
//!
//! | bytes | field |
//! | --- | --- |
//! | 32 | slots that are **leaving**: nothing new goes there, and what is there goes elsewhere; a bit each |
//! | 32 | slots that are **gone**: nothing of the pool is there, and their disks are none of its own |
//! | 2 each, [`DOMAINS_MAX`] of them | of each domain the slot with its journal, and 1; 0: where it was at first |
//!
//! A slot is leaving before it is gone, and its number is never another's. A journal is never in a
//! slot that is gone, and at least one slot stays.

use bytemuck::{Pod, Zeroable};

use crate::format::disk_set::{DISKS_MAX, DiskSet};
use crate::format::layout::DOMAINS_MAX;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Removals {
    leaving: DiskSet,
    gone: DiskSet,
    homes: [u16; DOMAINS_MAX as usize],
}

/// What becomes of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotFate {
    /// It stays.
    #[default]
    Stays,
    /// What is there goes elsewhere.
    Leaving,
    /// Nothing is there.
    Gone,
}

impl Removals {
    /// Every slot stays, and every journal is where it was at first.
    pub const NONE: Removals =
        Removals { leaving: DiskSet::NONE, gone: DiskSet::NONE, homes: [0; DOMAINS_MAX as usize] };

    /// What becomes of a slot.
    pub fn fate(&self, slot: u16) -> SlotFate {
        let slot = usize::from(slot);
        match (self.gone.contains(slot), self.leaving.contains(slot)) {
            (true, _) => SlotFate::Gone,
            (false, true) => SlotFate::Leaving,
            (false, false) => SlotFate::Stays,
        }
    }

    /// The same with another fate for one slot.
    ///
    /// # Panics
    /// When a slot with that number cannot be told apart: [`DISKS_MAX`] or more.
    #[must_use]
    pub fn with(mut self, slot: u16, fate: SlotFate) -> Removals {
        let slot = usize::from(slot);
        assert!(slot < DISKS_MAX, "a slot that can leave has a bit");
        self.leaving.remove(slot);
        self.gone.remove(slot);
        match fate {
            SlotFate::Stays => {}
            SlotFate::Leaving => self.leaving.insert(slot),
            SlotFate::Gone => self.gone.insert(slot),
        }
        self
    }

    /// Where the journal of a domain went, if it did.
    pub fn home(&self, domain: u16) -> Option<u16> {
        self.homes.get(usize::from(domain))?.checked_sub(1)
    }

    /// The same with a domain's journal in another slot.
    #[must_use]
    pub fn with_home(mut self, domain: u16, slot: u16) -> Removals {
        self.homes[usize::from(domain)] = slot + 1;
        self
    }

    /// Whether there can be such slots and domains.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn judge(&self, slots: u16, home_slots: u16, domains: u16) -> Result<(), &'static str> {
        let (leaving, gone) = (&self.leaving, &self.gone);
        let all = || leaving.iter().chain(gone.iter());
        if all().any(|slot| slot >= usize::from(slots)) {
            return Err("a slot leaves that it has not");
        }
        if leaving.iter().any(|slot| gone.contains(slot)) {
            return Err("a slot is gone, and leaving");
        }
        if all().count() >= usize::from(slots) {
            return Err("no slot stays");
        }
        let named = self.homes.iter().skip(domains.into());
        if self.homes.iter().any(|home| *home > slots) || named.into_iter().any(|home| *home != 0) {
            return Err("a journal in a slot, or of a domain, that it has not");
        }
        let home = |domain: u16| self.home(domain).unwrap_or(domain % home_slots.max(1));
        match (0..domains).any(|domain| gone.contains(home(domain).into())) {
            true => Err("a journal in a slot that is gone"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_leave_and_are_gone_and_their_journals_go_elsewhere() {
        let none = Removals::NONE;
        assert_eq!(
            (none.fate(3), none.home(1), none.judge(2, 2, 2)),
            (SlotFate::Stays, None, Ok(()))
        );
        let leaving = none.with(1, SlotFate::Leaving);
        assert_eq!((leaving.fate(1), leaving.judge(3, 3, 3)), (SlotFate::Leaving, Ok(())));
        assert_eq!(leaving.with(1, SlotFate::Stays), none);
        let gone = leaving.with(1, SlotFate::Gone);
        assert_eq!(gone.fate(1), SlotFate::Gone);
        assert!(gone.judge(3, 3, 3).is_err_and(|what| what.contains("journal")));
        let moved = gone.with_home(1, 2);
        assert_eq!((moved.home(1), moved.judge(3, 3, 3)), (Some(2), Ok(())));
        assert!(moved.judge(2, 2, 2).is_err(), "there is no slot 2");
        assert!(moved.judge(3, 3, 1).is_err(), "there is no domain 1");
        assert!(moved.with(0, SlotFate::Leaving).judge(3, 3, 3).is_ok());
        let all = moved.with(0, SlotFate::Leaving).with(2, SlotFate::Leaving);
        assert!(all.judge(3, 3, 3).is_err_and(|what| what.contains("stays")));
    }
}
