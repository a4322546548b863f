//! A pool: making it, and finding out what a disk is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::format::disk_set::DiskSet;
use crate::format::label::{LABEL_BYTES, Label, LabelError, Mirror, OPEN_QUORUM, WRITE_QUORUM};
use crate::format::layout::{BLOCK_BYTES, LABEL_COPIES, Layout, Zone, label_offsets};
use crate::format::page::Child;
use crate::format::record::{
    Body, CheckpointBody, JournalId, Lifetime, RecordHead, RecordKind, encode, record_bytes,
};
use crate::format::removals::Removals;
use crate::io::error::IoError;
use crate::io::op::{DiskId, Priority, Request};
use crate::memory::{Arena, DmaBuf};
use crate::store::port::{Port, join_all};

/// What a new pool is to be.
#[derive(Clone, Debug)]
pub struct PoolPlan {
    /// Id of the pool.
    pub pool: [u8; 16],
    /// Its disks, slot by slot: 1 at least, with as many domains and journals of one size, and
    /// those of one slot alike.
    pub disks: Vec<DiskPlan>,
    /// Disks of each slot that hold the same.
    pub mirrors: u16,
    /// A random number.
    pub incarnation: u64,
}

/// What a disk of a new pool is to be.
#[derive(Clone, Debug)]
pub struct DiskPlan {
    /// As the engine numbers it.
    pub number: DiskId,
    /// Id of the disk.
    pub id: [u8; 16],
    /// Its zones.
    pub layout: Layout,
    /// Bytes of its logical sectors.
    pub sector: usize,
}

/// Why a pool cannot be made, or a disk not be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoolError {
    /// The disk failed.
    #[error("{0}")]
    Io(Arc<IoError>),
    /// It is no disk of a pool.
    #[error("{path} is not a disk of a pool: {reason}")]
    NoPool {
        /// The disk.
        path: Arc<str>,
        /// What its label copies are.
        reason: String,
    },
    /// It is, and cannot be used.
    #[error("{path} cannot be opened: {reason}")]
    Unusable {
        /// The disk.
        path: Arc<str>,
        /// Why.
        reason: String,
    },
    /// Each is a disk of a pool, and together they are none.
    #[error("these disks are not a whole pool: {}", .0.join("; "))]
    Incomplete(Vec<String>),
    /// No label can be written.
    #[error("the labels of the pool cannot be written: {0}")]
    Labels(String),
    /// There is no memory.
    #[error("no memory: {0}")]
    NoMemory(String),
}

/// What lies at the four places of a label.
#[derive(Clone, Debug)]
pub struct LabelCopies(pub [Result<Label, CopyFault>; LABEL_COPIES]);

/// Why a copy is no label that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyFault {
    /// There is none.
    #[error("no label")]
    Absent,
    /// It is of a newer version of the format, or says so.
    #[error("{0}")]
    Newer(LabelError),
    /// It is damaged, or impossible.
    #[error("{0}")]
    Wrong(LabelError),
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(String),
}

impl From<LabelError> for CopyFault {
    fn from(error: LabelError) -> CopyFault {
        match error {
            LabelError::Absent => CopyFault::Absent,
            LabelError::Version { .. } | LabelError::Features { .. } => CopyFault::Newer(error),
            other => CopyFault::Wrong(other),
        }
    }
}

/// Bytes of a journal that are cleared at a time.
const ZEROES_BYTES: u64 = 128 << 10;
/// How long to wait when there is no memory for even one of them.
const NO_MEMORY_NS: u64 = 1_000_000;
/// And of so many such pieces together.
const ZEROES_AT_ONCE: usize = 8;

struct Disk<'a> {
    port: &'a Port,
    arena: &'a Arc<Arena>,
    id: DiskId,
}

impl Disk<'_> {
    fn buffer(&self, bytes: usize) -> Result<DmaBuf, PoolError> {
        self.arena.take(bytes).map_err(|error| PoolError::NoMemory(error.to_string()))
    }

    async fn submit(&self, request: Request) -> Result<Option<DmaBuf>, PoolError> {
        let (result, buffer) = self.port.submit(request).await.into_parts();
        result.map_err(|error| PoolError::Io(Arc::from(error)))?;
        Ok(buffer)
    }

    async fn write_label(
        &self,
        copy: usize,
        offset: u64,
        content: Option<&Label>,
        sector: usize,
    ) -> Result<(), PoolError> {
        let mut buffer = self.buffer(sector.max(LABEL_BYTES))?;
        buffer.fill(0);
        if let Some(label) = content {
            buffer[..LABEL_BYTES].copy_from_slice(&label.encode(copy));
        }
        self.submit(Request::write_flush(self.id, offset, buffer)).await?;
        Ok(())
    }
}

/// Makes a pool on its disks: whatever was there is gone. The old labels are destroyed first and
/// the new ones written last, so that a crash leaves no pool, or one that is not whole, rather than
/// one with something wrong in it.
///
/// # Errors
/// When a disk fails.
pub(crate) async fn format(
    port: &Port,
    arena: &Arc<Arena>,
    plan: &PoolPlan,
) -> Result<(), PoolError> {
    let disk_of = |disk: &DiskPlan| Disk { port, arena, id: disk.number };
    for planned in &plan.disks {
        let offsets = label_offsets(planned.layout.disk_bytes());
        for (copy, offset) in offsets.into_iter().enumerate() {
            disk_of(planned).write_label(copy, offset, None, planned.sector).await?;
        }
    }
    let mirrors = usize::from(plan.mirrors);
    let slots = (plan.disks.len() / mirrors) as u16;
    let homes = (0..plan.disks[0].layout.domains()).flat_map(|domain| {
        let home = domain % slots;
        let disks = plan.disks[usize::from(home) * mirrors..].iter().take(mirrors);
        disks.map(move |planned| (domain, home, planned))
    });
    for (domain, home, planned) in homes {
        let zone = planned.layout.zone(Zone::Journal(domain));
        let (start, bytes) = (zone.start, zone.end - zone.start);
        let id = JournalId { pool: plan.pool, disk: home, domain, start, bytes };
        let disk = disk_of(planned);
        let body = Body::Checkpoint(CheckpointBody {
            through: 0,
            replay_from: 0,
            next_inode: 1,
            pages: 0,
            levels: 0,
            root: Child::NONE,
            lifetime: Lifetime::default(),
        });
        let head = RecordHead {
            kind: RecordKind::Checkpoint,
            sequence: 1,
            incarnation: plan.incarnation,
            previous: 0,
            position: 0,
            skipped: 0,
            length: BLOCK_BYTES as u32,
            tail: 0,
            checkpoint: 0,
            accepted: 0,
            checksum: 0,
        };
        let mut buffer = disk.buffer(record_bytes(&body))?;
        encode(&id, &head, &body, &mut buffer);
        disk.submit(Request::write_flush(disk.id, start, buffer)).await?;
    }
    let in_sync = match plan.mirrors {
        1 => DiskSet::NONE,
        _ => DiskSet::first(plan.disks.len()),
    };
    for (number, planned) in (0..).zip(&plan.disks) {
        let (pool, disk, layout) = (plan.pool, planned.id, planned.layout);
        let mirror = Mirror { number: number % plan.mirrors, count: plan.mirrors, in_sync };
        let slot = number / plan.mirrors;
        let (home_slots, epoch) = (slots, 1);
        let removals = Removals::NONE;
        let label = Label { pool, disk, slot, slots, home_slots, removals, mirror, epoch, layout };
        for (copy, offset) in label_offsets(layout.disk_bytes()).into_iter().enumerate() {
            disk_of(planned).write_label(copy, offset, Some(&label), planned.sector).await?;
        }
    }
    Ok(())
}

/// Makes a disk the one that its label says. Whatever was there is gone.
///
/// # Errors
/// When the disk fails.
pub(crate) async fn adopt(
    port: &Port,
    arena: &Arc<Arena>,
    (disk, sector): (DiskId, usize),
    label: &Label,
) -> Result<(), PoolError> {
    let disk = Disk { port, arena, id: disk };
    for content in [None, Some(label)] {
        let offsets = label_offsets(label.layout.disk_bytes());
        for (copy, offset) in offsets.into_iter().enumerate() {
            disk.write_label(copy, offset, content, sector).await?;
        }
    }
    Ok(())
}

/// How far the preparation of a disk is, and whether it is still wanted.
#[derive(Debug, Default)]
pub(crate) struct Preparation {
    /// Requests that the disk has answered.
    pub(crate) answered: AtomicU64,
    /// Nothing more is to be written.
    pub(crate) given_up: AtomicBool,
}

/// Prepares a disk that is to come to a pool which is open: it has no label any more, and nothing
/// in any journal. What an older journal there said would be looked at once the disk is in sync.
///
/// # Errors
/// When the disk fails, or is not wanted any more.
pub(crate) async fn prepare(
    port: &Port,
    arena: &Arc<Arena>,
    (disk, sector): (DiskId, usize),
    (label, preparation): (&Label, &Preparation),
) -> Result<(), PoolError> {
    let (id, layout) = (disk, &label.layout);
    let disk = Disk { port, arena, id };
    let step = || match preparation.given_up.load(Ordering::Relaxed) {
        true => Err(PoolError::NoMemory("the disk is not wanted any more".to_owned())),
        false => Ok(()),
    };
    let answered = || preparation.answered.fetch_add(1, Ordering::Relaxed);
    for (copy, offset) in label_offsets(layout.disk_bytes()).into_iter().enumerate() {
        step()?;
        disk.write_label(copy, offset, None, sector).await?;
        answered();
    }
    let of_slot = |domain: &u16| label.home(*domain) == label.slot;
    for domain in (0..layout.domains()).filter(of_slot) {
        let journal = layout.zone(Zone::Journal(domain));
        let mut places = journal.clone().step_by(ZEROES_BYTES as usize).peekable();
        while places.peek().is_some() {
            step()?;
            let mut writes: Vec<std::pin::Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
            // As many as there is memory for.
            while writes.len() < ZEROES_AT_ONCE
                && let Some(at) = places.peek().copied()
                && let Ok(mut zeroes) = arena.take(ZEROES_BYTES.min(journal.end - at) as usize)
            {
                places.next();
                zeroes.fill(0);
                let write = Request::write(id, at, zeroes).with_priority(Priority::Background);
                writes.push(Box::pin(disk.submit(write)));
            }
            if writes.is_empty() {
                port.sleep_until(port.now_ns() + NO_MEMORY_NS).await;
            }
            for written in join_all(writes).await {
                written?;
                answered();
            }
        }
    }
    step()?;
    disk.submit(Request::flush(id)).await?;
    Ok(())
}

/// Looks at the four copies of a disk's label.
///
/// # Errors
/// When there is no memory; a copy that cannot be read is an error of that copy.
pub(crate) async fn read_labels(
    port: &Port,
    arena: &Arc<Arena>,
    disk: DiskId,
    disk_bytes: u64,
    sector: usize,
) -> Result<LabelCopies, PoolError> {
    let disk = Disk { port, arena, id: disk };
    let mut copies = Vec::new();
    for copy in 0..LABEL_COPIES {
        let made_for = made_for(&copies, disk_bytes);
        let buffer = disk.buffer(sector.max(LABEL_BYTES))?;
        let offset = label_offsets(made_for)[copy];
        copies.push(match disk.submit(Request::read(disk.id, offset, buffer)).await {
            Ok(Some(bytes)) => LabelCopies::decode(copy, made_for, &bytes),
            Ok(None) => Err(CopyFault::Unreadable("its buffer did not come back".to_owned())),
            Err(error) => Err(CopyFault::Unreadable(error.to_string())),
        });
    }
    let copies: [Result<Label, CopyFault>; LABEL_COPIES] =
        copies.try_into().unwrap_or_else(|_| unreachable!("one for each copy"));
    Ok(LabelCopies(copies))
}

/// The size of the disk for which its pool was made, as far as the copies read so far tell: on a
/// disk that has grown since, those at its end lie where that was.
pub(crate) fn made_for(copies: &[Result<Label, CopyFault>], disk_bytes: u64) -> u64 {
    let sizes = copies.iter().flatten().map(|label| label.layout.disk_bytes());
    sizes.filter(|bytes| *bytes <= disk_bytes).max().unwrap_or(disk_bytes)
}

/// Writes a label again over those of its copies that are something else, so that what was found
/// stays found. Says what each copy was, and what became of it.
pub(crate) async fn mend_labels(
    port: &Port,
    arena: &Arc<Arena>,
    (disk, sector): (DiskId, usize),
    label: &Label,
    copies: &LabelCopies,
) -> Vec<String> {
    let disk = Disk { port, arena, id: disk };
    let offsets = label_offsets(label.layout.disk_bytes());
    let mut described = copies.describe(label).to_vec();
    for (copy, offset) in offsets.into_iter().enumerate() {
        match &copies.0[copy] {
            Ok(found) if found == label => continue,
            // A newer program may know why.
            Err(CopyFault::Newer(_)) => continue,
            _ => {}
        }
        match disk.write_label(copy, offset, Some(label), sector).await {
            Ok(()) => described[copy].push_str("; it was written again"),
            Err(error) => described[copy].push_str(&format!("; it cannot be written: {error}")),
        }
    }
    described
}

impl LabelCopies {
    /// Whether all of them are this label.
    pub(crate) fn are_all(&self, label: &Label) -> bool {
        self.0.iter().all(|copy| copy.as_ref() == Ok(label))
    }

    /// One copy, or what is wrong with it.
    pub(crate) fn decode(copy: usize, disk_bytes: u64, bytes: &[u8]) -> Result<Label, CopyFault> {
        Ok(Label::decode(copy, disk_bytes, bytes)?)
    }

    /// The label that the disk has: of the newest epoch of which [`OPEN_QUORUM`] copies agree, as
    /// [the format](crate::format::label) says. One copy of a newer epoch never held, and what the
    /// others say is the state; [`LabelCopies::describe`] names it.
    ///
    /// # Errors
    /// When there is none, or two of one epoch, or it was made for another size of disk.
    pub fn verdict(&self, path: &Arc<str>, disk_bytes: u64) -> Result<Label, PoolError> {
        let Some(label) = self.agreed() else { return Err(self.no_quorum(path)) };
        let (made_for, is) = (label.layout.disk_bytes(), disk_bytes);
        if made_for > is {
            let reason =
                format!("the pool was made on a disk of {made_for} bytes, and this one has {is}");
            return Err(PoolError::Unusable { path: Arc::clone(path), reason });
        }
        Ok(label)
    }

    /// The label of the newest epoch with a quorum, if there is one such label.
    fn agreed(&self) -> Option<Label> {
        let whole: Vec<&Label> = self.0.iter().filter_map(|copy| copy.as_ref().ok()).collect();
        let agreeing = |label: &Label| whole.iter().filter(|other| **other == label).count();
        let enough = whole.iter().filter(|label| agreeing(label) >= OPEN_QUORUM);
        let label = **enough.clone().max_by_key(|label| label.epoch)?;
        // Two and two of one epoch: nothing says which was meant.
        let mut rivals = enough.filter(|other| other.epoch == label.epoch && ***other != label);
        rivals.next().is_none().then_some(label)
    }

    /// What each copy is, when `label` is the verdict: `whole`, or what is wrong with it.
    pub fn describe(&self, label: &Label) -> [String; LABEL_COPIES] {
        self.0.each_ref().map(|copy| match copy {
            Ok(found) if found == label => "whole".to_owned(),
            Err(fault) => fault.to_string(),
            Ok(other) if other.pool != label.pool || other.disk != label.disk => {
                format!("the label of another pool or disk, of epoch {}", other.epoch)
            }
            Ok(other) if other.epoch > label.epoch => format!(
                "epoch {}, newer than the pool's {}: that label was never written to enough copies",
                other.epoch, label.epoch
            ),
            Ok(other) if other.epoch < label.epoch => {
                format!("epoch {}, older than the pool's {}", other.epoch, label.epoch)
            }
            Ok(other) => format!("another label of epoch {}", other.epoch),
        })
    }

    fn no_quorum(&self, path: &Arc<str>) -> PoolError {
        let path = Arc::clone(path);
        let texts = self.0.iter().enumerate().map(|(copy, found)| match found {
            Ok(label) => format!("copy {copy}: a label of epoch {}", label.epoch),
            Err(error) => format!("copy {copy}: {error}"),
        });
        let reason = texts.collect::<Vec<_>>().join("; ");
        let reason = format!("no {OPEN_QUORUM} copies of its label agree on one: {reason}");
        if self.0.iter().all(|copy| matches!(copy, Err(CopyFault::Absent))) {
            return PoolError::NoPool { path, reason: "it has no label".into() };
        }
        PoolError::Unusable { path, reason }
    }
}

// Copies of a label that held, and of an older one, are never both enough without the newer one's
// being seen: an older label with a quorum to open leaves the newer one less than one to hold.
const _: () = assert!(WRITE_QUORUM <= LABEL_COPIES && WRITE_QUORUM + OPEN_QUORUM > LABEL_COPIES);

#[cfg(test)]
mod tests;
