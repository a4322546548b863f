//! The public faces. So far: [`IoScheduler`], raw blocks with priorities.

pub mod config;
pub mod error;
pub(crate) mod gate;
pub mod io_scheduler;
mod open;
pub mod status;
mod submit;
pub(crate) mod thread;
pub mod ticket;

pub use config::{DiskConfig, IoConfig};
pub use error::{CloseError, OpenError, SubmitError};
pub use io_scheduler::IoScheduler;
pub use submit::Submitted;
pub use ticket::{Ticket, WaitOnReactor};
