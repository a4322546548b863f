//! A journal that begins anew in another slot, because its own is leaving.
//!
//! Each disk has room for the journal of every domain, so the place is there. The journal begins
//! with a checkpoint that needs no record before it: no block is in a record alone any more, and no
//! commit is sent while the last pages are written. That record is durable in the new slot before
//! labels say that the journal is there; until then the old one says the same by itself, because a
//! checkpoint writes to homes that the durable tree does not name. So a crash at any moment leaves
//! one journal that counts, and either is right.
//!
//! What the new place holds of an earlier stay was cleared on all disks before
//! ([`evacuation`](crate::store::evacuation)): a record of there that follows by its number could
//! be taken for one that comes after the last.

use std::rc::Rc;

use crate::format::layout::BLOCK_BYTES;
use crate::format::record::{Body, JournalId, RecordHead, RecordKind, encode, record_bytes};
use crate::io::error::IoError;
use crate::io::op::{DiskId, OpKind, Request};
use crate::store::checkpoint::{adopt, write_tree};
use crate::store::commit::append;
use crate::store::domain::Domain;
use crate::store::error::{Certainty, StoreError};
use crate::store::membership::NotDurable;

impl Domain {
    /// Whether the journal is to begin anew elsewhere, and nothing is in a record alone.
    pub(crate) fn may_move_journal(&self) -> bool {
        self.new_home.get().is_some()
            && self.is_serving()
            && !self.closing.get()
            && !self.holding.get()
            && !self.room_wanted.get()
            && self.ram.borrow().len() == 0
    }
}

/// While this lives no record is sent.
struct Holding<'a>(&'a Domain);

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.0.holding.set(false);
        self.0.changed.notify();
    }
}

/// Moves the journal to where it is wanted, unless something else is wanted first: then it is tried
/// again. What fails leaves it where it was, but for labels that cannot be written.
pub(crate) async fn move_journal(domain: &Rc<Domain>) -> Result<(), StoreError> {
    let moved = try_to_move(domain).await;
    if moved.is_err() {
        // Who wanted it there says what is to be done.
        domain.new_home.set(None);
    }
    moved
}

async fn try_to_move(domain: &Rc<Domain>) -> Result<(), StoreError> {
    let Some(to) = domain.new_home.get() else { return Ok(()) };
    domain.holding.set(true);
    let held = Holding(domain);
    // A commit that waits for room waits for a checkpoint.
    let is_quiet = || !domain.committing.get() && !domain.journal_busy.get();
    let quiet = || (is_quiet() || domain.room_wanted.get()).then(is_quiet);
    let is_quiet = domain.changed.until(quiet).await;
    if !is_quiet || domain.ram.borrow().len() > 0 || !domain.is_serving() {
        return Ok(());
    }
    let body = write_tree(domain).await?;
    let (head, id, failures) = {
        let journal = domain.journal.borrow();
        assert_eq!(body.replay_from, journal.last.end(), "no record is sent meanwhile");
        let bytes = record_bytes(&Body::Checkpoint(body)) as u64;
        let head = journal.head(RecordKind::Checkpoint, bytes, body.replay_from);
        (head, JournalId { disk: to, ..journal.id }, domain.notice_failures())
    };
    let mut head = RecordHead { skipped: 0, ..head };
    assert_eq!(head.position, head.tail, "a block always fits before the end of the ring");
    let mut buffer = domain.reserves.marks.take(BLOCK_BYTES as usize)?;
    head.checksum = encode(&id, &head, &Body::Checkpoint(body), &mut buffer);
    let request = Request::write_flush(DiskId(to), id.offset(head.position), buffer);
    let sent = send(domain, to, request).await;
    let other_failed = domain.notice_failures() != failures;
    if sent.is_err() || other_failed || !domain.is_serving() {
        let reason = match sent {
            Err(error) => error.to_string(),
            Ok(()) => "a flush failed while the journal was about to move".to_owned(),
        };
        let (reason, certainty) = (reason.into(), Certainty::Out);
        return Err(StoreError::CommitFailed { reason, certainty });
    }
    let disks = domain.members.disks();
    if let Err(NotDurable(why)) = disks.move_home(&domain.port, id.domain, to).await {
        // Some disks may have the label: which journal counts the next opening knows.
        domain.stop(&format!("the journal could not move: {why}"));
        return Ok(());
    }
    domain.members.move_home(to);
    {
        let mut journal = domain.journal.borrow_mut();
        (journal.id, journal.last) = (id, head);
    }
    adopt(domain, &head, &body);
    domain.counters.borrow_mut().commit_flushes += 1;
    domain.new_home.set(None);
    drop(held);
    // From here on it is not the last record, which an opening could doubt.
    append(domain, RecordKind::Seal, &Body::Nothing).await.map(|_| ())
}

/// Writes the first record of the journal in its new slot, durably.
async fn send(domain: &Domain, to: u16, request: Request) -> Result<(), Box<IoError>> {
    let (member, own) = (domain.members.at(to), domain.number());
    domain.journal_busy.set(true);
    member.flushes.turn(own);
    let completion = domain.members.submit(&domain.port, request).await;
    domain.heed(&completion);
    let (result, buffer) = completion.into_parts();
    if let Err(error) = &result
        && error.op == OpKind::Flush
    {
        member.flushes.count_failure();
    }
    member.flushes.turn(own);
    domain.reserves.marks.give(buffer);
    domain.others_have_flushed(&[to]).await;
    domain.journal_busy.set(false);
    domain.changed.notify();
    result.map(|_| ())
}
