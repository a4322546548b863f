//! Metadata pages: inodes, groups of extents, and the parents that vouch for them.
//!
//! A domain's pages are numbered from 0. Each has two homes of one block, anywhere in the data
//! zone; a checkpoint writes a page to the home that the durable tree does not name. The tree:
//! page `n` is child `n % 168` of parent `n / 168` of level 1, and so on up to one root, which a
//! `Checkpoint` record names. A [`Child`] gives the page's home and checksum, so an old page in
//! the right place does not verify; a child of zeroes says that there is no such page.
//!
//! Every page starts with 64 bytes:
//!
//! | bytes | field |
//! | --- | --- |
//! | 4, 2, 2 | magic `dfPG`; kind (1 inodes, 2 extents, 3 parent); domain |
//! | 4, 4 | number of the page on its level; level, 0 for inodes and extents |
//! | 8 | sequence of the checkpoint: records up to it are in the page |
//! | 8 | checksum of the rest, in the context (pool, disk, zone, offset, 0) |
//! | 32 | zero |
//!
//! - An **inode page** holds 31 [`InodeRecord`]s of 128 bytes; one with id 0 is free.
//! - An **extent page** holds 8 groups. Their [`GroupHeader`]s come first, 32 bytes each, then 8
//!   times 4 slots of 112 bytes, then zeroes. A group is four neighbouring extents of an inode; a
//!   group whose inode is 0 is free. An extent of more than 4 fragments has the others, up to 12,
//!   in the same slot of a second group with `part` 1.
//! - A **parent page** holds 168 children of 24 bytes.
//!
//! A slot is the extent's generation (0: no extent), a word with its mask in the low 16 bits and
//! its number of fragments in the next 8, then 4 fragments and 16 checksums; in a part 1, 12
//! fragments.

use bytemuck::{Pod, Zeroable};

use crate::format::checksum::{Context, metadata_checksum};
use crate::format::extent::{Extent, FragmentsMismatch};
use crate::format::fragment::Fragment;
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS, Zone};

/// Inodes of a page.
pub const INODES_PER_PAGE: usize = 31;
/// Groups of a page.
pub const GROUPS_PER_PAGE: usize = 8;
/// Extents of a group.
pub const EXTENTS_PER_GROUP: usize = 4;
/// Children of a parent.
pub const CHILDREN_PER_PAGE: usize = 168;
/// Fragments in an extent's first slot.
pub const FRAGMENTS_FIRST: usize = 4;
/// Fragments in its second.
pub const FRAGMENTS_SECOND: usize = 12;

const MAGIC: u32 = u32::from_le_bytes(*b"dfPG");

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Inodes.
    Inodes,
    /// Groups of extents.
    Extents,
    /// Children.
    Parent,
}

impl PageKind {
    fn number(self) -> u16 {
        match self {
            PageKind::Inodes => 1,
            PageKind::Extents => 2,
            PageKind::Parent => 3,
        }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Head {
    magic: u32,
    kind: u16,
    domain: u16,
    number: u32,
    level: u32,
    sequence: u64,
    checksum: u64,
    zero: [u64; 4],
}

/// An inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InodeRecord {
    /// Its id; 0 for none.
    pub id: u64,
    /// Sequence of the commit that last changed the inode or an extent of it.
    pub generation: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// Sequence of the commit that created it.
    pub created: u64,
    /// In bits 0 to 2 how many copies its data has; 0: as many as its pool has mirrors. Else zero.
    pub flags: u64,
    /// What its creator wrote here: a name, a type; the engine does not look at it.
    pub tag: [u8; 64],
    /// Zero.
    pub zero: [u64; 3],
}

impl InodeRecord {
    /// How many copies its data has; 0: as many as its pool has mirrors.
    pub fn copies(&self) -> u16 {
        (self.flags & 7) as u16
    }

    /// Whether its pool, with so many mirrors, can have it as it says.
    pub fn has_fitting_flags(&self, mirrors: u16) -> bool {
        self.flags < u64::from(mirrors.max(1))
    }
}

/// Which four extents a group holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GroupHeader {
    /// Whose; 0 for none.
    pub inode: u64,
    /// Index of the first extent, divided by four.
    pub group: u32,
    /// 0: first slots; 1: second slots.
    pub part: u32,
    /// Zero.
    pub zero: [u64; 2],
}

/// An extent's first slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FirstSlot {
    /// Sequence of the commit that last changed the extent; 0: there is none.
    pub generation: u64,
    info: u64,
    fragments: [Fragment; FRAGMENTS_FIRST],
    checksums: [u32; EXTENT_BLOCKS],
}

/// An extent's second slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SecondSlot {
    /// As of the first.
    pub generation: u64,
    zero: u64,
    fragments: [Fragment; FRAGMENTS_SECOND],
}

/// Where a page is and what it sums to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Child {
    /// The home that holds it, then the other one.
    pub homes: [Fragment; 2],
    /// The checksum in its head.
    pub checksum: u64,
}

impl Child {
    /// There is no such page.
    pub const NONE: Child = Child { homes: [Fragment::NONE; 2], checksum: 0 };

    /// Whether there is no such page.
    pub fn is_none(&self) -> bool {
        self.homes[0] == Fragment::NONE
    }
}

const HEAD_BYTES: usize = size_of::<Head>();
const PAGE_BYTES: usize = BLOCK_BYTES as usize;
const SLOTS_START: usize = HEAD_BYTES + GROUPS_PER_PAGE * size_of::<GroupHeader>();
const SLOT_BYTES: usize = size_of::<FirstSlot>();

const _: () = assert!(HEAD_BYTES == 64);
const _: () = assert!(size_of::<InodeRecord>() == 128);
const _: () = assert!(size_of::<SecondSlot>() == SLOT_BYTES);
const _: () = assert!(HEAD_BYTES + INODES_PER_PAGE * size_of::<InodeRecord>() <= PAGE_BYTES);
const _: () = assert!(HEAD_BYTES + CHILDREN_PER_PAGE * size_of::<Child>() == PAGE_BYTES);
const _: () = assert!(SLOTS_START + GROUPS_PER_PAGE * EXTENTS_PER_GROUP * SLOT_BYTES <= PAGE_BYTES);

/// Which page of a domain, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageAddress {
    /// Id of the pool.
    pub pool: [u8; 16],
    /// The domain.
    pub domain: u16,
    /// 0 for inodes and extents.
    pub level: u32,
    /// Its number on that level.
    pub number: u32,
    /// Where it lies.
    pub home: Fragment,
}

/// Why a page cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// It is not the page that its parent names: rotten, stale, or of another place.
    #[error("the page's checksum is {found:#018x}; its parent says {expected:#018x}")]
    Checksum {
        /// Of the parent.
        expected: u64,
        /// Of what was read.
        found: u64,
    },
    /// It verifies and is another page: a bug, not a fault of the disk.
    #[error("the page is {found}, not {expected}")]
    Identity {
        /// What it should be.
        expected: String,
        /// What it says.
        found: String,
    },
    /// An extent of it contradicts itself.
    #[error("extent {index} of inode {inode}: {source}")]
    Extent {
        /// Its inode.
        inode: u64,
        /// Its index.
        index: u64,
        /// How.
        source: FragmentsMismatch,
    },
}

impl FirstSlot {
    /// No extent, since that commit.
    pub fn empty(generation: u64) -> FirstSlot {
        FirstSlot { generation, ..FirstSlot::zeroed() }
    }

    /// The first slot of an extent, and the second if it needs one.
    pub fn split(generation: u64, extent: &Extent) -> (FirstSlot, Option<SecondSlot>) {
        let fragments = extent.fragments();
        let list = fragments.as_slice();
        let mut first = FirstSlot {
            generation,
            info: u64::from(extent.mask()) | (list.len() as u64) << 16,
            fragments: [Fragment::NONE; FRAGMENTS_FIRST],
            checksums: extent.checksums,
        };
        let (here, there) = list.split_at(list.len().min(FRAGMENTS_FIRST));
        first.fragments[..here.len()].copy_from_slice(here);
        if there.is_empty() {
            return (first, None);
        }
        let fragments = [Fragment::NONE; FRAGMENTS_SECOND];
        let mut second = SecondSlot { generation, zero: 0, fragments };
        second.fragments[..there.len()].copy_from_slice(there);
        (first, Some(second))
    }

    /// Which blocks exist.
    pub fn mask(&self) -> u16 {
        self.info as u16
    }

    /// How many fragments it has, those of the second slot included.
    pub fn fragment_count(&self) -> usize {
        (self.info >> 16 & 0xff) as usize
    }

    /// Whether it needs a second slot.
    pub fn needs_second(&self) -> bool {
        self.fragment_count() > FRAGMENTS_FIRST
    }

    /// The extent.
    ///
    /// # Errors
    /// When mask and fragments do not fit each other, or the second slot is missing.
    pub fn join(&self, second: Option<&SecondSlot>) -> Result<Extent, FragmentsMismatch> {
        let more: &[Fragment] = second.map_or(&[], |second| &second.fragments);
        let fragments = self.fragments.iter().chain(more).copied().take(self.fragment_count());
        let mask = self.mask();
        let exist = (0..EXTENT_BLOCKS).filter(|index| mask & 1 << index != 0);
        Extent::assemble(mask, fragments, exist.map(|index| self.checksums[index]))
    }
}

impl SecondSlot {
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.fragments[0] == Fragment::NONE
    }
}

/// A page as it lies on the disk, on its way there or from there.
pub struct PageBytes<'a>(pub &'a mut [u8]);

impl PageBytes<'_> {
    /// Zeroes all but what [`PageBytes::seal`] writes.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Writes an inode.
    pub fn put_inode(&mut self, index: usize, inode: &InodeRecord) {
        self.put(HEAD_BYTES + index * size_of::<InodeRecord>(), inode);
    }

    /// Writes a group's header.
    pub fn put_group(&mut self, index: usize, header: &GroupHeader) {
        self.put(HEAD_BYTES + index * size_of::<GroupHeader>(), header);
    }

    /// Writes a slot of a group: a [`FirstSlot`] or a [`SecondSlot`].
    pub fn put_slot<S: Pod>(&mut self, group: usize, slot: usize, value: &S) {
        const { assert!(size_of::<S>() == SLOT_BYTES) };
        self.put(SLOTS_START + (group * EXTENTS_PER_GROUP + slot) * SLOT_BYTES, value);
    }

    /// Writes a child.
    pub fn put_child(&mut self, index: usize, child: &Child) {
        self.put(HEAD_BYTES + index * size_of::<Child>(), child);
    }

    fn put<T: Pod>(&mut self, at: usize, value: &T) {
        self.0[at..at + size_of::<T>()].copy_from_slice(bytemuck::bytes_of(value));
    }

    /// Writes the head; what it returns goes to the parent.
    pub fn seal(&mut self, kind: PageKind, address: &PageAddress, sequence: u64) -> u64 {
        let PageAddress { domain, number, level, .. } = *address;
        let (kind, zero) = (kind.number(), [0; 4]);
        let mut head =
            Head { magic: MAGIC, kind, domain, number, level, sequence, checksum: 0, zero };
        self.put(0, &head);
        head.checksum = checksum(address, self.0);
        self.put(0, &head);
        head.checksum
    }
}

/// A page that verified.
pub struct Page<'a> {
    bytes: &'a [u8],
    /// What it holds.
    pub kind: PageKind,
    /// Records up to this one are in it.
    pub sequence: u64,
}

impl<'a> Page<'a> {
    /// Looks at what was read from a page's home.
    ///
    /// # Errors
    /// When it is not the page that the parent's `checksum` stands for.
    pub fn open(
        bytes: &'a [u8],
        address: &PageAddress,
        expected: u64,
    ) -> Result<Page<'a>, PageError> {
        let head: Head = read(bytes, 0);
        let found = checksum(address, bytes);
        if found != expected || head.checksum != expected {
            return Err(PageError::Checksum { expected, found });
        }
        let kind = match head.kind {
            1 => Some(PageKind::Inodes),
            2 => Some(PageKind::Extents),
            3 => Some(PageKind::Parent),
            _ => None,
        };
        let same = head.magic == MAGIC
            && (head.domain, head.number, head.level)
                == (address.domain, address.number, address.level);
        match kind {
            Some(kind) if same && (kind == PageKind::Parent) == (address.level > 0) => {
                Ok(Page { bytes, kind, sequence: head.sequence })
            }
            _ => Err(PageError::Identity {
                expected: name(address.domain, address.level, address.number),
                found: name(head.domain, head.level, head.number),
            }),
        }
    }

    /// An inode of it.
    pub fn inode(&self, index: usize) -> InodeRecord {
        read(self.bytes, HEAD_BYTES + index * size_of::<InodeRecord>())
    }

    /// A group's header.
    pub fn group(&self, index: usize) -> GroupHeader {
        read(self.bytes, HEAD_BYTES + index * size_of::<GroupHeader>())
    }

    /// A slot of a group: a [`FirstSlot`] or a [`SecondSlot`], as the group's part says.
    pub fn slot<S: Pod>(&self, group: usize, slot: usize) -> S {
        const { assert!(size_of::<S>() == SLOT_BYTES) };
        read(self.bytes, SLOTS_START + (group * EXTENTS_PER_GROUP + slot) * SLOT_BYTES)
    }

    /// A child.
    pub fn child(&self, index: usize) -> Child {
        read(self.bytes, HEAD_BYTES + index * size_of::<Child>())
    }
}

fn name(domain: u16, level: u32, number: u32) -> String {
    format!("page {number} of level {level} of domain {domain}")
}

fn read<T: Pod>(bytes: &[u8], at: usize) -> T {
    match bytes.get(at..at + size_of::<T>()) {
        Some(bytes) => bytemuck::pod_read_unaligned(bytes),
        None => T::zeroed(),
    }
}

fn checksum(address: &PageAddress, bytes: &[u8]) -> u64 {
    let at = std::mem::offset_of!(Head, checksum);
    let context = Context {
        pool: address.pool,
        disk: address.home.slot(),
        zone: Zone::Data.number(),
        address: address.home.start_block() * BLOCK_BYTES,
        incarnation: 0,
    };
    let (before, after) = bytes.split_at(at.min(bytes.len()));
    metadata_checksum(&context, &[before, after.get(8..).unwrap_or(&[])])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::extent::Place;

    fn address() -> PageAddress {
        let home = Fragment::new(0, 700, 1).unwrap();
        PageAddress { pool: [5; 16], domain: 1, level: 0, number: 9, home }
    }

    fn scattered() -> Extent {
        let mut extent = Extent::HOLE;
        for index in 0..EXTENT_BLOCKS {
            extent.places[index] = Place::new(0, 1000 - 10 * index as u64);
            extent.checksums[index] = index as u32 + 1;
        }
        extent
    }

    #[test]
    fn a_page_of_groups_comes_back() {
        let mut bytes = vec![0xff; 4096];
        let mut page = PageBytes(&mut bytes);
        page.clear();
        let extent = scattered();
        let (first, second) = FirstSlot::split(77, &extent);
        let header = GroupHeader { inode: 3, group: 2, part: 0, zero: [0; 2] };
        page.put_group(0, &header);
        page.put_slot(0, 1, &first);
        page.put_group(7, &GroupHeader { part: 1, ..header });
        page.put_slot(7, 1, &second.unwrap());
        let sum = page.seal(PageKind::Extents, &address(), 80);
        let page = Page::open(&bytes, &address(), sum).unwrap();
        assert_eq!((page.kind, page.sequence, page.group(0)), (PageKind::Extents, 80, header));
        let (first, second): (FirstSlot, SecondSlot) = (page.slot(0, 1), page.slot(7, 1));
        assert_eq!((first.generation, second.generation), (77, 77));
        assert_eq!(first.join(Some(&second)), Ok(extent));
        assert!(first.join(None).is_err());
        assert_eq!(page.slot::<FirstSlot>(0, 0).generation, 0);
    }

    #[test]
    fn every_flipped_bit_and_every_other_place_is_seen() {
        let mut bytes = vec![0; 4096];
        let sum = PageBytes(&mut bytes).seal(PageKind::Inodes, &address(), 1);
        for bit in (0..4096 * 8).step_by(7) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Page::open(&bytes, &address(), sum).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let elsewhere = PageAddress { home: Fragment::new(0, 701, 1).unwrap(), ..address() };
        assert!(matches!(Page::open(&bytes, &elsewhere, sum), Err(PageError::Checksum { .. })));
        let other = PageAddress { number: 10, ..address() };
        assert!(matches!(Page::open(&bytes, &other, sum), Err(PageError::Identity { .. })));
        assert!(Page::open(&[], &address(), sum).is_err());
    }

    #[test]
    fn an_older_page_in_its_place_does_not_verify() {
        let mut old = vec![0; 4096];
        PageBytes(&mut old).seal(PageKind::Inodes, &address(), 1);
        let mut new = vec![0; 4096];
        let sum = PageBytes(&mut new).seal(PageKind::Inodes, &address(), 2);
        assert!(Page::open(&old, &address(), sum).is_err());
    }
}
