//! Inodes: making, reading, changing, removing.

use std::ops::Range;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::engine::storage_engine::store_ticket::{Meaning, Replies, StoreTicket};
use crate::engine::storage_engine::transaction::Transaction;
use crate::engine::storage_engine::{DomainHandle, StorageEngine};
use crate::format::layout::BLOCK_BYTES;
use crate::format::page::InodeRecord;
use crate::io::op::Priority;
use crate::memory::DmaBuf;
use crate::reactor::bell::Bell;
use crate::reactor::local::LocalTask;
use crate::store::batch::Committed;
use crate::store::call::{Call, Durability, Payload, ReadBytes, Reply, Step};
use crate::store::change::CHANGE_BYTES_MAX;
use crate::store::error::StoreError;

/// An inode's id: never used twice in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct InodeId(pub u64);

impl std::fmt::Display for InodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a new inode is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeOptions {
    /// Kept with the inode and given back by [`StorageEngine::stat`]: a name, a type. The engine
    /// does not look at it.
    pub tag: [u8; 64],
    /// On how many disks each block of its data is, 1 to as many as each slot of its pool has;
    /// none: on as many. It stays as it is. Where it is fewer, that data takes as much less space,
    /// and is lost with its disks; what the pool itself keeps of the inode is on all of them.
    pub copies: Option<u16>,
}

impl Default for InodeOptions {
    fn default() -> Self {
        InodeOptions { tag: [0; 64], copies: None }
    }
}

impl InodeOptions {
    /// With a tag of up to 64 bytes, filled up with zeroes; none when it is longer.
    ///
    /// ```
    /// let options = dynamicfs::InodeOptions::tagged(b"boot volume").unwrap();
    /// assert!(options.tag.starts_with(b"boot volume\0"));
    /// ```
    #[must_use]
    pub fn tagged(tag: &[u8]) -> Option<InodeOptions> {
        let mut options = InodeOptions::default();
        options.tag.get_mut(..tag.len())?.copy_from_slice(tag);
        Some(options)
    }
}

/// What is known of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeInfo {
    /// Its id.
    pub id: InodeId,
    /// Its bytes, holes included.
    pub size_bytes: u64,
    /// Number of the commit that last changed it. It only rises.
    pub generation: u64,
    /// Number of the commit that made it.
    pub created: u64,
    /// See [`InodeOptions::tag`].
    pub tag: [u8; 64],
    /// See [`InodeOptions::copies`].
    pub copies: Option<u16>,
}

impl From<&InodeRecord> for InodeInfo {
    fn from(record: &InodeRecord) -> InodeInfo {
        InodeInfo {
            id: InodeId(record.id),
            size_bytes: record.size_bytes,
            generation: record.generation,
            created: record.created,
            tag: record.tag,
            copies: Some(record.copies()).filter(|copies| *copies > 0),
        }
    }
}

/// How to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Class of the reads at the disk.
    pub priority: Priority,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions { priority: Priority::NormalRead }
    }
}

/// What is certain of a change that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// It is durable: in which commit, and by what.
    Durable(Committed),
    /// It is visible and has its place in the order; the next [`StorageEngine::sync`] makes it
    /// durable, or says that it was lost.
    Buffered,
}

const BLOCK: usize = BLOCK_BYTES as usize;

impl StorageEngine {
    fn domain_of(&self, inode: InodeId) -> &DomainHandle {
        &self.open.domains[(inode.0 % self.open.domains.len() as u64) as usize]
    }

    fn ask<T>(&self, inode: InodeId, call: Call, meaning: Meaning<T>) -> StoreTicket<T> {
        StoreTicket::one(&self.domain_of(inode).doorstep, call, meaning)
    }

    fn ask_all<T>(&self, call: impl Fn() -> Call, meaning: (Meaning<T>, usize)) -> StoreTicket<T> {
        StoreTicket::all(self.open.domains.iter().map(|domain| &domain.doorstep), call, meaning)
    }

    /// Makes an empty inode. It is durable when the ticket is answered.
    pub fn create_inode(&self, options: InodeOptions) -> StoreTicket<InodeId> {
        let turn = self.open.creations.fetch_add(1, Ordering::Relaxed) % self.open.domains.len();
        let InodeOptions { tag, copies } = options;
        let call = Call::Create { tag, copies };
        StoreTicket::one(&self.open.domains[turn].doorstep, call, created)
    }

    /// What is known of an inode.
    pub fn stat(&self, inode: InodeId) -> StoreTicket<InodeInfo> {
        self.ask(inode, Call::Stat { inode: inode.0 }, info)
    }

    /// Up to `max` inodes by their ids, from `from` on. For more, begin again after the last.
    pub fn list(&self, from: InodeId, max: usize) -> StoreTicket<Vec<InodeInfo>> {
        self.ask_all(|| Call::List { from: from.0, max }, (listing, max))
    }

    /// Removes an inode with its content.
    pub fn delete(&self, inode: InodeId) -> StoreTicket<Acknowledged> {
        self.ask(inode, Call::Delete { inode: inode.0 }, acknowledged)
    }

    /// Reads a range, up to 16 MiB with the blocks at its ends. The answer is shorter where the
    /// inode ends; holes read as zeroes.
    pub fn read(&self, inode: InodeId, range: Range<u64>) -> StoreTicket<ReadBytes> {
        self.read_with(inode, range, ReadOptions::default())
    }

    /// As [`StorageEngine::read`], with options.
    pub fn read_with(
        &self,
        inode: InodeId,
        range: Range<u64>,
        options: ReadOptions,
    ) -> StoreTicket<ReadBytes> {
        let (offset, len) = (range.start, range.end.saturating_sub(range.start));
        let buffer = whole_blocks(offset, len).and_then(|bytes| self.memory(inode, bytes));
        match buffer {
            Ok(buffer) => {
                let (priority, len) = (options.priority, len as usize);
                let call = Call::Read { inode: inode.0, offset, buffer, len, priority };
                self.ask(inode, call, bytes)
            }
            Err(error) => StoreTicket::failed(error, bytes),
        }
    }

    /// Writes bytes anywhere; the inode grows if they go past its end. All of it or nothing, up to
    /// 16 MiB with the blocks at its ends. It is durable when the ticket is answered.
    pub fn write(&self, inode: InodeId, offset: u64, data: &[u8]) -> StoreTicket<Acknowledged> {
        self.write_with(inode, offset, data, Durability::Committed)
    }

    /// As [`StorageEngine::write`], answered as `durability` says.
    pub fn write_with(
        &self,
        inode: InodeId,
        offset: u64,
        data: &[u8],
        durability: Durability,
    ) -> StoreTicket<Acknowledged> {
        match self.payload(inode, offset, data) {
            Ok(payload) => self.change(inode, vec![Step::Write(payload)], durability),
            Err(error) => StoreTicket::failed(error, acknowledged),
        }
    }

    /// Writes a buffer's bytes. Where `offset` is a multiple of 4,096 they are not copied.
    pub fn write_buffer(
        &self,
        inode: InodeId,
        offset: u64,
        buffer: DmaBuf,
    ) -> StoreTicket<Acknowledged> {
        match self.payload_of(inode, offset, buffer) {
            Ok(payload) => self.change(inode, vec![Step::Write(payload)], Durability::Committed),
            Err(error) => StoreTicket::failed(error, acknowledged),
        }
    }

    /// Makes a range read as zeroes. It may have any length, takes no space where it covers whole
    /// blocks, and does not make the inode longer.
    pub fn write_zeroes(&self, inode: InodeId, range: Range<u64>) -> StoreTicket<Acknowledged> {
        let (offset, len) = (range.start, range.end.saturating_sub(range.start));
        self.change(inode, vec![Step::Zero { offset, len }], Durability::Committed)
    }

    /// Gives the space of a range back. It reads as zeroes afterwards: what a disk may do or not,
    /// this engine always does, so this is [`StorageEngine::write_zeroes`] under its other name.
    pub fn discard(&self, inode: InodeId, range: Range<u64>) -> StoreTicket<Acknowledged> {
        self.write_zeroes(inode, range)
    }

    /// Ends an inode at `size_bytes`; longer than it is, the rest reads as zeroes.
    pub fn truncate(&self, inode: InodeId, size_bytes: u64) -> StoreTicket<Acknowledged> {
        self.change(inode, vec![Step::Truncate { size: size_bytes }], Durability::Committed)
    }

    /// Everything that was answered before is durable when this is. It fails when something that
    /// was answered as buffered has been lost, and so does every later one.
    pub fn sync(&self) -> StoreTicket<()> {
        self.ask_all(|| Call::Sync, (done, 0))
    }

    /// A transaction on an inode: collects steps, and commits all of them or none.
    pub fn transaction(&self, inode: InodeId) -> Transaction<'_> {
        Transaction::new(self, inode)
    }

    /// Starts a task on the reactor of an inode's domain, where its requests cross no thread:
    /// `make` makes it there, and the bell that it is given calls it, as its wakers must. False
    /// when the reactor has given all its bells ([`Bell::PER_REACTOR`], never given back).
    ///
    /// It may poll tickets, never wait for them. When the engine closes it is dropped.
    pub fn spawn_near(
        &self,
        inode: InodeId,
        make: impl FnOnce(Bell) -> Box<dyn LocalTask> + Send + 'static,
    ) -> bool {
        let Some(bell) = self.open.io.bell(self.domain_of(inode).reactor) else { return false };
        let given = bell.clone();
        self.open.io.spawn_seed_with_bell(&bell, Box::new(move || make(given)));
        true
    }

    pub(super) fn change(
        &self,
        inode: InodeId,
        steps: Vec<Step>,
        durability: Durability,
    ) -> StoreTicket<Acknowledged> {
        self.ask(inode, Call::Change { inode: inode.0, steps, durability }, acknowledged)
    }

    /// Memory near the inode's reactor, or anywhere.
    fn memory(&self, inode: InodeId, bytes: usize) -> Result<DmaBuf, StoreError> {
        let near = self.domain_of(inode).arena.take(bytes);
        near.or_else(|_| self.open.io.buffer(bytes))
            .map_err(|error| StoreError::NoMemory { reason: error.to_string().into() })
    }

    /// Bytes of a caller, copied to memory for the disk.
    pub(super) fn payload(
        &self,
        inode: InodeId,
        offset: u64,
        data: &[u8],
    ) -> Result<Payload, StoreError> {
        let mut buffer = self.memory(inode, whole_blocks(offset, data.len() as u64)?)?;
        let start = (offset % BLOCK_BYTES) as usize;
        buffer[start..start + data.len()].copy_from_slice(data);
        Ok(Payload { offset, len: data.len(), buffer })
    }

    /// A caller's buffer as it is, where its blocks are the inode's.
    pub(super) fn payload_of(
        &self,
        inode: InodeId,
        offset: u64,
        mut buffer: DmaBuf,
    ) -> Result<Payload, StoreError> {
        if !offset.is_multiple_of(BLOCK_BYTES) {
            return self.payload(inode, offset, &buffer);
        }
        let len = buffer.len();
        buffer.set_len(whole_blocks(offset, len as u64)?);
        Ok(Payload { offset, len, buffer })
    }
}

/// Bytes of the blocks that a range touches, as far as one request may have them.
fn whole_blocks(offset: u64, len: u64) -> Result<usize, StoreError> {
    let bytes = (offset % BLOCK_BYTES).saturating_add(len).max(1);
    let bytes = bytes.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX);
    if bytes > CHANGE_BYTES_MAX {
        return Err(StoreError::TooLarge { bytes, max: CHANGE_BYTES_MAX });
    }
    Ok((bytes as usize).max(BLOCK))
}

/// The one reply of a call to one domain.
fn only(mut replies: Replies<'_>) -> Result<Reply, StoreError> {
    match replies.next() {
        Some(Reply::Failed(error)) => Err(error),
        Some(reply) => Ok(reply),
        None => unreachable!("every call is answered"),
    }
}

fn mismatch(reply: &Reply) -> ! {
    unreachable!("a domain answers the question it was asked, not with {reply:?}")
}

fn created(replies: Replies<'_>, _: usize) -> Result<InodeId, StoreError> {
    match only(replies)? {
        Reply::Created { inode, .. } => Ok(InodeId(inode)),
        other => mismatch(&other),
    }
}

fn info(replies: Replies<'_>, _: usize) -> Result<InodeInfo, StoreError> {
    match only(replies)? {
        Reply::Stat(record) => Ok(InodeInfo::from(&record)),
        other => mismatch(&other),
    }
}

fn bytes(replies: Replies<'_>, _: usize) -> Result<ReadBytes, StoreError> {
    match only(replies)? {
        Reply::Read(bytes) => Ok(bytes),
        other => mismatch(&other),
    }
}

pub(super) fn acknowledged(replies: Replies<'_>, _: usize) -> Result<Acknowledged, StoreError> {
    match only(replies)? {
        Reply::Changed(Some(committed)) => Ok(Acknowledged::Durable(committed)),
        Reply::Changed(None) => Ok(Acknowledged::Buffered),
        other => mismatch(&other),
    }
}

/// All domains are; the first failure counts.
pub(super) fn done(replies: Replies<'_>, _: usize) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    for reply in replies {
        match reply {
            Reply::Done => {}
            Reply::Failed(error) => outcome = outcome.and(Err(error)),
            other => mismatch(&other),
        }
    }
    outcome
}

/// A domain gave up to `max` from where the question began, so of all together the first `max` are
/// without a gap.
fn listing(replies: Replies<'_>, max: usize) -> Result<Vec<InodeInfo>, StoreError> {
    let mut all: Vec<InodeInfo> = Vec::new();
    for reply in replies {
        match reply {
            Reply::List(inodes) => all.extend(inodes.iter().map(InodeInfo::from)),
            Reply::Failed(error) => return Err(error),
            other => mismatch(&other),
        }
    }
    all.sort_unstable_by_key(|inode| inode.id);
    all.truncate(max);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_takes_the_blocks_it_touches() {
        for (offset, len, bytes) in [
            (0, 0, 4096),
            (0, 1, 4096),
            (4095, 2, 8192),
            (8192, 4096, 4096),
            (1, 4096, 8192),
            (0, CHANGE_BYTES_MAX, CHANGE_BYTES_MAX as usize),
        ] {
            assert_eq!(whole_blocks(offset, len).unwrap(), bytes, "{offset} {len}");
        }
        for (offset, len) in [(1, CHANGE_BYTES_MAX), (0, CHANGE_BYTES_MAX + 1), (4095, u64::MAX)] {
            let refusal = whole_blocks(offset, len);
            assert!(matches!(refusal, Err(StoreError::TooLarge { max: CHANGE_BYTES_MAX, .. })));
        }
    }
}
