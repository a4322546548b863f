//! The disks of a pool, by what their labels say together.

use std::collections::BTreeMap;

use crate::check::report::{Findings, Site};
use crate::format::deed::{Deed, GroupId};
use crate::format::extent::Place;
use crate::format::label::Label;
use crate::format::layout::Layout;
use crate::format::removals::SlotFate;

/// Most missing disks that are named one by one.
const MISSING_NAMED: usize = 16;

/// The labels of a pool's disks, by slot.
#[derive(Clone, Debug)]
pub struct Members {
    /// Of a disk in sync; none where all are missing.
    by_slot: Vec<Option<Label>>,
    /// Of each slot, which of the disks that were given are in sync, by the number of the mirror.
    mirrors: Vec<Vec<(u16, usize)>>,
    /// One of the newest epoch, for what all say alike.
    any: Label,
}

/// A pool of the one disk that has this label, whatever it says of others.
impl From<Label> for Members {
    fn from(label: Label) -> Members {
        let mut by_slot = vec![None; usize::from(label.slot) + 1];
        by_slot[usize::from(label.slot)] = Some(label);
        Members { mirrors: Vec::new(), by_slot, any: label }
    }
}

impl Members {
    /// Judges the labels of disks, in any order.
    pub(super) fn judge(labels: &[Option<Label>], findings: &mut Findings) -> Option<Members> {
        let any = *newest(labels)?;
        let slots = usize::from(any.slots);
        let (by_slot, mirrors) = (vec![None; slots], vec![Vec::new(); slots]);
        let mut members = Members { by_slot, mirrors, any };
        for (number, label) in labels.iter().enumerate() {
            if let Some(label) = label {
                members.add(number, label, findings);
            }
        }
        members.name_missing(findings);
        members.mirrors.iter_mut().for_each(|mirrors| mirrors.sort_unstable());
        Some(members)
    }

    fn add(&mut self, number: usize, label: &Label, findings: &mut Findings) {
        let (any, slot) = (&self.any, usize::from(label.slot));
        let site = || Site::of_disk(0, "label").on(label.slot).mirror(label.mirror.number);
        if let Some((expected, found)) = disagreement(any, label) {
            return findings.error(site(), expected, found);
        }
        // Said of the label itself.
        if slot >= self.by_slot.len() {
            return;
        }
        if any.removals.fate(label.slot) == SlotFate::Gone {
            let found = format!("a disk of slot {slot}");
            return findings.note(site(), "slots that were not removed".to_owned(), found);
        }
        let behind = label.epoch + 1 < any.epoch;
        if behind || !any.is_in_sync(label.number()) {
            let expected = format!("a disk in sync, of epoch {}", any.epoch);
            let found = format!("one that is not read, of epoch {}", label.epoch);
            return match any.mirror.count {
                1 => findings.error(site(), expected, found),
                _ => findings.note(site(), expected, found),
            };
        }
        let mirrors = &mut self.mirrors[slot];
        if mirrors.iter().any(|(mirror, _)| *mirror == label.mirror.number) {
            let what = if any.mirror.count == 1 { "slot" } else { "place of a slot" };
            let found = format!("two disks in slot {}", label.slot);
            return findings.error(site(), format!("one disk in each {what}"), found);
        }
        mirrors.push((label.mirror.number, number));
        self.by_slot[slot] = Some(*label);
    }

    fn name_missing(&self, findings: &mut Findings) {
        let (any, mut named) = (&self.any, 0);
        for number in 0..any.disks() {
            let mirrors = usize::from(any.mirror.count);
            let (slot, mirror) = (number / mirrors, (number % mirrors) as u16);
            let there = self.mirrors[slot].iter().any(|(found, _)| *found == mirror);
            let is_gone = any.removals.fate(slot as u16) == SlotFate::Gone;
            if there || is_gone || !any.is_in_sync(number) || named == MISSING_NAMED {
                continue;
            }
            named += 1;
            let site = Site::of_disk(0, "label").on(slot as u16).mirror(mirror);
            let expected = format!("{} disks", any.disks());
            findings.error(site, expected, format!("disk {number} missing"));
        }
    }

    /// How many ways there are to read the pool: one for each mirror of the slot with most.
    pub(super) fn views(&self) -> usize {
        self.mirrors.iter().map(Vec::len).max().unwrap_or(0).max(1)
    }

    /// Which of the disks that were given is in each slot, in one of the ways to read it.
    pub(super) fn order(&self, view: usize) -> Vec<Option<usize>> {
        self.view(view).map(|found| found.map(|(_, number)| number)).collect()
    }

    /// Of each slot, which of the disks that were given are in sync, by the number of the mirror.
    pub(super) fn mirrors(&self) -> Vec<Vec<(u16, usize)>> {
        self.mirrors.clone()
    }

    /// Which mirror of each slot that is.
    pub(super) fn numbers(&self, view: usize) -> Vec<u16> {
        self.view(view).map(|found| found.map_or(0, |(mirror, _)| mirror)).collect()
    }

    fn view(&self, view: usize) -> impl Iterator<Item = Option<(u16, usize)>> {
        self.mirrors.iter().map(move |mirrors| {
            let last = mirrors.len().checked_sub(1)?;
            Some(mirrors[view.min(last)])
        })
    }

    /// A label of the newest epoch: pool, domains and the journals' size are those of all.
    pub fn label(&self) -> &Label {
        &self.any
    }

    /// The zones of a disk.
    pub fn layout(&self, slot: u16) -> Option<&Layout> {
        let label = self.by_slot.get(usize::from(slot))?.as_ref();
        label.map(|label| &label.layout)
    }

    /// The slot of the disk with a domain's journal.
    pub fn home(&self, domain: u16) -> u16 {
        self.any.home(domain)
    }

    /// Whether a block is in an allocation group, or may have been when its slot was there.
    pub fn was_data(&self, place: Place) -> bool {
        self.any.removals.fate(place.slot()) == SlotFate::Gone
            || self
                .layout(place.slot())
                .is_some_and(|layout| layout.group_of(place.block()).is_some())
    }

    /// Blocks of all groups, on all disks.
    pub fn data_blocks(&self) -> u64 {
        self.by_slot.iter().flatten().map(|label| label.layout.data_blocks()).sum()
    }

    /// Whether a block is in a group that a domain has, which has these deeds.
    pub fn is_inside(&self, domain: u16, place: Place, deeds: &BTreeMap<GroupId, Deed>) -> bool {
        let layout = self.layout(place.slot());
        let Some((group, _)) = layout.and_then(|layout| layout.group_of(place.block())) else {
            return false;
        };
        let set = place.mirrors();
        if !set.is_all() && !set.is_of_group(self.any.mirror.count, group) {
            return false;
        }
        // A group has 1 MiB at least, and a disk 2^48 bytes at most.
        let id = GroupId { slot: place.slot(), group: group as u32 };
        match deeds.get(&id) {
            Some(Deed::GivenTo(_)) => false,
            Some(Deed::TakenFrom(_)) => true,
            None => id.domain(self.any.layout.domains()) == domain,
        }
    }

    /// Blocks of the groups that a domain has, on all disks.
    pub fn space_blocks(&self, deeds: &BTreeMap<GroupId, Deed>) -> u64 {
        let own = self.by_slot.iter().flatten().map(|label| label.layout.space_blocks());
        let blocks = |id: &GroupId| self.layout(id.slot).map_or(0, |layout| layout.group_blocks());
        deeds.iter().fold(own.sum(), |sum: u64, (id, deed)| match deed {
            Deed::GivenTo(_) => sum.saturating_sub(blocks(id)),
            Deed::TakenFrom(_) => sum.saturating_add(blocks(id)),
        })
    }
}

/// Of the pool that most of the disks are of, the first of several, the newest label.
fn newest(labels: &[Option<Label>]) -> Option<&Label> {
    let labels = || labels.iter().flatten();
    let of = |pool: &[u8; 16]| labels().filter(|label| label.pool == *pool).count();
    let most = labels().map(|label| of(&label.pool)).max()?;
    let first = labels().find(|label| of(&label.pool) == most)?;
    labels().filter(|label| label.pool == first.pool).max_by_key(|label| label.epoch)
}

fn disagreement(any: &Label, label: &Label) -> Option<(String, String)> {
    let hex = |id: &[u8; 16]| uuid::Uuid::from_bytes(*id).to_string();
    if label.pool != any.pool {
        return Some((format!("pool {}", hex(&any.pool)), hex(&label.pool)));
    }
    if label.epoch == any.epoch && label.removals != any.removals {
        let of = |label: &Label| format!("slots that leave, and journals, as {:?}", label.removals);
        return Some((of(any), of(label)));
    }
    let geometry = |label: &Label| {
        let (domains, journal) = (label.layout.domains(), label.layout.journal_bytes());
        // One of an older epoch may say that there are fewer.
        let is_before = label.epoch < any.epoch && label.slots < any.slots;
        let slots = if is_before { any.slots } else { label.slots };
        let (homes, mirrors) = (label.home_slots, label.mirror.count);
        format!(
            "{slots} slots of {mirrors} disks, {homes} of them with journals, {domains} domains \
             with {journal} bytes of journal each"
        )
    };
    let (expected, found) = (geometry(any), geometry(label));
    (expected != found).then_some((expected, found))
}
