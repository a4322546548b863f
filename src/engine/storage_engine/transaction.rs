//! A transaction: several changes of one inode that happen together.

use std::ops::Range;

use crate::engine::storage_engine::StorageEngine;
use crate::engine::storage_engine::operations::{Acknowledged, InodeId, acknowledged};
use crate::engine::storage_engine::store_ticket::StoreTicket;
use crate::memory::DmaBuf;
use crate::store::call::{Durability, Payload, Step};
use crate::store::change::{CHANGE_BYTES_MAX, STEPS_MAX};
use crate::store::error::StoreError;

/// Changes of one inode, collected. Nothing of them happens before [`Transaction::commit`], and
/// then all or nothing, in their order; a transaction that is dropped never was.
///
/// Up to 16 MiB and 1,024 steps. What goes wrong while it collects is told by the commit.
///
/// ```no_run
/// # fn example(engine: &dynamicfs::StorageEngine, inode: dynamicfs::InodeId)
/// # -> Result<(), dynamicfs::StoreError> {
/// let mut both = engine.transaction(inode);
/// both.write(0, b"header").write(1 << 20, b"body").truncate(2 << 20);
/// both.commit().wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing happens without a commit"]
pub struct Transaction<'engine> {
    engine: &'engine StorageEngine,
    inode: InodeId,
    steps: Vec<Step>,
    bytes: u64,
    durability: Durability,
    failed: Option<StoreError>,
}

impl<'engine> Transaction<'engine> {
    pub(super) fn new(engine: &'engine StorageEngine, inode: InodeId) -> Transaction<'engine> {
        let (steps, durability) = (Vec::new(), Durability::Committed);
        Transaction { engine, inode, steps, bytes: 0, durability, failed: None }
    }

    /// When the commit is answered; without this, when it is durable.
    pub fn durability(&mut self, durability: Durability) -> &mut Self {
        self.durability = durability;
        self
    }

    /// Writes bytes, as [`StorageEngine::write`].
    pub fn write(&mut self, offset: u64, data: &[u8]) -> &mut Self {
        if self.has_room(data.len()) {
            let payload = self.engine.payload(self.inode, offset, data);
            self.add(payload);
        }
        self
    }

    /// Writes a buffer's bytes, as [`StorageEngine::write_buffer`].
    pub fn write_buffer(&mut self, offset: u64, buffer: DmaBuf) -> &mut Self {
        if self.has_room(buffer.len()) {
            let payload = self.engine.payload_of(self.inode, offset, buffer);
            self.add(payload);
        }
        self
    }

    /// As [`StorageEngine::write_zeroes`].
    pub fn write_zeroes(&mut self, range: Range<u64>) -> &mut Self {
        let (offset, len) = (range.start, range.end.saturating_sub(range.start));
        self.step(Step::Zero { offset, len })
    }

    /// As [`StorageEngine::truncate`].
    pub fn truncate(&mut self, size_bytes: u64) -> &mut Self {
        self.step(Step::Truncate { size: size_bytes })
    }

    /// Steps collected.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// All of it, or none.
    pub fn commit(self) -> StoreTicket<Acknowledged> {
        match self.failed {
            None => self.engine.change(self.inode, self.steps, self.durability),
            Some(error) => StoreTicket::failed(error, acknowledged),
        }
    }

    /// Whether so many bytes and a step more are within the limits; memory is taken only then.
    fn has_room(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes > CHANGE_BYTES_MAX {
            self.fail(StoreError::TooLarge { bytes: self.bytes, max: CHANGE_BYTES_MAX });
        }
        self.failed.is_none()
    }

    fn add(&mut self, payload: Result<Payload, StoreError>) {
        match payload {
            Ok(payload) => drop(self.step(Step::Write(payload))),
            Err(error) => self.fail(error),
        }
    }

    fn step(&mut self, step: Step) -> &mut Self {
        if self.steps.len() == STEPS_MAX {
            self.fail(StoreError::TooManySteps { steps: STEPS_MAX + 1, max: STEPS_MAX });
        } else if self.failed.is_none() {
            self.steps.push(step);
        }
        self
    }

    /// What was collected is let go: it will not be committed.
    fn fail(&mut self, error: StoreError) {
        self.steps.clear();
        self.failed.get_or_insert(error);
    }
}
