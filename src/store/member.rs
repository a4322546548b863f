//! The disks of a pool, as its commit domains see them: by slot.
//!
//! A domain's journal is on one disk, its **home**; metadata pages and data are on any.

use std::sync::Arc;

use crate::format::extent::Place;
use crate::format::layout::{BLOCK_BYTES, Layout};
use crate::io::error::IoError;
use crate::io::op::{DiskId, Priority, Request};
use crate::store::disk_flushes::DiskFlushes;
use crate::store::port::Port;

/// How long to wait before looking again whether another domain's flush has ended.
const LOOK_AGAIN_NS: u64 = 20_000;

/// A disk of a pool.
#[derive(Clone, Debug)]
pub struct Member {
    /// As the engine numbers it.
    pub disk: DiskId,
    /// For messages.
    pub path: Arc<str>,
    /// Its zones.
    pub layout: Layout,
    /// What the domains tell each other of its flushes.
    pub flushes: Arc<DiskFlushes>,
    /// In parts of how many bytes it is told of what became free; 0: never.
    pub discard_part_bytes: u64,
}

/// The disks of a pool, by slot, and which of them is home.
#[derive(Clone, Debug)]
pub struct Members {
    disks: Arc<[Member]>,
    home: u16,
}

impl Members {
    /// Of the domain whose journal is on the disk in slot `home`.
    ///
    /// # Panics
    /// When there is no such disk.
    pub fn new(disks: Arc<[Member]>, home: u16) -> Members {
        assert!(usize::from(home) < disks.len(), "a journal is on a disk of the pool");
        Members { disks, home }
    }

    /// The slot of a domain's journal in a pool of so many disks.
    pub fn home_of(domain: u16, disks: usize) -> u16 {
        (usize::from(domain) % disks) as u16
    }

    /// All of them, by slot.
    pub(crate) fn all(&self) -> &[Member] {
        &self.disks
    }

    /// Every slot.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.disks.len() as u16
    }

    /// The slot of the journal's disk.
    pub(crate) fn home_slot(&self) -> u16 {
        self.home
    }

    /// The journal's disk.
    pub(crate) fn home(&self) -> &Member {
        self.at(self.home)
    }

    /// The disk in a slot, if there is one.
    pub(crate) fn get(&self, slot: u16) -> Option<&Member> {
        self.disks.get(usize::from(slot))
    }

    /// The disk in a slot of this pool.
    pub(crate) fn at(&self, slot: u16) -> &Member {
        &self.disks[usize::from(slot)]
    }

    /// Where a block that somebody owns is: disk, and offset in bytes.
    pub(crate) fn address(&self, place: Place) -> (DiskId, u64) {
        (self.at(place.disk()).disk, place.block() * BLOCK_BYTES)
    }

    /// Commit domains of the pool.
    pub(crate) fn domains(&self) -> u16 {
        self.home().layout.domains()
    }

    /// Flushes a disk for a domain, and counts it if it fails: what has completed and no flush has
    /// covered may be lost then.
    pub(crate) async fn flush(
        &self,
        port: &Port,
        domain: u16,
        slot: u16,
    ) -> Result<(), Box<IoError>> {
        let member = self.at(slot);
        member.flushes.turn(domain);
        let request = Request::flush(member.disk).with_priority(Priority::Critical);
        let result = port.submit(request).await.result;
        if result.is_err() {
            member.flushes.count_failure();
        }
        member.flushes.turn(domain);
        result.map(|_| ())
    }

    /// Waits until the flushes of other domains on a disk have ended that are under way now.
    pub(crate) async fn others_have_flushed(&self, port: &Port, domain: u16, slot: u16) {
        let mut others = self.at(slot).flushes.others(domain);
        while !others.ended() {
            port.sleep_until(port.now_ns() + LOOK_AGAIN_NS).await;
        }
    }

    /// Flushes that failed, of all disks together.
    pub(crate) fn flush_failures(&self) -> u64 {
        self.disks.iter().map(|member| member.flushes.failures()).sum()
    }
}
