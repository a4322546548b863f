//! A disk comes while the pool is open: a new one in the place of one that failed or is missing, or
//! one of the pool's own that was away.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::config::{DiskAccess, DiskConfig};
use crate::engine::storage_engine::engine_status::MirrorReport;
use crate::engine::storage_engine::format::cleared;
use crate::engine::storage_engine::opening::arena_of;
use crate::engine::storage_engine::replace::{DiskPlace, path_of};
use crate::engine::storage_engine::store_ticket::StoreTicket;
use crate::engine::storage_engine::{EngineError, Overwrite, StorageEngine, labels, operations};
use crate::format::label::{LABEL_BYTES, Label};
use crate::io::backend::DiskFacts;
use crate::machine::random;
use crate::store::call::Call;
use crate::store::errand::{LocalFuture, errand};
use crate::store::error::StoreError;
use crate::store::member::{MirrorDisk, MirrorState};
use crate::store::pool::{LabelCopies, PoolError, welcome};

/// How long a disk may take to be made one of the pool: its journals are cleared.
const WELCOME_TIME: Duration = Duration::from_secs(120);
/// How often it is looked whether the engine is being closed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a disk brings that comes.
enum Brings {
    /// Nothing of the pool.
    Nothing,
    /// What it had when it went away, under this id.
    Own([u8; 16]),
}

impl StorageEngine {
    /// Takes a disk into the pool while it is used, in the place of one that has failed or is
    /// missing. It is written from then on, gets what it lacks in the background, and is in sync
    /// when [`StorageEngine::disks`] says so. Without a place it has to be one of the pool's own
    /// that was away: its label says where it belongs, and only what it lacks is copied. All that
    /// another disk holds is gone.
    ///
    /// # Errors
    /// The place has a disk that is used, or there is none such; the pool has no mirrors, or is
    /// open for reading only; as many disks have come as `pool.vacant_places` says; the disk is too
    /// small, in use, fails, or carries data and `overwrite` does not say [`Overwrite::Yes`].
    pub fn attach_disk(
        &self,
        path: impl AsRef<Path>,
        place: Option<DiskPlace>,
        overwrite: Overwrite,
    ) -> Result<MirrorReport, EngineError> {
        let path = path.as_ref();
        let _alone = self.open.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let unusable = |reason: String| EngineError::Pool(unusable(path, reason));
        if self.open.closed.load(Ordering::Acquire) {
            return Err(unusable_by(path, &StoreError::Closing).into());
        }
        if self.open.is_read_only {
            return Err(unusable("the pool is open for reading only".to_owned()));
        }
        let (place, brings) = self.place_of(path, place)?;
        let disks = &self.open.disks;
        if let Some(reason) = disks.refusal(place.slot, place.mirror) {
            return Err(unusable(reason));
        }
        if matches!(brings, Brings::Nothing) {
            cleared(path, overwrite)?;
        }
        let label = self.label_for(place, &brings)?;
        let needed = label.layout.disk_bytes();
        let disk = DiskConfig {
            path: path.to_path_buf(),
            access: DiskAccess::ReadWrite,
            ..DiskConfig::default()
        };
        // One that was taken out may be the one that comes back.
        let all = disks.members.iter().flat_map(|member| member.mirrors.iter());
        let out = all.filter(|mirror| mirror.state() == MirrorState::Out);
        out.for_each(|mirror| self.open.io.detach(mirror.disk));
        let facts = self.open.io.attach(&disk)?;
        if facts.size_bytes < needed {
            let has = facts.size_bytes;
            return Err(unusable(format!("it has {has} bytes, and others of its slot {needed}")));
        }
        let mirror = self.welcome(path, &facts, (label, &brings))?;
        disks.add(Arc::clone(&mirror)).map_err(unusable)?;
        let doorsteps = self.open.domains.iter().map(|domain| &domain.doorstep);
        let bring = || Call::Bring(Arc::clone(&mirror));
        let told = StoreTicket::all(doorsteps, bring, (operations::done, 0)).wait();
        told.map_err(|error| EngineError::Pool(unusable_by(path, &error)))?;
        Ok(MirrorReport::from(&*mirror))
    }

    /// Where a disk goes, and what it brings.
    fn place_of(
        &self,
        path: &Path,
        place: Option<DiskPlace>,
    ) -> Result<(DiskPlace, Brings), EngineError> {
        let own = labels::inspect(path).ok().filter(|found| found.pool == self.open.pool.pool);
        let own = own.and_then(|found| found.disks.into_iter().next());
        match (place, own) {
            (wanted, Some(disk)) if wanted.is_none_or(|wanted| wanted == disk.place()) => {
                Ok((disk.place(), Brings::Own(*disk.disk.as_bytes())))
            }
            (Some(place), _) => Ok((place, Brings::Nothing)),
            (None, _) => {
                let reason = "it is no disk of this pool; name the place that it is to take";
                Err(unusable(path, reason.to_owned()).into())
            }
        }
    }

    /// What is written on a disk that comes: not in sync, in the membership as it is now.
    fn label_for(&self, place: DiskPlace, brings: &Brings) -> Result<Label, EngineError> {
        let disks = &self.open.disks;
        let mut label = disks.members[usize::from(place.slot)].label();
        (label.epoch, label.mirror.in_sync) = disks.membership.durable();
        label.mirror.number = place.mirror;
        label.disk = match brings {
            Brings::Own(id) => *id,
            Brings::Nothing => {
                let id = random::bytes::<16>().map_err(EngineError::Random)?;
                *uuid::Builder::from_random_bytes(id).into_uuid().as_bytes()
            }
        };
        Ok(label)
    }

    /// Makes a disk one of the pool.
    fn welcome(
        &self,
        path: &Path,
        facts: &DiskFacts,
        (label, brings): (Label, &Brings),
    ) -> Result<Arc<MirrorDisk>, EngineError> {
        let (io, disk) = (&self.open.io, facts.id);
        let sector = (facts.logical_block_bytes as usize).max(LABEL_BYTES);
        let reactor = io.reactors_of(disk)[0];
        let arena = arena_of(io, reactor);
        let memory = arena.take(sector).map_err(|e| PoolError::NoMemory(e.to_string()))?;
        let (told, result) = channel();
        let work = move |port: std::rc::Rc<_>| -> LocalFuture<_> {
            Box::pin(async move { welcome(&port, &arena, (disk, sector), &label).await })
        };
        // The receiver is gone when it took too long.
        io.spawn_seed(reactor, errand(work, move |outcome| drop(told.send(outcome))));
        let until = Instant::now() + WELCOME_TIME;
        loop {
            match result.recv_timeout(LOOK_EVERY) {
                Ok(outcome) => break outcome?,
                Err(RecvTimeoutError::Timeout) if self.open.closed.load(Ordering::Acquire) => {
                    return Err(unusable_by(path, &StoreError::Closing).into());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(RecvTimeoutError::Timeout) => {
                    let reason = "it does not answer; the pool goes on without it";
                    return Err(unusable(path, reason.to_owned()).into());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(EngineError::Reactor("it ended while a disk came".to_owned()));
                }
            }
        }
        let copies = LabelCopies(std::array::from_fn(|_| Ok(label)));
        let named = (disk, path_of(path));
        let mut mirror = MirrorDisk::new(named, (label, copies), MirrorState::Syncing, memory);
        mirror.is_blank = matches!(brings, Brings::Nothing);
        Ok(Arc::new(mirror))
    }
}

fn unusable(path: &Path, reason: String) -> PoolError {
    PoolError::Unusable { path: path_of(path), reason }
}

fn unusable_by(path: &Path, error: &StoreError) -> PoolError {
    unusable(path, error.to_string())
}
