//! A request to a slot, on the disks that hold the same.
//!
//! What is written goes to all of them, from one memory, and is done when all have done it. One
//! that fails while another does not is **fenced** first: a label that calls it in sync no more is
//! durable on all others before the writer hears of success, so no opening takes it for good. One
//! that does not answer for [`Disks::hung_after_ns`](crate::store::member::Disks) while another
//! has is as one that failed; what it still has of the memory stays its own. When none succeeds,
//! or the failed one is the last in sync, the request has failed.
//!
//! What is read comes from the disk that is expected to answer first, by how long it took lately
//! and by the reads on their way there; when it fails, from another; when it takes much longer than
//! it should, from another too, whichever comes first (`read`). Whether the content is right its
//! reader knows, who can ask for the other disks one by one.

mod read;

pub(crate) use self::read::ReadTimes;

use std::sync::Arc;

use crate::format::label::MIRROR_MAX;
use crate::format::mirror_set::MirrorSet;
use crate::io::error::{ErrorKind, IoError};
use crate::io::op::{Buffers, Completion, DiskId, OpKind, Request};
use crate::memory::{BufferList, DmaBuf};
use crate::store::member::{Member, Members, MirrorDisk, MirrorState};
use crate::store::port::{Port, join_enough};

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

    /// The memory; other memory where a disk that hangs still has it, if there is some.
    fn back(self) -> Buffers {
        match self {
            Shared::None => Buffers::None,
            Shared::One(buffer) => own(buffer).map_or(Buffers::None, Buffers::One),
            Shared::Many(list) => {
                let list: Option<Vec<DmaBuf>> = list.into_iter().map(own).collect();
                list.map_or(Buffers::None, |list| Buffers::Many(Box::new(BufferList::new(list))))
            }
        }
    }
}

fn own(buffer: Arc<DmaBuf>) -> Option<DmaBuf> {
    Arc::try_unwrap(buffer).or_else(|shared| shared.arena().take(shared.capacity())).ok()
}

impl Members {
    /// Does what a request says in a slot, which stands where its disk does.
    pub(crate) async fn submit(&self, port: &Port, mut request: Request) -> Completion {
        let (slot, set) = MirrorSet::of_target(request.disk.0);
        let member = self.at(slot);
        if let Some(only) = member.mirrors.only()
            && set.is_all()
        {
            request.disk = only.disk;
            return port.submit(request).await;
        }
        match request.kind {
            OpKind::Read => Box::pin(self.read(port, request)).await.0,
            _ => Box::pin(self.write(port, (member, set), request)).await,
        }
    }

    /// Does the same on one disk. Where there are others, one that does not answer in time has
    /// failed, and keeps the memory.
    pub(crate) async fn submit_to(
        &self,
        port: &Port,
        mirror: &MirrorDisk,
        mut request: Request,
    ) -> Completion {
        request.disk = mirror.disk;
        if self.at(mirror.label.slot).mirrors.len() == 1 {
            return port.submit(request).await;
        }
        let what = (request.kind, request.offset, request.len);
        let patience_ns = self.disks().hung_after_ns;
        let answer = join_enough(port, vec![port.submit(request)], patience_ns, |_| true).await;
        answer.into_iter().flatten().next().unwrap_or_else(|| Completion {
            result: Err(Box::new(hangs(mirror, what))),
            buffers: Buffers::None,
            wait_ns: 0,
            service_ns: self.disks().hung_after_ns,
        })
    }

    async fn write(
        &self,
        port: &Port,
        (member, set): (&Member, MirrorSet),
        request: Request,
    ) -> Completion {
        let Request { priority, kind, offset, len, buffers, .. } = request;
        if !set.is_all() {
            member.note_set(set);
        }
        let shared = Shared::new(buffers);
        let targets: Vec<&Arc<MirrorDisk>> =
            member.of(set).filter(|mirror| mirror.state() != MirrorState::Out).collect();
        if targets.is_empty() {
            let result = Err(Box::new(gone(member, set, (kind, offset, len))));
            return Completion { result, buffers: shared.back(), wait_ns: 0, service_ns: 0 };
        }
        let write = |mirror: &&Arc<MirrorDisk>| {
            let (disk, buffers) = (mirror.disk, shared.view());
            let request = Request { disk, priority, kind, offset, len, buffers };
            port.submit(request).counted(&mirror.given_up)
        };
        let writes = targets.iter().map(write).collect();
        let patience_ns = self.disks().hung_after_ns;
        let enough = |done: &[Option<Completion>]| {
            let mut each = targets.iter().zip(done);
            match kind {
                // What few disks have is answered by each of them in time.
                _ if !set.is_all() => true,
                // One that is late would destroy what is written there next: it is waited for, as
                // long as the disk counts.
                OpKind::Discard => {
                    each.all(|(mirror, done)| done.is_some() || mirror.state() == MirrorState::Out)
                }
                _ => each.any(|(mirror, done)| {
                    mirror.is_in_sync() && done.as_ref().is_some_and(|done| done.result.is_ok())
                }),
            }
        };
        let completions = join_enough(port, writes, patience_ns, enough).await;
        let mut outcome = Outcome::default();
        for (mirror, completion) in targets.iter().zip(completions) {
            match completion {
                Some(completion) => outcome.add(mirror, completion),
                None => {
                    let error = Box::new(hangs(mirror, (kind, offset, len)));
                    outcome.failed.push((mirror, error));
                    // Others of its slot may go on without it.
                    if !set.is_all() {
                        self.fence(port, mirror).await;
                    }
                }
            }
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

/// What is said where no disk is left of those that have something.
fn gone(member: &Member, set: MirrorSet, (op, offset, expected): (OpKind, u64, u64)) -> IoError {
    let mirror = member.of(set).next();
    let disk = mirror.map_or(DiskId(u16::MAX), |mirror| mirror.disk);
    let missing = || {
        let slot = member.mirrors.first().map_or(0, |first| first.label.slot);
        let numbers = (0..MIRROR_MAX).filter(|number| set.includes(*number));
        let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
        format!("mirror {} of slot {slot}, which is missing", numbers.join(" and ")).into()
    };
    let path = mirror.map_or_else(missing, |mirror| Arc::clone(&mirror.path));
    let (kind, found, errno) = (ErrorKind::DeviceGone, 0, None);
    IoError { kind, op, disk, path, offset, expected, found, errno }
}

/// What is said of a disk that does not answer.
fn hangs(mirror: &MirrorDisk, (op, offset, expected): (OpKind, u64, u64)) -> IoError {
    let (disk, path) = (mirror.disk, Arc::clone(&mirror.path));
    let (kind, found, errno) = (ErrorKind::Timeout, 0, None);
    IoError { kind, op, disk, path, offset, expected, found, errno }
}

type IoResult = Result<u64, Box<IoError>>;

/// What became of a write on each disk.
#[derive(Default)]
struct Outcome<'a> {
    done: Vec<(&'a Arc<MirrorDisk>, u64)>,
    failed: Vec<(&'a Arc<MirrorDisk>, Box<IoError>)>,
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
        if self.done.is_empty() {
            let order = |error: &IoError| (error.op == OpKind::Flush, error.may_land_late());
            self.failed.sort_by_key(|(_, error)| order(error));
            return self.lost();
        }
        self.failed.retain(|(mirror, _)| mirror.state() != MirrorState::Out);
        // A flush that failed may have dropped what others had written: that is what is told.
        // Then one that may still do it.
        let order = |error: &IoError| (error.op != OpKind::Flush, !error.may_land_late());
        self.failed.sort_by_key(|(_, error)| order(error));
        if let Some((_, error)) = self.failed.drain(..).next() {
            return Err(error);
        }
        match self.done.iter().find(|(mirror, _)| mirror.is_in_sync()) {
            Some((_, bytes)) => Ok(*bytes),
            None => self.lost(),
        }
    }

    fn any(&mut self) -> IoResult {
        match self.done.first() {
            Some((_, bytes)) => Ok(*bytes),
            None => self.lost(),
        }
    }

    /// None that counts has done it; others may have taken out those that have.
    fn lost(&mut self) -> IoResult {
        let failed = self.failed.pop().map(|(_, error)| error);
        let gone = |(mirror, _): &(&Arc<MirrorDisk>, u64)| {
            let error = hangs(mirror, (OpKind::Write, 0, 0));
            Box::new(IoError { kind: ErrorKind::DeviceGone, ..error })
        };
        let taken_out = self.done.first().map(gone);
        Err(failed.or(taken_out).unwrap_or_else(|| unreachable!("a slot has a disk in sync")))
    }
}
