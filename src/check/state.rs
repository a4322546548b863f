//! What a domain holds: inodes, and where each of their extents is.
//!
//! It starts as the pages say. They were copied one after another while commits went on, so a group
//! may be on two of them, a first slot without its second, an extent without its inode, and all may
//! be newer than the checkpoint. Then every record after `through` is applied, each replacing what
//! it names, whatever was there: so the last record that names something decides, and what no
//! record names was the same all the time the pages were copied. Therefore:
//!
//! - a **doubt** that the pages raise is an error if no record settles it, one that is not older
//!   than what raised it;
//! - what comes from a page and is newer than `through` is a doubt, because the record of that
//!   sequence says it;
//! - where a page has nothing, since a record that is later than one that puts something there, a
//!   still later one must say that it is gone;
//! - what a page says for the sequence of a record is what that record says.

use std::collections::BTreeMap;

use crate::check::report::{Findings, Site};
use crate::check::tree::{Group, Slots, Tree};
use crate::format::deed::{self, DEED_IDS_END, Deed, GroupId, is_deed};
use crate::format::extent::Extent;
use crate::format::label::Label;
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS, EXTENT_BYTES};
use crate::format::page::{EXTENTS_PER_GROUP, FRAGMENTS_FIRST, FirstSlot, InodeRecord, SecondSlot};
use crate::format::record::{Changes, CheckpointBody, INODE_IDS_END, RecordHead, is_inode_id};
use crate::format::scrub_note::{self, SCRUB_NOTE_ID};

/// Most bytes of an inode: the number of a group has 32 bits.
pub const INODE_BYTES_MAX: u64 = (EXTENTS_PER_GROUP as u64) << 32 << EXTENT_BYTES.trailing_zeros();

/// Where something was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From a page of level 0.
    Page(u32),
    /// From a record of this sequence.
    Record(u64),
}

/// An inode that there is.
#[derive(Clone, Copy, Debug)]
pub struct HeldInode {
    /// It.
    pub record: InodeRecord,
    /// Who says so.
    pub source: Source,
}

/// An extent that there is.
#[derive(Clone, Copy, Debug)]
pub struct HeldExtent {
    /// It.
    pub extent: Extent,
    /// Sequence of the commit that last changed it.
    pub generation: u64,
    /// Who says so.
    pub source: Source,
}

/// Inode and index.
pub type ExtentKey = (u64, u64);

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// By id.
    pub inodes: BTreeMap<u64, HeldInode>,
    /// By inode and index; none is a hole.
    pub extents: BTreeMap<ExtentKey, HeldExtent>,
    /// What pages say that cannot be so.
    doubts: BTreeMap<ExtentKey, Doubt>,
    /// The same of inodes.
    inode_doubts: BTreeMap<u64, Doubt>,
    /// Slots where there is nothing since a record after the checkpoint's `through`.
    emptied: BTreeMap<ExtentKey, Emptied>,
    domain: u16,
}

/// What no record has settled.
#[derive(Clone, Debug)]
struct Doubt {
    page: u32,
    /// Sequence of the first record that can settle it.
    least: u64,
    what: String,
}

/// Since when the slots of an extent are empty, and a page that says so.
#[derive(Clone, Copy, Debug, Default)]
struct Emptied {
    page: u32,
    first: u64,
    second: u64,
}

/// The slots of one extent, on all pages.
#[derive(Default)]
struct Candidates {
    first: Vec<(u32, FirstSlot)>,
    second: Vec<(u32, SecondSlot)>,
}

impl State {
    /// What the pages say.
    pub fn of_tree(
        domain: u16,
        tree: &Tree,
        (checkpoint, body): (&RecordHead, &CheckpointBody),
        findings: &mut Findings,
    ) -> State {
        let mut state = State { domain, ..State::default() };
        state.judge_generations(tree, checkpoint, findings);
        for (page, record) in &tree.inodes {
            let held = HeldInode { record: *record, source: Source::Page(*page) };
            let (id, least) = (record.id, record.generation);
            if id >= body.next_inode && is_inode_id(id) {
                let site = state.site(format!("inode {id}, on page {page}"));
                findings.error(site, format!("an id below {}", body.next_inode), id.to_string());
            }
            if least > body.through {
                let what = format!("generation {least}");
                let doubt = Doubt { page: *page, least, what };
                let kept = state.inode_doubts.entry(id).or_insert_with(|| doubt.clone());
                if kept.least < least {
                    *kept = doubt;
                }
            }
            let Some(before) = state.inodes.get(&id).copied() else {
                state.inodes.insert(id, held);
                continue;
            };
            // What is no inode may be put, taken away and put again between two copies.
            let before_least = before.record.generation;
            let again = before_least != least && least.max(before_least) > body.through;
            let again = again && before.source != held.source;
            if is_inode_id(id) || !again {
                let site = state.site(format!("inode {id}"));
                let found = format!("{:?} and page {page}", before.source);
                findings.error(site, "an inode on one page", found);
            }
            if least > before_least {
                state.inodes.insert(id, held);
            }
        }
        for group in tree.groups.iter().filter(|group| !is_inode_id(group.header.inode)) {
            let site = state.site(format!("a group on page {}", group.page));
            findings.error(site, "an inode's", format!("of {:#x}", group.header.inode));
        }
        for (key, candidates) in candidates(&tree.groups) {
            state.take(key, &candidates, body.through);
        }
        state
    }

    /// What is on a page was durable before the checkpoint's record, also where nothing is.
    fn judge_generations(&self, tree: &Tree, checkpoint: &RecordHead, findings: &mut Findings) {
        let inodes = tree.inodes.iter().map(|(page, inode)| (*page, inode.id, inode.generation));
        let slots = tree.groups.iter().flat_map(|group| {
            let generations = match &group.slots {
                Slots::First(slots) => slots.map(|slot| slot.generation),
                Slots::Second(slots) => slots.map(|slot| slot.generation),
            };
            generations.map(|generation| (group.page, group.header.inode, generation))
        });
        let newer = |(_, _, generation): &(u32, u64, u64)| *generation >= checkpoint.sequence;
        for (page, inode, generation) in inodes.chain(slots).filter(newer) {
            let site = self.site(format!("inode {inode}, on page {page}"));
            let expected = format!("generations below {}", checkpoint.sequence);
            findings.error(site, expected, generation.to_string());
        }
    }

    fn site(&self, what: String) -> Site {
        Site::of_domain(self.domain, what)
    }

    /// Takes what pages say of one extent.
    fn take(&mut self, key: ExtentKey, candidates: &Candidates, through: u64) {
        let Candidates { first, second } = candidates;
        let (filled, rest) = (candidates.filled(), candidates.filled_seconds());
        for (page, slot) in first.iter().filter(|(_, slot)| !is_filled(slot)) {
            let emptied = self.emptied.entry(key).or_default();
            (emptied.page, emptied.first) = (*page, emptied.first.max(slot.generation));
        }
        for (page, slot) in second.iter().filter(|(_, slot)| slot.is_empty()) {
            let emptied = self.emptied.entry(key).or_default();
            (emptied.page, emptied.second) = (*page, emptied.second.max(slot.generation));
        }
        let generations = filled.iter().map(|(_, slot)| slot.generation);
        let generations = generations.chain(rest.iter().map(|(_, slot)| slot.generation));
        let Some(least) = generations.max() else { return };
        let (page, what) = match (filled.as_slice(), rest.as_slice()) {
            ([], _) => {
                (rest.first().map_or(0, |(page, _)| *page), "a second slot without its first")
            }
            ([(page, slot)], rest) => {
                let (extent, wrong) = join(slot, rest.first().map(|(_, rest)| rest));
                if let Some(extent) = extent {
                    let (generation, source) = (slot.generation, Source::Page(*page));
                    self.extents.insert(key, HeldExtent { extent, generation, source });
                }
                let one = first.len() == 1 && (second.len() <= 1 || rest.is_empty());
                match wrong {
                    None if one && least > through => (*page, "newer than the checkpoint"),
                    None if one => return,
                    None => (*page, "its group on two pages"),
                    Some(what) => (*page, what),
                }
            }
            ([(page, _), ..], _) => (*page, "it on two pages"),
        };
        self.doubts.insert(key, Doubt { page, least, what: what.to_owned() });
    }

    /// A record puts an extent where a page has nothing since a later record.
    fn judge_emptied(&mut self, key: ExtentKey, sequence: u64, extent: &Extent) {
        let Some(emptied) = self.emptied.get(&key) else { return };
        let second = extent.fragments().as_slice().len() > FRAGMENTS_FIRST;
        let since = if second { emptied.first.max(emptied.second) } else { emptied.first };
        if since <= sequence || extent.is_hole() {
            return;
        }
        let (page, least) = (emptied.page, sequence.saturating_add(1));
        let what = format!("nothing since record {since}");
        let doubt = self.doubts.entry(key).or_insert(Doubt { page, least, what });
        doubt.least = doubt.least.max(least);
    }

    /// A record says something of extents: what is doubted of them is settled, as far as it is not
    /// of later records.
    fn settle(&mut self, sequence: u64, from: ExtentKey, to: ExtentKey) {
        let doubts = self.doubts.range(from..to).filter(|(_, doubt)| doubt.least <= sequence);
        for key in doubts.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.doubts.remove(&key);
        }
    }

    fn settle_inode(&mut self, sequence: u64, id: u64) {
        if self.inode_doubts.get(&id).is_some_and(|doubt| doubt.least <= sequence) {
            self.inode_doubts.remove(&id);
        }
    }

    /// Applies a record.
    pub fn apply(&mut self, head: &RecordHead, changes: &Changes) -> Vec<String> {
        let sequence = head.sequence;
        for cut in &changes.cuts {
            self.forget(sequence, (cut.inode, cut.from), (cut.inode, cut.to));
        }
        for inode in &changes.deletes {
            self.inodes.remove(inode);
            self.settle_inode(sequence, *inode);
            self.forget(sequence, (*inode, 0), (*inode, u64::MAX));
        }
        let mut wrong = self.put_inodes(sequence, &changes.inodes);
        let source = Source::Record(sequence);
        for put in &changes.extents {
            let key = (put.inode, put.index);
            self.settle(sequence, key, (put.inode, put.index.saturating_add(1)));
            self.judge_emptied(key, sequence, &put.extent);
            let (generation, extent) = (sequence, put.extent);
            let before = match put.extent.is_hole() {
                true => self.extents.remove(&key),
                false => self.extents.insert(key, HeldExtent { extent, generation, source }),
            };
            let same = |before: &HeldExtent| before.extent == extent;
            if before.is_some_and(|before| before.generation == generation && !same(&before)) {
                wrong.push(format!("extent {} of inode {} unlike its page", put.index, put.inode));
            }
        }
        wrong
    }

    fn put_inodes(&mut self, sequence: u64, inodes: &[InodeRecord]) -> Vec<String> {
        let mut wrong = Vec::new();
        let source = Source::Record(sequence);
        for record in inodes {
            let id = record.id;
            self.settle_inode(sequence, id);
            let before = self.inodes.insert(id, HeldInode { record: *record, source });
            let same = |before: &HeldInode| before.record.generation == record.generation;
            if before.is_some_and(|before| same(&before) && before.record != *record) {
                wrong.push(format!("inode {id} unlike its page"));
            }
        }
        wrong
    }

    /// Extents are gone.
    fn forget(&mut self, sequence: u64, from: ExtentKey, to: ExtentKey) {
        if from >= to {
            return;
        }
        let gone: Vec<ExtentKey> = self.extents.range(from..to).map(|(key, _)| *key).collect();
        for key in gone {
            self.extents.remove(&key);
        }
        self.settle(sequence, from, to);
    }
}

impl Candidates {
    fn filled(&self) -> Vec<(u32, FirstSlot)> {
        self.first.iter().filter(|(_, slot)| is_filled(slot)).copied().collect()
    }

    fn filled_seconds(&self) -> Vec<(u32, SecondSlot)> {
        self.second.iter().filter(|(_, slot)| !slot.is_empty()).copied().collect()
    }
}

/// Whether a first slot says more than that nothing is there.
fn is_filled(slot: &FirstSlot) -> bool {
    *slot != FirstSlot::empty(slot.generation)
}

fn candidates(groups: &[Group]) -> BTreeMap<ExtentKey, Candidates> {
    let mut all: BTreeMap<ExtentKey, Candidates> = BTreeMap::new();
    for group in groups {
        for slot in 0..EXTENTS_PER_GROUP {
            let index = u64::from(group.header.group) * EXTENTS_PER_GROUP as u64 + slot as u64;
            let found = all.entry((group.header.inode, index)).or_default();
            match &group.slots {
                Slots::First(slots) => found.first.push((group.page, slots[slot])),
                Slots::Second(slots) => found.second.push((group.page, slots[slot])),
            }
        }
    }
    all
}

/// The extent of one first slot and, if it needs it, a second, as far as it can be made; and what
/// is wrong with it.
fn join(slot: &FirstSlot, rest: Option<&SecondSlot>) -> (Option<Extent>, Option<&'static str>) {
    let wrong = match (slot.needs_second(), rest) {
        (false, None) => None,
        (false, Some(_)) => Some("a second slot that the first does not need"),
        (true, None) => Some("a first slot without its second"),
        (true, Some(rest)) if rest.generation != slot.generation => {
            Some("first and second slot of different generations")
        }
        (true, Some(_)) => None,
    };
    match slot.join(rest.filter(|_| slot.needs_second())) {
        Ok(extent) if extent.is_hole() => (None, wrong.or(Some("a slot without a block"))),
        Ok(extent) => (Some(extent), wrong),
        Err(_) => (None, wrong.or(Some("a mask that its fragments do not fit"))),
    }
}

/// What must hold when the last record was applied.
impl State {
    /// What it says of allocation groups.
    pub fn deeds(&self) -> BTreeMap<GroupId, Deed> {
        let held = self.inodes.range(INODE_IDS_END..DEED_IDS_END);
        held.filter_map(|(_, held)| deed::decode(&held.record).ok()).collect()
    }

    /// Inodes that there are.
    pub fn inode_count(&self) -> u64 {
        self.inodes.range(..INODE_IDS_END).count() as u64
    }

    /// Judges everything but where blocks are.
    pub fn judge(
        &self,
        label: &Label,
        checkpoint: &CheckpointBody,
        last: &RecordHead,
        findings: &mut Findings,
    ) {
        for ((inode, index), Doubt { page, what, .. }) in &self.doubts {
            let site = self.site(format!("extent {index} of inode {inode}, on page {page}"));
            findings.error(site, "an extent that is whole, or said again by a record", what);
        }
        for (inode, Doubt { page, what, .. }) in &self.inode_doubts {
            let site = self.site(format!("inode {inode}, on page {page}"));
            findings.error(site, "an inode of the checkpoint, or said again by a record", what);
        }
        for (id, held) in &self.inodes {
            let wrong = match *id {
                id if is_deed(id) => deed_fault(label, self.domain, held, checkpoint, last),
                SCRUB_NOTE_ID => match scrub_note::decode(&held.record) {
                    Ok(_) => sequence_fault(held, checkpoint, last),
                    Err(what) => Some(("a note of a scrub".into(), what.into())),
                },
                _ => inode_fault(label, self.domain, held, checkpoint, last),
            };
            if let Some((expected, found)) = wrong {
                findings.error(
                    self.site(format!("inode {id}, {:?}", held.source)),
                    expected,
                    found,
                );
            }
        }
        for (key, held) in &self.extents {
            if let Some((expected, found)) = self.extent_fault(*key, held, checkpoint, last) {
                let what = format!("extent {} of inode {}, {:?}", key.1, key.0, held.source);
                findings.error(self.site(what), expected, found);
            }
        }
    }

    fn extent_fault(
        &self,
        (id, index): ExtentKey,
        held: &HeldExtent,
        checkpoint: &CheckpointBody,
        last: &RecordHead,
    ) -> Option<(String, String)> {
        let Some(inode) = self.inodes.get(&id).filter(|_| is_inode_id(id)) else {
            return Some(("an extent of an inode that there is".into(), "none".into()));
        };
        let generation = held.generation;
        let newest = newest(held.source, checkpoint, last).min(inode.record.generation);
        if generation == 0 || generation > newest {
            return Some((format!("generation 1 to {newest}"), generation.to_string()));
        }
        let blocks = inode.record.size_bytes.div_ceil(BLOCK_BYTES);
        let behind = (EXTENT_BLOCKS as u32 - held.extent.mask().leading_zeros()).max(1) as u64;
        let end = index.saturating_mul(EXTENT_BLOCKS as u64).saturating_add(behind);
        if end > blocks {
            let expected = format!("no block behind the {blocks} that the size has");
            return Some((expected, format!("block {}", end - 1)));
        }
        None
    }
}

/// Sequence of the newest commit that something may be of.
fn newest(source: Source, checkpoint: &CheckpointBody, last: &RecordHead) -> u64 {
    match source {
        Source::Page(_) => checkpoint.through,
        Source::Record(_) => last.sequence,
    }
}

fn inode_fault(
    label: &Label,
    domain: u16,
    held: &HeldInode,
    checkpoint: &CheckpointBody,
    last: &RecordHead,
) -> Option<(String, String)> {
    let InodeRecord { id, size_bytes, .. } = held.record;
    if id == 0 || id % u64::from(label.layout.domains()) != u64::from(domain) {
        Some((format!("an id of domain {domain}"), id.to_string()))
    } else if id >= INODE_IDS_END {
        Some((format!("an id below {INODE_IDS_END}"), id.to_string()))
    } else if size_bytes > INODE_BYTES_MAX {
        Some((format!("at most {INODE_BYTES_MAX} bytes"), size_bytes.to_string()))
    } else if !held.record.has_fitting_flags(label.mirror.count) {
        let flags = format!("flags {:#x}", held.record.flags);
        Some((format!("fewer copies than the {} mirrors, or 0", label.mirror.count), flags))
    } else {
        sequence_fault(held, checkpoint, last)
    }
}

/// A deed says what can be of the domain that has it.
fn deed_fault(
    label: &Label,
    domain: u16,
    held: &HeldInode,
    checkpoint: &CheckpointBody,
    last: &RecordHead,
) -> Option<(String, String)> {
    let domains = label.layout.domains();
    let (group, deed) = match deed::decode(&held.record) {
        Ok(found) => found,
        Err(what) => return Some(("a deed".into(), what.into())),
    };
    let of = group.domain(domains);
    let fits = match deed {
        Deed::GivenTo(to) => of == domain && to != domain && to < domains,
        Deed::TakenFrom(from) => of == from && from != domain,
    };
    if !fits {
        return Some((format!("a deed of {group}, which is of domain {of}"), format!("{deed:?}")));
    }
    sequence_fault(held, checkpoint, last)
}

fn sequence_fault(
    held: &HeldInode,
    checkpoint: &CheckpointBody,
    last: &RecordHead,
) -> Option<(String, String)> {
    let InodeRecord { generation, created, .. } = held.record;
    let newest = newest(held.source, checkpoint, last);
    if generation == 0 || generation > newest {
        Some((format!("generation 1 to {newest}"), generation.to_string()))
    } else if created == 0 || created > generation {
        Some((format!("creation by commit 1 to {generation}"), created.to_string()))
    } else {
        None
    }
}
