//! Bringing a disk of a slot back into sync, in the background, while everything is served.
//!
//! Everything that is written from the opening on goes to that disk too, so what it may lack is
//! from before. A domain brings it
//!
//! 1. the blocks of its extents: each is read there, and copied from a disk in sync where it does
//!    not sum to what its extent says, so of a disk that was away for a while only what changed is
//!    written;
//! 2. its pages and journal, by a checkpoint that writes every page anew: no older record is
//!    needed then;
//!
//! and flushes it. When all domains have, a label calls it in sync. What is cut short is begun
//! again at the next opening, and finds what was copied in its place.
//!
//! A block is copied while its inode is locked and no change of it is on the way, so it is nobody
//! else's before the copy has ended.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::format::checksum::block_checksum;
use crate::format::extent::{Extent, Place};
use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS};
use crate::io::op::{Priority, Request};
use crate::memory::DmaBuf;
use crate::store::domain::{Domain, Health};
use crate::store::error::StoreError;
use crate::store::member::{Members, MirrorDisk, MirrorState};
use crate::store::read::{good_block, no_lock};
use crate::store::sync_pace::SyncPace;
use crate::store::verify::verify_on;

const BLOCK: usize = BLOCK_BYTES as usize;
/// Extents of an inode, or inodes, that are looked up at a time.
const LOOKED_UP: usize = 64;
/// How long to wait after something failed that may be better later.
const TRY_AGAIN_NS: u64 = 1_000_000_000;
/// How often a block is read that no disk has right.
const READ_AGAIN: usize = 3;

/// Brings every disk into sync that was not at the opening, and those that come later.
pub(crate) async fn resyncs(domain: Rc<Domain>, behind: Vec<Arc<MirrorDisk>>) {
    for mirror in behind {
        Resync::new(&domain, &mirror).bring().await;
    }
    loop {
        let next = || match &*domain.health.borrow() {
            Health::Closed | Health::Stopped(_) => Some(None),
            _ if domain.closing.get() => Some(None),
            _ => domain.to_bring.borrow_mut().pop_front().map(Some),
        };
        let Some(mirror) = domain.changed.until(next).await else { return };
        let resync = Resync::new(&domain, &mirror);
        resync.leave_nothing_of_before().await;
        resync.bring().await;
    }
}

/// The disks that are not in sync now.
pub(crate) fn behind(domain: &Domain) -> Vec<Arc<MirrorDisk>> {
    let all = domain.members.all().iter().flat_map(|member| member.mirrors.iter());
    all.filter(|mirror| mirror.state() == MirrorState::Syncing).map(Arc::clone).collect()
}

struct Resync<'a> {
    domain: &'a Rc<Domain>,
    mirror: &'a Arc<MirrorDisk>,
    pace: SyncPace,
}

impl<'a> Resync<'a> {
    fn new(domain: &'a Rc<Domain>, mirror: &'a Arc<MirrorDisk>) -> Resync<'a> {
        Resync { domain, mirror, pace: SyncPace::default() }
    }

    async fn bring(&self) {
        while self.goes_on() {
            match self.run().await {
                Ok(()) => break,
                // No memory, no lock: whatever it was, the disk is not in sync.
                Err(_) => {
                    let port = &self.domain.port;
                    port.sleep_until(port.now_ns() + TRY_AGAIN_NS).await;
                }
            }
        }
    }

    /// Waits until nothing is on its way any more that was not sent to a disk which has just come:
    /// what it lacks is then in the table, at its place on the others, and in no record that is
    /// needed.
    async fn leave_nothing_of_before(&self) {
        let domain = self.domain;
        domain.phases.all_have_ended(&domain.changed).await;
        let fate = domain.pipe.borrow().newest_fate();
        if let Some(fate) = fate {
            domain.hurry.set(true);
            domain.changed.notify();
            // Whether it is durable or out, the table says what is.
            let _ = fate.decided().await;
        }
        domain.changed.until(|| (!domain.journal_busy.get()).then_some(())).await;
        let end = domain.journal.borrow().last.end();
        let is_home = || domain.ram.borrow().oldest().is_none_or(|oldest| oldest >= end);
        let _draining = domain.drain();
        while self.goes_on() && !is_home() {
            domain.changed.changed().await;
        }
    }

    /// Whether it makes sense still.
    fn goes_on(&self) -> bool {
        let serving = !matches!(*self.domain.health.borrow(), Health::Closed | Health::Stopped(_));
        serving && !self.domain.closing.get() && self.mirror.state() == MirrorState::Syncing
    }

    async fn slow_down(&self) {
        self.pace.slow_down(self.domain, || self.goes_on()).await;
    }

    /// Counts what was read, for [`Resync::slow_down`].
    fn has_read(&self, bytes: u64) {
        self.pace.has_read(self.domain, bytes);
    }

    async fn run(&self) -> Result<(), StoreError> {
        let mut from = 0;
        loop {
            let inodes = self.domain.table.borrow().inodes(from, LOOKED_UP);
            let Some(last) = inodes.last() else { break };
            from = last.id + 1;
            for inode in &inodes {
                self.inode(inode.id).await?;
                if !self.goes_on() {
                    return Ok(());
                }
            }
        }
        self.pages().await;
        if !self.goes_on() {
            return Ok(());
        }
        let (members, port) = (&self.domain.members, &self.domain.port);
        if !self.flush().await {
            members.fence(port, self.mirror).await;
            return Ok(());
        }
        let domains = u64::from(members.domains());
        if self.mirror.synced_domains.fetch_add(1, Ordering::AcqRel) + 1 == domains {
            // Where that cannot be made durable the membership is broken, and says why.
            let _ = members.join(port, self.mirror).await;
        }
        Ok(())
    }

    /// Makes durable what was copied; no flush of another domain may have failed beside it.
    async fn flush(&self) -> bool {
        let (members, port) = (&self.domain.members, &self.domain.port);
        let (own, slot) = (self.domain.journal.borrow().id.domain, self.mirror.label.slot);
        // A domain has one flush at a time on a slot.
        let idle = || (!self.domain.journal_busy.get()).then_some(());
        self.domain.changed.until(idle).await;
        self.domain.journal_busy.set(true);
        let flushes = &members.at(slot).flushes;
        flushes.turn(own);
        let flush = Request::flush(self.mirror.disk).with_priority(Priority::Write);
        let flushed = members.submit_to(port, self.mirror, flush).await.result.is_ok();
        flushes.turn(own);
        members.others_have_flushed(port, own, slot).await;
        self.domain.journal_busy.set(false);
        self.domain.changed.notify();
        flushed && self.mirror.state() == MirrorState::Syncing
    }

    /// The extents of an inode, by index.
    async fn inode(&self, inode: u64) -> Result<(), StoreError> {
        let mut from = 0;
        loop {
            let extents = self.domain.table.borrow().extents_of(inode, from, u64::MAX, LOOKED_UP);
            let Some((last, _)) = extents.last() else { return Ok(()) };
            from = last + 1;
            for (index, extent) in &extents {
                self.slow_down().await;
                if !self.goes_on() {
                    return Ok(());
                }
                self.extent(inode, *index, extent).await?;
                if !self.goes_on() {
                    return Ok(());
                }
            }
        }
    }

    async fn extent(&self, inode: u64, index: u64, extent: &Extent) -> Result<(), StoreError> {
        self.mirror.sync_looked_at.fetch_add(1, Ordering::Relaxed);
        // What is written meanwhile goes there too: only what stays has to be there.
        if self.mirror.is_blank {
            let here = extent.existing().filter(|place| self.mirror.has(*place)).count() as u64;
            if here == 0 {
                return Ok(());
            }
            self.has_read(here * BLOCK_BYTES);
        } else {
            let seen = verify_on(self.domain, self.mirror, extent, Priority::Background).await?;
            self.has_read(u64::from(seen.read.count_ones()) * BLOCK_BYTES);
            if seen.wrong == 0 {
                return Ok(());
            }
        }
        let _alone = self.domain.inode_locks.write(inode).await.map_err(|r| no_lock(&r))?;
        let fate = self.domain.pipe.borrow().newest_fate();
        if let Some(fate) = fate {
            self.domain.hurry.set(true);
            self.domain.changed.notify();
            // Whether it is durable or out, the table says what is.
            let _ = fate.decided().await;
        }
        let now = self.domain.table.borrow().extent(inode, index).map(|found| found.extent);
        match now {
            Some(extent) => self.copy(&extent).await,
            None => Ok(()),
        }
    }

    /// Copies the blocks of an extent that are not right on the disk. Nobody changes it meanwhile.
    async fn copy(&self, extent: &Extent) -> Result<(), StoreError> {
        // The inode is locked: this is somebody's wait.
        let seen = verify_on(self.domain, self.mirror, extent, Priority::NormalRead).await?;
        let mut block = 0;
        while block < EXTENT_BLOCKS {
            let first = extent.places[block];
            let goes_on = |n: &usize| {
                let wrong = seen.wrong & 1 << (block + n) != 0;
                wrong
                    && extent.places[block + n]
                        == Place::new(first.target(), first.block() + *n as u64)
            };
            let run = match seen.wrong & 1 << block {
                0 => 0,
                _ => (0..EXTENT_BLOCKS - block).take_while(goes_on).count(),
            };
            if run > 0 && !self.copy_run(extent, block..block + run).await? {
                return Ok(());
            }
            block += run.max(1);
        }
        Ok(())
    }

    /// Copies blocks that lie one after another; false when the disk failed at it.
    async fn copy_run(&self, extent: &Extent, blocks: Range<usize>) -> Result<bool, StoreError> {
        let (members, port) = (&self.domain.members, &self.domain.port);
        let (slot, offset) = Members::address(extent.places[blocks.start]);
        let buffer = self.domain.buffer(blocks.len() * BLOCK)?;
        let (result, read) =
            members.read(port, Request::read(slot, offset, buffer)).await.0.into_parts();
        let mut buffer = match (result, read) {
            (Ok(_), Some(buffer)) => buffer,
            // What of it can be read is read block by block.
            _ => self.domain.buffer(blocks.len() * BLOCK)?,
        };
        let mut lost = false;
        for (n, block) in blocks.clone().enumerate() {
            let (place, sum) = (extent.places[block], extent.checksums[block]);
            let bytes = &mut buffer[n * BLOCK..(n + 1) * BLOCK];
            if block_checksum(bytes) == sum {
                continue;
            }
            match self.good(place, sum).await? {
                Some(good) => bytes.copy_from_slice(&good),
                // Nobody has it: its readers are told, and what is there stays.
                None => {
                    self.mirror.sync_lost.fetch_add(1, Ordering::Relaxed);
                    lost = true;
                }
            }
        }
        if lost {
            return self.copy_each(extent, blocks, &buffer).await;
        }
        let request = Request::write(self.mirror.disk, offset, buffer);
        if members.submit_to(port, self.mirror, request).await.result.is_err() {
            members.fence(port, self.mirror).await;
            return Ok(false);
        }
        self.mirror.sync_copied.fetch_add(blocks.len() as u64, Ordering::Relaxed);
        Ok(true)
    }

    /// Copies those of some blocks that are right, each by itself; false when the disk failed at
    /// it.
    async fn copy_each(
        &self,
        extent: &Extent,
        blocks: Range<usize>,
        from: &DmaBuf,
    ) -> Result<bool, StoreError> {
        let (members, port) = (&self.domain.members, &self.domain.port);
        for (bytes, block) in from.chunks_exact(BLOCK).zip(blocks) {
            if block_checksum(bytes) != extent.checksums[block] {
                continue;
            }
            let mut buffer = self.domain.buffer(BLOCK)?;
            buffer.copy_from_slice(bytes);
            let (_, offset) = Members::address(extent.places[block]);
            let request = Request::write(self.mirror.disk, offset, buffer);
            if members.submit_to(port, self.mirror, request).await.result.is_err() {
                members.fence(port, self.mirror).await;
                return Ok(false);
            }
            self.mirror.sync_copied.fetch_add(1, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// A block as it should be. A disk that could not read it once may do so again.
    async fn good(&self, place: Place, sum: u32) -> Result<Option<DmaBuf>, StoreError> {
        for _ in 0..READ_AGAIN {
            let good = good_block(self.domain, place, sum, Priority::NormalRead).await?;
            if good.is_some() {
                return Ok(good);
            }
        }
        Ok(None)
    }

    /// Writes every page anew, and moves the journal's tail behind the opening.
    async fn pages(&self) {
        let domain = self.domain;
        {
            let mut table = domain.table.borrow_mut();
            let pages = table.pages.count(0);
            (0..pages).for_each(|number| table.pages.touch(number));
        }
        domain.checkpoint_from_now(|| self.goes_on()).await;
    }
}
