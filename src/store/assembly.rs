//! Whether disks are a pool together, and which of them may be read.
//!
//! Their labels decide, never their paths. Of those of the newest epoch one is believed, as all say
//! the same; it names the disks in sync. A disk in sync whose own label is two epochs behind is
//! **stale** all the same: an old copy of it. To open a pool takes a disk in sync for each slot,
//! and more than half of all that are, or who opens it says that the others will not be opened
//! apart.
//!
//! A stale disk is not read. It gets what it lacks from the others of its slot, unless its own
//! label says that it was opened without any of them: then both have what the other has not, and
//! nobody but the owner can say which is to stay.

use std::sync::Arc;

use crate::format::disk_set::DiskSet;
use crate::format::label::Label;
use crate::format::removals::SlotFate;
use crate::store::member::MirrorState;
use crate::store::pool::PoolError;

/// Most missing disks that are named one by one.
const MISSING_NAMED: usize = 16;

/// What to do when half of the disks in sync, or more, are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Nothing is opened: the others may be opened elsewhere, and each would take writes that the
    /// other has not.
    #[default]
    Refuse,
    /// It is opened all the same. What was written to the others while these were away is lost.
    Accept,
}

/// Disks that are a pool.
#[derive(Clone, Debug)]
pub struct Assembly {
    /// A label of the newest epoch.
    pub label: Label,
    /// The disks that are used, by their number in the pool: which of those given, and for what.
    pub disks: Vec<(usize, MirrorState)>,
    /// Those that may be read, by their number in the pool.
    pub in_sync: DiskSet,
    /// Of each other disk why it is not read.
    pub notes: Vec<String>,
}

struct Judge<'a> {
    disks: &'a [(Arc<str>, Label)],
    newest: Label,
    /// By number in the pool: which of the disks may be read.
    current: Vec<Option<usize>>,
    stale: Vec<usize>,
    wrong: Vec<String>,
    notes: Vec<String>,
}

/// Judges whether disks, named by their paths, are one pool.
///
/// # Errors
/// [`PoolError::Incomplete`] with a reason for each disk that is missing, foreign, stale, there
/// twice, or opened apart.
pub(crate) fn assemble(
    disks: &[(Arc<str>, Label)],
    missing: Missing,
) -> Result<Assembly, PoolError> {
    let Some(newest) = newest(disks) else {
        return Err(PoolError::Incomplete(vec!["no disk is named".to_owned()]));
    };
    let (current, newest) = (vec![None; newest.disks()], *newest);
    let (stale, wrong, notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut judge = Judge { disks, newest, current, stale, wrong, notes };
    for number in 0..disks.len() {
        judge.look_at(number);
    }
    judge.name_missing();
    if newest.mirror.count > 1 {
        judge.count(missing);
    }
    judge.verdict()
}

/// Of the pool that most of the disks are of, the first of several, the newest label.
fn newest(disks: &[(Arc<str>, Label)]) -> Option<&Label> {
    let of = |pool: &[u8; 16]| disks.iter().filter(|(_, label)| label.pool == *pool).count();
    let most = disks.iter().map(|(_, label)| of(&label.pool)).max()?;
    let (_, first) = disks.iter().find(|(_, label)| of(&label.pool) == most)?;
    let own = disks.iter().map(|(_, label)| label).filter(|label| label.pool == first.pool);
    own.max_by_key(|label| label.epoch)
}

/// What all labels of a pool say alike; those of an older epoch may say that there are fewer slots.
fn is_alike(label: &Label, newest: &Label) -> bool {
    let geometry = |label: &Label| {
        let (layout, count) = (&label.layout, label.mirror.count);
        (layout.domains(), layout.journal_bytes(), label.home_slots, count)
    };
    let slots = match label.epoch < newest.epoch {
        true => label.slots <= newest.slots,
        false => label.slots == newest.slots,
    };
    slots && geometry(label) == geometry(newest)
}

impl Judge<'_> {
    fn look_at(&mut self, index: usize) {
        let (path, label) = &self.disks[index];
        let (newest, number) = (&self.newest, label.number());
        let is_gone = newest.removals.fate(label.slot) == SlotFate::Gone;
        if label.pool == newest.pool && is_gone {
            let slot = label.slot;
            self.notes.push(format!("{path} is not used: its slot {slot} was removed"));
        } else if label.pool != newest.pool {
            let text = |bytes: [u8; 16]| uuid::Uuid::from_bytes(bytes);
            let (found, wanted) = (text(label.pool), text(newest.pool));
            self.wrong.push(format!("{path} is of pool {found}, not {wanted}"));
        } else if !is_alike(label, newest) {
            self.wrong.push(format!("{path} says another geometry of the pool than the others"));
        } else if number >= newest.disks() {
            let (slot, count) = (label.slot, newest.slots);
            self.wrong.push(format!("{path} says it is in slot {slot} of {count}"));
        } else if label.epoch == newest.epoch
            && (label.mirror.in_sync != newest.mirror.in_sync || label.removals != newest.removals)
        {
            self.wrong.push(format!(
                "{path} was opened apart from the others: its label of epoch {} names other disks \
                 in sync or slots that leave than theirs; name the disks of one side alone",
                label.epoch
            ));
        } else if label.epoch + 1 < newest.epoch || !newest.is_in_sync(number) {
            self.stale.push(index);
        } else if let Some(other) = self.current[number] {
            let (other, name) = (&self.disks[other].0, name(newest, number));
            self.wrong.push(format!("{path} and {other} both say they are {name}"));
        } else {
            self.current[number] = Some(index);
        }
    }

    /// Names what is not there, or not as it should be.
    fn name_missing(&mut self) {
        let alone = self.newest.mirror.count == 1;
        for index in &self.stale {
            let (path, label) = &self.disks[*index];
            let (old, new) = (label.epoch, self.newest.epoch);
            let text = match old + 1 < new {
                true => format!("{path} is stale: of epoch {old}, and the pool is at {new}"),
                false => format!("{path} does not have everything yet"),
            };
            if alone { self.wrong.push(text) } else { self.notes.push(text) }
        }
        let known =
            |number: usize| self.stale.iter().any(|index| self.disks[*index].1.number() == number);
        let missing: Vec<usize> = (0..self.newest.disks())
            .filter(|number| !is_gone(&self.newest, *number))
            .filter(|number| self.current[*number].is_none() && (alone || !known(*number)))
            .collect();
        let mut named: Vec<String> = missing
            .iter()
            .take(MISSING_NAMED)
            .map(|number| format!("{} is missing", name(&self.newest, *number)))
            .collect();
        if missing.len() > MISSING_NAMED {
            named.push(format!("{} more are missing", missing.len() - MISSING_NAMED));
        }
        if alone { self.wrong.extend(named) } else { self.notes.extend(named) }
    }

    /// Whether those that may be read are enough.
    fn count(&mut self, missing: Missing) {
        let mirrors = usize::from(self.newest.mirror.count);
        let slots = self.current.chunks(mirrors).enumerate();
        let slots = slots.filter(|(slot, _)| !is_gone(&self.newest, slot * mirrors));
        let empty = slots.filter(|(_, disks)| disks.iter().all(Option::is_none));
        for (slot, _) in empty.take(MISSING_NAMED) {
            self.wrong.push(format!("no disk of slot {slot} is there that has everything"));
        }
        let (have, of) = (self.current.iter().flatten().count(), self.newest.mirror.in_sync.len());
        if 2 * have <= of && missing == Missing::Refuse && self.wrong.is_empty() {
            self.wrong.push(format!(
                "{have} of the {of} disks that have everything are there, and more than half are \
                 needed: the others may be in use elsewhere"
            ));
        }
    }

    fn verdict(self) -> Result<Assembly, PoolError> {
        if !self.wrong.is_empty() {
            return Err(PoolError::Incomplete(self.wrong.into_iter().chain(self.notes).collect()));
        }
        let Judge { disks: given, newest: label, current, stale, mut notes, .. } = self;
        let mut in_sync = DiskSet::NONE;
        let mut disks: Vec<(usize, (usize, MirrorState))> = Vec::new();
        for (number, index) in current.iter().enumerate() {
            if let Some(index) = index {
                if label.mirror.count > 1 {
                    in_sync.insert(number);
                }
                disks.push((number, (*index, MirrorState::InSync)));
            }
        }
        let mut stale = stale;
        // Of several for one place the newest: an older one was replaced.
        stale.sort_by_key(|index| std::cmp::Reverse(given[*index].1.epoch));
        for index in stale {
            let (path, old) = &given[index];
            let number = old.number();
            let first = number - usize::from(old.mirror.number);
            let slot = first..first + usize::from(old.mirror.count);
            let mut good = slot.filter(|other| current[*other].is_some());
            // One that is only behind has a label that shares a disk with those that are not.
            let shares = good.any(|other| old.mirror.in_sync.contains(other));
            if disks.iter().any(|(other, _)| *other == number) {
                notes.push(format!("{path} is not used: {} is there", name(&label, number)));
            } else if shares {
                disks.push((number, (index, MirrorState::Syncing)));
            } else {
                notes.push(format!("{path} is not used: it was opened without the others"));
            }
        }
        disks.sort_by_key(|(number, _)| *number);
        let disks = disks.into_iter().map(|(_, disk)| disk).collect();
        Ok(Assembly { label, disks, in_sync, notes })
    }
}

/// Whether the slot of the disk with that number has been removed.
fn is_gone(newest: &Label, number: usize) -> bool {
    let slot = number / usize::from(newest.mirror.count);
    newest.removals.fate(slot as u16) == SlotFate::Gone
}

/// How a disk is named that is not there.
fn name(label: &Label, number: usize) -> String {
    let mirrors = usize::from(label.mirror.count);
    match mirrors {
        1 => format!("disk {number} of {}", label.slots),
        _ => format!("mirror {} of slot {}", number % mirrors, number / mirrors),
    }
}

#[cfg(test)]
mod tests;
