//! Reaching an engine that runs, by its control socket.

use std::io::ErrorKind;
use std::path::PathBuf;

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
pub(crate) struct Live(ControlClient);

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
        match ControlClient::connect(path) {
            Ok(client) => Ok(Some(Live(client))),
            // One that was named has to be there.
            Err(ControlError::NoEngine { reason, .. })
                if self.socket.is_none() && is_nobody(reason.kind()) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
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

fn is_nobody(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

impl Live {
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        Ok(self.0.ask(request)?)
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
