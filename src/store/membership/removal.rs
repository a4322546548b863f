//! Slots that leave: said by labels before anything is done about it.
//!
//! | step | durable on all disks before the next one |
//! | --- | --- |
//! | the slot is leaving | every opening from here on takes nothing there, and goes on with the next step |
//! | domains write elsewhere what is there: data, pages | by their own commits and checkpoints |
//! | a journal that is there begins anew elsewhere | a checkpoint is there; then labels say that it counts |
//! | the slot is gone | on all other disks; then its disks lose their labels |
//!
//! A crash between any two leaves a pool that opens as it is, and goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::format::disk_set::DISKS_MAX;
use crate::format::label::Label;
use crate::format::layout::DOMAINS_MAX;
use crate::format::removals::{Removals, SlotFate};
use crate::store::member::{Disks, Member, MirrorDisk, MirrorState};
use crate::store::membership::{Change, NotDurable, write_label};
use crate::store::port::{Port, join_enough};

/// A bit for each domain.
fn all_of(domains: u16) -> u64 {
    u64::MAX >> (DOMAINS_MAX - domains)
}

impl Disks {
    /// Slots that stay.
    pub(crate) fn staying(&self) -> impl Iterator<Item = (u16, &Member)> {
        let all = (0..).zip(self.members.iter());
        all.filter(|(_, member)| member.fate() == SlotFate::Stays)
    }

    /// Why a slot cannot leave, if so.
    fn leaving_refusal(&self, slot: u16, fate: SlotFate) -> Option<String> {
        if usize::from(slot) >= self.members.len().min(DISKS_MAX) {
            return Some(format!("the pool has {} slots, and no slot {slot}", self.members.len()));
        }
        if self.members[usize::from(slot)].fate() == SlotFate::Gone {
            return Some(format!("slot {slot} is gone already"));
        }
        let stays = fate == SlotFate::Stays || self.staying().any(|(other, _)| other != slot);
        (!stays).then(|| format!("no slot would stay: slot {slot} is the last one"))
    }

    /// A slot is leaving from now on, or stays after all: durably, before anybody acts on it.
    pub(crate) async fn set_leaving(
        &self,
        port: &Port,
        slot: u16,
        fate: SlotFate,
    ) -> Result<(), String> {
        let _change = self.membership.begin_change(port).await;
        if let Some(reason) = self.leaving_refusal(slot, fate) {
            return Err(reason);
        }
        let member = &self.members[usize::from(slot)];
        if member.fate() == fate {
            return Ok(());
        }
        let (_, in_sync) = self.membership.durable();
        let removals = Some(self.membership.removals().with(slot, fate));
        let change = Change { removals, ..Change::of(in_sync, in_sync) };
        self.publish(port, change, &[]).await.map_err(|NotDurable(why)| why)
    }

    /// The slot for a journal that has to go elsewhere: of those that stay the first with fewest;
    /// not `bad`, where another stays.
    pub(crate) fn next_home(&self, bad: Option<u16>) -> u16 {
        let (label, removals) = (*self.label(), self.membership.removals());
        let label = Label { removals, ..label };
        let homes = |slot: u16| {
            (0..label.layout.domains()).filter(|domain| label.home(*domain) == slot).count()
        };
        let fewest = self
            .staying()
            .map(|(slot, _)| slot)
            .min_by_key(|slot| (Some(*slot) == bad, homes(*slot)));
        fewest.unwrap_or_else(|| unreachable!("some slot stays"))
    }

    /// The journal of a domain is in another slot from now on.
    pub(crate) async fn move_home(
        &self,
        port: &Port,
        domain: u16,
        slot: u16,
    ) -> Result<(), NotDurable> {
        let _change = self.membership.begin_change(port).await;
        // Another slot may have been told to leave meanwhile: this one leaves later then.
        let (_, in_sync) = self.membership.durable();
        let removals = self.membership.removals().with_home(domain, slot);
        self.judged(&removals)?;
        let change = Change { removals: Some(removals), ..Change::of(in_sync, in_sync) };
        self.publish(port, change, &[]).await
    }

    /// What labels are to say must be what a label can say: else none could be read again.
    fn judged(&self, removals: &Removals) -> Result<(), NotDurable> {
        let label = self.label();
        let (slots, domains) = (self.members.len() as u16, label.layout.domains());
        let judged = removals.judge(slots, label.home_slots, domains);
        judged.map_err(|what| NotDurable(what.to_owned()))
    }

    /// A slot in which no domain has anything is none of the pool's any more; its disks lose their
    /// labels. False when it stays after all.
    pub(crate) async fn retire(&self, port: &Port, slot: u16) -> Result<bool, NotDurable> {
        let change = self.membership.begin_change(port).await;
        let member = &self.members[usize::from(slot)];
        let domains = self.label().layout.domains();
        let all_left = member.left_domains.load(Ordering::Acquire) == all_of(domains);
        if member.fate() != SlotFate::Leaving || !all_left {
            return Ok(false);
        }
        let removals = self.membership.removals().with(slot, SlotFate::Gone);
        self.judged(&removals)?;
        let (_, mut in_sync) = self.membership.durable();
        let disks: Vec<&Arc<MirrorDisk>> = member.mirrors.iter().collect();
        let numbers: Vec<usize> = disks.iter().map(|disk| disk.number()).collect();
        numbers.iter().for_each(|number| in_sync.remove(*number));
        let labels = Change { removals: Some(removals), ..Change::of(in_sync, in_sync) };
        self.publish(port, labels, &numbers).await?;
        // Others are not to wait for a disk that may hang.
        drop(change);
        // Named with the others they would be known to be gone; alone they are of nobody.
        let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
        for disk in disks.iter().filter(|disk| disk.state() != MirrorState::Out) {
            writes.push(Box::pin(write_label(port, disk, None)));
        }
        join_enough(port, writes, self.label_time_ns(), |_| true).await;
        disks.iter().for_each(|disk| disk.set_state(MirrorState::Out));
        member.is_released.store(true, Ordering::Release);
        Ok(true)
    }
}
