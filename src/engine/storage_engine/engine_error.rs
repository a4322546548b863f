//! Why a pool was not made, not opened, or not closed cleanly.

use std::path::PathBuf;

use crate::engine::config::ConfigError;
use crate::engine::error::{CloseError, OpenError};
use crate::format::layout::LayoutError;
use crate::machine::device::DeviceError;
use crate::machine::owner_socket::OwnerSocketError;
use crate::machine::topology::TopologyError;
use crate::machine::write_gate::WriteRefusal;
use crate::store::error::StoreError;
use crate::store::pool::PoolError;
use crate::store::recovery::RecoveryError;

/// A storage engine could not be made, opened or closed. What an operation of an open one answers
/// is a [`StoreError`].
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A field is right by itself, and a pool cannot be had with it.
    #[error("{field} = {value}: {reason}")]
    Unfit {
        /// Dotted name of the field.
        field: &'static str,
        /// Its value.
        value: String,
        /// Why not, and what can be done.
        reason: &'static str,
    },
    /// The disk may not be overwritten.
    #[error("{0}; {help}", help = .0.help())]
    Refused(#[from] WriteRefusal),
    /// The disk has no room for a pool of this kind.
    #[error("{}: {source}", path.display())]
    Layout {
        /// The disk.
        path: PathBuf,
        /// Why not.
        source: LayoutError,
    },
    /// The disk cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The machine's topology cannot be read.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Disks, memory or reactors could not be had.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(std::io::Error),
    /// The disk is no pool, or one that cannot be opened.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Domains that could not be recovered: each with its reason. Nothing was opened.
    #[error("the pool cannot be opened: {}", join(.0))]
    Recovery(Vec<RecoveryError>),
    /// A disk is not taken into the pool, which goes on without it.
    #[error("{} cannot come to the pool: {reason}", path.display())]
    NotAttached {
        /// The disk.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The disks of a slot have grown, and the pool does not use that.
    #[error("slot {slot} does not grow: {reason}")]
    NotGrown {
        /// The slot.
        slot: u16,
        /// Why not.
        reason: String,
    },
    /// A slot does not leave the pool, or does not stay.
    #[error("slot {slot} is not removed, nor kept: {reason}")]
    NotRemoved {
        /// The slot.
        slot: u16,
        /// Why not.
        reason: String,
    },
    /// The control socket that the configuration names cannot be served. Another path, or `"off"`
    /// in `control.socket`, opens the pool.
    #[error("{0}; name another path in control.socket, or \"off\"")]
    Control(#[from] OwnerSocketError),
    /// A reactor ended while it was needed.
    #[error("a reactor failed: {0}")]
    Reactor(String),
    /// It is closed, and not all of it cleanly.
    #[error("the storage engine did not close cleanly: {0}")]
    NotClosed(Box<CloseReport>),
}

fn join<T: ToString>(parts: &[T]) -> String {
    parts.iter().map(T::to_string).collect::<Vec<_>>().join("; ")
}

/// How a storage engine closed.
#[derive(Clone, Debug, Default)]
pub struct CloseReport {
    /// Domains that could not make durable what they had, and why. None is missing that was
    /// acknowledged as committed.
    pub domains: Vec<(u16, StoreError)>,
    /// Domains that did not answer before the deadline.
    pub silent: Vec<u16>,
    /// Disks that did not answer, and reactors that failed.
    pub io: Option<CloseError>,
}

impl CloseReport {
    /// Whether everything was made durable, and everything let go.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.domains.is_empty() && self.silent.is_empty() && self.io.is_none()
    }
}

impl std::fmt::Display for CloseReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let failed = self.domains.iter().map(|(domain, error)| format!("domain {domain}: {error}"));
        let silent = self.silent.iter().map(|domain| format!("domain {domain} did not answer"));
        let io = self.io.iter().map(CloseError::to_string);
        f.write_str(&failed.chain(silent).chain(io).collect::<Vec<_>>().join("; "))
    }
}
