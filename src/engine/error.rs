//! Why the engine did not open, did not take a request, or did not close cleanly.

use crate::engine::config::ConfigError;
use crate::io::op::{InvalidRequest, Request};
use crate::machine::device::DeviceError;
use crate::machine::mapping::MappingError;
use crate::machine::topology::TopologyError;
use crate::machine::uring::RingError;
use crate::placement::PlacementError;
use crate::reactor::drain::StuckDisk;
use crate::scheduler::limits::LimitsError;

/// The engine did not open. Nothing is held any more.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A scheduling limit does not fit the device.
    #[error("{path}: {source}")]
    Limits {
        /// The disk.
        path: String,
        /// The value.
        source: LimitsError,
    },
    /// A disk cannot be opened.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The machine's topology cannot be read.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Reactors or lanes cannot be placed as asked.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// No memory for buffers.
    #[error(transparent)]
    Memory(#[from] MappingError),
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// Polling was demanded and cannot be had.
    #[error(
        "{path} cannot be polled: {reason}; load the nvme module with poll_queues=N, or set polled \
         to auto or off"
    )]
    NotPollable {
        /// The disk.
        path: String,
        /// Why.
        reason: String,
    },
    /// A disk is to be in memory, and cannot be.
    #[error(
        "{path} cannot be in memory: {source}; it takes a file on tmpfs with memory for all of it; \
         or leave out in_memory"
    )]
    NotInMemory {
        /// The disk.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Every place for a disk that comes while the engine runs has been taken.
    #[error(
        "{path} has no place: the {places} for disks that come while the engine runs are taken; \
         open it anew, with a higher pool.vacant_places"
    )]
    NoPlace {
        /// The disk.
        path: String,
        /// How many places there are.
        places: usize,
    },
    /// Something else that the system refused.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// A request was not taken. It comes back.
#[derive(Debug)]
pub enum SubmitError {
    /// The class's watermark is reached: wait, shed, or use [`crate::IoScheduler::submit_wait`].
    QueueFull(Request),
    /// It cannot be sent at all.
    Invalid(Request, InvalidRequest),
    /// The engine is closing.
    ShuttingDown(Request),
    /// The disk's reactor has failed; reopen the engine.
    Poisoned(Request),
    /// Waiting for room on a reactor's own thread would never end.
    WaitOnReactor(Request),
}

impl SubmitError {
    /// The request.
    pub fn into_request(self) -> Request {
        match self {
            SubmitError::QueueFull(request)
            | SubmitError::Invalid(request, _)
            | SubmitError::ShuttingDown(request)
            | SubmitError::Poisoned(request)
            | SubmitError::WaitOnReactor(request) => request,
        }
    }
}

impl std::fmt::Display for SubmitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SubmitError::QueueFull(request) => {
                write!(f, "the queue is full for class {}", request.priority.name())
            }
            SubmitError::Invalid(_, why) => why.fmt(f),
            SubmitError::ShuttingDown(_) => f.write_str("the engine is closing"),
            SubmitError::Poisoned(_) => {
                f.write_str("the disk's reactor has failed; close and reopen the engine")
            }
            SubmitError::WaitOnReactor(_) => {
                f.write_str("waiting for room on a reactor's own thread would never end")
            }
        }
    }
}

impl std::error::Error for SubmitError {}

/// The engine closed, but not cleanly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseError {
    /// Disks that did not answer before the deadline. The memory of their operations is leaked on
    /// purpose: they may still write to it.
    pub stuck: Vec<StuckDisk>,
    /// Reactors that failed, and why.
    pub failed: Vec<String>,
}

impl std::fmt::Display for CloseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        for disk in &self.stuck {
            let (path, operations) = (&disk.path, disk.operations);
            let seconds = disk.oldest_ns as f64 / 1e9;
            parts.push(format!(
                "{path} has not answered {operations} operations, the oldest for {seconds:.1} s"
            ));
        }
        parts.extend(self.failed.iter().cloned());
        write!(f, "the engine did not close cleanly: {}", parts.join("; "))
    }
}

impl std::error::Error for CloseError {}
