//! Where everything lies on a disk of a pool.
//!
//! A disk is cut into zones, in this order; every zone starts and ends on a block of 4 KiB:
//!
//! | zone | bytes | what |
//! | --- | --- | --- |
//! | head labels | 2 MiB | label copies 0 and 1, at its start and in its middle |
//! | journals | `journal_bytes` for each domain | rings of records, one after another |
//! | data | the rest, in whole allocation groups | data blocks, and both homes of metadata pages |
//! | unused | less than one round of groups | |
//! | tail labels | 2 MiB | label copies 2 and 3 |
//!
//! Every disk of a pool has room for the journals of all domains; that of domain `d` is on the disk
//! in slot `d % disks`, and the rings of the other disks are not read.
//!
//! Allocation group `g` of each disk is of domain `g % domains`, which has it as long as no
//! [deed](crate::format::deed) says otherwise. The blocks of a domain's own groups on a disk have
//! numbers from 0 on, its **space** there. Blocks that are neighbours in the space are neighbours
//! on the disk but at the end of a group.

use std::ops::Range;

/// Unit of allocation, of checksums, and of all metadata, bytes.
pub const BLOCK_BYTES: u64 = 4096;
/// Unit of the extent map, bytes.
pub const EXTENT_BYTES: u64 = 65_536;
/// Blocks of an extent.
pub const EXTENT_BLOCKS: usize = (EXTENT_BYTES / BLOCK_BYTES) as usize;
/// Most bytes of a disk: 2^48.
pub const DISK_BYTES_MAX: u64 = 1 << 48;
/// Bytes of each of the two label zones.
pub const LABEL_ZONE_BYTES: u64 = 2 << 20;
/// Copies of the label.
pub const LABEL_COPIES: usize = 4;
/// Most commit domains of a pool.
pub const DOMAINS_MAX: u16 = 64;
/// Least bytes of a domain's journal.
pub const JOURNAL_BYTES_MIN: u64 = 1 << 20;
/// Most bytes of a domain's journal.
pub const JOURNAL_BYTES_MAX: u64 = 4 << 30;
/// Least blocks of an allocation group: 1 MiB.
const GROUP_BLOCKS_MIN: u64 = 256;
/// Most blocks of an allocation group: 1 GiB.
const GROUP_BLOCKS_MAX: u64 = 262_144;
/// Groups that a domain has at least, if its share of the disk is large enough.
const GROUPS_WANTED: u64 = 16;

const _: () = assert!(EXTENT_BLOCKS == 16, "an extent's block mask has 16 bits");
const _: () = assert!(LABEL_ZONE_BYTES.is_multiple_of(2 * BLOCK_BYTES));
const _: () = assert!(JOURNAL_BYTES_MIN.is_multiple_of(BLOCK_BYTES));

/// A part of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Label copies 0 and 1.
    HeadLabels,
    /// The journal of a domain.
    Journal(u16),
    /// Data and metadata pages.
    Data,
    /// Label copies 2 and 3.
    TailLabels,
}

impl Zone {
    /// The number that stands for the zone in the context of checksums.
    pub fn number(self) -> u16 {
        match self {
            Zone::HeadLabels => 1,
            Zone::Journal(_) => 2,
            Zone::Data => 3,
            Zone::TailLabels => 4,
        }
    }
}

/// Why a disk cannot be laid out so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// It has no room for labels, journals and data.
    #[error(
        "{disk_bytes} bytes are too few: {domains} domains with journals of {journal_bytes} bytes \
         need at least {needed_bytes} bytes"
    )]
    TooSmall {
        /// Size of the disk.
        disk_bytes: u64,
        /// Domains asked for.
        domains: u16,
        /// Journal bytes asked for.
        journal_bytes: u64,
        /// What would be enough.
        needed_bytes: u64,
    },
    /// It is larger than the format can address.
    #[error("{disk_bytes} bytes are more than the {DISK_BYTES_MAX} that the format can address")]
    TooLarge {
        /// Size of the disk.
        disk_bytes: u64,
    },
    /// A number out of its range.
    #[error("{field} is {value}; it must be {range}")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        range: &'static str,
    },
}

/// The zones of one disk. Every number of it is in the label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    disk_bytes: u64,
    domains: u16,
    journal_bytes: u64,
    group_blocks: u64,
}

impl Layout {
    /// Lays out a disk, with groups of a fitting size.
    ///
    /// # Errors
    /// When it is too small, too large, or a number is out of its range.
    pub fn plan(disk_bytes: u64, domains: u16, journal_bytes: u64) -> Result<Layout, LayoutError> {
        check_ranges(disk_bytes, domains, journal_bytes)?;
        let bytes = disk_bytes / BLOCK_BYTES * BLOCK_BYTES;
        let taken = 2 * LABEL_ZONE_BYTES + u64::from(domains) * journal_bytes;
        let data_blocks = bytes.saturating_sub(taken) / BLOCK_BYTES;
        let share = data_blocks / u64::from(domains) / GROUPS_WANTED;
        let whole_extents = share / EXTENT_BLOCKS as u64 * EXTENT_BLOCKS as u64;
        let group_blocks = whole_extents.clamp(GROUP_BLOCKS_MIN, GROUP_BLOCKS_MAX);
        Layout::new(disk_bytes, domains, journal_bytes, group_blocks)
    }

    /// The layout of these numbers, as a label gives them.
    ///
    /// # Errors
    /// As [`Layout::plan`].
    pub fn new(
        disk_bytes: u64,
        domains: u16,
        journal_bytes: u64,
        group_blocks: u64,
    ) -> Result<Layout, LayoutError> {
        check_ranges(disk_bytes, domains, journal_bytes)?;
        let in_range = (GROUP_BLOCKS_MIN..=GROUP_BLOCKS_MAX).contains(&group_blocks);
        if !in_range || !group_blocks.is_multiple_of(EXTENT_BLOCKS as u64) {
            let (field, range) = ("group_blocks", "256 to 262,144, whole extents");
            return Err(LayoutError::OutOfRange { field, value: group_blocks, range });
        }
        let layout = Layout { disk_bytes, domains, journal_bytes, group_blocks };
        let round = u64::from(domains) * group_blocks * BLOCK_BYTES;
        let needed_bytes = layout.data_start() + round + LABEL_ZONE_BYTES;
        if disk_bytes < needed_bytes {
            let too_small =
                LayoutError::TooSmall { disk_bytes, domains, journal_bytes, needed_bytes };
            return Err(too_small);
        }
        Ok(layout)
    }

    /// The same on a disk that is larger: what was there stays where it is, the labels at the end
    /// move, and groups come before them.
    ///
    /// # Errors
    /// As [`Layout::plan`].
    pub fn for_disk(&self, disk_bytes: u64) -> Result<Layout, LayoutError> {
        Layout::new(disk_bytes, self.domains, self.journal_bytes, self.group_blocks)
    }

    /// Bytes of the disk that the layout was made for.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Commit domains.
    pub fn domains(&self) -> u16 {
        self.domains
    }

    /// Bytes of each domain's journal.
    pub fn journal_bytes(&self) -> u64 {
        self.journal_bytes
    }

    /// Blocks of an allocation group.
    pub fn group_blocks(&self) -> u64 {
        self.group_blocks
    }

    /// The bytes of a zone.
    pub fn zone(&self, zone: Zone) -> Range<u64> {
        let journals = LABEL_ZONE_BYTES;
        match zone {
            Zone::HeadLabels => 0..LABEL_ZONE_BYTES,
            Zone::Journal(domain) => {
                let start = journals + u64::from(domain) * self.journal_bytes;
                start..start + self.journal_bytes
            }
            Zone::Data => {
                let blocks = u64::from(self.domains) * self.space_blocks();
                self.data_start()..self.data_start() + blocks * BLOCK_BYTES
            }
            Zone::TailLabels => {
                let start = tail_start(self.disk_bytes);
                start..start + LABEL_ZONE_BYTES
            }
        }
    }

    fn data_start(&self) -> u64 {
        LABEL_ZONE_BYTES + u64::from(self.domains) * self.journal_bytes
    }

    /// Allocation groups of each domain.
    pub fn groups_per_domain(&self) -> u64 {
        let data = tail_start(self.disk_bytes) - self.data_start();
        data / BLOCK_BYTES / self.group_blocks / u64::from(self.domains)
    }

    /// Blocks of a domain's space.
    pub fn space_blocks(&self) -> u64 {
        self.groups_per_domain() * self.group_blocks
    }

    /// Allocation groups of the disk.
    pub fn groups(&self) -> u64 {
        self.groups_per_domain() * u64::from(self.domains)
    }

    /// Blocks of all groups.
    pub fn data_blocks(&self) -> u64 {
        self.groups() * self.group_blocks
    }

    /// The first block of a group.
    pub fn group_start(&self, group: u64) -> u64 {
        self.data_start() / BLOCK_BYTES + group * self.group_blocks
    }

    /// The group that a block of the disk is in, and its number there; none outside the data zone.
    pub fn group_of(&self, disk_block: u64) -> Option<(u64, u64)> {
        let data = self.zone(Zone::Data);
        let at = disk_block.checked_mul(BLOCK_BYTES)?;
        if !data.contains(&at) {
            return None;
        }
        let number = (at - data.start) / BLOCK_BYTES;
        Some((number / self.group_blocks, number % self.group_blocks))
    }

    /// The block of the disk that is block `number` of a domain's space.
    pub fn disk_block(&self, domain: u16, number: u64) -> u64 {
        let (group, within) = (number / self.group_blocks, number % self.group_blocks);
        let group = group * u64::from(self.domains) + u64::from(domain);
        self.group_start(group) + within
    }

    /// Whose space a block of the disk is in, and its number there; none outside the data zone.
    pub fn space_block(&self, disk_block: u64) -> Option<(u16, u64)> {
        let (group, within) = self.group_of(disk_block)?;
        let domains = u64::from(self.domains);
        Some(((group % domains) as u16, group / domains * self.group_blocks + within))
    }

    /// How many blocks from `number` on are neighbours on the disk too.
    pub fn contiguous_from(&self, number: u64) -> u64 {
        match self.domains {
            1 => self.space_blocks() - number,
            _ => self.group_blocks - number % self.group_blocks,
        }
    }
}

/// Where the copies of the label lie on a disk of this size: at its start, 1 MiB after it, and
/// likewise before its end.
pub fn label_offsets(disk_bytes: u64) -> [u64; LABEL_COPIES] {
    let tail = tail_start(disk_bytes);
    [0, LABEL_ZONE_BYTES / 2, tail, tail + LABEL_ZONE_BYTES / 2]
}

fn tail_start(disk_bytes: u64) -> u64 {
    // A disk that is too small for a pool may be looked at all the same.
    (disk_bytes / BLOCK_BYTES * BLOCK_BYTES).saturating_sub(LABEL_ZONE_BYTES)
}

fn check_ranges(disk_bytes: u64, domains: u16, journal_bytes: u64) -> Result<(), LayoutError> {
    if disk_bytes > DISK_BYTES_MAX {
        return Err(LayoutError::TooLarge { disk_bytes });
    }
    if !(1..=DOMAINS_MAX).contains(&domains) {
        let (field, value, range) = ("domains", u64::from(domains), "1 to 64");
        return Err(LayoutError::OutOfRange { field, value, range });
    }
    let in_range = (JOURNAL_BYTES_MIN..=JOURNAL_BYTES_MAX).contains(&journal_bytes);
    if !in_range || !journal_bytes.is_multiple_of(BLOCK_BYTES) {
        let range = "1 MiB to 4 GiB, a multiple of 4 KiB";
        let (field, value) = ("journal_bytes", journal_bytes);
        return Err(LayoutError::OutOfRange { field, value, range });
    }
    let needed_bytes = 2 * LABEL_ZONE_BYTES
        + u64::from(domains) * (journal_bytes + GROUP_BLOCKS_MIN * BLOCK_BYTES);
    if disk_bytes < needed_bytes {
        return Err(LayoutError::TooSmall { disk_bytes, domains, journal_bytes, needed_bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_follow_each_other_and_stay_inside() {
        for (disk, domains, journal) in [
            (8 << 20, 1, 1 << 20),
            (64 << 20, 3, 1 << 20),
            ((1 << 48) - 4096, 64, 4 << 30),
            (10 << 30, 7, 64 << 20),
        ] {
            let layout = Layout::plan(disk + 4095, domains, journal).unwrap();
            let mut end = layout.zone(Zone::HeadLabels).end;
            for domain in 0..domains {
                let journal = layout.zone(Zone::Journal(domain));
                assert_eq!(journal.start, end);
                end = journal.end;
            }
            let data = layout.zone(Zone::Data);
            assert_eq!(data.start, end);
            let tail = layout.zone(Zone::TailLabels);
            assert!(data.end > data.start && data.end <= tail.start && tail.end <= disk + 4095);
            // What is unused is less than one group of each domain.
            let round = u64::from(domains) * layout.group_blocks() * BLOCK_BYTES;
            assert!(tail.start - data.end < round);
        }
    }

    #[test]
    fn every_block_of_the_data_zone_is_in_one_space_once() {
        let layout = Layout::plan(24 << 20, 3, 1 << 20).unwrap();
        let data = layout.zone(Zone::Data);
        let mut seen = std::collections::BTreeSet::new();
        for domain in 0..3 {
            for number in 0..layout.space_blocks() {
                let block = layout.disk_block(domain, number);
                assert_eq!(layout.space_block(block), Some((domain, number)));
                assert!(seen.insert(block));
                if layout.contiguous_from(number) > 1 {
                    assert_eq!(layout.disk_block(domain, number + 1), block + 1);
                }
            }
        }
        assert_eq!(seen.len() as u64, (data.end - data.start) / BLOCK_BYTES);
        assert_eq!(layout.space_block(data.start / BLOCK_BYTES - 1), None);
        assert_eq!(layout.space_block(data.end / BLOCK_BYTES), None);
        assert_eq!(layout.space_block(u64::MAX), None);
    }

    #[test]
    fn what_cannot_be_says_what_would_be_enough() {
        let Err(LayoutError::TooSmall { needed_bytes, .. }) = Layout::plan(4 << 20, 2, 1 << 20)
        else {
            panic!("4 MiB are labels alone");
        };
        assert!(Layout::plan(needed_bytes, 2, 1 << 20).is_ok());
        assert!(Layout::plan(needed_bytes - 1, 2, 1 << 20).is_err());
        assert!(Layout::plan(1 << 30, 0, 1 << 20).is_err());
        assert!(Layout::plan(1 << 30, 65, 1 << 20).is_err());
        assert!(Layout::plan(1 << 30, 1, 1 << 19).is_err());
        assert!(Layout::plan(u64::MAX, 1, 1 << 20).is_err());
        assert!(Layout::new(1 << 30, 1, 1 << 20, 257).is_err());
    }

    #[test]
    fn label_copies_are_apart() {
        let offsets = label_offsets(64 << 20);
        assert!(offsets.windows(2).all(|pair| pair[1] - pair[0] >= 1 << 20));
        assert!(offsets[3] + 4096 <= 64 << 20);
    }

    /// Cause: the tail's start was a difference that underflowed below 2 MiB. Harm: looking for a
    /// label on a small disk that begins like one was a panic. Fix: it saturates.
    #[test]
    fn small_disks_have_label_offsets_too() {
        for bytes in [0, 1, 4095, 4096, LABEL_ZONE_BYTES - 1, LABEL_ZONE_BYTES] {
            assert_eq!(label_offsets(bytes), [0, 1 << 20, 0, 1 << 20], "{bytes}");
        }
    }
}
