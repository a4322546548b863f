//! Buffers that devices read and write: arenas of huge-page memory and the owned pieces of them.

pub mod arena;
mod buddy;
pub mod buffer;
pub mod table;

pub use arena::{Arena, ArenaStatus, BufferUnavailable};
pub use buffer::{BufferList, DmaBuf};
pub use table::HugeTable;
