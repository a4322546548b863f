//! The store: what lies where on the disks, and how that changes without ever being lost.
//!
//! [`domain`] shows the way of a write; each other module has one part of it. Everything runs in
//! the tasks of one reactor for each domain and meets the world through that reactor alone, so
//! the simulator runs it unchanged.

pub mod allocator;
pub mod assembly;
pub mod batch;
pub mod call;
pub mod change;
mod checkpoint;
mod commit;
pub(crate) mod discard;
pub mod disk_flushes;
pub mod domain;
pub(crate) mod errand;
pub mod error;
mod evacuation;
mod executor;
mod journal;
mod late_writes;
pub mod mechanism;
pub mod member;
pub mod membership;
mod mend;
mod mirror;
pub mod mirror_list;
mod move_journal;
mod phases;
pub mod pool;
pub(crate) mod port;
mod ram;
mod read;
pub mod recovery;
mod reserve;
mod resync;
pub mod scrub;
pub mod service;
pub mod slot_list;
mod space;
mod sync_pace;
mod table;
mod transfers;
mod verify;
mod write_back;
mod write_batcher;

#[cfg(test)]
mod tests;
