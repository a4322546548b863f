//! The label: what a disk is, and which pool it belongs to.
//!
//! Four copies ([`label_offsets`]), each in one logical sector, so that a power cut leaves a copy
//! old or new. A label is written copy by copy, each flushed before the next, and holds when at
//! least [`WRITE_QUORUM`] copies are durable; opening takes the newest epoch of which at least
//! [`OPEN_QUORUM`] copies agree. One copy alone proves nothing: a misdirected or lost write can
//! make or hide one.
//!
//! | copies of the newest epoch | of an older one | what holds |
//! | --- | --- | --- |
//! | 2 to 4 that agree | any | the newest: it may have been told to somebody |
//! | 1 | 2 or 3 that agree | the older: the newer was on fewer copies than make it hold. It is an update that was interrupted, or a stray write, and is named |
//! | 1 | 1 | nothing: the pool is not opened |
//! | 2 and 2 that do not agree | | nothing: the copies of one epoch are one label |
//!
//! An older label with two copies leaves two for the newer, less than the three that make it
//! hold; so whatever held is seen by two copies, and two that rot at once are not taken for an
//! older pool.
//! On a disk that grows the copies at its end move with it. A label for more bytes is written there
//! first, then at the start: as long as the start says the old size the old copies are read, and
//! from then on the new ones.
//!
//! A pool is made by destroying all copies on all its disks, one after another, and writing the new
//! labels last, in epoch 1. Disks are one pool when their labels have the same pool, number of
//! slots, domains and journals: paths say nothing.
//!
//! A pool has **slots**, each with its own blocks; a slot has 1 to [`MIRROR_MAX`] **mirrors**:
//! disks that hold the same. Disk `m` of slot `s` has number `s * mirrors + m` in the pool. Which
//! disks are **in sync**, and so may be read, is in every label.
//!
//! Each opening for writing of a pool of several disks raises the epoch: first all labels are
//! brought to the newest epoch, then to the next, then to the one after that, one step after
//! another, before anything else is written. What is cut short leaves epochs that differ by one at
//! most, so a disk that is two behind the newest is **stale**: an old copy of it, or one that was
//! away. A disk that fails, or is not there, is taken out of the set of those in sync by a label
//! of the next epoch, which is durable on all others before anything is acknowledged that the disk
//! does not have.
//!
//! | bytes | field |
//! | --- | --- |
//! | 8 | magic, `dynfsLBL` |
//! | 2, 2, 2, 2 | version; number of this copy; number of the mirror; mirrors of a slot (0: 1) |
//! | 8, 8 | incompatible features: unknown ones forbid to open; compatible features |
//! | 16, 16 | pool; disk |
//! | 2, 2, 4 | slot of the disk in the pool; slots of the pool; domains |
//! | 8 | epoch of the membership |
//! | 4, 4 | bytes of a block; bytes of an extent |
//! | 8, 8, 8 | bytes of the disk; of a journal; blocks of an allocation group |
//! | 8 | checksum of the rest, in the context (pool, slot, zone, offset of the copy, epoch) |
//! | 32 | only with incompatible feature 1: the disks in sync, a bit each |
//! | 2, 6 | only with incompatible feature 2: slots that have journals; zero |
//! | 192 | only with incompatible feature 4: slots that leave, see [`removals`](crate::format::removals) |
//!
//! Incompatible feature 1 is set when a slot has more than one mirror, feature 2 when slots were
//! added: those have no journals; feature 4 when a slot leaves, or has. With any of them the
//! checksum is of what follows it too. Slots are added by a label of the next epoch, which is
//! durable on the new disks before another disk gets it: so a disk of one epoch less may say that
//! there are fewer slots. They are gone by a label of the next epoch, which is durable on all other
//! disks before those of the slot lose theirs.

use bytemuck::{Pod, Zeroable};

use crate::format::checksum::{Context, metadata_checksum};
use crate::format::disk_set::{DISKS_MAX, DiskSet};
use crate::format::layout::{
    BLOCK_BYTES, EXTENT_BYTES, LABEL_COPIES, Layout, LayoutError, Zone, label_offsets,
};
use crate::format::removals::{Removals, SlotFate};

/// Version of the format that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;
/// Copies that must be durable before a label holds.
pub const WRITE_QUORUM: usize = 3;
/// Copies that must agree for a label to be taken.
pub const OPEN_QUORUM: usize = 2;
/// Bytes of one copy: a logical sector of 512 bytes; the rest of a larger one is zero.
pub const LABEL_BYTES: usize = 512;

const MAGIC: u64 = u64::from_le_bytes(*b"dynfsLBL");
/// Slots have several mirrors.
const MIRRORED: u64 = 1;
/// There are slots without journals.
const WIDENED: u64 = 2;
/// Slots leave, or have left.
const NARROWED: u64 = 4;
const INCOMPATIBLE_KNOWN: u64 = MIRRORED | WIDENED | NARROWED;
/// Most mirrors of a slot.
pub const MIRROR_MAX: u16 = 4;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Id of the pool.
    pub pool: [u8; 16],
    /// Id of the disk.
    pub disk: [u8; 16],
    /// Slot of the disk in the pool.
    pub slot: u16,
    /// Slots of the pool.
    pub slots: u16,
    /// Slots that it had when it was made: journals are in those.
    pub home_slots: u16,
    /// Slots that leave, and journals that have moved.
    pub removals: Removals,
    /// Which mirror of its slot the disk is.
    pub mirror: Mirror,
    /// Rises with every opening for writing and every change of the membership.
    pub epoch: u64,
    /// Zones of the disk.
    pub layout: Layout,
}

/// What a disk is among those that hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Its number in its slot.
    pub number: u16,
    /// Mirrors of each slot, 1 to [`MIRROR_MAX`].
    pub count: u16,
    /// Disks of the pool that are in sync, by their number in it; empty when slots have one
    /// mirror, which is in sync then.
    pub in_sync: DiskSet,
}

impl Mirror {
    /// The only one.
    pub const ALONE: Mirror = Mirror { number: 0, count: 1, in_sync: DiskSet::NONE };
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LabelBytes {
    magic: u64,
    version: u16,
    copy: u16,
    mirror: u16,
    mirrors: u16,
    incompatible: u64,
    compatible: u64,
    pool: [u8; 16],
    disk: [u8; 16],
    slot: u16,
    slots: u16,
    domains: u32,
    epoch: u64,
    block_bytes: u32,
    extent_bytes: u32,
    disk_bytes: u64,
    journal_bytes: u64,
    group_blocks: u64,
    checksum: u64,
    in_sync: DiskSet,
    home_slots: u16,
    zero: [u16; 3],
    removals: Removals,
}

/// Bytes before the checksum.
const CHECKED_BYTES: usize = std::mem::offset_of!(LabelBytes, checksum);
/// Bytes of a label without the set of disks.
const HEAD_BYTES: usize = CHECKED_BYTES + 8;
/// Bytes of one with it, and without the slots that have journals.
const MIRRORED_BYTES: usize = std::mem::offset_of!(LabelBytes, home_slots);
/// Bytes of one with those, and without the slots that leave.
const WIDENED_BYTES: usize = std::mem::offset_of!(LabelBytes, removals);
const _: () = assert!(size_of::<LabelBytes>() <= LABEL_BYTES);
const _: () = assert!(cfg!(target_endian = "little"), "the format is written as memory lies");

/// Why a copy is no label that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// There is none.
    #[error("there is no label")]
    Absent,
    /// There is one, and it is damaged or stands in the wrong place.
    #[error("the label's checksum is {found:#018x}, of its content {expected:#018x}")]
    Damaged {
        /// Of the content.
        expected: u64,
        /// In the label.
        found: u64,
    },
    /// It was written by a newer version.
    #[error("the pool has format version {found}; this program reads up to {FORMAT_VERSION}")]
    Version {
        /// In the label.
        found: u16,
    },
    /// It needs something that this program does not know.
    #[error("the pool uses features {unknown:#x} that this program does not know; use a newer one")]
    Features {
        /// The bits.
        unknown: u64,
    },
    /// Its numbers make no layout.
    #[error("the label's geometry is impossible: {0}")]
    Geometry(#[from] LayoutError),
    /// Its numbers make no pool.
    #[error("the label cannot be so: {0}")]
    Impossible(&'static str),
    /// Blocks or extents of another size.
    #[error(
        "blocks of {block_bytes} bytes in extents of {extent_bytes}; this program knows 4096 \
         in 65536"
    )]
    Units {
        /// Bytes of a block.
        block_bytes: u32,
        /// Bytes of an extent.
        extent_bytes: u32,
    },
}

impl Label {
    /// The number of the disk in the pool.
    pub fn number(&self) -> usize {
        usize::from(self.slot) * usize::from(self.mirror.count) + usize::from(self.mirror.number)
    }

    /// Disks of the pool.
    pub fn disks(&self) -> usize {
        usize::from(self.slots) * usize::from(self.mirror.count)
    }

    /// The slot with a domain's journal.
    pub fn home(&self, domain: u16) -> u16 {
        self.removals.home(domain).unwrap_or(domain % self.home_slots.max(1))
    }

    /// Disks of slots that are not gone.
    pub fn disks_there(&self) -> usize {
        let there = |slot: &u16| self.removals.fate(*slot) != SlotFate::Gone;
        (0..self.slots).filter(there).count() * usize::from(self.mirror.count)
    }

    /// Whether the disk of that number in the pool is in sync.
    pub fn is_in_sync(&self, number: usize) -> bool {
        self.mirror.count == 1 || self.mirror.in_sync.contains(number)
    }

    /// One copy as it lies on the disk.
    ///
    /// # Panics
    /// When there is no copy of that number.
    pub fn encode(&self, copy: usize) -> [u8; LABEL_BYTES] {
        assert!(copy < LABEL_COPIES);
        let is_widened = self.home_slots != self.slots;
        let is_narrowed = self.removals != Removals::NONE;
        let mut bytes = LabelBytes {
            magic: MAGIC,
            version: FORMAT_VERSION,
            copy: copy as u16,
            mirror: self.mirror.number,
            mirrors: if self.mirror.count == 1 { 0 } else { self.mirror.count },
            incompatible: if self.mirror.count == 1 { 0 } else { MIRRORED }
                | if is_widened { WIDENED } else { 0 }
                | if is_narrowed { NARROWED } else { 0 },
            compatible: 0,
            pool: self.pool,
            disk: self.disk,
            slot: self.slot,
            slots: self.slots,
            domains: u32::from(self.layout.domains()),
            epoch: self.epoch,
            block_bytes: BLOCK_BYTES as u32,
            extent_bytes: EXTENT_BYTES as u32,
            disk_bytes: self.layout.disk_bytes(),
            journal_bytes: self.layout.journal_bytes(),
            group_blocks: self.layout.group_blocks(),
            checksum: 0,
            in_sync: self.mirror.in_sync,
            home_slots: if is_widened { self.home_slots } else { 0 },
            zero: [0; 3],
            removals: self.removals,
        };
        let offset = label_offsets(bytes.disk_bytes)[copy];
        bytes.checksum = checksum(&bytes, copy, offset);
        let mut out = [0; LABEL_BYTES];
        out[..size_of::<LabelBytes>()].copy_from_slice(bytemuck::bytes_of(&bytes));
        out
    }

    /// Reads what lies at a copy's place on a disk of `disk_bytes` bytes.
    ///
    /// # Errors
    /// When it is no label, or one that cannot be used; the version is looked at before the
    /// checksum, which a newer one may have elsewhere.
    pub fn decode(copy: usize, disk_bytes: u64, from: &[u8]) -> Result<Label, LabelError> {
        let Some(head) = from.get(..size_of::<LabelBytes>()) else {
            return Err(LabelError::Absent);
        };
        let bytes: LabelBytes = bytemuck::pod_read_unaligned(head);
        if bytes.magic != MAGIC {
            return Err(LabelError::Absent);
        }
        if bytes.version > FORMAT_VERSION {
            return Err(LabelError::Version { found: bytes.version });
        }
        let Some(offset) = label_offsets(disk_bytes).get(copy).copied() else {
            return Err(LabelError::Absent);
        };
        let expected = checksum(&bytes, copy, offset);
        if bytes.checksum != expected || usize::from(bytes.copy) != copy {
            return Err(LabelError::Damaged { expected, found: bytes.checksum });
        }
        let unknown = bytes.incompatible & !INCOMPATIBLE_KNOWN;
        if unknown != 0 {
            return Err(LabelError::Features { unknown });
        }
        let (block_bytes, extent_bytes) = (bytes.block_bytes, bytes.extent_bytes);
        if u64::from(block_bytes) != BLOCK_BYTES || u64::from(extent_bytes) != EXTENT_BYTES {
            return Err(LabelError::Units { block_bytes, extent_bytes });
        }
        if usize::from(bytes.slots) > DISKS_MAX || bytes.slot >= bytes.slots {
            return Err(LabelError::Impossible("more slots than a pool can have, or not its own"));
        }
        let mirror = mirror_of(&bytes)?;
        let domains = u16::try_from(bytes.domains).unwrap_or(u16::MAX);
        let (journal, group) = (bytes.journal_bytes, bytes.group_blocks);
        let layout = Layout::new(bytes.disk_bytes, domains, journal, group)?;
        let (pool, disk, epoch) = (bytes.pool, bytes.disk, bytes.epoch);
        let (slot, slots, home_slots) = (bytes.slot, bytes.slots, home_slots_of(&bytes)?);
        let removals = removals_of(&bytes, home_slots, domains)?;
        Ok(Label { pool, disk, slot, slots, home_slots, removals, mirror, epoch, layout })
    }
}

fn home_slots_of(bytes: &LabelBytes) -> Result<u16, LabelError> {
    if bytes.incompatible & WIDENED == 0 {
        return Ok(bytes.slots);
    }
    let fits = (1..bytes.slots).contains(&bytes.home_slots) && bytes.zero == [0; 3];
    let wrong = LabelError::Impossible("slots with journals that it has not");
    if fits { Ok(bytes.home_slots) } else { Err(wrong) }
}

fn removals_of(bytes: &LabelBytes, home_slots: u16, domains: u16) -> Result<Removals, LabelError> {
    if bytes.incompatible & NARROWED == 0 {
        return Ok(Removals::NONE);
    }
    let removals = bytes.removals;
    removals.judge(bytes.slots, home_slots, domains).map_err(LabelError::Impossible)?;
    Ok(removals)
}

fn mirror_of(bytes: &LabelBytes) -> Result<Mirror, LabelError> {
    let mirrored = bytes.incompatible & MIRRORED != 0;
    let (number, count, in_sync) = (bytes.mirror, bytes.mirrors, bytes.in_sync);
    if !mirrored {
        let alone = number == 0 && count == 0;
        let wrong = LabelError::Impossible("it has mirrors, and not the feature");
        return if alone { Ok(Mirror::ALONE) } else { Err(wrong) };
    }
    if !(2..=MIRROR_MAX).contains(&count) || number >= count {
        return Err(LabelError::Impossible("the number of its mirror, or of all of its slot"));
    }
    let disks = usize::from(bytes.slots) * usize::from(count);
    if disks > DISKS_MAX || in_sync.iter().any(|number| number >= disks) {
        return Err(LabelError::Impossible("more disks than a pool can have, or than it has"));
    }
    Ok(Mirror { number, count, in_sync })
}

fn checksum(bytes: &LabelBytes, copy: usize, address: u64) -> u64 {
    let zone = if copy < LABEL_COPIES / 2 { Zone::HeadLabels } else { Zone::TailLabels };
    let (pool, disk) = (bytes.pool, bytes.slot);
    let context = Context { pool, disk, zone: zone.number(), address, incarnation: bytes.epoch };
    let all = bytemuck::bytes_of(bytes);
    let end = match bytes.incompatible & INCOMPATIBLE_KNOWN {
        0 => return metadata_checksum(&context, &[&all[..CHECKED_BYTES]]),
        MIRRORED => MIRRORED_BYTES,
        features if features & NARROWED == 0 => WIDENED_BYTES,
        _ => all.len(),
    };
    metadata_checksum(&context, &[&all[..CHECKED_BYTES], &all[HEAD_BYTES..end]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 64 << 20;

    fn label() -> Label {
        let layout = Layout::plan(DISK, 2, 1 << 20).unwrap();
        let (slot, slots, home_slots, mirror) = (0, 1, 1, Mirror::ALONE);
        let (pool, disk, epoch, removals) = ([7; 16], [9; 16], 3, Removals::NONE);
        Label { pool, disk, slot, slots, home_slots, removals, mirror, epoch, layout }
    }

    fn mirrored() -> Label {
        let mirror = Mirror { number: 1, count: 3, in_sync: DiskSet::first(6) };
        Label { slots: 2, home_slots: 2, mirror, ..label() }
    }

    fn widened() -> Label {
        Label { slot: 4, slots: 5, home_slots: 3, ..label() }
    }

    fn narrowed() -> Label {
        let removals = Removals::NONE.with(1, SlotFate::Gone).with_home(1, 2);
        Label { slot: 4, slots: 5, home_slots: 5, removals, ..label() }
    }

    #[test]
    fn every_copy_comes_back_and_only_from_its_place() {
        for copy in 0..LABEL_COPIES {
            let both = Label { slots: 3, ..mirrored() };
            for label in [mirrored(), widened(), narrowed(), both] {
                let bytes = label.encode(copy);
                assert_eq!(Label::decode(copy, DISK, &bytes), Ok(label));
            }
            let bytes = label().encode(copy);
            assert_eq!(Label::decode(copy, DISK, &bytes), Ok(label()));
            for other in (0..LABEL_COPIES).filter(|other| *other != copy) {
                let found = Label::decode(other, DISK, &bytes);
                assert!(matches!(found, Err(LabelError::Damaged { .. })));
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_it_is_seen() {
        let all = size_of::<LabelBytes>();
        let checked = [
            (label(), HEAD_BYTES),
            (mirrored(), MIRRORED_BYTES),
            (widened(), WIDENED_BYTES),
            (narrowed(), all),
        ];
        for (label, checked) in checked {
            let bytes = label.encode(1);
            for bit in 0..checked * 8 {
                let mut rotten = bytes;
                rotten[bit / 8] ^= 1 << (bit % 8);
                assert!(Label::decode(1, DISK, &rotten).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn zeroes_and_little_are_no_label() {
        assert_eq!(Label::decode(0, DISK, &[0; LABEL_BYTES]), Err(LabelError::Absent));
        assert_eq!(Label::decode(0, DISK, &[]), Err(LabelError::Absent));
    }

    #[test]
    fn what_is_newer_is_refused_by_name() {
        let reseal = |change: fn(&mut LabelBytes)| {
            let mut bytes: LabelBytes =
                bytemuck::pod_read_unaligned(&label().encode(0)[..size_of::<LabelBytes>()]);
            change(&mut bytes);
            bytes.checksum = checksum(&bytes, 0, 0);
            Label::decode(0, DISK, bytemuck::bytes_of(&bytes)).unwrap_err()
        };
        assert_eq!(reseal(|label| label.version = 2), LabelError::Version { found: 2 });
        assert_eq!(reseal(|label| label.incompatible = 8), LabelError::Features { unknown: 8 });
        let units = reseal(|label| label.block_bytes = 8192);
        assert!(matches!(units, LabelError::Units { block_bytes: 8192, .. }));
        assert!(matches!(reseal(|label| label.domains = 0), LabelError::Geometry(_)));
        let impossible: [fn(&mut LabelBytes); 12] = [
            |label| label.slots = 257,
            |label| label.slot = label.slots,
            |label| {
                label.incompatible = 4;
                label.removals = Removals::NONE.with(0, SlotFate::Leaving);
            },
            |label| (label.incompatible, label.home_slots) = (2, 0),
            |label| (label.incompatible, label.home_slots) = (2, 1),
            |label| {
                (label.incompatible, label.slots, label.home_slots, label.zero[2]) = (2, 2, 1, 1)
            },
            |label| label.mirrors = 2,
            |label| label.mirror = 1,
            |label| (label.incompatible, label.mirrors) = (1, 5),
            |label| (label.incompatible, label.mirrors, label.mirror) = (1, 2, 2),
            |label| (label.incompatible, label.mirrors, label.slots) = (1, 2, 129),
            |label| {
                (label.incompatible, label.mirrors) = (1, 2);
                label.in_sync.insert(2);
            },
        ];
        for impossible in impossible {
            assert!(matches!(reseal(impossible), LabelError::Impossible(_)));
        }
    }
}
