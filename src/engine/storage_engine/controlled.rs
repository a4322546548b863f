//! What the control socket needs of an engine, and serving it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::engine::control::place::socket_of;
use crate::engine::control::server::ControlServer;
use crate::engine::control::snapshot::{DomainView, SyncView};
use crate::engine::engine_config::{ControlSocket, EngineConfig};
use crate::engine::storage_engine::engine_status::{scrubbed, statuses};
use crate::engine::storage_engine::store_ticket::StoreTicket;
use crate::engine::storage_engine::{EngineError, OpenPool, PoolReport, StorageEngine};
use crate::io::metrics::Metrics;
use crate::store::call::Call;
use crate::store::error::StoreError;
use crate::store::scrub::{ScrubOrder, ScrubReport};

impl StorageEngine {
    /// The same engine for somebody who does not own it.
    pub(crate) fn guest(open: Arc<OpenPool>) -> StorageEngine {
        StorageEngine { open, is_guest: true }
    }

    /// The control socket that it serves.
    #[must_use]
    pub fn control_socket(&self) -> Option<PathBuf> {
        self.open.with_control(|control| control.as_ref().map(ControlServer::path))
    }

    /// Serves the socket that the configuration names. The one that nobody named is done without
    /// where it cannot be had, and the status says why.
    pub(super) fn serve_control(&self, config: &EngineConfig) -> Result<(), EngineError> {
        let wanted = &config.control.socket;
        let Some(path) = socket_of(self.open.pool.pool, wanted) else { return Ok(()) };
        match (ControlServer::start(&self.open, &path), wanted) {
            (Ok(server), _) => self.open.with_control(|control| *control = Some(server)),
            (Err(error), ControlSocket::At(_)) => return Err(EngineError::Control(error)),
            (Err(error), _) => {
                let note = format!("no control socket: {error}");
                // It is the first: nobody has the engine yet.
                let _ = self.open.control_failed.set(note);
            }
        }
        Ok(())
    }

    pub(crate) fn io_metrics(&self) -> Metrics {
        self.open.io.metrics()
    }

    pub(crate) fn pool_report(&self) -> PoolReport {
        self.open.pool_report()
    }

    /// The epoch, and why no label can be written any more, if so.
    pub(crate) fn membership(&self) -> (u64, Option<String>) {
        let membership = &self.open.disks.membership;
        (membership.durable().0, membership.broken().map(|why| why.to_string()))
    }

    pub(crate) fn sync_orders(&self) -> SyncView {
        let (paused, bytes_per_second_of_domain) = self.open.disks.sync.now();
        SyncView { paused, bytes_per_second_of_domain }
    }

    pub(crate) fn uptime_ns(&self) -> u64 {
        self.open.io.now_ns()
    }

    pub(crate) fn scrub_ticket(&self, order: ScrubOrder) -> StoreTicket<Vec<ScrubReport>> {
        let doorsteps = self.open.domains.iter().map(|domain| &domain.doorstep);
        StoreTicket::all(doorsteps, || Call::Scrub(order), (scrubbed, 0))
    }

    /// What every domain is doing, of those that say so until then.
    pub(crate) fn looked_at(&self, until: Instant) -> Result<Vec<DomainView>, StoreError> {
        let asked = self.open.domains.iter().map(|domain| {
            let one = std::iter::once(&domain.doorstep);
            let status = StoreTicket::all(one.clone(), || Call::Status, (statuses, 0));
            let look = || Call::Scrub(ScrubOrder::Look);
            (status, StoreTicket::all(one, look, (scrubbed, 0)))
        });
        let asked: Vec<_> = asked.collect();
        let late = |_| Err(StoreError::Closing);
        let views = asked.into_iter().zip(&self.open.domains).enumerate().map(|(number, parts)| {
            let ((status, scrub), domain) = parts;
            let silent = status.wait_until(until);
            let (now, silent, has_ended) = match silent {
                Ok(Ok(now)) => (now.into_iter().next(), None, false),
                Ok(Err(StoreError::WaitOnReactor)) => return Err(StoreError::WaitOnReactor),
                Ok(Err(error)) => (None, Some(error.to_string()), true),
                Err(_) => (None, Some("it does not answer".to_owned()), false),
            };
            let scrub = scrub.wait_until(until).unwrap_or_else(late).ok();
            Ok(DomainView {
                domain: number as u16,
                reactor: domain.reactor,
                now,
                scrub: scrub.and_then(|reports| reports.into_iter().next()),
                silent,
                has_ended,
                recovery: domain.recovery.clone(),
            })
        });
        views.collect()
    }
}
