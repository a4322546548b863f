//! What the journal proves: the chain of records, and where it ends.
//!
//! The verdict on the end is a table. `L` is the newest record whose head and body verify:
//!
//! | after L there is | L's data | verdict |
//! | --- | --- | --- |
//! | nothing, or a head at L+1 whose body does not verify | verifies, or L has none outside the journal | all up to L is accepted; what is at L+1 is torn, was never acknowledged, and is dropped |
//! | the same | readable and does not verify | L is torn and dropped; all up to L-1 is accepted |
//! | the same | unreadable | undecidable: refused, or given up by force |
//! | a head at L+2 or later | any | corruption: L+1 was acknowledged before that was written |
//! | an unreadable block where L+1 could start | any | undecidable: the same |
//!
//! and whatever is accepted must be one chain from the tail that L names to L, every body of it
//! whole, every record of it as the rules say (`rules`). Every other head is of an earlier turn of
//! the ring, and older than all of it.

use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS};
use crate::format::record::{
    Body, Changes, RecordError, RecordHead, RecordKind, decode_body, decode_head,
};
use crate::io::error::ErrorKind;
use crate::store::journal::{MAX_RECORD_BYTES, spot_after};
use crate::store::member::MirrorDisk;
use crate::store::recovery::{Recovery, RecoveryError, rules};

/// Bytes that are read at a time.
const CHUNK_BYTES: u64 = 256 << 10;

/// The verdict.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The newest accepted record.
    pub(crate) last: RecordHead,
    /// The chain from its tail to itself.
    pub(crate) needed: Vec<RecordHead>,
    /// What was dropped, and why.
    pub(crate) dropped: Option<(u64, String)>,
    /// Position of what was dropped, and what it skipped.
    pub(crate) dropped_at: Option<(u64, u32)>,
    /// Offsets on the disk of unreadable blocks that were given up: a record may begin there.
    pub(crate) given_up: Vec<u64>,
}

/// Heads and holes of a journal.
struct Found {
    /// By sequence.
    heads: Vec<RecordHead>,
    /// Offsets in the zone of blocks that could not be read.
    unreadable: Vec<(u64, String)>,
}

impl Recovery<'_> {
    /// Judges the journal.
    pub(crate) async fn scan(&self) -> Result<Scan, RecoveryError> {
        let found = self.find_heads().await?;
        let Some(newest) = found.heads.last().copied() else {
            return Err(self.corrupt(self.id.start, "the journal holds no record at all"));
        };
        self.newest.set(newest.sequence);
        let (mut last, mut dropped) = (newest, None);
        let mut body = match self.try_body(&newest).await {
            // Nothing is decided by looking: what cannot be judged is left out, and said.
            Err(error @ RecoveryError::Undecidable { .. }) if self.leaves_out() => {
                dropped = Some((newest, error.to_string()));
                last = self.before(&found, &newest)?;
                self.try_body(&last).await?
            }
            other => other?,
        };
        // Its own head is whole, what follows is not, and it was the last: torn. One whose
        // checksums are right was written whole, and may have been acknowledged, whatever it
        // says.
        if let (Err(error @ RecordError::Body { .. }), None) = (&body, &dropped) {
            dropped = Some((newest, error.to_string()));
            last = self.before(&found, &newest)?;
            body = self.try_body(&last).await?;
        }
        let body = body.map_err(|error| {
            self.corrupt(self.id.offset(last.position), format!("an acknowledged record: {error}"))
        })?;
        if dropped.is_none()
            && let Body::Changes(changes) = &body
            && let Some(why) = self.judge_data(&last, changes).await?
        {
            dropped = Some((last, why));
            last = self.before(&found, &last)?;
        }
        let dropped_head = dropped.as_ref().map(|(head, _)| *head);
        let holes = self.check_end(&found, &last, dropped_head.is_some())?;
        let needed = self.chain(&found, &last)?;
        self.check_rules(&needed, &last, dropped_head.as_ref())?;
        self.check_others(&found, &needed, dropped_head.as_ref())?;
        let mut dropped = dropped.map(|(head, why)| (head.sequence, why));
        let dropped_at = dropped_head.map(|head| (head.position, head.skipped));
        let mut given_up = Vec::new();
        for (offset, error) in holes {
            dropped = Some((last.sequence + 1, error.to_string()));
            given_up.push(offset);
        }
        Ok(Scan { last, needed, dropped, dropped_at, given_up })
    }

    /// The heads on all disks of the slot, and what none of them can read.
    async fn find_heads(&self) -> Result<Found, RecoveryError> {
        let (mut all, mut failed): (Option<Found>, _) = (None, None);
        for mirror in self.mirrors(self.id.disk, self.id.start)? {
            let found = match self.find_heads_on(mirror).await {
                Ok(found) => found,
                Err(error @ RecoveryError::Io { .. }) => {
                    failed = Some(error);
                    continue;
                }
                Err(other) => return Err(other),
            };
            all = Some(match all {
                None => found,
                Some(before) => before.and(found),
            });
        }
        let none = || failed.unwrap_or_else(|| self.gone(self.id.disk, self.id.start));
        let mut found = all.ok_or_else(none)?;
        found.settle();
        Ok(found)
    }

    async fn find_heads_on(&self, mirror: &MirrorDisk) -> Result<Found, RecoveryError> {
        let mut found = Found { heads: Vec::new(), unreadable: Vec::new() };
        let mut at = 0;
        while at < self.id.bytes {
            let bytes = CHUNK_BYTES.min(self.id.bytes - at);
            match self.read_mirror(mirror, self.id.start + at, bytes as usize).await {
                Ok(chunk) => self.heads_in(at, &chunk, &mut found.heads)?,
                // A disk that does not answer does not answer for each block either.
                Err(RecoveryError::Io { source, .. }) if source.kind != ErrorKind::Timeout => {
                    self.find_one_by_one(mirror, (at, bytes), &mut found).await?
                }
                Err(other) => return Err(other),
            }
            at += bytes;
        }
        Ok(found)
    }

    /// A chunk that cannot be read whole is read block by block.
    async fn find_one_by_one(
        &self,
        mirror: &MirrorDisk,
        (at, bytes): (u64, u64),
        found: &mut Found,
    ) -> Result<(), RecoveryError> {
        for at in (at..at + bytes).step_by(BLOCK_BYTES as usize) {
            match self.read_mirror(mirror, self.id.start + at, BLOCK_BYTES as usize).await {
                Ok(block) => self.heads_in(at, &block, &mut found.heads)?,
                Err(RecoveryError::Io { source, .. }) => {
                    found.unreadable.push((at, source.to_string()));
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    fn heads_in(
        &self,
        at: u64,
        bytes: &[u8],
        heads: &mut Vec<RecordHead>,
    ) -> Result<(), RecoveryError> {
        for (n, block) in bytes.chunks_exact(BLOCK_BYTES as usize).enumerate() {
            let offset = at + n as u64 * BLOCK_BYTES;
            match decode_head(&self.id, offset, block) {
                Ok(head) => heads.push(head),
                Err(RecordError::Absent) => {}
                Err(error) => return Err(self.corrupt(self.id.start + offset, error.to_string())),
            }
        }
        Ok(())
    }

    /// The record before another.
    fn before(&self, found: &Found, record: &RecordHead) -> Result<RecordHead, RecoveryError> {
        let before = found.heads.iter().rev().find(|head| follows(&self.id, head, record));
        before.copied().ok_or_else(|| {
            let what =
                format!("record {} is not there, which was acknowledged", record.sequence - 1);
            self.corrupt(self.id.offset(record.position), what)
        })
    }

    /// Nothing that was acknowledged may lie behind the last record. Returns the unreadable blocks
    /// where it could, if they are left out.
    fn check_end(
        &self,
        found: &Found,
        last: &RecordHead,
        dropped: bool,
    ) -> Result<Vec<(u64, RecoveryError)>, RecoveryError> {
        let beyond = found.heads.iter().find(|head| head.sequence > last.sequence + 1);
        if let Some(beyond) = beyond {
            let what = format!(
                "record {} is there and record {}, which was acknowledged before it, is not",
                beyond.sequence,
                last.sequence + 1
            );
            return Err(self.corrupt(self.id.offset(beyond.position), what));
        }
        if dropped {
            return Ok(Vec::new());
        }
        let next = spot_after(&self.id, last.end(), BLOCK_BYTES).position;
        let starts = [self.id.offset(next), self.id.start];
        let unreadable = found.unreadable.iter().map(|(at, what)| (self.id.start + at, what));
        let holes = unreadable.filter(|(offset, _)| starts.contains(offset));
        let home = self.seed.members.home_slot();
        let undecidable = |(offset, what): (u64, &String)| {
            (offset, self.undecidable((home, offset), last.sequence + 1, what.clone()))
        };
        let mut holes: Vec<(u64, RecoveryError)> = holes.map(undecidable).collect();
        match holes.pop() {
            Some((_, error)) if !self.leaves_out() => Err(error),
            last => Ok(holes.into_iter().chain(last).collect()),
        }
    }

    /// The records from the tail that the last one names, to itself.
    fn chain(&self, found: &Found, last: &RecordHead) -> Result<Vec<RecordHead>, RecoveryError> {
        let mut chain = vec![*last];
        let mut at = *last;
        while at.position > last.tail {
            let before = found.heads.iter().rev().find(|head| follows(&self.id, head, &at));
            match before {
                Some(before) if before.position >= last.tail => {
                    chain.push(*before);
                    at = *before;
                }
                // The tail is where a record ended, and the next one began behind it.
                Some(before) if before.end() == last.tail => break,
                None if at.position - u64::from(at.skipped) == last.tail => break,
                _ => {
                    let what = format!(
                        "record {} is not there; it was acknowledged, and byte {} is still needed",
                        at.sequence - 1,
                        last.tail
                    );
                    return Err(self.corrupt(self.id.offset(at.position), what));
                }
            }
        }
        chain.reverse();
        Ok(chain)
    }

    /// Heads of the chain, and of what was dropped behind it, are as records are written.
    fn check_rules(
        &self,
        needed: &[RecordHead],
        last: &RecordHead,
        dropped: Option<&RecordHead>,
    ) -> Result<(), RecoveryError> {
        let used = last.end() - last.tail;
        if used > self.id.bytes {
            let what = format!("{used} bytes are needed, in a ring of {}", self.id.bytes);
            return Err(self.broken(last, &what));
        }
        let mut before: Option<&RecordHead> = None;
        for head in needed.iter().chain(dropped) {
            rules::judge_head(head).map_err(|what| self.broken(head, &what))?;
            if let Some(before) = before {
                rules::judge_pair(before, head).map_err(|what| self.broken(head, &what))?;
            }
            before = Some(head);
        }
        Ok(())
    }

    /// What is not of the chain is older than all of it.
    fn check_others(
        &self,
        found: &Found,
        needed: &[RecordHead],
        dropped: Option<&RecordHead>,
    ) -> Result<(), RecoveryError> {
        let Some(first) = needed.first() else { return Ok(()) };
        let known = |head: &RecordHead| {
            let of_chain = needed.get((head.sequence - first.sequence) as usize).or(dropped);
            of_chain.is_some_and(|own| own.position == head.position)
        };
        let newer = found.heads.iter().filter(|head| head.sequence >= first.sequence);
        match newer.into_iter().find(|head| !known(head)) {
            None => Ok(()),
            Some(other) => Err(self.broken(other, "it is not of the chain that ends the journal")),
        }
    }

    /// The body of a record that must be whole.
    pub(crate) async fn body(&self, head: &RecordHead) -> Result<Body, RecoveryError> {
        let body = self.try_body(head).await?;
        body.map_err(|error| {
            let what = format!("record {}: {error}", head.sequence);
            self.corrupt(self.id.offset(head.position), what)
        })
    }

    async fn try_body(
        &self,
        head: &RecordHead,
    ) -> Result<Result<Body, RecordError>, RecoveryError> {
        if u64::from(head.length) > MAX_RECORD_BYTES {
            return Ok(Err(RecordError::Malformed("it is longer than any record")));
        }
        let home = self.seed.members.home_slot();
        let offset = self.id.offset(head.position);
        let (mut refused, mut unreadable) = (None, None);
        for mirror in self.mirrors(home, offset)? {
            match self.read_mirror(mirror, offset, head.length as usize).await {
                Ok(bytes) => match self.decode_whole(head, &bytes) {
                    Ok(body) => {
                        // That the newest is on one disk alone is how a crash leaves it.
                        let whole = refused.is_none() && unreadable.is_none();
                        if !whole && head.sequence < self.newest.get() {
                            self.mended.set(self.mended.get() + 1);
                        }
                        return Ok(Ok(body));
                    }
                    Err(error) => refused = refused.or(Some(error)),
                },
                Err(RecoveryError::Io { source, .. }) => {
                    let what = source.to_string();
                    unreadable = Some(self.undecidable((home, offset), head.sequence, what));
                }
                Err(other) => return Err(other),
            }
        }
        // A disk in sync that does not have it shows that nobody was told of it.
        match (refused, unreadable) {
            (Some(refused), _) => Ok(Err(refused)),
            (None, Some(unreadable)) => Err(unreadable),
            (None, None) => Err(self.gone(home, offset)),
        }
    }

    /// The body of a record that may be another one on this disk.
    pub(crate) fn decode_whole(
        &self,
        head: &RecordHead,
        bytes: &[u8],
    ) -> Result<Body, RecordError> {
        let at = head.position % self.id.bytes;
        let first = bytes.get(..BLOCK_BYTES as usize).unwrap_or(&[]);
        match decode_head(&self.id, at, first) {
            Ok(here) if here.checksum == head.checksum => decode_body(&self.id, head, bytes),
            // As if what follows the head were not its own.
            _ => Err(RecordError::Body { expected: head.checksum, found: 0 }),
        }
    }

    pub(crate) fn undecidable(
        &self,
        (slot, offset): (u16, u64),
        sequence: u64,
        what: String,
    ) -> RecoveryError {
        let (domain, path) = (self.seed.domain, self.path(slot));
        RecoveryError::Undecidable { domain, path, sequence, offset, what }
    }

    /// Whether the data that the last record names and does not hold is there; else why not.
    async fn judge_data(
        &self,
        last: &RecordHead,
        changes: &Changes,
    ) -> Result<Option<String>, RecoveryError> {
        assert!(last.kind == RecordKind::Batch);
        for put in &changes.extents {
            for block in 0..EXTENT_BLOCKS {
                let direct = put.fresh & !put.inline & 1 << block != 0;
                if !direct {
                    continue;
                }
                let (place, sum) = (put.extent.places[block], put.extent.checksums[block]);
                match self.judge_block(last, place, sum).await {
                    Ok(None) => {}
                    Ok(Some(found)) => {
                        let (inode, index) = (put.inode, put.index);
                        return Ok(Some(format!(
                            "block {block} of extent {index} of inode {inode} has checksum \
                             {found:#010x}, the record says {sum:#010x}"
                        )));
                    }
                    Err(error @ RecoveryError::Undecidable { .. }) if self.leaves_out() => {
                        return Ok(Some(error.to_string()));
                    }
                    Err(other) => return Err(other),
                }
            }
        }
        Ok(None)
    }
}

impl Found {
    /// What two disks of a slot have together: a block is unreadable when neither can read it.
    fn and(mut self, other: Found) -> Found {
        self.heads.extend(other.heads);
        self.unreadable.retain(|(at, _)| other.unreadable.iter().any(|(there, _)| at == there));
        self
    }

    /// Sorts the heads. Of two records that took turns at one place, on two disks, the later one
    /// counts: an open or an abort, which take the place of another record.
    fn settle(&mut self) {
        let later = |head: &RecordHead| matches!(head.kind, RecordKind::Open | RecordKind::Abort);
        self.heads.sort_by_key(|head| (head.sequence, head.position, !later(head)));
        self.heads.dedup_by(|next, kept| {
            let same_place = (next.sequence, next.position) == (kept.sequence, kept.position);
            same_place && (next.checksum == kept.checksum || later(kept))
        });
    }
}

/// Whether `after` was written behind `before`.
fn follows(id: &crate::format::record::JournalId, before: &RecordHead, after: &RecordHead) -> bool {
    // Positions and sequences are far from the largest numbers: the decoder sees to that.
    before.sequence + 1 == after.sequence
        && before.checksum == after.previous
        && before.end() + u64::from(after.skipped) == after.position
        && (after.skipped == 0 || after.position.is_multiple_of(id.bytes))
}
