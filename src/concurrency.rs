//! What crosses threads: call slots, mailboxes and the wake word.
//!
//! Every structure here is written over [`sync`], which is `loom` under `--cfg loom`, so that the
//! models in `tests/loom.rs` explore the very code that production runs.

pub mod call_table;
pub mod extent_locks;
pub mod lock;
pub mod mailbox;
pub mod metadata_locks;
pub mod sync;
pub(crate) mod thread_wait;
pub mod waiters;
