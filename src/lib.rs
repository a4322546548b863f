//! dynamicfs: an embeddable storage engine for Linux storage appliances.
//!
//! [`StorageEngine`] keeps inodes in a pool that no crash tears: checksums on everything, atomic
//! transactions, group commit.
//!
//! ```no_run
//! use dynamicfs::{EngineConfig, FormatOptions, InodeOptions, StorageEngine};
//!
//! let config = EngineConfig::on_disk("/dev/nvme0n1");
//! StorageEngine::format(&config, FormatOptions::default())?;
//! let engine = StorageEngine::open(config)?;
//! let inode = engine.create_inode(InodeOptions::default()).wait()?;
//! engine.write(inode, 0, b"durable when this returns").wait()?;
//! let data = engine.read(inode, 0..4096).wait()?; // or .await
//! # engine.close(std::time::Duration::from_secs(5))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Below it, and alone if you like, is the **raw block engine**. [`IoScheduler`] drives raw NVMe
//! namespaces, other block devices or plain files with `O_DIRECT` and io_uring, from one pinned
//! thread per core, and gives every request one of five [priorities](Priority).
//!
//! ```no_run
//! use dynamicfs::{DiskConfig, DiskId, IoConfig, IoScheduler, Priority, Request};
//!
//! let disk = DiskConfig { path: "/dev/nvme0n1".into(), ..DiskConfig::default() };
//! let engine = IoScheduler::open(&IoConfig { disks: vec![disk], ..IoConfig::default() })?;
//!
//! // From any thread: a ticket is a future, and can be waited for.
//! let read = Request::read(DiskId(0), 0, engine.buffer(4096)?).with_priority(Priority::HighRead);
//! let (result, buffer) = engine.submit(read)?.wait()?.into_parts();
//! println!("{} bytes begin with {:?}", result?, &buffer.expect("a read returns its buffer")[..8]);
//!
//! println!("{} requests", engine.metrics().io_ops_completed());
//! engine.close(std::time::Duration::from_secs(5))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Modules in layer order, lowest first; each names only those above it in this list, and
//! `tests/tidy.rs` holds them to it: [`machine`], [`metrics`], [`mod@format`], [`mod@check`],
//! [`memory`], [`concurrency`], [`placement`], [`io`], [`scheduler`], [`reactor`], [`store`],
//! [`engine`].

pub mod check;
pub mod concurrency;
pub mod engine;
pub mod format;
pub mod io;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod placement;
pub mod reactor;
pub mod scheduler;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod store;

pub use concurrency::extent_locks::{
    ExtentLockManager, ExtentReadGuard, ExtentWriteGuard, LockConfig, LockedExtents,
};
pub use concurrency::lock::acquire::LockRefusal;
pub use concurrency::lock::metrics::LockMetrics;
pub use concurrency::lock::word::LockMode;
pub use concurrency::metadata_locks::{ExtentMapLocks, InodeLocks};
#[cfg(feature = "control")]
pub use engine::control;
pub use engine::storage_engine::{
    Acknowledged, CloseReport, DiskFormatPlan, DiskPlace, EngineError, EngineMetrics, EngineStatus,
    Fill, Force, FormatOptions, FormatPlan, InodeId, InodeInfo, InodeOptions, MemberReport,
    MirrorReport, Overwrite, PoolReport, QueueFull, ReadOptions, StoreTicket, Transaction,
};
pub use engine::{
    CloseError, ConfigError, DiskConfig, EngineConfig, IoConfig, IoScheduler, OpenError,
    StorageEngine, SubmitError, Ticket,
};
pub use io::metrics::Metrics;
pub use io::{Buffers, Completion, DiskId, ErrorKind, IoError, OpKind, Priority, Request};
pub use memory::{BufferList, DmaBuf};
pub use store::assembly::Missing;
pub use store::batch::Committed;
pub use store::call::{Durability, ReadBytes};
pub use store::domain::Undecidable;
pub use store::error::{Certainty, StoreError};
pub use store::mechanism::Mechanism;
pub use store::member::MirrorState;
pub use store::scrub::{ScrubOrder, ScrubReport, ScrubState};
