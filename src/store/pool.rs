//! A pool: making it, finding out what a disk is, and whether disks make a whole pool.

use std::sync::Arc;

use crate::format::label::{LABEL_BYTES, Label, LabelError, OPEN_QUORUM, WRITE_QUORUM};
use crate::format::layout::{BLOCK_BYTES, LABEL_COPIES, Layout, Zone, label_offsets};
use crate::format::page::Child;
use crate::format::record::{
    Body, CheckpointBody, JournalId, Lifetime, RecordHead, RecordKind, encode, record_bytes,
};
use crate::io::error::IoError;
use crate::io::op::{DiskId, Request};
use crate::memory::{Arena, DmaBuf};
use crate::store::member::Members;
use crate::store::port::Port;

/// What a new pool is to be.
#[derive(Clone, Debug)]
pub struct PoolPlan {
    /// Id of the pool.
    pub pool: [u8; 16],
    /// Its disks, by slot: 1 at least, with as many domains and journals of one size.
    pub disks: Vec<DiskPlan>,
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
    for domain in 0..plan.disks[0].layout.domains() {
        let home = Members::home_of(domain, plan.disks.len());
        let planned = &plan.disks[usize::from(home)];
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
    let members = plan.disks.len() as u16;
    for (slot, planned) in (0..).zip(&plan.disks) {
        let (pool, disk, layout) = (plan.pool, planned.id, planned.layout);
        let label = Label { pool, disk, slot, members, epoch: 1, layout };
        for (copy, offset) in label_offsets(layout.disk_bytes()).into_iter().enumerate() {
            disk_of(planned).write_label(copy, offset, Some(&label), planned.sector).await?;
        }
    }
    Ok(())
}

/// Most missing disks that are named one by one.
const MISSING_NAMED: usize = 16;

/// Of the pool that most of the disks are of, the first of several, the newest label.
fn newest(disks: &[(Arc<str>, Label)]) -> Option<&Label> {
    let of = |pool: &[u8; 16]| disks.iter().filter(|(_, label)| label.pool == *pool).count();
    let most = disks.iter().map(|(_, label)| of(&label.pool)).max()?;
    let (_, first) = disks.iter().find(|(_, label)| of(&label.pool) == most)?;
    let own = disks.iter().map(|(_, label)| label).filter(|label| label.pool == first.pool);
    own.max_by_key(|label| label.epoch)
}

/// Judges whether disks, named by their paths, are one whole pool; gives, by slot, which of them
/// each is.
///
/// # Errors
/// [`PoolError::Incomplete`] with a reason for each disk that is missing, foreign, stale, or there
/// twice.
pub(crate) fn assemble(disks: &[(Arc<str>, Label)]) -> Result<Vec<usize>, PoolError> {
    let Some(newest) = newest(disks) else {
        return Err(PoolError::Incomplete(vec!["no disk is named".to_owned()]));
    };
    let (pool, text) = (newest.pool, |bytes: [u8; 16]| uuid::Uuid::from_bytes(bytes));
    let mut wrong = Vec::new();
    let mut slots: Vec<Option<usize>> = vec![None; usize::from(newest.members)];
    for (number, (path, label)) in disks.iter().enumerate() {
        let same = label.layout.domains() == newest.layout.domains()
            && label.layout.journal_bytes() == newest.layout.journal_bytes()
            && label.members == newest.members;
        if label.pool != pool {
            wrong.push(format!("{path} is of pool {}, not {}", text(label.pool), text(pool)));
        } else if label.epoch != newest.epoch {
            let (old, new) = (label.epoch, newest.epoch);
            wrong.push(format!("{path} is stale: of epoch {old}, and the pool is at {new}"));
        } else if !same {
            wrong.push(format!("{path} says another geometry of the pool than the others"));
        } else {
            match slots.get_mut(usize::from(label.slot)) {
                None => {
                    let (slot, count) = (label.slot, newest.members);
                    wrong.push(format!("{path} says it is disk {slot} of {count}"));
                }
                Some(Some(other)) => {
                    let (other, slot) = (&disks[*other].0, label.slot);
                    wrong.push(format!("{path} and {other} both say they are disk {slot}"));
                }
                Some(place) => *place = Some(number),
            }
        }
    }
    let missing = || slots.iter().enumerate().filter(|(_, found)| found.is_none());
    for (slot, _) in missing().take(MISSING_NAMED) {
        wrong.push(format!("disk {slot} of {} is missing", newest.members));
    }
    if let Some(more) = missing().count().checked_sub(MISSING_NAMED).filter(|more| *more > 0) {
        wrong.push(format!("{more} more are missing"));
    }
    if wrong.is_empty() {
        Ok(slots.into_iter().flatten().collect())
    } else {
        Err(PoolError::Incomplete(wrong))
    }
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
