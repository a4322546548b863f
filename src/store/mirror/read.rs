//! Reading in a slot: from which of its disks, and from which then.
//!
//! A read that is slow is sent to a second disk, as far as not too many are; one that its disk has
//! had for as long as makes a write hang is, whatever the others do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::format::mirror_set::MirrorSet;
use crate::io::op::{Buffers, Completion, OpKind, Request};
use crate::memory::DmaBuf;
use crate::store::member::{Member, Members, MirrorDisk, MirrorState};
use crate::store::port::{Either, Port, either};

/// Neighbours up to this many bytes are read from one disk of several that are equally good.
const SPREAD_BYTES: u64 = 1 << 20;
/// A read that takes so many times as long as the fastest disk lately took is slow.
const SLOW_TIMES: u64 = 8;
/// No read is slow before this.
const SLOW_NS_MIN: u64 = 200_000;
/// One read of so many may be sent twice, beyond [`HEDGES_AT_ONCE`]: a slot all of whose disks are
/// slow must not get twice the work.
const HEDGES_PER: u64 = 16;
/// See above.
const HEDGES_AT_ONCE: u64 = 32;
/// One read of so many goes to another disk than the best, or nobody would know that it is better
/// again.
const PROBE_EVERY: u64 = 256;

/// Most reads that a disk keeps while it gets more.
const ABANDONED_MAX: u32 = 8;

/// What a disk does lately.
#[derive(Debug, Default)]
pub(crate) struct ReadTimes {
    /// Reads that are on their way there.
    on_their_way: AtomicU32,
    /// Nanoseconds of a read, averaged over the last ones.
    average_ns: AtomicU64,
    /// Reads that were sent there.
    reads: AtomicU64,
    /// Of these, those that were sent to another disk as well, because they were slow.
    hedged: AtomicU64,
    /// Reads that failed there.
    failures: AtomicU64,
    /// Reads that nobody waits for any more, and that keep their memory.
    abandoned: Arc<AtomicU32>,
}

impl ReadTimes {
    fn begin(&self) {
        self.on_their_way.fetch_add(1, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// One has ended, or is given up, after so long. It is an average: races cost nothing.
    fn end(&self, took_ns: u64) {
        self.on_their_way.fetch_sub(1, Ordering::Relaxed);
        let before = self.average_ns.load(Ordering::Relaxed);
        let now = if before == 0 { took_ns } else { before - before / 8 + took_ns / 8 };
        self.average_ns.store(now.max(1), Ordering::Relaxed);
    }

    /// Whether it keeps so many reads that it gets no more while there is another disk.
    pub(crate) fn hangs(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) >= ABANDONED_MAX
    }

    /// How long another read would take.
    fn expected_ns(&self) -> u64 {
        if self.hangs() {
            return u64::MAX / 2;
        }
        let before = u64::from(self.on_their_way.load(Ordering::Relaxed)) + 1;
        self.average_ns.load(Ordering::Relaxed).max(1).saturating_mul(before)
    }

    pub(crate) fn average_ns(&self) -> u64 {
        self.average_ns.load(Ordering::Relaxed)
    }

    pub(crate) fn hedged(&self) -> u64 {
        self.hedged.load(Ordering::Relaxed)
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

impl Members {
    /// Reads from a disk of a slot that answers; says also whether another did not.
    pub(crate) async fn read(&self, port: &Port, mut request: Request) -> (Completion, bool) {
        let (slot, set) = MirrorSet::of_target(request.disk.0);
        let member = self.at(slot);
        if let Some(only) = member.mirrors.only()
            && set.is_all()
        {
            request.disk = only.disk;
            return (port.submit(request).await, false);
        }
        let form = Form { set, ..Form::of(&request) };
        let mut tried: Vec<&Arc<MirrorDisk>> = Vec::new();
        let mut completion = None;
        while let Some(mirror) = pick(member, &form, &tried) {
            let answer = self.read_hedged(port, (member, mirror, set), request).await;
            for mirror in &answer.failed {
                mirror.times.failures.fetch_add(1, Ordering::Relaxed);
            }
            tried.extend(answer.failed);
            if answer.completion.result.is_ok() {
                return (answer.completion, !tried.is_empty());
            }
            if matches!(answer.completion.buffers, Buffers::None) {
                return (answer.completion, true);
            }
            let Completion { result, buffers, wait_ns, service_ns } = answer.completion;
            completion = Some((result, wait_ns, service_ns));
            request = form.with(buffers);
        }
        if !set.is_all() {
            return self.read_last(port, (member, form), request).await;
        }
        let Some((result, wait_ns, service_ns)) = completion else {
            // A slot has a disk in sync at any time; should a look have missed it, the first one
            // that was not taken out answers, and its reader judges what it says.
            let mut all = member.mirrors.iter();
            let first = all.find(|mirror| mirror.state() != MirrorState::Out);
            let first = first.or_else(|| member.mirrors.first());
            request.disk = first.map_or(request.disk, |mirror| mirror.disk);
            return (port.submit(request).await, true);
        };
        (Completion { result, buffers: request.buffers, wait_ns, service_ns }, true)
    }

    /// What no disk in sync has given, of those that have it: from one that is not, because no
    /// other will ever have it. Its reader judges what it says.
    async fn read_last(
        &self,
        port: &Port,
        (member, form): (&Member, Form),
        mut request: Request,
    ) -> (Completion, bool) {
        let what = (request.kind, form.offset, form.len);
        let mut answer = None;
        let behind = member.of(form.set).filter(|mirror| !mirror.is_in_sync());
        for mirror in behind.filter(|mirror| !mirror.times.hangs()) {
            let completion = self.submit_to(port, mirror, request).await;
            let is_kept = matches!(completion.buffers, Buffers::None);
            let abandoned = &mirror.times.abandoned;
            abandoned.fetch_add(u32::from(is_kept), Ordering::Relaxed);
            if completion.result.is_ok() || is_kept {
                return (completion, false);
            }
            let Completion { result, buffers, wait_ns, service_ns } = completion;
            answer = Some((result, wait_ns, service_ns));
            request = form.with(buffers);
        }
        let none = || (Err(Box::new(super::gone(member, form.set, what))), 0, 0);
        let (result, wait_ns, service_ns) = answer.unwrap_or_else(none);
        (Completion { result, buffers: request.buffers, wait_ns, service_ns }, false)
    }
}

/// What came of a read, and which disks failed at it.
struct Answer<'a> {
    completion: Completion,
    failed: Vec<&'a Arc<MirrorDisk>>,
}

impl<'a> Answer<'a> {
    fn of(completion: Completion, mirror: &'a Arc<MirrorDisk>) -> Answer<'a> {
        let failed = if completion.result.is_ok() { Vec::new() } else { vec![mirror] };
        Answer { completion, failed }
    }
}

impl Members {
    /// Reads from a disk, and from another too when that takes long.
    async fn read_hedged<'a>(
        &self,
        port: &Port,
        (member, mirror, set): (&'a Member, &'a Arc<MirrorDisk>, MirrorSet),
        mut request: Request,
    ) -> Answer<'a> {
        let form = Form { set, ..Form::of(&request) };
        let spare = match &request.buffers {
            Buffers::One(buffer) => Some((Arc::clone(buffer.arena()), buffer.len())),
            _ => None,
        };
        request.disk = mirror.disk;
        let mut first = std::pin::pin!(timed(port, mirror, request));
        let mut patience_ns = match self.disks().hedged_reads && may_hedge(member) {
            true => slow_after_ns(member).min(self.disks().hung_after_ns),
            false => self.disks().hung_after_ns,
        };
        loop {
            let later = port.now_ns().saturating_add(patience_ns);
            if let Either::First(completion) = either(first.as_mut(), port.sleep_until(later)).await
            {
                return Answer::of(completion, mirror);
            }
            let other = pick(member, &form, &[mirror]);
            let memory = spare.as_ref().and_then(|(arena, len)| arena.take(*len).ok());
            if let (Some(other), Some(memory)) = (other, memory) {
                mirror.times.hedged.fetch_add(1, Ordering::Relaxed);
                let with = (other, form, memory);
                return hedge(port, (first, mirror), with, self.disks().hung_after_ns).await;
            }
            // What few disks have no other will have later, and this one is as one that failed.
            if !set.is_all() && patience_ns >= self.disks().hung_after_ns {
                mirror.times.abandoned.fetch_add(1, Ordering::Relaxed);
                let error = super::hangs(mirror, (OpKind::Read, form.offset, form.len));
                let (result, buffers) = (Err(Box::new(error)), Buffers::None);
                let completion =
                    Completion { result, buffers, wait_ns: 0, service_ns: patience_ns };
                return Answer { completion, failed: vec![mirror] };
            }
            // Neither memory nor another disk: there may be some later.
            patience_ns = patience_ns.saturating_mul(2).min(self.disks().hung_after_ns);
        }
    }
}

/// A read without its memory.
#[derive(Clone, Copy)]
struct Form {
    priority: crate::io::op::Priority,
    offset: u64,
    len: u64,
    /// The mirrors that have it.
    set: MirrorSet,
}

impl Form {
    fn of(request: &Request) -> Form {
        let set = MirrorSet::ALL;
        Form { priority: request.priority, offset: request.offset, len: request.len, set }
    }

    fn with(self, buffers: Buffers) -> Request {
        let Form { priority, offset, len, .. } = self;
        let (disk, kind) = (crate::io::op::DiskId(0), crate::io::op::OpKind::Read);
        Request { disk, priority, kind, offset, len, buffers }
    }
}

/// Waits for whichever answers, the slow one or another; when one has failed, for the other, but
/// no longer than makes a disk hang.
async fn hedge<'a>(
    port: &Port,
    (mut first, mirror): (
        std::pin::Pin<&mut impl Future<Output = Completion>>,
        &'a Arc<MirrorDisk>,
    ),
    (other, form, memory): (&'a Arc<MirrorDisk>, Form, DmaBuf),
    hung_after_ns: u64,
) -> Answer<'a> {
    let mut request = form.with(Buffers::One(memory));
    request.disk = other.disk;
    let mut second = std::pin::pin!(timed(port, other, request));
    let (failed, by) = match either(first.as_mut(), second.as_mut()).await {
        Either::First(completion) | Either::Second(completion) if completion.result.is_ok() => {
            return Answer { completion, failed: Vec::new() };
        }
        Either::First(failed) => (failed, mirror),
        Either::Second(failed) => (failed, other),
    };
    let later = port.sleep_until(port.now_ns().saturating_add(hung_after_ns));
    let last = match Arc::ptr_eq(by, mirror) {
        true => either(second, later).await,
        false => either(first, later).await,
    };
    match last {
        Either::First(completion) if completion.result.is_ok() => {
            Answer { completion, failed: vec![by] }
        }
        // The one that failed gives its memory back.
        _ => Answer { completion: failed, failed: vec![mirror, other] },
    }
}

fn may_hedge(member: &Member) -> bool {
    let sum = |of: fn(&ReadTimes) -> &AtomicU64| -> u64 {
        let each = member.mirrors.iter().map(|mirror| of(&mirror.times).load(Ordering::Relaxed));
        each.sum()
    };
    let allowed = HEDGES_AT_ONCE + sum(|times| &times.reads) / HEDGES_PER;
    sum(|times| &times.hedged) < allowed
}

/// When a read of a slot is slow.
fn slow_after_ns(member: &Member) -> u64 {
    let averages = member.in_sync().map(|mirror| mirror.times.average_ns());
    let fastest = averages.filter(|average| *average > 0).min().unwrap_or(SLOW_NS_MIN);
    (fastest * SLOW_TIMES).max(SLOW_NS_MIN)
}

/// Submits a read, and notes how long it took, or how long it was waited for.
async fn timed(port: &Port, mirror: &MirrorDisk, request: Request) -> Completion {
    let read = Read { port, mirror, begun_ns: port.now_ns() };
    mirror.times.begin();
    let completion = port.submit(request).counted(&mirror.times.abandoned).await;
    drop(read);
    completion
}

/// A read on its way.
struct Read<'a> {
    port: &'a Port,
    mirror: &'a MirrorDisk,
    begun_ns: u64,
}

impl Drop for Read<'_> {
    fn drop(&mut self) {
        self.mirror.times.end(self.port.now_ns().saturating_sub(self.begun_ns));
    }
}

fn is_among(some: &[&Arc<MirrorDisk>], mirror: &Arc<MirrorDisk>) -> bool {
    some.iter().any(|other| Arc::ptr_eq(other, mirror))
}

/// The disk in sync that is expected to answer first, of those that were not tried; now and then
/// another one.
fn pick<'a>(
    member: &'a Member,
    form: &Form,
    tried: &[&Arc<MirrorDisk>],
) -> Option<&'a Arc<MirrorDisk>> {
    let first = (form.offset / SPREAD_BYTES) as usize % member.mirrors.len().max(1);
    let fit = |mirror: &&Arc<MirrorDisk>| {
        let has_it = form.set.includes(mirror.label.mirror.number);
        has_it && mirror.is_in_sync() && !is_among(tried, mirror)
    };
    let turned = || {
        let (before, from) = (member.mirrors.iter().take(first), member.mirrors.iter().skip(first));
        from.chain(before).filter(fit)
    };
    // Equally good ones take turns by place: half as long again is as good.
    let times = turned().map(|mirror| (mirror.times.expected_ns(), mirror));
    let (least, best) = times.min_by_key(|(expected, _)| *expected)?;
    let reads: u64 =
        member.mirrors.iter().map(|mirror| mirror.times.reads.load(Ordering::Relaxed)).sum();
    let probes = reads % PROBE_EVERY == PROBE_EVERY - 1 && tried.is_empty();
    let enough = least.saturating_add(least / 2);
    let good = |mirror: &&Arc<MirrorDisk>| mirror.times.expected_ns() <= enough;
    let worse = |mirror: &&Arc<MirrorDisk>| !good(mirror) && !mirror.times.hangs();
    let chosen = if probes { turned().find(worse) } else { None };
    // Other threads read meanwhile: when none is as good any more, it is the one that was.
    Some(chosen.or_else(|| turned().find(good)).unwrap_or(best))
}

#[cfg(test)]
mod tests;
