//! Changing an inode: what a request does before it joins a batch.
//!
//! A write takes its extents' locks exclusive and the inode's shared; everything else takes the
//! inode's lock exclusive. Under the locks the request reads the blocks that it changes in part,
//! takes space, writes its data there, or leaves it in memory for the record if it is small, and
//! joins; only then are the locks free. So whoever comes next builds on what joined, and what a
//! batch names is on the disk before its record is.

use std::rc::Rc;

use crate::concurrency::extent_locks::Wanted;
use crate::concurrency::lock::word::LockMode;
use crate::format::checksum::block_checksum;
use crate::format::extent::{Extent, Place};
use crate::format::fragment::Fragment;
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS, EXTENT_BYTES};
use crate::format::page::{EXTENTS_PER_GROUP, FRAGMENTS_FIRST, InodeRecord};
use crate::format::record::{Cut, ExtentPut};
use crate::memory::DmaBuf;
use crate::store::batch::{BatchFate, Change, Committed, Put};
use crate::store::call::{Durability, Payload, Step};
use crate::store::domain::{Domain, INODE_BYTES_MAX, Inline, fragments, places};
use crate::store::error::StoreError;
use crate::store::ram::RamBlock;
use crate::store::read::{Part, lock_name, no_lock, parts, read_now};
use crate::store::space::{Copies, DiskRun};
use crate::store::write_batcher::write_gathered;

const BLOCK: usize = BLOCK_BYTES as usize;
/// Most blocks of a buffer that blocks are copied into.
const COPY_BLOCKS: usize = 256;
/// Most bytes of data and zeroes in blocks of one request.
pub const CHANGE_BYTES_MAX: u64 = 16 << 20;
/// Most steps of one request.
pub const STEPS_MAX: usize = 1024;

/// Whether other changes of the inode may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// Writes to other extents.
    Beside,
    /// None.
    Alone,
}

impl Drafted {
    /// Most fragments that it may have: a new block may be one, and cut another in two.
    fn fragments_max(&self) -> usize {
        let new = self.content.iter().flatten().count();
        let old = self.extent.places.iter().zip(&self.content);
        let kept = old.filter(|(place, new)| !place.is_nowhere() && new.is_none()).count();
        (kept + new).min(self.extent.fragment_count() + 2 * new)
    }
}

/// What a request is about to change.
struct Draft {
    inode: InodeRecord,
    /// By index. Most drafts have one.
    extents: Vec<Drafted>,
    cuts: Vec<Cut>,
}

/// An extent of a draft: where its blocks were when the draft first looked, what is to become of
/// it, and the new content of its blocks. It is locked, so nobody else changes it meanwhile.
struct Drafted {
    index: u64,
    before: [Place; EXTENT_BLOCKS],
    extent: Extent,
    content: [Option<RamBlock>; EXTENT_BLOCKS],
}

/// Changes an inode by all of these steps, or none.
pub(crate) async fn change(
    domain: &Rc<Domain>,
    inode: u64,
    steps: Vec<Step>,
    durability: Durability,
) -> Result<Option<Committed>, StoreError> {
    domain.check_writable()?;
    check_steps(&steps)?;
    let _under_way = domain.phases.begin(&domain.changed);
    let fate = match steps.as_slice() {
        [Step::Write(payload)] => {
            let (first, blocks) = covered(payload.offset, payload.len as u64);
            let mut names = parts(inode, first, blocks).map(|part| lock_name(inode, part.index));
            let (one, many) = match (names.next(), names.next()) {
                (Some(only), None) => {
                    let lock = domain.locks.write(only).await.map_err(|r| no_lock(&r))?;
                    (Some(lock), None)
                }
                _ => {
                    let names = parts(inode, first, blocks);
                    let wanted: Vec<Wanted> = names
                        .map(|part| (lock_name(inode, part.index), LockMode::Exclusive))
                        .collect();
                    let locks = domain.locks.lock_many(&wanted).await;
                    (None, Some(locks.map_err(|r| no_lock(&r))?))
                }
            };
            let _shared = domain.inode_locks.read(inode).await.map_err(|r| no_lock(&r))?;
            let how = (durability, Sharing::Beside);
            let fate = draft_and_join(domain, inode, steps, how).await;
            drop((one, many));
            fate?
        }
        _ => {
            let _alone = domain.inode_locks.write(inode).await.map_err(|r| no_lock(&r))?;
            draft_and_join(domain, inode, steps, (durability, Sharing::Alone)).await?
        }
    };
    match durability {
        Durability::Committed => fate.decided().await.map(Some),
        Durability::Buffered => Ok(None),
    }
}

fn check_steps(steps: &[Step]) -> Result<(), StoreError> {
    let mut bytes = 0;
    for step in steps {
        let (offset, len) = match step {
            Step::Write(payload) => (payload.offset, payload.len as u64),
            Step::Zero { offset, len } => (*offset, *len),
            Step::Truncate { size } => (*size, 0),
            Step::Rewrite { index } => (index * EXTENT_BYTES, EXTENT_BYTES),
        };
        if offset.checked_add(len).is_none_or(|end| end > INODE_BYTES_MAX) {
            return Err(StoreError::TooFar { offset, len, max: INODE_BYTES_MAX });
        }
        if let Step::Write(payload) = step {
            bytes += covered(payload.offset, payload.len as u64).1 * BLOCK_BYTES;
        }
    }
    let bytes = if steps.len() > STEPS_MAX { u64::MAX } else { bytes };
    if bytes > CHANGE_BYTES_MAX {
        return Err(StoreError::TooLarge { bytes, max: CHANGE_BYTES_MAX });
    }
    Ok(())
}

/// The first block of a range, and how many it touches.
fn covered(offset: u64, len: u64) -> (u64, u64) {
    let first = offset / BLOCK_BYTES;
    (first, (offset + len).div_ceil(BLOCK_BYTES) - first.min((offset + len).div_ceil(BLOCK_BYTES)))
}

async fn draft_and_join(
    domain: &Rc<Domain>,
    inode: u64,
    steps: Vec<Step>,
    how: (Durability, Sharing),
) -> Result<Rc<BatchFate>, StoreError> {
    let setbacks = domain.setbacks.get();
    let written = steps.iter().map(|step| match step {
        Step::Write(payload) => payload.len as u64,
        Step::Zero { .. } | Step::Truncate { .. } | Step::Rewrite { .. } => 0,
    });
    let written: u64 = written.sum();
    // What it built on, or read, may have been taken back meanwhile: then that is what is said.
    let placed = draft_and_place(domain, inode, steps).await;
    let (draft, placed) =
        placed.map_err(|error| domain.set_back_since(setbacks).unwrap_or(error))?;
    let fate = join(domain, draft, placed, (setbacks, how))?;
    domain.counters.borrow_mut().caller_bytes += written;
    Ok(fate)
}

/// What the steps make of an inode, its data written to its places.
async fn draft_and_place(
    domain: &Rc<Domain>,
    inode: u64,
    steps: Vec<Step>,
) -> Result<(Draft, Placed), StoreError> {
    let mut draft =
        Draft { inode: domain.newest_inode(inode)?, extents: Vec::new(), cuts: Vec::new() };
    for step in steps {
        match step {
            Step::Write(payload) => draft.write(domain, payload).await?,
            Step::Zero { offset, len } => draft.zero(domain, offset, len).await?,
            Step::Truncate { size } => draft.truncate(domain, size).await?,
            Step::Rewrite { index } => draft.rewrite(domain, index).await?,
        }
    }
    domain.check_fits(&draft)?;
    let placed = place(domain, &mut draft).await?;
    Ok((draft, placed))
}

impl Draft {
    fn extent(&mut self, domain: &Domain, index: u64) -> &mut Drafted {
        let at = match self.extents.binary_search_by_key(&index, |drafted| drafted.index) {
            Ok(at) => at,
            Err(at) => {
                // What a cut takes it frees by itself.
                let cut = self.cuts.iter().any(|cut| (cut.from..cut.to).contains(&index));
                let extent = match cut {
                    true => Extent::HOLE,
                    false => domain.newest_extent(self.inode.id, index),
                };
                let content = [const { None }; EXTENT_BLOCKS];
                let drafted = Drafted { index, before: extent.places, extent, content };
                self.extents.insert(at, drafted);
                at
            }
        };
        &mut self.extents[at]
    }

    async fn write(&mut self, domain: &Rc<Domain>, payload: Payload) -> Result<(), StoreError> {
        let Payload { offset, len, mut buffer } = payload;
        if len == 0 {
            return Ok(());
        }
        let (first, blocks) = covered(offset, len as u64);
        buffer.set_len(blocks as usize * BLOCK);
        let start = (offset % BLOCK_BYTES) as usize;
        let (head, tail) = (start > 0, !(start + len).is_multiple_of(BLOCK));
        let last = blocks - 1;
        if head {
            let old = self.content(domain, first).await?;
            copy_old(&mut buffer[..start], old.as_ref(), 0);
        }
        if tail {
            let old = match head && last == 0 {
                true => self.content(domain, first).await?,
                false => self.content(domain, first + last).await?,
            };
            let from = (start + len) % BLOCK;
            let at = last as usize * BLOCK + from;
            copy_old(&mut buffer[at..], old.as_ref(), from);
        }
        let buffer = Rc::new(buffer);
        for (n, part) in parts(self.inode.id, first, blocks)
            .flat_map(|part| {
                (part.first..part.first + part.count).map(move |block| (part.index, block))
            })
            .enumerate()
        {
            let (index, block) = part;
            let content = RamBlock::new(Rc::clone(&buffer), n * BLOCK);
            self.extent(domain, index).content[block] = Some(content);
        }
        self.inode.size_bytes = self.inode.size_bytes.max(offset + len as u64);
        Ok(())
    }

    /// The content of a block so far; none for a hole.
    async fn content(
        &mut self,
        domain: &Rc<Domain>,
        number: u64,
    ) -> Result<Option<RamBlock>, StoreError> {
        let (index, block) =
            (number / EXTENT_BLOCKS as u64, (number % EXTENT_BLOCKS as u64) as usize);
        let inode = self.inode.id;
        let drafted = self.extent(domain, index);
        if let Some(content) = &drafted.content[block] {
            return Ok(Some(content.clone()));
        }
        if drafted.extent.places[block].is_nowhere() {
            return Ok(None);
        }
        let extent = drafted.extent;
        let part = Part { inode, index, first: block, count: 1 };
        Ok(Some(RamBlock::new(read_now(domain, &part, &extent).await?, 0)))
    }

    /// Zeroes a range inside one block.
    async fn zero_in_block(
        &mut self,
        domain: &Rc<Domain>,
        number: u64,
        range: std::ops::Range<usize>,
    ) -> Result<(), StoreError> {
        let Some(old) = self.content(domain, number).await? else { return Ok(()) };
        let mut buffer = domain.buffer(BLOCK)?;
        buffer.copy_from_slice(old.bytes());
        buffer[range].fill(0);
        let (index, block) =
            (number / EXTENT_BLOCKS as u64, (number % EXTENT_BLOCKS as u64) as usize);
        let content = RamBlock::new(Rc::new(buffer), 0);
        self.extent(domain, index).content[block] = Some(content);
        Ok(())
    }

    async fn zero(&mut self, domain: &Rc<Domain>, offset: u64, len: u64) -> Result<(), StoreError> {
        // Past the end there are zeroes already.
        let end = (offset + len).min(self.inode.size_bytes);
        if offset >= end {
            return Ok(());
        }
        let (first, last) = (offset.div_ceil(BLOCK_BYTES), end / BLOCK_BYTES);
        let (head, tail) = ((offset % BLOCK_BYTES) as usize, (end % BLOCK_BYTES) as usize);
        if first > last {
            return self.zero_in_block(domain, last, head..tail).await;
        }
        if head > 0 {
            self.zero_in_block(domain, first - 1, head..BLOCK).await?;
        }
        if tail > 0 {
            self.zero_in_block(domain, last, 0..tail).await?;
        }
        self.clear_blocks(domain, first, last);
        Ok(())
    }

    /// Makes the blocks `first..last` holes.
    fn clear_blocks(&mut self, domain: &Domain, first: u64, last: u64) {
        let per_extent = EXTENT_BLOCKS as u64;
        let (from, to) = (first.div_ceil(per_extent), last / per_extent);
        let mut clear = |index: u64, blocks: std::ops::Range<u64>| {
            let drafted = self.extent(domain, index);
            for block in blocks {
                drafted.extent.clear(block as usize);
                drafted.content[block as usize] = None;
            }
        };
        if from > to {
            return clear(to, first % per_extent..last % per_extent);
        }
        if !first.is_multiple_of(per_extent) {
            clear(from - 1, first % per_extent..per_extent);
        }
        if !last.is_multiple_of(per_extent) {
            clear(to, 0..last % per_extent);
        }
        self.cut(from, to);
    }

    /// Whole extents are gone.
    fn cut(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        self.extents.retain(|drafted| !(from..to).contains(&drafted.index));
        // Cuts that touch become one: what two of them cover would be freed twice.
        let (mut from, mut to) = (from, to);
        self.cuts.retain(|cut| {
            let touch = cut.from <= to && from <= cut.to;
            if touch {
                (from, to) = (from.min(cut.from), to.max(cut.to));
            }
            !touch
        });
        self.cuts.push(Cut { inode: self.inode.id, from, to });
    }

    /// Every block of an extent that is there gets a new place.
    async fn rewrite(&mut self, domain: &Rc<Domain>, index: u64) -> Result<(), StoreError> {
        let inode = self.inode.id;
        let extent = self.extent(domain, index).extent;
        let exists = |block: &usize| !extent.places[*block].is_nowhere();
        let Some(first) = (0..EXTENT_BLOCKS).find(exists) else { return Ok(()) };
        let last = (0..EXTENT_BLOCKS).rfind(exists).unwrap_or(first);
        let part = Part { inode, index, first, count: last + 1 - first };
        let bytes = read_now(domain, &part, &extent).await?;
        let drafted = self.extent(domain, index);
        for block in (first..=last).filter(exists) {
            let before = &mut drafted.content[block];
            // What an earlier step has made of it stays.
            if before.is_none() {
                *before = Some(RamBlock::new(Rc::clone(&bytes), (block - first) * BLOCK));
            }
        }
        Ok(())
    }

    async fn truncate(&mut self, domain: &Rc<Domain>, size: u64) -> Result<(), StoreError> {
        if size < self.inode.size_bytes {
            if !size.is_multiple_of(BLOCK_BYTES) {
                let from = (size % BLOCK_BYTES) as usize;
                self.zero_in_block(domain, size / BLOCK_BYTES, from..BLOCK).await?;
            }
            let first = size.div_ceil(BLOCK_BYTES);
            let (index, block) = (first / EXTENT_BLOCKS as u64, first % EXTENT_BLOCKS as u64);
            if block > 0 {
                let drafted = self.extent(domain, index);
                for block in block as usize..EXTENT_BLOCKS {
                    drafted.extent.clear(block);
                    drafted.content[block] = None;
                }
            }
            self.cut(first.div_ceil(EXTENT_BLOCKS as u64), INODE_BYTES_MAX / EXTENT_BYTES);
        }
        self.inode.size_bytes = size;
        Ok(())
    }

    /// The new blocks, in the order of extents.
    fn blocks(&self) -> impl Iterator<Item = &RamBlock> {
        self.extents.iter().flat_map(|drafted| drafted.content.iter().flatten())
    }

    /// The one buffer that has all of its blocks in their order, if that is how they lie; the draft
    /// keeps their places alone.
    fn take_whole(&mut self, blocks: usize) -> Option<DmaBuf> {
        let mut contents = self.blocks();
        let first = contents.next()?;
        if !first.begins(blocks * BLOCK)
            || !contents.enumerate().all(|(n, c)| c.follows(first, n + 1))
        {
            return None;
        }
        let mut buffer = None;
        for drafted in &mut self.extents {
            for content in &mut drafted.content {
                if let Some(taken) = content.replace(RamBlock::default()) {
                    buffer = taken.into_buffer();
                } else {
                    *content = None;
                }
            }
        }
        buffer
    }

    /// Groups of extents that it may make necessary and that are not there.
    fn missing_groups(&self, domain: &Domain) -> u64 {
        let group = |drafted: &Drafted| drafted.index / EXTENTS_PER_GROUP as u64;
        let (table, inode) = (domain.table.borrow(), self.inode.id);
        let groups = self.extents.chunk_by(|a, b| group(a) == group(b));
        let missing = groups.map(|some| {
            // One block is one fragment: only what has more than a first slot holds needs another.
            let few = |drafted: &Drafted| drafted.fragments_max() <= FRAGMENTS_FIRST;
            let missing = table.missing_groups(inode, group(&some[0]) as u32);
            if some.iter().all(few) { missing.saturating_sub(1) } else { missing }
        });
        missing.sum()
    }

    /// Pages that it may make necessary, as blocks of their homes.
    fn promise(&self) -> u64 {
        let group = |drafted: &Drafted| drafted.index / EXTENTS_PER_GROUP as u64;
        let groups = self.extents.chunk_by(|a, b| group(a) == group(b)).count();
        // A group of first and one of second slots, each on a new page; and a page for the inode.
        2 * (2 * groups as u64 + 1)
    }
}

fn copy_old(out: &mut [u8], old: Option<&RamBlock>, from: usize) {
    match old {
        Some(old) => out.copy_from_slice(&old.bytes()[from..from + out.len()]),
        None => out.fill(0),
    }
}

/// Where a draft's blocks are.
struct Placed {
    runs: Vec<DiskRun>,
    inline: bool,
    /// Checksums of the blocks, in their order.
    checksums: Vec<u32>,
    promised: u64,
}

/// Takes space for a draft's blocks and writes them there, unless they are few enough for the
/// record.
async fn place(domain: &Rc<Domain>, draft: &mut Draft) -> Result<Placed, StoreError> {
    let checksums: Vec<u32> =
        draft.blocks().map(|content| block_checksum(content.bytes())).collect();
    let blocks = checksums.len() as u64;
    let (promised, copies) = (draft.promise(), domain.copies_of(&draft.inode));
    // What only makes room is never refused: its pages exist, or it makes none.
    let copies = match blocks {
        0 => Copies::All,
        _ => domain.finds_space(copies, blocks, promised).await?,
    };
    {
        let mut space = domain.space.borrow_mut();
        let missing = if blocks == 0 { 0 } else { draft.missing_groups(domain) };
        // What is promised already may need as many, two blocks each.
        let room = domain.table.borrow().room(domain.config.table_pages_max);
        if missing > 0 && missing + space.promised() / 2 > room {
            let bytes_max = u64::from(domain.config.table_pages_max) * BLOCK_BYTES;
            return Err(StoreError::TableFull { bytes_max });
        }
        space.promise(promised);
        space.promise_data(copies, blocks);
    }
    // The home of a block in a record must be there when that is to be used again.
    let inline = copies == Copies::All && domain.takes_inline(blocks);
    let runs = match inline || blocks == 0 {
        true => {
            let mut space = domain.space.borrow_mut();
            space.release_data(copies, blocks);
            let runs =
                if blocks == 0 { Some(Vec::new()) } else { space.take_beside(blocks as u32) };
            Ok(runs.unwrap_or_else(|| unreachable!("as many blocks are free")))
        }
        false => write_direct(domain, copies, draft).await,
    };
    let runs = runs.inspect_err(|_| domain.space.borrow_mut().release(promised))?;
    if !inline {
        domain.counters.borrow_mut().data_bytes += blocks * BLOCK_BYTES;
    }
    Ok(Placed { runs, inline, checksums, promised })
}

impl Domain {
    /// Refuses what there is no space for, here or in another domain. What it finds is there until
    /// its caller waits for something else.
    pub(crate) async fn has_space(&self, blocks: u64) -> Result<(), StoreError> {
        if self.available() >= blocks {
            return Ok(());
        }
        self.give_what_was_answered();
        self.space.borrow_mut().reunite_all();
        if self.available() >= blocks || self.gets_space(blocks).await {
            return Ok(());
        }
        let (wanted_bytes, free_bytes) = (blocks * BLOCK_BYTES, self.available() * BLOCK_BYTES);
        self.check_writable()?;
        Err(StoreError::Full { wanted_bytes, free_bytes })
    }

    /// How many copies the data of an inode has.
    pub(crate) fn copies_of(&self, inode: &InodeRecord) -> Copies {
        match inode.copies() {
            0 => Copies::All,
            copies if copies >= self.members.disks().label().mirror.count => Copies::All,
            copies => Copies::Fewer(copies),
        }
    }

    /// Finds space for data with so many copies, and `promised` blocks for pages beside it: what it
    /// finds is there until its caller waits for something else. Where no group can be divided for
    /// fewer copies, there are more of them.
    async fn finds_space(
        &self,
        copies: Copies,
        blocks: u64,
        promised: u64,
    ) -> Result<Copies, StoreError> {
        if let Copies::Fewer(number) = copies {
            self.has_space(promised).await?;
            let pages = self.table.borrow().pages.blocks_wanted() + promised;
            let fitness = |slot, set| self.members.fitness(slot, set);
            if self.space.borrow_mut().has_divided(number, blocks, pages, &fitness) {
                return Ok(copies);
            }
        }
        self.has_space(blocks + promised).await?;
        Ok(Copies::All)
    }

    /// Refuses what no record can hold.
    fn check_fits(&self, draft: &Draft) -> Result<(), StoreError> {
        let extents = draft.extents.len() * ExtentPut::ENCODED_BYTES_MAX;
        let cuts = draft.cuts.len() * size_of::<Cut>();
        let inline = self.config.inline_bytes_per_write;
        // The head, and what is rounded up.
        let fixed = 2 * BLOCK_BYTES + size_of::<InodeRecord>() as u64;
        let (bytes, max) = ((extents + cuts) as u64 + inline + fixed, self.record_bytes_max());
        if bytes > max { Err(StoreError::TooLarge { bytes, max }) } else { Ok(()) }
    }

    fn takes_inline(&self, blocks: u64) -> bool {
        let bytes = blocks * BLOCK_BYTES;
        let limit = self.config.inline_bytes_per_batch.min(self.batch_limits().bytes / 2);
        (self.config.inline_when == Inline::Always || !self.committing.get())
            // A journal that begins anew has no block that is needed.
            && self.new_home.get().is_none()
            && bytes <= self.config.inline_bytes_per_write
            && self.pipe.borrow().open_inline_bytes(&self.batch_limits()) + bytes <= limit
    }
}

/// Nothing refers to the blocks that were taken.
fn give_back(domain: &Domain, placed: &Placed) {
    domain.give_runs(&placed.runs);
    domain.space.borrow_mut().release(placed.promised);
}

/// Hands the draft's blocks to the write batcher; the draft knows where they were, and has them no
/// more.
async fn write_direct(
    domain: &Rc<Domain>,
    copies: Copies,
    draft: &mut Draft,
) -> Result<Vec<DiskRun>, StoreError> {
    let blocks = draft.blocks().count();
    let give_up = |error| {
        domain.space.borrow_mut().release_data(copies, blocks as u64);
        error
    };
    if let Some(buffer) = draft.take_whole(blocks) {
        return write_gathered(domain, copies, std::iter::once(buffer)).await;
    }
    let mut buffers = Vec::new();
    let mut contents = draft.blocks();
    let mut left = blocks;
    while left > 0 {
        let here = left.min(COPY_BLOCKS);
        let mut buffer = domain.buffer(here * BLOCK).map_err(give_up)?;
        for (out, content) in buffer.chunks_exact_mut(BLOCK).zip(&mut contents) {
            out.copy_from_slice(content.bytes());
        }
        buffers.push(buffer);
        left -= here;
    }
    write_gathered(domain, copies, buffers.into_iter()).await
}

/// The draft becomes part of the open batch.
fn join(
    domain: &Rc<Domain>,
    draft: Draft,
    placed: Placed,
    (setbacks, (durability, sharing)): (u64, (Durability, Sharing)),
) -> Result<Rc<BatchFate>, StoreError> {
    let set_back = || domain.set_back_since(setbacks).map_or(Ok(()), Err);
    let outcome = domain.check_writable().and_then(|()| set_back());
    if let Err(error) = outcome {
        give_back(domain, &placed);
        return Err(error);
    }
    // Others may have made the inode longer since this draft was begun.
    let newest = domain.newest_inode(draft.inode.id);
    let mut inode = newest.inspect_err(|_| give_back(domain, &placed))?;
    inode.size_bytes = match sharing {
        Sharing::Beside => inode.size_bytes.max(draft.inode.size_bytes),
        Sharing::Alone => draft.inode.size_bytes,
    };
    let taken = fragments(&placed.runs);
    let places = taken.iter().flat_map(|fragment| places(*fragment));
    let mut new_blocks = places.zip(placed.checksums.iter().copied());
    let mut change = Change {
        cuts: draft.cuts,
        inode: Some(inode),
        extents: Vec::with_capacity(draft.extents.len()),
        promised: placed.promised,
        buffered: durability == Durability::Buffered,
        ..Change::default()
    };
    for cut in &change.cuts {
        freed_by_cut(domain, cut, &mut change.freed);
    }
    for drafted in draft.extents {
        let (index, before) = (drafted.index, drafted.before);
        let put = settle_extent(domain, drafted, &mut new_blocks, placed.inline);
        freed_by_put(&before, &put.extent, &mut change.freed);
        change.extents.push((inode.id, index, put));
    }
    drop(new_blocks);
    change.taken = taken;
    Ok(domain.join(change))
}

/// Gives an extent's new blocks their places, in order.
fn settle_extent(
    domain: &Domain,
    drafted: Drafted,
    new_blocks: &mut impl Iterator<Item = (Place, u32)>,
    inline: bool,
) -> Put {
    let mut put = Put { extent: drafted.extent, fresh: 0, inline: 0 };
    for (block, content) in drafted.content.into_iter().enumerate() {
        let Some(content) = content else { continue };
        let Some((place, checksum)) = new_blocks.next() else {
            unreachable!("every new block has a place")
        };
        put.extent.places[block] = place;
        put.extent.checksums[block] = checksum;
        put.fresh |= 1 << block;
        if inline {
            put.inline |= 1 << block;
            domain.ram.borrow_mut().insert(place, content);
        }
    }
    put
}

/// Blocks of an extent that the new one does not have.
fn freed_by_put(before: &[Place; EXTENT_BLOCKS], after: &Extent, freed: &mut Vec<Fragment>) {
    for (old, new) in before.iter().zip(&after.places) {
        if !old.is_nowhere() && old != new {
            freed.extend(Fragment::new(old.target(), old.block(), 1));
        }
    }
}

/// All blocks of the extents that are cut, as far as they will be there.
pub(crate) fn freed_by_cut(domain: &Domain, cut: &Cut, freed: &mut Vec<Fragment>) {
    let pending = domain.pipe.borrow().extents_of(cut.inode, cut.from, cut.to);
    let known = domain.table.borrow().extents_of(cut.inode, cut.from, cut.to, usize::MAX);
    for (index, extent) in known {
        if !pending.contains(&index) {
            let newest = domain.newest_extent(cut.inode, index);
            // Gone already, or as the table has it.
            if !newest.is_hole() {
                freed.extend_from_slice(extent.fragments().as_slice());
            }
        }
    }
    for index in pending {
        let newest = domain.newest_extent(cut.inode, index);
        freed.extend_from_slice(newest.fragments().as_slice());
    }
}
