//! Putting a new disk in the place of one that is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::config::{DiskAccess, DiskConfig};
use crate::engine::engine_config::{EngineConfig, ReadOnly};
use crate::engine::storage_engine::format::{cleared, on_one_reactor, the_disks};
use crate::engine::storage_engine::labels::{self, PoolReport, look_and_judge};
use crate::engine::storage_engine::{EngineError, Overwrite, StorageEngine};
use crate::format::label::Label;
use crate::machine::random;
use crate::store::assembly::{Assembly, Missing};
use crate::store::errand::LocalFuture;
use crate::store::pool::{PoolError, adopt};

/// How long the disks may take to end what is under way.
const CLOSE_DEADLINE: Duration = Duration::from_secs(30);

/// A place for a disk in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskPlace {
    /// Its slot.
    pub slot: u16,
    /// Its number among the disks of the slot.
    pub mirror: u16,
}

pub(super) fn replace(
    config: &EngineConfig,
    place: DiskPlace,
    with: &Path,
    overwrite: Overwrite,
) -> Result<PoolReport, EngineError> {
    if config.pool.read_only == ReadOnly::Yes {
        let (field, value) = ("pool.read_only", "true".to_owned());
        let reason = "a disk is replaced by writing; leave it out";
        return Err(EngineError::Unfit { field, value, reason });
    }
    let paths = the_disks(config)?;
    // Looked at first: a pool is not opened for what cannot be done.
    let disk_bytes = cleared(with, overwrite)?;
    fitting(&of_slot(&paths, place)?, place, (with, disk_bytes))?;
    StorageEngine::open(config.clone())?.close(CLOSE_DEADLINE)?;
    let mut label = of_slot(&paths, place)?;
    label.mirror.number = place.mirror;
    if label.is_in_sync(label.number()) {
        let DiskPlace { slot, mirror } = place;
        let reason = format!("the disk that is mirror {mirror} of slot {slot} has everything");
        return Err(PoolError::Unusable { path: path_of(with), reason }.into());
    }
    label.disk = new_disk_id()?;
    let mut alone = config.clone();
    alone.io.disks = vec![DiskConfig {
        path: with.to_path_buf(),
        access: DiskAccess::ReadWrite,
        ..DiskConfig::default()
    }];
    let work = move |port: std::rc::Rc<_>, arena: Arc<_>, sectors: Vec<usize>| -> LocalFuture<_> {
        let disk = (crate::io::op::DiskId(0), sectors[0]);
        Box::pin(async move { adopt(&port, &arena, disk, &label).await })
    };
    on_one_reactor(&alone, work)??;
    let mut all = paths;
    all.push(with.to_path_buf());
    labels::inspect_all(&all)
}

/// An id that no other disk has.
pub(super) fn new_disk_id() -> Result<[u8; 16], EngineError> {
    let id = random::bytes::<16>().map_err(EngineError::Random)?;
    Ok(*uuid::Builder::from_random_bytes(id).into_uuid().as_bytes())
}

pub(super) fn path_of(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

/// What a label of a disk in that slot says now; of another slot, where there is no such one.
fn of_slot(paths: &[PathBuf], place: DiskPlace) -> Result<Label, EngineError> {
    let judged = look_and_judge(paths, Missing::Refuse)?;
    let mut good = judged.disks.iter().filter(|disk| disk.in_sync).map(|disk| disk.label);
    let label = good.find(|label| label.slot == place.slot);
    let Assembly { label: newest, .. } = judged.assembly;
    // The layout is the slot's; all else is what the newest one says.
    let layout = label.unwrap_or(newest).layout;
    let slot = label.map_or(newest.slot, |label| label.slot);
    Ok(Label { layout, slot, ..newest })
}

/// Refuses a place that there is not, and a disk that is too small for it.
fn fitting(
    label: &Label,
    place: DiskPlace,
    (path, disk_bytes): (&Path, u64),
) -> Result<(), EngineError> {
    let refused = |reason| Err(PoolError::Unusable { path: path_of(path), reason }.into());
    let DiskPlace { slot, mirror } = place;
    if label.mirror.count == 1 {
        let reason = "nothing else has what the other disk had: the pool has no mirrors";
        return refused(reason.to_owned());
    }
    if slot != label.slot || mirror >= label.mirror.count {
        let (slots, mirrors) = (label.slots, label.mirror.count);
        return refused(format!("the pool has {slots} slots with {mirrors} mirrors each"));
    }
    let needed = label.layout.disk_bytes();
    if disk_bytes < needed {
        return refused(format!("it has {disk_bytes} bytes, and the others of its slot {needed}"));
    }
    Ok(())
}
