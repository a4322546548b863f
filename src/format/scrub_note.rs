//! How far a domain's scrub is, so that it goes on there after the next opening.
//!
//! A record without extents in the domain's table, as a [deed](crate::format::deed) is one; there
//! is none when no scrub runs or waits.
//!
//! | field | what |
//! | --- | --- |
//! | id | [`SCRUB_NOTE_ID`] |
//! | generation, created | as of every inode |
//! | size | 0 |
//! | flags | 1: it runs, 2: it waits; bit 8: it makes extents whole that lie in pieces |
//! | tag | eight numbers: inode and extent that are next; most bytes a second (0: no bound); extents, bytes, wrong, lost and made whole so far |

use bytemuck::Zeroable;

use crate::format::page::InodeRecord;
use crate::format::record::INODE_IDS_END;

/// The id of the record.
pub const SCRUB_NOTE_ID: u64 = INODE_IDS_END | 1 << 61;
const RUNS: u64 = 1;
const WAITS: u64 = 2;
const COALESCES: u64 = 1 << 8;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubNote {
    /// It waits until it is told to go on.
    pub is_paused: bool,
    /// It makes extents whole that lie in pieces.
    pub coalesces: bool,
    /// Inode and extent that are looked at next.
    pub next: (u64, u64),
    /// Most bytes that it reads in a second; 0: no bound.
    pub bytes_per_second: u64,
    /// Extents that were looked at.
    pub extents: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What was wrong on a disk.
    pub wrong: u64,
    /// Blocks that no disk has right.
    pub lost: u64,
    /// Extents that were made whole.
    pub coalesced: u64,
}

/// The record; generation and creation are those of the record that it goes into.
pub fn encode(note: &ScrubNote) -> InodeRecord {
    let state = if note.is_paused { WAITS } else { RUNS };
    let flags = state | if note.coalesces { COALESCES } else { 0 };
    let ScrubNote { next, bytes_per_second, extents, bytes, wrong, lost, coalesced, .. } = *note;
    let numbers: [u64; 8] =
        [next.0, next.1, bytes_per_second, extents, bytes, wrong, lost, coalesced];
    InodeRecord { id: SCRUB_NOTE_ID, flags, tag: bytemuck::cast(numbers), ..Zeroable::zeroed() }
}

/// What a record with that id says.
///
/// # Errors
/// When it is none: in words.
pub fn decode(record: &InodeRecord) -> Result<ScrubNote, &'static str> {
    let [inode, index, bytes_per_second, extents, bytes, wrong, lost, coalesced]: [u64; 8] =
        bytemuck::cast(record.tag);
    let note = ScrubNote {
        is_paused: record.flags & WAITS != 0,
        coalesces: record.flags & COALESCES != 0,
        next: (inode, index),
        bytes_per_second,
        extents,
        bytes,
        wrong,
        lost,
        coalesced,
    };
    let InodeRecord { generation, created, .. } = *record;
    let whole = InodeRecord { generation, created, ..encode(&note) };
    if *record == whole { Ok(note) } else { Err("it is no note of a scrub") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_and_nothing_else_is_one() {
        let note = ScrubNote {
            is_paused: true,
            coalesces: true,
            next: (7, u64::MAX),
            bytes_per_second: 3,
            extents: 4,
            bytes: 5,
            wrong: 6,
            lost: 8,
            coalesced: 9,
        };
        for note in [note, ScrubNote { is_paused: false, coalesces: false, ..note }] {
            let record = InodeRecord { generation: 9, created: 4, ..encode(&note) };
            assert_eq!(decode(&record), Ok(note));
            for other in [
                InodeRecord { id: 5, ..record },
                InodeRecord { size_bytes: 1, ..record },
                InodeRecord { flags: 0, ..record },
                InodeRecord { flags: record.flags | 3, ..record },
                InodeRecord { zero: [1; 3], ..record },
            ] {
                assert!(decode(&other).is_err(), "{other:?}");
            }
        }
    }
}
