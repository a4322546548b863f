//! Errors of the library as messages, help lines and exit codes.

use std::process::ExitCode;

use dynamicfs::engine::error::OpenError;
use dynamicfs::engine::storage_engine::EngineError;
use dynamicfs::machine::device::{DeviceError, DeviceErrorClass};
use dynamicfs::machine::owner_socket::OwnerSocketError;
use dynamicfs::machine::topology::TopologyError;
use dynamicfs::machine::write_gate::WriteRefusal;
use dynamicfs::placement::PlacementError;
use dynamicfs::store::error::StoreError;
use dynamicfs::store::pool::PoolError;
use dynamicfs::store::recovery::RecoveryError;

/// The documented exit codes. See `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All went well.
    Success = 0,
    /// Something else went wrong.
    Runtime = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// Missing, not accessible, or unfit.
    Device = 3,
    /// In use, or protected.
    Refused = 4,
    /// The device failed.
    Io = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error on its way to the user.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: String) -> Self {
        Failure { exit, message, help: None }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        let exit = match error.class() {
            DeviceErrorClass::Unfit => Exit::Device,
            DeviceErrorClass::Busy => Exit::Refused,
            DeviceErrorClass::Io => Exit::Io,
        };
        Failure { exit, message: error.to_string(), help: error.help() }
    }
}

impl From<TopologyError> for Failure {
    fn from(error: TopologyError) -> Self {
        let exit = match error {
            TopologyError::Read { .. } | TopologyError::Invalid { .. } => Exit::Usage,
            TopologyError::Detect { .. }
            | TopologyError::Affinity { .. }
            | TopologyError::NoCpus { .. } => Exit::Runtime,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<PlacementError> for Failure {
    fn from(error: PlacementError) -> Self {
        let exit = match error {
            PlacementError::NoCpus => Exit::Runtime,
            _ => Exit::Usage,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<WriteRefusal> for Failure {
    fn from(refusal: WriteRefusal) -> Self {
        let exit = match refusal {
            WriteRefusal::Missing { .. }
            | WriteRefusal::NotADisk { .. }
            | WriteRefusal::ProberMissing { .. }
            | WriteRefusal::Unknown { .. } => Exit::Device,
            WriteRefusal::NotNamed { .. }
            | WriteRefusal::NamesAnother { .. }
            | WriteRefusal::InUse { .. }
            | WriteRefusal::HoldsData { .. } => Exit::Refused,
        };
        Failure { exit, message: refusal.to_string(), help: Some(refusal.help()) }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        let undecidable =
            |error: &RecoveryError| matches!(error, RecoveryError::Undecidable { .. });
        if let EngineError::Recovery(errors) = &error
            && errors.iter().any(undecidable)
        {
            let help = "try the disk again; `ls` and `get` show what is there without that record, \
                        and `recover --give-up-undecidable` drops it for good";
            return Failure { exit: Exit::Io, message, help: Some(help.to_owned()) };
        }
        let exit = match error {
            EngineError::Device(error) | EngineError::Open(OpenError::Device(error)) => {
                return error.into();
            }
            EngineError::Refused(refusal) => return refusal.into(),
            EngineError::Topology(error) => return error.into(),
            EngineError::Config(_) | EngineError::Unfit { .. } => Exit::Usage,
            EngineError::Layout { .. }
            | EngineError::NotAttached { .. }
            | EngineError::Pool(
                PoolError::NoPool { .. } | PoolError::Unusable { .. } | PoolError::Incomplete(_),
            ) => Exit::Device,
            EngineError::Pool(PoolError::Io(_) | PoolError::Labels(_))
            | EngineError::Recovery(_)
            | EngineError::NotClosed(_) => Exit::Io,
            EngineError::Control(OwnerSocketError::Served(_)) => Exit::Refused,
            EngineError::Control(_)
            | EngineError::Open(_)
            | EngineError::Random(_)
            | EngineError::Pool(PoolError::NoMemory(_))
            | EngineError::NotGrown { .. }
            | EngineError::NotRemoved { .. }
            | EngineError::Reactor(_) => Exit::Runtime,
        };
        Failure::new(exit, message)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match error {
            StoreError::Corrupt { .. }
            | StoreError::Unreadable { .. }
            | StoreError::Write { .. }
            | StoreError::CommitFailed { .. }
            | StoreError::ReadOnly { .. } => Exit::Io,
            _ => Exit::Runtime,
        };
        Failure::new(exit, error.to_string())
    }
}
