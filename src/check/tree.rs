//! The pages of a checkpoint, from the root down.
//!
//! A page is read where its parent says it is and must be what the parent says: checksum, domain,
//! level, number. Where it cannot be had, what is below it, or on it, is lost, and the rest is
//! read.

use crate::check::image::Image;
use crate::check::members::Members;
use crate::check::report::{Findings, Site};
use crate::format::fragment::Fragment;
use crate::format::layout::BLOCK_BYTES;
use crate::format::page::{
    CHILDREN_PER_PAGE, Child, FirstSlot, GROUPS_PER_PAGE, GroupHeader, INODES_PER_PAGE,
    InodeRecord, Page, PageAddress, PageKind, SecondSlot,
};
use crate::format::record::CheckpointBody;

/// Levels above level 0 that a tree of 2^32 pages has.
const LEVELS_MAX: u32 = 5;

/// A page that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreePage {
    /// 0 for inodes and extents.
    pub level: u32,
    /// Number on its level.
    pub number: u32,
    /// What its parent says.
    pub child: Child,
    /// What it holds; none when it is damaged.
    pub kind: Option<PageKind>,
    /// Sequence of the checkpoint that wrote it.
    pub sequence: u64,
}

/// The slots of a group, by what the group is.
#[derive(Clone, Copy, Debug)]
pub enum Slots {
    /// Of a group with `part` 0.
    First([FirstSlot; 4]),
    /// Of one with `part` 1.
    Second([SecondSlot; 4]),
}

/// A group of extents as a page has it.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The page.
    pub page: u32,
    /// Whose, and which.
    pub header: GroupHeader,
    /// Its slots.
    pub slots: Slots,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Every page that some parent names, damaged or not.
    pub pages: Vec<TreePage>,
    /// Inodes, with the page of each.
    pub inodes: Vec<(u32, InodeRecord)>,
    /// Groups.
    pub groups: Vec<Group>,
}

/// A page that is to be read.
struct Wanted {
    level: u32,
    number: u32,
    child: Child,
    /// Sequence of its parent: no page is newer than the one that names it.
    sequence_max: u64,
}

/// What reading takes.
struct Reader<'r, 'i> {
    image: &'r mut Image<'i>,
    members: &'r Members,
    domain: u16,
    findings: &'r mut Findings,
}

impl Tree {
    /// Reads the tree of a checkpoint.
    pub fn read(
        image: &mut Image<'_>,
        members: &Members,
        domain: u16,
        checkpoint: &CheckpointBody,
        findings: &mut Findings,
    ) -> Tree {
        let mut tree = Tree::default();
        let mut reader = Reader { image, members, domain, findings };
        let Some(levels) = reader.levels(checkpoint) else { return tree };
        let CheckpointBody { root, through, .. } = *checkpoint;
        let mut wanted = Vec::new();
        if !root.is_none() {
            wanted.push(Wanted { level: levels, number: 0, child: root, sequence_max: through });
        }
        while let Some(next) = wanted.pop() {
            let below = reader.page(&next, checkpoint.pages, &mut tree);
            wanted.extend(below.into_iter().rev());
        }
        tree.inodes.sort_by_key(|(_, inode)| inode.id);
        tree
    }

    /// Homes of its pages, both of each.
    pub fn homes(&self) -> impl Iterator<Item = (TreePage, Fragment)> + '_ {
        self.pages.iter().flat_map(|page| page.child.homes.map(|home| (*page, home)))
    }
}

/// Pages of a level when there are so many on level 0.
fn count(pages: u32, level: u32) -> u64 {
    (0..level).fold(u64::from(pages), |count, _| count.div_ceil(CHILDREN_PER_PAGE as u64))
}

impl Reader<'_, '_> {
    /// Levels above level 0; none when there is no tree that could be read.
    fn levels(&mut self, checkpoint: &CheckpointBody) -> Option<u32> {
        let CheckpointBody { pages, levels, root, .. } = *checkpoint;
        let expected =
            (0..LEVELS_MAX).find(|level| count(pages, *level) <= 1).unwrap_or(LEVELS_MAX);
        if levels != expected {
            let site = Site::of_domain(self.domain, "checkpoint record");
            let expected = format!("{expected} levels above {pages} pages");
            self.findings.error(site, expected, levels.to_string());
            return None;
        }
        let blocks = self.members.data_blocks();
        if u64::from(pages) > blocks {
            let site = Site::of_domain(self.domain, "checkpoint record");
            self.findings.error(site, format!("at most {blocks} pages"), pages.to_string());
            return None;
        }
        if pages == 0 && !root.is_none() {
            let site = Site::of_domain(self.domain, "checkpoint record");
            self.findings.error(site, "no root where there are no pages", "a root");
            return None;
        }
        Some(levels)
    }

    fn site(&self, wanted: &Wanted) -> Site {
        let Wanted { level, number, .. } = wanted;
        let home = wanted.child.homes[0];
        let what = format!("page {number} of level {level}");
        Site::at(self.domain, home.start_block() * BLOCK_BYTES, what).on(home.slot())
    }

    /// Reads a page; returns its children.
    fn page(&mut self, wanted: &Wanted, pages: u32, tree: &mut Tree) -> Vec<Wanted> {
        let Wanted { level, number, child, .. } = *wanted;
        let mut found = TreePage { level, number, child, kind: None, sequence: 0 };
        let mut below = Vec::new();
        self.judge_homes(wanted);
        let (pool, domain, home) = (self.members.label().pool, self.domain, child.homes[0]);
        let block = self.image.block(home.slot(), home.start_block() * BLOCK_BYTES);
        let address = PageAddress { pool, domain, level, number, home };
        let opened = match &block {
            Ok(block) => {
                Page::open(block, &address, child.checksum).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match opened {
            Ok(page) => {
                (found.kind, found.sequence) = (Some(page.kind), page.sequence);
                if page.sequence > wanted.sequence_max {
                    let expected = format!("records up to {} in it", wanted.sequence_max);
                    self.findings.error(self.site(wanted), expected, page.sequence.to_string());
                }
                match page.kind {
                    PageKind::Inodes => tree.take_inodes(number, &page),
                    PageKind::Extents => self.take_groups(wanted, &page, tree),
                    PageKind::Parent => below = self.children(wanted, pages, &page),
                }
            }
            Err(error) => self.findings.error(self.site(wanted), "the page", error),
        }
        tree.pages.push(found);
        below
    }

    fn judge_homes(&mut self, wanted: &Wanted) {
        let [first, second] = wanted.child.homes;
        if first == second {
            self.findings.error(self.site(wanted), "two homes", format!("{first:?} twice"));
        }
        for home in [first, second] {
            if home.blocks() != 1 {
                self.findings.error(self.site(wanted), "a home of one block", format!("{home:?}"));
            }
        }
    }

    fn children(&mut self, parent: &Wanted, pages: u32, page: &Page<'_>) -> Vec<Wanted> {
        let level = parent.level - 1;
        let mut below = Vec::new();
        for index in 0..CHILDREN_PER_PAGE {
            let child = page.child(index);
            let number = u64::from(parent.number) * CHILDREN_PER_PAGE as u64 + index as u64;
            if child.is_none() {
                if child != Child::NONE {
                    let expected = format!("nothing where there is no child {index}");
                    self.findings.error(self.site(parent), expected, format!("{child:?}"));
                }
                continue;
            }
            match u32::try_from(number) {
                Ok(number) if u64::from(number) < count(pages, level) => {
                    below.push(Wanted { level, number, child, sequence_max: page.sequence });
                }
                _ => {
                    let expected = format!("{} pages of level {level}", count(pages, level));
                    self.findings.error(self.site(parent), expected, format!("page {number}"));
                }
            }
        }
        below
    }

    fn take_groups(&mut self, wanted: &Wanted, page: &Page<'_>, tree: &mut Tree) {
        for index in 0..GROUPS_PER_PAGE {
            let header = page.group(index);
            if header.inode == 0 {
                continue;
            }
            let slots = match header.part {
                0 => Slots::First(std::array::from_fn(|slot| page.slot(index, slot))),
                1 => Slots::Second(std::array::from_fn(|slot| page.slot(index, slot))),
                part => {
                    let found = format!("part {part} in group {index}");
                    self.findings.error(self.site(wanted), "part 0 or 1", found);
                    continue;
                }
            };
            tree.groups.push(Group { page: wanted.number, header, slots });
        }
    }
}

impl Tree {
    fn take_inodes(&mut self, number: u32, page: &Page<'_>) {
        let inodes = (0..INODES_PER_PAGE).map(|index| page.inode(index));
        self.inodes.extend(inodes.filter(|inode| inode.id != 0).map(|inode| (number, inode)));
    }
}
