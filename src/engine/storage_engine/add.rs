//! A slot comes while the pool is open: new disks, whose space the pool has from then on.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::concurrency::thread_wait::on_reactor_thread;
use crate::engine::config::{DiskAccess, DiskConfig};
use crate::engine::storage_engine::attach::{Brings, Guest, unusable};
use crate::engine::storage_engine::engine_status::MirrorReport;
use crate::engine::storage_engine::format::cleared;
use crate::engine::storage_engine::opening::discard_part_bytes;
use crate::engine::storage_engine::replace::new_disk_id;
use crate::engine::storage_engine::store_ticket::StoreTicket;
use crate::engine::storage_engine::{EngineError, Overwrite, StorageEngine, operations};
use crate::format::label::Label;
use crate::format::layout::Layout;
use crate::store::call::Call;
use crate::store::errand::LocalFuture;
use crate::store::error::StoreError;
use crate::store::member::MirrorDisk;

/// Disks that are to be a slot. The last one goes first: the places are given back in turn.
#[derive(Default)]
struct Guests<'a>(Vec<Guest<'a>>);

impl Drop for Guests<'_> {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

impl StorageEngine {
    /// Adds a slot to the pool while it is used: as many new disks as each slot has, which hold the
    /// same. Their space is the pool's when this returns, and new data goes there the more, the
    /// emptier they are beside the others; what is on the others stays there. From then on the pool
    /// is opened with them. All that was on them is gone.
    ///
    /// # Errors
    /// There are more or fewer disks than a slot has; the pool is open for reading only, or can
    /// change nothing any more; as many disks have come as `pool.vacant_places` says; a disk is too
    /// small, in use, fails, or carries data and `overwrite` does not say [`Overwrite::Yes`]. Then
    /// none of them is used.
    pub fn add_disks(
        &self,
        paths: &[PathBuf],
        overwrite: Overwrite,
    ) -> Result<Vec<MirrorReport>, EngineError> {
        let Some(first) = paths.first() else {
            return Err(unusable(Path::new(""), "no disk is named".to_owned()));
        };
        if on_reactor_thread() {
            let reason = "a reactor's own thread cannot wait for a disk that comes";
            return Err(EngineError::Reactor(reason.into()));
        }
        let _alone = self.open.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = |reason: String| Err(unusable(first, reason));
        if self.open.closed.load(Ordering::Acquire) {
            return refused(StoreError::Closing.to_string());
        }
        if self.open.is_read_only {
            return refused("the pool is open for reading only".to_owned());
        }
        let known = *self.open.disks.label();
        let count = usize::from(known.mirror.count);
        if paths.len() != count {
            let given = paths.len();
            return refused(format!(
                "{given} disks are named, and each slot of this pool has {count} that hold the same"
            ));
        }
        for (number, path) in paths.iter().enumerate() {
            if paths[..number].contains(path) {
                return Err(unusable(path, "it is named twice".to_owned()));
            }
            cleared(path, overwrite)?;
        }
        let mut guests = Guests::default();
        let mirrors = self.new_slot(paths, &known, &mut guests.0)?;
        let part_bytes = self.part_bytes(&mirrors);
        let slots = self.open.disks.members.len();
        let widened = self.widen(&mirrors, part_bytes);
        // What is in the list of slots keeps its place, whatever became of the labels.
        let stays = self.open.disks.members.len() > slots;
        for guest in &mut guests.0 {
            // A label may still be on its way to one that does not answer.
            (guest.stays, guest.is_busy) = (stays, widened.is_err());
        }
        let slot = widened.map_err(|reason| {
            let reason = match stays {
                false => reason,
                true => format!(
                    "slot {slots} is part of the pool, and is not used before the next opening, \
                     for which its disks must be named: {reason}"
                ),
            };
            unusable(first, reason)
        })?;
        self.tell_domains(slot).map_err(|error| {
            let reason =
                format!("its slot is there, and not used before the next opening: {error}");
            unusable(first, reason)
        })?;
        Ok(mirrors.iter().map(|mirror| MirrorReport::from(&**mirror)).collect())
    }

    /// The disks of a new slot, without labels.
    fn new_slot<'a>(
        &'a self,
        paths: &[PathBuf],
        known: &Label,
        guests: &mut Vec<Guest<'a>>,
    ) -> Result<Vec<Arc<MirrorDisk>>, EngineError> {
        let mut all = Vec::new();
        for path in paths {
            let disk = DiskConfig {
                path: path.clone(),
                access: DiskAccess::ReadWrite,
                ..DiskConfig::default()
            };
            let facts = self.open.io.attach(&disk)?;
            guests.push(Guest { io: &self.open.io, disk: facts.id, stays: false, is_busy: false });
            all.push(facts);
        }
        let bytes = all.iter().map(|facts| facts.size_bytes).min().unwrap_or(0);
        let (domains, journal_bytes) = (known.layout.domains(), known.layout.journal_bytes());
        let layout = Layout::plan(bytes, domains, journal_bytes)
            .map_err(|error| unusable(&paths[0], error.to_string()))?;
        let (slot, mut mirrors) = (self.open.disks.members.len() as u16, Vec::new());
        for (number, facts) in all.iter().enumerate() {
            let mut label = Label { slot, layout, disk: new_disk_id()?, ..*known };
            label.mirror.number = number as u16;
            guests[number].is_busy = true;
            match self.prepared(&paths[number], facts, (label, Brings::Nothing))? {
                Ok(mirror) => mirrors.push(mirror),
                Err(error) => {
                    guests[number].is_busy = false;
                    return Err(error.into());
                }
            }
            guests[number].is_busy = false;
        }
        Ok(mirrors)
    }

    /// In parts of how many bytes the slot is told of what became free.
    fn part_bytes(&self, mirrors: &[Arc<MirrorDisk>]) -> u64 {
        let when = self.open.discard;
        let of = |mirror: &Arc<MirrorDisk>| {
            let info = self.open.io.attached_info(mirror.disk);
            discard_part_bytes(info.as_ref(), when)
        };
        mirrors.iter().map(of).max().unwrap_or(0)
    }

    /// Makes the slot durable.
    fn widen(&self, mirrors: &[Arc<MirrorDisk>], part_bytes: u64) -> Result<u16, String> {
        let (disks, new) = (Arc::clone(&self.open.disks), mirrors.to_vec());
        let work = move |port: std::rc::Rc<_>| -> LocalFuture<_> {
            Box::pin(async move { disks.widen(&port, new, part_bytes).await })
        };
        self.membership_work(mirrors[0].disk, work)
    }

    /// Gives every domain its part of the slot.
    fn tell_domains(&self, slot: u16) -> Result<(), StoreError> {
        let doorsteps = self.open.domains.iter().map(|domain| &domain.doorstep);
        self.told(StoreTicket::all(doorsteps, || Call::Widen(slot), (operations::done, 0)))
    }
}
