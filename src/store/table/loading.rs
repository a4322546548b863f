//! Filling a table at opening: what pages say, and what of it only records can explain.
//!
//! A checkpoint copies its pages one after another while commits go on, so what it leaves may be
//! half: a second slot without its first, a group on two pages, extents of an inode that is gone.
//! Every such thing was changed by a record after `through`, which is still in the journal. So it
//! becomes a **doubt**, and is taken out of the table; a record that says it again, or that it is
//! gone, settles the doubt. One that is left after the last record was never so: corruption.
//!
//! What a page says for the sequence of a record after `through` is such a doubt too, though it is
//! whole: that very record must be there. And a page that says of an extent that it is gone,
//! since a record that is later than the one that puts it, must be borne out by what follows.

use std::collections::BTreeMap;
use std::ops::Range;

use bytemuck::Zeroable;

use crate::format::extent::Extent;
use crate::format::page as format;
use crate::format::page::{
    Child, EXTENTS_PER_GROUP, FirstSlot, GROUPS_PER_PAGE, INODES_PER_PAGE, InodeRecord, PageKind,
    SecondSlot,
};
use crate::format::record::is_inode_id;
use crate::store::table::{Inode, NIL, Table, TableError, empty};

/// What opening has to know of a checkpoint to judge its pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Records up to this one are in the pages.
    pub(crate) through: u64,
    /// Sequence of the checkpoint's own record: nothing on its pages is of that record or later.
    pub(crate) sequence: u64,
    /// No inode on its pages has this id or a larger one.
    pub(crate) next_inode: u64,
}

/// Something that no record has explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// The page that says so.
    pub(crate) page: u32,
    /// Sequence of the first record that can settle it.
    least: u64,
    /// What it says.
    pub(crate) what: &'static str,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Loading {
    written: Written,
    /// Groups that were read and have no owner yet.
    loaded: Vec<u32>,
    /// Groups that are free: their cells may be of later generations than what is replayed next,
    /// so nobody gets them before the last record.
    pub(super) quarantine: Vec<u32>,
    /// By inode and index.
    extents: BTreeMap<(u64, u64), Doubt>,
    /// By id.
    inodes: BTreeMap<u64, Doubt>,
    /// Pages that say of something what another one says later.
    overtaken: Vec<u32>,
}

impl Loading {
    fn doubt(&mut self, key: (u64, u64), doubt: Doubt) {
        let kept = self.extents.entry(key).or_insert(doubt);
        kept.least = kept.least.max(doubt.least);
    }
}

/// Before the first record.
impl Table {
    /// What is loaded and applied from here to [`Table::finish_replay`] is judged.
    pub(crate) fn begin_loading(&mut self, written: Written) {
        let (loaded, quarantine) = (Vec::new(), Vec::new());
        let (extents, inodes, overtaken) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        self.loading = Some(Loading { written, loaded, quarantine, extents, inodes, overtaken });
    }

    fn loading(&mut self) -> &mut Loading {
        self.loading.as_mut().unwrap_or_else(|| unreachable!("the table is being loaded"))
    }

    /// Takes over a page of level 0 that was read at opening, or that the tree has none of.
    pub(crate) fn load_page(
        &mut self,
        number: u32,
        child: Child,
        kind: PageKind,
    ) -> Result<(), TableError> {
        let frame = match kind {
            PageKind::Extents => self.free_frame()?,
            _ => NIL,
        };
        let loaded = self.pages.load(0, kind, frame, child);
        assert_eq!(loaded, number, "pages are loaded in their order");
        if frame != NIL {
            self.frames[frame as usize] = number;
        }
        Ok(())
    }

    /// The inodes of a page that was read.
    pub(crate) fn load_inodes(
        &mut self,
        number: u32,
        page: Option<&format::Page<'_>>,
    ) -> Result<(), TableError> {
        let written = self.loading().written;
        for index in (0..INODES_PER_PAGE).rev() {
            let place = number * INODES_PER_PAGE as u32 + index as u32;
            let record = page.map_or_else(Zeroable::zeroed, |page| page.inode(index));
            let InodeRecord { id, generation, .. } = record;
            if id == 0 {
                self.free_inodes.push(place);
                continue;
            }
            if id >= written.next_inode && is_inode_id(id) {
                let next = written.next_inode;
                return Err(TableError::NextInode { inode: id, next });
            }
            self.judge_generation(id, generation)?;
            if !self.is_newest(&record, place)? {
                continue;
            }
            if generation > written.through {
                let what = "it is newer than the checkpoint";
                let doubt = Doubt { page: number, least: generation, what };
                self.loading().inodes.insert(id, doubt);
            }
            let groups = BTreeMap::new();
            self.inodes.insert(id, Inode { record, place, groups });
            self.pages.set_inode(place, id);
            self.note_id(id);
        }
        Ok(())
    }

    /// Whether no page that was loaded before says something later. What is no inode may be put,
    /// taken away and put again, at another place, between the copies of two pages: then the older
    /// one is nobody's.
    fn is_newest(&mut self, record: &InodeRecord, place: u32) -> Result<bool, TableError> {
        let InodeRecord { id, generation, .. } = *record;
        let Some(other) = self.inodes.get(&id) else { return Ok(true) };
        let (held, held_place) = (other.record.generation, other.place);
        let is_later = generation.max(held) > self.loading().written.through;
        let pages = [place, held_place].map(|place| place / INODES_PER_PAGE as u32);
        if is_inode_id(id) || generation == held || !is_later || pages[0] == pages[1] {
            return Err(TableError::TwiceInode { inode: id });
        }
        let is_newest = generation > held;
        let older = if is_newest { held_place } else { place };
        if is_newest {
            self.pages.clear_inode(held_place);
        }
        self.free_inodes.push(older);
        self.loading().overtaken.push(older / INODES_PER_PAGE as u32);
        Ok(is_newest)
    }

    /// What is on a page was acknowledged before the checkpoint's record was written.
    fn judge_generation(&mut self, inode: u64, generation: u64) -> Result<(), TableError> {
        let limit = self.loading().written.sequence;
        if generation < limit {
            return Ok(());
        }
        Err(TableError::Generation { inode, generation, limit })
    }

    /// The groups of a page that was read; whose they are is settled when all pages are there.
    pub(crate) fn load_extents(
        &mut self,
        number: u32,
        page: &format::Page<'_>,
    ) -> Result<(), TableError> {
        let first = self.pages.page((0, number)).frame * GROUPS_PER_PAGE as u32;
        for index in (0..GROUPS_PER_PAGE).rev() {
            let group = first + index as u32;
            let header = page.group(index);
            if header.inode == 0 {
                self.free_groups.push(group);
                continue;
            }
            if header.part > 1 {
                let (inode, part) = (header.inode, header.part);
                return Err(TableError::Part { inode, part });
            }
            if !is_inode_id(header.inode) {
                return Err(TableError::Strange { inode: header.inode });
            }
            self.groups[group as usize] = header;
            self.loading().loaded.push(group);
            for slot in 0..EXTENTS_PER_GROUP {
                let value: FirstSlot = page.slot(index, slot);
                self.judge_generation(header.inode, value.generation)?;
                self.write_slot(group, slot as u32, &value);
            }
        }
        Ok(())
    }

    /// All pages and groups are there: what is half becomes a doubt, the rest is counted.
    pub(crate) fn finish_loading(&mut self) {
        // What was loaded is what is durable. A page that something is taken out of below has to
        // be written again: else it would say the same after the next checkpoint, when no record
        // is left that explains it.
        self.pages.clean();
        for page in std::mem::take(&mut self.loading().overtaken) {
            self.pages.touch(page);
        }
        self.own_loaded();
        let keys: Vec<(u64, u32)> = self
            .inodes
            .iter()
            .flat_map(|(id, inode)| inode.groups.keys().map(|number| (*id, *number)))
            .collect();
        for (id, number) in keys {
            self.judge_group(id, number);
        }
    }

    /// Gives the loaded groups to their inodes; those without an inode, and those whose place
    /// another group has, are nobody's.
    fn own_loaded(&mut self) {
        for group in std::mem::take(&mut self.loading().loaded) {
            let header = self.groups[group as usize];
            let known = self.inodes.get(&header.inode);
            let pair = known.and_then(|inode| inode.groups.get(&header.group));
            let other = pair.map_or(NIL, |pair| pair[header.part as usize]);
            if known.is_some() && other == NIL {
                self.own_group(group, header);
                continue;
            }
            if other == NIL {
                self.doubt_group(group, "it is of an inode that there is not");
            } else {
                self.doubt_group(group, "its group is on two pages");
                self.doubt_group(other, "its group is on two pages");
            }
            self.groups[group as usize] = Zeroable::zeroed();
            self.pages.touch(self.frames[group as usize / GROUPS_PER_PAGE]);
            self.loading().quarantine.push(group);
        }
    }

    /// Everything in a group is doubted.
    fn doubt_group(&mut self, group: u32, what: &'static str) {
        let header = self.groups[group as usize];
        let page = self.frames[group as usize / GROUPS_PER_PAGE];
        for slot in 0..EXTENTS_PER_GROUP as u32 {
            let filled = match header.part {
                0 => is_filled(&self.read_first(group, slot)),
                _ => !self.read_second(group, slot).is_empty(),
            };
            if filled {
                let least = self.read_first(group, slot).generation;
                let key = (header.inode, first_index(header.group) + u64::from(slot));
                self.loading().doubt(key, Doubt { page, least, what });
            }
        }
    }

    fn judge_group(&mut self, id: u64, number: u32) {
        let pair = self.inodes.get(&id).and_then(|inode| inode.groups.get(&number)).copied();
        let Some([first, second]) = pair else { return };
        if first == NIL {
            self.doubt_group(second, "a second slot without its first");
            if let Some(inode) = self.inodes.get_mut(&id) {
                inode.groups.remove(&number);
            }
            self.give_group(second);
            return;
        }
        for slot in 0..EXTENTS_PER_GROUP as u32 {
            self.judge_slot((id, number), [first, second], slot);
        }
    }

    fn judge_slot(&mut self, (id, number): (u64, u32), [first, second]: [u32; 2], slot: u32) {
        let head = self.read_first(first, slot);
        let rest = (second != NIL).then(|| self.read_second(second, slot));
        let rest = rest.filter(|rest| !rest.is_empty());
        let key = (id, first_index(number) + u64::from(slot));
        let page = self.frames[first as usize / GROUPS_PER_PAGE];
        let what = match whole(&head, rest.as_ref()) {
            Ok(None) => return,
            Ok(Some(_)) => {
                self.extents += 1;
                let least = head.generation;
                if least > self.loading().written.through {
                    let what = "it is newer than the checkpoint";
                    self.loading().doubt(key, Doubt { page, least, what });
                }
                return;
            }
            Err(what) => what,
        };
        let least = rest.map_or(0, |rest| rest.generation);
        let least = if is_filled(&head) { least.max(head.generation) } else { least };
        self.loading().doubt(key, Doubt { page, least, what });
        self.write_slot(first, slot, &empty(head.generation));
        if let Some(rest) = rest {
            self.write_slot(second, slot, &empty(rest.generation));
        }
    }
}

/// While records are applied.
impl Table {
    /// A record says something new of an inode's extents: doubts of them that are not of later
    /// records are settled.
    pub(super) fn settle(&mut self, sequence: u64, inode: u64, indexes: Range<u64>) {
        let Some(loading) = &mut self.loading else { return };
        if indexes.is_empty() || loading.extents.is_empty() {
            return;
        }
        let range = (inode, indexes.start)..(inode, indexes.end);
        let doubts = loading.extents.range(range);
        let settled = doubts.filter(|(_, doubt)| doubt.least <= sequence).map(|(key, _)| *key);
        for key in settled.collect::<Vec<_>>() {
            loading.extents.remove(&key);
        }
    }

    /// The same of an inode itself.
    pub(super) fn settle_inode(&mut self, sequence: u64, inode: u64) {
        let Some(loading) = &mut self.loading else { return };
        if loading.inodes.get(&inode).is_some_and(|doubt| doubt.least <= sequence) {
            loading.inodes.remove(&inode);
        }
    }

    /// A record of this sequence puts an extent, and a page has something later there: nothing is
    /// done, and a later record has to say why.
    pub(super) fn overtaken(&mut self, sequence: u64, group: u32, key: (u64, u64)) {
        let page = self.frames[group as usize / GROUPS_PER_PAGE];
        if let Some(loading) = &mut self.loading {
            let what = "it is not what a record before it says";
            loading.doubt(key, Doubt { page, least: sequence + 1, what });
        }
    }

    /// While a table is loaded: a page that is of the sequence of a record says what that says.
    pub(super) fn judge_same_extent(
        &self,
        sequence: u64,
        (inode, index): (u64, u64),
        extent: &Extent,
    ) -> Result<(), TableError> {
        if self.loading.is_none() {
            return Ok(());
        }
        match self.extent(inode, index) {
            Some(held) if held.generation == sequence && held.extent != *extent => {
                Err(TableError::UnlikeExtent { inode, index })
            }
            _ => Ok(()),
        }
    }

    /// The same of an inode.
    pub(super) fn judge_same_inode(&self, record: &InodeRecord) -> Result<(), TableError> {
        let held = self.inodes.get(&record.id).filter(|_| self.loading.is_some());
        match held.map(|inode| &inode.record) {
            Some(held) if held.generation == record.generation && held != record => {
                Err(TableError::UnlikeInode { inode: record.id })
            }
            _ => Ok(()),
        }
    }

    /// The last record was applied.
    ///
    /// # Errors
    /// The first of the doubts that are left, with what it is of.
    pub(crate) fn finish_replay(&mut self) -> Result<(), (String, Doubt)> {
        let Some(loading) = self.loading.take() else { return Ok(()) };
        if let Some((id, doubt)) = loading.inodes.first_key_value() {
            return Err((format!("inode {id}"), *doubt));
        }
        if let Some(((inode, index), doubt)) = loading.extents.first_key_value() {
            return Err((format!("extent {index} of inode {inode}"), *doubt));
        }
        self.free_groups.extend(loading.quarantine);
        Ok(())
    }
}

/// Whether a first slot says more than that nothing is there.
fn is_filled(slot: &FirstSlot) -> bool {
    *slot != FirstSlot::empty(slot.generation)
}

fn first_index(number: u32) -> u64 {
    u64::from(number) * EXTENTS_PER_GROUP as u64
}

/// The extent of a first slot and a second one that is filled, if there is one.
fn whole(head: &FirstSlot, rest: Option<&SecondSlot>) -> Result<Option<Extent>, &'static str> {
    match (is_filled(head), head.needs_second(), rest) {
        (false, _, None) => return Ok(None),
        (false, _, Some(_)) => return Err("a second slot without its first"),
        (true, false, Some(_)) => return Err("a second slot that the first does not need"),
        (true, true, None) => return Err("a first slot without its second"),
        (true, true, Some(rest)) if rest.generation != head.generation => {
            return Err("first and second slot are of different generations");
        }
        (true, ..) => {}
    }
    match head.join(rest) {
        Ok(extent) if extent.is_hole() => Err("it is filled and has no block"),
        Ok(extent) => Ok(Some(extent)),
        Err(_) => Err("its mask does not fit its fragments"),
    }
}

#[cfg(test)]
mod tests;
