//! Journal records: what a commit changes, in one contiguous write.
//!
//! A domain's journal is a ring over its zone. A record starts and ends on 4 KiB and never wraps;
//! where one does not fit before the end of the ring it starts at the beginning, and `skipped`
//! says how many bytes were left over. **Positions** count the bytes of the journal since the
//! pool was made, so a record lies at `position % journal_bytes`.
//!
//! A record is a head of 256 bytes, a payload, zeroes up to a block, and the inline blocks:
//!
//! | bytes | field of the head |
//! | --- | --- |
//! | 8 | magic, `dynfsREC` |
//! | 2, 2, 2, 2 | version; kind; domain; zero |
//! | 16 | pool |
//! | 8, 8, 8 | sequence; incarnation of its open; head checksum of the record before it |
//! | 8, 4, 4 | position; bytes of the whole record; bytes skipped before it |
//! | 8, 8 | tail: position of the oldest record that is needed; position of the newest checkpoint |
//! | 8 | the last sequence that the opening accepted, or the writer knew acknowledged |
//! | 4 × 5, 4 | cuts, deletes, inodes, extents, inline blocks; bytes of the payload |
//! | 8 | checksum of all that follows the head |
//! | 8 | checksum of the head but this field; context: pool, disk, zone, offset, incarnation |
//!
//! **Valid** is a record whose two checksums are right, which lies where it says, and whose pool
//! and domain are the journal's. Records chain: the sequence rises by one, the position follows
//! the one before, and `previous` is that one's head checksum. N+1 is written only after N was
//! acknowledged, so only the last record of a journal can be one that nobody was told of.
//!
//! **Rules** that hold along the chain, beside the checksums; a record that verifies and breaks one
//! is corruption, because nobody writes such a record:
//!
//! | field | what holds |
//! | --- | --- |
//! | sequence | 1 in the first record of a pool, at most [`SEQUENCE_MAX`]; rises by one |
//! | incarnation | that of the record before it; an `Open` alone brings another |
//! | position | at most [`POSITION_MAX`]; the end of the record before it, and what was skipped |
//! | skipped | 0, or less than the length of a batch: it did not fit there. A checkpoint and a seal always fit; an open and an abort have what the record had whose place they take |
//! | `accepted` | the sequence before its own, because that one was acknowledged; its own sequence, too, in an `Open` that took the place of an `Open` |
//! | tail | never falls, and is not behind the newest checkpoint's record: of a checkpoint itself |
//! | checkpoint | the newest `Checkpoint` record before it, exactly; so it never falls. In the oldest record that is needed it may name one that is needed no more; in the first of a pool it names itself |
//!
//! From the tail of the last record to its end there is no more than the ring, and every head in
//! the ring that is not of the chain is older than the oldest record that is needed.
//!
//! Of a **checkpoint** `through` is below its sequence, `replay_from` not behind its start, and
//! neither these two nor `next_inode` (1 to [`INODE_IDS_END`]) fall from one to the next. The
//! record after `through` starts at `replay_from`. Its pages were copied before its record was
//! written, so nothing on them is of its sequence or later, and no inode on them has an id from
//! `next_inode` on.
//!
//! Of a **batch** every inode has the batch's sequence as its generation, and no inode or extent
//! comes twice. The inode of every extent is in the same batch, as an inode's generation is that
//! of the last change of its extents.
//!
//! The payload of a **batch** is cuts, deletes, inodes, extents, in this order, and so they are
//! applied:
//!
//! - a [`Cut`], 24 bytes: extents `from..to` of an inode are gone;
//! - a delete, 8 bytes: the inode and all its extents are gone;
//! - an inode, 128 bytes: [`InodeRecord`] replaces what was known of it;
//! - an extent: inode (8), index (8), mask, fragments, fresh mask, inline mask (2 each), then the
//!   fragments (8 each) and the checksums of the blocks that exist (4 each, padded to 8). It
//!   replaces what was known of it. **Fresh** blocks were written for this record; **inline**
//!   ones among them are in the record, in the order in which the extents name them, and their
//!   homes are written later.
//!
//! An extent's generation is the sequence of the record. The payload of a **checkpoint** is a
//! [`CheckpointBody`]; the other kinds have none. An **open** says that everything up to
//! `accepted` was accepted and what followed is out; an **abort** takes the place and the
//! sequence of a record that is out; a **seal** says that what is before it was acknowledged.

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

use crate::format::checksum::{Context, metadata_checksum};
use crate::format::extent::{Extent, FragmentsMismatch};
use crate::format::fragment::Fragment;
use crate::format::label::FORMAT_VERSION;
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS, Zone};
use crate::format::page::{Child, InodeRecord};

const MAGIC: u64 = u64::from_le_bytes(*b"dynfsREC");
/// Most that a sequence can be: generations are sequences, and have 63 bits.
pub const SEQUENCE_MAX: u64 = (1 << 63) - 2;
/// Most that a position can be: what is added to one stays a number.
pub const POSITION_MAX: u64 = 1 << 62;
/// Ids of inodes are below this one; from it on are records of the domain itself: deeds, and the
/// note of a scrub.
pub const INODE_IDS_END: u64 = 1 << 62;
/// Whether an id is that of an inode.
pub fn is_inode_id(id: u64) -> bool {
    (1..INODE_IDS_END).contains(&id)
}

/// Extents of the largest inode.
pub const EXTENTS_MAX: u64 = 1 << 34;
/// Bytes of a head.
pub const HEAD_BYTES: usize = 256;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// Changes.
    Batch,
    /// A tree of pages is durable.
    Checkpoint,
    /// An opening has judged what was there.
    Open,
    /// What is before it was acknowledged.
    Seal,
    /// The record that was here is out.
    Abort,
}

impl RecordKind {
    fn number(self) -> u16 {
        self as u16 + 1
    }

    fn from_number(number: u16) -> Option<RecordKind> {
        use RecordKind::{Abort, Batch, Checkpoint, Open, Seal};
        [Batch, Checkpoint, Open, Seal, Abort].into_iter().find(|kind| kind.number() == number)
    }
}

/// Extents of an inode that are gone: indexes `from..to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Cut {
    /// Whose.
    pub inode: u64,
    /// The first.
    pub from: u64,
    /// The one after the last.
    pub to: u64,
}

/// What a record says of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentPut {
    /// Whose.
    pub inode: u64,
    /// Its index in the inode.
    pub index: u64,
    /// Where it is now.
    pub extent: Extent,
    /// Blocks that were written for this record.
    pub fresh: u16,
    /// Those of them whose content is in the record.
    pub inline: u16,
}

/// Which tree is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CheckpointBody {
    /// Records up to this sequence are in its pages.
    pub through: u64,
    /// Where the record after that one starts, or would.
    pub replay_from: u64,
    /// The least inode id that was never used.
    pub next_inode: u64,
    /// Pages on level 0.
    pub pages: u32,
    /// Levels above level 0; the root is alone on the last. 0: no pages at all.
    pub levels: u32,
    /// The root.
    pub root: Child,
    /// What the domain has done, of which nothing depends on being right. A payload that ends
    /// before it has zeroes here.
    pub lifetime: Lifetime,
}

/// Counts of all that a domain has done since it was made, up to a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable, Serialize, Deserialize)]
#[serde(default)]
#[repr(C)]
pub struct Lifetime {
    /// Commits.
    pub group_commits: u64,
    /// Requests of those.
    pub group_commit_ops: u64,
    /// Flushes linked to records.
    pub commit_flushes: u64,
    /// Records that were durable by themselves.
    pub commit_dsyncs: u64,
    /// Flushes of checkpoints and write-back.
    pub other_flushes: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Seals.
    pub seals: u64,
    /// Aborts.
    pub aborts: u64,
    /// Bytes that callers wrote.
    pub caller_bytes: u64,
    /// Bytes of records.
    pub journal_bytes: u64,
    /// Bytes of data written directly.
    pub data_bytes: u64,
    /// Bytes written home from records.
    pub write_back_bytes: u64,
    /// Bytes of metadata pages.
    pub page_bytes: u64,
    /// Blocks that failed their checksum.
    pub corrupt_blocks: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Head {
    magic: u64,
    version: u16,
    kind: u16,
    domain: u16,
    zero: u16,
    pool: [u8; 16],
    sequence: u64,
    incarnation: u64,
    previous: u64,
    position: u64,
    length: u32,
    skipped: u32,
    tail: u64,
    checkpoint: u64,
    accepted: u64,
    cuts: u32,
    deletes: u32,
    inodes: u32,
    extents: u32,
    inline_blocks: u32,
    payload_bytes: u32,
    rest: [u64; 15],
    body_checksum: u64,
    checksum: u64,
}

const _: () = assert!(size_of::<Head>() == HEAD_BYTES);
const _: () = assert!(size_of::<CheckpointBody>() == 56 + 112);

/// Bytes of a checkpoint's payload without [`Lifetime`].
const CHECKPOINT_BYTES_MIN: usize = size_of::<CheckpointBody>() - size_of::<Lifetime>();

/// A head, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// What it is.
    pub kind: RecordKind,
    /// Number in its domain, from 1 on.
    pub sequence: u64,
    /// Random number of the open that wrote it.
    pub incarnation: u64,
    /// Head checksum of the record before it.
    pub previous: u64,
    /// Where it starts.
    pub position: u64,
    /// Bytes that were skipped before it, at the end of the ring.
    pub skipped: u32,
    /// Bytes of all of it.
    pub length: u32,
    /// Position of the oldest record that is needed.
    pub tail: u64,
    /// Position of the newest durable checkpoint record.
    pub checkpoint: u64,
    /// The last sequence known to be acknowledged, or accepted by the opening.
    pub accepted: u64,
    /// The head's own checksum; what the next record has as `previous`.
    pub checksum: u64,
}

impl RecordHead {
    /// Where the next record starts if it fits.
    pub fn end(&self) -> u64 {
        self.position + u64::from(self.length)
    }
}

/// Position of the newest durable checkpoint's record when this one is the last.
pub fn newest_checkpoint(head: &RecordHead) -> u64 {
    match head.kind {
        RecordKind::Checkpoint => head.position,
        _ => head.checkpoint,
    }
}

/// Whose journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalId {
    /// Id of the pool.
    pub pool: [u8; 16],
    /// Slot of the disk.
    pub disk: u16,
    /// The domain.
    pub domain: u16,
    /// Offset of the journal's zone on the disk, bytes.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
}

impl JournalId {
    /// Where on the disk a position lies.
    pub fn offset(&self, position: u64) -> u64 {
        self.start + position % self.bytes
    }
}

/// What a batch changes, as the encoder takes it and the decoder gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Applied first.
    pub cuts: Vec<Cut>,
    /// Then these inodes are gone.
    pub deletes: Vec<u64>,
    /// Then these are put.
    pub inodes: Vec<InodeRecord>,
    /// And these.
    pub extents: Vec<ExtentPut>,
}

impl Changes {
    /// Bytes of the payload.
    pub fn payload_bytes(&self) -> usize {
        let extents: usize = self.extents.iter().map(ExtentPut::encoded_bytes).sum();
        self.cuts.len() * size_of::<Cut>()
            + self.deletes.len() * 8
            + self.inodes.len() * size_of::<InodeRecord>()
            + extents
    }

    /// Blocks whose content is in the record.
    pub fn inline_blocks(&self) -> usize {
        self.extents.iter().map(|put| put.inline.count_ones() as usize).sum()
    }

    /// Bytes of the whole record.
    pub fn record_bytes(&self) -> usize {
        body_start(self.payload_bytes()) + self.inline_blocks() * BLOCK_BYTES as usize
    }
}

impl ExtentPut {
    /// Bytes of it in a payload.
    pub fn encoded_bytes(&self) -> usize {
        let blocks = self.extent.mask().count_ones() as usize;
        24 + 8 * self.extent.fragment_count() + (4 * blocks).next_multiple_of(8)
    }

    /// Most bytes of one.
    pub const ENCODED_BYTES_MAX: usize = 24 + 12 * EXTENT_BLOCKS;
}

/// Where the inline blocks start in a record.
fn body_start(payload_bytes: usize) -> usize {
    (HEAD_BYTES + payload_bytes).next_multiple_of(BLOCK_BYTES as usize)
}

/// Why bytes are no valid record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No record of this journal starts there.
    #[error("no record of this journal starts there")]
    Absent,
    /// Written by a newer version.
    #[error("the record has format version {found}; this program reads up to {FORMAT_VERSION}")]
    Version {
        /// In the head.
        found: u16,
    },
    /// The head is whole, what follows is not.
    #[error("the record's checksum is {expected:#018x}, of its content {found:#018x}")]
    Body {
        /// In the head.
        expected: u64,
        /// Of the content.
        found: u64,
    },
    /// It verifies and makes no sense: a bug, not a fault of the disk.
    #[error("the record contradicts itself: {0}")]
    Malformed(&'static str),
    /// An extent of it contradicts itself.
    #[error("the record contradicts itself: {0}")]
    Extent(#[from] FragmentsMismatch),
}

/// The content of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Of a batch.
    Changes(Changes),
    /// Of a checkpoint.
    Checkpoint(CheckpointBody),
    /// Of all others.
    Nothing,
}

/// Writes a record into `out`, which is as long as the record; the inline blocks are there already.
/// `head.length` and `head.checksum` are not looked at. Returns the head's checksum.
///
/// # Panics
/// When `out` has another length.
pub fn encode(journal: &JournalId, head: &RecordHead, body: &Body, out: &mut [u8]) -> u64 {
    let empty = Changes::default();
    let changes = if let Body::Changes(changes) = body { changes } else { &empty };
    let payload_bytes = match body {
        Body::Checkpoint(_) => size_of::<CheckpointBody>(),
        _ => changes.payload_bytes(),
    };
    let inline_blocks = changes.inline_blocks();
    let start = body_start(payload_bytes);
    assert_eq!(
        out.len(),
        start + inline_blocks * BLOCK_BYTES as usize,
        "a record fills its buffer"
    );
    let mut writer = Writer { out: &mut out[HEAD_BYTES..start], at: 0 };
    match body {
        Body::Checkpoint(body) => writer.put(body),
        _ => writer.put_changes(changes),
    }
    writer.zero_rest();
    let mut bytes = Head {
        magic: MAGIC,
        version: FORMAT_VERSION,
        kind: head.kind.number(),
        domain: journal.domain,
        zero: 0,
        pool: journal.pool,
        sequence: head.sequence,
        incarnation: head.incarnation,
        previous: head.previous,
        position: head.position,
        length: out.len() as u32,
        skipped: head.skipped,
        tail: head.tail,
        checkpoint: head.checkpoint,
        accepted: head.accepted,
        cuts: changes.cuts.len() as u32,
        deletes: changes.deletes.len() as u32,
        inodes: changes.inodes.len() as u32,
        extents: changes.extents.len() as u32,
        inline_blocks: inline_blocks as u32,
        payload_bytes: payload_bytes as u32,
        rest: [0; 15],
        body_checksum: metadata_checksum(
            &context(journal, head.position, head.incarnation),
            &[&out[HEAD_BYTES..]],
        ),
        checksum: 0,
    };
    bytes.checksum = head_checksum(journal, &bytes);
    out[..HEAD_BYTES].copy_from_slice(bytemuck::bytes_of(&bytes));
    bytes.checksum
}

/// Bytes of a record with this body.
pub fn record_bytes(body: &Body) -> usize {
    match body {
        Body::Changes(changes) => changes.record_bytes(),
        _ => BLOCK_BYTES as usize,
    }
}

/// Where a record's inline blocks start.
pub fn inline_start(changes: &Changes) -> usize {
    body_start(changes.payload_bytes())
}

fn context(journal: &JournalId, position: u64, incarnation: u64) -> Context {
    let JournalId { pool, disk, domain, .. } = *journal;
    let address = journal.offset(position);
    Context { pool, disk, zone: Zone::Journal(domain).number(), address, incarnation }
}

fn head_checksum(journal: &JournalId, head: &Head) -> u64 {
    let bytes = &bytemuck::bytes_of(head)[..HEAD_BYTES - 8];
    metadata_checksum(&context(journal, head.position, head.incarnation), &[bytes])
}

/// Looks for a record's head at `offset` of the journal's zone: one that is whole and belongs
/// there.
///
/// # Errors
/// [`RecordError::Absent`] when there is none, [`RecordError::Version`] for a newer one.
pub fn decode_head(
    journal: &JournalId,
    offset: u64,
    bytes: &[u8],
) -> Result<RecordHead, RecordError> {
    let head = raw_head(bytes)?;
    if head.magic != MAGIC
        || head.pool != journal.pool
        || head.domain != journal.domain
        || head.position % journal.bytes != offset
        || head.checksum != head_checksum(journal, &head)
    {
        return Err(RecordError::Absent);
    }
    if head.version > FORMAT_VERSION {
        return Err(RecordError::Version { found: head.version });
    }
    let kind = RecordKind::from_number(head.kind);
    let kind = kind.ok_or(RecordError::Malformed("a kind that this version does not write"))?;
    let length = u64::from(head.length);
    let fits = length >= BLOCK_BYTES
        && length.is_multiple_of(BLOCK_BYTES)
        && offset + length <= journal.bytes
        && head.position <= POSITION_MAX
        && u64::from(head.skipped) <= head.position
        && head.tail <= head.position
        && head.checkpoint <= head.position
        && head.sequence <= SEQUENCE_MAX;
    if !fits {
        return Err(RecordError::Malformed("its place, tail or sequence cannot be"));
    }
    Ok(RecordHead {
        kind,
        sequence: head.sequence,
        incarnation: head.incarnation,
        previous: head.previous,
        position: head.position,
        skipped: head.skipped,
        length: head.length,
        tail: head.tail,
        checkpoint: head.checkpoint,
        accepted: head.accepted,
        checksum: head.checksum,
    })
}

fn raw_head(bytes: &[u8]) -> Result<Head, RecordError> {
    let head = bytes.get(..HEAD_BYTES).ok_or(RecordError::Absent)?;
    Ok(bytemuck::pod_read_unaligned(head))
}

/// Decodes a whole record whose head [`decode_head`] has given; `bytes` are `head.length` long.
///
/// # Errors
/// When its content does not verify, or contradicts itself.
pub fn decode_body(
    journal: &JournalId,
    head: &RecordHead,
    bytes: &[u8],
) -> Result<Body, RecordError> {
    let raw = raw_head(bytes)?;
    let rest = bytes.get(HEAD_BYTES..head.length as usize);
    let rest = rest.ok_or(RecordError::Malformed("it is cut off"))?;
    let found = metadata_checksum(&context(journal, head.position, head.incarnation), &[rest]);
    if found != raw.body_checksum {
        return Err(RecordError::Body { expected: raw.body_checksum, found });
    }
    let payload = rest.get(..raw.payload_bytes as usize);
    let payload = payload.ok_or(RecordError::Malformed("its payload is longer than it"))?;
    let mut reader = Reader { bytes: payload };
    let body = match head.kind {
        RecordKind::Batch => Body::Changes(reader.changes(&raw)?),
        RecordKind::Checkpoint => Body::Checkpoint(reader.take_from(CHECKPOINT_BYTES_MIN)?),
        RecordKind::Open | RecordKind::Seal | RecordKind::Abort => Body::Nothing,
    };
    let wanted = record_bytes(&body);
    if !reader.bytes.is_empty() || wanted != head.length as usize {
        return Err(RecordError::Malformed("its length does not fit its content"));
    }
    Ok(body)
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put<T: Pod>(&mut self, value: &T) {
        let bytes = bytemuck::bytes_of(value);
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn put_changes(&mut self, changes: &Changes) {
        changes.cuts.iter().for_each(|cut| self.put(cut));
        changes.deletes.iter().for_each(|inode| self.put(inode));
        changes.inodes.iter().for_each(|inode| self.put(inode));
        changes.extents.iter().for_each(|put| self.put_extent(put));
    }

    fn put_extent(&mut self, put: &ExtentPut) {
        let fragments = put.extent.fragments();
        let mask = put.extent.mask();
        self.put(&put.inode);
        self.put(&put.index);
        self.put(&[mask, fragments.as_slice().len() as u16, put.fresh, put.inline]);
        fragments.as_slice().iter().for_each(|fragment| self.put(fragment));
        let exist = (0..EXTENT_BLOCKS).filter(|index| mask & 1 << index != 0);
        exist.for_each(|index| self.put(&put.extent.checksums[index]));
        if mask.count_ones() % 2 == 1 {
            self.put(&0u32);
        }
    }

    fn zero_rest(&mut self) {
        self.out[self.at..].fill(0);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn take<T: Pod>(&mut self) -> Result<T, RecordError> {
        let cut_off = RecordError::Malformed("its payload ends too early");
        let (value, rest) = self.bytes.split_at_checked(size_of::<T>()).ok_or(cut_off)?;
        self.bytes = rest;
        Ok(bytemuck::pod_read_unaligned(value))
    }

    /// A structure of which `least` bytes are there at least; the others may be missing.
    fn take_from<T: Pod>(&mut self, least: usize) -> Result<T, RecordError> {
        let mut value = T::zeroed();
        let bytes = bytemuck::bytes_of_mut(&mut value);
        let there = if self.bytes.len() == least { least } else { bytes.len() };
        let cut_off = RecordError::Malformed("its payload ends too early");
        let (own, rest) = self.bytes.split_at_checked(there).ok_or(cut_off)?;
        bytes[..there].copy_from_slice(own);
        self.bytes = rest;
        Ok(value)
    }

    fn list<T: Pod>(&mut self, count: u32) -> Result<Vec<T>, RecordError> {
        (0..count).map(|_| self.take()).collect()
    }

    fn changes(&mut self, head: &Head) -> Result<Changes, RecordError> {
        Ok(Changes {
            cuts: self.list(head.cuts)?,
            deletes: self.list(head.deletes)?,
            inodes: self.list(head.inodes)?,
            extents: (0..head.extents).map(|_| self.extent()).collect::<Result<_, _>>()?,
        })
    }

    fn extent(&mut self) -> Result<ExtentPut, RecordError> {
        let (inode, index): (u64, u64) = (self.take()?, self.take()?);
        let [mask, fragments, fresh, inline]: [u16; 4] = self.take()?;
        if index >= EXTENTS_MAX {
            return Err(RecordError::Malformed("an extent past the end of any inode"));
        }
        if fresh & !mask != 0 || inline & !fresh != 0 {
            return Err(RecordError::Malformed("blocks that are fresh and do not exist"));
        }
        let fragments: Vec<Fragment> = self.list(u32::from(fragments))?;
        let checksums: Vec<u32> = self.list(mask.count_ones())?;
        if mask.count_ones() % 2 == 1 {
            let _: u32 = self.take()?;
        }
        let extent = Extent::assemble(mask, fragments.into_iter(), checksums.into_iter())?;
        Ok(ExtentPut { inode, index, extent, fresh, inline })
    }
}

#[cfg(test)]
mod tests;
