//! dynamicfs: an embeddable storage engine for Linux storage appliances.

pub mod concurrency;
pub mod engine;
pub mod io;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod placement;
pub mod reactor;
pub mod scheduler;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

pub use engine::{CloseError, DiskConfig, IoConfig, IoScheduler, OpenError, SubmitError, Ticket};
pub use io::{Buffers, Completion, DiskId, ErrorKind, IoError, OpKind, Priority, Request};
pub use memory::{BufferList, DmaBuf};
pub use metrics::Metrics;
