//! Reading the tree of pages that a checkpoint left.

use crate::format::layout::BLOCK_BYTES;
use crate::format::page::{CHILDREN_PER_PAGE, Child, Page, PageAddress, PageKind};
use crate::format::record::CheckpointBody;
use crate::memory::DmaBuf;
use crate::store::recovery::{Recovery, RecoveryError};
use crate::store::table::Table;

/// A page that was read, to be looked at twice.
struct Read {
    number: u32,
    address: PageAddress,
    bytes: DmaBuf,
    checksum: u64,
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
            for (number, child) in children.iter().enumerate() {
                let read = self.read_page(level as u32, number as u32, *child).await?;
                pages += u64::from(read.is_some());
                match &read {
                    Some(read) => {
                        let page = self.open(read)?;
                        below.extend((0..CHILDREN_PER_PAGE).map(|index| page.child(index)));
                    }
                    None => below.extend([Child::NONE; CHILDREN_PER_PAGE]),
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

    /// Pages of inodes first, so that groups find theirs.
    async fn load_leaves(
        &self,
        children: &[Child],
        table: &mut Table,
    ) -> Result<u64, RecoveryError> {
        let mut extents = Vec::new();
        let mut pages = 0;
        let no_memory = |error: crate::store::table::TableError| RecoveryError::NoMemory {
            domain: self.seed.domain,
            what: error.to_string(),
        };
        for (number, child) in children.iter().enumerate() {
            let number = number as u32;
            let read = self.read_page(0, number, *child).await?;
            let page = read.as_ref().map(|read| self.open(read)).transpose()?;
            pages += u64::from(page.is_some());
            let kind = page.as_ref().map_or(PageKind::Inodes, |page| page.kind);
            table.load_page(number, *child, kind).map_err(no_memory)?;
            match kind {
                PageKind::Inodes => {
                    let loaded = table.load_inodes(number, page.as_ref());
                    loaded.map_err(|error| self.corrupt(self.id.start, error.to_string()))?;
                }
                _ => extents.push((number, *child)),
            }
        }
        for (number, child) in extents {
            let read = self.read_page(0, number, child).await?;
            let page = read.as_ref().map(|read| self.open(read)).transpose()?;
            table.load_extents(number, page.as_ref());
        }
        Ok(pages)
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
