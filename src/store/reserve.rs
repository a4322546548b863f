//! Buffers that a domain keeps for itself.
//!
//! Commits, checkpoints and home writes make room for everything else, so they must not wait for
//! memory that others hold: what they need at a time is taken when the domain opens, and comes
//! back after each use. A buffer that a device never gives back is gone; with the last one its
//! user fails.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::memory::{Arena, BufferUnavailable, DmaBuf};
use crate::store::error::StoreError;

/// Buffers of one size.
#[derive(Debug)]
pub(crate) struct Reserve {
    what: &'static str,
    free: RefCell<Vec<DmaBuf>>,
    /// Where others come from in the place of those that a device keeps.
    arena: Arc<Arena>,
    /// Buffers that were taken, and how many there are to be.
    taken: Cell<usize>,
    count: usize,
    /// Of each.
    bytes: usize,
}

impl Reserve {
    /// Takes `count` buffers of `bytes` bytes.
    pub(crate) fn new(
        arena: &Arc<Arena>,
        what: &'static str,
        count: usize,
        bytes: usize,
    ) -> Result<Reserve, BufferUnavailable> {
        let free = (0..count).map(|_| arena.take(bytes)).collect::<Result<Vec<_>, _>>()?;
        let (free, arena, taken) = (RefCell::new(free), Arc::clone(arena), Cell::new(0));
        Ok(Reserve { what, free, arena, taken, count, bytes })
    }

    /// One, with that length.
    pub(crate) fn take(&self, bytes: usize) -> Result<DmaBuf, StoreError> {
        let buffer = self.free.borrow_mut().pop();
        // One that a hung disk keeps does not come back.
        let lost = self.taken.get() < self.count;
        let buffer = buffer.or_else(|| lost.then(|| self.arena.take(self.bytes).ok()).flatten());
        let Some(mut buffer) = buffer else {
            let reason = format!("the domain's own buffers for {} are all in use", self.what);
            return Err(StoreError::NoMemory { reason: reason.into() });
        };
        buffer.set_len(bytes);
        self.taken.set(self.taken.get() + 1);
        Ok(buffer)
    }

    /// Gives one back, if it came back.
    pub(crate) fn give(&self, buffer: Option<DmaBuf>) {
        self.taken.set(self.taken.get().saturating_sub(1));
        self.free.borrow_mut().extend(buffer);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.free.borrow().len()
    }
}

/// All that a domain has.
#[derive(Debug)]
pub(crate) struct Reserves {
    /// The record of a batch: one.
    pub(crate) records: Reserve,
    /// Records without content: an abort and a checkpoint may want one at a time.
    pub(crate) marks: Reserve,
    /// Pages of a checkpoint.
    pub(crate) pages: Reserve,
    /// Runs of blocks on their way home.
    pub(crate) runs: Reserve,
}
