//! What crosses threads: call slots, mailboxes, bells and the wake word; locks of extents and
//! metadata; generations of extents, and reading by them without a lock.
//!
//! Every structure here is written over [`sync`], which is `loom` under `--cfg loom`, so that the
//! models in `tests/loom.rs` explore the very code that production runs.

pub mod bells;
pub mod call_table;
pub mod extent_locks;
pub mod generation;
pub mod lock;
pub mod mailbox;
pub mod metadata_locks;
pub mod optimistic_read;
pub mod snapshot;
pub mod sync;
pub(crate) mod thread_wait;
pub mod waiters;
