//! A domain's journal: which records there are, which of them count, and what they say.
//!
//! Every block is looked at for a head. A head that names another's end, checksum and sequence
//! follows it; so heads make chains. In the chain with the newest end the last record counts if its
//! body and the data that it names outside the journal are whole; if not, the one before it is the
//! last, because a record is written only after the one before it was acknowledged. From there back
//! to the tail that it names every record is **needed**.
//!
//! Heads outside the chain are left from an earlier turn of the ring, and older than all that is
//! needed; one that is not older is an error. So is a needed record that is not whole, or breaks a
//! rule:
//!
//! | rule | |
//! | --- | --- |
//! | space | from the tail to the last end is no more than the ring |
//! | skip | bytes are skipped only by what did not fit; marks always fit |
//! | incarnation | changes with an `Open` alone |
//! | `accepted` | the sequence before; or its own, of an `Open` that replaced an `Open` |
//! | tail | never falls, and is not behind the newest checkpoint |
//! | checkpoint | the newest before the record |
//! | what a checkpoint says | never falls, and is not ahead of its record |

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::check::image::Image;
use crate::check::members::Members;
use crate::check::report::{Findings, Site};
use crate::format::checksum::block_checksum;
use crate::format::extent::Place;
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS, Zone};
use crate::format::page::InodeRecord;
use crate::format::record::{
    Body, Changes, CheckpointBody, INODE_IDS_END, JournalId, RecordError, RecordHead, RecordKind,
    decode_body, decode_head, inline_start, is_inode_id,
};

/// Bytes that are read at a time.
const CHUNK_BYTES: u64 = 256 << 10;
/// Largest record.
const RECORD_BYTES_MAX: u32 = 16 << 20;

/// A record that is needed.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its head.
    pub head: RecordHead,
    /// Its body, if it is whole.
    pub body: Option<Body>,
}

/// Where a record holds the content of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InlineCopy {
    /// Byte of the disk.
    pub offset: u64,
    /// What it sums to.
    pub checksum: u32,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Journal {
    /// Whose.
    pub id: JournalId,
    /// Every head, by its place in the ring.
    pub heads: BTreeMap<u64, RecordHead>,
    /// Parts of the ring that cannot be read.
    pub unreadable: Vec<Range<u64>>,
    /// The last record that counts.
    pub last: Option<RecordHead>,
    /// From the tail on.
    pub needed: Vec<Record>,
    /// A record behind the last, which does not count.
    pub dropped: Option<RecordHead>,
}

/// The journal of a domain.
pub fn journal_id(members: &Members, domain: u16) -> JournalId {
    let (pool, disk) = (members.label().pool, members.home(domain));
    // That of another disk where the right one is missing: nothing is read there.
    let layout = members.layout(disk).unwrap_or(&members.label().layout);
    let zone = layout.zone(Zone::Journal(domain));
    let start = zone.start;
    JournalId { pool, disk, domain, start, bytes: zone.end - zone.start }
}

impl Journal {
    /// Reads and judges it.
    pub fn read(
        image: &mut Image<'_>,
        members: &Members,
        domain: u16,
        findings: &mut Findings,
    ) -> Journal {
        let mut journal = Journal {
            id: journal_id(members, domain),
            heads: BTreeMap::new(),
            unreadable: Vec::new(),
            last: None,
            needed: Vec::new(),
            dropped: None,
        };
        journal.find_heads(image, findings);
        let chain = journal.newest_chain(findings);
        journal.judge_end(image, members, &chain, findings);
        let Some(last) = journal.last else {
            let site = Site::at(domain, journal.id.start, "journal").on(journal.id.disk);
            findings.error(site, "a record that counts", "none");
            return journal;
        };
        journal.take_needed(image, &chain, &last, findings);
        journal.judge_rules(&last, findings);
        journal.judge_batches(members, findings);
        journal.judge_others(&last, findings);
        journal.judge_behind(image, &last, findings);
        journal
    }

    /// Where a record lies, in words and bytes.
    pub fn site(&self, head: &RecordHead) -> Site {
        let what = format!("record {}", head.sequence);
        Site::at(self.id.domain, self.id.offset(head.position), what).on(self.id.disk)
    }

    /// Every content of a block that a needed record holds, by the block's place; the newest, and
    /// only what was not written there directly since.
    pub fn inline_copies(&self) -> BTreeMap<Place, InlineCopy> {
        let mut copies = BTreeMap::new();
        for record in &self.needed {
            if let Some(Body::Changes(changes)) = &record.body {
                let start = self.id.offset(record.head.position) + inline_start(changes) as u64;
                let mut offsets = (start..).step_by(BLOCK_BYTES as usize);
                for (place, checksum, inline) in fresh_blocks(changes) {
                    copies.remove(&place);
                    if inline && let Some(offset) = offsets.next() {
                        copies.insert(place, InlineCopy { offset, checksum });
                    }
                }
            }
        }
        copies
    }

    /// The checkpoint that the last record names, and its record's head.
    pub fn checkpoint(&self, findings: &mut Findings) -> Option<(RecordHead, CheckpointBody)> {
        let last = self.last?;
        let position = match last.kind {
            RecordKind::Checkpoint => last.position,
            _ => last.checkpoint,
        };
        let record = self.needed.iter().find(|record| record.head.position == position);
        match record.map(|record| (record.head, record.body.as_ref())) {
            Some((head, Some(Body::Checkpoint(body)))) => Some((head, *body)),
            found => {
                let site = Site::at(self.id.domain, self.id.offset(position), "checkpoint record")
                    .on(self.id.disk);
                let found = match found {
                    Some((head, Some(_))) => format!("a record of kind {:?}", head.kind),
                    Some((_, None)) => "a damaged record".into(),
                    None => "none that is needed".into(),
                };
                findings.error(site, "the newest durable checkpoint's record", found);
                None
            }
        }
    }
}

/// The blocks that a record was written with, in the order of its inline blocks: the place of each,
/// what it sums to, and whether its content is in the record.
fn fresh_blocks(changes: &Changes) -> impl Iterator<Item = (Place, u32, bool)> + '_ {
    changes.extents.iter().flat_map(|put| {
        let fresh = (0..EXTENT_BLOCKS).filter(|block| put.fresh >> block & 1 == 1);
        fresh.map(|block| {
            let inline = put.inline >> block & 1 == 1;
            (put.extent.places[block], put.extent.checksums[block], inline)
        })
    })
}

/// Finding heads, and who follows whom.
impl Journal {
    fn find_heads(&mut self, image: &mut Image<'_>, findings: &mut Findings) {
        let mut at = 0;
        while at < self.id.bytes {
            let bytes = CHUNK_BYTES.min(self.id.bytes - at);
            match image.piece(self.id.disk, self.id.start + at, bytes) {
                Ok(chunk) => self.heads_in(at, &chunk, findings),
                Err(_) if self.id.start + at >= image.bytes(self.id.disk) => {
                    return self.cannot_read(at..self.id.bytes);
                }
                Err(_) => {
                    for at in (at..at + bytes).step_by(BLOCK_BYTES as usize) {
                        match image.block(self.id.disk, self.id.start + at) {
                            Ok(block) => self.heads_in(at, &block, findings),
                            Err(_) => self.cannot_read(at..at + BLOCK_BYTES),
                        }
                    }
                }
            }
            at += bytes;
        }
    }

    fn cannot_read(&mut self, range: Range<u64>) {
        match self.unreadable.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.unreadable.push(range),
        }
    }

    fn heads_in(&mut self, at: u64, bytes: &[u8], findings: &mut Findings) {
        for (n, block) in bytes.chunks(BLOCK_BYTES as usize).enumerate() {
            let at = at + n as u64 * BLOCK_BYTES;
            match decode_head(&self.id, at, block) {
                Ok(head) => {
                    self.heads.insert(at, head);
                }
                Err(RecordError::Absent) => {}
                Err(error) => {
                    let site =
                        Site::at(self.id.domain, self.id.start + at, "journal").on(self.id.disk);
                    findings.error(site, "a record or none", error.to_string());
                }
            }
        }
    }

    /// The record that was written behind another.
    fn successor(&self, head: &RecordHead) -> Option<&RecordHead> {
        let (end, within) = (head.end(), head.end() % self.id.bytes);
        let straight =
            self.heads.get(&within).filter(|next| next.position == end && next.skipped == 0);
        let left = self.id.bytes - within;
        let turned = self.heads.get(&0).filter(|next| {
            within > 0
                && Some(next.position) == end.checked_add(left)
                && u64::from(next.skipped) == left
        });
        let follows = |next: &&RecordHead| {
            head.sequence.checked_add(1) == Some(next.sequence) && next.previous == head.checksum
        };
        straight.filter(follows).or(turned.filter(follows))
    }

    /// The chain with the newest end, oldest record first.
    fn newest_chain(&self, findings: &mut Findings) -> Vec<RecordHead> {
        let followers: BTreeSet<u64> = self
            .heads
            .values()
            .filter_map(|head| Some(self.successor(head)?.position % self.id.bytes))
            .collect();
        let firsts = self.heads.iter().filter(|(at, _)| !followers.contains(at));
        let mut best: Vec<RecordHead> = Vec::new();
        for (_, first) in firsts {
            let chain: Vec<RecordHead> =
                std::iter::successors(Some(first), |head| self.successor(head)).copied().collect();
            let end = |chain: &[RecordHead]| chain.last().map(|head| head.sequence);
            if !best.is_empty() && end(&chain) == end(&best) {
                let site = chain.last().map_or_else(Site::default, |head| self.site(head));
                findings.error(site, "one newest record", "two of the same sequence");
            }
            if end(&chain) > end(&best) {
                best = chain;
            }
        }
        best
    }
}

/// Where it ends.
impl Journal {
    fn judge_end(
        &mut self,
        image: &mut Image<'_>,
        members: &Members,
        chain: &[RecordHead],
        findings: &mut Findings,
    ) {
        let Some((tip, before)) = chain.split_last() else { return };
        let site = self.site(tip);
        let torn = match self.body(image, tip) {
            Ok(Body::Changes(changes)) => self.judge_data(image, members, &changes, findings),
            Ok(_) => None,
            Err(BodyFault::Torn(why)) => Some(why),
            Err(BodyFault::Wrong(why)) => {
                findings.error(site.clone(), "a record that makes sense", why.clone());
                Some(why)
            }
        };
        let Some(why) = torn else {
            self.last = Some(*tip);
            return;
        };
        self.dropped = Some(*tip);
        self.last = before.last().copied();
        match before.last() {
            Some(_) => findings.note(site, "the whole of the journal's last record", why),
            None => findings.error(site, "a whole record, or one before it", why),
        }
    }

    /// Why the data that the last record names and does not hold is not there.
    fn judge_data(
        &self,
        image: &mut Image<'_>,
        members: &Members,
        changes: &Changes,
        findings: &mut Findings,
    ) -> Option<String> {
        for (place, expected, inline) in fresh_blocks(changes) {
            if inline {
                continue;
            }
            let offset = place.block() * BLOCK_BYTES;
            let site = Site::at(self.id.domain, offset, "data of the last record").on(place.slot());
            let layout = members.layout(place.slot());
            if layout.and_then(|layout| layout.space_block(place.block())).is_none() {
                findings.error(site, "a block of the data zone", format!("{place:?}"));
                continue;
            }
            match image.block(place.target(), offset) {
                Ok(block) if block_checksum(&block) == expected => {}
                Ok(block) => {
                    let found = block_checksum(&block);
                    return Some(format!(
                        "byte {offset} sums to {found:#010x}, the record says {expected:#010x}"
                    ));
                }
                Err(error) => findings.error(site, "a block that can be read", error.to_string()),
            }
        }
        None
    }

    fn take_needed(
        &mut self,
        image: &mut Image<'_>,
        chain: &[RecordHead],
        last: &RecordHead,
        findings: &mut Findings,
    ) {
        let needed = |head: &&RecordHead| {
            (last.tail..=last.position).contains(&head.position) && head.sequence <= last.sequence
        };
        for head in chain.iter().filter(needed) {
            let body = match self.body(image, head) {
                Ok(body) => Some(body),
                Err(BodyFault::Torn(why) | BodyFault::Wrong(why)) => {
                    findings.error(self.site(head), "a whole record, which is needed", why);
                    None
                }
            };
            self.needed.push(Record { head: *head, body });
        }
        let Some(first) = self.needed.first().map(|record| record.head) else {
            let expected = format!("a tail up to position {}", last.position);
            findings.error(self.site(last), expected, format!("position {}", last.tail));
            return;
        };
        // Behind what was skipped at the end of the ring the tail may stand as well.
        let from = first.position.wrapping_sub(u64::from(first.skipped));
        if last.tail != first.position && last.tail != from {
            let what = format!("record {}", first.sequence.saturating_sub(1));
            let site = Site::at(self.id.domain, self.id.offset(last.tail), what).on(self.id.disk);
            let expected = format!("every record from position {} on", last.tail);
            let found = format!("no record that record {} follows", first.sequence);
            findings.error(site, expected, found);
        }
    }

    fn body(&self, image: &mut Image<'_>, head: &RecordHead) -> Result<Body, BodyFault> {
        if head.length > RECORD_BYTES_MAX {
            return Err(BodyFault::Wrong(format!("{} bytes, more than a record", head.length)));
        }
        let bytes = image.piece(self.id.disk, self.id.offset(head.position), head.length.into());
        let bytes = bytes.map_err(|error| BodyFault::Wrong(error.to_string()))?;
        decode_body(&self.id, head, &bytes).map_err(|error| match error {
            RecordError::Body { .. } => BodyFault::Torn(error.to_string()),
            other => BodyFault::Wrong(other.to_string()),
        })
    }
}

/// Why a body cannot be had.
enum BodyFault {
    /// It does not verify.
    Torn(String),
    /// It cannot be read, or verifies and is nonsense.
    Wrong(String),
}

/// What must hold of the needed records, and of all others.
impl Journal {
    fn judge_rules(&self, last: &RecordHead, findings: &mut Findings) {
        let used = last.end().saturating_sub(last.tail);
        if used > self.id.bytes {
            let expected = format!("at most {} bytes from its tail to its end", self.id.bytes);
            findings.error(self.site(last), expected, format!("{used}"));
        }
        for Record { head, .. } in &self.needed {
            self.judge_alone(head, findings);
        }
        for pair in self.needed.windows(2) {
            self.judge_pair(&pair[0].head, &pair[1].head, findings);
        }
        // What was never whole has a whole head all the same.
        if let Some(dropped) = &self.dropped {
            self.judge_alone(dropped, findings);
            self.judge_pair(last, dropped, findings);
        }
        self.judge_checkpoints(findings);
    }

    fn judge_alone(&self, head: &RecordHead, findings: &mut Findings) {
        let mut rule = |holds: bool, expected: &str, found: String| {
            if !holds {
                findings.error(self.site(head), expected, found);
            }
        };
        let (skipped, length) = (head.skipped, head.length);
        // An open or an abort takes the place of a record that is out, with what that had skipped.
        let fits = match head.kind {
            RecordKind::Open | RecordKind::Abort => true,
            RecordKind::Batch => skipped < length,
            RecordKind::Checkpoint | RecordKind::Seal => skipped == 0,
        };
        rule(skipped == 0 || fits, "to skip only what it did not fit in", skipped.to_string());
        let (accepted, sequence) = (head.accepted, head.sequence);
        rule(sequence > 0, "a sequence from 1 on", sequence.to_string());
        let replaced = head.kind == RecordKind::Open && accepted == sequence;
        let all_before = accepted.checked_add(1) == Some(sequence) || replaced;
        rule(all_before, "to accept all records before it", accepted.to_string());
        let (tail, position) = (head.tail, head.position);
        let own = head.kind == RecordKind::Checkpoint;
        let newest = if own { position } else { head.checkpoint };
        rule(tail <= newest, "a tail that is not behind a checkpoint", tail.to_string());
        let checkpoint = head.checkpoint;
        let first = sequence == 1 && checkpoint == position;
        rule(checkpoint < position || first, "a checkpoint before it", checkpoint.to_string());
    }

    /// What a needed checkpoint says, and the one before it.
    fn judge_checkpoints(&self, findings: &mut Findings) {
        let mut before: Option<CheckpointBody> = None;
        for Record { head, body } in &self.needed {
            let Some(Body::Checkpoint(body)) = body else { continue };
            let start = head.position.saturating_sub(u64::from(head.skipped));
            let (through, from, next) = (body.through, body.replay_from, body.next_inode);
            let least = before.map_or((0, 0, 1), |b| (b.through, b.replay_from, b.next_inode));
            for (what, number, range) in [
                ("through", through, least.0..=head.sequence.saturating_sub(1)),
                ("replay_from", from, least.1..=start),
                ("next_inode", next, least.2..=INODE_IDS_END),
            ] {
                if !range.contains(&number) {
                    let expected = format!("{what} of {} to {}", range.start(), range.end());
                    findings.error(self.site(head), expected, number.to_string());
                }
            }
            before = Some(*body);
        }
    }

    /// What every needed batch says, whether a checkpoint has it or not.
    fn judge_batches(&self, members: &Members, findings: &mut Findings) {
        for Record { head, body } in &self.needed {
            let Some(Body::Changes(changes)) = body else { continue };
            for wrong in batch_faults(members, head, changes) {
                findings.error(self.site(head), "a batch that makes sense", wrong);
            }
        }
    }

    fn judge_pair(&self, before: &RecordHead, after: &RecordHead, findings: &mut Findings) {
        let mut rule = |holds: bool, expected: String, found: u64| {
            if !holds {
                findings.error(self.site(after), expected, found.to_string());
            }
        };
        let same = after.kind == RecordKind::Open || after.incarnation == before.incarnation;
        rule(same, format!("incarnation {}", before.incarnation), after.incarnation);
        rule(after.tail >= before.tail, format!("tail of at least {}", before.tail), after.tail);
        let newest = match before.kind {
            RecordKind::Checkpoint => before.position,
            _ => before.checkpoint,
        };
        rule(after.checkpoint == newest, format!("checkpoint at {newest}"), after.checkpoint);
    }

    /// Heads that are not needed are older than all that is.
    fn judge_others(&self, last: &RecordHead, findings: &mut Findings) {
        let Some(first) = self.needed.first().map(|record| record.head.sequence) else { return };
        let dropped = self.dropped.map(|head| head.position);
        for head in self.heads.values() {
            let needed = self.needed.binary_search_by_key(&head.sequence, |r| r.head.sequence);
            let needed = needed.is_ok_and(|at| self.needed[at].head.position == head.position);
            if needed || Some(head.position) == dropped || head.sequence < first {
                continue;
            }
            let expected = format!("records from {first} to {} in one chain", last.sequence);
            findings.error(self.site(head), expected, "one that is not of it");
        }
        for range in &self.unreadable {
            let (start, end) = (self.id.start + range.start, self.id.start + range.end);
            let site = Site::at(self.id.domain, start, "journal").on(self.id.disk);
            let found = format!("nothing that can be read up to byte {end}");
            if self.next_places(last).iter().any(|at| range.contains(at)) {
                findings.error(site, "what shows that no record follows the last", found);
            } else {
                findings.note(site, "records that are not needed", found);
            }
        }
    }

    /// Where in the ring the record after one may start.
    fn next_places(&self, last: &RecordHead) -> [u64; 2] {
        [last.end() % self.id.bytes, 0]
    }

    /// Something behind the last record that was to be the next.
    fn judge_behind(&self, image: &mut Image<'_>, last: &RecordHead, findings: &mut Findings) {
        let next = last.sequence.saturating_add(1);
        for at in self.next_places(last) {
            let offset = self.id.start + at;
            if self.heads.contains_key(&at) {
                continue;
            }
            let Ok(block) = image.block(self.id.disk, offset) else { continue };
            if !is_begun(&self.id, last, &block) {
                continue;
            }
            let site = Site::at(self.id.domain, offset, format!("record {next}")).on(self.id.disk);
            findings.note(site, "a whole head, or none", "one that is torn or damaged");
        }
    }
}

/// An inode is of the batch that puts it, an extent comes with its inode, nothing comes twice, and
/// every block is in an allocation group.
fn batch_faults(members: &Members, head: &RecordHead, changes: &Changes) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut inodes, mut extents) = (BTreeSet::new(), BTreeSet::new());
    for InodeRecord { id, generation, .. } in &changes.inodes {
        if *generation != head.sequence {
            wrong.push(format!("inode {id} of generation {generation}"));
        }
        if !inodes.insert(*id) {
            wrong.push(format!("inode {id} twice"));
        }
    }
    for put in &changes.extents {
        let (inode, index) = (put.inode, put.index);
        if !inodes.contains(&inode) {
            wrong.push(format!("extent {index} of inode {inode} without the inode"));
        }
        if !is_inode_id(inode) {
            wrong.push(format!("extent {index} of {inode:#x}, which is no inode"));
        }
        if !extents.insert((inode, index)) {
            wrong.push(format!("extent {index} of inode {inode} twice"));
        }
        // Whose the group was then is not known any more.
        if let Some(place) = put.extent.existing().find(|place| !members.was_data(*place)) {
            wrong.push(format!("{place:?}, in no allocation group"));
        }
    }
    wrong
}

/// Whether a block that is no head was to be the one after `last`: two of its fields say so.
fn is_begun(id: &JournalId, last: &RecordHead, block: &[u8]) -> bool {
    let number = |at: usize| {
        let bytes = block.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let says = [
        block.starts_with(b"dynfsREC"),
        block.get(16..32) == Some(&id.pool[..]),
        Some(number(32)) == last.sequence.checked_add(1),
        number(48) == last.checksum,
    ];
    let fields = says.iter().filter(|said| **said).count();
    fields >= 2 && (says[2] || says[3])
}
