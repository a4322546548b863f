//! Checkpoints: the table's pages go to the disk, so that the journal can be used again.
//!
//! A checkpoint notes the newest record and copies every page that has changed, a few at a time,
//! while commits go on: a page may be ahead of that record, which does no harm, because what is
//! replayed after it says again everything that changed since. Pages go to the homes that the
//! durable tree does not name; then their parents, level by level; then a flush; then a
//! `Checkpoint` record with its own flush. Only then is the new tree the durable one, and the old
//! homes, the journal before it, and the homes of pages that are no more, are free.

use std::rc::Rc;

use crate::format::extent::Place;
use crate::format::fragment::Fragment;
use crate::format::layout::BLOCK_BYTES;
use crate::format::page::{PageAddress, PageBytes, PageKind};
use crate::format::record::{Body, CheckpointBody, RecordHead, RecordKind};
use crate::format::removals::SlotFate;
use crate::io::op::{Priority, Request};
use crate::memory::DmaBuf;
use crate::store::commit::append;
use crate::store::domain::{Domain, Health};
use crate::store::error::StoreError;
use crate::store::member::Members;
use crate::store::move_journal::move_journal;
use crate::store::port::join_all;
use crate::store::table::PageImage;
use crate::store::write_back::flush;

/// Writes checkpoints until the domain is closed.
pub(crate) async fn checkpoints(domain: Rc<Domain>) {
    loop {
        let due = || match &*domain.health.borrow() {
            Health::Closed | Health::Stopped(_) => Some(false),
            _ => (domain.checkpoint_is_due() || domain.may_move_journal()).then_some(true),
        };
        if !domain.changed.until(due).await {
            return;
        }
        let moves = domain.may_move_journal() && !domain.checkpoint_is_due();
        let written = match moves {
            true => move_journal(&domain).await,
            false => checkpoint(&domain).await,
        };
        if let Err(error) = written {
            domain.table.borrow_mut().pages.give_up();
            // A journal that could not move is where it was.
            if !moves && !matches!(error, StoreError::CommitFailed { .. }) {
                domain.stop(&format!("a checkpoint could not be written: {error}"));
            }
        }
        if !moves {
            domain.checkpoint_wanted.set(false);
        }
        domain.changed.notify();
    }
}

impl Domain {
    /// Waits until a checkpoint that has begun after this is durable, as long as it makes sense.
    pub(crate) async fn checkpoint_from_now(&self, goes_on: impl Fn() -> bool) {
        let done = || self.counters.borrow().checkpoints;
        // One may be under way that has copied pages already.
        let enough = done() + 2;
        while goes_on() && done() < enough {
            if !self.checkpoint_wanted.replace(true) {
                self.changed.notify();
            }
            self.changed.changed().await;
        }
    }

    /// Percent of the journal that is in use.
    pub(crate) fn journal_fill(&self) -> u64 {
        let journal = self.journal.borrow();
        journal.used_bytes() * 100 / journal.id.bytes
    }

    fn checkpoint_is_due(&self) -> bool {
        let journal = self.journal.borrow();
        let since = journal.last.end() - journal.replay_from;
        // Where a block that is not at home holds the tail, a checkpoint would make no room.
        let holds = self.ram.borrow().oldest().is_none_or(|oldest| journal.replay_from <= oldest);
        let filled = since * 100 / journal.id.bytes >= self.config.checkpoint_percent;
        let wanted = self.room_wanted.get() && holds && since > BLOCK_BYTES;
        self.checkpoint_wanted.get() || filled || wanted
    }

    /// Whether a checkpoint or home writes are under way, or about to be, that make room in the
    /// journal.
    pub(crate) fn makes_room(&self) -> bool {
        self.checkpoint_is_due() || self.write_back_is_due()
    }

    /// Percent of the journal that blocks hold which are not at home.
    pub(crate) fn deferred_fill(&self) -> u64 {
        let journal = self.journal.borrow();
        let oldest = self.ram.borrow().oldest().unwrap_or(journal.last.end());
        (journal.last.end() - oldest) * 100 / journal.id.bytes
    }

    /// The class of writes that make room in the journal.
    pub(crate) fn cleaning_priority(&self) -> Priority {
        let fill = self.journal_fill();
        if fill >= self.config.urgent_percent || self.room_wanted.get() {
            Priority::Critical
        } else if fill >= self.config.checkpoint_percent {
            Priority::Write
        } else {
            Priority::Background
        }
    }
}

async fn checkpoint(domain: &Domain) -> Result<(), StoreError> {
    let body = write_tree(domain).await?;
    let head = append(domain, RecordKind::Checkpoint, &Body::Checkpoint(body)).await?;
    adopt(domain, &head, &body);
    Ok(())
}

/// The tree that was written is the durable one, by a record that is durable.
pub(crate) fn adopt(domain: &Domain, head: &RecordHead, body: &CheckpointBody) {
    {
        let mut journal = domain.journal.borrow_mut();
        journal.checkpoint = head.position;
        journal.replay_from = body.replay_from;
    }
    let left = domain.table.borrow_mut().pages.adopt();
    domain.give(&left);
    domain.counters.borrow_mut().checkpoints += 1;
}

/// Pages that leave a slot with one checkpoint, at most.
const LEAVING_PAGES_MAX: u64 = 1024;

/// Has pages go elsewhere that have a home in a slot that is leaving, as far as there is room.
fn leave_slots(domain: &Domain) {
    let members = &domain.members;
    let leaving = |slot| members.get(slot).is_some_and(|m| m.fate() == SlotFate::Leaving);
    if !members.slots().any(leaving) {
        return;
    }
    // What is not available is for pages that have no homes yet.
    let max = (domain.available() / 4).min(LEAVING_PAGES_MAX);
    domain.table.borrow_mut().pages.leave_slots(max, leaving);
}

/// Writes every page that has changed, and all above them, to homes that the durable tree does not
/// name, durably; what a record has to say to make that tree the durable one.
pub(crate) async fn write_tree(domain: &Domain) -> Result<CheckpointBody, StoreError> {
    let failures = domain.flush_failures.get();
    leave_slots(domain);
    let (through, replay_from, changed) = {
        let journal = domain.journal.borrow();
        let changed = domain.table.borrow().pages.changed();
        (journal.last.sequence, journal.last.end(), changed)
    };
    write_pages(domain, 0, &changed, through).await?;
    let mut level = 1;
    while level < domain.table.borrow().pages.levels() {
        let parents = domain.table.borrow().pages.changed_parents(level);
        write_pages(domain, level, &parents, through).await?;
        level += 1;
    }
    // Pages that were added meanwhile are of later records, and not in this tree.
    let body = {
        let table = domain.table.borrow();
        let levels = level.saturating_sub(1);
        let root = table.pages.root_of(levels);
        let pages = table.pages.count(0);
        let next_inode = domain.next_inode.get();
        let (levels, lifetime) = (levels as u32, domain.lifetime());
        CheckpointBody { through, replay_from, next_inode, pages, levels, root, lifetime }
    };
    flush(domain, domain.members.slots()).await?;
    if domain.flush_failures.get() != failures {
        let reason = "a flush failed while pages were written".into();
        let certainty = crate::store::error::Certainty::Out;
        return Err(StoreError::CommitFailed { reason, certainty });
    }
    Ok(body)
}

/// Writes pages of one level, a bounded number at a time.
async fn write_pages(
    domain: &Domain,
    level: usize,
    numbers: &[u32],
    sequence: u64,
) -> Result<(), StoreError> {
    for some in numbers.chunks(domain.reserves.pages.count().max(1)) {
        let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
        for number in some {
            let buffer = domain.reserves.pages.take(BLOCK_BYTES as usize)?;
            writes.push(Box::pin(write_page(domain, (level, *number), buffer, sequence)));
        }
        let mut failed = None;
        for written in join_all(writes).await {
            if let Err(error) = written {
                failed = Some(error);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(())
}

async fn write_page(
    domain: &Domain,
    number: (usize, u32),
    mut buffer: DmaBuf,
    sequence: u64,
) -> Result<(), StoreError> {
    let image = take_page(domain, number);
    let Ok(PageImage::Write(home)) = image else {
        domain.reserves.pages.give(Some(buffer));
        domain.table.borrow_mut().pages.build(number, image?, 0);
        return Ok(());
    };
    let checksum = seal_page(domain, number, home, &mut buffer, sequence);
    let (disk, offset) = Members::address(Place::new(home.target(), home.start_block()));
    let request = Request::write(disk, offset, buffer);
    let request = request.with_priority(domain.cleaning_priority());
    let completion = domain.members.submit(&domain.port, request).await;
    domain.heed(&completion);
    let (result, buffer) = completion.into_parts();
    domain.reserves.pages.give(buffer);
    result.map_err(|error| StoreError::Write { source: error.into() })?;
    domain.counters.borrow_mut().page_bytes += BLOCK_BYTES;
    domain.table.borrow_mut().pages.build(number, PageImage::Write(home), checksum);
    Ok(())
}

/// What is to be done with a page; it gets homes if it has none.
fn take_page(domain: &Domain, number: (usize, u32)) -> Result<PageImage, StoreError> {
    let mut table = domain.table.borrow_mut();
    let image = table.pages.take(number);
    if image != PageImage::NeedsHomes {
        return Ok(image);
    }
    let homes: Option<[Fragment; 2]> = domain.space.borrow_mut().take_homes();
    let Some(homes) = homes else {
        let free_bytes = domain.space.borrow().free_blocks() * BLOCK_BYTES;
        return Err(StoreError::Full { wanted_bytes: 2 * BLOCK_BYTES, free_bytes });
    };
    table.pages.settle(number, homes);
    Ok(table.pages.take(number))
}

fn seal_page(
    domain: &Domain,
    (level, number): (usize, u32),
    home: Fragment,
    buffer: &mut DmaBuf,
    sequence: u64,
) -> u64 {
    let table = domain.table.borrow();
    let mut page = PageBytes(buffer);
    page.clear();
    table.fill_page((level, number), &mut page);
    let id = domain.journal.borrow().id;
    let (pool, own) = (id.pool, id.domain);
    let address = PageAddress { pool, domain: own, level: level as u32, number, home };
    let kind = if level > 0 { PageKind::Parent } else { table.pages.page((0, number)).kind };
    page.seal(kind, &address, sequence)
}
