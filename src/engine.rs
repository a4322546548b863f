//! The public faces. So far: [`IoScheduler`], raw blocks with priorities.

pub mod config;
pub mod engine_config;
pub mod error;
pub(crate) mod gate;
pub mod io_scheduler;
mod open;
pub mod status;
mod submit;
pub(crate) mod thread;
pub mod ticket;

pub use config::{ConfigError, DiskConfig, IoConfig};
pub use engine_config::EngineConfig;
pub use error::{CloseError, OpenError, SubmitError};
pub use io_scheduler::IoScheduler;
pub use submit::Submitted;
pub use ticket::{Ticket, WaitOnReactor};
