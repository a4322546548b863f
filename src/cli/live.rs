//! Reaching an engine that runs, by its control socket.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use clap::Args;
use dynamicfs::engine::control::place::socket_of;
use dynamicfs::engine::control::{
    Answer, ControlClient, ControlError, RefusalKind, Request, Snapshot,
};
use dynamicfs::engine::engine_config::ControlSocket;
use dynamicfs::engine::storage_engine::StorageEngine;
use dynamicfs::store::scrub::ScrubReport;

use super::pool::PoolArguments;
use super::{Exit, Failure};

/// Where a running engine is reached.
#[derive(Debug, Args)]
pub(crate) struct LiveArguments {
    /// Socket of the engine that has the pool open; by default where --config or the pool's id say.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// A running engine.
pub(crate) struct Live {
    client: ControlClient,
    path: PathBuf,
}

impl LiveArguments {
    /// The engine that has the pool open; none when nobody serves its socket.
    pub(crate) fn connect(&self, pool: &PoolArguments) -> Result<Option<Live>, Failure> {
        let path = match &self.socket {
            Some(path) => Some(path.clone()),
            None => {
                let config = pool.engine_config()?;
                match &config.control.socket {
                    ControlSocket::At(path) => Some(path.clone()),
                    wanted => socket_of(StorageEngine::inspect(pool.path())?.pool, wanted),
                }
            }
        };
        let Some(path) = path else { return Ok(None) };
        let client = match ControlClient::connect(&path) {
            Ok(client) => client,
            // One that was named has to be there.
            Err(ControlError::NoEngine { reason, .. })
                if self.socket.is_none() && is_nobody(reason.kind()) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let mut live = Live { client, path };
        if live.has_open(pool.path())? {
            return Ok(Some(live));
        }
        let (wanted, at) = (pool.path().display(), live.path.display());
        match &self.socket {
            // By its id: a copy of a disk has that too.
            None => Ok(None),
            Some(_) => {
                let message = format!("the engine at {at} does not have {wanted} open");
                Err(Failure::new(Exit::Refused, message))
            }
        }
    }

    /// The engine that has the pool open, where nothing else will do.
    pub(crate) fn required(&self, pool: &PoolArguments) -> Result<Live, Failure> {
        self.connect(pool)?.ok_or_else(|| {
            let path = pool.path().display();
            let message = format!("no running engine that has {path} open was found");
            let help = "an engine is reached by its control socket: name it with --socket, or give \
                        the engine's own --config";
            Failure { exit: Exit::Runtime, message, help: Some(help.to_owned()) }
        })
    }
}

/// What a device or file is, under any name.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let there = std::fs::metadata(path).ok()?;
    match there.file_type().is_block_device() {
        true => Some((0, there.rdev())),
        false => Some((there.dev(), there.ino())),
    }
}

fn is_nobody(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

impl Live {
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        Ok(self.client.ask(request)?)
    }

    /// The same engine, connected to anew: it does not keep who is silent.
    pub(crate) fn again(self) -> Result<Live, Failure> {
        Ok(Live { client: ControlClient::connect(&self.path)?, path: self.path })
    }

    /// Whether one of its disks is this one, whatever path names it.
    fn has_open(&mut self, path: &Path) -> Result<bool, Failure> {
        let Some(wanted) = identity(path) else { return Ok(false) };
        let snapshot = self.status()?;
        let mut paths = snapshot.disks.iter().filter_map(|disk| disk.resolved_path.as_deref());
        Ok(paths.any(|path| identity(path) == Some(wanted)))
    }

    pub(crate) fn status(&mut self) -> Result<Snapshot, Failure> {
        match self.ask(&Request::Status)? {
            Answer::Status(snapshot) => Ok(*snapshot),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn scrub(&mut self, request: &Request) -> Result<Vec<ScrubReport>, Failure> {
        match self.ask(request)? {
            Answer::Scrub(reports) => Ok(reports),
            other => Err(unexpected(&other)),
        }
    }
}

pub(crate) fn unexpected(answer: &Answer) -> Failure {
    let message = format!("the engine answers another question: {answer:?}");
    Failure::new(Exit::Runtime, message)
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Failure {
        let exit = match &error {
            ControlError::NoEngine { reason, .. }
                if reason.kind() == ErrorKind::PermissionDenied =>
            {
                Exit::Refused
            }
            ControlError::Refused(refusal) if refusal.kind == RefusalKind::Busy => Exit::Refused,
            _ => Exit::Runtime,
        };
        Failure::new(exit, error.to_string())
    }
}
