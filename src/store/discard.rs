//! Telling the disk what is not used any more, in the background.
//!
//! A drive that knows which blocks are free has less to copy when it makes room for new data. What
//! was freed is told in whole parts of [`PART_BYTES`] at least, once all of a part is free, a run
//! of them at a time. While the disk is told, the run is nobody's: it is taken from the free space,
//! and never when anybody could need it.

use std::rc::Rc;

use crate::format::layout::BLOCK_BYTES;
use crate::io::error::ErrorKind;
use crate::io::op::{DiskId, Request};
use crate::store::domain::{Domain, Health};
use crate::store::space::HeldRun;

/// The least that a disk is told of at a time. Its own unit is more on some disks.
pub(crate) const PART_BYTES: u64 = 1 << 20;
/// The most.
const RUN_BYTES_MAX: u64 = 64 << 20;

/// Discards until the domain is closed or the disk refuses.
pub(crate) async fn discards(domain: Rc<Domain>) {
    loop {
        let next = || match &*domain.health.borrow() {
            Health::Closed | Health::Stopped(_) => Some(None),
            _ => domain.next_unused().map(Some),
        };
        let Some(run) = domain.changed.until(next).await else { return };
        let (offset, len) = (run.disk_block * BLOCK_BYTES, run.blocks * BLOCK_BYTES);
        let request = Request::discard(DiskId(run.disk), offset, len);
        let outcome = domain.members.submit(&domain.port, request).await.result;
        let disk = run.disk;
        domain.space.borrow_mut().put_back(run);
        domain.changed.notify();
        match outcome {
            Ok(_) => domain.counters.borrow_mut().discarded_bytes += len,
            Err(error) if error.kind == ErrorKind::ShuttingDown => return,
            // It is advice: a disk that does not take it is not asked again.
            Err(_) => {
                domain.counters.borrow_mut().discards_refused += 1;
                domain.space.borrow_mut().stop_telling(disk);
            }
        }
    }
}

impl Domain {
    fn next_unused(&self) -> Option<HeldRun> {
        if self.closing.get() {
            return None;
        }
        let pages = self.table.borrow().pages.blocks_wanted();
        self.space.borrow_mut().hold_unused(RUN_BYTES_MAX / BLOCK_BYTES, pages)
    }
}
