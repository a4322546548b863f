//! The disks of a pool, by what their labels say together.

use crate::check::report::{Findings, Site};
use crate::format::extent::Place;
use crate::format::label::Label;
use crate::format::layout::Layout;

/// Most missing disks that are named one by one.
const MISSING_NAMED: usize = 16;

/// The labels of a pool's disks, by slot.
#[derive(Clone, Debug)]
pub struct Members {
    /// None where a disk is missing.
    by_slot: Vec<Option<Label>>,
    /// One of the newest epoch, for what all say alike.
    any: Label,
}

/// A pool of the one disk that has this label, whatever it says of others.
impl From<Label> for Members {
    fn from(label: Label) -> Members {
        let mut by_slot = vec![None; usize::from(label.slot) + 1];
        by_slot[usize::from(label.slot)] = Some(label);
        Members { by_slot, any: label }
    }
}

impl Members {
    /// Judges the labels of disks, in any order; with where each slot's disk is among them.
    pub(super) fn judge(
        labels: &[Option<Label>],
        findings: &mut Findings,
    ) -> Option<(Members, Vec<Option<usize>>)> {
        let any = *newest(labels)?;
        let mut by_slot = vec![None; usize::from(any.members)];
        let mut order = vec![None; usize::from(any.members)];
        for (number, label) in labels.iter().enumerate() {
            let Some(label) = label else { continue };
            let site = || Site::of_disk(0, "label").on(label.slot);
            if let Some((expected, found)) = disagreement(&any, label) {
                findings.error(site(), expected, found);
                continue;
            }
            match by_slot.get_mut(usize::from(label.slot)) {
                Some(place @ None) => {
                    *place = Some(*label);
                    order[usize::from(label.slot)] = Some(number);
                }
                Some(Some(_)) => {
                    let found = format!("two disks in slot {}", label.slot);
                    findings.error(site(), "one disk in each slot", found);
                }
                // Said of the label itself.
                None => {}
            }
        }
        let missing = by_slot.iter().enumerate().filter(|(_, label)| label.is_none());
        for (slot, _) in missing.take(MISSING_NAMED) {
            let site = Site::of_disk(0, "label").on(slot as u16);
            findings.error(site, format!("{} disks", any.members), format!("disk {slot} missing"));
        }
        Some((Members { by_slot, any }, order))
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
        domain % self.any.members.max(1)
    }

    /// Whether a block is in a domain's space.
    pub fn is_inside(&self, domain: u16, place: Place) -> bool {
        let layout = self.layout(place.disk());
        let found = layout.and_then(|layout| layout.space_block(place.block()));
        found.is_some_and(|(owner, _)| owner == domain)
    }

    /// Blocks of a domain's space, on all disks.
    pub fn space_blocks(&self) -> u64 {
        self.by_slot.iter().flatten().map(|label| label.layout.space_blocks()).sum()
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
    let geometry = |label: &Label| {
        let (domains, journal) = (label.layout.domains(), label.layout.journal_bytes());
        let members = label.members;
        format!(
            "epoch {}, {members} disks, {domains} domains with {journal} bytes of journal each",
            label.epoch
        )
    };
    let (expected, found) = (geometry(any), geometry(label));
    (expected != found).then_some((expected, found))
}
