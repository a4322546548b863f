//! A slot that is leaving: what a domain has there goes elsewhere, while it is served.
//!
//! From the order on the domain takes no space there ([`space`](crate::store::space)). It waits for
//! what was under way, has its journal begin anew elsewhere if that is there
//! ([`move_journal`](crate::store::move_journal)), writes every extent anew that has a block there,
//! by changes like any other, and has checkpoints give its pages other homes. Whether it has left
//! says the allocator alone: no block there has an owner, and what was promised has room elsewhere.
//! What was missed is looked for again. Then it says so, for good: when all domains have, labels
//! say that the slot is gone.
//!
//! Nothing of it is remembered but that the slot is leaving: an opening looks at what is there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use crate::format::extent::Extent;
use crate::format::layout::BLOCK_BYTES;
use crate::format::removals::SlotFate;
use crate::io::op::{DiskId, Priority, Request};
use crate::store::call::{Durability, Step};
use crate::store::change::change;
use crate::store::domain::{Domain, Health};
use crate::store::error::{Certainty, StoreError};
use crate::store::membership::NotDurable;
use crate::store::port::Changed;
use crate::store::sync_pace::SyncPace;
use crate::store::table::ExtentKey;

/// Extents that are looked up at a time.
const LOOKED_UP: usize = 64;
/// Extents that are written anew at a time.
pub(crate) const REWRITERS: usize = 8;
/// How long to wait after something failed that may be better later; each time twice as long, up
/// to 64 times that.
const TRY_AGAIN_NS: u64 = 100_000_000;
const TRY_AGAIN_TIMES_MAX: u32 = 6;
/// Bytes of the journal's new place that are cleared at a time.
const CLEARED_BYTES: u64 = 128 << 10;
/// Blocks for pages that other domains are asked for, where pages have none to go to.
const PAGES_WANTED: u64 = 64;

/// Extents that are to be written anew, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Rewrites {
    waiting: RefCell<VecDeque<ExtentKey>>,
    under_way: Cell<usize>,
    failed: RefCell<Option<StoreError>>,
    /// Apart from the domain's own, which tells everybody of each commit.
    changed: Changed,
}

impl Rewrites {
    fn is_idle(&self) -> bool {
        self.waiting.borrow().is_empty() && self.under_way.get() == 0
    }

    /// Has these extents written anew; the first thing that went wrong.
    async fn run(&self, extents: VecDeque<ExtentKey>) -> Result<(), StoreError> {
        self.waiting.replace(extents);
        self.changed.notify();
        self.changed.until(|| self.is_idle().then_some(())).await;
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }
}

/// Writes extents anew that are to be, one after another. A task has one lock at a time, so there
/// are several of these.
pub(crate) async fn rewrites(domain: Rc<Domain>) {
    let rewrites = &domain.rewrites;
    loop {
        let next = || rewrites.waiting.borrow_mut().pop_front();
        let (inode, index) = rewrites.changed.until(next).await;
        rewrites.under_way.set(rewrites.under_way.get() + 1);
        let steps = vec![Step::Rewrite { index }];
        let written = change(&domain, inode, steps, Durability::Committed).await;
        rewrites.under_way.set(rewrites.under_way.get() - 1);
        match written {
            Ok(_) | Err(StoreError::NoSuchInode { .. }) => {}
            // One that cannot be read holds up no other.
            Err(error) => {
                if !matches!(error, StoreError::Corrupt { .. } | StoreError::Unreadable { .. }) {
                    rewrites.waiting.borrow_mut().clear();
                }
                rewrites.failed.borrow_mut().get_or_insert(error);
            }
        }
        rewrites.changed.notify();
    }
}

/// Leaves the slots that are leaving, one after another, until the domain is closed.
pub(crate) async fn evacuations(domain: Rc<Domain>) {
    loop {
        let next = || match &*domain.health.borrow() {
            Health::Closed | Health::Stopped(_) => Some(None),
            _ if domain.closing.get() => Some(None),
            _ if !domain.has_slots_to_leave.get() => None,
            _ => domain.slot_to_leave().map(Some),
        };
        let Some(slot) = domain.changed.until(next).await else { return };
        let evacuation = Evacuation { domain: &domain, slot, pace: SyncPace::default() };
        let mut failures = 0;
        loop {
            let ended = evacuation.run().await;
            let waits = ended.err().map(|error| error.to_string());
            let goes_on = evacuation.goes_on();
            *domain.evacuation_waits.borrow_mut() = waits.filter(|_| goes_on);
            // Also where it does not: who has it stay is about to tell the domain.
            domain.port.sleep_until(domain.port.now_ns() + (TRY_AGAIN_NS << failures)).await;
            if !evacuation.goes_on() {
                break;
            }
            failures = (failures + 1).min(TRY_AGAIN_TIMES_MAX);
        }
    }
}

impl Domain {
    /// Does with each slot as the labels say: takes nothing where one is leaving, and again where
    /// one stays after all.
    pub(crate) fn know_fates(&self) {
        for (slot, member) in (0..).zip(self.members.all().iter()) {
            let before = self.space.borrow().fate(slot);
            let fate = match (member.fate(), before) {
                // It has left, and nothing comes back by itself.
                (SlotFate::Leaving, SlotFate::Gone) => SlotFate::Gone,
                (fate, _) => fate,
            };
            self.space.borrow_mut().set_fate(slot, fate);
            if fate != SlotFate::Gone {
                member.left_domains.fetch_and(!(1 << self.number()), Ordering::AcqRel);
            }
        }
        self.has_slots_to_leave.set(self.slot_to_leave().is_some());
        self.changed.notify();
    }

    fn slot_to_leave(&self) -> Option<u16> {
        let space = self.space.borrow();
        let leaves = |slot: &u16| {
            space.fate(*slot) == SlotFate::Leaving
                && self.members.at(*slot).fate() == SlotFate::Leaving
        };
        self.members.slots().find(leaves)
    }

    /// Blocks that it has in slots that are leaving.
    pub(crate) fn blocks_to_leave(&self) -> u64 {
        let space = self.space.borrow();
        let leaving = self.members.slots().filter(|slot| space.fate(*slot) == SlotFate::Leaving);
        leaving.map(|slot| space.used(slot)).sum()
    }
}

struct Evacuation<'a> {
    domain: &'a Rc<Domain>,
    slot: u16,
    pace: SyncPace,
}

impl Evacuation<'_> {
    /// Whether it makes sense still.
    fn goes_on(&self) -> bool {
        let serving = !matches!(*self.domain.health.borrow(), Health::Closed | Health::Stopped(_));
        let leaving = self.domain.space.borrow().fate(self.slot) == SlotFate::Leaving
            && self.domain.members.at(self.slot).fate() == SlotFate::Leaving;
        serving && !self.domain.closing.get() && leaving
    }

    async fn run(&self) -> Result<(), StoreError> {
        let domain = self.domain;
        // What has taken space there and not joined is not in the table.
        domain.phases.all_have_ended(&domain.changed).await;
        self.move_journal().await?;
        self.sweep().await?;
        self.settle().await;
        if self.has_left() {
            return self.leave().await;
        }
        if !self.goes_on() {
            return Ok(());
        }
        // Something was on its way, or has no room elsewhere yet.
        Err(StoreError::Full {
            wanted_bytes: self.left() * BLOCK_BYTES,
            free_bytes: domain.available() * BLOCK_BYTES,
        })
    }

    /// Waits until the journal is elsewhere.
    async fn move_journal(&self) -> Result<(), StoreError> {
        let domain = self.domain;
        if domain.members.home_slot() != self.slot {
            return Ok(());
        }
        let to = domain.members.disks().next_home(domain.bad_home.take());
        let cleared = self.clear(to).await;
        cleared.inspect_err(|_| domain.bad_home.set(Some(to)))?;
        domain.new_home.set(Some(to));
        // No block may be in a record alone.
        let _draining = domain.drain();
        let is_there = || domain.members.home_slot() != self.slot;
        while self.goes_on() && !is_there() && domain.new_home.get().is_some() {
            domain.changed.changed().await;
        }
        domain.new_home.set(None);
        if self.goes_on() && !is_there() {
            domain.bad_home.set(Some(to));
            let reason = format!("the journal cannot begin anew in slot {to}").into();
            let certainty = Certainty::Out;
            return Err(StoreError::CommitFailed { reason, certainty });
        }
        Ok(())
    }

    /// Takes everything out of the place where the journal is to be: what a disk has there may be
    /// of a time that the others know nothing of. The flush of the first record covers it.
    async fn clear(&self, to: u16) -> Result<(), StoreError> {
        let domain = self.domain;
        let id = domain.journal.borrow().id;
        let mut at = 0;
        while at < id.bytes && self.goes_on() {
            let bytes = CLEARED_BYTES.min(id.bytes - at);
            let mut zeroes = domain.buffer(bytes as usize)?;
            zeroes.fill(0);
            let request = Request::write(DiskId(to), id.start + at, zeroes);
            let request = request.with_priority(Priority::Background);
            let written = domain.members.submit(&domain.port, request).await;
            domain.heed(&written);
            written.result.map_err(|error| StoreError::Write { source: error.into() })?;
            at += bytes;
        }
        Ok(())
    }

    /// Writes every extent anew that has a block there.
    async fn sweep(&self) -> Result<(), StoreError> {
        let domain = self.domain;
        let (mut from, mut outcome) = ((0, 0), Ok(()));
        while self.goes_on() {
            let (extents, next) = domain.table.borrow().extents_from(from, LOOKED_UP);
            let Some(next) = next else { break };
            from = next;
            domain.port.step_aside().await;
            let is_there = |(_, extent): &&(ExtentKey, Extent)| places_in(extent, self.slot) > 0;
            let there: Vec<_> = extents.iter().filter(is_there).collect();
            if there.is_empty() {
                continue;
            }
            self.pace.slow_down(domain, || self.goes_on()).await;
            if !self.goes_on() {
                break;
            }
            let blocks: u64 =
                there.iter().map(|(_, extent)| extent.existing().count() as u64).sum();
            self.pace.has_read(domain, blocks * BLOCK_BYTES);
            let extents = there.iter().map(|(key, _)| *key).collect();
            let written = domain.rewrites.run(extents).await;
            if let Err(error @ (StoreError::Corrupt { .. } | StoreError::Unreadable { .. })) =
                written
            {
                outcome = outcome.and(Err(error));
            } else {
                written?;
            }
        }
        outcome
    }

    /// Waits until what was freed is free, and pages are elsewhere, as far as checkpoints do that.
    async fn settle(&self) {
        let domain = self.domain;
        let mut before = u64::MAX;
        loop {
            let used = self.left();
            if used == 0 || !self.goes_on() {
                return;
            }
            if used == before
                && (domain.available() >= PAGES_WANTED || !domain.gets_space(PAGES_WANTED).await)
            {
                return;
            }
            before = used;
            domain.checkpoint_from_now(|| self.goes_on()).await;
        }
    }

    /// Blocks there that are somebody's.
    fn left(&self) -> u64 {
        self.domain.give_what_was_answered();
        let late = self.domain.late_blocks(self.slot);
        self.domain.space.borrow().used(self.slot) - late
    }

    fn has_left(&self) -> bool {
        let domain = self.domain;
        let left = self.left();
        let pages = domain.table.borrow().pages.blocks_wanted();
        let space = domain.space.borrow();
        self.goes_on()
            && domain.members.home_slot() != self.slot
            && left == 0
            // A disk that is told of free space may destroy what somebody has there later.
            && space.held(self.slot) == 0
            && !space.is_short(pages)
    }

    /// Says that nothing is there, and will not be. Who is last has the labels say so.
    async fn leave(&self) -> Result<(), StoreError> {
        let (domain, members) = (self.domain, &self.domain.members);
        domain.space.borrow_mut().set_fate(self.slot, SlotFate::Gone);
        domain.has_slots_to_leave.set(domain.slot_to_leave().is_some());
        members.at(self.slot).left_domains.fetch_or(1 << domain.number(), Ordering::AcqRel);
        // Where others have not left yet, or it stays after all, this changes nothing.
        let retired = members.disks().retire(&domain.port, self.slot).await;
        match retired {
            Ok(_) => Ok(()),
            Err(NotDurable(why)) => Err(StoreError::ReadOnly { reason: why.into() }),
        }
    }
}

/// Blocks of an extent in a slot.
fn places_in(extent: &Extent, slot: u16) -> usize {
    extent.existing().filter(|place| place.slot() == slot).count()
}
