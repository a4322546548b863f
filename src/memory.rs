//! Buffers that devices read and write: arenas of huge-page memory and the owned pieces of them.

pub mod arena;
pub mod buffer;
mod buddy;

pub use arena::{Arena, ArenaStatus, BufferUnavailable};
pub use buffer::{BufferList, DmaBuf};
