//! The store under the simulator.

mod crashes;
mod exhaustive;
mod faults;
mod model;
mod world;
