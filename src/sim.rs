//! The simulated world: disks in memory under a virtual clock and a seed, all reactors on one
//! thread.
//!
//! The reactors, schedulers, call tables and the way in are the production ones; only what is
//! below [`crate::io::backend`] is replaced. What the simulator may do is what Linux and its
//! devices were seen to do, and worse:
//!
//! - completions come in any order, after a latency within the bounds of the disk;
//! - any attempt can fail with any errno of [`crate::io::error::known_errnos`], end short on a
//!   block or inside one, end with zero bytes, be lost or misdirected, or never complete;
//! - a completed write is not durable: see [`SimDisk`];
//! - the power fails at any moment ([`Simulation::crash`]), or the process dies and its last
//!   writes land later ([`Simulation::kill`]); the disks outlive both;
//! - a reactor is interrupted between deciding to sleep and sleeping.
//!
//! Equal seeds give equal traces. A property that fails prints the command that repeats it:
//!
//! ```
//! use dynamicfs::sim::{SimConfig, Simulation};
//! use dynamicfs::{DiskId, Request};
//!
//! let mut sim = Simulation::new(7, &SimConfig::default());
//! let mut buffer = sim.buffer(4096).unwrap();
//! buffer.fill(1);
//! let ticket = sim.submit(Request::write(DiskId(0), 8192, buffer)).unwrap();
//! sim.run();
//! assert_eq!(ticket.try_take().unwrap().result.unwrap(), 4096);
//! // Completed, not flushed: after a power cut it may be there or not.
//! let disks = sim.crash(1);
//! assert!(disks[0].read(8192, 4096).iter().all(|byte| *byte <= 1));
//! ```

mod backend;
pub mod disk;
pub mod fault;
pub mod random;
mod sectors;
pub mod seeds;
pub mod simulation;
pub mod trace;
mod world;

pub use disk::{Cache, SimDisk, SimDiskConfig};
pub use fault::{Fault, FaultRates, FaultRule, Faults};
pub use random::Random;
pub use seeds::for_each_seed;
pub use simulation::{SimConfig, Simulation};

#[cfg(test)]
mod tests;
