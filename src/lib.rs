//! dynamicfs: an embeddable storage engine for Linux storage appliances.

pub mod concurrency;
pub mod io;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod reactor;
pub mod scheduler;
