//! Requests, what becomes of them, and the seam to the world.

pub mod backend;
pub mod error;
pub mod metrics;
pub mod op;
pub(crate) mod op_table;
pub(crate) mod uring_backend;

pub use error::{ErrorKind, IoError};
pub use op::{Buffers, Completion, DiskId, OpKind, Priority, Request};
