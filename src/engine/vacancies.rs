//! Places for disks that come while the engine runs.
//!
//! A lane is made when its reactor starts, so each such place has its lanes from the beginning, to
//! no disk. One that comes is opened as those of the configuration are, and every reactor that has
//! a lane there puts its descriptor where none was. What drives it then knows it by its
//! [`DiskId`]; requests of other threads do not reach it.

use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::config::{DiskConfig, IoConfig};
use crate::engine::error::OpenError;
use crate::engine::io_scheduler::IoScheduler;
use crate::engine::open::{limits_of, open_disk};
use crate::engine::status::DiskStatus;
use crate::io::backend::DiskFacts;
use crate::io::op::DiskId;
use crate::machine::device::{DeviceError, DeviceInfo};
use crate::reactor::shared::Control;

/// How long a reactor may take to begin driving a disk, or to let go of it.
const OBEY_TIME: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Vacancies {
    config: IoConfig,
    /// Disks of the configuration: the places come after them.
    configured: usize,
    places: usize,
    /// Disks that came, in the first of the places.
    attached: Mutex<Vec<DiskStatus>>,
}

impl Vacancies {
    pub(super) fn new(config: &IoConfig, places: u16) -> Vacancies {
        Vacancies {
            config: config.clone(),
            configured: config.disks.len(),
            places: places.into(),
            attached: Mutex::default(),
        }
    }

    pub(super) fn configured(&self) -> usize {
        self.configured
    }

    pub(super) fn attached(&self) -> Vec<DiskStatus> {
        self.with(|attached| attached.clone())
    }

    /// For a moment: whoever looks at the engine waits for it.
    fn with<T>(&self, of: impl FnOnce(&mut Vec<DiskStatus>) -> T) -> T {
        of(&mut self.attached.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl IoScheduler {
    /// Opens a disk and drives it from every reactor that has a lane there. It is not reached
    /// through [`IoScheduler::submit`]. One caller at a time.
    ///
    /// # Errors
    /// It cannot be opened, no place is left, or a reactor cannot drive it.
    pub(crate) fn attach(&self, disk: &DiskConfig) -> Result<DiskFacts, OpenError> {
        let vacancies = &self.vacancies;
        let taken = vacancies.with(|attached| attached.len());
        if taken == vacancies.places {
            let places = vacancies.places;
            return Err(OpenError::NoPlace { path: disk.path.display().to_string(), places });
        }
        let number = vacancies.configured + taken;
        let config = &vacancies.config;
        let disk = DiskConfig { in_memory: config.disks[0].in_memory, ..disk.clone() };
        let (device, facts) = open_disk(DiskId(number as u16), &disk)?;
        let lanes = config.disks[0].lanes;
        // The device may take less than the place was made for, and reactors have memory for that.
        let limits = limits_of(config, &config.scheduler, &facts, lanes)?;
        let action = "duplicate a disk's descriptor";
        let file = device.as_fd().try_clone_to_owned();
        let file = Arc::new(file.map_err(|source| OpenError::System { action, source })?);
        let driven = self.order_all(facts.id, |done| {
            let (facts, limits, file) =
                (Box::new(facts.clone()), limits.clone(), Arc::clone(&file));
            Control::Attach { facts, limits, file, done }
        });
        if let Err(source) = driven {
            self.detach(facts.id);
            return Err(OpenError::System { action: "drive a disk that came", source });
        }
        let info = device.info().clone();
        let status = DiskStatus { facts: facts.clone(), device: Some(info), limits };
        vacancies.with(|attached| attached.push(status));
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Closed meanwhile it is let go at once.
        if let Some(place) = held.get_mut(number) {
            *place = Some(device);
        }
        Ok(facts)
    }

    /// The device of a disk that came, as it was probed.
    pub(crate) fn attached_info(&self, disk: DiskId) -> Option<DeviceInfo> {
        let attached = self.vacancies.attached();
        attached.into_iter().find(|status| status.facts.id == disk)?.device
    }

    /// How many whole blocks of bytes a disk has now: a device may have been resized.
    ///
    /// # Errors
    /// The device is gone.
    pub(crate) fn measure(&self, disk: DiskId) -> Result<u64, DeviceError> {
        let configured = self.gate.disks.get(usize::from(disk.0)).cloned();
        let attached = self.vacancies.attached().into_iter().map(|status| status.facts);
        let mut facts = attached.chain(configured);
        // It was mapped as it was.
        if let Some(mapped) = facts.find(|facts| facts.id == disk && facts.memory.is_some()) {
            return Ok(mapped.size_bytes);
        }
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Some(device)) = held.get(usize::from(disk.0)) else { return Ok(0) };
        let block = u64::from(device.info().logical_block_bytes).max(1);
        Ok(device.current_size()? / block * block)
    }

    /// Requests of local tasks may go to so many bytes of a disk from here on.
    ///
    /// # Errors
    /// A reactor does not obey.
    pub(crate) fn resize(&self, disk: DiskId, size_bytes: u64) -> io::Result<()> {
        self.order_all(disk, |done| Control::Resize { disk, size_bytes, done })
    }

    /// Lets go of a disk that failed, so that others may have it, or it may come back. What it has
    /// not answered keeps it open.
    pub(crate) fn detach(&self, disk: DiskId) {
        // A reactor that does not obey keeps it until the close.
        let _ = self.order_all(disk, |done| Control::Detach { disk, done });
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // The devices stand in the order of the disks' numbers, and places that are vacant in it.
        if let Some(device) = held.get_mut(usize::from(disk.0)) {
            *device = None;
        }
    }

    /// Gives the place back of the disk that came last, which is not used after all.
    pub(crate) fn send_away(&self, disk: DiskId) {
        self.detach(disk);
        self.vacancies.with(|attached| {
            if attached.last().is_some_and(|last| last.facts.id == disk) {
                attached.pop();
            }
        });
    }

    /// Gives an order to every reactor that has a lane there, and waits until all have obeyed.
    fn order_all(
        &self,
        disk: DiskId,
        order: impl Fn(Box<dyn FnOnce(io::Result<()>) + Send>) -> Control,
    ) -> io::Result<()> {
        let (told, answers) = channel();
        let reactors = self.reactors_of(disk);
        for reactor in &reactors {
            let told = told.clone();
            // The receiver is gone when nobody waits for it any more.
            let done = Box::new(move |outcome| drop(told.send(outcome)));
            self.reactors[*reactor].shared.order(order(done));
        }
        drop(told);
        let mut all = Ok(());
        for _ in &reactors {
            match answers.recv_timeout(OBEY_TIME) {
                Ok(outcome) => all = all.and(outcome),
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
                Err(_) => return Err(io::Error::other("a reactor has ended")),
            }
        }
        all
    }
}
