//! Which pages there are, which of them a checkpoint must write, and where each lies.
//!
//! Two answers to "where": in the tree that is durable, and in the one that a running checkpoint
//! is building. A page is written to the home that the durable tree does not name, so that a
//! checkpoint that never ends has harmed nothing.

use crate::format::fragment::Fragment;
use crate::format::page::{CHILDREN_PER_PAGE, Child, INODES_PER_PAGE, PageKind};

/// A page on any level.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) kind: PageKind,
    /// Of an extent page: where its groups are in memory.
    pub(crate) frame: u32,
    /// Of an inode page: who is on it.
    inodes: Vec<u64>,
    /// Inodes or groups on it.
    content: u32,
    /// It has changed since it was last copied.
    dirty: bool,
    /// The tree that is being built was to have it as it was then.
    taken: bool,
    /// Both homes; none before its first checkpoint.
    homes: Option<[Fragment; 2]>,
    /// Homes that it had before these, which the durable tree may name.
    left: Option<[Fragment; 2]>,
    /// As the durable tree has it.
    durable: Child,
    /// As the tree that is being built has it, if that is different.
    built: Option<Child>,
}

/// What a checkpoint does with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageImage {
    /// Its content goes to this home.
    Write(Fragment),
    /// There is nothing on it: the tree is without it.
    Leave,
    /// It has no homes yet.
    NeedsHomes,
}

/// Address of a page: level and number.
pub(crate) type PageNumber = (usize, u32);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// Level 0 first.
    levels: Vec<Vec<Page>>,
    /// Pages without homes that will want some: those with content, and all parents.
    homeless: u64,
}

impl Page {
    fn new(kind: PageKind, frame: u32) -> Page {
        let inodes = if kind == PageKind::Inodes { vec![0; INODES_PER_PAGE] } else { Vec::new() };
        let (durable, built) = (Child::NONE, None);
        Page {
            kind,
            frame,
            inodes,
            content: 0,
            dirty: false,
            taken: false,
            homes: None,
            left: None,
            durable,
            built,
        }
    }

    /// Whether a checkpoint will have to give it homes.
    fn is_homeless(&self) -> bool {
        self.homes.is_none() && (self.content > 0 || self.kind == PageKind::Parent)
    }

    fn child(&self) -> Child {
        self.built.unwrap_or(self.durable)
    }
}

impl Pages {
    /// Pages of a level.
    pub(crate) fn count(&self, level: usize) -> u32 {
        self.levels.get(level).map_or(0, |pages| pages.len() as u32)
    }

    /// Levels that there are; 0 when there is no page.
    pub(crate) fn levels(&self) -> usize {
        self.levels.len()
    }

    /// Blocks that the next checkpoints need for homes that are not there yet.
    pub(crate) fn blocks_wanted(&self) -> u64 {
        2 * self.homeless
    }

    pub(crate) fn page(&self, (level, number): PageNumber) -> &Page {
        &self.levels[level][number as usize]
    }

    fn page_mut(&mut self, (level, number): PageNumber) -> &mut Page {
        &mut self.levels[level][number as usize]
    }

    /// Changes a page, and counts it as what it is then.
    fn alter<R>(&mut self, number: PageNumber, change: impl FnOnce(&mut Page) -> R) -> R {
        let page = self.page_mut(number);
        let before = page.is_homeless();
        let result = change(page);
        let after = page.is_homeless();
        self.homeless = self.homeless + u64::from(after) - u64::from(before);
        result
    }

    /// A new page of level 0, and the parents that it makes necessary.
    pub(crate) fn add(&mut self, kind: PageKind, frame: u32) -> u32 {
        self.add_on(0, Page::new(kind, frame));
        self.count(0) - 1
    }

    fn add_on(&mut self, level: usize, page: Page) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        self.homeless += u64::from(page.is_homeless());
        self.levels[level].push(page);
        let pages = self.levels[level].len();
        let parents = if pages > 1 { pages.div_ceil(CHILDREN_PER_PAGE) } else { 0 };
        while (self.count(level + 1) as usize) < parents {
            self.add_on(level + 1, Page::new(PageKind::Parent, u32::MAX));
        }
    }

    /// A page of level 0 has changed.
    pub(crate) fn touch(&mut self, number: u32) {
        self.page_mut((0, number)).dirty = true;
    }

    pub(crate) fn add_content(&mut self, number: u32) {
        self.alter((0, number), |page| page.content += 1);
    }

    pub(crate) fn remove_content(&mut self, number: u32) {
        self.alter((0, number), |page| page.content -= 1);
    }

    /// Who is at a place, which is the page times 31 plus the place on it.
    pub(crate) fn set_inode(&mut self, place: u32, id: u64) {
        let (page, at) = split(place);
        self.page_mut((0, page)).inodes[at] = id;
        self.add_content(page);
    }

    pub(crate) fn clear_inode(&mut self, place: u32) {
        let (page, at) = split(place);
        self.page_mut((0, page)).inodes[at] = 0;
        self.remove_content(page);
    }

    pub(crate) fn inodes_on(&self, number: u32) -> &[u64] {
        &self.page((0, number)).inodes
    }
}

/// Building a tree.
impl Pages {
    /// Pages of level 0 that this checkpoint has to look at.
    pub(crate) fn changed(&self) -> Vec<u32> {
        let pages = self.levels.first().map_or(&[][..], Vec::as_slice);
        (0..).zip(pages).filter(|(_, page)| page.dirty).map(|(number, _)| number).collect()
    }

    /// Parents of a level with a child below that is built anew, or that go elsewhere.
    pub(crate) fn changed_parents(&self, level: usize) -> Vec<u32> {
        let below = &self.levels[level - 1];
        (0..self.count(level))
            .filter(|number| {
                let first = *number as usize * CHILDREN_PER_PAGE;
                let mut children = below.iter().skip(first).take(CHILDREN_PER_PAGE);
                self.page((level, *number)).dirty || children.any(|child| child.built.is_some())
            })
            .collect()
    }

    /// What is to be done with a page; it counts as copied from now on.
    pub(crate) fn take(&mut self, number: PageNumber) -> PageImage {
        let empty = match number.0 {
            0 => self.page(number).content == 0,
            level => self.children(level, number.1).all(|child| child.is_none()),
        };
        let page = self.page_mut(number);
        let image = match page.homes {
            _ if empty => PageImage::Leave,
            None => return PageImage::NeedsHomes,
            Some([first, second]) if page.durable.homes[0] == first => PageImage::Write(second),
            Some([first, _]) => PageImage::Write(first),
        };
        (page.dirty, page.taken) = (false, true);
        image
    }

    /// Gives a page its homes.
    pub(crate) fn settle(&mut self, number: PageNumber, homes: [Fragment; 2]) {
        let before = self.alter(number, |page| page.homes.replace(homes));
        assert!(before.is_none(), "a page is settled once");
    }

    /// The children that a parent has in the tree that is being built.
    pub(crate) fn children(&self, level: usize, number: u32) -> impl Iterator<Item = Child> + '_ {
        let below = &self.levels[level - 1];
        let first = number as usize * CHILDREN_PER_PAGE;
        below.iter().skip(first).take(CHILDREN_PER_PAGE).map(Page::child)
    }

    /// The page is in the new tree as this says.
    pub(crate) fn build(&mut self, number: PageNumber, image: PageImage, checksum: u64) {
        let page = self.page_mut(number);
        let built = match (image, page.homes) {
            (PageImage::Write(home), Some([first, second])) => {
                let other = if home == first { second } else { first };
                Child { homes: [home, other], checksum }
            }
            _ => Child::NONE,
        };
        page.built = Some(built);
    }

    /// The root of the tree that is being built, `levels` above level 0.
    pub(crate) fn root_of(&self, levels: usize) -> Child {
        self.levels.get(levels).and_then(|level| level.first()).map_or(Child::NONE, Page::child)
    }

    /// The tree that was built is durable. Returns the homes of pages that are in it no more.
    pub(crate) fn adopt(&mut self) -> Vec<Fragment> {
        let mut left = Vec::new();
        for page in self.levels.iter_mut().flatten() {
            page.taken = false;
            let Some(built) = page.built.take() else { continue };
            page.durable = built;
            left.extend(page.left.take().into_iter().flatten());
            if built.is_none()
                && let Some(homes) = page.homes.take()
            {
                self.homeless += u64::from(page.is_homeless());
                left.extend(homes);
            }
        }
        left
    }

    /// The tree that was being built is given up: what was copied for it is to be copied again.
    pub(crate) fn give_up(&mut self) {
        for (level, pages) in self.levels.iter_mut().enumerate() {
            for page in pages {
                page.built = None;
                let goes_elsewhere = level == 0 || page.left.is_some();
                page.dirty |= std::mem::take(&mut page.taken) && goes_elsewhere;
            }
        }
    }

    /// Every page that was read at opening, level 0 first, as the durable tree has it.
    pub(crate) fn load(&mut self, level: usize, kind: PageKind, frame: u32, child: Child) -> u32 {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let mut page = Page::new(kind, frame);
        if !child.is_none() {
            page.homes = Some(child.homes);
            page.durable = child;
        }
        self.homeless += u64::from(page.is_homeless());
        self.levels[level].push(page);
        self.count(level) - 1
    }

    /// What was loaded is what is durable: nothing has to be written.
    pub(crate) fn clean(&mut self) {
        self.levels.iter_mut().flatten().for_each(|page| page.dirty = false);
    }

    /// What the durable tree has of a page.
    pub(crate) fn durable(&self, number: PageNumber) -> Child {
        self.page(number).durable
    }

    /// Where the durable tree has a page.
    pub(crate) fn home(&self, number: PageNumber) -> Option<Fragment> {
        let durable = self.page(number).durable;
        (!durable.is_none()).then(|| durable.homes[0])
    }

    /// Homes of all pages, also those that they leave.
    pub(crate) fn homes(&self) -> impl Iterator<Item = Fragment> + '_ {
        let pages = self.levels.iter().flatten();
        pages.flat_map(|page| page.homes.into_iter().chain(page.left)).flatten()
    }

    /// Has up to so many pages with a home in one of these slots go elsewhere, with the checkpoint
    /// that begins now. None is under way.
    pub(crate) fn leave_slots(&mut self, max: u64, leaving: impl Fn(u16) -> bool) {
        let mut left = max;
        for page in self.levels.iter_mut().flatten() {
            let is_there = |homes: &[Fragment; 2]| homes.iter().any(|home| leaving(home.slot()));
            if left == 0 {
                return;
            }
            if page.left.is_none() && page.homes.as_ref().is_some_and(is_there) {
                page.left = page.homes.take();
                page.dirty = true;
                self.homeless += u64::from(page.is_homeless());
                left -= 1;
            }
        }
    }
}

fn split(place: u32) -> (u32, usize) {
    (place / INODES_PER_PAGE as u32, place as usize % INODES_PER_PAGE)
}
