//! The public faces: [`StorageEngine`], a pool of inodes, and [`IoScheduler`], raw blocks with
//! priorities.

pub mod config;
#[cfg(feature = "control")]
pub mod control;
pub mod engine_config;
pub mod error;
pub(crate) mod gate;
pub mod io_scheduler;
mod open;
pub mod status;
pub mod storage_engine;
mod submit;
pub(crate) mod thread;
pub mod ticket;
mod vacancies;

pub use config::{ConfigError, DiskConfig, IoConfig};
pub use engine_config::EngineConfig;
pub use error::{CloseError, OpenError, SubmitError};
pub use io_scheduler::IoScheduler;
pub use storage_engine::StorageEngine;
pub use submit::Submitted;
pub use ticket::{Ticket, WaitOnReactor};
