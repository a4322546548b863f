//! A request to a slot, on the disks that hold the same.
//!
//! What is written goes to all of them, from one memory, and is done when all have done it. One
//! that fails while another does not is **fenced** first: a label that calls it in sync no more is
//! durable on all others before the writer hears of success, so no opening takes it for good. When
//! none succeeds, or the failed one is the last in sync, the request has failed.
//!
//! What is read comes from the disk with the fewest reads on their way; when it fails, from
//! another. Whether the content is right its reader knows, who can ask for the other disks one by
//! one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::io::op::{Buffers, Completion, OpKind, Request};
use crate::memory::{BufferList, DmaBuf};
use crate::store::member::{Member, Members, MirrorDisk, MirrorState};
use crate::store::port::{Port, join_all};

/// Neighbours up to this many bytes are read from one disk of several that are equally busy.
const SPREAD_BYTES: u64 = 1 << 20;

/// The memory of a write, for several disks.
enum Shared {
    None,
    One(Arc<DmaBuf>),
    Many(Vec<Arc<DmaBuf>>),
}

impl Shared {
    fn new(buffers: Buffers) -> Shared {
        match buffers {
            Buffers::None => Shared::None,
            Buffers::One(buffer) => Shared::One(Arc::new(buffer)),
            Buffers::Many(list) => {
                Shared::Many(list.into_buffers().into_iter().map(Arc::new).collect())
            }
        }
    }

    fn view(&self) -> Buffers {
        match self {
            Shared::None => Buffers::None,
            Shared::One(buffer) => Buffers::One(DmaBuf::view(buffer)),
            Shared::Many(list) => {
                Buffers::Many(Box::new(BufferList::new(list.iter().map(DmaBuf::view).collect())))
            }
        }
    }

    /// The memory, when no disk has it any more.
    fn back(self) -> Buffers {
        let many = |list: Vec<Arc<DmaBuf>>| -> Option<Vec<DmaBuf>> {
            list.into_iter().map(|buffer| Arc::try_unwrap(buffer).ok()).collect()
        };
        match self {
            Shared::None => Buffers::None,
            Shared::One(buffer) => Arc::try_unwrap(buffer).map_or(Buffers::None, Buffers::One),
            Shared::Many(list) => many(list)
                .map_or(Buffers::None, |list| Buffers::Many(Box::new(BufferList::new(list)))),
        }
    }
}

impl Members {
    /// Does what a request says in a slot, which stands where its disk does.
    pub(crate) async fn submit(&self, port: &Port, mut request: Request) -> Completion {
        let member = self.at(request.disk.0);
        if let [only] = member.mirrors.as_slice() {
            request.disk = only.disk;
            return port.submit(request).await;
        }
        match request.kind {
            OpKind::Read => Box::pin(self.read(port, request)).await.0,
            _ => Box::pin(self.write(port, member, request)).await,
        }
    }

    /// Reads from a disk of a slot that answers; says also whether another did not.
    pub(crate) async fn read(&self, port: &Port, mut request: Request) -> (Completion, bool) {
        let member = self.at(request.disk.0);
        if let [only] = member.mirrors.as_slice() {
            request.disk = only.disk;
            return (port.submit(request).await, false);
        }
        let (priority, kind, offset, len) =
            (request.priority, request.kind, request.offset, request.len);
        let mut tried: Vec<&Arc<MirrorDisk>> = Vec::new();
        loop {
            let mirror = pick(member, offset, &tried);
            request.disk = mirror.disk;
            mirror.reads.fetch_add(1, Ordering::Relaxed);
            let completion = port.submit(request).await;
            mirror.reads.fetch_sub(1, Ordering::Relaxed);
            if completion.result.is_ok() {
                return (completion, !tried.is_empty());
            }
            tried.push(mirror);
            let others = member.in_sync().any(|other| !is_among(&tried, other));
            match completion {
                Completion { buffers: Buffers::None, .. } => return (completion, true),
                _ if !others => return (completion, true),
                Completion { buffers, .. } => {
                    mirror.read_failures.fetch_add(1, Ordering::Relaxed);
                    let disk = mirror.disk;
                    request = Request { disk, priority, kind, offset, len, buffers };
                }
            }
        }
    }

    /// Does the same on one disk.
    pub(crate) async fn submit_to(
        &self,
        port: &Port,
        mirror: &MirrorDisk,
        mut request: Request,
    ) -> Completion {
        request.disk = mirror.disk;
        port.submit(request).await
    }

    async fn write(&self, port: &Port, member: &Member, request: Request) -> Completion {
        let Request { priority, kind, offset, len, buffers, .. } = request;
        let shared = Shared::new(buffers);
        let targets: Vec<&Arc<MirrorDisk>> =
            member.mirrors.iter().filter(|mirror| mirror.state() != MirrorState::Out).collect();
        let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = Completion> + '_>>> = Vec::new();
        for mirror in &targets {
            let (disk, buffers) = (mirror.disk, shared.view());
            let request = Request { disk, priority, kind, offset, len, buffers };
            writes.push(Box::pin(port.submit(request)));
        }
        let mut outcome =
            Outcome { done: Vec::new(), failed: Vec::new(), wait_ns: 0, service_ns: 0 };
        for (mirror, completion) in targets.iter().zip(join_all(writes).await) {
            outcome.add(mirror, completion);
        }
        let result = match kind {
            // Nobody depends on it.
            OpKind::Discard => outcome.any(),
            _ => {
                outcome.fence_failed(self, port).await;
                outcome.judge()
            }
        };
        let (wait_ns, service_ns) = (outcome.wait_ns, outcome.service_ns);
        Completion { result, buffers: shared.back(), wait_ns, service_ns }
    }
}

type IoResult = Result<u64, Box<crate::io::error::IoError>>;

/// What became of a write on each disk.
struct Outcome<'a> {
    done: Vec<(&'a Arc<MirrorDisk>, u64)>,
    failed: Vec<(&'a Arc<MirrorDisk>, Box<crate::io::error::IoError>)>,
    wait_ns: u64,
    service_ns: u64,
}

impl<'a> Outcome<'a> {
    fn add(&mut self, mirror: &'a Arc<MirrorDisk>, completion: Completion) {
        self.wait_ns = self.wait_ns.max(completion.wait_ns);
        self.service_ns = self.service_ns.max(completion.service_ns);
        match completion.result {
            Ok(bytes) => self.done.push((mirror, bytes)),
            Err(error) => self.failed.push((mirror, error)),
        }
    }

    /// Takes those that failed out of the pool, if one that is in sync did not fail.
    async fn fence_failed(&self, members: &Members, port: &Port) {
        for (mirror, _) in &self.failed {
            if self.done.iter().any(|(other, _)| other.is_in_sync()) {
                members.fence(port, mirror).await;
            }
        }
    }

    /// It is done when a disk in sync has done it, and every other one has, or is out.
    fn judge(&mut self) -> IoResult {
        let left = |(mirror, _): &(&Arc<MirrorDisk>, _)| mirror.state() != MirrorState::Out;
        if let Some(first) = self.failed.iter().position(left) {
            return Err(self.failed.swap_remove(first).1);
        }
        let in_sync = self.done.iter().find(|(mirror, _)| mirror.is_in_sync());
        match (in_sync, self.failed.pop()) {
            (Some((_, bytes)), _) => Ok(*bytes),
            (None, Some((_, error))) => Err(error),
            // All that did it were taken out meanwhile, by others, of whom one is left that this
            // request never reached: it cannot be, as the last one in sync is never taken out.
            (None, None) => unreachable!("a slot has a disk in sync"),
        }
    }

    fn any(&mut self) -> IoResult {
        match (self.done.first(), self.failed.pop()) {
            (Some((_, bytes)), _) => Ok(*bytes),
            (None, Some((_, error))) => Err(error),
            (None, None) => unreachable!("a slot has a disk in sync"),
        }
    }
}

fn is_among(some: &[&Arc<MirrorDisk>], mirror: &Arc<MirrorDisk>) -> bool {
    some.iter().any(|other| Arc::ptr_eq(other, mirror))
}

/// The disk in sync with the fewest reads on their way, of those that were not tried.
fn pick<'a>(member: &'a Member, offset: u64, tried: &[&Arc<MirrorDisk>]) -> &'a Arc<MirrorDisk> {
    let count = member.mirrors.len();
    let first = (offset / SPREAD_BYTES) as usize % count;
    let fit = |mirror: &&Arc<MirrorDisk>| mirror.is_in_sync() && !is_among(tried, mirror);
    let turned = (0..count).map(|n| &member.mirrors[(first + n) % count]).filter(fit);
    let least = turned.min_by_key(|mirror| mirror.reads.load(Ordering::Relaxed));
    // Another domain may have taken the others out since the caller looked.
    least.unwrap_or(&member.mirrors[first])
}
