//! A disk comes while the pool is open: a new one in the place of one that failed or is missing, or
//! one of the pool's own that was away.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::concurrency::thread_wait::on_reactor_thread;
use crate::engine::config::{DiskAccess, DiskConfig};
use crate::engine::io_scheduler::IoScheduler;
use crate::engine::storage_engine::engine_status::MirrorReport;
use crate::engine::storage_engine::format::cleared;
use crate::engine::storage_engine::labels::look_at;
use crate::engine::storage_engine::opening::{arena_of, labels};
use crate::engine::storage_engine::replace::{DiskPlace, new_disk_id, path_of};
use crate::engine::storage_engine::store_ticket::StoreTicket;
use crate::engine::storage_engine::{EngineError, Overwrite, StorageEngine, operations};
use crate::format::label::{LABEL_BYTES, Label};
use crate::io::backend::DiskFacts;
use crate::io::op::DiskId;
use crate::store::call::Call;
use crate::store::errand::{LocalFuture, errand};
use crate::store::error::StoreError;
use crate::store::member::{MirrorDisk, MirrorState};
use crate::store::pool::{CopyFault, LabelCopies, PoolError, Preparation, prepare};
use crate::store::port::Port;

/// How long a disk that is prepared may go without answering.
const SILENT_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether the engine is being closed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a disk brings that comes.
#[expect(clippy::large_enum_variant, reason = "there is one, while a disk comes")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Brings {
    /// Nothing of the pool.
    Nothing,
    /// What it had when it went away, under this label.
    Own(Label),
}

/// Lets go of a disk that did not come after all.
pub(super) struct Guest<'a> {
    pub(super) io: &'a IoScheduler,
    pub(super) disk: DiskId,
    pub(super) stays: bool,
    /// It may still have requests, which must not reach another disk: its place is lost with it.
    pub(super) is_busy: bool,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        match (self.stays, self.is_busy) {
            (true, _) => {}
            (false, true) => self.io.detach(self.disk),
            (false, false) => self.io.send_away(self.disk),
        }
    }
}

impl StorageEngine {
    /// Takes a disk into the pool while it is used, in the place of one that has failed or is
    /// missing. It is written from then on, gets what it lacks in the background, and is in sync
    /// when [`StorageEngine::disks`] says so. Without a place it has to be one of the pool's own
    /// that was away: its label says where it belongs, and only what it lacks is copied. All that
    /// another disk holds is gone, one of this pool that was opened without the others included.
    ///
    /// # Errors
    /// The place has a disk that is used, or there is none such; the pool has no mirrors, is open
    /// for reading only, or can change nothing any more; as many disks have come as
    /// `pool.vacant_places` says; the disk is too small, in use, fails, or carries data and
    /// `overwrite` does not say [`Overwrite::Yes`]. Then it is not used.
    pub fn attach_disk(
        &self,
        path: impl AsRef<Path>,
        place: Option<DiskPlace>,
        overwrite: Overwrite,
    ) -> Result<MirrorReport, EngineError> {
        let path = path.as_ref();
        if on_reactor_thread() {
            let reason = "a reactor's own thread cannot wait for a disk that comes";
            return Err(EngineError::Reactor(reason.into()));
        }
        let _alone = self.open.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let unusable = |reason: String| unusable(path, reason);
        if self.open.closed.load(Ordering::Acquire) {
            return Err(unusable(StoreError::Closing.to_string()));
        }
        if self.open.is_read_only {
            return Err(unusable("the pool is open for reading only".to_owned()));
        }
        // One that was taken out may be the one that comes back.
        self.let_go_of_failed();
        let (place, brings) = self.place_of(path, place)?;
        let disks = &self.open.disks;
        if let Some(reason) = disks.refusal(place.slot, place.mirror) {
            return Err(unusable(reason));
        }
        if brings == Brings::Nothing {
            cleared(path, overwrite)?;
        }
        let label = self.label_for(place, &brings)?;
        let disk = DiskConfig {
            path: path.to_path_buf(),
            access: DiskAccess::ReadWrite,
            ..DiskConfig::default()
        };
        let facts = self.open.io.attach(&disk)?;
        let mut guest = Guest { io: &self.open.io, disk: facts.id, stays: false, is_busy: false };
        let (has, needed) = (facts.size_bytes, label.layout.disk_bytes());
        if has < needed {
            return Err(unusable(format!("it has {has} bytes, and others of its slot {needed}")));
        }
        if let Brings::Own(judged) = brings {
            // It was somebody else's until it was opened.
            let now = labels(&self.open.io, &facts)?.verdict(&path_of(path), has)?;
            if now != judged {
                return Err(unusable("somebody has just changed it; try again".to_owned()));
            }
        }
        guest.is_busy = true;
        let mirror = match self.prepared(path, &facts, (label, brings))? {
            Ok(mirror) => mirror,
            Err(error) => {
                guest.is_busy = false;
                return Err(error.into());
            }
        };
        self.admit(&mirror).map_err(unusable)?;
        guest.stays = true;
        self.bring(&mirror).map_err(|error| {
            unusable(format!("it is in its place now, and does not get what it lacks: {error}"))
        })?;
        Ok(MirrorReport::from(&*mirror))
    }

    fn let_go_of_failed(&self) {
        let all = self.open.disks.members.iter().flat_map(|member| member.mirrors.iter());
        let out = all.filter(|mirror| mirror.state() == MirrorState::Out);
        // A place may have been given to another since.
        let used = |disk: DiskId| {
            let mut all = self.open.disks.members.iter().flat_map(|member| member.mirrors.iter());
            all.any(|mirror| mirror.disk == disk && mirror.state() != MirrorState::Out)
        };
        let out = out.filter(|mirror| !used(mirror.disk));
        out.for_each(|mirror| self.open.io.detach(mirror.disk));
    }

    /// Where a disk goes, and what it brings.
    fn place_of(
        &self,
        path: &Path,
        wanted: Option<DiskPlace>,
    ) -> Result<(DiskPlace, Brings), EngineError> {
        let own = look_at(0, path).ok().map(|found| found.label);
        let own = own.filter(|label| label.pool == *self.open.pool.pool.as_bytes());
        let refused = |reason: &str| Err(unusable(path, reason.to_owned()));
        let Some(label) = own else {
            return match wanted {
                Some(place) => Ok((place, Brings::Nothing)),
                None => refused("it is no disk of this pool; name the place that it is to take"),
            };
        };
        let own = DiskPlace { slot: label.slot, mirror: label.mirror.number };
        match wanted {
            Some(place) if place != own => Ok((place, Brings::Nothing)),
            _ if self.was_here(&label) => Ok((own, Brings::Own(label))),
            Some(place) => Ok((place, Brings::Nothing)),
            None => refused(
                "it was opened without the disks that are here, and may have what they have not; \
                 name its place, and let it be overwritten, to give that up",
            ),
        }
    }

    /// Whether all that a disk with this label has was written by openings that the disks here were
    /// part of.
    fn was_here(&self, label: &Label) -> bool {
        let disks = &self.open.disks;
        let (epoch, in_sync) = disks.membership.durable();
        let Some(member) = disks.members.get(usize::from(label.slot)) else { return false };
        let shares = member.in_sync().any(|mirror| label.mirror.in_sync.contains(mirror.number()));
        let is_apart = label.epoch == epoch && label.mirror.in_sync != in_sync;
        label.epoch <= epoch && shares && !is_apart
    }

    /// What a disk is that comes. Its epoch, and who is in sync, it gets when it is admitted.
    fn label_for(&self, place: DiskPlace, brings: &Brings) -> Result<Label, EngineError> {
        let mut label = self.open.disks.members[usize::from(place.slot)].label();
        label.removals = self.open.disks.membership.removals();
        label.mirror.number = place.mirror;
        label.disk = match brings {
            Brings::Own(own) => own.disk,
            Brings::Nothing => new_disk_id()?,
        };
        Ok(label)
    }

    /// A disk without label and journal, ready to be admitted; or why it failed. The other error is
    /// that it has not answered.
    pub(super) fn prepared(
        &self,
        path: &Path,
        facts: &DiskFacts,
        (label, brings): (Label, Brings),
    ) -> Result<Result<Arc<MirrorDisk>, PoolError>, EngineError> {
        let (io, disk) = (&self.open.io, facts.id);
        let sector = (facts.logical_block_bytes as usize).max(LABEL_BYTES);
        let reactor = io.reactors_of(disk)[0];
        let arena = arena_of(io, reactor);
        let memory = arena.take(sector).map_err(|e| PoolError::NoMemory(e.to_string()))?;
        let (told, result) = channel();
        let preparation = Arc::new(Preparation::default());
        let of = (label, Arc::clone(&preparation));
        let work = move |port: std::rc::Rc<_>| -> LocalFuture<_> {
            Box::pin(async move { prepare(&port, &arena, (disk, sector), (&of.0, &of.1)).await })
        };
        // The receiver is gone when it took too long.
        io.spawn_seed(reactor, errand(work, move |outcome| drop(told.send(outcome))));
        let waited = self.wait_for(path, &result, &preparation);
        if waited.is_err() {
            preparation.given_up.store(true, Ordering::Relaxed);
        }
        if let Err(error) = waited? {
            return Ok(Err(error));
        }
        let absent = LabelCopies(std::array::from_fn(|_| Err(CopyFault::Absent)));
        let named = (disk, path_of(path));
        let mut mirror = MirrorDisk::new(named, (label, absent), MirrorState::Syncing, memory);
        mirror.is_blank = brings == Brings::Nothing;
        Ok(Ok(Arc::new(mirror)))
    }

    /// Waits as long as the disk goes on answering.
    fn wait_for(
        &self,
        path: &Path,
        result: &Receiver<Result<(), PoolError>>,
        preparation: &Preparation,
    ) -> Result<Result<(), PoolError>, EngineError> {
        let (mut answered, mut since) = (0, Instant::now());
        loop {
            match result.recv_timeout(LOOK_EVERY) {
                Ok(outcome) => return Ok(outcome),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(EngineError::Reactor("it ended while a disk came".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.open.closed.load(Ordering::Acquire) {
                return Err(unusable(path, StoreError::Closing.to_string()));
            }
            let now = preparation.answered.load(Ordering::Relaxed);
            if now != answered {
                (answered, since) = (now, Instant::now());
            } else if since.elapsed() > SILENT_MAX {
                let reason = "it does not answer, or there is no memory for buffers; the pool goes \
                              on without it";
                return Err(unusable(path, reason.to_owned()));
            }
        }
    }

    /// Takes a disk into the membership: from then on it is written.
    fn admit(&self, mirror: &Arc<MirrorDisk>) -> Result<(), String> {
        let (disks, admitted) = (Arc::clone(&self.open.disks), Arc::clone(mirror));
        let work = move |port: std::rc::Rc<_>| -> LocalFuture<_> {
            Box::pin(async move { disks.admit(&port, admitted).await })
        };
        self.membership_work(mirror.disk, work)
    }

    /// Has the membership changed on a reactor that drives a disk.
    pub(super) fn membership_work<T: Send + 'static>(
        &self,
        disk: DiskId,
        work: impl FnOnce(std::rc::Rc<Port>) -> LocalFuture<Result<T, String>> + Send + 'static,
    ) -> Result<T, String> {
        let io = &self.open.io;
        let (told, result) = channel();
        let reactor = io.reactors_of(disk)[0];
        io.spawn_seed(reactor, errand(work, move |outcome| drop(told.send(outcome))));
        loop {
            // Labels are written within a time of their own, after which disks are taken out.
            match result.recv_timeout(LOOK_EVERY) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) if !self.open.closed.load(Ordering::Acquire) => {}
                Err(_) => return Err(StoreError::Closing.to_string()),
            }
        }
    }

    /// Has every domain bring it what it lacks.
    fn bring(&self, mirror: &Arc<MirrorDisk>) -> Result<(), StoreError> {
        let doorsteps = self.open.domains.iter().map(|domain| &domain.doorstep);
        let bring = || Call::Bring(Arc::clone(mirror));
        self.told(StoreTicket::all(doorsteps, bring, (operations::done, 0)))
    }

    /// Waits until all domains have obeyed.
    pub(super) fn told(&self, mut told: StoreTicket<()>) -> Result<(), StoreError> {
        loop {
            told = match told.wait_until(Instant::now() + LOOK_EVERY) {
                Ok(answer) => return answer,
                Err(_) if self.open.closed.load(Ordering::Acquire) => {
                    return Err(StoreError::Closing);
                }
                Err(told) => told,
            };
        }
    }
}

pub(super) fn unusable(path: &Path, reason: String) -> EngineError {
    EngineError::NotAttached { path: path.to_path_buf(), reason }
}
