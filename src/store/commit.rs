//! The group commit coordinator: the only writer of a domain's journal.
//!
//! One record at a time: its write, linked to one flush, and beside it a flush of each other disk
//! that has data of the batch; only when all have succeeded is the next one submitted. So a record
//! that verifies, with another behind it, was acknowledged, and an opening has to judge the last
//! one alone. Data of the next batch may be on its way meanwhile; records never are.
//!
//! **When it fails**, what was sent may be durable or not. Everything behind it fails, nothing
//! joins, and an abort takes its place in the journal: when that is durable the record is
//! certainly out and its space free. When it cannot be made durable the domain stops until it is
//! opened again.

use std::rc::Rc;
use std::sync::Arc;

use crate::format::layout::{BLOCK_BYTES, EXTENT_BLOCKS};
use crate::format::record::{
    Body, Changes, RecordHead, RecordKind, encode, inline_start, record_bytes,
};
use crate::io::error::IoError;
use crate::io::op::{Completion, DiskId, OpKind, Request};
use crate::memory::DmaBuf;
use crate::store::batch::{Batch, Committed, number};
use crate::store::domain::{Closing, Domain, Health};
use crate::store::error::{Certainty, StoreError};
use crate::store::mechanism::Mechanism;
use crate::store::port::{Either, both, either, join_all};

/// Why a batch fails whose own writes did not.
const OTHERS_FAILED: &str = "a flush of another commit domain failed on the disk, which may have \
                             dropped what this one had written";

/// How long a commit is put off when the journal is all but full.
const PUT_OFF_NS_MAX: u64 = 1_000_000;

/// Records up to this many bytes tell which mechanism is faster; longer ones tell of bandwidth.
const MEASURED_BYTES_MAX: usize = 64 << 10;

/// What makes a batch close.
enum Trigger {
    Full,
    Late,
    Idle,
}

/// What the coordinator does next.
enum Next {
    Commit(Trigger),
    Seal,
    /// What has joined will not be sent, for this reason.
    GiveUp(Arc<str>),
    End,
}

/// Commits the batches of a domain: see the module.
pub(crate) struct GroupCommitCoordinator {
    domain: Rc<Domain>,
}

impl GroupCommitCoordinator {
    /// Of a domain; there is one.
    pub(crate) fn new(domain: Rc<Domain>) -> GroupCommitCoordinator {
        GroupCommitCoordinator { domain }
    }

    /// Commits and seals until the domain is closed.
    pub(crate) async fn run(self) {
        let domain = &self.domain;
        loop {
            match next(domain).await {
                Next::Commit(trigger) => {
                    domain.count_trigger(&trigger);
                    commit(domain).await;
                }
                Next::Seal => {
                    // A seal that fails is a record that fails: what follows from it was done.
                    let _ = append(domain, RecordKind::Seal, &Body::Nothing).await;
                }
                Next::GiveUp(reason) => {
                    let certainty = Certainty::Out;
                    fail_batches(domain, StoreError::CommitFailed { reason, certainty });
                }
                Next::End => return,
            }
        }
    }
}

async fn next(domain: &Domain) -> Next {
    loop {
        let now = domain.port.now_ns();
        let mut wake_at = None;
        if let Health::Stopped(reason) = &*domain.health.borrow()
            && domain.pipe.borrow().first().is_some()
        {
            return Next::GiveUp(Arc::clone(reason));
        }
        let sends = domain.is_serving() && !domain.holding.get();
        if domain.pipe.borrow().first().is_some() && sends {
            match domain.may_close(now) {
                Ok(trigger) => return Next::Commit(trigger),
                Err(at) => wake_at = Some(at),
            }
        } else if *domain.health.borrow() == Health::Closed {
            return Next::End;
        } else if sends && domain.wants_seal() {
            let at = domain.last_commit_ns.get().saturating_add(domain.config.seal_idle_ns);
            if now >= at || domain.closing.get() {
                return Next::Seal;
            }
            wake_at = Some(at);
        }
        match wake_at {
            Some(at) => {
                let timer = domain.port.sleep_until(at);
                let (Either::First(()) | Either::Second(())) =
                    either(domain.changed.changed(), timer).await;
            }
            None => domain.changed.changed().await,
        }
    }
}

impl Domain {
    pub(crate) fn is_serving(&self) -> bool {
        *self.health.borrow() == Health::Serving
    }

    /// Whether the last record is one that an opening could doubt.
    fn wants_seal(&self) -> bool {
        self.is_serving()
            && !self.journal_busy.get()
            && self.journal.borrow().last.kind == RecordKind::Batch
    }

    fn count_trigger(&self, trigger: &Trigger) {
        let mut counters = self.counters.borrow_mut();
        match trigger {
            Trigger::Full => counters.closed_full += 1,
            Trigger::Late => counters.closed_late += 1,
            Trigger::Idle => counters.closed_idle += 1,
        }
    }

    /// Whether the first batch may close now, and why; else when to look again.
    fn may_close(&self, now: u64) -> Result<Trigger, u64> {
        let pipe = self.pipe.borrow();
        let Some(first) = pipe.first() else { return Err(u64::MAX) };
        let limits = self.batch_limits();
        if pipe.len() > 1 || first.ops >= limits.ops {
            return Ok(Trigger::Full);
        }
        match self.config.closing {
            Closing::Adaptive => Ok(Trigger::Idle),
            Closing::Linger { .. } if self.hurry.get() || self.closing.get() => Ok(Trigger::Late),
            Closing::Linger { delay_ns } => {
                let at = first.opened_ns.saturating_add(delay_ns);
                if now >= at { Ok(Trigger::Late) } else { Err(at) }
            }
        }
    }

    /// Puts a commit off while the journal is nearly full, the longer the fuller it is: who writes
    /// is slowed down to what checkpoint and home writes make room for, instead of being stopped.
    /// A batch that waits takes what comes meanwhile.
    async fn put_off(&self) {
        let (fill, urgent) = (self.journal_fill(), self.config.urgent_percent);
        if fill <= urgent || self.hurry.get() || self.closing.get() || !self.makes_room() {
            return;
        }
        let delay_ns = (fill - urgent) * PUT_OFF_NS_MAX / (100 - urgent).max(1);
        let begun_ns = self.port.now_ns();
        self.port.sleep_until(begun_ns + delay_ns).await;
        self.counters.borrow_mut().throttled_ns += self.port.now_ns() - begun_ns;
    }

    /// Waits until a record has room, publishing a tail that has moved where that makes some.
    async fn wait_for_room(&self, bytes: u64, kind: RecordKind) -> Result<(), StoreError> {
        loop {
            self.changed.until(|| (!self.journal_busy.get()).then_some(())).await;
            if let Health::Stopped(reason) = &*self.health.borrow() {
                return Err(StoreError::ReadOnly { reason: reason.clone() });
            }
            let (room, movable) = {
                let journal = self.journal.borrow();
                let tail = journal.tail(self.ram.borrow().oldest());
                (journal.has_room(bytes, kind), tail > journal.last.tail)
            };
            if room {
                return Ok(());
            }
            self.room_wanted.set(true);
            self.changed.notify();
            if movable && kind == RecordKind::Batch {
                append(self, RecordKind::Seal, &Body::Nothing).await?;
                continue;
            }
            self.changed.changed().await;
        }
    }
}

/// Commits the first batch.
async fn commit(domain: &Domain) {
    domain.committing.set(true);
    domain.hurry.set(false);
    domain.put_off().await;
    // Nobody joins it any more. Others may open a batch behind it when it fails meanwhile.
    let first = domain.pipe.borrow().first().map(|batch| (batch.fate.clone(), batch.changes()));
    let sent = match first {
        Some((fate, changes)) => {
            let bytes = changes.record_bytes() as u64;
            let waited = domain.wait_for_room(bytes, RecordKind::Batch).await;
            // While it waited another record may have failed, and this batch with it.
            match waited {
                Ok(()) if domain.pipe.borrow().is_first(&fate) => {
                    Some(send_batch(domain, changes).await)
                }
                Ok(()) => None,
                Err(error) => Some(Err(error)),
            }
        }
        None => None,
    };
    domain.room_wanted.set(false);
    domain.committing.set(false);
    match sent {
        Some(Ok((head, changes, mechanism))) => {
            acknowledge(domain, &head, &changes, mechanism);
        }
        Some(Err(error)) => fail_batches(domain, error),
        None => {}
    }
    domain.last_commit_ns.set(domain.port.now_ns());
    domain.changed.notify();
}

/// Writes the record of the first batch, and makes it durable.
async fn send_batch(
    domain: &Domain,
    mut changes: Changes,
) -> Result<(RecordHead, Changes, Mechanism), StoreError> {
    domain.notice_failures();
    let begun_after = domain.pipe.borrow().first().map(|batch| batch.setbacks);
    if begun_after != Some(domain.setbacks.get()) {
        let (reason, certainty) = (OTHERS_FAILED.into(), Certainty::Out);
        return Err(StoreError::CommitFailed { reason, certainty });
    }
    let sequence = domain.journal.borrow().next_sequence();
    number(&mut changes, sequence);
    let start = inline_start(&changes);
    let body = Body::Changes(changes);
    let bytes = record_bytes(&body);
    let mut memory = domain.reserves.records.take(bytes)?;
    let Body::Changes(changes) = &body else { unreachable!("a batch is changes") };
    domain.copy_inline(changes, &mut memory[start..]);
    // One write that is durable by itself serves a batch whose data is all in the record.
    let either_way = changes.extents.iter().all(|put| put.fresh == put.inline);
    let mechanism = if either_way { domain.mechanisms.choose() } else { Mechanism::Flush };
    let begun_ns = domain.port.now_ns();
    let (sent, memory) = write_record(domain, RecordKind::Batch, &body, memory, mechanism).await;
    if either_way && sent.is_ok() && bytes <= MEASURED_BYTES_MAX {
        domain.mechanisms.note(mechanism, domain.port.now_ns() - begun_ns);
    }
    domain.reserves.records.give(memory);
    let head = sent?;
    assert_eq!(head.sequence, sequence, "one record at a time");
    let Body::Changes(changes) = body else { unreachable!("a batch is changes") };
    Ok((head, changes, mechanism))
}

impl Domain {
    fn copy_inline(&self, changes: &Changes, out: &mut [u8]) {
        let ram = self.ram.borrow();
        let mut blocks = out.chunks_exact_mut(BLOCK_BYTES as usize);
        for put in &changes.extents {
            for index in (0..16).filter(|index| put.inline & 1 << index != 0) {
                let place = put.extent.places[index];
                let (Some(block), Some(out)) = (ram.get(place), blocks.next()) else {
                    unreachable!("an inline block is in memory until it is at home")
                };
                out.copy_from_slice(block.bytes());
            }
        }
    }
}

/// Writes a record that is no batch, and makes it durable. Waits for its turn and for room.
pub(crate) async fn append(
    domain: &Domain,
    kind: RecordKind,
    body: &Body,
) -> Result<RecordHead, StoreError> {
    let bytes = record_bytes(body);
    let turn = || (!domain.journal_busy.get()).then_some(());
    domain.changed.until(turn).await;
    if let Health::Stopped(reason) = &*domain.health.borrow() {
        return Err(StoreError::ReadOnly { reason: reason.clone() });
    }
    if !domain.journal.borrow().has_room(bytes as u64, kind) {
        return Err(StoreError::NoMemory { reason: "the journal has no room for a mark".into() });
    }
    let buffer = domain.reserves.marks.take(bytes)?;
    let (written, buffer) = write_record(domain, kind, body, buffer, Mechanism::Flush).await;
    domain.reserves.marks.give(buffer);
    let head = written.inspect_err(|error| fail_batches(domain, behind(error)))?;
    if kind == RecordKind::Seal {
        domain.counters.borrow_mut().seals += 1;
    }
    Ok(head)
}

/// Writes a record where the next one goes. Afterwards it is the newest, or an abort is, or the
/// domain has stopped.
async fn write_record(
    domain: &Domain,
    kind: RecordKind,
    body: &Body,
    mut buffer: DmaBuf,
    mechanism: Mechanism,
) -> (Result<RecordHead, StoreError>, Option<DmaBuf>) {
    let (mut head, id) = {
        let journal = domain.journal.borrow();
        assert!(journal.has_room(buffer.len() as u64, kind), "the caller waited for room");
        let tail = match body {
            Body::Checkpoint(body) => {
                let oldest = domain.ram.borrow().oldest();
                oldest.unwrap_or(u64::MAX).min(body.replay_from)
            }
            _ => journal.tail(domain.ram.borrow().oldest()),
        };
        (journal.head(kind, buffer.len() as u64, tail), journal.id)
    };
    head.checksum = encode(&id, &head, body, &mut buffer);
    domain.journal_busy.set(true);
    // What a batch was prepared with counts from when it was looked at last: a flush that has
    // failed since may have dropped its data.
    let failures = match kind {
        RecordKind::Batch => domain.flush_failures.get(),
        _ => domain.notice_failures(),
    };
    let (writes, data_on) = (domain.ram.borrow().writes(), domain.data_on(body));
    let before = Before { writes, failures, mechanism, data_on };
    let (home, offset) = (DiskId(domain.members.home_slot()), id.offset(head.position));
    let request = match mechanism {
        Mechanism::Flush => Request::write_flush(home, offset, buffer),
        Mechanism::Dsync => Request::write_dsync(home, offset, buffer),
    };
    let (result, buffer) = match before.data_on.as_slice() {
        [] => domain.send_record(request).await.into_parts(),
        others => {
            // Their data has completed: the flushes need not wait for the record.
            let flushes = domain.flush_each(others);
            let (completion, flushed) = both(domain.send_record(request), flushes).await;
            let (result, buffer) = completion.into_parts();
            (result.and_then(|bytes| flushed.map(|()| bytes)), buffer)
        }
    };
    if result.is_ok() {
        domain.others_have_flushed(&[domain.members.home_slot()]).await;
        domain.others_have_flushed(&before.data_on).await;
    }
    let result = settle(domain, &head, result, &before).await;
    domain.journal_busy.set(false);
    domain.changed.notify();
    (result, buffer)
}

/// How things were before a record was sent.
struct Before {
    /// Home writes that had completed.
    writes: u64,
    /// Flushes that had failed.
    failures: u64,
    mechanism: Mechanism,
    /// Disks beside the journal's that have data of the batch.
    data_on: Vec<u16>,
}

async fn settle(
    domain: &Domain,
    head: &RecordHead,
    result: Result<u64, Box<IoError>>,
    before: &Before,
) -> Result<RecordHead, StoreError> {
    match result {
        Ok(_) if domain.notice_failures() != before.failures => {
            *domain.health.borrow_mut() = Health::Aborting;
            Err(abort(domain, head, OTHERS_FAILED).await)
        }
        Ok(_) => {
            let mut counters = domain.counters.borrow_mut();
            counters.journal_bytes += u64::from(head.length);
            let mut ram = domain.ram.borrow_mut();
            match before.mechanism {
                Mechanism::Flush => {
                    counters.commit_flushes += 1;
                    ram.flushed(domain.members.home_slot(), before.writes);
                }
                Mechanism::Dsync => counters.commit_dsyncs += 1,
            }
            counters.commit_flushes += before.data_on.len() as u64;
            before.data_on.iter().for_each(|slot| ram.flushed(*slot, before.writes));
            domain.journal.borrow_mut().last = *head;
            Ok(*head)
        }
        // It could be written over the abort.
        Err(error) if error.may_land_late() => {
            domain.notice_failures();
            let reason = format!("a record that was given up on may still be written: {error}");
            domain.stop(&reason);
            let certainty = Certainty::Unknown;
            Err(StoreError::CommitFailed { reason: reason.into(), certainty })
        }
        Err(error) => {
            *domain.health.borrow_mut() = Health::Aborting;
            domain.notice_failures();
            let reason = error.to_string();
            Err(abort(domain, head, &reason).await)
        }
    }
}

impl Domain {
    /// Disks beside the journal's where data lies that a record names and does not hold.
    fn data_on(&self, body: &Body) -> Vec<u16> {
        let Body::Changes(changes) = body else { return Vec::new() };
        let mut slots = Vec::new();
        if self.members.all().len() == 1 {
            return slots;
        }
        for put in &changes.extents {
            let direct = put.fresh & !put.inline;
            for block in (0..EXTENT_BLOCKS).filter(|block| direct & 1 << block != 0) {
                let slot = put.extent.places[block].slot();
                if slot != self.members.home_slot() && !slots.contains(&slot) {
                    slots.push(slot);
                }
            }
        }
        slots
    }

    /// Sends a record to its disk. Where its flush fails, what no flush has covered may be lost.
    async fn send_record(&self, request: Request) -> Completion {
        let (home, own) = (self.members.home(), self.journal.borrow().id.domain);
        let is_dsync = request.kind == OpKind::WriteDsync;
        home.flushes.turn(own);
        let completion = self.members.submit(&self.port, request).await;
        if let Err(error) = &completion.result
            && (error.op == OpKind::Flush || is_dsync)
        {
            home.flushes.count_failure();
        }
        home.flushes.turn(own);
        completion
    }

    /// Flushes disks, all at a time. One that fails may drop what has completed and no flush has
    /// covered, and is counted.
    pub(crate) async fn flush_each(&self, slots: &[u16]) -> Result<(), Box<IoError>> {
        let own = self.journal.borrow().id.domain;
        let mut flushes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
        for slot in slots {
            flushes.push(Box::pin(self.members.flush(&self.port, own, *slot)));
        }
        join_all(flushes).await.into_iter().collect()
    }

    /// Waits until the flushes of other domains on these disks have ended that are under way now.
    pub(crate) async fn others_have_flushed(&self, slots: &[u16]) {
        let own = self.journal.borrow().id.domain;
        for slot in slots {
            self.members.others_have_flushed(&self.port, own, *slot).await;
        }
    }

    /// How many flushes of the pool's disks have failed, of this domain or another. When it is
    /// another number than before, what no flush of this domain had covered then may be lost.
    pub(crate) fn notice_failures(&self) -> u64 {
        let failures = self.members.flush_failures();
        if self.flush_failures.replace(failures) != failures {
            self.setbacks.set(self.setbacks.get() + 1);
            self.ram.borrow_mut().flush_failed();
        }
        failures
    }

    /// The domain takes no changes until it is opened again.
    pub(crate) fn stop(&self, reason: &str) {
        let mut health = self.health.borrow_mut();
        if !matches!(*health, Health::Stopped(_)) {
            *health = Health::Stopped(reason.into());
        }
        drop(health);
        self.changed.notify();
    }
}

/// Writes an abort over a record that failed. What it returns says whether the record is out.
async fn abort(domain: &Domain, failed: &RecordHead, reason: &str) -> StoreError {
    let unknown =
        || StoreError::CommitFailed { reason: reason.into(), certainty: Certainty::Unknown };
    let Ok(mut buffer) = domain.reserves.marks.take(BLOCK_BYTES as usize) else {
        domain.stop(reason);
        return unknown();
    };
    let id = domain.journal.borrow().id;
    let length = BLOCK_BYTES as u32;
    // What the failed record would have made unnecessary is still needed.
    let tail = domain.journal.borrow().last.tail;
    let mut head = RecordHead { kind: RecordKind::Abort, length, tail, ..*failed };
    head.checksum = encode(&id, &head, &Body::Nothing, &mut buffer);
    domain.notice_failures();
    let writes = domain.ram.borrow().writes();
    let (home, offset) = (domain.members.home(), id.offset(head.position));
    // Nothing but this record has to be durable: another disk's failure does not matter.
    let failures = home.flushes.failures();
    let request = Request::write_flush(DiskId(domain.members.home_slot()), offset, buffer);
    let (result, buffer) = domain.send_record(request).await.into_parts();
    domain.reserves.marks.give(buffer);
    domain.others_have_flushed(&[domain.members.home_slot()]).await;
    domain.notice_failures();
    match result {
        Ok(_) if home.flushes.failures() != failures => {
            domain.stop(OTHERS_FAILED);
            unknown()
        }
        Ok(_) => {
            domain.journal.borrow_mut().last = head;
            domain.ram.borrow_mut().flushed(domain.members.home_slot(), writes);
            domain.counters.borrow_mut().aborts += 1;
            StoreError::CommitFailed { reason: reason.into(), certainty: Certainty::Out }
        }
        Err(second) => {
            domain.stop(&format!("{reason}; and it could not be taken back: {second}"));
            unknown()
        }
    }
}

/// The record of the first batch is durable: what it says is so from now on.
fn acknowledge(domain: &Domain, head: &RecordHead, changes: &Changes, mechanism: Mechanism) {
    let applied = domain.table.borrow_mut().apply(head.sequence, changes);
    let Some(batch) = domain.pipe.borrow_mut().end_first() else {
        unreachable!("the first batch was committed")
    };
    if let Err(error) = applied {
        let reason = format!("a durable commit is not in memory: {error}");
        domain.stop(&reason);
        let certainty = Certainty::Unknown;
        let failed = StoreError::CommitFailed { reason: reason.into(), certainty };
        return batch.fate.decide(Err(failed));
    }
    {
        let mut ram = domain.ram.borrow_mut();
        for put in &changes.extents {
            for index in (0..16).filter(|index| put.inline & 1 << index != 0) {
                ram.defer(put.extent.places[index], head.position);
            }
        }
    }
    domain.give(&batch.freed);
    domain.space.borrow_mut().release(batch.promised);
    {
        let mut counters = domain.counters.borrow_mut();
        counters.group_commits += 1;
        counters.group_commit_ops += u64::from(batch.ops);
    }
    batch.fate.decide(Ok(Committed { sequence: head.sequence, mechanism }));
}

/// What a batch is told that had not been sent when a record before it failed.
fn behind(error: &StoreError) -> StoreError {
    let reason = format!("a record before it failed: {error}").into();
    StoreError::CommitFailed { reason, certainty: Certainty::Out }
}

/// The first batch has failed as this says, and with it all behind it.
fn fail_batches(domain: &Domain, mut error: StoreError) {
    loop {
        let Some(batch) = domain.pipe.borrow_mut().end_first() else { break };
        domain.setbacks.set(domain.setbacks.get() + 1);
        fail_batch(domain, &batch, &error);
        error = behind(&error);
    }
    let mut health = domain.health.borrow_mut();
    if *health == Health::Aborting {
        *health = Health::Serving;
    }
}

fn fail_batch(domain: &Domain, batch: &Batch, error: &StoreError) {
    if error.certainty() == Certainty::Out {
        // What was written for it belongs to nobody. When it is unknown, only the next opening
        // knows.
        domain.give(&batch.taken);
    }
    domain.space.borrow_mut().release(batch.promised);
    if !batch.buffered.is_empty() {
        domain.lost.borrow_mut().get_or_insert_with(|| error.clone());
    }
    batch.fate.decide(Err(error.clone()));
}
