//! A slot that leaves the pool while it is used: what is there goes to the others.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use crate::concurrency::thread_wait::on_reactor_thread;
use crate::engine::storage_engine::store_ticket::StoreTicket;
use crate::engine::storage_engine::{EngineError, StorageEngine, operations};
use crate::format::layout::BLOCK_BYTES;
use crate::format::removals::SlotFate;
use crate::store::call::Call;
use crate::store::domain::DomainStatus;
use crate::store::errand::LocalFuture;
use crate::store::error::StoreError;
use crate::store::member::Member;

/// How far a slot is that leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRemoval {
    /// Which.
    pub slot: u16,
    /// Whether nothing of the pool is there any more, and its disks are free for other uses.
    pub is_gone: bool,
    /// Bytes of data and metadata that are still there, but for journals.
    pub left_bytes: u64,
    /// Why these are still there, if something is in the way.
    pub waits: Option<String>,
}

impl StorageEngine {
    /// Has a slot leave the pool, while it is used: nothing new goes there, and what is there goes
    /// to the others, in the background and as fast as
    /// [`sync_order`](StorageEngine::sync_order) says. When nothing is left its disks lose their
    /// labels; [`removals`](StorageEngine::removals) says how far it is, and the first call of it
    /// (or of [`status`](StorageEngine::status)) after that closes them, so that others may have
    /// them. An opening goes on with it, and needs the disks until then.
    ///
    /// # Errors
    /// There is no such slot, or no other; what is there has no room in the others; the pool is
    /// open for reading only, or can change nothing any more.
    pub fn remove_slot(&self, slot: u16) -> Result<SlotRemoval, EngineError> {
        self.order(slot, SlotFate::Leaving)
    }

    /// Has a slot stay that is leaving. What has left it is elsewhere, and stays there.
    ///
    /// # Errors
    /// As [`StorageEngine::remove_slot`]; or the slot is gone.
    pub fn keep_slot(&self, slot: u16) -> Result<(), EngineError> {
        self.order(slot, SlotFate::Stays).map(|_| ())
    }

    fn order(&self, slot: u16, fate: SlotFate) -> Result<SlotRemoval, EngineError> {
        let refused = |reason: String| EngineError::NotRemoved { slot, reason };
        if on_reactor_thread() {
            let reason = "a reactor's own thread cannot wait for labels to be written";
            return Err(EngineError::Reactor(reason.into()));
        }
        let _alone = self.open.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        if self.open.closed.load(Ordering::Acquire) {
            return Err(refused(StoreError::Closing.to_string()));
        }
        if self.open.is_read_only {
            return Err(refused("the pool is open for reading only".to_owned()));
        }
        let disks = &self.open.disks;
        let there = disks.members.get(slot.into()).filter(|member| member.is_there());
        let is_new = there.is_some_and(|member| member.fate() == SlotFate::Stays);
        if fate == SlotFate::Leaving && is_new {
            let domains = self.domains().wait().map_err(|error| refused(error.to_string()))?;
            has_room(slot, &domains, |other| self.stays(other)).map_err(refused)?;
        }
        let (through, changed) = (disks.any_disk(), Arc::clone(disks));
        let work = move |port: std::rc::Rc<_>| -> LocalFuture<_> {
            Box::pin(async move { changed.set_leaving(&port, slot, fate).await })
        };
        self.membership_work(through, work).map_err(refused)?;
        let doorsteps = self.open.domains.iter().map(|domain| &domain.doorstep);
        let told = StoreTicket::all(doorsteps, || Call::Fates, (operations::done, 0));
        self.told(told).map_err(|error| refused(error.to_string()))?;
        let removals = self.removals().map_err(|error| refused(error.to_string()))?;
        let nothing = SlotRemoval { slot, is_gone: false, left_bytes: 0, waits: None };
        Ok(removals.into_iter().find(|removal| removal.slot == slot).unwrap_or(nothing))
    }

    fn stays(&self, slot: u16) -> bool {
        let member = self.open.disks.members.get(slot.into());
        member.is_some_and(|member| member.fate() == SlotFate::Stays)
    }

    /// The slots that are leaving, and those that are gone. It asks every domain and waits.
    ///
    /// # Errors
    /// As [`StorageEngine::metrics`].
    pub fn removals(&self) -> Result<Vec<SlotRemoval>, StoreError> {
        let leaves = |slot: &u16| !self.stays(*slot);
        if !(0..self.open.disks.members.len() as u16).any(|slot| leaves(&slot)) {
            return Ok(Vec::new());
        }
        let domains = self.domains().wait()?;
        Ok(self.removals_of(&domains))
    }

    /// The same of domains that have said what they have; and lets go of the disks of slots that
    /// are gone.
    pub(crate) fn removals_of(&self, domains: &[DomainStatus]) -> Vec<SlotRemoval> {
        self.let_go();
        let mut removals = Vec::new();
        for (slot, member) in (0..).zip(self.open.disks.members.iter()) {
            let is_gone = match member.fate() {
                SlotFate::Stays => continue,
                fate => fate == SlotFate::Gone && member.is_released.load(Ordering::Acquire),
            };
            let left_bytes = if is_gone { 0 } else { used_blocks(domains, slot) * BLOCK_BYTES };
            let waits = domains.iter().find_map(|domain| domain.leaving_waits.clone());
            let waits = waits.filter(|_| !is_gone);
            removals.push(SlotRemoval { slot, is_gone, left_bytes, waits });
        }
        removals
    }

    /// Lets go of the disks of slots that are gone, so that others may have them.
    pub(super) fn let_go(&self) {
        // Not while labels are on their way there.
        let is_free = |member: &&Member| member.is_released.load(Ordering::Acquire);
        let members = self.open.disks.members.iter().filter(is_free);
        for mirror in members.flat_map(|member| member.mirrors.iter()) {
            if !mirror.is_let_go.swap(true, Ordering::AcqRel) {
                self.open.io.detach(mirror.disk);
            }
        }
    }
}

fn used_blocks(domains: &[DomainStatus], slot: u16) -> u64 {
    let slots = domains.iter().flat_map(|domain| &domain.slots);
    slots.filter(|there| there.slot == slot).map(|there| there.used_blocks).sum()
}

/// Parts of the free blocks, in hundredths, that what is to leave may take: the rest is for what is
/// written meanwhile.
const ROOM_PERCENT: u64 = 90;

fn has_room(
    slot: u16,
    domains: &[DomainStatus],
    stays: impl Fn(u16) -> bool,
) -> Result<(), String> {
    let all = || domains.iter().flat_map(|domain| &domain.slots);
    let others = all().filter(|other| other.slot != slot && stays(other.slot));
    let free: u64 = others.map(|other| other.blocks - other.used_blocks).sum();
    // What is in other slots that are leaving has to have room as well.
    let leaves = all().filter(|other| other.slot == slot || !stays(other.slot));
    let used: u64 = leaves.map(|other| other.used_blocks).sum();
    if used <= free / 100 * ROOM_PERCENT {
        return Ok(());
    }
    let (used, free) = (used * BLOCK_BYTES, free * BLOCK_BYTES);
    Err(format!(
        "{used} bytes are in slots that leave, and {ROOM_PERCENT} % of the {free} bytes that are \
         free in the others have to hold them; add disks, or delete something"
    ))
}
