//! Mending: what a reader found wrong on a disk, and right on another, is written again.
//!
//! The whole extent gets new places, by a change like any other, so nothing of it depends on when
//! it happens. What cannot be mended, because the pool is full or the extent is gone, is left: the
//! next reader finds it again.

use std::rc::Rc;

use crate::store::call::{Durability, Step};
use crate::store::change::change;
use crate::store::domain::{Domain, Health};
use crate::store::read::Part;

/// Most extents that wait to be mended: the others are found again.
const WAITING_MAX: usize = 1024;

/// Mends until the domain is closed.
pub(crate) async fn mending(domain: Rc<Domain>) {
    loop {
        let next = || match &*domain.health.borrow() {
            Health::Closed | Health::Stopped(_) => Some(None),
            _ if domain.closing.get() => None,
            _ => domain.to_mend.borrow_mut().pop_first().map(Some),
        };
        let Some((inode, index)) = domain.changed.until(next).await else { return };
        let steps = vec![Step::Rewrite { index }];
        domain.mending.set(true);
        let mended = change(&domain, inode, steps, Durability::Committed).await;
        domain.mending.set(false);
        domain.changed.notify();
        let mut counters = domain.counters.borrow_mut();
        match mended {
            Ok(_) => counters.extents_mended += 1,
            Err(_) => counters.extents_not_mended += 1,
        }
    }
}

impl Domain {
    /// Whether more extents wait to be mended than are remembered, or with `all`, any.
    pub(crate) fn mends(&self, all: bool) -> bool {
        let waiting = self.to_mend.borrow().len();
        if all { waiting > 0 || self.mending.get() } else { waiting >= WAITING_MAX }
    }

    /// A part of an extent is wrong on a disk and right on another.
    pub(crate) fn wants_mending(&self, part: &Part) {
        let mut to_mend = self.to_mend.borrow_mut();
        if to_mend.len() < WAITING_MAX && to_mend.insert((part.inode, part.index)) {
            self.counters.borrow_mut().copies_wrong += 1;
            drop(to_mend);
            self.changed.notify();
        }
    }
}
