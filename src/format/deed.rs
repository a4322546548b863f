//! Deeds: which domain has an allocation group that is not where it was at first.
//!
//! Group `g` of each slot is **of** domain `g % domains` ([`layout`](crate::format::layout)). That
//! domain has it, unless one of its deeds says that it gave it away; another domain has it that
//! has a deed to have taken it. A deed is an [`InodeRecord`] without extents in the domain's
//! table, so records and pages carry it as any other:
//!
//! | field | what |
//! | --- | --- |
//! | id | bit 62, then the slot in bits 32 to 47 and the group in bits 0 to 31 |
//! | generation, created | as of every inode |
//! | size | 0 |
//! | flags | 1: given, 2: taken; and the other domain in bits 16 to 31 |
//! | tag | zeroes |
//!
//! **Rules.** A domain gives what is its own, and takes what is not; it has one deed of a group at
//! most. Who has taken a group is whom its domain has given it to: the deed that gives is durable
//! before the one that takes is written, and that one is durably gone before the first is changed.
//! So a group that is given and not taken has no owner; whom it was given to may take it.

use bytemuck::Zeroable;

use crate::format::page::InodeRecord;
use crate::format::record::INODE_IDS_END;

const GIVEN: u64 = 1;
const TAKEN: u64 = 2;
const SLOT_SHIFT: u32 = 32;
const DOMAIN_SHIFT: u32 = 16;

/// An allocation group of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    /// The slot that it is in.
    pub slot: u16,
    /// Its number there.
    pub group: u32,
}

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "allocation group {} of slot {}", self.group, self.slot)
    }
}

impl GroupId {
    /// The domain that it is of.
    pub fn domain(self, domains: u16) -> u16 {
        (self.group % u32::from(domains.max(1))) as u16
    }

    /// The id of deeds of it.
    pub fn deed_id(self) -> u64 {
        INODE_IDS_END | u64::from(self.slot) << SLOT_SHIFT | u64::from(self.group)
    }
}

/// What a domain says of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    /// It was its own, and is for this domain.
    GivenTo(u16),
    /// It has it from this domain.
    TakenFrom(u16),
}

/// Ids of deeds are below this one.
pub const DEED_IDS_END: u64 = INODE_IDS_END + (1 << 48);

/// Whether an id is that of a deed, and of no inode.
///
/// ```
/// use dynamicfs::format::deed::{GroupId, is_deed};
///
/// let group = GroupId { slot: 3, group: 9 };
/// assert!(is_deed(group.deed_id()) && !is_deed(1));
/// ```
pub fn is_deed(id: u64) -> bool {
    (INODE_IDS_END..DEED_IDS_END).contains(&id)
}

/// The record of a deed; generation and creation are those of the record that it goes into.
pub fn encode(group: GroupId, deed: Deed) -> InodeRecord {
    let (kind, domain) = match deed {
        Deed::GivenTo(domain) => (GIVEN, domain),
        Deed::TakenFrom(domain) => (TAKEN, domain),
    };
    let flags = kind | u64::from(domain) << DOMAIN_SHIFT;
    InodeRecord { id: group.deed_id(), flags, ..InodeRecord::zeroed() }
}

/// What a record with the id of a deed says.
///
/// # Errors
/// When it is none, or says what cannot be: in words.
pub fn decode(record: &InodeRecord) -> Result<(GroupId, Deed), &'static str> {
    let id = record.id ^ INODE_IDS_END;
    let group = GroupId { slot: (id >> SLOT_SHIFT) as u16, group: id as u32 };
    if record.id != group.deed_id() {
        return Err("its id is no deed's");
    }
    let domain = (record.flags >> DOMAIN_SHIFT) as u16;
    let deed = match record.flags ^ u64::from(domain) << DOMAIN_SHIFT {
        GIVEN => Deed::GivenTo(domain),
        TAKEN => Deed::TakenFrom(domain),
        _ => return Err("it neither gives nor takes"),
    };
    let InodeRecord { generation, created, .. } = *record;
    let whole = InodeRecord { generation, created, ..encode(group, deed) };
    if *record == whole { Ok((group, deed)) } else { Err("it says more than a deed does") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeds_come_back_and_nothing_else_is_one() {
        for (slot, group) in [(0, 0), (7, 12), (u16::MAX, u32::MAX)] {
            for deed in [Deed::GivenTo(0), Deed::TakenFrom(63), Deed::GivenTo(u16::MAX)] {
                let group = GroupId { slot, group };
                let record = InodeRecord { generation: 9, created: 4, ..encode(group, deed) };
                assert!(is_deed(record.id));
                assert_eq!(decode(&record), Ok((group, deed)));
                let others = [
                    InodeRecord { id: 5, ..record },
                    InodeRecord { id: record.id | 1 << 50, ..record },
                    InodeRecord { id: record.id | 1 << 63, ..record },
                    InodeRecord { size_bytes: 1, ..record },
                    InodeRecord { flags: record.flags ^ 3, ..record },
                    InodeRecord { flags: 0, ..record },
                    InodeRecord { flags: record.flags | 1 << 40, ..record },
                    InodeRecord { tag: [1; 64], ..record },
                ];
                for (number, other) in others.iter().enumerate() {
                    // The other of the two is a deed, and not this one.
                    assert_ne!(decode(other), Ok((group, deed)), "{number}");
                }
            }
        }
        let group = GroupId { slot: 0, group: 11 };
        assert_eq!([1, 3, 4].map(|domains| group.domain(domains)), [0, 2, 3]);
    }
}
