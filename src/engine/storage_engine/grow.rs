//! Disks that have grown: the pool has their space.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use crate::concurrency::thread_wait::on_reactor_thread;
use crate::engine::storage_engine::store_ticket::StoreTicket;
use crate::engine::storage_engine::{EngineError, StorageEngine, operations};
use crate::format::layout::BLOCK_BYTES;
use crate::store::call::Call;
use crate::store::errand::LocalFuture;
use crate::store::error::StoreError;
use crate::store::member::{Member, MirrorState};

/// A slot whose disks have grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrownSlot {
    /// Which.
    pub slot: u16,
    /// Bytes for data and metadata pages, of all domains, before.
    pub data_bytes_before: u64,
    /// The same now.
    pub data_bytes: u64,
}

impl StorageEngine {
    /// Looks how large the disks are, and uses what they have grown by, while the pool is used. A
    /// slot grows as far as the smallest of its disks, by whole allocation groups of all domains.
    /// Gives the slots that have.
    ///
    /// # Errors
    /// The pool is open for reading only, or can change nothing any more; or a disk is gone. Slots
    /// that have grown before that stay so.
    pub fn grow(&self) -> Result<Vec<GrownSlot>, EngineError> {
        if on_reactor_thread() {
            let reason = "a reactor's own thread cannot wait for labels to be written";
            return Err(EngineError::Reactor(reason.into()));
        }
        let _alone = self.open.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let mut grown = Vec::new();
        let all = (0..).zip(self.open.disks.members.iter());
        for (slot, member) in all.filter(|(_, member)| member.is_there()) {
            if self.open.closed.load(Ordering::Acquire) {
                return Err(not_grown(slot, StoreError::Closing.to_string()));
            }
            if self.open.is_read_only {
                return Err(not_grown(slot, "the pool is open for reading only".to_owned()));
            }
            grown.extend(self.grow_slot(slot, member)?);
        }
        Ok(grown)
    }

    fn grow_slot(&self, slot: u16, member: &Member) -> Result<Option<GrownSlot>, EngineError> {
        let io = &self.open.io;
        let failed = |error: String| not_grown(slot, error);
        let used: Vec<_> =
            member.mirrors.iter().filter(|mirror| mirror.state() != MirrorState::Out).collect();
        let mut bytes = u64::MAX;
        for mirror in &used {
            let has = io.measure(mirror.disk).map_err(|error| failed(error.to_string()))?;
            bytes = bytes.min(has);
        }
        let before = member.layout();
        // The rest of a round of groups is not worth a new label.
        let Some(after) =
            before.for_disk(bytes).ok().filter(|after| after.groups() > before.groups())
        else {
            return Ok(None);
        };
        for mirror in &used {
            io.resize(mirror.disk, bytes).map_err(|error| failed(error.to_string()))?;
        }
        let disks = Arc::clone(&self.open.disks);
        let work = move |port: std::rc::Rc<_>| -> LocalFuture<_> {
            Box::pin(async move { disks.grow(&port, slot, bytes).await })
        };
        self.membership_work(member.first_disk(), work).map_err(failed)?;
        let doorsteps = self.open.domains.iter().map(|domain| &domain.doorstep);
        let told = StoreTicket::all(doorsteps, || Call::Grow(slot), (operations::done, 0));
        self.told(told).map_err(|error| failed(error.to_string()))?;
        let [data_bytes_before, data_bytes] =
            [before, after].map(|layout| layout.data_blocks() * BLOCK_BYTES);
        Ok(Some(GrownSlot { slot, data_bytes_before, data_bytes }))
    }
}

fn not_grown(slot: u16, reason: String) -> EngineError {
    EngineError::NotGrown { slot, reason }
}
