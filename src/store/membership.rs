//! Which disks of a pool are in sync, and how that is changed: by labels of a new epoch.
//!
//! One change at a time. It is durable on every disk that is in sync, or being brought there,
//! before anybody acts on it; a disk that cannot take its label is taken out by the next one.

mod removal;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::format::disk_set::{DISKS_MAX, DiskSet};
use crate::format::label::{Label, WRITE_QUORUM};
use crate::format::layout::{LABEL_COPIES, label_offsets};
use crate::format::removals::{Removals, SlotFate};
use crate::io::op::{OpKind, Request};
use crate::store::disk_flushes::{DiskFlushes, LABELS};
use crate::store::member::{Disks, Member, Members, MirrorDisk, MirrorState};
use crate::store::mirror_list::MIRRORS_MAX;
use crate::store::pool::CopyFault;
use crate::store::port::{Port, join_enough};

/// How long to wait before looking again whether another change has ended.
const LOOK_AGAIN_NS: u64 = 20_000;

/// What is durable of a pool's membership.
#[derive(Debug)]
pub struct Membership {
    /// Epoch and disks in sync, as the labels say.
    durable: Mutex<(u64, DiskSet)>,
    /// Slots that leave, and journals that have moved, as the labels say.
    removals: Mutex<Removals>,
    /// Somebody is changing it.
    changing: AtomicBool,
    /// Disks that were taken out since the pool was opened.
    fenced: AtomicU64,
    /// Why labels cannot be written any more, once one could not: some disks may have one that
    /// others have not, and another one would set these apart further.
    broken: Mutex<Option<NotDurable>>,
}

/// No label can be written that leaves every slot a disk in sync.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotDurable(pub String);

impl Membership {
    /// As the newest labels say, with disks that are missing or stale.
    pub fn new(epoch: u64, in_sync: DiskSet, removals: Removals) -> Membership {
        let (changing, fenced) = (AtomicBool::new(false), AtomicU64::new(0));
        let (durable, broken) = (Mutex::new((epoch, in_sync)), Mutex::new(None));
        Membership { durable, removals: Mutex::new(removals), changing, fenced, broken }
    }

    /// Slots that leave, and journals that have moved.
    pub fn removals(&self) -> Removals {
        *self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch, and the disks in sync by their number in the pool.
    pub fn durable(&self) -> (u64, DiskSet) {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Disks that failed and were taken out since the pool was opened.
    pub fn fenced(&self) -> u64 {
        self.fenced.load(Ordering::Relaxed)
    }

    /// Why the membership cannot be changed any more, if so.
    pub fn broken(&self) -> Option<NotDurable> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn begin_change(&self, port: &Port) -> Changing<'_> {
        while self.changing.swap(true, Ordering::Acquire) {
            port.sleep_until(port.now_ns() + LOOK_AGAIN_NS).await;
        }
        Changing(self)
    }

    fn set(&self, epoch: u64, in_sync: DiskSet) {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = (epoch, in_sync);
    }
}

/// While this lives nobody else changes the membership.
struct Changing<'a>(&'a Membership);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.changing.store(false, Ordering::Release);
    }
}

impl Members {
    /// Takes a disk out that failed, durably. It stays when it is the last in sync of its slot, or
    /// when that cannot be made durable.
    pub(crate) async fn fence(&self, port: &Port, failed: &MirrorDisk) {
        let disks = self.disks();
        let _change = disks.membership.begin_change(port).await;
        let is_there = disks.members[usize::from(failed.label.slot)].is_there();
        if failed.state() == MirrorState::Out || !is_there {
            return;
        }
        let (_, mut in_sync) = disks.membership.durable();
        in_sync.remove(failed.number());
        let removals = disks.membership.removals();
        if disks.leaves_every_slot(&in_sync, &[failed.number()], &removals).is_err() {
            return;
        }
        let (_, base) = disks.membership.durable();
        if disks.publish(port, Change::of(in_sync, base), &[failed.number()]).await.is_ok() {
            disks.membership.fenced.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Calls a disk in sync that has got everything, durably.
    pub(crate) async fn join(&self, port: &Port, synced: &MirrorDisk) -> Result<(), NotDurable> {
        let disks = self.disks();
        let _change = disks.membership.begin_change(port).await;
        let is_there = disks.members[usize::from(synced.label.slot)].is_there();
        if synced.state() != MirrorState::Syncing || !is_there {
            return Err(NotDurable(format!("{} failed meanwhile", synced.path)));
        }
        let (_, mut in_sync) = disks.membership.durable();
        let base = in_sync;
        in_sync.insert(synced.number());
        disks.publish(port, Change::of(in_sync, base), &[]).await
    }
}

impl Disks {
    /// Raises the epoch at an opening for writing, to labels that call these disks in sync, as [the
    /// format](crate::format::label) says. Nothing is raised in a pool of one disk: no other can be
    /// older, and one that comes is of two epochs later.
    pub(crate) async fn raise(&self, port: &Port, in_sync: DiskSet) -> Result<(), NotDurable> {
        let _change = self.membership.begin_change(port).await;
        let (newest, of_newest) = self.membership.durable();
        // First each disk's own label where it is not: what openings that were cut short have left
        // could leave no two copies that agree, were one of those that do written over.
        let own = |mirror: &MirrorDisk| {
            let is_whole = mirror.label_copies.are_all(&mirror.label);
            let Label { epoch, slots, .. } = mirror.label;
            let in_sync = mirror.label.mirror.in_sync;
            let removals = mirror.label.removals;
            let own = Content { epoch, slots, in_sync, removals, grown: None, is_own: true };
            (!is_whole).then_some(own)
        };
        self.write_each(port, own).await;
        // A label of an older epoch may know of fewer slots.
        if self.members.len() == 1 && self.label().mirror.count == 1 {
            return Ok(());
        }
        // A stale disk must not have a label that calls it in sync, as the newest may.
        let behind = |mirror: &MirrorDisk| {
            let is_behind = mirror.is_in_sync() && mirror.label.epoch != newest;
            let slots = self.members.len() as u16;
            is_behind.then_some(Content {
                epoch: newest,
                slots,
                in_sync: of_newest,
                removals: self.membership.removals(),
                grown: None,
                is_own: false,
            })
        };
        self.write_each(port, behind).await;
        // Fewer than half were accepted by who opens it: then these are all that count.
        let forced = 2 * in_sync.len() <= of_newest.len();
        let base = if forced { in_sync } else { of_newest };
        self.publish(port, Change::of(in_sync, base), &[]).await?;
        let (_, in_sync) = self.membership.durable();
        self.publish(port, Change::of(in_sync, in_sync), &[]).await
    }

    /// Takes in a disk that has come: it is written from now on, and has nothing of before yet. Its
    /// first label is that of the next epoch, which all others get as well, so that it never says
    /// of an epoch what others do not.
    pub(crate) async fn admit(&self, port: &Port, mirror: Arc<MirrorDisk>) -> Result<(), String> {
        let _change = self.membership.begin_change(port).await;
        if let Some(NotDurable(why)) = self.membership.broken() {
            return Err(format!("no label can be written any more: {why}"));
        }
        let (slot, number) = (mirror.label.slot, mirror.label.mirror.number);
        if let Some(reason) = self.refusal(slot, number) {
            return Err(reason);
        }
        let mirrors = &self.members[usize::from(slot)].mirrors;
        if mirrors.push(Arc::clone(&mirror)).is_err() {
            return Err(format!("{MIRRORS_MAX} disks have come to slot {slot} since the opening"));
        }
        let (_, in_sync) = self.membership.durable();
        let published = self.publish(port, Change::of(in_sync, in_sync), &[]).await;
        if mirror.state() == MirrorState::Syncing && published.is_ok() {
            return Ok(());
        }
        // Nothing is to go there any more, whatever the others have.
        mirror.set_state(MirrorState::Out);
        Err(match published {
            Ok(()) => "its label could not be written".to_owned(),
            Err(NotDurable(why)) => why,
        })
    }

    /// Adds a slot with these disks, which have nothing yet: it is there, durably, before anything
    /// goes to it. They get the label of the next epoch first, the others when they have it: cut
    /// short, it is a pool with the slot, or one without for which the new disks are none of its
    /// own. Gives the number of the slot.
    pub(crate) async fn widen(
        &self,
        port: &Port,
        disks: Vec<Arc<MirrorDisk>>,
        part_bytes: u64,
    ) -> Result<u16, String> {
        let _change = self.membership.begin_change(port).await;
        if let Some(NotDurable(why)) = self.membership.broken() {
            return Err(format!("no label can be written any more: {why}"));
        }
        let slot = self.members.len();
        let Some(first) = disks.first().map(|disk| disk.label) else {
            return Err("a slot has a disk".to_owned());
        };
        let number = (slot + 1) * usize::from(first.mirror.count);
        if number > DISKS_MAX || usize::from(first.slot) != slot {
            return Err(format!("slot {slot} is the next one, and a pool has {DISKS_MAX} disks"));
        }
        if !self.members.has_room() {
            return Err("no more slots can come before the pool is opened again".to_owned());
        }
        // A disk that was to come before, and did not, may have a label of the next epoch, or of
        // the one after this one: it is stale two epochs later.
        for _ in 0..2 {
            let (_, in_sync) = self.membership.durable();
            let published = self.publish(port, Change::of(in_sync, in_sync), &[]).await;
            published.map_err(|NotDurable(why)| why)?;
        }
        let (epoch, mut in_sync) = self.membership.durable();
        let base = in_sync;
        if first.mirror.count > 1 {
            disks.iter().for_each(|disk| in_sync.insert(disk.number()));
        }
        let (epoch, slots) = (epoch + 1, slot as u16 + 1);
        let removals = self.membership.removals();
        let content = Content { epoch, slots, in_sync, removals, grown: None, is_own: false };
        if let Err(why) = self.write_all(port, &disks, Some(content)).await {
            // The next epoch is another change's, of which these are to say nothing.
            let _ = self.write_all(port, &disks, None).await;
            return Err(why);
        }
        disks.iter().for_each(|disk| disk.set_state(MirrorState::InSync));
        let member = Member::new(part_bytes, SlotFate::Stays);
        for disk in disks {
            if member.mirrors.push(disk).is_err() {
                unreachable!("a slot has at most four disks")
            }
        }
        self.members.push(member);
        let published = self.publish(port, Change::of(in_sync, base), &[]).await;
        published.map(|()| slot as u16).map_err(|NotDurable(why)| why)
    }

    /// The disks of a slot have grown to so many bytes: so their labels say, durably, before any of
    /// it is used.
    pub(crate) async fn grow(&self, port: &Port, slot: u16, bytes: u64) -> Result<(), String> {
        let _change = self.membership.begin_change(port).await;
        let Some(member) = self.members.get(usize::from(slot)) else {
            return Err(format!("there is no slot {slot}"));
        };
        let layout = member.layout();
        if bytes < layout.disk_bytes() {
            return Err(format!("slot {slot} was made for {} bytes", layout.disk_bytes()));
        }
        layout.for_disk(bytes).map_err(|error| error.to_string())?;
        let (_, in_sync) = self.membership.durable();
        let change = Change { grown: Some((slot, bytes)), ..Change::of(in_sync, in_sync) };
        self.publish(port, change, &[]).await.map_err(|NotDurable(why)| why)?;
        for mirror in member.mirrors.iter() {
            mirror.made_for.store(bytes, Ordering::Release);
        }
        Ok(())
    }

    /// Writes the labels of all these disks, or destroys them.
    async fn write_all(
        &self,
        port: &Port,
        disks: &[Arc<MirrorDisk>],
        content: Option<Content>,
    ) -> Result<(), String> {
        let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
        for disk in disks {
            writes.push(Box::pin(write_label(port, disk, content)));
        }
        let written = join_enough(port, writes, self.label_time_ns(), |_| true).await;
        for (disk, written) in disks.iter().zip(written) {
            match written {
                Some(Ok(())) => {}
                Some(Err(NotDurable(why))) => {
                    return Err(format!("the label of {} cannot be written: {why}", disk.path));
                }
                None => return Err(format!("{} does not answer", disk.path)),
            }
        }
        Ok(())
    }

    /// Writes labels of this epoch and set to disks. One that cannot take it will not take the next
    /// one.
    async fn write_each(&self, port: &Port, which: impl Fn(&MirrorDisk) -> Option<Content>) {
        let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
        for mirror in self.written() {
            if let Some(content) = which(mirror) {
                writes.push(Box::pin(write_label(port, mirror, Some(content))));
            }
        }
        join_enough(port, writes, self.label_time_ns(), |_| true).await;
    }

    /// How long the writes of a label may take: each copy is written and flushed by itself.
    fn label_time_ns(&self) -> u64 {
        self.hung_after_ns.saturating_mul(2 * LABEL_COPIES as u64)
    }

    /// Writes labels of a new epoch to all disks but those in `without`, until every one has its
    /// own. No more than half of the disks in `base` may be left out, which would open without the
    /// others else. The caller is the only one who changes the membership.
    async fn publish(
        &self,
        port: &Port,
        change: Change,
        without: &[usize],
    ) -> Result<(), NotDurable> {
        if let Some(before) = self.membership.broken() {
            return Err(before);
        }
        let published = self.try_publish(port, change, without).await;
        if let Err(why) = &published {
            let broken = &self.membership.broken;
            *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
        }
        published
    }

    async fn try_publish(
        &self,
        port: &Port,
        Change { mut in_sync, base, grown, removals }: Change,
        without: &[usize],
    ) -> Result<(), NotDurable> {
        let mut out: Vec<usize> = without.to_vec();
        let removals = removals.unwrap_or_else(|| self.membership.removals());
        loop {
            self.leaves_every_slot(&in_sync, &out, &removals)?;
            let uninformed = base.iter().filter(|number| !in_sync.contains(*number)).count();
            if 2 * uninformed > base.len() {
                let of = base.len();
                return Err(NotDurable(format!("{uninformed} of {of} disks would not know of it")));
            }
            let (before, before_set) = self.membership.durable();
            let epoch = before + 1;
            // Whatever comes of it, no other label has this epoch.
            self.membership.set(epoch, before_set);
            let to = self.written().filter(|mirror| !out.contains(&mirror.number()));
            let to: Vec<&Arc<MirrorDisk>> = to.collect();
            let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
            let slots = self.members.len() as u16;
            let content = Content { epoch, slots, in_sync, removals, grown, is_own: false };
            for mirror in &to {
                writes.push(Box::pin(write_label(port, mirror, Some(content))));
            }
            let flushing = self.begin_label_flushes(&to);
            // One that does not answer has failed as well: everybody waits for this.
            let written = join_enough(port, writes, self.label_time_ns(), |_| true).await;
            let done = |written: &Option<Result<(), NotDurable>>| matches!(written, Some(Ok(())));
            let failed = to.iter().zip(&written).filter(|(_, written)| !done(written));
            let failed: Vec<&Arc<MirrorDisk>> = failed.map(|(mirror, _)| *mirror).collect();
            // A flush that failed may have dropped what others have written there: they hear of it
            // before they believe one of their own.
            failed.iter().for_each(|mirror| self.count_lost(mirror));
            drop(flushing);
            let failed: Vec<usize> = failed.iter().map(|mirror| mirror.number()).collect();
            if failed.is_empty() {
                self.membership.set(epoch, in_sync);
                self.obey(removals);
                break;
            }
            failed.iter().for_each(|number| in_sync.remove(*number));
            out.extend(failed);
        }
        for mirror in self.written().filter(|mirror| mirror.label.mirror.count > 1) {
            let number = mirror.number();
            // What others have written to it alone, and no flush has covered, may be lost: that is
            // said before they go on without it, and again of what came in between.
            if out.contains(&number) {
                self.count_lost(mirror);
            }
            mirror.set_state(match (out.contains(&number), in_sync.contains(number)) {
                (true, _) => MirrorState::Out,
                (false, true) => MirrorState::InSync,
                (false, false) => MirrorState::Syncing,
            });
            if out.contains(&number) {
                self.count_lost(mirror);
            }
        }
        Ok(())
    }

    /// Flushes of labels are under way on these disks, as other domains see it.
    fn begin_label_flushes(&self, to: &[&Arc<MirrorDisk>]) -> LabelFlushes<'_> {
        let slots: BTreeSet<u16> = to.iter().map(|mirror| mirror.label.slot).collect();
        let flushes = slots.iter().map(|slot| &*self.members[usize::from(*slot)].flushes);
        let flushes: Vec<&DiskFlushes> = flushes.collect();
        flushes.iter().for_each(|flushes| flushes.turn(LABELS));
        LabelFlushes(flushes)
    }

    /// Counts a flush as failed where a disk may have dropped what no other has.
    fn count_lost(&self, mirror: &MirrorDisk) {
        let member = &self.members[usize::from(mirror.label.slot)];
        if mirror.label.mirror.count == 1 || member.needs(mirror) {
            member.flushes.count_failure();
        }
    }

    /// The labels say so, durably.
    fn obey(&self, removals: Removals) {
        *self.membership.removals.lock().unwrap_or_else(PoisonError::into_inner) = removals;
        for (slot, member) in (0..).zip(self.members.iter()) {
            member.set_fate(removals.fate(slot));
        }
    }

    /// All disks that are written.
    fn written(&self) -> impl Iterator<Item = &Arc<MirrorDisk>> {
        let there = self.members.iter().filter(|member| member.is_there());
        let all = there.flat_map(|member| member.mirrors.iter());
        all.filter(|mirror| mirror.state() != MirrorState::Out)
    }

    /// Refuses when some slot would have no disk in sync.
    fn leaves_every_slot(
        &self,
        in_sync: &DiskSet,
        out: &[usize],
        removals: &Removals,
    ) -> Result<(), NotDurable> {
        let left = |mirror: &Arc<MirrorDisk>| {
            let number = mirror.number();
            let in_sync = mirror.label.mirror.count == 1 || in_sync.contains(number);
            in_sync && mirror.state() != MirrorState::Out && !out.contains(&number)
        };
        let mut slots = (0..).zip(self.members.iter());
        let empty = slots.find(|(slot, member)| {
            removals.fate(*slot) != SlotFate::Gone && !member.mirrors.iter().any(left)
        });
        match empty {
            None => Ok(()),
            Some((slot, _)) => {
                Err(NotDurable(format!("no disk of slot {slot} would be left in sync")))
            }
        }
    }
}

/// Flushes of labels that are under way, on the disks of some slots.
struct LabelFlushes<'a>(Vec<&'a DiskFlushes>);

impl Drop for LabelFlushes<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|flushes| flushes.turn(LABELS));
    }
}

/// What changes in labels.
#[derive(Clone, Copy)]
struct Content {
    epoch: u64,
    slots: u16,
    in_sync: DiskSet,
    removals: Removals,
    /// A slot whose disks have so many bytes from here on.
    grown: Option<(u16, u64)>,
    /// It is what the disk said already, also of its size.
    is_own: bool,
}

/// What the labels of a new epoch are to say.
#[derive(Clone, Copy)]
struct Change {
    /// Disks in sync.
    in_sync: DiskSet,
    /// See [`Disks::publish`].
    base: DiskSet,
    /// A slot whose disks have so many bytes from here on.
    grown: Option<(u16, u64)>,
    /// Slots that leave, and journals that have moved, where that changes.
    removals: Option<Removals>,
}

impl Change {
    fn of(in_sync: DiskSet, base: DiskSet) -> Change {
        Change { in_sync, base, grown: None, removals: None }
    }
}

/// Writes a disk's label, copy by copy; without content none is left.
async fn write_label(
    port: &Port,
    mirror: &MirrorDisk,
    content: Option<Content>,
) -> Result<(), NotDurable> {
    let mut label: Label = mirror.label;
    if let Some(Content { epoch, slots, in_sync, removals, grown, is_own }) = content {
        (label.epoch, label.slots, label.removals) = (epoch, slots, removals);
        if !is_own {
            label.layout = mirror.layout();
        }
        if let Some((slot, bytes)) = grown
            && slot == label.slot
        {
            let larger = label.layout.for_disk(bytes);
            label.layout = larger.map_err(|error| NotDurable(error.to_string()))?;
        }
        if label.mirror.count > 1 {
            label.mirror.in_sync = in_sync;
        }
    }
    let take = || mirror.label_buffer.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = take().take();
    let (mut durable, mut why) = (0, "a device that never answered keeps its memory".to_owned());
    let offsets = label_offsets(label.layout.disk_bytes());
    // Those at the end first where that has moved: they are looked for when the start says so.
    let has_moved = label.layout.disk_bytes() != mirror.label.layout.disk_bytes();
    let order = if has_moved { [2, 3, 0, 1] } else { [0, 1, 2, 3] };
    for (copy, offset) in order.map(|copy: usize| (copy, offsets[copy])) {
        // Without one at the new end, a write at the start that is cut short could leave none two
        // of which agree.
        if has_moved && copy == 0 && durable == 0 {
            break;
        }
        match &mirror.label_copies.0[copy] {
            // A copy of a newer format is a newer program's.
            Err(CopyFault::Newer(_)) => continue,
            // What is there is not touched: a write that is cut short may leave nothing.
            Ok(there) if *there == label && content.is_some() => {
                durable += 1;
                continue;
            }
            _ => {}
        }
        let Some(mut bytes) = buffer.take() else { break };
        bytes.fill(0);
        if content.is_some() {
            let encoded = label.encode(copy);
            bytes[..encoded.len()].copy_from_slice(&encoded);
        }
        let request = Request::write_flush(mirror.disk, offset, bytes);
        let (result, back) = port.submit(request).await.into_parts();
        buffer = back;
        match result {
            Ok(_) => durable += 1,
            Err(error) => {
                why = error.to_string();
                // What others have written there may be gone with it: no later flush brings it
                // back, so the disk has failed, however many copies are durable.
                if error.op == OpKind::Flush {
                    durable = 0;
                    break;
                }
            }
        }
    }
    *take() = buffer;
    if durable >= WRITE_QUORUM { Ok(()) } else { Err(NotDurable(why)) }
}
