//! Tests on simulated disks.

mod actor;
mod closing;
mod disk;
mod engine;
mod reactor;
mod stealing;
