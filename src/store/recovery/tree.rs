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
}

/// Pages that are read at a time.
const WINDOW: usize = 64;

/// Children in windows, each with the number of its first.
fn windows(children: &[Child]) -> impl Iterator<Item = (u32, &[Child])> {
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
        let mut children = vec![checkpoint.root];
        let mut pages = 0;
        let mut parents: Vec<Vec<Child>> = Vec::new();
        for level in (1..counts.len()).rev() {
            let mut below = Vec::new();
            for (first, some) in windows(&children) {
                for read in self.read_pages(level as u32, first, some).await {
                    let read = read?;
                    pages += u64::from(read.is_some());
                    match &read {
                        Some(read) => {
                            let page = self.open(read)?;
                            below.extend((0..CHILDREN_PER_PAGE).map(|index| page.child(index)));
                        }
                        None => below.extend([Child::NONE; CHILDREN_PER_PAGE]),
                    }
                }
            }
            below.truncate(counts[level - 1]);
            parents.push(std::mem::replace(&mut children, below));
        }
        if counts.is_empty() {
            children.clear();
        }
        pages += self.load_leaves(&children, table).await?;
        for (level, children) in (1..counts.len()).rev().zip(parents).rev() {
            for child in children {
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
            return Ok(Vec::new());
        }
        if u64::from(checkpoint.pages) > self.seed.layout.space_blocks() {
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

    async fn load_leaves(
        &self,
        children: &[Child],
        table: &mut Table,
    ) -> Result<u64, RecoveryError> {
        let mut pages = 0;
        let no_memory = |error: TableError| RecoveryError::NoMemory {
            domain: self.seed.domain,
            what: error.to_string(),
        };
        for (first, some) in windows(children) {
            let reads = self.read_pages(0, first, some).await;
            for (number, (read, child)) in (first..).zip(reads.into_iter().zip(some)) {
                let read = read?;
                let page = read.as_ref().map(|read| self.open(read)).transpose()?;
                pages += u64::from(page.is_some());
                let kind = page.as_ref().map_or(PageKind::Inodes, |page| page.kind);
                table.load_page(number, *child, kind).map_err(no_memory)?;
                match &page {
                    Some(page) if kind == PageKind::Extents => {
                        let loaded = table.load_extents(number, page);
                        loaded.map_err(|error| self.corrupt(self.id.start, error.to_string()))?;
                    }
                    page => {
                        let loaded = table.load_inodes(number, page.as_ref());
                        loaded.map_err(|error| self.corrupt(self.id.start, error.to_string()))?;
                    }
                }
            }
        }
        Ok(pages)
    }

    /// Reads pages of a level, all at a time.
    async fn read_pages(
        &self,
        level: u32,
        first: u32,
        children: &[Child],
    ) -> Vec<Result<Option<Read>, RecoveryError>> {
        let mut reads: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
        for (number, child) in (first..).zip(children) {
            reads.push(Box::pin(self.read_page(level, number, *child)));
        }
        join_all(reads).await
    }

    async fn read_page(
        &self,
        level: u32,
        number: u32,
        child: Child,
    ) -> Result<Option<Read>, RecoveryError> {
        if child.is_none() {
            return Ok(None);
        }
        let home = child.homes[0];
        let bytes = self.read(home.start_block() * BLOCK_BYTES, BLOCK_BYTES as usize).await?;
        let (pool, domain) = (self.seed.pool, self.seed.domain);
        let address = PageAddress { pool, domain, level, number, home };
        Ok(Some(Read { number, address, bytes, checksum: child.checksum }))
    }

    fn open<'b>(&self, read: &'b Read) -> Result<Page<'b>, RecoveryError> {
        let offset = read.address.home.start_block() * BLOCK_BYTES;
        Page::open(&read.bytes, &read.address, read.checksum).map_err(|error| {
            let (number, level) = (read.number, read.address.level);
            self.corrupt(offset, format!("page {number} of level {level}: {error}"))
        })
    }
}
