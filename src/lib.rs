//! dynamicfs: an embeddable storage engine for Linux storage appliances.
#![warn(missing_docs)]

pub mod machine;
pub mod placement;
