//! Looking at a disk's labels without opening the pool.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use crate::engine::storage_engine::EngineError;
use crate::format::label::{LABEL_BYTES, Label};
use crate::format::layout::{BLOCK_BYTES, LABEL_COPIES, label_offsets};
use crate::machine::device::{DeviceError, probe};
use crate::store::pool::{CopyFault, LabelCopies, assemble, made_for};

/// Least bytes of a disk that has four copies at four places.
const DISK_BYTES_MIN: u64 = 4 << 20;

/// What a pool is, as its labels say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolReport {
    /// Id of the pool.
    pub pool: Uuid,
    /// Disks that it has.
    pub members: u16,
    /// Of its membership.
    pub epoch: u64,
    /// Commit domains.
    pub domains: u16,
    /// Bytes of each domain's journal.
    pub journal_bytes: u64,
    /// The disks that were looked at, by slot.
    pub disks: Vec<MemberReport>,
}

/// A disk of a pool, as its label says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberReport {
    /// The disk.
    pub path: PathBuf,
    /// Id of the disk.
    pub disk: Uuid,
    /// Its slot in the pool.
    pub slot: u16,
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
    pub(super) path: PathBuf,
    pub(super) name: Arc<str>,
    pub(super) label: Label,
    pub(super) copies: LabelCopies,
    /// See [`MemberReport::labels`].
    pub(super) described: Vec<String>,
}

impl Labelled {
    pub(super) fn new(
        path: &Path,
        copies: LabelCopies,
        disk_bytes: u64,
    ) -> Result<Labelled, EngineError> {
        let name: Arc<str> = path.to_string_lossy().into();
        let label = copies.verdict(&name, disk_bytes)?;
        let described = copies.describe(&label).to_vec();
        Ok(Labelled { path: path.to_path_buf(), name, label, copies, described })
    }

    fn report(&self) -> MemberReport {
        let layout = &self.label.layout;
        MemberReport {
            path: self.path.clone(),
            disk: Uuid::from_bytes(self.label.disk),
            slot: self.label.slot,
            disk_bytes: layout.disk_bytes(),
            group_bytes: layout.group_blocks() * BLOCK_BYTES,
            data_bytes: u64::from(layout.domains()) * layout.space_blocks() * BLOCK_BYTES,
            labels: self.described.clone(),
        }
    }
}

/// Disks of a pool, in the order of their slots: for each, which one of `disks` it is.
pub(super) fn by_slot(disks: &[Labelled]) -> Result<Vec<usize>, EngineError> {
    let labels: Vec<_> = disks.iter().map(|disk| (Arc::clone(&disk.name), disk.label)).collect();
    Ok(assemble(&labels)?)
}

impl PoolReport {
    /// Of disks of one pool, by slot.
    pub(super) fn of<'a>(disks: impl IntoIterator<Item = &'a Labelled>) -> Option<PoolReport> {
        let disks: Vec<&Labelled> = disks.into_iter().collect();
        let label = &disks.first()?.label;
        Some(PoolReport {
            pool: Uuid::from_bytes(label.pool),
            members: label.members,
            epoch: label.epoch,
            domains: label.layout.domains(),
            journal_bytes: label.layout.journal_bytes(),
            disks: disks.into_iter().map(Labelled::report).collect(),
        })
    }

    /// Bytes for data and metadata pages, of all domains on all these disks.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.data_bytes).sum()
    }
}

/// Looks at disks without the engine.
pub(super) fn look(paths: &[PathBuf]) -> Result<Vec<Labelled>, EngineError> {
    let look = |path: &PathBuf| {
        let (copies, disk_bytes) = peek(path)?;
        Labelled::new(path, copies, disk_bytes)
    };
    paths.iter().map(look).collect()
}

pub(super) fn inspect(path: &Path) -> Result<PoolReport, EngineError> {
    let disks = look(&[path.to_path_buf()])?;
    Ok(PoolReport::of(&disks).unwrap_or_else(|| unreachable!("there is one")))
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
    use crate::format::layout::Layout;
    use crate::machine::device::scratch::ScratchDir;
    use crate::machine::write_gate::{ForceSignatures, LABEL_MAGIC, WriteGate, WriteRefusal};

    /// The gate is below the format and has its own copy of where labels are and how they begin.
    #[test]
    fn the_write_gate_recognises_what_the_format_writes() {
        let disk_bytes = (64 << 20) + 4096 * 3 + 512;
        let layout = Layout::plan(disk_bytes, 1, 1 << 20).unwrap();
        let (pool, disk) = ([0xab; 16], [2; 16]);
        let label = Label { pool, disk, slot: 0, members: 1, epoch: 1, layout };
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
