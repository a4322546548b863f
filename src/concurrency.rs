//! What crosses threads: call slots, mailboxes and the wake word, generations of extents.
//!
//! Every structure here is written over [`sync`], which is `loom` under `--cfg loom`, so that the
//! models in `tests/loom.rs` explore the very code that production runs.

pub mod call_table;
pub mod generation;
pub mod mailbox;
pub mod snapshot;
pub mod sync;
pub(crate) mod thread_wait;
pub mod waiters;
