//! One kind of lock for threads and tasks, shared and exclusive, on one 64-bit word.
//!
//! `word` is its states, `queue` those who wait, `raw` the protocol between the two, `acquire` the
//! future and the blocking wait, `order` the debug builds' check of the locking order, `metrics`
//! what is counted. `extent_locks` and `metadata_locks` say which lock is whose.

pub mod acquire;
pub mod metrics;
pub(crate) mod order;
pub(crate) mod queue;
pub(crate) mod raw;
pub mod word;
