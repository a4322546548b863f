//! Pages as a checkpoint leaves them that was made while commits went on, and pages that nobody
//! can have left: what records settle, and what remains.

use super::*;
use crate::format::extent::Place;
use crate::format::fragment::Fragment;
use crate::format::page::{GroupHeader, Page, PageAddress, PageBytes};
use crate::format::record::{Changes, Cut, ExtentPut};
use crate::machine::mapping::PagePolicy;

/// Records up to 10 are in the pages, whose record is 20.
const WRITTEN: Written = Written { through: 10, sequence: 20, next_inode: 9 };
/// The inode, on page 0.
const INODE: u64 = 3;

/// An extent of as many fragments as blocks.
fn extent(blocks: usize, from: u64) -> Extent {
    let mut extent = Extent::HOLE;
    for block in 0..blocks {
        extent.places[block] = Place::new(0, from + 2 * block as u64);
        extent.checksums[block] = 1;
    }
    extent
}

fn inode(id: u64, generation: u64) -> InodeRecord {
    InodeRecord { id, generation, size_bytes: 1 << 20, created: 1, ..InodeRecord::zeroed() }
}

/// A group of a page: its inode, its part, and one extent in slot 0 as of a record, if any.
type Group = (u64, u32, u64, Option<Extent>);

/// A table of an inode page and of extent pages, a group on each.
fn loaded(inodes: &[InodeRecord], groups: &[Group]) -> Table {
    try_loaded(&[inodes], groups).unwrap()
}

/// The same of several inode pages.
fn try_loaded(pages: &[&[InodeRecord]], groups: &[Group]) -> Result<Table, TableError> {
    let mut table = Table::new(PagePolicy::Normal, 4);
    table.begin_loading(WRITTEN);
    let home = |number: u64| [number, number + 100].map(|n| Fragment::new(0, n + 1, 1).unwrap());
    let read = |number: usize, fill: &dyn Fn(&mut PageBytes<'_>), kind| {
        let mut bytes = vec![0; 4096];
        let mut page = PageBytes(&mut bytes);
        page.clear();
        fill(&mut page);
        let homes = home(number as u64);
        let (pool, domain, level, number) = ([0; 16], 0, 0, number as u32);
        let address = PageAddress { pool, domain, level, number, home: homes[0] };
        let checksum = page.seal(kind, &address, WRITTEN.through);
        (bytes, address, Child { homes, checksum })
    };
    for (number, inodes) in pages.iter().enumerate() {
        let fill = |page: &mut PageBytes<'_>| {
            inodes.iter().enumerate().for_each(|(n, inode)| page.put_inode(n, inode));
        };
        let (bytes, address, child) = read(number, &fill, PageKind::Inodes);
        table.load_page(number as u32, child, PageKind::Inodes)?;
        let page = Page::open(&bytes, &address, child.checksum).unwrap();
        table.load_inodes(number as u32, Some(&page))?;
    }
    for (n, (inode, part, generation, content)) in groups.iter().enumerate() {
        let fill = |page: &mut PageBytes<'_>| {
            page.put_group(0, &GroupHeader { inode: *inode, group: 0, part: *part, zero: [0; 2] });
            let slots = content.map(|extent| FirstSlot::split(*generation, &extent));
            match (slots, part) {
                (None, _) => page.put_slot(0, 0, &FirstSlot::empty(*generation)),
                (Some((first, _)), 0) => page.put_slot(0, 0, &first),
                (Some((_, second)), _) => page.put_slot(0, 0, &second.unwrap()),
            }
        };
        let number = pages.len() + n;
        let (bytes, address, child) = read(number, &fill, PageKind::Extents);
        table.load_page(number as u32, child, PageKind::Extents)?;
        let page = Page::open(&bytes, &address, child.checksum).unwrap();
        table.load_extents(number as u32, &page)?;
    }
    table.finish_loading();
    Ok(table)
}

fn put(inode_id: u64, sequence: u64, extent: Extent) -> (u64, Changes) {
    let put = ExtentPut { inode: inode_id, index: 0, extent, fresh: 0, inline: 0 };
    let inodes = vec![inode(inode_id, sequence)];
    (sequence, Changes { inodes, extents: vec![put], ..Changes::default() })
}

fn cut(sequence: u64) -> (u64, Changes) {
    let cuts = vec![Cut { inode: INODE, from: 0, to: 4 }];
    (sequence, Changes { cuts, inodes: vec![inode(INODE, sequence)], ..Changes::default() })
}

fn delete(inode: u64, sequence: u64) -> (u64, Changes) {
    (sequence, Changes { deletes: vec![inode], ..Changes::default() })
}

/// What is left in doubt when these records were applied.
fn left(table: &mut Table, records: &[(u64, Changes)]) -> Option<(String, &'static str)> {
    for (sequence, changes) in records {
        table.apply(*sequence, changes).unwrap();
    }
    table.finish_replay().err().map(|(what, doubt)| (what, doubt.what))
}

const WITHOUT_SECOND: &str = "a first slot without its second";
const WITHOUT_FIRST: &str = "a second slot without its first";
const NO_INODE: &str = "it is of an inode that there is not";

/// Rows: what pages say, and why that cannot be so.
fn doubted() -> Vec<(Vec<InodeRecord>, Vec<Group>, &'static str)> {
    let (few, many) = (Some(extent(2, 100)), Some(extent(9, 200)));
    let known = || vec![inode(INODE, 9)];
    vec![
        (known(), vec![(INODE, 0, 8, many)], WITHOUT_SECOND),
        (known(), vec![(INODE, 1, 8, many)], WITHOUT_FIRST),
        (known(), vec![(INODE, 0, 8, None), (INODE, 1, 8, many)], WITHOUT_FIRST),
        (
            known(),
            vec![(INODE, 0, 8, few), (INODE, 1, 8, many)],
            "a second slot that the first does not need",
        ),
        (
            known(),
            vec![(INODE, 0, 8, many), (INODE, 1, 7, many)],
            "first and second slot are of different generations",
        ),
        (known(), vec![(INODE, 0, 8, few), (INODE, 0, 7, few)], "its group is on two pages"),
        (known(), vec![(INODE, 0, 12, few)], "it is newer than the checkpoint"),
        (vec![], vec![(INODE, 0, 8, few)], NO_INODE),
    ]
}

#[test]
fn what_is_half_is_left_when_no_record_says_it_again() {
    for (inodes, groups, what) in doubted() {
        let mut table = loaded(&inodes, &groups);
        assert_eq!(left(&mut table, &[]), Some(("extent 0 of inode 3".into(), what)));
    }
}

/// A later record that puts it, that cuts it, that deletes its inode; of few blocks and of many.
///
/// Cause: a page that something was taken out of counted as what is durable. Harm: it stayed in
/// the tree, and when the record that explained it was not needed any more, nothing explained it.
/// Fix: it is dirty.
#[test]
fn a_later_record_settles_what_is_half() {
    let settling = [
        put(INODE, 15, extent(1, 400)),
        put(INODE, 15, extent(12, 400)),
        cut(15),
        delete(INODE, 15),
    ];
    for (inodes, groups, what) in doubted() {
        for (number, record) in settling.iter().enumerate() {
            let mut table = loaded(&inodes, &groups);
            let left = left(&mut table, std::slice::from_ref(record));
            assert_eq!(left, None, "{what}: {number}");
            let expected = [Some(extent(1, 400)), Some(extent(12, 400)), None, None];
            let held = table.extent(INODE, 0).map(|held| held.extent);
            assert_eq!(held, expected[number], "{what}: {number}");
            assert_eq!(table.extents(), u64::from(held.is_some()), "{what}: {number}");
            // What its page had is gone from there with the next checkpoint.
            for page in 1..=groups.len() as u32 {
                assert!(table.pages.changed().contains(&page), "{what}: {number}: page {page}");
            }
        }
    }
}

/// A page has something of record 12, so that record 12 says it; record 11 alone does not do.
///
/// Cause: record 11 was applied to a second slot that was copied after record 12, where the first
/// was copied before it. Harm: a panic at opening, because a generation would have fallen. Fix:
/// what is ahead of a record is left to the later one.
#[test]
fn an_older_record_does_not_settle_what_a_later_one_made() {
    let many = extent(9, 200);
    let pages: [Vec<Group>; 4] = [
        vec![(INODE, 0, 12, Some(many))],
        vec![(INODE, 0, 9, Some(extent(1, 50))), (INODE, 1, 12, Some(many))],
        vec![(INODE, 0, 12, None)],
        vec![(INODE, 0, 9, None), (INODE, 1, 12, None)],
    ];
    for groups in pages {
        let mut table = loaded(&[inode(INODE, 9)], &groups);
        let older = put(INODE, 11, extent(10, 300));
        assert!(left(&mut table, std::slice::from_ref(&older)).is_some(), "{groups:?}");
        for newer in [put(INODE, 12, many), cut(12), cut(13)] {
            let mut table = loaded(&[inode(INODE, 9)], &groups);
            assert_eq!(left(&mut table, &[older.clone(), newer]), None, "{groups:?}");
        }
    }
}

#[test]
fn an_inode_that_is_newer_than_the_checkpoint_is_said_again() {
    let known = [inode(INODE, 12)];
    let left_after = |records: &[(u64, Changes)]| left(&mut loaded(&known, &[]), records);
    let what = "it is newer than the checkpoint";
    assert_eq!(left_after(&[]), Some(("inode 3".into(), what)));
    assert_eq!(left_after(&[put(4, 12, extent(1, 50))]), Some(("inode 3".into(), what)));
    assert_eq!(left_after(&[put(INODE, 12, extent(1, 50))]), None);
    assert_eq!(left_after(&[delete(INODE, 13)]), None);
    // The same record says something else.
    let mut other = put(INODE, 12, extent(1, 50));
    other.1.inodes[0].size_bytes = 7;
    let applied = loaded(&known, &[]).apply(12, &other.1);
    assert!(matches!(applied, Err(TableError::UnlikeInode { inode: INODE })), "{applied:?}");
}

#[test]
fn a_record_and_a_page_of_it_say_the_same() {
    let groups = [(INODE, 0, 12, Some(extent(2, 100)))];
    let mut table = loaded(&[inode(INODE, 9)], &groups);
    assert_eq!(left(&mut table, &[put(INODE, 12, extent(2, 100))]), None);
    for other in [extent(2, 104), extent(3, 100), Extent::HOLE] {
        let (sequence, changes) = put(INODE, 12, other);
        let applied = loaded(&[inode(INODE, 9)], &groups).apply(sequence, &changes);
        assert!(matches!(applied, Err(TableError::UnlikeExtent { .. })), "{applied:?}");
    }
}

/// Cause: a deed was taken away and written again, at another place, between the copies of two
/// pages. Harm: it was on both, and the pool could not be opened. Fix: the later one is it, and
/// the place of the other is free.
#[test]
fn what_is_no_inode_may_be_on_a_page_that_was_copied_before_it_was_put_again() {
    let deed = crate::format::deed::GroupId { slot: 0, group: 4 }.deed_id();
    let (older, newer) = (inode(deed, 8), inode(deed, 14));
    let records = [delete(deed, 12), (14, Changes { inodes: vec![newer], ..Changes::default() })];
    for pages in [[older, newer], [newer, older]] {
        let load = || try_loaded(&[&pages[..1], &pages[1..]], &[]).unwrap();
        let mut table = load();
        let of_older = pages.iter().position(|record| *record == older).unwrap() as u32;
        assert!(table.pages.changed().contains(&of_older), "it is written without it");
        assert_eq!(left(&mut table, &records), None);
        assert_eq!(table.deeds().collect::<Vec<_>>(), [&newer]);
        let mut table = load();
        assert!(left(&mut table, &records[..1]).is_some(), "no record says the later one");
        // Every place has one owner.
        let mut table = load();
        for id in (1..).map(|n| INODE + n).take(2 * INODES_PER_PAGE - 1) {
            table.put_inode(&inode(id, 15)).unwrap();
        }
        assert_eq!(table.pages.count(0), 2);
    }
    let never = [
        (inode(deed, 8), inode(deed, 9)),
        (inode(deed, 14), inode(deed, 14)),
        (inode(INODE, 8), inode(INODE, 14)),
    ];
    for (first, second) in never {
        let loaded = try_loaded(&[&[first], &[second]], &[]);
        assert!(matches!(loaded, Err(TableError::TwiceInode { .. })), "{loaded:?}");
    }
    let one_page = try_loaded(&[&[older, newer]], &[]);
    assert!(matches!(one_page, Err(TableError::TwiceInode { .. })), "{one_page:?}");
}

#[test]
fn what_is_no_inode_has_no_extents() {
    let deed = crate::format::deed::GroupId { slot: 0, group: 4 }.deed_id();
    for content in [None, Some(extent(2, 100))] {
        let loaded = try_loaded(&[&[inode(deed, 8)]], &[(deed, 0, 8, content)]);
        assert!(matches!(loaded, Err(TableError::Strange { .. })), "{loaded:?}");
    }
}
