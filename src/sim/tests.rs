//! Tests on simulated disks.

mod actor;
mod bells;
mod closing;
mod disk;
mod durable;
mod engine;
mod reactor;
mod stealing;
