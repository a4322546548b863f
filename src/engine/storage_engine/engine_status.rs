//! What a storage engine is made of, and what it has counted.

use std::ops::Add;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::engine::status::Status;
use crate::engine::storage_engine::StorageEngine;
use crate::engine::storage_engine::labels::PoolReport;
use crate::engine::storage_engine::operations::InodeId;
use crate::engine::storage_engine::remove::SlotRemoval;
use crate::engine::storage_engine::store_ticket::{Replies, StoreTicket};
use crate::format::layout::BLOCK_BYTES;
use crate::format::removals::SlotFate;
use crate::io::metrics::Metrics;
use crate::store::call::{Call, Reply};
use crate::store::domain::{DomainCounters, DomainStatus};
use crate::store::error::StoreError;
use crate::store::member::{Member, MirrorDisk, MirrorState};
use crate::store::recovery::RecoveryReport;
use crate::store::scrub::{ScrubOrder, ScrubReport};

/// One commit domain.
#[derive(Clone, Debug)]
pub struct DomainReport {
    /// Its reactor, by number.
    pub reactor: usize,
    /// What the opening of the pool found and did.
    pub recovery: RecoveryReport,
    /// What it is doing.
    pub now: DomainStatus,
}

/// A disk of the pool, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorReport {
    /// The disk.
    pub path: PathBuf,
    /// Its number among the disks of [`Status`].
    pub disk: u16,
    /// Its slot in the pool.
    pub slot: u16,
    /// Its number among the disks of the slot.
    pub mirror: u16,
    /// What it is good for.
    pub state: MirrorState,
    /// Its slot is leaving the pool.
    #[serde(default)]
    pub leaving: bool,
    /// Reads that failed there.
    pub read_failures: u64,
    /// Reads that were sent to another disk too, because this one took long.
    pub reads_hedged: u64,
    /// Nanoseconds that a read takes lately.
    pub read_average_ns: u64,
    /// Extents that were looked at to bring it into sync.
    pub sync_looked_at: u64,
    /// Blocks that were copied to it for that.
    pub sync_copied: u64,
    /// Blocks of those that no disk of the slot has right.
    pub sync_lost: u64,
}

/// A storage engine at one moment.
#[derive(Clone, Debug)]
pub struct EngineStatus {
    /// The pool's label.
    pub pool: PoolReport,
    /// Its disks that are used, by slot and mirror.
    pub disks: Vec<MirrorReport>,
    /// Slots that are leaving, and those that are gone.
    pub removals: Vec<SlotRemoval>,
    /// Of its membership, now.
    pub epoch: u64,
    /// Why no label can be written any more, if so: no disk can be taken out, or come back.
    pub labels_failed: Option<String>,
    /// The domains, by number.
    pub domains: Vec<DomainReport>,
    /// Disks, reactors, lanes, memory.
    pub io: Status,
}

impl EngineStatus {
    /// Bytes for data and metadata pages.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.domains.iter().map(|domain| domain.now.blocks).sum::<u64>() * BLOCK_BYTES
    }

    /// Of these, bytes that nothing uses.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.domains.iter().map(|domain| domain.now.free_blocks).sum::<u64>() * BLOCK_BYTES
    }

    /// Inodes of all domains.
    #[must_use]
    pub fn inodes(&self) -> u64 {
        self.domains.iter().map(|domain| domain.now.inodes).sum()
    }
}

/// Counters since the pool was opened.
#[derive(Clone, Debug)]
pub struct EngineMetrics {
    /// Domains, with their counters and locks.
    pub domains: Vec<DomainStatus>,
    /// Disks and reactors.
    pub io: Metrics,
}

impl EngineMetrics {
    fn sum<T: Add<Output = T> + Default>(&self, of: impl Fn(&DomainCounters) -> T) -> T {
        self.domains.iter().fold(T::default(), |sum, domain| sum + of(&domain.counters))
    }

    /// Commits that are durable.
    #[must_use]
    pub fn group_commits(&self) -> u64 {
        self.sum(|counters| counters.group_commits)
    }

    /// Requests that those made durable.
    #[must_use]
    pub fn group_commit_ops(&self) -> u64 {
        self.sum(|counters| counters.group_commit_ops)
    }

    /// Requests of a commit on average, 0 when there were none.
    #[must_use]
    pub fn avg_group_commit_ops(&self) -> f64 {
        match self.group_commits() {
            0 => 0.0,
            commits => self.group_commit_ops() as f64 / commits as f64,
        }
    }

    /// Flushes that made commits durable.
    #[must_use]
    pub fn commit_flushes(&self) -> u64 {
        self.sum(|counters| counters.commit_flushes)
    }

    /// Bytes that went to the disk for each byte that callers wrote, 0 when they wrote none.
    #[must_use]
    pub fn write_amplification(&self) -> f64 {
        let written = self.sum(|counters| {
            counters.journal_bytes
                + counters.data_bytes
                + counters.write_back_bytes
                + counters.page_bytes
        });
        match self.sum(|counters| counters.caller_bytes) {
            0 => 0.0,
            callers => written as f64 / callers as f64,
        }
    }

    /// Contentions for each acquisition of the engine's own extent locks, 0 when there were none.
    #[must_use]
    pub fn lock_contention_ratio(&self) -> f64 {
        let locks = self.domains.iter().map(|domain| &domain.locks);
        let (taken, waited) = locks.fold((0, 0), |(taken, waited), locks| {
            (taken + locks.lock_acquisitions, waited + locks.lock_contentions)
        });
        if taken == 0 { 0.0 } else { waited as f64 / taken as f64 }
    }
}

impl From<&MirrorDisk> for MirrorReport {
    fn from(mirror: &MirrorDisk) -> MirrorReport {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MirrorReport {
            path: PathBuf::from(&*mirror.path),
            disk: mirror.disk.0,
            slot: mirror.label.slot,
            mirror: mirror.label.mirror.number,
            state: mirror.state(),
            leaving: false,
            read_failures: mirror.times.failures(),
            reads_hedged: mirror.times.hedged(),
            read_average_ns: mirror.times.average_ns(),
            sync_looked_at: count(&mirror.sync_looked_at),
            sync_copied: count(&mirror.sync_copied),
            sync_lost: count(&mirror.sync_lost),
        }
    }
}

impl StorageEngine {
    /// What each domain is doing. A task awaits this where a thread calls
    /// [`StorageEngine::metrics`] or [`StorageEngine::status`].
    pub fn domains(&self) -> StoreTicket<Vec<DomainStatus>> {
        let doorsteps = self.open.domains.iter().map(|domain| &domain.doorstep);
        StoreTicket::all(doorsteps, || Call::Status, (statuses, 0))
    }

    /// Counters at this moment. It asks every domain and waits for the answers.
    ///
    /// # Errors
    /// As any request: [`StoreError::Closing`], [`StoreError::WaitOnReactor`].
    pub fn metrics(&self) -> Result<EngineMetrics, StoreError> {
        Ok(EngineMetrics { domains: self.domains().wait()?, io: self.open.io.metrics() })
    }

    /// What the engine is made of, and how full it is. It asks every domain and waits.
    ///
    /// # Errors
    /// As [`StorageEngine::metrics`].
    pub fn status(&self) -> Result<EngineStatus, StoreError> {
        let now = self.domains().wait()?;
        let removals = self.removals_of(&now);
        let domains = self.open.domains.iter().zip(now).map(|(domain, now)| DomainReport {
            reactor: domain.reactor,
            recovery: domain.recovery.clone(),
            now,
        });
        Ok(EngineStatus {
            pool: self.open.pool_report(),
            disks: self.disks(),
            removals,
            epoch: self.open.disks.membership.durable().0,
            labels_failed: self.open.disks.membership.broken().map(|why| why.to_string()),
            domains: domains.collect(),
            io: self.io_status(),
        })
    }

    /// Gives every domain's scrub an order; says what each has done.
    ///
    /// # Errors
    /// As [`StorageEngine::metrics`].
    pub fn scrub(&self, order: ScrubOrder) -> Result<Vec<ScrubReport>, StoreError> {
        let doorsteps = self.open.domains.iter().map(|domain| &domain.doorstep);
        StoreTicket::all(doorsteps, || Call::Scrub(order), (scrubbed, 0)).wait()
    }

    /// How disks are brought into sync from here on: whether that waits, and how many MiB a second
    /// all domains together read of each at most, 0 for as fast as the background goes. What is
    /// `None` stays as it is.
    pub fn sync_order(&self, paused: Option<bool>, mib_per_second: Option<u32>) {
        let orders = &self.open.disks.sync;
        orders.set(paused, mib_per_second, self.open.domains.len() as u64);
    }

    /// The disks of the pool that are used, by slot and mirror.
    #[must_use]
    pub fn disks(&self) -> Vec<MirrorReport> {
        let members = self.open.disks.members.iter().filter(|member| member.is_there());
        let of = |member: &Member| {
            let leaving = member.fate() == SlotFate::Leaving;
            let report = |mirror: &Arc<MirrorDisk>| MirrorReport {
                leaving,
                ..MirrorReport::from(&**mirror)
            };
            member.mirrors.iter().map(report).collect::<Vec<_>>()
        };
        members.flat_map(of).collect()
    }

    pub(crate) fn io_status(&self) -> Status {
        let mut status = self.open.io.status();
        status.notes.extend(self.open.control_failed.get().cloned());
        status
    }

    /// The domain of an inode, by number.
    #[must_use]
    pub fn domain_number(&self, inode: InodeId) -> u16 {
        (inode.0 % self.open.domains.len() as u64) as u16
    }
}

pub(super) fn scrubbed(replies: Replies<'_>, _: usize) -> Result<Vec<ScrubReport>, StoreError> {
    let each = replies.map(|reply| match reply {
        Reply::Scrub(report) => Ok(*report),
        Reply::Failed(error) => Err(error),
        other => unreachable!("a domain answers the question it was asked, not with {other:?}"),
    });
    each.collect()
}

pub(super) fn statuses(replies: Replies<'_>, _: usize) -> Result<Vec<DomainStatus>, StoreError> {
    let each = replies.map(|reply| match reply {
        Reply::Status(status) => Ok(*status),
        Reply::Failed(error) => Err(error),
        other => unreachable!("a domain answers the question it was asked, not with {other:?}"),
    });
    each.collect()
}
