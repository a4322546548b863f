//! The table of a domain: every inode and extent that was acknowledged, in memory, and which page
//! of the disk each is on.
//!
//! Extents lie in huge-page memory as they lie on pages: in groups of four, a slot each, read by
//! generation ([`GenerationTable`]). An inode finds its groups by number; a group of an extent
//! with many fragments has a second group for the rest. What is not acknowledged is never here,
//! so a page that is copied at any time carries nothing that a crash could take back.

mod loading;
mod pages;

use std::collections::BTreeMap;

use bytemuck::Zeroable;

use crate::concurrency::generation::{CellIndex, GenerationTable};
use crate::format::deed::DEED_IDS_END;
use crate::format::extent::Extent;
use crate::format::page::{
    EXTENTS_PER_GROUP, FirstSlot, GROUPS_PER_PAGE, GroupHeader, INODES_PER_PAGE, InodeRecord,
    PageBytes, PageKind, SecondSlot,
};
use crate::format::record::{Changes, Cut, INODE_IDS_END, is_inode_id};
use crate::format::scrub_note::SCRUB_NOTE_ID;
use crate::machine::mapping::{MappingError, PagePolicy};
use crate::store::table::loading::Loading;
use crate::store::table::pages::{Page, Pages};

pub(crate) use crate::store::table::loading::{Doubt, Written};
pub(crate) use crate::store::table::pages::PageImage;

const CELLS_PER_FRAME: u32 = (GROUPS_PER_PAGE * EXTENTS_PER_GROUP) as u32;
const NIL: u32 = u32::MAX;

/// An extent by its inode and its index there.
pub(crate) type ExtentKey = (u64, u64);

/// A slot without its generation, which is the cell's.
type SlotWords = [u64; size_of::<FirstSlot>() / 8 - 1];

/// An inode and where its extents are.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) record: InodeRecord,
    /// Page times 31 plus place.
    place: u32,
    /// By number of the group: the group that holds first slots, and the one of second slots.
    groups: BTreeMap<u32, [u32; 2]>,
}

/// An extent as it was acknowledged, and what tells whether it still is so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExtentSnapshot {
    pub(crate) extent: Extent,
    cell: CellIndex,
    generation: u64,
}

impl ExtentSnapshot {
    /// Sequence of the commit that last changed it.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

/// Why a table cannot hold something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    #[error("the table cannot grow: {0}")]
    Memory(#[from] MappingError),
    #[error(
        "something of inode {inode} is of record {generation}, and the checkpoint is record {limit}"
    )]
    Generation { inode: u64, generation: u64, limit: u64 },
    #[error("inode {inode} is on a page, and the checkpoint says that ids are below {next}")]
    NextInode { inode: u64, next: u64 },
    #[error("inode {inode} is on two pages")]
    TwiceInode { inode: u64 },
    #[error("{inode:#x} has extents, and is no inode")]
    Strange { inode: u64 },
    #[error("a group of inode {inode} is part {part}, and there are 0 and 1")]
    Part { inode: u64, part: u32 },
    #[error("inode {inode} is not what its page says for the same record")]
    UnlikeInode { inode: u64 },
    #[error("extent {index} of inode {inode} is not what its page says for the same record")]
    UnlikeExtent { inode: u64, index: u64 },
    #[error("extent {index} is of inode {inode}, which there is not")]
    NoInode { inode: u64, index: u64 },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    chunks: Vec<GenerationTable<SlotWords>>,
    policy: PagePolicy,
    /// Pages of one piece of memory.
    frames_per_chunk: u32,
    /// Of each group of each frame: whose.
    groups: Vec<GroupHeader>,
    /// Page of each frame.
    frames: Vec<u32>,
    free_groups: Vec<u32>,
    /// While it is loaded and records are applied to it.
    loading: Option<Loading>,
    free_frames: Vec<u32>,
    free_inodes: Vec<u32>,
    inodes: BTreeMap<u64, Inode>,
    pub(crate) pages: Pages,
    extents: u64,
    pub(crate) next_inode: u64,
    /// Pages are lost: an extent whose inode is not there is left out.
    pub(crate) tolerates_missing: bool,
}

impl Table {
    /// An empty one, whose memory grows by so many pages at a time.
    pub(crate) fn new(policy: PagePolicy, frames_per_chunk: u32) -> Table {
        Table {
            chunks: Vec::new(),
            policy,
            frames_per_chunk,
            groups: Vec::new(),
            frames: Vec::new(),
            free_groups: Vec::new(),
            loading: None,
            free_frames: Vec::new(),
            free_inodes: Vec::new(),
            inodes: BTreeMap::new(),
            pages: Pages::default(),
            extents: 0,
            next_inode: 0,
            tolerates_missing: false,
        }
    }

    /// Extents that have a block.
    pub(crate) fn extents(&self) -> u64 {
        self.extents
    }

    /// An inode.
    pub(crate) fn inode(&self, id: u64) -> Option<&InodeRecord> {
        self.inodes.get(&id).filter(|_| is_inode_id(id)).map(|inode| &inode.record)
    }

    /// Up to `max` inodes from `from` on, by id.
    pub(crate) fn inodes(&self, from: u64, max: usize) -> Vec<InodeRecord> {
        let inodes = self.inodes.range(from.min(INODE_IDS_END)..INODE_IDS_END);
        inodes.take(max).map(|(_, inode)| inode.record).collect()
    }

    /// Its deeds, which lie among the inodes.
    pub(crate) fn deeds(&self) -> impl Iterator<Item = &InodeRecord> {
        self.inodes.range(INODE_IDS_END..DEED_IDS_END).map(|(_, inode)| &inode.record)
    }

    /// How far its scrub is, if there is one; it lies among the inodes too.
    pub(crate) fn scrub_note(&self) -> Option<&InodeRecord> {
        self.inodes.get(&SCRUB_NOTE_ID).map(|inode| &inode.record)
    }

    /// What lies among the inodes and is none of those.
    pub(crate) fn strangers(&self) -> impl Iterator<Item = u64> {
        let behind = self.inodes.range(DEED_IDS_END..).map(|(id, _)| *id);
        behind.filter(|id| *id != SCRUB_NOTE_ID)
    }

    /// Groups of four extents that it has memory for while it has no more than so many pages.
    pub(crate) fn room(&self, pages_max: u32) -> u64 {
        let pages = self.frames.len() - self.free_frames.len();
        let left = u64::from(pages_max).saturating_sub(pages as u64);
        self.free_groups.len() as u64 + left * GROUPS_PER_PAGE as u64
    }

    /// Groups that an inode's extents of these numbers may need and that are not there: a second
    /// one where they have more fragments than a first slot holds.
    pub(crate) fn missing_groups(&self, id: u64, number: u32) -> u64 {
        let pair = self.inodes.get(&id).and_then(|inode| inode.groups.get(&number));
        pair.map_or(2, |pair| pair.iter().filter(|group| **group == NIL).count()) as u64
    }

    /// All inodes.
    pub(crate) fn inode_count(&self) -> u64 {
        self.inodes.len() as u64 - self.inodes.range(INODE_IDS_END..).count() as u64
    }

    /// An inode of this id is there, or was: the next one gets a larger one.
    fn note_id(&mut self, id: u64) {
        if is_inode_id(id) {
            self.next_inode = self.next_inode.max(id + 1);
        }
    }

    fn cell(&self, group: u32, slot: u32) -> (usize, CellIndex) {
        let cell = group * EXTENTS_PER_GROUP as u32 + slot;
        let per_chunk = self.frames_per_chunk * CELLS_PER_FRAME;
        ((cell / per_chunk) as usize, CellIndex(cell % per_chunk))
    }

    fn read_first(&self, group: u32, slot: u32) -> FirstSlot {
        let (generation, words) = self.read_words(group, slot);
        let mut all = [0; size_of::<FirstSlot>() / 8];
        all[0] = generation;
        all[1..].copy_from_slice(&words);
        bytemuck::cast(all)
    }

    fn read_second(&self, group: u32, slot: u32) -> SecondSlot {
        bytemuck::cast(self.read_first(group, slot))
    }

    fn read_words(&self, group: u32, slot: u32) -> (u64, SlotWords) {
        let (chunk, cell) = self.cell(group, slot);
        match self.chunks[chunk].read(cell) {
            Ok(read) => read,
            Err(_) => unreachable!("only the reactor's thread writes cells, one at a time"),
        }
    }

    fn write_slot(&mut self, group: u32, slot: u32, value: &FirstSlot) {
        let words: [u64; size_of::<FirstSlot>() / 8] = bytemuck::cast(*value);
        let mut rest: SlotWords = [0; _];
        rest.copy_from_slice(&words[1..]);
        let (chunk, cell) = self.cell(group, slot);
        let Ok(writer) = self.chunks[chunk].begin_write(cell) else {
            unreachable!("only the reactor's thread writes cells, one at a time")
        };
        let written = writer.rewrite(value.generation, &rest);
        assert!(written.is_ok(), "a generation never falls: {written:?}");
        self.pages.touch(self.frames[group as usize / GROUPS_PER_PAGE]);
    }

    /// An extent that has a block.
    pub(crate) fn extent(&self, inode: u64, index: u64) -> Option<ExtentSnapshot> {
        let inode = self.inodes.get(&inode)?;
        let (number, slot) = split_index(index)?;
        let [first, second] = *inode.groups.get(&number)?;
        let head = self.read_first(first, slot);
        if head.mask() == 0 {
            return None;
        }
        let rest = (head.needs_second() && second != NIL).then(|| self.read_second(second, slot));
        let Ok(extent) = head.join(rest.as_ref()) else {
            unreachable!("a table holds whole extents")
        };
        let (chunk, CellIndex(cell)) = self.cell(first, slot);
        let cell = CellIndex(chunk as u32 * self.frames_per_chunk * CELLS_PER_FRAME + cell);
        Some(ExtentSnapshot { extent, cell, generation: head.generation })
    }

    /// Whether the extent is still what the snapshot says.
    pub(crate) fn is_current(&self, snapshot: &ExtentSnapshot) -> bool {
        let per_chunk = self.frames_per_chunk * CELLS_PER_FRAME;
        let CellIndex(cell) = snapshot.cell;
        let chunk = &self.chunks[(cell / per_chunk) as usize];
        chunk.validate(CellIndex(cell % per_chunk), snapshot.generation)
    }

    /// The extents of an inode with indexes `from..to` that have a block, by index; at most `max`.
    pub(crate) fn extents_of(
        &self,
        inode: u64,
        from: u64,
        to: u64,
        max: usize,
    ) -> Vec<(u64, Extent)> {
        let held = self.snapshots_of(inode, from, to, max);
        held.into_iter().map(|(index, held)| (index, held.extent)).collect()
    }

    /// Up to `max` extents that have a block, of up to as many inodes, by inode and index from
    /// there on; and from where there may be more.
    pub(crate) fn extents_from(
        &self,
        (inode, index): ExtentKey,
        max: usize,
    ) -> (Vec<(ExtentKey, Extent)>, Option<ExtentKey>) {
        let (mut found, mut next) = (Vec::new(), None);
        let inodes = self.inodes.range(inode.min(INODE_IDS_END)..INODE_IDS_END);
        for id in inodes.map(|(id, _)| *id).take(max) {
            let from = if id == inode { index } else { 0 };
            let some = self.extents_of(id, from, u64::MAX, max - found.len());
            found.extend(some.into_iter().map(|(index, extent)| ((id, index), extent)));
            next = Some((id + 1, 0));
            if found.len() == max {
                next = found.last().map(|((id, index), _)| (*id, index + 1));
                break;
            }
        }
        (found, next)
    }

    /// As [`Table::extents_of`], each with its generation.
    pub(crate) fn snapshots_of(
        &self,
        inode: u64,
        from: u64,
        to: u64,
        max: usize,
    ) -> Vec<(u64, ExtentSnapshot)> {
        let Some(found) = self.inodes.get(&inode) else { return Vec::new() };
        let Some((first, _)) = split_index(from) else { return Vec::new() };
        let indexes = found.groups.range(first..).flat_map(|(number, _)| {
            let start = u64::from(*number) * EXTENTS_PER_GROUP as u64;
            start..start + EXTENTS_PER_GROUP as u64
        });
        indexes
            .skip_while(|index| *index < from)
            .take_while(|index| *index < to)
            .filter_map(|index| Some((index, self.extent(inode, index)?)))
            .take(max)
            .collect()
    }
}

/// Applying what was acknowledged.
impl Table {
    /// Applies a batch. Every change replaces what was there, so that a batch may be applied
    /// again to a table that has it, or later ones, in part.
    ///
    /// # Errors
    /// When there is no memory for more.
    pub(crate) fn apply(&mut self, sequence: u64, changes: &Changes) -> Result<(), TableError> {
        for cut in &changes.cuts {
            self.cut(sequence, cut);
        }
        for inode in &changes.deletes {
            self.delete(sequence, *inode);
        }
        for inode in &changes.inodes {
            self.put_inode(inode)?;
        }
        for put in &changes.extents {
            self.put_extent(sequence, put.inode, put.index, &put.extent)?;
        }
        Ok(())
    }

    fn cut(&mut self, sequence: u64, cut: &Cut) {
        self.settle(sequence, cut.inode, cut.from..cut.to);
        let Some((first, _)) = split_index(cut.from) else { return };
        let Some(inode) = self.inodes.get(&cut.inode) else { return };
        let last = split_index(cut.to.saturating_sub(1)).map_or(u32::MAX, |(number, _)| number);
        if last < first {
            return;
        }
        let numbers: Vec<u32> =
            inode.groups.range(first..=last).map(|(number, _)| *number).collect();
        for number in numbers {
            let start = u64::from(number) * EXTENTS_PER_GROUP as u64;
            for slot in 0..EXTENTS_PER_GROUP as u64 {
                if (cut.from..cut.to).contains(&(start + slot)) {
                    self.clear_extent(sequence, cut.inode, number, slot as u32);
                }
            }
            self.free_if_empty(cut.inode, number);
        }
    }

    fn delete(&mut self, sequence: u64, id: u64) {
        self.cut(sequence, &Cut { inode: id, from: 0, to: u64::MAX });
        self.settle_inode(sequence, id);
        if let Some(inode) = self.inodes.remove(&id) {
            self.pages.touch(inode.place / INODES_PER_PAGE as u32);
            self.pages.clear_inode(inode.place);
            self.free_inodes.push(inode.place);
        }
    }

    fn put_inode(&mut self, record: &InodeRecord) -> Result<(), TableError> {
        self.judge_same_inode(record)?;
        self.settle_inode(record.generation, record.id);
        self.note_id(record.id);
        let place = match self.inodes.get_mut(&record.id) {
            Some(inode) if record.generation >= inode.record.generation => {
                inode.record = *record;
                inode.place
            }
            Some(_) => return Ok(()),
            None => {
                let place = self.free_inode_place();
                let groups = BTreeMap::new();
                self.inodes.insert(record.id, Inode { record: *record, place, groups });
                self.pages.set_inode(place, record.id);
                place
            }
        };
        self.pages.touch(place / INODES_PER_PAGE as u32);
        Ok(())
    }

    fn free_inode_place(&mut self) -> u32 {
        if let Some(place) = self.free_inodes.pop() {
            return place;
        }
        let page = self.pages.add(PageKind::Inodes, NIL);
        let first = page * INODES_PER_PAGE as u32;
        self.free_inodes.extend((first + 1..first + INODES_PER_PAGE as u32).rev());
        first
    }

    fn put_extent(
        &mut self,
        sequence: u64,
        id: u64,
        index: u64,
        extent: &Extent,
    ) -> Result<(), TableError> {
        let Some((number, slot)) = split_index(index) else {
            unreachable!("the size of an inode is bounded")
        };
        self.judge_same_extent(sequence, (id, index), extent)?;
        self.settle(sequence, id, index..index + 1);
        if extent.is_hole() {
            self.clear_extent(sequence, id, number, slot);
            self.free_if_empty(id, number);
            return Ok(());
        }
        let (head, rest) = FirstSlot::split(sequence, extent);
        let first = self.group_for(sequence, id, number, 0)?;
        if first == NIL {
            if self.tolerates_missing {
                return Ok(());
            }
            return Err(TableError::NoInode { inode: id, index });
        }
        let before = self.read_first(first, slot);
        // On pages of a checkpoint that is ahead of the record.
        if before.generation > sequence {
            self.overtaken(sequence, first, (id, index));
            return Ok(());
        }
        if let Some(rest) = rest {
            let second = self.group_for(sequence, id, number, 1)?;
            if self.read_second(second, slot).generation > sequence {
                self.overtaken(sequence, second, (id, index));
                return Ok(());
            }
            self.write_slot(second, slot, &bytemuck::cast(rest));
        } else if before.needs_second() {
            self.clear_second(sequence, id, number, slot);
        }
        self.write_slot(first, slot, &head);
        self.extents += u64::from(before.mask() == 0);
        Ok(())
    }

    /// The group of an inode's extents, made if there is none.
    fn group_for(
        &mut self,
        sequence: u64,
        id: u64,
        number: u32,
        part: u32,
    ) -> Result<u32, TableError> {
        let Some(inode) = self.inodes.get(&id) else { return Ok(NIL) };
        let known = inode.groups.get(&number).map_or(NIL, |pair| pair[part as usize]);
        if known != NIL {
            return Ok(known);
        }
        let group = self.free_group()?;
        self.own_group(group, GroupHeader { inode: id, group: number, part, zero: [0; 2] });
        for slot in 0..EXTENTS_PER_GROUP as u32 {
            self.write_slot(group, slot, &empty(sequence));
        }
        Ok(group)
    }

    fn own_group(&mut self, group: u32, header: GroupHeader) {
        self.groups[group as usize] = header;
        let page = self.frames[group as usize / GROUPS_PER_PAGE];
        self.pages.add_content(page);
        if let Some(inode) = self.inodes.get_mut(&header.inode) {
            inode.groups.entry(header.group).or_insert([NIL; 2])[header.part as usize] = group;
        }
    }

    fn free_group(&mut self) -> Result<u32, TableError> {
        if let Some(group) = self.free_groups.pop() {
            return Ok(group);
        }
        let frame = self.free_frame()?;
        let page = self.pages.add(PageKind::Extents, frame);
        self.frames[frame as usize] = page;
        let first = frame * GROUPS_PER_PAGE as u32;
        self.free_groups.extend((first + 1..first + GROUPS_PER_PAGE as u32).rev());
        Ok(first)
    }

    fn free_frame(&mut self) -> Result<u32, TableError> {
        if let Some(frame) = self.free_frames.pop() {
            return Ok(frame);
        }
        let first = self.frames.len() as u32;
        self.chunks
            .push(GenerationTable::new(self.frames_per_chunk * CELLS_PER_FRAME, self.policy)?);
        let frames = (first + self.frames_per_chunk) as usize;
        self.frames.resize(frames, NIL);
        self.groups.resize(frames * GROUPS_PER_PAGE, Zeroable::zeroed());
        self.free_frames.extend((first + 1..first + self.frames_per_chunk).rev());
        Ok(first)
    }

    fn clear_extent(&mut self, sequence: u64, id: u64, number: u32, slot: u32) {
        let Some(inode) = self.inodes.get(&id) else { return };
        let Some([first, _]) = inode.groups.get(&number).copied() else { return };
        let before = self.read_first(first, slot);
        if before.mask() == 0 || before.generation > sequence {
            return;
        }
        if before.needs_second() {
            self.clear_second(sequence, id, number, slot);
        }
        self.write_slot(first, slot, &empty(sequence));
        self.extents -= 1;
    }

    /// Clears a second slot, and gives its group back when it was the last.
    fn clear_second(&mut self, sequence: u64, id: u64, number: u32, slot: u32) {
        let Some(inode) = self.inodes.get_mut(&id) else { return };
        let Some(pair) = inode.groups.get_mut(&number) else { return };
        let second = pair[1];
        if second == NIL {
            return;
        }
        self.write_slot(second, slot, &empty(sequence));
        let slots = 0..EXTENTS_PER_GROUP as u32;
        if slots.into_iter().all(|slot| self.read_second(second, slot).is_empty()) {
            if let Some(pair) = self.inodes.get_mut(&id).and_then(|i| i.groups.get_mut(&number)) {
                pair[1] = NIL;
            }
            self.give_group(second);
        }
    }

    fn free_if_empty(&mut self, id: u64, number: u32) {
        let Some(inode) = self.inodes.get_mut(&id) else { return };
        let Some([first, second]) = inode.groups.get(&number).copied() else { return };
        let slots = 0..EXTENTS_PER_GROUP as u32;
        if !slots.into_iter().all(|slot| self.read_first(first, slot).mask() == 0) {
            return;
        }
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.groups.remove(&number);
        }
        self.give_group(first);
        if second != NIL {
            self.give_group(second);
        }
    }

    fn give_group(&mut self, group: u32) {
        self.groups[group as usize] = Zeroable::zeroed();
        match &mut self.loading {
            Some(loading) => loading.quarantine.push(group),
            None => self.free_groups.push(group),
        }
        let frame = group / GROUPS_PER_PAGE as u32;
        let page = self.frames[frame as usize];
        self.pages.touch(page);
        self.pages.remove_content(page);
    }
}

/// Pages, on their way to the disk and from it.
impl Table {
    /// Writes a page's content; the bytes are zeroes.
    pub(crate) fn fill_page(&self, (level, number): (usize, u32), page: &mut PageBytes<'_>) {
        if level > 0 {
            for (index, child) in self.pages.children(level, number).enumerate() {
                page.put_child(index, &child);
            }
            return;
        }
        let Page { kind, frame, .. } = self.pages.page((0, number));
        if *kind == PageKind::Inodes {
            for (index, id) in self.pages.inodes_on(number).iter().enumerate() {
                if let Some(inode) = self.inodes.get(id) {
                    page.put_inode(index, &inode.record);
                }
            }
            return;
        }
        for index in 0..GROUPS_PER_PAGE {
            let group = frame * GROUPS_PER_PAGE as u32 + index as u32;
            let header = &self.groups[group as usize];
            if header.inode == 0 {
                continue;
            }
            page.put_group(index, header);
            for slot in 0..EXTENTS_PER_GROUP {
                page.put_slot(index, slot, &self.read_first(group, slot as u32));
            }
        }
    }
}

fn empty(generation: u64) -> FirstSlot {
    FirstSlot::empty(generation)
}

/// Number of the group and slot in it; none for an index that no inode can have.
fn split_index(index: u64) -> Option<(u32, u32)> {
    let per_group = EXTENTS_PER_GROUP as u64;
    Some((u32::try_from(index / per_group).ok()?, (index % per_group) as u32))
}
