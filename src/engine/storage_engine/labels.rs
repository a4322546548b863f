//! Looking at a disk's labels without opening the pool.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::error::OpenError;
use crate::engine::storage_engine::EngineError;
use crate::format::label::{LABEL_BYTES, Label};
use crate::format::layout::{BLOCK_BYTES, LABEL_COPIES, label_offsets};
use crate::machine::device::{DeviceError, probe};
use crate::store::assembly::{Assembly, Missing, assemble};
use crate::store::member::{MirrorDisk, MirrorState};
use crate::store::pool::{CopyFault, LabelCopies, PoolError, made_for};

/// How long a disk may take until its label is read, others beside it.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// Least bytes of a disk that has four copies at four places.
const DISK_BYTES_MIN: u64 = 4 << 20;

/// What a pool is, as its labels say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    /// Id of the pool.
    pub pool: Uuid,
    /// Disks that it has, of each slot all.
    pub members: u16,
    /// Disks of each slot that hold the same.
    pub mirrors: u16,
    /// Of its membership when it was looked at, or opened.
    pub epoch: u64,
    /// Commit domains.
    pub domains: u16,
    /// Bytes of each domain's journal.
    pub journal_bytes: u64,
    /// The disks that were looked at, by slot.
    pub disks: Vec<MemberReport>,
    /// Of each disk that is missing, or cannot be read, why.
    pub notes: Vec<String>,
}

/// A disk of a pool, as its label says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// The disk.
    pub path: PathBuf,
    /// Id of the disk.
    pub disk: Uuid,
    /// Its slot in the pool.
    pub slot: u16,
    /// Its number among the disks of the slot.
    pub mirror: u16,
    /// Whether it has everything, and may be read.
    pub in_sync: bool,
    /// Bytes of the disk that the pool was made for.
    pub disk_bytes: u64,
    /// Bytes of an allocation group.
    pub group_bytes: u64,
    /// Bytes for data and metadata pages, of all domains.
    pub data_bytes: u64,
    /// The four copies of the label: `whole`, or what was wrong with each when it was looked at,
    /// and what an opening for writing has done about it.
    pub labels: Vec<String>,
}

/// A disk and what its label copies say.
pub(super) struct Labelled {
    /// Which of the paths it is, as the engine numbers them.
    pub(super) number: u16,
    pub(super) path: PathBuf,
    pub(super) name: Arc<str>,
    pub(super) label: Label,
    pub(super) copies: LabelCopies,
    /// See [`MemberReport::labels`].
    pub(super) described: Vec<String>,
    /// As its own label says, until the disks were judged together.
    pub(super) in_sync: bool,
}

impl Labelled {
    pub(super) fn new(
        (number, path): (u16, &Path),
        copies: LabelCopies,
        disk_bytes: u64,
    ) -> Result<Labelled, EngineError> {
        let name: Arc<str> = path.to_string_lossy().into();
        let label = copies.verdict(&name, disk_bytes)?;
        let described = copies.describe(&label).to_vec();
        let in_sync = label.is_in_sync(label.number());
        Ok(Labelled { number, path: path.to_path_buf(), name, label, copies, described, in_sync })
    }

    fn report(&self) -> MemberReport {
        let layout = &self.label.layout;
        MemberReport {
            path: self.path.clone(),
            disk: Uuid::from_bytes(self.label.disk),
            slot: self.label.slot,
            mirror: self.label.mirror.number,
            in_sync: self.in_sync,
            disk_bytes: layout.disk_bytes(),
            group_bytes: layout.group_blocks() * BLOCK_BYTES,
            data_bytes: layout.data_blocks() * BLOCK_BYTES,
            labels: self.described.clone(),
        }
    }
}

impl MemberReport {
    /// Of a disk whose slot came while the pool was open.
    pub(super) fn that_came(mirror: &MirrorDisk) -> MemberReport {
        let (Label { disk, slot, .. }, layout) = (mirror.label, mirror.layout());
        MemberReport {
            path: PathBuf::from(&*mirror.path),
            disk: Uuid::from_bytes(disk),
            slot,
            mirror: mirror.label.mirror.number,
            in_sync: mirror.state() == MirrorState::InSync,
            disk_bytes: layout.disk_bytes(),
            group_bytes: layout.group_blocks() * BLOCK_BYTES,
            data_bytes: layout.data_blocks() * BLOCK_BYTES,
            labels: vec!["whole".to_owned(); LABEL_COPIES],
        }
    }
}

/// What disks are together.
fn judge(disks: &mut [Labelled], missing: Missing) -> Result<Assembly, EngineError> {
    let labels: Vec<_> = disks.iter().map(|disk| (Arc::clone(&disk.name), disk.label)).collect();
    let assembly = assemble(&labels, missing)?;
    disks.iter_mut().for_each(|disk| disk.in_sync = false);
    for (index, state) in &assembly.disks {
        disks[*index].in_sync = *state == MirrorState::InSync;
    }
    Ok(assembly)
}

impl PoolReport {
    /// Of the disks of a pool.
    pub(super) fn of(disks: &[Labelled], assembly: &Assembly) -> PoolReport {
        let used = assembly.disks.iter().map(|(index, _)| &disks[*index]);
        PoolReport::with(&assembly.label, used, assembly.notes.clone())
    }

    fn with<'a>(
        label: &Label,
        disks: impl Iterator<Item = &'a Labelled>,
        notes: Vec<String>,
    ) -> PoolReport {
        PoolReport {
            pool: Uuid::from_bytes(label.pool),
            members: label.disks_there() as u16,
            mirrors: label.mirror.count,
            epoch: label.epoch,
            domains: label.layout.domains(),
            journal_bytes: label.layout.journal_bytes(),
            disks: disks.map(Labelled::report).collect(),
            notes,
        }
    }

    /// Bytes for data and metadata pages, of all domains in the slots of these disks.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        let mut slots: Vec<(u16, u64)> =
            self.disks.iter().map(|disk| (disk.slot, disk.data_bytes)).collect();
        slots.dedup_by_key(|(slot, _)| *slot);
        slots.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Looks at a disk without the engine.
pub(super) fn look_at(number: u16, path: &Path) -> Result<Labelled, EngineError> {
    let (copies, disk_bytes) = peek(path)?;
    Labelled::new((number, path), copies, disk_bytes)
}

/// Disks that can be used, and what they are together.
pub(super) struct Judged {
    pub(super) disks: Vec<Labelled>,
    pub(super) assembly: Assembly,
}

/// Looks at disks, beside each other, and judges them without those that cannot be used, or do not
/// answer, if the pool can do without them.
pub(super) fn look_and_judge(paths: &[PathBuf], missing: Missing) -> Result<Judged, EngineError> {
    let by = Instant::now() + ANSWERS_WITHIN;
    let looking = (0..).zip(paths).map(|(number, path)| {
        let (told, found) = channel();
        let owned = path.clone();
        // One that hangs in the kernel is left there.
        let thread = std::thread::Builder::new().name("dynamicfs-label".to_owned());
        let spawned = thread.spawn(move || drop(told.send(look_at(number, &owned))));
        let why =
            |source| EngineError::from(OpenError::System { action: "start a thread", source });
        spawned.map(|_| found).map_err(why)
    });
    let looking: Vec<_> = looking.collect();
    let found = |number: u16, found| answer(&found, by, &paths[usize::from(number)])?;
    judge_each(missing, looking, found)
}

/// What was found out about a disk, unless that takes too long.
pub(super) fn answer<T>(found: &Receiver<T>, by: Instant, path: &Path) -> Result<T, EngineError> {
    let left = by.saturating_duration_since(Instant::now());
    found.recv_timeout(left).map_err(|error| match error {
        RecvTimeoutError::Timeout => {
            let seconds = ANSWERS_WITHIN.as_secs();
            let reason = format!("its label was not read within {seconds} seconds");
            PoolError::Unusable { path: path.to_string_lossy().into(), reason }.into()
        }
        RecvTimeoutError::Disconnected => {
            EngineError::Reactor("it ended while labels were looked at".to_owned())
        }
    })
}

/// Judges disks that are looked at: each of `looking` becomes what is known of one.
pub(super) fn judge_each<T>(
    missing: Missing,
    looking: Vec<Result<T, EngineError>>,
    found: impl Fn(u16, T) -> Result<Labelled, EngineError>,
) -> Result<Judged, EngineError> {
    let (mut disks, mut failed) = (Vec::new(), Vec::new());
    for (number, looking) in (0..).zip(looking) {
        match looking.and_then(|looking| found(number, looking)) {
            Ok(disk) => disks.push(disk),
            Err(error) => failed.push(error),
        }
    }
    let judged = judge(&mut disks, missing);
    let notes: Vec<String> = failed.iter().map(ToString::to_string).collect();
    match (judged, failed.into_iter().next()) {
        // What is wrong with a disk says more than that it is missing.
        (Err(_), Some(first)) => Err(first),
        (Err(error), None) => Err(error),
        (Ok(mut assembly), _) => {
            assembly.notes.extend(notes);
            Ok(Judged { disks, assembly })
        }
    }
}

pub(super) fn inspect(path: &Path) -> Result<PoolReport, EngineError> {
    let disk = look_at(0, path)?;
    Ok(PoolReport::with(&disk.label, std::iter::once(&disk), Vec::new()))
}

pub(super) fn inspect_all(paths: &[PathBuf]) -> Result<PoolReport, EngineError> {
    let Judged { disks, assembly } = look_and_judge(paths, Missing::Accept)?;
    Ok(PoolReport::of(&disks, &assembly))
}

/// Reads the copies through the page cache: they change only while nobody has a pool.
fn peek(path: &Path) -> Result<(LabelCopies, u64), EngineError> {
    let failed = |source| DeviceError::Io { path: path.to_path_buf(), doing: "read", source };
    let info = probe(path)?;
    let mut file = File::open(&info.resolved_path).map_err(|source| DeviceError::Io {
        path: path.to_path_buf(),
        doing: "open",
        source,
    })?;
    let block = u64::from(info.logical_block_bytes);
    let disk_bytes = file.seek(SeekFrom::End(0)).map_err(failed)? / block * block;
    let mut copies: [Result<Label, CopyFault>; LABEL_COPIES] =
        std::array::from_fn(|_| Err(CopyFault::Absent));
    if disk_bytes < DISK_BYTES_MIN {
        return Ok((LabelCopies(copies), disk_bytes));
    }
    for copy in 0..LABEL_COPIES {
        let made_for = made_for(&copies, disk_bytes);
        let mut bytes = [0; LABEL_BYTES];
        copies[copy] = match file.read_exact_at(&mut bytes, label_offsets(made_for)[copy]) {
            Ok(()) => LabelCopies::decode(copy, made_for, &bytes),
            Err(error) => Err(CopyFault::Unreadable(error.to_string())),
        };
    }
    Ok((LabelCopies(copies), disk_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::label::Mirror;
    use crate::format::layout::Layout;
    use crate::format::removals::Removals;
    use crate::machine::device::scratch::ScratchDir;
    use crate::machine::write_gate::{ForceSignatures, LABEL_MAGIC, WriteGate, WriteRefusal};

    #[test]
    fn a_disk_that_does_not_answer_is_named_and_not_waited_for() {
        let (told, found) = channel::<u8>();
        let silent = answer(&found, Instant::now(), Path::new("/dev/hangs")).unwrap_err();
        let text = silent.to_string();
        assert!(text.contains("/dev/hangs") && text.contains("within 30 seconds"), "{text}");
        // It is one of those that a pool may do without.
        let judged =
            judge_each(Missing::Accept, vec![Err::<(), _>(silent)], |_, ()| unreachable!());
        assert!(judged.is_err_and(|error| error.to_string().contains("/dev/hangs")));
        told.send(5).unwrap();
        assert_eq!(answer(&found, Instant::now(), Path::new("?")).unwrap(), 5);
        drop(told);
        assert!(answer(&found, Instant::now(), Path::new("?")).is_err());
    }

    /// The gate is below the format and has its own copy of where labels are and how they begin.
    #[test]
    fn the_write_gate_recognises_what_the_format_writes() {
        let disk_bytes = (64 << 20) + 4096 * 3 + 512;
        let layout = Layout::plan(disk_bytes, 1, 1 << 20).unwrap();
        let (pool, disk) = ([0xab; 16], [2; 16]);
        let mirror = Mirror::ALONE;
        let (slot, slots, home_slots, epoch) = (0, 1, 1, 1);
        let removals = Removals::NONE;
        let label = Label { pool, disk, slot, slots, home_slots, removals, mirror, epoch, layout };
        assert_eq!(label.encode(0)[..LABEL_MAGIC.len()], LABEL_MAGIC);
        let scratch = ScratchDir::new();
        for (copy, offset) in label_offsets(disk_bytes).into_iter().enumerate() {
            let path = scratch.file(&format!("disk-{copy}"), disk_bytes);
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(&label.encode(copy), offset).unwrap();
            match WriteGate::check(&path, Some(&path), ForceSignatures::No) {
                Err(WriteRefusal::HoldsData { found, .. }) => {
                    let named = "abababab-abab-abab-abab-abababababab";
                    assert!(found[0].kind.contains(named), "{found:?}");
                }
                Err(WriteRefusal::ProberMissing { .. }) => return,
                other => panic!("copy {copy}: {other:?}"),
            }
            let (copies, _) = peek(&path).unwrap();
            assert_eq!(copies.0[copy], Ok(label));
        }
    }
}
