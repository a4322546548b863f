//! What must hold of a table when the last record was applied: of every inode, of every extent,
//! and of the blocks that they have.

use crate::format::deed::{Deed, GroupId, decode};
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS};
use crate::format::page::InodeRecord;
use crate::format::record::is_inode_id;
use crate::format::removals::SlotFate;
use crate::format::scrub_note::{self, SCRUB_NOTE_ID};
use crate::store::domain::{INODE_BYTES_MAX, places};
use crate::store::member::Member;
use crate::store::recovery::{Recovery, RecoveryError};
use crate::store::space::{Space, SpaceError};
use crate::store::table::{Doubt, ExtentSnapshot, Table};

impl Recovery<'_> {
    /// A doubt that no record has settled.
    pub(super) fn unsettled(
        &self,
        table: &Table,
        (what, doubt): &(String, Doubt),
    ) -> RecoveryError {
        let home = table.pages.home((0, doubt.page));
        let at = home.map(|home| (home.slot(), home.start_block() * BLOCK_BYTES));
        let (slot, offset) = at.unwrap_or((self.seed.members.home_slot(), self.id.start));
        let (page, why) = (doubt.page, doubt.what);
        self.corrupt_at(
            slot,
            offset,
            format!("{what}, on page {page}: {why}, and no record explains that"),
        )
    }

    /// Judges all inodes and extents, of records up to `last`.
    pub(super) fn judge_table(&self, table: &Table, last: u64) -> Result<(), RecoveryError> {
        let wrong = |what: String| self.corrupt(self.id.start, what);
        if let Some(id) = table.strangers().next() {
            return Err(wrong(format!(
                "there is a record {id:#x} that this version does not write"
            )));
        }
        if let Some(Err(what)) = table.scrub_note().map(scrub_note::decode) {
            return Err(wrong(format!("record {SCRUB_NOTE_ID:#x}: {what}")));
        }
        for own in table.deeds().chain(table.scrub_note()) {
            judge_sequences(own, last).map_err(wrong)?;
        }
        for inode in table.inodes(0, usize::MAX) {
            self.judge_inode(&inode, last).map_err(|what| self.corrupt(self.id.start, what))?;
            for (index, held) in table.snapshots_of(inode.id, 0, u64::MAX, usize::MAX) {
                judge_extent(&inode, index, &held).map_err(|what| {
                    let what = format!("extent {index} of inode {}: {what}", inode.id);
                    self.corrupt(self.id.start, what)
                })?;
            }
        }
        Ok(())
    }

    fn judge_inode(&self, inode: &InodeRecord, last: u64) -> Result<(), String> {
        let InodeRecord { id, size_bytes, .. } = *inode;
        let (domains, own) = (u64::from(self.seed.members.domains()), u64::from(self.seed.domain));
        // One of another domain could not be asked for by its id.
        if !is_inode_id(id) || id % domains != own {
            return Err(format!("inode {id} is not of this domain"));
        }
        judge_sequences(inode, last)?;
        if size_bytes > INODE_BYTES_MAX {
            return Err(format!("inode {id} has {size_bytes} bytes, more than any"));
        }
        if !inode.has_fitting_flags(self.seed.members.disks().label().mirror.count) {
            return Err(format!(
                "inode {id} has flags {:#x}, which no inode has here",
                inode.flags
            ));
        }
        Ok(())
    }

    /// Gives and takes the groups that deeds say.
    pub(super) fn obey_deeds(&self, table: &Table, space: &mut Space) -> Result<(), RecoveryError> {
        for record in table.deeds() {
            let wrong = |what: String| self.corrupt(self.id.start, what);
            let (group, deed) = self.judge_deed(record).map_err(wrong)?;
            if space.fate(group.slot) == SlotFate::Gone {
                continue;
            }
            let done = match deed {
                Deed::GivenTo(_) => space.part_with(group),
                Deed::TakenFrom(_) => space.gain(group),
            };
            done.ok_or_else(|| wrong(format!("a deed of {group} changes nothing")))?;
        }
        Ok(())
    }

    fn judge_deed(&self, record: &InodeRecord) -> Result<(GroupId, Deed), String> {
        let said = |what: &str| format!("the deed with id {:#x}: {what}", record.id);
        let (group, deed) = decode(record).map_err(said)?;
        let (own, domains) = (self.seed.domain, self.seed.members.domains());
        let member = self.seed.members.get(group.slot);
        let has_it = |member: &Member| {
            !member.is_there() || u64::from(group.group) < member.layout().groups()
        };
        if !member.is_some_and(has_it) {
            return Err(said("the pool has no such group"));
        }
        let of = group.domain(domains);
        match deed {
            Deed::GivenTo(to) if of == own && to != own && to < domains => Ok((group, deed)),
            Deed::TakenFrom(from) if of == from && from != own => Ok((group, deed)),
            _ => Err(said(&format!("{group} is of domain {of}, and it says {deed:?}"))),
        }
    }

    /// Gives every block that something refers to its owner.
    pub(super) fn claim(&self, table: &Table, space: &mut Space) -> Result<(), RecoveryError> {
        let twice = |error: SpaceError| self.corrupt(0, error.to_string());
        for home in table.pages.homes() {
            if home.target() != home.slot() {
                return Err(self.corrupt(0, format!("{home:?} is no home for a page")));
            }
            places(home).try_for_each(|place| space.claim(place)).map_err(twice)?;
        }
        for inode in table.inodes(0, usize::MAX) {
            for (index, extent) in table.extents_of(inode.id, 0, u64::MAX, usize::MAX) {
                let claimed = extent.existing().try_for_each(|place| space.claim(place));
                claimed.map_err(|error| {
                    let what = format!("extent {index} of inode {}: {error}", inode.id);
                    self.corrupt(0, what)
                })?;
            }
        }
        Ok(())
    }
}

fn judge_sequences(inode: &InodeRecord, last: u64) -> Result<(), String> {
    let InodeRecord { id, generation, created, .. } = *inode;
    if generation == 0 || generation > last {
        return Err(format!("inode {id} is of generation {generation}, and {last} is the last"));
    }
    if created == 0 || created > generation {
        return Err(format!("inode {id} of generation {generation} was made by {created}"));
    }
    Ok(())
}

/// An inode is of the newest record that changed it or an extent of it, and its size covers all of
/// its blocks: a write makes it longer and a truncation cuts in the same record.
fn judge_extent(inode: &InodeRecord, index: u64, held: &ExtentSnapshot) -> Result<(), String> {
    let (generation, newest) = (held.generation(), inode.generation);
    if generation == 0 || generation > newest {
        return Err(format!("it is of generation {generation}, and its inode of {newest}"));
    }
    let blocks = inode.size_bytes.div_ceil(BLOCK_BYTES);
    let past = held.extent.places.iter().rposition(|place| !place.is_nowhere());
    let first = index.saturating_mul(EXTENT_BLOCKS as u64);
    match past.map(|block| first.saturating_add(block as u64)) {
        Some(block) if block >= blocks => {
            Err(format!("it has block {block} of the inode, whose size is {blocks} blocks"))
        }
        _ => Ok(()),
    }
}
