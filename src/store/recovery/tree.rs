//! Reading the tree of pages that a checkpoint left.

use crate::format::layout::BLOCK_BYTES;
use crate::format::page::{CHILDREN_PER_PAGE, Child, Page, PageAddress, PageKind};
use crate::format::record::CheckpointBody;
use crate::memory::DmaBuf;
use crate::store::port::join_all;
use crate::store::recovery::{Recovery, RecoveryError};
use crate::store::table::{Table, TableError};

/// A page that was read, to be looked at twice.
struct Read {
    number: u32,
    address: PageAddress,
    bytes: DmaBuf,
    checksum: u64,
    /// Sequence of its parent: no page is newer than the one that names it.
    sequence_max: u64,
}

/// A child, and the sequence of the page that names it.
type Named = (Child, u64);

/// Pages that are read at a time.
const WINDOW: usize = 256;

/// Children in windows, each with the number of its first.
fn windows(children: &[Named]) -> impl Iterator<Item = (u32, &[Named])> {
    children.chunks(WINDOW).enumerate().map(|(n, some)| ((n * WINDOW) as u32, some))
}

impl Recovery<'_> {
    /// Fills the table; says how many pages there were.
    pub(crate) async fn load_tree(
        &self,
        checkpoint: &CheckpointBody,
        table: &mut Table,
    ) -> Result<u64, RecoveryError> {
        let counts = self.counts(checkpoint)?;
        let mut children = vec![(checkpoint.root, checkpoint.through)];
        let mut pages = 0;
        let mut parents: Vec<Vec<Named>> = Vec::new();
        for level in (1..counts.len()).rev() {
            let mut below = Vec::new();
            for (first, some) in windows(&children) {
                let reads = self.read_pages(level as u32, first, some).await;
                for (number, read) in (first..).zip(reads) {
                    let read = self.whole(level as u32, number, read)?;
                    pages += u64::from(read.is_some());
                    match &read {
                        Some(read) => {
                            let page = self.open(read)?;
                            let children = (0..CHILDREN_PER_PAGE).map(|index| page.child(index));
                            below.extend(children.map(|child| (child, page.sequence)));
                        }
                        None => below.extend([(Child::NONE, 0); CHILDREN_PER_PAGE]),
                    }
                }
            }
            self.check_children(level, &below, counts[level - 1])?;
            below.truncate(counts[level - 1]);
            parents.push(std::mem::replace(&mut children, below));
        }
        if counts.is_empty() {
            children.clear();
        }
        pages += self.load_leaves(&children, table).await?;
        for (level, children) in (1..counts.len()).rev().zip(parents).rev() {
            for (child, _) in children {
                table.pages.load(level, PageKind::Parent, u32::MAX, child);
            }
        }
        table.finish_loading();
        Ok(pages)
    }

    /// Pages of each level, level 0 first; nothing when there are none.
    fn counts(&self, checkpoint: &CheckpointBody) -> Result<Vec<usize>, RecoveryError> {
        let mut counts = vec![checkpoint.pages as usize];
        if checkpoint.pages == 0 {
            let none = checkpoint.root == Child::NONE && checkpoint.levels == 0;
            let what = "a root or levels where there are no pages";
            return if none { Ok(Vec::new()) } else { Err(self.corrupt(self.id.start, what)) };
        }
        let blocks = self.seed.members.all().iter().filter(|member| member.is_there());
        let blocks = blocks.map(|member| member.layout().data_blocks());
        if u64::from(checkpoint.pages) > blocks.sum() {
            let what = format!("{} pages are more than there are blocks", checkpoint.pages);
            return Err(self.corrupt(self.id.start, what));
        }
        while let Some(last) = counts.last()
            && *last > 1
        {
            counts.push(last.div_ceil(CHILDREN_PER_PAGE));
        }
        if counts.len() != checkpoint.levels as usize + 1 {
            let what = format!("{} pages in {} levels", checkpoint.pages, checkpoint.levels);
            return Err(self.corrupt(self.id.start, what));
        }
        Ok(counts)
    }

    /// A parent has no more children than there are pages, and one that it has not is all zeroes.
    fn check_children(
        &self,
        level: usize,
        children: &[Named],
        count: usize,
    ) -> Result<(), RecoveryError> {
        let wrong = |(number, (child, _)): &(usize, &Named)| {
            *child != Child::NONE && (child.is_none() || *number >= count)
        };
        let Some((number, _)) = children.iter().enumerate().find(wrong) else { return Ok(()) };
        let parent = number / CHILDREN_PER_PAGE;
        let what = format!(
            "page {parent} of level {level}: it names page {number} of the level below, which \
             cannot be; there are {count}"
        );
        Err(self.corrupt(self.id.start, what))
    }

    async fn load_leaves(
        &self,
        children: &[Named],
        table: &mut Table,
    ) -> Result<u64, RecoveryError> {
        let mut pages = 0;
        let no_memory = |error: TableError| RecoveryError::NoMemory {
            domain: self.seed.domain,
            what: error.to_string(),
        };
        for (first, some) in windows(children) {
            let reads = self.read_pages(0, first, some).await;
            for (number, (read, (child, _))) in (first..).zip(reads.into_iter().zip(some)) {
                let read = self.whole(0, number, read)?;
                let page = read.as_ref().map(|read| self.open(read)).transpose()?;
                pages += u64::from(page.is_some());
                let kind = page.as_ref().map_or(PageKind::Inodes, |page| page.kind);
                table.load_page(number, *child, kind).map_err(no_memory)?;
                match &page {
                    Some(page) if kind == PageKind::Extents => {
                        let loaded = table.load_extents(number, page);
                        loaded.map_err(|error| self.page_error(number, child, &error))?;
                    }
                    page => {
                        let loaded = table.load_inodes(number, page.as_ref());
                        loaded.map_err(|error| self.page_error(number, child, &error))?;
                    }
                }
            }
        }
        Ok(pages)
    }

    fn page_error(&self, number: u32, child: &Child, error: &TableError) -> RecoveryError {
        let home = child.homes[0];
        let offset = home.start_block() * BLOCK_BYTES;
        self.corrupt_at(home.slot(), offset, format!("page {number}: {error}"))
    }

    /// Reads pages of a level, all at a time.
    async fn read_pages(
        &self,
        level: u32,
        first: u32,
        children: &[Named],
    ) -> Vec<Result<Option<Read>, RecoveryError>> {
        let mut reads: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
        for (number, named) in (first..).zip(children) {
            reads.push(Box::pin(self.read_page(level, number, *named)));
        }
        join_all(reads).await
    }

    async fn read_page(
        &self,
        level: u32,
        number: u32,
        (child, sequence_max): Named,
    ) -> Result<Option<Read>, RecoveryError> {
        if child.is_none() {
            return Ok(None);
        }
        let home = child.homes[0];
        if child.homes.iter().any(|home| home.blocks() != 1) {
            let what = format!("page {number} of level {level} has a home of several blocks");
            return Err(self.corrupt_at(home.slot(), home.start_block() * BLOCK_BYTES, what));
        }
        let (slot, offset) = (home.slot(), home.start_block() * BLOCK_BYTES);
        let (pool, domain) = (self.seed.pool, self.seed.domain);
        let address = PageAddress { pool, domain, level, number, home };
        let judge = |bytes| {
            let read = Read { number, address, bytes, checksum: child.checksum, sequence_max };
            self.open(&read)?;
            Ok(Some(read))
        };
        let place = (slot, offset, BLOCK_BYTES as usize);
        let (read, first_was_whole) = self.read_whole(place, judge).await?;
        if !first_was_whole {
            let below = (CHILDREN_PER_PAGE as u32).saturating_pow(level);
            self.mended_pages.borrow_mut().push(number.saturating_mul(below));
        }
        Ok(read)
    }

    /// A page that verifies, or none where it may be lost.
    fn whole(
        &self,
        level: u32,
        number: u32,
        read: Result<Option<Read>, RecoveryError>,
    ) -> Result<Option<Read>, RecoveryError> {
        read.or_else(|error| {
            self.lose(&format!("page {number} of level {level}"), error).map(|()| None)
        })
    }

    fn open<'b>(&self, read: &'b Read) -> Result<Page<'b>, RecoveryError> {
        let home = read.address.home;
        let (slot, offset) = (home.slot(), home.start_block() * BLOCK_BYTES);
        let (number, level) = (read.number, read.address.level);
        let name = format_args!("page {number} of level {level}");
        let page = Page::open(&read.bytes, &read.address, read.checksum);
        let page =
            page.map_err(|error| self.corrupt_at(slot, offset, format!("{name}: {error}")))?;
        let (sequence, newest) = (page.sequence, read.sequence_max);
        if sequence > newest {
            let what =
                format!("{name}: records up to {sequence} are in it, and {newest} in its parent");
            return Err(self.corrupt_at(slot, offset, what));
        }
        Ok(page)
    }
}
