//! The ring of records in memory: where the next one goes, and what is still needed.
//!
//! The **tail** is where the oldest needed record starts. It moves in memory whenever a
//! checkpoint or a home write is durable, but its old space is written over only when a durable
//! record says so: else a torn record would have destroyed what the one before it still counts
//! on.

use crate::format::layout::BLOCK_BYTES;
use crate::format::record::{JournalId, RecordHead, RecordKind};

/// Room that batches never take: a seal, a checkpoint and two opens.
const RESERVE_BYTES: u64 = 4 * BLOCK_BYTES;

/// See the module.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) id: JournalId,
    pub(crate) incarnation: u64,
    /// The newest record.
    pub(crate) last: RecordHead,
    /// Position of the newest durable checkpoint record.
    pub(crate) checkpoint: u64,
    /// Where replay begins with that checkpoint.
    pub(crate) replay_from: u64,
}

/// Where a record of a length goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) position: u64,
    pub(crate) skipped: u32,
}

impl Journal {
    /// Sequence of the next record.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.last.sequence + 1
    }

    /// Where the next record of `bytes` bytes goes.
    pub(crate) fn spot(&self, bytes: u64) -> Spot {
        spot_after(&self.id, self.last.end(), bytes)
    }

    /// Bytes from the durable tail to the end of the newest record.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.last.end() - self.last.tail
    }

    /// Whether a record of `bytes` bytes can be written without touching what may be needed.
    pub(crate) fn has_room(&self, bytes: u64, kind: RecordKind) -> bool {
        let reserve = if kind == RecordKind::Batch { RESERVE_BYTES } else { 0 };
        let end = self.spot(bytes).position + bytes;
        end - self.last.tail + reserve <= self.id.bytes
    }

    /// The largest record that is ever tried: what an empty journal has room for, wherever it
    /// begins.
    pub(crate) fn record_bytes_max(&self) -> u64 {
        (self.id.bytes / 4).min(MAX_RECORD_BYTES) / BLOCK_BYTES * BLOCK_BYTES
    }

    /// Where the tail could be, when blocks of the record at `oldest` are not at home.
    pub(crate) fn tail(&self, oldest: Option<u64>) -> u64 {
        oldest.unwrap_or(u64::MAX).min(self.replay_from)
    }

    /// The head of the next record.
    pub(crate) fn head(&self, kind: RecordKind, bytes: u64, tail: u64) -> RecordHead {
        let spot = self.spot(bytes);
        RecordHead {
            kind,
            sequence: self.next_sequence(),
            incarnation: self.incarnation,
            previous: self.last.checksum,
            position: spot.position,
            skipped: spot.skipped,
            length: bytes as u32,
            tail,
            checkpoint: self.checkpoint,
            accepted: self.last.sequence,
            checksum: 0,
        }
    }
}

/// What one request can have of a record, whatever a batch may have: a quarter of the least
/// journal.
pub(crate) const REQUEST_BYTES_MIN: u64 = 256 << 10;

/// Largest record: 16 MiB.
pub(crate) const MAX_RECORD_BYTES: u64 = 16 << 20;

/// Where a record of `bytes` bytes goes when the one before it ends at `end`: there, or if it
/// would not end inside the ring, at the ring's start.
pub(crate) fn spot_after(id: &JournalId, end: u64, bytes: u64) -> Spot {
    let left = id.bytes - end % id.bytes;
    if bytes <= left {
        return Spot { position: end, skipped: 0 };
    }
    Spot { position: end + left, skipped: left as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(position: u64, length: u32, tail: u64) -> Journal {
        let id = JournalId { pool: [0; 16], disk: 0, domain: 0, start: 0, bytes: 1 << 20 };
        let last = RecordHead {
            kind: RecordKind::Batch,
            sequence: 7,
            incarnation: 1,
            previous: 0,
            position,
            skipped: 0,
            length,
            tail,
            checkpoint: 0,
            accepted: 6,
            checksum: 5,
        };
        Journal { id, incarnation: 1, last, checkpoint: 0, replay_from: 0 }
    }

    #[test]
    fn a_record_that_does_not_fit_before_the_end_starts_at_the_beginning() {
        let journal = journal((1 << 20) - 16_384, 4096, 0);
        assert_eq!(journal.spot(12_288), Spot { position: (1 << 20) - 12_288, skipped: 0 });
        assert_eq!(journal.spot(16_384), Spot { position: 1 << 20, skipped: 12_288 });
        // A record that ends with the ring leaves nothing to skip.
        let full = super::tests::journal((1 << 20) - 4096, 4096, 0);
        assert_eq!(full.spot(8192), Spot { position: 1 << 20, skipped: 0 });
    }

    #[test]
    fn what_is_needed_is_not_written_over() {
        let journal = journal(1 << 20, 4096, 40_960);
        assert!(journal.has_room(20_480, RecordKind::Batch));
        assert!(!journal.has_room(24_576, RecordKind::Batch));
        assert!(journal.has_room(36_864, RecordKind::Checkpoint));
        assert!(!journal.has_room(40_960, RecordKind::Checkpoint));
    }
}
