//! The pool of a run: its configuration, made if that was asked, opened, closed; with the harness's
//! words for what can go wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dynamicfs::engine::config::DiskAccess;
use dynamicfs::machine::write_gate::WriteRefusal;
use dynamicfs::{
    DiskConfig, EngineConfig, EngineError, Fill, FormatOptions, OpenError, Overwrite,
    StorageEngine, StoreError,
};

use crate::args::FormatFill;
use crate::failure::Failure;
use crate::session;

/// How long the pool may take to close: it writes a checkpoint.
const CLOSE_DEADLINE: Duration = Duration::from_secs(60);

/// The configuration of a file, or the defaults, for disks, where some are named.
///
/// # Errors
/// [`Failure::Usage`] when the file cannot be used, or names no disk and nothing else does.
pub fn configuration(file: Option<&Path>, disks: &[PathBuf]) -> Result<EngineConfig, Failure> {
    let mut config = match file {
        Some(file) => EngineConfig::from_file(file).map_err(|error| Failure::Usage {
            message: error.to_string(),
            help: "correct the file given with --pool".into(),
        })?,
        None => EngineConfig::default(),
    };
    if !disks.is_empty() {
        let named = |path: &PathBuf| {
            let known = config.io.disks.iter().find(|known| known.path == *path).cloned();
            let fresh = || DiskConfig { path: path.clone(), ..DiskConfig::default() };
            DiskConfig { access: DiskAccess::ReadWrite, ..known.unwrap_or_else(fresh) }
        };
        config.io.disks = disks.iter().map(named).collect();
    }
    let file = file.map_or_else(String::new, |file| file.display().to_string());
    if config.io.disks.iter().any(|disk| disk.nop_bytes.is_some()) {
        let reason = "its disk has nop_bytes, and a NOP disk keeps nothing of a pool";
        let help = "name a disk; --target=nop measures the raw engine without one";
        return Err(Failure::usage("pool", &file, reason, help));
    }
    if config.io.disks.is_empty() {
        let help = "add --filename=/dev/nvme0n1";
        return Err(Failure::usage("pool", &file, "names no disk", help));
    }
    Ok(config)
}

/// The disks of a configuration.
#[must_use]
pub fn disks(config: &EngineConfig) -> Vec<PathBuf> {
    config.io.disks.iter().map(|disk| disk.path.clone()).collect()
}

/// What may be overwritten, and how.
#[derive(Debug, Clone, Copy)]
pub struct Consent<'a> {
    /// Disks that the user named.
    pub destroy: &'a [PathBuf],
    /// Also where something was found.
    pub force: bool,
}

impl Consent<'_> {
    /// Whether the disks of this configuration are among them.
    ///
    /// # Errors
    /// [`Failure::Usage`] when one is not.
    pub fn covers(&self, config: &EngineConfig) -> Result<(), Failure> {
        let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let named =
            |path: &PathBuf| self.destroy.iter().any(|named| canonical(named) == canonical(path));
        let disks = disks(config);
        let is_other =
            |named: &&PathBuf| !disks.iter().any(|path| canonical(named) == canonical(path));
        let missing = disks.iter().find(|path| !named(path));
        let help = missing.map_or_else(
            || "leave it out".to_owned(),
            |path| format!("if that is meant, add --destroy={}", path.display()),
        );
        match (self.destroy.iter().find(is_other), missing) {
            (Some(other), _) => {
                let (other, reason) = (other.display().to_string(), "is not a disk of the pool");
                Err(Failure::usage("destroy", &other, reason, &help))
            }
            (None, Some(path)) => {
                let reason = format!("does not name {}, a disk of the pool", path.display());
                Err(Failure::usage("destroy", "", &reason, &help))
            }
            (None, None) => Ok(()),
        }
    }
}

/// Makes a new pool, after the write gate's consent.
///
/// # Errors
/// [`Failure`], by what was wrong.
pub fn format(
    config: &EngineConfig,
    fill: FormatFill,
    consent: Consent<'_>,
) -> Result<(), Failure> {
    session::clear_for_writing(&disks(config), consent.destroy, consent.force)?;
    make(config, fill, if consent.force { Overwrite::Yes } else { Overwrite::No })
}

/// Makes a new pool on a disk whose content was given up before.
///
/// # Errors
/// [`Failure`], by what was wrong.
pub fn make(config: &EngineConfig, fill: FormatFill, overwrite: Overwrite) -> Result<(), Failure> {
    let fill = match fill {
        FormatFill::Fill => Fill::Whole,
        FormatFill::Quick => Fill::Skip,
    };
    let options = FormatOptions { overwrite, fill, create_bytes: None };
    StorageEngine::format(config, options).map(drop).map_err(|error| failure(&error))
}

/// Opens the pool.
///
/// # Errors
/// [`Failure`], by what was wrong.
pub fn open(config: EngineConfig) -> Result<StorageEngine, Failure> {
    StorageEngine::open(config).map_err(|error| failure(&error))
}

/// Closes the pool.
///
/// # Errors
/// [`Failure::Runtime`] with what could not be made durable.
pub fn close(engine: &StorageEngine) -> Result<(), Failure> {
    engine.close(CLOSE_DEADLINE).map(drop).map_err(|error| failure(&error))
}

fn failure(error: &EngineError) -> Failure {
    let message = error.to_string();
    match error {
        EngineError::Device(device) | EngineError::Open(OpenError::Device(device)) => {
            session::device_failure(device)
        }
        EngineError::Refused(refusal) => {
            let (message, help) = (refusal.to_string(), refusal.help());
            match refusal {
                WriteRefusal::Missing { .. } | WriteRefusal::NotADisk { .. } => {
                    Failure::Device { message, help }
                }
                _ => Failure::Refused { message, help },
            }
        }
        EngineError::Pool(_) => Failure::Device {
            message,
            help: "make a pool with --format, which destroys what is there".into(),
        },
        EngineError::Config(_) | EngineError::Unfit { .. } | EngineError::Layout { .. } => {
            Failure::Usage { message, help: "see --pool and `configs/default.toml`".into() }
        }
        EngineError::Open(
            OpenError::Config(_)
            | OpenError::Limits { .. }
            | OpenError::Placement(_)
            | OpenError::NotPollable { .. },
        ) => Failure::Usage { message, help: "see `dynamicfs plan`".into() },
        _ => Failure::Runtime {
            message,
            help: "the message says what is missing; see also `dmesg`".into(),
        },
    }
}

/// A request that the run cannot do without has failed.
#[must_use]
pub fn request_failure(doing: &str, error: &StoreError) -> Failure {
    Failure::Runtime {
        message: format!("{doing}: {error}"),
        help: "use a smaller --size, or a larger pool".into(),
    }
}
